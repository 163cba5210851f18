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
both.

With d a tile of 6x6 pixels, g a kernel and * the elementwise product:

    y = A.T @ [(G @ g @ G.T) * (B.T @ d @ B)] @ A            (4x4)

summed over the channels. For all tiles, channels and filters together the `*`
is 36 matrix products. With a tile as one column of 36 numbers (`im2col` with a
window of 6x6 and a stride of 4), `B.T @ d @ B` is the matrix `PIXELS` times
that column; the other two are computed in the same way.

Its rounding is larger: in float32 about 1e-5 of the largest output instead of
1e-6.

Source: Lavin & Gray, "Fast algorithms for convolutional neural networks", 2016;
Winograd, "Arithmetic complexity of computations", 1980.
"""

import math

import numpy as np

from minicnn.backends.numpy.layout import batch_first, batch_innermost, batch_last, pixels
from minicnn.backends.numpy.matmul import PARALLEL_WORK, batched_matmul, batched_matmul_sum
from minicnn.backends.numpy.threads import chunk_slices, current_chunk, parallel_map, per_core_slices, thread_count
from minicnn.core import im2col
from minicnn.core.im2col import pad

LEAST_CHANNELS = 64  # and filters, from which it pays
WORK = 2**21  # bytes of the transformed pixels at a time

# The six points are 0, 1, -1, 2, -2 and infinity.
_B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
PIXELS = np.kron(_B, _B)  # (36, 36): the values at the points of a tile of 6x6 pixels
KERNELS = np.kron(_G, _G)  # (36, 9): of a kernel
OUTPUTS = np.kron(_A, _A)  # (16, 36): the tile of 4x4 outputs that has these values


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
        and min(C, filters) >= LEAST_CHANNELS
        and max(map(max, window.pads(H, W))) <= 2
        and tile <= im2col.BUDGET // 2 // thread_count()
    )


def written_bytes(shape, filters, window, itemsize):
    """Bytes written at a time besides the output: the pixels of some tiles, their values, the sums."""
    N, C, H, W = shape
    tile_count = math.prod(_tiles(size) for size in window.output_shape(H, W))
    tiles = min(tile_count, max(1, WORK // (36 * max(C, filters) * N * itemsize)))
    return tiles * 36 * (2 * C + filters) * N * itemsize


def convolve(x, weight, window):
    """As `Operations.convolve`, for one group."""
    pads = window.pads(*x.shape[2:])
    image = padded(x, pads)

    def to_weight(dy):
        return kernel_gradient(image, dy)

    def to_input(dy):
        return image_gradient(dy, weight, pads)

    return correlate(image, weight, window.output_shape(*x.shape[2:])), to_weight, to_input


def padded(x, pads):
    """The images as the functions below need them: padded, and with more zeros where the last tiles extend beyond them.

    Args:
        x: images (N, C, H, W).
        pads: ((top, bottom), (left, right)) in pixels.

    Returns:
        (C, 4*TH + 2, 4*TW + 2, N), for TH x TW tiles of the output.
    """
    (top, bottom), (left, right) = pads
    OH, OW = top + x.shape[2] + bottom - 2, left + x.shape[3] + right - 2
    x = pad(x, ((top, bottom + 4 * _tiles(OH) - OH), (left, right + 4 * _tiles(OW) - OW)))
    return batch_last(batch_innermost(x))


def correlate(image, weight, output_shape):
    """The convolution of images with 3x3 kernels at a stride of 1.

    Args:
        image: as `padded` returns them.
        weight: kernels (F, C, 3, 3), of the same dtype.
        output_shape: (OH, OW).

    Returns:
        (N, F, OH, OW).

    >>> x, weight = np.ones((1, 2, 6, 6)), np.ones((3, 2, 3, 3))
    >>> correlate(padded(x, ((0, 0), (0, 0))), weight, (4, 4)).round(6)[0, 0, 0]     # 2 * 3 * 3 ones
    array([18., 18., 18., 18.])
    """
    F, C, _, _ = weight.shape
    _, TH, TW, N = _tile_shape(image)
    kernels = _times(KERNELS, weight.reshape(1, 1, F * C, 9).swapaxes(2, 3)).reshape(36, 1, F, C)
    y = np.empty((F, TH, 4, TW, 4, N), dtype=image.dtype)

    def compute(pieces):
        for rows, cols in pieces:
            sums = batched_matmul(kernels, _values(PIXELS, image, rows, cols))  # (36, 1, F, P)
            tiles = _times(OUTPUTS, sums.transpose(1, 2, 0, 3))  # (1, F, 16, P)
            target = pixels(y)[:, rows, :, cols].transpose(0, 2, 4, 1, 3)
            target[...] = pixels(tiles.reshape(*target.shape, N))

    parallel_map(compute, _pieces_for_each_core(image, C, F))
    OH, OW = output_shape
    return batch_first(y.reshape(F, 4 * TH, 4 * TW, N)[:, :OH, :OW])


def image_gradient(dy, weight, pads):
    """The gradient of a convolution to its images: the convolution of `dy` with the flipped kernels.

    Args:
        dy: (N, F, OH, OW).
        weight: kernels (F, C, 3, 3).
        pads: of the images; at most 2.

    Returns:
        (N, C, H, W).
    """
    (top, bottom), (left, right) = pads
    flipped = weight[:, :, ::-1, ::-1].swapaxes(0, 1)  # (C, F, 3, 3)
    size = dy.shape[2] + 2 - top - bottom, dy.shape[3] + 2 - left - right  # (H, W)
    return correlate(padded(dy, ((2 - top, 2 - bottom), (2 - left, 2 - right))), flipped, size)


def kernel_gradient(image, dy):
    """The gradient of a convolution to its kernels.

    Args:
        image: as `padded` returns them.
        dy: (N, F, OH, OW).

    Returns:
        (F, C, 3, 3).
    """
    C, TH, TW, _ = _tile_shape(image)
    F, OH, OW = dy.shape[1:]
    dy = pad(dy, ((0, 4 * TH - OH), (0, 4 * TW - OW)))
    dimage = batch_last(batch_innermost(dy))  # (F, 4*TH, 4*TW, N)

    def partial_sum(pieces):
        dkernels = 0
        for rows, cols in pieces:
            dsums = _values(OUTPUTS.T, dimage, rows, cols)  # (36, 1, F, P)
            dkernels = dkernels + batched_matmul_sum(_values(PIXELS, image, rows, cols), dsums)
        return dkernels

    dkernels = sum(parallel_map(partial_sum, _pieces_for_each_core(image, C, F)))  # (36, C, F)
    dweight = _times(KERNELS.T, dkernels.reshape(1, 1, 36, C * F))  # (1, 1, 9, C*F)
    return dweight.reshape(3, 3, C, F).transpose(3, 2, 0, 1)


def _tiles(size):
    """How many tiles of four cover an axis of the output."""
    return -(-size // 4)


def _tile_shape(image):
    """(C, TH, TW, N): the tiles of padded images."""
    C, HP, WP, N = image.shape
    return C, HP // 4, WP // 4, N


def _pieces(image, channels):
    """All tiles in pieces, (rows, cols) of tiles, whose values at the points take no more than `WORK`."""
    _, TH, TW, N = _tile_shape(image)
    count = max(1, WORK // (36 * channels * N * image.itemsize))
    if count >= TW:
        return [(rows, slice(0, TW)) for rows in chunk_slices(TH, count // TW)]
    return [(slice(row, row + 1), cols) for row in range(TH) for cols in chunk_slices(TW, count)]


def _pieces_for_each_core(image, C, F):
    """Lists of pieces: one for each core, or a single one where it would not pay or a chunk of several is computed."""
    pieces = _pieces(image, max(C, F))
    if current_chunk() is not None or image.size * F * 9 < PARALLEL_WORK:
        return [pieces]
    return [pieces[part] for part in per_core_slices(len(pieces))]


def _values(matrix, image, rows, cols):
    """`matrix` times some of the tiles: their values at the points.

    Args:
        matrix: (36, size * size), for tiles of size x size pixels at a stride of 4.
        image: (C, height, width, N).
        rows, cols: slices of the rows and columns of tiles.

    Returns:
        (36, 1, C, P), with P = tiles * N.
    """
    size = math.isqrt(matrix.shape[1])
    C = len(image)
    windows = np.lib.stride_tricks.sliding_window_view(pixels(image), (size, size), axis=(1, 2))[:, ::4, ::4]
    tiles = np.ascontiguousarray(windows[:, rows, cols].transpose(0, 3, 4, 1, 2))  # (C, size, size, rows, cols)
    tiles = tiles.view(image.dtype).reshape(1, C, size * size, -1)
    values = np.empty((36, 1, C, tiles.shape[3]), dtype=image.dtype)
    _times(matrix, tiles, out=values.transpose(1, 2, 0, 3))
    return values


def _times(matrix, stack, out=None):
    """One small matrix times a stack of others (1, S, rows, columns), in the stack's dtype."""
    return batched_matmul(matrix[None, None].astype(stack.dtype), stack, out)
