"""Where a training run breaks: the first number that is not finite.

A learning rate too large makes the weights grow from step to step, until a
sum of products is larger than the largest float and becomes infinity; the
next subtraction of two infinities is NaN, and from there NaN spreads to
everything. Such weights are lost, and the message "loss: nan" does not say
where it began. So `fit` checks every loss, keeps a copy of weights that were
still good, and after a failure goes through the batch again layer by layer to
say where it began.
"""

import contextlib
import math
import tempfile

import numpy as np

from minicnn.core import operations
from minicnn.core.errors import DivergenceError, FileError
from minicnn.core.layer import kept_arrays
from minicnn.core.sequential import first_trainable
from minicnn.storage.models import states_restored

CHECK_EVERY = 100  # batches between checks of the loss where a check waits for a device
COPY_EVERY, COPY_BYTES = 100, 2**26  # batches from one copy of good weights to the next; weights up to this size
FILE_EVERY = 1000  # the same for larger weights, which are copied to a temporary file


class Guard:
    """Checks a run for numbers that are not finite, and keeps the last weights and states known to be good.

    Weights are known to be good when a batch's loss with them was finite. They are copied at the first batch and
    at every hundredth after it, which takes less than 1 % of the time; those of more than 64 MiB at every
    thousandth, and to a temporary file, so that the memory does not double. Every batch is checked; on a GPU, where a
    check waits for the device, every hundredth, and the end of the epoch.

    Args:
        model: the model in training, built.
        loss: the run's loss function.
    """

    def __init__(self, model, loss):
        self.model, self.loss = model, loss
        self.arrays = dict(kept_arrays(model))
        self.checks_are_free = operations.current.checks_are_free
        self.copies, self.copied_at, self.batches_since = {}, None, 0
        self.file = self.exchange = None
        if sum(item.value.nbytes for item in self.arrays.values()) > COPY_BYTES:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the run
        # A gradient that is not finite spreads in the backward pass to the first layer: checking the smallest
        # parameter there, usually a bias, costs nothing.
        first = first_trainable([layer for _, layer in model.row_to_logits])
        self.last_gradient = min(first.parameters().values(), key=lambda p: p.value.size) if first else None

    def on_ranks(self, exchange):
        """Let several ranks decide alike.

        Args:
            exchange: the `minicnn.parallel.Exchange`.
        """
        self.exchange = exchange
        if self.last_gradient in exchange.owned:  # each rank has that of some rows only
            self.last_gradient = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for parameter in self.model.parameters().values():  # an error may end a step before they are used
            parameter.clear_gradient()
        if self.file:
            self.file.close()

    def begin_batch(self, run, x, labels):
        """Before a batch: note the run and the batch, for the messages."""
        self.run, self.x, self.labels = run, x, labels
        self.check_is_due = self.checks_are_free or self._copy_is_due() or run.batch % CHECK_EVERY == 0
        if not self.check_is_due:
            self.batches_since += 1

    def check_loss(self, value):
        """After a batch's loss is computed, before the weights change.

        Raises:
            DivergenceError: the loss, or on a GPU one since the last check, is not finite.
        """
        if not self.check_is_due:
            return
        if not math.isfinite(operations.to_float(value + self.run.total_loss)):
            self.stop(f"the loss is {operations.to_float(value)}", self.run, self.x, self.labels)
        if self._copy_is_due():
            self._copy(self.run)
        else:
            self.batches_since += 1

    def check_gradients(self):
        """After a batch's gradients are computed, before the weights change.

        Raises:
            DivergenceError: gradients are not finite.
        """
        if self.checks_are_free and self.last_gradient is not None and self.last_gradient.has_gradient:
            norm = operations.current.squared_norm(self.last_gradient.gradients)
            if not math.isfinite(operations.to_float(norm)):
                self.stop("the gradients are not finite", self.run, self.x, self.labels)

    def check_weights(self, run):
        """After an epoch, and before weights are saved.

        Raises:
            DivergenceError: a weight, or the epoch's loss so far, is not finite.
        """
        if not math.isfinite(operations.to_float(run.total_loss)):
            self.stop("the loss is not finite", run)
        for name, item in self.arrays.items():
            if not _finite(item.value):
                self.stop(f"{name} is not finite", run)

    def stop(self, what, run, x=None, labels=None):
        """Restore the good weights and raise DivergenceError.

        Args:
            what: what was found.
            run: the run, for the position and the history.
            x, labels: the batch in which to look for the layer where it began, if there is one.
        """
        if self.exchange is not None:
            self.exchange.complete()
        if x is not None:
            where = None
            with contextlib.suppress(MemoryError):  # the good weights are more important
                where = first_not_finite(self.model, self.loss, x, labels)
            if self.exchange is not None:  # each rank has looked at its piece of the batch
                where = next(filter(None, self.exchange.ranks.gather_values(where)), None)
            what += "" if where is None else f"; first went {where}"
        back = "No step was taken"
        if self.copied_at is not None:
            self._restore()
            epoch, batch = self.copied_at
            back = (
                f"The weights are again those before batch {batch + 1} of epoch {epoch + 1}, the last copy known good"
            )
        late = (
            ""
            if self.checks_are_free
            else f" (or up to {CHECK_EVERY} batches before: on a GPU not every one is checked)"
        )
        error = DivergenceError(
            f"batch {run.batch + 1} of epoch {run.epoch + 1}{late}: {what}. {back}. Try a smaller learning rate, "
            f"or clip_norm in the optimizer, with a new optimizer",
            history=run.history,
        )
        raise run.ranks.shared(error)

    def _copy_is_due(self):
        return self.copied_at is None or self.batches_since >= (FILE_EVERY if self.file else COPY_EVERY)

    def _copy(self, run):
        self.copied_at = None  # while the copy is half old and half new, there is none
        if self.file:
            self.file.seek(0)
        for name, item in self.arrays.items():
            if self.file:
                try:
                    self.file.write(np.ascontiguousarray(operations.current.to_numpy(item.value)).data)
                except OSError as error:
                    raise FileError(
                        f"no copy of the weights can be kept in {tempfile.gettempdir()}: {error.strerror}. Free some "
                        "space there, or set TMPDIR to another folder"
                    ) from error
            elif name in self.copies:
                self.copies[name][...] = item.value
            else:
                self.copies[name] = item.value.copy()
        self.copied_at, self.batches_since = (run.epoch, run.batch), 1

    def _restore(self):
        if self.file:
            self.file.seek(0)
        for name, item in self.arrays.items():
            value = item.value
            if self.file:
                copy = np.frombuffer(self.file.read(value.nbytes), value.dtype).reshape(value.shape)
                value[...] = operations.current.array(copy)
            else:
                value[...] = self.copies[name]


def first_not_finite(model, loss, x, labels):
    """Go through a batch forward and backward, and say what first holds NaN or infinity.

    Args:
        model: the model; its gradients are cleared, its states restored.
        loss: a loss function, as `fit` takes.
        x, labels: the batch.

    Returns:
        a text such as "the output of conv2d_2" or "the gradient of dense_1.weight", or None if all is finite.
    """
    with states_restored(model):
        return _first_not_finite(model, loss, x, labels)


def _first_not_finite(model, loss, x, labels):
    y = model.prepare(x)
    if not _finite(y):
        return f"the batch itself, as {model.dtype}"
    steps = []
    for name, layer, _, y, backward in model.trace(x, training=True):
        for key, parameter in layer.parameters().items():
            parameter.clear_gradient()
            if not _finite(parameter.value):
                return f"{name}.{key}, changed by a step whose gradient was not finite or too large"
        if not _finite(y):
            return f"the output of {name}"
        steps.append((name, layer, backward))
    value, dy = loss.compute(y, labels)
    if not math.isfinite(operations.to_float(value)):
        return f"the loss, of outputs up to {operations.to_float(abs(y).max()):.3g}"
    if not _finite(dy):
        return "the gradient of the loss"
    for name, layer, backward in reversed(steps):
        dy = backward(dy)
        for key, parameter in layer.parameters().items():
            if parameter.has_gradient and not _finite(parameter.grad):
                return f"the gradient of {name}.{key}"
        if not _finite(dy):
            return f"the gradient of {name}'s input"
    return None


def _finite(array):
    """Whether all numbers are finite, found without a copy: NaN and infinity are their array's extremes."""
    return array.size == 0 or (
        math.isfinite(operations.to_float(array.min())) and math.isfinite(operations.to_float(array.max()))
    )
