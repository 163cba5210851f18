"""Nobody hangs: whatever ends one rank, anywhere in a training run, ends all of them, and says why once."""

import json
import pathlib

import pytest
from mpiexec import NEEDED, run

SCRIPT = pathlib.Path(__file__).with_name("parallel_victim.py")

pytestmark = NEEDED

#: Where it happens, what happens, on which rank, and whether under `python -m mpi4py`: each place with each kind.
FATAL = [
    ("forward", "exception", 1, True),
    ("forward", "exit", 0, False),
    ("forward", "kill", 2, True),
    ("backward", "exception", 0, False),
    ("backward", "kill", 1, True),
    ("exchange", "exception", 2, False),
    ("exchange", "exit", 1, True),
    ("exchange", "kill", 0, True),
    ("rows", "exception", 0, True),
    ("rows", "kill", 1, False),
    ("validation", "exception", 1, False),
    ("validation", "exit", 0, True),
    ("validation", "kill", 1, False),
    ("callback", "exception", 0, True),
    ("callback", "exit", 0, False),
    ("callback", "kill", 0, True),
    ("epoch end", "exit", 0, False),
    ("saving", "exception", 0, False),
    ("saving", "exit", 0, True),
    ("saving", "kill", 0, True),
]


@pytest.mark.parametrize(("place", "kind", "rank", "module"), FATAL)
def test_what_ends_one_rank_ends_all_and_is_reported_once(tmp_path, place, kind, rank, module):
    ended = run(tmp_path, SCRIPT, "fatal", place, kind, rank, module=module, ranks=max(2, rank + 1))
    assert ended.code is not None, f"the ranks hung:\n{ended.shown}"
    assert ended.code != 0 and ended.left == [], ended.shown
    assert ended.shown.count("it happens") == 1 and "nothing happened" not in ended.shown, ended.shown
    if kind == "kill":  # only mpiexec can report it
        assert "Traceback" not in ended.shown, ended.shown
    else:
        assert ended.shown.count("cause-4711") == 1, ended.shown


def test_what_all_ranks_know_of_ends_the_training_of_all_after_the_same_step(tmp_path):
    """A loss that is not finite, signals, a full disk, stop_training: the processes go on, and train again."""
    ended = run(tmp_path, SCRIPT, "orderly")
    assert ended.code == 0 and ended.left == [], ended.shown
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first.pop("callback") == {"ended": "RuntimeError", "steps": 3}
    assert second.pop("callback") == {"ended": "MinicnnError", "steps": 3}  # it names rank 0's error
    assert first == second
    # the ranks hear of a signal beside the loss: one that comes later is heard of in the next step
    stopped = "TrainingInterrupted"
    wanted = {"nan": ("DivergenceError", 2), "SIGINT": (stopped, 3), "SIGTERM": (stopped, 4)}
    for rank in range(2):
        for kind, (error, steps) in wanted.items():
            assert first[f"{kind} on {rank}"] == {"ended": error, "steps": steps}
    assert first["disk full"] == {"ended": "FileError", "steps": 0}
    later = first["disk full later"]
    assert later["ended"] == "FileError" and 0 < later["steps"] < 5
    assert first["stop"] == {"ended": "done", "steps": 3}
    assert first["afterwards"] == {"ended": "done", "steps": 5}
