"""MNIST's IDX format: an array of bytes after a header with its shape.

The header has two zero bytes, the type 8 (bytes), the number of dimensions, and their sizes as four bytes each. The
array follows. The file may be compressed with gzip. A data set consists of two such files: images (N, 28, 28) and
labels (N,). The headers, the sizes of the files and the labels are checked before the pixels are read, so that a file
with a false header does not fill the memory. The pixels are read straight into their array.

Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", 1998.
"""

import contextlib
import gzip
import math
import struct

import numpy as np

from minicnn.core.checks import quoted
from minicnn.core.errors import FileError
from minicnn.datasets.archives import is_clutter, listed, max_decompressed
from minicnn.datasets.letters import LETTERS
from minicnn.storage.files import reading

SIDE = 28  # pixels
MAX_IMAGES = 2**21  # four times the largest notMNIST; a file that claims more is meant to fill the memory
_CHUNK_SIZE = 2**20  # bytes read at a time


def find(path):
    """The files in MNIST's format at a path.

    Of a file that is there packed and unpacked, as torchvision leaves it, the unpacked one is read. Two pairs are a
    training and a test set: one of them has "train" in its name.

    Args:
        path: a folder, or an images file.

    Returns:
        pairs: a list of (images file, labels file): none, one, or the training pair and the test pair.
        others: the names of the files of a folder with pairs that are not read.

    Raises:
        FileError: an images file has no labels, or a folder has other pairs than these.
    """
    if path.is_dir():
        with reading(path, "a folder"):
            files = [file for file in sorted(path.iterdir()) if not is_clutter(file.name)]
        images = {}  # the name without .gz: the file, unpacked if it is there
        for file in files:
            if "images-idx3-ubyte" in file.name.replace(".idx3", "-idx3") and file.is_file():
                images.setdefault(file.name.removesuffix(".gz"), file)
        images = list(images.values())
    elif "images" in path.name and "idx3" in path.name:
        files, images = [], [path]
    else:
        return [], []
    pairs = [(file, _labels_of(file)) for file in images]
    pairs.sort(key=lambda pair: "train" not in pair[0].name)
    n_train = sum("train" in file.name for file, _ in pairs)
    if len(pairs) > 2 or (len(pairs) == 2 and n_train != 1):
        raise FileError(
            f"{quoted(path, 300)} has {len(pairs)} pairs of IDX files, which are not one for training and one for the "
            f"test: give the path of one images file, such as {listed((file.name for file, _ in pairs), 2)}"
        )
    read = {file.name.removesuffix(".gz") for pair in pairs for file in pair}
    others = [file.name for file in files if file.name.removesuffix(".gz") not in read] if pairs else []
    return pairs, others


def _labels_of(images):
    """The labels file of an images file: in the same folder, packed like it or not."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    other = name.removesuffix(".gz") if name.endswith(".gz") else name + ".gz"
    for file in (images.with_name(name), images.with_name(other)):
        if images.is_file() and file.is_file():
            return file
    raise FileError(f"IDX needs two files: {quoted(images, 300)}, and {quoted(name)} in the same folder")


def read_pairs(pairs):
    """The images (N, 28, 28) uint8 and the labels (N,) int64 of some pairs of files, one pair after the other.

    Raises:
        FileError: a file is truncated, broken or another kind of file, or the two files do not belong together, or
            they are not notMNIST, or do not fit in the memory.
    """
    counts = [_checked_count(*pair) for pair in pairs]
    labels = []
    for (_, path), count in zip(pairs, counts, strict=True):
        part = np.empty(count, dtype=np.uint8)
        _read_into(path, part)
        if part.max() >= len(LETTERS):
            raise FileError(f"{quoted(path, 300)} contains the label {part.max()}: labels go from 0 (A) to 9 (J)")
        check_every_letter(path, part)
        labels.append(part.astype(np.int64))
    try:
        images = np.empty((sum(counts), SIDE, SIDE), dtype=np.uint8)
    except MemoryError:
        size = sum(counts) * SIDE * SIDE / 2**30
        raise FileError(f"{quoted(pairs[0][0], 300)} needs {size:.1f} GiB: more memory than there is") from None
    start = 0
    for (path, _), count in zip(pairs, counts, strict=True):
        _read_into(path, images[start : start + count])
        start += count
    return images, np.concatenate(labels)


def _checked_count(images_path, labels_path):
    count, label_count = image_count(images_path), _shape(labels_path, 1)[0]
    name = quoted(images_path, 300)
    if count != label_count:
        raise FileError(f"{name} contains {count} images, but {quoted(labels_path, 300)} contains {label_count} labels")
    if not 0 < count <= MAX_IMAGES:
        raise FileError(f"{name} contains {count} images, a data set contains 1 to {MAX_IMAGES}")
    return count


def image_count(path):
    """The number of images according to the header of a file."""
    return _shape(path, 3)[0]


def check_every_letter(path, labels):
    """Raise a FileError if a data set has no image of one of the letters."""
    missing = [letter for letter, count in zip(LETTERS, np.bincount(labels, minlength=10), strict=True) if not count]
    if missing:
        raise FileError(f"{quoted(path, 300)} has no image of {', '.join(missing)}: the data set is incomplete")


def check(path, dimensions):
    """Check that a file of images (3 dimensions) or labels (1) is complete, without storing its content.

    Raises:
        FileError: the file is truncated, broken or another kind of file.
    """
    for _ in _chunks(path, dimensions):
        pass


def _read_into(path, array):
    """Fill an array with the content of a file that has its shape."""
    content, position = memoryview(array.reshape(-1)), 0
    for chunk in _chunks(path, array.ndim):
        content[position : position + len(chunk)] = chunk
        position += len(chunk)


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
            raise FileError(f"{quoted(path, 300)} claims an array {shape} of {size} bytes, but contains {found}")


@contextlib.contextmanager
def _open_after_header(path, dimensions):
    """An open file, positioned after its header, and the shape in the header."""
    with reading(path, "a complete IDX file"), open(path, "rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        name = quoted(path, 300)
        expected = bytes([0, 0, 8, dimensions])
        magic = file.read(4)
        if magic != expected:
            raise FileError(f"{name} starts with {magic.hex()}, an IDX file of bytes starts with {expected.hex()}")
        sizes = file.read(4 * dimensions)
        if len(sizes) < 4 * dimensions:
            raise FileError(f"{name} ends inside its header")
        shape = struct.unpack(f">{dimensions}I", sizes)
        if dimensions == 3 and shape[1:] != (SIDE, SIDE):
            raise FileError(f"{name} contains images of {shape[1:]} pixels, notMNIST's have {SIDE} x {SIDE}")
        if math.prod(shape) > (max_decompressed(path) if is_gzip else path.stat().st_size):
            raise FileError(f"{name} claims an array {shape}, far more than a file of {path.stat().st_size} bytes has")
        yield file, shape
