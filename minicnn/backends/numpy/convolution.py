"""Convolution as a matrix product of the kernels and the columns of one tile after the other."""

import functools
import itertools
import math
import operator

import numpy as np

from minicnn.backends.numpy import winograd
from minicnn.backends.numpy.columns import (
    NO_PADS,
    add_tile_columns,
    added_columns,
    copied_columns,
    positions_inside,
    rows_read,
    tile_columns,
    tile_height,
    tiles,
    tiles_for_cores,
)
from minicnn.backends.numpy.layout import batch_first, batch_last, pixels
from minicnn.backends.numpy.matmul import batched_matmul, batched_matmul_sum, parallel_matmul
from minicnn.backends.numpy.threads import current_chunk, is_kept, parallel_map, thread_count
from minicnn.core import im2col
from minicnn.core.window import Window

ONE_PIXEL = Window(1)
SMALL = 5 * 2**16  # bytes of all columns of a convolution up to which they are written
FEW_POSITIONS = 400  # of the window over the batch up to which they are in any case
FLIPPED_WORK = 2**27  # multiply-adds from which the gradient of the images of a batch is a convolution in any case
PHASES_WORK = 2**23  # and from which it is four of them at a stride of 2


def convolve(x, weight, window, groups):
    """As `Operations.convolve`."""
    if is_small(x.shape, window, x.dtype.itemsize):
        return _convolve_small(x, weight, window, groups)
    if winograd.suits(x, window, weight):
        return winograd.convolve(x, weight, window)
    y, to_weight = correlate(x, weight, window, groups)

    def to_input(dy):
        gradient = image_gradient if _flipped_is_faster(dy, weight, window, groups) else scattered_image_gradient
        return gradient(dy, weight, window, groups, x.shape)

    return y, to_weight, to_input


def is_small(shape, window, itemsize):
    """Whether all columns are written: where they are few, or so few positions that the kernels are more than they."""
    few, limit = _positions(shape, window) <= FEW_POSITIONS, im2col.BUDGET // 2 // thread_count()
    return _columns_bytes(shape, window, itemsize) <= (limit if few else min(SMALL, limit))


def _convolve_small(x, weight, window, groups):
    """A convolution with all columns, which are written by one copy, and one product in each direction.

    For few numbers it is the calls that take time: a step of LeNet-5 on one image takes 0.81 of the time so, inference
    0.67. And the kernels are read as they are: 512 to 512 channels of 3x3 on one image of 4x4 pixels take 0.11 of the
    time of Winograd's algorithm, forward and backward 0.08.
    """
    F = len(weight)
    kernels = weight.reshape(groups, F // groups, -1)  # (G, F/G, C/G*KH*KW)
    columns = copied_columns(x, window, groups)  # (G, C/G*KH*KW, OH*OW*N)
    y = _products(kernels, columns).reshape(F, *window.output_shape(*x.shape[2:]), len(x))
    kept = columns if is_kept(columns.nbytes) else None

    def to_rows(dy):  # (G, F/G, OH*OW*N)
        return batch_last(dy).reshape(groups, F // groups, -1)

    def to_weight(dy):
        columns = copied_columns(x, window, groups) if kept is None else kept
        # columns @ dY.T, transposed: BLAS needs half the time so
        return _products(columns, to_rows(dy).swapaxes(1, 2)).swapaxes(1, 2).reshape(weight.shape)

    def to_input(dy):
        return added_columns(_products(kernels.swapaxes(1, 2), to_rows(dy)), x.shape, window)

    return batch_first(y), to_weight, to_input


def _products(a, b):
    """`a @ b` of matrices (G, rows, inner) and (G, inner, columns)."""
    if len(a) == 1:
        return parallel_matmul(a[0], b[0])[None]
    return a * b if a.shape[2] == 1 else a @ b  # for an inner axis of 1 `matmul` does not call BLAS


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
    kernels = _as_matrices(weight, groups)  # (G, 1, F/G, KH*KW*C/G)
    image = _grouped(x, groups)  # (G, C/G, H, W, N)
    all_tiles = tiles_for_cores(x.shape, window, weight.size, x.dtype.itemsize)
    y = np.empty((F, OH, OW, N), dtype=x.dtype).transpose(3, 0, 1, 2)

    def forward(tile):
        columns = tile_columns(image, window, pads, *tile)  # (G, S, KH*KW*C/G, M), S matrices a group
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


def is_divided(shape, window, filters, groups, itemsize):
    """Whether a convolution of a complete batch is divided among the cores by tiles, and not by images.

    Then the batch is not cut into chunks and put together again: forward and backward of four groups of 16 to 16
    channels take 0.8 of the time so for 128 images, the forward pass 0.7. It is not where tiles are so low that most
    of their rows are copied for the next tile again.
    """
    if winograd.suits_shapes(shape, window, filters, groups, itemsize):
        return True
    height = tile_height(shape, window, itemsize)
    return height == window.output_shape(*shape[2:])[0] or 2 * height * window.stride[0] >= window.extent[0]


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
        columns = columns.reshape(groups, lengths[0], most[0], most[1], -1, lengths[1], N)
        for taps, ((KH, KW), matrices) in zip(all_taps, kernels, strict=True):
            axes = zip(tile, lengths, taps, window.stride, pads, (H, W), strict=True)
            (rows, pixel_rows), (cols, pixel_cols) = (
                positions_inside(along.start * stride + tap - before, stride, length, size)
                for along, length, tap, stride, (before, _), size in axes
            )
            if rows.start == rows.stop or cols.start == cols.stop:
                continue
            read = columns[:, rows, most[0] - KH :, most[1] - KW :, :, cols]
            read = read.reshape(groups, rows.stop - rows.start, matrices.shape[3], -1)
            part = batched_matmul(matrices, read)  # (G, rows, C/G, cols*N)
            part = part.reshape(*part.shape[:3], -1, N).swapaxes(1, 2)
            target[:, :, pixel_rows, pixel_cols] = pixels(part)

    parallel_map(compute, tiles_for_cores(dy.shape, around, weight.size, dy.dtype.itemsize))
    return batch_first(dx)


def _phase_kernels(weight, groups, taps, stride):
    """(KH, KW) and the flipped kernels, (G, 1, C/G, KH*KW*F/G), of `taps` and those one stride further each."""
    part = weight[:, :, taps[0] :: stride[0], taps[1] :: stride[1]][..., ::-1, ::-1]
    F, C, KH, KW = part.shape
    part = part.reshape(groups, F // groups, C, KH, KW).transpose(0, 2, 3, 4, 1)
    return (KH, KW), np.ascontiguousarray(part).reshape(groups, 1, C, -1)


def scattered_image_gradient(dy, weight, window, groups, shape):
    """The same by the gradient of the columns, each number of which is added to its pixel."""
    N, C, H, W = shape
    (top, bottom), (left, right) = window.pads(H, W)
    kernels = _as_matrices(weight, groups)
    dimage = np.zeros((groups, C // groups, top + H + bottom, left + W + right, N), dtype=dy.dtype)
    for rows, cols in tiles(shape, window, weight.size, dy.dtype.itemsize):
        dcolumns = batched_matmul(kernels.swapaxes(2, 3), _tile(dy, groups, rows, cols))
        add_tile_columns(dcolumns, dimage, window, rows, cols)
    padded = dimage.reshape(C, *dimage.shape[2:])
    return padded[:, top : top + H, left : left + W].transpose(3, 0, 1, 2)


def written_bytes(shape, filters, window, groups, itemsize):
    """As `Operations.convolution_bytes`: all columns, or Winograd's tiles, or the strips of a tile of one core."""
    N, C, _, _ = shape
    if is_small(shape, window, itemsize):
        return _columns_bytes(shape, window, itemsize)
    if winograd.suits_shapes(shape, window, filters, groups, itemsize):
        return winograd.written_bytes(shape, filters, window, itemsize)
    work = filters * C // groups * math.prod(window.kernel_size)
    rows, cols = tiles_for_cores(shape, window, work, itemsize)[0]
    read = rows_read(window, rows)
    return (read.stop - read.start) * C * window.kernel_size[1] * (cols.stop - cols.start) * N * itemsize


def _positions(shape, window):
    """How many positions the window has on all images of a batch."""
    return shape[0] * math.prod(window.output_shape(*shape[2:]))


def _columns_bytes(shape, window, itemsize):
    return _positions(shape, window) * shape[1] * math.prod(window.kernel_size) * itemsize


def _grouped(x, groups):
    """Images (N, C, H, W) as (G, C/G, H, W, N)."""
    return x.transpose(1, 2, 3, 0).reshape(groups, -1, *x.shape[2:], len(x))


def _tile(y, groups, rows, cols):
    """A tile of the output as one matrix for each of its rows: (G, rows, F/G, cols*N); a view."""
    tile = _grouped(y, groups)[:, :, rows, cols]
    return tile.reshape(*tile.shape[:2], rows.stop - rows.start, -1).swapaxes(1, 2)


def _as_matrices(weight, groups):
    """The kernels (F, C/G, KH, KW) as matrices, a kernel in each row: (G, 1, F/G, KH*KW*C/G)."""
    F, C, KH, KW = weight.shape
    matrices = weight.transpose(0, 2, 3, 1).reshape(groups, 1, F // groups, KH * KW * C)
    return np.ascontiguousarray(matrices)  # BLAS takes no reversed axis, and none with gaps


def _as_kernels(matrices, shape):
    """Matrices (G, F/G, KH*KW*C/G) as kernels (F, C/G, KH, KW)."""
    F, C, KH, KW = shape
    return matrices.reshape(F, KH, KW, C).transpose(0, 3, 1, 2)
