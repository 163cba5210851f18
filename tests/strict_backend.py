"""A stand-in for CuPy on a machine without a GPU: arrays that cannot be copied to the host by accident.

It computes with NumPy underneath, and refuses what would fail or silently copy on a device: NumPy arrays mixed in,
`float()`, truth values, iteration. `asarray` and `.get()` are the only bridges, and are counted. NumPy's functions
work on its arrays by the protocols `__array_ufunc__` and `__array_function__`, as CuPy implements them. While a stream
is captured it notes what is launched, and the graph does that each time it is launched. It offers only names that CuPy
offers, where CuPy can be imported (which needs no GPU). As CuPy does, and NumPy does not, it lays almost every result
out in C order, whatever the order of the arguments.
"""

import contextlib
import ctypes
import functools
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

#: Launches that read or write an array against its memory layout, which a GPU does many times slower.
against_layout = []

#: What may: copies to another layout.
COPIES = ("copy", "concatenate")

#: What keeps the memory layout of its argument, which is `order="K"` in CuPy as in NumPy.
KEEP_LAYOUT = ("astype", "zeros_like", "ones_like", "full_like", "empty_like")

#: What computes nothing; the first three copy where there is no such view.
COPY_OR_VIEW = ("ascontiguousarray", "reshape", "ravel")
VIEWS = (*COPY_OR_VIEW, "transpose", "swapaxes", "moveaxis", "broadcast_to", "as_strided", "empty", "empty_like")

#: What returns no array, and looks at shapes and dtypes only.
NO_ARRAY = ("result_type", "shape", "ndim", "size", "can_cast", "broadcast_shapes", "iscomplexobj", "isrealobj")

#: The scalars that CuPy's `ndarray.__array_ufunc__` accepts besides arrays.
SCALARS = (bool, int, float, complex, np.generic)


class Array:
    """An array on the device."""

    def __init__(self, values):
        self._values = values

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        """NumPy's elementwise functions: CuPy calls its own function of the same name.

        As cupy/_core/core.pyx: an unknown name or another type than arrays and scalars is NotImplemented, which NumPy
        makes a TypeError; a NumPy array is one in CuPy's function. CuPy would also call `matmul`, and new versions
        `reduce`. They are refused: a recorded step cannot contain the first (see cublas.py of the backend), and old
        versions do not have the second.
        """
        if method != "__call__" or ufunc.signature is not None or _fusing:
            return NotImplemented
        if cupy is not None and not hasattr(cupy, ufunc.__name__):
            return NotImplemented
        out = options.pop("out", (None,))
        if len(out) != 1 or not all(isinstance(item, (Array, np.ndarray, *SCALARS)) for item in inputs):
            return NotImplemented
        return _wrapped(ufunc, ufunc.__name__)(*inputs, out=out[0], **options)

    def __array_function__(self, function, kinds, arguments, options):
        """NumPy's other functions: CuPy calls its own function of the same module and name.

        As cupy/_core/core.pyx: a name that CuPy does not have is NotImplemented, which NumPy makes a TypeError.
        """
        if _fusing or not set(kinds) <= {Array, np.ndarray}:
            return NotImplemented
        if cupy is not None:
            try:
                module = functools.reduce(getattr, function.__module__.split(".")[1:], cupy)
                if getattr(module, function.__name__) is function:
                    return NotImplemented
            except AttributeError:
                return NotImplemented
        return _wrapped(function, function.__name__)(*arguments, **options)

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
        target, value = self._values[_index(key)], _inner(value)
        if (
            isinstance(value, np.ndarray)
            and value.ctypes.data == target.ctypes.data
            and value.strides == target.strides
        ):
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

    __array__ = __float__ = __int__ = __bool__ = __index__ = __iter__ = __complex__ = _refused
    __reduce_ex__ = _refused


def _launch(name, arguments):
    """Note a kernel, and whether neighbours along the last axis of an argument are not neighbours in memory."""
    launches.append(name)
    for item in arguments:
        if isinstance(item, np.ndarray):
            strides = [stride for stride, size in zip(item.strides, item.shape, strict=True) if size > 1 and stride]
            if name not in COPIES and strides and strides[-1] > min(strides):
                against_layout.append((name, item.shape))


def _kernel(name, arguments, compute, in_place=False):
    """Launch a kernel: its result, a new array, mostly in C order; or nothing, where it changes an argument."""
    _launch(name, arguments)
    if not in_place:
        order = "K" if name in KEEP_LAYOUT else "C"
        if recording is None:
            return Array(np.asarray(compute(), order=order))
        with np.errstate(all="ignore"):  # of numbers that have not been computed yet: only the shape counts
            result = np.asarray(compute(), order=order)
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
    """What NumPy computes with; a NumPy array is refused."""
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
        values = [*map(_inner, args)]
        choices = {key: _inner(value) for key, value in options.items() if key != "out" or value is not None}
        arguments = () if name.endswith("_like") else (*values, *choices.values(), *owner)  # only shapes are read

        def compute():
            return function(*values, **choices)

        if name in NO_ARRAY:
            return compute()
        if name in VIEWS:
            result = compute()
            if name not in COPY_OR_VIEW or np.may_share_memory(result, owner[0] if owner else values[0]):
                return Array(np.asarray(result))
        if name == "fill":
            return _kernel(name, arguments, compute, in_place=True)
        if "out" not in choices:
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
    """What was launched while a stream was captured, as one launch."""

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


recording = None  # what is launched while a stream is captured: functions without arguments
_fusing = False  # while CuPy traces a function that is fused; its stand-ins do not implement NumPy's protocols
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
    runtime=types.SimpleNamespace(is_hip=True),  # so that no real cuBLAS is looked for
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
        memory = np.ctypeslib.as_array((kind * (ld * columns)).from_address(address.value))
        return memory.reshape(columns, ld)[:, :rows].T

    def gemm(handle, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        a = matrix(a, k, m, lda).T if transpose_a else matrix(a, m, k, lda)
        b = matrix(b, n, k, ldb).T if transpose_b else matrix(b, k, n, ldb)
        _gemm("N", "N", Array(a), Array(b), Array(matrix(c, m, n, ldc)), alpha._obj.value, beta._obj.value)
        return 0

    return gemm, kind


#: What `minicnn.backends.cupy.cublas.find_cublas` finds on a device.
cublas = {"f": _cublas_gemm(ctypes.c_float), "d": _cublas_gemm(ctypes.c_double), "stream": lambda handle, stream: 0}


def _fuse(kernel_name):
    """One launch for a complete function."""

    def decorate(function):
        def call(*arguments):
            global _fusing
            if any(type(item) is float for item in arguments):
                raise TypeError("a Python number is a float64 for CuPy 13, and so is the result")
            arguments = [Array(np.asarray(item)) if isinstance(item, np.generic) else item for item in arguments]
            before, _fusing = len(launches), True
            try:
                result = function(*arguments)
            finally:
                _fusing = False
            launches[before:] = [kernel_name]
            return result

        return call

    return decorate


strict.asarray = _asarray
strict.fuse = _fuse
strict.cublas = types.SimpleNamespace(gemm=_gemm)
_as_strided = _wrapped(np.lib.stride_tricks.as_strided, "as_strided")
strict.lib = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=_as_strided))
