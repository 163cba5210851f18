"""Convolution by columns of which most are never written.

`im2col` copies every pixel once for each tap of the kernel. Here an image row
is copied only KW times, into a strip, and neighbouring rows of the output
share their strips in memory. Padding is written into the strips alone. Large
outputs are computed in tiles, so that the columns stay small whatever the
batch and the image.

The rows of these columns are in the order kh, c, kw, and not c, kh, kw as in
`im2col`: only so do the strips of one window follow each other in memory. No
other part of the library sees that order.
"""

import functools
import itertools
import math
import operator

import numpy as np

from minicnn.backends.numpy import winograd
from minicnn.backends.numpy.layout import aligned_empty, batch_first, pixels, to_copy
from minicnn.backends.numpy.matmul import PARALLEL_WORK, batched_matmul, batched_matmul_sum
from minicnn.backends.numpy.threads import (
    chunk_slices,
    current_chunk,
    is_kept,
    parallel_map,
    per_core_slices,
    thread_count,
)
from minicnn.core import im2col
from minicnn.core.errors import InputError
from minicnn.core.window import Window, pixels_read

ONE_PIXEL, NO_PADS = Window(1), ((0, 0), (0, 0))
FLIPPED_WORK = 2**27  # multiply-adds from which the gradient of the images of a batch is a convolution in any case
PHASES_WORK = 2**23  # and from which it is four of them at a stride of 2
TILE = 2**24  # bytes of columns at a time where complete rows of the output fit: larger tiles are no faster
WIDTH = 512  # numbers of a row of the columns, where a tile has much work


def convolve(x, weight, window, groups):
    """As `Operations.convolve`."""
    if winograd.suits(x, window, weight):
        return winograd.convolve(x, weight, window)
    y, to_weight = correlate(x, weight, window, groups)

    def to_input(dy):
        gradient = image_gradient if _flipped_is_faster(dy, weight, window, groups) else scattered_image_gradient
        return gradient(dy, weight, window, groups, x.shape)

    return y, to_weight, to_input


def correlate(x, weight, window, groups):
    """The output of a convolution, and a function of dy to the gradient of the kernels.

    A kernel of one pixel sees no neighbours. So an image is taken as one long row, whose columns are the image itself:
    256 to 256 channels on 14x14 pixels take 10 % less time so.
    """
    N, C, H, W = x.shape
    F = len(weight)
    y_shape = N, F, *window.output_shape(H, W)
    pads = window.pads(H, W)
    if pads != NO_PADS:
        im2col.check_padding(x, pads)
    if window == ONE_PIXEL:
        x = x.reshape(N, C, 1, H * W)
    OH, OW = window.output_shape(*x.shape[2:])
    kernels = _as_matrices(weight, groups)  # (G, 1, F/G, KH*C/G*KW)
    image = _grouped(x, groups)  # (G, C/G, H, W, N)
    all_tiles = _tiles_for_cores(x.shape, window, F, weight.size, x.dtype.itemsize)
    y = np.empty((F, OH, OW, N), dtype=x.dtype).transpose(3, 0, 1, 2)

    def forward(tile):
        columns = tile_columns(image, window, pads, *tile)  # (G, S, KH*C/G*KW, M), S matrices a group
        batched_matmul(kernels, columns, out=_tile(y, groups, *tile))
        # small ones are kept for the backward pass, which takes 0.05 ms less of LeNet-5's 2
        return columns if is_kept(columns.nbytes * len(all_tiles)) else None

    kept = parallel_map(forward, all_tiles)

    def to_weight(dy):
        dy = dy.reshape(N, F, OH, OW)

        def of_tile(item):
            tile, columns = item
            columns = tile_columns(image, window, pads, *tile) if columns is None else columns
            # dY @ columns.T, transposed: BLAS needs half the time so
            return batched_matmul_sum(columns, _tile(dy, groups, *tile))

        dweight = functools.reduce(operator.iadd, parallel_map(of_tile, zip(all_tiles, kept, strict=True)))
        return _as_kernels(dweight.swapaxes(1, 2), weight.shape)

    return y.reshape(y_shape), to_weight


def has_few_tiles(shape, window, filters, groups, itemsize):
    """Whether a convolution of a complete batch has so few tiles that none is so low that its rows are copied often.

    Then it is divided among the cores by tiles. Forward and backward of 32 images, 256 to 256 channels, 14x14 pixels
    and a kernel of one pixel, takes 8.4 ms so, and 10.1 with the batch cut into chunks and put together again.
    """
    by_winograd = winograd.suits_shapes(shape, window, filters, groups, itemsize)
    return by_winograd or len(tiles(shape, window, filters, itemsize)) <= 3 * thread_count()


def _tiles_for_cores(shape, window, filters, work, itemsize):
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
    """The tiles cut into one for each core at least, unless this core computes one chunk of several."""
    if current_chunk() is not None or len(tiles) >= thread_count():
        return tiles
    pieces = []
    for rows, cols in tiles:
        if rows.stop - rows.start > 1:
            pieces += [(piece, cols) for piece in _per_core(rows)]
        else:
            pieces += [(rows, piece) for piece in _per_core(cols)]
    return pieces


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


def _shifted(slices, start):
    return [slice(start + piece.start, start + piece.stop) for piece in slices]


def _flipped_is_faster(dy, weight, window, groups):
    """Whether the gradient of the images is computed as convolutions; only these are divided among the cores."""
    work = dy.size * weight[0].size
    if window.stride == (1, 1):
        return len(weight) <= weight.shape[1] * groups or (work >= FLIPPED_WORK and current_chunk() is None)
    return work >= PHASES_WORK and math.prod(window.stride) <= 4 and window.dilation == (1, 1)


def image_gradient(dy, weight, window, groups, shape):
    """The gradient of the images: a convolution of `dy` with the flipped kernels.

    Nothing is added to memory one tap after the other: both gradients of a convolution of 32 to 32 channels take 13 %
    less time, those of 64 to 16 channels 40 %. The inner axis of the products is F / groups * KH * KW instead of
    F / groups: a kernel of 3x3 for each channel alone takes 3 ms instead of 19.

    Args:
        dy: (N, F, OH, OW).
        weight: kernels (F, C / groups, KH, KW).
        window: the convolution's Window.
        groups: how many.
        shape: of the images, (N, C, H, W).
    """
    if window.stride != (1, 1):
        return _strided_image_gradient(dy, weight, window, groups, shape)
    _, C, H, W = shape
    read, pads = [], []
    for along, size, dilation in zip(window.pads(H, W), window.kernel_size, window.dilation, strict=True):
        missing = [dilation * (size - 1) - count for count in along]  # zeros around dy; where negative, no tap reads it
        read.append(slice(max(0, -missing[0]), -max(0, -missing[1]) or None))
        pads.append(tuple(max(0, count) for count in missing))
    flipped = weight[..., ::-1, ::-1].reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)  # (G, C/G, F/G, KH, KW)
    flipped = np.ascontiguousarray(flipped).reshape(C, -1, *window.kernel_size)
    around = Window(window.kernel_size, padding=tuple(pads), dilation=window.dilation)
    return convolve(dy[:, :, *read], flipped, around, groups)[0]


def _strided_image_gradient(dy, weight, window, groups, shape):
    """The same with a stride, and without dilation.

    With a stride of 2, the pixels of even rows and those of odd rows were read by different taps. So there are four
    convolutions, each with its part of the kernel; all read the same columns. Forward and backward of a convolution
    alone of 64 to 128 channels take 10 ms so for 32 images, and 17 with every number added to its pixel.

    The padded image's pixel q * SH + tap was read by this tap at the position q of the output, and by each tap SH
    further at the position before.
    """
    N, C, H, W = shape
    pads = window.pads(H, W)
    most = tuple(-(-size // stride) for size, stride in zip(window.kernel_size, window.stride, strict=True))
    counts = [
        (before + size - 1) // stride + 1 for size, stride, (before, _) in zip((H, W), window.stride, pads, strict=True)
    ]
    dy = dy[:, :, : counts[0], : counts[1]]  # the positions after them read nothing but padding
    around = [(taps - 1, count - length) for taps, count, length in zip(most, counts, dy.shape[2:], strict=True)]
    around = Window(most, padding=tuple(around))
    image = _grouped(dy, groups)  # (G, F/G, OH, OW, N)
    all_are_read = all(stride <= size for stride, size in zip(window.stride, window.kernel_size, strict=True))
    dx = (np.empty if all_are_read else np.zeros)((C, H, W, N), dtype=dy.dtype)
    target = pixels(dx).reshape(groups, -1, H, W)
    first_taps = (range(min(axis)) for axis in zip(window.stride, window.kernel_size, strict=True))
    all_taps = list(itertools.product(*first_taps))
    kernels = [_phase_kernels(weight, groups, taps, window.stride) for taps in all_taps]

    def compute(tile):
        lengths = [along.stop - along.start for along in tile]
        columns = tile_columns(image, around, around.pads(*dy.shape[2:]), *tile)
        columns = columns.reshape(groups, lengths[0], most[0], -1, most[1], lengths[1], N)
        for taps, ((KH, KW), matrices) in zip(all_taps, kernels, strict=True):
            axes = zip(tile, lengths, taps, window.stride, pads, (H, W), strict=True)
            (rows, pixel_rows), (cols, pixel_cols) = (
                _inside(along.start * stride + tap - before, stride, length, size)
                for along, length, tap, stride, (before, _), size in axes
            )
            if rows.start == rows.stop or cols.start == cols.stop:
                continue
            read = columns[:, rows, most[0] - KH :, :, most[1] - KW :, cols]
            read = read.reshape(groups, rows.stop - rows.start, matrices.shape[3], -1)
            part = batched_matmul(matrices, read)  # (G, rows, C/G, cols*N)
            part = part.reshape(*part.shape[:3], -1, N).swapaxes(1, 2)
            target[:, :, pixel_rows, pixel_cols] = pixels(part)

    parallel_map(compute, _tiles_for_cores(dy.shape, around, C, weight.size, dy.dtype.itemsize))
    return batch_first(dx)


def _phase_kernels(weight, groups, taps, stride):
    """(KH, KW) and the flipped kernels, (G, 1, C/G, KH*F/G*KW), of `taps` and those one stride further each."""
    part = weight[:, :, taps[0] :: stride[0], taps[1] :: stride[1]][..., ::-1, ::-1]
    F, C, KH, KW = part.shape
    part = part.reshape(groups, F // groups, C, KH, KW).transpose(0, 2, 3, 1, 4)
    return (KH, KW), np.ascontiguousarray(part).reshape(groups, 1, C, KH * (F // groups) * KW)


def scattered_image_gradient(dy, weight, window, groups, shape):
    """The same by the gradient of the columns, each number of which is added to its pixel."""
    N, C, H, W = shape
    (top, bottom), (left, right) = window.pads(H, W)
    kernels = _as_matrices(weight, groups)
    dimage = np.zeros((groups, C // groups, top + H + bottom, left + W + right, N), dtype=dy.dtype)
    for rows, cols in tiles(shape, window, len(weight), dy.dtype.itemsize):
        dcolumns = batched_matmul(kernels.swapaxes(2, 3), _tile(dy, groups, rows, cols))
        add_tile_columns(dcolumns, dimage, window, rows, cols)
    padded = dimage.reshape(C, *dimage.shape[2:])
    return padded[:, top : top + H, left : left + W].transpose(3, 0, 1, 2)


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
        pieces = [slice(start, min(start + size, OW)) for start in range(0, OW, size)]
        return [(slice(row, row + 1), cols) for row in range(OH) for cols in pieces]
    rows = max(1, tile // max(position * OW, row_bytes))
    return [(slice(start, min(start + rows, OH)), slice(0, OW)) for start in range(0, OH, rows)]


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
    read = _image_rows(window, rows)
    image = image.transpose(0, 2, 1, 3, 4)  # (G, H, C, W, N)
    if KW == SW == 1 and pads == NO_PADS:
        strips = image[:, read, :, cols]
    else:
        strips = aligned_empty((G, read.stop - read.start, C, KW, OW, N), dtype=image.dtype)
        inside, pixel_rows = _inside(read.start - top, 1, read.stop - read.start, H)
        shifted = strips[:, inside]
        if shifted.shape[1] < strips.shape[1]:
            strips[:, : inside.start] = strips[:, inside.stop :] = 0
        # without a stride the runs are long enough; with one the first layer of AlexNet takes 10 % less time so
        source, target = to_copy(image, shifted) if SW > 1 else (image, shifted)
        for kw in range(KW):
            positions, pixel_cols = _inside(cols.start * SW + kw * DW - left, SW, OW, W)
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


def _inside(first, stride, positions, size):
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
    image_rows = image.transpose(0, 2, 1, 3, 4)[:, _image_rows(window, rows)]  # (G, S, C, WP, N)
    strips = np.zeros((G, image_rows.shape[1], C, KW, OW * N), dtype=columns.dtype)
    for kh in range(KH):
        strips_read = strips[:, pixels_read(kh * DH, SH, OH)]
        strips_read += stacks[:, :, kh]
    strips = strips.reshape(*strips.shape[:4], OW, N)
    for kw in range(KW):
        pixels = image_rows[:, :, :, pixels_read(cols.start * SW + kw * DW, SW, OW)]
        pixels += strips[:, :, :, kw]


def written_bytes(shape, filters, window, groups, itemsize):
    """As `Operations.convolution_bytes`: the strips of the tile that one core computes, or Winograd's tiles."""
    N, C, _, _ = shape
    if winograd.suits_shapes(shape, window, filters, groups, itemsize):
        return winograd.written_bytes(shape, filters, window, itemsize)
    rows, cols = tiles(shape, window, filters, itemsize)[0]
    read = _image_rows(window, rows)
    return (read.stop - read.start) * C * window.kernel_size[1] * (cols.stop - cols.start) * N * itemsize


def _image_rows(window, rows):
    """The rows of the padded image, from the first to the last, that these rows of the output read."""
    return slice(rows.start * window.stride[0], (rows.stop - 1) * window.stride[0] + window.extent[0])


def _grouped(x, groups):
    """Images (N, C, H, W) as (G, C/G, H, W, N)."""
    return x.transpose(1, 2, 3, 0).reshape(groups, -1, *x.shape[2:], len(x))


def _tile(y, groups, rows, cols):
    """A tile of the output as one matrix for each of its rows: (G, rows, F/G, cols*N); a view."""
    tile = _grouped(y, groups)[:, :, rows, cols]
    return tile.reshape(*tile.shape[:2], rows.stop - rows.start, -1).swapaxes(1, 2)


def _as_matrices(weight, groups):
    """The kernels (F, C/G, KH, KW) as matrices, a kernel in each row: (G, 1, F/G, KH*C/G*KW)."""
    F, C, KH, KW = weight.shape
    matrices = weight.transpose(0, 2, 1, 3).reshape(groups, 1, F // groups, KH * C * KW)
    return np.ascontiguousarray(matrices)  # BLAS takes no reversed axis, and none with gaps


def _as_kernels(matrices, shape):
    """Matrices (G, F/G, KH*C/G*KW) as kernels (F, C/G, KH, KW)."""
    F, C, KH, KW = shape
    return matrices.reshape(F, KH, C, KW).transpose(0, 2, 1, 3)
