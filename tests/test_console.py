"""What is printed: on any stream, and never at the cost of work."""

import io
import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
from test_training import small_model, small_set

import minicnn as mc
from minicnn import console
from minicnn.storage.arrays import ArrayFile
from minicnn.training.progress import Progress


class Broken(io.StringIO):
    """A stream that raises an error at every write: a closed pipe, a full disk, a window that is gone."""

    def __init__(self, error, terminal=False):
        super().__init__()
        self.error, self.terminal = error, terminal

    def write(self, text):
        raise self.error

    flush = write

    def isatty(self):
        return self.terminal


class Bare:
    """A stream with nothing but `write`, as some notebooks and loggers have it."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def encoded(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


HOSTILE = {
    "missing": lambda: None,
    "closed": closed,
    "a closed pipe": lambda: Broken(BrokenPipeError(32, "Broken pipe")),
    "a full disk": lambda: Broken(OSError(28, "No space left on device")),
    "a full disk, as a terminal": lambda: Broken(OSError(28, "No space left on device"), terminal=True),
    "a hung-up terminal": lambda: Broken(OSError(5, "Input/output error"), terminal=True),
    "no text": lambda: Broken(TypeError("write() needs bytes")),
    "bare": Bare,
    "ASCII": lambda: encoded("ascii"),
    "cp1252": lambda: encoded("cp1252"),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_no_stream_costs_work(make, monkeypatch, tmp_path):
    """Training, its file and the summary, whatever the streams are."""
    monkeypatch.setattr(sys, "stdout", make())
    monkeypatch.setattr(sys, "stderr", make())
    x, y = small_set(24)
    model = small_model()
    model.summary()
    history = model.fit(x, y, epochs=2, checkpoint=tmp_path / "run.npz")
    assert len(history["loss"]) == 2
    again = small_model().fit(x, y, epochs=2, checkpoint=tmp_path / "run.npz", resume=True)
    assert again == history


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "utf-8", "utf-16"])
def test_what_a_stream_cannot_encode_is_replaced(encoding):
    text = "─│ 3 × 3 → é 猫 \udcff"
    stream = encoded(encoding)
    console.show(text, stream)
    shown = stream.buffer.getvalue().decode(encoding).rstrip("\n")
    for character, alike in zip(text.split(), shown.split(), strict=True):
        try:
            character.encode(encoding)
        except UnicodeEncodeError:
            assert alike.isascii() and alike
        else:
            assert alike == character
    assert "3 x 3" in shown if encoding == "ascii" else "3" in shown


def test_a_bare_stream_receives_the_text():
    stream = Bare()
    console.show("3 × 3", stream)
    assert stream.text == "3 × 3\n"


def test_an_epoch_is_saved_before_it_is_shown(monkeypatch, tmp_path):
    class Stops(io.StringIO):
        def write(self, text):
            raise KeyboardInterrupt

    x, y = small_set(24)
    monkeypatch.setattr(sys, "stdout", Stops())
    with pytest.raises(KeyboardInterrupt):
        small_model().fit(x, y, epochs=1, checkpoint=tmp_path / "run.npz")
    with ArrayFile(tmp_path / "run.npz", "checkpoint") as file:
        assert file.description["position"]["epoch"] == 1


def test_a_notebook_has_a_bar_and_a_file_has_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(console, "is_notebook", lambda: True)
    with Progress("epoch 1/1", 8) as progress:
        progress.update(8, dict)
        progress.finish({"loss": 0.5, "seconds": 1.0})
    assert "loss=0.5" in sys.stderr.getvalue()
    monkeypatch.setattr(console, "is_notebook", lambda: False)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with Progress("epoch 1/1", 8) as progress:
        progress.finish({"loss": 0.5, "seconds": 1.0})
    assert sys.stdout.getvalue() == "epoch 1/1  1.0 s  loss 0.5000\n"


def raises(error):
    raise error


def test_the_exit_code_of_a_command(capsys):
    stopped = [mc.TrainingInterrupted("stopped", mc.History(), number) for number in (signal.SIGINT, signal.SIGTERM)]
    for error, code in [(mc.InputError("wrong"), 1), (KeyboardInterrupt(), 130), (stopped[0], 130), (stopped[1], 143)]:
        assert console.run_command(lambda error=error: raises(error)) == code
    assert "wrong" in capsys.readouterr().err
    assert console.run_command(lambda: None) == 0
    assert console.run_command(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        console.run_command(lambda: 1 / 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
def test_a_command_whose_output_cannot_be_written_ends_in_good_order():
    command = [sys.executable, "-m", "minicnn", "im2col"]
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, open(writer, "w") as pipe:
        processes = [
            subprocess.Popen(command, stdout=stream, stderr=subprocess.PIPE, text=True) for stream in (pipe, full)
        ]
        shown = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert shown[0] == "" and "No space left" in shown[1] and "Exception ignored" not in shown[1]


def test_a_warning_on_a_closed_stream_costs_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", closed())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda message, *_: sys.stderr.write(str(message)))
        console.warn("a warning")


def test_a_warning_names_the_line_of_the_user():
    with pytest.warns(UserWarning, match="pixels") as caught:
        small_model().evaluate(np.full((2, 1, 8, 8), 200.0), np.array([0, 1]))
    assert caught[0].filename == __file__


def test_a_notebook_shows_an_error_in_few_lines():
    x, y = small_set(12)
    with pytest.raises(mc.InputError) as caught:
        small_model().fit(x[:, 0], y)
    lines = caught.value._render_traceback_()
    assert len(lines) <= 4
    assert "small_model().fit(x[:, 0], y)" in lines[0] and "channel axis" in lines[-1]
