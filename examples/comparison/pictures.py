"""The pictures, drawn by matplotlib (the extra `plots`). Every title names the data."""

import io
import itertools

import numpy as np
from PIL import Image

from comparison import divergence, experiments, tables
from comparison.statistics import difference, percent
from minicnn import plots
from minicnn.storage.files import atomic_write

COLOURS = {
    "logistic_regression": "#7f7f7f",
    "dense": "#1f77b4",
    "dense_dropout": "#17becf",
    "dense_falling": "#9467bd",
    "two_conv": "#d62728",
    "conv_pool": "#ff7f0e",
    "lenet5": "#2ca02c",
    "small_resnet": "#8c564b",
}
MARKERS = "osD^vPX*"
DPI = 90  # a page needs no more, and the files stay small


def draw_all(plan, results, what, folder):
    """Draw all pictures for which there are results.

    Args:
        plan, results: the plan, and the results of its tasks.
        what: the data in words, for the titles.
        folder: of the pictures; it must exist.

    Returns:
        `{name: path}`; empty without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return {}
    made = {}
    with matplotlib.rc_context({"legend.handlelength": 3.5}):  # long enough to show that a line is dashed
        for name, (draw, wanted) in PICTURES.items():
            if wanted is not None and wanted not in plan.experiments:
                continue
            figure = Figure(layout="constrained", dpi=DPI)
            draw(figure, plan, results)
            figure.suptitle(f"{TITLES[name]}, on {what}", fontsize=10)
            made[name] = folder / f"{name}.png"
            _save(figure, made[name])
    return made


def _save(figure, path):
    """A PNG of 128 colours, rare ones included: a third of the bytes, and the eye sees no difference."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    few = Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    with atomic_write(path) as file:
        few.save(file, "PNG", optimize=True)


def _accuracy(figure, plan, results):
    figure.set_size_inches(10, 4.5)
    by_size, by_time = figure.subplots(1, 2, sharey=True)
    sizes = [results[plan.table_trial(model).name]["parameters"] for model in plan.models]
    for index, model in enumerate(plan.models):
        beside = 1.2 ** sizes[:index].count(sizes[index])  # models of the same size are drawn side by side
        result = results[plan.table_trial(model).name]
        low, high = tables.interval(result)
        accuracy = result["test_accuracy"]
        seconds = (result["seconds_an_epoch"] or 0) * result["epochs"]
        for axes, x in ((by_size, beside * result["parameters"]), (by_time, max(seconds, 1e-3))):
            axes.errorbar(
                x,
                100 * accuracy,
                yerr=[[100 * (accuracy - low)], [100 * (high - accuracy)]],
                fmt=MARKERS[index % len(MARKERS)],  # so that marks differ where intervals overlap
                color=COLOURS[model],
                capsize=3,
                label=model,
            )
    same = " (equal ones side by side)" * (len({*sizes}) < len(sizes))
    for axes, label in ((by_size, f"parameters{same}"), (by_time, "seconds of training")):
        axes.set(xscale="log", xlabel=label)
        axes.grid(alpha=0.3)
    by_size.set_ylabel("test accuracy, %, with its 95 % interval")
    figure.legend(
        *by_time.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=min(4, len(plan.models))
    )


def _curves(figure, plan, results):
    columns = min(4, len(plan.models))
    rows = -(-len(plan.models) // columns)
    figure.set_size_inches(2.7 * columns, 2.5 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, model in zip(grid, plan.models, strict=False):
        result = results[plan.table_trial(model).name]
        epochs = np.arange(1, len(result["history"].get("loss", [])) + 1)
        for key, style in (("accuracy", "--"), ("val_accuracy", "-")):
            label = {"accuracy": "in training", "val_accuracy": "validation"}[key]
            axes.plot(
                epochs,
                [100 * value for value in result["history"].get(key, [])],
                style,
                marker=".",
                color=COLOURS[model],
                label=label,
            )
        axes.axhline(100 * result["test_accuracy"], color="black", linewidth=0.7, linestyle=":", label="test")
        axes.set_title(model, fontsize=9)
        axes.set(xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, loc="lower right")
    for axes in grid[len(plan.models) :]:
        axes.set_axis_off()
    grid[0].set_ylabel("accuracy, %")


def _kernels(figure, plan, results):
    from matplotlib.colors import LinearSegmentedColormap

    columns = 10
    models = [model for model in plan.models if not model.startswith("dense")]  # their weights look like noise
    figure.set_size_inches(0.75 * columns + 1.6, 2.3 * len(models))
    signed = LinearSegmentedColormap.from_list("signed", plots.SIGNED)
    for subfigure, model in zip(figure.subfigures(len(models), 1, squeeze=False)[:, 0], models, strict=True):
        kernels = dict(results[plan.table_trial(model).name]["kernels"])
        kernels["change"] = np.subtract(kernels["after"], kernels["before"])
        grid = subfigure.subplots(3, columns)
        for line, when in enumerate(("before", "after", "change")):
            for axes, kernel in itertools.zip_longest(grid[line], kernels[when][:columns]):
                axes.set(xticks=[], yticks=[])
                if kernel is None:
                    axes.set_axis_off()
                    continue
                end = np.abs(kernel).max()
                axes.imshow(kernel, cmap=signed, vmin=-end, vmax=end)
            label = f"{model}\n{when}" if line == 0 else when
            grid[line, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)


def _permuted(figure, plan, results):
    rows = [
        (model, plan.over_seeds(results, model), plan.over_seeds(results, model, permuted=True))
        for model in plan.reference_models
    ]
    _differences(figure, rows, "shuffled less in place")


def _moved(figure, plan, results):
    rows = []
    for model in plan.models:
        if model not in plan.reference_models:
            result = results[plan.table_trial(model).name]
            rows.append((model, [result["test_accuracy"]], [result["moved_accuracy"]]))
    for model in plan.reference_models:
        rows.append((model, plan.over_seeds(results, model), plan.over_seeds(results, model, "moved_accuracy")))
    _differences(figure, rows, "moved less in place")


def _normalize(figure, plan, results):
    rows = [
        (model, plan.over_seeds(results, model), plan.over_seeds(results, model, normalized=True))
        for model in plan.reference_models
    ]
    _differences(figure, rows, "normalize(x, axis=1) less x / 255")


def _differences(figure, rows, what):
    """The effect of a change on each model, in points: the mean with its interval, and a dot for each seed.

    Args:
        figure: the figure to draw in.
        rows: (model, accuracies before, accuracies after), one accuracy for each seed.
        what: the two terms of the difference, in words.
    """
    figure.set_size_inches(7.5, 1.1 + 0.5 * len(rows))
    axes = figure.subplots()
    for position, (model, before, after) in enumerate(rows):
        change = difference(after, before)
        several = len(before) > 1  # with one seed there is no interval, and the mark is empty
        axes.errorbar(
            change.mean,
            position,
            xerr=change.half if several else None,
            fmt="o",
            color=COLOURS[model],
            markerfacecolor=COLOURS[model] if several else "white",
            markeredgewidth=2,
            capsize=4,
        )
        if several:
            axes.plot(
                [100 * (b - a) for a, b in zip(before, after, strict=True)], [position + 0.2] * len(before), "k.", ms=4
            )
    axes.set_yticks(
        range(len(rows)),
        [f"{model}\n{100 * np.mean(before):.1f} to {percent(np.mean(after))}" for model, before, after in rows],
        fontsize=8,
    )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0, color="black", linewidth=0.8)
    marks = ["bar: 95 % interval, dots: seeds"] if any(len(before) > 1 for _, before, _ in rows) else []
    marks += ["empty: one seed"] if any(len(before) == 1 for _, before, _ in rows) else []
    axes.set_xlabel(f"{what}, points of test accuracy ({'; '.join(marks)})", fontsize=8)
    axes.grid(axis="x", alpha=0.3)


def _amount(figure, plan, results):
    figure.set_size_inches(7, 4)
    axes = figure.subplots()
    for model in plan.reference_models:
        found = experiments.amount_results(plan, results, model)
        amounts = list(found)
        means = [100 * np.mean(values) for values in found.values()]
        axes.plot(amounts, means, "o-", color=COLOURS[model], label=model)
        axes.fill_between(
            amounts,
            [100 * min(values) for values in found.values()],
            [100 * max(values) for values in found.values()],
            color=COLOURS[model],
            alpha=0.2,
            linewidth=0,
        )
    axes.set(xscale="log", xlabel="training images", ylabel="test accuracy, % (band: all seeds)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _divergence(figure, plan, results):
    figure.set_size_inches(11, 3.8)
    by_rate, by_death, by_step = figure.subplots(1, 3)
    found = experiments.sweeps(plan, results)
    for scale in divergence.SCALES:
        rates = list(divergence.RATES)
        for axes, key in ((by_rate, "accuracy"), (by_death, "dead")):
            values = np.array([[100 * divergence.run_of(sweep, scale, rate)[key] for rate in rates] for sweep in found])
            (line,) = axes.plot(rates, values.mean(axis=0), "o-", label=scale)
            axes.fill_between(
                rates, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2, linewidth=0
            )
        losses = divergence.run_of(found[0], scale, divergence.LAB_RATE)["losses"]
        by_step.plot(np.arange(1, len(losses) + 1), losses, color=line.get_color(), label=scale)
    by_rate.axhline(100 * divergence.CHANCE, color="black", linewidth=0.7, linestyle=":")
    by_rate.set(xscale="log", xlabel="learning rate", ylabel=f"accuracy after {plan.divergence_steps} steps, %")
    by_death.set(xscale="log", xlabel="learning rate", ylabel="dead ReLUs, %")
    by_step.set(xscale="log", yscale="log", xlabel="step", ylabel=f"loss, SGD {divergence.LAB_RATE:g}, seed 0")
    for axes in (by_rate, by_death, by_step):
        axes.grid(alpha=0.3)
    by_death.legend(fontsize=8, title="pixels", title_fontsize=8)


def _ordered(figure, plan, results):
    figure.set_size_inches(9, 3.5)
    letters, split = figure.subplots(1, 2, width_ratios=(3, 2))
    some = experiments.KEPT[1]
    variants = {
        "shuffled": {},
        "ordered": {"ordered": True},
        f"ordered, {100 * some:g} % of the Js left": {"ordered": True, "kept": some},
    }
    for index, (name, variant) in enumerate(variants.items()):
        classes = 100 * np.mean(plan.over_seeds(results, "lenet5", "class_accuracy", **variant), axis=0)
        letters.bar(np.arange(10) + (index - 1) * 0.28, classes, 0.28, label=name, alpha=0.75)
        means = [
            100 * np.mean(plan.over_seeds(results, "lenet5", key, **variant))
            for key in ("train_accuracy", "val_accuracy", "test_accuracy")
        ]
        split.bar(np.arange(3) + (index - 1) * 0.28, means, 0.28, alpha=0.75)
    letters.set_xticks(np.arange(10), list("ABCDEFGHIJ"))
    letters.set(xlabel="letter of the test images", ylabel="recognised, %", ylim=(0, 100))
    split.set_xticks(np.arange(3), ["training", "validation", "test"])
    split.set(ylim=(0, 100))
    for axes in (letters, split):
        axes.grid(axis="y", alpha=0.3)
    letters.figure.legend(fontsize=8, loc="outside lower center", ncols=3)


TITLES = {
    "accuracy": "Accuracy against size and time",
    "curves": "Each model's curves",
    "permuted": "Pixels in place and shuffled",
    "moved": "Test images moved by two pixels",
    "amount": "Accuracy against the number of training images",
    "kernels": "First-layer weights before and after training, each with its own scale",
    "divergence": "The dense network: learning rate and input scale",
    "ordered": "LeNet-5 and the lab's split",
    "normalize": "Two ways of preprocessing",
}

# Each picture's function, and the experiment without which there is nothing to draw.
PICTURES = {
    "accuracy": (_accuracy, None),
    "curves": (_curves, None),
    "permuted": (_permuted, "permuted"),
    "moved": (_moved, "moved"),
    "amount": (_amount, "amount"),
    "kernels": (_kernels, "kernels"),
    "divergence": (_divergence, "divergence"),
    "ordered": (_ordered, "ordered"),
    "normalize": (_normalize, "normalize"),
}
