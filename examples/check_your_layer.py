"""A layer of your own, the check of its gradient, the report when the gradient is wrong, and every other check.

Run it from the project's folder: python examples/check_your_layer.py
"""

import numpy as np

import minicnn as mc
from minicnn.console import show


class Swish(mc.Layer):
    """y = x * s(x) with s(x) = 1 / (1 + exp(-x)).

    Backward: dx = dy * (s + y * (1 - s)).

    Source: Ramachandran et al., "Searching for activation functions", 2017.
    """

    def forward(self, x, training=False):
        s = 1 / (1 + np.exp(-x))  # NumPy's functions compute with the GPU's arrays, too
        y = x * s

        def backward(dy):
            return dy * (s + y * (1 - s))

        return y, backward


class WrongSwish(Swish):
    """The same with a mistake in the backward pass: the derivative of s is missing."""

    def forward(self, x, training=False):
        y, _ = super().forward(x, training)
        s = y / x

        def backward(dy):
            return dy * s

        return y, backward


x = np.random.default_rng(0).normal(size=(4, 3, 5, 5))

show(mc.gradcheck.check(Swish(), x))

try:
    mc.gradcheck.check(WrongSwish(), x)
except mc.GradientError as error:
    show(f"\nAnd with a mistake in it:\n{error}")

# Every check that the library's own layers pass: dtypes, memory orders, saving and resuming, all backends, and more.
mc.testing.check_layer(Swish, (3, 5, 5))
show(f"\nSwish passes: {', '.join(mc.testing.CHECKS)}")

# In tests of your own (pytest), one test for each layer and each check:
#
#     @mc.testing.parametrize_with_checks([(Swish, (3, 5, 5))])
#     def test_my_layers(check):
#         check()
