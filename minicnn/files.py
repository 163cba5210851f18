"""Files that appear whole or not at all, and the folder where caches live.

A program can be killed between any two writes, and a disk can fill up in the
middle of one. So a file is first written under another name in the same
folder, forced to the disk, and only then given its real name, which the
operating system does in one indivisible step. Whoever looks finds the old
file or the new one, never half of either.
"""

import contextlib
import os
import pathlib
import tempfile

from minicnn.errors import FileError


@contextlib.contextmanager
def write_whole(path):
    """Give a binary file to write into; it becomes `path` when the block ends without an error.

    Args:
        path: where the file will be. Its folder must exist.

    Yields:
        a binary file object, open for writing and seeking.

    Raises:
        FileError: the folder is missing or cannot be written, or the disk is full.
            The message names the path and the cause; an older file at `path` is unharmed.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> with write_whole(path) as file:
    ...     _ = file.write(b"all of it")
    >>> path.read_bytes()
    b'all of it'
    """
    path = pathlib.Path(path)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
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


def _umask():
    """The permissions that new files go without (mkstemp makes private files; ours are ordinary)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
