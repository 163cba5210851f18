"""NumPy or CuPy: the only file that knows CuPy exists.

Both libraries offer the same functions on their own arrays. A layer asks
`array_module(x)` which of the two made its input and calls that one, so the
same lines run on the CPU and on the GPU. `use` chooses where new arrays
(weights, batches) are made.
"""

import ctypes
import functools
import os

import numpy as np

from minicnn.errors import BackendError
from minicnn.threads import blas_libraries, in_parallel, parts, shares

SHARED_WORK = 2**25  # multiply-adds from which it pays to share work out among the cores
PRODUCT_BYTES = 2**23  # of a product multiplied out at a time: long enough for BLAS, and still in the cache

_namespaces = {np.ndarray: np}  # the type of an array -> the module that works on it
_active = np


def use(name):
    """Choose where models live from now on: `"numpy"` (the CPU), `"cupy"` (the GPU) or `"auto"`.

    Also the environment variable `MINICNN_BACKEND`, read when minicnn is imported.
    Arrays made before stay where they are.

    Args:
        name: "numpy", "cupy", "auto" (the GPU if it works), or a module with NumPy's names.

    Returns:
        the name of the backend taken.

    Raises:
        BackendError: the backend cannot work here; the message says what is missing.

    >>> use("numpy")
    'numpy'
    """
    global _active
    if name == "auto":
        try:
            return use("cupy")
        except BackendError:
            return use("numpy")
    if name == "numpy":
        _active = np
    elif name == "cupy":
        _active = _working_cupy()
    elif hasattr(name, "ndarray") and hasattr(name, "asarray"):
        _active = name
    else:
        raise BackendError(f"unknown backend {name!r}: use 'numpy', 'cupy' or 'auto'")
    _namespaces[_active.ndarray] = _active
    return _active.__name__


def active():
    """The module in which new arrays are made.

    >>> active().__name__
    'numpy'
    """
    return _active


def array_module(x):
    """The module (NumPy or CuPy) that made the array `x`.

    Raises:
        TypeError: `x` is not an array of either.

    >>> array_module(np.ones(3)).__name__
    'numpy'
    """
    try:
        return _namespaces[type(x)]
    except KeyError:
        for kind, module in _namespaces.items():
            if isinstance(x, kind):
                return module
        raise TypeError(f"expected an array, got {type(x).__name__}: {x!r:.60}") from None


def to_device(x, dtype=None):
    """`x`, an array or a list, as an array of the active backend, copied only if it has to be.

    >>> to_device([1, 2], dtype="float32")
    array([1., 2.], dtype=float32)
    """
    return _active.asarray(x, dtype=dtype)


def to_numpy(x):
    """`x` as a NumPy array on the host; an array that already is one comes back as it is.

    >>> x = np.ones(2)
    >>> to_numpy(x) is x
    True
    """
    return x.get() if hasattr(x, "get") else np.asarray(x)


def resident(x):
    """A data set on the device, where it takes no more than a quarter of the memory that is free there; else as it is.

    Batches are then taken from it on the device, and nothing is copied there in a step but their indices.
    """
    if _active is np:
        return x
    free, _ = _active.cuda.Device().mem_info
    return to_device(x) if x.nbytes <= free // 4 else x


def take(x, rows):
    """Some rows of an array; both it and the rows, a slice or indices, may lie on the host or on the device."""
    if isinstance(rows, slice):
        return x[rows]
    return x[to_numpy(rows)] if isinstance(x, np.ndarray) else x[to_device(rows)]


def number(x):
    """A scalar of any backend as a Python float; on a GPU this waits until it is computed."""
    return float(to_numpy(x))


def batch_innermost(x):
    """The same array, lying in memory with axis 0, the batch, innermost; copied only if it lies otherwise."""
    xp = array_module(x)
    return xp.moveaxis(xp.ascontiguousarray(xp.moveaxis(x, 0, -1)), -1, 0)


def product(a, b, out=None):
    """`a @ b`, where it is large with the rows of `a` shared out among the processor's cores.

    A product of (5000, 25088) and (25088, 32) takes 66 ms so, and 80 ms when BLAS itself shares it out.
    """
    xp = array_module(a)
    if xp is not np or a.size * b.shape[1] < SHARED_WORK:
        return xp.matmul(a, b, out=out)
    if out is None:
        out = np.empty((a.shape[0], b.shape[1]), dtype=a.dtype)
    in_parallel(lambda rows: np.matmul(a[rows], b, out=out[rows]), shares(len(a)))
    return out


def stacked_product(a, b, out=None):
    """`a @ b` of stacks of matrices (G, S, rows, inner) and (G, S, inner, columns); on the GPU S must be 1.

    CuPy copies both stacks before it multiplies them, but not single matrices, which cuBLAS takes as they lie.
    """
    xp = array_module(a)
    if xp is np:
        return np.matmul(a, b, out=out)
    if out is None:
        out = xp.empty((len(b), 1, a.shape[2], b.shape[3]), dtype=a.dtype)
    for group in range(len(b)):
        xp.matmul(a[group, 0], b[group, 0], out=out[group, 0])
    return out


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


def _working_cupy():
    """CuPy, once it has shown that it can compute; a BackendError with the cure otherwise."""
    extras = "pip install 'minicnn-numpy[cuda12]' (or [cuda13], [rocm])"
    try:
        import cupy
    except ImportError as error:
        raise BackendError(f"CuPy cannot be imported ({error}): {extras}") from error
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            raise BackendError("CuPy finds no GPU on this machine")
        import cupy.cublas  # for add_product

        trial = cupy.ones((2, 2), dtype=np.float32)
        if not float(((trial @ trial).sum() + cupy.tanh(trial).sum()).get()) > 8:
            raise BackendError("the GPU computes wrong values")
        cupy.random.default_rng(0).random((2, 2))  # for Dropout
    except BackendError:
        raise
    except Exception as error:  # CuPy's own errors cannot be named without CuPy
        why = " ".join(str(error).split())  # CuPy's messages may have many lines
        raise BackendError(f"the GPU cannot be used: {why}; CUDA's libraries come with {extras}") from error
    return cupy


if os.environ.get("MINICNN_BACKEND"):
    use(os.environ["MINICNN_BACKEND"])
