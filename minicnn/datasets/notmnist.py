"""notMNIST: letters A to J from thousands of fonts, 28 x 28 pixels, light on dark.

The data set exists in several formats: an archive of PNG files with one
folder per letter, the extracted archive, or the two files of MNIST's IDX
format. Each of them is read into one array of images and one of labels.
Archives are read member by member and never extracted. All content of a file
is checked before it is used.

Source: Yaroslav Bulatov, "notMNIST dataset", 2011.
"""

import contextlib
import io
import json
import os
import pathlib
import struct
import sys
import warnings
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from minicnn.core.checks import check_fraction, check_integer
from minicnn.core.errors import FileError, InputError
from minicnn.datasets import download, idx
from minicnn.datasets.archives import Skipped, folder_files, tar_files, zip_files
from minicnn.datasets.cache import cached
from minicnn.datasets.idx import MAX_IMAGES, SIDE, check_every_letter
from minicnn.datasets.letters import LETTERS
from minicnn.datasets.png import Decoder
from minicnn.datasets.splits import Rows, stratified_split
from minicnn.storage.files import reading

BATCH, BATCH_BYTES = 2**12, 2**22  # of files that are decoded together: their number, and about how many bytes
MAX_NAME_LENGTH = 2**10  # characters of a file name that are stored
_FORMAT = 3  # version of the cache


class NotMNIST(NamedTuple):
    """The images, their labels and names, and the skipped files.

    Attributes:
        images: uint8 (N, 28, 28).
        labels: int64 (N,), 0 for A to 9 for J.
        names: the names of the files, or an empty list for IDX.
        skipped: (name, reason) of every file that was skipped.
    """

    images: np.ndarray
    labels: np.ndarray
    names: list
    skipped: list


def load_notmnist(path, test_fraction=0.1, seed=0, group_by="copies", cache=True):
    """notMNIST, downloaded or read from a file or folder: `(x_train, y_train), (x_test, y_test)`.

    Args:
        path: "small" (18,724 images), "large" (529,114) or "idx" (70,000), which are downloaded once and stored in
            the cache folder; or an archive (.tar.gz, .tar, .zip), a folder with one subfolder per letter, an IDX
            images file, or a folder with IDX files (compressed with gzip or not). A training pair and a test pair
            of IDX files are used as the two sets; all other data is split.
        test_fraction: the fraction of every letter held out for the test.
        seed: of the split.
        group_by: "copies" keeps images with identical bytes on the same side of the split (about 13 % of notMNIST
            are copies); "fonts" also keeps all letters of a font on the same side; None does neither.
        cache: store the arrays on disk and read them from there the next time.

    Returns:
        images: uint8 (N, 28, 28), from 0 (background) to 255 (letter).
        labels: int64 (N,), 0 for A to 9 for J.

    Raises:
        FileError: the file does not exist, or is not notMNIST (the message says what was expected), or the
            download failed.
        InputError: an invalid argument.

    Warns:
        UserWarning: some files were skipped; the message contains their number and the first names.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())               # your own letters, one folder per letter
    >>> for letter in "ABCDEFGHIJ":
    ...     (folder / letter).mkdir()
    ...     for font in range(4):
    ...         Image.new("L", (28, 28), 10 * font + ord(letter)).save(folder / letter / f"{font}.png")
    >>> (x_train, y_train), (x_test, y_test) = load_notmnist(folder, test_fraction=0.25, cache=False)
    >>> x_train.shape, sorted(y_test.tolist())
    ((30, 28, 28), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    if group_by not in ("copies", "fonts", None):
        raise InputError(f"group_by needs 'copies', 'fonts' or None, got {group_by!r}")
    check_fraction(test_fraction, "test_fraction")
    seed = check_integer(seed, "seed", "load_notmnist", minimum=0)
    path = download.fetch(path) if isinstance(path, str) and path in download.DATA_SETS else _check_path(path)
    settings = [_FORMAT, str(path.resolve()), _fingerprint(path), repr(test_fraction), repr(seed), group_by]
    arrays = cached("notmnist", settings, lambda: _split_arrays(path, test_fraction, seed, group_by), use=cache)
    skipped = json.loads(arrays["skipped"].tobytes())
    if skipped:
        shown = ", ".join(_format_skipped(*pair) for pair in skipped[:5])
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        warnings.warn(f"{len(skipped)} files of {path} were skipped: {shown}{more}", stacklevel=2)
    return tuple((arrays[f"{name}_images"], arrays[f"{name}_labels"]) for name in ("train", "test"))


def read_notmnist(path):
    """All images of a file or folder, without a split, as a `NotMNIST`.

    Args:
        path: an archive, a folder or IDX files, as for `load_notmnist`; nothing is downloaded.

    Raises:
        FileError: the file does not exist, or is not notMNIST.
        InputError: the argument is not a path.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for letter in "ABCDEFGHIJ":
    ...     (folder / letter).mkdir()
    ...     Image.new("L", (28, 28)).save(folder / letter / "font.png")
    >>> data = read_notmnist(folder)
    >>> data.images.shape, data.names[:2], data.skipped
    ((10, 28, 28), ['A/font.png', 'B/font.png'], [])
    """
    path = _check_path(path)
    pairs = idx.pairs(path)
    if pairs:
        sets = [idx.read_pair(*pair) for pair in pairs]
        return NotMNIST(np.concatenate([s[0] for s in sets]), np.concatenate([s[1] for s in sets]), [], [])
    files = folder_files if path.is_dir() else zip_files if zipfile.is_zipfile(path) else tar_files
    return _decode_files(path, files(path))


def _check_path(path):
    """The path as a `pathlib.Path`; an error if no file or folder exists there."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"path must be 'small', 'large', 'idx' or the path of a file or folder, got {path!r}")
    with reading(repr(os.fspath(path)), "a path"):
        path = pathlib.Path(path)
        if not path.exists():
            raise FileError(f"there is no file or folder {path}")
        return path


def _split_arrays(path, test_fraction, seed, group_by):
    """A data set, split into training and test, as the dictionary of arrays for the cache."""
    download.verify(path)
    pairs = idx.pairs(path)
    data = read_notmnist(path)
    if len(pairs) == 2:
        train, test = np.split(np.arange(len(data.labels)), [idx.image_count(pairs[0][0])])
    else:
        groups = {"copies": _copy_groups, "fonts": _font_groups, None: lambda data: None}[group_by](data)
        train, test = stratified_split(data.labels, test_fraction, np.random.default_rng(seed), groups)
    return {
        "train_images": Rows(data.images, train),
        "train_labels": data.labels[train],
        "test_images": Rows(data.images, test),
        "test_labels": data.labels[test],
        "skipped": np.frombuffer(json.dumps(data.skipped).encode(), dtype=np.uint8),
    }


def _decode_files(path, files):
    """The images in (name, data) pairs, decoded by a second process while this one reads, and the skipped files."""
    from tqdm import tqdm

    pixels, labels, names, skipped = results = bytearray(), bytearray(), [], []
    progress_bar = tqdm(desc=f"reading {path.name}", unit=" files", disable=not sys.stderr.isatty())
    with progress_bar, contextlib.closing(Decoder(SIDE, SIDE)) as decoder:
        sent = []
        for batch in _batches(path, files):
            if sent:
                _collect(sent, *decoder.receive(), *results)
            decoder.send([b"" if isinstance(data, Skipped) else data for _, data in batch])
            sent = batch
            progress_bar.update(len(batch))
        if sent:
            _collect(sent, *decoder.receive(), *results)
    if not labels:
        reason = f"; the first of {len(skipped)} skipped files: {_format_skipped(*skipped[0])}" if skipped else ""
        raise FileError(f"{path} is not notMNIST: it contains no image A..J/*.png of {SIDE} x {SIDE} pixels{reason}")
    check_every_letter(path, labels)
    images = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, SIDE, SIDE)
    return NotMNIST(images, np.frombuffer(labels, dtype=np.uint8).astype(np.int64), names, skipped)


def _batches(path, files):
    """Lists of (name, data) pairs to decode together, bounded in number and size."""
    batch, size = [], 0
    for count, (name, data) in enumerate(files):
        if count == MAX_IMAGES:
            raise FileError(f"{path} is not notMNIST: it contains more than {MAX_IMAGES} files")
        if len(name) > MAX_NAME_LENGTH:
            name, data = name[:MAX_NAME_LENGTH], Skipped(f"a name of {len(name)} characters is too long")
        batch.append((name, data))
        size += len(data)
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _collect(batch, plain, images, pixels, labels, names, skipped):
    """Append the letters to `pixels`, `labels` and `names`, and (name, reason) of all other files to `skipped`."""
    rows = []
    for row, (name, data) in enumerate(batch):
        letter, reason = _parse_letter(name)
        if letter is not None and not plain[row]:
            image = data if isinstance(data, Skipped) else _decode_png(data)
            if isinstance(image, Skipped):
                letter, reason = None, image
            else:
                images[row] = np.frombuffer(image, dtype=np.uint8).reshape(SIDE, SIDE)
        if letter is None:
            skipped.append((name, reason))
            continue
        labels.append(LETTERS.index(letter))
        names.append(name)
        rows.append(row)
    pixels += images[rows].tobytes()


def _parse_letter(name):
    """(letter, "") for a name like notMNIST_small/A/font.png; (None, reason) for any other."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith("/"):
        return None, "its path leads outside the archive"
    if len(parts) not in (2, 3) or len(parts[-2]) != 1 or parts[-2] not in LETTERS:
        return None, "not in a folder A to J"
    if not parts[-1].lower().endswith(".png") or parts[-1].startswith("."):
        return None, "not a .png file"
    return parts[-2], ""


def _decode_png(data):
    """The 784 pixels of a PNG, or a `Skipped` with the reason."""
    from PIL import Image

    if not data:
        return Skipped("empty")
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 33:
        return Skipped("not a PNG")
    size = struct.unpack(">II", data[16:24])
    if size != (SIDE, SIDE):  # checked before decoding, against decompression bombs
        return Skipped(f"{size[0]} x {size[1]} pixels")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return image.convert("L").tobytes() if image.mode != "L" else image.tobytes()
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error, IndexError) as error:
        return Skipped(f"broken: {error}")


def _copy_groups(data):
    """A group number for each image: a hash of its bytes, so that identical images have the same number."""
    words = np.ascontiguousarray(data.images).reshape(len(data.images), -1).view(np.uint64)
    factors = np.random.default_rng(0).integers(2**63, size=words.shape[1], dtype=np.uint64) * 2 + 1
    return words @ factors


def _font_groups(data):
    """A group number for each image, the same for all letters of a font and for identical images."""
    if not data.names:
        raise InputError("IDX files do not contain font names: use group_by='copies'")
    fonts = [name.rpartition("/")[2] for name in data.names]
    font_numbers = {font: number for number, font in enumerate(sorted(set(fonts)))}
    font = np.array([font_numbers[font] for font in fonts])
    _, copy = np.unique(_copy_groups(data), return_inverse=True)
    group = font
    while True:  # fonts with an image in common are one group; repeat until nothing changes
        lowest = np.full(copy.max() + 1, len(data.names))
        np.minimum.at(lowest, copy, group)
        merged = lowest[copy]
        lowest = np.full(font.max() + 1, len(data.names))
        np.minimum.at(lowest, font, merged)
        merged = lowest[font]
        if (merged == group).all():
            return group
        group = merged


def _fingerprint(path):
    """A fingerprint of the data at a path: the number of files, and a checksum of their names, sizes and times."""
    checksum = zlib.crc32(b"")
    with reading(path, "a data set"):
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            info = file.stat()
            checksum = zlib.crc32(os.fsencode(file) + f"\n{info.st_size}\n{info.st_mtime_ns}\n".encode(), checksum)
    return [len(files), checksum]


def _format_skipped(name, reason):
    """The name of a skipped file and the reason, on one line of printable characters."""
    return f"{repr(name)[1:-1]:.200} ({repr(reason)[1:-1]:.200})"
