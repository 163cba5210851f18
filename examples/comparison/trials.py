"""One trial: a model trained once, on one variant of the images, with one seed; and what is measured."""

import dataclasses
import math
import time

import numpy as np

import minicnn as mc
from comparison import data
from comparison.models import MODELS, size
from minicnn.datasets import LETTERS

EPOCHS_OF_A_SCHEDULE = 10  # of a falling learning rate, where the budget is minutes


@dataclasses.dataclass(frozen=True)
class Trial:
    """What distinguishes one training from another.

    Attributes:
        part: "table" or "experiments"; each has its own budget.
        model: a name of `MODELS`.
        epochs, minutes: the budget; one of them is None.
        seed: of the weights, the batches and the dropout.
        ordered, kept: the split, as in `data.split`.
        permuted: whether the pixels of all images are shuffled by one permutation.
        normalized: whether the images are normalised with the lab's `normalize(x, axis=1)` instead of divided by 255.
        images: how many images to train on; None for all.
    """

    part: str
    model: str
    epochs: int | None
    minutes: float | None = None
    seed: int = 0
    ordered: bool = False
    kept: float = 0.0
    permuted: bool = False
    normalized: bool = False
    images: int | None = None

    @property
    def name(self):
        """The name of the trial's file.

        >>> Trial("experiments", "lenet5", 6, permuted=True, seed=1).name
        'experiments-lenet5-permuted-seed1'
        """
        parts = [self.part, self.model]
        parts += [f"ordered{self.kept:g}"] * self.ordered + ["permuted"] * self.permuted
        parts += ["normalized"] * self.normalized + [f"images{self.images}"] * (self.images is not None)
        return "-".join([*parts, f"seed{self.seed}"])


class Watch(mc.Callback):
    """Counts the steps for the progress bar, and stops the training when its minutes are over."""

    def __init__(self, minutes, advance):
        self.minutes, self.advance, self.steps = minutes, advance, 0

    def on_train_begin(self):
        self.started = time.perf_counter()

    def on_batch_end(self, batch, loss):
        self.steps += 1
        self.advance()
        if self.minutes is not None and time.perf_counter() - self.started > 60 * self.minutes:
            self.model.stop_training = True


def run(trial, source, batch_size, advance=lambda: None):
    """Train and measure.

    Args:
        trial: what to train.
        source: the images.
        batch_size: images per step.
        advance: called after every step.

    Returns:
        a dict of plain values with everything that the tables and pictures need.

    Raises:
        TrainingInterrupted: the user stopped the training.
    """
    sets = data.prepare(source, trial)
    steps_per_epoch = math.ceil(len(sets.train[1]) / batch_size)
    model = MODELS[trial.model].network(seed=trial.seed)
    kernels = {"before": _kernels(model)}
    watch = Watch(trial.minutes, advance)
    result = {"diverged": None}
    epochs = trial.epochs or EPOCHS_OF_A_SCHEDULE
    others = MODELS[trial.model].others()
    try:
        history = model.fit(
            *sets.train,
            epochs=10**9 if trial.epochs is None else trial.epochs,
            batch_size=batch_size,
            optimizer=MODELS[trial.model].optimizer(steps_per_epoch, epochs),
            validation_data=sets.validation if trial.images is None else None,  # few images: hundreds of short epochs
            callbacks=[watch, *others.pop("callbacks", ())],
            verbose=False,
            **others,
        )
    except mc.DivergenceError as error:  # a result, not a failure: the table shows it
        result["diverged"], history = str(error), error.history
    kernels["after"] = _kernels(model)
    parameters, multiply_adds = size(trial.model)
    epochs = watch.steps / steps_per_epoch
    seconds = history.get("seconds", [])
    measured_epochs = len(seconds) if result["diverged"] else epochs  # the minutes may have stopped the last one
    right = model.predict(sets.test[0]).argmax(axis=1) == sets.test[1]
    return result | {
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "epochs": epochs,
        "seconds_an_epoch": sum(seconds) / measured_epochs if seconds else None,
        "train_images": len(sets.train[1]),
        "validation_images": len(sets.validation[1]),
        "test_images": len(right),
        "last_class": {
            "letter": LETTERS[-1],
            "train": int(np.count_nonzero(sets.train[1] == len(LETTERS) - 1)),
            "validation": int(np.count_nonzero(sets.validation[1] == len(LETTERS) - 1)),
        },
        "train_accuracy": model.evaluate(*sets.train)[1],
        "val_accuracy": model.evaluate(*sets.validation)[1],
        "test_accuracy": float(right.mean()),
        "moved_accuracy": model.evaluate(*sets.moved)[1],
        "class_accuracy": [float(right[sets.test[1] == label].mean()) for label in range(len(LETTERS))],
        "right": "".join("01"[int(correct)] for correct in right),  # for each image, to compare two models
        "history": dict(history),
        "kernels": kernels,
    }


def _kernels(model):
    """The weights of the first layer as pictures (F, height, width): kernels, or a weight for every pixel."""
    layer = next(layer for layer in model.layers if layer.parameters())
    weights = mc.to_numpy(layer.weight.value)
    weights = weights[:10].reshape(-1, 28, 28) if weights.ndim == 2 else weights[:, 0]  # the first ten units are enough
    return np.round(weights, 4).tolist()
