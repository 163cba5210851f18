"""Work shared out among threads: the same results, errors that surface, nothing left behind."""

import os
import subprocess
import sys

import numpy as np
import pytest

import minicnn as mc
from minicnn.backends.numpy.threads import chunk_slices, current_chunk, parallel_map, single_threaded_blas

PROGRAM = """
import sys
import numpy as np, minicnn as mc
rng = np.random.default_rng(0)
x, y = rng.random((300, 1, 28, 28), dtype="float32"), rng.integers(0, 10, 300)
model = getattr(mc.networks, sys.argv[1])()
history = model.fit(x, y, 1, 150, mc.SGD(0.05, 0.9), verbose=False)
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
            cut = chunk_slices(length, size)
            assert [i for part in cut for i in range(part.start, part.stop)] == list(range(length))
            sizes = [part.stop - part.start for part in cut]
            assert max(sizes) <= size and max(sizes) - min(sizes) <= 1


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


def test_parallel_inside_parallel_is_a_loop():
    assert parallel_map(lambda n: parallel_map(lambda m: n * m, range(3)), range(4)) == [
        [n * m for m in range(3)] for n in range(4)
    ]


def test_blas_gets_its_threads_back():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def counts():
        return [info["num_threads"] for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"]

    before = counts()
    with pytest.raises(ZeroDivisionError), single_threaded_blas(), single_threaded_blas():
        assert set(counts()) == {1}
        1 / 0  # noqa: B018
    assert counts() == before


def test_a_wrong_number_of_threads_is_refused():
    environment = {**os.environ, "MINICNN_THREADS": "many"}
    done = subprocess.run(
        [sys.executable, "-c", "import minicnn.backends.numpy.threads as t; t.thread_count()"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "MINICNN_THREADS" in done.stderr and "many" in done.stderr
