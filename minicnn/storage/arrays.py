"""Arrays and a description in one file: what saved models and checkpoints are made of.

The file is an ordinary NumPy `.npz`: a zip of arrays. One of them, called
`description`, holds a JSON text as bytes. There is no pickle: reading a file
can give numbers and names, never code. Nothing is used before it is
validated: every array's name, shape and dtype against what the reader expects,
its size against the file's, its content against its checksum, and the
checksums against those that the description keeps. So reading never takes more
memory than the file has bytes, whatever the file claims.
"""

import json
import math
import os
import re
import struct
import zipfile
import zlib

import numpy as np

from minicnn.core.checks import quoted
from minicnn.core.errors import FileError, InputError
from minicnn.storage.files import atomic_write, open_file

VERSION = 2
_DESCRIPTION = "description"
_DESCRIPTION_LIMIT = 2**22  # bytes; a network's description has some thousand
_READ_SIZE = 2**20  # bytes read at a time
_DIRECTORY_LIMIT = 2**24  # bytes of the zip's list of arrays; some hundred an array

#: What the zip reader raises on broken files.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    OSError,
    RuntimeError,  # encrypted, says zipfile; also NotImplementedError and RecursionError
    OverflowError,
)

#: An array's header as NumPy writes it (format 1.0), for numbers in C order and nothing else.
_HEADER = re.compile(
    rb"\{'descr': '([<>|][fiub]\d{1,2})', 'fortran_order': False, 'shape': \(((?:\d{1,18},? ?){0,32})\), \} *\n"
)


def write_arrays(path, kind, description, arrays):
    """Write a description and arrays to `path`, atomically: completely or not at all.

    Args:
        path: the file.
        kind: what the file is, such as "model"; the reader asks for it.
        description: a dict of plain values (JSON). NumPy's numbers become plain ones, tuples lists.
        arrays: `{name: numpy array}`.

    Raises:
        FileError: the file cannot be written.
        InputError: a value that is not a plain one, or a description of more than 4 MiB.
    """
    with atomic_write(path) as file, zipfile.ZipFile(_AppendOnly(file), "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            _write_member(archive, name, np.ascontiguousarray(array).reshape(array.shape))
        checksums = {info.filename: info.CRC for info in archive.infolist()}
        description = {"minicnn": kind, "version": VERSION, "checksums": checksums, **description}
        try:
            text = json.dumps(description, default=_plain).encode()
        except (TypeError, ValueError) as error:
            raise InputError(f"{quoted(path, 300)} cannot be written: {error} is not a plain value") from error
        if len(text) > _DESCRIPTION_LIMIT:
            raise InputError(
                f"{quoted(path, 300)} cannot be written: its description takes {len(text)} bytes, more than the "
                f"{_DESCRIPTION_LIMIT} that are read"
            )
        _write_member(archive, _DESCRIPTION, np.frombuffer(text, dtype=np.uint8))


class ArrayFile:
    """A file of `write_arrays`, open for reading; use it in a `with` block.

    Args:
        path: the file.
        kind: what it has to be.

    Attributes:
        description: the dict that was written.
        size: the file's bytes; no array is larger.

    Raises:
        FileError: no such file, not a file of this kind, of a newer version, cut, or altered.
    """

    def __init__(self, path, kind):
        self.path = path
        self._file = open_file(path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            with self._reading():
                self._zip = zipfile.ZipFile(BoundedReads(self._file))
            self._members = self._checked_members()
            self.description = self._read_description(kind)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Close the file."""
        self._file.close()

    def names(self):
        """The names of the arrays."""
        return self._members.keys() - {_DESCRIPTION}

    def check(self, expected):
        """Refuse the file unless it holds exactly these arrays, before any of their data is read.

        Args:
            expected: `{name: (shape, dtype)}`.
        """
        missing, surplus = expected.keys() - self.names(), self.names() - expected.keys()
        if missing or surplus:
            missing, surplus = (", ".join(map(quoted, sorted(names)[:5])) or "none" for names in (missing, surplus))
            raise self._error(
                f"its arrays do not belong to its description: missing are {missing}, too many are {surplus}"
            )
        for name, (shape, dtype) in expected.items():
            found_shape, found_dtype = self.header(name)
            if found_shape != tuple(shape) or found_dtype != np.dtype(dtype):
                raise self._error(
                    f"{quoted(name)} should be {np.dtype(dtype)} {tuple(shape)} and is {found_dtype} {found_shape}"
                )

    def read(self, name):
        """One array, its header and checksum checked."""
        shape, dtype = self.header(name)
        with self._reading(), self._zip.open(self._members[name]) as member:
            _read_header(member)
            array = np.empty(shape, dtype)
            view = memoryview(array.reshape(-1).view(np.uint8))
            read = 0
            while read < len(view):
                data = member.read(min(_READ_SIZE, len(view) - read))
                if not data:
                    raise self._error(f"{quoted(name)} ends early")
                view[read : read + len(data)] = data
                read += len(data)
            if member.read(1):  # also makes zipfile compare the checksum at the end
                raise self._error(f"{quoted(name)} goes on after its end")
        return array

    def verify(self):
        """Read everything once and compare the checksums; nothing is kept."""
        for name in self.names():
            self.header(name)
            with self._reading(), self._zip.open(self._members[name]) as member:
                while member.read(_READ_SIZE):
                    pass

    def _checked_members(self):
        """The arrays' entries by name: plain, each once, together no larger than the file."""
        entries = self._zip.infolist()
        for info in entries:
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise self._error(f"{quoted(info.filename)} is compressed; minicnn writes plain arrays")
            if info.flag_bits & 1:
                raise self._error(f"{quoted(info.filename)} is encrypted; minicnn writes plain arrays")
            if not info.filename.endswith(".npy"):
                raise self._error(f"{quoted(info.filename)} is not an array")
        members = {info.filename.removesuffix(".npy"): info for info in entries}
        if len(members) < len(entries):
            raise self._error("it holds two arrays of one name")
        if sum(info.file_size for info in entries) > self.size:
            raise self._error(f"it claims to hold more than its {self.size} bytes")
        return members

    def header(self, name):
        """Shape and dtype of an array, refused if they claim another size than the array has in the file."""
        with self._reading():
            info = self._members[name]
            with self._zip.open(info) as member:
                shape, dtype = _read_header(member)
                start = member.tell()
        if start + math.prod(shape) * dtype.itemsize != info.file_size:
            raise self._error(f"{quoted(name)} claims shape {quoted(shape)} of {dtype}, which is not what it holds")
        return shape, dtype

    def _read_description(self, kind):
        if _DESCRIPTION not in self._members:
            raise self._error("it has no description: it was not written by minicnn")
        shape, dtype = self.header(_DESCRIPTION)
        if dtype != np.uint8 or len(shape) != 1 or shape[0] > _DESCRIPTION_LIMIT:
            raise self._error(f"its description is {dtype} {shape}")
        try:
            description = json.loads(self.read(_DESCRIPTION).tobytes())
            version, found = description.pop("version"), description.pop("minicnn")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise self._error(f"its description cannot be read ({quoted(error, 200)})") from error
        if type(version) is not int or version != VERSION:
            raise self._error(
                f"it has version {quoted(version)}, and this minicnn reads {VERSION}: use the one that wrote it"
            )
        if found != kind:
            raise self._error(f"it is a {quoted(found, 40)}, not a {kind}")
        checksums = {info.filename: info.CRC for name, info in self._members.items() if name != _DESCRIPTION}
        if description.pop("checksums", None) != checksums:
            raise self._error("its arrays are not those that were written with it")
        return description

    def _reading(self):
        return _TranslateErrors(self)

    def _error(self, why):
        return FileError(f"{quoted(self.path, 300)} cannot be used: {why}")


class _TranslateErrors:
    """A block in which a broken zip file or array raises FileError."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        pass

    def __exit__(self, kind, error, traceback):
        if isinstance(error, MemoryError):
            raise self.file._error(f"there is not enough memory for it ({quoted(error, 200)})") from error
        if isinstance(error, _BROKEN) and not isinstance(error, FileError):
            raise self.file._error(f"it is not an .npz file, or is cut or altered ({quoted(error, 200)})") from error


class BoundedReads:
    """A file of which only some can be read at once: zipfile would read a list of any length that a file claims."""

    def __init__(self, file):
        self.file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size=-1):
        if size > _DIRECTORY_LIMIT:
            raise ValueError(f"its list of arrays takes {size} bytes, more than {_DIRECTORY_LIMIT}")
        return self.file.read(size)


class _AppendOnly:
    """A file that is only written at its end: zipfile then never goes back, and an error is raised once."""

    def __init__(self, file):
        self.write, self.flush = file.write, file.flush


def _write_member(archive, name, array):
    """Write one array as NumPy would."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


def _read_header(member):
    """Read the header of an array: (shape, dtype). Only what NumPy writes for plain numbers is accepted."""
    magic = member.read(10)
    if magic[:8] != b"\x93NUMPY\x01\x00" or len(magic) < 10:
        raise ValueError("not a NumPy array of format 1.0")
    header = _HEADER.fullmatch(member.read(int.from_bytes(magic[8:], "little")))
    if header is None:
        raise ValueError("not a plain array of numbers in C order")
    dtype, shape = header.groups()
    return tuple(int(n) for n in re.findall(rb"\d+", shape)), np.dtype(dtype.decode())


def plain_dtype(text):
    """The dtype of plain numbers that a text such as "<f4" names; ValueError for any other text."""
    if not isinstance(text, str) or re.fullmatch(r"[<>|][fiub]\d{1,2}", text) is None:
        raise ValueError(f"{quoted(text, 60)} is not a dtype of plain numbers")
    return np.dtype(text)


def _plain(value):
    """NumPy's numbers as Python's, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {quoted(value, 60)}")
