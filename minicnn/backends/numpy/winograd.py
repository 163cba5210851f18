"""A 3x3 convolution with less than half of the multiplications: Winograd's algorithm.

To multiply two polynomials of four and of three coefficients takes 4 * 3 = 12
multiplications. But their product has six coefficients, so it follows from
its values at six points: evaluate both factors there, multiply the six pairs
of values, and interpolate. Four neighbouring outputs of a kernel with three
taps are the transpose of that computation, from six pixels to four outputs,
and so need six multiplications as well. In two dimensions it is 36 for a tile
of 4x4 outputs instead of 144. The evaluations are small matrix products,
computed once for every tile and every kernel; the multiplications are needed
for every pair of a channel and a filter. So it pays where there are many of
both. Tiles of 3x3 outputs, with 25 instead of 81, waste less where an image is
six pixels wide. (Kernels of 5x5 with tiles of 2x2, 36 for 100, took 1.03 to 1.16
of the time without.)

With d a tile of 6x6 pixels, g a kernel and * the elementwise product:

    y = A.T @ [(G @ g @ G.T) * (B.T @ d @ B)] @ A            (4x4)

summed over the channels. For all tiles, channels and filters together the `*`
is 36 matrix products. With a tile as one column of 36 numbers (`im2col` with a
window of 6x6 and a stride of 4), `B.T @ d @ B` is the matrix `pixels` times
that column; the other two are computed in the same way.

Its rounding is larger: in float32 about 1e-5 of the largest output instead of
1e-6.

Source: Lavin & Gray, "Fast algorithms for convolutional neural networks", 2016;
Winograd, "Arithmetic complexity of computations", 1980.
"""

import functools
import math
import operator
from typing import NamedTuple

import numpy as np

from minicnn.backends.numpy.layout import batch_first, batch_innermost, batch_last, pixels
from minicnn.backends.numpy.matmul import PARALLEL_WORK, batched_matmul, batched_matmul_sum, largest_divisor
from minicnn.backends.numpy.threads import (
    current_chunk,
    is_kept,
    parallel_map,
    per_core_slices,
    thread_count,
    training,
)
from minicnn.core import im2col
from minicnn.core.im2col import pad

LEAST_CHANNELS = {True: 32, False: 48}  # and filters, from which it pays, in training and in inference
TILES = (4, 3)  # that are tried, in outputs along an axis
WORK, MOST_WORK = 2**21, 2**24  # bytes of the pixels' values at a time
KERNELS = 2**11  # whose values are computed at a time
POINTS = (0, 1, -1, 2, -2)  # of which a tile takes the first n - 1, and infinity


class Algorithm(NamedTuple):
    """The matrices for tiles of m x m outputs, which read n x n pixels, n = m + 2."""

    m: int
    n: int
    pixels: np.ndarray  # (n * n, n * n): the values at the points of a tile of pixels
    kernels: np.ndarray  # (n * n, 9): of a kernel
    outputs: np.ndarray  # (m * m, n * n): the tile of outputs that has these values


@functools.cache
def algorithm(m):
    """Winograd's algorithm for tiles of m x m outputs; with more than six points the rounding is too large.

    A polynomial is given by its values at the points p: `G` evaluates a kernel, divided by what Lagrange's formula
    divides by; the rows of `B.T` are Lagrange's polynomials; and `A` evaluates outputs, because the matrix of outputs
    is transposed.

    >>> tile, kernel = algorithm(2), np.arange(9.0)
    >>> values = (tile.pixels @ np.ones(16)) * (tile.kernels @ kernel)
    >>> (tile.outputs @ values).round(6)             # four sums of 0 to 8
    array([36., 36., 36., 36.])
    """
    n = m + 2
    points = np.array(POINTS[: n - 1], dtype="float64")
    A, B, G = np.zeros((m, n)), np.zeros((n, n)), np.zeros((n, 3))
    for j, point in enumerate(points):
        others = np.delete(points, j)
        A[:, j] = point ** np.arange(m)
        G[j] = point ** np.arange(3) / np.prod(point - others)
        B[j, : n - 1] = np.poly(others)[::-1]
    A[-1, -1] = G[-1, -1] = 1  # the point at infinity has the highest coefficient
    B[-1] = np.poly(points)[::-1]
    return Algorithm(m, n, np.kron(B, B), np.kron(G, G), np.kron(A, A))


@functools.cache
def best_algorithm(N, OH, OW, C, F):
    """The tiles that take the fewest multiply-adds for N outputs of this shape, those of the evaluations included.

    The kernels' values, written to memory and read, count four times: tiles of 3x3 have fewer. A step of 96 to 96
    channels on 6x6 pixels takes 0.7 of the time with them, of 256 to 256 on 13x13 and 8 images 0.86.
    """

    def work(m):
        n = m + 2
        return n * n * (N * _tiles(OH, m) * _tiles(OW, m) * (C * F + n * n * C + m * m * F) + 4 * 9 * C * F)

    return algorithm(min(TILES, key=work))


def suits(x, window, weight):
    """Whether this convolution can be computed so, and is then faster.

    Args:
        x: images (N, C, H, W).
        window: the convolution's Window.
        weight: kernels (F, C / groups, KH, KW).
    """
    return suits_shapes(x.shape, window, len(weight), x.shape[1] // weight.shape[1], x.dtype.itemsize)


def suits_shapes(shape, window, filters, groups, itemsize):
    """The same by the numbers alone."""
    N, C, H, W = shape
    tile = 4 * 36 * max(C, filters) * N * itemsize  # its pixels, their values, the sums, and a reserve
    return (
        (*window.kernel_size, *window.stride, *window.dilation) == (3, 3, 1, 1, 1, 1)
        and groups == 1
        and min(C, filters) >= LEAST_CHANNELS[training.get()]
        and max(map(max, window.pads(H, W))) <= 2
        and tile <= im2col.BUDGET // 2 // thread_count()
    )


def written_bytes(shape, filters, window, itemsize):
    """Bytes written at a time besides the output: the pixels of some tiles, their values, the sums."""
    N, C, H, W = shape
    OH, OW = window.output_shape(H, W)
    by = best_algorithm(N, OH, OW, C, filters)
    tiles = min(_tiles(OH, by.m) * _tiles(OW, by.m), _tiles_at_a_time(by, N, max(C, filters), itemsize))
    return tiles * by.n**2 * N * itemsize * (2 * C + filters)


def convolve(x, weight, window):
    """As `Operations.convolve`, for one group.

    The gradient of the kernels needs the values of the pixels again. Where they are kept, a step of small_resnet takes
    5 % less time, and one convolution of 64 to 64 channels on 28x28 pixels 8 %.
    """
    F, C, _, _ = weight.shape
    pads, output_shape = window.pads(*x.shape[2:]), window.output_shape(*x.shape[2:])
    by = best_algorithm(len(x), *output_shape, C, F)
    image = padded(by, x, pads)
    kept = {} if is_kept(_values_bytes(by, image)) else None

    def to_weight(dy):
        return kernel_gradient(by, image, dy, kept or {})

    def to_input(dy):
        return image_gradient(dy, weight, pads)

    return correlate(by, image, weight, output_shape, kept), to_weight, to_input


def padded(by, x, pads):
    """The images as the functions below need them: padded, and with more zeros where the last tiles extend beyond them.

    Args:
        by: an `Algorithm`.
        x: images (N, C, H, W).
        pads: ((top, bottom), (left, right)) in pixels.

    Returns:
        (C, m*TH + 2, m*TW + 2, N), for TH x TW tiles of the output.
    """
    (top, bottom), (left, right) = pads
    OH, OW = top + x.shape[2] + bottom - 2, left + x.shape[3] + right - 2
    x = pad(x, ((top, bottom + -OH % by.m), (left, right + -OW % by.m)))
    return batch_last(batch_innermost(x))


def correlate(by, image, weight, output_shape, kept=None):
    """The convolution of images with 3x3 kernels at a stride of 1.

    Args:
        by: an `Algorithm`.
        image: as `padded` returns them.
        weight: kernels (F, C, 3, 3), of the same dtype.
        output_shape: (OH, OW).
        kept: a dict to which the values of the pixels are added; or None.

    Returns:
        (N, F, OH, OW).

    >>> by, x, weight = algorithm(4), np.ones((1, 2, 6, 6)), np.ones((3, 2, 3, 3))
    >>> correlate(by, padded(by, x, ((0, 0), (0, 0))), weight, (4, 4)).round(6)[0, 0, 0]     # 2 * 3 * 3 ones
    array([18., 18., 18., 18.])
    """
    F, C, _, _ = weight.shape
    TH, TW, N = _tile_shape(by, image)
    m = by.m
    kernels = _kernel_values(by, weight)
    y = np.empty((F, TH, m, TW, m, N), dtype=image.dtype)

    def compute(pieces):
        for rows, cols in pieces:
            values = _values(by.pixels, m, image, rows, cols)
            if kept is not None:
                kept[rows.start, cols.start] = values
            sums = batched_matmul(kernels, values)  # (n * n, 1, F, P)
            del values  # so that the next piece has its memory
            tiles = _times(by.outputs, sums.transpose(1, 2, 0, 3))  # (1, F, m * m, P)
            target = pixels(y)[:, rows, :, cols].transpose(0, 2, 4, 1, 3)
            target[...] = pixels(tiles.reshape(*target.shape, N))

    parallel_map(compute, _pieces_for_each_core(by, image, C, F))
    OH, OW = output_shape
    return batch_first(y.reshape(F, m * TH, m * TW, N)[:, :OH, :OW])


def image_gradient(dy, weight, pads):
    """The gradient of a convolution to its images: the convolution of `dy` with the flipped kernels.

    Args:
        dy: (N, F, OH, OW).
        weight: kernels (F, C, 3, 3).
        pads: of the images; at most 2.

    Returns:
        (N, C, H, W).
    """
    F, C, _, _ = weight.shape
    pads = [[2 - count for count in along] for along in pads]  # of dy
    H, W = (length + sum(along) - 2 for length, along in zip(dy.shape[2:], pads, strict=True))
    flipped = weight[:, :, ::-1, ::-1].swapaxes(0, 1)  # (C, F, 3, 3)
    by = best_algorithm(len(dy), H, W, F, C)
    return correlate(by, padded(by, dy, pads), flipped, (H, W))


def kernel_gradient(by, image, dy, kept):
    """The gradient of a convolution to its kernels.

    Args:
        by: an `Algorithm`.
        image: as `padded` returns them.
        dy: (N, F, OH, OW).
        kept: the values of the pixels that `correlate` has kept.

    Returns:
        (F, C, 3, 3).
    """
    C = len(image)
    _, F, OH, OW = dy.shape
    dimage = batch_last(batch_innermost(pad(dy, ((0, -OH % by.m), (0, -OW % by.m)))))  # (F, m*TH, m*TW, N)

    def of_piece(piece):
        rows, cols = piece
        dsums = _values(by.outputs.T, by.m, dimage, rows, cols)  # (n * n, 1, F, P)
        values = kept.get((rows.start, cols.start))
        values = _values(by.pixels, by.m, image, rows, cols) if values is None else values
        return batched_matmul_sum(values, dsums)

    def partial_sum(pieces):
        return functools.reduce(operator.iadd, map(of_piece, pieces))

    partial_sums = parallel_map(partial_sum, _pieces_for_each_core(by, image, C, F))
    dkernels = functools.reduce(operator.iadd, partial_sums)  # (n * n, C, F)
    dweight = _times(by.kernels.T, dkernels.reshape(1, 1, -1, C * F))  # (1, 1, 9, C*F)
    return dweight.reshape(3, 3, C, F).transpose(3, 2, 0, 1)


def _tiles(size, m):
    """How many tiles of m cover an axis of the output."""
    return -(-size // m)


def _values_bytes(by, image):
    """Bytes of the values of all pixels."""
    TH, TW, N = _tile_shape(by, image)
    return by.n**2 * TH * TW * len(image) * N * image.itemsize


def _tile_shape(by, image):
    """(TH, TW, N): the tiles of padded images."""
    _, HP, WP, N = image.shape
    return (HP - 2) // by.m, (WP - 2) // by.m, N


def _pieces(by, image, channels, tiles):
    """Some of the tiles, which are counted row by row, in pieces of complete rows or of a part of one.

    Args:
        by, image: as above.
        channels: of a piece.
        tiles: a slice of all tiles.

    Returns:
        a list of (rows, cols) of tiles.
    """
    _, TW, N = _tile_shape(by, image)
    most = _tiles_at_a_time(by, N, channels, image.itemsize)
    if most < TW:
        most = -(-TW // -(-TW // most))  # of a row, in pieces of about the same length
    pieces, start = [], tiles.start
    while start < tiles.stop:
        row, col = divmod(start, TW)
        count = min(tiles.stop - start, most)
        rows, cols = (count // TW, TW) if col == 0 and count >= TW else (1, min(count, TW - col))
        pieces.append((slice(row, row + rows), slice(col, col + cols)))
        start += rows * cols
    return pieces


def _tiles_at_a_time(by, N, channels, itemsize):
    """How many tiles make a piece.

    The values of all kernels are read for each piece. So it has as many columns as they have rows, if that is not too
    much: a step of AlexNet takes a fifth less time than with `WORK` alone.
    """
    tile = by.n**2 * channels * N * itemsize
    return max(1, WORK // tile, min(channels // N, MOST_WORK // tile))


def _pieces_for_each_core(by, image, C, F):
    """Lists of pieces: one for each core, or a single one where it would not pay or a chunk of several is computed.

    All cores have as many tiles. With complete rows of tiles for each, four for one core and three for the other, a
    step of a convolution alone of 64 to 64 channels on 28x28 pixels takes 11 % longer.
    """
    TH, TW, _ = _tile_shape(by, image)
    divided = current_chunk() is None and image.size * F * 9 >= PARALLEL_WORK
    shares = per_core_slices(TH * TW) if divided else [slice(0, TH * TW)]
    return [_pieces(by, image, max(C, F), share) for share in shares]


def _kernel_values(by, weight):
    """The values of all kernels (F, C, 3, 3) at the points: (n * n, 1, F, C).

    BLAS multiplies so few rows by so many columns twice as fast some of them at a time, and from contiguous memory: a
    step of small_resnet takes 0.96 of the time so, one of VGG at batch 32 0.98.
    """
    F, C, _, _ = weight.shape
    size = largest_divisor(F * C, limit=KERNELS)
    taps = np.ascontiguousarray(weight.transpose(2, 3, 0, 1)).reshape(9, -1, size).swapaxes(0, 1)
    values = np.empty((by.n**2, 1, F, C), dtype=weight.dtype)
    blocks = values.reshape(by.n**2, -1, size).swapaxes(0, 1)
    np.matmul(by.kernels.astype(weight.dtype), taps, out=blocks)
    return values


def _values(matrix, stride, image, rows, cols):
    """`matrix` times some of the tiles: their values at the points.

    Args:
        matrix: (points, size * size), for tiles of size x size pixels.
        stride: from one tile to the next.
        image: (C, height, width, N).
        rows, cols: slices of the rows and columns of tiles.

    Returns:
        (points, 1, C, P), with P = tiles * N.
    """
    points, area = matrix.shape
    size, C = math.isqrt(area), len(image)
    windows = np.lib.stride_tricks.sliding_window_view(pixels(image), (size, size), axis=(1, 2))[:, ::stride, ::stride]
    tiles = np.ascontiguousarray(windows[:, rows, cols].transpose(0, 3, 4, 1, 2))  # (C, size, size, rows, cols)
    tiles = tiles.view(image.dtype).reshape(1, C, area, -1)
    values = np.empty((points, 1, C, tiles.shape[3]), dtype=image.dtype)
    _times(matrix, tiles, out=values.transpose(1, 2, 0, 3))
    return values


def _times(matrix, stack, out=None):
    """One small matrix times a stack of others (1, S, rows, columns), in the stack's dtype."""
    return batched_matmul(matrix[None, None].astype(stack.dtype), stack, out)
