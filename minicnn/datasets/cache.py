"""Arrays kept on disk, so that the second start takes no time.

A cache is a folder of plain `.npy` files and their checksums, made under
another name and renamed when it is whole. Two processes may make the same one
at once: the first to finish wins. What is found broken is made again; where
nothing can be written, work goes on without.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import mmap
import os
import pathlib
import shutil
import tempfile
import warnings
import zlib

import numpy as np

from minicnn.files import cache_folder

PIECE = 2**14  # rows written at a time


def cached(kind, key, make, use=True):
    """The arrays that `make()` returns, from the cache if they are there.

    Args:
        kind: the sort of data, a word; names the folder.
        key: everything that the arrays depend on, as a value that JSON can hold.
        make: a function without arguments that returns `{name: array or Rows}`.
        use: False to neither read nor write the cache.

    Returns:
        `{name: array}`; the arrays from the cache are read-only and memory-mapped.
    """
    if not use:
        return _whole(make())
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_folder() / kind / digest
    with contextlib.suppress(_BrokenError):
        return _read(folder)
    arrays = make()
    try:
        _write(folder, arrays)
        return _read(folder)
    except (OSError, _BrokenError) as error:
        warnings.warn(f"going on without a cache: {folder} cannot be written ({error})", stacklevel=3)
    return _whole(arrays)


def _whole(arrays):
    return {name: array[:] for name, array in arrays.items()}


class _BrokenError(Exception):
    """There is no whole cache."""


def _read(folder):
    try:
        sums = json.loads((folder / "checksums.json").read_text())
        if {path.name for path in folder.glob("*.npy")} != sums.keys():
            raise ValueError("it holds other files than its list says")
        for name, checksum in sums.items():
            # Of the whole file: a header with a flipped bit can be a good header of another array.
            if _checksum(folder / name) != checksum:
                raise ValueError(f"{name} is broken")
        load = functools.partial(np.load, mmap_mode="r", allow_pickle=False)
        return {name.removesuffix(".npy"): load(folder / name).view(np.ndarray) for name in sums}
    except Exception as error:  # whatever a broken file leads to, it is made again
        raise _BrokenError(f"{folder} cannot be used: {error}") from error


def _checksum(path):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return zlib.crc32(content)


def _write(folder, arrays):
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    new = temporary / "new"
    try:
        new.mkdir()
        sums = {f"{name}.npy": _write_array(new / f"{name}.npy", array) for name, array in arrays.items()}
        (new / "checksums.json").write_text(json.dumps(sums))
        try:
            os.rename(new, folder)
        except OSError:  # there is one already: another process's, or a broken one
            try:
                _read(folder)
            except _BrokenError:
                os.rename(folder, temporary / "broken")
                os.rename(new, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_array(path, array):
    """Write an array as `.npy`, a piece at a time; returns the checksum of the file."""
    header = io.BytesIO()
    form = {"descr": array.dtype.str, "fortran_order": False, "shape": tuple(array.shape)}
    np.lib.format.write_array_header_1_0(header, form)
    rows = (np.ascontiguousarray(array[start : start + PIECE]) for start in range(0, array.shape[0], PIECE))
    total = 0
    with open(path, "wb") as file:
        for piece in itertools.chain([header.getvalue()], rows):
            total = zlib.crc32(piece, total)
            file.write(piece)
    return total
