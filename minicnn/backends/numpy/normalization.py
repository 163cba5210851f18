"""Batch normalization in two passes over memory, by chunks of the batch that exchange their sums.

The formula in the core passes over memory some twenty times. Here the channels are taken in blocks that fit into the
cache: each is read once for its sums, which BLAS computes four times faster than NumPy's `mean`, and once more for the
result. Where a batch is cut into chunks, they exchange their sums and go on: to put the batch together for every
normalization and to cut it again took a tenth of a step of a residual network.
"""

import math

import numpy as np

from minicnn.backends.numpy.layout import batch_first, batch_innermost, batch_last
from minicnn.backends.numpy.threads import chunk_slices, current_chunk, parallel_map, per_core_slices

BLOCK = 2**20  # bytes of the channels that are computed at a time: smaller ones have more calls, which wait for the GIL
PARALLEL_SIZE = 2**19  # numbers from which it pays to divide them among the cores


def normalize_channels(x, scale, shift, epsilon, from_all):
    """As `Operations.normalize`, over all axes but the channels.

    Args:
        from_all: a function of an array and a count of images that returns those of all chunks of the batch, a list.
    """
    shape, dtype = batch_last(x).shape, x.dtype
    images, pixels = len(x), math.prod(x.shape[2:])
    x = _as_rows(x)  # (C, M)
    C, M = x.shape
    scale, shift = scale.reshape(C, 1), shift.reshape(C, 1)
    y, ones = np.empty_like(x), np.ones((M, 1), dtype)
    origin, own = np.empty((C, 1), dtype), np.empty((2, C, 1), dtype)
    own_mean, squares = own  # the mean, and the sum of the squares of the distances to it

    def measure(channels):
        origin[channels] = x[channels] @ ones / M  # the mean, but for its rounding
        distance = np.subtract(x[channels], origin[channels], out=y[channels])
        rest = distance @ ones / M
        own_mean[channels] = origin[channels] + rest
        squares[channels] = _dot(distance, distance) - M * np.square(rest)

    _for_each_block(measure, x)
    mean, variance, n = _of_all([(*part, count * pixels) for part, count in from_all(own, images)])
    factor = 1 / np.sqrt(variance + epsilon)
    slope = scale * factor
    offset = shift + (origin - mean) * slope

    def scale_and_shift(channels):
        y[channels] *= slope[channels]
        y[channels] += offset[channels]

    _for_each_block(scale_and_shift, x)

    def backward(dy):
        dy = _as_rows(dy)
        dx = np.empty_like(dy)
        own = np.empty((2, C, 1), dtype)
        dscale, dshift = own

        def measure(channels):
            centred = np.subtract(x[channels], mean[channels], out=dx[channels])
            dscale[channels] = _dot(dy[channels], centred) * factor[channels]
            dshift[channels] = dy[channels] @ ones

        _for_each_block(measure, x)
        dscale_of_all, dshift_of_all = sum(part for part, _ in from_all(own, images))
        through_variance, through_mean = -slope * factor * dscale_of_all / n, -slope * dshift_of_all / n

        def combine(channels):
            dx[channels] *= through_variance[channels]
            dx[channels] += dy[channels] * slope[channels]
            dx[channels] += through_mean[channels]

        _for_each_block(combine, x)
        return batch_first(dx.reshape(shape)), dscale, dshift

    as_batch = (1, C, *(1,) * (len(shape) - 2))
    return batch_first(y.reshape(shape)), mean.reshape(as_batch), variance.reshape(as_batch), n, backward


def _of_all(chunks):
    """The mean, the variance and the count of all numbers, from those of each chunk.

    Args:
        chunks: a list of (mean, the sum of the squares of the distances to it, count).

    Source: Chan, Golub & LeVeque, "Algorithms for computing the sample variance", 1983.
    """
    n = sum(count for _, _, count in chunks)
    mean = sum(mean * (count / n) for mean, _, count in chunks)
    squares = sum(squares + count * np.square(own_mean - mean) for own_mean, squares, count in chunks)
    return mean, squares / n, n


def _dot(a, b):
    """The sum of the products of each row: (C, 1)."""
    return (a[:, None, :] @ b[:, :, None])[:, 0]


def _as_rows(x):
    """A batch (N, C, ...) as one contiguous row for each channel: (C, M)."""
    return batch_last(batch_innermost(x)).reshape(x.shape[1], -1)


def _for_each_block(function, x):
    """Call a function with slices of the channels, on all cores where there is much to compute."""

    def compute(channels):
        size = max(1, BLOCK // max(1, x[:1].nbytes))
        for block in chunk_slices(channels.stop - channels.start, size):
            function(slice(channels.start + block.start, channels.start + block.stop))

    divided = current_chunk() is None and x.size >= PARALLEL_SIZE
    parallel_map(compute, per_core_slices(len(x)) if divided else [slice(0, len(x))])
