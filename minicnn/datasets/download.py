"""Fetching notMNIST: several addresses, any of which may be down, slow, cut off or wrong.

An address is tried with time-outs and, where the trouble may pass, again
after a pause, going on where the last try stopped. What arrives is believed
only when its length and checksum are those of the original, or, where nobody
states them, when it is whole by what it says itself. When nothing answers,
the message says what to do by hand.

A download library (pooch) was weighed: it verifies, but does not go on with a
partial file, and would bring `requests` along for some forty lines saved.
"""

import contextlib
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from typing import NamedTuple

from minicnn.datasets import idx
from minicnn.errors import FileError
from minicnn.files import cache_folder

TIMEOUT = 20.0  # seconds without a byte after which a try is given up
TRIES = 4  # of one address, where the trouble may pass
PAUSE = 1.0  # seconds before the second try; doubled before each further one
LARGEST = 2**30  # bytes taken where nobody says how many there are
_PIECE = 2**16  # bytes read at a time


class Source(NamedTuple):
    """One place from which a file can be had.

    Attributes:
        address: its URL.
        file: the name under which it is kept.
        size: in bytes, or None where it is not known.
        checksum: (algorithm, hexadecimal digest), or None for an IDX file, which shows by itself whether it is whole.
    """

    address: str
    file: str
    size: int | None
    checksum: tuple | None


def _archive(name, size, sha256, md5_of_mirror):
    folders = ("http://yaroslavvb.com/upload/notMNIST/", "https://commondatastorage.googleapis.com/books1000/")
    file, mirror = f"notMNIST_{name}.tar.gz", f"notMNIST_{name}.zip"
    return [
        *(Source(folder + file, file, size, ("sha256", sha256)) for folder in folders),
        Source(f"https://zenodo.org/records/8274268/files/{mirror}", mirror, None, ("md5", md5_of_mirror)),
    ]


_IDX = "https://raw.githubusercontent.com/davidflanagan/notMNIST-to-MNIST/master/"

#: The files of each data set, and for each file the sources to try in turn.
DATA_SETS = {
    "small": [
        _archive(
            "small",
            8_458_043,
            "76b2ef7ccc56452964780569db37b279c9cbe1bf442c3b38be784752683b3cec",
            "3de91fb69221d9c2d5c57387101ebc6c",
        )
    ],
    "large": [
        _archive(
            "large",
            247_336_696,
            "1e8261b75484b520dc76027f5c22af50fe608e3bb16277caec086eb928f9b61c",
            "c3f9e0862df000a897766593044e366a",
        )
    ],
    # Nobody states a checksum for these; that they are whole is seen from gzip's own and from their counts.
    "idx": [
        [Source(f"{_IDX}{part}-ubyte.gz", f"notMNIST_idx/{part}-ubyte.gz", None, None)]
        for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    ],
}


class _GoneWrongError(Exception):
    """This address will not give the file."""


class _TryAgainError(Exception):
    """This address may give the file later."""


class _NoSuchPartError(_TryAgainError):
    """What was received before is no beginning of what this address has."""


def fetch(name):
    """The files of a data set on this machine, downloaded if they are not here yet.

    Args:
        name: "small", "large" or "idx".

    Returns:
        the path of the archive, or of the folder that holds the IDX files, in the cache folder.

    Raises:
        FileError: no address gave the file; the message lists them with what each answered, says where to put a
            file fetched by hand, and how to go on without.
    """
    paths = [_fetch_file(name, sources) for sources in DATA_SETS[name]]
    return paths[0] if len(paths) == 1 else paths[0].parent


def verify(path):
    """Refuse what lies where downloads are kept and is not what it should be.

    Args:
        path: a file or folder; one that is no download may be anything.

    Raises:
        FileError: the file is broken, or is something else.
    """
    for source in (source for files in DATA_SETS.values() for sources in files for source in sources):
        file = _folder() / source.file
        if path in (file, file.parent) and file.is_file():
            trouble = _trouble(source, file)
            if trouble:
                raise FileError(f"{file} is broken or something else: {trouble}. Remove it, and it is downloaded again")


def _trouble(source, path):
    """What is wrong with a file that should be a source's, or None."""
    if source.checksum:
        algorithm, expected = source.checksum
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        return None if found == expected else f"its {algorithm} is {found}, the original's {expected}"
    try:
        idx.check(path, 3 if "images" in source.file else 1)
    except FileError as error:
        return str(error)
    return None


def _folder():
    return cache_folder() / "downloads"


def _fetch_file(name, sources):
    folder = _folder()
    for source in sources:
        if (folder / source.file).is_file():
            return folder / source.file
    answers = []
    for source in sources:
        path = folder / source.file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _only_one(path.with_name(path.name + ".lock")):
                if not path.is_file():  # another process may have fetched it meanwhile
                    _download(source, path)
            return path
        except _GoneWrongError as error:
            answers.append(f"  {source.address}: {error}")
        except OSError as error:
            raise FileError(f"cannot keep the download in {path}: {error.strerror or error}") from error
    places = " or ".join(str(folder / file) for file in dict.fromkeys(source.file for source in sources))
    raise FileError(
        f"notMNIST {name} could not be downloaded. Tried:\n" + "\n".join(answers) + "\n"
        f"Fetch the file by hand and put it at {places}, or give the path where you have it. "
        "Or go on with letters drawn on the spot: load_letters(), or --data letters"
    )


def _download(source, path):
    """One address, tried until the file is whole and right."""
    partial = path.with_name(path.name + ".part")
    pause, trouble = PAUSE, None
    for attempt in range(TRIES):
        if attempt:
            time.sleep(pause)
            pause *= 2
        try:
            _transfer(source, partial)
        except _TryAgainError as error:
            trouble = error
            continue
        wrong = _trouble(source, partial)
        if wrong:
            partial.unlink()
            raise _GoneWrongError(f"another file: {wrong}")
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        return
    raise _GoneWrongError(f"{trouble} ({TRIES} tries)")


def _transfer(source, partial):
    """One try: go on with what is there; at the end the file is whole."""
    done = partial.stat().st_size if partial.exists() else 0
    if source.size is not None and done > source.size:
        partial.unlink()
        done = 0
    if done and done == source.size:
        return
    request = urllib.request.Request(source.address, headers={"User-Agent": "minicnn", "Accept-Encoding": "identity"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        with _network():
            answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except _NoSuchPartError:
        partial.unlink(missing_ok=True)
        raise
    with answer:
        with _network():
            total = _total(answer, done)
        if source.size is not None and total not in (None, source.size):
            raise _GoneWrongError(f"a file of {total} bytes, the original has {source.size}")
        if done and answer.status != 206:  # it starts again from the beginning
            done = 0
        total = source.size if source.size is not None else total
        received = _receive(answer, partial, done, total, source.file)
    if total is not None and received < total:
        raise _TryAgainError(f"cut off after {received} of {total} bytes")


@contextlib.contextmanager
def _network():
    """A block in which the network can fail and no file can: what it raises says whether the trouble may pass."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise _NoSuchPartError("it has less than was received before") from None
        kind = _TryAgainError if error.code in (408, 425, 429) or error.code >= 500 else _GoneWrongError
        raise kind(f"it answers {error.code} {error.reason}") from None
    except TimeoutError:
        raise _TryAgainError(f"no byte for {TIMEOUT:g} seconds") from None
    except urllib.error.URLError as error:
        raise _TryAgainError(f"it cannot be reached: {error.reason}") from None
    except (ValueError, http.client.InvalidURL) as error:
        raise _GoneWrongError(f"it redirects to what is no address, or says what is no length: {error}") from None
    except (http.client.HTTPException, OSError) as error:
        raise _TryAgainError(f"the connection broke: {error!r}") from None


def _total(answer, done):
    """How many bytes the whole file has, as far as the answer tells."""
    if answer.status == 206:
        spoken = answer.headers.get("Content-Range", "")  # such as "bytes 100-199/200"
        start, total = spoken.removeprefix("bytes ").partition("-")[0], spoken.rpartition("/")[2]
        if start != str(done):
            raise _GoneWrongError(f"asked for the rest from byte {done}, it sends {spoken!r}")
        return int(total) if total.isdigit() else None
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _receive(answer, partial, done, total, title):
    """Append what comes to the partial file; how many bytes it then has. Never more than it should have."""
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        initial=done,
        desc=f"fetching {title}",
        unit="B",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    )
    with open(partial, "r+b" if done else "wb") as file, bar:
        file.seek(done)
        while True:
            with _network():
                piece = answer.read(_PIECE)
            if not piece:
                return done
            done += len(piece)
            if done > (LARGEST if total is None else total):
                file.truncate(0)
                raise _GoneWrongError(f"it sends more than the {total or LARGEST} bytes of the file")
            file.write(piece)
            bar.update(len(piece))


@contextlib.contextmanager
def _only_one(path):
    """A block that one process at a time is in; the others wait. Where the system has no such locks, all go on."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    while True:
        with open(path, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, path):  # who was in the block has removed it; another may have made a new one
                continue
            try:
                yield
            finally:
                os.unlink(path)
            return


def _is_at(file, path):
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False
