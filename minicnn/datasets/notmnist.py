"""notMNIST: letters A to J from thousands of fonts, 28 x 28 pixels, light on dark.

The data set exists in several formats: an archive of PNG files with one
folder per letter, the extracted archive, or the two files of MNIST's IDX
format. Each of them is read into one array of images and one of labels.
Archives are read member by member and never extracted. All content of a file
is checked before it is used.

Source: Yaroslav Bulatov, "notMNIST dataset", 2011.
"""

import contextlib
import json
import os
import pathlib
import sys
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from minicnn.console import SafeStream, warn
from minicnn.core.checks import check_fraction, check_integer, quoted
from minicnn.core.errors import FileError, InputError
from minicnn.core.types import Path
from minicnn.datasets import idx
from minicnn.datasets.archives import Skipped, folder_files, is_clutter, tar_files, zip_files
from minicnn.datasets.cache import cached
from minicnn.datasets.dataset import Dataset
from minicnn.datasets.idx import MAX_IMAGES
from minicnn.datasets.images import read_image
from minicnn.datasets.letters import LETTERS
from minicnn.datasets.png import SIGNATURE, Decoder
from minicnn.datasets.preprocessing import apply_switches, bright_borders, warn_of_borders
from minicnn.datasets.splits import copy_groups, merge_groups, stratified_split
from minicnn.storage.files import reading

BATCH, BATCH_BYTES = 2**12, 2**22  # of files that are decoded together: their number, and about how many bytes
SIDE = 28  # pixels
MAX_NAME_LENGTH = 2**10  # characters of a file name that are stored
_FORMAT = 4  # version of the cache
_LIGHT_ON_DARK = "notMNIST has light letters on a dark ground"


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


def load_notmnist(
    path: Path,
    test_fraction: float = 0.1,
    seed: int = 0,
    group_by: str = "copies",
    cache: bool = True,
    invert: bool = False,
    transpose: bool = False,
) -> Dataset:
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
        invert: True for your own dark letters on a light ground: 255 - value.
        transpose: True for images whose rows and columns are exchanged, as in EMNIST's IDX files.

    Returns:
        a `Dataset` with the classes A to J and the files that were skipped.

        images: uint8 (N, 28, 28), from 0 (background) to 255 (letter).
        labels: int64 (N,), 0 for A to 9 for J.

    Raises:
        FileError: the file does not exist, or is not notMNIST (the message says what was expected), or the
            download failed.
        InputError: an invalid argument.

    Warns:
        UserWarning: some files were skipped; the message contains their number and the first names. Or the border of
            most images is bright, which means dark letters on a light ground.

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
        raise InputError(f"group_by needs 'copies', 'fonts' or None, got {quoted(group_by)}")
    check_fraction(test_fraction, "test_fraction")
    seed = check_integer(seed, "seed", "load_notmnist", minimum=0)
    switches = _check_switches(invert, transpose)
    from minicnn.datasets import download  # here, because importing it takes as long as all of core

    name = path if isinstance(path, str) and path in download.DATA_SETS else None
    source = download.fetch(name) if name else _check_path(path)
    settings = [
        _FORMAT,
        str(source.resolve()),
        _fingerprint(source),
        repr(test_fraction),
        repr(seed),
        group_by,
        *switches,
    ]

    def make():
        if name:
            download.verify(name)
        return _split_arrays(source, test_fraction, seed, group_by, switches)

    arrays = cached("notmnist", settings, make, use=cache)
    notes = json.loads(arrays["notes"].tobytes())
    skipped = notes["skipped"]
    if skipped:
        shown = ", ".join(_format_skipped(*pair) for pair in skipped[:5])
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        warn(f"{len(skipped)} files of {quoted(source, 300)} were skipped: {shown}{more}")
    warn_of_borders(source, notes["bright"], _LIGHT_ON_DARK)
    train, test = ((arrays[f"{side}_images"], arrays[f"{side}_labels"]) for side in ("train", "test"))
    return Dataset(train, test, list(LETTERS), skipped=skipped)


def read_notmnist(path: Path, invert: bool = False, transpose: bool = False) -> NotMNIST:
    """All images of a file or folder, without a split, as a `NotMNIST`.

    Args:
        path: an archive, a folder or IDX files, as for `load_notmnist`; nothing is downloaded.
        invert, transpose: as for `load_notmnist`.

    Returns:
        a `NotMNIST`.

    Raises:
        FileError: the file does not exist, or is not notMNIST.
        InputError: the argument is not a path, or a switch is not True or False.

    Warns:
        UserWarning: the border of most images is bright.

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
    data, _ = _read(path, _check_switches(invert, transpose))
    warn_of_borders(path, bright_borders(data.images), _LIGHT_ON_DARK)
    return data


def _check_path(path):
    """The path as a `pathlib.Path`; an error if no file or folder exists there, or it is a pipe or a device."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"path must be 'small', 'large', 'idx' or the path of a file or folder, got {quoted(path)}")
    with reading(path, "a data set"):
        path = pathlib.Path(path)
        if not path.exists():
            raise FileError(f"there is no file or folder {quoted(path, 300)}")
        return path


def _check_switches(invert, transpose):
    for name, value in (("invert", invert), ("transpose", transpose)):
        if not isinstance(value, (bool, np.bool_)):
            raise InputError(f"{name} must be True or False, got {quoted(value)}")
    return bool(invert), bool(transpose)


def _read(path, switches):
    """The data at a path, and the number of images of the training set, or None if the data is not split yet."""
    pairs, others = idx.find(path)
    if pairs:
        found = idx.read_labels(pairs)
        for (file, labels_file), (shape, labels) in zip(pairs, found, strict=True):
            idx.check_size(file, shape, (SIDE, SIDE))
            if not 0 <= labels.min() <= labels.max() < len(LETTERS):
                raise FileError(f"{quoted(labels_file, 300)} contains labels other than 0 (A) to 9 (J)")
            _check_every_letter(labels_file, labels)
        images = idx.read_images(pairs, [shape for shape, _ in found])
        skipped = [(name, "beside the IDX files that are read") for name in others]
        data = NotMNIST(images, np.concatenate([labels for _, labels in found]), [], skipped)
        n_train = len(found[0][1]) if len(pairs) == 2 else None
    else:
        files = folder_files if path.is_dir() else zip_files if zipfile.is_zipfile(path) else tar_files
        data, n_train = _decode_files(path, files(path)), None
    apply_switches(data.images, *switches)
    return data, n_train


def _split_arrays(path, test_fraction, seed, group_by, switches):
    """A data set, split into training and test, as the dictionary of arrays for the cache."""
    data, n_train = _read(path, switches)
    images, labels = data.images, data.labels
    if n_train is None:
        groups = {"copies": lambda data: copy_groups(data.images), "fonts": _font_groups, None: lambda data: None}[
            group_by
        ](data)
        train, test = stratified_split(labels, test_fraction, np.random.default_rng(seed), groups)
        n_train, order = len(train), np.concatenate([train, test])
        labels = labels[order]
        _reorder(images, order)
    notes = json.dumps({"skipped": data.skipped, "bright": bright_borders(images)})
    return {
        "train_images": images[:n_train],
        "train_labels": labels[:n_train],
        "test_images": images[n_train:],
        "test_labels": labels[n_train:],
        "notes": np.frombuffer(notes.encode(), dtype=np.uint8),
    }


def _reorder(images, order):
    """`images[order]` in the memory of `images`: some pixels of all images at a time, so that no copy is needed."""
    pixels = images.reshape(len(images), -1)
    for start in range(0, pixels.shape[1], 56):
        pixels[:, start : start + 56] = pixels[order, start : start + 56]


def _decode_files(path, files):
    """The images in (name, data) pairs, decoded by a second process while this one reads, and the skipped files."""
    from tqdm import tqdm

    pixels, labels, names, skipped = results = bytearray(), bytearray(), [], []
    stream = SafeStream(sys.stderr)
    title = f"reading {quoted(path.name, 40)[1:-1]}"
    progress_bar = tqdm(desc=title, unit=" files", file=stream, disable=not stream.isatty())
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
        expected = f"A..J/*.png of {SIDE} x {SIDE} pixels"
        raise FileError(f"{quoted(path, 300)} is not notMNIST: it contains no image {expected}{reason}")
    _check_every_letter(path, labels)
    images = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, SIDE, SIDE)
    return NotMNIST(images, np.frombuffer(labels, dtype=np.uint8).astype(np.int64), names, skipped)


def _check_every_letter(path, labels):
    """Raise a FileError if a data set has no image of one of the letters."""
    missing = [letter for letter, count in zip(LETTERS, np.bincount(labels, minlength=10), strict=True) if not count]
    if missing:
        raise FileError(f"{quoted(path, 300)} has no image of {', '.join(missing)}: the data set is incomplete")


def _batches(path, files):
    """Lists of (name, data) pairs to decode together, bounded in number and size."""
    batch, size = [], 0
    for count, (name, data) in enumerate(files):
        if count == MAX_IMAGES:
            raise FileError(f"{quoted(path, 300)} is not notMNIST: it contains more than {MAX_IMAGES} files")
        if is_clutter(name):
            continue
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
        letter, reason = (None, data) if isinstance(data, Skipped) else _parse_letter(name)
        if letter is not None and not plain[row]:
            image = _decode_png(data)
            if isinstance(image, Skipped):
                letter, reason = None, image
            else:
                images[row] = image
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
    """The pixels (28, 28) of a PNG, or a `Skipped` with the reason."""
    if not data:
        return Skipped("empty")
    if not data.startswith(SIGNATURE):
        return Skipped("not a PNG")
    try:
        return read_image(data, size=(SIDE, SIDE))
    except FileError as error:
        return Skipped(str(error).removeprefix("the picture cannot be read: "))


def _font_groups(data):
    """A group number for each image, the same for all letters of a font and for identical images."""
    if not data.names:
        raise InputError("IDX files do not contain font names: use group_by='copies'")
    numbers = {}
    fonts = [numbers.setdefault(name.rpartition("/")[2], len(numbers)) for name in data.names]
    return merge_groups(fonts, copy_groups(data.images))


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
