"""Find the mistake 10: the sigmoid."""

import numpy as np

from minicnn.exercises import check


class Sigmoid:
    """The sigmoid as an object that can be called. The formula is right; the code has one mistake.

    y = 1 / (1 + exp(-x))
    dx = dy * y * (1 - y)
    """

    def __call__(self, x):
        """The output for any array x, and backward(dy), which returns dx."""
        self.y = 1 / (1 + np.exp(-x))
        return self.y, self.backward

    def backward(self, dy):
        return dy * self.y * (1 - self.y)


sigmoid = Sigmoid()


def test_sigmoid():
    check("find10_sigmoid", sigmoid)
