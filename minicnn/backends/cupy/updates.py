"""The optimizers' rules, one kernel for each parameter.

The rules of the core are written here a second time, so that whatever changes from step to step, such as the learning
rate, is an argument of the kernel: a number, or a scalar on the device where the step is recorded. Plain SGD adds a
gradient that is a product to the weights by cuBLAS. A rule of the user's own is called as it is.
"""

import math

import numpy as np

from minicnn.backends.cupy.cublas import matmul
from minicnn.backends.cupy.fusion import fuse_elementwise
from minicnn.backends.cupy.gradients import total
from minicnn.core.optimizers import SGD, Adam

RULES = (SGD.update, Adam.update)


def numbers_of(optimizer, learning_rate, t):
    """The numbers of one step that `apply` needs: they change from step to step.

    Args:
        optimizer: one whose `update` is among the `RULES`.
        learning_rate: a number.
        t: the number of the step, from 1.
    """
    decayed = 1 - learning_rate * optimizer.weight_decay
    if type(optimizer).update is SGD.update:
        return learning_rate, decayed
    correction = math.sqrt(1 - optimizer.beta2**t)  # of the root; here it is taken out of the fraction
    step = learning_rate * correction / (1 - optimizer.beta1**t)
    return step, decayed, optimizer.epsilon * correction


def apply(xp, optimizer, value, dense, low_rank, arguments, scale, numbers=None):
    """Change one parameter's value.

    Args:
        xp: the array module.
        optimizer: one whose `update` is among the `RULES`.
        value: the array.
        dense, low_rank: its gradient, as from `gradients.merge`.
        arguments: of `update`, by name.
        scale: what the gradient is multiplied by; None for 1.
        numbers: those of `numbers_of` as scalars on the device; None where they are computed here.
    """
    numbers = numbers or numbers_of(optimizer, arguments["learning_rate"], arguments["t"])
    scale = 1.0 if scale is None else scale
    if type(optimizer).update is Adam.update:
        betas = optimizer.beta1, 1 - optimizer.beta1, optimizer.beta2, 1 - optimizer.beta2
        gradient, memory = _as_array(dense, low_rank), (arguments["m"], arguments["v"])
        fuse_elementwise(xp, (_adam,), value, gradient, *memory, scale, *betas, *numbers)
    elif optimizer.momentum:
        rule = _nesterov if optimizer.nesterov else _momentum
        constants = optimizer.weight_decay, optimizer.momentum
        gradient = _as_array(dense, low_rank)
        fuse_elementwise(xp, (rule,), value, gradient, arguments["v"], scale, *constants, numbers[0])
    else:
        _descend(xp, value, dense, low_rank, scale, *numbers, optimizer.weight_decay)


def _as_array(dense, low_rank):
    """The gradient as an array that is only read."""
    return dense if low_rank is None else total(dense, low_rank)


def _descend(xp, value, dense, low_rank, scale, learning_rate, decayed, weight_decay):
    """Plain SGD: `value = (1 - learning_rate * weight_decay) * value - learning_rate * gradient`."""
    if low_rank is not None:
        if weight_decay:
            value *= decayed
            decayed = 1.0
        matmul(xp, low_rank.left * (scale * -learning_rate), low_rank.right, out=value, beta=1.0)
    if dense is not None:
        fuse_elementwise(xp, (_subtract,), value, dense, scale, learning_rate, decayed)


def _subtract(w, g, scale, learning_rate, decayed):
    w *= decayed
    w -= learning_rate * (scale * g)


def _momentum(w, g, v, scale, weight_decay, momentum, learning_rate):
    v *= momentum
    v += g * scale + weight_decay * w
    w -= learning_rate * v


def _nesterov(w, g, v, scale, weight_decay, momentum, learning_rate):
    g = g * scale + weight_decay * w
    v *= momentum
    v += g
    w -= learning_rate * (g + momentum * v)


def _adam(w, g, m, v, scale, beta1, one_minus_beta1, beta2, one_minus_beta2, step, decayed, epsilon):
    g = g * scale
    m *= beta1
    m += one_minus_beta1 * g
    v *= beta2
    v += one_minus_beta2 * (g * g)
    w *= decayed
    w -= step * (m / (np.sqrt(v) + epsilon))
