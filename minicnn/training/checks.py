"""Data sets are validated before any work is done: what cannot be right is refused, what looks wrong is warned of.

A wrong shape, dtype or label costs one message so, and not a training run.
"""

import numpy as np

from minicnn import console
from minicnn.core import operations
from minicnn.core.checks import check_array
from minicnn.core.errors import InputError
from minicnn.core.layers import AvgPool2D, Conv2D, Flatten, GlobalAvgPool2D, MaxPool2D, Sigmoid
from minicnn.core.losses import BinaryCrossEntropy, Loss

PIECE = 4096  # images that are looked at together, to save memory
PIXEL = 64  # images with numbers from 0 to at least this are taken for pixels that were not divided by 255
FAR = 10  # widths of the range of the training images: numbers further outside it are warned of

#: Kinds of dtype that no loss can compute with, and why.
_NOT_NUMBERS = {
    "O": "Python objects, such as None or rows of different lengths: make every value a number",
    "c": "complex numbers: use their real and imaginary parts as two targets",
    "M": "dates: convert them to numbers, such as (y - y.min()) / np.timedelta64(1, 'D')",
    "m": "time differences: convert them to numbers, such as y / np.timedelta64(1, 'D')",
}


def check_set(model, x, y, loss):
    """Refuse images and labels that cannot be right, before any work is done.

    Returns:
        the smallest and the largest number of the images, as the layers receive them.

    Raises:
        InputError: an empty set, lengths that differ, a wrong shape or dtype, numbers that are not finite, or
            labels that do not belong to the model's outputs; something that is not a loss, or does not suit the model.
    """
    if not isinstance(loss, Loss):
        raise InputError(f"the loss must be one such as minicnn.SoftmaxCrossEntropy(), got {loss!r}")
    if model.ends_in_softmax and not loss.from_logits:
        raise InputError(
            f"{type(loss).__name__} compares the model's outputs, and a closing Softmax is left out in training: "
            f"use SoftmaxCrossEntropy, or a model without the Softmax"
        )
    if isinstance(loss, BinaryCrossEntropy) and model.layers and isinstance(model.layers[-1], Sigmoid):
        raise InputError("BinaryCrossEntropy is computed from logits, and this model ends in Sigmoid: leave it out")
    smallest_and_largest = check_images(model, x)
    if len(x) != len(y):
        raise InputError(f"{len(x)} images and {len(y)} labels: there must be one label for each image")
    if y.dtype.kind == "f":
        index = _first_not_finite(y, model.dtype)
        if index is not None:
            raise InputError(f"label {index} holds NaN or infinity: leave that sample out of images and labels")
    loss.check(y, (len(y), *model.shapes[-1]))
    if y.dtype.kind in _NOT_NUMBERS:  # a loss of the user's own may check nothing
        raise InputError(f"labels of dtype {y.dtype} are {_NOT_NUMBERS[y.dtype.kind]}")
    return smallest_and_largest


def check_images(model, x):
    """Refuse images that a model cannot take, or that are not finite numbers.

    Returns:
        the smallest and the largest number, as the layers receive them.
    """
    check_array(x, "the model")
    if len(x) == 0:
        raise InputError("the data set is empty: it has no images")
    model.check_batch(x)
    model.prepare(x[:1])  # builds a model whose shape is taken from the first batch
    if x.dtype == np.uint8:
        return 0.0, 1.0
    smallest = float(np.min([operations.to_float(piece.min()) for piece in _pieces(x)]))  # NaN where one is NaN
    largest = float(np.max([operations.to_float(piece.max()) for piece in _pieces(x)]))
    if not max(abs(smallest), abs(largest)) <= float(np.finfo(model.dtype).max):
        index = _first_not_finite(x, model.dtype)
        raise InputError(f"image {index} holds NaN, infinity or a number too large for {model.dtype}: clean the data")
    return smallest, largest


def _pieces(x):
    return (x[start : start + PIECE] for start in range(0, len(x), PIECE))


def _first_not_finite(x, dtype):
    """The index of the first sample that is not finite when it is converted to a dtype, or None."""
    for number, piece in enumerate(_pieces(x)):
        piece = operations.current.to_numpy(piece)
        with np.errstate(over="ignore"):
            finite = np.isfinite(piece.astype(dtype, copy=False))
        if not finite.all():
            return number * PIECE + int(np.argwhere(~finite)[0, 0])
    return None


def warn_of_pixels(x, smallest, largest):
    """Warn of floating point images that look like pixels from 0 to 255: only uint8 is divided by 255."""
    if x.dtype != np.uint8 and smallest >= 0 and (largest == 255 or (x.ndim == 4 and largest >= PIXEL)):
        console.warn(
            f"the images are {x.dtype} numbers from {smallest:g} to {largest:g}, which look like pixels and are used "
            f"as they are: a network learns best from numbers between 0 and 1. Divide them by "
            f"{255 if largest <= 255 else 65535}, or give them as uint8, which is divided by 255"
        )


def warn_of_scale(model, x, smallest, largest):
    """Warn of images far outside the range that a model learned from, or, where that is unknown, of pixels."""
    learned = getattr(model, "learned_range", None)
    if learned is None:
        warn_of_pixels(x, smallest, largest)
        return
    low, high = learned
    far = FAR * (high - low)
    if smallest < low - far or largest > high + far or (x.dtype == np.uint8 and low >= 0 and high >= PIXEL):
        console.warn(
            f"the network learned from numbers between {low:g} and {high:g}, and these are between {smallest:g} and "
            f"{largest:g}{' (uint8 is divided by 255)' if x.dtype == np.uint8 else ''}: scale them as in training"
        )


def warn_of_channels_last(shape, layers):
    """Warn of an input shape that looks like (H, W, C), where the layers read it as (C, H, W)."""
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or min(shape[:2]) < 8:
        return
    for layer in layers:
        if isinstance(layer, Flatten):
            return
        if isinstance(layer, (Conv2D, MaxPool2D, AvgPool2D, GlobalAvgPool2D)) or layer.parameters():
            H, W, C = shape
            console.warn(
                f"images (C, H, W) of the shape {shape} have {H} channels of {W} x {C} pixels. If yours are (H, W, C), "
                f"use input_shape=({C}, {H}, {W}) and x.transpose(0, 3, 1, 2)"
            )
            return
