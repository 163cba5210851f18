"""Exercise 9: a dense layer.

Every unit reads every input. It is one product of matrices, and its backward pass is two products and a sum. If you are
not sure which matrix is transposed, look at the shapes: only one way fits.

The loss is a mean over the batch, so dy contains the division by N already. Here everything is a sum.
"""

import numpy as np

from minicnn.exercises import check


def dense(x, weight, bias):
    """A dense layer.

        (1) y = x @ weight.T + bias
        (2) dx = dy @ weight
        (3) dweight = dy.T @ x, the sum over n of dy[n, unit] * x[n, d]
        (4) dbias[unit] = sum over n of dy[n, unit]

    Args:
        x: (N, D).
        weight: (units, D).
        bias: (units,).

    Returns:
        y (N, units), and backward(dy), which returns dx, dweight, dbias.
    """
    raise NotImplementedError("write dense")


def test_dense():
    check("dense", dense)


if __name__ == "__main__":
    y, backward = dense(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([5.0]))
    print(y, backward(np.ones_like(y)))  # 16; then [3, 4], [1, 2], 1
