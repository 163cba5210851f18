"""notMNIST: letters A to J from thousands of fonts, 28 x 28 pixels, light on dark.

It comes in several wrappings: an archive of PNG files in one folder a letter,
that archive unpacked, or the two files of MNIST's own IDX format. All end as
one array of images and one of labels. Archives are read member by member and
never unpacked; nothing is believed of a file before it is checked.

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

from minicnn.checks import check_share, whole_number
from minicnn.datasets import download, idx
from minicnn.datasets.archives import Skipped, folder_files, tar_files, zip_files
from minicnn.datasets.cache import cached
from minicnn.datasets.idx import MOST_IMAGES, SIDE, check_every_letter
from minicnn.datasets.letters import LETTERS
from minicnn.datasets.png import Decoder
from minicnn.datasets.splits import Rows, stratified_split
from minicnn.errors import FileError, InputError
from minicnn.files import reading

BATCH, BATCH_BYTES = 2**12, 2**22  # files decoded together, and about how many bytes
LONGEST_NAME = 2**10  # characters that are kept of a name
_FORMAT = 3  # of the cache


class NotMNIST(NamedTuple):
    """What was read.

    Attributes:
        images: uint8 (N, 28, 28).
        labels: int64 (N,), 0 for A to 9 for J.
        names: the files' names, or an empty list for IDX.
        skipped: (name, why) of every file that was left out.
    """

    images: np.ndarray
    labels: np.ndarray
    names: list
    skipped: list


def load_notmnist(path, test_fraction=0.1, seed=0, group_by="copies", cache=True):
    """notMNIST, downloaded or from a file or folder: `(x_train, y_train), (x_test, y_test)`.

    Args:
        path: "small" (18,724 images), "large" (529,114) or "idx" (70,000), which are downloaded once and kept in
            the cache folder; or an archive (.tar.gz, .tar, .zip), a folder of one folder a letter, an IDX images
            file, or a folder with IDX files (gzipped or not). With a training and a test pair of IDX files these
            are the two sets; everything else is split.
        test_fraction: the share of every letter held out for the test.
        seed: of the split.
        group_by: "copies" keeps images that are equal to the byte on one side of the split (about 13 % of
            notMNIST are copies); "fonts" also keeps the letters of a font together; None does neither.
        cache: keep the arrays on disk and read them from there the next time.

    Returns:
        images: uint8 (N, 28, 28), from 0 (ground) to 255 (letter).
        labels: int64 (N,), 0 for A to 9 for J.

    Raises:
        FileError: there is no such file, or it is not notMNIST; the message says what was expected. Or nothing
            could be downloaded.
        InputError: a setting that cannot be.

    Warns:
        UserWarning: files that were left out, counted and named.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())               # letters of one's own, a folder for each
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
    check_share(test_fraction, "test_fraction")
    seed = whole_number(seed, "seed", "load_notmnist", least=0)
    path = download.fetch(path) if isinstance(path, str) and path in download.DATA_SETS else _existing(path)
    settings = [_FORMAT, str(path.resolve()), _stamp(path), repr(test_fraction), repr(seed), group_by]
    arrays = cached("notmnist", settings, lambda: _arrays(path, test_fraction, seed, group_by), use=cache)
    skipped = json.loads(arrays["skipped"].tobytes())
    if skipped:
        shown = ", ".join(_shown(*pair) for pair in skipped[:5])
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        warnings.warn(f"{len(skipped)} files of {path} were left out: {shown}{more}", stacklevel=2)
    return tuple((arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))


def read_notmnist(path):
    """Every image of a file or folder, unsplit, as a `NotMNIST`.

    Args:
        path: an archive, a folder or IDX files, as for `load_notmnist`; nothing is downloaded.

    Raises:
        FileError: there is no such file, or it is not notMNIST.
        InputError: something that is no path.

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
    path = _existing(path)
    pairs = idx.pairs(path)
    if pairs:
        parts = [idx.read_pair(*pair) for pair in pairs]
        return NotMNIST(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), [], [])
    files = folder_files if path.is_dir() else zip_files if zipfile.is_zipfile(path) else tar_files
    return _decode_files(path, files(path))


def _existing(path):
    """A path at which there is something."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"notMNIST is 'small', 'large', 'idx' or the path of a file or folder, got {path!r}")
    with reading(repr(os.fspath(path)), "a path"):
        path = pathlib.Path(path)
        if not path.exists():
            raise FileError(f"there is no file or folder {path}")
        return path


def _arrays(path, test_fraction, seed, group_by):
    """A data set split into training and test, as the cache keeps it."""
    download.verify(path)
    pairs = idx.pairs(path)
    data = read_notmnist(path)
    if len(pairs) == 2:
        train, test = np.split(np.arange(len(data.labels)), [idx.image_count(pairs[0][0])])
    else:
        groups = {"copies": _copies, "fonts": _fonts, None: lambda data: None}[group_by](data)
        train, test = stratified_split(data.labels, test_fraction, np.random.default_rng(seed), groups)
    return {
        "train_images": Rows(data.images, train),
        "train_labels": data.labels[train],
        "test_images": Rows(data.images, test),
        "test_labels": data.labels[test],
        "skipped": np.frombuffer(json.dumps(data.skipped).encode(), dtype=np.uint8),
    }


def _decode_files(path, files):
    """Images from (name, data) pairs, decoded by another process while this one reads; what is no letter is named."""
    from tqdm import tqdm

    pixels, labels, names, skipped = found = bytearray(), bytearray(), [], []
    bar = tqdm(desc=f"reading {path.name}", unit=" files", disable=not sys.stderr.isatty())
    with bar, contextlib.closing(Decoder(SIDE, SIDE)) as decoder:
        sent = []
        for batch in _batches(path, files):
            if sent:
                _sort_out(sent, *decoder.receive(), *found)
            decoder.send([b"" if isinstance(data, Skipped) else data for _, data in batch])
            sent = batch
            bar.update(len(batch))
        if sent:
            _sort_out(sent, *decoder.receive(), *found)
    if not labels:
        why = f"; the first of {len(skipped)} files left out: {_shown(*skipped[0])}" if skipped else ""
        raise FileError(f"{path} is not notMNIST: it holds no image A..J/*.png of {SIDE} x {SIDE} pixels{why}")
    check_every_letter(path, labels)
    images = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, SIDE, SIDE)
    return NotMNIST(images, np.frombuffer(labels, dtype=np.uint8).astype(np.int64), names, skipped)


def _batches(path, files):
    """Lists of (name, data) pairs to decode together, small enough for any memory."""
    batch, size = [], 0
    for count, (name, data) in enumerate(files):
        if count == MOST_IMAGES:
            raise FileError(f"{path} is not notMNIST: it holds more than {MOST_IMAGES} files")
        if len(name) > LONGEST_NAME:
            name, data = name[:LONGEST_NAME], Skipped(f"a name of {len(name)} characters")
        batch.append((name, data))
        size += len(data)
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _sort_out(batch, plain, images, pixels, labels, names, skipped):
    """Add the letters among (name, data) pairs to the four lists, and (name, why) of the others to the last."""
    rows = []
    for row, (name, data) in enumerate(batch):
        letter, why = _letter(name)
        if letter is not None and not plain[row]:
            image = data if isinstance(data, Skipped) else _decode_png(data)
            if isinstance(image, Skipped):
                letter, why = None, image
            else:
                images[row] = np.frombuffer(image, dtype=np.uint8).reshape(SIDE, SIDE)
        if letter is None:
            skipped.append((name, why))
            continue
        labels.append(LETTERS.index(letter))
        names.append(name)
        rows.append(row)
    pixels += images[rows].tobytes()


def _letter(name):
    """(letter, "") for a name like notMNIST_small/A/font.png; (None, why) for any other."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith("/"):
        return None, "its path leads outside"
    if len(parts) not in (2, 3) or len(parts[-2]) != 1 or parts[-2] not in LETTERS:
        return None, "not in a folder A to J"
    if not parts[-1].lower().endswith(".png") or parts[-1].startswith("."):
        return None, "not a .png"
    return parts[-2], ""


def _decode_png(data):
    """The 784 pixels of a PNG, or why not."""
    from PIL import Image

    if not data:
        return Skipped("empty")
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 33:
        return Skipped("no PNG")
    size = struct.unpack(">II", data[16:24])
    if size != (SIDE, SIDE):  # known before anything is decoded: a bomb stays closed
        return Skipped(f"{size[0]} x {size[1]} pixels")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return image.convert("L").tobytes() if image.mode != "L" else image.tobytes()
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error, IndexError) as error:
        return Skipped(f"broken: {error}")


def _copies(data):
    """A number for each image that is the same for equal images: a hash of its bytes."""
    words = np.ascontiguousarray(data.images).reshape(len(data.images), -1).view(np.uint64)
    factors = np.random.default_rng(0).integers(2**63, size=words.shape[1], dtype=np.uint64) * 2 + 1
    return words @ factors


def _fonts(data):
    """A number for each image that is the same for letters of one font and for equal images."""
    if not data.names:
        raise InputError("IDX files do not name the fonts: use group_by='copies'")
    fonts = [name.rpartition("/")[2] for name in data.names]
    numbers_of_fonts = {font: number for number, font in enumerate(sorted(set(fonts)))}
    font = np.array([numbers_of_fonts[font] for font in fonts])
    _, copy = np.unique(_copies(data), return_inverse=True)
    group = font
    while True:  # fonts that share a copy are one group; repeat until nothing changes
        lowest = np.full(copy.max() + 1, len(data.names))
        np.minimum.at(lowest, copy, group)
        joined = lowest[copy]
        lowest = np.full(font.max() + 1, len(data.names))
        np.minimum.at(lowest, font, joined)
        joined = lowest[font]
        if (joined == group).all():
            return group
        group = joined


def _stamp(path):
    """What changes when the data at a path changes: names, sizes and times of its files."""
    total = zlib.crc32(b"")
    with reading(path, "a data set"):
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            about = file.stat()
            total = zlib.crc32(os.fsencode(file) + f"\n{about.st_size}\n{about.st_mtime_ns}\n".encode(), total)
    return [len(files), total]


def _shown(name, why):
    """A file left out and why, on one line that any terminal can print."""
    return f"{repr(name)[1:-1]:.200} ({repr(why)[1:-1]:.200})"
