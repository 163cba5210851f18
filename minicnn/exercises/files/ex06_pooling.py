"""Exercise 6: max pooling and average pooling.

A window slides over each channel, as in a convolution, but without weights. Max pooling keeps the largest pixel of each
window, average pooling the mean.

Backward: if a pixel changes a little, how much does the output change? In max pooling only the largest pixel of a
window matters, so it alone receives the gradient of that window. In average pooling all pixels of the window matter
equally. Windows may overlap; then a pixel receives a gradient from several of them.
"""

import numpy as np

from minicnn.exercises import check


def max_pool(x, size, stride):
    """The largest pixel of each window.

        (1) y[n, c, oh, ow] = max over kh, kw of x[n, c, oh * stride + kh, ow * stride + kw]
        (2) dx of the largest pixel of the window += dy[n, c, oh, ow]
        (3) of several pixels that are equally large, the first in the order of rows is "the largest"

    Args:
        x: images (N, C, H, W).
        size: (KH, KW) of the window.
        stride: an integer; smaller than the window if the windows overlap.

    Returns:
        y (N, C, OH, OW), and backward(dy), which returns dx.
    """
    raise NotImplementedError("write max_pool")


def average_pool(x, size, stride):
    """The mean of each window.

        (1) y[n, c, oh, ow] = (sum over kh, kw of x[n, c, oh * stride + kh, ow * stride + kw]) / (KH * KW)
        (2) dx of each pixel of the window += dy[n, c, oh, ow] / (KH * KW)

    Args:
        x, size, stride: as for max_pool.

    Returns:
        y (N, C, OH, OW), and backward(dy), which returns dx.
    """
    raise NotImplementedError("write average_pool")


def test_max_pool():
    check("max_pool", max_pool)


def test_average_pool():
    check("average_pool", average_pool)


if __name__ == "__main__":
    x = np.array([[[[1.0, 2.0], [4.0, 3.0]]]])
    for pool in (max_pool, average_pool):
        y, backward = pool(x, (2, 2), 2)
        print(y, backward(np.ones_like(y)))  # 4 and one 1; then 2.5 and four 0.25
