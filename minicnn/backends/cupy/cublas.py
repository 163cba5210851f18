"""Matrix products by cuBLAS, which is called directly.

CuPy's `matmul` calls the same function, but not while a step is recorded (cupy/cupy#6290); and it does not add a
product to an array.
"""

import ctypes
import functools

from minicnn.core.errors import BackendError


def matmul(xp, a, b, out=None, beta=0.0):
    """`a @ b`, or `out = beta * out + a @ b`. Matrices are not copied where their rows or columns are contiguous.

    Args:
        xp: the array module.
        a, b: (m, k) and (k, n), of the same dtype, float32 or float64.
        out: (m, n); a new array where it is None.
        beta: a number.

    Raises:
        BackendError: cuBLAS reports an error.
    """
    if out is None:
        out = xp.empty((a.shape[0], b.shape[1]), dtype=a.dtype)
    library = find_cublas(xp)
    out_stride, out_transposed = _layout(out)
    if out_stride is None or out_transposed or (library is None and not out.flags.c_contiguous):
        if beta:
            out *= beta
            out += matmul(xp, a, b)
        else:
            out[...] = matmul(xp, a, b)
        return out
    if library is None:
        return xp.cublas.gemm("N", "N", a, b, out=out, beta=beta)
    a, a_stride, a_transposed = _with_layout(xp, a)
    b, b_stride, b_transposed = _with_layout(xp, b)
    (m, n), k = out.shape, a.shape[1]
    gemm, number = library[a.dtype.char]
    alpha, beta = number(1), number(beta)
    handle = xp.cuda.device.get_cublas_handle()
    library["stream"](ctypes.c_void_p(handle), ctypes.c_void_p(xp.cuda.get_current_stream().ptr))
    # cuBLAS reads memory column by column: what is stored by rows is a transposed matrix for it. So it computes
    # out.T = b.T @ a.T.
    status = gemm(
        *(ctypes.c_void_p(handle), int(b_transposed), int(a_transposed), n, m, k),
        *(ctypes.byref(alpha), ctypes.c_void_p(b.data.ptr), b_stride, ctypes.c_void_p(a.data.ptr), a_stride),
        *(ctypes.byref(beta), ctypes.c_void_p(out.data.ptr), out_stride),
    )
    if status:
        raise BackendError(f"cuBLAS reports error {status} for a product of {a.shape} and {b.shape}")
    return out


def _layout(matrix):
    """Numbers from one row to the next in memory, and False; or from one column to the next, and True.

    (None, False) for a matrix of which neither rows nor columns are contiguous.
    """
    (rows, columns), (row, column), size = matrix.shape, matrix.strides, matrix.itemsize
    if (column == size or columns == 1) and (row >= columns * size or rows == 1):
        return max(row // size, columns), False
    if (row == size or rows == 1) and (column >= rows * size or columns == 1):
        return max(column // size, rows), True
    return None, False


def _with_layout(xp, matrix):
    """A matrix and its `_layout`; a copy where cuBLAS cannot read it as it is."""
    stride, transposed = _layout(matrix)
    if stride is None:
        matrix = xp.ascontiguousarray(matrix)
        stride, transposed = _layout(matrix)
    return matrix, stride, transposed


@functools.cache
def find_cublas(xp):
    """cuBLAS's products by dtype, from the library that CuPy has loaded; None with another library, as on ROCm."""
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
