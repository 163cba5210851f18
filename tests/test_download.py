"""Downloads from a real HTTP server that misbehaves in every way we know of."""

import contextlib
import hashlib
import http.server
import subprocess
import sys
import threading

import pytest
from test_datasets import letter_files, make_tar, make_zip

import minicnn as mc
from minicnn.datasets import download
from minicnn.datasets.download import Source


class Server:
    """An HTTP server on this machine. `answers` is a list of functions of the request handler; the last one stays."""

    def __init__(self):
        self.requests, self.answers = [], {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append((self.path, self.headers.get("Range")))
                waiting = outer.answers[self.path]
                answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                with contextlib.suppress(ConnectionError):
                    answer(self)

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


def offer(monkeypatch, server, data, answers, size=True, checksum=True, extra=()):
    """Make "small" a data set whose first address gives these answers."""
    server.answers["/small"] = answers
    sha = ("sha256", hashlib.sha256(data).hexdigest()) if checksum else None
    first = Source(f"{server.address}/small", "small.tar.gz", len(data) if size else None, sha)
    monkeypatch.setattr(download, "DATA_SETS", {"small": [[first, *extra]]})


def status(code):
    return lambda handler: handler.send_error(code)


def whole(data):
    """Answer as a good server does, with the rest where the rest is asked for."""

    def answer(handler):
        asked = handler.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start:])

    return answer


def without_ranges(data):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def cut(data, after):
    def answer(handler):
        asked = handler.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start : start + after])
        handler.wfile.flush()
        handler.connection.close()

    return answer


def stalls(server, data, after):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:after])
        handler.wfile.flush()
        server.released.wait(10)

    return answer


def says_length(data, length):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def no_length(data):
    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def redirects(place):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", place)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def count():
    (x, _), (x_test, _) = mc.datasets.load_notmnist("small")
    return len(x) + len(x_test)


def kept():
    return sorted(path.name for path in download._folder().iterdir())


def test_it_arrives_and_is_fetched_once(monkeypatch, server, archive):
    offer(monkeypatch, server, archive, [whole(archive)])
    assert count() == 200
    assert count() == 200
    assert server.requests == [("/small", None)]
    assert kept() == ["small.tar.gz"]


def test_a_cut_download_goes_on_where_it_stopped(monkeypatch, server, archive):
    third = len(archive) // 3
    offer(monkeypatch, server, archive, [cut(archive, third), cut(archive, third), whole(archive)])
    assert count() == 200
    assert [asked for _, asked in server.requests] == [None, f"bytes={third}-", f"bytes={2 * third}-"]


def test_a_partial_download_of_an_earlier_start_is_used(monkeypatch, server, archive):
    offer(monkeypatch, server, archive, [whole(archive)])
    download._folder().mkdir(parents=True)
    (download._folder() / "small.tar.gz.part").write_bytes(archive[:1000])
    assert count() == 200
    assert server.requests == [("/small", "bytes=1000-")]


def test_a_server_that_knows_no_ranges_begins_again(monkeypatch, server, archive):
    offer(monkeypatch, server, archive, [cut(archive, 1000), without_ranges(archive)])
    assert count() == 200


def test_a_stalled_download_is_tried_again(monkeypatch, server, archive):
    offer(monkeypatch, server, archive, [stalls(server, archive, 500), whole(archive)])
    assert count() == 200


@pytest.mark.parametrize("code", [500, 503, 429])
def test_trouble_that_may_pass_is_waited_for(monkeypatch, server, archive, code):
    offer(monkeypatch, server, archive, [status(code), status(code), whole(archive)])
    assert count() == 200
    assert len(server.requests) == 3


def test_a_redirect_is_followed(monkeypatch, server, archive):
    offer(monkeypatch, server, archive, [redirects(f"{server.address}/elsewhere")])
    server.answers["/elsewhere"] = [whole(archive)]
    assert count() == 200


def test_a_server_without_lengths_is_believed_by_the_checksum(monkeypatch, server, archive):
    offer(monkeypatch, server, archive, [no_length(archive)], size=False)
    assert count() == 200


def test_an_old_partial_file_of_something_else_is_thrown_away(monkeypatch, server, archive):
    """Longer than the file, the server answers 416."""
    offer(monkeypatch, server, archive, [status(416), whole(archive)], size=False)
    download._folder().mkdir(parents=True)
    (download._folder() / "small.tar.gz.part").write_bytes(b"x" * (len(archive) + 5))
    assert count() == 200


LIES = {
    "a 404": lambda data: [status(404)],
    "a 503 for ever": lambda data: [status(503)],
    "another length": lambda data: [whole(data + b"more")],
    "the right length, another content": lambda data: [whole(bytes(len(data)))],
    "a page that says sorry": lambda data: [without_ranges(b"<html>sorry</html>")],
    "a length that lies, too small": lambda data: [says_length(data, len(data) - 100)],
    "a length that lies, too large": lambda data: [says_length(data, len(data) + 100)],
    "cut for ever": lambda data: [cut(data, 0)],
    "round in circles": lambda data: [redirects("/small")],
    "to a file of this machine": lambda data: [redirects("file:///etc/hostname")],
}


@pytest.mark.parametrize("answers", LIES.values(), ids=LIES)
def test_what_is_wrong_is_not_believed_and_the_next_address_is_tried(monkeypatch, server, archive, tmp_path, answers):
    mirror = make_zip(tmp_path / "mirror.zip", letter_files(each=20)).read_bytes()
    server.answers["/mirror"] = [whole(mirror)]
    second = Source(f"{server.address}/mirror", "small.zip", None, ("md5", hashlib.md5(mirror).hexdigest()))
    offer(monkeypatch, server, archive, answers(archive), extra=[second])
    assert count() == 200
    assert "small.zip" in kept() and "small.tar.gz" not in kept()


@pytest.mark.parametrize("answers", LIES.values(), ids=LIES)
def test_when_nothing_answers_the_message_says_how_to_go_on(monkeypatch, server, archive, answers):
    offer(monkeypatch, server, archive, answers(archive))
    dead = Source("http://127.0.0.1:9/small", "small.zip", None, None)
    download.DATA_SETS["small"][0].append(dead)
    with pytest.raises(mc.FileError) as caught:
        mc.datasets.load_notmnist("small")
    for part in (f"{server.address}/small", dead.address, str(download._folder() / "small.tar.gz"), "load_letters"):
        assert part in str(caught.value)


def test_a_file_fetched_by_hand_is_taken_if_it_is_the_right_one(monkeypatch, server, archive):
    offer(monkeypatch, server, archive, [status(404)])
    download._folder().mkdir(parents=True)
    (download._folder() / "small.tar.gz").write_bytes(archive[:-1] + b"?")
    with pytest.raises(mc.FileError, match="sha256"):
        mc.datasets.load_notmnist("small")
    (download._folder() / "small.tar.gz").write_bytes(archive)
    assert count() == 200 and server.requests == []


def test_a_cache_folder_that_cannot_be_written_is_named(monkeypatch, server, archive, tmp_path):
    offer(monkeypatch, server, archive, [whole(archive)])
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path / "file"))
    with pytest.raises(mc.FileError, match="file"):
        mc.datasets.load_notmnist("small")


def test_two_processes_fetch_it_once(monkeypatch, server, archive, tmp_path):
    slow = threading.Event()

    def slowly(handler):
        slow.wait(0.3)
        whole(archive)(handler)

    offer(monkeypatch, server, archive, [slowly])
    source = download.DATA_SETS["small"][0][0]
    code = (
        "import minicnn as mc; from minicnn.datasets import download; "
        f"download.DATA_SETS = {{'small': [[download.Source{tuple(source)!r}]]}}; "
        "print(len(mc.datasets.load_notmnist('small')[0][0]))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) for _ in range(3)]
    shown = [process.communicate() for process in processes]
    assert len({out for out, _ in shown}) == 1 and int(shown[0][0]), shown
    assert len(server.requests) == 1


def test_the_real_addresses_are_those_of_the_original():
    for name in ("small", "large"):
        for source in download.DATA_SETS[name][0]:
            assert f"notMNIST_{name}" in source.address and source.checksum
    assert {source.file for [source] in download.DATA_SETS["idx"]} == {
        f"notMNIST_idx/{which}-{what}-ubyte.gz"
        for which in ("train", "t10k")
        for what in ("images-idx3", "labels-idx1")
    }
