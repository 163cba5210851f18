"""Find the mistake 2: a convolution, one tap of the kernel after the other."""

import numpy as np

from minicnn.exercises import check


def convolution(x, weight, bias):
    """A convolution without padding, with stride 1. The formula is right; one line of the code is not.

        y[n, f, oh, ow] = bias[f] + sum over c, kh, kw of weight[f, c, kh, kw] * x[n, c, oh + kh, ow + kw]
        dx[n, c, oh + kh, ow + kw] += sum over f of weight[f, c, kh, kw] * dy[n, f, oh, ow]
        dweight[f, c, kh, kw] = sum over n, oh, ow of dy[n, f, oh, ow] * x[n, c, oh + kh, ow + kw]
        dbias[f] = sum over n, oh, ow of dy[n, f, oh, ow]

    Args:
        x: images (N, C, H, W).
        weight: kernels (F, C, KH, KW).
        bias: (F,).

    Returns:
        y (N, F, OH, OW), and backward(dy), which returns dx, dweight, dbias.
    """
    KH, KW = weight.shape[2:]
    OH, OW = x.shape[2] - KH + 1, x.shape[3] - KW + 1
    y = np.zeros((len(x), len(weight), OH, OW)) + bias[:, None, None]
    for kh in range(KH):
        for kw in range(KW):
            y += np.einsum("fc,nchw->nfhw", weight[:, :, kh, kw], x[:, :, kh : kh + OH, kw : kw + OW])

    def backward(dy):
        dx, dweight = np.zeros_like(x), np.zeros_like(weight)
        for kh in range(KH):
            for kw in range(KW):
                pixels = x[:, :, kh : kh + OH, kw : kw + OW]
                dweight[:, :, kh, kw] = np.einsum("nfhw,nchw->fc", dy, pixels)
                flipped = weight[:, :, KH - 1 - kh, KW - 1 - kw]
                dx[:, :, kh : kh + OH, kw : kw + OW] += np.einsum("fc,nfhw->nchw", flipped, dy)
        return dx, dweight, dy.sum(axis=(0, 2, 3))

    return y, backward


def test_convolution():
    check("find02_convolution", convolution)
