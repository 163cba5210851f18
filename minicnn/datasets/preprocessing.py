"""What is done to arrays of images before training, and what is noticed in them."""

import numbers

import numpy as np

from minicnn.console import warn
from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.core.types import Array

BLOCK = 2**12  # images changed at a time
BRIGHT = 160  # of 255; paper is brighter than that, even in a photograph, and random pixels are not


def normalize(x: Array, axis: int = 1) -> Array:
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
        raise InputError(
            f"normalize needs the index of one of the array's axes, got {quoted(axis)} for shape {x.shape}"
        )
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


def apply_switches(images, invert, transpose):
    """Invert (255 - value) and transpose images (N, ..., H, W), as far as the switches are True.

    Returns:
        the images; the same array, changed in its memory, unless images that are not square are transposed.
    """
    if transpose and images.shape[-1] != images.shape[-2]:
        images, transpose = np.ascontiguousarray(images.swapaxes(-1, -2)), False
    for start in range(0, len(images) if invert or transpose else 0, BLOCK):
        block = images[start : start + BLOCK]
        if transpose:
            block[...] = block.swapaxes(-1, -2).copy()
        if invert:
            np.subtract(255, block, out=block)
    return images


def bright_borders(images):
    """The fraction of the images (N, H, W) in which the pixels at the four borders are bright on average.

    >>> bright_borders(np.array([[[200, 200], [200, 200]], [[0, 255], [0, 0]]], "uint8"))
    0.5
    """
    bright = 0
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        rows, columns = block[:, [0, -1]].reshape(len(block), -1), block[:, 1:-1, [0, -1]].reshape(len(block), -1)
        bright += int((np.concatenate([rows, columns], axis=1).mean(axis=1) > BRIGHT).sum())
    return bright / len(images)


def warn_of_borders(path, fraction, expected):
    """Warn if most images of a data set have a bright border, which means dark drawings on a light ground.

    Args:
        path: of the data, for the message.
        fraction: of the images, as `bright_borders` returns it.
        expected: what the network or the data set expects instead, for the message.
    """
    if fraction > 0.5:
        warn(
            f"{fraction:.0%} of the images of {quoted(path, 300)} have a bright border: if they are dark on a light "
            f"ground, use invert=True; {expected}"
        )
