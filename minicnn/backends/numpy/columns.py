"""The columns of a convolution, tile by tile, of which most are never written.

`im2col` copies every pixel once for each tap of the kernel. Here an image row
is copied only KW times, into a strip, and neighbouring rows of the output
share their strips in memory. Padding is written into the strips alone. Large
outputs are computed in tiles, so that the columns stay small whatever the
batch and the image.

The rows of these columns are in the order kh, c, kw, and not c, kh, kw as in
`im2col`: only so do the strips of one window follow each other in memory.
"""

import math

import numpy as np

from minicnn.backends.numpy.layout import aligned_empty, to_copy
from minicnn.backends.numpy.matmul import PARALLEL_WORK
from minicnn.backends.numpy.threads import chunk_slices, current_chunk, per_core_slices, thread_count
from minicnn.core import im2col
from minicnn.core.errors import InputError
from minicnn.core.window import pixels_read

NO_PADS = ((0, 0), (0, 0))
TILE = 2**24  # bytes of columns at a time where complete rows of the output fit: larger tiles are no faster
WIDTH = 512  # numbers of a row of the columns, where a tile has much work


def tiles(shape, window, filters, itemsize):
    """A convolution's output cut into tiles whose columns stay within `im2col.BUDGET`, as `cut_output` returns them."""
    _, C, _, _ = shape
    KH, KW = window.kernel_size
    limit = im2col.BUDGET // 2 // thread_count()  # in the backward pass two of them exist, in every core
    gradient = filters * C * KH * KW * itemsize  # of the weight, of which each row computes a partial sum
    return cut_output(shape, window, itemsize, limit, tile=min(limit, TILE), row_bytes=gradient)


def cut_output(shape, window, itemsize, limit, tile, row_bytes=0):
    """A convolution's output cut into tiles.

    A tile is some complete rows of the output, all of them if possible; where one row alone would exceed the limit, a
    piece of a row.

    Args:
        shape: of the images, (N, C, H, W).
        window: a Window.
        itemsize: bytes of a number.
        limit: bytes that the columns of a tile may take.
        tile: bytes of columns that complete rows may take.
        row_bytes: what a row takes at least.

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
        size = limit // position
        pieces = _slices_of(OW, size)
        return [(slice(row, row + 1), cols) for row in range(OH) for cols in pieces]
    rows = max(1, tile // max(position * OW, row_bytes))
    return [(piece, slice(0, OW)) for piece in _slices_of(OH, rows)]


def tiles_for_cores(shape, window, filters, work, itemsize):
    """`tiles`, cut for the cores where there is much work and this core does not compute one chunk of several.

    Args:
        shape, window, filters, itemsize: as in `tiles`.
        work: multiply-adds for each position of the output and each image.
    """
    N, _, H, W = shape
    found = tiles(shape, window, filters, itemsize)
    if N * math.prod(window.output_shape(H, W)) * work >= PARALLEL_WORK:
        found = _for_all_cores(found)
    return _narrow(found, N, work) if window.kernel_size[1] > 1 else found


def _for_all_cores(tiles):
    """The tiles cut again so that every core has as many, unless this core computes one chunk of several.

    They are cut by rows; where there are fewer rows than cores, or the tiles are pieces of a row, by columns. Two tiles
    of 8 and 6 rows kept a core waiting: a convolution of 128 to 256 channels on 28x28 pixels at a stride of 2 takes
    0.89 of the time with 7 rows each, and four groups of 16 to 16 channels 0.93 with four tiles instead of seven.
    """
    cores, OH = thread_count(), tiles[-1][0].stop
    if current_chunk() is not None:
        return tiles
    if max(cores, len(tiles)) <= OH:
        count = -(-len(tiles) // cores) * cores
        return [(rows, tiles[0][1]) for rows in _slices_of(OH, -(-OH // count))]
    if len(tiles) >= cores:
        return tiles
    return [(rows, piece) for rows, cols in tiles for piece in _per_core(cols)]


def _per_core(whole):
    """A slice cut into one for each core."""
    return _shifted(per_core_slices(whole.stop - whole.start), whole.start)


def _narrow(tiles, N, work):
    """The tiles cut along the width, so that a row of their columns has no more than `WIDTH` numbers.

    In longer ones each row lies in another page of memory, and BLAS multiplies 32 filters half as fast as it can. A
    step of four groups of 16 to 16 channels takes 0.83 of the time so.

    Args:
        tiles: (rows, cols).
        N: images.
        work: multiply-adds for each position of the output and each image; what has little is not cut.
    """
    size = max(1, WIDTH // N)
    pieces = []
    for rows, cols in tiles:
        pays = work * (rows.stop - rows.start) * size * N >= PARALLEL_WORK
        along = _shifted(chunk_slices(cols.stop - cols.start, size), cols.start) if pays else [cols]
        pieces += [(rows, piece) for piece in along]
    return pieces


def _slices_of(length, size):
    """`range(length)` in slices of `size`, of which the last may be shorter."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _shifted(slices, start):
    return [slice(start + piece.start, start + piece.stop) for piece in slices]


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
        (G, rows, KH * C * KW, cols * N), a view of overlapping memory that must not be written into; a copy where
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
        strips = aligned_empty((G, read.stop - read.start, C, KW, OW, N), dtype=image.dtype)
        inside, pixel_rows = positions_inside(read.start - top, 1, read.stop - read.start, H)
        shifted = strips[:, inside]
        if shifted.shape[1] < strips.shape[1]:
            strips[:, : inside.start] = strips[:, inside.stop :] = 0
        # without a stride the runs are long enough; with one the first layer of AlexNet takes 10 % less time so
        source, target = to_copy(image, shifted) if SW > 1 else (image, shifted)
        for kw in range(KW):
            positions, pixel_cols = positions_inside(cols.start * SW + kw * DW - left, SW, OW, W)
            target[:, :, :, kw, positions] = source[:, pixel_rows, :, pixel_cols]
            if positions.start > 0:
                shifted[:, :, :, kw, : positions.start] = 0
            if positions.stop < OW:
                shifted[:, :, :, kw, positions.stop :] = 0
    strips = strips.reshape(G, -1, C * KW, OW * N)
    group, strip, *inside = strips.strides
    stacks = np.lib.stride_tricks.as_strided(
        strips, shape=(G, OH, KH, *strips.shape[2:]), strides=(group, SH * strip, DH * strip, *inside)
    )
    return stacks.reshape(G, OH, -1, OW * N)


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
    stacks = columns.reshape(G, OH, KH, C, KW, OW * N)
    image_rows = image.transpose(0, 2, 1, 3, 4)[:, rows_read(window, rows)]  # (G, S, C, WP, N)
    strips = np.zeros((G, image_rows.shape[1], C, KW, OW * N), dtype=columns.dtype)
    for kh in range(KH):
        strips_read = strips[:, pixels_read(kh * DH, SH, OH)]
        strips_read += stacks[:, :, kh]
    strips = strips.reshape(*strips.shape[:4], OW, N)
    for kw in range(KW):
        pixels = image_rows[:, :, :, pixels_read(cols.start * SW + kw * DW, SW, OW)]
        pixels += strips[:, :, :, kw]


def rows_read(window, rows):
    """The rows of the padded image, from the first to the last, that these rows of the output read."""
    return slice(rows.start * window.stride[0], (rows.stop - 1) * window.stride[0] + window.extent[0])
