"""A training step recorded once as a CUDA graph, and from then on launched as one.

A step of LeNet-5 is about ninety kernels of a few microseconds, and Python takes longer to launch one than the GPU
to run it. While a stream is captured, kernels are not run but noted, with all their addresses and numbers; the graph
that results is one launch. So whatever changes from step to step must be at a fixed address: the batch, its labels,
and the optimizer's numbers, such as the learning rate.

Only steps of the library's own layers, losses and optimizers are recorded, because a layer of the user's own may do
something in Python that a graph would not repeat. Nor are layers with a state, which Python changes from step to step:
Dropout's masks would be the same in every step, and BatchNorm's running mean would stay.
"""

from minicnn import console
from minicnn.backends.cupy.cublas import find_cublas
from minicnn.backends.cupy.updates import numbers_of
from minicnn.core.layers import LAYERS, BatchNorm, Branches, Dropout, Residual
from minicnn.core.losses import MeanSquaredError, SoftmaxCrossEntropy
from minicnn.core.operations import Operations
from minicnn.core.optimizers import SGD, Adam
from minicnn.core.parameter import Parameter
from minicnn.core.sequential import Sequential


def can_record(xp, model, loss, optimizer):
    """Whether these can be recorded: all layers are `RECORDABLE`, the rest is the library's own, cuBLAS is there."""
    return (
        find_cublas(xp) is not None
        and type(model).forward is Sequential.forward
        and type(model).prepare is Sequential.prepare
        and all(map(_is_recordable, _layers(model)))
        and type(loss) in (SoftmaxCrossEntropy, MeanSquaredError)
        and getattr(loss, "class_weights", None) is None  # which are copied from the host in every step
        and type(optimizer) in (SGD, Adam)
    )


def _layers(model):
    """The layers of a Sequential as they are now; one inside is replaced by its layers."""
    layers = []
    for layer in model.layers:
        inside = isinstance(layer, Sequential) and type(layer).forward is Sequential.forward
        layers += _layers(layer) if inside else [layer]
    return layers


#: Layers without a state, and without layers inside.
RECORDABLE = set(LAYERS.values()) - {BatchNorm, Branches, Dropout, Residual}


def _is_recordable(layer):
    return type(layer) in RECORDABLE and "forward" not in vars(layer)


class _NoChecks:
    """For steps of which nobody checks the loss or the gradients."""

    def check_loss(self, value):
        """Check nothing: while a stream is captured, there is no loss yet."""

    def check_gradients(self):
        """Check nothing."""


class RecordedStep:
    """A function of a batch that trains a model on it: the first time kernel by kernel, then as a graph.

    Args:
        operations: the backend, a `CupyOperations`.
        model, loss, optimizer: for which `can_record` is true.

    Returns of the call:
        loss: a scalar on the device.
        outputs: of the model. They are overwritten in the next call.

        Or None, and nothing is done, where the recorded step cannot train on this batch: it has another shape or dtype
        than the first one, the layers were changed to others that cannot be recorded, the parameters have taken
        different numbers of steps (the optimizer's numbers are the same for all of them), or a step could not be
        recorded, which is a warning the first time.

    Source: NVIDIA, "CUDA C++ programming guide", the chapter on CUDA graphs.
    """

    def __init__(self, operations, model, loss, optimizer):
        self.operations, self.model, self.optimizer = operations, model, optimizer
        self.core_step = Operations.training_step(operations, model, loss, optimizer)
        self.stream = operations.xp.cuda.Stream(non_blocking=True)  # the default stream cannot be captured
        self.pool = operations.xp.cuda.MemoryPool()  # memory that nobody else receives, while the graph writes there
        self.batch = self.numbers = self.filled = self.graph = self.result = None
        self.objects, self.settings = [], {}  # what the graph contains by address, and by value
        self.failed = False

    def __call__(self, images, labels):
        if self.model.layers_changed():  # a layer may not be built yet: its parameters are not among those below
            return None
        self.layers = _layers(self.model)
        if self.failed or not all(map(_is_recordable, self.layers)) or not self._has_form_of_first(images, labels):
            return None
        parameters = self._parameters()
        trained = [parameter for parameter in parameters if parameter.trainable]
        if len(set(map(self._steps_taken, trained))) != 1:
            return None
        self._fill(images, labels, parameters, trained)
        objects, settings = self._objects(parameters, trained), self._settings()
        if not self._is_unchanged(objects, settings):  # as in the first call, which compiles and allocates
            self.graph = None
            result = self._in_own_stream(self._step)
            self.objects, self.settings = self._objects(parameters, trained), settings
            return result
        if self.graph is not None:
            self._count_step(parameters, trained)
        elif not self._record(trained):
            return None
        self.graph.launch()
        loss, outputs = self.result
        return loss.copy(), outputs

    def _has_form_of_first(self, *batch):
        return self.batch is None or all(
            a.shape == b.shape and a.dtype == b.dtype for a, b in zip(batch, self.batch, strict=True)
        )

    def _fill(self, images, labels, parameters, trained):
        """Copy the batch and the optimizer's numbers to the addresses where the graph reads them."""
        xp = self.operations.xp
        learning_rate = self.optimizer.schedule(max(map(self._steps_taken, parameters)))
        numbers = numbers_of(self.optimizer, learning_rate, self._steps_taken(trained[0]) + 1)
        if self.batch is None:
            self.batch = [xp.empty(array.shape, dtype=array.dtype) for array in (images, labels)]
            self.numbers = [xp.empty((), dtype=self.model.dtype) for _ in numbers]
            self.filled = [None] * len(numbers)
        for target, array in zip(self.batch, (images, labels), strict=True):
            target[...] = array
        for target, number, before in zip(self.numbers, numbers, self.filled, strict=True):
            if number != before:
                target.fill(number)  # a kernel with the number as its argument, not a copy to wait for
        self.filled = numbers

    def _step(self):
        self.operations.device_numbers = self.numbers
        try:
            return self.core_step(*self.batch, _NoChecks())
        finally:
            self.operations.device_numbers = None

    def _count_step(self, parameters, trained):
        """What `optimizer.step` counts in Python, for a step that is launched as a graph."""
        self.optimizer.steps = max(map(self._steps_taken, parameters)) + 1
        for parameter in trained:
            self.optimizer.memories[parameter]["t"] += 1

    def _record(self, trained):
        """Record a step; False, and everything as before, where that fails."""
        taken = list(map(self._steps_taken, trained))
        try:
            self.graph, self.result = self._in_own_stream(self._capture)
        except Exception as error:  # of CuPy's, which cannot be named without it
            console.warn(f"the training step cannot be recorded and continues kernel by kernel: {error}")
            self.failed = True
            for parameter, t in zip(trained, taken, strict=True):
                self.optimizer.memories[parameter]["t"] = t
                parameter.clear_gradient()
        return not self.failed

    def _capture(self):
        self.stream.begin_capture()
        try:
            result = self._step()
        finally:
            graph = self.stream.end_capture()
        return graph, result

    def _in_own_stream(self, function):
        """Call a function whose kernels run in the step's own stream, with its own memory."""
        cuda = self.operations.xp.cuda
        current = cuda.get_current_stream()
        self.stream.wait_event(current.record())
        with cuda.using_allocator(self.pool.malloc), self.stream:
            result = function()
        current.wait_event(self.stream.record())
        return result

    def _parameters(self):
        """Those of the library's own layers; `model.parameters()` looks further and takes longer."""
        values = (value for layer in self.layers for value in vars(layer).values())
        return list(dict.fromkeys(value for value in values if isinstance(value, Parameter)))

    def _steps_taken(self, parameter):
        return self.optimizer.memories.get(parameter, {"t": 0})["t"]

    def _objects(self, parameters, trained):
        """The layers, and every array that the graph reads or changes besides the batch."""
        values = [parameter.value for parameter in parameters]
        memories = [self.optimizer.memories.get(parameter) for parameter in trained]
        arrays = [memory.get(name) for memory in memories if memory for name in self.optimizer.memory]
        return [*self.layers, *values, *memories, *arrays]

    def _settings(self):
        numbers = {name: value for name, value in vars(self.optimizer).items() if isinstance(value, (int, float))}
        return numbers | {"steps": None}  # which changes in every step

    def _is_unchanged(self, objects, settings):
        """Whether layers, weights, the optimizer's memory and its settings are those of the step before."""
        same = len(objects) == len(self.objects) and all(a is b for a, b in zip(objects, self.objects, strict=True))
        return same and settings == self.settings
