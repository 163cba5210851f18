"""NumPy or CuPy: the only file that knows CuPy exists.

Both libraries offer the same functions on their own arrays. A layer asks
`array_module(x)` which of the two made its input and calls that one, so the
same lines run on the CPU and on the GPU. `use` chooses where new arrays
(weights, batches) are made.
"""

import os

import numpy as np

from minicnn.errors import BackendError

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


def batch_last(x):
    """A view of a batch (N, ...) with the batch as its last axis, (..., N): the order in which layers keep it.

    >>> batch_last(np.ones((32, 6, 14, 14))).shape
    (6, 14, 14, 32)
    """
    return x.transpose(*range(1, x.ndim), 0)  # moveaxis does the same, and takes 4 us for it


def batch_first(x):
    """The way back of `batch_last`: a view (N, ...) of an array (..., N)."""
    return x.transpose(x.ndim - 1, *range(x.ndim - 1))


def batch_innermost(x):
    """The same array, lying in memory with axis 0, the batch, innermost; copied only if it lies otherwise."""
    return batch_first(array_module(x).ascontiguousarray(batch_last(x)))


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
        import cupy.cublas  # for products.add_product

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
