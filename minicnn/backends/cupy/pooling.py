"""Pooling one tap of the window after the other: no columns are written.

As in the backend "numpy", with the comparisons of a tap as one kernel.
"""

import math

import numpy as np

from minicnn.backends.cupy.fusion import fuse_elementwise
from minicnn.backends.cupy.layout import batch_first, batch_last
from minicnn.backends.numpy.pooling import accumulate, average_windows, taps_inside, unpad
from minicnn.core.im2col import pad


def max_pool(xp, x, window):
    """As `Operations.max_pool`."""
    _, _, H, W = x.shape
    OH, OW = window.output_shape(H, W)
    image = batch_last(pad(x, window.pads(H, W), -math.inf))  # (C, HP, WP, N)
    (_, _, rows, cols), *taps = window.taps(OH, OW)
    y = image[:, rows, cols].copy()  # (C, OH, OW, N)
    winner = xp.zeros(y.shape, dtype="uint8" if len(taps) < 256 else "int32")
    first = first_tap(xp, window, H, W, winner.dtype)
    if first is not None:  # one kernel less
        winner += first
    for tap, (_, _, rows, cols) in enumerate(taps, start=1):
        fuse_elementwise(xp, (_compare,), y, winner, image[:, rows, cols], winner.dtype.type(tap))
    padded_shape = image.shape

    def to_input(dy):
        dy = batch_last(dy)
        dimage = xp.zeros(padded_shape, dtype=dy.dtype)
        for tap, (_, _, rows, cols) in enumerate(window.taps(OH, OW)):
            gradient = fuse_elementwise(xp, (_route,), dy, winner, winner.dtype.type(tap))
            accumulate(window, dimage[:, rows, cols], gradient)
        return unpad(window, dimage, H, W)

    return batch_first(y), to_input


def first_tap(xp, window, H, W, dtype):
    """The index of the first tap of each window that reads a pixel of the image, not the padding.

    It receives the gradient where all pixels are equally large, even if they are minus infinity like the padding.

    Args:
        xp: the array module.
        window: a Window.
        H, W: height and width of the image.
        dtype: of the result.

    Returns:
        (OH, OW, 1), or None where no window begins in the padding.
    """
    (top, _), (left, _) = window.pads(H, W)
    if not (top or left):
        return None
    rows, cols = (inside.argmax(axis=1) for inside in taps_inside(xp, window, H, W))
    return (rows[:, None, None] * window.kernel_size[1] + cols[:, None]).astype(dtype)


def _compare(largest, winner, candidate, tap):
    """Where the candidate is larger, or the first NaN, it is the largest so far, and its tap is the winner."""
    np.maximum(winner, ((largest == largest) & ~(candidate <= largest)) * tap, out=winner)
    np.maximum(largest, candidate, out=largest)


def _route(dy, winner, tap):
    """The gradient of the windows in which a tap is the winner."""
    return dy * (winner == tap)


def average_pool(xp, x, window, count_padding):
    """As `Operations.average_pool`."""
    _, _, H, W = x.shape
    if window.kernel_size == (H, W) and window.pads(H, W) == ((0, 0), (0, 0)):
        return _global_average(xp, x)
    return average_windows(xp, x, window, count_padding)


def _global_average(xp, x):
    """One window as large as the image: the mean, which is one kernel."""
    N, C, H, W = x.shape
    y = batch_last(x).mean(axis=(1, 2), keepdims=True)  # (C, 1, 1, N)

    def to_input(dy):
        return batch_first(xp.broadcast_to(batch_last(dy) * (1 / (H * W)), (C, H, W, N)))

    return batch_first(y), to_input
