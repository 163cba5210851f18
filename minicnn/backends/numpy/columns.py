"""The columns of a convolution, tile by tile, of which most are never written.

`im2col` copies every pixel once for each tap of the kernel. Here an image row
is copied only KW times, into a strip, and neighbouring rows of the output
share their strips in memory. Padding is written into the strips alone. Large
outputs are computed in tiles, so that the columns stay small whatever the
batch and the image. Only few columns are all written, by one copy: see
`copied_columns`.

The rows of a tile's columns are in the order kh, kw, c, and not c, kh, kw as
in `im2col`: only so do the strips of one window follow each other in memory,
and the kernels are copied to that order fastest, by complete rows of channels.
"""

import math

import numpy as np

from minicnn.backends.numpy.layout import aligned_empty, batch_first, batch_last, to_copy
from minicnn.backends.numpy.matmul import PARALLEL_WORK
from minicnn.backends.numpy.threads import current_chunk, even_slices, thread_count
from minicnn.core import im2col
from minicnn.core.errors import InputError
from minicnn.core.window import pixels_read

NO_PADS = ((0, 0), (0, 0))
STRIPS = 7 * 2**19  # bytes for the strips of a tile: more leave the cache, and of less more rows are copied twice
WIDTH = 512  # numbers of a row of a tile
NARROW_WORK = 2**12  # multiply-adds for each position, from which wider tiles are cut
PARTIAL_SUMS = 2**24  # bytes that the partial sums of a weight's gradient may take, of which each row computes one


def tiles(shape, window, work, itemsize):
    """A convolution's output cut into tiles of complete rows, or pieces of a row, as `cut_output` returns them.

    Cut to `WIDTH`, their strips take `STRIPS` bytes; their columns stay within `im2col.BUDGET`. Steps of four groups of
    16 to 16 channels, and of 5x5 kernels from 32 to 32, take 0.8 and 0.9 of the time so for 128 images, compared with
    tiles of as many bytes of columns.

    Args:
        shape: of the images, (N, C, H, W).
        window: a Window.
        work: multiply-adds for each position of the output and each image: the numbers of all kernels.
        itemsize: bytes of a number.
    """
    limit = im2col.BUDGET // 2 // thread_count()  # in the backward pass two of them exist, in every core
    height = min(tile_height(shape, window, itemsize), max(1, PARTIAL_SUMS // (work * itemsize)))
    return cut_output(shape, window, itemsize, limit, height)


def tile_height(shape, window, itemsize):
    """How many rows of the output make a tile; the arguments are those of `tiles`."""
    N, C, H, W = shape
    OH, OW = window.output_shape(H, W)
    strip = C * window.kernel_size[1] * _tile_width(OW, N) * N * itemsize
    return min(OH, max(1, (STRIPS // strip - window.extent[0]) // window.stride[0] + 1))


def _tile_width(OW, N):
    """How many positions make a row of about `WIDTH` numbers.

    In longer ones each row lies in another page of memory, and BLAS multiplies 32 filters half as fast as it can. A
    step of four groups of 16 to 16 channels takes 0.8 of the time so.
    """
    return -(-OW // max(1, min(OW, round(OW * N / WIDTH))))


def cut_output(shape, window, itemsize, limit, height=math.inf):
    """A convolution's output cut into tiles.

    A tile is some complete rows of the output, all of them if possible; where one row alone would exceed the limit, a
    piece of a row.

    Args:
        shape: of the images, (N, C, H, W).
        window: a Window.
        itemsize: bytes of a number.
        limit: bytes that the columns of a tile may take.
        height: rows that a tile may have.

    Returns:
        a list of (rows, cols): slices of the output's height and width.

    Raises:
        InputError: the columns of one position, over the batch, exceed the limit.
    """
    N, C, _, _ = shape
    KH, KW = window.kernel_size
    OH, OW = window.output_shape(*shape[2:])
    position = N * C * KH * KW * itemsize
    if position > limit:
        raise InputError(
            f"the columns of one position of the window over {N} images take {position / 2**20:,.1f} MiB, more "
            f"than the {limit / 2**20:,.1f} MiB that minicnn.im2col.BUDGET leaves for them: take smaller batches, "
            "or raise it"
        )
    if position * OW > limit:
        pieces = _slices_of(OW, limit // position)
        return [(slice(row, row + 1), cols) for row in range(OH) for cols in pieces]
    return [(rows, slice(0, OW)) for rows in _slices_of(OH, min(height, limit // (position * OW)))]


def tiles_for_cores(shape, window, work, itemsize):
    """`tiles`, cut along the width, and for the cores where this one does not compute one chunk of several.

    Args:
        shape, window, work, itemsize: as in `tiles`.
    """
    N, _, H, W = shape
    OH, OW = window.output_shape(H, W)
    found = tiles(shape, window, work, itemsize)
    if N * OH * OW * work >= PARALLEL_WORK and current_chunk() is None:
        found = _for_all_cores(found)
    if window.kernel_size[1] == 1 or work < NARROW_WORK:
        return found
    width = _tile_width(OW, N)
    return [(rows, piece) for rows, cols in found for piece in _cut(cols, -(-(cols.stop - cols.start) // width))]


def _for_all_cores(tiles):
    """The tiles cut again so that every core has as many.

    They are cut by rows; where there are fewer rows than cores, or the tiles are pieces of a row, by columns. Two tiles
    of 8 and 6 rows kept a core waiting: a convolution of 128 to 256 channels on 28x28 pixels at a stride of 2 takes
    0.89 of the time with 7 rows each.
    """
    cores, OH = thread_count(), tiles[-1][0].stop
    if max(cores, len(tiles)) <= OH:
        return [(rows, tiles[0][1]) for rows in even_slices(OH, -(-len(tiles) // cores) * cores)]
    if len(tiles) >= cores:
        return tiles
    return [(rows, piece) for rows, cols in tiles for piece in _cut(cols, cores)]


def _cut(whole, count):
    """A slice cut into this many at most."""
    pieces = even_slices(whole.stop - whole.start, count)
    return [slice(whole.start + piece.start, whole.start + piece.stop) for piece in pieces]


def _slices_of(length, size):
    """`range(length)` in slices of `size`, of which the last may be shorter."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def tile_columns(image, window, pads, rows, cols):
    """The columns of one tile of the output, one matrix for each of its rows.

    The windows of an output row read KH rows of the image; those of the next row read almost the same ones. So
    every image row is copied into one strip: KW copies of it, each shifted by a tap. The KH strips of one output row
    are its columns, and those of the next row begin a strip further in the same memory. Copied once and read KH
    times, the first convolution of LeNet-5 takes 0.13 ms at batch 32, and 0.34 with every column written.

    Args:
        image: images (G, C, H, W, N), their channels in G groups.
        window: a Window.
        pads: of the images, ((top, bottom), (left, right)) in pixels.
        rows, cols: slices of the output's height and width.

    Returns:
        (G, rows, KH * KW * C, cols * N), a view of overlapping memory that must not be written into; a copy where
        dilation separates the strips of a window.

    Source: Cho & Brand, "MEC: memory-efficient convolution for deep neural network", 2017.
    """
    G, C, H, W, N = image.shape
    (KH, KW), (SH, SW), (DH, DW) = window.kernel_size, window.stride, window.dilation
    (top, _), (left, _) = pads
    OH, OW = rows.stop - rows.start, cols.stop - cols.start
    read = rows_read(window, rows)
    image = image.transpose(0, 2, 1, 3, 4)  # (G, H, C, W, N)
    if KW == SW == 1 and pads == NO_PADS:
        strips = image[:, read, :, cols]
    else:
        strips = aligned_empty((G, read.stop - read.start, KW, C, OW, N), dtype=image.dtype)
        inside, pixel_rows = positions_inside(read.start - top, 1, read.stop - read.start, H)
        shifted = strips[:, inside]
        if shifted.shape[1] < strips.shape[1]:
            strips[:, : inside.start] = strips[:, inside.stop :] = 0
        # without a stride the runs are long enough; with one the first layer of AlexNet takes 10 % less time so
        source, target = to_copy(image, shifted) if SW > 1 else (image, shifted)
        for kw in range(KW):
            positions, pixel_cols = positions_inside(cols.start * SW + kw * DW - left, SW, OW, W)
            target[:, :, kw, :, positions] = source[:, pixel_rows, :, pixel_cols]
            if positions.start > 0:
                shifted[:, :, kw, :, : positions.start] = 0
            if positions.stop < OW:
                shifted[:, :, kw, :, positions.stop :] = 0
    strips = strips.reshape(G, -1, KW * C, OW * N)
    group, strip, *inside = strips.strides
    stacks = np.lib.stride_tricks.as_strided(
        strips, shape=(G, OH, KH, *strips.shape[2:]), strides=(group, SH * strip, DH * strip, *inside)
    )
    return stacks.reshape(G, OH, -1, OW * N)


def copied_columns(x, window, groups):
    """The same as `core.im2col`, for each group of channels, written by one copy for all taps of the kernel.

    Where there are few numbers it is the calls that take time.
    """
    N, C, H, W = x.shape
    OH, OW = window.output_shape(H, W)
    (SH, SW), (DH, DW) = window.stride, window.dilation
    image = batch_last(im2col.pad(x, window.pads(H, W)))  # (C, HP, WP, N)
    channel, row, pixel, number = image.strides
    taps = np.lib.stride_tricks.as_strided(
        image,
        shape=(C, *window.kernel_size, OH, OW, N),
        strides=(channel, DH * row, DW * pixel, SH * row, SW * pixel, number),
    )
    return taps.reshape(groups, -1, OH * OW * N)


def added_columns(columns, shape, window):
    """The same as `core.col2im`, first along the height and then along the width: KH + KW additions, not KH * KW."""
    N, C, H, W = shape
    OH, OW = window.output_shape(H, W)
    (KH, KW), (SH, SW), (DH, DW) = window.kernel_size, window.stride, window.dilation
    (top, bottom), (left, right) = window.pads(H, W)
    columns = columns.reshape(C, KH, KW, OH, OW, N)
    strips = np.zeros((C, KW, top + H + bottom, OW, N), dtype=columns.dtype)
    for kh in range(KH):
        strips[:, :, pixels_read(kh * DH, SH, OH)] += columns[:, kh]
    image = np.zeros((C, top + H + bottom, left + W + right, N), dtype=columns.dtype)
    for kw in range(KW):
        image[:, :, pixels_read(kw * DW, SW, OW)] += strips[:, kw]
    return batch_first(image[:, top : top + H, left : left + W])


def positions_inside(first, stride, positions, size):
    """Which of the positions first, first + stride, ... lie inside of an axis, and their pixels: two slices."""
    start = min(max(0, -(first // stride)), positions)
    stop = max(start, min(positions, -((first - size) // stride)))
    return slice(start, stop), slice(first + start * stride, first + stop * stride, stride)


def add_tile_columns(columns, image, window, rows, cols):
    """The adjoint of `tile_columns`: add every entry of the columns to the pixel that it was copied from.

    Args:
        columns: of the shape that `tile_columns` returns.
        image: padded images (G, C, HP, WP, N), which are added to.
        window: a Window.
        rows, cols: slices of the output's height and width.
    """
    G, C, _, _, N = image.shape
    (KH, KW), (SH, SW), (DH, DW) = window.kernel_size, window.stride, window.dilation
    OH, OW = rows.stop - rows.start, cols.stop - cols.start
    stacks = columns.reshape(G, OH, KH, KW, C, OW * N)
    image_rows = image.transpose(0, 2, 1, 3, 4)[:, rows_read(window, rows)]  # (G, S, C, WP, N)
    strips = np.zeros((G, image_rows.shape[1], KW, C, OW * N), dtype=columns.dtype)
    for kh in range(KH):
        strips_read = strips[:, pixels_read(kh * DH, SH, OH)]
        strips_read += stacks[:, :, kh]
    strips = strips.reshape(*strips.shape[:4], OW, N)
    for kw in range(KW):
        pixels = image_rows[:, :, :, pixels_read(cols.start * SW + kw * DW, SW, OW)]
        pixels += strips[:, :, kw]


def rows_read(window, rows):
    """The rows of the padded image, from the first to the last, that these rows of the output read."""
    return slice(rows.start * window.stride[0], (rows.stop - 1) * window.stride[0] + window.extent[0])
