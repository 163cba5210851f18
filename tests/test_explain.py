"""The page that explains: its numbers are the library's, in a real browser; and im2col told in a terminal."""

import glob
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import minicnn as mc
from minicnn.explain.collect import DRAWN_LAYERS, collect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def letter():
    (x, y), _ = mc.datasets.load_letters(train=10, test=10, cache=False)
    return x[3], int(y[3])


class Page:
    """An open page, and what it shows."""

    def __init__(self, browser, explanation, path, **options):
        explanation.save(path)
        self.data = explanation.data
        self.page = browser.new_page(viewport={"width": 1280, "height": 720}, **options)
        self.errors = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.errors.append(request.url) if "://" in request.url[5:] else None)
        started = time.perf_counter()
        self.page.goto(f"file://{path}")
        self.page.wait_for_selector("body[data-ready]")
        self.seconds = time.perf_counter() - started

    def open(self, layer, back):
        self.page.click("#backward" if back else "#forward")
        self.page.click(f"#strip button[data-layer='{layer}']")

    def open_forward(self, layer):
        self.page.click(f"#strip button[data-layer='{layer}']")
        assert self.page.locator("#detail h2").count() == 1

    def hover(self, canvas, row, col, height, width):
        """Point at a cell of a map."""
        self.page.locator(f"#{canvas}").scroll_into_view_if_needed()
        box = self.page.locator(f"#{canvas}").bounding_box()
        step_y, step_x = (box["height"] - 2) / height, (box["width"] - 2) / width
        self.page.mouse.move(box["x"] + 1 + (col + 0.5) * step_x, box["y"] + 1 + (row + 0.5) * step_y)

    def result(self, nth=0):
        return float(self.page.locator(".equation b.num").nth(nth).get_attribute("data-value"))

    def table(self, kind):
        rows = self.page.locator(f"table.{kind} tr").all()
        return np.array([[float(cell.get_attribute("data-value")) for cell in row.locator("td").all()] for row in rows])


def exact(shown, value):
    """The page's text is the float32 number, to the last bit."""
    assert np.float32(shown) == np.float32(value)


def window(layer, x, c, row, col):
    """What the window at an output's place reads of a channel, zero in the padding."""
    about = layer["window"]
    (top, bottom), (left, right) = about["pads"]
    padded = np.pad(x[c], ((top, bottom), (left, right)))
    r, s = row * about["stride"][0], col * about["stride"][1]
    KH, KW = about["kernel"]
    return padded[r : r + KH, s : s + KW]


@pytest.mark.parametrize("network", ["lenet5", "conv_pool", "two_conv"])
def test_every_number_on_the_page_is_the_librarys(browser, network, letter, tmp_path):
    image, label = letter
    explanation = mc.explain(getattr(mc.networks, network)(), image, label)
    page = Page(browser, explanation, tmp_path / "page.html")
    data, layers = page.data, page.data["layers"]
    assert page.seconds < 2
    assert (tmp_path / "page.html").stat().st_size < 6e6
    for i, layer in enumerate(layers):
        x = layers[i - 1]["y"] if i else data["input"]
        image_like = len(layer["shape"]) == 3
        page.open(i, back=False)
        if layer["kind"] == "Conv2D":
            _, OH, OW = layer["shape"]
            for row, col in ((2, 3), (0, 0), (OH - 1, OW // 2)):
                page.hover("output", row, col, OH, OW)
                f, r, s = chosen(page)
                assert (r, s) == (row, col)
                exact(page.result(), layer["y"][f, row, col])
                c = lit_channel(page)
                np.testing.assert_array_equal(page.table("patch").astype("f4"), window(layer, x, c, row, col))
                np.testing.assert_array_equal(page.table("kernel").astype("f4"), layer["weight"][f, c])
            page.hover("columns", 4, 7, layer["weight"][0].size, OH * OW)
            f, r, s = chosen(page)
            assert (r, s) == divmod(7, OW)
            page.open(i, back=True)
            page.hover("dy", 1, 2, OH, OW)
            f, r, s = chosen(page)
            exact(page.result(0), layer["dy"][f, 1, 2])
            page.page.locator("table.dweight td").first.hover()
            c = lit_channel(page)
            exact(page.result(1), layer["dweight"][f, c, 0, 0])
            np.testing.assert_array_equal(page.table("dweight").astype("f4"), layer["dweight"][f, c])
            page.hover("dx", 0, 4, *x.shape[1:])
            exact(page.result(2), layer["dx"][c, 0, 4])
        elif layer["kind"] in ("MaxPool2D", "AvgPool2D"):
            _, OH, OW = layer["shape"]
            page.hover("output", 3, 1, OH, OW)
            f, _, _ = chosen(page)
            exact(page.result(), layer["y"][f, 3, 1])
            np.testing.assert_array_equal(page.table("patch").astype("f4"), window(layer, x, f, 3, 1))
            page.open(i, back=True)
            page.hover("dx", 3, 2, *x.shape[1:])
            exact(page.result(1), layer["dx"][f, 3, 2])
        elif layer["kind"] in ("Tanh", "ReLU") and image_like:
            _, H, W = layer["shape"]
            page.hover("output", 5, 6, H, W)
            f, _, _ = chosen(page)
            exact(page.result(), layer["y"][f, 5, 6])
            page.open(i, back=True)
            page.hover("dx", 6, 5, H, W)
            exact(page.result(1), layer["dx"][f, 6, 5])
            assert ("gradient zero" in page.page.inner_text("#detail")) == (layer["dx"][f, 6, 5] == 0)
        elif layer["kind"] == "Dense":
            page.page.locator(".units button").nth(2).click()
            exact(page.result(), layer["y"][layer["units"][2]])
            terms = [float(bar.get_attribute("data-value")) for bar in page.page.locator(".bars .num").all()]
            np.testing.assert_array_equal(np.array(terms, "f4"), layer["topInputs"][2] * layer["topWeights"][2])
            page.open(i, back=True)
            exact(page.result(), layer["dy"][layer["units"][2]])
            terms = [float(bar.get_attribute("data-value")) for bar in page.page.locator(".bars .num").all()]
            gradients = layer["topGradients"][2]
            np.testing.assert_array_equal(np.array(terms, "f4"), gradients[np.argsort(-abs(gradients), kind="stable")])
    page.open(len(layers), back=True)
    shown = [float(bar.get_attribute("data-value")) for bar in page.page.locator(".bars .num").all()]
    expected = np.concatenate([data["logits"], data["probabilities"], layers[-1]["dy"]])
    np.testing.assert_array_equal(np.array(shown, "f4"), expected)
    assert page.errors == []


def chosen(page):
    """The place in the first equation, such as output[3, 2, 1]."""
    text = page.page.locator(".equation").first.inner_text()
    return tuple(int(part) for part in text.split("[")[1].split("]")[0].split(","))


def lit_channel(page):
    titles = page.page.locator("h3").all_inner_texts()
    numbers = [title.rsplit("channel ", 1)[1].split(":")[0] for title in titles if "channel " in title]
    return int(numbers[0])


def test_the_keyboard_alone_is_enough(browser, letter, tmp_path):
    page = Page(browser, mc.explain(mc.networks.lenet5(), *letter), tmp_path / "page.html", color_scheme="dark")
    page.page.focus("#strip button")
    page.page.keyboard.press("ArrowRight")
    assert "tanh_1" in page.page.inner_text("h2")
    page.page.keyboard.press("ArrowLeft")
    page.page.focus("#output")
    _, r, s = chosen(page)
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("ArrowRight")
    assert chosen(page)[1:] == (r + 1, s + 1)
    page.page.focus("table.kernel td.lit")
    page.page.keyboard.press("ArrowUp")
    page.page.keyboard.press("ArrowUp")
    assert page.page.evaluate("document.activeElement.parentNode.rowIndex") == 0  # from the middle of five rows
    page.page.keyboard.press("Control+b")
    assert page.page.get_attribute("#backward", "aria-checked") == "false"
    page.page.keyboard.press("b")
    assert page.page.get_attribute("#backward", "aria-checked") == "true"
    for _ in range(100):  # Tab reaches the last thing on the page, and no trap before it
        page.page.keyboard.press("Tab")
        if page.page.evaluate("document.activeElement.id") == "dx":
            break
    else:
        raise AssertionError("Tab never reaches the last map")
    assert page.errors == []


def test_an_average_is_shared_by_the_window_that_is_pointed_at(browser, tmp_path, rng):
    """At the border a window has fewer real pixels, so each gets more."""
    layers = [mc.Conv2D(2, 3, padding="same"), mc.AvgPool2D(3, stride=2, padding="same"), mc.Flatten(), mc.Dense(3)]
    explanation = mc.explain(mc.Sequential(layers, input_shape=(1, 9, 10)), rng.random((9, 10)), 1)
    page = Page(browser, explanation, tmp_path / "page.html")
    page.open(1, back=True)
    dy, dx = (page.data["layers"][1][name] for name in ("dy", "dx"))
    page.hover("dx", 8, 9, 9, 10)  # the last row and column: the last window alone sees it
    channel = int(re.search(r"dx\[(\d)", page.page.inner_text("#detail")).group(1))
    exact(page.result(0), dy[channel, 4, 4])
    exact(page.result(1), dx[channel, 8, 9])
    share = int(re.search(r"dy / (\d)", page.page.inner_text("#detail")).group(1))
    assert dx[channel, 8, 9] == pytest.approx(dy[channel, 4, 4] / share)


def test_what_was_dropped_out_is_said(browser, letter, tmp_path):
    layers = [mc.Flatten(), mc.Dense(40), mc.Dropout(0.5, seed=1), mc.Dense(10)]
    explanation = mc.explain(mc.Sequential(layers, input_shape=(1, 28, 28)), *letter, training=True)
    dropout = explanation.data["layers"][2]
    assert 5 < (dropout["y"] == 0).sum() < 35
    page = Page(browser, explanation, tmp_path / "page.html")
    page.open(2, back=True)
    unit = int(np.flatnonzero(dropout["y"] == 0)[-1])
    page.hover("dx", *divmod(unit, 7), 6, 7)
    assert "dropped out" in page.page.inner_text(".answer")


def test_a_global_average_is_a_window_as_large_as_the_image(browser, tmp_path, rng):
    layers = [mc.Conv2D(4, 3), mc.GlobalAvgPool2D(), mc.Dense(3)]
    explanation = mc.explain(mc.Sequential(layers, input_shape=(1, 8, 9)), rng.random((8, 9)), 2)
    layer = explanation.data["layers"][1]
    page = Page(browser, explanation, tmp_path / "page.html")
    page.open(1, back=False)
    channel = int(re.search(r"output\[(\d)", page.page.inner_text("#detail")).group(1))
    exact(page.result(0), layer["y"][channel, 0, 0])
    page.open(1, back=True)
    page.hover("dx", 2, 3, 6, 7)
    exact(page.result(1), layer["dx"][channel, 2, 3])
    assert "dy / 42" in page.page.inner_text("#detail")


def test_numbers_that_are_not_finite_are_refused(letter):
    model = mc.networks.logistic_regression()
    model.layers[1].weight.value[0, 0] = np.nan
    with pytest.raises(mc.InputError, match="finite"):
        mc.explain(model, letter[0])


def mixed_network():
    """Every kind of layer that the page can compute, with unusual options."""
    layers = [
        mc.Conv2D(6, (3, 2), stride=(2, 1), padding=((0, 2), (1, 0)), groups=2, dilation=(1, 2), use_bias=False),
        mc.Sigmoid(),
        mc.MaxPool2D(3, stride=2, padding=1),
        mc.Conv2D(4, 2, stride=3),
        mc.Tanh(),
        mc.AvgPool2D(2, stride=1, padding="same", count_include_pad=True),
        mc.Dropout(0.5),
        mc.AvgPool2D(2, stride=1, padding="same"),
        mc.Conv2D(3, 2, padding=1),
        mc.Flatten(),
        mc.Dense(30),
        mc.ReLU(),
        mc.Dense(3),
    ]
    return mc.Sequential(layers, input_shape=(4, 20, 17))


@pytest.mark.parametrize("network", ["lenet5", "mixed", "pooled at last"])
def test_an_image_drawn_in_the_page(network, browser, letter, tmp_path, rng):
    if network == "lenet5":
        model, (image, label) = mc.networks.lenet5(), letter
    else:
        layers = [mc.Conv2D(5, 3), mc.GlobalAvgPool2D()] if network == "pooled at last" else mixed_network().layers
        model, label = mc.Sequential(layers, input_shape=(4, 20, 17)), 1
        image = rng.random((4, 20, 17))
    page = Page(browser, mc.explain(model, image, label), tmp_path / "page.html", color_scheme="light")
    page.open(0, back=True)
    page.page.click("#draw")
    board = page.page.locator("#board").bounding_box()
    page.page.mouse.move(board["x"] + 30, board["y"] + 40)
    page.page.mouse.down()
    page.page.mouse.move(board["x"] + 120, board["y"] + 130, steps=9)
    page.page.mouse.up()
    for key in ("ArrowUp", "ArrowUp", " ", "ArrowLeft", " "):
        page.page.keyboard.press(key)
    page.page.wait_for_function("!drawing.waiting")
    drawn = np.array(page.page.evaluate("Array.from(drawing.pixels)"), "f4").reshape(1, *model.input_shape)
    assert 10 < (drawn[0, 0] > 0.5).sum() < 200
    y = drawn
    for i, layer in enumerate(layer for layer in model.layers if not isinstance(layer, mc.Softmax)):
        y = layer(y)
        shown = np.array(page.page.evaluate(f"Array.from(layers[{i}].y)")).reshape(y.shape)
        np.testing.assert_allclose(shown, y, rtol=1e-4, atol=1e-5)
        page.open_forward(i)
    best = "ABCDEFGHIJ"[int(y[0].argmax())]
    assert f"says {best}" in page.page.inner_text("h1")
    assert page.page.is_disabled("#backward")
    page.page.click("#back")
    np.testing.assert_array_equal(np.array(page.page.evaluate("Array.from(data.logits)"), "f4"), page.data["logits"])
    page.open(0, back=True)
    exact(page.result(0), page.data["layers"][0]["dy"][chosen(page)])
    assert page.errors == []


def test_the_page_computes_every_layer_it_says_it_can(browser, letter, tmp_path):
    page = Page(browser, mc.explain(mc.networks.lenet5(), *letter), tmp_path / "page.html")
    kinds = set(page.page.evaluate("Object.keys(computed)"))
    assert kinds == {layer.__name__ for layer in DRAWN_LAYERS}
    large = Page(browser, mc.explain(mc.networks.conv_pool(), *letter), tmp_path / "large.html")
    assert large.page.locator("#draw").count() == 0


def test_every_layer_of_the_library_has_a_page(browser, tmp_path, rng):
    class Twice(mc.Layer):
        def forward(self, x, training=False):
            return 2 * x, lambda dy: 2 * dy

    layers = [
        mc.Conv2D(6, 3, stride=2, padding=((0, 2), (1, 0)), groups=3, dilation=2, use_bias=False),
        mc.Sigmoid(),
        Twice(),
        mc.MaxPool2D(3, stride=2, padding=1),
        mc.Dropout(0.5),
        mc.Conv2D(4, 1),
        mc.AvgPool2D(2, padding="same", count_include_pad=True),
        mc.GlobalAvgPool2D(),
        mc.Dense(3),
    ]
    model = mc.Sequential(layers, input_shape=(3, 20, 17))
    page = Page(browser, mc.explain(model, rng.random((3, 20, 17))), tmp_path / "page.html")
    for layer in range(len(layers) + 1):
        for back in (False, True):
            page.open(layer, back)
            assert page.page.locator("#detail h2").count() == 1
    assert page.errors == []


# The data behind it


@pytest.mark.parametrize("network", ["lenet5", "conv_pool", "two_conv", "mixed"])
def test_every_number_has_its_numerical_gradient(network, letter, rng):
    if network == "mixed":
        data = collect(mixed_network(), rng.random((4, 20, 17)))
    else:
        data = collect(getattr(mc.networks, network)(), *letter)
    for layer in data["layers"]:
        if layer["kind"] == "Conv2D":
            for numerical, analytic in (("numWeight", "dweight"), ("numInput", "dx")):
                scale = abs(layer[analytic]).max()
                np.testing.assert_allclose(layer[numerical] / scale, layer[analytic] / scale, atol=1e-5)


def test_without_time_to_nudge_the_numbers_are_left_open(letter, monkeypatch):
    monkeypatch.setattr(sys.modules["minicnn.explain.collect"], "NUMERICAL_SECONDS", -1)
    layer = collect(mc.networks.lenet5(), *letter)["layers"][0]
    assert np.isnan(layer["numWeight"]).all() and np.isnan(layer["numInput"]).all()


def test_the_arrays_are_those_of_the_model_and_the_model_is_left_as_it_was(letter):
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


def test_the_arithmetic_of_a_shape_is_filled_in(letter):
    data = collect(mc.networks.lenet5(), *letter)
    assert data["layers"][0]["sizes"][0] == "height: (28 + 2·2 - 5) / 1 + 1 = 28"


def test_a_picture_of_any_size(tmp_path):
    Image.fromarray(np.full((90, 300, 3), 200, np.uint8)).save(tmp_path / "wide.png")
    data = collect(mc.networks.lenet5(), tmp_path / "wide.png")
    assert data["input"].shape == (1, 28, 28)
    assert 0 < (data["input"] > 0).mean() < 0.5  # its proportions are kept
    assert not data["given"]


@pytest.mark.parametrize(
    ("make", "kind", "named"),
    [
        (lambda folder: (mc.networks.lenet5(), folder / "none.png"), mc.FileError, "none.png"),
        (lambda folder: (mc.networks.lenet5(), np.zeros((3, 28, 28))), mc.InputError, r"\(1, 28, 28\)"),
        (lambda folder: (mc.networks.lenet5(), np.full((28, 28), np.nan)), mc.InputError, "NaN"),
        (lambda folder: (mc.networks.lenet5(), np.zeros((28, 28)), 10), mc.InputError, "10"),
        (lambda folder: (mc.Sequential([mc.Dense(3)], (4,)), np.zeros(4)), mc.InputError, "images"),
        (lambda folder: (mc.Sequential([mc.ReLU()], (1, 4, 4)), np.zeros((4, 4))), mc.InputError, "scores"),
    ],
)
def test_what_cannot_be_explained_is_refused(make, kind, named, tmp_path):
    with pytest.raises(kind, match=named):
        mc.explain(*make(tmp_path))


def test_the_command(tmp_path, letter, monkeypatch):
    mc.networks.lenet5().save(tmp_path / "net.npz")
    Image.fromarray(letter[0]).save(tmp_path / "letter.png")

    def run(*arguments):
        command = [sys.executable, "-m", "minicnn", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    assert run("explain", "net.npz", "letter.png", "-o", "page.html", "--label", "2").returncode == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    wrong = run("explain", "net.npz", "missing.png")
    assert wrong.returncode == 1 and "missing.png" in wrong.stderr and "Traceback" not in wrong.stderr
    told = run("im2col", "--image", "4x5", "--kernel", "3x2", "--padding", "1", "--stride", "2")
    assert told.returncode == 0 and "\x1b" not in told.stdout
    assert glob.glob(str(tmp_path / ".*")) == []


def test_the_story_in_the_terminal_is_im2cols():
    told = subprocess.run(
        [sys.executable, "-m", "minicnn", "im2col", "--image", "3x3", "--kernel", "2"], capture_output=True, text=True
    ).stdout
    columns = mc.im2col.im2col(np.arange(1.0, 10).reshape(1, 1, 3, 3), 2)
    block = told.split("4 taps x 4 windows\n")[1].split("\n\n")[0]
    numbers = [[float(v) for v in line.replace("[", " ").replace("]", " ").split()] for line in block.splitlines()]
    np.testing.assert_array_equal(numbers, columns)
    votes = told.split("+=:\n")[1].split("\n\n")[0].replace("[", " ").replace("]", " ").split()
    assert list(map(int, votes)) == [1, 2, 1, 2, 4, 2, 1, 2, 1]
    too_large = subprocess.run(
        [sys.executable, "-m", "minicnn", "im2col", "--image", "99x99"], capture_output=True, text=True
    )
    assert too_large.returncode == 1 and "smaller" in too_large.stderr
