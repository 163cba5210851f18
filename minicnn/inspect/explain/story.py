"""im2col step by step in a terminal: an image, its columns, the matrix product, and the backward pass.

Every character is ASCII, which every terminal can show. A matrix that is wider than the terminal is shown in pieces,
one below the other. Of a matrix that is too large for a screen the piece around one window is shown, or all with --all.
"""

import math
import os
import re
import shutil
import sys
import textwrap
from typing import NamedTuple

import numpy as np

from minicnn import console
from minicnn.core import im2col as budget
from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.core.im2col import Window, col2im, im2col
from minicnn.core.layers import Conv2D

LARGEST = 400  # the numbers of a matrix that fits on a screen
ROWS = 30  # of a piece of a larger one
TERMS = 36  # of a sum that is written out


def add_command(commands):
    """The command `im2col` of `python -m minicnn`."""
    command = commands.add_parser("im2col", help="show im2col and its backward pass on an image, number by number")
    command.add_argument("--image", default="5x5", metavar="HxW", help="the image's size (default: 5x5)")
    command.add_argument("--kernel", default="3", metavar="K|HxW", help="the kernel's size (default: 3)")
    command.add_argument("--stride", type=int, default=1, help="pixels from one position to the next (default: 1)")
    command.add_argument("--padding", type=int, default=0, help="pixels of zeros around the image (default: 0)")
    command.add_argument("--window", type=int, metavar="N", help="the highlighted window, from 0 (default: the middle)")
    command.add_argument("--all", action="store_true", help="show every piece of large matrices")
    command.set_defaults(run=_run)


def _run(arguments):
    for text in story(arguments, _shows_colours(), shutil.get_terminal_size().columns):
        console.show(text)
        if console.SafeStream.failure is not None:  # nobody reads on
            break


def story(arguments, colours=False, width=80):
    """All steps, as texts to be printed one after the other.

    Args:
        arguments: with `image` and `kernel` as texts ("5x5", "3"), `stride` and `padding` in pixels, `window`, the
            number of the highlighted window or None for the one in the middle, and `all`, whether large matrices are
            shown completely.
        colours: whether the window is highlighted with terminal colours; else it stands in brackets.
        width: of the terminal, in characters.

    Raises:
        InputError: something that is not a size, sizes that do not fit, no such window, or more memory than the
            `BUDGET` of im2col.
    """
    H, W = _size(arguments.image, "--image")
    KH, KW = _size(arguments.kernel, "--kernel")
    stride, padding = arguments.stride, arguments.padding
    window = Window((KH, KW), stride, padding)
    OH, OW = window.output_shape(H, W)
    _check_memory(max((H + 2 * padding) * (W + 2 * padding), KH * KW * OH * OW))
    selected = OH // 2 * OW + OW // 2 if arguments.window is None else arguments.window
    if not 0 <= selected < OH * OW:
        raise InputError(f"--window needs the number of a window, from 0 to {OH * OW - 1}; got {selected}")
    oh, ow = divmod(selected, OW)
    x = np.arange(1.0, H * W + 1).reshape(1, 1, H, W)
    layer = Conv2D(1, (KH, KW), stride=stride, padding=padding, use_bias=False)
    layer.build((1, H, W), dtype="float64")
    layer.weight.value[...] = np.resize([1.0, 0.0, -1.0, 2.0], (1, 1, KH, KW))
    columns = im2col(x, window)
    y, backward = layer.forward(x)
    dy = np.resize([1.0, 0.0, 2.0, -1.0], y.shape)
    dx = backward(dy)
    counts = col2im(np.ones(columns.shape, bool), x.shape, window)[0, 0]
    is_padding = ~im2col(np.ones(x.shape, bool), window)
    padded, border = np.pad(x[0, 0], padding), np.pad(np.zeros((H, W), bool), padding, constant_values=True)
    top, left = oh * stride, ow * stride
    in_window = np.zeros(padded.shape, bool)
    in_window[top : top + KH, left : left + KW] = True
    in_image = in_window[padding : padding + H, padding : padding + W]
    in_column = np.broadcast_to(np.arange(OH * OW) == selected, columns.shape)
    in_output = in_column[0].reshape(OH, OW)
    weight = layer.weight.value[0, 0]
    middle = top + KH // 2, left + KW // 2  # of the window, in the padded image
    in_dx = {"focus": (middle[0] - padding, middle[1] - padding), "highlighted": in_image}
    of_columns = {"focus": (0, selected), "highlighted": in_column, "taps": [f"{r},{c}" for r, c in np.ndindex(KH, KW)]}
    of_outputs = {"focus": (oh, ow), "highlighted": in_output}
    screen = _Screen(colours, width, arguments.all)

    if not arguments.all and max(padded.size, columns.size) > LARGEST:
        yield from screen.step(
            f"Of a matrix of more than {LARGEST} numbers one piece is shown, with the window {selected}. "
            "--window N chooses another window, --all shows every piece."
        )
    zeros = f" with a padding of {padding} (each . is a zero of the padding)" if padding else ""
    yield from screen.step(
        f"An image of {H} x {W} pixels{zeros}. Its window {selected} of {OH * OW}, counted from 0, is highlighted:",
        screen.table(padded, middle, in_window, hidden=border),
    )
    yield from screen.step(
        f"A kernel of {KH} x {KW} weights slides over it. Its number of positions is the output size:\n"
        f"  (({H} + 2*{padding} - {KH}) // {stride} + 1) x (({W} + 2*{padding} - {KW}) // {stride} + 1) = {OH} x {OW}",
        screen.table(weight),
    )
    yield from screen.step(
        f"im2col copies the pixels of each window into a column: {KH * KW} taps x {OH * OW} windows. Left of the line "
        "stands the tap (its row and column in the kernel), above it the number of the window:",
        screen.table(columns, hidden=is_padding, **of_columns),
    )
    yield from screen.step(
        "The kernel as a row, times this matrix, gives all outputs in one matrix product:",
        screen.table(weight.reshape(1, -1)),
    )
    yield from screen.step(
        f"The result, {OH} x {OW}. Window {selected} gives row {oh}, column {ow}: "
        f"{_sum(weight.ravel(), columns[:, selected])} = {y[0, 0, oh, ow]:.0f}",
        screen.table(y[0, 0], **of_outputs),
    )
    yield from screen.step(
        "The backward pass. Suppose that this is dy, the gradient of the loss with respect to each output:",
        screen.table(dy[0, 0], **of_outputs),
    )
    thrown = " A number in parentheses is the gradient of a padding's zero: col2im throws it away" if padding else ""
    yield from screen.step(
        f"dcolumns = the kernel as a column, times dy as a row: the gradient of the columns.{thrown}",
        screen.table(weight.reshape(-1, 1) * dy.reshape(1, -1), dropped=is_padding, **of_columns),
    )
    yield from screen.step(
        "col2im adds every entry to the pixel that it was copied from: dx, the gradient of the image",
        screen.table(dx[0, 0], **in_dx),
    )
    unread = "; 0 for a pixel that no window reads" * (not counts.all())
    yield from screen.step(
        f"How many entries are added for each pixel (fewer at the border{unread}). This is why col2im says +=:",
        screen.table(counts, **in_dx),
    )
    yield from screen.step(
        f"And dweight = dy as a row, times the columns transposed: {KH} x {KW}",
        screen.table(layer.weight.grad[0, 0]),
        last=True,
    )


class _Screen(NamedTuple):
    """How the terminal shows things; the fields are the arguments of `story`."""

    colours: bool
    width: int
    everything: bool

    def step(self, sentence, table=(), last=False):
        """A sentence, its table, and a blank line."""
        for line in sentence.split("\n"):
            yield textwrap.fill(line, max(self.width, 20), break_on_hyphens=False)
        yield from table
        if not last:
            yield ""

    def table(self, values, focus=(0, 0), highlighted=None, hidden=None, dropped=None, taps=()):
        """Numbers in aligned columns, as one text for each piece.

        Args:
            values: integers of any dtype, (rows, columns).
            focus: an entry that is shown in any case, (row, column).
            highlighted, hidden, dropped: masks of entries in colour or brackets, shown as a dot, or in parentheses.
            taps: a text for each row, which stands before it; with them the columns are numbered.
        """
        nothing = np.zeros(values.shape, bool)
        highlighted, hidden, dropped = (nothing if m is None else m for m in (highlighted, hidden, dropped))
        closing = " " if dropped.any() else ""  # as wide as the parenthesis of others
        wide = max(len(f"{end:.0f}") for end in (values.min(), values.max())) + 2 * len(closing)
        wide = max(wide, len(f"{values.shape[1] - 1}{closing}") if taps else 0)
        margin = 2 + (max(map(len, taps)) + 2 if taps else 0)
        pieces = self._pieces(values.shape, focus, max(1, (self.width - margin) // (wide + 2)))

        def cell(text, is_highlighted):
            if not is_highlighted:
                return f" {text:>{wide}} "
            return f"\x1b[30;43m {text:>{wide}} \x1b[0m" if self.colours else f"[{text:>{wide}}]"

        def number(entry):
            if hidden[entry]:
                return f".{closing}"
            text = f"{values[entry] + 0:.0f}"  # + 0: there is no -0
            return f"({text})" if dropped[entry] else text + closing

        for title, rows, columns in pieces:
            lines = [textwrap.fill(title, max(self.width, 20), initial_indent="  ", subsequent_indent="    ")] * bool(
                title
            )
            if taps:
                numbers = "".join(cell(f"{c}{closing}", highlighted[0, c]) for c in columns)
                lines.append(" " * (margin - 2) + "| " + numbers)
                lines.append("-" * (margin - 2) + "+" + "-" * (len(columns) * (wide + 2) + 1))
            for r in rows:
                before = f" {taps[r]:>{margin - 3}}| " if taps else "  "
                lines.append(before + "".join(cell(number((r, c)), highlighted[r, c]) for c in columns))
            yield "\n".join(lines)

    def _pieces(self, shape, focus, across):
        """(title, rows, columns) of each piece; the title is empty where there is only one."""
        H, W = shape
        if H * W <= LARGEST or self.everything:
            for start in range(0, W, across):
                columns = range(start, min(start + across, W))
                title = _title(columns, W, "columns")
                yield title and f"{title}:", range(H), columns
            return
        rows, columns = _around(focus[0], ROWS, H), _around(focus[1], across, W)
        titles = filter(None, (_title(rows, H, "rows"), _title(columns, W, "columns")))
        yield f"a piece: {', '.join(titles)}:", rows, columns


def _title(part, size, name):
    return f"{name} {part[0]} to {part[-1]} of {size}" if len(part) < size else ""


def _around(middle, count, size):
    """`count` indices with the middle among them, or all of them."""
    start = max(0, min(middle - count // 2, size - count))
    return range(start, min(start + count, size))


def _sum(weights, pixels):
    """The products of a sum, written out as far as they can be read."""
    terms = [f"{w:.0f}*{v:.0f}" for w, v in zip(weights[:TERMS], pixels[:TERMS], strict=True)]
    more = [f"{len(weights) - TERMS} more products"] if len(weights) > TERMS else []
    return " + ".join(terms + more)


def _check_memory(numbers):
    if 8 * numbers > budget.BUDGET:
        raise InputError(
            f"the columns or the padded image would be {numbers:,} numbers, {math.ceil(8 * numbers / 2**20):,} MiB, "
            f"more than the {budget.BUDGET / 2**20:,.0f} MiB of minicnn.im2col.BUDGET: choose a smaller image, "
            "kernel or padding, or raise the environment variable MINICNN_COLUMNS_MB"
        )


def _size(text, option):
    found = re.fullmatch(r"([0-9]{1,9})(?:x([0-9]{1,9}))?", text)
    if not found or 0 in map(int, filter(None, found.groups())):
        raise InputError(f"{option} needs a size such as 5 or 5x4, got {quoted(text)}")
    return int(found[1]), int(found[2] or found[1])


def _shows_colours():
    """Whether the terminal shows colours and the user wants them (no-color.org)."""
    return (
        console.SafeStream(sys.stdout).isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )
