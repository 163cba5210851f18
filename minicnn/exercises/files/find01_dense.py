"""Find the mistake 1: a dense layer, written with a loop over the batch."""

import numpy as np

from minicnn.exercises import check


def dense(x, weight, bias):
    """A dense layer. The formula is right; one line of the code is not.

        y = x @ weight.T + bias
        dx = dy @ weight
        dweight[unit, d] = sum over n of dy[n, unit] * x[n, d]
        dbias[unit] = sum over n of dy[n, unit]

    Args:
        x: (N, D).
        weight: (units, D).
        bias: (units,).

    Returns:
        y (N, units), and backward(dy), which returns dx, dweight, dbias.
    """
    y = x @ weight.T + bias

    def backward(dy):
        dweight = np.zeros_like(weight)
        dbias = np.zeros_like(bias)
        for dy_n, x_n in zip(dy, x, strict=True):
            dweight = np.outer(dy_n, x_n)
            dbias += dy_n
        return dy @ weight, dweight, dbias

    return y, backward


def test_dense():
    check("find01_dense", dense)
