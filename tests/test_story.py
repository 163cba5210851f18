"""im2col step by step in a terminal: the numbers shown are those of the library, in pieces where they do not fit."""

import argparse
import io
import re
import sys

import numpy as np
import pytest

import minicnn as mc
from minicnn import __main__, console
from minicnn.inspect.explain.story import story


def arguments(image="5x5", kernel="3", stride=1, padding=0, window=None, everything=False):
    values = {"image": image, "kernel": kernel, "stride": stride, "padding": padding, "window": window}
    return argparse.Namespace(**values, all=everything)


def text_of(*options, colours=False, width=80, **named):
    return "\n".join(story(arguments(*options, **named), colours, width))


def lines_after(text, sentence):
    """The lines of the tables under a sentence, whatever lines it was folded into; without the brackets."""
    found = re.search(r"\s+".join(map(re.escape, sentence.split())) + r"\n(.*?)(\n\n|$)", text, re.DOTALL)
    return re.sub(r"[\[\]]", " ", found[1]).splitlines()


def table(text, sentence):
    return [line.split() for line in lines_after(text, sentence)]


def matrix(text, sentence):
    """A matrix of the columns, put together from its pieces: the taps, the numbers of the windows, and the entries."""
    windows, pieces = [], []
    for line in lines_after(text, sentence):
        tap, line, numbers = line.partition("|")
        if line and not tap.strip():
            windows += map(int, numbers.split())
            pieces.append({})
        elif line:
            pieces[-1][tap.strip()] = numbers.split()
    return list(pieces[0]), windows, np.concatenate([np.array(list(piece.values())) for piece in pieces], axis=1)


def test_the_steps_are_those_of_im2col():
    text = text_of("3x3", "2")
    taps, windows, entries = matrix(text, "number of the window:")
    assert windows == [0, 1, 2, 3] and taps == ["0,0", "0,1", "1,0", "1,1"]
    np.testing.assert_array_equal(entries.astype(float), mc.im2col.im2col(np.arange(1.0, 10).reshape(1, 1, 3, 3), 2))
    counts = [int(number) for line in table(text, "+=:") for number in line]
    assert counts == [1, 2, 1, 2, 4, 2, 1, 2, 1]


def test_padding_is_a_dot_and_a_number_thrown_away_stands_in_parentheses():
    text = text_of("3x3", "3", padding=1)
    edge, *lines = table(text, "highlighted:")
    assert edge == lines.pop() == ["."] * 5
    assert lines == [[".", *map(str, range(k, k + 3)), "."] for k in (1, 4, 7)]
    is_padding = mc.im2col.im2col(np.ones((1, 1, 3, 3)), 3, padding=1) == 0
    _, _, entries = matrix(text, "number of the window:")
    np.testing.assert_array_equal(entries == ".", is_padding)
    _, _, gradients = matrix(text, "throws it away")
    np.testing.assert_array_equal(np.char.startswith(gradients, "("), is_padding)
    kept = np.where(is_padding, 0, np.char.strip(gradients, "()").astype(float))
    dx = [list(map(float, line)) for line in table(text, "gradient of the image")]
    np.testing.assert_array_equal(mc.im2col.col2im(kept, (1, 1, 3, 3), 3, padding=1)[0, 0], dx)
    assert len(set(np.char.strip(gradients, "()")[is_padding])) > 2  # they are numbers, not all alike
    assert "parentheses" not in text_of("3x3", "3") and "no window reads" in text_of("4x4", "3", 2)


def test_a_large_image_is_shown_around_a_window_and_completely_on_request():
    x = np.arange(1.0, 785).reshape(1, 1, 28, 28)
    columns = mc.im2col.im2col(x, 5)
    for window in (0, 300, 575):
        taps, windows, entries = matrix(text_of("28x28", "5", window=window), "number of the window:")
        assert window in windows and len(taps) == 25 and len(windows) > 5
        np.testing.assert_array_equal(entries.astype(float), columns[:, windows])
    _, windows, entries = matrix(text_of("28x28", "5", everything=True), "number of the window:")
    assert windows == list(range(576))
    np.testing.assert_array_equal(entries.astype(float), columns)
    short = text_of("99x120", "8")
    assert len(short.splitlines()) < 400 and "28 more products" in short


@pytest.mark.parametrize("width", [30, 80, 300])
@pytest.mark.parametrize("image", ["7x8", "30x40"])
def test_the_steps_fit_the_terminal(image, width):
    plain = text_of(image, "2x3", padding=1, width=width)
    coloured = text_of(image, "2x3", padding=1, width=width, colours=True)
    assert max(map(len, plain.splitlines())) <= width
    assert max(map(len, re.sub("\x1b.*?m", "", coloured).splitlines())) <= width
    assert plain.isascii() and "\x1b" not in plain and "[" in plain
    assert "[" not in re.sub("\x1b.*?m", "", coloured)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"image": "0x3"}, "--image"),
        ({"kernel": "three"}, "three"),
        ({"window": 9}, "from 0 to 8"),
        ({"window": -1}, "--window"),
        ({"image": "99999x99999"}, "MINICNN_COLUMNS_MB"),
        ({"padding": 999_999_999}, "MINICNN_COLUMNS_MB"),
        ({"kernel": "9"}, "smaller window"),
        ({"stride": 0}, "stride"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(wrong, named):
    with pytest.raises(mc.InputError, match=named):
        next(story(arguments(**wrong)))


def test_nothing_is_computed_for_a_reader_who_has_left(monkeypatch):
    class Left(io.StringIO):
        writes = 0

        def write(self, text):
            self.writes += 1
            raise BrokenPipeError

    stream = Left()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(console.SafeStream, "failure", None)
    monkeypatch.setattr(sys, "argv", ["minicnn", "im2col", "--image", "28x28", "--all"])
    assert console.run_command(__main__.main) == 0
    assert stream.writes == 1
