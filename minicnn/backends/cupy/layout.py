"""Memory layout is (C, H, W, N): the batch axis is contiguous.

Images have the shape (N, C, H, W) everywhere, but this backend stores them with the batch axis innermost, as the
backend "numpy" does. Neighbouring threads of a GPU then read neighbouring numbers, which is many times faster. CuPy
lays each result out in the order of its axes, whatever the layout of the arguments. So functions here compute on the
view `batch_last` of a batch.
"""

from minicnn.backends.numpy.layout import batch_first, batch_last


def batch_innermost(xp, x, dtype):
    """The same array with its batch axis contiguous in memory; copied only if it is not, or of another dtype."""
    return batch_first(xp.ascontiguousarray(batch_last(x), dtype=dtype))


def is_batch_innermost(x):
    """Whether the batch axis of an array (N, ...) is the contiguous one."""
    return x.ndim > 1 and x.strides[0] < x.strides[-1]
