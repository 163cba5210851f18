"""Find the mistake 4: leaky ReLU."""

import numpy as np

from minicnn.exercises import check


def leaky_relu(x, slope):
    """ReLU with a small slope for negative numbers. The formula is right; one line of the code is not.

        y = x where x > 0, and slope * x elsewhere
        dx = dy where x > 0, and slope * dy elsewhere

    Args:
        x: an array of any shape.
        slope: a number between 0 and 1.

    Returns:
        y, and backward(dy), which returns dx.
    """
    y = np.where(x > 0, x, slope * x)

    def backward(dy):
        return np.where(dy > 0, dy, slope * dy)

    return y, backward


def test_leaky_relu():
    check("find04_leaky_relu", leaky_relu)
