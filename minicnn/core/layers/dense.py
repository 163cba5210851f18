"""Dense layers: every unit reads every input. And Flatten, which makes vectors of images."""

import math

from minicnn.core import initializers, operations
from minicnn.core.checks import check_flag, check_integer
from minicnn.core.layer import Layer
from minicnn.core.messages import vector_shape_error
from minicnn.core.parameter import Parameter
from minicnn.core.types import Array, Backward, Initializer, Shape


class Flatten(Layer):
    """Each image as one vector, in the order channel, row, column: (N, C, H, W) to (N, C * H * W).

        y[n, (c * H + h) * W + w] = x[n, c, h, w]

    Raises:
        InputError: not an array of floating point numbers.

    >>> import numpy as np
    >>> Flatten()(np.arange(8.0).reshape(1, 2, 2, 2))
    array([[0., 1., 2., 3., 4., 5., 6., 7.]])
    """

    independent_samples = True

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_input(x)

        def backward(dy):
            return dy.reshape(x.shape)

        return x.reshape(len(x), -1), backward


class Dense(Layer):
    """A layer in which every unit reads every input.

        y = x @ weight.T + bias

    Backward: `dweight = dy.T @ x`, `dbias = dy` summed over the batch, `dx = dy @ weight`.

    Input: (N, D). Output: (N, units).

    Args:
        units: the number of outputs.
        use_bias: whether a learned number is added to each unit.
        weight_initializer, bias_initializer: functions of `minicnn.initializers`.

    Attributes:
        weight: Parameter (units, D), once built.
        bias: Parameter (units,), or None without bias.

    Raises:
        InputError: inputs that are not vectors, or not of the length the layer was built for.

    >>> import numpy as np
    >>> layer = Dense(3)
    >>> layer.build((5,))
    (3,)
    >>> layer(np.ones((2, 5), "float32")).shape
    (2, 3)

    Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", 1986.
    """

    weight: Parameter
    bias: Parameter | None

    needs_input_gradient = False

    independent_samples = True

    def __init__(
        self,
        units: int,
        *,
        use_bias: bool = True,
        weight_initializer: Initializer = initializers.glorot_uniform,
        bias_initializer: Initializer = initializers.zeros,
    ):
        self.units = check_integer(units, "units", "Dense")
        self.use_bias = check_flag(use_bias, "use_bias", "Dense")
        self.weight_initializer = weight_initializer
        self.bias_initializer = bias_initializer
        self.weight = None
        self.bias = None

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"weight": (self.units, input_shape[0])}
        if self.use_bias:
            shapes["bias"] = (self.units,)
        return shapes

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 1:
            raise vector_shape_error(self, ("N", *input_shape), None)
        return (self.units,)

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_parameter(self.weight, x)
        self.check_input(x, ndim=2, features=self.weight.value.shape[1])
        y, to_weight, to_input = operations.current.linear(x, self.weight.value)
        if self.bias is not None:
            y, to_bias = operations.current.add_bias(y, self.bias.value)

        def backward(dy, input_gradient=True):
            if self.weight.trainable:
                self.weight.add_gradient(to_weight(dy))
            if self.bias is not None:
                self.bias.add_gradient(to_bias(dy))
            return to_input(dy) if input_gradient else None

        return y, backward

    def multiply_adds(self, input_shape: Shape) -> int:
        return self.units * input_shape[0]
