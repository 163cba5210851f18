"""Runs that survive: cut anywhere and resumed to the same bits, faults caused for real."""

import contextlib
import fcntl
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_storage import described
from test_training import small_model, small_set

import minicnn as mc
from minicnn.storage.arrays import ArrayFile
from minicnn.storage.files import atomic_write, remove_leftovers
from minicnn.training.checkpoint import Checkpoint


class CutError(Exception):
    pass


class CutAt(mc.Callback):
    """Raise at one place of the run: the plug is pulled."""

    def __init__(self, method, epoch, batch=None):
        def pull(*place):
            if self.armed and place[0] == (epoch if batch is None else batch) and self.epoch == epoch:
                raise CutError

        self.epoch, self.armed = 0, True
        self.count = lambda epoch: setattr(self, "epoch", epoch)
        self.hooks = {method: pull}

    def on_epoch_begin(self, epoch):
        self.count(epoch)
        self.hooks.get("on_epoch_begin", lambda *_: None)(epoch)

    def on_batch_end(self, batch, loss):
        self.hooks.get("on_batch_end", lambda *_: None)(batch)

    def on_epoch_end(self, epoch, logs):
        self.hooks.get("on_epoch_end", lambda *_: None)(epoch)

    def config(self):
        return {}


OPTIMIZERS = {
    "SGD": lambda: mc.SGD(0.05),
    "momentum and decay": lambda: mc.SGD(
        mc.StepDecay(0.05, every=10, factor=0.5), momentum=0.9, nesterov=True, weight_decay=1e-3
    ),
    "Adam, clipped": lambda: mc.Adam(mc.WarmUp(mc.CosineDecay(0.01, steps=40), steps=5), clip_norm=0.5),
}


def train(path=None, optimizer="Adam, clipped", cut=None, epochs=3, resume=False, every=None, **options):
    """A run with everything that has a state: weights, optimizer, schedule, dropout, callbacks."""
    x, y = small_set(50)
    model = small_model(dropout=True)
    if cut is None:
        cut = CutAt("never", 0)
        cut.armed = False
    watch = mc.EarlyStopping("val_loss", patience=50, restore_best_weights=True)
    arguments = {"batch_size": 8, "validation_split": 0.2, "verbose": False, **options}
    optimizer = OPTIMIZERS[optimizer]()
    try:
        history = model.fit(
            x,
            y,
            epochs=epochs,
            optimizer=optimizer,
            callbacks=[watch, cut],
            checkpoint=path,
            checkpoint_every=every,
            resume=resume,
            **arguments,
        )
    except CutError:
        return None
    weights = {name: parameter.value.copy() for name, parameter in model.parameters().items()}
    state = {
        f"{name}/{key}": optimizer.memories[parameter][key].copy()
        for name, parameter in model.parameters().items()
        for key in optimizer.memory
        if parameter in optimizer.memories
    }
    history.pop("seconds", None)
    return weights | state, dict(history), (watch.best, watch.wait, optimizer.steps, optimizer.learning_rate)


def same(first, second):
    assert first[0].keys() == second[0].keys()
    for name in first[0]:
        np.testing.assert_array_equal(first[0][name], second[0][name], err_msg=name)
    assert first[1:] == second[1:]


PLACES = [
    ("on_epoch_begin", 0),
    ("on_batch_end", 0, 0),
    ("on_batch_end", 1, 2),
    ("on_batch_end", 1, 4),  # the epoch's last
    ("on_epoch_end", 0),
    ("on_epoch_end", 2),
    ("on_epoch_begin", 2),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_cut_anywhere_goes_on_to_the_same_bits(tmp_path, optimizer, place):
    path = tmp_path / "run.npz"
    whole = train(None, optimizer)
    assert train(path, optimizer, CutAt(*place)) is None
    same(whole, train(path, optimizer, resume=True))


def test_a_callback_that_raises_does_not_cost_the_epoch(tmp_path):
    path = tmp_path / "run.npz"
    assert train(path, cut=CutAt("on_epoch_end", 1)) is None
    x, y = small_set(50)
    steps = []
    count = mc.LambdaCallback(on_batch_end=lambda batch, loss: steps.append(batch))
    count.config = dict
    model = small_model(dropout=True)
    watch = mc.EarlyStopping("val_loss", patience=50, restore_best_weights=True)
    cut = CutAt("never", 0)
    model.fit(
        x,
        y,
        epochs=2,
        batch_size=8,
        optimizer=OPTIMIZERS["Adam, clipped"](),
        callbacks=[watch, cut],
        validation_split=0.2,
        verbose=False,
        checkpoint=path,
        resume=True,
    )
    assert steps == []  # the second epoch's batches were not done again
    assert watch.wait + (watch.best is not None) > 0


def test_the_same_seed_gives_the_same_bits_whatever_ran_before(tmp_path):
    whole = train()
    np.random.seed(7)
    np.random.random(5)
    x, y = small_set(33, seed=9)
    small_model(seed=4).fit(x, y, epochs=1, batch_size=5, optimizer=mc.SGD(0.3), verbose=False)
    with pytest.raises(mc.InputError):
        train(batch_size=0)
    with pytest.raises(mc.DivergenceError):
        model, optimizer = exploding(1e12)
        model.fit(x, y, epochs=1, batch_size=8, optimizer=optimizer, verbose=False)
    same(whole, train())


def test_resuming_again_and_again_and_longer(tmp_path):
    path = tmp_path / "run.npz"
    whole = train(epochs=4)
    for batch in (1, 3):
        train(path, cut=CutAt("on_batch_end", 0, batch), resume=batch > 1)
    train(path, epochs=2, resume=True)
    same(whole, train(path, epochs=4, resume=True))
    same(whole, train(path, epochs=4, resume=True))  # a run that is over changes nothing


def test_a_finished_run_stays_finished(tmp_path):
    x, y = small_set(50)

    def run(resume):
        stop = mc.EarlyStopping("loss", patience=1, min_delta=1e9)
        model = small_model()
        return model.fit(
            x, y, epochs=9, batch_size=8, callbacks=[stop], verbose=False, checkpoint=tmp_path / "r.npz", resume=resume
        )

    assert len(run(False)["loss"]) == len(run(True)["loss"]) == 2


CHANGES = {
    "batch_size": {"batch_size": 16},
    "shuffle": {"shuffle": False},
    "validation_split": {"validation_split": 0.4},
    "optimizer": {"optimizer": "SGD"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_settings_are_refused_with_what_differs(tmp_path, name):
    path = tmp_path / "run.npz"
    train(path, cut=CutAt("on_epoch_end", 0))
    before = path.read_bytes()
    with pytest.raises(mc.InputError, match=name):
        train(path, resume=True, **CHANGES[name])
    assert path.read_bytes() == before


def test_another_network_or_data_set_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    x, y = small_set(50)
    small_model().fit(x, y, epochs=1, verbose=False, checkpoint=path)
    with pytest.raises(mc.InputError, match="seed"):
        small_model(seed=1).fit(x, y, epochs=2, verbose=False, checkpoint=path, resume=True)
    with pytest.raises(mc.InputError, match="images"):
        changed = x.copy()
        changed[7, 0, 3, 3] += 1
        small_model().fit(changed, y, epochs=2, verbose=False, checkpoint=path, resume=True)
    with pytest.raises(mc.InputError, match="labels"):
        small_model().fit(x, (y + 1) % 3, epochs=2, verbose=False, checkpoint=path, resume=True)
    with pytest.raises(mc.InputError, match="loss"):

        class OtherLoss(mc.SoftmaxCrossEntropy):
            pass

        small_model().fit(x, y, epochs=2, verbose=False, checkpoint=path, resume=True, loss=OtherLoss())
    with pytest.raises(mc.InputError, match="validation_data"):
        small_model().fit(x, y, epochs=2, verbose=False, checkpoint=path, resume=True, validation_data=(x, y))
    with pytest.raises(mc.InputError, match="callbacks"):
        stop = mc.EarlyStopping("loss")
        small_model().fit(x, y, epochs=2, verbose=False, checkpoint=path, resume=True, callbacks=[stop])
    with pytest.raises(mc.InputError, match="layers"):
        other = mc.Sequential([mc.Flatten(), mc.Dense(3)], input_shape=(1, 8, 8))
        other.fit(x, y, epochs=2, verbose=False, checkpoint=path, resume=True)
    with pytest.raises(mc.InputError, match="resume=True"):  # a run is not overwritten by accident
        small_model().fit(x, y, epochs=2, verbose=False, checkpoint=path)


def test_a_broken_newest_file_is_skipped_with_a_warning(tmp_path):
    path = tmp_path / "run.npz"
    whole = train()
    train(path, cut=CutAt("on_batch_end", 2, 1))
    data = bytearray(path.read_bytes())
    data[data.index(b"model/dense_1.weight.npy") + 200] ^= 1  # in the middle of a weight
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"run\.npz"):
        same(whole, train(path, resume=True))


def test_both_files_broken_is_an_error_and_nothing_is_lost(tmp_path):
    path = tmp_path / "run.npz"
    train(path, cut=CutAt("on_batch_end", 2, 1))
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-30])
    kept = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert kept.keys() == {"run.npz", "run.npz.previous"}
    with pytest.raises(mc.FileError, match=r"run\.npz.*run\.npz\.previous"):
        train(path, resume=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == kept


def saying(**values):
    """A change of a description: "position.seen" is given as position__seen."""

    def change(description):
        for name, value in values.items():
            *way, last = name.split("__")
            inner = description
            for step in way:
                inner = inner[int(step) if step.isdigit() else step]
            inner[last] = value

    return change


STRANGE = {
    "no optimizer": saying(optimizer=[]),
    "an optimizer that is nothing": saying(optimizer=None),
    "no settings": saying(settings=None),
    "steps of a text": saying(optimizer__steps="7"),
    "fewer steps than batches": saying(optimizer__steps=1),
    "a beta that is a text": saying(optimizer__now__beta1="x"),
    "a beta of 5": saying(optimizer__now__beta1=5.0),
    "a beta that is nothing": saying(optimizer__now__beta1=None),
    "another optimizer": saying(optimizer__now__class="SGD"),
    "a learning rate below 0": saying(optimizer__now__learning_rate=-1.0),
    "batches without images": saying(position__seen=0),
    "more batches than there are": saying(position__batch=10**6, position__seen=40),
    "one batch more than there is": saying(position__batch=6, position__seen=40),
    "more right than seen": saying(position__n_correct=17),
    "a loss that is a text": saying(position__total_loss="1.0"),
    "a loss that is not finite": saying(position__total_loss=float("nan")),
    "a time that is not finite": saying(position__seconds=float("inf")),
    "another epoch": saying(position__epoch=0),
    "finished, perhaps": saying(position__finished="no"),
    "a best value that is a text": saying(callbacks__0__best="x"),
    "a wait that is a text": saying(callbacks__0__wait="x"),
    "a list of lists of lists": saying(callbacks__0__best=[[[]]]),
    "no states": saying(states={}),
    "a state of another kind": saying(**{"states__dropout_1.step": "7"}),
    "weights of another form": saying(callback_arrays={}),
}


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE)
def test_what_no_run_could_have_saved_is_refused(tmp_path, change):
    """With right checksums: somebody wrote them."""
    path = tmp_path / "run.npz"
    train(path, cut=CutAt("on_batch_end", 1, 1))
    (tmp_path / "run.npz.previous").unlink()
    described(path, change)
    with pytest.raises(mc.FileError, match=r"run\.npz.? cannot be used"):
        train(path, resume=True)


def test_where_the_newest_file_makes_no_sense_the_one_before_is_used(tmp_path):
    path = tmp_path / "run.npz"
    whole = train()
    train(path, cut=CutAt("on_batch_end", 2, 1))
    described(path, saying(optimizer=None))
    with pytest.warns(UserWarning, match="its optimizer is .?None"):
        same(whole, train(path, resume=True))


def test_weights_that_early_stopping_could_not_put_back_are_refused():
    early = mc.EarlyStopping(restore_best_weights=True)
    early.model = small_model()
    state = early.state_dict() | {"best": 0.5}
    for weights in (np.zeros(7, "float32"), np.zeros(8, "float64")):
        with pytest.raises(ValueError, match=r"dense_1\.bias"):
            early.load_state_dict(state | {"weights.dense_1.bias": weights})
    early.load_state_dict(state | {"weights.dense_1.bias": np.zeros(8, "float32")})


ODD_STATES = {
    "objects": {"seen": np.array([None])},
    "texts": {"seen": np.array(["a", "b"])},
    "complex numbers": {"seen": np.array([1j])},
    "a set": {"seen": {1, 2}},
    "numbers as keys": {1: "a"},
    "no dict": ["seen"],
}


@pytest.mark.parametrize("odd", ODD_STATES.values(), ids=ODD_STATES)
def test_a_state_that_cannot_be_saved_is_refused_before_the_first_batch(tmp_path, odd):
    class Odd(mc.Callback):
        steps = 0

        def state(self):
            return odd

        def on_batch_end(self, batch, loss):
            self.steps += 1

    x, y = small_set(20)
    callback = Odd()
    with pytest.raises(mc.InputError, match=r"Odd\.state_dict|set"):
        small_model().fit(x, y, epochs=1, verbose=False, callbacks=[callback], checkpoint=tmp_path / "run.npz")
    assert callback.steps == 0 and list(tmp_path.iterdir()) == []


def test_a_schedule_set_during_the_run_comes_back(tmp_path):
    x, y = small_set(40)

    class WarmsUp(mc.Callback):
        def on_epoch_end(self, epoch, logs):
            if epoch == 0:
                self.optimizer.learning_rate = mc.WarmUp(mc.Constant(0.1), steps=50)

    def run(epochs, **options):
        model, optimizer = small_model(), mc.SGD(0.01)
        model.fit(
            x, y, epochs=epochs, batch_size=8, optimizer=optimizer, callbacks=[WarmsUp()], verbose=False, **options
        )
        return model.parameters()["dense_1.weight"].value, optimizer.learning_rate

    whole = run(3)
    run(2, checkpoint=tmp_path / "run.npz")
    found = run(3, checkpoint=tmp_path / "run.npz", resume=True)
    np.testing.assert_array_equal(found[0], whole[0])
    assert found[1] == whole[1]


PROGRAM = """
import sys, time
import numpy as np
sys.path.insert(0, {tests!r})
import minicnn as mc
from test_training import small_model, small_set

x, y = small_set(64)
slow = mc.LambdaCallback(on_batch_end=lambda batch, loss: (print("batch", flush=True), time.sleep({pause})))
model = small_model(dropout=True)
try:
    history = model.fit(
        x, y, epochs={epochs}, batch_size=8, callbacks=[slow], verbose=False,
        checkpoint={path!r}, checkpoint_every={every}, resume=True,
    )
except mc.TrainingInterrupted as stopped:
    print("interrupted", len(stopped.history["loss"]), stopped, flush=True)
    sys.exit()
print("done", len(history.get("loss", [])), flush=True)
np.savez({out!r}, **{{name: p.value for name, p in model.parameters().items()}})
"""


def start(tmp_path, path="run.npz", out="weights.npz", pause=0.0, epochs=4, every="None", **options):
    code = PROGRAM.format(
        tests=str(pathlib.Path(__file__).parent),
        path=str(tmp_path / path),
        out=str(tmp_path / out),
        pause=pause,
        epochs=epochs,
        every=every,
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True, **options)


def weights(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_batch_saves_and_says_how_to_go_on(tmp_path, number):
    process = start(tmp_path, "whole.npz", "whole-weights.npz")
    assert "done 4" in process.communicate()[0]
    process = start(tmp_path, pause=0.1)
    for _ in range(11):  # in the second epoch
        process.stdout.readline()
    process.send_signal(number)
    shown, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "interrupted 1" in shown  # one epoch is done
    assert "resume=True" in shown and signal.Signals(number).name in shown
    assert not (tmp_path / "weights.npz").exists()  # the program did not continue
    assert "done 4" in start(tmp_path).communicate()[0]
    expected, found = weights(tmp_path / "whole-weights.npz"), weights(tmp_path / "weights.npz")
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("look", range(1, 16))
def test_a_signal_between_any_two_looks_is_reported_and_saved_alike(tmp_path, monkeypatch, look):
    """The signal appears when the loop looks for it for this time, as if it had come just before."""

    class Noted:
        looks = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        @property
        def requested(self):
            self.looks += 1
            return signal.SIGINT if self.looks >= look else None

    path = tmp_path / "run.npz"
    whole = train(epochs=2, batch_size=16)  # 3 batches an epoch
    message = ""
    with monkeypatch.context() as patch:
        patch.setattr("minicnn.training.loop.Interrupts", Noted)
        try:
            train(path, epochs=2, batch_size=16)
        except mc.TrainingInterrupted as stopped:
            message = str(stopped)
    with ArrayFile(path, "checkpoint") as file:
        place = file.description["position"]
    if "stopped in epoch" in message:
        assert f"epoch {place['epoch'] + 1} after batch {place['batch']} and saved" in message
    else:
        assert place["epoch"] == 2 and ("complete" in message or not message)
    same(whole, train(path, epochs=2, batch_size=16, resume=True))


def test_a_second_signal_stops_at_once(tmp_path):
    process = start(tmp_path, pause=30)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.stderr.readline()  # the blank one
    assert "stops immediately" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=25)  # the pause of the batch is longer
    assert process.returncode != 0 and "KeyboardInterrupt" in told


def newest_position(path):
    """How many batches the newest whole file of a run has behind it: 8 an epoch."""
    for file in (path, path.with_name(path.name + ".previous")):
        with contextlib.suppress(mc.FileError), ArrayFile(file, "checkpoint") as opened:
            opened.verify()
            return 8 * opened.description["position"]["epoch"] + opened.description["position"]["batch"]
    raise AssertionError(f"there is no whole file {path}")


def test_killed_again_and_again_while_saving(tmp_path):
    """Every batch is followed by a save; wherever SIGKILL falls, no more than the last batch is lost."""
    rng = np.random.default_rng(0)
    path, place = tmp_path / "run.npz", 0
    for _ in range(8):
        process = start(tmp_path, epochs=200, every=0)
        batches = int(rng.integers(1, 40))
        for _ in range(batches):
            assert process.stdout.readline() == "batch\n"
        time.sleep(float(rng.uniform(0, 0.02)))
        process.kill()
        batches += process.communicate()[0].count("batch")
        assert process.returncode == -signal.SIGKILL
        before, place = place, newest_position(path)
        assert place >= before + batches - 1  # the last one may not have been saved yet
    epochs = place // 8 + 2
    process = start(tmp_path, epochs=epochs)
    _, told = process.communicate()
    assert process.returncode == 0, told
    assert not list(tmp_path.glob(".*.tmp"))  # leftovers of killed saves are removed
    assert "done" in start(tmp_path, "whole.npz", "whole-weights.npz", epochs=epochs).communicate()[0]
    expected, found = weights(tmp_path / "whole-weights.npz"), weights(tmp_path / "weights.npz")
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("step", range(1, 25))
def test_a_save_that_ends_at_any_step_leaves_the_one_before(tmp_path, monkeypatch, step):
    """The steps are those that the disk sees; a save has some five of them."""
    path, steps, saved = tmp_path / "run.npz", [], []

    class Killed(BaseException):
        pass

    def ends(name, function):
        def call(*arguments, **options):
            steps.append(name)
            if len(steps) == step:
                raise Killed
            return function(*arguments, **options)

        return call

    save = Checkpoint.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", lambda file: (save(file), saved.append(file.position)))
        for name in ("replace", "rename", "fsync", "unlink", "remove"):
            patch.setattr(os, name, ends(name, getattr(os, name)))
        with pytest.raises(Killed):
            train(path, every=0)
    if saved:
        assert newest_position(path) >= 8 * saved[-1]["epoch"] + saved[-1]["batch"]


def test_a_disk_that_fills_up_leaves_the_last_good_file(tmp_path):
    """A limit on the size of files is what a full disk is to a program: the write fails in the middle."""
    process = start(tmp_path, epochs=1)
    process.communicate()
    good = (tmp_path / "run.npz").read_bytes()

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) // 2, len(good) // 2))

    process = start(tmp_path, epochs=2, preexec_fn=limited)
    _, told = process.communicate()
    assert process.returncode != 0
    assert "FileError" in told and "run.npz" in told and "File too large" in told
    assert (tmp_path / "run.npz").read_bytes() == good
    assert not list(tmp_path.glob(".*.tmp"))
    assert "done 2" in start(tmp_path, epochs=2).communicate()[0]


def test_what_a_killed_save_left_is_removed_and_nothing_of_another_run(tmp_path):
    """Two runs side by side whose names begin alike: the one that starts leaves the other's open file alone."""
    first, second = (tmp_path / f"{'a_long_name_' * 6}fold{fold}.npz" for fold in (1, 2))
    with atomic_write(first) as mine, atomic_write(second) as other:
        mine.write(b"left behind")
        other.write(b"still being written")
        remove_leftovers(first)
        assert len(list(tmp_path.iterdir())) == 2  # both are being written
        fcntl.flock(mine, fcntl.LOCK_UN)  # as if the process had been killed
        remove_leftovers(first)
        assert len(list(tmp_path.iterdir())) == 1
        first.write_bytes(b"")
        pathlib.Path(mine.name).touch()  # so that the block can end
    assert second.read_bytes() == b"still being written"


@pytest.mark.parametrize("name", ["é" * 127, "\U0001f600" * 63], ids=["é", "emoji"])
def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path, name):
    with atomic_write(tmp_path / name) as file:
        file.write(b"all of it")
    assert (tmp_path / name).read_bytes() == b"all of it"


@pytest.mark.parametrize("name", ["a\0b.npz", "a" * 300], ids=["zero", "long"])
def test_a_name_that_no_file_can_have_is_refused_before_the_training(tmp_path, name):
    x, y = small_set(20)
    steps = []
    count = mc.LambdaCallback(on_batch_end=lambda batch, loss: steps.append(batch))
    for resume in (False, True):
        with pytest.raises(mc.FileError, match="a"):
            small_model().fit(
                x, y, epochs=1, verbose=False, callbacks=[count], checkpoint=f"{tmp_path}/{name}", resume=resume
            )
    with pytest.raises(mc.FileError, match="a"):
        small_model().save(f"{tmp_path}/{name}")
    assert steps == [] and list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    x, y = small_set(20)
    with pytest.raises(mc.FileError, match="nowhere"):
        small_model().fit(x, y, epochs=1, verbose=False, checkpoint=tmp_path / "nowhere" / "run.npz")


@contextlib.contextmanager
def mounted(place, options):
    """A small file system of its own, where this user may mount one."""
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", options, "none", place]).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """A folder without the right to write; for root, who may write everywhere, a file system that is read-only."""
    x, y = small_set(20)
    with contextlib.ExitStack() as stack:
        folder = tmp_path / "closed"
        if os.geteuid() == 0:
            stack.enter_context(mounted(folder, "ro,size=64k"))
        else:
            folder.mkdir(mode=0o500)
        with pytest.raises(mc.FileError, match=r"closed.*(Read-only|Permission)"):
            small_model().fit(x, y, epochs=1, verbose=False, checkpoint=folder / "run.npz")
        assert list(folder.iterdir()) == []


def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path):
    with mounted(tmp_path / "small", "size=64k") as place:
        model = mc.Sequential([mc.Dense(200)], input_shape=(200,))
        with pytest.raises(mc.FileError, match="No space left"):
            model.save(place / "model.npz")
        assert list(place.iterdir()) == []


def exploding(learning_rate):
    layers = [mc.Conv2D(3, 3), mc.Flatten(), mc.Dense(8), mc.Dense(3)]  # no ReLU: that could die instead
    return mc.Sequential(layers, input_shape=(1, 8, 8)), mc.SGD(learning_rate)


def test_a_loss_that_is_not_finite_stops_the_run_and_gives_good_weights_back():
    x, y = small_set(60)
    model, optimizer = exploding(1e12)
    batches = []
    with pytest.raises(mc.DivergenceError, match=r"batch \d+ of epoch 1.*(conv2d|dense|relu|loss)") as caught:
        model.fit(
            x,
            y,
            epochs=3,
            batch_size=8,
            optimizer=optimizer,
            verbose=False,
            callbacks=[mc.LambdaCallback(on_batch_end=lambda b, _: batches.append(b))],
        )
    assert len(batches) < 8  # at that batch, not after the epoch
    assert caught.value.history == {}
    for parameter in model.parameters().values():
        assert np.isfinite(parameter.value).all()
        assert not parameter.has_gradient
    assert np.isfinite(model.evaluate(x, y)[0])


@pytest.mark.parametrize("where", ["conv2d_1", "dense_1", "dense_2"])
def test_the_layer_that_went_first_is_named(where):
    """A weight of NaN shows in every later layer; the message names its own."""
    x, y = small_set(60)
    model, _ = exploding(0.1)

    def break_weight(batch, loss):
        if batch == 2:
            model.parameters()[f"{where}.weight"].value[0] = np.nan

    with pytest.raises(mc.DivergenceError, match=f"first went {where}.weight"):
        model.fit(x, y, epochs=1, batch_size=8, verbose=False, callbacks=[mc.LambdaCallback(on_batch_end=break_weight)])


def test_a_gradient_that_is_not_finite_is_named_before_the_weights_change():
    class BreaksBack(mc.Layer):
        def forward(self, x, training=False):
            return x.copy(), lambda dy: dy * np.float32(np.inf)

    x, y = small_set(24)
    model = mc.Sequential([mc.Conv2D(2, 3), mc.Flatten(), BreaksBack(), mc.Dense(3)], input_shape=(1, 8, 8))
    before = {name: p.value.copy() for name, p in model.parameters().items()}
    with pytest.raises(mc.DivergenceError, match=r"gradient.*breaksback_1"):
        model.fit(x, y, epochs=1, batch_size=8, verbose=False)
    for name, parameter in model.parameters().items():
        np.testing.assert_array_equal(parameter.value, before[name])


def test_large_weights_are_put_back_from_a_file(monkeypatch):
    monkeypatch.setattr("minicnn.training.guard.COPY_BYTES", 0)
    x, y = small_set(60)
    model, _ = exploding(0.1)
    before = {name: p.value.copy() for name, p in model.parameters().items()}

    def break_weight(batch, loss):
        model.parameters()["dense_1.weight"].value[0] = np.nan

    with pytest.raises(mc.DivergenceError, match="before batch 1 of epoch 1"):
        model.fit(x, y, epochs=1, batch_size=8, verbose=False, callbacks=[mc.LambdaCallback(on_batch_end=break_weight)])
    for name, parameter in model.parameters().items():
        np.testing.assert_array_equal(parameter.value, before[name])


class Infinite(mc.Layer):
    """Lets its input through, and from one call on makes one number of it infinite."""

    calls = 0

    def __init__(self, since=0, sign=1.0, place=0):
        self.since, self.sign, self.place = since, sign, place

    def forward(self, x, training=False):
        y = x.copy()
        if self.calls >= self.since:
            y[0, self.place] = self.sign * np.inf
        self.calls += len(x) > 1  # not the image of zeros with which a layer is built
        return y, lambda dy: dy


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_infinite_logit_stops_the_run_at_its_layer(sign, place):
    """Plus infinity, of the right class or another, makes the loss NaN; minus infinity does if it is the right one."""
    x, y = np.ones((24, 1, 4, 4), "float32"), np.zeros(24, int)
    model = mc.Sequential([mc.Flatten(), mc.Dense(3), Infinite(2, sign, place)], input_shape=(1, 4, 4))
    if sign < 0 and place != 0:
        assert np.isfinite(model.fit(x, y, epochs=1, batch_size=8, verbose=False)["loss"][0])  # a class ruled out
        return
    with pytest.raises(mc.DivergenceError, match=r"batch 3 of epoch 1.*first went the output of infinite_1"):
        model.fit(x, y, epochs=1, batch_size=8, verbose=False)
    assert all(np.isfinite(parameter.value).all() for parameter in model.parameters().values())


def test_logits_that_overflow_stop_the_run_at_their_layer():
    x, y = np.ones((24, 1, 4, 4), "float32"), np.zeros(24, int)
    model = mc.Sequential([mc.Flatten(), mc.Dense(3), mc.Dense(3)], input_shape=(1, 4, 4))

    def enlarge(batch, loss):
        model.parameters()["dense_1.weight"].value[...] = 2e38

    with pytest.raises(mc.DivergenceError, match=r"batch 2 of epoch 1.*first went the output of dense_1"):
        model.fit(x, y, epochs=1, batch_size=8, verbose=False, callbacks=[mc.LambdaCallback(on_batch_end=enlarge)])


def test_an_infinite_logit_of_the_validation_stops_the_run():
    x, y = np.ones((24, 1, 4, 4), "float32"), np.zeros(24, int)
    model = mc.Sequential([mc.Flatten(), mc.Dense(3), Infinite(3)], input_shape=(1, 4, 4))
    with pytest.raises(mc.DivergenceError, match="the validation loss after epoch 1 is nan"):
        model.fit(x, y, epochs=1, batch_size=8, verbose=False, validation_data=(x[:8], y[:8]))


def test_an_infinite_logit_spoils_its_own_image_alone():
    """Loss and gradient are NaN, not a number that looks good."""
    logits = np.array([[np.inf, 0.0, 1.0], [0.0, 0.0, 0.0]], "float32")
    for label in range(3):
        with np.errstate(invalid="ignore"):
            loss, dlogits = mc.SoftmaxCrossEntropy()(logits, np.array([label, 0]))
        assert np.isnan(loss) and np.isnan(dlogits[0]).any()
        np.testing.assert_allclose(dlogits[1], [-1 / 3, 1 / 6, 1 / 6], rtol=1e-6)
