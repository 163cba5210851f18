"""The files in an archive or a folder: each one's name and bytes, and nothing that could fill the memory.

An archive can say anything: that a name is a petabyte long, that a picture unpacks to a gigabyte, that it is a link to
another file. So archives are read from front to back in small pieces and never unpacked, and what is no small ordinary
file is passed over by name.

Tar is read here and not by Python's `tarfile`, which takes names and headers of any length into memory, ends in
silence where a header is broken, and takes longer.

Source: IEEE Std 1003.1, "pax: portable archive interchange", 2017, for the headers of tar.
"""

import gzip
import io
import itertools
import stat
import zipfile
import zlib

from minicnn.datasets.letters import LETTERS
from minicnn.errors import FileError
from minicnn.files import BROKEN, reading

LARGEST_FILE = 2**15  # bytes of one PNG; notMNIST's have some hundred
LARGEST_HEADER = 2**16  # bytes of what a tar says beside the files: long names and the like
_ARCHIVE = "a whole archive (.tar.gz, .tar or .zip)"
_BLOCK = 512  # bytes; all in a tar is filled up to that


class Skipped(str):
    """Why a file was left out."""


def tar_files(path):
    """The files of a tar archive, gzipped or not.

    Yields:
        (name, bytes), or (name, Skipped) for what is no small ordinary file; folders are not files.

    Raises:
        FileError: the archive is cut, broken or something else, or its headers claim what cannot be.
    """
    with reading(path, _ARCHIVE), _unpacked(path) as file:
        said = {}  # about the next file, by headers of their own
        while any(header := _exactly(file, _BLOCK)):
            if _sum(header) != (_number(header[148:156]) + _sum(header[148:156]) - 8 * ord(" ")) % 65521:
                raise ValueError("a header is broken, its checksum is wrong")
            kind, size = header[156:157], _number(header[124:136])
            if kind in b"LxX":
                said |= _extension(kind, _exactly(file, _filled(size), limit=LARGEST_HEADER)[:size])
            elif kind in b"Kg":  # a long link; something about all files
                _pass_over(file, _filled(size))
            else:
                name, size, said = said.get("name") or _name(header), said.get("size", size), {}
                is_ordinary = kind in b"07\0"
                data = Skipped(f"{size} bytes" if is_ordinary else "no ordinary file")
                if is_ordinary and size <= LARGEST_FILE:
                    data = _exactly(file, _filled(size))[:size]
                elif kind not in b"123456":  # links, devices, folders and pipes: there are no bytes of theirs
                    _pass_over(file, _filled(size))
                if kind != b"5" and not name.endswith("/"):
                    yield name, data
        while file.read(2**20):  # to gzip's own checksum
            pass


def _unpacked(path):
    """A file open for reading: of gzip's what is inside, through a buffer that makes small pieces quick."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return io.BufferedReader(gzip.open(path), 2**20) if packed else open(path, "rb")


def _exactly(file, size, limit=2**20):
    if size > limit:
        raise ValueError(f"a header of {size} bytes")
    data = file.read(size)
    if len(data) < size:
        raise EOFError("it ends in the middle")
    return data


def _pass_over(file, size):
    while size > 0:
        size -= len(_exactly(file, min(size, 2**20)))


def _filled(size):
    return size + -size % _BLOCK


def _sum(data):
    """The sum of bytes modulo 65521, as zlib's Adler checksum has it, ten times faster than Python's."""
    return ((zlib.adler32(data) & 0xFFFF) - 1) % 65521


def _number(field):
    """A number in a header: octal digits, or binary behind a byte of 128."""
    if field[0] == 128:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip() or b"0"
    if not digits.isdigit():
        raise ValueError(f"a header says {digits!r} where a number should be")
    return int(digits, 8)


def _name(header):
    name = header[:100].partition(b"\0")[0]
    front = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(front + b"/" + name if front else name)


def _text(name):
    return name.decode("utf-8", "surrogateescape")


def _extension(kind, data):
    """What a header about the next file says: {"name": ..., "size": ...} or less."""
    if kind == b"L":
        return {"name": _text(data.partition(b"\0")[0])}
    said, place = {}, 0
    while data[place : place + 1].isdigit():  # records such as b"18 path=A/font.png\n", their length first
        space = data.index(b" ", place)
        end = place + int(data[place:space])
        if end <= space:
            raise ValueError("a record in a header has no end")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        if key == b"path":
            said["name"] = _text(value)
        elif key == b"size" and value.isdigit():
            said["size"] = int(value)
        place = end
    return said


def zip_files(path):
    """The files of a zip archive, as `tar_files` gives them; a broken one is left out."""
    with reading(path, _ARCHIVE), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield member.filename, _zip_data(archive, member)


def _zip_data(archive, member):
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        return Skipped("no ordinary file")
    if member.file_size > LARGEST_FILE:
        return Skipped(f"{member.file_size} bytes")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return Skipped("packed in another way than deflate")  # zipfile would unpack as much as comes
    try:
        with archive.open(member) as file:
            return file.read(LARGEST_FILE + 1)  # not all that comes, which need not be what was claimed
    except (OSError, *BROKEN) as error:
        return Skipped(f"broken: {error}")


def folder_files(path):
    """The files of path/A/*.png, or of path/<one folder>/A/*.png, as `tar_files` gives them."""
    with reading(path, "a folder"):
        inner = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and (entry / "A").is_dir()]
        root = path if (path / "A").is_dir() else inner[0] if len(inner) == 1 else None
        if root is None:
            raise FileError(
                f"{path} is not notMNIST: expected folders A to J of PNG files, or files *-images-idx3-ubyte"
            )
        folders = [root / letter for letter in LETTERS if (root / letter).is_dir() and not (root / letter).is_symlink()]
        for file in itertools.chain.from_iterable(sorted(folder.iterdir()) for folder in folders):
            yield f"{file.parent.name}/{file.name}", _file_data(file)


def _file_data(file):
    try:
        if file.is_symlink() or not file.is_file():
            return Skipped("no ordinary file")
        size = file.stat().st_size
        return file.read_bytes() if size <= LARGEST_FILE else Skipped(f"{size} bytes")
    except OSError as error:
        return Skipped(f"cannot be read: {error.strerror}")
