"""The page of explain in a real browser: the library's numbers, at every width, by mouse, touch and keyboard."""

import json
import re
from decimal import Decimal

import numpy as np
import pytest
from hostile import HOSTILE

import minicnn as mc
from minicnn.inspect.explain import excitation
from minicnn.inspect.explain.collect import DRAWN_LAYERS

OPEN = """const open = (layer, backward) => {
  document.getElementById(backward ? 'backward' : 'forward').click();
  document.getElementById(`layer-${layer}`).click();
  if (document.querySelectorAll('#detail h2').length !== 1) throw Error('no view');
}"""
WIDTHS = {360: 740, 390: 844, 768: 1024, 1280: 720, 1920: 1080}


@pytest.fixture(scope="module")
def letter():
    (x, y), _ = mc.datasets.load_letters(train=10, test=10, cache=False)
    return x[3], int(y[3])


@pytest.fixture(scope="module")
def lenet(letter):
    (examples, _), _ = mc.datasets.load_letters(train=12, test=10, cache=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(excitation, "SECONDS", np.inf)  # on a busy machine, too
        return mc.explain(mc.networks.lenet5(), *letter, examples=examples)


@pytest.fixture(scope="module")
def pages(browser, lenet, tmp_path_factory):
    """LeNet-5's page at a width, in a colour scheme; opened once, and as new for every test."""
    opened, path = {}, tmp_path_factory.mktemp("lenet") / "page.html"

    def page(width=1280, color_scheme="light"):
        key = width, color_scheme
        if key not in opened:
            opened[key] = Page(browser, lenet, path, width, color_scheme=color_scheme)
        opened[key].page.evaluate(
            "state.selections.clear(); held.id = null; scrollTo(0, 0); document.activeElement.blur()"
        )
        opened[key].open(0)
        return opened[key]

    yield page
    for found in opened.values():
        assert found.errors == []


class Page:
    """An open page, and what it shows."""

    def __init__(self, browser, explanation, path, width=1280, **options):
        explanation.save(path)
        self.data = explanation.data
        self.page = browser.new_page(viewport={"width": width, "height": WIDTHS[width]}, **options)
        self.page.set_default_timeout(180_000)  # a busy machine is no error of the page
        self.errors = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.errors.append(request.url) if "://" in request.url[5:] else None)
        self.page.goto(f"file://{path}")
        self.page.wait_for_selector("body[data-ready]")

    def open(self, layer, backward=False):
        self.page.evaluate(f"{OPEN}; open({layer}, {str(backward).lower()})")

    def in_every_view(self, layers, function):
        """What a JavaScript function returns in each view, as [layer, direction, result], in one call."""
        return self.page.evaluate(
            f"""(layers) => {{
              {OPEN};
              return layers.flatMap((layer) => [false, true].map((backward) => {{
                open(layer, backward);
                scrollTo(0, 0);
                return [layer, backward, ({function})()];
              }}));
            }}""",
            list(layers),
        )

    def hover(self, canvas, row, col, height, width):
        """Point at a cell of a map."""
        self.page.mouse.move(0, 0)
        self.page.locator(f"#{canvas}").scroll_into_view_if_needed()
        box = self.page.locator(f"#{canvas}").bounding_box()
        self.page.mouse.move(
            box["x"] + (col + 0.5) * box["width"] / width, box["y"] + (row + 0.5) * box["height"] / height
        )

    def type(self, field, value):
        self.page.fill(f"#{field}", str(value))
        self.page.press(f"#{field}", "Tab")

    def result(self, nth=0):
        return float(self.page.locator(".equation b.num").nth(nth).get_attribute("data-value"))

    def text(self, selector="#detail"):
        return self.page.inner_text(selector)

    def table(self, kind):
        read = "rows => rows.map(row => [...row.cells].map(cell => cell.dataset.value))"
        return np.array(self.page.locator(f"table.{kind} tr").evaluate_all(read)).astype(float)

    def terms(self, id):
        """The names and values of a sum's terms, what the others add, the bias and the total."""
        read = "rows => rows.map(row => [row.textContent, row.querySelector('.num').dataset.value])"
        items = self.page.locator(f"#{id} li").evaluate_all(read)
        rest = {
            kind: found[0]
            for kind in ("others", "bias", "total")
            if (
                found := self.page.locator(f".sum:has(#{id}) .line.{kind} .num").evaluate_all(
                    "all => all.map(e => e.dataset.value)"
                )
            )
        }
        return [name for name, _ in items], [float(value) for _, value in items], {k: float(v) for k, v in rest.items()}

    def selection(self):
        """The index in the first equation, such as output[3, 2, 1]."""
        text = self.page.locator(".equation").first.inner_text()
        return tuple(int(part) for part in text.split("[")[1].split("]")[0].split(","))

    def state(self, layer, *names):
        return self.page.evaluate(f"(({{{', '.join(names)}}}) => [{', '.join(names)}])(selection(layers[{layer}]))")


def exact(shown, value):
    """The page's number is the float32 number, to the last bit."""
    assert np.float32(shown) == np.float32(value)


def window(layer, x, c, row, col):
    """What the window at an output position reads of a channel, zero in the padding."""
    about = layer["window"]
    padded = np.pad(x[c], about["pads"])
    r, s = row * about["stride"][0], col * about["stride"][1]
    KH, KW = about["kernel"]
    return padded[r : r + KH, s : s + KW]


@pytest.mark.parametrize("network", ["lenet5", "conv_pool"])
def test_every_number_on_the_page_is_the_librarys(browser, network, lenet, letter, tmp_path):
    explanation = lenet if network == "lenet5" else mc.explain(mc.networks.conv_pool(), *letter)
    page = Page(browser, explanation, tmp_path / "page.html")
    data, layers = page.data, page.data["layers"]
    assert (tmp_path / "page.html").stat().st_size < 6e6
    for i, layer in enumerate(layers):
        x = layers[i - 1]["y"] if i else data["input"]
        page.open(i)
        if layer["view"] == "convolution":
            _, OH, OW = layer["shape"]
            for row, col in ((2, 3), (OH - 1, 0)):
                page.hover("output", row, col, OH, OW)
                f, r, s = page.selection()
                assert (r, s) == (row, col)
                exact(page.result(), layer["y"][f, row, col])
                (c,) = page.state(i, "c")
                np.testing.assert_array_equal(page.table("patch").astype("f4"), window(layer, x, c, row, col))
                np.testing.assert_array_equal(page.table("kernel").astype("f4"), layer["weight"][f, c])
            page.page.locator("table.kernel td").nth(5).hover()
            for kind in ("patch", "kernel", "products"):  # the tap is selected in all three
                classes = page.page.locator(f"table.{kind} td").evaluate_all("all => all.map(e => e.className)")
                assert [k for k, name in enumerate(classes) if "selected" in name] == [5]
            page.open(i, backward=True)
            page.hover("dy", 1, 2, OH, OW)
            f, r, s = page.selection()
            exact(page.result(0), layer["dy"][f, 1, 2])
            page.page.locator("table.dweight td").first.hover()
            (c,) = page.state(i, "c")
            exact(page.result(1), layer["dweight"][f, c, 0, 0])
            np.testing.assert_array_equal(page.table("dweight").astype("f4"), layer["dweight"][f, c])
            page.hover("dx", 0, 4, *x.shape[1:])
            exact(page.result(2), layer["dx"][c, 0, 4])
            for text, value in zip(
                page.page.locator("p:has-text('finite difference') .num").evaluate_all(
                    "all => all.map(e => e.dataset.value)"
                ),
                (layer["numWeight"][f, c, 0, 0], layer["numInput"][c, 0, 4]),
                strict=True,
            ):
                exact(float(text), value)
        elif layer["view"] == "pooling":
            _, OH, OW = layer["shape"]
            page.hover("output", 3, 1, OH, OW)
            f, _, _ = page.selection()
            exact(page.result(), layer["y"][f, 3, 1])
            np.testing.assert_array_equal(page.table("patch").astype("f4"), window(layer, x, f, 3, 1))
            page.open(i, backward=True)
            page.hover("dx", 3, 2, *x.shape[1:])
            exact(page.result(1), layer["dx"][f, 3, 2])
        elif layer["kind"] in ("Tanh", "ReLU") and len(layer["shape"]) == 3:
            _, H, W = layer["shape"]
            page.hover("output", 5, 6, H, W)
            f, _, _ = page.selection()
            exact(page.result(), layer["y"][f, 5, 6])
            page.open(i, backward=True)
            page.hover("dx", 6, 5, H, W)
            exact(page.result(1), layer["dx"][f, 6, 5])
            assert ("gradient zero" in page.text()) == (layer["dx"][f, 6, 5] == 0)
        elif layer["kind"] == "Dense":
            unit = len(layer["y"]) - 2  # every unit is reached by its number
            page.type("unit", unit)
            exact(page.result(), layer["y"][unit])
            _, values, rest = page.terms("terms")
            assert sum(values) + rest["others"] + rest["bias"] == pytest.approx(rest["total"], rel=1e-4, abs=1e-5)
            weight = layer["weight"][unit] if "weight" in layer else layer["topWeights"][unit]
            inputs = x.ravel() if "weight" in layer else x.ravel()[layer["top"][unit]]
            largest_first(values, weight * inputs)
            page.open(i, backward=True)
            exact(page.result(), layer["dy"][unit])
            page.type("input", 7)
            exact(page.result(1), layer["dy"][unit] * x.ravel()[7])
            _, values, _ = page.terms("weight-terms")
            largest_first(values[:7], layer["dy"][unit] * x.ravel())
            exact(page.result(2), layer["dx"][7])
    page.open(len(layers), backward=True)
    shown = page.page.locator(".bars .num").evaluate_all("all => all.map(e => e.dataset.value)")
    expected = np.concatenate([layers[-1]["dy"], data["logits"], data["probabilities"]])
    np.testing.assert_array_equal(np.array(shown, float).astype("f4"), expected)
    assert page.errors == []


def largest_first(shown, products):
    """The shown terms are the largest ones, each to the last bit; one more may be the selected one."""
    expected = np.sort(abs(products.astype("f4")), axis=None)[::-1][:7]
    np.testing.assert_array_equal(abs(np.array(shown, "f4"))[:7], expected)


def test_every_sum_is_shown_whole(pages):
    """The terms, what the others add, and the bias give the library's total; every term lights its place."""
    page = pages()
    for index, backward, lists in (
        (0, False, ["terms"]),
        (3, False, ["terms"]),
        (2, False, ["terms"]),
        (0, True, ["weight-terms", "pixel-terms"]),
        (3, True, ["weight-terms", "pixel-terms"]),
        (7, False, ["terms"]),
        (7, True, ["input-terms"]),
    ):
        page.open(index, backward)
        for name in lists:
            _, values, rest = page.terms(name)
            assert 1 <= len(values) <= 8
            added = sum(values) + rest.get("others", 0) + rest.get("bias", 0)
            assert added == pytest.approx(rest["total"], rel=1e-4, abs=1e-5)
    page.open(0, backward=True)
    layer, (f, c) = page.data["layers"][0], page.state(0, "f", "c")
    assert "the other 77" in page.text()  # of 784
    for _ in range(4):
        page.page.locator(".sum:has(#weight-terms) button").first.click()
    names, values, rest = page.terms("weight-terms")
    kh, kw = page.state(0, "tap")[0]
    read = np.pad(page.data["input"][c], 2)[kh : kh + 28, kw : kw + 28]
    np.testing.assert_array_equal(
        np.sort(np.array(values, "f4")), np.sort((read * layer["dy"][f]).astype("f4"), axis=None)
    )
    assert "others" not in rest
    page.page.locator("#weight-terms li").nth(2).click()
    r, s = page.state(0, "r", "s")
    assert f"dy[{r},{s}]" in names[2]
    page.page.keyboard.press("ArrowDown")
    assert page.state(0, "r", "s") == list(map(int, re.search(r"dy\[(\d+),(\d+)\]", names[3]).groups()))
    page.page.locator("#pixel-terms li").nth(1).click()
    name = page.terms("pixel-terms")[0][1]
    f, _, kh, kw, r, s = map(int, re.findall(r"\d+", name.split("=")[0]))
    assert page.state(0, "f", "r", "s", "tap") == [f, r, s, [kh, kw]]
    copies = int(mc.im2col.col2im(np.ones((25, 784)), (1, 1, 28, 28), 5, padding=2)[0, 0, 0, 1])
    page.hover("dx", 0, 1, 28, 28)
    assert f"copied into {copies} of the 784 windows" in page.text() and f"{copies * 6} terms in all" in page.text()
    assert page.errors == []


def test_a_column_of_im2col_is_reached_by_its_number(pages):
    page = pages()
    for index, column, row in ((0, 37, 13), (3, 99, 147), (0, 783, 0)):
        page.open(index)
        layer = page.data["layers"][index]
        x = page.data["layers"][index - 1]["y"] if index else page.data["input"]
        page.type("column", column)
        page.type("tap", row)
        (_, KH, KW), OW = layer["weight"].shape[1:], layer["shape"][2]
        assert page.selection()[1:] == divmod(column, OW)
        columns = mc.im2col.im2col(x[None], (KH, KW), padding=layer["window"]["pads"])
        (c,) = page.state(index, "c")
        np.testing.assert_array_equal(
            page.table("patch").ravel().astype("f4"), columns[c * KH * KW : (c + 1) * KH * KW, column]
        )
        assert page.state(index, "tap") == [[row // KW % KH, row % KW]]
        assert c == row // (KH * KW) and f"Column {column} is the window at output" in page.text()
        box = page.page.locator("#matrix .ruler.top .selected").bounding_box()
        outer = page.page.locator("#matrix").bounding_box()
        assert outer["x"] <= box["x"] < outer["x"] + outer["width"]  # scrolled until it can be seen
        assert page.page.locator("#matrix .ruler.top .selected").inner_text() == str(column)
    page.page.mouse.move(outer["x"] + 150, outer["y"] + 60)
    page.page.mouse.move(outer["x"] + 160, outer["y"] + 60)
    assert page.state(0, "r", "s") not in ([27, 27], [0, 0])
    assert page.errors == []


def test_the_padding_is_drawn_around_the_input(pages):
    page = pages()
    page.open(0)
    size = "canvas => [canvas.height, canvas.width]"
    assert page.page.eval_on_selector("#input", size) == [32, 32]
    assert page.page.locator("figure:has(#input) rect.padding").count() == 4
    page.hover("output", 0, 0, 28, 28)
    frame = page.page.locator("figure:has(#input) rect.window")
    assert [frame.get_attribute(name) for name in ("x", "y", "width", "height")] == ["0", "0", "5", "5"]
    page.open(3)
    assert page.page.eval_on_selector("#input", size) == [14, 14]
    assert page.page.locator("figure:has(#input) rect.padding").count() == 0


def written(text, value):
    """A text shows a number to the last of its own digits."""
    last = Decimal(text).as_tuple().exponent
    assert abs(Decimal(text) - Decimal(float(value))) <= Decimal(5).scaleb(last - 1), (text, value)
    assert value == 0 or len(Decimal(text).as_tuple().digits) >= 2


def contrast(shades, inks):
    """WCAG's contrast of colours, (n, 3) each."""
    linear = [np.where(c / 255 <= 0.04045, c / 255 / 12.92, ((c / 255 + 0.055) / 1.055) ** 2.4) for c in (shades, inks)]
    light = [values @ [0.2126, 0.7152, 0.0722] + 0.05 for values in linear]
    return np.maximum(*light) / np.minimum(*light)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_shown_texts_are_the_computed_numbers(scheme, pages):
    page = pages(color_scheme=scheme)
    cells = "[...document.querySelectorAll('[data-value]')].filter((e) => !e.classList.contains('pad'))"
    read = f"() => [document.querySelector('h2').innerText, {cells}.map((e) => [e.innerText, e.dataset.value])]"
    for layer, _, (title, numbers) in page.in_every_view(range(13), read):
        for line in page.data["layers"][layer].get("sizes", []) if layer < 12 else []:
            assert title.count(line) == 1
        assert numbers
        for text, value in numbers:
            written(text, float(value))
    shades = np.array(page.page.evaluate("Array.from({ length: 401 }, (_, i) => colour(i - 200, 200))"))
    inks = page.page.evaluate("Array.from({ length: 401 }, (_, i) => legible(...colour(i - 200, 200)))")
    inks = np.array([[int(ink[k : k + 2], 16) for k in (1, 3, 5)] for ink in inks])
    assert contrast(shades, inks).min() >= 4.5  # for small text
    names = ("--soft", "--positive", "--negative", "--ink", "--accent")
    style = "getComputedStyle(document.documentElement)"
    read = {name: page.page.evaluate(f"{style}.getPropertyValue('{name}')") for name in (*names, "--panel", "--wash")}
    rgb = {name: np.array([[int(value[k : k + 2], 16) for k in (1, 3, 5)]]) for name, value in read.items()}
    for ground in ("--panel", "--wash"):
        for name in names:
            assert contrast(rgb[ground], rgb[name])[0] >= 4.5, (name, ground)
    assert page.errors == []


#: The elements that reach beyond the page, the width of the page, the least width of a result, and the bottom line.
CUT_OFF = """() => {
  const scrolls = (e) => e.closest('.scrolls, .filters, svg, #status');
  const width = document.documentElement.clientWidth;
  const beyond = [...document.querySelectorAll('body *')].filter((e) =>
    e.getClientRects().length && !scrolls(e) && e.getBoundingClientRect().right > width + 1);
  const results = [...document.querySelectorAll('.equation, .sum')].map((e) => e.offsetWidth);
  const names = beyond.map((e) => e.tagName + '.' + e.className + '#' + e.id);
  const status = document.getElementById('status').getBoundingClientRect();
  return [names, document.documentElement.scrollWidth, Math.min(999, ...results), status.bottom];
}"""


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_at_any_width(width, pages):
    """And no result is in a column too narrow to be read."""
    page = pages(width, "dark" if width == 390 else "light")
    for view in page.in_every_view((0, 2, 3, 7, 11, 12), CUT_OFF):
        beyond, wide, result, bottom = view[-1]
        assert beyond == [] and wide <= width and result >= 100, view
        if width < 1100:  # the result is always on the screen, at its bottom
            assert bottom == WIDTHS[width]


def test_the_cause_and_its_effect_are_on_the_screen_together(pages):
    """At 1280 x 720, without scrolling: the map that is pointed at, and the result with its terms."""
    page = pages()
    shown = ".map:not(#matrix .map), #matrix, .equation, table.numbers, .rest"
    ends = f"""() => [...document.querySelectorAll('#detail .split :is({shown})')].map((e) =>
      Math.round(e.getBoundingClientRect().bottom))"""
    for layer, backward, found in page.in_every_view(range(12), ends):
        assert found and max(found) <= 720, (layer, backward, found)


def test_tables_do_not_move_while_the_pointer_does(pages):
    page = pages()
    page.open(3)
    places = """() => [...document.querySelectorAll('table.numbers, #matrix, #output')].map((e) => {
      const { x, y, width, height } = e.getBoundingClientRect();
      return [x, y, width, height];
    })"""
    found = set()
    for row, col in ((0, 0), (3, 4), (9, 9), (5, 2)):
        page.hover("output", row, col, 10, 10)
        found.add(json.dumps(page.page.evaluate(places)))
    assert len(found) == 1


def test_the_keyboard_alone_is_enough(pages):
    page = pages()
    keys = page.page.keyboard
    keys.press("Tab")
    stops = 0
    while page.page.evaluate("!document.getElementById('detail').contains(document.activeElement)"):
        keys.press("Tab")
        stops += 1
    assert stops <= 3  # the drawing, the direction, the layers
    page.page.focus("#layer-0")
    keys.press("ArrowRight")
    assert "tanh_1" in page.text("h2") and page.page.evaluate("document.activeElement.id") == "layer-1"
    keys.press("End")
    assert "cross-entropy" in page.text("h2")
    keys.press("Home")
    page.page.focus("#output")
    _, r, s = page.selection()
    keys.press("ArrowDown")
    keys.press("ArrowRight")
    assert page.selection()[1:] == (r + 1, s + 1)
    assert f"row {r + 1}, column {s + 1}" in page.page.get_attribute("#output", "aria-label")
    assert page.text("#status").startswith(f"output[{page.selection()[0]}, {r + 1}, {s + 1}] = ")
    page.page.focus("table.kernel td.selected")
    keys.press("ArrowUp")
    keys.press("ArrowUp")
    assert page.page.evaluate("document.activeElement.id") == "kernel-0-2"  # from the middle of five rows
    page.page.mouse.move(5, 5)
    page.page.hover("#kernel-3-1")
    page.page.focus("#kernel-3-1")
    keys.press("ArrowRight")  # the pointer rests on the table and does not take the selection back
    page.page.wait_for_timeout(100)
    assert page.page.evaluate("document.activeElement.id") == "kernel-3-2"
    page.page.focus("#columns")
    before = page.state(0, "r", "s", "tap")
    keys.press("ArrowDown")
    keys.press("ArrowLeft")
    assert page.state(0, "r", "s", "tap") == [before[0], before[1] - 1, [before[2][0], before[2][1] + 1]]
    page.page.focus("#filters [tabindex='0']")
    (f,) = page.state(0, "f")
    keys.press("ArrowRight" if f < 5 else "ArrowLeft")
    assert page.state(0, "f") == [f + 1 if f < 5 else f - 1]
    keys.press("b")
    assert page.page.get_attribute("#backward", "aria-checked") == "true"
    assert page.page.evaluate("document.getElementById('detail').contains(document.activeElement)")
    keys.press("Control+f")
    assert page.page.get_attribute("#backward", "aria-checked") == "true"
    for backward in (False, True):  # Tab reaches every stop in order, and leaves
        page.open(3, backward)
        everything = """[...document.querySelectorAll("button, input, [tabindex='0']")]
          .filter((e) => !e.disabled && e.tabIndex >= 0)"""
        page.page.evaluate(f"{everything}[0].focus()")
        for i in range(page.page.evaluate(f"{everything}.length")):
            assert page.page.evaluate(f"{everything}.indexOf(document.activeElement)") == i
            keys.press("Tab")
    assert page.errors == []


def test_every_control_has_a_role_and_a_name(pages):
    page = pages()
    nameless = """() => [...document.querySelectorAll("button, input, [tabindex='0'], [role]")].filter((e) =>
      !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length || e.textContent.trim()
        || e.id === 'status' || e.id === 'glossary')).map((e) => e.outerHTML.slice(0, 90))"""
    ids = "() => [...document.querySelectorAll('[id]')].map((e) => e.id).filter((id) => id !== 'hatch')"
    for view in page.in_every_view((0, 1, 2, 6, 7, 11, 12), nameless):
        assert view[-1] == [], view
    for *_, found in page.in_every_view((0, 3, 7), ids):
        assert len(set(found)) == len(found)
    assert page.page.locator("[role='tab'][aria-selected='true']").count() == 1
    assert page.page.locator("[role='tablist'] [tabindex='0']").count() == 1


def test_touch_selects(browser, lenet, tmp_path):
    page = Page(browser, lenet, tmp_path / "page.html", 390, has_touch=True, is_mobile=True)
    page.open(0)
    canvas = page.page.locator("#output")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.page.touchscreen.tap(box["x"] + 4.5 * box["width"] / 28, box["y"] + 2.5 * box["height"] / 28)
    assert page.selection()[1:] == (2, 4)
    assert page.text("#status").startswith("output[") and page.page.is_visible("#status")
    page.page.locator("#kernel-1-3").tap()
    assert page.state(0, "tap") == [[1, 3]]
    page.page.locator("#detail .word").first.tap()
    assert page.page.is_visible("#glossary")
    assert page.errors == []


def test_a_click_keeps_the_selection_while_the_pointer_moves_on(pages):
    page = pages()
    page.open(0)
    page.hover("output", 3, 4, 28, 28)
    page.page.mouse.down()
    page.page.mouse.up()
    page.hover("output", 20, 20, 28, 28)
    assert page.selection()[1:] == (3, 4)
    page.hover("output", 3, 4, 28, 28)
    page.page.mouse.down()
    page.page.mouse.up()
    page.hover("output", 20, 21, 28, 28)
    assert page.selection()[1:] == (20, 21)


def test_every_word_of_the_glossary_is_explained_in_place(pages):
    page = pages()
    meanings = page.page.evaluate("MEANINGS")
    open_each = """() => [...document.querySelectorAll('.word')].map((e) => {
      e.click();
      return document.querySelector('#glossary b').textContent;
    })"""
    used = set().union(*(found for *_, found in page.in_every_view(range(13), open_each)))
    assert {"tap", "dy", "logits", "saturated", "finite difference", "col2im", "im2col"} - used <= {"saturated"}
    assert used <= set(meanings)
    page.open(0)
    page.page.locator(".word", has_text="kernel").first.click()
    assert meanings["kernel"] in page.text("#glossary")
    box = page.page.locator("#glossary").bounding_box()
    assert box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= 1280
    page.page.keyboard.press("Escape")
    assert not page.page.is_visible("#glossary")
    assert page.errors == []


def test_a_dense_layer_opens_at_the_unit_that_matters(pages):
    page = pages()
    for index in (7, 9, 11):
        layer = page.data["layers"][index]
        page.open(index)
        (unit,) = page.state(index, "unit")
        product = abs(layer["y"] * layer["dy"])
        assert product[unit] == product.max()
        page.open(index, backward=True)
        (inputs,) = page.state(index, "input")
        assert abs(layer["dx"]).argmax() == inputs
        gradients = abs(layer["dy"][unit] * page.data["layers"][index - 1]["y"].ravel())
        assert page.terms("weight-terms")[1][0] == pytest.approx(gradients.max()) or page.terms("weight-terms")[1][
            0
        ] == pytest.approx(-gradients.max())


def test_all_filters_fields_and_what_excites_them(pages):
    page = pages()
    page.open(3)
    assert page.page.locator("#all [role='radio']").count() == 16
    page.page.locator("#all-5").click()
    assert page.state(3, "f") == [5]
    layer = page.data["layers"][3]
    r, s = layer["effectiveAt"][5]
    assert abs(layer["y"][5]).max() == abs(layer["y"][5, r, s])
    bounds = page.page.evaluate(f"receptiveField(3, {r}, {s})")
    assert bounds == [max(0, 2 * r - 2), max(0, 2 * s - 2), *bounds[2:]] and max(bounds[2:]) <= 14
    outside = layer["effective"][5].copy()
    outside[bounds[0] : bounds[0] + bounds[2], bounds[1] : bounds[1] + bounds[3]] = 0
    assert not outside.any() and layer["effective"][5].max() == 255
    assert page.page.locator(".tile").count() == 1 + 4  # one made, four examples
    page.open(11)
    assert "what excites" in page.text()
    assert page.errors == []


def block_network():
    layers = [
        mc.Conv2D(4, 3, padding=1, use_bias=False),
        mc.BatchNorm(),
        mc.ReLU(),
        mc.Residual([mc.Conv2D(4, 3, padding=1), mc.BatchNorm()]),
        mc.Branches(
            [[mc.Conv2D(2, 1)], [mc.Sequential([mc.Conv2D(3, 3, padding=1), mc.Tanh()])], []], join="concatenate"
        ),
        mc.GroupNorm(3),
        mc.GlobalMaxPool2D(),
        mc.LayerNorm(),
        mc.Dense(3),
    ]
    model = mc.Sequential(layers, input_shape=(1, 9, 8))
    x = np.random.default_rng(0).random((6, 1, 9, 8), dtype="float32")
    for _ in range(3):
        model.forward(x, training=True)
    return model, x[0]


@pytest.mark.parametrize("training", [False, True])
def test_blocks_and_normalization_have_their_pages(training, browser, tmp_path):
    model, image = block_network()
    page = Page(browser, mc.explain(model, image, 1, training=training), tmp_path / "page.html")
    layers = {layer["name"]: (i, layer) for i, layer in enumerate(page.data["layers"])}
    page.in_every_view(range(len(layers) + 1), "() => 0")
    for name in ("batchnorm_1", "residual_1.layers.1", "groupnorm_1"):
        i, layer = layers[name]
        page.open(i)
        page.hover("output", 2, 3, 9, 8)
        f, r, s = page.selection()
        exact(page.result(), layer["y"][f, r, s])
        page.open(i, backward=True)
        page.hover("dx", 4, 5, 9, 8)
        exact(page.result(), layer["dx"][f, 4, 5])
        shown = page.text()
        fixed = layer["statistics"].get("fixed", False)
        assert fixed == (name != "groupnorm_1" and not training)
        assert "changes the variance" in shown  # the hard terms: outside training for this image alone
        statistics = layer["asInTraining"] if fixed else layer["statistics"]
        group = f * len(statistics["mean"]) // len(layer["y"])
        mean1, mean2 = (statistics[key][group] for key in ("meanGradient", "meanProduct"))
        normalized = statistics["normalized"][f, 4, 5]
        dnormalized = layer["dy"][f, 4, 5] * layer["scale"][f]
        by_hand = (dnormalized - mean1 - normalized * mean2) / np.sqrt(statistics["variance"][group] + 1e-5)
        expected = (statistics if fixed else layer)["dx"][f, 4, 5]
        assert by_hand == pytest.approx(expected, rel=1e-3, abs=1e-6)
        exact(page.result(1 if fixed else 0), expected)
    i, layer = layers["residual_1"]
    page.open(i, backward=True)
    page.hover("output", 1, 2, 9, 8)
    f, r, s = page.selection()
    exact(page.result(), layer["dx"][f, 1, 2])
    lines = page.page.locator(".what .line .num").evaluate_all("all => all.map(e => Number(e.dataset.value))")
    assert lines[1] == pytest.approx(layer["dy"][f, 1, 2])  # through the empty row it passes unchanged
    assert sum(lines) == pytest.approx(layer["dx"][f, 1, 2], abs=1e-6)
    page.page.locator(".lane button").first.click()
    assert page.text("h2").startswith("residual_1.layers.")
    i, layer = layers["branches_1"]
    page.open(i)
    for channel in (0, 3, 8):
        page.page.evaluate(f"document.getElementById('filters-{channel}').click()")
        f, r, s = page.selection()
        assert f == channel
        exact(page.result(), layer["y"][f, r, s])
        line = page.page.locator(".what .line .num").evaluate_all("all => all.map(e => Number(e.dataset.value))")
        assert line == [pytest.approx(layer["y"][f, r, s])]
    i, _ = layers["branches_1.branches.1.conv2d_1"]
    field = page.page.evaluate(f"receptiveField({i}, 4, 4)")
    assert field == (None if training else [1, 1, 7, 7])  # three 3x3 convolutions; the mean of a channel sees all
    assert page.errors == []


NAMES = ["Ankle boot", "T-shirt/top", "Trouser", "A name that is much longer than any column of a table could ever be"]


@pytest.mark.parametrize("width", [360, 1280])
def test_long_class_names_fit(width, browser, letter, tmp_path):
    layers = [mc.Conv2D(2, 3), mc.Flatten(), mc.Dense(4)]
    explanation = mc.explain(mc.Sequential(layers, (1, 28, 28)), letter[0], "Ankle boot", names=NAMES)
    assert explanation.data["label"] == 0
    page = Page(browser, explanation, tmp_path / "page.html", width)
    for view in page.in_every_view((2, 3), CUT_OFF):
        assert view[-1][0] == [] and view[-1][1] <= width, view
    assert "Ankle boot" in page.text() and NAMES[3] in page.text()
    assert page.errors == []


def test_the_page_in_a_notebooks_frame(browser, lenet, tmp_path):
    """As wide as a cell; it fits there, and follows the colours when they change."""
    (tmp_path / "notebook.html").write_text(
        f"<!doctype html><body style='width:640px'>{lenet._repr_html_()}</body>", encoding="utf-8"
    )
    page = browser.new_page(viewport={"width": 900, "height": 800}, color_scheme="light")
    page.set_default_timeout(180_000)
    errors = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"file://{tmp_path / 'notebook.html'}")
    frame = page.frames[1]
    frame.wait_for_selector("body[data-ready]")
    assert frame.evaluate("document.documentElement.scrollWidth") <= 640
    drawn = "document.querySelector('#legend i').style.background"
    light = frame.evaluate(drawn)
    page.emulate_media(color_scheme="dark")
    frame.wait_for_function(f"{drawn} !== {json.dumps(light)}")
    assert errors == []


def test_a_colour_image_is_in_colour(browser, tmp_path):
    """In the header, and where a later layer shows its receptive field."""
    image = np.zeros((3, 8, 9))
    image[0, :, :4], image[2, 4:] = 1, 0.5
    layers = [mc.Conv2D(2, 3), mc.Conv2D(2, 3), mc.Flatten(), mc.Dense(3)]
    page = Page(browser, mc.explain(mc.Sequential(layers, input_shape=(3, 8, 9)), image), tmp_path / "page.html")
    page.open(1)
    pixels = "(canvas) => Array.from(canvas.getContext('2d').getImageData(0, 0, 9, 8).data)"
    for canvas in ("#picture canvas", "#receptive"):
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
    channel = int(re.search(r"dx\[(\d)", page.text()).group(1))
    exact(page.result(0), dy[channel, 4, 4])
    exact(page.result(1), dx[channel, 8, 9])
    count = int(re.search(r"dy / (\d)", page.text()).group(1))
    assert dx[channel, 8, 9] == pytest.approx(dy[channel, 4, 4] / count)


def test_the_padding_is_never_the_maximum(browser, tmp_path, rng):
    layers = [mc.MaxPool2D(3, stride=2, padding=1), mc.Flatten(), mc.Dense(3)]
    explanation = mc.explain(mc.Sequential(layers, input_shape=(1, 8, 8)), -rng.random((8, 8)), 1)
    page = Page(browser, explanation, tmp_path / "page.html")
    page.open(0)
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
    height, width = page.page.eval_on_selector("#dx", "canvas => [canvas.height, canvas.width]")
    page.hover("dx", *divmod(unit, width), height, width)
    assert "dropped out" in page.text(".answer")


def test_a_global_pooling_is_a_window_as_large_as_the_image(browser, tmp_path, rng):
    for pooling in (mc.GlobalAvgPool2D(), mc.GlobalMaxPool2D()):
        layers = [mc.Conv2D(4, 3), pooling, mc.Dense(3)]
        explanation = mc.explain(mc.Sequential(layers, input_shape=(1, 8, 9)), rng.random((8, 9)), 2)
        layer = explanation.data["layers"][1]
        page = Page(browser, explanation, tmp_path / "page.html")
        page.open(1)
        channel = page.selection()[0]
        exact(page.result(0), layer["y"][channel, 0, 0])
        page.open(1, backward=True)
        page.hover("dx", 2, 3, 6, 7)
        exact(page.result(1), layer["dx"][channel, 2, 3])
        assert ("dy / 42" in page.text()) == isinstance(pooling, mc.GlobalAvgPool2D)


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
    page.page.mouse.move(board["x"] + 25, board["y"] + 30)
    page.page.mouse.down()
    page.page.mouse.move(board["x"] + 100, board["y"] + 110, steps=9)
    page.page.mouse.up()
    page.page.focus("#board")
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
        page.page.evaluate(f"document.getElementById('layer-{i}').click()")
    best = "ABCDEFGHIJ"[int(y[0].argmax())]
    assert f"predicts {best}" in page.text("h1")
    assert page.page.is_disabled("#backward")
    page.page.click("#clear")
    board = page.page.locator("#board").bounding_box()
    page.page.mouse.move(board["x"] + 10, board["y"] + 20)
    page.page.mouse.down()
    page.page.mouse.move(board["x"] + 95, board["y"] + 60)  # in one event: a line, not two dots
    page.page.mouse.up()
    page.page.wait_for_function("!drawing.waiting")
    drawn = np.array(page.page.evaluate("Array.from(drawing.pixels)")).reshape(model.input_shape)[0]
    inked = np.flatnonzero(drawn.max(axis=0) > 0.5)
    assert len(inked) > 8 and (np.diff(inked) == 1).all()
    page.page.click("#back")
    np.testing.assert_array_equal(np.array(page.page.evaluate("Array.from(data.logits)"), "f4"), page.data["logits"])
    page.open(0, backward=True)
    exact(page.result(0), page.data["layers"][0]["dy"][page.selection()])
    assert page.errors == []


def test_the_page_computes_every_drawable_layer(browser, letter, tmp_path):
    page = Page(browser, mc.explain(mc.networks.lenet5(), *letter), tmp_path / "page.html")
    kinds = set(page.page.evaluate("Object.keys(computed)"))
    assert kinds == {layer.__name__ for layer in DRAWN_LAYERS}


def test_every_kind_of_layer_has_a_view(browser, tmp_path, rng):
    class Twice(mc.Layer):
        def forward(self, x, training=False):
            return 2 * x, lambda dy: 2 * dy

    layers = [
        mc.Conv2D(6, 3, stride=2, padding=((0, 2), (1, 0)), groups=3, dilation=2, use_bias=False),
        mc.Sigmoid(),
        mc.Conv2D(2, 1),
        Twice(),
        mc.MaxPool2D(3, stride=2, padding=1),
        mc.Dropout(0.5),
        mc.UpSampling2D(2),
        mc.Conv2D(4, 1),
        mc.GELU(),
        mc.AvgPool2D(2, padding="same", count_include_pad=True),
        mc.GlobalAvgPool2D(),
        Twice(),
        mc.Dense(3),
        mc.ELU(),
    ]
    model = mc.Sequential(layers, input_shape=(3, 20, 17))
    explanation = mc.explain(model, rng.random((3, 20, 17)))
    page = Page(browser, explanation, tmp_path / "page.html")
    page.in_every_view(range(len(layers) + 1), "() => 0")
    page.open(11, backward=True)
    exact(page.result(0), explanation.data["layers"][11]["dy"][0])
    page.open(7)  # behind a layer that may read any pixel
    assert page.page.locator("#receptive").count() == 0 and "depend on every pixel" in page.text()
    assert page.errors == []


def test_the_terms_of_upsampling_layers_add_up(browser, tmp_path, rng):
    layers = [
        mc.Conv2D(4, 3),
        mc.UpSampling2D((2, 3)),
        mc.Conv2DTranspose(6, (3, 2), stride=2, padding=((1, 0), (0, 1)), output_padding=1, groups=2),
        mc.Conv2DTranspose(2, 3, stride=2, padding="same", dilation=2, use_bias=False),
        mc.Conv2D(2, 2),
        mc.Flatten(),
        mc.Dense(3),
    ]
    explanation = mc.explain(mc.Sequential(layers, input_shape=(1, 6, 5)), rng.random((1, 6, 5)), label=1)
    page = Page(browser, explanation, tmp_path / "page.html")
    for number in (1, 2, 3):
        about = explanation.data["layers"][number]
        for backward, array in ((False, about["y"]), (True, about["dx"])):
            page.open(number, backward)
            for _ in range(6):
                c, r, s = (int(rng.integers(size)) for size in array.shape)
                place = {"c": c, "h": r, "w": s} if backward else {"f": c, "r": r, "s": s}
                shown = "{'terms': 999, 'pixel-terms': 999, 'weight-terms': 999}"
                page.page.evaluate(f"Object.assign(selection(layers[{number}]), {place}, {{shown: {shown}}}); show()")
                c, r, s = page.state(number, *("chw" if backward else "frs"))  # a channel of the filter's group
                exact(page.result(0), array[c, r, s])
                _, terms, rest = page.terms("pixel-terms" if backward else "terms")
                np.testing.assert_allclose(sum(terms) + rest.get("bias", 0), array[c, r, s], rtol=1e-4, atol=1e-6)
                assert "others" not in rest
                lit = "[aria-selected='true']"
                assert backward or page.page.locator(f"#terms {lit}").count() == min(1, len(terms))
            if backward and number > 1:
                c, f, *tap = map(int, re.findall(r"\d+", page.page.locator(".equation").nth(1).inner_text())[:4])
                exact(page.result(1), about["dweight"][c, f, tap[0], tap[1]])
                _, terms, _ = page.terms("weight-terms")
                np.testing.assert_allclose(sum(terms), about["dweight"][c, f, tap[0], tap[1]], rtol=1e-4, atol=1e-6)
    page.open(4)  # whose receptive field goes through all of them
    bounds = page.page.evaluate("receptiveField(4, 3, 3)")
    assert bounds is not None and bounds[2] < 6
    assert page.errors == []


def test_a_frozen_layer_has_no_gradient(browser, letter, tmp_path):
    model = mc.networks.lenet5()
    model.layers[0].trainable = model.layers[7].trainable = False
    explanation = mc.explain(model, *letter)
    assert not explanation.data["layers"][0]["dweight"].any() and not explanation.data["layers"][7]["dbias"].any()
    page = Page(browser, explanation, tmp_path / "page.html")
    for layer, frozen in ((0, True), (3, False), (7, True), (9, False)):
        page.open(layer, backward=True)
        assert ("are frozen" in page.text()) == frozen
    assert page.errors == []


def test_the_page_shows_every_text_as_it_is(browser, tmp_path):
    from test_explain import with_names

    page = Page(browser, with_names(HOSTILE), tmp_path / "page.html")
    assert page.page.evaluate("data.names") == list(HOSTILE)
    assert HOSTILE[1] in page.text("h1")
    for layer in range(4):
        page.open(layer)
    bars = page.page.evaluate("document.getElementById('detail').textContent")
    assert all(name in bars for name in HOSTILE)
    page.open(1, backward=True)
    assert "".join(HOSTILE[:4]) in page.text("h2")
    assert page.page.locator("script").count() == 2 and page.page.locator("img").count() == 0
    assert page.errors == []
