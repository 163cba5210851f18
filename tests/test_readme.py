"""What the README shows is true: its Python runs, its files exist."""

import pathlib
import re
import sys

import numpy as np
import pytest

import minicnn as mc

README = pathlib.Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""

pytestmark = pytest.mark.skipif(not TEXT, reason="the README lies beside the tests in a checkout only")


def blocks():
    return re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_training_step_and_the_checked_layer_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks():
        if block.startswith("import"):
            names = {"__name__": "readme"}
            exec(block, names)
            for name, item in names.items():
                if name.startswith("test_"):
                    item()


def test_the_layer_shown_is_right(rng):
    [shown] = [block for block in blocks() if block.startswith("class PlainDense")]
    names = {"mc": mc}
    exec(shown, names)
    plain, x = names["PlainDense"](4), rng.normal(size=(3, 5))
    assert mc.gradcheck.check(plain, x).passed
    layer = mc.Dense(4)
    layer.build((5,), dtype="float64")
    plain.build((5,), dtype="float64")
    np.testing.assert_allclose(plain(x), layer(x))


def test_the_columns_shown_are_right():
    [shown] = [block for block in blocks() if block.startswith(">>>")]
    code, expected = shown.split("\n", 1)
    code = code.removeprefix(">>> ").split("#")[0]
    assert repr(eval(code, {"mc": mc, "np": np})) == expected.strip()


def test_every_file_and_link_exists():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT) + re.findall(r"`(examples/[\w/.]+)`", TEXT):
        if "://" not in target:
            assert (README.parent / target).exists(), target


def test_every_test_that_a_promise_names_exists():
    promises = (README.parent / "docs" / "promises.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", promises)
    assert len(named) > 20
    for file, test in named:
        assert f"{test}" in (README.parent / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_the_count_of_lines_is_the_one_that_is_measured():
    sys.path.insert(0, str(README.parent))
    from benchmarks import reading

    functions, lines, _ = reading.total(reading.tour("plain"))
    assert f"{functions} functions with {lines} lines" in TEXT.replace("\n", " ")
