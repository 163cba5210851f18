"""Dropout: a network that cannot rely on any one unit learns several reasons for each answer."""

import numbers

import numpy as np

from minicnn.core import operations
from minicnn.core.checks import check_integer
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer
from minicnn.core.parameter import State


class Dropout(Layer):
    """In training each number is zero with probability `rate`, and the others are multiplied by `1 / (1 - rate)`.

        y = x * mask / (1 - rate),    dx = dy * mask / (1 - rate)

    So the expected output is the input (this is the "inverted" form). Outside training, `y = x`. The mask of a step
    follows from the seed and the number of the step, so that a resumed run draws the masks of one that was not
    stopped.

    Input and output: any shape.

    Args:
        rate: the probability of dropping a number, at least 0 and less than 1.
        seed: of the masks; None takes one from the network's seed when the layer is built.

    Attributes:
        mask_seed, step: State: the seed in use, and how many masks have been drawn.

    Raises:
        InputError: a rate outside [0, 1).

    >>> import numpy as np
    >>> y, backward = Dropout(0.5, seed=3).forward(np.ones((1, 6)), training=True)
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    >>> bool((backward(np.ones((1, 6))) == y).all())       # the backward pass uses the same mask
    True

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014.
    """

    independent_samples = "evaluation"

    def __init__(self, rate, seed=None):
        if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 0 <= rate < 1:
            raise InputError(f"Dropout needs a rate of at least 0 and less than 1, got {rate!r}")
        self.rate = rate
        self.seed = seed if seed is None else check_integer(seed, "seed", "Dropout", minimum=0)
        self.mask_seed = State(None if seed is None else self.seed)
        self.step = State(0)

    def build(self, input_shape, rng=None, dtype="float32"):
        if self.mask_seed.value is None:
            rng = rng or np.random.default_rng(0)
            self.mask_seed.value = int(rng.spawn(1)[0].integers(2**63))
        return super().build(input_shape, rng, dtype)

    def forward(self, x, training=False):
        self.check_input(x)
        if not training or self.rate == 0:
            return x, lambda dy: dy
        seed = self.mask_seed.value or 0, self.step.value
        self.step.value += 1
        random, scale = operations.current.uniform(x.shape, seed), x.dtype.type(1 / (1 - self.rate))
        mask = operations.current.elementwise(_mask, random, self.rate, scale)

        def backward(dy):
            return operations.current.elementwise(_times, dy, mask)

        return operations.current.elementwise(_times, x, mask), backward


def _mask(random, rate, scale):
    return (random >= rate) * scale


def _times(x, mask):
    return x * mask
