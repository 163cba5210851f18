"""Dense layers: every unit reads every input. And Flatten, which makes vectors of images."""

import math

from minicnn import initializers
from minicnn.backend import batch_first, batch_last
from minicnn.checks import whole_number
from minicnn.errors import InputError
from minicnn.layers.base import Layer, check_built
from minicnn.products import product


class Flatten(Layer):
    """Each image as one vector, in the order channel, row, column: (N, C, H, W) to (N, C * H * W).

    Raises:
        InputError: something that is no array of floating point numbers.

    >>> import numpy as np
    >>> Flatten()(np.arange(8.0).reshape(1, 2, 2, 2))
    array([[0., 1., 2., 3., 4., 5., 6., 7.]])
    """

    splits_batch = True

    def output_shape(self, input_shape):
        return (math.prod(input_shape),)

    def forward(self, x, training=False):
        self.check_input(x)
        x_last = batch_last(x)  # (C, H, W, N), as it lies in memory: the reshape copies nothing

        def backward(dy):
            return batch_first(dy.T.reshape(x_last.shape))

        return x_last.reshape(-1, len(x)).T, backward


class Dense(Layer):
    """A layer in which every unit reads every input.

        Y = X @ W.T + b

    Back: `dW = dY.T @ X`, `db = dY` summed over the batch, `dX = dY @ W`.

    Input: (N, D). Output: (N, units).

    Args:
        units: the number of outputs.
        use_bias: whether each unit adds a learned number.
        weight_initializer, bias_initializer: functions of `minicnn.initializers`.

    Attributes:
        weight: Parameter (units, D), once built.
        bias: Parameter (units,), or None without bias.

    Raises:
        InputError: inputs that are no vectors, or not of the length the layer was built for.

    >>> import numpy as np
    >>> layer = Dense(3)
    >>> layer.build((5,))
    (3,)
    >>> layer(np.ones((2, 5), "float32")).shape
    (2, 3)

    Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", 1986.
    """

    splits_batch = True

    can_skip_input_gradient = True

    def __init__(
        self,
        units,
        use_bias=True,
        weight_initializer=initializers.glorot_uniform,
        bias_initializer=initializers.zeros,
    ):
        self.units = whole_number(units, "units", "Dense")
        self.use_bias = use_bias
        self.weight_initializer = weight_initializer
        self.bias_initializer = bias_initializer
        self.weight = None
        self.bias = None

    def parameter_shapes(self, input_shape):
        shapes = {"weight": (self.units, input_shape[0])}
        if self.use_bias:
            shapes["bias"] = (self.units,)
        return shapes

    def output_shape(self, input_shape):
        if len(input_shape) != 1:
            fix = ": put Flatten() before it" if len(input_shape) == 3 else ""
            raise InputError(f"{self!r} needs vectors (N, D); got shape {('N', *input_shape)}{fix}")
        return (self.units,)

    def forward(self, x, training=False, add_bias=True):  # the activation after it may add it instead
        check_built(self, self.weight)
        weight = self.weight.value
        self.check_input(x, ndim=2, features=weight.shape[1])
        y = product(weight, x.T)  # (units, N), the batch innermost in memory
        if self.bias is not None and add_bias:
            y += self.bias.value[:, None]

        def backward(dy, input_gradient=True):
            self.weight.add_product(dy.T, x)
            if self.bias is not None:
                self.bias.add_gradient(dy.T.sum(axis=1))
            return product(weight.T, dy.T).T if input_gradient else None

        return y.T, backward

    def multiply_adds(self, input_shape):
        return self.units * input_shape[0]
