"""Files that appear completely or not at all, and the folder where caches live.

A program can be killed between any two writes, and a disk can fill up in the
middle of one. So a file is first written under another name in the same
folder, forced to the disk, and only then given its real name, which the
operating system does in one indivisible step. A reader finds the old
file or the new one, never half of either.
"""

import contextlib
import hashlib
import os
import pathlib
import secrets
import struct
import zipfile
import zlib

from minicnn.core.errors import FileError, MinicnnError


@contextlib.contextmanager
def atomic_write(path):
    """Open a binary file for writing; it becomes `path` when the block ends without an error.

    Args:
        path: where the file will be. Its folder must exist.

    Yields:
        a binary file object, open for writing and seeking.

    Raises:
        FileError: the folder is missing or cannot be written, or the disk is full.
            The message names the path and the cause; an older file at `path` is unharmed.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_write(path) as file:
    ...     _ = file.write(b"all of it")
    >>> path.read_bytes()
    b'all of it'
    """
    path = _resolve(path)
    temporary = None
    try:
        name = path.with_name(f"{_temporary_prefix(path)}{secrets.token_hex(8)}.tmp")
        with open(name, "xb") as file:
            temporary = name
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


#: What reading a broken file raises, besides OSError.
BROKEN = (EOFError, ValueError, zlib.error, struct.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)


@contextlib.contextmanager
def reading(path, kind):
    """A block that reads a file from elsewhere; what is wrong with the file becomes a FileError with its name.

    Args:
        path: the file.
        kind: what it should be, such as "a complete archive".

    Raises:
        FileError: the file cannot be read, or is not what it should be.
    """
    try:
        yield
    except MinicnnError:
        raise
    except (OSError, *BROKEN) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise FileError(f"cannot read {path}: {error.strerror}") from error
        raise FileError(f"{path} is not {kind}: {error}") from error


def atomic_move(source, path):
    """Rename a file within its folder, in one step that reaches the disk; a file of the new name is replaced.

    Raises:
        FileError: it cannot be done; the message names the path and the cause.
    """
    path = pathlib.Path(path)
    try:
        os.replace(source, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def remove_leftovers(path):
    """Remove the temporary files of writers of `path` that were killed.

    For a file that only one process writes: a temporary file that is still being written looks the same.
    """
    path = _resolve(path)
    with contextlib.suppress(OSError):  # where it cannot be done, nothing is lost
        for entry in list(os.scandir(path.parent)):
            if entry.name.startswith(_temporary_prefix(path)) and entry.name.endswith(".tmp"):
                os.unlink(entry)


def cache_folder():
    """The folder for caches: `MINICNN_HOME` if that is set, else the platform's cache folder.

    The folder is not created here.

    Returns:
        a `pathlib.Path`.
    """
    home = os.environ.get("MINICNN_HOME")
    if home:
        return pathlib.Path(home).expanduser()
    import platformdirs

    return pathlib.Path(platformdirs.user_cache_dir("minicnn", appauthor=False))


def _resolve(path):
    """The file that a path names; a link stays a link, to the new file."""
    try:
        return pathlib.Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise FileError(f"cannot write {os.fspath(path)!r:.300}: {error}") from error


def _temporary_prefix(path):
    """How the names of a path's temporary files begin: hidden, of this path alone, short enough for any file system."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    return f".{path.name[:20]}.{digest}."


def _sync_folder(folder):
    """Force a rename to the disk; systems that cannot open a folder (Windows) need nothing."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
