"""The solutions: the library's own code, called with the arguments that a learner's function has.

A learner's layer is a function of arrays; the library's is an object that holds its
parameters. `as_function` makes the one of the other. To read how a layer is written,
read `minicnn.core`.
"""

import numpy as np

from minicnn import networks
from minicnn.core import layers, losses, optimizers, window
from minicnn.core.im2col import col2im, im2col
from minicnn.core.layer import Layer
from minicnn.core.layers import convolution_by_loops

__all__ = ["col2im", "im2col"]


def as_function(layer, x, training=False, **values):
    """A layer of the library as a function of x and its parameters.

    Args:
        layer: a new layer.
        x: the batch.
        values: its parameters by name.

    Returns:
        y, and a function of dy that returns dx, or (dx, and the gradient of each parameter).

    >>> x, weight = np.ones((2, 3)), np.ones((1, 3))
    >>> y, backward = as_function(layers.Dense(1), x, weight=weight, bias=np.zeros(1))
    >>> y.tolist(), [gradient.shape for gradient in backward(y)]
    ([[3.0], [3.0]], [(2, 3), (1, 3), (1,)])
    """
    layer.build(x.shape[1:], dtype=x.dtype)
    parameters = layer.parameters()
    for name, value in values.items():
        parameters[name].value = value
    y, layer_backward = layer.forward(x, training)

    def backward(dy):
        for parameter in parameters.values():
            parameter.clear_gradient()
        dx = layer_backward(dy)
        return (dx, *(parameters[name].grad for name in values)) if values else dx

    return y, backward


def convolution(x, weight, bias):
    return convolution_by_loops(x, weight, bias)


def output_size(size, kernel, stride=1, padding=0):
    return window.output_size(size, kernel, stride, before=padding, after=padding)


def convolution_layer(x, weight, bias, stride=1, padding=0):
    layer = layers.Conv2D(len(weight), weight.shape[2:], stride=stride, padding=padding)
    return as_function(layer, x, weight=weight, bias=bias)


def max_pool(x, size, stride):
    return as_function(layers.MaxPool2D(size, stride=stride), x)


def average_pool(x, size, stride):
    return as_function(layers.AvgPool2D(size, stride=stride), x)


def relu(x):
    return as_function(layers.ReLU(), x)


def tanh(x):
    return as_function(layers.Tanh(), x)


def softmax_cross_entropy(logits, labels):
    return losses.SoftmaxCrossEntropy()(logits, labels)


def dense(x, weight, bias):
    return as_function(layers.Dense(len(weight)), x, weight=weight, bias=bias)


def momentum_step(w, g, v, learning_rate, momentum):
    w, v = w.copy(), v.copy()
    optimizers.SGD(learning_rate, momentum=momentum).update(w, g, 1, learning_rate, v=v)
    return w, v


def adam_step(w, g, m, v, t, learning_rate=0.001, beta1=0.9, beta2=0.999, epsilon=1e-7):
    w, m, v = w.copy(), m.copy(), v.copy()
    rule = optimizers.Adam(learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon)
    rule.update(w, g, t, learning_rate, m, v)
    return w, m, v


def dropout(x, rate, rng, training):
    """The formula of `minicnn.core.layers.Dropout`, which draws its random numbers in another order."""
    if not training:
        return x, lambda dy: dy
    mask = (rng.random(x.shape) >= rate) * (1 / (1 - rate))
    return x * mask, lambda dy: dy * mask


def batch_norm(x, scale, shift, running, training, momentum=0.9, epsilon=1e-5):
    layer = layers.BatchNorm(momentum=momentum, epsilon=epsilon)
    layer.running_mean.value, layer.running_variance.value = running["mean"], running["variance"]
    result = as_function(layer, x, training, scale=scale, shift=shift)
    running["mean"], running["variance"] = layer.running_mean.value, layer.running_variance.value
    return result


class _Function(Layer):
    """A function that returns y and backward, as a layer."""

    def __init__(self, function):
        self.function = function

    def forward(self, x, training=False):
        return self.function(x)


def residual(x, branch):
    z, block_backward = as_function(layers.Residual([_Function(branch)]), x)
    y, relu_backward = relu(z)
    return y, lambda dy: block_backward(relu_backward(dy))


#: The layers of LeNet-5 by their names here, and their names in the library's network.
LENET5 = {"conv1": "conv2d_1", "conv2": "conv2d_2", "dense1": "dense_1", "dense2": "dense_2", "dense3": "dense_3"}


def library_name(name):
    """The library's name of a parameter of LeNet-5.

    >>> library_name("conv1.weight")
    'conv2d_1.weight'
    """
    layer, _, kind = name.partition(".")
    return f"{LENET5[layer]}.{kind}"


def lenet5_parameters(seed=0, dtype="float64"):
    """The first parameters of LeNet-5 as arrays by name.

    >>> {name: array.shape for name, array in lenet5_parameters().items() if name.startswith("conv")}
    {'conv1.weight': (6, 1, 5, 5), 'conv1.bias': (6,), 'conv2.weight': (16, 6, 5, 5), 'conv2.bias': (16,)}
    """
    parameters = networks.lenet5(seed=seed).parameters()
    names = [f"{layer}.{kind}" for layer in LENET5 for kind in ("weight", "bias")]
    return {name: parameters[library_name(name)].value.astype(dtype) for name in names}


def lenet5(x, parameters):
    model = networks.lenet5(input_shape=None)
    model.layers.pop()  # the Softmax, which is part of the loss here
    values = {library_name(name): value for name, value in parameters.items()}
    logits, backward = as_function(model, x, **values)
    return logits, lambda dlogits: dict(zip(parameters, backward(dlogits)[1:], strict=True))


def train(network, parameters, x, labels, epochs, batch_size, learning_rate, rng):
    parameters, losses_, t = dict(parameters), [], 0
    memory = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in parameters.items()}
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), batch_size):
            rows = order[start : start + batch_size]
            logits, backward = network(x[rows], parameters)
            loss, dlogits = softmax_cross_entropy(logits, labels[rows])
            t += 1
            for name, g in backward(dlogits).items():
                parameters[name], *memory[name] = adam_step(parameters[name], g, *memory[name], t, learning_rate)
            losses_.append(float(loss))
    return parameters, losses_
