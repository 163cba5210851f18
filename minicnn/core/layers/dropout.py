"""Dropout: a network that cannot rely on any one unit learns several reasons for each answer."""

from collections.abc import Sequence

import numpy as np

from minicnn.core import operations
from minicnn.core.checks import check_integer, check_number, is_integer
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer
from minicnn.core.parameter import State
from minicnn.core.types import Array, Backward, DType, Shape


class Dropout(Layer):
    """In training each number is zero with probability `rate`, and the others are multiplied by `1 / (1 - rate)`.

        y = x * mask / (1 - rate),    dx = dy * mask / (1 - rate)

    So the expected output is the input (this is the "inverted" form). Outside training, `y = x`. The mask of a step
    follows from the seed and the number of the step, so that a resumed run draws the masks of one that was not
    stopped.

    With `axes`, all numbers along these axes are dropped together: `Dropout(rate, axes=(2, 3))` drops whole channels
    of images. In a channel neighbouring pixels say nearly the same, so that single ones would hardly be missed.

    Input and output: any shape that has the axes.

    Args:
        rate: the probability of dropping a number, at least 0 and less than 1.
        seed: of the masks; None takes one from the network's seed when the layer is built.
        axes: an int or a tuple of ints, from 1 (0 is the batch).

    Attributes:
        mask_seed, step: State: the seed in use, and how many masks have been drawn.

    Raises:
        InputError: a rate outside [0, 1), axes that are not such integers, or an input without them.

    >>> import numpy as np
    >>> y, backward = Dropout(0.5, seed=3).forward(np.ones((1, 6)), training=True)
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    >>> bool((backward(np.ones((1, 6))) == y).all())       # the backward pass uses the same mask
    True
    >>> y, _ = Dropout(0.5, seed=3, axes=(2, 3)).forward(np.ones((1, 4, 2, 2)), training=True)
    >>> y.sum(axis=(2, 3))
    array([[8., 0., 0., 0.]])

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014; of channels:
    Tompson et al., "Efficient object localization using convolutional networks", 2015.
    """

    independent_samples = "evaluation"

    def __init__(self, rate: float, *, seed: int | None = None, axes: Sequence[int] = ()):
        self.rate = check_number(rate, "rate", "Dropout", below=1)
        self.seed = seed if seed is None else check_integer(seed, "seed", "Dropout", minimum=0)
        self.axes = axes
        self._axes = (axes,) if is_integer(axes, 1) else axes
        if not isinstance(self._axes, (tuple, list)) or not all(is_integer(axis, 1) for axis in self._axes):
            raise InputError(f"Dropout needs axes as integers of at least 1 (0 is the batch), got {axes!r}")
        self.mask_seed = State(None if seed is None else self.seed)
        self.step = State(0)

    def build(self, input_shape: Shape, rng: np.random.Generator | None = None, dtype: DType = "float32") -> Shape:
        if self.mask_seed.value is None:
            rng = rng or np.random.default_rng(0)
            self.mask_seed.value = int(rng.spawn(1)[0].integers(2**63))
        return super().build(input_shape, rng, dtype)

    def output_shape(self, input_shape: Shape) -> Shape:
        self._check_axes(len(input_shape) + 1, ("N", *input_shape))
        return tuple(input_shape)

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_input(x)
        self._check_axes(x.ndim, x.shape)
        if not training or self.rate == 0:
            return x, lambda dy: dy
        shape = tuple(1 if axis in self._axes else size for axis, size in enumerate(x.shape))
        seed = self.mask_seed.value or 0, self.step.value
        self.step.value += 1
        random, scale = operations.current.uniform(shape, seed), x.dtype.type(1 / (1 - self.rate))
        mask = operations.current.elementwise(_mask, random, self.rate, scale)

        def backward(dy):
            return operations.current.elementwise(operations.multiply, dy, mask)

        return operations.current.elementwise(operations.multiply, x, mask), backward

    def _check_axes(self, ndim, shape):
        if max(self._axes, default=0) >= ndim:
            raise InputError(f"{self!r} needs an input with axis {max(self._axes)}; got shape {tuple(shape)}")


def _mask(random, rate, scale):
    return (random >= rate) * scale
