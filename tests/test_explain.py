"""The data of explain: the library's own arrays; and its code."""

import glob
import html
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hostile import HOSTILE, tags
from PIL import Image

import minicnn as mc
from minicnn import __main__, console
from minicnn.inspect.explain import describe, excitation
from minicnn.inspect.explain.collect import collect

COLLECT = sys.modules["minicnn.inspect.explain.collect"]
EXPLAIN = sys.modules["minicnn.inspect.explain"]


@pytest.fixture
def letter():
    (x, y), _ = mc.datasets.load_letters(train=10, test=10, cache=False)
    return x[3], int(y[3])


def with_names(texts):
    """A page whose class names, layer names, parameter names and representations are given texts."""

    class Held(mc.Layer):
        def __init__(self):
            self.inside = {name: mc.Dense(4) for name in texts}

        def __repr__(self):
            return "".join(texts)

        def forward(self, x, training=False):
            return x, lambda dy: dy

    layers = [type("".join(texts).replace("\0", "").replace("\udcff", ""), (Held,), {})()]
    layers = [mc.Flatten(), *layers, mc.Dense(len(texts))]
    model = mc.Sequential(layers, input_shape=(1, 2, 2))
    layers[1].inside[texts[0]].build((4,))
    return mc.explain(model, np.eye(2), label=1, names=texts)


def test_no_text_changes_the_page():
    plain, explanation = with_names([f"name {k}" for k in range(len(HOSTILE))]), with_names(HOSTILE)
    page = explanation.html()
    assert tags(page) == tags(plain.html())
    (text,) = re.findall('<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert text.isascii() and not {*"<>&"} & {*text}  # "<!--<script>" would hide the end of the script
    data = json.loads(text)
    assert data["names"] == list(HOSTILE)
    assert data["layers"][1]["text"] == "".join(HOSTILE)
    frame = explanation._repr_html_()
    assert tags(frame) == [("iframe", ["title", "srcdoc", "style"])]
    assert html.unescape(re.search('srcdoc="(.*?)"', frame, re.DOTALL)[1]) == page
    page.encode()


def mixed_convolutions():
    layers = [
        mc.Conv2D(6, (3, 2), stride=(2, 1), padding=((0, 2), (1, 0)), groups=2, dilation=(1, 2), use_bias=False),
        mc.Sigmoid(),
        mc.Conv2D(4, 2, stride=3),
        mc.Conv2D(3, 2, padding=1),
        mc.Flatten(),
        mc.Dense(3),
    ]
    return mc.Sequential(layers, input_shape=(4, 20, 17))


@pytest.mark.parametrize("network", ["lenet5", "conv_pool", "mixed"])
def test_every_number_has_its_numerical_gradient(network, letter, rng, monkeypatch):
    monkeypatch.setattr(COLLECT, "NUMERICAL_SECONDS", np.inf)
    if network == "mixed":
        data = collect(mixed_convolutions(), rng.random((4, 20, 17)))
    else:
        data = collect(getattr(mc.networks, network)(), *letter)
    for layer in data["layers"]:
        if layer["kind"] == "Conv2D":
            for numerical, analytic in (("numWeight", "dweight"), ("numInput", "dx")):
                scale = abs(layer[analytic]).max()
                np.testing.assert_allclose(layer[numerical] / scale, layer[analytic] / scale, atol=1e-5)


def test_without_time_there_are_no_numerical_gradients(letter, monkeypatch):
    monkeypatch.setattr(COLLECT, "NUMERICAL_SECONDS", -1)
    layer = collect(mc.networks.lenet5(), *letter)["layers"][0]
    assert np.isnan(layer["numWeight"]).all() and np.isnan(layer["numInput"]).all()


def test_the_arrays_are_those_of_the_model(letter):
    model = mc.networks.lenet5()
    data = collect(model, *letter)
    np.testing.assert_array_equal(data["probabilities"], model.predict(letter[0][None, None])[0])
    logits, backward = model.forward(letter[0][None, None])
    loss, dlogits = mc.SoftmaxCrossEntropy()(logits, np.array([letter[1]]))
    dx = backward(dlogits)
    np.testing.assert_allclose(data["layers"][0]["dx"], dx[0], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(
        data["layers"][0]["dweight"], model.parameters()["conv2d_1.weight"].grad, rtol=1e-4, atol=1e-6
    )
    assert data["loss"] == pytest.approx(float(loss))


class Noise(mc.Layer):
    """Changes an array, a number and a random generator in every forward pass."""

    def __init__(self):
        self.mean, self.calls, self.rng = mc.State(np.zeros(3)), mc.State(0), np.random.default_rng(0)

    def forward(self, x, training=False):
        self.mean.value += 1
        self.calls.value += 1
        return x + self.rng.normal(size=x.shape).astype(x.dtype), lambda dy: dy


@pytest.mark.parametrize("training", [False, True])
def test_explain_leaves_the_model_as_it_was(training, letter):
    layers = [mc.Flatten(), Noise(), mc.Dense(40), mc.Dropout(0.5, seed=1), mc.Dense(10)]
    model = mc.Sequential(layers, input_shape=(1, 28, 28))
    model.forward(letter[0][None, None], training=True)
    noise, dropout = layers[1], layers[3]
    before = noise.mean.value.copy(), noise.calls.value, noise.rng.bit_generator.state, dropout.step.value
    weights = [parameter.value.copy() for parameter in model.parameters().values()]
    mc.explain(model, *letter, training=training)
    np.testing.assert_array_equal(noise.mean.value, before[0])
    assert (noise.calls.value, noise.rng.bit_generator.state, dropout.step.value) == before[1:]
    for parameter, weight in zip(model.parameters().values(), weights, strict=True):
        assert not parameter.has_gradient
        np.testing.assert_array_equal(parameter.value, weight)


@pytest.mark.parametrize("in_forward", [False, True])
def test_states_that_begin_in_forward(in_forward, letter):
    """A state may get its first value there; one that is made there cannot be restored."""

    class Late(mc.Layer):
        def __init__(self):
            if not in_forward:
                self.mean = mc.State(None)

        def forward(self, x, training=False):
            if in_forward and x.any() and not hasattr(self, "mean"):
                self.mean = mc.State(None)
            if x.any():
                self.mean.value = x.mean(axis=0)
            return x, lambda dy: dy

    model = mc.Sequential([mc.Flatten(), Late(), mc.Dense(10)])
    model.build((1, 28, 28))
    if in_forward:
        with pytest.raises(mc.InputError, match=r"late_1\.mean"):
            mc.explain(model, *letter)
    else:
        mc.explain(model, *letter)
        assert model.layers[1].mean.value is None


def test_an_error_leaves_the_model_as_it_was(letter):
    class Broken(mc.Layer):
        def forward(self, x, training=False):
            def backward(dy):
                raise RuntimeError("broken")

            return x, backward

    layers = [mc.Flatten(), Broken(), mc.Dense(40), mc.Dropout(0.5), mc.Dense(10)]
    model = mc.Sequential(layers, input_shape=(1, 28, 28))
    with pytest.raises(RuntimeError, match="broken"):
        mc.explain(model, *letter, training=True)
    assert layers[3].step.value == 0
    assert not any(parameter.has_gradient for parameter in model.parameters().values())


class Residual(mc.Layer):
    """Layers inside a layer: y = x + inner(x)."""

    def __init__(self, filters):
        self.filters = filters
        self.inner = mc.Sequential([mc.Conv2D(filters, 3, padding="same"), mc.Tanh()])

    def forward(self, x, training=False):
        y, backward = self.inner.forward(x, training)
        return x + y, lambda dy: dy + backward(dy)


class Conv2D(mc.Layer):
    """A layer of the user's own that has the name of another."""

    def forward(self, x, training=False):
        return 2 * x, lambda dy: 2 * dy


class Tripled(mc.Dense):
    """A subclass that computes something else."""

    def forward(self, x, training=False):
        y, backward = super().forward(x, training)
        return 3 * y, lambda dy: backward(3 * dy)


def nested_network():
    layers = [
        mc.Sequential([mc.Conv2D(4, 3), mc.ReLU()]),
        Residual(4),
        Conv2D(),
        mc.Softmax(),
        mc.Conv2D(2, 2),
        mc.Flatten(),
        Tripled(5),
        mc.Sequential([mc.Dense(3), mc.Softmax()]),
    ]
    return mc.Sequential(layers, input_shape=(1, 8, 7))


def test_layers_inside_layers(rng):
    model, image = nested_network(), rng.random((1, 8, 7), dtype="float32")
    data = collect(model, image, 2)
    layers = {layer["name"]: layer for layer in data["layers"]}
    assert [(name, layer["view"]) for name, layer in layers.items()] == [
        ("sequential_1.conv2d_1", "convolution"),
        ("sequential_1.relu_1", "elementwise"),
        ("residual_1", "generic"),
        ("conv2d_1", "generic"),
        ("softmax_1", "generic"),
        ("conv2d_2", "convolution"),
        ("flatten_1", "flatten"),
        ("tripled_1", "generic"),
        ("sequential_2.dense_1", "dense"),
    ]
    assert layers["residual_1"]["parameterShapes"] == [
        ["inner.conv2d_1.weight", [4, 4, 3, 3]],
        ["inner.conv2d_1.bias", [4]],
    ]
    np.testing.assert_array_equal(data["probabilities"], model.predict(image[None])[0])
    logits, backward = model.forward(image[None])
    _, dlogits = mc.SoftmaxCrossEntropy()(logits, np.array([2]))
    np.testing.assert_allclose(layers["sequential_1.conv2d_1"]["dx"], backward(dlogits)[0], rtol=1e-4, atol=1e-7)
    assert not data["drawable"]


def test_the_arithmetic_of_a_shape_has_its_numbers(letter):
    data = collect(mc.networks.lenet5(), *letter)
    assert data["layers"][0]["sizes"][0] == "height: (28 + 2·2 - 5) / 1 + 1 = 28"
    assert data["layers"][6]["sizes"] == ["16·5·5 = 400 numbers"]
    assert data["layers"][7]["sizes"] == ["400 inputs · 120 units + 120 biases = 48,120 learned numbers"]


def test_a_picture_of_any_size(tmp_path):
    Image.fromarray(np.full((90, 300, 3), 200, np.uint8)).save(tmp_path / "wide.png")
    data = collect(mc.networks.lenet5(), tmp_path / "wide.png")
    assert data["input"].shape == (1, 28, 28)
    assert 0 < (data["input"] > 0).mean() < 0.5  # its proportions are kept
    assert not data["given"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda folder: (mc.networks.lenet5(), folder / "none.png"), mc.FileError, "none.png"),
        (lambda folder: (mc.networks.lenet5(), np.zeros((3, 28, 28))), mc.InputError, r"\(1, 28, 28\)"),
        (lambda folder: (mc.networks.lenet5(), np.full((28, 28), np.nan)), mc.InputError, "NaN"),
        (lambda folder: (mc.networks.lenet5(), np.zeros((28, 28)), 10), mc.InputError, "10"),
        (lambda folder: (mc.Sequential([mc.Dense(3)], (4,)), np.zeros(4)), mc.InputError, "images"),
        (lambda folder: (mc.Sequential([mc.ReLU()], (1, 4, 4)), np.zeros((4, 4))), mc.InputError, "scores"),
    ],
)
def test_what_cannot_be_explained_is_refused(make, error, message, tmp_path):
    with pytest.raises(error, match=message):
        mc.explain(*make(tmp_path))


def test_the_command(tmp_path, letter, monkeypatch):
    mc.networks.lenet5().save(tmp_path / "net.npz")
    Image.fromarray(letter[0]).save(tmp_path / "letter.png")

    def run(*arguments):
        command = [sys.executable, "-m", "minicnn", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    assert run("explain", "net.npz", "letter.png", "-o", "page.html", "--label", "2").returncode == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    steps = run("im2col", "--image", "4x5", "--kernel", "3x2", "--padding", "1", "--stride", "2")
    assert steps.returncode == 0 and "\x1b" not in steps.stdout
    assert glob.glob(str(tmp_path / ".*")) == []


LONG = "9" * 5000


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        *((2, line.split()) for line in ("", "nothing", "explain", "gradcheck x")),
        *((1, ["im2col", *line.split()]) for line in ("--image 0x3", "--image 3x00", "--kernel 9", "--stride 0")),
        (2, ["im2col", "--padding", LONG]),
        (1, ["im2col", "--image", LONG]),
        (1, ["im2col", "--kernel", "\N{ARABIC-INDIC DIGIT THREE}"]),
        *((1, ["explain", model, "a.png"]) for model in ("missing.npz", "folder", "text.npz", "vector.npz", "", LONG)),
        *((1, ["explain", "net.npz", image]) for image in ("missing.png", "folder", "text.npz", "", LONG)),
        *(
            (1, ["explain", "net.npz", image])
            for image in ("nowhere:3", "letters:\N{SUPERSCRIPT TWO}", f"letters:{LONG}")
        ),
        *((1, ["explain", "net.npz", "a.png", *line.split()]) for line in ("--label 10", "-o folder", "-o no/a.html")),
        (1, ["explain", "net.npz", "a.png", "--label", "x"]),
        *((1, ["explain", *words]) for words in (["\x1b[31m\udcff", "a.png"], ["net.npz", "\x1b[31m\udcff"])),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_wrong_argument_is_one_sentence(tmp_path_factory, monkeypatch, capfd, code, arguments):
    """And no traceback, no control characters, no long quotation."""
    folder = tmp_path_factory.getbasetemp() / "commands"
    if not folder.exists():
        (folder / "folder").mkdir(parents=True)
        mc.networks.logistic_regression().save(folder / "net.npz")
        mc.Sequential([mc.Dense(3)], input_shape=(4,)).save(folder / "vector.npz")
        (folder / "text.npz").write_text("not an archive")
        Image.new("L", (28, 28)).save(folder / "a.png")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["minicnn", *arguments])
    try:
        ended = console.run_command(__main__.main)
    except SystemExit as error:  # of argparse
        ended = error.code
    told = capfd.readouterr().err
    assert ended == code, told
    last = told.strip().splitlines()[-1]
    assert "error: " in last and ("Traceback" not in told) and "\x1b" not in told
    assert len(last) < (400 if code == 1 else 6000)


# What is new behind the page: blocks, normalization, large layers, labels by name, filters


def block_model():
    layers = [
        mc.Residual([mc.Conv2D(2, 3, padding=1), mc.Sequential([mc.BatchNorm(), mc.ReLU()])], shortcut=mc.Conv2D(2, 1)),
        mc.Branches([[mc.Conv2D(3, 1)], []], join="concatenate"),
        mc.Flatten(),
        mc.Residual([mc.Dense(180)]),
        mc.Dense(3),
        mc.Softmax(),
    ]
    return mc.Sequential(layers, input_shape=(1, 6, 6))


@pytest.mark.parametrize("training", [False, True])
def test_the_layers_inside_a_block_are_those_of_the_block(training, rng):
    model, image = block_model(), rng.random((1, 6, 6), dtype="float32")
    data = collect(model, image, 1, training=training)
    layers = data["layers"]
    names = [layer["name"] for layer in layers]
    assert names[:5] == [
        "residual_1",
        "residual_1.layers.0",
        "residual_1.layers.batchnorm_1",
        "residual_1.layers.relu_1",
        "residual_1.shortcut.0",
    ]
    assert [layer["depth"] for layer in layers] == [0, 1, 1, 1, 1, 0, 1, 0, 0, 1, 0]
    for layer in layers:  # what a layer reads, and the sum that its gradient is
        if layer["view"] == "block":
            outputs = [layers[row["entries"][-1]]["y"] if row["entries"] else None for row in layer["rows"]]
            gradients = [layers[row["entries"][0]]["dx"] if row["entries"] else row["dy"] for row in layer["rows"]]
            np.testing.assert_allclose(layer["dx"], sum(gradients), rtol=1e-5, atol=1e-7)
            source = image if layer["reads"] < 0 else layers[layer["reads"]]["y"]
            outputs = [source if y is None else y for y in outputs]
            joined = sum(outputs) if layer["join"] == "add" else np.concatenate(outputs)
            np.testing.assert_allclose(layer["y"], joined, rtol=1e-6, atol=1e-7)
    with np.errstate(all="ignore"):
        y, backward = model.forward(image[None], training=training)
    np.testing.assert_allclose(data["logits"], y[0], rtol=1e-4, atol=1e-6)
    _, dlogits = mc.SoftmaxCrossEntropy()(y, np.array([1]))
    np.testing.assert_allclose(layers[0]["dx"], backward(dlogits)[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("layer", [mc.BatchNorm(), mc.GroupNorm(2), mc.LayerNorm()], ids=repr)
def test_the_gradient_of_a_normalization_is_that_of_its_terms(layer, rng):
    """In training: (dnormalized - its mean - normalized * the mean of their product) / the standard deviation."""
    model = mc.Sequential([layer, mc.Flatten(), mc.Dense(3)], input_shape=(4, 5, 3))
    image = rng.random((4, 5, 3), dtype="float32")
    model.build((4, 5, 3))
    layer.scale.value[...] = rng.random(layer.scale.value.shape)
    about = collect(model, image, 1, training=True)["layers"][0]
    found = about["statistics"]
    G = len(found["mean"])
    grouped = image.reshape(G, -1)
    np.testing.assert_allclose(found["mean"], grouped.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["variance"], grouped.var(axis=1), rtol=1e-4)
    normalized = found["normalized"].reshape(G, -1)
    scale = about["scale"].reshape(*about["scale"].shape, *(1,) * (3 - about["scale"].ndim))
    dnormalized = (about["dy"] * scale).reshape(G, -1)
    by_hand = dnormalized - found["meanGradient"][:, None] - normalized * found["meanProduct"][:, None]
    by_hand /= np.sqrt(found["variance"] + about["epsilon"])[:, None]
    np.testing.assert_allclose(by_hand.reshape(4, 5, 3), about["dx"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found["dx"], about["dx"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found["y"], about["y"], rtol=1e-4, atol=1e-6)


def test_a_batch_normalization_outside_training_has_both(rng):
    model = mc.Sequential([mc.BatchNorm(), mc.Flatten(), mc.Dense(3)], input_shape=(2, 5, 3))
    image = rng.random((2, 5, 3), dtype="float32")
    model.forward(image[None], training=True)
    evaluated, trained = (collect(model, image, 1, training=mode)["layers"][0] for mode in (False, True))
    assert evaluated["statistics"]["fixed"]
    np.testing.assert_array_equal(evaluated["statistics"]["mean"], model.layers[0].running_mean.value)
    np.testing.assert_allclose(evaluated["asInTraining"]["y"], trained["y"], rtol=1e-5, atol=1e-6)


def test_a_large_dense_layer_has_the_largest_terms_of_every_unit(monkeypatch, letter):
    monkeypatch.setattr(describe, "ALL_WEIGHTS", 10_000)
    model = mc.networks.lenet5()
    layers = collect(model, *letter)["layers"]
    layer, x = layers[7], layers[6]["y"]
    weight = model.layers[7].weight.value
    assert "weight" not in layer and "weight" in layers[11]
    terms = weight * x
    order = np.argsort(-abs(terms), axis=1, kind="stable")[:, : layer["top"].shape[1]]
    picked = [np.take_along_axis(abs(terms), index, axis=1) for index in (layer["top"], order)]
    np.testing.assert_array_equal(*picked)
    np.testing.assert_array_equal(layer["topWeights"], np.take_along_axis(weight, layer["top"], axis=1))
    of_input = layer["topOfInput"]
    assert abs(layer["dx"]).argmax() == of_input["inputs"][0]
    column = weight[:, of_input["inputs"][0]]
    assert abs(column * layer["dy"]).argmax() == of_input["units"][0, 0]
    assert of_input["weights"][0, 0] == column[of_input["units"][0, 0]]


def test_a_label_may_be_the_name_of_its_class(letter):
    model = mc.networks.logistic_regression()
    assert collect(model, letter[0], "C")["label"] == 2
    assert collect(model, letter[0], "7")["label"] == 7
    names = [*"9876543210"]
    assert collect(model, letter[0], "7", names)["label"] == 2  # the name comes first
    for label in ("K", "10", "-1", "", "\x1b[31m", 10, 1.5):
        with pytest.raises(mc.InputError, match=r"named|from 0 to 9"):
            mc.explain(model, letter[0], label)


def test_the_effective_field_is_the_gradient_of_one_output(monkeypatch, letter):
    monkeypatch.setattr(excitation, "SECONDS", np.inf)
    model = mc.networks.lenet5()
    layer = collect(model, *letter)["layers"][3]
    f = 4
    r, s = layer["effectiveAt"][f]
    assert abs(layer["y"][f]).argmax() == r * 10 + s
    x, backwards = (letter[0] / np.float32(255))[None, None].astype("f4"), []
    for inner in model.layers[:4]:
        x, backward = inner.forward(x)
        backwards.append(backward)
    dy = np.zeros_like(x)
    dy[0, f, r, s] = 1
    for backward in reversed(backwards):
        dy = backward(dy)
    size = abs(dy[0, 0])
    np.testing.assert_allclose(layer["effective"][f], 255 * size / size.max(), atol=0.51)


def test_gradient_ascent_makes_the_output_larger(monkeypatch, letter):
    monkeypatch.setattr(excitation, "SECONDS", np.inf)
    model = mc.networks.lenet5()
    layers = collect(model, *letter)["layers"]
    for index, part in ((3, model.layers[:4]), (11, model.layers[:12])):
        made = layers[index]["ascent"].astype("f4") / 255
        start = np.full_like(made[:1], 0.5)
        for layer in part:
            made, start = layer(made), layer(start)
        outputs = range(made.shape[1])
        place = (5, 5) if index == 3 else ()
        assert all(made[(f, f, *place)] > start[(0, f, *place)] for f in outputs)


def test_the_examples_that_excite_a_filter_are_those_with_the_largest_outputs(letter):
    (examples, _), _ = mc.datasets.load_letters(train=70, test=10, cache=False)
    model = mc.networks.lenet5()
    data = collect(model, *letter, examples=examples)
    layer = data["layers"][3]
    y = (examples / np.float32(255))[:, None].astype("f4")
    for inner in model.layers[:4]:
        y = inner(y)
    largest = y.max(axis=(2, 3))
    numbers = layer["exciting"]["numbers"]
    np.testing.assert_allclose(
        np.take_along_axis(largest, numbers.T, axis=0), np.sort(largest, axis=0)[::-1][:4], rtol=1e-4
    )
    shown = data["examples"][layer["exciting"]["images"].astype(int)]
    np.testing.assert_array_equal(shown[:, :, 0], examples[numbers])
    assert data["examplesSeen"] == 70
    for wrong in (examples[0], examples[:0], np.zeros((3, 5, 5))):
        with pytest.raises(mc.InputError, match="examples"):
            mc.explain(model, *letter, examples=wrong)


def test_without_time_no_images_are_made(monkeypatch, letter):
    monkeypatch.setattr(excitation, "SECONDS", -1)
    assert not {"ascent", "effective"} & set(collect(mc.networks.lenet5(), *letter)["layers"][0])


# The page's own code

PAGE = pathlib.Path(EXPLAIN.__file__).parent / "page"


def test_every_module_of_the_page_is_in_its_script_once():
    script = EXPLAIN.script()
    for path in PAGE.glob("*.js"):
        first_line = path.read_text(encoding="utf-8").splitlines()[0]
        assert first_line.startswith("/* ") and script.count(first_line) == 1, path.name
    assert not re.search("^(import|export) ", script, re.MULTILINE)


def test_no_two_modules_export_one_name():
    text = "".join(path.read_text(encoding="utf-8") for path in PAGE.glob("*.js"))
    exported = re.findall(r"^export (?:const|let|function) ([\w$]+)", text, re.MULTILINE)
    assert len(set(exported)) == len(exported) > 40
    assert len(re.findall("^export ", text, re.MULTILINE)) == len(exported)  # in a form that `script` knows


def test_the_pages_lines_are_short():
    for path in PAGE.iterdir():
        lines = path.read_text(encoding="utf-8").splitlines()
        long = [line for line in lines if len(line) > 120 and not re.search('[`"]', line)]
        assert long == [], path.name


def test_the_pages_code_is_formatted_and_linted():
    """By prettier and eslint, where they are installed; see `.ci/run`."""
    if not (shutil.which("prettier") and shutil.which("eslint")):
        pytest.skip("prettier and eslint are not installed: npm install --global prettier@3 eslint@9")
    formatted = ["prettier", "--print-width", "120", "--check", *map(str, PAGE.glob("*.js")), str(PAGE / "page.css")]
    linted = ["eslint", "-c", str(PAGE / "eslint.config.mjs"), str(PAGE)]
    for command in (formatted, linted):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
