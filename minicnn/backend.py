"""NumPy or CuPy: the only file that knows CuPy exists.

Both libraries offer the same functions on their own arrays. A layer asks
`array_module(x)` which of the two made its input and calls that one, so the
same lines run on the CPU and on the GPU. `use` chooses where new arrays
(weights, batches) are made.
"""

import os
import re

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


def fed(x, batches):
    """The images of one batch after the other, on the device.

    From a set that lies on the host the next batch is copied to the GPU while the computation with this one is under
    way: in a stream of its own, out of memory that the system does not move, into two places in turn.

    Args:
        x: the set, an array or `Rows` of one.
        batches: a list with the rows of each batch, slices or indices.

    Yields:
        the images of a batch. They are overwritten when the next but one is asked for.

    >>> [batch.tolist() for batch in fed(np.arange(5), [slice(0, 3), slice(3, 5)])]
    [[0, 1, 2], [3, 4]]
    """
    parts = (take(x, rows) for rows in batches)
    first = next(parts, None)
    if _active is np or not isinstance(first, np.ndarray):
        if first is not None:
            yield first
        yield from parts
        return
    computing, copying = _active.cuda.get_current_stream(), _active.cuda.Stream(non_blocking=True)
    here, there = (_Ferry(first, copying, free=computing.record()) for _ in range(2))
    try:
        here.load(first)
        while here.loaded:
            there.load(next(parts, None))
            computing.wait_event(here.arrived)
            yield here.device[: here.loaded]
            here.free = computing.record()
            here, there = there, here
    finally:
        copying.synchronize()  # before the memory goes to others


class _Ferry:
    """Memory for a batch on both sides, and the stream that carries it over.

    Args:
        batch: the largest there will be, a NumPy array.
        stream: of the copies.
        free: the event after which the memory on the device is no longer in use.
    """

    def __init__(self, batch, stream, free):
        self.stream, self.free, self.arrived, self.loaded = stream, free, None, 0
        memory = _active.cuda.alloc_pinned_memory(batch.nbytes)
        self.host = np.frombuffer(memory, batch.dtype, batch.size).reshape(batch.shape)
        self.device = _active.empty(batch.shape, dtype=batch.dtype)

    def load(self, batch):
        """Send a batch; nothing is waited for but the last one's departure."""
        self.loaded = 0 if batch is None else len(batch)
        if not self.loaded:
            return
        if self.arrived is not None:
            self.arrived.synchronize()
        self.host[: self.loaded] = batch
        self.stream.wait_event(self.free)
        self.device[: self.loaded].set(self.host[: self.loaded], stream=self.stream)
        self.arrived = self.stream.record()


def fused(*functions):
    """Elementwise functions, each but the first of the last one's result, as one kernel on the GPU by CuPy's `fuse`.

    On the CPU they run as they stand. The kernel is made once for each such function in the code. So what differs from
    call to call must be among its arguments. And it must not compute with numbers alone, such as `1 - beta`: inside of
    a kernel CuPy does that in float16. Give it the result.

    CuPy lays every result out in C order. Here the result of batches that lie with the batch innermost lies so, too.

    Args:
        functions: of an array module and of arrays, an array first, and numbers.

    >>> def scaled_sum(xp, x, y, factor):
    ...     return factor * (x + y)
    >>> fused(scaled_sum)(np.ones(2), np.ones(2), 0.5)
    array([1., 1.])
    """

    def call(*arguments):
        first = arguments[0]
        xp = array_module(first)
        if xp is np:
            return _in_turn(np, functions, arguments)
        kernel = _kernel(xp, functions)
        # A Python number would be a float64 to CuPy 13, and with it the result.
        arguments = [first.dtype.type(item) if isinstance(item, float) else item for item in arguments]
        if first.ndim < 2 or first.strides[0] >= first.strides[-1]:
            return kernel(*arguments)
        turned = (batch_last(item) if getattr(item, "ndim", 0) == first.ndim else item for item in arguments)
        result = kernel(*turned)
        return None if result is None else batch_first(result)

    return call


def _in_turn(xp, functions, arguments):
    result = functions[0](xp, *arguments)
    for function in functions[1:]:
        result = function(xp, result)
    return result


def _kernel(xp, functions):
    key = xp, *(function.__code__ for function in functions)
    if key not in _kernels:
        name = re.sub(r"\W", "_", "_".join(function.__qualname__ for function in functions)).replace("__locals__", "_")
        _kernels[key] = xp.fuse(kernel_name=name)(lambda *arguments: _in_turn(xp, functions, arguments))
    return _kernels[key]


_kernels = {}  # (module, code of each function) -> the kernel


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
        import cupy.cublas  # for products.device_product

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
