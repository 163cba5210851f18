"""im2col told in a terminal: a small image, its columns, the product, the result, and the way back."""

import os
import re
import shutil
import sys
import textwrap

import numpy as np

from minicnn.errors import InputError
from minicnn.im2col import Window, col2im, im2col
from minicnn.layers import Conv2D

LARGEST = 400  # numbers of a matrix that still fit on a screen


def add_command(commands):
    """The command `im2col` of `python -m minicnn`."""
    command = commands.add_parser("im2col", help="show im2col and its way back on a small image, number by number")
    command.add_argument("--image", default="5x5", metavar="HxW", help="the image's size (default: 5x5)")
    command.add_argument("--kernel", default="3", metavar="K|HxW", help="the kernel's size (default: 3)")
    command.add_argument("--stride", type=int, default=1, help="pixels from place to place (default: 1)")
    command.add_argument("--padding", type=int, default=0, help="pixels of zeros around the image (default: 0)")
    command.set_defaults(run=_run)


def _run(arguments):
    print(story(arguments, _has_colours(), shutil.get_terminal_size().columns))


def story(arguments, colours=False, width=80):
    """The whole story as a text.

    Args:
        arguments: with `image` and `kernel` as texts ("5x5", "3"), `stride` and `padding` in pixels.
        colours: whether to light up one window with terminal colours; else it stands in brackets.
        width: of the terminal, in characters; wider matrices are shown in pieces.

    Raises:
        InputError: sizes that are none, do not fit, or are too large for a screen.
    """
    H, W = _size(arguments.image, "--image")
    KH, KW = _size(arguments.kernel, "--kernel")
    window = Window((KH, KW), arguments.stride, arguments.padding)
    OH, OW = window.output_shape(H, W)
    if max(H * W, KH * KW * OH * OW) > LARGEST:
        raise InputError(f"the columns would be {KH * KW} x {OH * OW} numbers: take a smaller image")
    options = {"kernel_size": (KH, KW), "stride": arguments.stride, "padding": arguments.padding}
    x = np.arange(1.0, H * W + 1).reshape(1, 1, H, W)
    layer = Conv2D(1, (KH, KW), arguments.stride, arguments.padding, use_bias=False)
    layer.build((1, H, W), dtype="float64")
    layer.weight.value[...] = np.resize([1.0, 0.0, -1.0, 2.0], (1, 1, KH, KW))
    columns = im2col(x, **options)
    y, backward = layer.forward(x)
    dy = np.resize([1.0, 0.0, 2.0, -1.0], y.shape)
    dx = backward(dy)
    is_padding = im2col(np.ones_like(x), **options) == 0
    shown = OH // 2 * OW + OW // 2  # the window that is lit, in the middle
    places = col2im((np.arange(OH * OW) == shown) * np.ones((KH * KW, 1)), x.shape, **options)[0, 0] > 0
    padded = np.pad(x[0, 0], window.pads(H, W))
    row, col = OH // 2 * arguments.stride, OW // 2 * arguments.stride
    seen = np.zeros(padded.shape, bool)
    seen[row : row + KH, col : col + KW] = True
    lit_column = np.arange(OH * OW) == shown
    lit_output = lit_column.reshape(OH, OW)
    sizes = f"(({H} + 2·{arguments.padding} - {KH}) // {arguments.stride} + 1) x " + (
        f"(({W} + 2·{arguments.padding} - {KW}) // {arguments.stride} + 1) = {OH} x {OW}"
    )
    weight, products = layer.weight.value[0, 0], layer.weight.value.ravel() * columns[:, shown]
    terms = " + ".join(f"{w:g}·{v:g}" for w, v in zip(weight.ravel(), columns[:, shown], strict=True))

    def table(values, lit=None, hidden=None):
        return _table(values, lit, hidden, colours, width)

    frame = f" in a frame of padding (·, {arguments.padding} wide, all zeros)" if arguments.padding else ""
    parts = [
        f"An image of {H} x {W} pixels{frame}; one window of it is lit:",
        table(padded, seen, padded == 0),
        f"A kernel of {KH} x {KW} weights slides over it. Places for it, and so outputs:\n  {sizes}",
        table(weight),
        f"im2col writes what each window sees as a column: {KH * KW} taps x {OH * OW} windows",
        table(columns, np.broadcast_to(lit_column, columns.shape), is_padding),
        "The kernel as a row, times this matrix, gives all outputs in one product:",
        table(weight.reshape(1, -1)),
        f"The result, {OH} x {OW}. The lit one: {terms} = {products.sum():g}",
        table(y[0, 0], lit_output),
        "The way back. Say that the loss would grow by these with each output, the gradient dy:",
        table(dy[0, 0], lit_output),
        "dcolumns = kernel as a column, times dy as a row: what each window asks of what it saw",
        table(weight.reshape(-1, 1) @ dy.reshape(1, -1), np.broadcast_to(lit_column, columns.shape), is_padding),
        "col2im adds every entry to the pixel that it was copied from: dx",
        table(dx[0, 0], places),
        "The votes each pixel gets (fewer at the border), which is why col2im says +=:",
        table(col2im(np.ones_like(columns), x.shape, **options)[0, 0], places),
        f"And dweight = dy as a row, times the columns turned over: {KH} x {KW}",
        table(layer.weight.grad[0, 0]),
    ]
    said = (
        "\n".join(textwrap.fill(line, max(width, 20), break_on_hyphens=False) for line in part.split("\n"))
        for part in parts[::2]
    )
    return "\n\n".join(map("\n".join, zip(said, parts[1::2], strict=True)))


def _table(values, lit, hidden, colours, width):
    """Numbers in straight columns, in pieces where they are wider than the terminal; the lit ones in colour, or in
    brackets, and a dot for the hidden ones."""
    texts = [[f"{value + 0:g}" for value in line] for line in values]
    wide = max(len(text) for line in texts for text in line)
    at_a_time = max(1, (width - 2) // (wide + 2))
    pieces = []
    for start in range(0, len(texts[0]), at_a_time):
        lines = []
        for r, line in enumerate(texts):
            cells = []
            for c, text in list(enumerate(line))[start : start + at_a_time]:
                text = ("·" if hidden is not None and hidden[r][c] else text).rjust(wide)
                if lit is None or not lit[r][c]:
                    cells.append(f" {text} ")
                else:
                    cells.append(f"\x1b[30;43m {text} \x1b[0m" if colours else f"[{text}]")
            lines.append("  " + "".join(cells))
        pieces.append("\n".join(lines))
    return "\n  ... and on to the right:\n".join(pieces)


def _size(text, option):
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not found or not int(found[1]) or found[2] == "0":
        raise InputError(f"{option} needs a size such as 5 or 5x4, got {text!r}")
    return int(found[1]), int(found[2] or found[1])


def _has_colours():
    """Whether the terminal shows colours and the user wants them (no-color.org)."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
