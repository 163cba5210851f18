"""Values that a layer keeps: parameters, which are learned, and states, which are not."""

from minicnn.core import operations
from minicnn.core.checks import check_array
from minicnn.core.errors import InputError
from minicnn.core.types import Array


class Parameter:
    """A learned array and the gradients collected for it since the last step.

    Args:
        value: the array that it starts with, of any shape and a floating point dtype.

    Attributes:
        value: the array. Optimizers change it in place.
        gradients: the list of gradients, one for each backward pass since the list was last cleared.
        trainable: whether it is learned; a frozen parameter collects no gradients.

    >>> import numpy as np
    >>> p = Parameter(np.zeros(2))
    >>> p.add_gradient(np.array([1.0, 2.0]))
    >>> p.add_gradient(np.array([1.0, 1.0]))
    >>> p.grad
    array([2., 3.])
    """

    #: A set that notes every parameter that receives a gradient, or None; set by `watch_gradients`.
    receivers = None

    def __init__(self, value: Array):
        self.value = value
        self.gradients: list[Array] = []
        self.trainable = True

    def add_gradient(self, gradient: Array) -> None:
        """Add to the gradient. The array may be kept: do not change it afterwards.

        Args:
            gradient: an array of the shape of the value.

        Raises:
            InputError: not an array, or one of another shape.
        """
        if getattr(gradient, "shape", None) != self.value.shape:
            raise self._gradient_error(gradient)
        if Parameter.receivers is not None:
            Parameter.receivers.add(self)
        if self.trainable:
            operations.current.collect(self.gradients, gradient)

    def clear_gradient(self) -> None:
        """Forget the gradient."""
        self.gradients.clear()

    @property
    def has_gradient(self) -> bool:
        """Whether a gradient was added since it was last cleared."""
        return bool(self.gradients)

    @property
    def grad(self) -> Array | None:
        """The gradient: the sum of all that was added, an array of the value's shape and dtype; None without any."""
        return operations.current.total(self.gradients) if self.gradients else None

    def _gradient_error(self, gradient):
        check_array(gradient, "a parameter's gradient")
        needed = tuple(self.value.shape)
        return InputError(f"a parameter of shape {needed} needs a gradient of that shape, got {gradient.shape}")

    def __repr__(self):
        frozen = "" if self.trainable else ", frozen"
        return f"Parameter({tuple(self.value.shape)}, {self.value.dtype}{frozen})"


class State:
    """A value that a layer keeps but does not learn, such as a running mean: it is saved and resumed with the weights.

    Args:
        value: an array, an int or a float.

    >>> import numpy as np
    >>> mean = State(np.zeros(3))
    >>> mean.value = 0.9 * mean.value + 0.1
    """

    def __init__(self, value: Array | float):
        self.value = value

    def __repr__(self):
        if getattr(self.value, "shape", None) is None:
            return f"State({self.value!r})"
        return f"State({tuple(self.value.shape)}, {self.value.dtype})"


class watch_gradients:  # noqa: N801, used like a function
    """A block that collects every parameter that receives a gradient in it, wherever it is kept.

    >>> import numpy as np
    >>> p = Parameter(np.zeros(1))
    >>> with watch_gradients() as receivers:
    ...     p.add_gradient(np.ones(1))
    >>> receivers == {p}
    True
    """

    def __enter__(self):
        Parameter.receivers = set()
        return Parameter.receivers

    def __exit__(self, *_):
        Parameter.receivers = None
