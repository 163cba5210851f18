"""A stand-in for CuPy on a machine without a GPU: arrays that cannot be touched from the host by accident.

It computes with NumPy underneath, and refuses what would fail or silently copy on a device: NumPy functions on its
arrays, NumPy arrays mixed in, `float()`, truth values, iteration. `asarray` and `.get()` are the only bridges, and
are counted. While a stream is captured it writes down what is asked for, and the graph does that each time it is
launched. It offers only names that CuPy offers, where CuPy can be imported (which needs no GPU). As CuPy does, and
NumPy does not, it lays every result out in C order, whatever the order of the arguments.
"""

import contextlib
import ctypes
import operator
import types

import numpy as np

try:
    import cupy
except ImportError:
    cupy = None

#: What crossed between host and device: ("to device" or "to host", shape).
copies = []

#: Kernels that were launched: the name of each function, operator or fused function.
launches = []

#: Launches that read or write an array against its order in memory, which a GPU does many times slower.
against_order = []

#: What may: copies into another order.
COPIES = ("copy", "concatenate")

#: What computes nothing; the first three copy where there is no such view.
COPY_OR_VIEW = ("ascontiguousarray", "reshape", "ravel")
VIEWS = (*COPY_OR_VIEW, "transpose", "swapaxes", "moveaxis", "broadcast_to", "as_strided", "empty", "result_type")


class Array:
    """An array on the device."""

    __array_ufunc__ = None

    def __init__(self, values):
        self._values = values

    shape = property(lambda self: self._values.shape)
    dtype = property(lambda self: self._values.dtype)
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    nbytes = property(lambda self: self._values.nbytes)
    itemsize = property(lambda self: self._values.itemsize)
    strides = property(lambda self: self._values.strides)
    flags = property(lambda self: self._values.flags)
    T = property(lambda self: Array(self._values.T))
    data = property(lambda self: types.SimpleNamespace(ptr=self._values.ctypes.data))

    def get(self):
        """The one way to the host."""
        if recording is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: a copy to the host while a stream is captured")
        copies.append(("to host", self.shape))
        return self._values.copy()

    def set(self, values, stream):
        """A copy to the device that is made when somebody waits for the stream."""
        copies.append(("to device", values.shape))
        stream.pending.append(lambda: self._values.__setitem__(..., values))

    def __len__(self):
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __getitem__(self, key):
        if any(isinstance(item, Array) for item in (key if isinstance(key, tuple) else (key,))):
            return _kernel("take", (), lambda: self._values[_index(key)])
        return Array(np.asarray(self._values[_index(key)]))

    def __setitem__(self, key, value):
        place, value = self._values[_index(key)], _inner(value)
        if isinstance(value, np.ndarray) and value.ctypes.data == place.ctypes.data and value.strides == place.strides:
            launches.append("copy")  # after `a[key] += b` CuPy copies the sum away, and back
        _kernel("copy", (), lambda: self._values.__setitem__(_index(key), value), in_place=True)

    def __getattr__(self, name):
        if name.startswith("_") or (cupy is not None and not hasattr(cupy.ndarray, name)):
            raise AttributeError(f"cupy.ndarray has no attribute {name!r}")
        method = getattr(np.ndarray, name)
        return _wrapped(lambda *args, **options: method(self._values, *args, **options), name, (self._values,))

    def __repr__(self):
        return f"Array(shape={self.shape}, dtype={self.dtype})"

    def _refused(self, *_, **__):
        raise TypeError("a silent copy to the host: use minicnn.to_numpy")

    __array__ = __array_function__ = __float__ = __int__ = __bool__ = __index__ = __iter__ = __complex__ = _refused
    __reduce_ex__ = _refused


def _launch(name, arguments):
    """Note a kernel, and whether neighbours along the last axis of an argument are none in memory."""
    launches.append(name)
    for item in arguments:
        if isinstance(item, np.ndarray):
            strides = [stride for stride, size in zip(item.strides, item.shape, strict=True) if size > 1 and stride]
            if name not in COPIES and strides and strides[-1] > min(strides):
                against_order.append((name, item.shape))


def _kernel(name, arguments, compute, in_place=False):
    """Launch a kernel: its result, a new array in C order; or nothing, where it changes one of its arguments."""
    _launch(name, arguments)
    if not in_place:
        if recording is None:
            return Array(np.asarray(compute(), order="C"))
        with np.errstate(all="ignore"):  # of numbers that have not been computed yet: only the shape counts
            result = np.asarray(compute(), order="C")
        recording.append(lambda: np.copyto(result, compute()))
        return Array(result)
    if recording is None:
        compute()
    else:
        recording.append(compute)
    return None


def _unary(name):
    return lambda self: _kernel(name, (self._values,), lambda: getattr(operator, name)(self._values))


def _operator(name):
    function = getattr(operator, name)

    def forward(self, other):
        values = self._values, _inner(other)
        return _kernel(name, values, lambda: function(*values))

    def reflected(self, other):
        values = _inner(other), self._values
        return _kernel(name, values, lambda: function(*values))

    def in_place(self, other):
        values = self._values, _inner(other)
        _kernel(name, values, lambda: getattr(operator, f"i{name}")(*values), in_place=True)
        return self

    return forward, reflected, in_place


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    for _prefix, _method in zip(("", "r", "i"), _operator(_name), strict=True):
        setattr(Array, f"__{_prefix}{_name}__", _method)
for _name in ("lt", "le", "eq", "ne", "gt", "ge", "and_", "or_", "xor"):
    setattr(Array, f"__{_name.strip('_')}__", _operator(_name)[0])
for _name in ("neg", "abs", "invert", "pos"):
    setattr(Array, f"__{_name}__", _unary(_name))
Array.__hash__ = object.__hash__


def _inner(value):
    """What NumPy computes with; a NumPy array has no business here."""
    if isinstance(value, Array):
        return value._values
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {np.ndarray}: a NumPy array of shape {value.shape} mixed with the device's")
    if isinstance(value, (list, tuple)):
        return type(value)(_inner(item) for item in value)
    return value


def _index(key):
    return tuple(_index(item) for item in key) if isinstance(key, tuple) else _inner(key)


def _wrapped(function, name, owner=()):
    def call(*args, **options):
        values, choices = [*map(_inner, args)], {key: _inner(value) for key, value in options.items()}
        arguments = (*values, *choices.values(), *owner)

        def compute():
            return function(*values, **choices)

        if name in VIEWS:
            result = compute()
            if name not in COPY_OR_VIEW or np.may_share_memory(result, owner[0] if owner else values[0]):
                return result if name == "result_type" else Array(np.asarray(result))
        if name == "fill":
            return _kernel(name, arguments, compute, in_place=True)
        if choices.get("out") is None:
            return _kernel("copy" if name in VIEWS else name, arguments, compute)
        _kernel(name, arguments, compute, in_place=True)
        return options["out"]

    return call


class _Generator:
    """CuPy's random generator."""

    def __init__(self, seed=None):
        self._generator = np.random.default_rng(seed)

    def random(self, size=None, dtype="float64", out=None):
        return Array(self._generator.random(size, dtype=np.dtype(dtype)))


class _Namespace(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__") or (cupy is not None and not hasattr(cupy, name)):
            raise AttributeError(f"CuPy has no {name!r}")
        item = getattr(np, name)
        if not callable(item) or isinstance(item, type):
            return item
        return _wrapped(item, name)


strict = _Namespace("strict")
strict.ndarray = Array
memory = {"free": 2**30}  # bytes


class _Stream:
    """Copies that wait until somebody waits for them; `waits` names the events that this stream waited for."""

    def __init__(self, non_blocking=False):
        self.pending, self.waits = [], []
        streams.append(self)

    def record(self):
        return _Event(self, len(self.pending))

    def wait_event(self, event):
        self.waits.append(event)
        event.run()

    def synchronize(self):
        self.record().synchronize()

    ptr = 0

    def __enter__(self):
        _current.append(self)

    def __exit__(self, *_):
        _current.pop()

    def begin_capture(self):
        global recording
        assert self is not _computing, "the default stream cannot be captured"
        recording = []

    def end_capture(self):
        global recording
        graph, recording = _Graph(recording), None
        return graph


class _Graph:
    """What was asked for while a stream was captured, as one launch."""

    def __init__(self, work):
        self.work = work

    def launch(self):
        launches.append("graph")
        for item in self.work:
            item()


class _Event:
    def __init__(self, stream, count):
        self.stream, self.count = stream, count

    def synchronize(self):
        host_waits.append(self)
        self.run()

    def run(self):
        for number in range(self.count):
            if self.stream.pending[number] is not None:
                self.stream.pending[number]()
                self.stream.pending[number] = None


recording = None  # what is asked for while a stream is captured: functions of nothing
streams, host_waits = [], []
_computing = _Stream()
_current = [_computing]
strict.cuda = types.SimpleNamespace(
    Device=lambda: types.SimpleNamespace(mem_info=(memory["free"], 2**30)),
    Stream=_Stream,
    get_current_stream=lambda: _current[-1],
    alloc_pinned_memory=bytearray,
    MemoryPool=lambda: types.SimpleNamespace(malloc=None),
    using_allocator=lambda allocator: contextlib.nullcontext(),
    device=types.SimpleNamespace(get_cublas_handle=lambda: 1),
    runtime=types.SimpleNamespace(is_hip=True),  # so that no real cuBLAS is asked for
)
strict.random = types.SimpleNamespace(default_rng=_Generator)


def _asarray(values, dtype=None):
    if isinstance(values, Array):
        return values if dtype in (None, values.dtype) else values.astype(dtype)
    copies.append(("to device", np.shape(values)))
    return Array(np.array(values, dtype=dtype))


def _gemm(transa, transb, a, b, out=None, alpha=1.0, beta=0.0):
    a, b, c = _inner(a), _inner(b), _inner(out)
    _kernel("gemm", (), lambda: np.copyto(c, alpha * (a @ b) + (beta * c if beta else 0)), in_place=True)
    return out


def _cublas_gemm(kind):
    """cuBLAS's product, with matrices given by address: `C = alpha * op(A) @ op(B) + beta * C`, columns first."""

    def matrix(address, rows, columns, ld):
        assert ld >= rows > 0 and columns > 0
        whole = np.ctypeslib.as_array((kind * (ld * columns)).from_address(address.value))
        return whole.reshape(columns, ld)[:, :rows].T

    def gemm(handle, turn_a, turn_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        a = matrix(a, k, m, lda).T if turn_a else matrix(a, m, k, lda)
        b = matrix(b, n, k, ldb).T if turn_b else matrix(b, k, n, ldb)
        _gemm("N", "N", Array(a), Array(b), Array(matrix(c, m, n, ldc)), alpha._obj.value, beta._obj.value)
        return 0

    return gemm, kind


#: What `minicnn.products.cublas` finds on a device.
cublas = {"f": _cublas_gemm(ctypes.c_float), "d": _cublas_gemm(ctypes.c_double), "stream": lambda handle, stream: 0}


def _fuse(kernel_name):
    """One launch for a whole function."""

    def decorate(function):
        def call(*arguments):
            before = len(launches)
            result = function(*arguments)
            launches[before:] = [kernel_name]
            return result

        return call

    return decorate


strict.asarray = _asarray
strict.fuse = _fuse
strict.cublas = types.SimpleNamespace(gemm=_gemm)
_as_strided = _wrapped(np.lib.stride_tricks.as_strided, "as_strided")
strict.lib = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=_as_strided))
