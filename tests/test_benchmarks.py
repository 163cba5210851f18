"""The benchmark works: it runs, very small and without other libraries."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from mpiexec import NEEDED

from minicnn.core.operations import Operations
from minicnn.core.window import Window

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
TINY = "--threads=1 --rounds=1 --seconds=0.01 --turn=0.01 --patience=0 --images=32"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="only a checkout has the benchmarks")


def run(tmp_path, *arguments):
    """The results of `benchmarks/cpu.py`, and its Markdown."""
    command = [sys.executable, str(BENCHMARKS / "cpu.py"), "--out", str(tmp_path), *TINY.split(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (results,) = tmp_path.glob("*.json")
    return json.loads(results.read_text()), results.with_suffix(".md").read_text()


def test_contenders_compute_the_same_and_are_timed(tmp_path):
    results, text = run(tmp_path, "--nets", "lenet5", "--batches", "8", "--contenders", "textbook", "plain", "floor")
    measured = results["cases"][0]["contenders"]
    assert list(measured) == ["ours", "textbook", "plain", "floor"]
    assert measured["textbook"]["agrees"] is measured["plain"]["agrees"] is True
    for times in measured.values():
        assert all(seconds > 0 for seconds, _ in times["step"] + times["infer"])
        assert times["peak"] > 2**20
    assert len(measured["ours"]["epoch"]) == len(measured["plain"]["epoch"]) == 3
    assert "fit beyond its steps alone" in text and "import minicnn" in text


def test_one_convolution_is_compared_with_the_plain_backend(tmp_path):
    results, text = run(tmp_path, "--nets", "conv64", "--batches", "2", "--contenders", "plain", "--quick")
    measured = results["cases"][0]["contenders"]
    assert list(measured) == ["ours", "plain"]
    assert measured["plain"]["agrees"] is True
    assert "| plain " in text


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1)])
def test_the_floor_of_max_pooling_is_max_pooling(monkeypatch, size, stride):
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent))
    from benchmarks.contenders import floor

    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 9, 12, 2))
    expected, to_input = Operations().max_pool(image.transpose(3, 0, 1, 2), Window(size, stride=stride))
    dy = rng.normal(size=(*expected.shape[1:], 2))
    forward, backward, y, dx = floor.max_pool(image, dy, size, stride)
    for calls in (forward, backward):
        floor.Passes(calls, channels=2).compute()
    np.testing.assert_array_equal(y.transpose(3, 0, 1, 2), expected)
    np.testing.assert_allclose(dx.transpose(3, 0, 1, 2), to_input(dy.transpose(3, 0, 1, 2)), rtol=0, atol=1e-12)


def test_the_plain_contender_uses_the_plain_backend(tmp_path):
    sys.path.insert(0, str(BENCHMARKS.parent))
    import minicnn as mc
    from benchmarks.contenders import ours, plain
    from benchmarks.contenders.case import Case

    case, backend, budget = Case("lenet5", 8, tmp_path, threads=1), mc.backends.current(), mc.im2col.BUDGET
    case.write_data(images=8)
    try:
        first = ours.make(case)
        assert mc.backends.current().name == "numpy"
        second = plain.make(case)
        assert mc.backends.current().name == "plain"
    finally:
        mc.use(backend)
        mc.im2col.BUDGET = budget
    values = [[parameter.value for parameter in it.model.parameters().values()] for it in (first, second)]
    for a, b in zip(*values, strict=True):
        np.testing.assert_array_equal(a, b)


def test_profile_names_every_layer(tmp_path):
    results, text = run(tmp_path, "--nets", "lenet5", "--batches", "8", "--profile")
    (item,) = results["profile"]
    times = {name: forward + backward for name, forward, backward in item["rows"]}
    assert {"conv2d_1", "tanh_4", "dense_3", "loss", "update"} <= set(times)
    assert all(backward > 0 for name, _, backward in item["rows"] if name.startswith(("conv2d", "dense")))
    assert sum(times.values()) == pytest.approx(item["step"])
    assert "conv2d_1" in text


def test_the_report_says_whose_losses_differ():
    sys.path.insert(0, str(BENCHMARKS.parent))
    from benchmarks.report import agreement

    case = {"contenders": {"ours": {}, "jax": {"agrees": False}}}
    assert "jax" in agreement(case) and "NOT" in agreement(case)


@NEEDED[0]
@NEEDED[1]
def test_ranks_are_timed_beside_one_process_and_send_what_the_cost_model_says(tmp_path):
    options = "--nets lenet5 --kinds one mpi --batch 8 --rounds 1 --seconds 0 --turn 0 --patience 0"
    command = [sys.executable, str(BENCHMARKS / "parallel.py"), *options.split(), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "benchmark-parallel.json").read_text())["cases"]
    assert list(case["contenders"]) == ["one process, one thread", "one process, 2 threads", "2 ranks of MPI"]
    for name, its in case["contenders"].items():
        assert its["agrees"] and its["peak"] > 2**20, name
        assert all(turn["wall"] > 0 and turn["cpu"] > 0 for turn in its["turns"])
    factors = 8 / 2 * (120 + 400 + 84 + 120 + 10 + 84)  # of the dense weights: half of the images to the other rank
    arrays = 6 * 25 + 6 + 16 * 150 + 16 + 120 + 84 + 10  # kernels and biases
    for turn in case["contenders"]["2 ranks of MPI"]["turns"]:
        assert turn["sent"] == pytest.approx(4 * (factors + arrays), rel=0.05)  # and a few numbers beside them
    assert "| 2 ranks of MPI" in (tmp_path / "benchmark-parallel.md").read_text()
