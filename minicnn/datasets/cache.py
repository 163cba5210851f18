"""Arrays kept on disk, so that the second start takes no time.

A cache is a folder of plain `.npy` files and a checksum, made under another
name and renamed when it is whole. Two processes may make the same one at
once: the first to finish wins. What is found broken is made again; where
nothing can be written, work goes on without.
"""

import contextlib
import functools
import hashlib
import json
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
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError):
        return _read(folder)
    arrays = make()
    try:
        _write(folder, arrays)
        return _read(folder)
    except OSError as error:
        warnings.warn(f"going on without a cache: {folder} cannot be written ({error})", stacklevel=3)
    return _whole(arrays)


def _whole(arrays):
    return {name: array[:] for name, array in arrays.items()}


def _read(folder):
    sums = json.loads((folder / "checksums.json").read_text())
    load = functools.partial(np.load, mmap_mode="r", allow_pickle=False)
    arrays = {name: load(folder / f"{name}.npy").view(np.ndarray) for name in sums}
    for name, array in arrays.items():
        if zlib.crc32(array) != sums[name]:
            raise ValueError(f"{folder / name} is broken")
    return arrays


def _write(folder, arrays):
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        sums = {name: _write_array(temporary / f"{name}.npy", array) for name, array in arrays.items()}
        (temporary / "checksums.json").write_text(json.dumps(sums))
        try:
            os.rename(temporary, folder)
        except OSError:  # there is one already: another process's, or a broken one
            try:
                _read(folder)
            except (OSError, ValueError, KeyError, EOFError):
                shutil.rmtree(folder)
                os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_array(path, array):
    """Write an array as `.npy`, a piece at a time; returns the checksum of its bytes."""
    total = 0
    with open(path, "wb") as file:
        header = {"descr": array.dtype.str, "fortran_order": False, "shape": tuple(array.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, array.shape[0], PIECE):
            piece = np.ascontiguousarray(array[start : start + PIECE])
            total = zlib.crc32(piece, total)
            file.write(piece)
    return total
