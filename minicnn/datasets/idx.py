"""MNIST's IDX format: an array of bytes behind a header that says its shape.

Two zero bytes, the type 8 (bytes), the number of dimensions, their sizes as four bytes each, then the array; as it is
or gzipped. A data set is two such files: images (N, 28, 28) and labels (N,). All that the headers and labels say is
checked before a pixel is read, so that a file that lies takes no memory.

Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", 1998.
"""

import contextlib
import gzip
import math
import struct

import numpy as np

from minicnn.datasets.letters import LETTERS
from minicnn.errors import FileError
from minicnn.files import reading

SIDE = 28  # pixels
MOST_IMAGES = 2**21  # four times those of the largest notMNIST; more is a trap for the memory
_PIECE = 2**20  # bytes read at a time


def pairs(path):
    """The (images, labels) files of MNIST's format at a path: none, one pair, or the training and the test pair."""
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
        beside = next((candidate for candidate in (labels, other) if candidate.exists()), None)
        if not file.exists() or beside is None:
            raise FileError(f"IDX needs two files: {file} and {labels.name} beside it")
        found.append((file, beside))
    if len(found) > 2:
        raise FileError(f"{path} holds {len(found)} pairs of IDX files: name the images file of one of them")
    return sorted(found, key=lambda pair: "train" not in pair[0].name)


def read_pair(images_path, labels_path):
    """The images (N, 28, 28) uint8 and the labels (N,) int64 of a pair of files.

    Raises:
        FileError: a file is cut, broken or something else, or the two do not belong to each other or to notMNIST.
    """
    count, label_count = image_count(images_path), _shape(labels_path, 1)[0]
    if count != label_count:
        raise FileError(f"{images_path} holds {count} images and {labels_path} {label_count} labels")
    if not 0 < count <= MOST_IMAGES:
        raise FileError(f"{images_path} holds {count} images, a data set from 1 to {MOST_IMAGES}")
    labels = _read(labels_path, 1).astype(np.int64)
    if labels.max() >= len(LETTERS):
        raise FileError(f"{labels_path} holds the label {labels.max()}: they run from 0 (A) to 9 (J)")
    check_every_letter(labels_path, labels)
    return _read(images_path, 3), labels


def image_count(path):
    """How many images a file claims to hold."""
    return _shape(path, 3)[0]


def check_every_letter(path, labels):
    """Refuse a data set in which a letter is missing."""
    missing = [letter for letter, count in zip(LETTERS, np.bincount(labels, minlength=10), strict=True) if not count]
    if missing:
        raise FileError(f"{path} has no image of {', '.join(missing)}: the data set is not whole")


def check(path, dimensions):
    """Refuse a file of images (3 dimensions) or labels (1) that is not whole; nothing of it is kept.

    Raises:
        FileError: what is wrong with it.
    """
    for _ in _pieces(path, dimensions):
        pass


def _read(path, dimensions):
    data = bytearray()  # grows with what is there, not with what the header claims
    for piece in _pieces(path, dimensions):
        data += piece
    return np.frombuffer(data, dtype=np.uint8).reshape(_shape(path, dimensions))


def _shape(path, dimensions):
    with _behind_header(path, dimensions) as (_, shape):
        return shape


def _pieces(path, dimensions):
    """The bytes of the array; at their end it is known that they are all."""
    with _behind_header(path, dimensions) as (file, shape):
        size = left = math.prod(shape)
        while piece := file.read(min(_PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                break
            yield piece
        if left:
            holds = "more" if left < 0 else f"{size - left}"
            raise FileError(f"{path} claims an array {shape} of {size} bytes and holds {holds}")


@contextlib.contextmanager
def _behind_header(path, dimensions):
    """A file, open behind its header, and the shape that the header claims."""
    with reading(path, "a whole IDX file"), open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = gzip.GzipFile(fileobj=raw) if packed else raw
        wanted = bytes([0, 0, 8, dimensions])
        magic = file.read(4)
        if magic != wanted:
            raise FileError(f"{path} starts with {magic.hex()}, IDX of bytes with {wanted.hex()}")
        sizes = file.read(4 * dimensions)
        if len(sizes) < 4 * dimensions:
            raise FileError(f"{path} ends within its header")
        shape = struct.unpack(f">{dimensions}I", sizes)
        if dimensions == 3 and shape[1:] != (SIDE, SIDE):
            raise FileError(f"{path} holds images of {shape[1:]} pixels, notMNIST's are {SIDE} x {SIDE}")
        yield file, shape
