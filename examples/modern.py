"""A network of today: batch normalization, residual blocks, and few layers of many filters. 289,290 parameters.

Run it from the project's folder: python examples/modern.py
With three seeds:                 python examples/modern.py --data PATH --seeds 3
What made the difference:         python examples/modern.py --data PATH --ablation runs/modern

The letters of a font are all on one side of the split, so the test letters come from fonts that the network never saw.
Each seed draws another split and other weights; which fonts are held out changes the accuracy more than anything else.
"""

import functools
import json
import pathlib
import sys

import numpy as np
from common import DOWNLOADS, command, count, finish, on_all, options
from comparison.statistics import difference

import minicnn as mc
from minicnn.console import show, show_error
from minicnn.storage.files import atomic_write

SEEDS = 3  # of the ablation

#: What the recipe consists of; each can be switched off.
INGREDIENTS = {
    "batch normalization": "each channel of a batch has mean 0 and variance 1",
    "residual blocks": "a block learns what to add to its input",
    "falling learning rate": "a warm-up, then half a cosine down to 0; without: constant, 0.001",
    "label smoothing": "the right class is to have 0.91, each other one 0.01",
    "augmentation": "each epoch sees every image shifted, turned and scaled a little",
    "averaged weights": "the moving average of the weights is what is tested",
}


def network(without=(), seed=0):
    """The network; `networks.small_resnet` is the same without the switches."""
    normalized = "batch normalization" not in without

    def convolution(filters, size=3, **window):
        layers = [mc.Conv2D(filters, size, use_bias=not normalized, **window)]
        return layers + [mc.BatchNorm()] * normalized

    def block(filters):
        layers = [*convolution(filters, padding=1), mc.ReLU(), *convolution(filters, padding=1)]
        return layers if "residual blocks" in without else [mc.Residual(layers)]

    return mc.Sequential(  # (1, 28, 28)
        [
            *convolution(64, 5, stride=2), mc.ReLU(),  # (64, 12, 12)
            *block(64), mc.ReLU(), *block(64), mc.ReLU(),
            *convolution(96, stride=3, padding="same"), mc.ReLU(),  # (96, 4, 4)
            *convolution(96, padding=1), mc.ReLU(),
            mc.GlobalAvgPool2D(),  # (96,)
            mc.Dense(10),
            mc.Softmax(),
        ],
        input_shape=(1, 28, 28),
        seed=seed,
    )  # fmt: skip


def adam(steps, without=()):
    """Adam, whose learning rate rises for a tenth of all steps and then falls to 0 along half a cosine."""
    rising = -(-steps // 10)
    falling = mc.WarmUp(mc.CosineDecay(0.004, steps=max(1, steps - rising)), steps=rising)
    return mc.Adam(0.001 if "falling learning rate" in without else falling, weight_decay=0.1)


def generalization(without=()):
    """The arguments of `fit` that make the network better on images that it has not seen."""
    augmentation = mc.Augmentation(shift=1, rotate=5, scale=0.05, shear=0.05)
    return {
        "loss": mc.SoftmaxCrossEntropy(label_smoothing=0.0 if "label smoothing" in without else 0.1),
        "augmentation": None if "augmentation" in without else augmentation,
        "callbacks": [] if "averaged weights" in without else [mc.AveragedWeights(0.99)],
    }


def train(model, train_set, chosen, without=(), **options_of_fit):
    """Train by the recipe; returns the history and the optimizer."""
    x, labels = train_set
    optimizer = adam(chosen.epochs * -(-len(x) // chosen.batch_size), without)
    history = model.fit(
        x,
        labels,
        epochs=chosen.epochs,
        batch_size=chosen.batch_size,
        optimizer=optimizer,
        communicator=chosen.ranks.communicator,
        **generalization(without),
        **options_of_fit,
    )
    return history, optimizer


def load(chosen, seed):
    """The data, split by font, with the channel axis, and what it is."""
    ((x, y), (x_test, y_test)), what = on_all(chosen.ranks, lambda: _read(chosen, seed))
    x, y = x[: chosen.samples], y[: chosen.samples]
    show(f"data: {what}; {len(x):,} images to train on, {len(x_test):,} to test; backend {chosen.backend}")
    return (x[:, None], y), (x_test[:, None], y_test), what


def _read(chosen, seed):
    """The two sets, and what they are."""
    if chosen.data == "letters":
        return mc.datasets.load_letters(seed=seed), mc.datasets.LETTERS_DESCRIPTION
    source = _archive(DOWNLOADS.get(chosen.data, chosen.data))
    sets = mc.datasets.load_notmnist(source, test_fraction=0.1, seed=seed, group_by="fonts")
    return sets, f"notMNIST from {chosen.data}, other fonts in the test"


def _archive(source):
    """The archive in a folder that holds one, because its file names tell the fonts; else the source as it is."""
    archives = [*pathlib.Path(source).glob("*.tar.gz"), *pathlib.Path(source).glob("*.zip")]
    return archives[0] if len(archives) == 1 else source


def one_run(chosen):
    """Train the network, test it, save it, and draw its predictions; returns the exit code."""
    train_set, test_set, what = load(chosen, chosen.seed)
    model = network(seed=chosen.seed)
    model.summary(chosen.batch_size)
    resume = {"checkpoint": chosen.checkpoint, "resume": chosen.checkpoint is not None}
    history, optimizer = train(model, train_set, chosen, **resume)
    return finish(model, test_set, what, chosen, history, optimizer)


def several_runs(chosen):
    """Train with some seeds, each with another split; the mean accuracy counts. Returns the exit code."""
    accuracies = []
    for seed in range(chosen.seeds):
        train_set, (x_test, y_test), _ = load(chosen, seed)
        model = network(seed=seed)
        train(model, train_set, chosen)
        with chosen.ranks:
            accuracies.append(chosen.ranks.first(functools.partial(model.evaluate, x_test, y_test))[1])
        show(f"seed {seed}: {100 * accuracies[-1]:.2f} % of {len(y_test):,} test images")
    mean = 100 * float(np.mean(accuracies))
    show(f"mean of {chosen.seeds} seeds: {mean:.2f} %")
    if mean < chosen.min_accuracy:
        show_error(f"the mean test accuracy is below {chosen.min_accuracy} %")
        return 1
    return 0


def ablation(chosen):
    """Train with all ingredients, and without each of them in turn; the results are kept in a folder."""
    folder = pathlib.Path(chosen.ablation)
    ranks = chosen.ranks
    on_all(ranks, lambda: folder.mkdir(parents=True, exist_ok=True))
    variants = {"all": (), **{f"without {name}": (name,) for name in INGREDIENTS}, "LeNet-5": None}
    accuracies = {name: [] for name in variants}
    for seed in range(SEEDS):
        train_set, (x_test, y_test), what = load(chosen, seed)
        for name, without in variants.items():
            path = folder / f"{name} {seed} {chosen.epochs} epochs.json".replace(" ", "-")
            if not ranks.first(path.exists):
                if without is None:
                    model, adam = mc.networks.lenet5(seed=seed), mc.Adam(0.001)
                    model.fit(*train_set, epochs=10, batch_size=32, optimizer=adam, communicator=ranks.communicator)
                else:
                    model = network(without, seed)
                    train(model, train_set, chosen, without)
                with ranks:
                    ranks.first(functools.partial(_measure, model, (x_test, y_test), path))
            with ranks:
                accuracies[name].append(ranks.first(lambda path=path: json.loads(path.read_text())["accuracy"]))
            show(f"{name}, seed {seed}: {100 * accuracies[name][-1]:.2f} %")
    table = _table(accuracies)
    show(f"\n{what}, {chosen.epochs} epochs, {SEEDS} seeds, each with another split and other weights\n\n{table}")
    if ranks.is_first:
        with atomic_write(folder / "table.md") as file:
            file.write(table.encode())
    return 0


def _measure(model, test_set, path):
    _, accuracy = model.evaluate(*test_set)
    with atomic_write(path) as file:
        file.write(json.dumps({"accuracy": accuracy}).encode())


def _table(accuracies):
    """The accuracies and the differences to all ingredients, with 95 % intervals over the seeds."""
    rows = ["| network | test accuracy, each seed | mean | difference, in points |", "|---|---|---|---|"]
    for name, found in accuracies.items():
        each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in found)
        change = "" if name == "all" else str(difference(found, accuracies["all"]))
        rows.append(f"| {name} | {each} | {100 * np.mean(found):.2f} % | {change} |")
    return "\n".join(rows) + "\n"


def main():
    """Read the command line, and run."""
    chosen = options(
        __doc__.splitlines()[0],
        name="modern",
        epochs=10,
        batch_size=128,
        more=[
            (
                ["--seeds"],
                {"type": count, "metavar": "N", "help": "train N networks, and take the mean"},
            ),
            (["--ablation"], {"metavar": "DIR", "help": "measure what each ingredient adds; keep the results there"}),
        ],
    )
    run = ablation if chosen.ablation else several_runs if chosen.seeds else one_run
    return command(lambda: run(chosen), chosen.ranks)


if __name__ == "__main__":
    sys.exit(main())
