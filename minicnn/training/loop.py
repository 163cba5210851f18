"""The loop: batches, progress, history.

`fit` repeats the four lines of a training step, which are
`minicnn.core.operations.Operations.training_step`. Besides that it draws a new
order of the images for every epoch, measures, reports, and keeps the run in a
file from which it can be resumed.

With a communicator every process runs these lines (`minicnn.parallel`). Rank 0
alone has the file, the callbacks and the progress; a line with `ranks` is one
at which the processes agree.
"""

import contextlib
import math
import signal
import time
from collections.abc import Iterable

import numpy as np

from minicnn import console
from minicnn.core import operations
from minicnn.core.checks import check_integer, quoted
from minicnn.core.errors import DivergenceError, InputError, TrainingInterrupted
from minicnn.core.losses import SoftmaxCrossEntropy, as_labels
from minicnn.core.metrics import correct
from minicnn.core.optimizers import Adam, Optimizer
from minicnn.core.parameter import watch_gradients
from minicnn.datasets.splits import Rows, stratified_split
from minicnn.parallel import Exchange, Ranks, describe_error, digest, follow_first, made_error
from minicnn.storage.files import lock
from minicnn.training.augmentation import check_augmentation
from minicnn.training.callbacks import Callback, has_hook
from minicnn.training.checkpoint import (
    PLAIN,
    Checkpoint,
    as_json,
    check_outputs,
    differences,
    fingerprint,
    optimizer_settings,
    settings_of,
)
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
        ranks: the processes that train it, as `minicnn.parallel.Ranks`.
        hooks, exchange: on several ranks the methods that rank 0's callbacks have, and the step; set by `fit`.
    """

    def __init__(self, model, optimizer, loss, callbacks, ranks):
        self.model, self.optimizer, self.loss, self.callbacks = model, optimizer, loss, callbacks
        self.ranks, self.hooks, self.exchange = ranks, (), None
        self.history = History()
        self.finished = False
        self.is_checked = False
        self.learning_rate = 0.0
        self.begin_epoch(0)

    def begin_epoch(self, epoch):
        """Go to the start of an epoch."""
        self.epoch, self.batch = epoch, 0
        self.seen, self.total_loss, self.n_correct, self.seconds = 0, 0.0, 0, 0.0

    def count(self, loss, n_correct, images):
        """Add a batch that was trained on; nothing is converted to a Python number, which may have to wait."""
        self.batch += 1
        self.seen += images
        self.total_loss = self.total_loss + loss.astype("float64") * images
        self.n_correct = self.n_correct + n_correct

    def complete(self):
        """Gather what ranks have of a weight that they share; done before somebody looks at the weights."""
        if self.exchange is not None:
            self.exchange.complete()

    def follow(self, hook):
        """After a method of rank 0's callbacks: take over what it changed."""
        if hook in self.hooks:
            follow_first(self.ranks, self.model)
            self.decide()

    def decide(self, error=None, save=False):
        """After a method of rank 0's callbacks: whether the training ends, and the optimizer's numbers, are rank 0's.

        Args:
            error: what a callback raised, or None.
            save: whether it is time to save the run.

        Returns:
            error and save of rank 0.
        """
        if self.ranks.size == 1:
            return error, save
        numbers = {
            name: value for name, value in vars(self.optimizer).items() if value is None or isinstance(value, PLAIN)
        }
        del numbers["steps"]
        numbers["learning_rate"] = float(self.optimizer.learning_rate)
        mine = [numbers, bool(self.model.stop_training), describe_error(error), bool(save)]
        numbers, stop, failure, save = self.ranks.send(mine)
        if not self.ranks.is_first:
            self.model.stop_training = stop
            error = made_error(failure) if failure is not None else None
            for name, value in numbers.items():
                if getattr(self.optimizer, name) != value:
                    setattr(self.optimizer, name, value)
        return error, save

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


#: Methods of callbacks, of which a run on several ranks must know whether there are any.
HOOKS = (
    "on_train_begin",
    "on_epoch_begin",
    "on_batch_end",
    "on_test_begin",
    "on_test_end",
    "on_epoch_end",
    "on_train_end",
)


def fit(model, x, y, *, checkpoint=None, communicator=None, **arguments):
    """Train a model; the arguments are those of `Sequential.fit`."""
    with Ranks(communicator) as ranks, contextlib.ExitStack() as at_the_end:
        at_the_end.enter_context(ranks.warnings_once())
        if checkpoint is not None:  # no other process may run it at the same time
            ranks.first(lambda: at_the_end.enter_context(lock(checkpoint)))
        return _fit(ranks, model, x, y, checkpoint=checkpoint, **arguments)


def _fit(
    ranks,
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
    run = Run(
        model,
        Adam() if optimizer is None else optimizer,
        SoftmaxCrossEntropy() if loss is None else loss,
        [] if callbacks is None else list(callbacks) if isinstance(callbacks, Iterable) else [callbacks],
        ranks,
    )
    current = operations.current

    def validated():
        """The arguments, validated; the rows to train on, and those held out."""
        if not isinstance(run.optimizer, Optimizer):
            raise InputError(f"fit needs an optimizer such as minicnn.Adam(0.001), got {run.optimizer!r}")
        checked = (
            check_integer(epochs, "epochs", "fit", minimum=0),
            check_integer(batch_size, "batch_size", "fit"),
            current.to_numpy(as_labels(y)),
        )
        smallest_and_largest = check_set(model, x, checked[-1], run.loss)
        warn_of_pixels(x, *smallest_and_largest)
        model.learned_range = smallest_and_largest
        if augmentation is not None:
            check_augmentation(augmentation, model, checked[-1], run.loss)
        train, held_out = _split(checked[-1], run.loss, validation_split, model.seed)
        pair = None
        if validation_data is not None:
            pair = _check_pair(model, validation_data, run.loss, validation_split)
        _check_callbacks(run.callbacks, run.loss, held_out is not None or pair is not None)
        check_outputs(checkpoint, run.callbacks)
        if checkpoint is None and resume:
            raise InputError("fit with resume=True needs checkpoint=PATH, the file of the run")
        return *checked, train, held_out, pair

    epochs, batch_size, y, train, held_out, validation_data = ranks.together(validated)
    run.images, run.batch_size = len(train), batch_size

    file = None
    if checkpoint is not None or ranks.size > 1:
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
        _refuse_other_ranks(run, settings, epochs, checkpoint, checkpoint_every, resume)
    if checkpoint is not None:
        file = Checkpoint(checkpoint, run, settings)
        file.open(resume)

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
    _call(run, "on_train_begin")
    if file is not None:
        file.begin()
    step = _training_step(run)
    # An overflow is reported by the guard, which says more than NumPy's warning.
    with Guard(model, run.loss) as guard, Interrupts() as interrupts, np.errstate(over="ignore", invalid="ignore"):
        ranks.watch(interrupts)
        if ranks.size > 1:
            guard.on_ranks(run.exchange)
        try:
            while run.epoch < epochs and not run.finished and not ranks.agree():
                order, seen = train, (x, y)
                steps = run.optimizer.steps - run.batch  # before this epoch: a second `fit` continues with new orders
                if shuffle:
                    order = np.random.default_rng([model.seed, steps]).permutation(train)
                if augmentation is not None:
                    seen = augmentation.views(x, y, train, steps, model.shapes[-1][-1])
                shown = verbose and ranks.is_first
                with Progress(f"epoch {run.epoch + 1}/{epochs}", len(order), run.seen, shown) as progress:
                    _train_epoch(run, *seen, order, step, guard, progress, file, checkpoint_every)
                    if not run.seen:  # a callback stopped the training before its first batch
                        run.finished = True
                    elif not ranks.signal:
                        _end_epoch(run, validation, batch_size, guard, progress, file)
            if ranks.agree() and file is not None and ranks.first(lambda: file.position != run.position()):
                _save(run, guard, file)  # stopped within an epoch
        except Exception as error:
            if ranks.size > 1 and ranks.all_raise(error):
                run.complete()
                follow_first(ranks, model)
            raise
    run.complete()
    is_done = run.epoch >= epochs or run.finished
    if is_done:
        for hook in ("on_test_begin", "on_train_end"):  # the model is kept as it is evaluated
            _call(run, hook)
    if ranks.signal:
        raise ranks.shared(_interrupted(run, signal.Signals(ranks.signal), is_done, checkpoint))
    return run.history


def _training_step(run):
    """A function of a batch, its labels and the guard, that trains and returns the loss and how many are correct."""
    if run.ranks.size > 1:
        may_share_rows = "on_batch_end" not in run.hooks  # which may look at the weights
        batch_size = min(run.batch_size, run.images)
        run.exchange = Exchange(run.ranks, run.model, run.loss, run.optimizer, batch_size, may_share_rows)
        return run.exchange.step
    step = operations.current.training_step(run.model, run.loss, run.optimizer)

    def step_alone(images, labels, guard):
        loss, outputs = step(images, labels, guard)
        return loss, correct(outputs, labels) if run.loss.is_classification else 0

    return step_alone


def _refuse_other_ranks(run, settings, epochs, checkpoint, checkpoint_every, resume):
    """Refuse to train on ranks that were given other data or settings; and let the callbacks be rank 0's."""
    ranks, optimizer = run.ranks, run.optimizer
    if ranks.size == 1:
        return
    memory = [array for p in run.model.parameters().values() for array in optimizer.memories.get(p, {}).values()]
    own = as_json(
        settings
        | {
            "epochs": epochs,
            "optimizer": optimizer_settings(optimizer),
            "optimizer_memory": [
                fingerprint(array.reshape(-1)) if hasattr(array, "reshape") else array for array in memory
            ],
            "weights": digest(run.model),
            "checkpoint": checkpoint is not None,
            "checkpoint_every": checkpoint_every,
            "resume": resume,
            "backend": operations.current.name,
        }
    )
    ranks.check_same(
        own, lambda first, other: differences(first, other, form="{name} is {saved} on rank 0 and {now} here")
    )
    if any(isinstance(state, np.random.Generator) for state in run.model.states().values()):
        console.warn(
            "a layer holds a random generator: every rank draws the same numbers from its own, for other images. "
            "Dropout's masks are those of the complete batch"
        )
    run.hooks = ranks.first(
        lambda: [hook for hook in HOOKS if any(has_hook(callback, hook) for callback in run.callbacks)]
    )
    if not ranks.is_first:
        run.callbacks = [Callback() for _ in run.callbacks]  # they do nothing


def _call(run, hook, *arguments):
    """Call a method of all callbacks; on several ranks, rank 0's, whose changes the others take over."""
    run.ranks.first(lambda: [getattr(callback, hook)(*arguments) for callback in run.callbacks] and None)
    run.follow(hook)


def _prepare(run, x):
    """Make the model and the optimizer ready for the first step."""
    model = run.model
    model.prepare(x)  # builds what is not built yet
    model.stop_training = False
    run.parameters = model.parameters()
    for parameter in run.parameters.values():
        parameter.clear_gradient()
    run.optimizer.steps = run.optimizer.steps_taken(run.parameters)


def _train_epoch(run, x, y, order, step, guard, progress, file, checkpoint_every):
    """Every image once, from the run's position on."""
    current, model, ranks = operations.current, run.model, run.ranks
    started = saved = time.perf_counter()
    before = run.seconds
    decides = "on_batch_end" in run.hooks or (file is not None and checkpoint_every is not None)
    if run.batch == 0:
        _call(run, "on_epoch_begin", run.epoch)
    starts = range(run.batch * run.batch_size, len(order), run.batch_size)
    batches = [order[start : start + run.batch_size] for start in starts]
    pieces = [ranks.shard(batch) for batch in batches]
    with contextlib.closing(current.batches(x, pieces)) as prepared:
        for batch, rows, images in zip(batches, pieces, prepared, strict=True):
            if model.stop_training:
                break
            ranks.begin_batch(len(batch))
            labels = current.array(current.take(y, rows))
            guard.begin_batch(run, images, labels)
            run.learning_rate = float(run.optimizer.learning_rate)
            if run.is_checked:
                loss, n_correct = step(images, labels, guard)
            else:
                with watch_gradients() as receivers:
                    loss, n_correct = step(images, labels, guard)
                ranks.together(lambda: _check_receivers(model, receivers))
                run.is_checked = True
            run.count(loss, n_correct, len(batch))
            progress.update(len(batch), run.means)
            now = time.perf_counter()
            run.seconds = before + now - started
            error = _end_batch(run, loss)
            is_due = checkpoint_every is not None and now - saved >= checkpoint_every
            if decides:
                error, is_due = run.decide(error, is_due)
            if error is not None:
                _save(run, guard, file)
                raise ranks.shared(error)
            if ranks.ends():
                break
            if is_due:
                _save(run, guard, file)
                saved = time.perf_counter()


def _end_batch(run, loss):
    """Call the callbacks; after an error the others, too: what they remember is saved with this batch."""
    errors = []
    for callback in run.callbacks:
        try:
            callback.on_batch_end(run.batch - 1, loss)
        except Exception as error:
            errors.append(error)
    return errors[0] if errors else None


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
    run.complete()
    guard.check_weights(run)
    if run.ranks.size > 1:
        _check_same_weights(run)
    measured = run.means()
    if run.callbacks:  # so that a callback that raises costs nothing
        _save(run, guard, file)
    with _as_evaluated(run):
        if validation is not None:
            measured |= _validate(run, validation, batch_size, measured["loss"])
        measured |= {"learning_rate": run.learning_rate, "seconds": run.seconds}
        measured = run.ranks.first(lambda: measured)  # the time is that of rank 0
        _call(run, "on_epoch_end", run.epoch, dict(measured))
    run.follow("on_test_end")
    run.history.record(measured)
    run.finished = run.model.stop_training
    run.begin_epoch(run.epoch + 1)
    _save(run, guard, file)
    progress.finish(measured)  # after the file is saved: printing may be stopped


def _check_same_weights(run):
    """On several ranks: all must have the same weights after an epoch.

    Raises:
        InputError: a callback, which rank 0 alone calls, changed them after a batch.
    """
    if follow_first(run.ranks, run.model):
        if "on_batch_end" in run.hooks:
            raise run.ranks.shared(
                InputError(
                    "the weights of the ranks differ: on several ranks a callback may change weights in on_epoch_begin "
                    "or on_epoch_end, and not in on_batch_end, after which the others do not take them over"
                )
            )
        console.warn(
            "the weights of the ranks differed by rounding, as on machines of different kinds: those of rank 0 are used"
        )


@contextlib.contextmanager
def _as_evaluated(run):
    """A block in which the model has the weights that are evaluated and kept, where a callback has others."""
    begun = []

    def begin():
        for callback in run.callbacks:
            begun.append(callback)
            callback.on_test_begin()

    try:
        run.ranks.first(begin)
        run.follow("on_test_begin")
        yield
    finally:
        for callback in reversed(begun):
            callback.on_test_end()


def _validate(run, validation, batch_size, training_loss):
    """The numbers of the validation set."""
    val_loss, val_accuracy = _measure(run.model, *validation, run.loss, max(batch_size, 512), run.ranks)
    if not math.isfinite(val_loss):
        error = DivergenceError(
            f"the validation loss after epoch {run.epoch + 1} is {val_loss}, while the training loss is "
            f"{training_loss:.4g}: look at the validation data",
            history=run.history,
        )
        raise run.ranks.shared(error)
    return {"val_loss": val_loss} | ({} if val_accuracy is None else {"val_accuracy": val_accuracy})


def _save(run, guard, file):
    if file is not None:
        run.complete()
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
    return _measure(model, x, y, loss, check_integer(batch_size, "batch_size", "evaluate"), Ranks())


def _measure(model, x, y, loss, batch_size, ranks):
    """The mean loss and the accuracy. The ranks take the batches in turns, and their sums are added up in order."""
    current = operations.current
    all_batches = [slice(start, start + batch_size) for start in range(0, len(y), batch_size)]
    batches, measured = all_batches[ranks.rank :: ranks.size], []
    with contextlib.closing(current.batches(x, batches)) as prepared:
        for rows, images in zip(batches, prepared, strict=True):
            outputs, _ = model.forward(images)
            labels = current.array(y[rows])
            value, _ = loss.compute_checked(outputs, labels)
            n_correct = correct(outputs, labels) if loss.is_classification else 0
            measured.append((value.astype("float64") * len(labels), n_correct))
    if ranks.size > 1:
        own = np.zeros((-(-len(all_batches) // ranks.size), 2))
        for row, pair in enumerate(measured):
            own[row] = [operations.to_float(number) for number in pair]
        measured = ranks.gather(own).swapaxes(0, 1).reshape(-1, 2)[: len(all_batches)].tolist()
    total_loss, n_correct = (sum(numbers) for numbers in zip(*measured, strict=True))
    accuracy = operations.to_float(n_correct) / len(y) if loss.is_classification else None
    return operations.to_float(total_loss) / len(y), accuracy
