"""Memory that is used up: at any allocation of a run, which then stops, and resumes to the same bits."""

import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
from test_training import small_set

import minicnn as mc
from minicnn.backends.numpy import threads
from minicnn.training.guard import Guard

#: A run on two threads, whose batches are cut into chunks; the program fails where one of its promises is broken.
PROGRAM = """
import faulthandler, pathlib, sys
import numpy as np
sys.path.insert(0, {tests!r})
import minicnn as mc
from failing_memory import failing

faulthandler.dump_traceback_later(100, exit=True)  # a thread that hangs
mc.backends.numpy.PARALLEL_WORK = 1
folder = pathlib.Path({folder!r})
rng = np.random.default_rng(0)
x, y = rng.random((96, 1, 6, 6), dtype="float32"), np.arange(96) % 3
OPTIMIZERS = [lambda: mc.Adam(0.01, clip_norm=0.5), lambda: mc.SGD(0.1, momentum=0.9)]


def network():
    layers = [mc.Conv2D(2, 3), mc.ReLU(), mc.MaxPool2D(2), mc.Dropout(0.2), mc.Flatten(), mc.Dense(3)]
    return mc.Sequential(layers, input_shape=(1, 6, 6))


def train(model, optimizer, epochs, **options):
    options = {{"batch_size": 32, "verbose": False, "validation_split": 0.3, **options}}
    model.fit(x, y, epochs=epochs, optimizer=optimizer, **options)
    return [p.value.copy() for p in model.parameters().values()]


def stops(function, fail_at):
    '''Run with an allocation that fails; returns whether it was reached.'''
    with failing(fail_at) as counter:
        try:
            function()
        except (MemoryError, mc.MinicnnError):
            pass
        else:
            assert not counter.failed, f"allocation {{fail_at}} failed unnoticed"
    return counter.failed


{body}
print("done")
"""

#: Every allocation of one training step.
STEP = """
loss_function = mc.SoftmaxCrossEntropy()
for make in OPTIMIZERS:
    expected, k = None, 0
    while expected is None or stops(step, k):
        k += 1
        model, optimizer = network(), make()

        def step():
            logits, backward = model.forward(x[:40], training=True)
            loss, dlogits = loss_function(logits, y[:40])
            backward(dlogits)
            optimizer.step(model.parameters())

        if expected is None:
            step()
            expected = [p.value.copy() for p in model.parameters().values()]
            model, optimizer = network(), make()
    # the last one was not reached
    for a, p in zip(expected, model.parameters().values(), strict=True):
        np.testing.assert_array_equal(a, p.value)
"""

#: Some allocations of a run with a checkpoint, from the first look at the data to the last epoch's end.
RUN = """
whole = train(network(), OPTIMIZERS[0](), 1)
k, reached = 1, True
while reached:
    path = folder / f"{k}.npz"
    options = {"checkpoint": path, "checkpoint_every": 0, "resume": True}
    model = network()
    reached = stops(lambda: train(model, OPTIMIZERS[0](), 1, **options), k)
    assert not any(p.has_gradient for p in model.parameters().values()), k
    for a, b in zip(whole, train(network(), OPTIMIZERS[0](), 1, **options), strict=True):
        np.testing.assert_array_equal(a, b)
    for file in folder.iterdir():
        file.unlink()
    k += 1 + k // 2
"""


@pytest.mark.parametrize("body", [STEP, RUN], ids=["every allocation of a step", "a run with a checkpoint"])
def test_a_failing_allocation_stops_the_run_and_nothing_is_lost(tmp_path, body):
    program = PROGRAM.format(tests=str(pathlib.Path(__file__).parent), folder=str(tmp_path), body=body)
    environment = os.environ | {"MINICNN_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


def test_a_thread_that_fails_outside_its_chunks_does_not_hang(monkeypatch):
    """Python's own memory may be used up there, too. Whoever waits for the thread receives its error."""
    if threads.thread_count() < 2:
        pytest.skip("one core: no other thread")
    enter, outcome = threads.single_threaded_blas.__enter__, []

    def fails_in_helpers(block):
        if threading.current_thread().name.startswith("minicnn-"):
            raise MemoryError
        return enter(block)

    def compute():
        try:
            outcome.append(threads.parallel_map(lambda n: n, range(8)))
        except MemoryError as error:
            outcome.append(error)

    with monkeypatch.context() as patch:
        patch.setattr(threads.single_threaded_blas, "__enter__", fails_in_helpers)
        thread = threading.Thread(target=compute, daemon=True)
        thread.start()
        thread.join(30)
    assert not thread.is_alive() and isinstance(outcome[0], MemoryError)
    assert threads.parallel_map(abs, [-1, -2, -3]) == [1, 2, 3]  # the threads still serve


def test_an_error_within_a_step_leaves_no_gradient(monkeypatch):
    x, y = small_set(24)
    model = mc.Sequential([mc.Flatten(), mc.Dense(3)], input_shape=(1, 8, 8))

    def fails(guard):
        assert all(p.has_gradient for p in model.parameters().values())
        raise MemoryError

    monkeypatch.setattr(Guard, "check_gradients", fails)
    with pytest.raises(MemoryError):
        model.fit(x, y, epochs=1, verbose=False)
    assert not any(p.has_gradient for p in model.parameters().values())


def test_good_weights_return_though_the_diagnosis_has_no_memory(monkeypatch):
    def no_memory(*_):
        raise MemoryError

    x = np.ones((8, 4), "float32")
    model = mc.Sequential([mc.Dense(3)], input_shape=(4,))
    before = [p.value.copy() for p in model.parameters().values()]
    monkeypatch.setattr("minicnn.training.guard.first_not_finite", no_memory)
    with np.errstate(all="ignore"), pytest.raises(mc.DivergenceError):
        model.fit(x, np.zeros((8, 3)), epochs=9, optimizer=mc.SGD(1e30), loss=mc.MeanSquaredError(), verbose=False)
    for a, p in zip(before, model.parameters().values(), strict=True):
        np.testing.assert_array_equal(a, p.value)
