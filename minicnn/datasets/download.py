"""The download of notMNIST from several addresses, any of which may be down, slow, interrupted or wrong.

Each address is tried with a time-out and a lowest speed. After an error that
may be temporary, it is tried again after a pause, and the download resumes
where it stopped; where what comes is not the rest, it begins again. A file is
accepted only if its length and checksum are those of the original.
For the IDX files no checksum is published: they are accepted if gzip's
checksum and the size in the header are right. If every address fails, the
error message tells the user how to continue without the download.

The library pooch was considered: it verifies files, but does not resume a
partial download, and needs `requests`. It would save about forty lines.
"""

import contextlib
import hashlib
import http.client
import io
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import NamedTuple

from minicnn.console import SafeStream
from minicnn.core.checks import quoted
from minicnn.core.errors import FileError
from minicnn.datasets import idx
from minicnn.storage.files import atomic_move, cache_folder

TIMEOUT = 20.0  # seconds without data after which a try ends
SLOWEST, WINDOW = 500, 60.0  # bytes per second, averaged over this many seconds: below it a try ends
TRIES = 4  # of one address, after temporary errors
PAUSE = 1.0  # seconds before the second try; doubled before each further one
MAX_SIZE = 2**30  # bytes accepted if the size of the file is not known
_CHUNK_SIZE = 2**16  # bytes read at a time


class Source(NamedTuple):
    """One address of a file, and how to verify the file.

    Attributes:
        address: its URL.
        file: the name under which it is stored in the cache folder.
        size: in bytes, or None if it is not known.
        checksum: (algorithm, hexadecimal digest), or None for an IDX file, which is verified by its own content.
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
    # No checksum is published for these; they are verified by gzip's checksum and the size in their headers.
    "idx": [
        [Source(f"{_IDX}{name}-ubyte.gz", f"notMNIST_idx/{name}-ubyte.gz", None, None)]
        for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    ],
}


class _PermanentError(Exception):
    """This address cannot provide the file."""


class _TemporaryError(Exception):
    """This address may provide the file later."""


class _InvalidRangeError(_TemporaryError):
    """The partial file is of no use: it is removed, and the next try begins at the first byte."""


def fetch(name):
    """The files of a data set on this machine, downloaded if they are not there yet.

    Args:
        name: "small", "large" or "idx".

    Returns:
        the path of the archive, or of the folder that holds the IDX files, in the cache folder.

    Raises:
        FileError: no address provided the file. The message lists every address with its error, the path for a
            file that the user downloads by hand, and how to continue without the file.
    """
    paths = [_fetch_file(name, sources) for sources in DATA_SETS[name]]
    return paths[0] if len(paths) == 1 else paths[0].parent


def verify(name):
    """Check that the downloaded files of a data set are those of the original.

    Args:
        name: as for `fetch`.

    Raises:
        FileError: a file is broken, or is a different file.
    """
    for source in (source for sources in DATA_SETS[name] for source in sources):
        file = _folder() / source.file
        if file.is_file():
            message = _verification_error(source, file)
            if message:
                raise FileError(f"{file} is broken or a different file: {message}. Remove it to download it again")


def _verification_error(source, path):
    """The error message if the file is not the file of the source, or None."""
    if source.checksum:
        algorithm, expected = source.checksum
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        return None if found == expected else f"its {algorithm} is {found}, the original's is {expected}"
    try:
        idx.check(path, "images" if "images" in source.file else "labels", (28, 28))
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
    errors = []
    for source in sources:
        path = folder / source.file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _file_lock(path.with_name(path.name + ".lock")):
                if not path.is_file():  # another process may have fetched it meanwhile
                    _download(source, path)
            return path
        except _PermanentError as error:
            errors.append(f"  {source.address}: {error}")
        except OSError as error:
            raise FileError(f"cannot save the download in {path}: {error.strerror or error}") from error
    targets = " or ".join(str(folder / file) for file in dict.fromkeys(source.file for source in sources))
    raise FileError(
        f"notMNIST {name} could not be downloaded. Tried:\n" + "\n".join(errors) + "\n"
        f"Download the file by hand and save it as {targets}, or give the path of your copy. "
        "Or use synthetic letters: load_letters(), or --data letters"
    )


def _download(source, path):
    """Try one address until the file is complete and verified."""
    partial = path.with_name(path.name + ".part")
    pause, last_error = PAUSE, None
    for attempt in range(TRIES):
        if attempt:
            time.sleep(pause)
            pause *= 2
        resumed = partial.exists() and partial.stat().st_size > 0
        try:
            _transfer(source, partial)
        except _InvalidRangeError as error:
            partial.unlink(missing_ok=True)
            last_error = error
            continue
        except _TemporaryError as error:
            last_error = error
            continue
        message = _verification_error(source, partial)
        if message:
            partial.unlink()
            last_error = f"a different file: {message}"
            if resumed:  # perhaps the parts do not belong together
                continue
            raise _PermanentError(last_error)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        atomic_move(partial, path)
        return
    raise _PermanentError(f"{last_error} ({TRIES} tries)")


def _transfer(source, partial):
    """One try: resume the partial file; it is complete if no error is raised."""
    received = partial.stat().st_size if partial.exists() else 0
    if source.size is not None and received > source.size:
        partial.unlink()
        received = 0
    if received and received == source.size:
        return
    request = urllib.request.Request(source.address, headers={"User-Agent": "minicnn", "Accept-Encoding": "identity"})
    if received:
        request.add_header("Range", f"bytes={received}-")
    with _network_errors():
        response = urllib.request.build_opener(_Http, _Https, _Redirects).open(request, timeout=TIMEOUT)
    with response:
        with _network_errors():
            total = _total_size(response, received)
        if "html" in response.headers.get("Content-Type", "") and (total is None or total != source.size):
            raise _PermanentError("the server sends a web page, perhaps a login page of this network, not the file")
        if source.size is not None and total not in (None, source.size):
            raise _PermanentError(f"the file has {total} bytes, the original has {source.size}")
        if _first_byte(response) != received:  # the server sends the file from the beginning
            received = 0
        total = source.size if source.size is not None else total
        received = _receive(response, partial, received, total, source.file)
    if total is not None and received < total:
        raise _TemporaryError(f"the connection ended after {received} of {total} bytes")


@contextlib.contextmanager
def _network_errors():
    """A block that uses only the network: its errors become a `_TemporaryError` or a `_PermanentError`."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise _InvalidRangeError("the partial file is longer than the file of the server") from None
        error_class = _TemporaryError if error.code in (408, 425, 429) or error.code >= 500 else _PermanentError
        raise error_class(f"the server answered {error.code} {quoted(error.reason, 100)[1:-1]}") from None
    except TimeoutError:
        raise _TemporaryError(f"no data for {TIMEOUT:g} seconds") from None
    except urllib.error.URLError as error:
        raise _TemporaryError(f"the server cannot be reached: {quoted(error.reason, 300)[1:-1]}") from None
    except (ValueError, http.client.InvalidURL) as error:
        message = f"the redirect is not a valid address, or the length is not a number: {quoted(error, 300)[1:-1]}"
        raise _PermanentError(message) from None
    except (http.client.HTTPException, OSError) as error:
        raise _TemporaryError(f"the connection failed: {quoted(repr(error), 300)[1:-1]}") from None


def _total_size(response, received):
    """The size of the complete file in bytes, or None if the headers of the response do not contain it."""
    if response.status == 206:
        content_range = response.headers.get("Content-Range", "")
        if _first_byte(response) not in (0, received):
            raise _InvalidRangeError(
                f"requested the bytes from {received}, the server sent the range {quoted(content_range, 60)}"
            )
        total = content_range.rpartition("/")[2]
        return int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _first_byte(response):
    """The position in the file of the first byte that the server sends, or None if a partial response hides it."""
    if response.status != 206:
        return 0
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]  # "bytes 100-199/200"
    return int(start) if start.isdigit() else None


class _Paced(io.RawIOBase):
    """What is received from a socket, with an error if it is too slow: a time-out alone waits for each byte anew."""

    def __init__(self, raw):
        self.raw, self.start, self.received = raw, _now(), 0

    def readable(self):
        return True

    def close(self):
        self.raw.close()
        super().close()

    def readinto(self, buffer):
        count = self.raw.readinto(buffer)
        self.received += count or 0
        now = _now()
        if now - self.start >= WINDOW:
            if self.received < SLOWEST * WINDOW and count:
                raise _TemporaryError(f"less than {SLOWEST} bytes per second for {WINDOW:g} seconds")
            self.start, self.received = now, 0
        return count


_now = time.monotonic


class _PacedResponse(http.client.HTTPResponse):
    def __init__(self, sock, *args, **options):
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Paced(self.fp.detach()), _CHUNK_SIZE)


class _HttpConnection(http.client.HTTPConnection):
    response_class = _PacedResponse


class _HttpsConnection(http.client.HTTPSConnection):
    response_class = _PacedResponse


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(_HttpConnection, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(_HttpsConnection, request)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, address):
        scheme = urllib.parse.urlsplit(address).scheme
        if scheme not in ("http", "https"):
            raise _PermanentError(f"the server redirects to {quoted(address)}, which is neither http nor https")
        file.close()  # the text beside a redirect is not needed, and may have no end
        return super().redirect_request(request, file, code, message, headers, address)


def _receive(response, partial, received, total, title):
    """Append the received data to the partial file, and return its new size, which is never more than `total`."""
    from tqdm import tqdm

    resumed, stream = received > 0, SafeStream(sys.stderr)
    progress_bar = tqdm(
        total=total,
        initial=received,
        desc=f"fetching {title}",
        unit="B",
        unit_scale=True,
        file=stream,
        disable=not stream.isatty(),
    )
    with open(partial, "r+b" if received else "wb") as file, progress_bar:
        file.seek(received)
        while True:
            with _network_errors():
                chunk = response.read1(_CHUNK_SIZE)  # what has come, so that an error later loses nothing
            if not chunk:
                return received
            received += len(chunk)
            if received > (MAX_SIZE if total is None else total):
                file.truncate(0)
                error_class = _InvalidRangeError if resumed else _PermanentError  # perhaps it sends all, not the rest
                raise error_class(f"the server sends more than the {total or MAX_SIZE} bytes of the file")
            file.write(chunk)
            progress_bar.update(len(chunk))


@contextlib.contextmanager
def _file_lock(path):
    """A block that only one process at a time can enter; the others wait. On Windows, no process waits."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    while True:
        with open(path, "wb") as file:
            with contextlib.suppress(OSError):  # a network drive without locks: nobody waits, the checksum decides
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_same_file(file, path):  # the last process removed it, and another may have made a new one
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_same_file(file, path):
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False
