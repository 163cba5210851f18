"""Memory layout is (C, H, W, N): the batch axis is contiguous.

Images have the shape (N, C, H, W) everywhere, but this backend stores them
with the batch axis innermost. Then a tap of a kernel reads one long contiguous
run for the whole batch, and the result of a convolution's matrix product
already is the next layer's image. Results are right for any layout; only the
speed depends on it.
"""

import contextlib
import math

import numpy as np

CACHE_LINE = 64  # bytes
SMALL_BUFFER = 2**10  # numbers
FEW_BYTES = 128  # of the numbers of a pixel: with more it is copied as fast as they are


def batch_last(x):
    """A view of a batch (N, ...) with the batch as its last axis, (..., N).

    >>> batch_last(np.ones((32, 6, 14, 14))).shape
    (6, 14, 14, 32)
    """
    return x.transpose(*range(1, x.ndim), 0)  # moveaxis does the same, and takes 4 us for it


def batch_first(x):
    """The inverse of `batch_last`: a view (N, ...) of an array (..., N)."""
    return x.transpose(x.ndim - 1, *range(x.ndim - 1))


def batch_innermost(x):
    """The same array with its batch axis contiguous in memory; copied only if it is not."""
    x_last = batch_last(x)
    if x_last.flags.c_contiguous:
        return x
    copy = np.empty(x_last.shape, x.dtype)
    _copy(x_last, copy)
    return batch_first(copy)


@contextlib.contextmanager
def small_buffers():
    """A block in which NumPy reads rows from where they are.

    Where the rows of an array do not follow each other, as in a slice of an image, NumPy copies those that are shorter
    than half of its buffer into it before it adds, multiplies or compares them. The buffer has 8192 numbers; with a
    small one, rows of 864 numbers are added in half the time, and max pooling takes 0.9 of the time. For a complete
    step it is no gain: LeNet-5 takes 4 % longer.
    """
    with np.errstate():  # at whose end the buffer has its old size
        np.setbufsize(SMALL_BUFFER)
        yield


def aligned_empty(shape, dtype):
    """As `np.empty`, from the beginning of a cache line on.

    BLAS reads columns a fifth faster there: 5x5 kernels from 32 to 32 channels take 0.92 of a step's time so. Images,
    and the values of Winograd's tiles, gain nothing.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE
    return buffer[start : start + size].view(dtype).reshape(shape)


def concatenate(batches):
    """Chunks of a batch as one batch."""
    *shape, _ = batch_last(batches[0]).shape
    whole = np.empty((*shape, sum(map(len, batches))), batches[0].dtype)
    start = 0
    for batch in map(batch_last, batches):
        stop = start + batch.shape[-1]
        _copy(batch, whole[..., start:stop])
        start = stop
    return batch_first(whole)


def _copy(source, target):
    """Copy an array (..., N)."""
    source, target = to_copy(source, target)
    target[...] = source


def to_copy(source, target):
    """Two arrays (..., N) as they are copied fastest: pixels of few numbers as one element each; views."""
    if source.shape[-1] * source.itemsize <= FEW_BYTES and source.strides[-1] == source.itemsize:
        return pixels(source), pixels(target)
    return source, target


def pixels(image):
    """An array (..., N) with the N numbers of a pixel as one element, which is copied 2.5 times faster; a view."""
    return image.view(np.dtype((np.void, image.shape[-1] * image.itemsize)))[..., 0]
