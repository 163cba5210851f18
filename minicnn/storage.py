"""Arrays and a description in one file: what saved models and checkpoints are made of.

The file is an ordinary NumPy `.npz`: a zip of arrays. One of them, called
`description`, holds a JSON text as bytes. There is no pickle: reading a file
can give numbers and names, never code. Nothing is believed before it is
checked: every array's name, shape and dtype against what the reader expects,
its size against the file's, its content against the checksum.
"""

import json
import math
import zipfile
import zlib

import numpy as np

from minicnn.errors import FileError
from minicnn.files import write_whole

VERSION = 1
_DESCRIPTION = "description"
_DESCRIPTION_LIMIT = 2**24  # bytes; a network's description has some thousand


def write_arrays(path, kind, description, arrays):
    """Write a description and arrays to `path`, whole or not at all.

    Args:
        path: the file.
        kind: what the file is, such as "model"; the reader asks for it.
        description: a dict of plain values (JSON).
        arrays: `{name: numpy array}`.

    Raises:
        FileError: the file cannot be written.
    """
    text = json.dumps({"minicnn": kind, "version": VERSION, **description}).encode()
    with write_whole(path) as file:
        np.savez(file, **{_DESCRIPTION: np.frombuffer(text, dtype=np.uint8)}, **arrays)


class ArrayFile:
    """A file of `write_arrays`, open for reading; use it in a `with` block.

    Args:
        path: the file.
        kind: what it has to be.

    Attributes:
        description: the dict that was written.

    Raises:
        FileError: no such file, not a file of this kind, of a newer version, cut, or altered.
    """

    def __init__(self, path, kind):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise FileError(f"cannot read {path}: {error.strerror or error}") from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise self._wrong(f"it is not a whole .npz file ({error})") from error
        try:
            self.description = self._read_description(kind)
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._zip.close()

    def names(self):
        """The names of the arrays."""
        return {name.removesuffix(".npy") for name in self._zip.namelist()} - {_DESCRIPTION}

    def check(self, expected):
        """Refuse the file unless it holds exactly these arrays, before any of their data is read.

        Args:
            expected: `{name: (shape, dtype)}`.
        """
        missing, surplus = expected.keys() - self.names(), self.names() - expected.keys()
        if missing or surplus:
            raise self._wrong(
                f"its arrays do not belong to its description: missing {sorted(missing)[:5]}, "
                f"too many {sorted(surplus)[:5]}"
            )
        for name, (shape, dtype) in expected.items():
            found_shape, found_dtype = self._header(name)
            if found_shape != tuple(shape) or found_dtype != np.dtype(dtype):
                raise self._wrong(
                    f"{name!r} should be {np.dtype(dtype)} {tuple(shape)} and is {found_dtype} {found_shape}"
                )

    def read(self, name):
        """One array, its header and checksum checked."""
        shape, dtype = self._header(name)
        with self._reading(), self._zip.open(f"{name}.npy") as member:
            _skip_header(member)
            array = np.empty(shape, dtype)
            view = memoryview(array.reshape(-1).view(np.uint8))
            read = 0
            while read < len(view):
                data = member.read(min(2**20, len(view) - read))
                if not data:
                    raise self._wrong(f"{name!r} ends early")
                view[read : read + len(data)] = data
                read += len(data)
            if member.read(1):  # also makes zipfile compare the checksum at the end
                raise self._wrong(f"{name!r} goes on after its end")
        return array

    def _header(self, name):
        """Shape and dtype of an array, refused if they claim another size than the member has."""
        with self._reading():
            info = self._zip.getinfo(f"{name}.npy")
            if info.compress_type != zipfile.ZIP_STORED:
                raise self._wrong(f"{name!r} is compressed; minicnn writes plain arrays")
            with self._zip.open(info) as member:
                shape, fortran, dtype = _skip_header(member)
                start = member.tell()
        if fortran or dtype.hasobject or dtype.kind not in "fiub" or any(n < 0 for n in shape):
            raise self._wrong(f"{name!r} is no plain array ({dtype}, fortran_order={fortran})")
        if start + math.prod(shape) * dtype.itemsize != info.file_size:
            raise self._wrong(f"{name!r} claims shape {shape} of {dtype}, which is not what it holds")
        if info.file_size > self._size():
            raise self._wrong(f"{name!r} claims {info.file_size} bytes, more than the file has")
        return shape, dtype

    def _size(self):
        self._zip.fp.seek(0, 2)
        return self._zip.fp.tell()

    def _read_description(self, kind):
        if f"{_DESCRIPTION}.npy" not in self._zip.namelist():
            raise self._wrong("it has no description: it was not written by minicnn")
        shape, dtype = self._header(_DESCRIPTION)
        if dtype != np.uint8 or len(shape) != 1 or shape[0] > _DESCRIPTION_LIMIT:
            raise self._wrong(f"its description is {dtype} {shape}")
        try:
            description = json.loads(self.read(_DESCRIPTION).tobytes())
            version, found = description.pop("version"), description.pop("minicnn")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._wrong(f"its description cannot be read ({error})") from error
        if not isinstance(version, int) or version > VERSION:
            raise self._wrong(f"it has version {version!r}, this minicnn reads up to {VERSION}: update minicnn")
        if found != kind:
            raise self._wrong(f"it is a {found}")
        self.kind = kind
        return description

    def _reading(self):
        return _Translated(self)

    def _wrong(self, why):
        return FileError(f"{self.path} cannot be used: {why}")


class _Translated:
    """A block in which a broken zip or array raises FileError."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        pass

    def __exit__(self, kind, error, traceback):
        if isinstance(error, FileError):
            return
        broken = (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            KeyError,
            ValueError,
            TypeError,
            SyntaxError,
            OSError,
            NotImplementedError,
            RuntimeError,
            RecursionError,
            MemoryError,
            OverflowError,
        )
        if isinstance(error, broken):
            raise self.file._wrong(f"it is cut or altered ({error})") from error


def _skip_header(member):
    """Read the header of an array in NumPy's format: (shape, fortran_order, dtype)."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(member)
    raise ValueError(f"array format {version}")
