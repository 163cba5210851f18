"""Exercise 1: a convolution by loops.

A kernel is a small image of weights. It slides over the image. At every position, multiply each weight with the pixel
under it and add up the products: that is one pixel of the output. With several channels the sum runs over the
channels, too. Each of the F filters has its own kernel and gives one channel of the output.

What networks call convolution is a correlation: the kernel is not flipped.

Write it with loops, one number after the other. It is slow, and that does not matter here.
"""

import numpy as np

from minicnn.exercises import check


def convolution(x, weight, bias):
    """The convolution without padding, with stride 1.

        (1) y has the shape (N, F, OH, OW) with OH = H - KH + 1 and OW = W - KW + 1
        (2) y[n, f, oh, ow] = bias[f] + sum over c, kh, kw of weight[f, c, kh, kw] * x[n, c, oh + kh, ow + kw]

    Args:
        x: images (N, C, H, W).
        weight: kernels (F, C, KH, KW).
        bias: (F,).

    Returns:
        y.
    """
    raise NotImplementedError("write convolution")


def test_convolution():
    check("convolution", convolution)


if __name__ == "__main__":
    x = np.arange(12.0).reshape(1, 1, 3, 4)
    print(convolution(x, np.ones((1, 1, 2, 2)), np.zeros(1)))  # [[10, 14, 18], [26, 30, 34]]
