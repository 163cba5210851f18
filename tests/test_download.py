"""Downloads from a real HTTP server that misbehaves in every way we know of."""

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


def says_range(data, said):
    def answer(handler):
        handler.send_response(206)
        handler.send_header("Content-Range", said)
        handler.send_header("Content-Length", str(len(data)))
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


def test_each_pause_is_twice_the_one_before(monkeypatch, server, archive):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    offer(monkeypatch, server, archive, [status(503), status(503), status(503), whole(archive)])
    assert count() == 200
    assert pauses == [0.01, 0.02, 0.04]


TROUBLE = [
    ssl.SSLError("DECRYPTION_FAILED"),
    OSError(errno.EHOSTUNREACH, "No route to host"),
    OSError(errno.ENETDOWN, "Network is down"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    http.client.IncompleteRead(b""),
]


@pytest.mark.parametrize("trouble", TROUBLE, ids=lambda trouble: type(trouble).__name__)
def test_a_network_that_breaks_while_reading_is_tried_again(monkeypatch, server, archive, trouble):
    offer(monkeypatch, server, archive, [whole(archive)])
    read, calls = http.client.HTTPResponse.read, []

    def breaks(answer, *size):
        calls.append(size)
        if len(calls) == 1:
            raise trouble
        return read(answer, *size)

    monkeypatch.setattr(http.client.HTTPResponse, "read", breaks)
    assert count() == 200
    assert len(server.requests) == 2


def test_a_full_disk_is_no_trouble_of_the_network(monkeypatch, server, archive):
    offer(monkeypatch, server, archive, [whole(archive)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(archive) // 2, before[1]))
    try:
        with pytest.raises(mc.FileError, match=r"cannot keep the download in .*small\.tar\.gz: File too large"):
            mc.datasets.load_notmnist("small")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(server.requests) == 1
    assert count() == 200


def test_a_bar_shows_how_far_it_is(monkeypatch, server, archive):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    offer(monkeypatch, server, archive, [whole(archive)])
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert count() == 200
    shown = sys.stderr.getvalue()
    assert "fetching small.tar.gz" in shown and "100%" in shown


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
    "a length that is no number": lambda data: [says_length(data[:-1], "²")],
    "the rest from somewhere else": lambda data: [cut(data, 1000), says_range(data, "bytes 5-9/10")],
    "without an end": lambda data: [no_length(data + bytes(2**20))],
    "round in circles": lambda data: [redirects("/small")],
    "to a file of this machine": lambda data: [redirects("file:///etc/hostname")],
    "to half an address": lambda data: [redirects("http://[")],
    "to no host": lambda data: [redirects("http://a..b/")],
    "to an address with a space": lambda data: [redirects("http://a b/")],
    "to another kind of address": lambda data: [redirects("ht!tp:")],
    "to nowhere": lambda data: [redirects("//")],
}
TRIED = {"a 404": 1, "a 503 for ever": 4, "cut for ever": 4, "the right length, another content": 1}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_wrong_is_not_believed_and_the_next_address_is_tried(monkeypatch, server, archive, tmp_path, lie):
    mirror = make_zip(tmp_path / "mirror.zip", letter_files(each=20)).read_bytes()
    server.answers["/mirror"] = [whole(mirror)]
    second = Source(f"{server.address}/mirror", "small.zip", None, ("md5", hashlib.md5(mirror).hexdigest()))
    offer(monkeypatch, server, archive, LIES[lie](archive), extra=[second])
    assert count() == 200
    assert "small.zip" in kept() and "small.tar.gz" not in kept()
    tried = sum(path == "/small" for path, _ in server.requests)
    assert tried == TRIED.get(lie, tried)


def test_what_has_no_end_is_given_up(monkeypatch, server, archive):
    monkeypatch.setattr(download, "LARGEST", len(archive))
    offer(monkeypatch, server, archive, [no_length(archive + bytes(2**20))], size=False)
    with pytest.raises(mc.FileError, match="more than"):
        mc.datasets.load_notmnist("small")
    assert max(path.stat().st_size for path in download._folder().iterdir()) <= len(archive)


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


def test_who_waited_and_who_comes_later_are_not_in_at_once(tmp_path):
    inside, leave = [], {name: threading.Event() for name in "abc"}

    def visit(name):
        with download._only_one(tmp_path / "lock"):
            inside.append(name)
            leave[name].wait(10)
            inside.remove(name)

    def until(names):
        for _ in range(500):
            if inside == names:
                return
            threading.Event().wait(0.01)
        raise AssertionError(inside)

    threads = {name: threading.Thread(target=visit, args=[name]) for name in "abc"}
    threads["a"].start()
    until(["a"])
    threads["b"].start()
    threading.Event().wait(0.05)  # b waits by now
    leave["a"].set()
    until(["b"])
    threads["c"].start()
    threading.Event().wait(0.05)
    assert inside == ["b"]
    leave["b"].set()
    until(["c"])
    leave["c"].set()
    for thread in threads.values():
        thread.join()
    assert not (tmp_path / "lock").exists()


PARTS = [f"{which}-{what}" for which in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]


def idx_files():
    """{"train-images-idx3": gzipped bytes, ...}: 40 images to train on and 20 to test."""
    files = {}
    for part in PARTS:
        count = 40 if "train" in part else 20
        array = np.zeros((count, 28, 28), np.uint8) if "images" in part else (np.arange(count) % 10).astype(np.uint8)
        files[part] = gzip.compress(idx(array))
    return files


def offer_idx(monkeypatch, server, answers):
    """Make "idx" a data set whose files come with these answers."""
    server.answers |= {f"/{part}": [whole(data)] for part, data in idx_files().items()}
    server.answers |= {f"/{part}": given for part, given in answers.items()}
    sources = [[Source(f"{server.address}/{part}", f"notMNIST_idx/{part}-ubyte.gz", None, None)] for part in PARTS]
    monkeypatch.setattr(download, "DATA_SETS", {"idx": sources})


def idx_counts():
    (x, y), (x_test, y_test) = mc.datasets.load_notmnist("idx")
    return len(x), len(y), len(x_test), len(y_test)


def test_the_four_idx_files_arrive_and_are_fetched_once(monkeypatch, server):
    offer_idx(monkeypatch, server, {})
    for _ in range(2):
        assert idx_counts() == (40, 40, 20, 20)
    assert [path for path, _ in server.requests] == [f"/{part}" for part in PARTS]


WRONG_PARTS = {
    "a page that says sorry": lambda data: no_length(b"<html>sorry</html>"),
    "a page, gzipped": lambda data: no_length(gzip.compress(b"<html>sorry</html>")),
    "cut, without a length": lambda data: no_length(data[:-9]),
    "cut, with the wrong length": lambda data: without_ranges(data[:-9]),
    "a wrong checksum": lambda data: without_ranges(data[:-8] + bytes(8)),
    "too few images": lambda data: without_ranges(gzip.compress(gzip.decompress(data)[:-1])),
    "images of another size": lambda data: without_ranges(gzip.compress(idx(np.zeros((40, 32, 32), np.uint8)))),
    "labels": lambda data: without_ranges(idx_files()["train-labels-idx1"]),
    "nothing": lambda data: no_length(b""),
}


@pytest.mark.parametrize("answer", WRONG_PARTS.values(), ids=WRONG_PARTS)
def test_an_idx_file_that_is_not_whole_is_not_kept(monkeypatch, server, answer):
    part = "train-images-idx3"
    good = idx_files()[part]
    offer_idx(monkeypatch, server, {part: [answer(good), whole(good)]})
    with pytest.raises(mc.FileError, match=rf"{part}: another file.*(IDX|idx3)"):
        mc.datasets.load_notmnist("idx")
    assert list(download._folder().rglob("*.gz*")) == []
    assert idx_counts() == (40, 40, 20, 20)


def test_a_wrong_idx_file_put_there_by_hand_is_named_with_the_fix(monkeypatch, server):
    offer_idx(monkeypatch, server, {})
    wrong = download._folder() / "notMNIST_idx" / "t10k-labels-idx1-ubyte.gz"
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(b"<html>sorry</html>")
    with pytest.raises(mc.FileError, match=r"t10k-labels-idx1-ubyte\.gz is broken.*Remove it"):
        mc.datasets.load_notmnist("idx")


EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples lie beside the tests in a checkout only")
@pytest.mark.parametrize("name", ["small", "large", "idx"])
def test_the_examples_take_every_data_set_by_name(monkeypatch, server, archive, tmp_path, name):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("examples_common", EXAMPLES / "common.py")
    common = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(common)
    if name == "idx":
        offer_idx(monkeypatch, server, {})
    else:
        offer(monkeypatch, server, archive, [whole(archive)])
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
        f"notMNIST_idx/{which}-{what}-ubyte.gz"
        for which in ("train", "t10k")
        for what in ("images-idx3", "labels-idx1")
    }
