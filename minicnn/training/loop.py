"""The loop: batches, progress, history.

`fit` repeats the four lines of a training step, which are
`minicnn.core.operations.Operations.training_step`. Besides that it draws a new
order of the images for every epoch, measures, reports, and keeps the run in a
file from which it can be resumed.
"""

import contextlib
import math
import time
from collections.abc import Iterable

import numpy as np

from minicnn.core import operations
from minicnn.core.checks import check_integer, quoted
from minicnn.core.errors import DivergenceError, InputError, TrainingInterrupted
from minicnn.core.losses import SoftmaxCrossEntropy, as_labels
from minicnn.core.metrics import correct
from minicnn.core.optimizers import Adam, Optimizer
from minicnn.core.parameter import watch_gradients
from minicnn.datasets.splits import Rows, stratified_split
from minicnn.training.augmentation import check_augmentation
from minicnn.training.callbacks import Callback
from minicnn.training.checkpoint import Checkpoint, check_outputs, fingerprint, locks_checkpoint, settings_of
from minicnn.training.checks import check_set, warn_of_pixels, warn_of_scale
from minicnn.training.guard import Guard
from minicnn.training.history import History
from minicnn.training.interrupts import Interrupts
from minicnn.training.progress import Progress

#: What a run's position consists of.
POSITION = {
    "epoch": int,
    "batch": int,
    "seen": int,
    "total_loss": float,
    "n_correct": int,
    "seconds": float,
    "learning_rate": float,
    "finished": bool,
    "stop_training": bool,
}


class Run:
    """A training run: who takes part, what was measured, and its position.

    Attributes:
        model, optimizer, loss, callbacks: who takes part.
        parameters: the model's parameters by name.
        history: of the epochs that are done.
        epoch, batch: the position, both counted from 0: the next batch to be trained on.
        seen, total_loss, n_correct: images of this epoch so far, the sum of their losses, and how many were correct.
        seconds: this epoch's time before the run was stopped.
        learning_rate: that of the last step; 0 before the first one.
        finished: whether a callback ended it.
        is_checked: whether it is known that the model holds every Parameter that receives gradients.
        images, batch_size: how many images an epoch has, and a batch; set by `fit`.
    """

    def __init__(self, model, optimizer, loss, callbacks):
        self.model, self.optimizer, self.loss, self.callbacks = model, optimizer, loss, callbacks
        self.history = History()
        self.finished = False
        self.is_checked = False
        self.learning_rate = 0.0
        self.begin_epoch(0)

    def begin_epoch(self, epoch):
        """Go to the start of an epoch."""
        self.epoch, self.batch = epoch, 0
        self.seen, self.total_loss, self.n_correct, self.seconds = 0, 0.0, 0, 0.0

    def count(self, loss, outputs, labels):
        """Add a batch that was trained on; nothing is converted to a Python number, which may have to wait."""
        self.batch += 1
        self.seen += len(labels)
        self.total_loss = self.total_loss + loss.astype("float64") * len(labels)
        if self.loss.is_classification:
            self.n_correct = self.n_correct + correct(outputs, labels)

    def means(self):
        """The means of this epoch so far."""
        means = {"loss": operations.to_float(self.total_loss) / self.seen}
        if self.loss.is_classification:
            means["accuracy"] = operations.to_float(self.n_correct) / self.seen
        return means

    def position(self):
        """The position as plain values."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "seen": self.seen,
            "total_loss": operations.to_float(self.total_loss),
            "n_correct": int(operations.to_float(self.n_correct)),
            "seconds": self.seconds,
            "learning_rate": self.learning_rate,
            "finished": bool(self.finished),
            "stop_training": bool(self.model.stop_training),
        }

    def seek(self, position):
        """Go to a position; ValueError where no run over this data set can be."""
        for name, kind in POSITION.items():
            value = position[name]
            if type(value) is not kind or not math.isfinite(value) or (value < 0 and name != "total_loss"):
                raise ValueError(f"the position's {name} is {value!r:.60}")
            setattr(self.model if name == "stop_training" else self, name, value)
        if self.seen != min(self.batch * self.batch_size, self.images) or self.n_correct > self.seen:
            raise ValueError(f"after {self.batch} batches, {self.n_correct} of {self.seen} images cannot be correct")
        if self.batch and (self.batch - 1) * self.batch_size >= self.images:
            raise ValueError(f"an epoch of {self.images} images does not have {self.batch} batches")


@locks_checkpoint
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
    augmentation=None,
):
    """Train a model; the arguments are those of `Sequential.fit`."""
    run = Run(
        model,
        Adam() if optimizer is None else optimizer,
        SoftmaxCrossEntropy() if loss is None else loss,
        [] if callbacks is None else list(callbacks) if isinstance(callbacks, Iterable) else [callbacks],
    )
    current = operations.current
    if not isinstance(run.optimizer, Optimizer):
        raise InputError(f"fit needs an optimizer such as minicnn.Adam(0.001), got {run.optimizer!r}")
    epochs = check_integer(epochs, "epochs", "fit", minimum=0)
    batch_size = check_integer(batch_size, "batch_size", "fit")
    y = current.to_numpy(as_labels(y))
    smallest_and_largest = check_set(model, x, y, run.loss)
    warn_of_pixels(x, *smallest_and_largest)
    model.learned_range = smallest_and_largest
    if augmentation is not None:
        check_augmentation(augmentation, model, y, run.loss)
    train, held_out = _split(y, run.loss, validation_split, model.seed)
    if validation_data is not None:
        validation_data = _check_pair(model, validation_data, run.loss, validation_split)
    _check_callbacks(run.callbacks, run.loss, held_out is not None or validation_data is not None)
    check_outputs(checkpoint, run.callbacks)
    run.images, run.batch_size = len(train), batch_size

    file = None
    if checkpoint is not None:
        settings = {
            "model": model.description(),
            "loss": settings_of(run.loss),
            "batch_size": batch_size,
            "shuffle": bool(shuffle),
            "images": fingerprint(x),
            "labels": fingerprint(y),
            "validation_split": validation_split,
            "validation_data": None if validation_data is None else [fingerprint(part) for part in validation_data],
            "augmentation": None if augmentation is None else settings_of(augmentation),
            "callbacks": [{"class": type(callback).__name__, **callback.config()} for callback in run.callbacks],
        }
        file = Checkpoint(checkpoint, run, settings)
        file.open(resume)
    elif resume:
        raise InputError("fit with resume=True needs checkpoint=PATH, the file of the run")

    if augmentation is None:
        x, y = current.keep(x), current.keep(y)
    elif current.owns(x):  # images are changed in main memory
        x = current.to_numpy(x)
    validation = None
    if validation_data is not None:
        validation = tuple(map(current.keep, validation_data))
    elif held_out is not None:
        validation = Rows(x, held_out), current.take(y, held_out)
    _prepare(run, x[:1])
    for callback in run.callbacks:
        callback.model, callback.optimizer = model, run.optimizer
        callback.on_train_begin()
    if file is not None:
        file.begin()
    step = current.training_step(model, run.loss, run.optimizer)
    # An overflow is reported by the guard, which says more than NumPy's warning.
    with Guard(model, run.loss) as guard, Interrupts() as interrupts, np.errstate(over="ignore", invalid="ignore"):
        while run.epoch < epochs and not run.finished and not interrupts.requested:
            order, seen = train, (x, y)
            steps = run.optimizer.steps - run.batch  # before this epoch: a second `fit` continues with new orders
            if shuffle:
                order = np.random.default_rng([model.seed, steps]).permutation(train)
            if augmentation is not None:
                seen = augmentation.views(x, y, train, steps, model.shapes[-1][-1])
            with Progress(f"epoch {run.epoch + 1}/{epochs}", len(order), run.seen, verbose) as progress:
                _train_epoch(run, *seen, order, step, guard, progress, file, checkpoint_every, interrupts)
                if not run.seen:  # a callback stopped the training before its first batch
                    run.finished = True
                elif not interrupts.requested:
                    _end_epoch(run, validation, batch_size, guard, progress, file)
        if interrupts.requested and file is not None and file.position != run.position():  # stopped within an epoch
            _save(run, guard, file)
    is_done = run.epoch >= epochs or run.finished
    if is_done:
        for method in ("on_test_begin", "on_train_end"):  # the model is kept as it is evaluated
            for callback in run.callbacks:
                getattr(callback, method)()
    if interrupts.requested:
        raise _interrupted(run, interrupts.requested, is_done, checkpoint)
    return run.history


def _prepare(run, x):
    """Make the model and the optimizer ready for the first step."""
    model = run.model
    model.prepare(x)  # builds what is not built yet
    model.stop_training = False
    run.parameters = model.parameters()
    for parameter in run.parameters.values():
        parameter.clear_gradient()
    run.optimizer.steps = run.optimizer.steps_taken(run.parameters)


def _train_epoch(run, x, y, order, step, guard, progress, file, checkpoint_every, interrupts):
    """Every image once, from the run's position on."""
    current, model = operations.current, run.model
    started = saved = time.perf_counter()
    before = run.seconds
    if run.batch == 0:
        for callback in run.callbacks:
            callback.on_epoch_begin(run.epoch)
    starts = range(run.batch * run.batch_size, len(order), run.batch_size)
    batches = [order[start : start + run.batch_size] for start in starts]
    with contextlib.closing(current.batches(x, batches)) as prepared:
        for rows, images in zip(batches, prepared, strict=True):
            if model.stop_training:
                break
            labels = current.array(current.take(y, rows))
            guard.begin_batch(run, images, labels)
            run.learning_rate = float(run.optimizer.learning_rate)
            if run.is_checked:
                loss, outputs = step(images, labels, guard)
            else:
                with watch_gradients() as receivers:
                    loss, outputs = step(images, labels, guard)
                _check_receivers(model, receivers)
                run.is_checked = True
            run.count(loss, outputs, labels)
            progress.update(len(rows), run.means)
            now = time.perf_counter()
            run.seconds = before + now - started
            errors = []
            for (
                callback
            ) in run.callbacks:  # after an error the others, too: what they remember is saved with this batch
                try:
                    callback.on_batch_end(run.batch - 1, loss)
                except Exception as error:
                    errors.append(error)
            if errors:
                _save(run, guard, file)
                raise errors[0]
            if interrupts.requested:
                break
            if checkpoint_every is not None and now - saved >= checkpoint_every:
                _save(run, guard, file)
                saved = time.perf_counter()


def _check_receivers(model, receivers):
    """Refuse a model with a Parameter that receives gradients and that its optimizer and its file never see."""
    lost = receivers - set(model.parameters().values())
    if lost:
        shapes = ", ".join(str(tuple(parameter.value.shape)) for parameter in lost)
        raise InputError(
            f"a layer adds gradients to a Parameter of shape {shapes} that the model does not hold, so it would not be "
            "trained or saved: keep it in an attribute of the layer, or there in a list, a tuple or a dict"
        )


def _end_epoch(run, validation, batch_size, guard, progress, file):
    """Measure, report, and go to the next epoch."""
    guard.check_weights(run)
    measured = run.means()
    if run.callbacks:  # so that a callback that raises costs nothing
        _save(run, guard, file)
    with _as_evaluated(run.callbacks):
        if validation is not None:
            measured |= _validate(run, validation, batch_size, measured["loss"])
        measured |= {"learning_rate": run.learning_rate, "seconds": run.seconds}
        for callback in run.callbacks:
            callback.on_epoch_end(run.epoch, dict(measured))
    run.history.record(measured)
    run.finished = run.model.stop_training
    run.begin_epoch(run.epoch + 1)
    _save(run, guard, file)
    progress.finish(measured)  # after the file is saved: printing may be stopped


@contextlib.contextmanager
def _as_evaluated(callbacks):
    """A block in which the model has the weights that are evaluated and kept, where a callback has others."""
    begun = []
    try:
        for callback in callbacks:
            begun.append(callback)
            callback.on_test_begin()
        yield
    finally:
        for callback in reversed(begun):
            callback.on_test_end()


def _validate(run, validation, batch_size, training_loss):
    """The numbers of the validation set."""
    val_loss, val_accuracy = _measure(run.model, *validation, run.loss, max(batch_size, 512))
    if not math.isfinite(val_loss):
        raise DivergenceError(
            f"the validation loss after epoch {run.epoch + 1} is {val_loss}, while the training loss is "
            f"{training_loss:.4g}: look at the validation data",
            history=run.history,
        )
    return {"val_loss": val_loss} | ({} if val_accuracy is None else {"val_accuracy": val_accuracy})


def _save(run, guard, file):
    if file is not None:
        guard.check_weights(run)
        file.save()


def _split(y, loss, validation_split, seed):
    """The rows to train on, and those held out to validate on, or None."""
    if not validation_split:
        return np.arange(len(y)), None
    classes = np.zeros(len(y), dtype=int)
    if loss.is_classification:
        classes = y.argmax(axis=1) if y.ndim == 2 else y
    return stratified_split(classes, validation_split, np.random.default_rng(seed))


def _check_pair(model, validation_data, loss, validation_split):
    """The validation set (x, y), validated."""
    if validation_split:
        raise InputError("fit takes validation_split or validation_data, not both")
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise InputError(f"fit needs validation_data as a pair (x, y), got {type(validation_data).__name__}")
    try:
        x, y = validation_data[0], operations.current.to_numpy(as_labels(validation_data[1]))
        warn_of_scale(model, x, *check_set(model, x, y, loss))
    except InputError as error:
        raise InputError(f"validation_data: {error}") from error
    return x, y


def _check_callbacks(callbacks, loss, validates):
    """Refuse what is not a callback, or monitors a number that this run does not measure."""
    measured = ["loss"] + ["accuracy"] * loss.is_classification
    if validates:
        measured += [f"val_{name}" for name in measured]
    measured += ["learning_rate", "seconds"]
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise InputError(
                f"fit needs callbacks such as minicnn.EarlyStopping(), derived from minicnn.Callback, got {callback!r}"
            )
        if callback.monitor is not None and callback.monitor not in measured:
            fix = ": give fit validation data" if callback.monitor.startswith("val_") else ""
            raise InputError(
                f"{type(callback).__name__} monitors {callback.monitor!r}, and this run measures "
                f"{', '.join(measured)}{fix}"
            )


def _interrupted(run, number, is_done, checkpoint):
    """The exception for a run that a signal ended."""
    if is_done:
        where = "the training is complete"
    else:
        where = f"the training was stopped in epoch {run.epoch + 1} after batch {run.batch}"
    if checkpoint is not None:
        resume = f"fit(..., checkpoint={quoted(checkpoint, 1000)}, resume=True)"
        how = f"and saved. To resume it: {resume}"
    elif is_done:
        how = "and the model is ready to be used"
    else:
        how = (
            "and the model has learned that much. A run with fit(..., checkpoint=PATH) can be resumed where it stopped"
        )
    return TrainingInterrupted(f"{number.name}: {where} {how}", run.history, number)


def evaluate(model, x, y, loss, batch_size=512):
    """The mean loss and the accuracy (None for a regression) of a model on a set."""
    y = operations.current.to_numpy(as_labels(y))
    warn_of_scale(model, x, *check_set(model, x, y, loss))
    return _measure(model, x, y, loss, check_integer(batch_size, "batch_size", "evaluate"))


def _measure(model, x, y, loss, batch_size):
    current = operations.current
    total_loss, n_correct = 0.0, 0
    batches = [slice(start, start + batch_size) for start in range(0, len(y), batch_size)]
    with contextlib.closing(current.batches(x, batches)) as prepared:
        for rows, images in zip(batches, prepared, strict=True):
            outputs, _ = model.forward(images)
            labels = current.array(y[rows])
            value, _ = loss.compute_checked(outputs, labels)
            total_loss = total_loss + value.astype("float64") * len(labels)
            if loss.is_classification:
                n_correct = n_correct + correct(outputs, labels)
    return operations.to_float(total_loss) / len(y), operations.to_float(n_correct) / len(
        y
    ) if loss.is_classification else None
