"""im2col step by step in a terminal: a small image, its columns, the matrix product, and the backward pass."""

import os
import re
import shutil
import sys
import textwrap

import numpy as np

from minicnn import console
from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.core.im2col import Window, col2im, im2col
from minicnn.core.layers import Conv2D

LARGEST = 400  # the numbers of a matrix that fits on a screen


def add_command(commands):
    """The command `im2col` of `python -m minicnn`."""
    command = commands.add_parser("im2col", help="show im2col and its backward pass on a small image, number by number")
    command.add_argument("--image", default="5x5", metavar="HxW", help="the image's size (default: 5x5)")
    command.add_argument("--kernel", default="3", metavar="K|HxW", help="the kernel's size (default: 3)")
    command.add_argument("--stride", type=int, default=1, help="pixels from one position to the next (default: 1)")
    command.add_argument("--padding", type=int, default=0, help="pixels of zeros around the image (default: 0)")
    command.set_defaults(run=_run)


def _run(arguments):
    console.show(story(arguments, _shows_colours(), shutil.get_terminal_size().columns))


def story(arguments, colours=False, width=80):
    """All steps as one text.

    Args:
        arguments: with `image` and `kernel` as texts ("5x5", "3"), `stride` and `padding` in pixels.
        colours: whether one window is highlighted with terminal colours; else it stands in brackets.
        width: of the terminal, in characters; wider matrices are shown in several blocks.

    Raises:
        InputError: something that is not a size, sizes that do not fit, or are too large for a screen.
    """
    H, W = _size(arguments.image, "--image")
    KH, KW = _size(arguments.kernel, "--kernel")
    window = Window((KH, KW), arguments.stride, arguments.padding)
    OH, OW = window.output_shape(H, W)
    if max(H * W, KH * KW * OH * OW) > LARGEST:
        raise InputError(f"the columns would be {KH * KW} x {OH * OW} numbers: choose a smaller image")
    options = {"kernel_size": (KH, KW), "stride": arguments.stride, "padding": arguments.padding}
    x = np.arange(1.0, H * W + 1).reshape(1, 1, H, W)
    layer = Conv2D(1, (KH, KW), stride=arguments.stride, padding=arguments.padding, use_bias=False)
    layer.build((1, H, W), dtype="float64")
    layer.weight.value[...] = np.resize([1.0, 0.0, -1.0, 2.0], (1, 1, KH, KW))
    columns = im2col(x, **options)
    y, backward = layer.forward(x)
    dy = np.resize([1.0, 0.0, 2.0, -1.0], y.shape)
    dx = backward(dy)
    is_padding = im2col(np.ones_like(x), **options) == 0
    selected = OH // 2 * OW + OW // 2  # the window that is highlighted, in the middle
    selected_pixels = col2im((np.arange(OH * OW) == selected) * np.ones((KH * KW, 1)), x.shape, **options)[0, 0] > 0
    padded = np.pad(x[0, 0], window.pads(H, W))
    row, col = OH // 2 * arguments.stride, OW // 2 * arguments.stride
    selected_window = np.zeros(padded.shape, bool)
    selected_window[row : row + KH, col : col + KW] = True
    selected_column = np.arange(OH * OW) == selected
    selected_output = selected_column.reshape(OH, OW)
    sizes = f"(({H} + 2·{arguments.padding} - {KH}) // {arguments.stride} + 1) x " + (
        f"(({W} + 2·{arguments.padding} - {KW}) // {arguments.stride} + 1) = {OH} x {OW}"
    )
    weight, products = layer.weight.value[0, 0], layer.weight.value.ravel() * columns[:, selected]
    terms = " + ".join(f"{w:g}·{v:g}" for w, v in zip(weight.ravel(), columns[:, selected], strict=True))

    def table(values, highlighted=None, hidden=None):
        return _table(values, highlighted, hidden, colours, width)

    border = f" with a padding of {arguments.padding} (·, all zeros)" if arguments.padding else ""
    steps = [
        f"An image of {H} x {W} pixels{border}; one window of it is highlighted:",
        table(padded, selected_window, padded == 0),
        f"A kernel of {KH} x {KW} weights slides over it. Its number of positions is the output size:\n  {sizes}",
        table(weight),
        f"im2col copies the pixels of each window into a column: {KH * KW} taps x {OH * OW} windows",
        table(columns, np.broadcast_to(selected_column, columns.shape), is_padding),
        "The kernel as a row, times this matrix, gives all outputs in one matrix product:",
        table(weight.reshape(1, -1)),
        f"The result, {OH} x {OW}. The highlighted one: {terms} = {products.sum():g}",
        table(y[0, 0], selected_output),
        "The backward pass. Suppose that this is dy, the gradient of the loss with respect to each output:",
        table(dy[0, 0], selected_output),
        "dcolumns = the kernel as a column, times dy as a row: the gradient of the columns",
        table(weight.reshape(-1, 1) @ dy.reshape(1, -1), np.broadcast_to(selected_column, columns.shape), is_padding),
        "col2im adds every entry to the pixel that it was copied from: dx, the gradient of the image",
        table(dx[0, 0], selected_pixels),
        "How many entries are added for each pixel (fewer at the border); this is why col2im says +=:",
        table(col2im(np.ones_like(columns), x.shape, **options)[0, 0], selected_pixels),
        f"And dweight = dy as a row, times the columns transposed: {KH} x {KW}",
        table(layer.weight.grad[0, 0]),
    ]
    sentences = (
        "\n".join(textwrap.fill(line, max(width, 20), break_on_hyphens=False) for line in step.split("\n"))
        for step in steps[::2]
    )
    return "\n\n".join(map("\n".join, zip(sentences, steps[1::2], strict=True)))


def _table(values, highlighted, hidden, colours, width):
    """Numbers in aligned columns, in several blocks where they are wider than the terminal; the highlighted ones in
    colour or in brackets, and a dot for the hidden ones."""
    texts = [[f"{value + 0:g}" for value in line] for line in values]
    wide = max(len(text) for line in texts for text in line)
    columns_in_block = max(1, (width - 2) // (wide + 2))
    blocks = []
    for start in range(0, len(texts[0]), columns_in_block):
        lines = []
        for r, line in enumerate(texts):
            cells = []
            for c, text in list(enumerate(line))[start : start + columns_in_block]:
                text = ("·" if hidden is not None and hidden[r][c] else text).rjust(wide)
                if highlighted is None or not highlighted[r][c]:
                    cells.append(f" {text} ")
                else:
                    cells.append(f"\x1b[30;43m {text} \x1b[0m" if colours else f"[{text}]")
            lines.append("  " + "".join(cells))
        blocks.append("\n".join(lines))
    return "\n  ... continued to the right:\n".join(blocks)


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
