"""Backends: other ways to compute the operations of `minicnn.core.operations`, and the switch between them."""

import numpy as np

from minicnn.backends.numpy import NumpyOperations
from minicnn.core import operations
from minicnn.core.checks import quoted
from minicnn.core.errors import BackendError
from minicnn.core.operations import Operations
from minicnn.core.types import Array, ArrayLike, DType

NAMES = ("plain", "numpy", "cupy", "auto")

_made: dict[str, Operations] = {}  # one object for each backend that was used


def use(backend: str | Operations) -> str:
    """Choose what computes from now on.

    Also the environment variable `MINICNN_BACKEND`, read when minicnn is imported. Arrays made before stay where they
    are: `layer.convert()` moves a layer or a model.

    Args:
        backend: "plain", the formulas of `minicnn.core`; "numpy", the same faster, the default; "cupy", on the GPU;
            "auto", the GPU if it works, else "numpy"; or an object of a class derived from
            `minicnn.core.operations.Operations`.

    Returns:
        the name of the backend in use.

    Raises:
        BackendError: the backend cannot work here; the message says what is missing.

    >>> use("numpy")
    'numpy'
    """
    if backend == "auto":
        try:
            return use("cupy")
        except BackendError:
            return use("numpy")
    chosen = backend if isinstance(backend, Operations) else _make(backend)
    operations.use(chosen)
    return chosen.name


def current() -> Operations:
    """The backend in use, an object of a class derived from `minicnn.core.operations.Operations`.

    >>> use("numpy") == current().name
    True
    """
    return operations.current


def to_device(x: ArrayLike, dtype: DType | None = None) -> Array:
    """`x`, an array or a list, as an array of the backend in use, copied only if necessary.

    Args:
        x: an array, a list or a number.
        dtype: of the result; None keeps that of `x`.

    Returns:
        an array of the backend in use.

    >>> to_device([1, 2], dtype="float32")
    array([1., 2.], dtype=float32)
    """
    return operations.current.array(x, dtype)


def to_numpy(x: ArrayLike) -> np.ndarray:
    """`x` as a NumPy array in main memory; a NumPy array is returned as it is.

    Args:
        x: an array of the backend in use, or what NumPy can read as one.

    Returns:
        a NumPy array of the same shape and dtype.

    >>> import numpy as np
    >>> x = np.ones(2)
    >>> to_numpy(x) is x
    True
    """
    return operations.current.to_numpy(x)


def _make(name):
    if name not in NAMES:
        raise BackendError(f"unknown backend {quoted(name)}: use {', '.join(map(repr, NAMES))}")
    if name not in _made:
        if name == "cupy":
            from minicnn.backends.cupy import working_backend  # needs CuPy

            return working_backend()
        _made[name] = Operations() if name == "plain" else NumpyOperations()
    return _made[name]
