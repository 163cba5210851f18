"""Convolution as in the core, with fewer kernels: all columns are written by one copy, and multiplied by cuBLAS.

Large outputs are computed in tiles, so that the columns stay within `im2col.BUDGET` whatever the batch and the image.
"""

from minicnn.backends.cupy.cublas import matmul
from minicnn.backends.numpy.columns import cut_output
from minicnn.core import im2col
from minicnn.core.im2col import pad
from minicnn.core.window import pixels_read

KEPT_BYTES = 2**24  # columns up to this size are kept for the backward pass instead of being written a second time


def convolve(xp, x, weight, window, groups):
    """As `Operations.convolve`."""
    N, C, H, W = x.shape
    F = len(weight)
    OH, OW = window.output_shape(H, W)
    kernels = weight.reshape(groups, F // groups, -1)  # (G, F/G, C/G*KH*KW)
    image = _grouped(pad(x, window.pads(H, W)), groups)  # (G, C/G, HP, WP, N)
    all_tiles = tiles(x.shape, window, x.dtype.itemsize)
    y = xp.empty((F, OH, OW, N), dtype=x.dtype).transpose(3, 0, 1, 2)
    for rows, cols in all_tiles:
        columns = tile_columns(xp, image, window, rows, cols)  # (G, C/G*KH*KW, M), M positions in all images
        y_tile = _tile(y, groups, rows, cols)  # (G, F/G, M)
        for g in range(groups):
            matmul(xp, kernels[g], columns[g], out=y_tile[g])
    kept = columns if len(all_tiles) == 1 and columns.nbytes <= KEPT_BYTES else None
    padded_shape, dtype = image.shape, x.dtype
    if kept is not None:
        image = None  # the columns hold all that the backward pass needs

    def to_weight(dy):
        dkernels = xp.empty(kernels.shape, dtype=dtype)
        beta = 0.0  # the first tile's product is written, the others are added
        for rows, cols in all_tiles:
            columns = tile_columns(xp, image, window, rows, cols) if kept is None else kept
            dy_tile = _tile(dy, groups, rows, cols)
            for g in range(groups):
                matmul(xp, dy_tile[g], columns[g].T, out=dkernels[g], beta=beta)
            beta = 1.0
        return dkernels.reshape(weight.shape)

    def to_input(dy):
        dimage = xp.zeros(padded_shape, dtype=dtype)
        for rows, cols in all_tiles:
            dy_tile = _tile(dy, groups, rows, cols)
            dcolumns = xp.empty((*kernels.shape[::2], dy_tile.shape[2]), dtype=dtype)
            for g in range(groups):
                matmul(xp, kernels[g].T, dy_tile[g], out=dcolumns[g])
            add_tile_columns(xp, dcolumns, dimage, window, rows, cols)
        (top, _), (left, _) = window.pads(H, W)
        padded = dimage.reshape(C, *padded_shape[2:])
        return padded[:, top : top + H, left : left + W].transpose(3, 0, 1, 2)

    return y, to_weight, to_input


def tiles(shape, window, itemsize):
    """A convolution's output cut into tiles whose columns stay within half of `im2col.BUDGET`."""
    limit = im2col.BUDGET // 2  # in the backward pass two of them exist
    return cut_output(shape, window, itemsize, limit)


def tile_columns(xp, image, window, rows, cols):
    """The columns of one tile of the output, by one copy of a view that reads every pixel once for each tap.

    Args:
        xp: the array module.
        image: padded images (G, C, HP, WP, N), their channels in G groups.
        window: a Window.
        rows, cols: slices of the output's height and width.

    Returns:
        (G, C * KH * KW, rows * cols * N).
    """
    G, C, _, _, N = image.shape
    (KH, KW), (SH, SW), (DH, DW) = window.kernel_size, window.stride, window.dilation
    group, channel, row, pixel, number = image.strides
    windows = xp.lib.stride_tricks.as_strided(
        image[:, :, rows.start * SH :, cols.start * SW :],
        shape=(G, C, KH, KW, rows.stop - rows.start, cols.stop - cols.start, N),
        strides=(group, channel, DH * row, DW * pixel, SH * row, SW * pixel, number),
    )
    return xp.ascontiguousarray(windows).reshape(G, C * KH * KW, -1)


def add_tile_columns(xp, columns, image, window, rows, cols):
    """The adjoint of `tile_columns`: add every entry of the columns to the pixel that it was copied from.

    First the KH taps of a column of the kernel are added up, then the KW columns: KH + KW kernels on the GPU instead
    of KH * KW.

    Args:
        xp: the array module.
        columns: of the shape that `tile_columns` returns.
        image: padded images (G, C, HP, WP, N), which are added to.
        window: a Window.
        rows, cols: slices of the output's height and width.
    """
    G, C, _, _, N = image.shape
    (KH, KW), (SH, SW), (DH, DW) = window.kernel_size, window.stride, window.dilation
    R, S = rows.stop - rows.start, cols.stop - cols.start
    columns = columns.reshape(G, C, KH, KW, R, S, N)
    height = (R - 1) * SH + window.extent[0]
    strips = xp.zeros((G, C, KW, height, S, N), dtype=columns.dtype)
    for kh in range(KH):
        strips_read = strips[:, :, :, pixels_read(kh * DH, SH, R)]
        strips_read += columns[:, :, kh]  # `strips[...] += ` would write the sum a second time
    image_rows = image[:, :, rows.start * SH : rows.start * SH + height]
    for kw in range(KW):
        pixels = image_rows[:, :, :, pixels_read(cols.start * SW + kw * DW, SW, S)]
        pixels += strips[:, :, kw]


def written_bytes(shape, window, itemsize):
    """As `Operations.convolution_bytes`: the columns of the largest tile."""
    N, C, _, _ = shape
    KH, KW = window.kernel_size
    rows, cols = tiles(shape, window, itemsize)[0]
    return C * KH * KW * (rows.stop - rows.start) * (cols.stop - cols.start) * N * itemsize


def _grouped(x, groups):
    """Images (N, C, H, W) as (G, C/G, H, W, N); a view."""
    return x.transpose(1, 2, 3, 0).reshape(groups, -1, *x.shape[2:], len(x))


def _tile(y, groups, rows, cols):
    """A tile of the output as one matrix a group: (G, F/G, rows*cols*N); a view where the batch is innermost."""
    tile = _grouped(y, groups)[:, :, rows, cols]
    return tile.reshape(*tile.shape[:2], -1)
