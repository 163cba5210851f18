"""The examples on two processes: `mpiexec -n 2 python -m mpi4py examples/lenet5.py --mpi`."""

import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from mpiexec import NEEDED, run
from test_idx import write_pair

import minicnn as mc

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"

pytestmark = [*NEEDED, pytest.mark.skipif(not EXAMPLES.is_dir(), reason="only a checkout has the examples")]

OPTIONS = ("--data", "data", "--save", "net.npz", "--picture", "seen.png")


@pytest.fixture
def folder(tmp_path):
    """A folder with a few images in `data`."""
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train-", 120), ("t10k-", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        write_pair(tmp_path / "data", name, rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), labels)
    return tmp_path


def test_the_written_out_loop_trains_the_network_of_one_process(folder):
    script = EXAMPLES / "training_loop.py"
    ended = run(folder, script, *OPTIONS, "--epochs", 1, "--batch-size", 50, "--mpi")
    assert ended.code == 0 and ended.left == [], ended.shown
    assert ended.shown.count("epoch 1: loss") == ended.shown.count("network saved") == 1
    command = [sys.executable, str(script), *OPTIONS, "--epochs", "1", "--batch-size", "50", "--save", "alone.npz"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert next(line for line in shown.splitlines() if line.startswith("epoch")) in ended.shown
    together, alone = (mc.load(folder / name).parameters() for name in ("net.npz", "alone.npz"))
    for name, parameter in alone.items():
        np.testing.assert_allclose(together[name].value, parameter.value, atol=1e-5, err_msg=name)


def test_ctrl_c_ends_all_processes_after_a_step_and_the_run_is_resumed(folder):
    script, options = EXAMPLES / "lenet5.py", (*OPTIONS, "--checkpoint", "run.npz", "--mpi")
    stopped = run(folder, script, *options, "--epochs", 10**6, at=("epoch 1/", signal.SIGINT))
    assert stopped.code not in (0, None) and stopped.left == [], stopped.shown
    assert stopped.shown.count("stopped by SIGINT") == 1 and "Traceback" not in stopped.shown, stopped.shown
    assert not (folder / "net.npz").exists()
    resumed = run(folder, script, *options, "--epochs", 1)  # that epoch is done already
    assert resumed.code == 0 and resumed.shown.count("network saved") == 1, resumed.shown


def test_a_wrong_command_line_is_reported_once(folder):
    ended = run(folder, EXAMPLES / "lenet5.py", *OPTIONS, "--epochs", 0, "--mpi", module=False)
    assert ended.code == 2 and ended.shown.count("integer of at least 1") == 1, ended.shown


def test_the_comparison_deals_out_its_trainings(folder):
    """Each process computes some of the tasks, and rank 0 has all results; what is there is not computed again."""
    (folder / "deal.py").write_text(f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
from comparison.progress import Progress
from comparison.store import Store, Task, run_all
from minicnn.parallel import Ranks, world

ranks = Ranks(world())

def task(number):
    return Task(f"task{{number}}", {{}}, number, lambda advance: {{"number": number, "rank": ranks.rank}})

for count in (2, 5):
    results = run_all([task(number) for number in range(count)], Store(f"of{{ranks.rank}}"), Progress(), ranks)
if ranks.is_first:
    assert [result["number"] for result in results.values()] == [0, 1, 2, 3, 4], results
    print("computed by", [result["rank"] for result in results.values()])
    assert Store("of0").load(task(3)) == results["task3"]
""")
    ended = run(folder, folder / "deal.py")
    assert ended.code == 0, ended.shown
    assert "computed by [1, 0, 0, 1, 0]" in ended.shown
