"""Files on unusual systems: network drives, long names, links, pipes, killed writers, two processes, hostile files."""

import errno
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hostile import HOSTILE
from test_storage import array_bytes, described, members, write
from test_training import small_model, small_set

import minicnn as mc
from minicnn.storage import files
from minicnn.storage.files import atomic_write, cache_folder, lock, temporary_folder


def fit(epochs=1, **options):
    x, y = small_set(16)
    return small_model().fit(x, y, epochs=epochs, batch_size=16, verbose=False, **options)


def save(path):
    """A writer of a file."""
    small_model().save(path)


def log(path):
    fit(callbacks=[mc.CSVLogger(path)])


def best(path):
    fit(callbacks=[mc.ModelCheckpoint(path)])


def checkpoint(path):
    fit(checkpoint=path)


WRITERS = [save, log, best, checkpoint]


def names(folder):
    return sorted(entry.name for entry in pathlib.Path(folder).iterdir())


def failing(function, error, times=10**6, only=lambda *_: True):
    """A function that raises an error the first times, where the arguments are such."""
    count = iter(range(times))

    def call(*arguments, **options):
        if only(*arguments) and next(count, None) is not None:
            raise error
        return function(*arguments, **options)

    return call


def is_folder(descriptor):
    return os.path.isdir(f"/proc/self/fd/{descriptor}")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS, errno.EACCES])
def test_a_network_drive_that_cannot_sync_folders_is_good_enough(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", failing(os.fsync, OSError(number, os.strerror(number)), only=is_folder))
    fit(checkpoint=tmp_path / "run.npz", callbacks=[mc.CSVLogger(tmp_path / "log.csv")])
    assert names(tmp_path) == ["log.csv", "run.npz", "run.npz.previous"]


REASONS = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    OSError(errno.EIO, os.strerror(errno.EIO)),
    OSError(errno.EROFS, os.strerror(errno.EROFS)),
    MemoryError(),
]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("reason", REASONS, ids=["full", "broken", "read-only", "memory"])
def test_a_write_that_fails_leaves_the_old_file_and_says_why(tmp_path, monkeypatch, step, reason):
    for name, writer in (("model.npz", save), ("log.csv", log)):
        path = tmp_path / name
        path.write_bytes(b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, step, failing(getattr(os, step), reason))
            why = getattr(reason, "strerror", None) or "memory"
            with pytest.raises(mc.FileError, match=f"{name}.*{why}"):
                writer(path)
        assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["log.csv", "model.npz"]


@pytest.mark.parametrize("times", [2, 100])
def test_a_rename_that_is_not_permitted_for_a_moment_is_tried_again(tmp_path, monkeypatch, times):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(os, "replace", failing(os.replace, PermissionError(errno.EACCES, "Permission denied"), times))
    if times == 2:
        save(tmp_path / "model.npz")
        assert names(tmp_path) == ["model.npz"] and len(pauses) == 2
    else:
        with pytest.raises(mc.FileError, match=r"model\.npz.*Permission denied"):
            save(tmp_path / "model.npz")
        assert names(tmp_path) == [] and 0.5 < sum(pauses) < 3


@pytest.mark.parametrize("home", [None, "~/caches"])
def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch, home):
    for name in ("HOME", "XDG_CACHE_HOME", "MINICNN_HOME"):
        monkeypatch.delenv(name, raising=False)
    if home:
        monkeypatch.setenv("MINICNN_HOME", home)
    monkeypatch.setattr("pwd.getpwuid", failing(None, KeyError("unknown user")))
    with pytest.raises(mc.FileError, match="MINICNN_HOME"):
        cache_folder()
    (x, _), _ = mc.datasets.load_letters(train=10, test=10, cache=False)
    assert len(x) == 10


def at_the_start(writer, path):
    """Whether a writer refuses a path before the first step, and leaves nothing."""
    steps = []
    count = mc.LambdaCallback(on_batch_end=lambda batch, loss: steps.append(batch))
    options = {
        checkpoint: lambda: {"checkpoint": path, "callbacks": [count]},
        best: lambda: {"callbacks": [mc.ModelCheckpoint(path), count]},
        log: lambda: {"callbacks": [mc.CSVLogger(path), count]},
    }
    before = names(os.path.dirname(path)) if os.path.isdir(os.path.dirname(path)) else None
    try:
        save(path) if writer is save else fit(2, **options[writer]())
        return False
    except mc.FileError as error:
        assert len(str(error)) < 500 and str(error).isprintable()
        assert steps == []
        assert before is None or names(os.path.dirname(path)) == before
        return True


@pytest.mark.parametrize("writer", WRITERS)
def test_a_name_that_is_too_long_is_refused_before_the_first_step(tmp_path, writer):
    longest = 255 - (len(".previous") if writer is checkpoint else 0)
    assert not at_the_start(writer, str(tmp_path / ("n" * longest)))
    for length in range(longest + 1, 257):
        assert at_the_start(writer, str(tmp_path / ("n" * length)))
    assert at_the_start(writer, f"{tmp_path}/{'n' * 3000}")
    assert at_the_start(writer, str(tmp_path / "nowhere" / "file"))


def test_a_format_whose_names_are_too_long_is_refused_before_the_first_step(tmp_path):
    assert not at_the_start(best, str(tmp_path / ("n" * 246 + "{epoch:06d}")))
    assert at_the_start(best, str(tmp_path / ("n" * 246 + "{epoch:06d}-{loss:.3f}")))
    with pytest.raises(mc.InputError, match="epoch"):
        best(tmp_path / "{epoch")


@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_is_written_through(tmp_path, writer):
    (tmp_path / "disk").mkdir()
    path, target = tmp_path / "link", tmp_path / "disk" / "target"
    for _ in range(2):  # a link to nothing yet, and to a file
        path.unlink(missing_ok=True)
        path.symlink_to(pathlib.Path("disk", "target"))
        for other in (tmp_path / "disk").glob("target*"):
            other.unlink() if writer is checkpoint else other.write_bytes(b"old")
        writer(path)
        assert path.is_symlink() and target.read_bytes() not in (b"old", b"")
        assert names(tmp_path) == ["disk", "link"]
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(mc.FileError, match=r"link.*Too many levels"):
        writer(path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_not_a_file_is_refused_at_once(tmp_path, kind):
    """A pipe would block for ever, a device may never end; neither is replaced by a file."""
    path = tmp_path / "thing"
    if kind == "device":
        try:
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # a copy of /dev/zero
        except PermissionError:
            pytest.skip("this user may not make devices")
    else:
        os.mkdir(path) if kind == "folder" else os.mkfifo(path)
    before = path.lstat()
    actions = [
        lambda: mc.load(path),
        lambda: fit(checkpoint=path, resume=True),
        lambda: fit(callbacks=[mc.CSVLogger(path, append=True)]),
        *(lambda writer=writer: writer(path) for writer in WRITERS),
        lambda: files.open_file(path),
    ]
    if kind != "folder":
        actions.append(lambda: files.reading(path, "an archive").__enter__())
    for action in actions:
        with pytest.raises(mc.FileError, match=f"thing.*a {kind}"):
            action()
    assert path.lstat() == before and names(tmp_path) == ["thing"]


@pytest.mark.parametrize("path", [3, None, 2.5, True])
def test_what_is_not_a_path_is_refused(path):
    for action in (mc.load, save, log, best):
        with pytest.raises(mc.InputError, match="path"):
            action(path)


TWICE = {
    "a model": ("run.npz", [mc.ModelCheckpoint("run.npz")]),
    "another spelling": ("run.npz", [mc.ModelCheckpoint("./folder/../run.npz")]),
    "a link": ("run.npz", [mc.CSVLogger("link")]),
    "the one before": ("run.npz", [mc.ModelCheckpoint("run.npz.previous")]),
    "the new one": ("run.npz", [mc.CSVLogger("run.npz.new")]),
    "a number": ("run-3.npz", [mc.ModelCheckpoint("run-{epoch}.npz")]),
    "two callbacks": (None, [mc.CSVLogger("log.csv"), mc.ModelCheckpoint(pathlib.Path("log.csv"))]),
    "two formats": (None, [mc.ModelCheckpoint("{epoch}.npz"), mc.ModelCheckpoint("{epoch}.npz")]),
    "a format and a name": (None, [mc.ModelCheckpoint("{epoch:02d}.npz"), mc.CSVLogger("07.npz")]),
}


@pytest.mark.parametrize(("path", "callbacks"), TWICE.values(), ids=TWICE)
def test_two_writers_of_one_file_are_refused(tmp_path, monkeypatch, path, callbacks):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    os.symlink("run.npz", "link")
    with pytest.raises(mc.InputError, match=f"{type(callbacks[-1]).__name__}.*the same file"):
        fit(checkpoint=path, callbacks=callbacks)
    assert names(tmp_path) == ["folder", "link"]


def test_writers_of_different_files_are_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callbacks = [mc.ModelCheckpoint("{epoch}.npz"), mc.ModelCheckpoint("best.npz"), mc.CSVLogger("log.csv")]
    fit(checkpoint="lenet5.npz", callbacks=callbacks)
    assert names(tmp_path) == ["1.npz", "best.npz", "lenet5.npz", "lenet5.npz.previous", "log.csv"]


HOLDER = """
import sys
from minicnn.storage.files import atomic_write, lock, temporary_folder
folder = sys.argv[1]
with lock(folder + "/run.npz"), atomic_write(folder + "/best.npz") as file, temporary_folder(folder + "/cache"):
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_another_process_keeps_its_files_until_it_is_killed(tmp_path):
    """A lock, and what it is writing: kept from others while it lives, free when it is gone."""
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            for _ in range(2):
                with pytest.raises(mc.FileError, match=rf"run\.npz.*in use.*{process.pid}"):
                    checkpoint(tmp_path / "run.npz")
                save(tmp_path / "best.npz")
                with temporary_folder(tmp_path / "cache"):
                    pass
            assert [name.split(".")[1] for name in names(tmp_path) if name.endswith(".tmp")] == ["best", "cache"]
        finally:
            process.send_signal(signal.SIGKILL)
    assert "run.npz.lock" in names(tmp_path)
    save(tmp_path / "best.npz")
    with temporary_folder(tmp_path / "cache"):
        pass
    checkpoint(tmp_path / "run.npz")
    assert names(tmp_path) == ["best.npz", "run.npz", "run.npz.previous"]


def test_one_process_does_not_train_two_runs_in_one_file(tmp_path):
    def again(epoch, logs):
        with pytest.raises(mc.FileError, match=str(os.getpid())):
            checkpoint(tmp_path / "link")

    (tmp_path / "link").symlink_to("run.npz")
    fit(checkpoint=tmp_path / "run.npz", callbacks=[mc.LambdaCallback(on_epoch_end=again)])
    with pytest.raises(ZeroDivisionError), lock(tmp_path / "run.npz"):
        raise ZeroDivisionError
    assert names(tmp_path) == ["link", "run.npz", "run.npz.previous"]  # the lock ends with the block, however it ends


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_where_nothing_can_be_locked_runs_work_and_old_leftovers_go(tmp_path, monkeypatch, number):
    monkeypatch.setattr(files.fcntl, "flock", failing(None, OSError(number, os.strerror(number))))
    path = tmp_path / "run.npz"
    with atomic_write(path.with_suffix(".npz.new")) as other:
        checkpoint(path)
        assert any(name.endswith(".tmp") for name in names(tmp_path))  # it may be somebody's
        os.utime(other.name, (0, 0))
        fit(2, checkpoint=path, resume=True)
        assert names(tmp_path) == ["run.npz", "run.npz.previous"]
        pathlib.Path(other.name).touch()


class Grow(mc.Layer):
    """A layer with another inside, so that its parameters are known only when it is built."""

    def __init__(self, units):
        self.units = units
        self.inner = mc.Dense(units)

    def forward(self, x, training=False):
        return self.inner.forward(x, training)


def conv(**options):
    return lambda description: description["layers"][0]["arguments"].update(options)


def change_inner(description):
    description["layers"][-1]["arguments"]["units"] = 500_000  # 72 inputs: 137 MiB of weights


ZEROS = {"initializer": "zeros"}
HUGE = {
    "filters": conv(filters=10**9),
    "filters of zeros": conv(filters=10**6, weight_initializer=ZEROS),
    "a kernel": conv(kernel_size=30000, padding=20000),
    "units inside a layer of the user's own": change_inner,
    "an input": lambda description: description.update(input_shape=[2**28 + 1], layers=description["layers"][-1:]),
}


@pytest.mark.parametrize("change", HUGE.values(), ids=HUGE)
def test_a_small_file_that_asks_for_gigabytes_is_refused_with_the_numbers(tmp_path, change):
    layers = [mc.Conv2D(2, 3), mc.Flatten(), Grow(4)]
    mc.Sequential(layers, input_shape=(1, 8, 8)).save(tmp_path / "model.npz")
    described(tmp_path / "model.npz", change)
    check_refused(tmp_path / "model.npz", r"\d[\d,]* (bytes|.iB)")


def check_refused(path, why):
    tracemalloc.start()
    try:
        with pytest.raises(mc.FileError, match=why) as caught:
            mc.load(path, custom_layers=[Grow])
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    causes = [caught.value]
    while causes[-1] is not None:
        assert not isinstance(causes[-1], MemoryError)
        causes.append(causes[-1].__cause__)


def lying_header(path):
    contents = members(path)
    header = array_bytes(np.zeros(8, "float32"))[:128]
    contents["dense_1.bias.npy"] = header.replace(b"(8,), }" + b" " * 9, b"(9999999999,), }") + bytes(32)
    assert b"9999" in contents["dense_1.bias.npy"]
    write(path, contents)
    checksum = zlib.crc32(contents["dense_1.bias.npy"])
    described(path, lambda description: description["checksums"].update({"dense_1.bias.npy": checksum}))


def long_directory(path):
    """The end of a zip whose list of arrays would be 90 MB."""
    with open(path, "wb") as file:
        file.truncate(2**27)
        file.seek(2**27)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65534, 65534, 90 * 10**6, 2**27 - 90 * 10**6, 0))


@pytest.mark.parametrize("change", [lying_header, long_directory])
def test_a_file_that_unpacks_to_more_than_it_has_is_refused_before(tmp_path, change):
    path = tmp_path / "model.npz"
    save(path)
    change(path)
    check_refused(path, r"claims|90000000")


@pytest.mark.parametrize("text", [*HOSTILE, "x" * 42000, "é\u202e" * 20000], ids=range(len(HOSTILE) + 2))
def test_a_message_quotes_what_a_file_says_in_short_and_printable(tmp_path, text):
    path = tmp_path / "model.npz"

    def names_of_arrays(contents):
        contents[text.encode("utf-8", "replace").decode()[:20000] + ".npy"] = array_bytes(np.zeros(3))

    def entry(**options):
        return lambda description: description["layers"][0].update(options)

    changes = [
        lambda description: description.update(version=text),
        lambda description: description.update(minicnn=text),
        lambda description: description.update(dtype=text),
        lambda description: description.update(states={text: text}),
        lambda description: description.update(tied={text: text}),
        entry(library=text),
        entry(arguments={text: 3}),
        entry(arguments={"filters": text, "kernel_size": 3}),
        entry(arguments={"filters": 3, "kernel_size": 3, "padding": {text: 3}}),
        entry(arguments={"filters": 3, "kernel_size": 3, "weight_initializer": {"initializer": text}}),
        names_of_arrays,
    ]
    save(path)
    good = path.read_bytes()
    for change in changes:
        path.write_bytes(good)
        if change is names_of_arrays:
            contents = members(path)
            change(contents)
            write(path, contents)
        else:
            described(path, change)
        with pytest.raises(mc.FileError, match=r"model\.npz") as caught:
            mc.load(path)
        assert len(str(caught.value)) < 1000 and str(caught.value).isprintable(), str(caught.value)[:2000]
    for name in (text.replace("/", ""), "/".join([text.replace("/", "")[:200]] * 30)):
        for action in (mc.load, save, log):
            with pytest.raises(mc.FileError) as caught:
                action(tmp_path / "nowhere" / name)
            assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


class Counting(mc.Layer):
    """It makes its states when it is first trained."""

    def __init__(self):
        self.more = {}

    def forward(self, x, training=False):
        if training and not self.more:
            self.total = mc.State(np.zeros(x.shape[1], x.dtype))
            self.count = mc.State(0)
            self.more["rng"] = np.random.default_rng(5)
            self.more["last"] = mc.State(0.0)
        if training:
            self.total.value = self.total.value + x.sum(axis=0)
            self.count.value += 1
            self.more["last"].value = self.more["rng"].random()
        return x, lambda dy: dy


def counting_model():
    return mc.Sequential([mc.Flatten(), Counting(), mc.Dense(3)], input_shape=(1, 8, 8))


def states(model):
    return {name: getattr(state, "value", None) for name, state in model.states().items()}


def test_states_that_are_made_when_a_layer_is_used_are_saved_loaded_and_resumed(tmp_path):
    x, y = small_set(32)
    whole = counting_model()
    whole.fit(x, y, epochs=2, verbose=False)
    whole.save(tmp_path / "model.npz")
    back = mc.load(tmp_path / "model.npz", custom_layers=[Counting])
    path = tmp_path / "run.npz"
    counting_model().fit(x, y, epochs=1, verbose=False, checkpoint=path)
    resumed = counting_model()
    resumed.fit(x, y, epochs=2, verbose=False, checkpoint=path, resume=True)
    assert len(states(whole)) == 4
    for found in (back, resumed):
        assert states(found).keys() == states(whole).keys()
        for name, value in states(whole).items():
            np.testing.assert_array_equal(states(found)[name], value)
    for _ in range(2):  # and they go on alike
        for model in (whole, resumed):
            model.forward(x[:4], training=True)
    assert states(whole)["counting_1.more.last"] == states(resumed)["counting_1.more.last"]


def test_a_log_has_a_separator_of_one_character():
    for separator in ("", ";;", None, "\n", 3):
        with pytest.raises(mc.InputError, match="separator"):
            mc.CSVLogger("log.csv", separator=separator)


def test_a_log_that_is_not_text_is_not_continued(tmp_path):
    (tmp_path / "log.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(mc.FileError, match=r"log\.csv"):
        fit(callbacks=[mc.CSVLogger(tmp_path / "log.csv", append=True)])
    assert (tmp_path / "log.csv").read_bytes() == b"\xff\xfe\x00"
