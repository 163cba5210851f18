"""The page of explain: its numbers are the library's, in a real browser; and im2col step by step in a terminal."""

import argparse
import glob
import html
import json
import re
import shutil
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest
from hostile import HOSTILE, tags
from PIL import Image

import minicnn as mc
from minicnn import __main__, console
from minicnn.inspect.explain.collect import DRAWN_LAYERS, collect
from minicnn.inspect.explain.story import story

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
        self.page.goto(f"file://{path}")
        self.page.wait_for_selector("body[data-ready]")

    def open(self, layer, backward):
        self.page.click("#backward" if backward else "#forward")
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
    """What the window at an output position reads of a channel, zero in the padding."""
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
    assert (tmp_path / "page.html").stat().st_size < 6e6
    for i, layer in enumerate(layers):
        x = layers[i - 1]["y"] if i else data["input"]
        image_like = len(layer["shape"]) == 3
        page.open(i, backward=False)
        if layer["kind"] == "Conv2D":
            _, OH, OW = layer["shape"]
            for row, col in ((2, 3), (0, 0), (OH - 1, OW // 2)):
                page.hover("output", row, col, OH, OW)
                f, r, s = selection(page)
                assert (r, s) == (row, col)
                exact(page.result(), layer["y"][f, row, col])
                c = selected_channel(page)
                np.testing.assert_array_equal(page.table("patch").astype("f4"), window(layer, x, c, row, col))
                np.testing.assert_array_equal(page.table("kernel").astype("f4"), layer["weight"][f, c])
            for column in (7, OH * OW - 2):
                page.hover("columns", 4, column, layer["weight"][0].size, OH * OW)
                f, r, s = selection(page)
                assert abs(r * OW + s - column) <= (column > 7)  # far right, columns narrower than a pixel add up
            page.page.locator("table.kernel td").nth(5).hover()
            for kind in ("patch", "kernel", "products"):  # the tap is selected in all three
                cells = page.page.locator(f"table.{kind} td")
                classes = cells.evaluate_all("all => all.map(e => e.className)")
                assert [i for i, name in enumerate(classes) if "selected" in name] == [5]
            page.open(i, backward=True)
            page.hover("dy", 1, 2, OH, OW)
            f, r, s = selection(page)
            exact(page.result(0), layer["dy"][f, 1, 2])
            page.page.locator("table.dweight td").first.hover()
            c = selected_channel(page)
            assert page.page.locator("table.dweight td.selected").count() == 1
            exact(page.result(1), layer["dweight"][f, c, 0, 0])
            np.testing.assert_array_equal(page.table("dweight").astype("f4"), layer["dweight"][f, c])
            page.hover("dx", 0, 4, *x.shape[1:])
            exact(page.result(2), layer["dx"][c, 0, 4])
        elif layer["kind"] in ("MaxPool2D", "AvgPool2D"):
            _, OH, OW = layer["shape"]
            page.hover("output", 3, 1, OH, OW)
            f, _, _ = selection(page)
            exact(page.result(), layer["y"][f, 3, 1])
            np.testing.assert_array_equal(page.table("patch").astype("f4"), window(layer, x, f, 3, 1))
            page.open(i, backward=True)
            page.hover("dx", 3, 2, *x.shape[1:])
            exact(page.result(1), layer["dx"][f, 3, 2])
        elif layer["kind"] in ("Tanh", "ReLU") and image_like:
            _, H, W = layer["shape"]
            page.hover("output", 5, 6, H, W)
            f, _, _ = selection(page)
            exact(page.result(), layer["y"][f, 5, 6])
            page.open(i, backward=True)
            page.hover("dx", 6, 5, H, W)
            exact(page.result(1), layer["dx"][f, 6, 5])
            assert ("gradient zero" in page.page.inner_text("#detail")) == (layer["dx"][f, 6, 5] == 0)
        elif layer["kind"] == "Dense":
            page.page.locator(".units button").nth(2).click()
            exact(page.result(), layer["y"][layer["units"][2]])
            terms = [float(bar.get_attribute("data-value")) for bar in page.page.locator(".bars .num").all()]
            np.testing.assert_array_equal(np.array(terms, "f4"), layer["topInputs"][2] * layer["topWeights"][2])
            page.open(i, backward=True)
            exact(page.result(), layer["dy"][layer["units"][2]])
            dx, terms = (
                [
                    float(bar.get_attribute("data-value"))
                    for bar in page.page.locator(".bars").nth(n).locator(".num").all()
                ]
                for n in (1, 0)
            )
            largest = np.argsort(-abs(layer["dx"]), kind="stable")[: len(terms)]
            np.testing.assert_array_equal(np.array(dx, "f4"), layer["dx"][largest])
            gradients = layer["topGradients"][2]
            np.testing.assert_array_equal(np.array(terms, "f4"), gradients[np.argsort(-abs(gradients), kind="stable")])
    page.open(len(layers), backward=True)
    shown = [float(bar.get_attribute("data-value")) for bar in page.page.locator(".bars .num").all()]
    expected = np.concatenate([data["logits"], data["probabilities"], layers[-1]["dy"]])
    np.testing.assert_array_equal(np.array(shown, "f4"), expected)
    assert page.errors == []


def written(text, value):
    """A text shows a number to the last of its own digits."""
    last = Decimal(text).as_tuple().exponent
    assert abs(Decimal(text) - Decimal(float(value))) <= Decimal(5).scaleb(last - 1), (text, value)
    assert value == 0 or len(Decimal(text).as_tuple().digits) >= 2


def every_number(page):
    cells = "[...document.querySelectorAll('[data-value]')].filter((e) => !e.classList.contains('pad'))"
    return page.page.evaluate(f"{cells}.map((e) => [e.innerText, e.dataset.value])")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_shown_texts_are_the_computed_numbers(scheme, browser, letter, tmp_path):
    page = Page(browser, mc.explain(mc.networks.lenet5(), *letter), tmp_path / "page.html", color_scheme=scheme)
    for layer in range(13):
        for backward in (False, True):
            page.open(layer, backward)
            for line in page.data["layers"][layer].get("sizes", []) if layer < 12 else []:
                assert page.page.inner_text("#detail").count(line) == 1
            numbers = every_number(page)
            assert numbers
            for text, value in numbers:
                written(text, float(value))
    shades = page.page.evaluate("Array.from({ length: 401 }, (_, i) => colour(i - 200, 200))")
    inks = page.page.evaluate("Array.from({ length: 401 }, (_, i) => legible(...colour(i - 200, 200)))")
    light = luminance(np.array(shades)), luminance(np.array([[int(i[k : k + 2], 16) for k in (1, 3, 5)] for i in inks]))
    assert ((np.maximum(*light) + 0.05) / (np.minimum(*light) + 0.05)).min() >= 4.5  # WCAG's contrast for small text
    assert page.errors == []


def luminance(rgb):
    linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("index", [0, 3])
def test_the_terms_of_the_gradients_of_a_weight_and_a_pixel(index, browser, letter, tmp_path):
    """Each is its two numbers' product, the largest come first, and there are as many as im2col copied."""
    page = Page(browser, mc.explain(mc.networks.lenet5(), *letter), tmp_path / "page.html")
    layer = page.data["layers"][index]
    x = page.data["layers"][index - 1]["y"] if index else page.data["input"]
    weight, dy = layer["weight"], layer["dy"]
    (F, OH, OW), (_, H, W) = dy.shape, x.shape
    pad = layer["window"]["pads"][0][0]
    page.open(index, backward=True)
    page.page.locator("table.dweight td").nth(6).hover()  # tap [1, 1]
    page.hover("dx", 1, 5, H, W)
    shown = page.page.inner_text("#detail")
    f, c = map(int, re.search(r"dweight\[(\d+), (\d+), 1, 1\]", shown).groups())
    differences = page.page.locator("p:has-text('finite difference') .num").all()
    for element, value in zip(differences, (layer["numWeight"][f, c, 1, 1], layer["numInput"][c, 1, 5]), strict=True):
        exact(element.get_attribute("data-value"), value)
        written(element.inner_text(), value)

    terms, input_terms = (element.inner_text().splitlines() for element in page.page.locator("ul.terms").all())
    read = np.pad(x[c], pad)[1 : 1 + OH, 1 : 1 + OW]  # by the tap, at every position
    assert f"its {OH * OW} terms" in shown
    largest_first(terms, read * dy[f])
    for line in terms:
        pixel, r, s = re.match(r"x\[(.*)\] .* dy\[(\d+),(\d+)\]", line).groups()
        r, s = int(r), int(s)
        assert pixel == f"{r + 1 - pad},{s + 1 - pad}" or (pixel == "padding" and read[r, s] == 0)
        check_product(line, read[r, s], dy[f, r, s])

    copies = int(mc.im2col.col2im(np.ones((25, OH * OW)), (1, 1, H, W), 5, padding=pad)[0, 0, 1, 5])
    assert f"copied into {copies} of the {OH * OW} windows" in shown and f"{copies * F} terms in all" in shown
    products = []
    for r, s in np.ndindex(OH, OW):
        kh, kw = 1 + pad - r, 5 + pad - s
        if 0 <= kh < 5 and 0 <= kw < 5:
            products.append(weight[:, c, kh, kw] * dy[:, r, s])
    largest_first(input_terms, np.array(products))
    for line in input_terms:
        k, kh, kw, r, s = map(int, re.match(r"filter (\d+), tap \[(\d),(\d)\] .* dy\[(\d+),(\d+)\]", line).groups())
        assert (kh, kw) == (1 + pad - r, 5 + pad - s)
        check_product(line, weight[k, c, kh, kw], dy[k, r, s])


def check_product(line, a, b):
    """A line shows "name a × name b = their product"."""
    left, right, result = (part.split()[-1] for part in re.split(" × | = ", line))
    written(left, a)
    written(right, b)
    written(result, a * b)


def largest_first(lines, products):
    shown = [abs(float(line.split(" = ")[1])) for line in lines]
    np.testing.assert_allclose(shown, np.sort(abs(products), axis=None)[::-1][: len(lines)], rtol=6e-3, atol=5e-5)


def selection(page):
    """The index in the first equation, such as output[3, 2, 1]."""
    text = page.page.locator(".equation").first.inner_text()
    return tuple(int(part) for part in text.split("[")[1].split("]")[0].split(","))


def selected_channel(page):
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
    _, r, s = selection(page)
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("ArrowRight")
    assert selection(page)[1:] == (r + 1, s + 1)
    page.page.focus("table.kernel td.selected")
    page.page.keyboard.press("ArrowUp")
    page.page.keyboard.press("ArrowUp")
    assert page.page.evaluate("document.activeElement.parentNode.rowIndex") == 0  # from the middle of five rows
    page.page.hover("table.kernel tr:nth-child(4) td:nth-child(2)")
    page.page.keyboard.press("ArrowRight")  # the pointer rests on the table and does not take the selection back
    page.page.wait_for_timeout(150)
    focus = page.page.evaluate("[document.activeElement.parentNode.rowIndex, document.activeElement.cellIndex]")
    assert focus == [3, 2]
    page.page.focus("#columns")
    before = selection(page)[1:], page.page.evaluate("selection(layers[0]).tap")
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("ArrowLeft")
    assert page.page.evaluate("selection(layers[0]).tap") == [before[1][0], before[1][1] + 1]
    assert selection(page)[1:] == (before[0][0], before[0][1] - 1)
    page.page.focus("#productrow")
    page.page.keyboard.press("ArrowRight")
    assert selection(page)[1:] == before[0]
    page.page.keyboard.press("b")  # the backward view has fewer elements: the focus stays among them
    assert page.page.evaluate("document.getElementById('detail').contains(document.activeElement)")
    page.page.keyboard.press("f")
    page.page.keyboard.press("Control+b")
    assert page.page.get_attribute("#backward", "aria-checked") == "false"
    page.page.keyboard.press("b")
    assert page.page.get_attribute("#backward", "aria-checked") == "true"
    for key, backward in (("f", False), ("b", True)):  # Tab reaches every element and leaves, Shift+Tab returns
        page.page.keyboard.press(key)
        assert page.page.get_attribute("#backward", "aria-checked") == str(backward).lower()
        everything = "[...document.querySelectorAll('button, input, [tabindex=\"0\"]')].filter((e) => !e.disabled)"
        page.page.evaluate(f"{everything}[0].focus()")
        there = [tabbed(page, everything, None)]
        while there[-1] >= 0:
            there.append(tabbed(page, everything, "Tab"))
        assert there[:-1] == list(range(page.page.evaluate(f"{everything}.length")))
        back_again = [tabbed(page, everything, "Shift+Tab") for _ in there[:-1]]
        assert back_again == there[-2::-1]
    assert page.errors == []


def tabbed(page, everything, key):
    """The number of the element that has the focus after a key, -1 for none."""
    if key:
        page.page.keyboard.press(key)
    return page.page.evaluate(f"{everything}.indexOf(document.activeElement)")


def test_a_colour_image_is_in_colour(browser, tmp_path):
    """In the header, and where a later layer shows its receptive field."""
    image = np.zeros((3, 8, 9))
    image[0, :, :4], image[2, 4:] = 1, 0.5
    layers = [mc.Conv2D(2, 3), mc.Conv2D(2, 3), mc.Flatten(), mc.Dense(3)]
    page = Page(browser, mc.explain(mc.Sequential(layers, input_shape=(3, 8, 9)), image), tmp_path / "page.html")
    page.open(1, backward=False)
    pixels = "(canvas) => Array.from(canvas.getContext('2d').getImageData(0, 0, 9, 8).data)"
    for canvas in ("#picture canvas", "canvas[aria-label^='receptive field']"):
        shown = np.array(page.page.eval_on_selector(canvas, pixels)).reshape(8, 9, 4)[..., :3]
        assert abs(shown - 255 * image.transpose(1, 2, 0)).max() <= 1


def test_the_gradient_of_an_average_belongs_to_the_window_under_the_pointer(browser, tmp_path, rng):
    """At the border a window has fewer real pixels, so each receives more."""
    layers = [mc.Conv2D(2, 3, padding="same"), mc.AvgPool2D(3, stride=2, padding="same"), mc.Flatten(), mc.Dense(3)]
    explanation = mc.explain(mc.Sequential(layers, input_shape=(1, 9, 10)), rng.random((9, 10)), 1)
    page = Page(browser, explanation, tmp_path / "page.html")
    page.open(1, backward=True)
    dy, dx = (page.data["layers"][1][name] for name in ("dy", "dx"))
    page.hover("dx", 8, 9, 9, 10)  # the last row and column: the last window alone sees it
    channel = int(re.search(r"dx\[(\d)", page.page.inner_text("#detail")).group(1))
    exact(page.result(0), dy[channel, 4, 4])
    exact(page.result(1), dx[channel, 8, 9])
    count = int(re.search(r"dy / (\d)", page.page.inner_text("#detail")).group(1))
    assert dx[channel, 8, 9] == pytest.approx(dy[channel, 4, 4] / count)


def test_the_padding_is_never_the_maximum(browser, tmp_path, rng):
    layers = [mc.MaxPool2D(3, stride=2, padding=1), mc.Flatten(), mc.Dense(3)]
    explanation = mc.explain(mc.Sequential(layers, input_shape=(1, 8, 8)), -rng.random((8, 8)), 1)
    page = Page(browser, explanation, tmp_path / "page.html")
    page.open(0, backward=False)
    page.hover("output", 0, 0, 4, 4)
    padding = page.page.locator("table.patch td.pad")
    assert padding.all_inner_texts() == ["−∞"] * 5
    assert padding.first.get_attribute("title") == "padding: never the maximum"
    exact(page.result(), page.data["input"][0, :2, :2].max())
    assert page.page.locator("table.patch td.selected").get_attribute("class").split() == ["selected"]


def test_the_page_shows_what_was_dropped_out(browser, letter, tmp_path):
    layers = [mc.Flatten(), mc.Dense(40), mc.Dropout(0.5, seed=1), mc.Dense(10)]
    explanation = mc.explain(mc.Sequential(layers, input_shape=(1, 28, 28)), *letter, training=True)
    dropout = explanation.data["layers"][2]
    assert 5 < (dropout["y"] == 0).sum() < 35
    page = Page(browser, explanation, tmp_path / "page.html")
    page.open(2, backward=True)
    unit = int(np.flatnonzero(dropout["y"] == 0)[-1])
    page.hover("dx", *divmod(unit, 7), 6, 7)
    assert "dropped out" in page.page.inner_text(".answer")


def test_a_global_average_is_a_window_as_large_as_the_image(browser, tmp_path, rng):
    layers = [mc.Conv2D(4, 3), mc.GlobalAvgPool2D(), mc.Dense(3)]
    explanation = mc.explain(mc.Sequential(layers, input_shape=(1, 8, 9)), rng.random((8, 9)), 2)
    layer = explanation.data["layers"][1]
    page = Page(browser, explanation, tmp_path / "page.html")
    page.open(1, backward=False)
    channel = int(re.search(r"output\[(\d)", page.page.inner_text("#detail")).group(1))
    exact(page.result(0), layer["y"][channel, 0, 0])
    page.open(1, backward=True)
    page.hover("dx", 2, 3, 6, 7)
    exact(page.result(1), layer["dx"][channel, 2, 3])
    assert "dy / 42" in page.page.inner_text("#detail")


def test_numbers_that_are_not_finite_are_refused(letter):
    for values in ((np.nan, 0), (np.inf, 0), (3e38, -3e38)):  # the last: finite outputs, and a loss that is not
        model = mc.networks.logistic_regression()
        model.layers[1].bias.value[:2] = values
        with np.errstate(all="ignore"), pytest.raises(mc.InputError, match="finite"):
            mc.explain(model, letter[0], 1)


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


@pytest.mark.parametrize("network", ["lenet5", "mixed", "pooled at the end"])
def test_an_image_drawn_in_the_page(network, browser, letter, tmp_path, rng):
    if network == "lenet5":
        model, (image, label) = mc.networks.lenet5(), letter
    else:
        layers = [mc.Conv2D(5, 3), mc.GlobalAvgPool2D()] if network == "pooled at the end" else mixed_network().layers
        model, label = mc.Sequential(layers, input_shape=(4, 20, 17)), 1
        image = rng.random((4, 20, 17))
    page = Page(browser, mc.explain(model, image, label), tmp_path / "page.html", color_scheme="light")
    page.open(0, backward=True)
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
    assert f"predicts {best}" in page.page.inner_text("h1")
    assert page.page.is_disabled("#backward")
    page.page.click("#clear")
    page.page.mouse.move(board["x"] + 10, board["y"] + 20)
    page.page.mouse.down()
    page.page.mouse.move(board["x"] + 110, board["y"] + 60)  # in one event: a line, not two dots
    page.page.mouse.up()
    page.page.wait_for_function("!drawing.waiting")
    drawn = np.array(page.page.evaluate("Array.from(drawing.pixels)")).reshape(model.input_shape)[0]
    inked = np.flatnonzero(drawn.max(axis=0) > 0.5)
    assert len(inked) > 8 and (np.diff(inked) == 1).all()
    page.page.click("#back")
    np.testing.assert_array_equal(np.array(page.page.evaluate("Array.from(data.logits)"), "f4"), page.data["logits"])
    page.open(0, backward=True)
    exact(page.result(0), page.data["layers"][0]["dy"][selection(page)])
    assert page.errors == []


def test_the_page_computes_every_drawable_layer(browser, letter, tmp_path):
    page = Page(browser, mc.explain(mc.networks.lenet5(), *letter), tmp_path / "page.html")
    kinds = set(page.page.evaluate("Object.keys(computed)"))
    assert kinds == {layer.__name__ for layer in DRAWN_LAYERS}
    large = Page(browser, mc.explain(mc.networks.conv_pool(), *letter), tmp_path / "large.html")
    assert large.page.locator("#draw").count() == 0


def test_every_kind_of_layer_has_a_view(browser, tmp_path, rng):
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
        for backward in (False, True):
            page.open(layer, backward)
            assert page.page.locator("#detail h2").count() == 1
    assert page.errors == []


# The data behind it


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


def test_the_page_shows_every_text_as_it_is(browser, tmp_path):
    page = Page(browser, with_names(HOSTILE), tmp_path / "page.html")
    assert page.page.evaluate("data.names") == list(HOSTILE)
    assert HOSTILE[1] in page.page.inner_text("h1")
    for layer in range(4):
        page.open(layer, backward=False)
    bars = page.page.evaluate("document.getElementById('detail').textContent")
    assert all(name in bars for name in HOSTILE)
    page.open(1, backward=True)
    assert "".join(HOSTILE[:4]) in page.page.inner_text("h2")
    assert page.page.locator("script").count() == 2 and page.page.locator("img").count() == 0
    assert page.errors == []


@pytest.mark.parametrize("network", ["lenet5", "conv_pool", "two_conv", "mixed"])
def test_every_number_has_its_numerical_gradient(network, letter, rng, monkeypatch):
    monkeypatch.setattr(sys.modules["minicnn.inspect.explain.collect"], "NUMERICAL_SECONDS", np.inf)
    if network == "mixed":
        data = collect(mixed_network(), rng.random((4, 20, 17)))
    else:
        data = collect(getattr(mc.networks, network)(), *letter)
    for layer in data["layers"]:
        if layer["kind"] == "Conv2D":
            for numerical, analytic in (("numWeight", "dweight"), ("numInput", "dx")):
                scale = abs(layer[analytic]).max()
                np.testing.assert_allclose(layer[numerical] / scale, layer[analytic] / scale, atol=1e-5)


def test_without_time_there_are_no_numerical_gradients(letter, monkeypatch):
    monkeypatch.setattr(sys.modules["minicnn.inspect.explain.collect"], "NUMERICAL_SECONDS", -1)
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


def test_the_page_of_layers_inside_layers(browser, tmp_path, rng):
    data = mc.explain(nested_network(), rng.random((1, 8, 7)))
    page = Page(browser, data, tmp_path / "page.html")
    for layer in range(len(data.data["layers"]) + 1):
        for backward in (False, True):
            page.open(layer, backward)
            assert page.page.locator("#detail h2").count() == 1
    page.open(2, backward=False)
    assert "inner.conv2d_1.weight: 4 × 4 × 3 × 3" in page.page.inner_text("#detail")
    page.open(7, backward=True)
    shown = [float(bar.get_attribute("data-value")) for bar in page.page.locator("#dy .num").all()]
    np.testing.assert_array_equal(np.array(shown, "f4"), data.data["layers"][7]["dy"])
    page.open(5, backward=False)  # behind a layer that may read any pixel
    assert page.page.locator("canvas[aria-label^='receptive field']").count() == 0
    assert page.errors == []


def test_a_frozen_layer_has_no_gradient(browser, letter, tmp_path):
    model = mc.networks.lenet5()
    model.layers[0].trainable = model.layers[7].trainable = False
    explanation = mc.explain(model, *letter)
    assert not explanation.data["layers"][0]["dweight"].any() and not explanation.data["layers"][7]["dbias"].any()
    page = Page(browser, explanation, tmp_path / "page.html")
    for layer, frozen in ((0, True), (3, False), (7, True), (9, False)):
        page.open(layer, backward=True)
        assert ("are frozen" in page.page.inner_text("#detail")) == frozen
    assert page.errors == []


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
        *((2, line.split()) for line in ("", "nothing", "explain", "explain net.npz a.png --label x", "gradcheck x")),
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


def test_the_steps_in_the_terminal_are_those_of_im2col():
    text = story(argparse.Namespace(image="3x3", kernel="2", stride=1, padding=0))
    columns = mc.im2col.im2col(np.arange(1.0, 10).reshape(1, 1, 3, 3), 2)
    block = text.split("4 taps x 4 windows\n")[1].split("\n\n")[0]
    numbers = [[float(v) for v in line.replace("[", " ").replace("]", " ").split()] for line in block.splitlines()]
    np.testing.assert_array_equal(numbers, columns)
    counts = text.split("+=:\n")[1].split("\n\n")[0].replace("[", " ").replace("]", " ").split()
    assert list(map(int, counts)) == [1, 2, 1, 2, 4, 2, 1, 2, 1]
    padded = story(argparse.Namespace(image="3x3", kernel="3", stride=1, padding=1))
    image = padded.split("highlighted:\n")[1].split("\n\n")[0].replace("[", " ").replace("]", " ").split("\n")
    edge, *lines = [line.split() for line in image]
    assert edge == lines.pop() == ["·"] * 5
    assert lines == [["·", *map(str, range(k, k + 3)), "·"] for k in (1, 4, 7)]


@pytest.mark.parametrize("width", [30, 80, 300])
def test_the_steps_fit_the_terminal(width):
    arguments = argparse.Namespace(image="7x8", kernel="2x3", stride=1, padding=1)
    plain, coloured = story(arguments, False, width), story(arguments, True, width)
    assert max(map(len, plain.splitlines())) <= width
    assert max(map(len, re.sub("\x1b.*?m", "", coloured).splitlines())) <= width
    assert ("continued to the right" in plain) == (width < 300)
    with pytest.raises(mc.InputError, match="smaller"):
        story(argparse.Namespace(image="99x99", kernel="3", stride=1, padding=0))
