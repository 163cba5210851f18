"""A stand-in for CuPy on a machine without a GPU: arrays that cannot be touched from the host by accident.

It computes with NumPy underneath, and refuses what would fail or silently copy on a device: NumPy functions on its
arrays, NumPy arrays mixed in, `float()`, truth values, iteration. `asarray` and `.get()` are the only bridges, and
are counted. It offers only names that CuPy offers, where CuPy can be imported (which needs no GPU). As CuPy does, and
NumPy does not, it lays every result out in C order, whatever the order of the arguments.
"""

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

#: What may: copies into another order, and cuBLAS, which takes a matrix either way.
COPIES = ("ascontiguousarray", "concatenate", "matmul")

#: What computes nothing.
VIEWS = ("reshape", "transpose", "swapaxes", "moveaxis", "broadcast_to", "as_strided", "empty", "result_type", "ravel")


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

    def get(self):
        """The one way to the host."""
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
            launches.append("take")
        return Array(np.asarray(self._values[_index(key)]))

    def __setitem__(self, key, value):
        place, value = self._values[_index(key)], _inner(value)
        if isinstance(value, np.ndarray) and value.ctypes.data == place.ctypes.data and value.strides == place.strides:
            launches.append("copy")  # after `a[key] += b` CuPy copies the sum away, and back
        launches.append("copy")
        self._values[_index(key)] = value

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


def _result(values, arguments=()):
    """An array on the device, in C order but for views."""
    values = np.asarray(values)
    is_view = any(isinstance(item, np.ndarray) and np.may_share_memory(values, item) for item in arguments)
    return Array(values if is_view else np.asarray(values, order="C"))


def _operator(name):
    function = getattr(operator, name)

    def forward(self, other):
        _launch(name, (self._values, _inner(other)))
        return _result(function(self._values, _inner(other)))

    def reflected(self, other):
        _launch(name, (self._values, _inner(other)))
        return _result(function(_inner(other), self._values))

    def in_place(self, other):
        _launch(name, (self._values, _inner(other)))
        getattr(operator, f"i{name}")(self._values, _inner(other))
        return self

    return forward, reflected, in_place


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    for _prefix, _method in zip(("", "r", "i"), _operator(_name), strict=True):
        setattr(Array, f"__{_prefix}{_name}__", _method)
for _name in ("lt", "le", "eq", "ne", "gt", "ge", "and_", "or_", "xor"):
    setattr(Array, f"__{_name.strip('_')}__", _operator(_name)[0])
for _name in ("neg", "abs", "invert", "pos"):
    setattr(Array, f"__{_name}__", lambda self, name=_name: Array(np.asarray(getattr(operator, name)(self._values))))
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
        args, options = [*map(_inner, args)], {key: _inner(value) for key, value in options.items()}
        if name not in VIEWS:
            _launch(name, (*args, *options.values(), *owner))
        result = function(*args, **options)
        if name == "reshape" and not np.may_share_memory(result, owner[0] if owner else args[0]):
            launches.append("copy")
        if isinstance(result, tuple):
            return tuple(_result(item) for item in result)
        if name == "result_type" or result is None:
            return result
        return _result(result, (*args, *options.values(), *owner))

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


streams, host_waits = [], []
_computing = _Stream()
strict.cuda = types.SimpleNamespace(
    Device=lambda: types.SimpleNamespace(mem_info=(memory["free"], 2**30)),
    Stream=_Stream,
    get_current_stream=lambda: _computing,
    alloc_pinned_memory=bytearray,
)
strict.random = types.SimpleNamespace(default_rng=_Generator)


def _asarray(values, dtype=None):
    if isinstance(values, Array):
        return values if dtype in (None, values.dtype) else values.astype(dtype)
    copies.append(("to device", np.shape(values)))
    return Array(np.array(values, dtype=dtype))


def _gemm(transa, transb, a, b, out=None, alpha=1.0, beta=0.0):
    launches.append("gemm")
    out._values[...] = _inner(alpha) * (a._values @ b._values) + beta * out._values


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
