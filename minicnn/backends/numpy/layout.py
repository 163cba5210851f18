"""Memory layout is (C, H, W, N): the batch axis is contiguous.

Images have the shape (N, C, H, W) everywhere, but this backend stores them
with the batch axis innermost. Then a tap of a kernel reads one long contiguous
run for the whole batch, and the result of a convolution's matrix product
already is the next layer's image. Results are right for any layout; only the
speed depends on it.
"""

import numpy as np


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
    return batch_first(np.ascontiguousarray(batch_last(x)))


def concatenate(batches):
    """Chunks of a batch as one batch."""
    return batch_first(np.concatenate([batch_last(batch) for batch in batches], axis=-1))


def pixels(image):
    """An array (..., N) with the N numbers of a pixel as one element, which is copied 2.5 times faster; a view."""
    return image.view(np.dtype((np.void, image.shape[-1] * image.itemsize)))[..., 0]
