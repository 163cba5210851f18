"""What the ranks of tests/test_parallel_kill.py run: a small training in which something happens to one rank.

parallel_victim.py fatal PLACE KIND RANK    it happens once, to one rank, and must end all
parallel_victim.py orderly                  one training after another, each of which all ranks leave together;
                                            every rank writes what it saw to rank<R>.json
"""

import errno
import json
import os
import pathlib
import signal
import sys
import time

import numpy as np
from mpi4py import MPI

import minicnn as mc
from minicnn.parallel import exchange
from minicnn.storage import files

RANK = MPI.COMM_WORLD.Get_rank()
CAUSE = "cause-4711"  # what a test counts
BATCH, IMAGES, AT = 4, 20, 3  # the step, counted from 1, at which it happens
VALIDATED = 1200  # three batches of a validation, so that each rank has one


def happen(kind):
    """What happens to the rank."""
    print("it happens", flush=True)
    time.sleep(0.3)  # until mpiexec has passed it on
    if kind == "exception":
        raise RuntimeError(CAUSE)
    if kind == "exit":
        sys.exit(CAUSE)
    if kind == "code":
        sys.exit(3)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.Signals[kind])


class Trap(mc.Layer):
    """y = x; on one rank something happens in a step's forward or backward pass, or in the validation.

    Args:
        place: "forward", "backward", "validation", "exchange" (of the gradients) or "rows" (the exchange of a weight
            whose rows are shared out); another for nowhere in here.
        act: called there.
        rank: whose.
    """

    independent_samples = True

    def __init__(self, place, act, rank):
        self.place, self.act, self.rank = place, act, rank
        self.steps = 0

    def arguments(self):
        return {"place": self.place, "act": None, "rank": self.rank}

    def forward(self, x, training=False):
        self.steps += training
        at = training and self.steps == AT and self.rank == RANK
        in_validation = not training and self.steps and self.rank == RANK
        if (self.place == "forward" and at) or (self.place == "validation" and in_validation):
            result = self.act()
            x = x if result is None else x * result
        Trapped.armed = self.place == "rows" and at

        def backward(dy):
            if self.place == "backward" and at:
                self.act()
            Trapped.armed = self.place == "exchange" and at
            return dy

        return x, backward


class Trapped(MPI.Intracomm):
    """A communicator in whose next collective call, once it is armed, something happens."""

    armed = False
    act = None

    def __getattribute__(self, name):
        if Trapped.armed and name.startswith(("All", "Bcast")):
            Trapped.armed = False
            Trapped.act()
        return super().__getattribute__(name)


class AfterEpoch(mc.Callback):
    """Something happens after an epoch."""

    def __init__(self, act):
        self.act = act

    def config(self):
        return {}

    def on_epoch_end(self, epoch, logs):
        self.act()


class AfterBatch(AfterEpoch):
    """Something happens after a batch."""

    def on_epoch_end(self, epoch, logs):
        pass

    def on_batch_end(self, batch, loss):
        if batch == AT - 1:
            self.act(self.model)


def train(place, act, rank, **settings):
    """A run of one epoch of five steps, with validation, a callback, and whatever else is in the settings."""
    rng = np.random.default_rng(0)
    x, y = rng.random((IMAGES, 6), dtype=np.float32), rng.integers(0, 3, IMAGES)
    model = mc.Sequential([mc.Dense(8), Trap(place, act, rank), mc.Dense(3)], input_shape=(6,))
    callback = {"callback": AfterBatch, "epoch end": AfterEpoch}.get(place)
    optimizer = mc.SGD(0.1)
    Trapped.act = staticmethod(act)
    try:
        model.fit(
            x,
            y,
            batch_size=BATCH,
            epochs=1,
            optimizer=optimizer,
            validation_data=(np.resize(x, (VALIDATED, 6)), np.resize(y, VALIDATED)),
            callbacks=[] if callback is None else [callback(act)],
            verbose=False,
            communicator=Trapped(MPI.COMM_WORLD),
            **settings,
        )
        ended = "done"
    except (Exception, KeyboardInterrupt) as error:
        if sys.argv[1] == "fatal":
            raise
        ended = type(error).__name__
    return {"ended": ended, "steps": optimizer.steps}


def fatal(place, kind, rank):
    def act(*_):
        happen(kind)

    if place == "saving" and rank == RANK:
        files._sync = act
    if place == "rows":
        exchange.WIDE = exchange.DEEP = 0
    train(place, act, rank, checkpoint="run.npz" if place == "saving" else None)
    print("nothing happened", flush=True)


def full_after(calls):
    """What forces files to the disk, which is full after so many calls."""
    left = iter(range(calls))

    def sync(descriptor):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return sync


def stop(model):
    model.stop_training = True


def orderly():
    seen = {}
    for rank in range(MPI.COMM_WORLD.Get_size()):
        seen[f"nan on {rank}"] = train("forward", lambda: float("nan"), rank)
        seen[f"SIGINT on {rank}"] = train("forward", lambda: happen("SIGINT"), rank)
        seen[f"SIGTERM on {rank}"] = train("backward", lambda: happen("SIGTERM"), rank, checkpoint=f"run{rank}.npz")
    sync = files._sync
    files._sync = full_after(0)
    seen["disk full"] = train(None, None, None, checkpoint="full.npz")
    files._sync = full_after(10)
    seen["disk full later"] = train(None, None, None, checkpoint="later.npz", checkpoint_every=0)
    files._sync = sync
    seen["stop"] = train("callback", stop, 0)
    seen["callback"] = train("callback", lambda model: happen("exception"), 0)
    seen["afterwards"] = train(None, None, None)
    pathlib.Path(f"rank{RANK}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    if sys.argv[1] == "orderly":
        orderly()
    else:
        fatal(sys.argv[2], sys.argv[3], int(sys.argv[4]))
