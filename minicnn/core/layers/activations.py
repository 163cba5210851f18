"""Activations: the nonlinearities between the layers, without which a network would be one matrix.

Each treats every number separately (Softmax every row) and has no parameters.
"""

import numpy as np

from minicnn.core import operations
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer


class Activation(Layer):
    """A function of every number separately, and its derivative. A subclass has the two formulas, as static methods.

    The formulas use nothing but their arguments and NumPy's functions, called as `np.name`: a backend may
    compile them.

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

    @staticmethod
    def value(x):
        """`y` for each number of `x`."""
        raise NotImplementedError("an Activation needs a static method value(x)")

    @staticmethod
    def gradient(dy, x, y):
        """`dx`, from the gradient `dy` of the loss with respect to `y`, the input `x` and the output `y`."""
        raise NotImplementedError("an Activation needs a static method gradient(dy, x, y)")

    def forward(self, x, training=False):
        self.check_input(x)
        y = operations.current.elementwise(self.value, x)
        if not self.gradient_needs_input:
            x = y  # in its place, so that its memory is free

        def backward(dy):
            return operations.current.elementwise(self.gradient, dy, x, y)

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
    def value(x):
        return np.maximum(x, 0)

    @staticmethod
    def gradient(dy, x, y):
        return dy * (y > 0)


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
    def value(x):
        return np.tanh(x)

    @staticmethod
    def gradient(dy, x, y):
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
    def value(x):
        return (np.tanh(x * 0.5) + 1) * 0.5

    @staticmethod
    def gradient(dy, x, y):
        return dy * y * (1 - y)


class Softmax(Layer):
    """Scores to probabilities along axis 1: `y[i] = exp(x[i]) / sum over j of exp(x[j])`.

    The largest score is subtracted first, which does not change the result and keeps exp in range.
    Backward: `dx = y * (dy - sum over j of dy[j] * y[j])`.

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

    def forward(self, x, training=False):
        self.check_input(x)
        if x.ndim < 2:
            raise InputError(f"Softmax needs a batch (N, K), got shape {x.shape}: add the batch axis with x[None]")
        exponentials = np.exp(x - x.max(axis=1, keepdims=True))
        y = exponentials / exponentials.sum(axis=1, keepdims=True)

        def backward(dy):
            return y * (dy - (dy * y).sum(axis=1, keepdims=True))

        return y, backward
