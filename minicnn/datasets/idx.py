"""MNIST's IDX format: an array of numbers after a header with its shape.

The header has two zero bytes, the type of the numbers, the number of dimensions, and their sizes as four bytes each.
The array follows, its high bytes first. The file may be compressed with gzip. A data set consists of two such files:
images (N, H, W) of bytes, and labels (N,), or (N, columns) with the class first as in QMNIST. The headers, the sizes
of the files and the labels are checked before the pixels are read, so that a file with a false header does not fill
the memory. The pixels are read straight into their array.

Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", 1998.
"""

import contextlib
import gzip
import math
import re
import struct

import numpy as np

from minicnn.core.checks import quoted
from minicnn.core.errors import FileError
from minicnn.datasets.archives import is_clutter, listed, max_decompressed
from minicnn.storage.files import reading

MAX_IMAGES = 2**21  # four times the largest notMNIST; a file that claims more is meant to fill the memory
_CHUNK_SIZE = 2**20  # bytes read at a time
_IMAGES = re.compile(r"(?P<set>.*?)-?(train|t10k|test)?-?images[-.]idx3-ubyte(\.gz)?")
#: For images and for labels: how many dimensions, and what numbers, each with its code in the header.
_KINDS = {
    "images": ((3,), {8: ">u1"}),
    "labels": ((1, 2), {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4"}),
}


def set_name(file):
    """The name of the data set that an images file is a part of, as it stands in the file's name; None for others.

    >>> set_name("emnist-letters-train-images-idx3-ubyte.gz"), set_name("t10k-images.idx3-ubyte"), set_name("a.png")
    ('emnist-letters', '', None)
    """
    found = _IMAGES.fullmatch(file)
    return found and found["set"]


def find(path, name=None):
    """The files in MNIST's format at a path.

    Of a file that is there packed and unpacked, as torchvision leaves it, the unpacked one is read. Two pairs are a
    training and a test set: one of them has "train" in its name.

    Args:
        path: a folder, or an images file.
        name: of one data set in a folder that has several, as `set_name` returns it; None for all of them.

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
            found = set_name(file.name)
            if found is not None and name in (None, found) and file.is_file():
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
    for candidate in (name, name.replace("idx1-ubyte", "idx2-int")):  # the second one is QMNIST's
        other = candidate.removesuffix(".gz") if candidate.endswith(".gz") else candidate + ".gz"
        for file in (images.with_name(candidate), images.with_name(other)):
            if images.is_file() and file.is_file():
                return file
    raise FileError(f"IDX needs two files: {quoted(images, 300)}, and {quoted(name)} in the same folder")


def read_labels(pairs):
    """The labels of some pairs of files, and the shapes of the images that belong to them; no pixel is read.

    Returns:
        a list with (shape (N, H, W) of the images, labels (N,) int64) for each pair.

    Raises:
        FileError: a file is truncated, broken or another kind of file, or the two files do not belong together, or
            the images of the pairs have different sizes.
    """
    found = []
    for images, labels in pairs:
        with _open_after_header(images, "images") as (_, shape, _):
            pass
        with _open_after_header(labels, "labels") as (_, label_shape, dtype):
            pass
        name, count = quoted(images, 300), shape[0]
        if count != label_shape[0]:
            others = f"{quoted(labels, 300)} contains {label_shape[0]} labels"
            raise FileError(f"{name} contains {count} images, but {others}")
        if not 0 < count <= MAX_IMAGES:
            raise FileError(f"{name} contains {count} images, a data set contains 1 to {MAX_IMAGES}")
        if found and shape[1:] != found[0][0][1:]:
            raise FileError(f"{name} contains images of {shape[1:]} pixels, {quoted(pairs[0][0], 300)} others")
        numbers = _allocate(labels, label_shape, dtype)
        _read_into(labels, numbers, "labels")
        found.append((shape, numbers.reshape(count, -1)[:, 0].astype(np.int64)))
    return found


def read_images(pairs, shapes):
    """The images uint8 (N, H, W) of some pairs of files, one pair after the other in one array.

    Args:
        pairs: as `find` returns them.
        shapes: (N, H, W) of each, as `read_labels` returns them.

    Raises:
        FileError: a file is truncated, broken or too long, or the images do not fit in the memory.
    """
    count, (H, W) = sum(shape[0] for shape in shapes), shapes[0][1:]
    images, start = _allocate(pairs[0][0], (count, H, W), np.dtype(np.uint8)), 0
    for (path, _), shape in zip(pairs, shapes, strict=True):
        _read_into(path, images[start : start + shape[0]], "images")
        start += shape[0]
    return images


def _allocate(path, shape, dtype):
    try:
        return np.empty(shape, dtype=dtype)
    except MemoryError:
        size = math.prod(shape) * dtype.itemsize / 2**30
        raise FileError(f"{quoted(path, 300)} needs {size:.1f} GiB: more memory than there is") from None


def check(path, kind, size):
    """Check that a file of "images" or "labels" is complete, without storing its content.

    Raises:
        FileError: the file is truncated, broken or another kind of file, or its images are not of this size (H, W).
    """
    with _open_after_header(path, kind) as (_, shape, _):
        check_size(path, shape, size)
    for _ in _chunks(path, kind):
        pass


def check_size(path, shape, size):
    """Raise a FileError if an array (N, H, W) has images of another size than (H, W)."""
    if len(shape) == 3 and shape[1:] != size:
        raise FileError(f"{quoted(path, 300)} contains images of {shape[1:]} pixels, not {size}")


def _read_into(path, array, kind):
    """Fill an array with the content of a file that has its shape."""
    content, position = memoryview(array.reshape(-1).view(np.uint8)), 0
    for chunk in _chunks(path, kind):
        content[position : position + len(chunk)] = chunk
        position += len(chunk)


def _chunks(path, kind):
    """The bytes of the array; a FileError at the end if there are fewer or more than the header claims."""
    with _open_after_header(path, kind) as (file, shape, dtype):
        size = remaining = math.prod(shape) * dtype.itemsize
        while chunk := file.read(min(_CHUNK_SIZE, remaining + 1)):
            remaining -= len(chunk)
            if remaining < 0:
                break
            yield chunk
        if remaining:
            found = "more" if remaining < 0 else f"{size - remaining}"
            raise FileError(f"{quoted(path, 300)} claims an array {shape} of {size} bytes, but contains {found}")


@contextlib.contextmanager
def _open_after_header(path, kind):
    """An open file, positioned after its header, and the shape and the dtype in the header."""
    with reading(path, "a complete IDX file"), open(path, "rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        name = quoted(path, 300)
        dimensions, types = _KINDS[kind]
        magic = file.read(4)
        if not (len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in types and magic[3] in dimensions):
            expected = bytes([0, 0, 8, dimensions[0]]).hex()
            raise FileError(f"{name} starts with {magic.hex()}, an IDX file of {kind} starts with {expected}")
        dtype = np.dtype(types[magic[2]])
        sizes = file.read(4 * magic[3])
        if len(sizes) < 4 * magic[3]:
            raise FileError(f"{name} ends inside its header")
        shape = struct.unpack(f">{magic[3]}I", sizes)
        if math.prod(shape) * dtype.itemsize > (max_decompressed(path) if is_gzip else path.stat().st_size):
            raise FileError(f"{name} claims an array {shape}, far more than a file of {path.stat().st_size} bytes has")
        yield file, shape, dtype
