"""Where a training run breaks: the first number that is not finite.

A learning rate too large makes the weights grow from step to step, until a
sum of products is larger than the largest float and becomes infinity; the
next subtraction of two infinities is NaN, and from there NaN spreads to
everything. What then stands in the weights is worthless, and the message
"loss: nan" tells nothing. So `fit` looks at every loss, keeps a copy of
weights that were still good, and when it is too late goes through the batch
again layer by layer to say where it began.
"""

import math
import tempfile

import numpy as np

from minicnn.backend import array_module, number, to_device, to_numpy
from minicnn.errors import DivergenceError, FileError

LOOK_EVERY = 100  # batches between looks at the loss on a GPU
COPY_EVERY, COPY_BYTES = 100, 2**26  # batches from one copy of good weights to the next; weights up to this size
FILE_EVERY = 1000  # the same for larger weights, which are copied to a temporary file


class Guard:
    """Watches a run for numbers that are not finite, and keeps the last weights known to be good.

    Weights are known to be good when a batch's loss with them was finite. They are copied at the first batch and
    at every hundredth after it, which takes less than 1 % of the time; those of more than 64 MiB at every
    thousandth, and to a temporary file, so that the memory does not double. On the CPU every batch is
    looked at; on a GPU, where a look waits for the device, every hundredth, and the end of the epoch.

    Args:
        model: the model in training, built.
        loss: the run's loss function.
    """

    def __init__(self, model, loss):
        self.model, self.loss = model, loss
        self.parameters = model.parameters()
        self.on_cpu = all(array_module(parameter.value) is np for parameter in self.parameters.values())
        self.copies, self.copied_at, self.batches_since = {}, None, 0
        self.file = None
        if sum(parameter.value.nbytes for parameter in self.parameters.values()) > COPY_BYTES:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the run
        # A gradient that is not finite spreads on its way back, so that it shows in the first layer: in its
        # smallest parameter, commonly the bias, it can be looked for at no cost.
        first = model._first_learned()
        self.last_gradient = min(first.parameters().values(), key=lambda p: p.value.size) if first else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.file:
            self.file.close()

    def looks_at(self, run):
        """Whether the next batch's loss is looked at, before the weights change; if not, the batch is counted."""
        looks = self.on_cpu or self._copy_is_due() or run.batch % LOOK_EVERY == 0
        self.batches_since += not looks
        return looks

    def look_at_loss(self, value, run, x, labels):
        """After a batch's loss is computed, before the weights change.

        Raises:
            DivergenceError: the loss, or on a GPU one since the last look, is not finite.
        """
        if not math.isfinite(number(value + run.total_loss)):
            self.stop(f"the loss is {number(value)}", run, [(x, labels)])
        if self._copy_is_due():
            self._copy(run)
        else:
            self.batches_since += 1

    def look_at_gradient(self, run, x, labels):
        """After a batch's gradients are computed, before the weights change.

        Raises:
            DivergenceError: gradients are not finite.
        """
        if self.on_cpu and self.last_gradient is not None:
            norm = self.last_gradient.gradient_norm_squared()
            if not math.isfinite(number(norm)):
                self.stop("the gradients are not finite", run, [(x, labels)])

    def look_at_weights(self, run):
        """After an epoch, and before weights are saved.

        Raises:
            DivergenceError: a weight, or the epoch's loss so far, is not finite.
        """
        if not math.isfinite(number(run.total_loss)):
            self.stop("the loss is not finite", run)
        for name, parameter in self.parameters.items():
            if not _finite(parameter.value):
                self.stop(f"{name} is not finite", run)

    def stop(self, what, run, batches=()):
        """Put the good weights back and raise DivergenceError.

        Args:
            what: what was seen.
            run: the run, for the place and the history.
            batches: (x, labels) to look through for the layer at which it began.
        """
        for x, labels in batches:
            place = first_not_finite(self.model, self.loss, x, labels)
            if place is not None:
                what += f"; first went {place}"
                break
        for parameter in self.parameters.values():
            parameter.clear_gradient()
        back = "No step was taken"
        if self.copied_at is not None:
            self._put_back()
            epoch, batch = self.copied_at
            back = (
                f"The weights are again those before batch {batch + 1} of epoch {epoch + 1}, the last copy known good"
            )
        late = "" if self.on_cpu else f" (or up to {LOOK_EVERY} batches before: on a GPU only so often is looked)"
        raise DivergenceError(
            f"batch {run.batch + 1} of epoch {run.epoch + 1}{late}: {what}. {back}. Try a smaller learning rate, "
            f"or clip_norm in the optimizer, with a new optimizer",
            history=run.history,
        )

    def _copy_is_due(self):
        return self.copied_at is None or self.batches_since >= (FILE_EVERY if self.file else COPY_EVERY)

    def _copy(self, run):
        if self.file:
            self.copied_at = None  # while the copy is half old and half new, there is none
            self.file.seek(0)
        for name, parameter in self.parameters.items():
            if self.file:
                try:
                    self.file.write(np.ascontiguousarray(to_numpy(parameter.value)).data)
                except OSError as error:
                    raise FileError(
                        f"no copy of the weights can be kept in {tempfile.gettempdir()}: {error.strerror}. Make room "
                        "there, or set TMPDIR to a folder that has it"
                    ) from error
            elif name in self.copies:
                self.copies[name][...] = parameter.value
            else:
                self.copies[name] = parameter.value.copy()
        self.copied_at, self.batches_since = (run.epoch, run.batch), 1

    def _put_back(self):
        if self.file:
            self.file.seek(0)
        for name, parameter in self.parameters.items():
            value = parameter.value
            if self.file:
                copy = np.frombuffer(self.file.read(value.nbytes), value.dtype).reshape(value.shape)
                value[...] = to_device(copy)
            else:
                value[...] = self.copies[name]


def first_not_finite(model, loss, x, labels):
    """Go through a batch forward and back, and say what first holds NaN or infinity.

    Args:
        model: the model; its gradients are cleared.
        loss: a loss function, as `fit` takes.
        x, labels: the batch.

    Returns:
        a text such as "the output of conv2d_2" or "the gradient of dense_1.weight", or None if all is finite.
    """
    y = model.prepare(x)
    if not _finite(y):
        return f"the batch itself, as {model.dtype}"
    steps = []
    for name, layer in zip(model.names, model.layers, strict=True):
        if layer is model.layers[-1] and model._ends_in_softmax():
            break
        for key, parameter in layer.parameters().items():
            parameter.clear_gradient()
            if not _finite(parameter.value):
                return f"{name}.{key}, changed by a step whose gradient was not finite or too large"
        y, way_back = layer.forward(y, training=True)
        if not _finite(y):
            return f"the output of {name}"
        steps.append((name, layer, way_back))
    value, dy = loss.compute(y, labels)
    if not math.isfinite(number(value)):
        return f"the loss, of outputs up to {number(abs(y).max()):.3g}"
    if not _finite(dy):
        return "the gradient of the loss"
    for name, layer, way_back in reversed(steps):
        dy = way_back(dy)
        for key, parameter in layer.parameters().items():
            if parameter.has_gradient and not _finite(parameter.grad):
                return f"the gradient of {name}.{key}"
        if not _finite(dy):
            return f"the gradient of {name}'s input"
    return None


def _finite(array):
    """Whether all numbers are finite, told without a copy: NaN and infinity are their array's extremes."""
    return array.size == 0 or (math.isfinite(number(array.min())) and math.isfinite(number(array.max())))
