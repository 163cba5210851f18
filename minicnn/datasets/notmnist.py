"""notMNIST: letters A to J from thousands of fonts, 28 x 28 pixels, light on dark.

It comes in several wrappings: an archive of PNG files in one folder a letter,
that archive unpacked, or the two files of MNIST's own IDX format. All end as
one array of images and one of labels. Archives are read member by member and
never unpacked; nothing is believed of a file before it is checked.

Source: Yaroslav Bulatov, "notMNIST dataset", 2011.
"""

import contextlib
import gzip
import io
import itertools
import os
import pathlib
import stat
import struct
import sys
import tarfile
import warnings
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from minicnn.datasets import download
from minicnn.datasets.cache import cached
from minicnn.datasets.letters import LETTERS
from minicnn.datasets.png import Decoder
from minicnn.datasets.splits import Rows, stratified_split
from minicnn.errors import FileError, InputError

SIDE = 28  # pixels
LARGEST_FILE = 2**15  # bytes of one PNG; notMNIST's have some hundred
BATCH = 2**12  # files decoded together
_FORMAT = 2  # of the cache


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
    """
    if group_by not in ("copies", "fonts", None):
        raise InputError(f"group_by needs 'copies', 'fonts' or None, got {group_by!r}")
    path = download.fetch(path) if path in download.DATA_SETS else pathlib.Path(path)
    settings = [_FORMAT, str(path.resolve()), _stamp(path), repr(test_fraction), repr(seed), group_by]
    arrays = cached("notmnist", settings, lambda: _arrays(path, test_fraction, seed, group_by), use=cache)
    skipped = [line.split("\t") for line in _decode(arrays["skipped"])]
    if skipped:
        shown = ", ".join(f"{name} ({why})" for name, why in skipped[:5])
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        warnings.warn(f"{len(skipped)} files of {path} were left out: {shown}{more}", stacklevel=2)
    return tuple((arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))


def read_notmnist(path):
    """Every image of a file or folder, unsplit, as a `NotMNIST`; the sources are those of `load_notmnist`.

    Raises:
        FileError: there is no such file, or it is not notMNIST.
    """
    path = pathlib.Path(path)
    pairs = _idx_pairs(path)
    if pairs:
        parts = [_read_idx_pair(*pair) for pair in pairs]
        return NotMNIST(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), [], [])
    if path.is_dir():
        files, total = _folder_files(path), None
    elif not path.exists():
        raise FileError(f"there is no file or folder {path}")
    elif zipfile.is_zipfile(path):
        files, total = _zip_files(path), None
    else:
        files, total = _tar_files(path), None
    return _decode_files(path, files, total)


def _arrays(path, test_fraction, seed, group_by):
    """A data set split into training and test, as the cache keeps it."""
    download.verify(path)
    pairs = _idx_pairs(path)
    data = read_notmnist(path)
    if len(pairs) == 2:
        train, test = np.split(np.arange(len(data.labels)), [len(_read_idx_pair(*pairs[0])[1])])
    else:
        groups = {"copies": _copies, "fonts": _fonts, None: lambda data: None}[group_by](data)
        train, test = stratified_split(data.labels, test_fraction, np.random.default_rng(seed), groups)
    return {
        "train_images": Rows(data.images, train),
        "train_labels": data.labels[train],
        "test_images": Rows(data.images, test),
        "test_labels": data.labels[test],
        "skipped": _encode(f"{name}\t{why}" for name, why in data.skipped),
    }


def _decode_files(path, files, total):
    """Images from (name, data) pairs, decoded by another process while this one reads; what is no letter is named."""
    from tqdm import tqdm

    pixels, labels, names, skipped = found = bytearray(), bytearray(), [], []
    bar = tqdm(total=total, desc=f"reading {path.name}", unit=" files", disable=not sys.stderr.isatty())
    with bar, contextlib.closing(Decoder(SIDE, SIDE)) as decoder:
        sent = []
        while batch := list(itertools.islice(files, BATCH)):
            if sent:
                _sort_out(sent, *decoder.receive(), *found)
            decoder.send([b"" if isinstance(data, Skipped) else data for _, data in batch])
            sent = batch
            bar.update(len(batch))
        if sent:
            _sort_out(sent, *decoder.receive(), *found)
    if not labels:
        why = f"; the first of {len(skipped)} files left out: {skipped[0][0]} ({skipped[0][1]})" if skipped else ""
        raise FileError(f"{path} is not notMNIST: it holds no image A..J/*.png of {SIDE} x {SIDE} pixels{why}")
    missing = [letter for i, letter in enumerate(LETTERS) if i not in labels]
    if missing:
        raise FileError(f"{path} has no image of {', '.join(missing)}: the data set is not whole")
    images = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, SIDE, SIDE)
    return NotMNIST(images, np.frombuffer(labels, dtype=np.uint8).astype(np.int64), names, skipped)


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


class Skipped(str):
    """Why a file was left out."""


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


def _sum(data):
    """The sum of bytes modulo 65521, as zlib's Adler checksum has it, ten times faster than Python's."""
    return ((zlib.adler32(data) & 0xFFFF) - 1) % 65521


class _Header(tarfile.TarInfo):
    """A tar header, of which only what is needed is read where it is plain: in a third of the time."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        name, size, checksum = buf[:100].rstrip(b"\0"), buf[124:136].rstrip(b" \0"), buf[148:156].rstrip(b" \0")
        is_plain = (
            buf[156:157] == tarfile.REGTYPE
            and not name.endswith(b"/")
            and size.isdigit()
            and checksum.isdigit()
            and not buf[345:].strip(b"\0")  # the rest of a long name
            and _sum(buf) == (int(checksum, 8) + _sum(buf[148:156]) - 8 * ord(" ")) % 65521
        )
        if not is_plain:
            return super().frombuf(buf, encoding, errors)
        header = cls(name.decode(encoding, errors))
        header.size = int(size, 8)
        return header


def _unpacked(path):
    """A file open for reading: of gzip's what is inside, through a buffer in which tarfile's many seeks are quick."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return io.BufferedReader(gzip.open(path), 2**20) if packed else open(path, "rb")


def _tar_files(path):
    try:
        with _unpacked(path) as file, tarfile.open(fileobj=file, mode="r:*", tarinfo=_Header) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # or a large archive's headers would fill the memory
                if member.isdir():
                    continue
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
                    yield member.name, Skipped("no ordinary file")
                elif member.size > LARGEST_FILE:
                    if member.size > os.path.getsize(path) * 1100:  # more than deflate can pack
                        raise FileError(f"{path}: {member.name} claims {member.size} bytes, more than can be packed")
                    yield member.name, Skipped(f"{member.size} bytes")
                else:
                    archive.fileobj.seek(member.offset_data)
                    data = archive.fileobj.read(member.size)
                    if len(data) < member.size:
                        raise EOFError(f"{member.name} has {len(data)} of its {member.size} bytes")
                    yield member.name, data
    except FileError:
        raise
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, struct.error) as error:
        raise FileError(f"{path} is not a whole archive (.tar.gz or .zip): {error}") from error


def _zip_files(path):
    broken = (zipfile.BadZipFile, EOFError, OSError, zlib.error, ValueError, NotImplementedError, RuntimeError)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in (0, stat.S_IFREG):
                    yield member.filename, Skipped("no ordinary file")
                    continue
                try:
                    with archive.open(member) as file:
                        data = file.read(LARGEST_FILE + 1)
                except broken as error:
                    yield member.filename, Skipped(f"broken: {error}")
                    continue
                yield member.filename, data if len(data) <= LARGEST_FILE else Skipped(f"over {LARGEST_FILE} bytes")
    except broken as error:
        raise FileError(f"{path} is not a whole archive (.tar.gz or .zip): {error}") from error


def _folder_files(path):
    """The files of path/A/*.png, or of path/<one folder>/A/*.png."""
    inner = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and (entry / "A").is_dir()]
    root = path if (path / "A").is_dir() else inner[0] if len(inner) == 1 else None
    if root is None:
        raise FileError(f"{path} is not notMNIST: expected folders A to J of PNG files, or files *-images-idx3-ubyte")
    for letter in LETTERS:
        folder = root / letter
        if not folder.is_dir() or folder.is_symlink():
            continue
        for file in sorted(folder.iterdir()):
            name = f"{letter}/{file.name}"
            if file.is_symlink() or not file.is_file():
                yield name, Skipped("no ordinary file")
            elif file.stat().st_size > LARGEST_FILE:
                yield name, Skipped(f"over {LARGEST_FILE} bytes")
            else:
                yield name, file.read_bytes()


def _idx_pairs(path):
    """The (images, labels) files of MNIST's format at a path: none, one pair, or the training and the test pair."""
    if path.is_dir():
        images = sorted(file for file in path.iterdir() if "images-idx3-ubyte" in file.name.replace(".idx3", "-idx3"))
    elif "images" in path.name and "idx3" in path.name:
        images = [path]
    else:
        return []
    pairs = []
    for file in images:
        labels = file.with_name(file.name.replace("images", "labels").replace("idx3", "idx1"))
        other = labels.with_suffix("") if labels.suffix == ".gz" else labels.with_name(labels.name + ".gz")
        found = next((candidate for candidate in (labels, other) if candidate.exists()), None)
        if not file.exists() or found is None:
            raise FileError(f"IDX needs two files: {file} and {labels.name} beside it")
        pairs.append((file, found))
    if len(pairs) > 2:
        raise FileError(f"{path} holds {len(pairs)} pairs of IDX files: name the images file of one of them")
    return sorted(pairs, key=lambda pair: "train" not in pair[0].name)


def _read_idx_pair(images_path, labels_path):
    images = _read_idx(images_path, dimensions=3)
    labels = _read_idx(labels_path, dimensions=1).astype(np.int64)
    if images.shape[1:] != (SIDE, SIDE):
        raise FileError(f"{images_path} holds images of {images.shape[1:]} pixels, notMNIST's are {SIDE} x {SIDE}")
    if len(images) != len(labels):
        raise FileError(f"{images_path} holds {len(images)} images and {labels_path} {len(labels)} labels")
    if len(labels) == 0:
        raise FileError(f"{images_path} holds no image")
    if labels.max() >= len(LETTERS):
        raise FileError(f"{labels_path} holds the label {labels.max()}: they run from 0 (A) to 9 (J)")
    return images, labels


def _read_idx(path, dimensions):
    """An array in MNIST's IDX format: two zero bytes, the type 8, the dimensions, their sizes, then the bytes."""
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file = gzip.GzipFile(fileobj=raw) if packed else raw
            magic = file.read(4)
            if magic != bytes([0, 0, 8, dimensions]):
                raise FileError(f"{path} starts with {magic.hex()}, IDX of bytes with 00000{8}0{dimensions}")
            header = file.read(4 * dimensions)
            if len(header) < 4 * dimensions:
                raise FileError(f"{path} ends within its header")
            shape = struct.unpack(f">{dimensions}I", header)
            expected = int(np.prod(shape, dtype=object))
            data = bytearray()  # grows with what is there, not with what the header claims
            while len(data) <= expected:
                piece = file.read(min(2**24, expected + 1 - len(data)))
                if not piece:
                    break
                data += piece
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path} cannot be read: {error}") from error
    if len(data) != expected:
        more = "more than" if len(data) > expected else f"{len(data)} of"
        raise FileError(f"{path} claims {shape} bytes and holds {more} the {expected}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _copies(data):
    """A number for each image that is the same for equal images: a hash of its bytes."""
    words = np.ascontiguousarray(data.images).reshape(len(data.images), -1).view(np.uint64)
    factors = np.random.default_rng(0).integers(2**63, size=words.shape[1], dtype=np.uint64) * 2 + 1
    return words @ factors


def _fonts(data):
    """A number for each image that is the same for letters of one font and for equal images."""
    if not data.names:
        raise InputError("IDX files do not name the fonts: use group_by='copies'")
    _, font = np.unique([pathlib.PurePosixPath(name).name for name in data.names], return_inverse=True)
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
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    elif not path.exists():
        raise FileError(f"there is no file or folder {path}")
    total = zlib.crc32(b"")
    for file in files:
        about = file.stat()
        total = zlib.crc32(f"{file}\n{about.st_size}\n{about.st_mtime_ns}\n".encode(), total)
    return [len(files), total]


def _encode(lines):
    return np.frombuffer("\n".join(lines).encode(), dtype=np.uint8)


def _decode(array):
    text = array.tobytes().decode()
    return text.split("\n") if text else []
