"""Batch normalization, one block of channels after the other while it is in the cache.

The formula in the core passes over memory some twenty times. Here each block of channels is read once forward and once
backward, and the blocks are divided among the cores.
"""

import numpy as np

from minicnn.backends.numpy.layout import batch_first, batch_innermost, batch_last
from minicnn.backends.numpy.threads import chunk_slices, parallel_map, per_core_slices

BLOCK = 2**18  # bytes of the channels that are computed at a time
PARALLEL_SIZE = 2**19  # numbers from which it pays to divide them among the cores


def normalize_channels(x, scale, shift, epsilon):
    """As `Operations.normalize`, over all axes but the channels."""
    shape = batch_last(x).shape
    x = _as_rows(x)  # (C, M)
    C, M = x.shape
    scale, shift = scale.reshape(C, 1), shift.reshape(C, 1)
    y = np.empty_like(x)
    mean, variance = np.empty((2, C, 1), dtype=x.dtype)

    def forward(channels):
        mean[channels] = x[channels].mean(axis=1, keepdims=True)
        centred = x[channels] - mean[channels]
        square = np.square(centred, out=y[channels])
        variance[channels] = square.mean(axis=1, keepdims=True)
        centred *= scale[channels] / np.sqrt(variance[channels] + epsilon)
        np.add(centred, shift[channels], out=y[channels])

    _for_each_block(forward, x)
    factor = 1 / np.sqrt(variance + epsilon)

    def backward(dy):
        dy = _as_rows(dy)
        dx = np.empty_like(dy)
        dscale, dshift = np.empty((2, C, 1), dtype=dy.dtype)

        def backward_block(channels):
            normalized = x[channels] - mean[channels]
            normalized *= factor[channels]
            dscale[channels] = np.multiply(dy[channels], normalized, out=dx[channels]).sum(axis=1, keepdims=True)
            dshift[channels] = dy[channels].sum(axis=1, keepdims=True)
            normalized *= dscale[channels] / M
            normalized += dshift[channels] / M
            np.subtract(dy[channels], normalized, out=dx[channels])
            dx[channels] *= scale[channels] * factor[channels]

        _for_each_block(backward_block, x)
        return batch_first(dx.reshape(shape)), dscale, dshift

    as_batch = (1, C, *(1,) * (len(shape) - 2))
    return batch_first(y.reshape(shape)), mean.reshape(as_batch), variance.reshape(as_batch), M, backward


def _as_rows(x):
    """A batch (N, C, ...) as one contiguous row for each channel: (C, M)."""
    return batch_last(batch_innermost(x)).reshape(x.shape[1], -1)


def _for_each_block(function, x):
    """Call a function with slices of the channels, on all cores where there is much to compute."""

    def compute(channels):
        size = max(1, BLOCK // max(1, x[:1].nbytes))
        for block in chunk_slices(channels.stop - channels.start, size):
            function(slice(channels.start + block.start, channels.start + block.stop))

    parallel_map(compute, per_core_slices(len(x)) if x.size >= PARALLEL_SIZE else [slice(0, len(x))])
