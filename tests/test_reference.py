"""The reference: every public name stands in it, with what a reader looks for; and the signatures say their types."""

import doctest
import html
import inspect
import pathlib
import re
import subprocess
import sys

import pytest
from test_docstrings import public

import minicnn as mc

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"

NAMES = dict(public())
NAMES |= {f"minicnn.exchange.{name}": getattr(mc.exchange, name) for name in mc.exchange.__all__}
CLASSES = {name: item for name, item in NAMES.items() if inspect.isclass(item)}
FUNCTIONS = {name: item for name, item in NAMES.items() if inspect.isfunction(item)}
#: The methods of the public classes and of what they inherit from, each once.
METHODS = {
    f"{base.__name__}.{key}": (base, method)
    for item in CLASSES.values()
    for base in item.__mro__
    for key, method in vars(base).items()
    if base.__module__.startswith("minicnn") and inspect.isfunction(method) and not key.startswith("_")
}
#: Those that override nothing: an override may rename arguments, as the formulas do that have their own letters.
DEFINED = FUNCTIONS | {
    name: method
    for name, (base, method) in METHODS.items()
    if not any(hasattr(parent, method.__name__) for parent in base.__mro__[1:])
}
CALLABLES = FUNCTIONS | {name: method for name, (_, method) in METHODS.items()}

in_a_checkout = pytest.mark.skipif(not DOCS.exists(), reason="the pages are beside the tests in a checkout only")


def explained(doc):
    """The arguments that a docstring explains: `stride, padding: ...` are two."""
    sections = re.findall(r"^(?:Args|Attributes):\n((?: .*\n|\n(?= ))*)", doc + "\n", re.MULTILINE)
    lines = re.findall(r"^ {4}([\w*, ]+):", "".join(sections), re.MULTILINE)
    return {name for line in lines for name in re.split(r"[*, ]+", line)}


def parameters(function):
    return [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]


def unexplained(function, doc):
    return [p.name for p in parameters(function) if p.name not in explained(doc)]


def returns_nothing(function):
    return inspect.signature(function).return_annotation in (None, "None")


def test_the_names_of_the_package_are_listed():
    """`__all__` is what type checkers and the reference take for public."""
    assert {name for name in NAMES if "." not in name} - {"annotations"} <= set(mc.__all__)
    assert [name for name in mc.__all__ if not hasattr(mc, name)] == []


def test_every_signature_says_its_types():
    untyped = [
        f"{name}: {p.name}"
        for name, function in CALLABLES.items()
        for p in parameters(function)
        if p.annotation is p.empty
    ]
    assert untyped == []
    empty = inspect.Signature.empty
    assert [name for name, f in CALLABLES.items() if inspect.signature(f).return_annotation is empty] == []


def test_every_constructor_says_its_types():
    own = {name: vars(item)["__init__"] for name, item in CLASSES.items() if "__init__" in vars(item)}
    assert len(own) > 40
    assert [name for name, init in own.items() for p in parameters(init) if p.annotation is p.empty] == []


def test_the_installed_package_says_that_it_has_types():
    assert pathlib.Path(mc.__file__).with_name("py.typed").is_file()


def test_every_function_and_method_explains_its_arguments():
    found = {name: unexplained(function, inspect.getdoc(function)) for name, function in DEFINED.items()}
    assert {name: arguments for name, arguments in found.items() if arguments} == {}


def test_every_class_explains_its_arguments():
    own = {name: item for name, item in CLASSES.items() if {"__init__", "__new__"} & set(vars(item))}
    found = {name: unexplained(item, inspect.getdoc(item)) for name, item in own.items()}
    assert {name: arguments for name, arguments in found.items() if arguments} == {}


def test_every_function_says_what_it_returns():
    """So does every method that has arguments: of the others the first line says it."""
    assert [
        name
        for name, function in DEFINED.items()
        if (name in FUNCTIONS or parameters(function)) and not returns_nothing(function)
        if not re.search(r"^(Returns|Yields):", inspect.getdoc(function), re.MULTILINE)
    ] == []


#: `y = weight @ columns`, in backticks or as a line of its own.
FORMULA = re.compile(r"^ {4,}\S.* = |`[^`\n]*=[^`]*`", re.MULTILINE)
SHAPE = re.compile(r"\(N, |any shape")
#: What all others are made of, or no more than another shape: no paper describes them.
WITHOUT_SOURCE = {"Layer", "Sequential", "Flatten", "minicnn.core.losses.Loss", "minicnn.core.optimizers.Optimizer"}
MATHEMATICS = [
    name
    for name, item in CLASSES.items()
    if issubclass(item, (mc.Layer, mc.losses.Loss, mc.optimizers.Optimizer)) and name not in WITHOUT_SOURCE
]


@pytest.mark.parametrize("name", MATHEMATICS)
def test_every_layer_loss_and_optimizer_has_formula_shapes_and_source(name):
    doc = inspect.getdoc(CLASSES[name])
    assert FORMULA.search(doc)
    assert re.search(r"^Sources?: ", doc, re.MULTILINE)
    assert issubclass(CLASSES[name], mc.optimizers.Optimizer) or SHAPE.search(doc)  # an optimizer takes any


# The pages


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The reference as `docs/reference.py` writes it: {path: HTML}."""
    pytest.importorskip("pdoc", reason="the reference is built by pdoc: pip install 'minicnn-numpy[docs]'")
    folder = tmp_path_factory.mktemp("reference")
    done = subprocess.run(
        [sys.executable, "-W", "error", DOCS / "reference.py", folder], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*.html")}


@in_a_checkout
def test_every_public_name_stands_in_the_reference(pages):
    anchors = {path: set(re.findall(r'id="([\w.]+)"', text)) for path, text in pages.items()}
    missing = []
    for name, item in NAMES.items():
        homes = [path for path in anchors if (path == "minicnn.html") == ("." not in name)]
        short = name.rpartition(".")[2]
        methods = [key for key in vars(item) if not key.startswith("_")] if inspect.isclass(item) else []
        methods = [key for key in methods if inspect.isfunction(vars(item)[key])]
        for wanted in (short, *(f"{short}.{key}" for key in methods)):
            if not any(wanted in anchors[path] for path in homes):
                missing.append(f"{name}: {wanted}")
    assert missing == []


@in_a_checkout
def test_a_page_of_the_reference_shows_the_docstring(pages):
    text = html.unescape(re.sub(r"<[^>]+>", "", pages["minicnn.html"]))
    assert "weight[f, c, kh, kw] * padded[n, c, oh * stride + kh * dilation" in text  # the formula
    assert "kernel_size:  KH and KW in taps" in text  # an argument
    assert ">>> layer = Conv2D(6, 5" in text  # the example
    assert "Built-in immutable sequence" not in text  # where a property has no docstring of its own


@in_a_checkout
def test_the_index_leads_to_every_page():
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md", "description.md"}  # which PyPI shows
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", text))


def rows(page):
    """(theirs, ours) of the tables of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^\| ([^|]+) \| ([^|]+) \|", text, re.MULTILINE)


@in_a_checkout
@pytest.mark.parametrize("page", ["from-keras.md", "from-pytorch.md"])
def test_what_stands_on_our_side_of_a_table_exists(page):
    names = re.findall(r"\bmc((?:\.\w+)+)", (DOCS / page).read_text(encoding="utf-8"))
    assert len(names) > 30
    for name in names:
        item = mc
        for part in name.strip(".").split("."):
            item = getattr(item, part)


@in_a_checkout
@pytest.mark.parametrize("table", ["NAMES", "ATTRIBUTES", "ARGUMENTS"])
def test_every_name_that_an_error_explains_stands_on_one_of_the_pages(table):
    theirs = " ".join(left for page in ("from-keras.md", "from-pytorch.md") for left, _ in rows(page))
    words = set(re.findall(r"\w+", theirs))
    assert [name for name in vars(mc.core.habits)[table] if name not in words] == []


@in_a_checkout
@pytest.mark.parametrize("page", ["from-keras.md", "from-pytorch.md", "callbacks.md"])
def test_the_examples_of_the_pages_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(DOCS / page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 3 and result.failed == 0
