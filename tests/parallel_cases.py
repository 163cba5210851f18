"""What the ranks of tests/test_parallel.py run: `mpiexec -n W python -m mpi4py parallel_cases.py FOLDER`.

Each case trains on all ranks and returns plain values. Every rank writes what it found to FOLDER/rank<R>.json, and
rank 0 the weights of the cases to FOLDER/<case>.npz.
"""

import json
import os
import pathlib
import signal
import sys
import warnings
import zlib

import numpy as np
import strict_backend
from strict_backend import strict

import minicnn as mc
from minicnn.backends.cupy import CupyOperations, cublas, recording
from minicnn.parallel import Ranks, exchange
from minicnn.training import loop

N, BATCH, EPOCHS = 20, 6, 2  # the last batch has two images: with three ranks or four, some have none
WIDE = 24 * 64  # numbers of Dense(24)'s weight, which is shared out by rows; Dense(12) is by factors, Dense(3) added up


def data(dtype="float32"):
    rng = np.random.default_rng(1)
    x = rng.random((N, 1, 10, 10), dtype=np.float32)
    return (x * 255).astype("uint8") if dtype == "uint8" else x, rng.integers(0, 3, N)


def layers(dropout=0.3):
    return [
        mc.Conv2D(4, 3, use_bias=False),
        mc.BatchNorm(),
        mc.ReLU(),
        mc.MaxPool2D(2),
        mc.Flatten(),
        mc.Dense(24),
        mc.Tanh(),
        mc.Dropout(dropout),
        mc.Dense(12),
        mc.ReLU(),
        mc.Dense(3),
    ]


def network(seed=3, dropout=0.3):
    return mc.Sequential(layers(dropout), input_shape=(1, 10, 10), seed=seed)


def sgd():
    return mc.SGD(0.1, momentum=0.9, weight_decay=0.01)


def kept(model, optimizer=None):
    """All arrays of a model by name, and what its optimizer remembers."""
    found = {name: item.value for name, item in mc.core.layer.kept_arrays(model)}
    for name, parameter in model.parameters().items():
        for key, array in (optimizer.memories.get(parameter, {}) if optimizer else {}).items():
            found[f"memory.{name}.{key}"] = array
    return {name: np.array(mc.backends.to_numpy(array)) for name, array in found.items()}


def train(communicator, model=None, optimizer=None, epochs=EPOCHS, dtype="float32", **options):
    """`fit` on the data, without a progress bar; the model, the history, and the optimizer."""
    model, optimizer = model or network(), optimizer or sgd()
    options = {"batch_size": BATCH, "verbose": False, **options}
    history = model.fit(*data(dtype), epochs=epochs, optimizer=optimizer, communicator=communicator, **options)
    return model, history, optimizer


def rich(epochs=3, **options):
    """The options of a run with everything that rank 0 decides: callbacks, validation, augmentation, clipping."""
    x, y = data("uint8")
    callbacks = [
        mc.AveragedWeights(0.5),
        mc.ReduceLROnPlateau("loss", patience=0, min_delta=1.0),
        mc.EarlyStopping("val_loss", patience=1, min_delta=1.0, restore_best_weights=True),
    ]
    return {
        "dtype": "uint8",
        "epochs": epochs,
        "optimizer": mc.SGD(mc.schedules.Constant(0.1), momentum=0.9, clip_norm=0.5),
        "callbacks": callbacks,
        "validation_data": (x[:7], y[:7]),
        "augmentation": mc.Augmentation(shift=1, mixup=0.2),
        **options,
    }


class Interrupted(mc.SoftmaxCrossEntropy):
    """A loss in whose sixth step, in the second epoch, a signal comes to one rank."""

    step, rank = None, None

    def compute(self, logits, labels):
        if Interrupted.step is not None:
            Interrupted.step += 1
            if Interrupted.step == 6 and Interrupted.rank == RANK:
                signal.raise_signal(signal.SIGINT)
        return super().compute(logits, labels)


class Reads(mc.Layer):
    """y = x * (1 + the mean of another layer's weight): that weight must not be shared out by rows."""

    def __init__(self, other):
        self.other = [other]

    def arguments(self):
        return {"other": None}

    def forward(self, x, training=False):
        weight = self.other[0].weight
        factor = 1 + weight.value.mean()

        def backward(dy):
            gradient = (dy * x).sum() / weight.value.size
            weight.add_gradient(np.full_like(weight.value, gradient))
            return dy * factor

        return x * factor, backward


def tied():
    """A network in which two layers read one weight."""
    wide = mc.Dense(24)
    model = mc.Sequential([mc.Flatten(), wide, mc.Tanh(), mc.Dense(3)], input_shape=(1, 10, 10))
    model.layers.insert(2, Reads(wide))
    return model


class Unfreeze(mc.Callback):
    """Freezes a layer, and lets it learn from the second epoch on."""

    def on_train_begin(self):
        self.model.layers[0].trainable = False

    def on_epoch_begin(self, epoch):
        self.model.layers[0].trainable = epoch > 0


class Raises(mc.Callback):
    def on_epoch_end(self, epoch, logs):
        raise ValueError("of a callback")


class Changes(mc.Callback):
    def on_batch_end(self, batch, loss):
        self.model.layers[0].weight.value[...] += 1


class Adds(mc.Callback):
    def on_epoch_begin(self, epoch):
        self.model.add(mc.Dense(3))


class NotFinite(mc.Layer):
    """y = x; on one rank, NaN from one step of the training on."""

    independent_samples = True

    def __init__(self, rank, at):
        self.rank, self.at, self.steps = rank, at, 0

    def arguments(self):
        return {"rank": 0, "at": self.at}

    def forward(self, x, training=False):
        self.steps += training
        if training and self.steps >= self.at and self.rank == RANK:
            x = x * np.float32("nan")
        return x, lambda dy: dy


def error_of(function):
    """What a function raises, as [class, text]; None for nothing."""
    try:
        function()
    except (Exception, KeyboardInterrupt) as error:
        return [type(error).__name__, str(error)]
    return None


def cases(communicator, rank, size, folder):
    """(name, plain values, arrays or None) of each case."""
    model, history, optimizer = train(communicator)
    yield "bits", history, kept(model, optimizer)
    again, _, optimizer_again = train(communicator)
    first, second = kept(model, optimizer), kept(again, optimizer_again)
    yield "again", [name for name in first if first[name].tobytes() != second[name].tobytes()], None

    model, history, _ = train(communicator, **rich())
    yield "rich", history, kept(model)

    mc.use("plain")
    model, history, optimizer = train(communicator)
    yield "plain", history, kept(model, optimizer)
    mc.use("numpy")

    path = folder / "stopped.npz"  # stopped within an epoch by a signal on one rank, and resumed
    Interrupted.step, Interrupted.rank = 0, size - 1
    raised = error_of(lambda: train(communicator, checkpoint=path, loss=Interrupted()))
    model, history, optimizer = train(communicator, checkpoint=path, loss=Interrupted(), resume=True)
    yield "stopped", [raised[0], history], kept(model, optimizer)

    with warnings.catch_warnings(record=True) as caught:  # a run of one process is continued
        warnings.simplefilter("always")
        model, history, optimizer = train(communicator, checkpoint=folder / "alone.npz", resume=True)
    yield "from one process", [history, [str(warning.message) for warning in caught]], kept(model, optimizer)
    train(communicator, epochs=1, checkpoint=folder / "ranks.npz")  # for one process to continue

    x, y = data()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network().fit(x * 255, y, epochs=1, batch_size=BATCH, verbose=False, communicator=communicator)
    yield "warned", [str(warning.message) for warning in caught], None
    measured = [
        loop._measure(model, x, y, mc.SoftmaxCrossEntropy(), 3, ranks) for ranks in (Ranks(communicator), Ranks())
    ]
    yield "validation", measured, None

    mc.use(CupyOperations(strict))
    model, history, optimizer = train(communicator, model=network(dropout=0))  # CuPy draws other numbers
    yield "device", history, kept(model, optimizer)
    mc.use("numpy")

    model, history, _ = train(communicator, optimizer=mc.SGD(0.3, momentum=0.9, clip_norm=0.3))
    yield "clipped", history, kept(model)

    model, history, _ = train(communicator, model=tied())
    yield "tied", history, kept(model)

    model, history, _ = train(communicator, callbacks=[Unfreeze()])
    yield "unfrozen", history, kept(model)

    if size > 1:
        yield from refusals(communicator, rank, size)
    model, _, _ = train(communicator)  # and all are still together
    yield "afterwards", None, kept(model)


def refusals(communicator, rank, size):
    """(name, [class, text] of what each rank raises, None)."""
    is_last = rank == size - 1
    x, y = data()
    other_x, bad_y = x.copy(), np.where(np.arange(N) == 3, 7, y)
    other_x[0, 0, 0, 0] += 0.5

    def fit(x=x, y=y, model=None, **options):
        options = {"batch_size": BATCH, "epochs": 1, "optimizer": sgd(), "verbose": False, **options}
        (model or network()).fit(x, y, communicator=communicator, **options)

    yield "other images", error_of(lambda: fit(other_x if is_last else x)), None
    yield "other weights", error_of(lambda: fit(model=network(seed=int(is_last)))), None
    yield "other settings", error_of(lambda: fit(batch_size=BATCH + is_last)), None
    yield "bad labels on one", error_of(lambda: fit(y=bad_y if is_last else y)), None
    yield "callback raises", error_of(lambda: fit(callbacks=[Raises()])), None
    yield "callback changes weights", error_of(lambda: fit(callbacks=[Changes()])), None
    yield "callback adds a layer", error_of(lambda: fit(callbacks=[Adds()])), None
    stopped = mc.Sequential([NotFinite(size - 1, at=3), *layers()], input_shape=(1, 10, 10))
    before = {name: array.copy() for name, array in kept(stopped).items()}
    yield "not finite", error_of(lambda: fit(model=stopped)), None
    after = kept(stopped)  # the guard's copy of the first batch, complete on every rank
    parameters = stopped.parameters()
    yield "not finite, weights", [name for name in parameters if not (before[name] == after[name]).all()], None


if __name__ == "__main__":
    from mpi4py import MPI

    RANK, SIZE, FOLDER = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size(), pathlib.Path(sys.argv[1])
    exchange.WIDE = WIDE
    cublas.find_cublas = recording.find_cublas = lambda xp: strict_backend.cublas
    found = {}
    for name, values, arrays in cases(MPI.COMM_WORLD, RANK, SIZE, FOLDER):
        found[name] = {"values": values}
        if arrays is not None:
            found[name]["digest"] = [[key, zlib.crc32(array.tobytes())] for key, array in arrays.items()]
            if RANK == 0:
                np.savez(FOLDER / f"{name}.npz", **arrays)
    found["threads"] = os.environ.get("MINICNN_THREADS")
    (FOLDER / f"rank{RANK}.json").write_text(json.dumps(found))
