"""Images to columns and back: the heart of the library.

A convolution slides a small window over an image and takes, at every place,
the sum of products with a kernel. Computers are slow at sliding and very fast
at multiplying matrices. So `im2col` writes the content of every window down
as one column of a matrix; then one matrix product computes all sums at once.

`col2im` is the way back: every entry of the columns was copied from some
pixel, so every entry's gradient is added to that pixel's. It is the adjoint
of `im2col`, not its inverse: a pixel that was copied into nine windows
receives nine votes, which is why it says `+=`.

Axis letters, here and in all layers:

    N  images in the batch          F       filters (output channels)
    C  channels                     KH, KW  height and width of the kernel
    H, W  height and width          OH, OW  height and width of the output

Images have the shape (N, C, H, W), but lie in memory as (C, H, W, N), the
batch innermost: then one kernel tap over a whole batch is a long contiguous
run, and the product's result already is the next layer's image.
"""

import dataclasses

from minicnn.backend import array_module
from minicnn.errors import InputError


def output_size(size, kernel, stride=1, before=0, after=0, dilation=1):
    """How many places a window has along one axis.

        output = floor((before + size + after - extent) / stride) + 1
        extent = dilation * (kernel - 1) + 1        (the pixels from first tap to last)

    Args:
        size: pixels along the axis.
        kernel: taps of the window.
        stride: pixels from one place to the next.
        before, after: padding on the two sides, in pixels.
        dilation: pixels from one tap to the next.

    Returns:
        the number of places; 0 if the window does not fit once.

    >>> output_size(28, kernel=5, before=2, after=2)      # (28 + 2*2 - 5) / 1 + 1
    28
    >>> output_size(28, kernel=2, stride=2)
    14
    """
    extent = dilation * (kernel - 1) + 1
    return max(0, (before + size + after - extent) // stride + 1)


@dataclasses.dataclass(frozen=True)
class Window:
    """A sliding window: its size, its stride, its padding and its dilation, each checked once.

    Args:
        kernel_size: taps, an int or (KH, KW).
        stride: pixels between places, an int or a pair.
        padding: "valid" (none), "same" (ceil(size / stride) places; an odd pixel goes to the bottom and
            the right), p, (ph, pw), or ((top, bottom), (left, right)).
        dilation: pixels between taps, an int or a pair.

    Raises:
        InputError: a number that is not a whole one or too small, or a padding of no known form.

    >>> Window(5, padding="same").output_shape(28, 28)
    (28, 28)
    >>> Window(3, stride=2, padding=((0, 1), (0, 1))).output_shape(28, 28)
    (14, 14)
    """

    kernel_size: tuple
    stride: tuple = 1
    padding: object = "valid"
    dilation: tuple = 1

    def __post_init__(self):
        for name in ("kernel_size", "stride", "dilation"):
            object.__setattr__(self, name, pair(getattr(self, name), name, least=1))
        object.__setattr__(self, "padding", _normalised_padding(self.padding))

    def pads(self, height, width):
        """The padding in pixels for an image of this size: ((top, bottom), (left, right))."""
        if self.padding != "same":
            return self.padding
        return tuple(
            _same_padding(size, kernel, stride, dilation)
            for size, kernel, stride, dilation in zip(
                (height, width), self.kernel_size, self.stride, self.dilation, strict=True
            )
        )

    def output_shape(self, height, width):
        """The places of the window on an image of this size: (OH, OW), by `output_size` on each axis.

        Raises:
            InputError: the window is larger than the padded image.
        """
        pads = self.pads(height, width)
        OH, OW = (
            output_size(size, kernel, stride, *pad, dilation)
            for size, kernel, stride, pad, dilation in zip(
                (height, width), self.kernel_size, self.stride, pads, self.dilation, strict=True
            )
        )
        if OH == 0 or OW == 0:
            (top, bottom), (left, right) = pads
            extent = tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))
            raise InputError(
                f"the kernel spans {extent[0]} x {extent[1]} pixels, more than the padded image of "
                f"{top + height + bottom} x {left + width + right}: use a smaller kernel or more padding"
            )
        return OH, OW

    def taps(self, start, stop, OW):
        """For each tap (kh, kw), the padded image's rows and columns it reads for output rows start to stop."""
        (KH, KW), (SH, SW), (DH, DW) = self.kernel_size, self.stride, self.dilation
        for kh in range(KH):
            for kw in range(KW):
                first = start * SH + kh * DH
                rows = slice(first, first + SH * (stop - start - 1) + 1, SH)
                columns = slice(kw * DW, kw * DW + SW * (OW - 1) + 1, SW)
                yield (kh, kw), rows, columns


def im2col(x, kernel_size, stride=1, padding="valid", dilation=1):
    """Every window of every image as a column of one matrix.

        columns[(c, kh, kw), (oh, ow, n)] = padded[n, c, oh * stride + kh * dilation, ow * stride + kw * dilation]

    with `OH = (top + H + bottom - (dilation * (KH - 1) + 1)) // stride + 1`, and OW likewise (`output_size`).

    Args:
        x: images (N, C, H, W), any dtype, any memory order.
        kernel_size, stride, padding, dilation: the window, as in `Window`.

    Returns:
        columns (C * KH * KW, OH * OW * N), of the dtype of `x`.

    Raises:
        InputError: `x` has not four axes, or the window does not fit.

    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> im2col(x, kernel_size=2)                 # four windows, each a column of four pixels
    array([[0., 1., 3., 4.],
           [1., 2., 4., 5.],
           [3., 4., 6., 7.],
           [4., 5., 7., 8.]])
    """
    _check_images(x)
    return window_columns(x, Window(kernel_size, stride, padding, dilation))


def col2im(columns, input_shape, kernel_size, stride=1, padding="valid", dilation=1):
    """Add every entry of the columns to the pixel that `im2col` copied it from.

    The adjoint of `im2col`: for any x and c, `sum(im2col(x) * c) == sum(x * col2im(c))`. Not its inverse:
    a pixel seen by many windows gets the sum of them.

    Args:
        columns: (C * KH * KW, OH * OW * N).
        input_shape: (N, C, H, W) of the images.
        kernel_size, stride, padding, dilation: the window, as in `Window`.

    Returns:
        images (N, C, H, W), of the dtype of `columns`, lying in memory with the batch innermost.

    Raises:
        InputError: the columns' shape does not belong to these images and this window.

    >>> import numpy as np
    >>> col2im(np.ones((4, 4)), (1, 1, 3, 3), kernel_size=2)[0, 0]    # in how many windows is each pixel?
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    window = Window(kernel_size, stride, padding, dilation)
    N, C, H, W = input_shape
    OH, OW = window.output_shape(H, W)
    expected = (C * window.kernel_size[0] * window.kernel_size[1], OH * OW * N)
    if columns.shape != expected:
        raise InputError(f"col2im to images {tuple(input_shape)} needs columns {expected}, got {columns.shape}")
    return add_columns(columns, input_shape, window)


def window_columns(x, window):
    """`im2col` with the window as one value."""
    OH, _ = window.output_shape(*x.shape[2:])
    [(_, columns)] = column_blocks(x, window, OH)
    return columns


def add_columns(columns, input_shape, window):
    """`col2im` with the window as one value."""
    OH, _ = window.output_shape(*input_shape[2:])
    image = PaddedImage(array_module(columns), input_shape, window, columns.dtype)
    image.add(columns, 0, OH)
    return image.cropped()


def column_blocks(x, window, rows):
    """The columns of `im2col`, so many rows of the output at a time.

    The matrix of a whole batch can be large: every pixel stands in it up to KH * KW times. A block of it stays
    in the processor's cache between being written and being multiplied.

    Args:
        x: images (N, C, H, W).
        window: a Window.
        rows: how many of the OH output rows to take at a time.

    Yields:
        `(block, columns)`: a slice of the output rows, and their columns (C * KH * KW, len * OW * N), which are
        overwritten when the next block is asked for.
    """
    xp = array_module(x)
    N, C, H, W = x.shape
    KH, KW = window.kernel_size
    OH, OW = window.output_shape(H, W)
    image = pad(x, window.pads(H, W)).transpose(1, 2, 3, 0)  # (C, HP, WP, N)
    for start in range(0, OH, rows):
        stop = min(start + rows, OH)
        if start == 0 or stop - start < rows:
            columns = xp.empty((C, KH, KW, stop - start, OW, N), dtype=x.dtype)
        for (kh, kw), tap_rows, tap_columns in window.taps(start, stop, OW):
            columns[:, kh, kw] = image[:, tap_rows, tap_columns]
        yield slice(start, stop), columns.reshape(C * KH * KW, -1)


class PaddedImage:
    """The padded images that `col2im` adds to, block by block; zero at first.

    Args:
        xp: the array module.
        input_shape: (N, C, H, W) of the images without padding.
        window: a Window.
        dtype: of the images.
    """

    def __init__(self, xp, input_shape, window, dtype):
        N, C, H, W = input_shape
        (top, bottom), (left, right) = window.pads(H, W)
        self.window = window
        self.input_shape = input_shape
        self.values = xp.zeros((C, top + H + bottom, left + W + right, N), dtype=dtype)

    def add(self, columns, start, stop):
        """Add the columns (C * KH * KW, (stop - start) * OW * N) of the output rows from start to stop."""
        N, C, H, W = self.input_shape
        _, OW = self.window.output_shape(H, W)
        columns = columns.reshape(C, *self.window.kernel_size, stop - start, OW, N)
        for (kh, kw), rows, cols in self.window.taps(start, stop, OW):
            self.values[:, rows, cols] += columns[:, kh, kw]

    def cropped(self):
        """The images (N, C, H, W) without the padding."""
        _, _, H, W = self.input_shape
        (top, _), (left, _) = self.window.pads(H, W)
        return self.values[:, top : top + H, left : left + W].transpose(3, 0, 1, 2)


def pad(x, pads, value=0):
    """The images with a border of `value`, lying in memory with the batch innermost; `x` itself without border.

    Args:
        x: images (N, C, H, W).
        pads: ((top, bottom), (left, right)) in pixels.
        value: what the border holds.
    """
    (top, bottom), (left, right) = pads
    if not (top or bottom or left or right):
        return x
    N, C, H, W = x.shape
    padded = array_module(x).full((C, top + H + bottom, left + W + right, N), value, dtype=x.dtype)
    padded[:, top : top + H, left : left + W] = x.transpose(1, 2, 3, 0)
    return padded.transpose(3, 0, 1, 2)


def pair(value, name, least):
    """An int as (int, int); a pair as a tuple of ints, each at least `least`."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    if not _is_pair_of(value, lambda item: _is_whole(item, least)):
        raise InputError(f"{name} needs a whole number of at least {least}, or two of them; got {value!r}")
    return tuple(int(item) for item in value)


def _normalised_padding(padding):
    if padding == "same":
        return padding
    if padding == "valid":
        return (0, 0), (0, 0)
    if _is_whole(padding, 0):
        return (int(padding),) * 2, (int(padding),) * 2
    if _is_pair_of(padding, lambda item: _is_whole(item, 0)):
        return tuple((int(p), int(p)) for p in padding)
    if _is_pair_of(padding, lambda item: _is_pair_of(item, lambda p: _is_whole(p, 0))):
        return tuple(tuple(int(p) for p in item) for item in padding)
    raise InputError(
        f"padding needs 'valid', 'same', pixels p, (ph, pw) or ((top, bottom), (left, right)); got {padding!r}"
    )


def _same_padding(size, kernel, stride, dilation):
    """(before, after) such that the output has ceil(size / stride) places; the odd pixel goes after."""
    places = -(-size // stride)
    total = max(0, (places - 1) * stride + dilation * (kernel - 1) + 1 - size)
    return total // 2, total - total // 2


def _is_whole(value, least):
    return hasattr(value, "__index__") and not isinstance(value, bool) and value >= least


def _is_pair_of(value, accepts):
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(accepts, value))


def _check_images(x):
    if x.ndim != 4:
        raise InputError(f"im2col needs images (N, C, H, W), got shape {x.shape}")
