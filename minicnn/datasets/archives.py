"""The files in an archive or a folder: the name and the bytes of each file, with bounded memory.

The headers of an archive cannot be trusted: a name can claim a petabyte, an image can decompress to a gigabyte, an
entry can be a link to another file, and a few megabytes can decompress to a terabyte. So archives are read as a stream,
in small chunks and not without an end, and nothing is extracted to disk. An entry that is not a small regular file is
skipped and reported by name.

Tar is read here and not by Python's `tarfile`. That module loads names and headers of any length into memory, stops
without an error at a broken header, and is slower.

Source: IEEE Std 1003.1, "pax: portable archive interchange", 2017, for the headers of tar.
"""

import gzip
import io
import stat
import zipfile
import zlib

from minicnn.core.checks import quoted
from minicnn.core.errors import FileError
from minicnn.datasets.letters import LETTERS
from minicnn.storage.files import BROKEN, reading

MAX_FILE_SIZE = 2**15  # bytes of one PNG; a PNG of notMNIST has some hundred
MAX_HEADER_SIZE = 2**16  # bytes of one extension header of a tar: long names and the like
#: How much a file may decompress to: 64 MiB, and 100 bytes more for each of its bytes. Pictures hardly compress, the
#: headers of tar do: notMNIST has about 3 bytes for each. Zeros have 1000.
_MIN_DECOMPRESSED, _MAX_RATIO = 2**26, 100
_ARCHIVE = "a complete archive (.tar.gz, .tar or .zip)"
_BLOCK = 512  # bytes; every entry of a tar is padded to a multiple of this


class Skipped(str):
    """The reason why a file was skipped."""


def is_clutter(name):
    """Whether a file is one of those that macOS and Windows put beside the real files; nobody misses it.

    >>> is_clutter("__MACOSX/A/._font.png"), is_clutter("A/Thumbs.db"), is_clutter("A/font.png")
    (True, True, False)
    """
    *folders, file = name.split("/")
    return "__MACOSX" in folders or file.startswith("._") or file in (".DS_Store", "Thumbs.db", "desktop.ini")


def max_decompressed(path):
    """The number of bytes to which a file may decompress."""
    return _MIN_DECOMPRESSED + _MAX_RATIO * path.stat().st_size


def tar_files(path):
    """The files of a tar archive, compressed with gzip or not.

    Yields:
        (name, bytes), or (name, Skipped) for an entry that is not a small regular file. Folders are not reported.

    Raises:
        FileError: the archive is truncated, broken or another kind of file, or its headers claim the impossible.
    """
    with reading(path, _ARCHIVE), _open_decompressed(path) as file:
        extended = {}  # the name and size of the next file, if extension headers give them
        while any(header := _read_exactly(file, _BLOCK)):
            if _byte_sum(header) != (_parse_int(header[148:156]) + _byte_sum(header[148:156]) - 8 * ord(" ")) % 65521:
                raise ValueError("a header is broken, its checksum is wrong")
            typeflag, size = header[156:157], _parse_int(header[124:136])
            if typeflag in b"LxX":
                extended |= _parse_extension(typeflag, _read_exactly(file, _padded(size), limit=MAX_HEADER_SIZE)[:size])
            elif typeflag in b"Kg":  # a long link name; attributes of all files
                _skip_bytes(file, _padded(size))
            else:
                name, size, extended = extended.get("name") or _parse_name(header), extended.get("size", size), {}
                is_regular = typeflag in b"07\0"
                data = Skipped(f"{size} bytes" if is_regular else "not a regular file")
                if is_regular and size <= MAX_FILE_SIZE:
                    data = _read_exactly(file, _padded(size))[:size]
                elif typeflag not in b"123456":  # links, devices, folders and pipes have no data blocks
                    _skip_bytes(file, _padded(size))
                if typeflag != b"5" and not name.endswith("/"):
                    yield name, data
        while file.read(2**20):  # read to the end, so that gzip verifies its checksum
            pass


class _Decompressed(io.RawIOBase):
    """The content of a gzip file, up to a limit."""

    def __init__(self, path):
        self.remaining = max_decompressed(path)
        self.file = gzip.GzipFile(path)

    def readable(self):
        return True

    def readinto(self, buffer):
        size = self.file.readinto(buffer)
        self.remaining -= size
        if self.remaining < 0:
            raise ValueError("it decompresses to far more bytes than pictures do")
        return size

    def close(self):
        self.file.close()
        super().close()


def _open_decompressed(path):
    """Open a file for reading; a gzip file is decompressed, with a buffer that makes small reads fast."""
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return io.BufferedReader(_Decompressed(path), 2**20) if is_gzip else open(path, "rb")


def _read_exactly(file, size, limit=2**20):
    if size > limit:
        raise ValueError(f"a header of {size} bytes is too long")
    data = file.read(size)
    if len(data) < size:
        raise EOFError("the file is truncated")
    return data


def _skip_bytes(file, size):
    while size > 0:
        size -= len(_read_exactly(file, min(size, 2**20)))


def _padded(size):
    return size + -size % _BLOCK


def _byte_sum(data):
    """The sum of the bytes modulo 65521, taken from zlib's Adler checksum: ten times faster than Python's `sum`."""
    return ((zlib.adler32(data) & 0xFFFF) - 1) % 65521


def _parse_int(field):
    """A number in a header: octal digits, or binary after a first byte of 128."""
    if field[0] == 128:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip() or b"0"
    if not digits.isdigit():
        raise ValueError(f"a header contains {digits!r} instead of a number")
    return int(digits, 8)


def _parse_name(header):
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _to_text(prefix + b"/" + name if prefix else name)


def _to_text(name):
    return name.decode("utf-8", "surrogateescape")


def _parse_extension(typeflag, data):
    """The attributes of the next file in an extension header: a dictionary with "name", "size", both or none."""
    if typeflag == b"L":
        return {"name": _to_text(data.partition(b"\0")[0])}
    extended, position = {}, 0
    while data[position : position + 1].isdigit():  # records such as b"18 path=A/font.png\n", their length first
        space = data.index(b" ", position)
        end = position + int(data[position:space])
        if end <= space:
            raise ValueError("a record in a header has no end")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        if key == b"path":
            extended["name"] = _to_text(value)
        elif key == b"size" and value.isdigit():
            extended["size"] = int(value)
        position = end
    return extended


def zip_files(path):
    """The files of a zip archive, yielded in the form of `tar_files`; a broken file is skipped."""
    with reading(path, _ARCHIVE), zipfile.ZipFile(path) as archive:
        remaining = max_decompressed(path)
        for member in archive.infolist():
            if not member.filename.endswith("/"):  # a folder; `is_dir` fails for an empty name
                data = _read_zip_member(archive, member)
                remaining -= len(data)
                if remaining < 0:
                    raise ValueError("it decompresses to far more bytes than pictures do")
                yield member.filename, data


def _read_zip_member(archive, member):
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        return Skipped("not a regular file")
    if member.file_size > MAX_FILE_SIZE:
        return Skipped(f"{member.file_size} bytes")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return Skipped("not compressed with deflate")  # for other methods, zipfile decompresses without a limit
    try:
        with archive.open(member) as file:
            return file.read(MAX_FILE_SIZE + 1)  # with a limit: the data can be longer than the header claims
    except (OSError, *BROKEN) as error:
        return Skipped(f"broken: {quoted(error)[1:-1]}")


def folder_files(path):
    """The files path/A/*.png, or path/<one folder>/A/*.png, yielded in the form of `tar_files`.

    What is beside the folders A to J is yielded as skipped, a folder with all that is in it as one name.
    """
    with reading(path, "a folder"):
        root = _letters_root(path)
        beside = [entry for entry in sorted(path.iterdir()) if root not in (path, entry)]
        for entry in beside + sorted(root.iterdir()):
            if not entry.is_dir():
                yield entry.name, Skipped("not in a folder A to J")
            elif entry.is_symlink() or entry.parent != root or entry.name not in tuple(LETTERS):
                yield f"{entry.name}/", Skipped("a folder that is not one of A to J")
            else:
                for file in sorted(entry.iterdir()):
                    yield f"{entry.name}/{file.name}", _read_file(file)


def _letters_root(path):
    """The folder that contains the folders A to J: the path, or the only such folder in it."""
    if (path / "A").is_dir():
        return path
    roots = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and (entry / "A").is_dir()]
    if len(roots) > 1:
        names = listed(f"{entry.name}/" for entry in roots)
        raise FileError(f"{quoted(path, 300)} contains several data sets, give the path of one of them: {names}")
    if not roots:
        raise FileError(
            f"{quoted(path, 300)} is not notMNIST: expected folders A to J of PNG files, or files *-images-idx3-ubyte"
        )
    return roots[0]


def listed(names, count=5):
    """Some names for a message: the first few, each one printable and of bounded length.

    >>> listed("abcdefg", count=2)
    "'a', 'b' and 5 more"
    """
    names = list(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(quoted, names[:count])) + more


def _read_file(file):
    try:
        if file.is_symlink() or not file.is_file():
            return Skipped("not a regular file")
        size = file.stat().st_size
        return file.read_bytes() if size <= MAX_FILE_SIZE else Skipped(f"{size} bytes")
    except OSError as error:
        return Skipped(f"cannot be read: {error.strerror}")
