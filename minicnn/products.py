"""Matrix products: where nearly all of a network's time goes.

NumPy hands a product to BLAS, a library that has been tuned for each processor
for decades, and on the CPU it is hard to be faster. What is left to gain lies
in how it is asked: large products shared out among the cores, products cut
into pieces that BLAS multiplies best, and sums of products added where they
belong instead of being written down. Each function says what that gained; all
compute the same numbers as the `@` in their first line.
"""

import ctypes
import functools

import numpy as np

from minicnn.backend import array_module
from minicnn.threads import blas_libraries, blas_multiplies_small, in_parallel, parts, shares

SHARED_WORK = 2**25  # multiply-adds from which it pays to share work out among the cores
SMALL_PRODUCT = 10**6  # multiply-adds up to which BLAS multiplies small matrices, where `blas_multiplies_small`
ROWS_IN_CACHE = 480  # of a large matrix, so many are multiplied with all columns before the next are read
PRODUCT_BYTES = 2**23  # of a product multiplied out at a time: long enough for BLAS, and still in the cache


def product(a, b, out=None):
    """`a @ b`, where it is large with the rows of `a` shared out among the processor's cores.

    A product of (5000, 25088) and (25088, 32) takes 64 ms so, and 80 ms when BLAS itself shares it out. Cut into small
    products it takes 41, with 128 columns 150 instead of 184, and with 512 columns 609 instead of 639.
    """
    xp = array_module(a)
    if xp is not np or a.size * b.shape[1] < SHARED_WORK:
        return xp.matmul(a, b, out=out)
    if out is None:
        out = np.empty((a.shape[0], b.shape[1]), dtype=a.dtype)
    N = b.shape[1]
    width = N if N <= 64 else max(n for n in range(1, 65) if N % n == 0)
    # a transposed matrix, of which a few rows do not lie together, gains only from few columns
    if blas_multiplies_small() and (width >= 8 if a.flags.c_contiguous else width == N):
        pieces = np.ascontiguousarray(b.reshape(len(b), -1, width).swapaxes(0, 1))  # (N / width, inner, width)
        rows = 8 if a.flags.c_contiguous else 32
        in_parallel(lambda share: _in_small_products(a[share], pieces, out[share], rows), shares(len(a)))
    else:
        in_parallel(lambda share: np.matmul(a[share], b, out=out[share]), shares(len(a)))
    return out


def _in_small_products(a, pieces, out, rows):
    """`a` times some columns at a time, in products of some rows and a part of the inner axis."""
    count, inner, width = pieces.shape
    first, *others = parts(inner, max(1, SMALL_PRODUCT // (rows * width)))
    end = len(a) // rows * rows
    for start in range(0, end, ROWS_IN_CACHE):
        block = slice(start, min(start + ROWS_IN_CACHE, end))
        stack = a[block].reshape(-1, rows, inner)
        place = out[block].reshape(-1, rows, count, width).transpose(2, 0, 1, 3)
        np.matmul(stack[:, :, first], pieces[:, None, first], out=place)
        for part in others:
            place += stack[:, :, part] @ pieces[:, None, part]
    if end < len(a):
        out[end:] = (a[end:] @ pieces).swapaxes(0, 1).reshape(len(a) - end, -1)


def stacked_product(a, b, out=None):
    """`a @ b` of stacks of matrices (G, S, rows, inner) and (G, S, inner, columns); on the GPU S must be 1.

    Cut to small products, the second convolution of two_conv takes 1.1 ms for 16 images, and 1.5 whole.
    CuPy copies both stacks before it multiplies them, but not single matrices, which cuBLAS takes as they lie.
    """
    xp = array_module(a)
    if out is None:
        out = xp.empty((*b.shape[:2], a.shape[2], b.shape[3]), dtype=a.dtype)
    if xp is np:
        width = _small_width(a.shape[2] * a.shape[3], b.shape[3]) or b.shape[3]
        np.matmul(a[:, :, None], _cut(b, width), out=_cut(out, width))
        return out
    for group in range(len(b)):
        xp.matmul(a[group, 0], b[group, 0], out=out[group, 0])
    return out


def summed_product(a, b):
    """The sum over S of `a @ b.T`, for stacks of matrices (G, S, rows, inner) and (G, S, columns, inner).

    Small products are only taken as they lie if the second factor is, so `b` is turned over in memory first, where
    `a` has enough rows to make up for it: 1.4 ms for the weight's gradient in two_conv's second convolution and 16
    images, instead of 1.9.

    Returns:
        (G, rows, columns).
    """
    rows = a.shape[2]
    width = _small_width(rows * b.shape[2], b.shape[3])
    if array_module(a) is np and rows >= 64 and width:
        turned = np.ascontiguousarray(b.swapaxes(2, 3))  # (G, S, inner, columns)
        turned = turned.reshape(*turned.shape[:2], -1, width, turned.shape[3])
        return (_cut(a, width) @ turned).sum(axis=(1, 2))
    products = stacked_product(a, b.swapaxes(2, 3))
    return products.sum(axis=1) if products.shape[1] > 1 else products[:, 0]


def _small_width(work, columns):
    """How many of some columns, at `work` multiply-adds each, make a small product; None if it does not pay."""
    if blas_multiplies_small():
        for width in (columns, *range(128, 47, -16)):
            if columns % width == 0 and work * width <= SMALL_PRODUCT:
                return width
    return None


def _cut(stack, width):
    """Matrices (G, S, rows, columns) cut into (G, S, columns / width, rows, width); a view."""
    return stack.reshape(*stack.shape[:3], -1, width).swapaxes(2, 3)


def add_product(out, left, right, factor, keep):
    """`out = keep * out + factor * (left @ right)` in place, without writing the product down.

    That is BLAS's `gemm`, of which `matmul` offers only the product. The step of a dense weight of (5000, 25088) at
    batch 32 takes 53 ms so, and 90 ms with the product multiplied out block by block, scaled, and subtracted.

    Args:
        out: (rows, columns), changed.
        left, right: (rows, N) and (N, columns), of the same dtype.
        factor, keep: numbers.
    """
    xp = array_module(out)
    if xp is not np:
        xp.cublas.gemm("N", "N", left, right, out=out, alpha=factor, beta=keep)
        return
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    suits = out.flags.c_contiguous and out.flags.writeable and left.dtype == right.dtype == out.dtype
    gemm = _gemm(out.dtype.char) if suits else None

    def add(rows):
        if gemm is not None:
            gemm(out[rows], left[rows], right, factor, keep)
        else:
            out[rows] *= keep
            out[rows] += (factor * left[rows]) @ right

    in_parallel(add, shares(len(out)) if gemm is not None else parts(len(out), 1 + PRODUCT_BYTES // out[0].nbytes))


@functools.cache
def _gemm(dtype):
    """BLAS's `gemm` for arrays in C order, from the library that NumPy brings along; None where there is none.

    Only a name that ends in 64_ is taken: it tells how wide the library's integers are.
    """
    if dtype not in "fd":
        return None
    kind, number = ("s", ctypes.c_float) if dtype == "f" else ("d", ctypes.c_double)
    names = [f"{prefix}cblas_{kind}gemm64_" for prefix in ("scipy_", "")]
    found = [getattr(library, name) for library in blas_libraries() for name in names if hasattr(library, name)]
    if not found:
        return None
    row_major, as_it_stands, whole, address = 101, 111, ctypes.c_int64, ctypes.c_void_p  # as cblas.h has them

    def gemm(out, left, right, factor, keep):
        (rows, columns), N = out.shape, len(right)
        found[0](
            *(row_major, as_it_stands, as_it_stands, whole(rows), whole(columns), whole(N), number(factor)),
            *(address(left.ctypes.data), whole(N), address(right.ctypes.data), whole(columns)),
            *(number(keep), address(out.ctypes.data), whole(columns)),
        )

    return gemm
