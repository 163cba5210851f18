"""Networks there and back through other kinds of files, and the commands that take a file of any kind."""

import sys

import numpy as np
import pytest
from layer_cases import built, name
from PIL import Image
from strict_backend import strict
from test_onnx_save import ALL_CASES, NETWORKS, SMALL, assert_close, images, nested, randomize

import minicnn as mc
from minicnn import __main__, console
from minicnn.backends.cupy import CupyOperations
from minicnn.core.layer import kept_arrays

onnx = pytest.importorskip("onnx", reason="ONNX files need the package onnx: pip install '.[test]'")


def round_trip(model, tmp_path):
    path = tmp_path / "model.onnx"
    mc.exchange.save_onnx(model, path)
    return mc.exchange.load_onnx(path)


#: Layers that come back with the arguments that they had, and not with others that mean the same.
SAME_ARGUMENTS = {
    *(mc.BatchNorm, mc.LayerNorm, mc.GroupNorm, mc.LocalResponseNorm, mc.Dense, mc.ZeroPad2D, mc.UpSampling2D),
    *(mc.LeakyReLU, mc.ELU, mc.GELU, mc.SiLU, mc.Hardswish, mc.Clip, mc.PReLU, mc.Softmax, mc.LogSoftmax),
    *(mc.GlobalAvgPool2D, mc.GlobalMaxPool2D),
}


def kinds(model):
    return [type(layer).__name__ for _, layer in model.row]


@pytest.mark.parametrize(("make", "shape"), ALL_CASES, ids=[name(case) for case in ALL_CASES])
def test_every_layer_comes_back_from_onnx(make, shape, tmp_path):
    model = randomize(mc.Sequential([built(make, shape, "float32")], shape))
    loaded = round_trip(model, tmp_path)
    x = images(shape)
    assert loaded.input_shape == shape
    assert_close(loaded.predict(x), model.predict(x))
    if type(model.layers[0]) in SAME_ARGUMENTS:
        assert repr(loaded.layers) == repr(model.layers)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_comes_back_from_onnx_as_it_was(network, tmp_path):
    model = randomize(getattr(mc.networks, network)(**SMALL.get(network, {})))
    model.classes = [f"class {k}" for k in range(10)]
    loaded = round_trip(model, tmp_path)
    assert kinds(loaded) == kinds(model) and loaded.classes == model.classes
    arrays, back = (dict(kept_arrays(net)) for net in (model, loaded))
    assert arrays.keys() == back.keys()
    for key, item in arrays.items():
        np.testing.assert_array_equal(back[key].value, item.value)
    x = images(model.input_shape)
    np.testing.assert_allclose(loaded.predict(x), model.predict(x), rtol=0, atol=1e-6)


def test_blocks_come_back_from_onnx(tmp_path):
    model = randomize(nested())
    x = images((1, 4, 5))
    assert_close(round_trip(model, tmp_path).predict(x), model.predict(x))


def test_a_model_on_another_device_goes_there_and_back(tmp_path):
    model = randomize(mc.Sequential([mc.Conv2D(2, 3), mc.BatchNorm(), mc.PReLU(), mc.Flatten()], (1, 5, 6)))
    x = images((1, 5, 6))
    y = model.predict(x)
    try:
        mc.use(CupyOperations(strict))
        model.convert()
        loaded = round_trip(model, tmp_path)
        assert all(isinstance(parameter.value, type(strict.zeros(1))) for parameter in loaded.parameters().values())
        assert_close(loaded.predict(x), y)
    finally:
        mc.use("numpy")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["minicnn", *map(str, arguments)])
        code = console.run_command(__main__.main)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def model(tmp_path):
    """A small network with names for its classes, in model.npz."""
    layers = [mc.Conv2D(2, 3, stride=2), mc.ReLU(), mc.Flatten(), mc.Dense(3), mc.Softmax()]
    model = randomize(mc.Sequential(layers, (1, 8, 6)))
    model.classes = ["ant", "bee", "cat"]
    model.save(tmp_path / "model.npz")
    return model


def test_convert_and_summary(run, model):
    x = images((1, 8, 6))
    assert run("convert", "model.npz", "model.ONNX")[0] == 0
    code, out, err = run("convert", "model.ONNX", "back.npz")
    assert (code, err) == (0, "") and "back.npz" in out
    back = mc.load("back.npz")
    assert back.classes == model.classes
    assert_close(back.predict(x), model.predict(x))
    tables = [run("summary", file) for file in ("model.npz", "model.ONNX", "back.npz")]
    assert tables[0] == tables[1] == tables[2] and "ant, bee, cat" in tables[0][1]


def test_convert_to_keras_and_back(run, model):
    pytest.importorskip("h5py", reason="Keras files need the package h5py: pip install '.[test]'")
    for source, target in (("model.npz", "model.keras"), ("model.keras", "model.onnx"), ("model.onnx", "back.npz")):
        code, out, err = run("convert", source, target)
        assert (code, err) == (0, "") and target in out
    x = images((1, 8, 6))
    assert_close(mc.load("back.npz").predict(x), model.predict(x))
    code, _, err = run("convert", "model.npz", "model.weights.h5")
    assert (code, err) == (0, "")
    fresh = mc.Sequential([mc.Conv2D(2, 3, stride=2), mc.ReLU(), mc.Flatten(), mc.Dense(3), mc.Softmax()], (1, 8, 6))
    mc.exchange.load_weights(fresh, "model.weights.h5")
    assert_close(fresh.predict(x), model.predict(x))
    code, _, err = run("summary", "model.weights.h5")
    assert code == 1 and "load_weights" in err


def test_convert_to_safetensors(run, model):
    pytest.importorskip("safetensors", reason="needs the package safetensors: pip install '.[test]'")
    assert run("convert", "model.npz", "model.safetensors")[0] == 0
    for parameter in model.parameters().values():
        parameter.value[...] = 0
    mc.exchange.load_weights(model, "model.safetensors")
    for key, parameter in mc.load("model.npz").parameters().items():
        np.testing.assert_array_equal(model.parameters()[key].value, parameter.value)


def test_explain_and_predict_take_onnx(run, model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    assert run("convert", "model.npz", "model.onnx")[0] == 0
    inner = mc.Sequential([*model.layers[:3], mc.Sequential(model.layers[3:])], (1, 8, 6))  # Softmax is its last, too
    inner.classes = model.classes
    inner.save("inner.npz")
    answers = [run("predict", file, "picture.png") for file in ("model.npz", "model.onnx", "inner.npz")]
    probabilities = model.predict(pixels[None, None])[0]
    best = f"{model.classes[probabilities.argmax()]} {100 * probabilities.max():.1f} %"
    assert answers[0] == answers[1] == answers[2] and answers[0][1].startswith(f"picture.png: {best}, ")
    code, out, err = run("explain", "model.onnx", "picture.png", "-o", "page.html")
    assert code == 0 and "page.html" in out, err
    assert "bee" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_size_of_an_open_input_is_an_option(run, model, tmp_path):
    mc.exchange.save_onnx(mc.Sequential([mc.Conv2D(2, 3), mc.GlobalAvgPool2D()], (3, 8, 6)), tmp_path / "open.onnx")
    file = onnx.load(tmp_path / "open.onnx")
    for dim in file.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.ClearField("dim_value")
    onnx.save(file, tmp_path / "open.onnx")
    Image.fromarray(np.full((9, 7, 3), 200, np.uint8)).save(tmp_path / "picture.png")
    commands = [
        ("summary", "open.onnx"),
        ("predict", "open.onnx", "picture.png"),
        ("explain", "open.onnx", "picture.png"),
        ("convert", "open.onnx", "closed.npz"),
    ]
    for command in commands:
        code, _, err = run(*command)
        assert code == 1 and "--input-shape" in err
        code, _, err = run(*command, "--input-shape", "3,9,7")
        assert (code, err) == (0, "")
    assert mc.load("closed.npz").input_shape == (3, 9, 7)
    for file, shape in (("open.onnx", "9x7"), ("open.onnx", "9,7"), ("open.onnx", "1,9,7"), ("model.npz", "1,8,6")):
        code, _, err = run("summary", file, "--input-shape", shape)
        assert code == 1 and len(err.splitlines()) == 1 and "input" in err


#: The command, and what its error contains.
ERRORS = {
    "an unknown ending": (["convert", "nowhere.npz", "model.tflite"], "model.tflite"),
    "onto itself": (["convert", "model.npz", "./model.npz"], "another name"),
    "weights alone": (["summary", "weights.pt"], "load_weights"),
    "no such file": (["summary", "nowhere.onnx"], "nowhere.onnx"),
    "not ONNX": (["convert", "text.onnx", "model2.npz"], "text.onnx"),
    "not a network": (["summary", "text"], "text"),
}


@pytest.mark.parametrize(("arguments", "text"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_read_or_written_is_one_line(run, model, arguments, text, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"PK")
    (tmp_path / "text").write_text("no network\n" * 20)
    (tmp_path / "text.onnx").write_text("no network\n" * 20)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, err = run(*arguments)
    assert code == 1 and out == "" and len(err.splitlines()) == 1 and text in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
