"""Images to columns and back: the heart of the library.

A convolution slides a small window over an image and takes, at every place,
the sum of products with a kernel. Computers are slow at sliding and very fast
at multiplying matrices. So `im2col` writes the content of every window down
as one column of a matrix; then one matrix product computes all sums at once.
`tile_columns` gives the convolution the same columns without writing most of
them: neighbouring rows of the output share theirs in memory.

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
import functools
import math
import os

import numpy as np

from minicnn.backend import array_module
from minicnn.checks import check_array, is_whole
from minicnn.errors import InputError
from minicnn.threads import thread_count


def _budget(setting):
    if not setting.isdigit() or int(setting) < 1:
        raise InputError(f"MINICNN_COLUMNS_MB needs a whole number of mebibytes above 0, got {setting!r}")
    return int(setting) * 2**20


#: Bytes that all columns in work together may take, whatever the batch and the image. Set it, or in mebibytes the
#: environment variable MINICNN_COLUMNS_MB.
BUDGET = _budget(os.environ.get("MINICNN_COLUMNS_MB", "256"))
TILE = 2**24  # bytes of columns in work at a time where whole rows of the output fit: larger tiles are no faster

PADDINGS = {"same": "same", "valid": ((0, 0), (0, 0))}  # "same" depends on the image's size


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

    @functools.lru_cache(maxsize=1024)  # noqa: B019, a Window is small; 40 us of LeNet-5's step
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

    @functools.lru_cache(maxsize=1024)  # noqa: B019
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
            raise InputError(
                f"the kernel spans {self.extent[0]} x {self.extent[1]} pixels, more than the padded image of "
                f"{top + height + bottom} x {left + width + right}: use a smaller kernel or more padding"
            )
        return OH, OW

    @functools.cached_property
    def extent(self):
        """Pixels from the first tap to the last, high and wide."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))

    @functools.cached_property
    def overlaps(self):
        """Whether some pixels lie in more than one window."""
        return any(stride < extent for stride, extent in zip(self.stride, self.extent, strict=True))

    def taps(self, rows, cols):
        """For each tap (kh, kw), the padded image's rows and columns that it reads for some rows and cols of places."""
        (KH, KW), (SH, SW), (DH, DW) = self.kernel_size, self.stride, self.dilation
        for kh in range(KH):
            for kw in range(KW):
                yield (kh, kw), _read_by_tap(rows, SH, kh * DH), _read_by_tap(cols, SW, kw * DW)

    def rows_read(self, rows):
        """The padded image's rows from the first to the last that these rows of the output read."""
        return slice(rows.start * self.stride[0], (rows.stop - 1) * self.stride[0] + self.extent[0])


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
        InputError: `x` is no array of four axes, the window does not fit, or the columns pass the `BUDGET`.

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
    window = Window(kernel_size, stride, padding, dilation)
    N, C, H, W = x.shape
    OH, OW = window.output_shape(H, W)
    shape = (C, *window.kernel_size, OH, OW, N)
    size = math.prod(shape) * x.dtype.itemsize
    if size > BUDGET:
        raise InputError(
            f"all columns of these images {x.shape} would take {size / 2**20:,.0f} MiB, more than the "
            f"{BUDGET / 2**20:,.0f} MiB of minicnn.im2col.BUDGET: take fewer images at a time, or raise it"
        )
    image = pad(x, window.pads(H, W)).transpose(1, 2, 3, 0)  # (C, HP, WP, N)
    columns = array_module(x).empty(shape, dtype=x.dtype)
    for (kh, kw), rows, cols in window.taps(slice(0, OH), slice(0, OW)):
        columns[:, kh, kw] = image[:, rows, cols]
    return columns.reshape(-1, OH * OW * N)


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
        InputError: no array, or its shape does not belong to these images and this window.

    >>> import numpy as np
    >>> col2im(np.ones((4, 4)), (1, 1, 3, 3), kernel_size=2)[0, 0]    # in how many windows is each pixel?
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    check_array(columns, "col2im")
    window = Window(kernel_size, stride, padding, dilation)
    N, C, H, W = input_shape
    OH, OW = window.output_shape(H, W)
    expected = (C * window.kernel_size[0] * window.kernel_size[1], OH * OW * N)
    if columns.shape != expected:
        raise InputError(f"col2im to images {tuple(input_shape)} needs columns {expected}, got {columns.shape}")
    (top, bottom), (left, right) = window.pads(H, W)
    columns = columns.reshape(C, *window.kernel_size, OH, OW, N)
    image = array_module(columns).zeros((C, top + H + bottom, left + W + right, N), dtype=columns.dtype)
    for (kh, kw), rows, cols in window.taps(slice(0, OH), slice(0, OW)):
        pixels = image[:, rows, cols]
        pixels += columns[:, kh, kw]  # `image[...] += ` would write the sum a second time, and CuPy a third
    return image[:, top : top + H, left : left + W].transpose(3, 0, 1, 2)


def tiles(x, window, filters):
    """A convolution's output cut into tiles whose columns stay within the budget.

    A tile is some whole rows of the output, all of them if possible; where one row alone would pass the budget, a
    piece of a row.

    Args:
        x: images (N, C, H, W).
        window: a Window.
        filters: F, the number of output channels.

    Returns:
        a list of (rows, cols): slices of the output's height and width.

    Raises:
        InputError: the columns of one place, over the whole batch, pass the budget.
    """
    N, C, H, W = x.shape
    KH, KW = window.kernel_size
    OH, OW = window.output_shape(H, W)
    place = N * C * KH * KW * x.dtype.itemsize
    limit = aim = BUDGET // 2  # on the way back there are two of them in work
    if array_module(x) is np:
        limit //= thread_count()  # in every core
        aim = min(limit, TILE)
    if place > limit:
        raise InputError(
            f"the columns of one place of the window over {N} images take {place / 2**20:,.1f} MiB, more "
            f"than the {limit / 2**20:,.1f} MiB that minicnn.im2col.BUDGET leaves each core: take smaller batches, "
            "or raise it"
        )
    if place * OW > limit:
        size = limit // place
        pieces = [slice(start, min(start + size, OW)) for start in range(0, OW, size)]
        return [(slice(row, row + 1), cols) for row in range(OH) for cols in pieces]
    gradient = filters * C * KH * KW * x.dtype.itemsize  # of the weight, which each row makes a part of
    rows = max(1, aim // max(place * OW, gradient))
    return [(slice(start, min(start + rows, OH)), slice(0, OW)) for start in range(0, OH, rows)]


def tile_columns(image, window, rows, cols):
    """The columns of one tile of the output, on the CPU one matrix for each of its rows.

    The windows of an output row read KH rows of the image; those of the next row read almost the same ones. So
    every image row is written down once, as a strip: KW copies of it, each moved by a tap. KH strips under each
    other are one output row's columns, and the next row's lie a strip further down in the same memory. Written
    once and looked at KH times, the first convolution of LeNet-5 takes 0.13 ms at batch 32, and 0.34 with every
    column written out.

    On the GPU all columns are written out, as one matrix: cuBLAS multiplies one large matrix faster than many small
    ones, and CuPy would copy overlapping memory before it multiplies.

    Args:
        image: padded images (G, C, HP, WP, N), their channels in G groups.
        window: a Window.
        rows, cols: slices of the output's height and width.

    Returns:
        (G, rows, KH * C * KW, cols * N), a view of overlapping memory that must not be written into; a copy where
        dilation keeps the strips of a window apart. On the GPU (G, 1, KH * C * KW, rows * cols * N).

    Source: Cho & Brand, "MEC: memory-efficient convolution for deep neural network", 2017.
    """
    xp = array_module(image)
    G, C, _, _, N = image.shape
    (KH, KW), (SH, SW), (DH, DW) = window.kernel_size, window.stride, window.dilation
    if xp is not np:
        group, channel, row, pixel, number = image.strides
        windows = xp.lib.stride_tricks.as_strided(
            image[:, :, rows.start * SH :, cols.start * SW :],
            shape=(G, KH, C, KW, rows.stop - rows.start, cols.stop - cols.start, N),
            strides=(group, DH * row, channel, DW * pixel, SH * row, SW * pixel, number),
        )
        return xp.ascontiguousarray(windows).reshape(G, 1, KH * C * KW, -1)  # one kernel copies all taps
    image_rows = image.transpose(0, 2, 1, 3, 4)[:, window.rows_read(rows)]  # (G, S, C, WP, N)
    strips = xp.empty((*image_rows.shape[:3], KW, cols.stop - cols.start, N), dtype=image.dtype)
    for kw in range(KW):
        strips[:, :, :, kw] = image_rows[:, :, :, _read_by_tap(cols, SW, kw * DW)]
    strips = strips.reshape(G, -1, C * KW, strips.shape[4] * N)
    group, strip, *inside = strips.strides
    stacks = xp.lib.stride_tricks.as_strided(
        strips,
        shape=(G, rows.stop - rows.start, KH, *strips.shape[2:]),
        strides=(group, SH * strip, DH * strip, *inside),
    )
    return stacks.reshape(G, stacks.shape[1], -1, stacks.shape[4])


def add_tile_columns(columns, image, window, rows, cols):
    """The adjoint of `tile_columns`: add every entry of the columns to the pixel that it was copied from.

    Args:
        columns: of the shape that `tile_columns` returns.
        image: padded images (G, C, HP, WP, N), which are added to.
        window: a Window.
        rows, cols: slices of the output's height and width.
    """
    xp = array_module(columns)
    G, C, _, _, N = image.shape
    (KH, KW), (SH, SW), (DH, DW) = window.kernel_size, window.stride, window.dilation
    R, M = rows.stop - rows.start, (cols.stop - cols.start) * N
    if xp is np:
        stacks = columns.reshape(G, R, KH, C, KW, M)
    else:  # the same from one matrix
        stacks = columns.reshape(G, KH, C, KW, R, M).transpose(0, 4, 1, 2, 3, 5)
    image_rows = image.transpose(0, 2, 1, 3, 4)[:, window.rows_read(rows)]  # (G, S, C, WP, N)
    strips = xp.zeros((G, image_rows.shape[1], C, KW, M), dtype=columns.dtype)
    for kh in range(KH):
        strips_read = strips[:, _read_by_tap(slice(0, R), SH, kh * DH)]
        strips_read += stacks[:, :, kh]
    strips = strips.reshape(*strips.shape[:4], -1, N)
    for kw in range(KW):
        pixels = image_rows[:, :, :, _read_by_tap(cols, SW, kw * DW)]
        pixels += strips[:, :, :, kw]


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
    if is_whole(value, least):
        value = (value, value)
    if not _is_pair_of(value, lambda item: is_whole(item, least)):
        raise InputError(f"{name} needs a whole number of at least {least}, or two of them; got {value!r}")
    return tuple(int(item) for item in value)


def _normalised_padding(padding):
    if isinstance(padding, str) and padding in PADDINGS:
        return PADDINGS[padding]
    if is_whole(padding, 0):
        return (int(padding),) * 2, (int(padding),) * 2
    if _is_pair_of(padding, lambda item: is_whole(item, 0)):
        return tuple((int(p), int(p)) for p in padding)
    if _is_pair_of(padding, lambda item: _is_pair_of(item, lambda p: is_whole(p, 0))):
        return tuple(tuple(int(p) for p in item) for item in padding)
    raise InputError(
        f"padding needs 'valid', 'same', pixels p, (ph, pw) or ((top, bottom), (left, right)); got {padding!r}"
    )


def _same_padding(size, kernel, stride, dilation):
    """(before, after) such that the output has ceil(size / stride) places; the odd pixel goes after."""
    places = -(-size // stride)
    total = max(0, (places - 1) * stride + dilation * (kernel - 1) + 1 - size)
    return total // 2, total - total // 2


def _read_by_tap(places, stride, offset):
    """The pixels along one axis that a tap reads at a slice of places."""
    first = places.start * stride + offset
    return slice(first, first + stride * (places.stop - places.start - 1) + 1, stride)


def _is_pair_of(value, accepts):
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(accepts, value))
