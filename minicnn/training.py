"""The loop: batches, progress, history.

`fit` does what the four lines of a training step do, again and again:

    logits, backward = model.forward(x, training=True)
    loss, dlogits = loss_function(logits, labels)
    backward(dlogits)
    optimizer.step(model.parameters())

and beside that deals out the images in a new order every epoch, measures,
tells, and keeps the run in a file from which it can go on.
"""

import math
import sys
import time
from collections.abc import Iterable

import numpy as np

from minicnn.backend import fed, number, resident, take, to_device, to_numpy
from minicnn.callbacks import Callback
from minicnn.checkpoint import Checkpoint, fingerprint, plain_attributes
from minicnn.checks import whole_number
from minicnn.datasets.splits import Rows, stratified_split
from minicnn.divergence import Guard
from minicnn.errors import DivergenceError, InputError
from minicnn.graph import RecordedStep, can_record
from minicnn.interrupts import Interrupts
from minicnn.losses import Loss, SoftmaxCrossEntropy, as_labels
from minicnn.metrics import correct
from minicnn.optimizers import Adam, Optimizer
from minicnn.progress import History, Progress

#: What a run's place is made of.
PLACE = {
    "epoch": int,
    "batch": int,
    "seen": int,
    "total_loss": float,
    "hits": int,
    "seconds": float,
    "finished": bool,
    "stop_training": bool,
}


class Run:
    """A training run: who takes part, what was measured, and the place where it is.

    Attributes:
        model, optimizer, loss, callbacks: who takes part.
        history: of the epochs that are done.
        epoch, batch: the place, both counted from 0: the next batch to be trained on.
        seen, total_loss, hits: images of this epoch so far, the sum of their losses, and how many were right.
        seconds: this epoch's time before the run was cut.
        finished: whether a callback ended it.
        images, batch_size: how many images an epoch has, and a batch; set by `fit`.
    """

    def __init__(self, model, optimizer, loss, callbacks):
        self.model, self.optimizer, self.loss, self.callbacks = model, optimizer, loss, callbacks
        self.history = History()
        self.finished = False
        self.begin_epoch(0)

    def begin_epoch(self, epoch):
        """Go to the start of an epoch."""
        self.epoch, self.batch = epoch, 0
        self.seen, self.total_loss, self.hits, self.seconds = 0, 0.0, 0, 0.0

    def count(self, loss, outputs, labels):
        """Note a batch that was trained on; on a GPU nothing is waited for."""
        self.batch += 1
        self.seen += len(labels)
        self.total_loss = self.total_loss + loss.astype("float64") * len(labels)
        if self.loss.is_classification:
            self.hits = self.hits + correct(outputs, labels)

    def means(self):
        """The means of this epoch so far."""
        return _means(self.loss, self.total_loss, self.hits, self.seen)

    def place(self):
        """Where the run is, as plain values."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "seen": self.seen,
            "total_loss": number(self.total_loss),
            "hits": int(number(self.hits)),
            "seconds": self.seconds,
            "finished": bool(self.finished),
            "stop_training": bool(self.model.stop_training),
        }

    def go_to(self, place):
        """Go where `place` says; ValueError where no run over this set can be."""
        for name, kind in PLACE.items():
            value = place[name]
            if type(value) is not kind or not math.isfinite(value) or (value < 0 and name != "total_loss"):
                raise ValueError(f"the place's {name} is {value!r:.60}")
            setattr(self.model if name == "stop_training" else self, name, value)
        if self.seen != min(self.batch * self.batch_size, self.images) or self.hits > self.seen:
            raise ValueError(f"after {self.batch} batches there cannot be {self.hits} right of {self.seen} images")
        if self.batch and (self.batch - 1) * self.batch_size >= self.images:
            raise ValueError(f"an epoch of {self.images} images has no {self.batch} batches")


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
    checkpoint=None,
    checkpoint_every=300.0,
    resume=False,
):
    """Train a model; the arguments are those of `Sequential.fit`."""
    run = Run(
        model,
        Adam() if optimizer is None else optimizer,
        SoftmaxCrossEntropy() if loss is None else loss,
        [] if callbacks is None else list(callbacks) if isinstance(callbacks, Iterable) else [callbacks],
    )
    if not isinstance(run.optimizer, Optimizer):
        raise InputError(f"fit needs an optimizer such as minicnn.Adam(0.001), got {run.optimizer!r}")
    epochs = whole_number(epochs, "epochs", "fit", least=0)
    batch_size = whole_number(batch_size, "batch_size", "fit")
    y = to_numpy(as_labels(y))
    check_set(model, x, y, run.loss)
    train, held_out = _divided(y, run.loss, validation_split, model.seed)
    if validation_data is not None:
        validation_data = _checked_pair(model, validation_data, run.loss, validation_split)
    _check_callbacks(run.callbacks, run.loss, held_out is not None or validation_data is not None)
    run.images, run.batch_size = len(train), batch_size

    file = None
    if checkpoint is not None:
        settings = {
            "model": model.description(),
            "loss": plain_attributes(run.loss),
            "batch_size": batch_size,
            "shuffle": bool(shuffle),
            "images": fingerprint(x),
            "labels": fingerprint(y),
            "validation_split": validation_split,
            "validation_data": None if validation_data is None else [fingerprint(part) for part in validation_data],
            "callbacks": [{"class": type(callback).__name__, **callback.config()} for callback in run.callbacks],
        }
        file = Checkpoint(checkpoint, run, settings)
        file.open(resume)
    elif resume:
        raise InputError("fit with resume=True needs checkpoint=PATH, the file to go on from")

    x, y = resident(x), resident(y)
    validation = None
    if validation_data is not None:
        validation = tuple(map(resident, validation_data))
    elif held_out is not None:
        validation = Rows(x, held_out), take(y, held_out)
    model.stop_training = False
    for callback in run.callbacks:
        callback.model, callback.optimizer = model, run.optimizer
        callback.on_train_begin()
    if file is not None:
        file.begin()
    recorded = None
    if can_record(model, run.loss, run.optimizer):
        recorded = RecordedStep(model, run.loss, run.optimizer)
    # What overflows is watched by the guard, which says more than NumPy's warning.
    with Guard(model, run.loss) as guard, Interrupts() as interrupts, np.errstate(over="ignore", invalid="ignore"):
        while run.epoch < epochs and not run.finished and not interrupts.asked:
            order = train
            if shuffle:  # by the steps taken before this epoch: a second `fit` goes on with new orders
                order = np.random.default_rng([model.seed, run.optimizer.steps - run.batch]).permutation(train)
            if not isinstance(x, np.ndarray):  # on the device: then the batches' indices are there, too
                order = to_device(order)
            with Progress(f"epoch {run.epoch + 1}/{epochs}", len(order), run.seen, verbose) as progress:
                _train_epoch(run, x, y, order, recorded, guard, progress, file, checkpoint_every, interrupts)
                if not run.seen:  # a callback stopped the training before its first batch
                    break
                if not interrupts.asked:
                    _end_epoch(run, validation, batch_size, guard, progress, file)
        asked = interrupts.asked
        if asked and file is not None and file.place != run.place():  # it was stopped within an epoch
            _save(run, guard, file)
    if asked and run.epoch < epochs and not run.finished:
        run.history.interrupted = True
        print(_how_to_go_on(run, asked, checkpoint), file=sys.stderr)
        return run.history
    for callback in run.callbacks:
        callback.on_train_end()
    return run.history


def _train_epoch(run, x, y, order, recorded, guard, progress, file, checkpoint_every, interrupts):
    """Every image once, from the run's place on."""
    model, parameters = run.model, run.model.parameters()
    started = saved = time.perf_counter()
    before = run.seconds
    if run.batch == 0:
        for callback in run.callbacks:
            callback.on_epoch_begin(run.epoch)
    starts = range(run.batch * run.batch_size, len(order), run.batch_size)
    batches = [order[start : start + run.batch_size] for start in starts]
    for rows, images in zip(batches, fed(x, batches), strict=True):
        if model.stop_training:
            break
        labels = to_device(take(y, rows))

        looks = guard.looks_at(run)
        if recorded is not None and not looks and recorded.takes(images, labels):
            loss, outputs = recorded(images, labels)  # the same as what follows, as one launch
        else:
            outputs, backward = model.forward(images, training=True)
            loss, doutputs = run.loss.compute(outputs, labels)
            if looks:
                guard.look_at_loss(loss, run, images, labels)
            backward(doutputs, input_gradient=False)
            guard.look_at_gradient(run, images, labels)
            run.optimizer.step(parameters)

        run.count(loss, outputs, labels)
        progress.update(len(rows), run.means)
        now = time.perf_counter()
        run.seconds = before + now - started
        try:
            for callback in run.callbacks:
                callback.on_batch_end(run.batch - 1, loss)
        except Exception:
            _save(run, guard, file)
            raise
        if interrupts.asked:
            break
        if checkpoint_every is not None and now - saved >= checkpoint_every:
            _save(run, guard, file)
            saved = time.perf_counter()


def _end_epoch(run, validation, batch_size, guard, progress, file):
    """Measure, tell, and go to the next epoch."""
    guard.look_at_weights(run)
    measured = run.means()
    if validation is not None:
        val_loss, val_accuracy = _measure(run.model, *validation, run.loss, max(batch_size, 512))
        if not math.isfinite(val_loss):
            raise DivergenceError(
                f"the validation loss after epoch {run.epoch + 1} is {val_loss}, while the training loss is "
                f"{measured['loss']:.4g}: look at the validation data",
                history=run.history,
            )
        measured["val_loss"] = val_loss
        if val_accuracy is not None:
            measured["val_accuracy"] = val_accuracy
    progress.finish(measured, run.seconds)
    measured |= {"learning_rate": run.optimizer.learning_rate, "seconds": run.seconds}
    if run.callbacks:  # so that a callback that raises costs nothing
        _save(run, guard, file)
    for callback in run.callbacks:
        callback.on_epoch_end(run.epoch, dict(measured))
    run.history.record(measured)
    run.finished = run.model.stop_training
    run.begin_epoch(run.epoch + 1)
    _save(run, guard, file)


def _save(run, guard, file):
    if file is not None:
        guard.look_at_weights(run)
        file.save()


def _divided(y, loss, validation_split, seed):
    """The rows to train on, and those held out to validate on, or None."""
    if not validation_split:
        return np.arange(len(y)), None
    classes = np.zeros(len(y), dtype=int)
    if loss.is_classification:
        classes = y.argmax(axis=1) if y.ndim == 2 else y
    return stratified_split(classes, validation_split, np.random.default_rng(seed))


def _checked_pair(model, validation_data, loss, validation_split):
    """The validation set (x, y) that was given, once it can be right."""
    if validation_split:
        raise InputError("fit takes validation_split or validation_data, not both")
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise InputError(f"fit needs validation_data as a pair (x, y), got {type(validation_data).__name__}")
    x, y = validation_data[0], to_numpy(as_labels(validation_data[1]))
    check_set(model, x, y, loss)
    return x, y


def _check_callbacks(callbacks, loss, validates):
    """Refuse what is no callback, or waits for a number that this run does not measure."""
    measured = ["loss"] + ["accuracy"] * loss.is_classification
    if validates:
        measured += [f"val_{name}" for name in measured]
    measured += ["learning_rate", "seconds"]
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise InputError(
                f"fit needs callbacks such as minicnn.EarlyStopping(), made from minicnn.Callback, got {callback!r}"
            )
        if callback.monitor is not None and callback.monitor not in measured:
            fix = ": give fit validation data" if callback.monitor.startswith("val_") else ""
            raise InputError(
                f"{type(callback).__name__} watches {callback.monitor!r}, and this run measures "
                f"{', '.join(measured)}{fix}"
            )


def _how_to_go_on(run, signal, checkpoint):
    where = f"{signal}: stopped in epoch {run.epoch + 1} after batch {run.batch}"
    if checkpoint is None:
        return (
            f"{where}. The model keeps what it has learned; a run with fit(..., checkpoint=PATH) "
            f"could go on where it stopped"
        )
    return f"{where} and saved. Go on with fit(..., checkpoint={str(checkpoint)!r}, resume=True)"


def _means(loss, total_loss, hits, seen):
    means = {"loss": number(total_loss) / seen}
    if loss.is_classification:
        means["accuracy"] = number(hits) / seen
    return means


def evaluate(model, x, y, loss, batch_size=512):
    """The mean loss and the accuracy (None for a regression) of a model on a set."""
    y = to_numpy(as_labels(y))
    check_set(model, x, y, loss)
    return _measure(model, x, y, loss, whole_number(batch_size, "batch_size", "evaluate"))


def _measure(model, x, y, loss, batch_size):
    total_loss, hits = 0.0, 0
    batches = [slice(start, start + batch_size) for start in range(0, len(y), batch_size)]
    for rows, images in zip(batches, fed(x, batches), strict=True):
        outputs, _ = model.forward(images)
        labels = to_device(y[rows])
        value, _ = loss.compute(outputs, labels)
        total_loss = total_loss + value.astype("float64") * len(labels)
        if loss.is_classification:
            hits = hits + correct(outputs, labels)
    return number(total_loss) / len(y), number(hits) / len(y) if loss.is_classification else None


def check_set(model, x, y, loss):
    """Refuse images and labels that cannot be right, before any work is done.

    Raises:
        InputError: an empty set, lengths that differ, a wrong shape or dtype, numbers that are not finite, or
            labels that do not belong to the model's outputs; a loss that is none, or does not suit the model.
    """
    if not isinstance(loss, Loss):
        raise InputError(f"the loss must be one such as minicnn.SoftmaxCrossEntropy(), got {loss!r}")
    if model._ends_in_softmax() and not loss.takes_logits:
        raise InputError(
            f"{type(loss).__name__} compares what the model gives, and a closing Softmax is left out in training: "
            f"use SoftmaxCrossEntropy, or a model without the Softmax"
        )
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
