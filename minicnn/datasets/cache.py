"""A cache of arrays on disk, so that the second start takes no time.

A cache entry is a folder of plain `.npy` files and their checksums. It is made
under a temporary name and renamed when it is complete. Two processes may make
the same entry at the same time: the first to finish wins. A broken entry is
made again. If nothing can be written, the program continues without a cache.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import math
import mmap
import os
import zlib

import numpy as np

from minicnn.console import warn
from minicnn.core.checks import quoted
from minicnn.core.errors import FileError
from minicnn.storage.files import cache_folder, temporary_folder

CHUNK_SIZE = 2**24  # bytes written at a time, about


def cached(kind, key, make, use=True):
    """The arrays that `make()` returns, from the cache if they are there.

    Args:
        kind: the kind of data, one word; the name of the folder.
        key: everything that the arrays depend on, as a value that JSON can store.
        make: a function without arguments that returns `{name: array or Rows}`.
        use: False to neither read nor write the cache.

    Returns:
        `{name: array}`; the arrays from the cache are read-only and memory-mapped.
    """
    if not use:
        return _materialize(make())
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    try:
        folder = cache_folder() / kind / digest
    except FileError as error:
        warn(f"continuing without a cache: {error}")
        return _materialize(make())
    with contextlib.suppress(_BrokenError):
        return _read(folder)
    arrays = make()
    try:
        _write(folder, arrays)
        return _read(folder)
    except (OSError, _BrokenError) as error:
        warn(f"continuing without a cache: {quoted(folder, 300)} cannot be written ({quoted(error, 400)[1:-1]})")
    return _materialize(arrays)


def _materialize(arrays):
    return {name: array[:] for name, array in arrays.items()}


class _BrokenError(Exception):
    """The cache entry is missing, incomplete or broken."""


def _read(folder):
    try:
        checksums = json.loads((folder / "checksums.json").read_text())
        if {path.name for path in folder.glob("*.npy")} != checksums.keys():
            raise ValueError("its files differ from its list of checksums")
        for name, checksum in checksums.items():
            # The checksum covers the header too: one flipped bit can turn it into a valid header of another array.
            if _checksum(folder / name) != checksum:
                raise ValueError(f"{name} is broken")
        load = functools.partial(np.load, mmap_mode="r", allow_pickle=False)
        return {name.removesuffix(".npy"): load(folder / name).view(np.ndarray) for name in checksums}
    except Exception as error:  # a broken file can cause any error; the entry is made again
        raise _BrokenError(f"{folder} cannot be used: {error}") from error


def _checksum(path):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return zlib.crc32(content)


def _write(folder, arrays):
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder) as temporary:
        new = temporary / "new"
        new.mkdir()
        checksums = {f"{name}.npy": _write_array(new / f"{name}.npy", array) for name, array in arrays.items()}
        (new / "checksums.json").write_text(json.dumps(checksums))
        try:
            os.rename(new, folder)
        except OSError:  # the folder exists already: another process made it, or it is broken
            try:
                _read(folder)
            except _BrokenError:
                os.rename(folder, temporary / "broken")
                os.rename(new, folder)


def _write_array(path, array):
    """Write an array as `.npy`, some rows at a time; returns the checksum of the file."""
    header = io.BytesIO()
    fields = {"descr": array.dtype.str, "fortran_order": False, "shape": tuple(array.shape)}
    np.lib.format.write_array_header_1_0(header, fields)
    step = max(1, CHUNK_SIZE // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize))  # rows
    rows = (np.ascontiguousarray(array[start : start + step]) for start in range(0, array.shape[0], step))
    checksum = 0
    with open(path, "wb") as file:
        for chunk in itertools.chain([header.getvalue()], rows):
            checksum = zlib.crc32(chunk, checksum)
            file.write(chunk)
    return checksum
