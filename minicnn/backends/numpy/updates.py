"""The optimizers' rules on some rows of a parameter at a time, in place.

The block of a gradient is computed, applied while it is in the processor's
cache, and its memory used again for the next. The rules of the core are
written here a second time, with no new arrays; a rule of the user's own is
called as it is. Plain SGD only adds the gradient to the weights, which for a
product is one call of BLAS.
"""

import functools
import math

import numpy as np

from minicnn.backends.numpy.gradients import merge, rows_of
from minicnn.backends.numpy.matmul import PRODUCT_BYTES, axpby, gemm
from minicnn.backends.numpy.threads import parallel_map, shared_slices, thread_count
from minicnn.core.optimizers import SGD, Adam

PARALLEL_SIZE = 2**18  # numbers of a weight from which it pays to divide them among the cores
BLOCK_BYTES = 2**21  # of a gradient that are applied at a time: for smaller ones the calls take long


def apply(optimizer, value, gradients, arguments, scale):
    """Change one parameter's value; the arguments are those of `Operations.apply`, for one change."""
    dense, low_rank = merge(gradients)
    if type(optimizer).update is SGD.update and not optimizer.momentum:
        _descend(optimizer, value, dense, low_rank, arguments["learning_rate"], scale)
        return
    if low_rank is not None:
        low_rank.right = np.ascontiguousarray(low_rank.right)  # the update by blocks takes 105 ms instead of 120
    if low_rank is None or value.size < PARALLEL_SIZE:
        _update_rows(optimizer, value, dense, low_rank, arguments, scale, ...)
        return
    size = min(1 + PRODUCT_BYTES // max(1, value[0].nbytes), -(-len(value) // thread_count()))
    slices = shared_slices(len(value), size)
    parallel_map(functools.partial(_update_rows, optimizer, value, dense, low_rank, arguments, scale), slices)


def _update_rows(optimizer, value, dense, low_rank, arguments, scale, rows):
    """Change some rows of a parameter, one cache-sized block at a time."""
    gradient = rows_of(dense, low_rank, rows)
    rule = RULES.get(type(optimizer).update)

    def update(w, g, **others):
        if scale is not None:
            g *= scale
        if rule is None:
            optimizer.update(w, g, **others)
        else:
            rule(optimizer, w, g, **others)

    if rows is ...:
        update(value, gradient, **arguments)
        return
    size = 1 + BLOCK_BYTES // max(1, value[0].nbytes)
    for start in range(rows.start, rows.stop, size):
        block = slice(start, min(start + size, rows.stop))
        arrays = {key: item[block] if isinstance(item, np.ndarray) else item for key, item in arguments.items()}
        update(value[block], gradient[block.start - rows.start : block.stop - rows.start], **arrays)


def _descend(optimizer, value, dense, low_rank, learning_rate, scale):
    """Plain SGD: `value = (1 - learning_rate * weight_decay) * value - learning_rate * gradient`."""
    alpha = -learning_rate if scale is None else -learning_rate * scale
    beta = 1 - learning_rate * optimizer.weight_decay
    if low_rank is not None:
        gemm(value, low_rank.left, low_rank.right, alpha, beta)
    elif optimizer.weight_decay:
        value *= beta
    if dense is not None:
        value += alpha * dense


def _momentum(optimizer, w, g, t, learning_rate, v):
    if optimizer.weight_decay:
        g += optimizer.weight_decay * w
    v *= optimizer.momentum
    v += g
    if optimizer.nesterov:
        g += optimizer.momentum * v
    else:
        g[...] = v
    g *= -learning_rate
    w += g


def _adam(optimizer, w, g, t, learning_rate, m, v):
    """With the bias corrections taken out of the fraction."""
    if optimizer.weight_decay:
        w *= 1 - learning_rate * optimizer.weight_decay
    correction = math.sqrt(1 - optimizer.beta2**t)
    axpby(1 - optimizer.beta1, g, optimizer.beta1, m)
    g *= g
    axpby(1 - optimizer.beta2, g, optimizer.beta2, v)
    root = np.sqrt(v, out=g)
    root += optimizer.epsilon * correction
    fraction = np.divide(m, root, out=root)
    axpby(-learning_rate * correction / (1 - optimizer.beta1**t), fraction, 1, w)


#: The core's rules that are written in place here.
RULES = {SGD.update: _momentum, Adam.update: _adam}
