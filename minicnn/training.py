"""The loop: batches, progress, history.

`fit` does what the four lines of a training step do, again and again:

    logits, backward = model.forward(x, training=True)
    loss, dlogits = loss_function(logits, labels)
    backward(dlogits)
    optimizer.step(model.parameters())

and beside that deals out the images in a new order every epoch, measures, and tells.
"""

import csv
import io
import json
import sys
import time

import numpy as np

from minicnn.backend import to_numpy
from minicnn.datasets.splits import stratified_split
from minicnn.errors import InputError
from minicnn.files import write_whole
from minicnn.layers.base import whole_number
from minicnn.losses import SoftmaxCrossEntropy
from minicnn.metrics import correct
from minicnn.optimizers import Adam


class History(dict):
    """What was measured, one number an epoch: `{"loss": [...], "accuracy": [...], ...}`.

    >>> history = History(loss=[0.5, 0.25], accuracy=[0.8, 0.9])
    >>> print(history.to_csv())
    epoch,loss,accuracy
    1,0.5,0.8
    2,0.25,0.9
    <BLANKLINE>
    """

    def record(self, measured):
        """Add one epoch's numbers."""
        for name, value in measured.items():
            self.setdefault(name, []).append(value)

    def to_csv(self, path=None):
        """A table with one line an epoch, as a text, and written to `path` if one is given."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["epoch", *self])
        writer.writerows([epoch, *row] for epoch, row in enumerate(zip(*self.values(), strict=True), start=1))
        return _written(text.getvalue(), path)

    def to_json(self, path=None):
        """The dict of lists as a JSON text, and written to `path` if one is given."""
        return _written(json.dumps(self, indent=1), path)


class Callback:
    """Something that happens during `fit`. Override what you need.

    Attributes:
        model, optimizer: set by `fit` before training starts. `self.model.stop_training = True` ends the
            training after the batch.
    """

    model = None
    optimizer = None

    def on_train_begin(self):
        """Before the first batch."""

    def on_epoch_begin(self, epoch):
        """Before an epoch, counted from 0."""

    def on_batch_end(self, batch, loss):
        """After a step, counted from 0 in each epoch; the loss is a scalar of the backend."""

    def on_epoch_end(self, epoch, logs):
        """After an epoch, with its numbers by name."""

    def on_train_end(self):
        """After the last batch."""


def fit(
    model,
    x,
    y,
    epochs=10,
    batch_size=32,
    optimizer=None,
    loss=None,
    validation_split=0.0,
    validation_data=None,
    shuffle=True,
    callbacks=(),
    verbose=True,
):
    """Train a model; the arguments are those of `Sequential.fit`."""
    optimizer = Adam() if optimizer is None else optimizer
    loss = SoftmaxCrossEntropy() if loss is None else loss
    epochs = whole_number(epochs, "epochs", "fit", least=0)
    batch_size = whole_number(batch_size, "batch_size", "fit")
    y = np.asarray(y)
    check_set(model, x, y, loss)
    train = np.arange(len(x))
    if validation_data is not None:
        if validation_split:
            raise InputError("fit takes validation_split or validation_data, not both")
        x_validation, y_validation = validation_data
        check_set(model, x_validation, np.asarray(y_validation), loss)
    elif validation_split:
        classes = y.argmax(axis=1) if y.ndim == 2 and loss.is_classification else y
        if not loss.is_classification:
            classes = np.zeros(len(y), dtype=int)
        train, held_out = stratified_split(classes, validation_split, np.random.default_rng(model.seed))
        validation_data = _Rows(x, held_out), y[held_out]

    model.stop_training = False
    history = History()
    for callback in callbacks:
        callback.model, callback.optimizer = model, optimizer
        callback.on_train_begin()
    for epoch in range(epochs):
        if model.stop_training:
            break
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
        started = time.perf_counter()
        order = train
        if shuffle:
            order = np.random.default_rng([model.seed, epoch]).permutation(train)
        with _Progress(f"epoch {epoch + 1}/{epochs}", len(order), verbose) as progress:
            measured = _epoch(model, x, y, order, batch_size, optimizer, loss, callbacks, progress)
            seconds = time.perf_counter() - started
            if validation_data is not None:
                val_loss, val_accuracy = _measure(model, *validation_data, loss, max(batch_size, 512))
                measured["val_loss"] = val_loss
                if val_accuracy is not None:
                    measured["val_accuracy"] = val_accuracy
            progress.finish(measured, seconds)
        measured |= {"learning_rate": optimizer.learning_rate, "seconds": seconds}
        history.record(measured)
        for callback in callbacks:
            callback.on_epoch_end(epoch, measured)
    for callback in callbacks:
        callback.on_train_end()
    return history


def _epoch(model, x, y, order, batch_size, optimizer, loss, callbacks, progress):
    """Every image once; the means of loss and accuracy over the epoch."""
    parameters = model.parameters()
    seen, total_loss, hits = 0, 0.0, 0
    for batch, start in enumerate(range(0, len(order), batch_size)):
        rows = order[start : start + batch_size]
        labels = y[rows]
        outputs, backward = model.forward(x[rows], training=True)
        value, doutputs = loss.compute(outputs, labels)
        backward(doutputs, input_gradient=False)
        optimizer.step(parameters)
        seen += len(rows)
        total_loss = total_loss + value * len(rows)
        if loss.is_classification:
            hits = hits + correct(outputs, labels)
        progress.update(len(rows), lambda: _means(loss, total_loss, hits, seen))  # noqa: B023, called at once
        for callback in callbacks:
            callback.on_batch_end(batch, value)
        if model.stop_training:
            break
    return _means(loss, total_loss, hits, seen)


def _means(loss, total_loss, hits, seen):
    means = {"loss": float(total_loss) / seen}
    if loss.is_classification:
        means["accuracy"] = float(hits) / seen
    return means


def evaluate(model, x, y, loss, batch_size=512):
    """The mean loss and the accuracy (None for a regression) of a model on a set."""
    y = np.asarray(y)
    check_set(model, x, y, loss)
    return _measure(model, x, y, loss, whole_number(batch_size, "batch_size", "evaluate"))


def _measure(model, x, y, loss, batch_size):
    total_loss, hits = 0.0, 0
    for start in range(0, len(y), batch_size):
        rows = slice(start, start + batch_size)
        outputs, _ = model.forward(x[rows])
        value, _ = loss.compute(outputs, y[rows])
        total_loss += float(value) * len(outputs)
        if loss.is_classification:
            hits += int(correct(outputs, y[rows]))
    return total_loss / len(y), hits / len(y) if loss.is_classification else None


def check_set(model, x, y, loss):
    """Refuse images and labels that cannot be right, before any work is done.

    Raises:
        InputError: an empty set, lengths that differ, a wrong shape or dtype, numbers that are not finite, or
            labels that do not belong to the model's outputs.
    """
    check_images(model, x)
    if len(x) != len(y):
        raise InputError(f"{len(x)} images and {len(y)} labels: there must be one label an image")
    loss.check(y, (len(y), *model.output_shape))


def check_images(model, x):
    """Refuse images that a model cannot take, or that are not finite numbers."""
    model._check_shape_and_dtype(x)
    if len(x) == 0:
        raise InputError("the set is empty: there is no image in it")
    if model.input_shape is None:
        model.build(x.shape[1:])
    if x.dtype.kind == "f":
        for start in range(0, len(x), 4096):  # in parts, for the memory's sake
            part = to_numpy(x[start : start + 4096])
            if not np.isfinite(part).all():
                place = start + int(np.argwhere(~np.isfinite(part))[0, 0])
                raise InputError(f"image {place} holds NaN or infinity: clean the data first")


class _Rows:
    """Some rows of an array, taken only when they are asked for."""

    def __init__(self, array, indices):
        self.array, self.indices = array, indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, rows):
        return self.array[self.indices[rows]]


class _Progress:
    """A bar on a terminal; a line an epoch elsewhere; nothing if not verbose."""

    def __init__(self, title, total, verbose):
        self.title = title
        self.lines = verbose and not sys.stderr.isatty()
        self.bar = None
        if verbose and not self.lines:
            from tqdm import tqdm  # here, so that `import minicnn` needs NumPy alone

            self.bar = tqdm(total=total, desc=title, unit=" images", unit_scale=True)
        self.shown = time.perf_counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def update(self, count, measure):
        """Count images; show what `measure()` gives, some times a second."""
        if self.bar is None:
            return
        now = time.perf_counter()
        if now - self.shown > 0.1:
            self.shown = now
            self.bar.set_postfix(_shown(measure()), refresh=False)
        self.bar.update(count)

    def finish(self, measured, seconds):
        if self.bar is not None:
            self.bar.set_postfix(_shown(measured))
        elif self.lines:
            numbers = "  ".join(f"{name} {value}" for name, value in _shown(measured).items())
            print(f"{self.title}  {seconds:.1f} s  {numbers}", flush=True)


def _shown(measured):
    return {name: f"{value:.4f}" for name, value in measured.items()}


def _written(text, path):
    if path is not None:
        with write_whole(path) as file:
            file.write(text.encode())
    return text
