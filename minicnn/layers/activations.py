"""Activations: the bends between the layers, without which a network would be one matrix.

Each acts on every number by itself (Softmax on every row) and has no parameters.
"""

from minicnn.backend import array_module, fused
from minicnn.errors import InputError
from minicnn.layers.base import Layer


class Activation(Layer):
    """A function of every number by itself, whose derivative can be told from its value alone.

    A subclass has the two formulas, as static methods that depend on nothing but their arguments: on the GPU each
    is made into a kernel once.

    >>> import numpy as np
    >>> class Exponential(Activation):
    ...     @staticmethod
    ...     def value(xp, x):
    ...         return xp.exp(x)
    ...
    ...     @staticmethod
    ...     def gradient(xp, dy, y):
    ...         return dy * y
    >>> y, backward = Exponential().forward(np.zeros((1, 2)))
    >>> y, backward(np.ones((1, 2)))
    (array([[1., 1.]]), array([[1., 1.]]))
    """

    splits_batch = True

    @staticmethod
    def value(xp, x):
        """`y` for each number of `x`, an array of the module `xp` (NumPy or CuPy)."""
        raise NotImplementedError("an Activation needs a value(xp, x)")

    @staticmethod
    def gradient(xp, dy, y):
        """`dx`, from the gradient of the loss by `y`, and `y` itself."""
        raise NotImplementedError("an Activation needs a gradient(xp, dy, y)")

    def forward(self, x, training=False, bias=None):
        """As for every layer; with `bias` (F,), of `x + bias`, a number for each index along axis 1.

        Sequential asks for that on the GPU, so that the bias of the layer before it takes no kernel of its own.
        """
        self.check_input(x)
        if bias is None:
            y = fused(self.value)(x)
        else:
            y = fused(_plus, self.value)(x, bias.reshape(1, -1, *(1,) * (x.ndim - 2)))

        def backward(dy):
            return fused(self.gradient)(dy, y)

        return y, backward


def _plus(xp, x, bias):
    return x + bias


class ReLU(Activation):
    """What is positive stays, the rest is zero: `y = max(x, 0)`, of any shape.

    At x = 0 there is no derivative; the layer says 0, as everybody does.

    Raises:
        InputError: something that is no array of floating point numbers.

    >>> import numpy as np
    >>> ReLU()(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])

    Source: Nair & Hinton, "Rectified linear units improve restricted Boltzmann machines", 2010.
    """

    @staticmethod
    def value(xp, x):
        return xp.maximum(x, 0)

    @staticmethod
    def gradient(xp, dy, y):
        return dy * (y > 0)


class Tanh(Activation):
    """The hyperbolic tangent, from -1 to 1: `y = tanh(x)`, of any shape; `dx = dy * (1 - y**2)`.

    Raises:
        InputError: something that is no array of floating point numbers.

    >>> import numpy as np
    >>> Tanh()(np.array([[0.0, 100.0]]))
    array([[0., 1.]])

    Source: LeCun et al., "Efficient BackProp", 1998.
    """

    @staticmethod
    def value(xp, x):
        return xp.tanh(x)

    @staticmethod
    def gradient(xp, dy, y):
        return dy * (1 - y * y)


class Sigmoid(Activation):
    """The logistic curve, from 0 to 1: `y = 1 / (1 + exp(-x))`, of any shape; `dx = dy * y * (1 - y)`.

    Computed as `(1 + tanh(x / 2)) / 2`, which is the same and overflows nowhere.

    Raises:
        InputError: something that is no array of floating point numbers.

    >>> import numpy as np
    >>> Sigmoid()(np.array([[0.0, -1000.0, 1000.0]]))
    array([[0.5, 0. , 1. ]])

    Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", 1986.
    """

    @staticmethod
    def value(xp, x):
        return (xp.tanh(x * 0.5) + 1) * 0.5

    @staticmethod
    def gradient(xp, dy, y):
        return dy * y * (1 - y)


class Softmax(Layer):
    """Scores to probabilities along axis 1: `y[i] = exp(x[i]) / sum over j of exp(x[j])`.

    The largest score is subtracted first, which changes nothing in the result and keeps exp in range.
    Back: `dx = y * (dy - sum over j of dy[j] * y[j])`.

    As the last layer of a `Sequential` it is left to `predict`: training goes through the scores (logits) and
    `SoftmaxCrossEntropy`, where softmax and logarithm together lose no digits.

    Raises:
        InputError: something that is no array of floating point numbers, or has no axis 1.

    >>> import numpy as np
    >>> Softmax()(np.array([[0.0, 0.0], [1000.0, 0.0]]))
    array([[0.5, 0.5],
           [1. , 0. ]])

    Source: Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    """

    splits_batch = True

    def forward(self, x, training=False):
        self.check_input(x)
        if x.ndim < 2:
            raise InputError(f"Softmax needs a batch (N, K), got shape {x.shape}: add the batch axis with x[None]")
        y = array_module(x).exp(x - x.max(axis=1, keepdims=True))
        y /= y.sum(axis=1, keepdims=True)

        def backward(dy):
            return y * (dy - (dy * y).sum(axis=1, keepdims=True))

        return y, backward
