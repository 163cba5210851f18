"""Exercise 5: a convolution with its backward pass.

With im2col, a convolution is a product of matrices, and the backward pass of a product is two products. Below, `W` is
the kernels as rows (F, C * KH * KW), and `Y` and `dY` are y and dy as matrices (F, OH * OW * N), in the order of the
columns.

The loss is a mean over the batch, so dy contains the division by N already. Here everything is a sum.

From here on a layer returns y and a function backward, see README.md:

    y = ...

    def backward(dy):
        ...
        return dx, dweight, dbias

    return y, backward
"""

import numpy as np
from ex02_output_size import output_size
from ex03_im2col import im2col
from ex04_col2im import col2im

from minicnn.exercises import check

# ruff: noqa: F401 (the imports are for your code)


def convolution_layer(x, weight, bias, stride=1, padding=0):
    """A convolution and its backward pass.

        (1) Y = W @ im2col(x) + bias, and y is Y in the shape (N, F, OH, OW)
        (2) dW = dY @ columns.T, and dweight is dW in the shape of weight
        (3) dbias[f] = sum over n, oh, ow of dy[n, f, oh, ow]
        (4) dx = col2im(W.T @ dY)

    Args:
        x: images (N, C, H, W).
        weight: kernels (F, C, KH, KW).
        bias: (F,).
        stride, padding: integers.

    Returns:
        y (N, F, OH, OW), and backward(dy), which returns dx, dweight, dbias.
    """
    raise NotImplementedError("write convolution_layer")


def test_convolution_layer():
    check("convolution_layer", convolution_layer)


if __name__ == "__main__":
    y, backward = convolution_layer(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)), np.zeros(1))
    print(y, backward(np.ones_like(y)))  # 4 everywhere; then [1, 2, 1], [2, 4, 2], [1, 2, 1], and 4 everywhere, and 4
