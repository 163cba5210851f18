"""A comparison shows what each network's history and the test set give."""

import re

import numpy as np
import pytest
from hostile import HOSTILE, tags

import minicnn as mc
from minicnn.inspect.comparison import Comparison


def model_that_says(k):
    """A network that takes every input for class k; 8 parameters."""
    model = mc.Sequential([mc.Dense(2)], input_shape=(3,))
    model.layers[0].weight.value[...] = 0
    model.layers[0].bias.value[...] = np.eye(2)[k]
    return model


X, Y = np.ones((8, 3), "float32"), np.array([0, 0, 0, 0, 0, 0, 1, 1])
HISTORY = mc.History(loss=[2.0, 1.0], accuracy=[0.25, 0.5], val_accuracy=[0.125, 0.875], seconds=[1.0, 2.0])


def test_a_row_is_the_last_epoch_and_the_test_set():
    comparison = Comparison(X, Y)
    assert comparison.add("zero", model_that_says(0), HISTORY) is comparison
    comparison.add("one", model_that_says(1), mc.History(loss=[1.0]))
    header, rule, *rows = [re.split(" {2,}", line) for line in str(comparison).splitlines()]
    assert rows == [
        ["zero", "8", "2", "1.50", "50.0 %", "87.5 %", "75.0 %"],
        ["one", "8", "1", "-", "-", "-", "25.0 %"],
    ]
    assert len(header) == 7 and set(rule[0]) == {"-"}
    assert comparison.accuracies == {"zero": 0.75, "one": 0.25} and comparison.histories["zero"] is HISTORY
    cells = [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in comparison._repr_html_().split("</tr>")]
    assert cells[:-1] == [header, *rows]


def test_a_cell_that_is_run_again_replaces_its_row():
    comparison = Comparison(X, Y).add("net", model_that_says(0), HISTORY).add("net", model_that_says(1), HISTORY)
    assert comparison.accuracies == {"net": 0.25} and len(str(comparison).splitlines()) == 3
    assert comparison.add("other images", model_that_says(0), HISTORY, x=X * 0).accuracies["other images"] == 0.75


def test_the_best_stands_first_on_request():
    comparison = Comparison(X, Y).add("one", model_that_says(1), HISTORY).add("zero", model_that_says(0), {})
    ordered = comparison.best_first()
    assert list(ordered.accuracies.items()) == [("zero", 0.75), ("one", 0.25)] and list(ordered.histories) == [
        "zero",
        "one",
    ]
    assert list(comparison.accuracies) == ["one", "zero"]
    lines, moved = str(comparison).splitlines(), str(ordered).splitlines()
    assert moved == [*lines[:2], lines[3], lines[2]]


def test_names_cannot_change_the_page():
    hostile, plain = Comparison(X, Y), Comparison(X, Y)
    for name in (*HOSTILE, "two\nlines"):
        hostile.add(name, model_that_says(0), HISTORY)
        plain.add(f"network {len(plain.histories)}", model_that_says(0), HISTORY)
    assert tags(hostile._repr_html_()) == tags(plain._repr_html_())
    assert len(str(hostile).splitlines()) == len(HOSTILE) + 3 and "\x1b" not in str(hostile)


def test_what_cannot_be_compared_is_refused():
    comparison = Comparison(X, Y)
    with pytest.raises(mc.InputError, match="History"):
        comparison.add("net", model_that_says(0), [0.5])
    with pytest.raises(mc.InputError):
        comparison.add("net", mc.Sequential([mc.Dense(2)], input_shape=(4,)), HISTORY)
    assert "no networks" in repr(comparison)
