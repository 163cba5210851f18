"""`python -m minicnn train` and `predict`: from a folder to a network that names what it sees."""

import io
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_idx import DIGITS, write_set

import minicnn as mc
from minicnn import __main__, commands, console
from minicnn.datasets.images import read_fitted


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    png = mc.plots.png
    monkeypatch.setattr(mc.plots, "png", lambda figure, dpi=100: png(figure, 15))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["minicnn", *map(str, arguments)])
        code = console.run_command(__main__.main)
        return code, *capsys.readouterr()

    return run


def draw(path, colour, seed, size=(13, 11)):
    noise = np.random.default_rng(seed).integers(-40, 40, (*size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def pictures(tmp_path):
    for seed in range(20):
        draw(tmp_path / "photos" / "red fox" / f"{seed}.png", (200, 80, 60), seed)
        draw(tmp_path / "photos" / "sea" / f"{seed}.png", (40, 90, 200), 100 + seed)
    return tmp_path / "photos"


QUICK = ["--network", "logistic_regression", "--epochs", 25]


def test_a_folder_becomes_a_network_that_answers_with_names(run, pictures, tmp_path):
    code, out, err = run("train", "photos", *QUICK, "--test", 0.2, "-o", "out")
    assert code == 0, err
    assert re.search(r"2 classes, read as colour of 13 x 11 pixels", out)
    assert re.search(r"red fox +16 +4\n", out) and "test accuracy 100.00 %: 8 of 8" in out
    model = mc.load("out/model.npz")
    assert model.classes == ["red fox", "sea"] and model.input_shape == (3, 13, 11)
    if (tmp_path / "out" / "report").exists():  # with matplotlib
        assert "labelled sea" in (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    large = draw(tmp_path / "new.jpg", (40, 90, 200), 7, size=(90, 60))
    code, out, err = run("predict", "out/model.npz", "new.jpg", "photos/red fox")
    assert code == 0, err
    lines = out.splitlines()
    probabilities = model.predict(read_fitted(large, (13, 11), mode="RGB")[None])[0]
    first, second = (f"{name} {100 * p:.1f} %" for name, p in zip(["sea", "red fox"], probabilities[::-1], strict=True))
    assert lines[0] == f"new.jpg: {first}, {second}"
    assert len(lines) == 21 and all(re.match(r"photos/red fox/\d+\.png: red fox \d", line) for line in lines[1:])


def test_mistakes_are_listed_by_their_files(run, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for seed in range(5):  # in the wrong folder
        draw(pictures / "sea" / f"fox{seed}.png", (200, 80, 60), 50 + seed)
    code, out, _ = run("train", "photos", *QUICK, "--test", 0.4)
    assert code == 0
    listed = re.findall(r"  sea/fox\d\.png: red fox \d+ %, in truth sea\n", out)
    assert listed and f"sea taken for red fox: {len(listed)} of" in out


def test_without_matplotlib_all_but_the_report_is_made(run, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, _ = run("train", "photos", *QUICK)
    assert code == 0 and "no report" in out and "matplotlib" in out
    assert [path.name for path in (tmp_path / "trained").iterdir()] == ["model.npz"]


def test_a_run_with_a_checkpoint_is_resumed(run, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    weights = []
    for _ in range(2):
        code, _, err = run("train", "photos", *QUICK, "--checkpoint", "run.npz", "-o", "out")
        assert code == 0, err
        weights.append(mc.load("out/model.npz").layers[1].weight.value.copy())
    np.testing.assert_array_equal(*weights)
    code, _, err = run("train", "photos", *QUICK, "--checkpoint", "run.npz", "--seed", 1)
    assert code == 1 and len(err.strip().splitlines()) == 1


def test_the_files_of_mnist_are_trained_on_as_they_are(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_set(tmp_path / "MNIST" / "raw", DIGITS, DIGITS)
    code, out, err = run("train", "MNIST", *QUICK)
    assert code == 0 and "10 classes, read as grey of 8 x 6 pixels" in out, err
    code, _, err = run("train", "MNIST", *QUICK, "--size", 28)
    assert code == 1 and "--size" in err


ERRORS = {
    "no such folder": ["train", "nowhere"],
    "one class": ["train", "photos/sea"],
    "an impossible size": ["train", "photos", "--size", "12x"],
    "a size of 0": ["train", "photos", "--size", "0"],
    "no epochs": ["train", "photos", "--epochs", "0"],
    "an impossible fraction": ["train", "photos", "--test", "1.5"],
    "an output that cannot be": ["train", "photos", "-o", "no/where"],
    "an output that is a file": ["train", "photos", "-o", "photos/sea/1.png"],
    "no such model": ["predict", "nowhere.npz", "photos/sea/1.png"],
    "a model of vectors": ["predict", "vectors.npz", "photos/sea/1.png"],
    "no classes to show": ["predict", "vectors.npz", "x.png", "--top", "0"],
}


@pytest.mark.parametrize("arguments", ERRORS.values(), ids=ERRORS)
def test_an_error_is_one_sentence_and_nothing_is_written(run, pictures, tmp_path, arguments):
    mc.Sequential([mc.Dense(3)], input_shape=(4,)).save(tmp_path / "vectors.npz")
    code, out, err = run(*arguments)
    assert code == 1 and err.startswith("error: ") and len(err.strip().splitlines()) == 1 and not out
    assert not (tmp_path / "trained").exists()


def test_a_picture_that_cannot_be_read_does_not_hide_the_others(run, tmp_path):
    model = mc.networks.logistic_regression((1, 9, 9), classes=4)
    model.save(tmp_path / "model.npz")
    draw(tmp_path / "in" / "good.png", (255, 255, 255), 0)
    (tmp_path / "in" / "bad.png").write_bytes(b"hello")
    code, out, err = run("predict", "model.npz", "in", "missing.png", "in/good.png", "--top", 1)
    assert code == 1 and len(err.splitlines()) == 2 and "bad.png" in err and "missing.png" in err
    assert len(out.splitlines()) == 2 and re.match(r"in/good\.png: [A-D] \d+\.\d %$", out.splitlines()[0])
    _, inverted, _ = run("predict", "model.npz", "in/good.png", "--invert")
    image = read_fitted(tmp_path / "in" / "good.png", (9, 9), invert=True)
    best = int(model.predict(image[None])[0].argmax())
    assert inverted.startswith(f"in/good.png: {'ABCD'[best]} ")


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([(28, 20)] * 3, (28, 20)),
        ([(28, 20), (28, 21)], (32, 32)),
        ([(50, 90)] * 3, (48, 48)),
        ([(200, 160)] * 2, (64, 64)),
        ([(64, 64)], (64, 64)),
    ],
)
def test_the_size_is_chosen_by_the_pictures(tmp_path, sizes, chosen):
    paths = [draw(tmp_path / f"{k}.png", (0, 0, 0), k, size) for k, size in enumerate(sizes)]
    (tmp_path / "broken.png").write_bytes(b"hello")
    assert commands.choose_size([*paths, tmp_path / "broken.png"]) == chosen


def test_colour_is_chosen_if_there_are_colours(tmp_path):
    grey = [draw(tmp_path / f"{k}.png", (0, 0, 0), k) for k in range(12)]
    for path in grey:
        Image.open(io.BytesIO(path.read_bytes())).convert("L").convert("RGB").save(path)
    colour = [draw(tmp_path / f"colour{k}.png", (200, 0, 0), k) for k in range(3)]
    assert commands.choose_mode(grey) == "L"
    assert commands.choose_mode([*grey, colour[0]]) == "L"  # one among many may be a mistake
    assert commands.choose_mode([*grey, *colour]) == "RGB"


EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "own_pictures.py"


@pytest.mark.skipif(not EXAMPLE.exists(), reason="only a checkout has the examples")
def test_the_example_draws_trains_saves_and_predicts(tmp_path):
    options = ["--count", "10", "--epochs", "1"]
    done = subprocess.run([sys.executable, EXAMPLE, *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"4 classes: circle, square, star, triangle.*test accuracy", done.stdout, re.DOTALL)
    assert re.search(r"\n(circle|square|star|triangle)/\d\.png: \w+, \d+\.\d %\n$", done.stdout)
    assert mc.load(tmp_path / "shapes.npz").classes == ["circle", "square", "star", "triangle"]
    done = subprocess.run([sys.executable, EXAMPLE, "--folder", "none"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: 'none' does not exist")
