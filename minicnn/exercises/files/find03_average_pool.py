"""Find the mistake 3: average pooling."""

import numpy as np

from minicnn.exercises import check


def average_pool(x, size, stride):
    """The mean of each window. The formula is right; one line of the code is not.

        y[n, c, oh, ow] = (sum over kh, kw of x[n, c, oh * stride + kh, ow * stride + kw]) / (KH * KW)
        dx of each pixel of the window += dy[n, c, oh, ow] / (KH * KW)

    Args:
        x: images (N, C, H, W).
        size: (KH, KW) of the window.
        stride: an integer; smaller than the window if the windows overlap.

    Returns:
        y (N, C, OH, OW), and backward(dy), which returns dx.
    """
    N, C, H, W = x.shape
    KH, KW = size
    OH, OW = (H - KH) // stride + 1, (W - KW) // stride + 1
    y = np.zeros((N, C, OH, OW))
    for oh in range(OH):
        for ow in range(OW):
            h, w = oh * stride, ow * stride
            y[:, :, oh, ow] = x[:, :, h : h + KH, w : w + KW].mean(axis=(2, 3))

    def backward(dy):
        dx = np.zeros_like(x)
        for oh in range(OH):
            for ow in range(OW):
                h, w = oh * stride, ow * stride
                dx[:, :, h : h + KH, w : w + KW] = dy[:, :, oh, ow, None, None] / (KH * KW)
        return dx

    return y, backward


def test_average_pool():
    check("find03_average_pool", average_pool)
