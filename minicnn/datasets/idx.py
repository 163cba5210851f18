"""MNIST's IDX format: an array of bytes after a header with its shape.

The header has two zero bytes, the type 8 (bytes), the number of dimensions, and their sizes as four bytes each. The
array follows. The file may be compressed with gzip. A data set consists of two such files: images (N, 28, 28) and
labels (N,). The headers and the labels are checked before the pixels are read, so that a file with a false header
does not fill the memory.

Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", 1998.
"""

import contextlib
import gzip
import math
import struct

import numpy as np

from minicnn.core.errors import FileError
from minicnn.datasets.letters import LETTERS
from minicnn.storage.files import reading

SIDE = 28  # pixels
MAX_IMAGES = 2**21  # four times the largest notMNIST; a file that claims more is meant to fill the memory
_CHUNK_SIZE = 2**20  # bytes read at a time


def pairs(path):
    """The (images, labels) files in MNIST's format at a path: no pair, one, or a training pair and a test pair."""
    if path.is_dir():
        with reading(path, "a folder"):
            files = sorted(path.iterdir())
        images = [file for file in files if "images-idx3-ubyte" in file.name.replace(".idx3", "-idx3")]
    elif "images" in path.name and "idx3" in path.name:
        images = [path]
    else:
        return []
    found = []
    for file in images:
        labels = file.with_name(file.name.replace("images", "labels").replace("idx3", "idx1"))
        other = labels.with_suffix("") if labels.suffix == ".gz" else labels.with_name(labels.name + ".gz")
        existing = next((candidate for candidate in (labels, other) if candidate.exists()), None)
        if not file.exists() or existing is None:
            raise FileError(f"IDX needs two files: {file}, and {labels.name} in the same folder")
        found.append((file, existing))
    if len(found) > 2:
        raise FileError(f"{path} contains {len(found)} pairs of IDX files: give the path of one images file")
    return sorted(found, key=lambda pair: "train" not in pair[0].name)


def read_pair(images_path, labels_path):
    """The images (N, 28, 28) uint8 and the labels (N,) int64 of a pair of files.

    Raises:
        FileError: a file is truncated, broken or another kind of file, or the two files do not belong together, or
            they are not notMNIST.
    """
    count, label_count = image_count(images_path), _shape(labels_path, 1)[0]
    if count != label_count:
        raise FileError(f"{images_path} contains {count} images, but {labels_path} contains {label_count} labels")
    if not 0 < count <= MAX_IMAGES:
        raise FileError(f"{images_path} contains {count} images, a data set contains 1 to {MAX_IMAGES}")
    labels = _read(labels_path, 1).astype(np.int64)
    if labels.max() >= len(LETTERS):
        raise FileError(f"{labels_path} contains the label {labels.max()}: labels go from 0 (A) to 9 (J)")
    check_every_letter(labels_path, labels)
    return _read(images_path, 3), labels


def image_count(path):
    """The number of images according to the header of a file."""
    return _shape(path, 3)[0]


def check_every_letter(path, labels):
    """Raise a FileError if a data set has no image of one of the letters."""
    missing = [letter for letter, count in zip(LETTERS, np.bincount(labels, minlength=10), strict=True) if not count]
    if missing:
        raise FileError(f"{path} has no image of {', '.join(missing)}: the data set is incomplete")


def check(path, dimensions):
    """Check that a file of images (3 dimensions) or labels (1) is complete, without storing its content.

    Raises:
        FileError: the file is truncated, broken or another kind of file.
    """
    for _ in _chunks(path, dimensions):
        pass


def _read(path, dimensions):
    data = bytearray()  # grows with the data that is read, not with the size in the header
    for chunk in _chunks(path, dimensions):
        data += chunk
    return np.frombuffer(data, dtype=np.uint8).reshape(_shape(path, dimensions))


def _shape(path, dimensions):
    with _open_after_header(path, dimensions) as (_, shape):
        return shape


def _chunks(path, dimensions):
    """The bytes of the array; a FileError at the end if there are fewer or more than the header claims."""
    with _open_after_header(path, dimensions) as (file, shape):
        size = remaining = math.prod(shape)
        while chunk := file.read(min(_CHUNK_SIZE, remaining + 1)):
            remaining -= len(chunk)
            if remaining < 0:
                break
            yield chunk
        if remaining:
            found = "more" if remaining < 0 else f"{size - remaining}"
            raise FileError(f"{path} claims an array {shape} of {size} bytes, but contains {found}")


@contextlib.contextmanager
def _open_after_header(path, dimensions):
    """An open file, positioned after its header, and the shape in the header."""
    with reading(path, "a complete IDX file"), open(path, "rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        expected = bytes([0, 0, 8, dimensions])
        magic = file.read(4)
        if magic != expected:
            raise FileError(f"{path} starts with {magic.hex()}, an IDX file of bytes starts with {expected.hex()}")
        sizes = file.read(4 * dimensions)
        if len(sizes) < 4 * dimensions:
            raise FileError(f"{path} ends inside its header")
        shape = struct.unpack(f">{dimensions}I", sizes)
        if dimensions == 3 and shape[1:] != (SIDE, SIDE):
            raise FileError(f"{path} contains images of {shape[1:]} pixels, notMNIST's have {SIDE} x {SIDE}")
        yield file, shape
