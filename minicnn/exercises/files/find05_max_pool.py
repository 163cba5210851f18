"""Find the mistake 5: max pooling with padding."""

import numpy as np

from minicnn.exercises import check


def max_pool(x, size, padding):
    """The largest pixel of each window; the windows do not overlap. The formula is right; one line of the code is not.

        y[n, c, oh, ow] = the largest of the pixels of the image in the window; the padding is never the largest
        dx of that pixel = dy[n, c, oh, ow]; of several equal pixels the first one receives it

    Args:
        x: images (N, C, H, W).
        size: the height and the width of the window, one integer.
        padding: pixels on each of the four sides, less than size.

    Returns:
        y (N, C, OH, OW), and backward(dy), which returns dx.
    """
    N, C, H, W = x.shape
    OH, OW = (H + 2 * padding) // size, (W + 2 * padding) // size
    padded = np.zeros((N, C, H + 2 * padding, W + 2 * padding))
    padded[:, :, padding : padding + H, padding : padding + W] = x
    windows = padded[:, :, : OH * size, : OW * size].reshape(N, C, OH, size, OW, size)
    windows = windows.transpose(0, 1, 2, 4, 3, 5).reshape(N, C, OH, OW, size * size)
    largest = windows.argmax(axis=4)[..., None]
    y = np.take_along_axis(windows, largest, axis=4)[..., 0]

    def backward(dy):
        dwindows = np.zeros_like(windows)
        np.put_along_axis(dwindows, largest, dy[..., None], axis=4)
        dwindows = dwindows.reshape(N, C, OH, OW, size, size).transpose(0, 1, 2, 4, 3, 5)
        dpadded = np.zeros_like(padded)
        dpadded[:, :, : OH * size, : OW * size] = dwindows.reshape(N, C, OH * size, OW * size)
        return dpadded[:, :, padding : padding + H, padding : padding + W]

    return y, backward


def test_max_pool():
    check("find05_max_pool", max_pool)
