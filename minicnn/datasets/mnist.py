"""MNIST and its relatives, from the files in which they are published.

| data set | files | classes |
|---|---|---|
| MNIST, Fashion-MNIST, KMNIST | `train-images-idx3-ubyte` and three more, or Keras's `mnist.npz` | 10 |
| EMNIST | `emnist-letters-train-images-idx3-ubyte` and three more, and a mapping; six sets | 10, 26, 47 or 62 |
| QMNIST | `qmnist-train-images-idx3-ubyte`, and labels with several columns | 10 |
| CIFAR-10, CIFAR-100, binary version | `data_batch_1.bin` and five more; `train.bin` and `test.bin` | 10, 100 |

Sources: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", 1998; Xiao, Rasul & Vollgraf,
"Fashion-MNIST", 2017; Cohen et al., "EMNIST: an extension of MNIST to handwritten letters", 2017; Yadav & Bottou, "Cold
case: the lost MNIST digits", 2019; Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

import json
import math
import os
import pathlib
import string
import zipfile
from typing import NamedTuple

import numpy as np

from minicnn.core.checks import check_flag, check_fraction, check_integer, quoted
from minicnn.core.errors import FileError, InputError
from minicnn.core.types import Path
from minicnn.datasets import idx
from minicnn.datasets.archives import is_clutter, listed, max_decompressed
from minicnn.datasets.cache import cached
from minicnn.datasets.dataset import Dataset
from minicnn.datasets.preprocessing import apply_switches
from minicnn.datasets.splits import copy_groups, stratified_split
from minicnn.storage.files import reading

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"  # capital and small letters that look different
#: For the sets of EMNIST: label 0, 1, ... of their files, where the mapping file is missing. Letters begin with 1.
EMNIST = {
    "emnist-byclass": dict(enumerate(string.digits + string.ascii_uppercase + string.ascii_lowercase)),
    "emnist-bymerge": dict(enumerate(_MERGED)),
    "emnist-balanced": dict(enumerate(_MERGED)),
    "emnist-letters": dict(enumerate(string.ascii_uppercase, start=1)),
}
_KERAS = ("x_train", "y_train", "x_test", "y_test")
_CIFAR_SHAPE = (3, 32, 32)
_MAX_TEXT = 2**16  # bytes of a file of class names
_FORMAT = 1  # version of the cache


class Source(NamedTuple):
    """The files of a data set.

    Attributes:
        kind: "idx", "keras" or "cifar".
        files: all files that are read; for "idx" images and labels in turn, the training pair first.
        name: of the data set, as far as the files' names tell; "" otherwise.
        mapping: the file with the classes' names, or None.
    """

    kind: str
    files: tuple
    name: str
    mapping: pathlib.Path | None


def load_idx(
    path: Path,
    name: str | None = None,
    *,
    transpose: bool | None = None,
    invert: bool = False,
    test: float = 0.1,
    seed: int = 0,
    cache: bool = True,
) -> Dataset:
    """MNIST, Fashion-MNIST, EMNIST, QMNIST or CIFAR, from its files: `(x_train, y_train), (x_test, y_test)`.

    Args:
        path: a folder with the files, compressed with gzip or not, also torchvision's folder; or one of the images
            files, which stands for its data set; or Keras's `mnist.npz`.
        name: of the data set where a folder has several: "letters" or "emnist-letters" among EMNIST's files.
        transpose: whether rows and columns of the images are exchanged. None: they are for EMNIST, whose files have
            the images lying on their sides.
        invert: True for 255 - value.
        test: the fraction of every class held out for the test, where the files have no test set; copies of an image
            stay on the same side.
        seed: of that split.
        cache: store the arrays on disk and read them from there the next time.

    Returns:
        a `Dataset`: `(x_train, y_train), (x_test, y_test)`, and `classes`: the names in EMNIST's or CIFAR's file of
        names, those of Fashion-MNIST where the name of the folder or the file tells it, else the numbers as texts.

        images: uint8 (N, C, H, W), C = 1 or 3.
        labels: int64 (N,), indices into `classes`. CIFAR-100's are the 100 fine ones.

    Raises:
        FileError: there is no such data set, several without `name`, or a file is incomplete or broken.
        InputError: an invalid argument.

    >>> import struct, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for part, n in [("train", 6), ("t10k", 2)]:
    ...     header = bytes([0, 0, 8, 3]) + struct.pack(">3I", n, 28, 28)
    ...     _ = (folder / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(n * 784))
    ...     header = bytes([0, 0, 8, 1]) + struct.pack(">I", n)
    ...     _ = (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes([7, 9] * (n // 2)))
    >>> data = load_idx(folder, cache=False)
    >>> data.train[0].shape, data.test[1], data.classes
    ((6, 1, 28, 28), array([0, 1]), ['7', '9'])
    """
    check_fraction(test, "test")
    seed = check_integer(seed, "seed", "load_idx", minimum=0)
    if name is not None and not isinstance(name, str):
        raise InputError(f"load_idx needs the name of a data set, such as 'letters', or None, got {quoted(name)}")
    source = find_source(path, name)
    if source is None:
        raise FileError(
            f"{quoted(path, 300)} has no files of MNIST, EMNIST or CIFAR that can be read: expected "
            "*-images-idx3-ubyte(.gz), mnist.npz, data_batch_1.bin or train.bin"
        )
    if transpose is None:
        transpose = source.name.startswith("emnist")
    switches = check_flag(invert, "invert", "load_idx"), check_flag(transpose, "transpose", "load_idx")
    stamps = []
    with reading(path, "a data set"):
        for file in (*source.files, *filter(None, [source.mapping])):
            info = file.stat()
            stamps.append([str(file.resolve()), info.st_size, info.st_mtime_ns])
    key = [_FORMAT, source.kind, source.name, *switches, repr(test), seed, stamps]
    arrays = cached("idx", key, lambda: _arrays(source, switches, test, seed), use=cache)
    train, test_pair = ((arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test"))
    return Dataset(train, test_pair, json.loads(arrays["classes"].tobytes()))


# Which files there are


def find_source(path, name=None):
    """The files of a data set at a path as a `Source`, or None if there are none.

    Raises:
        FileError: there is nothing at the path, files are missing, or it has several data sets and `name` is not one.
        InputError: not a path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"load_idx needs the path of a folder or a file, got {quoted(path)}")
    with reading(path, "a data set"):
        path = pathlib.Path(path)
        if not path.exists():
            raise FileError(f"there is no file or folder {quoted(path, 300)}")
        if path.is_file():
            own_name = idx.set_name(path.name)
            if own_name is not None:
                return _idx_source(path.parent, own_name)
            return Source("keras", (path,), _known_name(path), None) if path.suffix == ".npz" else None
        while True:
            files = sorted(file for file in path.iterdir() if not is_clutter(file.name))
            names = {found for file in files if (found := idx.set_name(file.name)) is not None}
            if names:
                return _idx_source(path, _choose(path, names, name))
            if found := _cifar_source(path, files) or _keras_source(files):
                return found
            folders = [file for file in files if file.is_dir() and not file.is_symlink()]
            inner = [folder for folder in folders if folder.name in ("raw", "gzip")] or folders  # torchvision's raw
            if len(inner) != 1:
                return None
            path = inner[0]


def _choose(path, names, name):
    """The one of several data sets in a folder that a name means: its own name, or the end of it."""
    wanted = names if name is None else {n for n in names if n == name or n.endswith(f"-{name}")}
    if len(wanted) != 1:
        what = "has several data sets" if name is None else f"has no data set {quoted(name)}"
        raise FileError(f"{quoted(path, 300)} {what}: choose a name, one of {listed(sorted(names), 10)}")
    return next(iter(wanted))


def _idx_source(folder, name):
    pairs, _ = idx.find(folder, name)
    mapping = folder / f"{name}-mapping.txt"
    known = name or _known_name(pairs[0][0])
    return Source("idx", tuple(f for pair in pairs for f in pair), known, mapping if mapping.is_file() else None)


def _keras_source(files):
    files = [file for file in files if file.suffix == ".npz"]
    return Source("keras", (files[0],), _known_name(files[0]), None) if len(files) == 1 else None


def _cifar_source(folder, files):
    names = {file.name for file in files}
    for first, others, text in (
        ("data_batch_1.bin", [f"data_batch_{k}.bin" for k in range(2, 6)] + ["test_batch.bin"], "batches.meta.txt"),
        ("train.bin", ["test.bin"], "fine_label_names.txt"),
    ):
        if first in names:
            missing = [name for name in others if name not in names]
            if missing:
                raise FileError(f"{quoted(folder, 300)} has {first}, but not {', '.join(missing)}: it is incomplete")
            mapping = folder / text if text in names else None
            return Source("cifar", tuple(folder / name for name in (first, *others)), "", mapping)
    return None


def _known_name(file):
    """ "fashion-mnist", if one of the last folders or the file is called so; else ""."""
    return "fashion-mnist" if any("fashion" in part.lower() for part in file.resolve().parts[-3:]) else ""


# What is in them


def _arrays(source, switches, test, seed):
    """The data set as a dictionary of arrays for the cache."""
    read = {"idx": _read_idx, "keras": _read_keras, "cifar": _read_cifar}[source.kind]
    images, labels = read(source)  # lists: of the training set and the test set, or of all images
    images = [apply_switches(array, *switches) for array in images]
    if len(images) == 1:
        groups = copy_groups(images[0])
        rows = stratified_split(labels[0], test, np.random.default_rng(seed), groups)
        images, labels = [images[0][found] for found in rows], [labels[0][found] for found in rows]
    known = _class_names(source)
    values = np.array(sorted(known)) if known else np.unique(labels[0])
    arrays = {}
    for split, x, y in zip(("train", "test"), images, labels, strict=True):
        unknown = np.setdiff1d(y, values)
        if len(unknown):
            raise FileError(
                f"{quoted(source.files[0], 300)}: label {unknown[0]} in the {split} set is not a known class"
            )
        arrays |= {f"{split}_images": x, f"{split}_labels": np.searchsorted(values, y).astype(np.int64)}
    classes = [known[value] if known else str(value) for value in values.tolist()]
    return arrays | {"classes": np.frombuffer(json.dumps(classes).encode(), dtype=np.uint8)}


def _class_names(source):
    """{label in the files: name}, or None where only the labels are known."""
    if source.mapping is not None:
        with reading(source.mapping, "a list of class names"):
            if source.mapping.stat().st_size > _MAX_TEXT:
                raise ValueError("it is far too long")
            text = source.mapping.read_text(encoding="utf-8")
            if source.kind == "cifar":
                return dict(enumerate(text.split()))
            rows = [[int(number) for number in line.split()] for line in text.splitlines() if line.strip()]
            return {label: chr(codes[0]) for label, *codes in rows}  # the first of "1 65 97" is A
    if source.name == "fashion-mnist":
        return dict(enumerate(FASHION))
    return EMNIST.get(source.name)


def _read_idx(source):
    pairs = list(zip(source.files[::2], source.files[1::2], strict=True))
    found = idx.read_labels(pairs)
    all_images = idx.read_images(pairs, [shape for shape, _ in found])[:, None]
    stops = np.cumsum([len(labels) for _, labels in found])
    return np.split(all_images, stops[:-1]), [labels for _, labels in found]


def _read_keras(source):
    (path,) = source.files
    with reading(path, "an .npz file with the arrays x_train, y_train, x_test and y_test"):
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            missing = [name for name in _KERAS if f"{name}.npy" not in members]
            if missing:
                raise ValueError(f"it has no {', '.join(missing)}")
            if sum(members[f"{name}.npy"].file_size for name in _KERAS) > max_decompressed(path):
                raise ValueError("it decompresses to far more bytes than pictures do")
            x_train, y_train, x_test, y_test = (_read_npy(archive, members[f"{name}.npy"]) for name in _KERAS)
        images, labels = [], []
        for x, y in ((x_train, y_train), (x_test, y_test)):
            if (
                x.dtype != np.uint8
                or x.ndim not in (3, 4)
                or y.dtype.kind not in "iu"
                or len(x) != y.size
                or not y.size
            ):
                raise ValueError(f"its images are {x.dtype} {x.shape} and its labels {y.dtype} {y.shape}")
            x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)  # Keras has the channels last
            if x.shape[1] not in (1, 3):
                raise ValueError(f"its images have {x.shape[1]} channels")
            images.append(np.ascontiguousarray(x))
            labels.append(y.reshape(-1).astype(np.int64))
    return images, labels


def _read_npy(archive, member):
    """An array of numbers in a zip; its header is checked against its size before memory is taken."""
    formats = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(member) as file:
        shape, is_fortran, dtype = formats[np.lib.format.read_magic(file)](file)
        if is_fortran or dtype.kind not in "iu" or file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{member.filename} is not a complete array of integers")
        array = np.empty(shape, dtype=dtype)
        content, position = memoryview(array.reshape(-1).view(np.uint8)), 0
        while n := file.readinto(content[position : position + 2**20]):
            position += n
        if position < len(content):
            raise EOFError(f"{member.filename} is truncated")
    return array


def _read_cifar(source):
    """Records of one label byte (CIFAR-100: a coarse and a fine one) and the red, green and blue pixels."""
    n_labels = 2 if source.files[0].name == "train.bin" else 1
    size = n_labels + math.prod(_CIFAR_SHAPE)
    records = []
    for file in source.files:
        with reading(file, "a file of CIFAR's binary version"):
            n_bytes = file.stat().st_size
            if n_bytes % size or not 0 < n_bytes // size <= idx.MAX_IMAGES:
                raise ValueError(f"its {n_bytes} bytes are not records of {size} bytes")
            records.append(np.fromfile(file, dtype=np.uint8).reshape(-1, size))
    records = [np.concatenate(records[:-1]), records[-1]]
    images = [np.ascontiguousarray(found[:, n_labels:]).reshape(-1, *_CIFAR_SHAPE) for found in records]
    return images, [found[:, n_labels - 1].astype(np.int64) for found in records]
