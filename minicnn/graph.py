"""A training step recorded once as a CUDA graph, and from then on started as a whole.

A step of LeNet-5 is about ninety kernels of a few microseconds, and Python takes longer to ask for one than the GPU
to run it. While a stream is captured, what is asked for is not run but written down, with all its addresses and
numbers; the graph that comes of it is one launch. So whatever changes from step to step must lie at one address: the
batch, its labels, and the optimizer's numbers, such as the learning rate.

Only steps of the library's own layers, losses and optimizers are recorded, because a layer of somebody else's may do
something in Python that a graph would not repeat. Dropout is such a layer: its masks would be the same in every step.
"""

import warnings

import numpy as np

from minicnn.backend import active
from minicnn.layers import LAYERS, Dropout
from minicnn.losses import MeanSquaredError, SoftmaxCrossEntropy
from minicnn.optimizers import SGD, Adam
from minicnn.products import cublas


def can_record(model, loss, optimizer):
    """Whether steps of these can be recorded: on a GPU, everything of the library's own, and no Dropout."""
    return (
        active() is not np
        and cublas(active()) is not None
        and all(type(layer) in LAYERS.values() and type(layer) is not Dropout for layer in model.layers)
        and type(loss) in (SoftmaxCrossEntropy, MeanSquaredError)
        and type(optimizer) in (SGD, Adam)
    )


class RecordedStep:
    """A function of a batch that trains a model on it: the first time kernel by kernel, then as a graph.

    Every batch must have the shape and dtype of the first. A step that cannot be recorded goes on kernel by kernel,
    with a warning.

    Args:
        model, loss, optimizer: for which `can_record` is true.

    Returns of the call:
        loss: a scalar on the device.
        outputs: of the model. They are overwritten in the next call.

    Source: NVIDIA, "CUDA C++ programming guide", the chapter on CUDA graphs.
    """

    def __init__(self, model, loss, optimizer):
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.stream = active().cuda.Stream(non_blocking=True)  # the default stream cannot be captured
        self.pool = active().cuda.MemoryPool()  # memory that nobody else is given, while the graph writes there
        self.batch = self.numbers = self.sent = self.graph = self.result = None
        self.arrays, self.settings = [], {}  # what the graph holds by address, and by value
        self.failed = False

    def takes(self, images, labels):
        """Whether a batch is of the shape and dtype that the step is, or will be, recorded for."""
        given = [(part.shape, part.dtype) for part in (images, labels)]
        return not self.failed and (self.batch is None or given == [(part.shape, part.dtype) for part in self.batch])

    def __call__(self, images, labels):
        self._put(images, labels)
        if not self._is_unchanged():  # as in the first call: a step that makes all kernels and finds all memory
            self.graph = None
            result = self._beside(self._step)
            self.arrays, self.settings = self._arrays(), self._settings()
            return result
        if self.graph is not None:
            self.optimizer.steps += 1
        elif not self._record():
            return self._step()
        self.graph.launch()
        loss, outputs = self.result
        return loss.copy(), outputs

    def _put(self, images, labels):
        """The batch and the optimizer's numbers to where the graph reads them."""
        numbers = self.optimizer.numbers()
        if self.batch is None:
            self.batch = [active().empty(part.shape, dtype=part.dtype) for part in (images, labels)]
            self.numbers = [active().empty((), dtype=self.model.dtype) for _ in numbers]
            self.sent = [None] * len(numbers)
        for place, part in zip(self.batch, (images, labels), strict=True):
            place[...] = part
        for place, number, last in zip(self.numbers, numbers, self.sent, strict=True):
            if number != last:
                place.fill(number)  # a kernel that has the number as its argument, not a copy to wait for
        self.sent = numbers

    def _step(self):
        outputs, backward = self.model.forward(self.batch[0], training=True)
        loss, doutputs = self.loss.compute(outputs, self.batch[1])
        backward(doutputs, input_gradient=False)
        self.optimizer.step(self.model.parameters(), self.numbers)
        return loss, outputs

    def _record(self):
        """Write a step down; False, and everything as before, where that fails."""
        steps = self.optimizer.steps
        try:
            self.graph, self.result = self._beside(self._captured)
        except Exception as error:  # of CuPy's, which cannot be named without it
            warnings.warn(f"the training step cannot be recorded and goes on kernel by kernel: {error}", stacklevel=3)
            self.failed = True
            self.optimizer.steps = steps
            for parameter in self.model.parameters().values():
                parameter.clear_gradient()
        return not self.failed

    def _captured(self):
        self.stream.begin_capture()
        try:
            result = self._step()
        finally:
            graph = self.stream.end_capture()
        return graph, result

    def _beside(self, function):
        """Call a function whose work goes to the stream of its own, with memory of its own."""
        cuda = active().cuda
        current = cuda.get_current_stream()
        self.stream.wait_event(current.record())
        with cuda.using_allocator(self.pool.malloc), self.stream:
            result = function()
        current.wait_event(self.stream.record())
        return result

    def _arrays(self):
        arrays = [parameter.value for parameter in self.model.parameters().values()]
        return arrays + [array for slots in self.optimizer.state.values() for array in slots.values()]

    def _settings(self):
        numbers = {name: value for name, value in vars(self.optimizer).items() if isinstance(value, (int, float))}
        return numbers | {"steps": None}  # which change in every step

    def _is_unchanged(self):
        """Whether nobody has put other weights, state or settings into the model or the optimizer since."""
        now = self._arrays()
        same = len(now) == len(self.arrays) and all(a is b for a, b in zip(now, self.arrays, strict=True))
        return same and self._settings() == self.settings
