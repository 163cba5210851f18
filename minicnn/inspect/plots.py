"""Plots of a network and of its training, by matplotlib: `pip install 'minicnn-numpy[plots]'`.

Each function returns a new matplotlib `Figure`: a notebook displays it, `figure.savefig("picture.png")` saves it. The
global state of matplotlib is not changed. Signed numbers are blue below zero and orange above, as on the page of
`explain`: a pair that colour-blind people can distinguish.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.backends import to_numpy
from minicnn.core import metrics
from minicnn.core.checks import check_integer, quoted
from minicnn.core.errors import InputError, MissingPackageError
from minicnn.core.layer import Layer, walk
from minicnn.core.layers import Conv2D
from minicnn.core.sequential import Sequential
from minicnn.core.types import Array, ArrayLike
from minicnn.inspect import attribution
from minicnn.inspect.explain.collect import class_names, one_image, states_restored
from minicnn.markup import visible
from minicnn.training.augmentation import Augmentation, check_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, LINE = "#1c1d20", "#63666d", "#c9cad0"
BLUE, ORANGE, PURPLE = "#1254a8", "#c45204", "#6a3fb5"
ZERO = (250, 250, 248)  # in the colours of signed numbers and of counts
RUNS = (BLUE, ORANGE, PURPLE, "#2b7d3f", "#9a7b00", "#b5267a", "#1c8a99")  # several runs in the same axes
MARKERS = "osv^D"  # for more runs than colours
SIGNED = (BLUE, tuple(value / 255 for value in ZERO), ORANGE)  # below zero, zero, above


def empty_figure(width: float, height: float, title: str = "") -> Any:
    """A matplotlib `Figure` with nothing but a title; a notebook displays it.

    Args:
        width, height: in inches.
        title: the text above it.

    Returns:
        a matplotlib `Figure`.

    Raises:
        MissingPackageError: matplotlib is not installed.

    >>> empty_figure(6, 4).get_size_inches()
    array([6., 4.])
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("plots need matplotlib: pip install 'minicnn-numpy[plots]'") from error
    figure: Any = Figure(figsize=(width, height), layout="constrained")
    figure._repr_png_ = lambda: png(figure)  # what a notebook calls where pyplot was not imported
    if title:
        figure.suptitle(_literal(title), fontsize=11, color=INK)
    return figure


def png(figure: Any, dpi: int = 100) -> bytes:
    """A figure as the bytes of a PNG file, with `dpi` pixels per inch.

    Args:
        figure: a matplotlib `Figure`.
        dpi: pixels an inch.

    Returns:
        bytes.

    >>> png(empty_figure(1, 1))[1:4]
    b'PNG'
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def training_curves(history: Any) -> "Figure":
    """The measurements of each epoch, for training and validation, of one run or of several, in the same axes.

    Args:
        history: a `History`, or a dict of lists with one number per epoch: "loss", "accuracy", "val_loss", ... Or
            several of them as a dict with their names: `{"LeNet-5": history, "dense layers": another}`; their numbers
            of epochs may differ. The learning rate is drawn if it changed.

    Returns:
        a `Figure` with one axes per measurement. Training is dashed. Of several runs each has a colour of its own.

    Raises:
        InputError: no measurements, or lists of different lengths.
        MissingPackageError: matplotlib is not installed.

    >>> figure = training_curves({"loss": [2.0, 1.0], "val_loss": [2.1, 1.2]})
    >>> [line.get_ydata().tolist() for line in figure.axes[0].lines]
    [[2.0, 1.0], [2.1, 1.2]]
    >>> figure = training_curves({"small": {"loss": [2.0, 1.5]}, "large": {"loss": [1.8, 1.1, 0.9]}})
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['small, training', 'large, training']
    """
    if not isinstance(history, Mapping):
        raise InputError(
            f"training_curves needs a History, or several as a dict with their names, got {quoted(history, 60)}: write "
            'training_curves({"one": history, "two": another})'
        )
    is_one = not any(isinstance(run, Mapping) for run in history.values())
    runs = {"": history} if is_one else dict(history)
    for run in runs.values():
        _check_history(run)
    names = dict.fromkeys(name for run in runs.values() for name in run if name != "seconds")
    shown = [
        name
        for name in names
        if (name.removeprefix("val_") == name or name[4:] not in names)
        and (name != "learning_rate" or any(len(set(run.get(name, ()))) > 1 for run in runs.values()))
    ]
    width, height = 4.6 * len(shown), 3.4
    figure = empty_figure(width, height, "Training curves")
    epochs = max(len(values) for run in runs.values() for values in run.values())
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for position, (run_name, run) in enumerate(runs.items()):
            before = "" if is_one else f"{_literal(_short(str(run_name), 40))}, "
            own = RUNS[position % len(RUNS)]
            marker = MARKERS[position // len(RUNS) % len(MARKERS)]
            for key, what, style, colour in (
                (name, "training", "--", BLUE if is_one else own),
                (f"val_{name}", "validation", "-", ORANGE if is_one else own),
            ):
                if key in run:
                    x = np.arange(1, len(run[key]) + 1)
                    axes.plot(x, run[key], style, marker=marker, markersize=4, color=colour, label=before + what)
        axes.set_xlim(0.5, epochs + 0.5)
        axes.set_xlabel("epoch", color=SOFT)
        axes.set_title(_literal(name.replace("_", " ")), fontsize=10, color=INK)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(color=LINE, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        if is_one and len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize=9)
    if not is_one:  # one legend for all axes, below them
        lines = {line.get_label(): line for axes in figure.axes for line in axes.lines}
        columns = 2 * len(shown)
        figure.set_size_inches(width, height + 0.1 + 0.2 * -(-len(lines) // columns))
        place = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
        figure.legend(lines.values(), lines.keys(), ncols=columns, **place)
    return figure


def _check_history(history):
    lengths = {len(values) for values in history.values()} if isinstance(history, Mapping) else {0}
    if len(lengths) != 1 or lengths == {0}:
        raise InputError(
            f"training_curves needs lists with the same number of epochs, at least one, got {quoted(history)}"
        )


def kernels(model_or_layer: Layer, name: str | None = None, limit: int = 32) -> "Figure":
    """The kernels of a convolution as small images in one scale: a filter's weights for each input channel.

    Args:
        model_or_layer: a built `Conv2D`, or a `Sequential` or another layer that holds one.
        name: of the layer in the model, such as "conv2d_2"; None for the first convolution.
        limit: filters shown at most, and channels of each; the title reports what is left out.

    Returns:
        a `Figure`.

    Raises:
        InputError: there is no such convolution, or it has no weights yet.
        MissingPackageError: matplotlib is not installed.

    >>> import minicnn as mc
    >>> kernels(mc.networks.lenet5(), "conv2d_2").get_suptitle()
    'Kernels of conv2d_2: 16 filters of 5 x 5, for each of 6 input channels'
    """
    limit = check_integer(limit, "limit", "kernels")
    layer = model_or_layer
    if isinstance(layer, Layer) and not isinstance(layer, Conv2D):
        found = dict(walk(layer, Conv2D))
        if not found or name not in (None, *found):
            wanted = "" if name is None else f" {quoted(name)}"
            raise InputError(f"this network has no convolution{wanted}: it has {', '.join(found) or 'none':.200}")
        name = name or next(iter(found))
        layer = found[name]
    if not isinstance(layer, Conv2D) or layer.weight is None:
        raise InputError(f"kernels needs a Conv2D that has weights, got {layer!r:.200}: build it first")
    weight = to_numpy(layer.weight.value)
    F, C, KH, KW = weight.shape
    title = f"Kernels of {name or repr(layer)}: {_count(F, limit)} filters of {KH} x {KW}"
    if C > 1:
        title += f", for each of {_count(C, limit)} input channels"
    tiles = weight[:limit, :limit].reshape(-1, KH, KW)
    columns = min(C, limit) if C > 1 else min(8, len(tiles))
    transposed = C > 1 and min(F, limit) > columns  # wide rather than high
    if transposed:
        tiles, columns = weight[:limit, :limit].swapaxes(0, 1).reshape(-1, KH, KW), min(F, limit)
    rows = -(-len(tiles) // columns)
    size = max(0.42, min(1.1, 9 / columns))
    figure = empty_figure(max(4.8, size * columns + 1.6), max(1.6, size * rows + 0.8), title)
    axes = figure.subplots()
    _draw_maps(figure, axes, tiles, columns, "weight")
    if C > 1:
        axes.set_xlabel("filters" if transposed else "input channels", fontsize=9, color=SOFT)
        axes.set_ylabel("input channels" if transposed else "filters", fontsize=9, color=SOFT)
    return figure


def feature_maps(model: Sequential, image: Array, limit: int = 16) -> "Figure":
    """The outputs of the layers for an image: their channels as images, each layer in a scale of its own.

    Args:
        model: a built `Sequential` that takes images (C, H, W).
        image: one image, (C, H, W) or (H, W): floating point in the model's range, or uint8; or the path of a picture.
        limit: channels shown of each layer, at most; the titles report what is left out.

    Returns:
        a `Figure`: the image, and a row for each layer whose output is (C, H, W).

    Raises:
        InputError: an image that the model cannot take, or no layer whose output is still an image.
        FileError: the picture cannot be read.
        MissingPackageError: matplotlib is not installed.

    >>> import minicnn as mc
    >>> figure = feature_maps(mc.networks.lenet5(), np.zeros((28, 28), "uint8"))
    >>> figure.axes[1].get_title("left")
    'conv2d_1: 6 channels of 28 x 28'
    """
    limit = check_integer(limit, "limit", "feature_maps")
    x = one_image(model, image, "feature_maps")
    outputs = {}
    with states_restored(model):
        for name, _, _, y, _ in model.trace(x):
            if y.ndim != 4:
                break
            outputs[name] = to_numpy(y)[0]
    if not outputs:
        raise InputError("this network has no feature maps: the output of its first layer is not an image (C, H, W)")
    columns = min(8, limit, max(map(len, outputs.values())))
    rows = [1, *(-(-min(len(maps), limit) // columns) for maps in outputs.values())]
    width = 0.95 * columns
    figure = empty_figure(width + 0.8, sum(rows) + 0.3 * len(rows) + 0.3, "Feature maps")
    top, *grid = figure.subplots(len(rows), 1, height_ratios=rows)
    _draw_image(top, to_numpy(x)[0])
    top.set_title("the image", loc="left", fontsize=9, color=INK)
    for axes, (name, maps) in zip(grid, outputs.items(), strict=True):
        _draw_maps(figure, axes, maps[:limit], columns)
        C, H, W = maps.shape
        title = _literal(f"{name}: {_count(C, limit)} channels of {H} x {W}")
        axes.set_title(title, loc="left", fontsize=9, color=INK)
    for axes in (top, *grid):
        axes.set_anchor("W")
    return figure


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, names: Sequence[str] | None = None) -> "Figure":
    """Which class is predicted for which: `minicnn.metrics.confusion_matrix`, coloured by the fraction of the row.

    Args:
        labels: class indices (N,), or one-hot or soft rows (N, K).
        predictions: class indices (N,), or logits or probabilities (N, K).
        names: a text for each class, such as `model.classes`; where it is None, letters A, B, C... up to 26 classes,
            numbers for more.

    Returns:
        a `Figure` whose image holds the fractions (K, K): of the images of class i, those predicted to be of class j.

    Raises:
        InputError: arrays of different lengths, indices out of range, no images, or a wrong number of names.
        MissingPackageError: matplotlib is not installed.

    >>> figure = confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1])
    >>> figure.axes[0].images[0].get_array().tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    counts = metrics.confusion_matrix(labels, predictions, None if names is None else len(names))
    total, correct = int(counts.sum()), int(np.trace(counts))
    if not total:
        raise InputError("a confusion matrix needs at least one image")
    K = len(counts)
    names = class_names(K, names)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    title = f"Confusion matrix: {correct:,} of {total:,} correct ({100 * correct / total:.2f} %)"
    side = min(10, max(3, 0.44 * K))  # inches
    figure = empty_figure(side + 1.9, side + 1, title)
    from matplotlib.colors import ListedColormap, PowerNorm

    axes = figure.subplots()
    colours = ListedColormap(_blend(np.linspace(0, 1, 256), PURPLE))
    drawn = axes.imshow(fractions, cmap=colours, norm=PowerNorm(0.5, 0, 1))
    bar = figure.colorbar(drawn, ax=axes, aspect=30, pad=0.02, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.ax.set_yticklabels(["0", "5 %", "25 %", "50 %", "100 %"], fontsize=8, color=SOFT)
    bar.set_label("fraction of the class's images", fontsize=9, color=SOFT)
    if K <= 26:  # else the numbers would overlap
        for (i, j), count in np.ndenumerate(counts):
            if count:
                colour = "white" if fractions[i, j] > 0.25 else INK
                axes.text(j, i, f"{count}", ha="center", va="center", fontsize=8, color=colour)
    ticks = range(0, K, -(-K // 40))  # 40 names at most
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [_literal(_short(names[k], 40)) for k in ticks], fontsize=9 if K <= 26 else 6)
    if max(map(len, names)) > 3:
        axes.tick_params(axis="x", labelrotation=90)
    axes.set_xlabel("predicted class", color=SOFT)
    axes.set_ylabel("true class", color=SOFT)
    return figure


def confident_mistakes(
    model_or_probabilities: Any, x: Array, y: Array, names: Sequence[str] | None = None, count: int = 12
) -> "Figure":
    """The wrong predictions with the highest probability, in this order: the images with prediction and label.

    Args:
        model_or_probabilities: a `Sequential` that ends in Softmax, or what its `predict(x)` returned, (N, K).
        x: images (N, C, H, W), or (N, H, W), as the model takes them.
        y: class indices (N,), or one-hot or soft rows (N, K).
        names: a text for each class; by default the model's `classes`, and where there are none letters A, B, C... up
            to 26 classes, numbers for more.
        count: images shown, at most; the title reports how many mistakes there are.

    Returns:
        a `Figure`; where there is no mistake, its title alone.

    Raises:
        InputError: images, labels or names that do not fit each other.
        MissingPackageError: matplotlib is not installed.

    >>> figure = confident_mistakes(np.array([[0.1, 0.9], [0.8, 0.2]]), np.zeros((2, 5, 5)), [0, 0])
    >>> figure.get_suptitle(), figure.axes[0].get_title()
    ('The most confident mistakes: 1 of 1, among 2 images', 'B 90 %, label A')
    """
    count = check_integer(count, "count", "confident_mistakes")
    predict = getattr(model_or_probabilities, "predict", None)
    probabilities = predict(x) if predict else to_numpy(model_or_probabilities)
    labels = np.asarray(y).argmax(axis=1) if np.ndim(y) == 2 else np.asarray(y)
    wrong = metrics.confident_mistakes(probabilities, labels)
    if x.ndim not in (3, 4) or len(x) != len(labels):
        raise InputError(f"{len(labels)} labels need as many images (N, C, H, W) or (N, H, W), got shape {x.shape}")
    names = class_names(probabilities.shape[1], names, model_or_probabilities)
    shown = wrong[:count]
    if not len(shown):
        return empty_figure(4.8, 0.5, f"No mistakes among {len(labels):,} images")
    columns = min(len(shown), 4)
    rows = -(-len(shown) // columns)
    title = f"The most confident mistakes: {len(shown)} of {len(wrong):,}, among {len(labels):,} images"
    above = []
    for index in shown:
        predicted = int(probabilities[index].argmax())
        label = _short(names[labels[index]], 17) if labels[index] < len(names) else labels[index]
        percent = 100 * probabilities[index, predicted]
        above.append([_literal(f"{_short(names[predicted], 17)} {percent:.0f} %"), _literal(f"label {label}")])
    fits = max(len(", ".join(lines)) for lines in above) <= 24  # above its image
    figure = empty_figure(max(5, 1.45 * columns), (1.75 if fits else 1.9) * rows + 0.4, title)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    for axes, index, lines in zip(grid, shown, above, strict=False):
        _draw_image(axes, to_numpy(x[index]).reshape(-1, *x.shape[-2:]))
        axes.set_title((", " if fits else "\n").join(lines), fontsize=8.5, color=INK)
    return figure


def augmented(augmentation: Augmentation, x: Array, count: int = 6, epochs: int = 8) -> "Figure":
    """A contact sheet: images, and beside each how some epochs see it.

    Args:
        augmentation: a `minicnn.Augmentation`.
        x: images (N, C, H, W), or (N, H, W), uint8 or floating point; the first ones are shown. Those of mixup are
            mixed with any of `x`.
        count: images shown, at most: a row each.
        epochs: columns beside the original.

    Returns:
        a `Figure`.

    Raises:
        InputError: something else than an augmentation, or than images.
        MissingPackageError: matplotlib is not installed.

    >>> import minicnn as mc
    >>> figure = augmented(mc.Augmentation(shift=2, rotate=10), np.zeros((5, 1, 28, 28), "uint8"), count=2, epochs=3)
    >>> len(figure.axes), figure.get_suptitle()
    (8, 'Augmentation(shift=2, rotate=10)')
    """
    count, epochs = check_integer(count, "count", "augmented"), check_integer(epochs, "epochs", "augmented")
    if not isinstance(augmentation, Augmentation):
        raise InputError(f"augmented needs a minicnn.Augmentation, got {quoted(augmentation)}")
    if getattr(x, "ndim", None) == 3:
        x = x[:, None]
    check_images(x)
    if not len(x):
        raise InputError("augmented needs one image at least")
    everyone = np.arange(len(x))
    shown, labels = everyone[:count], np.zeros(len(x), dtype=int)
    columns = [to_numpy(x[shown])]
    columns += [augmentation.views(x, labels, everyone, epoch, 1)[0][shown] for epoch in range(epochs)]
    H, W = x.shape[2:]
    width, height = (1, H / W) if H < W else (W / H, 1)
    title = "\n".join(textwrap.wrap(repr(augmentation), max(30, round(13 * width * (epochs + 1)))))
    size = (max(3.2, (epochs + 1) * width + 0.2), len(shown) * height + 0.5 + 0.2 * title.count("\n"))
    figure = empty_figure(*size, title)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    grid = figure.subplots(len(shown), epochs + 1, squeeze=False)
    low, high = min(image.min() for image in columns), max(image.max() for image in columns)
    for column, images in enumerate(columns):
        grid[0, column].set_title("original" if not column else f"epoch {column}", fontsize=8.5, color=INK)
        for axes, image in zip(grid[:, column], images, strict=True):
            _draw_image(axes, image, (low, high))
            axes.spines[:].set_color(PURPLE if not column else LINE)
    return figure


def saliency(model: Sequential, image: Array, label: int | None = None, names: Sequence[str] | None = None) -> "Figure":
    """An image beside the gradient of a class's score: see `minicnn.attribution.saliency`.

    Args:
        model, image, label: as there.
        names: a text for each class; by default `model.classes`, and where there are none letters A, B, C... up to 26
            classes, numbers for more.

    Returns:
        a `Figure`. For several channels it shows the largest gradient at each pixel.

    Raises:
        InputError, FileError: as there.
        MissingPackageError: matplotlib is not installed.

    >>> import minicnn as mc
    >>> saliency(mc.networks.lenet5(), np.zeros((28, 28), "uint8"), label=2).axes[1].images[0].get_array().shape
    (28, 28)
    """
    gradient = attribution.saliency(model, image, label)
    largest = np.take_along_axis(gradient, np.abs(gradient).argmax(axis=0)[None], axis=0)[0]
    meaning = "score of {} rises (+) or falls (-) with the pixel"
    return _beside_image(model, image, label, names, largest, "Saliency", meaning)


def occlusion(
    model: Sequential,
    image: Array,
    label: int | None = None,
    size: int = 5,
    stride: int = 1,
    grey: float = 0.5,
    names: Sequence[str] | None = None,
) -> "Figure":
    """An image beside the probability lost when a patch covers a part of it: see `minicnn.attribution.occlusion`.

    Args:
        model, image, label, size, stride, grey: as there.
        names: a text for each class; by default `model.classes`, and where there are none letters A, B, C... up to 26
            classes, numbers for more.

    Returns:
        a `Figure`.

    Raises:
        InputError, FileError: as there.
        MissingPackageError: matplotlib is not installed.

    >>> import minicnn as mc
    >>> figure = occlusion(mc.networks.lenet5(), np.zeros((28, 28), "uint8"), size=7, stride=7)
    >>> figure.axes[1].images[0].get_array().shape
    (4, 4)
    """
    drop = attribution.occlusion(model, image, label, size, stride, grey)
    meaning = f"probability of {{}} lost (+) or gained (-) with a {size} x {size} patch"
    return _beside_image(model, image, label, names, drop, "Occlusion", meaning, stride)


def _beside_image(model, image, label, names, numbers, title, meaning, stride=1):
    """An image, and beside it a map with one number for every `stride` x `stride` pixels."""
    names = [_short(name, 40) for name in class_names(model.shapes[-1][0], names, model)]
    x = one_image(model, image)
    with states_restored(model):
        predicted = int(to_numpy(model(x))[0].argmax())
    about = names[predicted if label is None else label]
    figure = empty_figure(7.2, 3.5, f"{title} of {about}")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.06))
    H, W = x.shape[2:]
    _draw_image(left, to_numpy(x)[0])
    left.set_title(_wrapped(f"the image; predicted class: {names[predicted]}"), fontsize=9, color=INK)
    height, width = numbers.shape
    extent = (-0.5, width * stride - 0.5, height * stride - 0.5, -0.5)
    _colour_bar(figure, right, _draw_signed(right, numbers, np.abs(numbers).max(), extent))
    right.set(xlim=(-0.5, W - 0.5), ylim=(H - 0.5, -0.5), xticks=[], yticks=[])
    right.set_title(_wrapped(meaning.format(about)), fontsize=9, color=INK)
    return figure


def _literal(text):
    """A text that matplotlib draws as it is: what stands between dollars is not mathematics."""
    return visible(text).replace("$", r"\$")


def _short(name, length):
    """A name, cut off where it is longer than there is room for."""
    return name if len(name) <= length else f"{name[: length - 3]}..."


def _wrapped(text):
    """A text above a picture, in lines that fit."""
    return "\n".join(map(_literal, textwrap.wrap(text, 46) if len(text) > 60 else [text]))


def _count(count, limit):
    return f"{count}" if count <= limit else f"the first {limit} of {count}"


def _draw_image(axes, pixels, extremes=()):
    """An image (C, H, W), scaled to [0, 1] if needed: three channels in colour, else their mean in grey.

    Images with the same `extremes`, the smallest and the largest number of all of them, are drawn in one scale.
    """
    full = 255 if pixels.dtype == np.uint8 else 1
    low, high = min(0, pixels.min(), *extremes), max(full, pixels.max(), *extremes)
    shown = (pixels - low) / ((high - low) or 1)
    if len(shown) == 3:
        axes.imshow(shown.transpose(1, 2, 0), interpolation="nearest")
    else:
        axes.imshow(shown.mean(axis=0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _draw_maps(figure, axes, tiles, columns, label=""):
    """Signed maps (n, h, w) in rows of `columns`, all in one scale; each is 1 wide."""
    from matplotlib.patches import Rectangle

    n, h, w = tiles.shape
    height, gap = h / w, 0.12
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + gap), index % columns * (1 + gap)
        drawn = _draw_signed(axes, tile, np.abs(tiles).max(), (left, left + 1, top + height, top))
        drawn.set_clip_on(False)
        axes.add_patch(Rectangle((left, top), 1, height, fill=False, edgecolor=LINE, linewidth=0.8, clip_on=False))
    axes.set(xlim=(0, columns * (1 + gap) - gap), ylim=(-(-n // columns) * (height + gap) - gap, 0), aspect="equal")
    axes.spines[:].set_visible(False)
    _colour_bar(figure, axes, drawn, label)


def _draw_signed(axes, numbers, end, extent):
    """An image of signed numbers: blue below zero, orange above; the full colours at -`end` and `end`."""
    from matplotlib.colors import ListedColormap

    value = np.linspace(-1, 1, 511)  # zero in the middle; the root makes small numbers visible, as on explain's page
    strength = np.sqrt(np.abs(value))
    colours = np.where(value[:, None] < 0, _blend(strength, BLUE), _blend(strength, ORANGE))
    end = float(end) or 1.0  # where all numbers are zero
    axes.set(xticks=[], yticks=[])
    return axes.imshow(numbers, ListedColormap(colours), vmin=-end, vmax=end, extent=extent, interpolation="nearest")


def _colour_bar(figure, axes, drawn, label=""):
    """The colour bar of signed numbers."""
    end = drawn.get_clim()[1]
    ticks = [-end, -end / 4, 0, end / 4, end]
    aspect = 20 if figure.get_size_inches()[1] < 5 else 40
    bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02, aspect=aspect, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:.2g}" for tick in ticks], fontsize=7, color=SOFT)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=9, color=SOFT)


def _blend(strength, colour):
    """Colours (n, 3) between the colour of zero and the full colour, by strength."""
    full = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.add(ZERO, strength[:, None] * (full - ZERO))) / 255
