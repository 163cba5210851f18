"""What `torch.save` writes, read without PyTorch: a zip with one member for each row of numbers, and a pickle.

The pickle says which part of which row each tensor is: an offset, a shape and
strides. A pickle is a program of a stack machine, and its instructions may name
any function of Python and call it. So it is not given to the module `pickle`.
`pickletools` lists its instructions without running them, and the small machine
below knows only those that make dicts, lists, tuples, texts and numbers, and the
few names that PyTorch writes for tensors. Everything else is refused by its
name; no function is looked up.
"""

import math
import os
import pickletools
import re
import typing
import zipfile

import numpy as np

from minicnn.core.checks import is_integer, quoted
from minicnn.core.errors import FileError
from minicnn.storage.arrays import BoundedReads
from minicnn.storage.files import open_file, reading

_PROGRAM_LIMIT = 2**20  # bytes of the pickle; a tensor takes some 150, and each byte makes at most 100 in memory
_READ_SIZE = 2**20  # bytes read at a time
_FIX = "write the weights alone: torch.save(network.state_dict(), path)"

#: The dtype of a row of numbers, by the class that the pickle names.
STORAGES = {
    "torch DoubleStorage": "float64",
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}


class Name(typing.NamedTuple):
    """A name of Python in the pickle, "collections OrderedDict"; it stays a text."""

    text: str


class Storage(typing.NamedTuple):
    """A row of numbers: their dtype, the member of the zip that holds them, and how many they are."""

    dtype: str
    member: str
    count: int  # type: ignore[assignment]

    @property
    def stored_dtype(self):
        """A NumPy dtype of the same size; NumPy has no bfloat16."""
        return np.dtype("uint16" if self.dtype == "bfloat16" else self.dtype)


class Tensor(typing.NamedTuple):
    """A view of a storage; the offset and the strides are counted in numbers, not in bytes."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple

    @property
    def dtype(self):
        """The name of the dtype."""
        return self.storage.dtype


class TorchFile:
    """The tensors of a state_dict in a file, open for reading; use it in a `with` block.

    Args:
        path: a file that PyTorch 1.6 or newer wrote, of a state_dict, or of a dict with one among its values.

    Attributes:
        tensors: `{name: Tensor}` in the order of the file, which is that in which the network was defined.

    Raises:
        FileError: the file cannot be read, is cut or altered, or holds something else than tensors by name. The
            position of every tensor is checked before one is read.
    """

    def __init__(self, path):
        self.path = path
        self._file = open_file(path)
        self._bytes = {}
        try:
            with self._reading():
                self._zip = zipfile.ZipFile(BoundedReads(self._file))
                self._members = self._checked_members()
                order = self._read("byteorder", 10) if "byteorder" in self._members else b"little"
                if order not in (b"little", b"big"):
                    raise self._error(f"its byte order is {quoted(order)}")
                self._order = "<" if order == b"little" else ">"
                self.tensors = self._state_dict(run(self._read("data.pkl", _PROGRAM_LIMIT)))
            for name, tensor in self.tensors.items():
                self._check_position(name, tensor)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def read(self, name):
        """One tensor as a NumPy array; bfloat16 as float32, which has all its values.

        Raises:
            FileError: the numbers are not those that were written.
        """
        tensor = self.tensors[name]
        storage = tensor.storage
        if storage.member not in self._bytes:  # several tensors may share one
            with self._reading():
                self._bytes[storage.member] = self._read(storage.member)
        dtype = storage.stored_dtype.newbyteorder(self._order)
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        view = np.ndarray(tensor.shape, dtype, self._bytes[storage.member], tensor.offset * dtype.itemsize, strides)
        return from_bfloat16(view) if tensor.dtype == "bfloat16" else view.astype(storage.stored_dtype)

    def _checked_members(self):
        """The members by name, without the folder that all are in: plain, each once, no more than the file has."""
        entries = self._zip.infolist()
        if any(info.filename.endswith("/constants.pkl") for info in entries):
            raise self._error(f"it is a program, written by torch.jit.save: {_FIX}")
        if any(info.file_size != info.compress_size or info.flag_bits & 1 for info in entries):
            raise self._error("its members are compressed or encrypted, which PyTorch does not do")
        if sum(info.file_size for info in entries) > os.fstat(self._file.fileno()).st_size:
            raise self._error("it claims to hold more than its bytes")
        pickles = [info.filename for info in entries if re.fullmatch("[^/]+/data.pkl", info.filename)]
        if len(pickles) != 1:
            raise self._error("it is a zip, but not one of torch.save: it has no data.pkl, or several")
        folder = pickles[0].removesuffix("data.pkl")
        members = {info.filename.removeprefix(folder): info for info in entries}
        if len(members) < len(entries):
            raise self._error("it holds two members of one name")
        return members

    def _read(self, member, limit=math.inf):
        if member not in self._members:
            raise self._error(f"{quoted(member)} is missing")
        if self._members[member].file_size > limit:
            raise self._error(f"{quoted(member)} has {self._members[member].file_size:,} bytes, more than {limit:,}")
        data = bytearray()
        with self._zip.open(self._members[member]) as file:
            while piece := file.read(_READ_SIZE):
                data += piece
        return bytes(data)

    def _state_dict(self, content):
        """The tensors by name: the content itself, or the one value of it that is such a dict."""
        if _is_state_dict(content):
            return content
        if not isinstance(content, dict):
            raise self._error(f"it does not hold tensors by name: {_FIX}")
        found = [key for key, value in content.items() if _is_state_dict(value)]
        if len(found) == 1:
            return content[found[0]]
        several = f"several dicts of tensors ({_listed(found)})" if found else f"{_listed(content)}"
        raise self._error(f"it holds {several}, where one dict of tensors by name is needed: {_FIX}")

    def _check_position(self, name, tensor):
        """Refuse a tensor beyond the end of its storage, or a storage that has another size in the file."""
        storage, offset, shape, strides = tensor
        member = self._members.get(storage.member)
        if member is None or member.file_size != storage.count * storage.stored_dtype.itemsize:
            raise self._error(f"the numbers of {quoted(name)} are missing, or are not as many as it says")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if offset > storage.count or (0 not in shape and last >= storage.count):
            raise self._error(f"{quoted(name)} claims numbers beyond the end of its storage")

    def _reading(self):
        return reading(self.path, "a complete file of torch.save")

    def _error(self, why):
        return FileError(f"{quoted(self.path, 300)} cannot be used: {why}")


def _is_state_dict(value):
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items())
    )


def _listed(keys):
    keys = list(keys)
    return ", ".join(quoted(key, 40) for key in keys[:6]) + ", ..." * (len(keys) > 6) or "nothing"


def from_bfloat16(bits):
    """Numbers of bfloat16, given as uint16, in float32: they are the upper halves of float32 numbers.

    >>> from_bfloat16(np.array([0x3F80, 0xC040], "uint16"))
    array([ 1., -3.], dtype=float32)
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)


def run(program):
    """What a pickle describes, made of dicts, lists, tuples, texts, numbers and `Tensor`s alone.

    Args:
        program: the pickle, bytes.

    Raises:
        ValueError: an instruction, or a name of Python, that no state_dict needs; a program that makes no sense.

    >>> run(b"\\x80\\x02}X\\x01\\x00\\x00\\x00aK\\x03s.")
    {'a': 3}
    >>> run(b"\\x80\\x02cos\\nsystem\\n.")
    Traceback (most recent call last):
    ValueError: it names 'os system', which tensors do not need: write the weights alone: \
torch.save(network.state_dict(), path)
    """
    machine = _Machine()
    try:
        for instruction, argument, _ in pickletools.genops(program):
            if instruction.name == "STOP":
                return machine.pop()
            machine.step(instruction.name, argument)
    except (LookupError, TypeError, OverflowError) as error:
        raise ValueError(f"its pickle makes no sense ({quoted(error, 100)})") from error
    raise ValueError("its pickle ends early")


class _Machine:
    """The stack, the stacks below it, which a MARK put aside, and the values noted to be used again."""

    def __init__(self):
        self.stack, self.below, self.memo = [], [], {}

    def pop(self):
        return self.stack.pop()

    def pop_to_mark(self):
        """All that was pushed since the last MARK."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def step(self, name, argument):
        """Run one instruction."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "TUPLE":
                items = tuple(self.pop_to_mark())
                self.stack.append(items)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = self.pop()
                _of_kind(stack[-1], list).append(item)
            case "APPENDS":
                items = self.pop_to_mark()
                _of_kind(self.stack[-1], list).extend(items)
            case "SETITEM":
                value, key = self.pop(), self.pop()
                _set(stack[-1], key, value)
            case "SETITEMS":
                items = self.pop_to_mark()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _set(self.stack[-1], key, value)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(_known(argument))
            case "STACK_GLOBAL":
                attribute, module = self.pop(), self.pop()
                stack.append(_known(f"{_of_kind(module, str)} {_of_kind(attribute, str)}"))
            case "BINPERSID":
                stack.append(_storage(*_of_kind(self.pop(), tuple)))
            case "REDUCE":
                arguments, called = self.pop(), self.pop()
                stack.append(_MAKE[_of_kind(called, Name).text](*_of_kind(arguments, tuple)))
            case "BUILD":  # attributes of a dict, such as the version of each layer's class
                _of_kind(self.pop(), dict)
                _of_kind(stack[-1], dict)
            case _:
                raise ValueError(f"it has the instruction {name}, which tensors do not need: {_FIX}")


def _of_kind(value, kind):
    if not isinstance(value, kind) or (isinstance(value, (Name, Storage, Tensor)) and kind is tuple):
        raise TypeError(f"{kind.__name__} needed, {type(value).__name__} found")
    return value


def _set(mapping, key, value):
    if not isinstance(key, (str, int)):
        raise TypeError(f"a key that is {type(key).__name__}")
    _of_kind(mapping, dict)[key] = value


def _known(name):
    if name not in STORAGES and name not in _MAKE:
        raise ValueError(f"it names {quoted(name, 100)}, which tensors do not need: {_FIX}")
    return Name(name)


def _dict():
    return {}


def _storage(kind, name, key, device, count):
    if kind != "storage" or not (isinstance(key, str) and is_integer(count, 0) and count < 2**56):
        raise TypeError("a storage of another form")
    return Storage(STORAGES[_of_kind(name, Name).text], f"data/{key}", count)


def _tensor(storage, offset, shape, strides, requires_grad, hooks):
    numbers = [offset, *_of_kind(shape, tuple), *_of_kind(strides, tuple)]
    if len(shape) != len(strides) or len(shape) > 32 or not all(is_integer(n, 0) and n < 2**56 for n in numbers):
        raise TypeError("a tensor of another form")
    return Tensor(_of_kind(storage, Storage), offset, shape, strides)


def _parameter(tensor, requires_grad, hooks):
    return _of_kind(tensor, Tensor)


#: What stands for the functions that the pickle may name.
_MAKE = {
    "collections OrderedDict": _dict,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}
