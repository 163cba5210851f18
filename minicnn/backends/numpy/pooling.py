"""Pooling one tap of the window after the other: no columns are written."""

import math

import numpy as np

from minicnn.backends.numpy.layout import batch_first, batch_last
from minicnn.core.im2col import pad


def max_pool(x, window):
    """As `Operations.max_pool`."""
    _, _, H, W = x.shape
    OH, OW = window.output_shape(H, W)
    image = batch_last(pad(x, window.pads(H, W), -math.inf))  # (C, HP, WP, N)
    (_, _, rows, cols), *taps = window.taps(OH, OW)
    y = image[:, rows, cols].copy()  # (C, OH, OW, N)
    winner = np.zeros(y.shape, dtype="uint8" if len(taps) < 256 else "int32")
    first = first_tap(np, window, H, W, winner.dtype)
    if first is not None:
        winner += first
    for tap, (_, _, rows, cols) in enumerate(taps, start=1):
        candidate = image[:, rows, cols]
        np.maximum(winner, (candidate > y) * winner.dtype.type(tap), out=winner)  # 5 times faster than a mask
        np.maximum(y, candidate, out=y)
    if np.isnan(y).any():  # of which no comparison is true
        for tap, (_, _, rows, cols) in reversed(list(enumerate(window.taps(OH, OW)))):
            winner[np.isnan(image[:, rows, cols])] = tap  # the first NaN of a window remains
    padded_shape = image.shape

    def to_input(dy):
        dy = batch_last(dy)
        dimage = np.zeros(padded_shape, dtype=dy.dtype)
        for tap, (_, _, rows, cols) in enumerate(window.taps(OH, OW)):
            accumulate(window, dimage[:, rows, cols], dy * (winner == winner.dtype.type(tap)))
        return unpad(window, dimage, H, W)

    return batch_first(y), to_input


def average_pool(x, window, count_padding):
    """As `Operations.average_pool`."""
    _, _, H, W = x.shape
    if window.kernel_size == (H, W) and window.pads(H, W) == ((0, 0), (0, 0)):
        return _global_average(x)
    return average_windows(np, x, window, count_padding)


def average_windows(xp, x, window, count_padding):
    """The mean of each window, for arrays of the module `xp`."""
    _, _, H, W = x.shape
    OH, OW = window.output_shape(H, W)
    image = batch_last(pad(x, window.pads(H, W)))  # (C, HP, WP, N)
    (_, _, rows, cols), *taps = window.taps(OH, OW)
    weight = pixel_weight(xp, window, H, W, count_padding, x.dtype)
    y = image[:, rows, cols].copy()  # (C, OH, OW, N)
    for _, _, rows, cols in taps:
        y += image[:, rows, cols]
    y *= weight
    padded_shape = image.shape

    def to_input(dy):
        dy = batch_last(dy) * weight
        dimage = xp.zeros(padded_shape, dtype=dy.dtype)
        for _, _, rows, cols in window.taps(OH, OW):
            accumulate(window, dimage[:, rows, cols], dy)
        return unpad(window, dimage, H, W)

    return batch_first(y), to_input


def _global_average(x):
    """One window as large as the image: one sum."""
    N, C, H, W = x.shape
    y = batch_last(x).mean(axis=(1, 2), keepdims=True)  # (C, 1, 1, N)

    def to_input(dy):
        return batch_first(np.broadcast_to(batch_last(dy) * (1 / (H * W)), (C, H, W, N)))

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


def accumulate(window, pixels, gradient):
    """Add to pixels that are zero unless windows overlap; where they do not, writing takes half the time."""
    if window.overlaps:
        pixels += gradient
    else:
        pixels[...] = gradient


def unpad(window, padded, H, W):
    """The images (N, C, H, W) inside a padded array (C, HP, WP, N)."""
    (top, _), (left, _) = window.pads(H, W)
    return batch_first(padded[:, top : top + H, left : left + W])


def pixel_weight(xp, window, H, W, count_padding, dtype):
    """The weight of one pixel in its window's mean: a number, or (OH, OW, 1) where windows reach the padding."""
    KH, KW = window.kernel_size
    if count_padding or window.pads(H, W) == ((0, 0), (0, 0)):
        return 1 / (KH * KW)
    high, wide = (inside.sum(axis=1) for inside in taps_inside(xp, window, H, W))
    return (1 / (high[:, None, None] * wide[:, None])).astype(dtype)


def taps_inside(xp, window, H, W):
    """For height and width, which taps of a window read the image and not the padding: two arrays (positions, taps)."""
    inside = []
    for axis, size in enumerate((H, W)):
        first = xp.arange(window.output_shape(H, W)[axis]) * window.stride[axis] - window.pads(H, W)[axis][0]
        pixel = first[:, None] + xp.arange(window.kernel_size[axis]) * window.dilation[axis]
        inside.append((pixel >= 0) & (pixel < size))
    return inside
