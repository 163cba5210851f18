"""Matrix products: where nearly all of a network's time is spent.

NumPy passes a product to BLAS, a library that has been tuned for each
processor for decades. The speed of a matrix product depends on its shapes:
here large products are divided among the cores, products are cut into pieces
that BLAS multiplies fastest, and products are added in place instead of being
written to memory first. Each function says what that gained; all compute the
same numbers as the `@` in their first line.
"""

import ctypes
import functools

import numpy as np

from minicnn.backends.numpy.layout import batch_first, batch_last
from minicnn.backends.numpy.threads import (
    blas_libraries,
    blas_multiplies_small,
    chunk_slices,
    parallel_map,
    per_core_slices,
)

PARALLEL_WORK = 2**25  # multiply-adds from which it pays to divide the work among the cores
PARALLEL_PRODUCT = 25 * 10**6  # of one product of a matrix: a step of 784-1024-1024-10 units takes 5 % less time so
SMALL_PRODUCT = 10**6  # multiply-adds up to which BLAS multiplies small matrices, where `blas_multiplies_small`
THIN = 96  # columns up to which the second factor of `batched_matmul_sum` is transposed
CACHE_BYTES = 2**16  # two of a processor's first caches: where it divides the distance of so many lines they do not fit
AXPBY_SIZE = 2**12  # numbers from which a call of BLAS takes less time than three of NumPy
LARGE_MATRIX = 2**23  # bytes from which one is multiplied in small products; with 128 columns four times as many
ROWS_IN_CACHE = 480  # of a large matrix that are multiplied with all columns before the next are read
PRODUCT_BYTES = 2**23  # of a product computed at a time: large enough for BLAS, and still in the cache


def parallel_matmul(a, b, out=None):
    """`a @ b`; where it is large, the rows of `a` are divided among the cores.

    A product of (5000, 25088) and (25088, 32) takes 64 ms so, and 80 ms with BLAS's own threads. Cut into small
    products it takes 41, with 128 columns 150 instead of 184. A matrix that the cache keeps does not gain, nor one of
    more columns: (1024, 1024) by (1024, 128) takes 2.2 ms so, and 1.8 in halves.
    """
    if a.size * max(b.shape[1], 8) < PARALLEL_PRODUCT:  # to read a matrix takes as long as to multiply 8 columns
        return np.matmul(a, b, out=out)
    if out is None:
        out = np.empty((a.shape[0], b.shape[1]), dtype=a.dtype)
    N = b.shape[1]
    width = largest_divisor(N, limit=64)
    is_large = a.nbytes >= LARGE_MATRIX * max(1, N / 64) ** 2
    # a transposed matrix gains only from few columns, and one column is fastest in halves
    gains = width >= 8 and is_large if a.flags.c_contiguous else width == N > 1
    if blas_multiplies_small() and gains:
        pieces = np.ascontiguousarray(b.reshape(len(b), -1, width).swapaxes(0, 1))  # (N / width, inner, width)
        rows = 8 if a.flags.c_contiguous else 32
        parallel_map(lambda block: _in_small_products(a[block], pieces, out[block], rows), per_core_slices(len(a)))
    else:
        parallel_map(lambda block: np.matmul(a[block], b, out=out[block]), per_core_slices(len(a)))
    return out


def _in_small_products(a, pieces, out, rows):
    """`a` times some columns at a time, in products of some rows and a piece of the inner axis."""
    count, inner, width = pieces.shape
    first, *others = chunk_slices(inner, max(1, SMALL_PRODUCT // (rows * width)))
    end = len(a) // rows * rows
    for start in range(0, end, ROWS_IN_CACHE):
        block = slice(start, min(start + ROWS_IN_CACHE, end))
        stack = a[block].reshape(-1, rows, inner)
        target = out[block].reshape(-1, rows, count, width).transpose(2, 0, 1, 3)
        np.matmul(stack[:, :, first], pieces[:, None, first], out=target)
        for piece in others:
            target += stack[:, :, piece] @ pieces[:, None, piece]
    if end < len(a):
        out[end:] = (a[end:] @ pieces).swapaxes(0, 1).reshape(len(a) - end, -1)


def batched_matmul(a, b, out=None):
    """`a @ b` of stacks of matrices (G, S, rows, inner) and (G, S, inner, columns).

    Cut into small products, the second convolution of two_conv takes 1.1 ms for 16 images, and 1.5 uncut.
    """
    if out is None:
        out = np.empty((*b.shape[:2], a.shape[2], b.shape[3]), dtype=a.dtype)
    G, S, rows, columns = out.shape
    inner = a.shape[3]
    width = _small_width(rows, inner, columns) if blas_multiplies_small() else columns
    b = b.reshape(G, S, inner, columns // width, width).swapaxes(2, 3)
    np.matmul(a[:, :, None], b, out=out.reshape(G, S, rows, columns // width, width).swapaxes(2, 3))
    return out


def thin_matmul(a, b):
    """`a @ b` where the inner axis is the batch, as in the gradient of a dense weight.

    The rows of `a` are divided among the cores: a step of 784-1024-1024-10 units at batch 512 takes 31 ms so, and 39
    on one core. Where the rows of `b` are contiguous, both are cut into small products: (1024, 32) by (32, 1024)
    takes 0.6 of the time so, and a step at batch 32 0.95.
    """
    out = np.empty((len(a), b.shape[1]), dtype=a.dtype)
    if a.size * b.shape[1] >= PARALLEL_PRODUCT:
        parallel_map(lambda rows: _thin_matmul(a[rows], b, out[rows]), per_core_slices(len(a)))
    else:
        _thin_matmul(a, b, out)
    return out


def _thin_matmul(a, b, out):
    if a.size * b.shape[1] > SMALL_PRODUCT and b.flags.c_contiguous:
        batched_matmul(a[None, None], b[None, None], out=out[None, None])
    else:
        # not `matmul`, which computes (120, 1) by (1, 400), a batch of one, without BLAS: 120 us instead of 18
        np.dot(a, b, out=out)


def batched_matmul_sum(a, b):
    """The sum over S of `a @ b.T`, for stacks of matrices (G, S, rows, inner) and (G, S, columns, inner).

    BLAS multiplies a transposed second factor more slowly. Where `b` is thin, it is copied to its transpose, and `a` is
    cut into small matrices of 12 to 32 rows, if its rows can be: the gradient of the kernels of 5x5 pixels from 32 to
    32 channels takes 3.3 ms so for 16 images, and 4.1 uncut; that of 3x3 from 16 to 32 1.3 instead of 2.2, and a step
    of two_conv 0.96 of the time. To copy a `b` of more columns takes longer than it gains.

    Returns:
        (G, rows, columns).
    """
    rows, columns, inner = a.shape[2], b.shape[2], b.shape[3]
    if rows < 64:
        products = batched_matmul(a, b.swapaxes(2, 3))
        return products.sum(axis=1) if products.shape[1] > 1 else products[:, 0]
    if columns > THIN:
        return (a @ b.swapaxes(2, 3)).sum(axis=1)
    height, width = rows, inner
    if blas_multiplies_small():
        divisor = largest_divisor(rows, limit=32)
        thin = divisor if divisor >= 12 else rows
        short = largest_divisor(inner, limit=max(1, SMALL_PRODUCT // (thin * columns)))
        if short >= 64:
            height, width = thin, short
    pieces = a.reshape(*a.shape[:2], rows // height, height, inner // width, width).swapaxes(3, 4)
    products = pieces @ _transposed(b).reshape(*a.shape[:2], 1, inner // width, width, columns)
    return products.sum(axis=(1, 3)).reshape(len(a), rows, columns)


def _transposed(b):
    """Matrices (G, S, columns, inner) as (G, S, inner, columns), contiguous.

    Numbers whose distance is a multiple of a page share one place of the cache, which has room for some eight of them;
    so do the columns where an image has a power of two of pixels. They are first copied to other distances, and all is
    done in a fifth of the time: a step of a network with kernels of one pixel on 32x32 takes 0.9 of the time so.
    """
    columns = b.shape[2]
    if b.strides[2] % (CACHE_BYTES >> (columns - 1).bit_length()) == 0:
        apart = np.empty((*b.shape[:3], b.shape[3] + 16), b.dtype)[..., :-16]
        apart[...] = b
        b = apart
    return np.ascontiguousarray(b.swapaxes(2, 3))


@functools.cache
def largest_divisor(number, limit):
    """The largest divisor of a number up to a limit."""
    return next(divisor for divisor in range(min(number, limit), 0, -1) if number % divisor == 0)


@functools.cache
def _small_width(rows, inner, columns):
    """How many columns of a product of (rows, inner) and (inner, columns) make a piece; all of them if none pays.

    BLAS multiplies 64 columns at a time, or else 32: a kernel of 3x3 from 32 to 32 channels takes 0.31 ms for 16 images
    of 14x14 in pieces of 32 columns, and 0.45 uncut. To cut the rows as well, or more than 64 rows into pieces of 32
    columns, takes up to a third longer than uncut.
    """
    widths = (columns, 128, 64, 96, *((32, 112, 80, 48) if rows <= 64 else ()))
    return next((w for w in widths if columns % w == 0 and rows * inner * w <= SMALL_PRODUCT), columns)


def mean_of_images(x, first):
    """The mean over the axes from `first` on, which are kept with length 1, for each image: a product with ones.

    NumPy adds one row after the other, and each is as short as the batch: the means of 64 channels of 32x32 pixels take
    1.4 ms for 16 images, and 0.06 so.

    Args:
        x: a batch (N, ...).
        first: 1 for a mean of each image, 2 for one of each of its channels; not 0, the batch.
    """
    rows = batch_last(x).reshape(*x.shape[1:first], -1, len(x))
    count = rows.shape[-2]
    mean = np.ones((1, count), x.dtype) @ rows / x.dtype.type(count)
    return batch_first(mean).reshape(*x.shape[:first], *(1,) * (x.ndim - first))


def gemm(out, left, right, alpha, beta=1.0):
    """`out = beta * out + alpha * (left @ right)` in place, without writing the product to memory.

    That is BLAS's `gemm`, of which `matmul` offers only the product. The step of a dense weight of (5000, 25088) at
    batch 32 takes 53 ms so, and 90 ms with the product computed block by block, scaled, and subtracted.

    Args:
        out: (rows, columns), changed.
        left, right: (rows, N) and (N, columns), of the same dtype.
        alpha, beta: numbers, or scalar arrays.
    """
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    suits = out.flags.c_contiguous and out.flags.writeable and left.dtype == right.dtype == out.dtype
    blas_gemm = _blas_gemm(out.dtype.char) if suits else None

    def add(rows):
        if blas_gemm is not None:
            blas_gemm(out[rows], left[rows], right, alpha, beta)
        else:
            out[rows] *= beta
            out[rows] += (alpha * left[rows]) @ right

    size = 1 + PRODUCT_BYTES // max(1, out[0].nbytes)
    parallel_map(add, per_core_slices(len(out)) if blas_gemm is not None else chunk_slices(len(out), size))


def axpby(alpha, x, beta, y):
    """`y = alpha * x + beta * y` in place, in one pass over memory. Adam's step takes a quarter less time so.

    Args:
        alpha, beta: numbers.
        x, y: arrays of the same shape and dtype; y is changed.
    """
    suits = y.size >= AXPBY_SIZE and x.flags.carray and y.flags.carray and x.dtype == y.dtype
    blas_axpby = _blas_axpby(y.dtype.char) if suits else None
    if blas_axpby is not None:
        blas_axpby(alpha, x, beta, y)
        return
    if beta != 1:
        y *= beta
    y += alpha * x


@functools.cache
def _blas_axpby(dtype):
    """BLAS's `axpby`, from the library that NumPy ships; None where there is none."""
    function, number = _blas_function("axpby", dtype)
    if function is None:
        return None
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [integer, number, pointer, integer, number, pointer, integer]

    def blas_axpby(alpha, x, beta, y):
        function(x.size, alpha, _address(x), 1, beta, _address(y), 1)

    return blas_axpby


@functools.cache
def _blas_gemm(dtype):
    """BLAS's `gemm` for arrays in C order, from the library that NumPy ships; None where there is none."""
    function, number = _blas_function("gemm", dtype)
    if function is None:
        return None
    row_major, not_transposed, integer, pointer = 101, 111, ctypes.c_int64, ctypes.c_void_p  # as in cblas.h
    function.argtypes = (
        [ctypes.c_int] * 3 + [integer] * 3 + [number] + [pointer, integer] * 2 + [number, pointer, integer]
    )

    def blas_gemm(out, left, right, alpha, beta):
        (rows, columns), N = out.shape, len(right)
        function(
            *(row_major, not_transposed, not_transposed, rows, columns, N, alpha),
            *(left.ctypes.data, N, right.ctypes.data, columns, beta, out.ctypes.data, columns),
        )

    return blas_gemm


def _address(array):
    """Where an array begins that is contiguous, writable and not empty; `ctypes.data` takes three times as long."""
    return ctypes.addressof(ctypes.c_char.from_buffer(array))


def _blas_function(name, dtype):
    """A function of BLAS for float32 or float64, and the type of its numbers; None where there is none.

    Only a name that ends in 64_ is used: it says how wide the library's integers are.
    """
    if dtype not in "fd":
        return None, None
    kind, number = ("s", ctypes.c_float) if dtype == "f" else ("d", ctypes.c_double)
    names = [f"{prefix}cblas_{kind}{name}64_" for prefix in ("scipy_", "")]
    found = [getattr(library, name) for library in blas_libraries() for name in names if hasattr(library, name)]
    return (found[0] if found else None), number
