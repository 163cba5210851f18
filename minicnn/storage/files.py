"""Files that appear completely or not at all, locks, and the folder where caches live.

A program can be killed between any two writes, and a disk can fill up in the
middle of one. So a file is first written under another name in the same
folder, forced to the disk, and only then given its real name, which the
operating system does in one indivisible step. A reader finds the old
file or the new one, never half of either.

The library filelock was considered. It does not lock a file that is open
already, which is how the temporary files of a killed writer are told from those
of a living one, and it does not say who holds a lock. What it does besides, this
module needs twenty lines for.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import shutil
import stat
import struct
import time
import zipfile
import zlib

from minicnn.core.checks import quoted
from minicnn.core.errors import FileError, InputError, MinicnnError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

#: What a system or a network drive answers where it does not have the operation at all.
_NOT_SUPPORTED = {
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS),
    *(errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR),
}

#: Seconds between the tries to rename a file: a virus scanner on Windows holds a new file for a moment.
_PAUSES = (0.01, 0.03, 0.1, 0.3, 0.6)

_OLD = 24 * 3600  # seconds after which a temporary file is a leftover where nothing can be locked


@contextlib.contextmanager
def atomic_write(path):
    """Open a binary file for writing; it becomes `path` when the block ends without an error.

    Where `path` is a link, the file that it points to is written. What killed writers of this path left is removed.

    Args:
        path: where the file will be. Its folder must exist.

    Yields:
        a binary file object, open for writing and seeking.

    Raises:
        FileError: the folder is missing or cannot be written, the disk is full, the memory is used up, or `path` is
            a name that no file can have, a folder, a pipe or a device. The message names the path and the cause; an
            older file at `path` is unharmed.
        InputError: something that is not a path.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_write(path) as file:
    ...     _ = file.write(b"all of it")
    >>> path.read_bytes()
    b'all of it'
    """
    path = destination(path)
    temporary = None
    try:
        remove_leftovers(path)
        temporary, file = _new_temporary(path, _create)
        with file:
            yield file
            file.flush()
            _sync(file.fileno())
            if fcntl is not None:  # while it is locked; Windows cannot rename an open file
                _replace(temporary, path)
                temporary = None
        if temporary is not None:
            _replace(temporary, path)
            temporary = None
        _sync_folder(path.parent)
    except (OSError, MemoryError) as error:
        if isinstance(error, MinicnnError):
            raise
        raise _write_error(path, error) from error
    finally:
        if temporary is not None:
            _unlink(temporary)


@contextlib.contextmanager
def temporary_folder(path):
    """A block with a new folder beside `path`, which is removed at its end with all that is still in it.

    What killed writers of `path` left is removed, too.

    Yields:
        a `pathlib.Path`.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "cache"
    >>> with temporary_folder(path) as folder:
    ...     (folder / "new").mkdir()
    ...     os.rename(folder / "new", path)
    >>> os.listdir(path.parent)
    ['cache']
    """
    path = destination(path, ())
    remove_leftovers(path)
    name, folder = _new_temporary(path, _Folder)
    try:
        yield name
    finally:
        shutil.rmtree(name, ignore_errors=True)
        folder.close()


def destination(path, suffixes=("",)):
    """The file that is written where `path` is given: the path itself, or what it points to where it is a link.

    Args:
        path: the path; its folder need not exist.
        suffixes: what will be added to the name of that file, each time for a file of its own; () to check nothing.

    Returns:
        a `pathlib.Path` that is absolute and contains no link.

    Raises:
        FileError: a name that no file can have, also with a suffix, or one of a folder, a pipe or a device.
        InputError: something that is not a path.

    >>> destination("a/../run.npz") == pathlib.Path("run.npz").absolute()
    True
    """
    path = path_text(path)
    try:
        resolved = pathlib.Path(os.path.realpath(path))
        for suffix in suffixes:
            try:
                mode = os.stat(f"{resolved}{suffix}").st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(mode):
                raise _write_error(f"{resolved}{suffix}", f"it is {_kind(mode)}, not a file")
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise _write_error(f"{path}{suffix}" if isinstance(error, OSError) else path, error) from error
    return resolved


def check_writable(path):
    """Refuse a path that cannot be written, before there is anything to write: a file is made beside it and removed.

    Raises:
        FileError, InputError: those of `atomic_write`.
    """
    path = destination(path)
    try:
        name, file = _new_temporary(path, _create)
        file.close()
        _unlink(name)
    except OSError as error:
        raise _write_error(path, error) from error


def open_file(path):
    """Open a file for reading in binary; a folder, and a pipe or a device, which may never end, are refused at once.

    Raises:
        FileError: there is no such file, it cannot be read, or it is not a file.
        InputError: something that is not a path.
    """
    path = path_text(path)
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise FileError(f"cannot read {_name(path)}: it is {_kind(mode)}, not a file")
        return open(path, "rb")
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {_name(path)}: {_reason(error)}") from error


#: What reading a broken file raises, besides OSError.
BROKEN = (EOFError, ValueError, zlib.error, struct.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)


@contextlib.contextmanager
def reading(path, kind):
    """A block that reads a file from elsewhere; what is wrong with the file becomes a FileError with its name.

    A pipe or a device is refused before the block is entered, since it may never end.

    Args:
        path: the file.
        kind: what it should be, such as "a complete archive".

    Raises:
        FileError: the file cannot be read, or is not what it should be.
    """
    mode = stat.S_IFREG
    with contextlib.suppress(OSError, ValueError, TypeError):
        mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FileError(f"cannot read {_name(path)}: it is {_kind(mode)}, not {kind}")
    try:
        yield
    except MinicnnError:
        raise
    except (OSError, *BROKEN) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise FileError(f"cannot read {_name(path)}: {error.strerror}") from error
        raise FileError(f"{_name(path)} is not {kind}: {quoted(error, 200)}") from error


def atomic_move(source, path):
    """Rename a file within its folder, in one step that reaches the disk; a file of the new name is replaced.

    Raises:
        FileError: it cannot be done; the message names the path and the cause.
    """
    path = pathlib.Path(path)
    try:
        _replace(source, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _write_error(path, error) from error


def remove_leftovers(path):
    """Remove the temporary files and folders of killed writers of `path`; those of living ones are locked, and stay.

    Where the file system has no locks, a file is taken for a leftover after a day.
    """
    path = destination(path, ())
    with contextlib.suppress(OSError):  # where it cannot be done, nothing is lost
        for entry in list(os.scandir(path.parent)):
            if entry.name.startswith(_temporary_prefix(path)) and entry.name.endswith(".tmp"):
                with contextlib.suppress(OSError):
                    _remove_leftover(entry.path)


@contextlib.contextmanager
def lock(path):
    """A block that only one process at a time is in, for one path; the lock of a process that is killed ends with it.

    Beside the file stands `<path>.lock`, with a line that says who holds it, until the block ends. Where the folder
    cannot be written, or the file system has no locks, everybody enters.

    Raises:
        FileError: another holds the lock, and which process that is; or `path` cannot be that of a file.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/run.npz"
    >>> with lock(path):
    ...     print(os.listdir(os.path.dirname(path)))
    ['run.npz.lock']
    """
    path = destination(path, ("", ".lock"))
    name = f"{path}.lock"
    with contextlib.ExitStack() as at_the_end:
        if fcntl is None:  # Windows can only remove what is closed
            at_the_end.callback(_unlink, name)
        file = at_the_end.enter_context(_locked_file(path, name))
        if file is not None:
            with contextlib.suppress(OSError):  # a disk that is full: the lock holds all the same
                os.truncate(file.fileno(), 0)
                os.write(file.fileno(), _owner(path))
            if fcntl is not None:  # while it is locked, so that nobody's new one is removed
                at_the_end.callback(_unlink, name)
        yield


def try_lock(file):
    """Lock an open file without waiting; the lock ends when the file is closed, or with the process.

    Returns:
        True; False where somebody else has locked it; None where the file system has no locks.
    """
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            position = os.lseek(file.fileno(), 0, os.SEEK_CUR)
            os.lseek(file.fileno(), 2**30, os.SEEK_SET)  # a locked byte cannot be read, so not one of the text
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            finally:
                os.lseek(file.fileno(), position, os.SEEK_SET)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK) else None
    return True


def cache_folder():
    """The folder for caches: `MINICNN_HOME` if that is set, else the platform's cache folder.

    The folder is not created here.

    Returns:
        a `pathlib.Path`.

    Raises:
        FileError: neither is known, because the user has no home folder.
    """
    home = os.environ.get("MINICNN_HOME")
    try:
        if home:
            return pathlib.Path(home).expanduser()
        import platformdirs

        return pathlib.Path(platformdirs.user_cache_dir("minicnn", appauthor=False)).expanduser()
    except RuntimeError as error:
        raise FileError(
            "there is no folder for caches and downloads, because this user has no home folder: set the environment "
            "variable MINICNN_HOME to a folder that can be written"
        ) from error


def path_text(path) -> str:
    """A path as a text; an InputError for something that is not a path."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise InputError(f"a path is a text or a pathlib.Path, got {quoted(path)} ({type(path).__name__})")
    return os.fsdecode(path)


def _name(path):
    """A path in a message: quoted, and long enough for most."""
    return quoted(path, 300)


def _reason(error):
    """Why something failed, for a message."""
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    return getattr(error, "strerror", None) or quoted(error, 200)


def _write_error(path, error):
    return FileError(f"cannot write {_name(path)}: {error if isinstance(error, str) else _reason(error)}")


def _kind(mode):
    """What stands at a path, in words."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _temporary_prefix(path):
    """How the names of a path's temporary files begin: hidden, of this path alone, short enough for any file system."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    return f".{path.name[:20]}.{digest}."


def _new_temporary(path, make):
    """A new file or folder beside `path`, made by `make(name)`, and locked while it is open: both."""
    while True:
        name = path.with_name(f"{_temporary_prefix(path)}{os.urandom(8).hex()}.tmp")
        made = make(name)
        if fcntl is None or (try_lock(made) is not False and _is_at(made, name)):
            return name, made
        made.close()  # another writer took it for a leftover between the two lines, and has removed it


def _create(name):
    return open(name, "xb")


class _Folder:
    """A new folder, open where the system can open folders."""

    def __init__(self, name):
        os.mkdir(name)
        self.descriptor = None if fcntl is None else os.open(name, os.O_RDONLY)

    def fileno(self):
        return self.descriptor

    def close(self):
        if self.descriptor is not None:
            os.close(self.descriptor)


def _remove_leftover(name):
    is_folder = os.path.isdir(name)
    remove = shutil.rmtree if is_folder else os.unlink
    locked = None
    if fcntl is not None:
        descriptor = os.open(name, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            locked = try_lock(descriptor)
            if locked:  # nobody writes it; removed while it is locked, so that nobody begins to
                remove(name)
        finally:
            os.close(descriptor)
    if locked is None and time.time() - os.stat(name).st_mtime > _OLD:
        remove(name)


def _locked_file(path, name):
    """The lock file of a path, open and locked; nothing where no file can be made."""
    while True:
        try:
            file = open(name, "a+b", buffering=0)  # noqa: SIM115, the caller closes it
        except OSError as error:
            if error.errno in _NOT_SUPPORTED | {errno.EROFS}:
                return contextlib.nullcontext()
            raise _write_error(path, error) from error
        locked = try_lock(file)
        if locked is False:
            with file:
                file.seek(0)
                owner = file.read(300).decode(errors="replace").strip()
            raise FileError(
                f"{_name(path)} is in use, its lock file says {quoted(owner, 300)}: wait until that process ends, or "
                "give this run another name"
            )
        if locked is None or _is_at(file, name):
            return file
        file.close()  # its owner removed it meanwhile, and another process may have made a new one


def _owner(path):
    """What a lock file says."""
    import platform  # here, because few runs need it, and `import minicnn` is to be quick

    return (
        f"process {os.getpid()} on {platform.node()} works with {path.name} since "
        f"{time.strftime('%Y-%m-%d %H:%M:%S')} and removes this file when it ends\n"
    ).encode(errors="backslashreplace")


def _is_at(file, name):
    """Whether an open file still stands at its name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(name))
    return False


def _unlink(name):
    """Remove a file, if that can be done. Windows cannot while it is open; the next writer removes it then."""
    with contextlib.suppress(OSError):
        os.unlink(name)


def _replace(source, path):
    """Rename a file; where that is not permitted, again for about a second."""
    for pause in (*_PAUSES, None):
        try:
            return os.replace(source, path)
        except PermissionError:
            if pause is None:
                raise
            time.sleep(pause)


def _sync(descriptor):
    """Force a file or a folder to the disk, where that can be done."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise


def _sync_folder(folder):
    """Force a rename to the disk; systems that cannot open a folder (Windows) need nothing."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)
