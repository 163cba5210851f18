"""Plots show the arrays that they are made from; saliency and occlusion are correct; a report is complete or absent."""

import html
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from hostile import HOSTILE, tags, texts
from strict_backend import strict

import minicnn as mc
from minicnn.backends.cupy import CupyOperations

pytest.importorskip("matplotlib", reason="plots need matplotlib")

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
checkout = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples lie beside the tests in a checkout only")
plots, attribution, metrics = mc.plots, mc.attribution, mc.metrics


def network(channels=1, softmax=True, dtype="float32", classes=4):
    layers = [mc.Conv2D(3, 3, padding=1), mc.Tanh(), mc.AvgPool2D(2), mc.Conv2D(4, 2), mc.Tanh(), mc.Flatten()]
    layers += [mc.Dropout(0.5), mc.Dense(classes)] + [mc.Softmax()] * softmax
    return mc.Sequential(layers, input_shape=(channels, 7, 6), dtype=dtype)


def probability(model, image, label):
    logits = mc.to_numpy(model.forward(image[None])[0])[0].astype(np.float64)
    exponentials = np.exp(logits - logits.max())
    return (exponentials / exponentials.sum())[label]


def shown(axes):
    return [np.asarray(image.get_array()) for image in axes.images]


# The numbers.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("softmax", [True, False])
def test_saliency_is_the_slope_of_the_score(channels, softmax, rng):
    model = network(channels, softmax, "float64")
    image, label = rng.random((channels, 7, 6)), 2
    gradient = attribution.saliency(model, image, label)
    expected = np.zeros_like(image)
    for index in np.ndindex(image.shape):
        scores = []
        for step in (1e-5, -1e-5):
            changed = image.copy()
            changed[index] += step
            scores.append(model.forward(changed[None])[0][0, label])
        expected[index] = (scores[0] - scores[1]) / 2e-5
    np.testing.assert_allclose(gradient, expected, atol=1e-9)
    assert np.abs(expected).max() > 1e-3
    predicted = model.forward(image[None])[0].argmax()
    np.testing.assert_array_equal(
        attribution.saliency(model, image), attribution.saliency(model, image, int(predicted))
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "stride", "grey"), [(3, 1, 0.5), (4, 3, 0.0), (2, 2, -1.0), (9, 4, 0.5)])
def test_occlusion_is_the_probability_that_a_patch_costs(channels, size, stride, grey, rng):
    model = network(channels)
    image, label = rng.random((channels, 7, 6), dtype="float32"), 1
    drop = attribution.occlusion(model, image, label, size, stride, grey)
    tops, lefts = range(0, 7, stride), range(0, 6, stride)
    assert drop.shape == (len(tops), len(lefts))
    covered_by_any = np.zeros((7, 6), bool)
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            patched = image.copy()
            for h in range(7):
                for w in range(6):
                    start_h, start_w = top + (stride - size) // 2, left + (stride - size) // 2
                    if start_h <= h < start_h + size and start_w <= w < start_w + size:
                        patched[:, h, w] = grey
                        covered_by_any[h, w] = True
            expected = probability(model, image, label) - probability(model, patched, label)
            assert drop[i, j] == pytest.approx(expected, abs=1e-6)
    assert covered_by_any.all() and np.abs(drop).max() > 1e-4


def test_no_gradient_stays_and_an_unfinished_step_is_refused(rng):
    model = network()
    image = rng.random((1, 7, 6), dtype="float32")
    for draw in (attribution.saliency, attribution.occlusion, plots.saliency, plots.occlusion, plots.feature_maps):
        draw(model, image)
        assert not any(parameter.has_gradient for parameter in model.parameters().values())
    logits, backward = model.forward(image[None], training=True)
    backward(np.ones_like(logits))
    with pytest.raises(mc.InputError, match="unfinished"):
        attribution.saliency(model, image)
    assert all(parameter.has_gradient for parameter in model.parameters().values())


def test_a_backward_pass_that_fails_leaves_no_gradient(rng):
    class Broken(mc.Layer):
        def forward(self, x, training=False):
            def backward(dy):
                raise RuntimeError("broken")

            return x, backward

    model = mc.Sequential([Broken(), mc.Flatten(), mc.Dense(3)], input_shape=(1, 4, 4))
    with pytest.raises(RuntimeError):
        attribution.saliency(model, rng.random((1, 4, 4), dtype="float32"))
    assert not any(parameter.has_gradient for parameter in model.parameters().values())


class Counter(mc.Layer):
    """Counts its forward passes, and changes an array."""

    def __init__(self):
        self.calls, self.mean = mc.State(0), mc.State(np.zeros(2))

    def forward(self, x, training=False):
        self.calls.value += 1
        self.mean.value += 1
        return x, lambda dy: dy


def test_no_state_is_changed(rng):
    model = mc.Sequential([mc.Conv2D(3, 3), Counter(), mc.Flatten(), mc.Dense(3)], input_shape=(1, 7, 6))
    counter, image = model.layers[1], rng.random((1, 7, 6), dtype="float32")
    for draw in (attribution.saliency, attribution.occlusion, plots.saliency, plots.occlusion, plots.feature_maps):
        draw(model, image)
        assert counter.calls.value == 0 and not counter.mean.value.any()


def test_layers_inside_layers(rng):
    class Residual(mc.Layer):
        def __init__(self):
            self.inner = mc.Conv2D(3, 3, padding="same")

        def forward(self, x, training=False):
            y, backward = self.inner.forward(x, training)
            return x + y, lambda dy: dy + backward(dy)

    closing = mc.Sequential([mc.Flatten(), mc.Dense(4), mc.Softmax()])
    model = mc.Sequential([mc.Sequential([mc.Conv2D(3, 3), mc.Tanh()]), Residual(), closing], input_shape=(1, 7, 6))
    image = rng.random((1, 7, 6), dtype="float32")
    titles = [axes.get_title("left").split(":")[0] for axes in plots.feature_maps(model, image).axes[:4]]
    assert titles == ["the image", "sequential_1.conv2d_1", "sequential_1.tanh_1", "residual_1"]
    for name, layer in (
        ("sequential_1.conv2d_1", model.layers[0].layers[0]),
        ("residual_1.inner", model.layers[1].inner),
    ):
        np.testing.assert_array_equal(shown(plots.kernels(model, name).axes[0]), layer.weight.value.reshape(-1, 3, 3))
    drop = attribution.occlusion(model, image, 1, size=7, stride=7)
    covered = model.predict(np.full((1, 1, 7, 6), 0.5, "float32"))[0, 1]
    assert drop[0, 0] == pytest.approx(model.predict(image[None])[0, 1] - covered, abs=1e-6)
    assert attribution.saliency(model, image).shape == (1, 7, 6)


def test_a_confusion_matrix_counts(rng):
    labels, predictions = rng.integers(0, 4, 300), rng.integers(0, 3, 300)
    expected = np.zeros((5, 5), int)
    for label, prediction in zip(labels, predictions, strict=True):
        expected[label, prediction] += 1
    np.testing.assert_array_equal(metrics.confusion_matrix(labels, predictions, 5), expected)
    np.testing.assert_array_equal(metrics.confusion_matrix(labels, predictions), expected[:4, :4])
    rows = np.eye(5)
    np.testing.assert_array_equal(metrics.confusion_matrix(rows[labels], rows[predictions]), expected)


def test_confident_mistakes_come_by_confidence(rng):
    probabilities, labels = rng.dirichlet(np.ones(3), 50), rng.integers(0, 3, 50)
    found = metrics.confident_mistakes(probabilities, labels)
    wrong = {n for n in range(50) if probabilities[n].argmax() != labels[n]}
    assert set(found) == wrong and len(found) == len(wrong)
    assert (np.diff(probabilities[found].max(axis=1)) <= 0).all()


def test_the_numbers_are_the_same_on_a_device(rng):
    image, on_host = rng.random((1, 7, 6), dtype="float32"), network()
    try:
        mc.use(CupyOperations(strict))
        on_device = network()
        for attribute in (attribution.saliency, attribution.occlusion):
            mc.use("numpy")
            expected = attribute(on_host, image)
            mc.use(CupyOperations(strict))
            np.testing.assert_allclose(attribute(on_device, image), expected, rtol=1e-4, atol=1e-6)
        described = mc.explain(on_device, image, training=True).data["layers"]
        assert all(isinstance(layer["dx"], np.ndarray) for layer in described)
        assert on_device.layers[6].step.value == 0
        plots.feature_maps(on_device, image), plots.kernels(on_device), plots.saliency(on_device, image)
    finally:
        mc.use("numpy")


# The plots.


def test_the_curves_are_the_history():
    history = mc.History(loss=[2.0, 1.0], accuracy=[0.5, 0.7], val_loss=[2.5, 1.5], learning_rate=[0.1, 0.05])
    drawn = {
        axes.get_title(): [list(line.get_ydata()) for line in axes.lines]
        for axes in plots.training_curves(history).axes
    }
    assert drawn == {"loss": [[2.0, 1.0], [2.5, 1.5]], "accuracy": [[0.5, 0.7]], "learning rate": [[0.1, 0.05]]}
    ticks = plots.training_curves({"loss": [1.0]}).axes[0].get_xticks()
    assert [tick for tick in ticks if 0.5 < tick < 1.5] == [1]
    history["learning_rate"], history["seconds"] = [0.1, 0.1], [3.0, 4.0]
    assert len(plots.training_curves(history).axes) == 2


def test_the_curves_of_several_runs_are_in_the_same_axes_with_a_colour_and_a_name_each():
    runs = {f"run {i}": mc.History(loss=[2.0] * (i + 1), val_loss=[3.0] * (i + 1)) for i in range(9)}
    runs["run 8"]["accuracy"], runs["run 0"]["learning_rate"] = [0.5] * 9, [0.1]
    figure = plots.training_curves(runs)
    loss, accuracy = figure.axes  # the learning rate did not change
    drawn = {line.get_label(): list(line.get_ydata()) for line in loss.lines}
    assert list(accuracy.lines[0].get_ydata()) == [0.5] * 9 and len(accuracy.lines) == 1
    looks = {}
    for name, run in runs.items():
        assert drawn[f"{name}, training"] == run["loss"] and drawn[f"{name}, validation"] == run["val_loss"]
        lines = [line for axes in figure.axes for line in axes.lines if line.get_label().startswith(name)]
        (looks[name],) = {(line.get_color(), line.get_marker()) for line in lines}
    assert len(set(looks.values())) == 9
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [line.get_label() for line in loss.lines]
    assert loss.get_xlim() == accuracy.get_xlim() == (0.5, 9.5)
    one_by_name = plots.training_curves({"LeNet-5": runs["run 0"]})
    assert one_by_name.legends[0].get_texts()[0].get_text() == "LeNet-5, training"


def test_the_kernels_are_the_weights():
    model = network(channels=3)
    for name, index, transposed in (("conv2d_1", 0, False), ("conv2d_2", 3, True)):
        weight = model.layers[index].weight.value
        tiles = shown(plots.kernels(model, name).axes[0])
        order = weight.swapaxes(0, 1) if transposed else weight
        np.testing.assert_array_equal(tiles, order.reshape(-1, *weight.shape[2:]))
        end = np.abs(weight).max()
        assert all(image.get_clim() == (-end, end) for image in plots.kernels(model, name).axes[0].images)
    few = plots.kernels(model.layers[3], limit=2)
    np.testing.assert_array_equal(shown(few.axes[0]), weight[:2, :2].reshape(-1, 2, 2))
    assert "the first 2 of 4" in few.get_suptitle()


def test_signs_have_the_colours_of_the_explain_page():
    folder = pathlib.Path(mc.__file__).parent / "inspect" / "explain" / "page"
    page = (folder / "numbers.js").read_text(encoding="utf-8")
    zero, blue, orange = (
        [int(number) for number in re.search(rf"light: .*?{name}: \[(\d+), (\d+), (\d+)\]", page).groups()]
        for name in ("zero", "negative", "positive")
    )
    layer = mc.Conv2D(1, (1, 3))
    layer.build((1, 3, 3))
    layer.weight.value[...] = [-0.5, 0, 0.5]
    (image,) = plots.kernels(layer).axes[0].images
    colours = image.to_rgba(image.get_array(), bytes=True)[0, :, :3]
    assert np.abs(colours.astype(int) - [blue, zero, orange]).max() <= 1


def test_the_feature_maps_are_the_layers_outputs(rng):
    model = network(channels=3)
    image = rng.random((3, 7, 6), dtype="float32")
    top, *rows = plots.feature_maps(model, image, limit=3).axes[:6]
    np.testing.assert_allclose(shown(top)[0], image.transpose(1, 2, 0), rtol=1e-6)
    y = image[None]
    for axes, name, layer in zip(rows, model.names[:5], model.layers[:5], strict=True):
        y = layer(y)
        np.testing.assert_array_equal(shown(axes), y[0, :3])
        assert name in axes.get_title("left")
        assert ("the first 3 of 4" in axes.get_title("left")) == (y.shape[1] == 4)


def test_the_confusion_matrix_is_drawn_with_its_counts(rng):
    labels, predictions = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    counts = metrics.confusion_matrix(labels, predictions, 3)
    axes = plots.confusion_matrix(labels, predictions, ["ant", "bee", "cow"]).axes[0]
    np.testing.assert_allclose(shown(axes)[0], counts / counts.sum(axis=1, keepdims=True))
    texts = {text.get_position()[::-1]: int(text.get_text()) for text in axes.texts}
    assert texts == {index: count for index, count in np.ndenumerate(counts) if count}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ant", "bee", "cow"]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_mistakes_are_drawn_with_prediction_and_label(channels, rng):
    model = network(channels)
    x, y = rng.integers(0, 256, (30, channels, 7, 6), dtype=np.uint8), rng.integers(0, 4, 30)
    probabilities = model.predict(x)
    wrong = metrics.confident_mistakes(probabilities, y)
    figure = plots.confident_mistakes(model, x, y, count=5)
    for axes, index in zip(figure.axes, wrong[:5], strict=False):
        pixels = x[index] / 255
        np.testing.assert_allclose(shown(axes)[0], pixels.transpose(1, 2, 0) if channels == 3 else pixels[0])
        assert axes.get_title().startswith("ABCD"[probabilities[index].argmax()])
        assert axes.get_title().endswith("ABCD"[y[index]])
    assert f"5 of {len(wrong)}" in figure.get_suptitle()
    none = plots.confident_mistakes(probabilities, x, probabilities.argmax(axis=1))
    assert not none.axes and "No mistakes" in none.get_suptitle()


def test_saliency_and_occlusion_are_drawn_beside_the_image(rng):
    model = network(channels=3)
    image = rng.random((3, 7, 6), dtype="float32")
    gradient = attribution.saliency(model, image, 1)
    drawn = shown(plots.saliency(model, image, 1).axes[1])[0]
    np.testing.assert_array_equal(np.abs(drawn), np.abs(gradient).max(axis=0))
    assert all(drawn[h, w] in gradient[:, h, w] for h in range(7) for w in range(6))
    axes = plots.occlusion(model, image, 1, size=4, stride=4).axes
    np.testing.assert_array_equal(shown(axes[1])[0], attribution.occlusion(model, image, 1, 4, 4))
    assert axes[1].images[0].get_extent() == [-0.5, 7.5, 7.5, -0.5]  # cells of 4 pixels, the last ones cut off
    assert axes[1].get_xlim() == axes[0].get_xlim() and axes[1].get_ylim() == axes[0].get_ylim()


@pytest.mark.filterwarnings("ignore:Glyph")  # which characters there are depends on the font
def test_names_are_drawn_as_they_are(rng):
    """A dollar begins no formula, and control characters stop no picture."""
    names, image = ["$x^{2$", "\x00\x1b", "\udcff", "\N{GRINNING FACE}"], rng.random((1, 7, 6), dtype="float32")
    model, x, labels = network(), rng.random((8, 1, 7, 6), dtype="float32"), np.arange(8) % 4
    figures = [
        plots.saliency(model, image, 3, names),
        plots.confusion_matrix(labels, labels[::-1], names),
        plots.confident_mistakes(model, x, labels, names),
        plots.training_curves({name: [1.0] for name in names}),
        plots.training_curves({name: {name: [1.0]} for name in names}),
        plots.kernels(type("$a^{b$", (mc.Sequential,), {})([mc.Conv2D(1, 3)], input_shape=(1, 3, 3))),
    ]
    for figure in figures:
        assert plots.png(figure, dpi=20).startswith(b"\x89PNG")


MODEL = network()
IMAGE = np.zeros((1, 7, 6), np.float32)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: plots.training_curves({}),
        lambda: plots.training_curves({"loss": []}),
        lambda: plots.training_curves({"loss": [1.0], "accuracy": [0.5, 0.6]}),
        lambda: plots.training_curves([{"loss": [1.0]}, {"loss": [1.0]}]),
        lambda: plots.training_curves({"one": {"loss": [1.0]}, "two": {}}),
        lambda: plots.training_curves({"one": {"loss": [1.0]}, "loss": [1.0]}),
        lambda: plots.kernels(mc.networks.logistic_regression()),
        lambda: plots.kernels(MODEL, "conv2d_9"),
        lambda: plots.kernels(mc.Conv2D(3, 3)),
        lambda: plots.kernels(MODEL, limit=0),
        lambda: plots.feature_maps(mc.networks.logistic_regression(), np.zeros((28, 28), np.uint8)),
        lambda: plots.feature_maps(MODEL, np.zeros((5, 5), np.uint8)),
        lambda: plots.confusion_matrix([0, 1], [0]),
        lambda: plots.confusion_matrix([], []),
        lambda: plots.confusion_matrix([0, 3], [0, 1], ["a", "b"]),
        lambda: plots.confusion_matrix([0.5, 1], [0, 1]),
        lambda: plots.confusion_matrix([-1, 1], [0, 1]),
        lambda: plots.confident_mistakes(np.ones((3, 4)), np.zeros((2, 7, 6)), [0, 1, 2]),
        lambda: plots.confident_mistakes(np.ones((3, 4)), np.zeros((3, 7, 6)), [0, 1]),
        lambda: plots.confident_mistakes(np.ones((3, 4)), np.zeros((3, 7, 6)), [0, 1, 2], names="AB"),
        lambda: plots.saliency(MODEL, IMAGE, 4),
        lambda: plots.saliency(MODEL, IMAGE, names=["only one"]),
        lambda: plots.saliency(MODEL, IMAGE * np.nan),
        lambda: plots.saliency(mc.Sequential([mc.Conv2D(2, 3)], input_shape=(1, 7, 6)), IMAGE),
        lambda: attribution.saliency(mc.Sequential([mc.Dense(3)], input_shape=(4,)), np.zeros(4)),
        lambda: plots.occlusion(MODEL, IMAGE, size=0),
        lambda: plots.occlusion(MODEL, IMAGE, size=2, stride=3),
        lambda: plots.occlusion(MODEL, IMAGE, grey=np.nan),
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(mc.InputError):
        wrong()


def test_matplotlib_is_imported_only_when_needed_and_its_state_not_changed():
    code = """
import sys
import minicnn as mc
assert "matplotlib" not in sys.modules
assert mc.plots.png(mc.plots.kernels(mc.networks.lenet5())).startswith(b"\\x89PNG")
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


# In a notebook.


def test_a_notebook_displays_a_figure_a_model_and_a_history(monkeypatch):
    figure = plots.empty_figure(1, 1)
    assert figure._repr_png_().startswith(b"\x89PNG")
    lines = []
    MODEL.summary(print_fn=lines.append)
    text = html.unescape(re.sub("<[^>]+>", " ", MODEL._repr_html_()))
    assert sorted(re.sub("[-─]{2,}", "", " ".join(lines)).split()) == sorted(text.split())
    assert "Dense(3)" in mc.Sequential([mc.Dense(3)])._repr_html_()  # not built yet

    history = mc.History({"loss": [0.5, 0.25], "<b>": [1.0, 2.0]})
    shown = history._repr_html_()
    assert "<img" in shown and "<b>" not in shown and "&lt;b&gt;" in shown and "0.25" in shown
    assert "<img" not in mc.History()._repr_html_()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert history._repr_html_() == shown[shown.index("<table") :]
    with pytest.raises(mc.MissingPackageError, match=r"minicnn-numpy\[plots\]"):
        plots.training_curves(history)


# The report of a run.


@pytest.fixture
def report(monkeypatch):
    """The module; its pictures are small here."""
    from minicnn.inspect import report

    png = plots.png
    monkeypatch.setattr(plots, "png", lambda figure, dpi=100: png(figure, 15))
    return report


def write(report, folder, model, accuracy=None):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 1, 7, 6), dtype=np.uint8)
    y = model.predict(x).argmax(axis=1) if accuracy == 1 else rng.integers(0, 10, 40)
    report.write(folder, model, (x, y), mc.History(loss=[1.0, 0.5]), {"data": "<noise>"}, "trial")


def test_no_text_changes_the_report(report, tmp_path, monkeypatch):
    """Nor a table or a model that a notebook shows."""
    monkeypatch.setattr(plots, "png", lambda figure, dpi=100: b"")
    rng, pages = np.random.default_rng(0), []
    test = rng.integers(0, 256, (12, 1, 7, 6), dtype=np.uint8), rng.integers(0, 10, 12)
    for words in (["plain"] * len(HOSTILE), HOSTILE):
        shown = "".join(words)
        named = type(shown.replace("\0", "").replace("\udcff", ""), (mc.Conv2D,), {})
        model = mc.Sequential([named(2, 3), mc.Flatten(), mc.Dense(10)], input_shape=(1, 7, 6))
        settings = {"command": shlex.join(["python", *words]), "data": f"notMNIST from {shown}", shown: shown}
        report.write(tmp_path, model, test, {}, settings, shown)
        unbuilt = mc.Sequential([type("Named", (mc.Layer,), {"__repr__": lambda layer, shown=shown: shown})()])
        history = mc.History({name: [1.0] for name in words} | {shown: [1.0]})
        page = (tmp_path / "index.html").read_text(encoding="utf-8")
        pages.append([page, model._repr_html_(), unbuilt._repr_html_(), history._repr_html_()])
    plain, hostile = pages
    assert [tags(page) for page in hostile[:3]] == [tags(page) for page in plain[:3]]
    assert {name for name, _ in tags(hostile[3])} == {name for name, _ in tags(plain[3])}
    for page in hostile:
        assert all(name in texts(page) for name in HOSTILE if name.isprintable()), page
        assert not {"\0", "\x1b", "\udcff"} & {*page}


def linked(folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    return page, re.findall(r'(?:src|href)="([^"]+)"', page)


def test_a_report_is_complete(report, tmp_path):
    folder = tmp_path / "report"
    report.prepare(folder)
    assert not folder.exists()
    write(report, folder, network(classes=10))
    page, links = linked(folder)
    assert {path.name for path in folder.iterdir()} == {"index.html", *links}
    assert len([name for name in links if name.startswith("explain-")]) == 3
    assert {"kernels-conv2d_1.png", "kernels-conv2d_2.png", "feature-maps.png"} < set(links)
    assert "&lt;noise&gt;" in page and "<noise>" not in page
    assert all((folder / name).read_bytes()[1:4] == b"PNG" for name in links if name.endswith("png"))
    write(report, folder, network(classes=10), accuracy=1)  # over the older one, and now without mistakes
    page, links = linked(folder)
    assert len([name for name in links if name.startswith("explain-")]) == 2 and "No mistakes" in page


def test_a_report_that_fails_leaves_no_page(report, tmp_path, monkeypatch):
    model = network(classes=10)
    write(report, tmp_path, model)

    def full(figure, dpi):
        raise mc.FileError("the disk is full")

    monkeypatch.setattr(plots, "png", full)
    with pytest.raises(mc.FileError):
        write(report, tmp_path, model)
    assert not (tmp_path / "index.html").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("folder", ["nowhere/deep", "file"])
def test_a_folder_that_cannot_be_written_is_found_before_any_work(report, folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(mc.FileError, match=folder):
        report.prepare(tmp_path / folder)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(mc.MissingPackageError):
        report.prepare(tmp_path / "report")
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["file"]


@checkout
def test_an_example_makes_its_report(tmp_path):
    def run(*arguments):
        command = [sys.executable, str(EXAMPLES / "logistic_regression.py"), "--epochs", "1", "--samples", "64"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path)

    done = run("--report", "nowhere/deep")
    assert done.returncode == 2 and "--report" in done.stderr and not (tmp_path / "logistic_regression.npz").exists()
    done = run("--report", "report", "--seed", "3")
    assert done.returncode == 0, done.stderr
    page, links = linked(tmp_path / "report")
    assert all((tmp_path / "report" / name).is_file() for name in links)
    assert "--seed 3" in page and "no convolutions" in page and "kernels" not in " ".join(links)
    assert "test accuracy" in done.stdout and "index.html" in done.stdout
