"""Downloads from a local HTTP server that makes every error we know of."""

import contextlib
import errno
import gzip
import hashlib
import http.client
import http.server
import importlib.util
import io
import pathlib
import resource
import socket
import ssl
import subprocess
import sys
import threading

import numpy as np
import pytest
from test_datasets import idx, letter_files, make_tar, make_zip

import minicnn as mc
from minicnn.datasets import download
from minicnn.datasets.download import Source


class Server:
    """An HTTP server on this machine.

    `responses` maps a path to a list of functions of the request handler, one per request; the last one is repeated.
    """

    def __init__(self):
        self.requests, self.responses = [], {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append((self.path, self.headers.get("Range")))
                remaining = outer.responses[self.path]
                respond = remaining.pop(0) if len(remaining) > 1 else remaining[0]
                with contextlib.suppress(ConnectionError):
                    respond(self)

            def log_message(self, *_):
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.released = threading.Event()
        self.address = f"http://127.0.0.1:{self.httpd.server_port}"
        threading.Thread(target=self.httpd.serve_forever, args=[0.01], daemon=True).start()

    def close(self):
        self.released.set()
        self.httpd.shutdown()
        self.httpd.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    server = Server()
    yield server
    server.close()


@pytest.fixture
def archive(tmp_path):
    return make_tar(tmp_path / "good.tar.gz", letter_files(each=20)).read_bytes()


def serve_small(monkeypatch, server, data, responses, size=True, checksum=True, extra=()):
    """Make "small" a data set whose first address sends these responses."""
    server.responses["/small"] = responses
    sha = ("sha256", hashlib.sha256(data).hexdigest()) if checksum else None
    first = Source(f"{server.address}/small", "small.tar.gz", len(data) if size else None, sha)
    monkeypatch.setattr(download, "DATA_SETS", {"small": [[first, *extra]]})


def status(code):
    return lambda handler: handler.send_error(code)


def complete(data):
    """Respond as a correct server: the complete file, or the range in the request."""

    def respond(handler):
        requested = handler.headers.get("Range")
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested else 0
        handler.send_response(206 if requested else 200)
        if requested:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start:])

    return respond


def without_ranges(data):
    def respond(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return respond


def truncated(data, after):
    def respond(handler):
        requested = handler.headers.get("Range")
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested else 0
        handler.send_response(206 if requested else 200)
        if requested:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start : start + after])
        handler.wfile.flush()
        handler.connection.close()

    return respond


def stalled(server, data, after):
    def respond(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:after])
        handler.wfile.flush()
        server.released.wait(10)

    return respond


def with_length(data, length):
    def respond(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(data)

    return respond


def without_length(data):
    def respond(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data)

    return respond


def with_range(data, content_range):
    def respond(handler):
        handler.send_response(206)
        handler.send_header("Content-Range", content_range)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return respond


def as_range(data, first, header=True, of=None):
    """A 206 with `data`, whatever was requested; in the header it begins at `first`."""

    def respond(handler):
        if not handler.headers.get("Range"):
            return complete(of)(handler)
        handler.send_response(206)
        if header:
            handler.send_header("Content-Range", f"bytes {first}-{len(of) - 1}/{len(of)}")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return respond


def with_headers(data, **headers):
    def respond(handler):
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return respond


LOGIN_PAGE = with_headers(b"<html>please log in</html>", Content_Type="text/html; charset=utf-8")


def redirect(location):
    def respond(handler):
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return respond


def image_count():
    (x, _), (x_test, _) = mc.datasets.load_notmnist("small")
    return len(x) + len(x_test)


def downloaded_files():
    return sorted(path.name for path in download._folder().iterdir())


def test_a_file_is_downloaded_once(monkeypatch, server, archive):
    serve_small(monkeypatch, server, archive, [complete(archive)])
    assert image_count() == 200
    assert image_count() == 200
    assert server.requests == [("/small", None)]
    assert downloaded_files() == ["small.tar.gz"]


def test_an_interrupted_download_resumes_where_it_stopped(monkeypatch, server, archive):
    third = len(archive) // 3
    serve_small(monkeypatch, server, archive, [truncated(archive, third), truncated(archive, third), complete(archive)])
    assert image_count() == 200
    assert [requested for _, requested in server.requests] == [None, f"bytes={third}-", f"bytes={2 * third}-"]


def test_a_partial_download_of_an_earlier_start_is_resumed(monkeypatch, server, archive):
    serve_small(monkeypatch, server, archive, [complete(archive)])
    download._folder().mkdir(parents=True)
    (download._folder() / "small.tar.gz.part").write_bytes(archive[:1000])
    assert image_count() == 200
    assert server.requests == [("/small", "bytes=1000-")]


def test_a_server_without_ranges_sends_the_file_from_the_beginning(monkeypatch, server, archive):
    serve_small(monkeypatch, server, archive, [truncated(archive, 1000), without_ranges(archive)])
    assert image_count() == 200


def test_a_stalled_download_is_tried_again(monkeypatch, server, archive):
    serve_small(monkeypatch, server, archive, [stalled(server, archive, 500), complete(archive)])
    assert image_count() == 200


OTHER_RANGES = {
    "the complete file": lambda data: as_range(data, 0, of=data),
    "the complete file, as if it were the rest": lambda data: as_range(data, 1000, of=data),
    "the rest of another file": lambda data: as_range(bytes(len(data) - 1000), 1000, of=data),
    "the rest from another byte": lambda data: as_range(data[900:], 900, of=data),
    "no range in the header": lambda data: as_range(data[1000:], None, header=False, of=data),
}


@pytest.mark.parametrize("make_response", OTHER_RANGES.values(), ids=OTHER_RANGES)
def test_a_server_that_answers_a_range_with_other_bytes_sends_the_file_again(
    monkeypatch, server, archive, make_response
):
    serve_small(monkeypatch, server, archive, [make_response(archive)])
    download._folder().mkdir(parents=True)
    (download._folder() / "small.tar.gz.part").write_bytes(archive[:1000])
    assert image_count() == 200
    assert server.requests[0] == ("/small", "bytes=1000-")


@pytest.mark.parametrize("where", ["in the headers", "in the file"])
def test_a_byte_a_second_is_too_slow(monkeypatch, server, archive, where):
    """A clock that goes on by a second with every byte; the server waits for it."""
    seconds, ticks = [0], threading.Semaphore(0)

    def clock():
        seconds[0] += 1
        ticks.release()
        return seconds[0]

    def drip(handler):
        if where == "in the file":
            complete_headers(handler, len(archive))
        else:
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
        for position in range(200):
            ticks.acquire(timeout=0.1)
            handler.wfile.write(archive[position : position + 1] if where == "in the file" else b"x")

    monkeypatch.setattr(download, "_now", clock)
    serve_small(monkeypatch, server, archive, [drip, complete(archive)])
    assert image_count() == 200
    assert len(server.requests) == 2 and download.WINDOW <= seconds[0] < 2 * download.WINDOW


def complete_headers(handler, length):
    handler.send_response(200)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()


@pytest.mark.parametrize("code", [500, 503, 429])
def test_after_a_temporary_error_the_address_is_tried_again(monkeypatch, server, archive, code):
    serve_small(monkeypatch, server, archive, [status(code), status(code), complete(archive)])
    assert image_count() == 200
    assert len(server.requests) == 3


def test_each_pause_is_twice_the_previous_one(monkeypatch, server, archive):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    serve_small(monkeypatch, server, archive, [status(503), status(503), status(503), complete(archive)])
    assert image_count() == 200
    assert pauses == [0.01, 0.02, 0.04]


NETWORK_ERRORS = [
    ssl.SSLError("DECRYPTION_FAILED"),
    OSError(errno.EHOSTUNREACH, "No route to host"),
    OSError(errno.ENETDOWN, "Network is down"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    http.client.IncompleteRead(b""),
]


@pytest.mark.parametrize("error", NETWORK_ERRORS, ids=lambda error: type(error).__name__)
def test_after_a_network_error_while_reading_the_address_is_tried_again(monkeypatch, server, archive, error):
    serve_small(monkeypatch, server, archive, [complete(archive)])
    read, calls = http.client.HTTPResponse.read1, []

    def fail_once(response, *size):
        calls.append(size)
        if len(calls) == 1:
            raise error
        return read(response, *size)

    monkeypatch.setattr(http.client.HTTPResponse, "read1", fail_once)
    assert image_count() == 200
    assert len(server.requests) == 2


def test_a_full_disk_is_not_a_network_error(monkeypatch, server, archive):
    serve_small(monkeypatch, server, archive, [complete(archive)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(archive) // 2, before[1]))
    try:
        with pytest.raises(mc.FileError, match=r"cannot save the download in .*small\.tar\.gz: File too large"):
            mc.datasets.load_notmnist("small")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(server.requests) == 1
    assert image_count() == 200


def test_a_progress_bar_is_shown(monkeypatch, server, archive):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    serve_small(monkeypatch, server, archive, [complete(archive)])
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert image_count() == 200
    shown = sys.stderr.getvalue()
    assert "fetching small.tar.gz" in shown and "100%" in shown


def test_a_redirect_is_followed(monkeypatch, server, archive):
    serve_small(monkeypatch, server, archive, [redirect(f"{server.address}/elsewhere")])
    server.responses["/elsewhere"] = [complete(archive)]
    assert image_count() == 200


def test_a_redirect_to_another_protocol_is_not_followed(monkeypatch, server, archive):
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        serve_small(monkeypatch, server, archive, [redirect(f"ftp://127.0.0.1:{other.getsockname()[1]}/small")])
        with pytest.raises(mc.FileError, match="redirect"):
            mc.datasets.load_notmnist("small")
        with pytest.raises(BlockingIOError):
            other.accept()


def test_the_text_beside_a_redirect_is_not_read(monkeypatch, server, archive):
    sent = []

    def endless(handler):
        handler.send_response(302)
        handler.send_header("Location", "/elsewhere")
        handler.end_headers()
        for _ in range(256):
            handler.wfile.write(bytes(2**16))
            sent.append(1)

    serve_small(monkeypatch, server, archive, [endless])
    server.responses["/elsewhere"] = [complete(archive)]
    assert image_count() == 200
    assert len(sent) < 256


def test_a_login_page_is_named_and_leaves_the_partial_file(monkeypatch, server, archive):
    serve_small(monkeypatch, server, archive, [LOGIN_PAGE, complete(archive)], size=False)
    download._folder().mkdir(parents=True)
    (download._folder() / "small.tar.gz.part").write_bytes(archive[:1000])
    with pytest.raises(mc.FileError, match="web page"):
        mc.datasets.load_notmnist("small")
    assert image_count() == 200
    assert server.requests[-1] == ("/small", "bytes=1000-")


def test_a_program_without_a_stderr_downloads_and_reads(monkeypatch, server, archive):
    serve_small(monkeypatch, server, archive, [complete(archive)])
    monkeypatch.setattr(sys, "stderr", None)
    assert image_count() == 200


def test_a_file_without_a_length_is_verified_by_its_checksum(monkeypatch, server, archive):
    serve_small(monkeypatch, server, archive, [without_length(archive)], size=False)
    assert image_count() == 200


def test_a_partial_file_of_another_file_is_removed(monkeypatch, server, archive):
    """It is longer than the file, so the server responds with 416."""
    serve_small(monkeypatch, server, archive, [status(416), complete(archive)], size=False)
    download._folder().mkdir(parents=True)
    (download._folder() / "small.tar.gz.part").write_bytes(b"x" * (len(archive) + 5))
    assert image_count() == 200


WRONG_RESPONSES = {
    "a 404": lambda data: [status(404)],
    "a 503 every time": lambda data: [status(503)],
    "another length": lambda data: [complete(data + b"more")],
    "the right length, another content": lambda data: [complete(bytes(len(data)))],
    "an error page": lambda data: [without_ranges(b"<html>error</html>")],
    "a length that is too small": lambda data: [with_length(data, len(data) - 100)],
    "a length that is too large": lambda data: [with_length(data, len(data) + 100)],
    "truncated every time": lambda data: [truncated(data, 0)],
    "a length that is not a number": lambda data: [with_length(data[:-1], "²")],
    "a range that was not requested": lambda data: [truncated(data, 1000), with_range(data, "bytes 5-9/10")],
    "more data than the file has": lambda data: [without_length(data + bytes(2**20))],
    "a redirect to itself": lambda data: [redirect("/small")],
    "a login page": lambda data: [LOGIN_PAGE],
    "compressed once more": lambda data: [with_headers(gzip.compress(data), Content_Encoding="gzip")],
    "a redirect to a local file": lambda data: [redirect("file:///etc/hostname")],
    "a redirect to an incomplete address": lambda data: [redirect("http://[")],
    "a redirect to an invalid host": lambda data: [redirect("http://a..b/")],
    "a redirect to an address with a space": lambda data: [redirect("http://a b/")],
    "a redirect to an invalid scheme": lambda data: [redirect("ht!tp:")],
    "a redirect to an empty address": lambda data: [redirect("//")],
}
TRIED = {"a 404": 1, "a 503 every time": 4, "truncated every time": 4, "the right length, another content": 1}


@pytest.mark.parametrize("case", WRONG_RESPONSES)
def test_a_wrong_response_is_rejected_and_the_next_address_is_tried(monkeypatch, server, archive, tmp_path, case):
    mirror = make_zip(tmp_path / "mirror.zip", letter_files(each=20)).read_bytes()
    server.responses["/mirror"] = [complete(mirror)]
    second = Source(f"{server.address}/mirror", "small.zip", None, ("md5", hashlib.md5(mirror).hexdigest()))
    serve_small(monkeypatch, server, archive, WRONG_RESPONSES[case](archive), extra=[second])
    assert image_count() == 200
    assert "small.zip" in downloaded_files() and "small.tar.gz" not in downloaded_files()
    tried = sum(path == "/small" for path, _ in server.requests)
    assert tried == TRIED.get(case, tried)


def test_a_download_without_an_end_is_stopped(monkeypatch, server, archive):
    monkeypatch.setattr(download, "MAX_SIZE", len(archive))
    serve_small(monkeypatch, server, archive, [without_length(archive + bytes(2**20))], size=False)
    with pytest.raises(mc.FileError, match="more than"):
        mc.datasets.load_notmnist("small")
    assert max(path.stat().st_size for path in download._folder().iterdir()) <= len(archive)


@pytest.mark.parametrize("responses", WRONG_RESPONSES.values(), ids=WRONG_RESPONSES)
def test_if_every_address_fails_the_message_says_how_to_continue(monkeypatch, server, archive, responses):
    serve_small(monkeypatch, server, archive, responses(archive))
    unreachable = Source("http://127.0.0.1:9/small", "small.zip", None, None)
    download.DATA_SETS["small"][0].append(unreachable)
    with pytest.raises(mc.FileError) as caught:
        mc.datasets.load_notmnist("small")
    target = str(download._folder() / "small.tar.gz")
    for text in (f"{server.address}/small", unreachable.address, target, "load_letters"):
        assert text in str(caught.value)


def test_a_file_downloaded_by_hand_is_used_if_it_is_the_original(monkeypatch, server, archive):
    serve_small(monkeypatch, server, archive, [status(404)])
    download._folder().mkdir(parents=True)
    (download._folder() / "small.tar.gz").write_bytes(archive[:-1] + b"?")
    with pytest.raises(mc.FileError, match="sha256"):
        mc.datasets.load_notmnist("small")
    (download._folder() / "small.tar.gz").write_bytes(archive)
    assert image_count() == 200 and server.requests == []


def test_a_cache_folder_that_cannot_be_written_is_named(monkeypatch, server, archive, tmp_path):
    serve_small(monkeypatch, server, archive, [complete(archive)])
    (tmp_path / "file").write_text("a file instead of a folder")
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path / "file"))
    with pytest.raises(mc.FileError, match="file"):
        mc.datasets.load_notmnist("small")


def test_several_processes_download_a_file_once(monkeypatch, server, archive, tmp_path):
    delay = threading.Event()

    def respond_slowly(handler):
        delay.wait(0.3)
        complete(archive)(handler)

    serve_small(monkeypatch, server, archive, [respond_slowly])
    source = download.DATA_SETS["small"][0][0]
    code = (
        "import minicnn as mc; from minicnn.datasets import download; "
        f"download.DATA_SETS = {{'small': [[download.Source{tuple(source)!r}]]}}; "
        "print(len(mc.datasets.load_notmnist('small')[0][0]))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) for _ in range(3)]
    outputs = [process.communicate() for process in processes]
    assert len({out for out, _ in outputs}) == 1 and int(outputs[0][0]), outputs
    assert len(server.requests) == 1


def test_a_drive_without_locks_is_good_enough(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with download._file_lock(tmp_path / "lock"), download._file_lock(tmp_path / "lock"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_waiting_thread_and_a_later_thread_do_not_hold_the_lock_together(tmp_path):
    holders, release = [], {name: threading.Event() for name in "abc"}

    def hold_lock(name):
        with download._file_lock(tmp_path / "lock"):
            holders.append(name)
            release[name].wait(10)
            holders.remove(name)

    def wait_until(names):
        for _ in range(500):
            if holders == names:
                return
            threading.Event().wait(0.01)
        raise AssertionError(holders)

    threads = {name: threading.Thread(target=hold_lock, args=[name]) for name in "abc"}
    threads["a"].start()
    wait_until(["a"])
    threads["b"].start()
    threading.Event().wait(0.05)  # b waits for the lock now
    release["a"].set()
    wait_until(["b"])
    threads["c"].start()
    threading.Event().wait(0.05)
    assert holders == ["b"]
    release["b"].set()
    wait_until(["c"])
    release["c"].set()
    for thread in threads.values():
        thread.join()
    assert not (tmp_path / "lock").exists()


IDX_FILES = [f"{subset}-{content}" for subset in ("train", "t10k") for content in ("images-idx3", "labels-idx1")]


def idx_files():
    """{"train-images-idx3": gzipped bytes, ...}: 40 images for training and 20 for the test."""
    files = {}
    for name in IDX_FILES:
        count = 40 if "train" in name else 20
        array = np.zeros((count, 28, 28), np.uint8) if "images" in name else (np.arange(count) % 10).astype(np.uint8)
        files[name] = gzip.compress(idx(array))
    return files


def serve_idx(monkeypatch, server, responses):
    """Make "idx" a data set whose files are sent with these responses."""
    server.responses |= {f"/{name}": [complete(data)] for name, data in idx_files().items()}
    server.responses |= {f"/{name}": functions for name, functions in responses.items()}
    sources = [[Source(f"{server.address}/{name}", f"notMNIST_idx/{name}-ubyte.gz", None, None)] for name in IDX_FILES]
    monkeypatch.setattr(download, "DATA_SETS", {"idx": sources})


def idx_counts():
    (x, y), (x_test, y_test) = mc.datasets.load_notmnist("idx")
    return len(x), len(y), len(x_test), len(y_test)


def test_the_four_idx_files_are_downloaded_once(monkeypatch, server):
    serve_idx(monkeypatch, server, {})
    for _ in range(2):
        assert idx_counts() == (40, 40, 20, 20)
    assert [path for path, _ in server.requests] == [f"/{name}" for name in IDX_FILES]


WRONG_IDX_FILES = {
    "an error page": lambda data: without_length(b"<html>error</html>"),
    "an error page, compressed with gzip": lambda data: without_length(gzip.compress(b"<html>error</html>")),
    "truncated, without a length": lambda data: without_length(data[:-9]),
    "truncated, with the wrong length": lambda data: without_ranges(data[:-9]),
    "a wrong checksum": lambda data: without_ranges(data[:-8] + bytes(8)),
    "too few images": lambda data: without_ranges(gzip.compress(gzip.decompress(data)[:-1])),
    "images of another size": lambda data: without_ranges(gzip.compress(idx(np.zeros((40, 32, 32), np.uint8)))),
    "labels instead of images": lambda data: without_ranges(idx_files()["train-labels-idx1"]),
    "an empty file": lambda data: without_length(b""),
}


@pytest.mark.parametrize("make_response", WRONG_IDX_FILES.values(), ids=WRONG_IDX_FILES)
def test_a_wrong_idx_file_is_not_stored(monkeypatch, server, make_response):
    name = "train-images-idx3"
    good = idx_files()[name]
    serve_idx(monkeypatch, server, {name: [make_response(good), complete(good)]})
    with pytest.raises(mc.FileError, match=rf"{name}: a different file.*(IDX|idx3)"):
        mc.datasets.load_notmnist("idx")
    assert list(download._folder().rglob("*.gz*")) == []
    assert idx_counts() == (40, 40, 20, 20)


def test_a_wrong_idx_file_saved_by_hand_is_named_with_the_fix(monkeypatch, server):
    serve_idx(monkeypatch, server, {})
    wrong = download._folder() / "notMNIST_idx" / "t10k-labels-idx1-ubyte.gz"
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(b"<html>error</html>")
    with pytest.raises(mc.FileError, match=r"t10k-labels-idx1-ubyte\.gz is broken.*Remove it"):
        mc.datasets.load_notmnist("idx")


EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are only in a checkout, next to the tests")
@pytest.mark.parametrize("name", ["small", "large", "idx"])
def test_the_examples_accept_every_data_set_by_name(monkeypatch, server, archive, tmp_path, name):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("examples_common", EXAMPLES / "common.py")
    common = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(common)
    if name == "idx":
        serve_idx(monkeypatch, server, {})
    else:
        serve_small(monkeypatch, server, archive, [complete(archive)])
        monkeypatch.setattr(download, "DATA_SETS", {name: download.DATA_SETS["small"]})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["example", "--data", f"notmnist-{name}"])
    (x, _), (x_test, _), what = common.load_data(common.options("an example", "net", epochs=1))
    assert x.shape[1:] == (1, 28, 28) and len(x) + len(x_test) == (60 if name == "idx" else 200)
    assert f"notmnist-{name}" in what


def test_the_real_addresses_are_those_of_the_original():
    for name in ("small", "large"):
        for source in download.DATA_SETS[name][0]:
            assert f"notMNIST_{name}" in source.address and source.checksum
    assert {source.file for [source] in download.DATA_SETS["idx"]} == {
        f"notMNIST_idx/{subset}-{content}-ubyte.gz"
        for subset in ("train", "t10k")
        for content in ("images-idx3", "labels-idx1")
    }
