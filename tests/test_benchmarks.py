"""The benchmark runs: tiny, without peers, so that it cannot rot."""

import json
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
TINY = "--threads=1 --rounds=1 --seconds=0.01 --turn=0.01 --patience=0 --images=32"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="no benchmarks beside the tests: an installed package")


def run(tmp_path, *arguments):
    """The results of `benchmarks/cpu.py`, and its Markdown."""
    command = [sys.executable, str(BENCHMARKS / "cpu.py"), "--out", str(tmp_path), *TINY.split(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (results,) = tmp_path.glob("*.json")
    return json.loads(results.read_text()), results.with_suffix(".md").read_text()


def test_contenders_compute_the_same_and_are_timed(tmp_path):
    results, text = run(tmp_path, "--nets", "lenet5", "--batches", "8", "--contenders", "textbook", "floor")
    measured = results["cases"][0]["contenders"]
    assert list(measured) == ["ours", "textbook", "floor"]
    assert measured["textbook"]["agrees"] is True
    for times in measured.values():
        assert all(seconds > 0 for seconds, _ in times["step"] + times["infer"])
        assert times["peak"] > 2**20
    assert len(measured["ours"]["epoch"]) == 3
    assert "fit beyond its bare steps" in text and "import minicnn" in text


def test_profile_names_every_layer(tmp_path):
    results, text = run(tmp_path, "--nets", "lenet5", "--batches", "8", "--profile")
    (item,) = results["profile"]
    times = {name: forward + back for name, forward, back in item["rows"]}
    assert {"conv2d_1", "tanh_4", "dense_3", "loss", "update"} <= set(times)
    assert sum(times.values()) == pytest.approx(item["step"])
    assert "conv2d_1" in text


def test_losses_that_differ_are_told_apart():
    sys.path.insert(0, str(BENCHMARKS.parent))
    from benchmarks.report import agreement

    case = {"contenders": {"ours": {}, "jax": {"agrees": False}}}
    assert "jax" in agreement(case) and "NOT" in agreement(case)
