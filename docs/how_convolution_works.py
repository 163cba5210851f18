"""The figures of how-convolution-works.md: `python docs/how_convolution_works.py` draws them all again.

Every number in them comes from the library. Needs matplotlib (the extra `plots`).
"""

import pathlib
import sys

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import minicnn as mc

INK, SOFT, ACCENT = mc.plots.INK, mc.plots.SOFT, mc.plots.PURPLE
SIGNED = LinearSegmentedColormap.from_list("signed", mc.plots.SIGNED)

IMAGE = np.array([[0, 0, 0, 2, 2], [0, 0, 1, 2, 2], [0, 0, 2, 2, 2], [0, 1, 2, 2, 2], [0, 2, 2, 2, 2.0]])
KERNEL = np.array([[-1, 0, 1], [-1, 0, 1], [-1, 0, 1.0]])

TRAINING = {"train": 6000, "epochs": 4}  # letters and epochs before the last figure


def layer(**options):
    """A convolution with the one kernel of the page."""
    convolution = mc.Conv2D(1, 3, use_bias=False, **options)
    convolution.build((1, 5, 5), dtype="float64")
    convolution.weight.value[0, 0] = KERNEL
    return convolution


def figure(width, height, widths=None):
    """A figure and its axes in a row."""
    drawn = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    return drawn, drawn.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]


def grid(axes, numbers, title, frames=(), grey=False, end=None, size=11):
    """Numbers in coloured cells; `frames` are the (row, column, height, width) of frames around some of them."""
    numbers = np.atleast_2d(numbers)
    H, W = numbers.shape
    end = end or np.abs(numbers).max() or 1
    shown = {"cmap": "gray", "vmin": 0, "vmax": end} if grey else {"cmap": SIGNED, "vmin": -end, "vmax": end}
    axes.imshow(numbers, **shown)
    for row, line in enumerate(numbers):
        for col, number in enumerate(line):
            dark = number < end / 2 if grey else abs(number) > 0.6 * end
            axes.text(col, row, f"{number + 0:g}", ha="center", va="center", size=size, color="white" if dark else INK)
    for row, col, height, width in frames:
        axes.add_patch(Rectangle((col - 0.5, row - 0.5), width, height, fill=False, ec=ACCENT, lw=2.5, zorder=3))
    axes.set(xticks=np.arange(W + 1) - 0.5, yticks=np.arange(H + 1) - 0.5, xticklabels=[], yticklabels=[])
    axes.grid(color="#c9cad0", linewidth=0.6)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=10, color=INK)


def sign(axes, text):
    """A sign, such as ×, between two grids."""
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", size=20, color=SOFT, transform=axes.transAxes)


def window():
    """One window times the kernel, summed."""
    y = layer()(IMAGE[None, None])[0, 0]
    drawn, (image, times, kernel, equals, products, arrow, output) = figure(10.5, 2.6, (5, 0.5, 3, 0.5, 3, 0.5, 3))
    grid(image, IMAGE, "the image, and one window", [(0, 1, 3, 3)], grey=True)
    sign(times, "×")
    grid(kernel, KERNEL, "the kernel")
    sign(equals, "=")
    grid(products, IMAGE[:3, 1:4] * KERNEL, f"products: their sum is {y[0, 1]:g}")
    sign(arrow, "→")
    grid(output, y, "the output", [(0, 1, 1, 1)])
    return drawn


def padding():
    """Padding keeps the size; a stride makes it smaller."""
    padded, strided = (layer(**options)(IMAGE[None, None])[0, 0] for options in ({"padding": 1}, {"stride": 2}))
    drawn, (image, same, small) = figure(9, 3.2, (7, 5, 3))
    grid(image, np.pad(IMAGE, 1), "padding 1: a border of zeros", [(1, 1, 5, 5), (0, 0, 3, 3)], grey=True)
    grid(same, padded, "its output, 5 x 5", [(0, 0, 1, 1)])
    grid(small, strided, "stride 2, no padding: 2 x 2")
    return drawn


def columns():
    """The convolution as a matrix product."""
    matrix = mc.im2col.im2col(IMAGE[None, None], 3)
    drawn, (image, row, times, all_windows, equals, output) = figure(12, 3.6, (5, 5.2, 0.4, 8, 0.4, 4.6))
    grid(image, IMAGE, "window 1 of 0 to 8", [(0, 1, 3, 3)], grey=True)
    grid(row, KERNEL.reshape(1, -1), "the kernel as a row", size=8)
    sign(times, "×")
    grid(all_windows, matrix, "im2col: each window is a column", [(0, 1, 9, 1)], grey=True, size=9)
    sign(equals, "=")
    grid(output, KERNEL.reshape(1, -1) @ matrix, "the output as a row", [(0, 1, 1, 1)], size=8)
    return drawn


def votes():
    """The gradient of the image: a sum over the windows that contain a pixel."""
    convolution = layer()
    y, backward = convolution.forward(IMAGE[None, None])
    dy = np.zeros_like(y)
    dy[0, 0, 0, 1], dy[0, 0, 1, 1] = 1, 2
    dx = backward(dy)[0, 0]
    count = mc.im2col.col2im(np.ones((9, 9)), (1, 1, 5, 5), 3)[0, 0]
    drawn, (gradient, arrow, pixels, space, windows) = figure(9.5, 3, (3, 0.5, 5, 0.4, 5))
    grid(gradient, dy[0, 0], "dy: two are not zero", [(0, 1, 1, 1), (1, 1, 1, 1)])
    sign(arrow, "→")
    grid(pixels, dx, "dx: each adds its kernel", [(0, 1, 3, 3), (1, 1, 3, 3)])
    sign(space, "")
    grid(windows, count, "windows that contain a pixel", grey=True)
    return drawn


def first_layer():
    """LeNet-5's first layer, before and after training."""
    (x, labels), (test, _) = mc.datasets.load_letters(TRAINING["train"], test=100)
    model = mc.networks.lenet5()
    convolution = model.layers[0]
    before = convolution.weight.value.copy()
    model.fit(x[:, None], labels, epochs=TRAINING["epochs"], verbose=False)
    letter = model.prepare(test[:1, None])
    drawn = Figure(figsize=(9, 5), layout="constrained", facecolor="white")
    left, right = drawn.subfigures(1, 2, width_ratios=(1.6, 7))
    axes = left.subplots()
    axes.imshow(letter[0, 0], cmap="gray")
    axes.set_title("a letter, 28 x 28", fontsize=10, color=INK)
    axes.axis("off")
    rows = right.subplots(3, 6)
    titles = ("kernels before", "after training", "their outputs")
    for line, title, maps in zip(rows, titles, (before, convolution.weight.value, convolution(letter)[0]), strict=True):
        maps = maps.reshape(6, *maps.shape[-2:])
        end = np.abs(maps).max()
        for axes, numbers in zip(line, maps, strict=True):
            axes.imshow(numbers, SIGNED, vmin=-end, vmax=end)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(title, fontsize=10, color=INK)
    return drawn


FIGURES = (window, padding, columns, votes, first_layer)


def main(folder):
    """Draw all figures into a folder."""
    matplotlib.use("Agg")
    for draw in FIGURES:
        draw().savefig(folder / f"{draw.__name__.replace('_', '-')}.png", dpi=130)


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    main(pathlib.Path(__file__).with_name("how-convolution-works"))
