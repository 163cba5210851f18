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
from minicnn.errors import BackendError
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
    if array_module(a) is not np:
        return device_product(a, b, out)
    if a.size * b.shape[1] < SHARED_WORK:
        return np.matmul(a, b, out=out)
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
    There are as many matrices as the convolution has groups, and cuBLAS takes each as it lies.
    """
    xp = array_module(a)
    if out is None:
        out = xp.empty((*b.shape[:2], a.shape[2], b.shape[3]), dtype=a.dtype)
    if xp is np:
        width = _small_width(a.shape[2] * a.shape[3], b.shape[3]) or b.shape[3]
        np.matmul(a[:, :, None], _cut(b, width), out=_cut(out, width))
        return out
    for group in range(len(b)):
        device_product(a[group, 0], b[group, 0], out[group, 0])
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


def matmul(a, b):
    """`a @ b` in one piece: for small matrices, and where the cores are already at work on parts."""
    return a @ b if array_module(a) is np else device_product(a, b)


def add_product(out, left, right, factor, keep=None):
    """`out = keep * out + factor * (left @ right)` in place, without writing the product down.

    That is BLAS's `gemm`, of which `matmul` offers only the product. The step of a dense weight of (5000, 25088) at
    batch 32 takes 53 ms so, and 90 ms with the product multiplied out block by block, scaled, and subtracted.

    Args:
        out: (rows, columns), changed.
        left, right: (rows, N) and (N, columns), of the same dtype.
        factor, keep: numbers, or scalar arrays; `keep` None for 1.
    """
    if array_module(out) is not np:
        if keep is not None:
            out *= keep
        device_product(left * factor, right, out, keep=1.0)
        return
    keep = 1.0 if keep is None else keep
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


def device_product(a, b, out=None, keep=0.0):
    """`a @ b` on the GPU, or `out = keep * out + a @ b`: matrices that lie by rows or by columns, taken as they lie.

    CuPy's `matmul` calls the same function of cuBLAS, but refuses to while a step is recorded (cupy/cupy#6290).

    Raises:
        BackendError: cuBLAS reports an error.
    """
    xp = array_module(a)
    if out is None:
        out = xp.empty((a.shape[0], b.shape[1]), dtype=a.dtype)
    library = cublas(xp)
    if library is None:
        return xp.cublas.gemm("N", "N", a, b, out=out, beta=keep)
    if not out.flags.c_contiguous:
        out[...] = device_product(a, b)  # a tile of an image: here `keep` is 0
        return out
    # To cuBLAS, which counts columns first, a matrix that lies by rows is turned over: it makes out.T = b.T @ a.T.
    (a, a_row, a_turned), (b, b_row, b_turned) = _as_it_lies(a), _as_it_lies(b)
    (m, n), k = out.shape, a.shape[1]
    gemm, number = library[a.dtype.char]
    factors = number(1), number(keep)
    handle = xp.cuda.device.get_cublas_handle()
    library["stream"](ctypes.c_void_p(handle), ctypes.c_void_p(xp.cuda.get_current_stream().ptr))
    status = gemm(
        *(ctypes.c_void_p(handle), b_turned, a_turned, n, m, k),
        *(ctypes.byref(factors[0]), ctypes.c_void_p(b.data.ptr), b_row, ctypes.c_void_p(a.data.ptr), a_row),
        *(ctypes.byref(factors[1]), ctypes.c_void_p(out.data.ptr), n),
    )
    if status:
        raise BackendError(f"cuBLAS reports error {status} for a product of {a.shape} and {b.shape}")
    return out


def _as_it_lies(matrix):
    """A matrix, the distance of its rows or columns in memory, and 1 where it lies by columns."""
    if not matrix.flags.c_contiguous and matrix.flags.f_contiguous:
        return matrix, matrix.shape[0], 1
    return array_module(matrix).ascontiguousarray(matrix), matrix.shape[1], 0


@functools.cache
def cublas(xp):
    """cuBLAS's products by dtype, from the library that CuPy has loaded; None with another one, as on ROCm."""
    if xp.cuda.runtime.is_hip:
        return None
    version = xp.cuda.runtime.runtimeGetVersion() // 1000
    for name in (f"libcublas.so.{version}", f"cublas64_{version}.dll"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        gemms = {"f": (library.cublasSgemm_v2, ctypes.c_float), "d": (library.cublasDgemm_v2, ctypes.c_double)}
        return gemms | {"stream": library.cublasSetStream_v2}
    return None
