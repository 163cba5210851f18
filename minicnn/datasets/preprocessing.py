"""The lab's preprocessing of images before training."""

import numbers

import numpy as np

from minicnn.core.errors import InputError


def normalize(x, axis=1):
    """Divide by the L2 norm along one axis, as Keras's `normalize` does; a vector of zeros stays zero.

        y = x / sqrt(sum of x**2 along the axis)

    The lab called it on images (N, 28, 28) with `axis=1`: every column of pixels then has norm 1. On images
    (N, 1, 28, 28), axis 1 is the channel axis of length 1, and every pixel would become 0 or 1: that is refused, use
    `axis=2` there.

    Args:
        x: an array of numbers.
        axis: the axis along which the squares are summed.

    Returns:
        an array of the same shape; float64 stays float64, every other dtype becomes float32.

    Raises:
        InputError: `x` is not an array of numbers, has no such axis, or its axis has length 1.

    >>> normalize(np.array([[3.0, 0.0], [4.0, 0.0]]), axis=0)
    array([[0.6, 0. ],
           [0.8, 0. ]])
    """
    x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise InputError(f"normalize needs an array of numbers, got {x.dtype}")
    if not isinstance(axis, numbers.Integral) or not -x.ndim <= axis < x.ndim:
        raise InputError(f"normalize needs the index of one of the array's axes, got {axis!r} for shape {x.shape}")
    if x.shape[axis] == 1:
        raise InputError(
            f"normalize along axis {axis} of shape {x.shape}, which has length 1, makes every number 0, 1 or -1: "
            "choose another axis; for images (N, 1, H, W) axis=2 is what axis=1 is for images (N, H, W)"
        )
    x = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
    norm = np.sqrt((x * x).sum(axis=axis, keepdims=True))
    norm[norm == 0] = 1
    x /= norm
    return x
