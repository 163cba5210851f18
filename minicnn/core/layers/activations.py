"""Activations: the nonlinearities between the layers, without which a network would be one matrix.

Each treats every number separately (Softmax every row). Only PReLU has something to learn.
"""

import math
import numbers
from typing import Any

import numpy as np

from minicnn.core import operations
from minicnn.core.checks import check_flag, check_number
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer
from minicnn.core.types import Array, Backward, DType, Shape


class Activation(Layer):
    """A function of every number separately, and its derivative. A subclass has the two formulas, as static methods.

    The formulas use nothing but their arguments and NumPy's functions, called as `np.name`: a backend may
    compile them. A number that differs from layer to layer, such as a slope, is one of the `constants`, which both
    formulas receive after their arrays.

    >>> import numpy as np
    >>> class Exponential(Activation):
    ...     @staticmethod
    ...     def value(x):
    ...         return np.exp(x)
    ...
    ...     @staticmethod
    ...     def gradient(dy, x, y):
    ...         return dy * y
    >>> y, backward = Exponential().forward(np.zeros((1, 2)))
    >>> y, backward(np.ones((1, 2)))
    (array([[1., 1.]]), array([[1., 1.]]))
    """

    independent_samples = True

    #: Whether `gradient` reads x; where it does not, x need not be kept until the backward pass.
    gradient_needs_input = True

    #: The last arguments of both formulas: numbers, the same ones for every x.
    constants = ()

    @staticmethod
    def value(x: Array, *constants: float) -> Array:
        """`y` for each number of `x`."""
        raise NotImplementedError("an Activation needs a static method value(x)")

    @staticmethod
    def gradient(dy: Array, x: Array, y: Array, *constants: float) -> Array:
        """`dx`, from the gradient `dy` of the loss with respect to `y`, the input `x` and the output `y`."""
        raise NotImplementedError("an Activation needs a static method gradient(dy, x, y)")

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_input(x)
        y = operations.current.elementwise(self.value, x, *self.constants)
        if not self.gradient_needs_input:
            x = y  # in its place, so that its memory is free

        def backward(dy):
            return operations.current.elementwise(self.gradient, dy, x, y, *self.constants)

        return y, backward


class ReLU(Activation):
    """Positive numbers stay, the others become zero: `y = max(x, 0)`, of any shape.

    At x = 0 there is no derivative; the layer uses the subgradient 0.

    Raises:
        InputError: not an array of floating point numbers.

    >>> import numpy as np
    >>> ReLU()(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])

    Source: Nair & Hinton, "Rectified linear units improve restricted Boltzmann machines", 2010.
    """

    gradient_needs_input = False

    @staticmethod
    def value(x: Array) -> Array:
        return np.maximum(x, 0)

    @staticmethod
    def gradient(dy: Array, x: Array, y: Array) -> Array:
        return dy * (y > 0)


class LeakyReLU(Activation):
    """ReLU with a small slope where the input is negative, so that no unit is inactive for good.

        y = x where x > 0, else negative_slope * x;    dx = dy where x > 0, else negative_slope * dy

    Of any shape. At x = 0 there is no derivative; the layer uses the slope of the negative numbers.

    Args:
        negative_slope: at least 0; 0.01 as in the paper and in PyTorch (Keras has 0.3).

    Raises:
        InputError: a slope below 0, or not an array of floating point numbers.

    >>> import numpy as np
    >>> LeakyReLU(0.1)(np.array([[-1.0, 2.0]]))
    array([[-0.1,  2. ]])

    Source: Maas, Hannun & Ng, "Rectifier nonlinearities improve neural network acoustic models", 2013.
    """

    gradient_needs_input = False  # y has the sign of x, because the slope is not negative

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = check_number(negative_slope, "negative_slope", "LeakyReLU")

    @property
    def constants(self) -> tuple[float, ...]:
        """(negative_slope,): what `value` and `gradient` need besides the arrays."""
        return (self.negative_slope,)

    @staticmethod
    def value(x: Array, slope: float) -> Array:
        return np.maximum(x, 0) + np.minimum(x, 0) * slope

    @staticmethod
    def gradient(dy: Array, x: Array, y: Array, slope: float) -> Array:
        return dy * (y > 0) + dy * slope * (y <= 0)


class ELU(Activation):
    """The exponential linear unit: a ReLU that bends smoothly to `-alpha`, so that its mean is nearer to zero.

        y = x where x > 0, else alpha * (exp(x) - 1);    dx = dy where x > 0, else dy * (y + alpha)

    Of any shape. With alpha = 1 the derivative is continuous at x = 0.

    Args:
        alpha: at least 0.

    Raises:
        InputError: an alpha below 0, or not an array of floating point numbers.

    >>> import numpy as np
    >>> ELU()(np.array([[-1000.0, 0.0, 2.0]]))
    array([[-1.,  0.,  2.]])

    Source: Clevert, Unterthiner & Hochreiter, "Fast and accurate deep network learning by exponential linear units
    (ELUs)", 2016.
    """

    gradient_needs_input = False

    def __init__(self, alpha: float = 1.0):
        self.alpha = check_number(alpha, "alpha", "ELU")

    @property
    def constants(self) -> tuple[float, ...]:
        """(alpha,): what `value` and `gradient` need besides the arrays."""
        return (self.alpha,)

    @staticmethod
    def value(x: Array, alpha: float) -> Array:
        return np.maximum(x, 0) + np.expm1(np.minimum(x, 0)) * alpha

    @staticmethod
    def gradient(dy: Array, x: Array, y: Array, alpha: float) -> Array:
        return dy * (y > 0) + dy * (np.minimum(y, 0) + alpha) * (y <= 0)


class GELU(Activation):
    """The Gaussian error linear unit, `x * P(Z <= x)` for a normal Z, by the usual formula with tanh.

        y = x * s,    s = (1 + tanh(u)) / 2,    u = sqrt(2 / pi) * (x + 0.044715 * x**3)
        dx = dy * (s + 2 * x * s * (1 - s) * u'),    u' = sqrt(2 / pi) * (1 + 3 * 0.044715 * x**2)

    Of any shape. It is PyTorch's `GELU(approximate="tanh")` and Keras's `gelu(approximate=True)`. The exact form
    needs the error function, which NumPy does not have; the two differ by less than 0.0005.

    Raises:
        InputError: not an array of floating point numbers.

    >>> import numpy as np
    >>> GELU()(np.array([[-1.0, 0.0, 1.0]])).round(4)
    array([[-0.1588,  0.    ,  0.8412]])

    Source: Hendrycks & Gimpel, "Gaussian error linear units (GELUs)", 2016.
    """

    @staticmethod
    def value(x: Array) -> Array:
        u = (x + x * x * x * 0.044715) * 0.7978845608028654  # sqrt(2 / pi)
        return x * ((np.tanh(u) + 1) * 0.5)

    @staticmethod
    def gradient(dy: Array, x: Array, y: Array) -> Array:
        u = (x + x * x * x * 0.044715) * 0.7978845608028654
        s = (np.tanh(u) + 1) * 0.5
        return dy * (s + x * s * (1 - s) * (x * x * 0.134145 + 1) * 1.5957691216057308)  # 2 * sqrt(2 / pi)


class SiLU(Activation):
    """The sigmoid linear unit, also called swish: a smooth curve near ReLU that dips below zero.

        y = x * s,    s = 1 / (1 + exp(-x));    dx = dy * s * (1 + x * (1 - s))

    Of any shape.

    Raises:
        InputError: not an array of floating point numbers.

    >>> import numpy as np
    >>> SiLU()(np.array([[-1000.0, 0.0, 1.0]])).round(4)
    array([[-0.    ,  0.    ,  0.7311]])

    Source: Elfwing, Uchibe & Doya, "Sigmoid-weighted linear units for neural network function approximation in
    reinforcement learning", 2018; as swish: Ramachandran, Zoph & Le, "Searching for activation functions", 2017.
    """

    @staticmethod
    def value(x: Array) -> Array:
        return x * ((np.tanh(x * 0.5) + 1) * 0.5)

    @staticmethod
    def gradient(dy: Array, x: Array, y: Array) -> Array:
        s = (np.tanh(x * 0.5) + 1) * 0.5
        return dy * s * (x * (1 - s) + 1)


class Hardswish(Activation):
    """SiLU with straight lines in place of the sigmoid: as good on small networks, and needs no exponential.

        y = x * min(max(x + 3, 0), 6) / 6
        dx = dy * (0 where x <= -3,    x / 3 + 1 / 2 where -3 < x < 3,    1 where x >= 3)

    Of any shape. At x = -3 and x = 3 there is no derivative; the layer uses the slopes of the straight parts outside.

    Raises:
        InputError: not an array of floating point numbers.

    >>> import numpy as np
    >>> Hardswish()(np.array([[-4.0, 0.0, 1.5, 4.0]]))
    array([[-0.   ,  0.   ,  1.125,  4.   ]])

    Source: Howard et al., "Searching for MobileNetV3", 2019.
    """

    @staticmethod
    def value(x: Array) -> Array:
        return x * (np.minimum(np.maximum(x + 3, 0), 6) / 6)

    @staticmethod
    def gradient(dy: Array, x: Array, y: Array) -> Array:
        return dy * (x >= 3) + dy * (x / 3 + 0.5) * (x > -3) * (x < 3)


class Clip(Activation):
    """Numbers between two bounds stay, the others become the bound: `y = min(max(x, low), high)`, of any shape.

        dx = dy where low < x < high, else 0

    `Clip(0, 6)` is called ReLU6: a ReLU with a largest value, which MobileNets have for computation with few digits.
    `Clip(-1, 1)` is a tanh in straight lines. At the bounds there is no derivative; the layer uses 0.

    Args:
        low, high: the bounds, numbers.

    Raises:
        InputError: bounds that are not finite numbers, or not in this order; not an array of floating point numbers.

    >>> import numpy as np
    >>> Clip(0, 6)(np.array([[-1.0, 2.0, 8.0]]))
    array([[0., 2., 6.]])

    Source: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", 2018.
    """

    gradient_needs_input = False

    def __init__(self, low: float, high: float):
        is_number = all(isinstance(bound, numbers.Real) and math.isfinite(bound) for bound in (low, high))
        if not is_number or low >= high:
            raise InputError(f"Clip needs two numbers, low and high with low < high, got {low!r} and {high!r}")
        self.low = float(low)
        self.high = float(high)

    @property
    def constants(self) -> tuple[float, ...]:
        """(low, high): what `value` and `gradient` need besides the arrays."""
        return (self.low, self.high)

    @staticmethod
    def value(x: Array, low: float, high: float) -> Array:
        return np.minimum(np.maximum(x, low), high)

    @staticmethod
    def gradient(dy: Array, x: Array, y: Array, low: float, high: float) -> Array:
        return dy * (y > low) * (y < high)


class Tanh(Activation):
    """The hyperbolic tangent, from -1 to 1: `y = tanh(x)`, of any shape; `dx = dy * (1 - y**2)`.

    Raises:
        InputError: not an array of floating point numbers.

    >>> import numpy as np
    >>> Tanh()(np.array([[0.0, 100.0]]))
    array([[0., 1.]])

    Source: LeCun et al., "Efficient BackProp", 1998.
    """

    gradient_needs_input = False

    @staticmethod
    def value(x: Array) -> Array:
        return np.tanh(x)

    @staticmethod
    def gradient(dy: Array, x: Array, y: Array) -> Array:
        return dy * (1 - y * y)


class Sigmoid(Activation):
    """The logistic curve, from 0 to 1: `y = 1 / (1 + exp(-x))`, of any shape; `dx = dy * y * (1 - y)`.

    Computed as `(1 + tanh(x / 2)) / 2`, which is the same and never overflows.

    Raises:
        InputError: not an array of floating point numbers.

    >>> import numpy as np
    >>> Sigmoid()(np.array([[0.0, -1000.0, 1000.0]]))
    array([[0.5, 0. , 1. ]])

    Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", 1986.
    """

    gradient_needs_input = False

    @staticmethod
    def value(x: Array) -> Array:
        return (np.tanh(x * 0.5) + 1) * 0.5

    @staticmethod
    def gradient(dy: Array, x: Array, y: Array) -> Array:
        return dy * y * (1 - y)


class Softmax(Layer):
    """Scores to probabilities along axis 1: `y[i] = exp(x[i]) / sum over j of exp(x[j])`.

    The largest score is subtracted first, which does not change the result and keeps exp in range.
    Backward: `dx = y * (dy - sum over j of dy[j] * y[j])`.

    Input and output: (N, K) or (N, K, ...), K classes.

    As the last layer of a `Sequential` it is used by `predict` only: training computes the loss from the scores
    (logits) with `SoftmaxCrossEntropy`, where softmax and logarithm together lose no digits.

    Raises:
        InputError: not an array of floating point numbers, or an array without axis 1.

    >>> import numpy as np
    >>> Softmax()(np.array([[0.0, 0.0], [1000.0, 0.0]]))
    array([[0.5, 0.5],
           [1. , 0. ]])

    Source: Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    """

    independent_samples = True

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_input(x)
        if x.ndim < 2:
            raise InputError(f"Softmax needs a batch (N, K), got shape {x.shape}: add the batch axis with x[None]")
        exponentials = np.exp(x - x.max(axis=1, keepdims=True))
        y = exponentials / exponentials.sum(axis=1, keepdims=True)

        def backward(dy):
            return y * (dy - (dy * y).sum(axis=1, keepdims=True))

        return y, backward


class LogSoftmax(Layer):
    """The logarithm of Softmax along axis 1: `y[i] = x[i] - log(sum over j of exp(x[j]))`.

    The largest score is subtracted first, so that nothing overflows and small probabilities keep their digits.
    Backward: `dx = dy - exp(y) * (sum over j of dy[j])`.

    Input and output: (N, K) or (N, K, ...), K classes.

    Many PyTorch networks end in it. Here it is not needed at the end: `SoftmaxCrossEntropy` computes it from logits. It
    does no harm there either, because the softmax of logarithms of probabilities is these probabilities.

    Raises:
        InputError: not an array of floating point numbers, or an array without axis 1.

    >>> import numpy as np
    >>> LogSoftmax()(np.array([[0.0, 0.0], [1000.0, 0.0]])).tolist()
    [[-0.6931471805599453, -0.6931471805599453], [0.0, -1000.0]]

    Source: Bridle, as for `Softmax`.
    """

    independent_samples = True

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_input(x)
        if x.ndim < 2:
            raise InputError(f"LogSoftmax needs a batch (N, K), got shape {x.shape}: add the batch axis with x[None]")
        shifted = x - x.max(axis=1, keepdims=True)
        y = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

        def backward(dy):
            return dy - np.exp(y) * dy.sum(axis=1, keepdims=True)

        return y, backward


class PReLU(Layer):
    """A LeakyReLU whose slope for negative numbers is learned, one for each channel.

        y = x where x > 0, else slope * x
        dx = dy where x > 0, else slope * dy;    dslope = sum of dy * x where x <= 0

    Input and output: (N, C, ...). At x = 0 there is no derivative; the layer uses the slope. Slopes start at 0.25.

    Args:
        shared: one slope for all channels.

    Attributes:
        slope: Parameter (C,), or (1,) where it is shared, once built.

    Raises:
        InputError: a `shared` that is not True or False; not the channels that the layer was built for.

    >>> import numpy as np
    >>> layer = PReLU()
    >>> layer.build((2,))
    (2,)
    >>> layer(np.array([[-1, 2]], "float32"))
    array([[-0.25,  2.  ]], dtype=float32)

    Source: He, Zhang, Ren & Sun, "Delving deep into rectifiers", 2015.
    """

    independent_samples = True

    def __init__(self, *, shared: bool = False):
        self.shared = check_flag(shared, "shared", "PReLU")
        self.slope: Any = None  # a Parameter, once built

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return {"slope": (1,) if self.shared else tuple(input_shape[:1])}

    @staticmethod
    def slope_initializer(shape: Shape, rng: np.random.Generator, dtype: DType) -> Array:
        """The slopes at the start: 0.25."""
        return np.full(shape, 0.25, dtype)

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_parameter(self.slope, x)
        self.check_input(x)
        if x.shape[1:] != self.built_input_shape:
            raise self._shape_error(x)
        slope = self.slope.value.reshape(1, -1, *(1,) * (x.ndim - 2))
        negative = np.minimum(x, 0)

        def backward(dy):
            of_channels = (dy * negative).sum(axis=(0, *range(2, x.ndim)))
            self.slope.add_gradient(of_channels.sum(keepdims=True) if self.shared else of_channels)
            return dy * (x > 0) + dy * slope * (x <= 0)

        return np.maximum(x, 0) + negative * slope, backward

    def _shape_error(self, x):
        fix = ": add the channel axis with x[:, None]" if x.ndim == len(self.built_input_shape) else ""
        return InputError(
            f"{self!r} was built for samples of the shape {self.built_input_shape}; got shape {tuple(x.shape)}{fix}"
        )
