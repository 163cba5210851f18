"""A layer of your own, the check of its gradient, and the report of the check when the gradient is wrong.

Run it from the project's folder: python examples/check_your_layer.py
"""

import numpy as np

import minicnn as mc


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


x = np.random.default_rng(0).normal(size=(4, 3, 5, 5))  # float64, which the numerical differences need

print(mc.gradcheck.check(Swish(), x))

try:
    mc.gradcheck.check(WrongSwish(), x)
except mc.GradientError as error:
    print(f"\nAnd with a mistake in it:\n{error}")

# In a test of your own (pytest), one line is enough: it raises an error when a gradient is wrong.
#
#     def test_swish():
#         mc.gradcheck.check(Swish(), np.random.default_rng(0).normal(size=(4, 3, 5, 5)))
