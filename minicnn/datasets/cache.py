"""Arrays kept on disk, so that the second start takes no time.

A cache is a folder of plain `.npy` files and a checksum, made under another
name and renamed when it is whole. Two processes may make the same one at
once: the first to finish wins. What is found broken is made again; where
nothing can be written, work goes on without.
"""

import contextlib
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


def cached(kind, key, make, use=True):
    """The arrays that `make()` returns, from the cache if they are there.

    Args:
        kind: the sort of data, a word; names the folder.
        key: everything that the arrays depend on, as a value that JSON can hold.
        make: a function without arguments that returns `{name: array}`.
        use: False to neither read nor write the cache.

    Returns:
        `{name: array}`; the arrays from the cache are read-only and memory-mapped.
    """
    if not use:
        return make()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_folder() / kind / digest
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError):
        return _read(folder)
    arrays = make()
    try:
        _write(folder, arrays)
    except OSError as error:
        warnings.warn(f"going on without a cache: {folder} cannot be written ({error})", stacklevel=3)
    return arrays


def _read(folder):
    sums = json.loads((folder / "checksums.json").read_text())
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in sums}
    for name, array in arrays.items():
        if zlib.crc32(array) != sums[name]:
            raise ValueError(f"{folder / name} is broken")
    return arrays


def _write(folder, arrays):
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
        sums = {name: zlib.crc32(np.ascontiguousarray(array)) for name, array in arrays.items()}
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
