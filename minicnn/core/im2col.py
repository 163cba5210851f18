"""Images to columns and back: the heart of the library.

A convolution slides a small window over an image and takes, at every
position, the sum of products with a kernel. Computers are slow at sliding and
very fast at multiplying matrices. So `im2col` copies the pixels of every
window into one column of a matrix; then one matrix product computes all sums.

`col2im` is its backward pass. Every entry of the columns was copied from some
pixel, so every entry's gradient is added to that pixel's gradient. It is the
adjoint of `im2col`, not its inverse: a pixel that was copied into nine
columns receives the sum of nine gradients, which is why the code says `+=`.
"""

import math
import os

import numpy as np

from minicnn.core.checks import check_array, quoted
from minicnn.core.errors import InputError
from minicnn.core.types import Array, Pads, Pair, Shape
from minicnn.core.window import Window, output_size

__all__ = ["BUDGET", "Window", "col2im", "im2col", "output_size", "pad"]


def _budget(setting):
    if not setting.isdecimal() or int(setting) < 1:
        raise InputError(f"MINICNN_COLUMNS_MB needs an integer of mebibytes above 0, got {quoted(setting)}")
    return int(setting) * 2**20


#: Bytes that the columns may take at a time, or the images with their padding, or what a layer computes of one sample.
#: Set it, or in mebibytes the environment variable MINICNN_COLUMNS_MB; 256 where it is not set.
BUDGET = _budget(os.environ.get("MINICNN_COLUMNS_MB") or "256")


def im2col(
    x: Array, kernel_size: Pair, stride: Pair = 1, padding: Pads = "valid", dilation: Pair = 1, fill: float = 0
) -> Array:
    """Copy the pixels of every window into one column of a matrix.

        columns[(c, kh, kw), (oh, ow, n)] = padded[n, c, oh * stride + kh * dilation, ow * stride + kw * dilation]

    with `OH = (top + H + bottom - (dilation * (KH - 1) + 1)) // stride + 1`, and OW likewise (`output_size`).

    Args:
        x: images (N, C, H, W), any dtype, any memory order.
        kernel_size, stride, padding, dilation: the window, as in `Window`; or a `Window` as `kernel_size`.
        fill: the value of the padding.

    Returns:
        columns (C * KH * KW, OH * OW * N), of the dtype of `x`.

    Raises:
        InputError: `x` is not an array of four axes, the window does not fit, or the columns or the padded images
            exceed the `BUDGET`.

    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> im2col(x, kernel_size=2)                 # four windows, each a column of four pixels
    array([[0., 1., 3., 4.],
           [1., 2., 4., 5.],
           [3., 4., 6., 7.],
           [4., 5., 7., 8.]])
    """
    check_array(x, "im2col")
    if x.ndim != 4:
        raise InputError(f"im2col needs images (N, C, H, W), got shape {x.shape}")
    window = Window.of(kernel_size, stride, padding, dilation)
    N, C, H, W = x.shape
    OH, OW = window.output_shape(H, W)
    columns = _filled(x, 0, (C, *window.kernel_size, OH, OW, N))
    image = pad(x, window.pads(H, W), fill).transpose(1, 2, 3, 0)  # (C, HP, WP, N)
    for kh, kw, rows, cols in window.taps(OH, OW):
        columns[:, kh, kw] = image[:, rows, cols]
    return columns.reshape(-1, OH * OW * N)


def col2im(
    columns: Array, input_shape: Shape, kernel_size: Pair, stride: Pair = 1, padding: Pads = "valid", dilation: Pair = 1
) -> Array:
    """Add every entry of the columns to the pixel that `im2col` copied it from.

    The adjoint of `im2col`: for any x and c, `sum(im2col(x) * c) == sum(x * col2im(c))`. Not its inverse:
    a pixel that lies in many windows receives the sum of their entries.

    Args:
        columns: (C * KH * KW, OH * OW * N).
        input_shape: (N, C, H, W) of the images.
        kernel_size, stride, padding, dilation: the window, as in `Window`; or a `Window` as `kernel_size`.

    Returns:
        images (N, C, H, W), of the dtype of `columns`; integers in the width in which NumPy adds them up.

    Raises:
        InputError: not an array, or its shape does not belong to these images and this window.

    >>> import numpy as np
    >>> col2im(np.ones((4, 4)), (1, 1, 3, 3), kernel_size=2)[0, 0]    # in how many windows is each pixel?
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    check_array(columns, "col2im")
    window = Window.of(kernel_size, stride, padding, dilation)
    N, C, H, W = input_shape
    OH, OW = window.output_shape(H, W)
    KH, KW = window.kernel_size
    if columns.shape != (C * KH * KW, OH * OW * N):
        raise _columns_error(columns.shape, (C * KH * KW, OH * OW * N), input_shape)
    columns = columns.reshape(C, KH, KW, OH, OW, N)
    (top, bottom), (left, right) = window.pads(H, W)
    # like a sum of columns, for which small integers are widened
    image = _filled(columns[:0].sum(0), 0, (C, top + H + bottom, left + W + right, N), images=N * C * H * W)
    for kh, kw, rows, cols in window.taps(OH, OW):
        image[:, rows, cols] += columns[:, kh, kw]
    return image[:, top : top + H, left : left + W].transpose(3, 0, 1, 2)  # (N, C, H, W)


def pad(x, pads, fill=0):
    """The images with a border of the value `fill`; `x` itself where there is no border.

    Args:
        x: images (N, C, H, W).
        pads: ((top, bottom), (left, right)) in pixels.
        fill: the value of the border.

    Raises:
        InputError: the padded images exceed the `BUDGET`, and are more than four times as large as the images.

    >>> import numpy as np
    >>> pad(np.ones((1, 1, 1, 2)), ((1, 0), (0, 1)))[0, 0]
    array([[0., 0., 0.],
           [1., 1., 0.]])
    """
    (top, bottom), (left, right) = pads
    if not (top or bottom or left or right):
        return x
    N, C, H, W = x.shape
    padded = _filled(x, fill, (C, top + H + bottom, left + W + right, N), images=x.size)
    padded[:, top : top + H, left : left + W] = x.transpose(1, 2, 3, 0)
    return padded.transpose(3, 0, 1, 2)


def check_padding(x, pads):
    """Refuse a border as `pad` does; for a backend that computes without writing the padded images."""
    (top, bottom), (left, right) = pads
    N, C, H, W = x.shape
    shape = C, top + H + bottom, left + W + right, N
    if math.prod(shape) > max(BUDGET // x.dtype.itemsize, 4 * x.size):
        raise _filled_error(x.dtype, 0, shape)


def _filled(x, fill, shape, images=0):
    """Like `x` of another shape; refused beyond the `BUDGET`, and beyond four times as many `images` numbers."""
    if math.prod(shape) > max(BUDGET // x.dtype.itemsize, 4 * images) or (x.dtype.kind in "biu" and fill % 1):
        raise _filled_error(x.dtype, fill, shape)
    return np.full_like(x, fill, order="C", shape=shape)


def check_sample(layer, input_shape, output_shape):
    """Refuse a layer that needs too much memory for a single sample, before any is allocated.

    A window of 100,000 pixels or a padding of 20,000 is a mistake, or a file made to do harm. In float32 the layer's
    output and the padded image may take the `BUDGET` each, and 256 MiB in any case.

    Args:
        layer: the layer; if it has a `window`, that is its `Window`.
        input_shape, output_shape: of one sample, without the batch axis.

    Raises:
        InputError: one of them takes more; the message has the numbers.
    """
    arrays = {"output": output_shape}
    window = getattr(layer, "window", None)
    if isinstance(window, Window):
        C, H, W = input_shape
        (top, bottom), (left, right) = window.pads(H, W)
        arrays["padded image"] = C, top + H + bottom, left + W + right
    for name, shape in arrays.items():
        if 4 * math.prod(shape) > max(BUDGET, 2**28):
            raise InputError(
                f"{layer!r} on one sample {tuple(input_shape)}: {_too_large(name, shape, 4)}: is it a mistake? If not, "
                "raise the budget, also by the environment variable MINICNN_COLUMNS_MB"
            )


def _filled_error(dtype, fill, shape):
    if dtype.kind in "biu" and fill % 1:
        return InputError(f"images of {dtype} cannot hold a border of {fill}: convert them with x.astype('float32')")
    name = "columns" if len(shape) == 6 else "padded images"
    return InputError(f"{_too_large(name, shape, dtype.itemsize)}: take fewer images at a time, or raise it")


def _too_large(name, shape, itemsize):
    return (
        f"the {name} {tuple(shape)} would take {math.prod(shape) * itemsize / 2**20:,.0f} MiB, more than the "
        f"{BUDGET / 2**20:,.0f} MiB of minicnn.im2col.BUDGET"
    )


def _columns_error(shape, needed, input_shape):
    return InputError(f"col2im to images {tuple(input_shape)} needs columns {needed}, got {tuple(shape)}")
