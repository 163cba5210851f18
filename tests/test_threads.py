"""Work shared out among threads: the same results, errors that surface, nothing left behind."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import minicnn as mc
from minicnn.backends.numpy import threads
from minicnn.backends.numpy.threads import (
    Meeting,
    chunk_slices,
    current_chunk,
    exchange,
    parallel_map,
    shared_slices,
    single_threaded_blas,
    thread_count,
)

PROGRAM = """
import sys
import numpy as np, minicnn as mc
rng = np.random.default_rng(0)
x, y = rng.random((300, 1, 28, 28), dtype="float32"), rng.integers(0, 10, 300)
model = getattr(mc.networks, sys.argv[1])()
history = model.fit(x, y, epochs=1, batch_size=150, optimizer=mc.SGD(0.05, momentum=0.9), verbose=False)
np.savez(sys.argv[2], out=model.predict(x), **{n: p.value for n, p in model.parameters().items()})
"""


def trained(tmp_path, network, threads, name):
    path = tmp_path / f"{name}.npz"
    environment = {**os.environ, "MINICNN_THREADS": str(threads)}
    subprocess.run([sys.executable, "-c", PROGRAM, network, str(path)], env=environment, check=True)
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize("network", ["lenet5", "conv_pool"])
def test_the_same_settings_give_the_same_bits_and_threads_change_rounding_only(tmp_path, network):
    two, again = trained(tmp_path, network, 2, "two"), trained(tmp_path, network, 2, "again")
    one = trained(tmp_path, network, 1, "one")
    for name in two:
        np.testing.assert_array_equal(two[name], again[name])
        np.testing.assert_allclose(two[name], one[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200, 1100])
def test_chunks_of_a_batch_are_the_batch(count, rng):
    """Whatever the size, the model's output and gradients are its layers' one after the other on the whole."""
    model = mc.networks.lenet5()
    x = rng.random((count, 1, 28, 28), dtype="float32")
    y, backward = model.forward(x, training=True)
    dy = rng.normal(size=y.shape).astype("float32")
    dx = backward(dy)
    found = {name: parameter.grad for name, parameter in model.parameters().items()}
    for parameter in model.parameters().values():
        parameter.clear_gradient()
    out, backwards = model.prepare(x), []
    for layer in model.layers[:-1]:
        out, backward = layer.forward(out, training=True)
        backwards.append(backward)
    np.testing.assert_allclose(y, out, rtol=1e-4, atol=1e-5)
    for backward in reversed(backwards):
        dy = backward(dy)
    np.testing.assert_allclose(dx, dy, rtol=1e-3, atol=1e-5)
    for name, parameter in model.parameters().items():
        scale = abs(parameter.grad).max()
        np.testing.assert_allclose(found[name] / scale, parameter.grad / scale, atol=1e-5)


def test_parts_cover_everything_once():
    for length in range(50):
        for size in (1, 3, 7, 100):
            for cut in (chunk_slices(length, size), shared_slices(length, size)):
                assert [i for part in cut for i in range(part.start, part.stop)] == list(range(length))
                sizes = [part.stop - part.start for part in cut]
                assert max(sizes) <= size and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("cores", [1, 2, 3, 6, 8, 64])
def test_no_core_has_more_chunks_of_a_batch_than_another(cores, monkeypatch):
    """Eight chunks of 64 images would be two for two of six cores, and one for the others."""
    monkeypatch.setenv("MINICNN_THREADS", str(cores))
    for length in (1, 32, 100, 160, 512, 1000):
        cut = shared_slices(length, 64)
        turns = [cut[core::cores] for core in range(min(cores, len(cut)))]
        images = [sum(part.stop - part.start for part in turn) for turn in turns]
        assert len({len(turn) for turn in turns}) == 1
        assert max(images) - min(images) <= len(turns[0])


def test_an_error_in_a_thread_comes_out_and_the_threads_go_on():
    def work(number):
        if number == 3:
            raise mc.InputError("three")
        return number

    for _ in range(3):
        with pytest.raises(mc.InputError, match="three"):
            parallel_map(work, range(6))
        assert parallel_map(work, [1, 2]) == [1, 2]
    assert current_chunk() is None


def test_each_thread_begins_with_the_same_argument_every_time(monkeypatch):
    monkeypatch.setenv("MINICNN_THREADS", "4")
    everyone = threading.Barrier(4)

    def work(_):
        everyone.wait()  # so that no thread takes two
        return threading.current_thread().name

    names = parallel_map(work, range(4))
    assert len(set(names)) == 4
    assert all(parallel_map(work, range(4)) == names for _ in range(20))


def test_parallel_inside_parallel_is_a_loop():
    assert parallel_map(lambda n: parallel_map(lambda m: n * m, range(3)), range(4)) == [
        [n * m for m in range(3)] for n in range(4)
    ]


def test_chunks_exchange_values_in_their_order_as_often_as_they_like(monkeypatch):
    monkeypatch.setenv("MINICNN_THREADS", "2")

    def work(number):
        return exchange(number), exchange(10 * number), sum(exchange(1))

    assert parallel_map(work, range(4), Meeting(4)) == [([0, 1, 2, 3], [0, 10, 20, 30], 4)] * 4
    assert exchange("alone") == ["alone"]
    assert parallel_map(exchange, [1, 2]) == [[1], [2]]  # without a meeting


@pytest.mark.parametrize("fails", [0, 2])
def test_nobody_waits_for_a_chunk_that_failed(monkeypatch, fails):
    monkeypatch.setenv("MINICNN_THREADS", "3")

    def work(number):
        exchange(number)
        if number == fails:
            raise mc.InputError("no more")
        return exchange(number)

    for _ in range(3):
        with pytest.raises(mc.InputError, match="no more"):
            parallel_map(work, range(3), Meeting(3))
    assert parallel_map(exchange, range(3), Meeting(3)) == [[0, 1, 2]] * 3


def test_meetings_in_several_threads_of_the_user_do_not_wait_for_each_other(monkeypatch):
    monkeypatch.setenv("MINICNN_THREADS", "3")
    found = []

    def run(name):
        for _ in range(100):
            found.append(parallel_map(lambda n: exchange((name, n)), range(3), Meeting(3)))

    users = [threading.Thread(target=run, args=(name,), daemon=True) for name in "abc"]
    for user in users:
        user.start()
    for user in users:
        user.join(60)
    assert not any(user.is_alive() for user in users)
    assert len(found) == 300 and all(parts == [[(parts[0][0][0], n) for n in range(3)]] * 3 for parts in found)


class Centre(mc.Layer):
    """A layer of one's own that subtracts the mean of the batch, which its chunks share."""

    independent_samples = "means"

    def forward(self, x, training=False):
        mean, n = mc.backends.current().mean(x, (0, 2, 3))
        self.seen = n, mc.to_numpy(mean).copy()
        return x - mean, lambda dy: dy - mc.backends.current().mean(dy, (0, 2, 3))[0]


def test_a_layer_of_ones_own_may_share_means_between_chunks(monkeypatch, rng):
    monkeypatch.setenv("MINICNN_THREADS", "2")
    x = rng.normal(size=(70, 4, 20, 20))
    centre = Centre()
    model = mc.Sequential([mc.Conv2D(8, 3), centre, mc.Conv2D(8, 3)], (4, 20, 20), dtype="float64")
    found = {}
    for name in ("plain", "numpy"):
        mc.use(name)
        y, backward = model.forward(x, training=True)
        found[name] = [y, backward(np.cos(y)), centre.seen[1]]
        assert centre.seen[0] == 70 * 18 * 18
    for array, expected in zip(found["numpy"], found["plain"], strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_blas_gets_its_threads_back():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def counts():
        return [info["num_threads"] for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"]

    before = counts()
    with pytest.raises(ZeroDivisionError), single_threaded_blas(), single_threaded_blas():
        assert set(counts()) == {1}
        1 / 0  # noqa: B018
    assert counts() == before


def in_a_thread(function):
    """What a function returns, computed in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


class CountsBlasThreads(mc.Layer):
    """Notes with how many threads BLAS would compute."""

    independent_samples = True

    def __init__(self):
        self.seen = set()

    def forward(self, x, training=False):
        self.seen |= {library.get_num_threads() for library in threads._blas()}
        return x * 1, lambda dy: dy * 1


def test_training_in_another_thread_limits_blas_as_in_the_main_one(rng):
    """`asyncio.to_thread(model.fit, ...)`, after the main thread has used the library, and beside its own limits."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    x, y = rng.random((64, 2), dtype="float32"), rng.integers(0, 2, 64)
    model = mc.Sequential([CountsBlasThreads(), mc.Dense(2)], (2,))
    model.layers[0].seen.clear()  # what was seen while the model was built
    with threadpoolctl.threadpool_limits(2, user_api="blas"):  # from here on the main thread alone may set it
        before = [library.get_num_threads() for library in threads._blas()]
        in_a_thread(lambda: model.fit(x, y, epochs=1, verbose=False))
        assert [library.get_num_threads() for library in threads._blas()] == before
    assert model.layers[0].seen == {1}


def test_several_threads_share_one_setting_of_blas():
    """It holds until the last of them has left, in whatever order they do."""
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()
    libraries, seen = threads._blas(), []

    def first():
        with single_threaded_blas():
            first_is_in.set()
            second_is_in.wait()
        first_is_out.set()

    before = [library.get_num_threads() for library in libraries]
    thread = threading.Thread(target=first)
    thread.start()
    first_is_in.wait()
    with single_threaded_blas():
        second_is_in.set()
        first_is_out.wait()
        seen = [library.get_num_threads() for library in libraries]
    thread.join()
    assert set(seen) == {1}
    assert [library.get_num_threads() for library in libraries] == before


class BlasOnOpenMP:
    """Its number of threads is a setting of each thread."""

    threading_layer = "openmp"

    def __init__(self):
        self.local = threading.local()

    def get_num_threads(self):
        return getattr(self.local, "count", 8)

    def set_num_threads(self, count):
        self.local.count = count


def test_a_blas_with_a_setting_for_each_thread_is_limited_in_all_of_them(monkeypatch):
    monkeypatch.setenv("MINICNN_THREADS", "2")
    blas = BlasOnOpenMP()
    monkeypatch.setattr(threads, "_blas", lambda: [blas])
    both_are_in = threading.Barrier(2)

    def work(_):
        both_are_in.wait()  # so that each of the two threads computes one
        return blas.get_num_threads(), threading.get_ident()

    counts, idents = zip(*parallel_map(work, range(2)), strict=True)
    assert counts == (1, 1) and len(set(idents)) == 2
    assert blas.get_num_threads() == 8
    with single_threaded_blas():  # another thread enters while this one is in
        assert in_a_thread(lambda: parallel_map(lambda _: blas.get_num_threads(), range(2))) == [1, 1]


FORKS = """
import multiprocessing, os, sys, threading
import numpy as np, minicnn as mc
from minicnn.backends.numpy import threads

def blas():
    return [library.get_num_threads() for library in threads._blas()]

def child(_=None):
    both = threading.Barrier(2, timeout=30)  # broken unless two threads compute
    names = threads.parallel_map(lambda _: (both.wait(), threading.current_thread().name)[1], range(2))
    fresh = mc.networks.lenet5()
    fresh.fit(x, y, epochs=1, batch_size=64, verbose=False)
    assert threads.current_chunk() is None and blas() == before and len(set(names)) == 2
    return np.abs(model.predict(x) - expected).max() < 1e-5 and not np.array_equal(fresh.predict(x), expected)

def forked(fork=multiprocessing.get_context("fork")):
    process = fork.Process(target=lambda: sys.exit(0 if child() else 1))
    process.start()
    process.join(60)
    assert process.exitcode == 0, process.exitcode
    return True

x, y = np.random.default_rng(0).random((128, 1, 28, 28), dtype="float32"), np.arange(128) % 10
model = mc.networks.lenet5()
for library in threads._blas():
    library.set_num_threads(2)
before, expected = blas(), model.predict(x)
forked()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert all(pool.map(child, range(2)))
if os.fork() == 0:
    os._exit(0 if child() else 1)
assert os.wait()[1] == 0

inside, leave = threading.Event(), threading.Event()
def busy(n):
    inside.set()
    return leave.wait(60)
other = threading.Thread(target=threads.parallel_map, args=(busy, range(4)))
other.start()
inside.wait()
forked()  # while the other threads compute, and BLAS is limited
leave.set()
other.join()

assert threads.parallel_map(lambda n: n or os.fork() or os._exit(0 if all(
    threads.parallel_map(lambda m: True, range(3))) and threads.current_chunk() is None else 1), range(2))
assert os.wait()[1] == 0  # a child of a thread that computes a chunk
assert np.array_equal(model.predict(x), expected) and blas() == before
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_computes_with_threads_of_its_own():
    environment = {**os.environ, "MINICNN_THREADS": "2"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("setting", ["many", "0", "-1", "1.5", "²"])
def test_a_wrong_number_of_threads_is_refused(monkeypatch, setting):
    monkeypatch.setenv("MINICNN_THREADS", setting)
    with pytest.raises(mc.InputError, match=r"MINICNN_THREADS.*at least 1"):
        thread_count()


def test_an_empty_variable_is_as_if_it_was_not_set():
    program = """
import sys, minicnn as mc
from minicnn.backends.numpy import threads
from minicnn.storage.files import cache_folder
kept = []
threads.ctypes.CDLL = lambda name: kept.append(name)
threads.tune_malloc.__wrapped__()
print(mc.backends.current().name, threads.thread_count(), mc.im2col.BUDGET, cache_folder(), kept)
"""
    names = ("THREADS", "BACKEND", "HOME", "COLUMNS_MB", "KEEP_MEMORY")
    unset = {key: value for key, value in os.environ.items() if not key.startswith("MINICNN_")}
    shown = [
        subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        for environment in (unset, unset | {f"MINICNN_{name}": "" for name in names})
    ]
    assert shown[0].stdout == shown[1].stdout != ""
