"""Dropout: a network that cannot rely on any one unit learns several reasons for each answer."""

import numbers

import numpy as np

from minicnn.backend import array_module, batch_first, batch_last, fused
from minicnn.checks import whole_number
from minicnn.errors import InputError
from minicnn.layers.base import Layer


class Dropout(Layer):
    """In training each number is zero with probability `rate`, and the others grow by `1 / (1 - rate)`.

        y = x * mask / (1 - rate),    dx = dy * mask / (1 - rate)

    So the expected output is the input (this is the "inverted" form). Outside training, `y = x`.

    Input and output: any shape.

    Args:
        rate: the probability of dropping a number, at least 0 and less than 1.
        seed: of the masks; None takes it from the network's seed when the layer is built.

    Raises:
        InputError: a rate outside [0, 1).

    >>> import numpy as np
    >>> y, backward = Dropout(0.5, seed=3).forward(np.ones((1, 6)), training=True)
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    >>> bool((backward(np.ones((1, 6))) == y).all())       # the same mask on the way back
    True

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014.
    """

    def __init__(self, rate, seed=None):
        if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 0 <= rate < 1:
            raise InputError(f"Dropout needs a rate of at least 0 and less than 1, got {rate!r}")
        self.rate = rate
        self.seed = seed if seed is None else whole_number(seed, "seed", "Dropout", least=0)
        self.rng = np.random.default_rng(self.seed)

    def build(self, input_shape, rng=None, dtype="float32"):
        if self.seed is None:
            self.rng = (rng or np.random.default_rng(0)).spawn(1)[0]
        return super().build(input_shape, rng, dtype)

    def forward(self, x, training=False):
        self.check_input(x)
        if not training or self.rate == 0:
            return x, lambda dy: dy
        xp = array_module(x)
        draw = xp.random.default_rng(int(self.rng.integers(2**63)))
        kept = draw.random(batch_last(x).shape, dtype="float32") >= self.rate
        mask = batch_first(kept.astype(x.dtype) * (1 / (1 - self.rate)))

        def backward(dy):
            return fused(_masked)(dy, mask)

        return fused(_masked)(x, mask), backward


def _masked(xp, x, mask):
    return x * mask
