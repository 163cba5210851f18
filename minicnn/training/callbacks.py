"""Actions beside the training: stop early, keep the best weights, write a log.

`fit` calls every callback after each batch and each epoch. A callback that
remembers something from one call to the next returns it from `state_dict` and
sets it in `load_state_dict`, so that a run that is resumed from a checkpoint
continues as if it had never stopped.
"""

import csv
import inspect
import io
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.core import operations
from minicnn.core.arguments import Configured
from minicnn.core.checks import check_flag, check_integer, check_number, quoted
from minicnn.core.errors import FileError, InputError
from minicnn.core.layer import kept_arrays
from minicnn.core.schedules import Constant
from minicnn.core.types import Array, Path
from minicnn.storage.files import atomic_write, check_writable, destination, open_file, path_text

AVERAGED = 2**18  # numbers that `AveragedWeights` averages at a time: as many as the processor's cache holds


class Callback(Configured):
    """Actions during `fit`. Override what you need.

    The arguments of the constructor are kept as attributes of the same names: a resumed run must have been
    given the same.

    Attributes:
        model, optimizer: set by `fit` before training starts. `self.model.stop_training = True` ends the
            training after the batch.

    >>> class StopAtLoss(Callback):
    ...     def __init__(self, loss):
    ...         self.loss = loss
    ...
    ...     def on_epoch_end(self, epoch, logs):
    ...         self.model.stop_training = logs["loss"] <= self.loss
    """

    model: Any = None
    optimizer: Any = None

    #: The number among an epoch's logs that this callback cannot do without, such as "val_loss", or None.
    monitor: str | None = None

    #: The path of the file that this callback writes, or None: `fit` refuses two writers of one file.
    output: Path | None = None

    def on_train_begin(self) -> None:
        """Before the first batch; also before a resumed run goes on."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before an epoch, counted from 0.

        Args:
            epoch: an integer from 0.
        """

    def on_batch_end(self, batch: int, loss: Array) -> None:
        """After a step, counted from 0 in each epoch; the loss is a scalar of the backend.

        Args:
            batch: an integer from 0.
            loss: the mean loss of the batch; `float(loss)` reads it, which makes a GPU wait.
        """

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """After an epoch, with its numbers by name: those of the history.

        Args:
            epoch: an integer from 0.
            logs: `{"loss": number, "accuracy": number, "val_loss": number, ...}`; a copy, which may be changed.
        """

    def on_test_begin(self) -> None:
        """Before the model is evaluated and kept: before the validation and `on_epoch_end` of an epoch, and before
        `on_train_end`."""

    def on_test_end(self) -> None:
        """After the validation and `on_epoch_end` of an epoch, also where they raise; not after `on_train_end`."""

    def on_train_end(self) -> None:
        """After the last epoch; not when the run is interrupted."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep of this callback: a dict of plain values (JSON) and NumPy arrays."""
        return self.state() if type(self).state is not Callback.state else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set what `state_dict` returned; called after `on_train_begin` where a run is resumed.

        An exception, such as a ValueError where the state cannot be this callback's, refuses the checkpoint.

        Args:
            state: a dict as `state_dict` returned it; it comes from a file.
        """
        if type(self).restore is not Callback.restore:
            self.restore(state)

    def state(self) -> dict[str, Any]:
        """Another name of `state_dict`."""
        return self.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Another name of `load_state_dict`.

        Args:
            state: as there.
        """
        self.load_state_dict(state)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments that are plain values: what must be the same when a run is resumed."""
        plain = (str, int, float, bool, type(None), os.PathLike)
        values = {name: getattr(self, name, None) for name in inspect.signature(type(self)).parameters}
        return {
            name: os.fspath(value) if isinstance(value, os.PathLike) else value
            for name, value in values.items()
            if isinstance(value, plain)
        }


def has_hook(callback, name):
    """Whether a callback does something where `fit` calls its method of this name."""
    return getattr(getattr(callback, name), "__func__", None) is not getattr(Callback, name)


class _Monitor(Callback):
    """What callbacks share that wait for one of the logs' numbers to improve."""

    def __init__(self, monitor: str, *, mode: str, min_delta: float = 0.0):
        if mode not in ("auto", "min", "max"):
            raise InputError(f"{type(self).__name__} needs mode 'auto', 'min' or 'max', got {mode!r}")
        self.monitor = monitor
        self.mode = mode
        self.min_delta = _number(self, "min_delta", min_delta)
        self.best: float | None = None

    def improved(self, logs: dict[str, float]) -> bool:
        """Whether the number is better than the best one so far, which it then becomes.

        Args:
            logs: an epoch's numbers by name.

        Returns:
            a bool.
        """
        monitor = self.monitor
        if monitor not in logs:
            raise InputError(
                f"{type(self).__name__} monitors {monitor!r}, and this run measures {', '.join(logs)}"
                + (": give fit validation data" if monitor.startswith("val_") else "")
            )
        value = logs[monitor]
        sign = 1 if self.mode == "max" or (self.mode == "auto" and monitor.endswith("accuracy")) else -1
        if math.isnan(value) or (self.best is not None and not sign * (value - self.best) > self.min_delta):
            return False
        self.best = value
        return True

    def load_best(self, state: dict[str, Any], *counts: str) -> None:
        """Set the best number, and the integers of these names.

        Args:
            state: as from `state_dict`.
            counts: names of integers in it.
        """
        best = state["best"]
        if not (best is None or (type(best) in (int, float) and not math.isnan(best))):
            raise ValueError(f"{type(self).__name__}'s best is {best!r:.60}")
        for name in counts:
            if type(state[name]) is not int or state[name] < 0:
                raise ValueError(f"{type(self).__name__}'s {name} is {state[name]!r:.60}")
            setattr(self, name, state[name])
        self.best = best


class EarlyStopping(_Monitor):
    """Stop when a number has not improved for some epochs.

    Args:
        monitor: the number: "loss", "accuracy", "val_loss", "val_accuracy".
        min_delta: by how much it must improve to count, at least 0.
        patience: epochs without improvement after which to stop.
        mode: "min" or "max": whether smaller or larger is better; "auto" is "max" for accuracies.
        restore_best_weights: whether the weights and states of the best epoch are restored when training ends.

    Attributes:
        best: the best number so far.
        wait: epochs since then.
        stopped_epoch: the epoch, counted from 0, after which it stopped; None if it did not.

    Raises:
        InputError: a mode of another name, or a number out of its range; in `fit`, a number that the run does not
            measure.

    >>> early = EarlyStopping(patience=3, restore_best_weights=True)

    Source: Prechelt, "Early stopping: but when?", 1998; names and meaning are Keras's.
    """

    stopped_epoch: int | None
    best_weights: dict[str, Array]

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        restore_best_weights: bool = False,
    ):
        super().__init__(monitor, mode=mode, min_delta=min_delta)
        self.patience = check_integer(patience, "patience", "EarlyStopping", minimum=0)
        self.restore_best_weights = check_flag(restore_best_weights, "restore_best_weights", "EarlyStopping")
        self.on_train_begin()

    def on_train_begin(self) -> None:
        self.best, self.wait, self.stopped_epoch, self.best_weights = None, 0, None, {}

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if self.improved(logs):
            self.wait = 0
            if self.restore_best_weights:
                self.best_weights = {
                    name: np.array(operations.current.to_numpy(item.value)) for name, item in kept_arrays(self.model)
                }
            return
        self.wait += 1
        if self.wait >= self.patience:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self) -> None:
        items = dict(kept_arrays(self.model))
        for name, weights in self.best_weights.items():
            items[name].value[...] = operations.current.array(weights)

    def state_dict(self) -> dict[str, Any]:
        kept = {"best": self.best, "wait": self.wait, "stopped_epoch": self.stopped_epoch}
        return kept | {f"weights.{name}": weights for name, weights in self.best_weights.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stopped_epoch = None
        self.load_best(state, *["wait"] if state["stopped_epoch"] is None else ["wait", "stopped_epoch"])
        self.best_weights = {
            name.removeprefix("weights."): weights for name, weights in state.items() if name.startswith("weights.")
        }
        items = dict(kept_arrays(self.model))
        for name, weights in self.best_weights.items():
            if weights.shape != items[name].value.shape or weights.dtype != items[name].value.dtype:
                raise ValueError(f"EarlyStopping's {name} is {weights.dtype} {weights.shape}")


class ModelCheckpoint(_Monitor):
    """Save the model after every epoch, or only when it is the best one yet.

    What is saved is the model, for `minicnn.load`. To be able to resume the run, see `fit(checkpoint=...)`.

    Args:
        filepath: where to; "{epoch}" in it is the epoch, counted from 1, and "{val_loss:.3f}" and the like
            are its numbers.
        monitor: the number that decides which epoch is the best, with `save_best_only`.
        save_best_only: whether to save only when the number became better.
        mode: as in `EarlyStopping`.

    Attributes:
        best: the best number so far. It survives a resume.

    Raises:
        InputError: a mode of another name; in `fit`, a number that the run does not measure, also in `filepath`, or
            a file that something else writes, too.
        FileError: in `fit`, the file cannot be written; that is tried before the first step.

    >>> best = ModelCheckpoint("best.npz", save_best_only=True)
    """

    def __init__(self, filepath: Path, *, monitor: str = "val_loss", save_best_only: bool = False, mode: str = "auto"):
        super().__init__(monitor if save_best_only else None, mode=mode)
        self.filepath = filepath
        self.save_best_only = check_flag(save_best_only, "save_best_only", "ModelCheckpoint")

    @property
    def output(self) -> Path | None:
        return self.filepath

    def on_train_begin(self) -> None:
        self.best = None
        path = self._path(_AnyNumber(epoch=9999))
        if "{" in os.path.dirname(path_text(self.filepath)):  # a folder for every epoch may be made later
            destination(path)
        else:
            check_writable(path)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if self.save_best_only and not self.improved(logs):
            return
        self.model.save(self._path({"epoch": epoch + 1, **logs}))

    def _path(self, numbers):
        """The path with these numbers."""
        try:
            return path_text(self.filepath).format_map(numbers)
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise InputError(
                f"ModelCheckpoint cannot fill in {quoted(self.filepath, 300)} ({error!r}): it knows "
                + ", ".join(numbers)
            ) from error

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.load_best(state)


class _AnyNumber(dict):
    """Numbers to try a format with, before any is measured: each is as long as most."""

    def __missing__(self, name):
        return 1 / 3


class ReduceLROnPlateau(_Monitor):
    """Lower the learning rate when a number has stopped improving.

    Args:
        monitor: the number.
        factor: what the rate is multiplied by, above 0 and below 1.
        patience: epochs without improvement after which it is lowered.
        mode: as in `EarlyStopping`.
        min_delta: by how much the number must improve to count, at least 0.
        cooldown: epochs after lowering in which nothing is counted.
        min_lr: the rate is not lowered below this.

    Raises:
        InputError: a mode of another name, or a number out of its range; in `fit`, a number that the run does not
            measure, or an optimizer whose learning rate is a schedule of its own.

    >>> plateau = ReduceLROnPlateau(monitor="loss", factor=0.5, patience=2)
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        factor: float = 0.1,
        patience: int = 10,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ):
        super().__init__(monitor, mode=mode, min_delta=min_delta)
        self.factor = _number(self, "factor", factor)
        if not 0 < self.factor < 1:
            raise InputError(f"ReduceLROnPlateau needs a factor above 0 and below 1, got {factor!r}")
        self.patience = check_integer(patience, "patience", "ReduceLROnPlateau", minimum=0)
        self.cooldown = check_integer(cooldown, "cooldown", "ReduceLROnPlateau", minimum=0)
        self.min_lr = _number(self, "min_lr", min_lr)
        self.wait = self.cooling = 0

    def on_train_begin(self) -> None:
        if not isinstance(self.optimizer.schedule, Constant):
            raise InputError(
                f"ReduceLROnPlateau needs a number as learning rate, and the optimizer has a "
                f"{type(self.optimizer.schedule).__name__}: use one or the other"
            )
        self.best, self.wait, self.cooling = None, 0, 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if self.cooling > 0:
            self.cooling -= 1
            self.wait = 0
        if self.improved(logs):
            self.wait = 0
        elif self.cooling == 0:
            self.wait += 1
            rate = self.optimizer.learning_rate
            if self.wait >= self.patience and rate > self.min_lr:
                self.optimizer.learning_rate = max(rate * self.factor, self.min_lr)
                self.cooling, self.wait = self.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "wait": self.wait, "cooling": self.cooling}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.load_best(state, "wait", "cooling")


class LearningRateScheduler(Callback):
    """Set the learning rate of each epoch by a function.

    For a rate that changes with every step, give the optimizer one of `minicnn.schedules` instead.

    Args:
        schedule: a function of the epoch, counted from 0, and the current rate; it returns the new rate.

    Raises:
        InputError: something that is not a function.

    >>> halved = LearningRateScheduler(lambda epoch, learning_rate: learning_rate if epoch < 5 else learning_rate / 2)
    """

    def __init__(self, schedule: Callable[[int, float], float]):
        if not callable(schedule):
            raise InputError(f"LearningRateScheduler needs a function of epoch and learning rate, got {schedule!r}")
        self.schedule = schedule

    def on_epoch_begin(self, epoch: int) -> None:
        self.optimizer.learning_rate = float(self.schedule(epoch, self.optimizer.learning_rate))


class CSVLogger(Callback):
    """Write the epochs' numbers to a table, a line an epoch, as `History.to_csv` does.

    The file is complete after every epoch. A resumed run continues where its checkpoint was made: lines of epochs
    that are done again are not there twice.

    Args:
        filename: the file.
        separator: between the numbers of a line.
        append: whether to continue below the file's present content.

    Raises:
        InputError: a separator that is not one character; in `fit`, a file that something else writes, too.
        FileError: in `fit`, the file cannot be read or written; that is tried before the first step.

    >>> log = CSVLogger("training.csv")
    """

    def __init__(self, filename: Path, *, separator: str = ",", append: bool = False):
        self.filename = filename
        if not isinstance(separator, str) or len(separator) != 1 or separator in '\r\n"':
            raise InputError(f"CSVLogger needs a separator of one character, got {quoted(separator)}")
        self.separator = separator
        self.append = check_flag(append, "append", "CSVLogger")
        self.text = ""

    @property
    def output(self) -> Path | None:
        return self.filename

    def on_train_begin(self) -> None:
        self.text = ""
        check_writable(self.filename)
        if self.append and os.path.exists(self.filename):
            with open_file(self.filename) as file:
                try:
                    self.text = file.read().decode()
                except (OSError, ValueError) as error:
                    raise FileError(f"cannot read {quoted(self.filename, 300)}: {quoted(error)}") from error

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        lines = io.StringIO()
        writer = csv.writer(lines, delimiter=self.separator, lineterminator="\n")
        if not self.text:
            writer.writerow(["epoch", *logs])
        writer.writerow([epoch + 1, *logs.values()])
        self.text += lines.getvalue()
        with atomic_write(self.filename) as file:
            file.write(self.text.encode())

    def state_dict(self) -> dict[str, Any]:
        return {"text": self.text}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not isinstance(state["text"], str):
            raise ValueError(f"CSVLogger's text is {state['text']!r:.60}")
        self.text = state["text"]


class AveragedWeights(Callback):
    """Evaluate and keep an average of the weights over the steps: it is less noisy than the weights of the last step.

        average = d * average + (1 - d) * weights      after step t = 1, 2, ...,  d = min(decay, (1 + t) / (10 + t))

    So are the floating point states, such as the running statistics of BatchNorm. The training itself does not change.
    Of `fit`, the validation, every `on_epoch_end` (`ModelCheckpoint`, `EarlyStopping(restore_best_weights=True)`) and
    the model at the end have the average; the training loss and accuracy are those of the weights in training. A run
    that is interrupted, by Ctrl-C or an error, leaves the weights in training; its checkpoint has both. It takes the
    memory of a second copy of the weights, and of a third one during the validation.

    Args:
        decay: how much of the average remains at a step, at least 0 and less than 1: with 0.999 it is mostly one of the
            last thousand steps. The early steps have less, so that the first weights are soon forgotten.

    Attributes:
        averages: {name: array of the backend} of the averages, by the names of parameters and states.
        t: steps that were averaged.

    Raises:
        InputError: a decay out of its range.

    >>> import minicnn as mc
    >>> model = mc.Sequential([mc.Dense(3)], input_shape=(4,))
    >>> x, y = np.ones((8, 4), "float32"), np.zeros(8, int)
    >>> averaged = AveragedWeights(decay=0.9)
    >>> history = model.fit(x, y, epochs=3, callbacks=[averaged], verbose=False)
    >>> bool((model.layers[0].weight.value == averaged.averages["dense_1.weight"]).all())
    True

    Source: Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the decay of the early
    steps is that of TensorFlow's ExponentialMovingAverage. At the end the model has the average as with `use_ema` of
    Keras's optimizers; timm keeps a second model instead.
    """

    def __init__(self, decay: float = 0.999):
        self.decay = check_number(decay, "decay", "AveragedWeights", below=1)
        self.t = 0
        self.averages: dict[str, Array] = {}
        self.trained: dict[str, Array] = {}
        self.items: list[tuple[str, Any]] = []

    def on_train_begin(self) -> None:
        self.t, self.trained, self.averages = 0, {}, {}
        self.on_epoch_begin(0)

    def on_epoch_begin(self, epoch: int) -> None:
        self.items = [(name, item) for name, item in kept_arrays(self.model) if item.value.dtype.kind == "f"]
        for name, item in self.items:
            if name not in self.averages:  # a layer may be added in training
                self.averages[name] = item.value.copy()

    def on_batch_end(self, batch: int, loss: Array) -> None:
        self.t += 1
        d = min(self.decay, (1 + self.t) / (10 + self.t))
        for name, item in self.items:
            average, value = (array.reshape(array.shape or 1) for array in (self.averages[name], item.value))
            rows = max(1, AVERAGED * len(value) // max(1, value.size))
            for start in range(0, len(value), rows):
                block = slice(start, start + rows)
                change = value[block] - average[block]
                change *= 1 - d
                average[block] += change  # exact where nothing changes

    def on_test_begin(self) -> None:
        self.trained = {name: item.value.copy() for name, item in self.items}
        self._set(self.averages)

    def on_test_end(self) -> None:
        self._set(self.trained)
        self.trained = {}

    def on_train_end(self) -> None:
        self.trained = {}

    def state_dict(self) -> dict[str, Any]:
        averages = {
            f"average.{name}": np.array(operations.current.to_numpy(value)) for name, value in self.averages.items()
        }
        return {"t": self.t} | averages

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if type(state["t"]) is not int or state["t"] < 0:
            raise ValueError(f"AveragedWeights's t is {state['t']!r:.60}")
        averages = {name.removeprefix("average."): value for name, value in state.items() if name != "t"}
        items = dict(self.items)
        if averages.keys() != items.keys():
            raise ValueError("AveragedWeights has averages of other weights")
        for name, value in averages.items():
            if value.shape != items[name].value.shape or value.dtype != items[name].value.dtype:
                raise ValueError(f"AveragedWeights's average of {name} is {value.dtype} {value.shape}")
        self.t = state["t"]
        self.averages = {name: operations.current.array(value).copy() for name, value in averages.items()}

    def _set(self, values):
        for name, item in self.items:
            if name in values:
                item.value[...] = values[name]


class LambdaCallback(Callback):
    """A callback made of functions.

    Args:
        on_train_begin, on_epoch_begin, on_batch_end, on_epoch_end, on_train_end: functions with the arguments
            of `Callback`'s methods of the same names, or None.

    Raises:
        InputError: something that is not a function.

    >>> show = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
    """

    def __init__(
        self,
        *,
        on_train_begin: Callable | None = None,
        on_epoch_begin: Callable | None = None,
        on_batch_end: Callable | None = None,
        on_epoch_end: Callable | None = None,
        on_train_end: Callable | None = None,
    ):
        functions = {
            "on_train_begin": on_train_begin,
            "on_epoch_begin": on_epoch_begin,
            "on_batch_end": on_batch_end,
            "on_epoch_end": on_epoch_end,
            "on_train_end": on_train_end,
        }
        for name, function in functions.items():
            if function is None:
                continue
            if not callable(function):
                raise InputError(f"LambdaCallback needs a function as {name}, got {function!r}")
            setattr(self, name, function)

    def arguments(self) -> dict[str, Any]:
        return {name: vars(self).get(name) for name in super().arguments()}


def _number(callback, name, value):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise InputError(f"{type(callback).__name__} needs {name} as a number of at least 0, got {value!r}")
    return float(value)
