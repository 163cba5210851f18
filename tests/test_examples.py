"""The examples as a user runs them: from the command line, but small."""

import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import minicnn as mc

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="only a checkout has the examples")


@pytest.fixture(autouse=True)
def shared_cache(tmp_path_factory, own_cache, monkeypatch):
    """The letters are drawn once for all examples."""
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path_factory.getbasetemp() / "letters"))


def run(script, *arguments, cwd):
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("script", ["lenet5.py", "conv_pool.py", "training_loop.py", "modern.py"])
def test_it_trains_saves_and_draws(script, tmp_path):
    done = run(script, "--epochs", 1, "--samples", 96, "--save", "net.npz", "--picture", "seen.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout and "synthetic" in done.stdout
    model = mc.load(tmp_path / "net.npz")
    assert model.predict(np.zeros((1, 1, 28, 28), np.uint8)).shape == (1, 10)
    with Image.open(tmp_path / "seen.png") as picture:
        assert picture.format == "PNG" and len(picture.getcolors(2**20)) > 50


def test_the_networks_written_out_are_those_of_the_library():
    """The same layers in the same order, with the parameters of the lab's table."""
    for name, count in {"lenet5": "61,706", "conv_pool": "15,735,170", "two_conv": "125,499,810"}.items():
        source = (EXAMPLES / f"{name}.py").read_text()
        assert count in source
        written = eval("[" + source.split("    [\n")[1].split("    ],\n")[0] + "]", {"mc": mc})
        library = getattr(mc.networks, name)(input_shape=None).layers
        assert [repr(layer) for layer in written] == [repr(layer) for layer in library]


def test_the_modern_network_is_that_of_the_library_and_each_ingredient_can_be_left_out(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import modern

    assert repr(modern.network().layers) == repr(mc.networks.small_resnet().layers)
    for name in modern.INGREDIENTS:
        assert modern.network((name,)).predict(np.zeros((1, 1, 28, 28), np.uint8)).shape == (1, 10)


def test_an_accuracy_below_the_minimum_fails(tmp_path):
    done = run("lenet5.py", "--epochs", 1, "--samples", 40, "--min-accuracy", 99, cwd=tmp_path)
    assert done.returncode == 1 and "99" in done.stderr
    assert (tmp_path / "lenet5.npz").exists()  # what was learned is kept


def test_the_same_seed_gives_the_same_network(tmp_path):
    for name in ("a.npz", "b.npz"):
        assert (
            run("lenet5.py", "--epochs", 1, "--samples", 64, "--seed", 3, "--save", name, cwd=tmp_path).returncode == 0
        )
    first, second = mc.load(tmp_path / "a.npz"), mc.load(tmp_path / "b.npz")
    for name, parameter in first.parameters().items():
        np.testing.assert_array_equal(parameter.value, second.parameters()[name].value)


def test_the_backends_train_the_same_network(tmp_path):
    """The plain backend and the fast one compute the same up to rounding; both begin with the same weights."""
    for backend in ("plain", "numpy"):
        options = ("--epochs", 1, "--samples", 64, "--backend", backend, "--save", f"{backend}.npz")
        done = run("lenet5.py", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"backend {backend}" in done.stdout
    plain, fast = (mc.load(tmp_path / f"{backend}.npz").parameters() for backend in ("plain", "numpy"))
    for name, parameter in plain.items():
        np.testing.assert_allclose(parameter.value, fast[name].value, atol=1e-4, err_msg=name)


def test_real_images(tmp_path, real_data):
    done = run("lenet5.py", "--data", real_data, "--epochs", 1, "--samples", 3000, "--min-accuracy", 60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "notMNIST" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--save", "nowhere/net.npz"], "nowhere"),
        (["--epochs", "0"], "epochs"),
        (["--batch-size", "many"], "many"),
        (["--samples", "99999999"], "99999999"),
        (["--min-accuracy", "101"], "101"),
        (["--backend", "abacus"], "abacus"),
        (["--seed", "-1"], "-1"),
        (["--save", "folder"], "folder"),
    ],
)
@pytest.mark.parametrize("script", ["lenet5.py", "training_loop.py"])
def test_wrong_arguments_are_refused_before_any_work(tmp_path, script, arguments, named):
    (tmp_path / "folder").mkdir()
    done = run(script, *arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert named in done.stderr and "Traceback" not in done.stderr
    assert "epoch" not in done.stdout and list(tmp_path.glob("*.npz")) == []


def test_a_run_that_was_stopped_is_resumed(tmp_path):
    """One epoch, and a second one in another process, result in the same network as two epochs at once."""
    for epochs, name in ((1, "half.npz"), (2, "both.npz")):
        options = ("--samples", 64, "--epochs", epochs, "--save", name, "--checkpoint", "run.npz")
        assert run("lenet5.py", *options, cwd=tmp_path).returncode == 0
    assert run("lenet5.py", "--samples", 64, "--epochs", 2, "--save", "once.npz", cwd=tmp_path).returncode == 0
    resumed, once = (mc.load(tmp_path / name).parameters() for name in ("both.npz", "once.npz"))
    for name, parameter in resumed.items():
        np.testing.assert_array_equal(parameter.value, once[name].value)


@pytest.mark.parametrize(
    ("script", "number", "code"), [("lenet5.py", signal.SIGTERM, 143), ("training_loop.py", signal.SIGINT, 130)]
)
def test_a_run_that_is_stopped_leaves_the_saved_network_alone(tmp_path, script, number, code):
    (tmp_path / "net.npz").write_bytes(b"a good network")
    options = ("--samples", "64", "--epochs", "10000", "--save", "net.npz", "--picture", "seen.png")
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / script), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    while not process.stdout.readline().startswith("epoch"):
        assert process.poll() is None
    process.send_signal(number)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == code
    assert "stopped" in shown and "Traceback" not in shown
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["net.npz"]
    assert (tmp_path / "net.npz").read_bytes() == b"a good network"


def test_a_layer_of_your_own_is_checked(tmp_path):
    done = run("check_your_layer.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    good, wrong = done.stdout.split("And with a mistake in it:")
    assert "WRONG" not in good and "WRONG" in wrong


def test_a_network_is_fine_tuned_with_a_new_head(tmp_path):
    network = mc.Sequential(
        [mc.Conv2D(4, 3), mc.BatchNorm(), mc.Residual([mc.ReLU()]), mc.MaxPool2D(4), mc.Flatten(), mc.Dense(10)],
        input_shape=(1, 28, 28),
    )
    network.save(tmp_path / "letters.npz")
    options = ("--model", "letters.npz", "--epochs", 2, "--images", 2, "--min-accuracy", 30)
    done = run("fine_tuning.py", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "20 images to learn from" in done.stdout and "(290 of 338 weights learn)" in done.stdout
    tuned = mc.load(tmp_path / "fine_tuned.npz")
    assert tuned.classes == ["no hole", "a hole"] and all(p.trainable for p in tuned.parameters().values())
    assert not np.array_equal(tuned.layers[0].weight.value, network.layers[0].weight.value)
    mc.Sequential([mc.Flatten(), mc.Dense(3), mc.Tanh()], input_shape=(1, 28, 28)).save(tmp_path / "tanh.npz")
    done = run("fine_tuning.py", "--model", "tanh.npz", cwd=tmp_path)
    assert done.returncode == 1 and "Tanh()" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("library", ["PyTorch", "minicnn"])
def test_the_network_to_fine_tune_is_trained_by_both_libraries(library, tmp_path, monkeypatch, rng):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    import fine_tuning

    monkeypatch.setattr(fine_tuning, "EPOCHS", 1)
    x, labels = rng.random((64, 1, 28, 28)).astype("float32"), np.arange(64) % 10
    if library == "PyTorch":
        for package in ("torch", "onnx", "onnxscript"):
            pytest.importorskip(package, reason=f"{package} is not installed")
        fine_tuning.train_in_pytorch(x, labels, "letters.onnx")
        model = mc.exchange.load("letters.onnx")
    else:
        fine_tuning.train_here(x, labels, "letters.npz")
        model = mc.load("letters.npz")
    assert [type(layer).__name__ for layer in fine_tuning.split_head(model)] == [
        *("Conv2D", "ReLU", "MaxPool2D", "Conv2D", "ReLU", "MaxPool2D", "Flatten", "Dense", "ReLU")
    ]
    assert model.predict(x).shape == (64, 10)
