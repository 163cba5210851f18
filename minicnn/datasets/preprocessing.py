"""What the lab did to its images before training."""

import numpy as np


def normalize(x, axis=1):
    """Divide by the L2 norm along one axis, as Keras's `normalize` does; what is all zero stays zero.

        y = x / sqrt(sum of x**2 along the axis)

    The lab called it on images (N, 28, 28) with `axis=1`: every column of pixels gets the length 1.

    Args:
        x: an array of numbers.
        axis: along which the squares are added up.

    Returns:
        an array of the same shape; float64 stays float64, everything else becomes float32.

    >>> normalize(np.array([[3.0, 0.0], [4.0, 0.0]]), axis=0)
    array([[0.6, 0. ],
           [0.8, 0. ]])
    """
    x = np.asarray(x)
    x = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
    norm = np.sqrt((x * x).sum(axis=axis, keepdims=True))
    norm[norm == 0] = 1
    x /= norm
    return x
