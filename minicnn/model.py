"""Sequential: layers in a row, forward and back, saved and loaded.

Forward, each layer's output is the next one's input. Back, each layer's way
back takes the gradient from the next one's. That is the chain rule, and all
of backpropagation.
"""

import functools
import html
import math

import numpy as np

from minicnn import training
from minicnn.backend import (
    active,
    array_module,
    batch_first,
    batch_innermost,
    batch_last,
    to_device,
    to_numpy,
)
from minicnn.checks import check_array, whole_number
from minicnn.errors import FileError, InputError
from minicnn.layers import LAYERS, Activation, Conv2D, Dense, Layer, Softmax
from minicnn.losses import SoftmaxCrossEntropy
from minicnn.parameter import Parameter
from minicnn.products import SHARED_WORK
from minicnn.progress import html_table
from minicnn.storage import ArrayFile, write_arrays
from minicnn.threads import in_parallel, keep_memory, one_core_blas, parts, thread_count

SMALLEST_PART, LARGEST_PART = 16, 64  # images that a core takes at a time through the layers on images


class Sequential:
    """A network of layers in a row.

    Args:
        layers: a list of layers.
        input_shape: the shape of one input, without the batch axis: (C, H, W) or (D,). Where it is None, the
            first batch tells.
        seed: of the first weights, the shuffling and the dropout masks.
        dtype: of the weights and of all computation, "float32" or "float64".

    Attributes:
        layers, input_shape, seed, dtype: as given.
        names: one name a layer, such as "conv2d_1".

    Raises:
        InputError: something that is no layer, one layer used twice, or layers that do not fit each other.

    >>> import numpy as np
    >>> from minicnn.layers import Dense, ReLU
    >>> from minicnn.losses import SoftmaxCrossEntropy
    >>> from minicnn.optimizers import SGD
    >>> model = Sequential([Dense(16), ReLU(), Dense(3)], input_shape=(4,))
    >>> x, labels = np.ones((2, 4), "float32"), np.array([0, 2])
    >>> logits, backward = model.forward(x, training=True)          # a training step is four lines
    >>> loss, dlogits = SoftmaxCrossEntropy()(logits, labels)
    >>> dx = backward(dlogits)
    >>> SGD().step(model.parameters())
    >>> history = model.fit(x, labels, epochs=3, verbose=False)      # the same, again and again
    >>> loss, accuracy = model.evaluate(x, labels)
    >>> model.predict(x).shape, model.count_parameters()
    ((2, 3), 131)
    """

    def __init__(self, layers, input_shape=None, seed=0, dtype="float32"):
        keep_memory()
        if not isinstance(layers, (list, tuple)):
            raise InputError(f"Sequential needs a list of layers, got {layers!r}")
        self.layers = list(layers)
        self.seed = whole_number(seed, "seed", "Sequential", least=0)
        if dtype not in ("float32", "float64", np.float32, np.float64):
            raise InputError(f"Sequential computes in float32 or float64, not in {dtype!r}")
        self.dtype = np.dtype(dtype)
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise InputError(f"Sequential needs layers, got {layer!r}: did you forget the brackets ()?")
        if len({id(layer) for layer in self.layers}) < len(self.layers):
            raise InputError("a layer stands twice in this Sequential: make a second one of its kind")
        self.names = _names(self.layers)
        self.input_shape = None
        self.stop_training = False
        if input_shape is not None:
            self.build(input_shape)

    def build(self, input_shape):
        """Make all parameters, drawn anew from the seed, for inputs of a shape.

        Args:
            input_shape: the shape of one input, without the batch axis: (C, H, W) or (D,).

        Returns:
            the shape of one output.

        Raises:
            InputError: no shape, or one that the layers cannot work on.

        >>> from minicnn.layers import Dense
        >>> Sequential([Dense(3)]).build((4,))
        (3,)
        """
        if not isinstance(input_shape, (list, tuple)):
            raise InputError(f"input_shape needs the shape of one input, such as (1, 28, 28), got {input_shape!r}")
        rng = np.random.default_rng(self.seed)
        shape = self.input_shape = tuple(whole_number(n, "input_shape", "Sequential") for n in input_shape)
        for layer in self.layers:
            shape = tuple(layer.build(shape, rng, self.dtype))
        return shape

    @property
    def output_shape(self):
        """The shape of one output, without the batch axis."""
        return self._shapes()[-1]

    def parameters(self):
        """All learned arrays: `{"conv2d_1.weight": Parameter, ...}`."""
        return {
            f"{name}.{key}": parameter
            for name, layer in zip(self.names, self.layers, strict=True)
            for key, parameter in layer.parameters().items()
        }

    def count_parameters(self):
        """How many numbers are learned; an InputError where the model has no shape yet."""
        self._check_built()
        return sum(parameter.value.size for parameter in self.parameters().values())

    def forward(self, x, training=False):
        """The output for a batch, and the way back.

        A Softmax at the end is left out here: the output is the logits, which `SoftmaxCrossEntropy` wants.

        Args:
            x: (N, *input_shape), floating point, or uint8 images, which are scaled to [0, 1].
            training: whether Dropout drops.

        Returns:
            y: the output (N, ...).
            backward: a function of `dy` that adds every parameter's gradient and returns `dx`. It can be
                called once, because it gives each layer's memory back as it goes. With
                `input_gradient=False` it saves the work for `dx` and returns None.

        Raises:
            InputError: a batch that is not what the network was built for, or an empty one.
        """
        self._check_shape_and_dtype(x)
        if len(x) == 0:
            raise InputError(f"the model needs one image at least, got a batch of shape {tuple(x.shape)}")
        if self.input_shape is None:
            self.build(x.shape[1:])
        layers = self.layers[:-1] if self._ends_in_softmax() else self.layers
        front, batch_parts = self._shared(x)

        def forward_part(rows):
            return _forward_through(layers[:front], self.prepare(x[rows]), training)

        with one_core_blas():
            outputs, front_steps = zip(*in_parallel(forward_part, batch_parts), strict=True)
            y, steps = _forward_through(layers[front:], _joined(outputs), training)
        taken, shape, dtype = False, y.shape, y.dtype

        def backward(dy, input_gradient=True):
            nonlocal taken
            if taken:
                raise InputError("this way back has been taken: run forward again")
            check_array(dy, "the way back")
            if dy.shape != shape or dy.dtype != dtype:
                raise InputError(f"the way back needs a gradient {shape} of {dtype}, got {dy.shape} of {dy.dtype}")
            taken = True
            last = None if input_gradient else self._first_learned()
            with one_core_blas():
                dy = _back_through(steps, dy, last)

                def backward_part(part):
                    rows, steps = part
                    return _back_through(steps, batch_innermost(dy[rows]), last)

                if dy is not None:
                    dy = _joined(in_parallel(backward_part, zip(batch_parts, front_steps, strict=True)))
            return dy if input_gradient else None

        return y, backward

    def __call__(self, x):
        """The output alone, through all layers, a closing Softmax included."""
        y, _ = self.forward(x)
        return self.layers[-1](y) if self._ends_in_softmax() else y

    def prepare(self, x):
        """A batch as the layers want it: of the model's dtype, on its device, the batch innermost in memory.

        uint8 images are scaled from 0..255 to 0..1. Other floating dtypes are converted to the model's.

        Raises:
            InputError: another shape than (N, *input_shape), or a dtype that is neither floating nor uint8.
        """
        self._check_shape_and_dtype(x)
        if self.input_shape is None:
            self.build(x.shape[1:])
        xp = active()
        x_last = batch_last(to_device(x))
        ready = xp.empty(x_last.shape, dtype=self.dtype)
        if x.dtype == np.uint8:
            xp.divide(x_last, self.dtype.type(255), out=ready)
        else:
            ready[...] = x_last
        return batch_first(ready)

    def fit(
        self,
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
        """Train, and tell how it went.

        Ctrl-C (or SIGTERM) ends the training after the batch, in good order: the history comes back with
        `history.interrupted` set. A second one stops at once. A loss that is not finite ends it with a
        DivergenceError that says where it began; the model then has the last weights known to be good.

        Args:
            x: (N, *input_shape), floating point or uint8.
            y: labels, as the loss wants them.
            epochs: how often every image is seen.
            batch_size: images a step; the last step of an epoch takes what is left.
            optimizer: Adam() where none is given.
            loss: SoftmaxCrossEntropy() where none is given.
            validation_split: the share of images held out, shuffled and stratified by class.
            validation_data: (x, y) to validate on instead.
            shuffle: a new order every epoch, drawn from the model's seed.
            callbacks: objects as `minicnn.Callback`: `EarlyStopping`, `ModelCheckpoint`, `ReduceLROnPlateau`,
                `LearningRateScheduler`, `CSVLogger`, `LambdaCallback`, or your own.
            verbose: a progress bar, or a line an epoch where the output is no terminal.
            checkpoint: a file that keeps the whole run, written after every epoch; None for none.
            checkpoint_every: seconds after which it is written within an epoch, too; None for never.
            resume: go on with the run in `checkpoint`, to the same bits as if it had never stopped; where the
                file is missing, begin. `epochs` may be another number than before, all else must be the same.

        Returns:
            a `History`: `{"loss": [...], "accuracy": [...], "val_loss": [...], ...}`, one number an epoch.

        Raises:
            InputError: data or settings that cannot be right, found before the first step; a checkpoint of a
                run with other settings.
            DivergenceError: numbers that are no longer finite.
            FileError: the checkpoint cannot be read or written.
        """
        return training.fit(
            self,
            x,
            y,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            loss=loss,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            callbacks=callbacks,
            verbose=verbose,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
        )

    def evaluate(self, x, y, loss=None, batch_size=512):
        """The mean loss and the accuracy on a set.

        Args:
            x: (N, *input_shape), floating point or uint8.
            y: labels, as the loss wants them.
            loss: SoftmaxCrossEntropy() where none is given.
            batch_size: images at a time; bounds the memory.

        Returns:
            (loss, accuracy), two floats: the mean over all images, and the share of them that is right; the accuracy
            is None for a loss of a regression.

        Raises:
            InputError: data or labels that cannot be right, or a loss that does not suit the model.
        """
        return training.evaluate(self, x, y, SoftmaxCrossEntropy() if loss is None else loss, batch_size)

    def predict(self, x, batch_size=512):
        """The network's outputs for a set, batch by batch: probabilities where it ends in Softmax.

        Args:
            x: (N, *input_shape), floating point or uint8.
            batch_size: images at a time; bounds the memory.

        Returns:
            a NumPy array (N, ...) of the model's dtype.

        Raises:
            InputError: images that the model cannot take, or that are not finite.
        """
        batch_size = whole_number(batch_size, "batch_size", "predict")
        training.check_images(self, x)
        batches = [to_numpy(self(x[i : i + batch_size])) for i in range(0, len(x), batch_size)]
        return np.concatenate(batches)

    def summary(self, batch_size=32, print_fn=print):
        """Print the layers, their output shapes and parameters, their multiply-adds and im2col's memory.

        Args:
            batch_size: of the step whose memory is shown.
            print_fn: called with each line.

        Raises:
            InputError: the model has no shape yet, or `batch_size` is no whole number above 0.

        >>> from minicnn.layers import Dense
        >>> Sequential([Dense(3)], input_shape=(4,)).summary()
        Layer                       Output shape    Parameters   Multiply-adds     Columns
        ────────────────────────────────────────────────────────────────────────────────────
        dense_1 (Dense)                      (3)            15              12           -
        ────────────────────────────────────────────────────────────────────────────────────
        Input: (4,), float32
        Parameters: 15 (60 B)
        Multiply-adds an image, forward: 12
        Largest im2col matrix at batch 32: -
        """
        batch_size = whole_number(batch_size, "batch_size", "summary")
        header, rows, totals = self._summary(batch_size)
        width = max([22, *(len(row[0]) for row in rows)])
        rule = "─" * (width + 62)

        def show(name, shape, count, work, columns):
            print_fn(f"{name:{width}}  {shape:>16}  {count:>12}  {work:>14}  {columns:>10}")

        show(*header)
        print_fn(rule)
        for row in rows:
            show(*row)
        print_fn(rule)
        for line in totals:
            print_fn(line)

    def _repr_html_(self):
        """The summary as a table: what a notebook shows."""
        if self.input_shape is None:
            layers = "".join(f"<li>{html.escape(repr(layer))}</li>" for layer in self.layers)
            return f"<p>A Sequential that gets its shape from the first batch:</p><ol>{layers}</ol>"
        header, rows, totals = self._summary()
        return html_table(header, rows) + "".join(f"<div>{html.escape(line)}</div>" for line in totals)

    def _summary(self, batch_size=32):
        """What `summary` tells, as texts: the header, a row for each layer, and lines of totals."""
        self._check_built()
        shapes = self._shapes()
        rows, works, columns = [], [0], [0]
        for name, layer, input_shape, shape in zip(self.names, self.layers, shapes[:-1], shapes[1:], strict=True):
            count = sum(parameter.value.size for parameter in layer.parameters().values())
            works.append(layer.multiply_adds(input_shape))
            columns.append(layer.column_bytes(input_shape, self.dtype.itemsize) * batch_size)
            shown = f"({', '.join(map(str, shape))})"
            rows.append(
                (f"{name} ({type(layer).__name__})", shown, f"{count:,}", f"{works[-1]:,}", _bytes(columns[-1]))
            )
        total = self.count_parameters()
        totals = [
            f"Input: {self.input_shape}, {self.dtype}",
            f"Parameters: {total:,} ({_bytes(total * self.dtype.itemsize)})",
            f"Multiply-adds an image, forward: {sum(works):,}",
            f"Largest im2col matrix at batch {batch_size}: {_bytes(max(columns))}",
        ]
        return ("Layer", "Output shape", "Parameters", "Multiply-adds", "Columns"), rows, totals

    def save(self, path):
        """Write the network and its weights to one `.npz` file, whole or not at all, without pickle.

        Functions of your own, such as an initializer, are not kept: the loaded layer has its default instead, and the
        weights it was saved with.

        Args:
            path: the file; `load` reads it.

        Raises:
            FileError: the file cannot be written.
            InputError: the model is not built.
        """
        self._check_built()
        arrays = {name: to_numpy(parameter.value) for name, parameter in self.parameters().items()}
        write_arrays(path, "model", self.description(), arrays)

    def description(self):
        """The network without its weights, as plain values."""
        return {
            "input_shape": self.input_shape,
            "seed": self.seed,
            "dtype": str(self.dtype),
            "layers": [{"layer": type(layer).__name__, **layer.config()} for layer in self.layers],
        }

    def _shapes(self):
        """The input's shape and every layer's output shape."""
        self._check_built()
        shapes = [self.input_shape]
        for layer in self.layers:
            shapes.append(tuple(layer.output_shape(shapes[-1])))
        return shapes

    def _ends_in_softmax(self):
        return bool(self.layers) and isinstance(self.layers[-1], Softmax)

    def _first_learned(self):
        """The first layer with parameters: before it nobody needs gradients."""
        return next((layer for layer in self.layers if layer.parameters()), None)

    def _shared(self, x):
        """How a batch's work is shared out among the cores.

        Returns:
            front: how many of the first layers work on parts of the batch, a core each: the layers on images.
                A dense layer would have every core read all its weights; it shares out its products instead.
            batch_parts: the parts, as slices.
        """
        front, work = self._work
        on_cpu = array_module(x) is np and active() is np
        if not on_cpu or len(x) * work < SHARED_WORK:
            return 0, [slice(0, len(x))]
        part = min(max(-(-len(x) // thread_count()), SMALLEST_PART), LARGEST_PART) if front else len(x)
        return front, parts(len(x), part)

    @functools.cached_property
    def _work(self):
        """How many of the first layers can work on parts of a batch, and all layers' multiply-adds an image."""
        shapes = self._shapes()
        front = 0
        for layer, shape in zip(self.layers, shapes, strict=False):
            if len(shape) != 3 or not layer.splits_batch:
                break
            front += 1
        return front, sum(layer.multiply_adds(shape) for layer, shape in zip(self.layers, shapes, strict=False))

    def _check_built(self):
        if self.input_shape is None:
            raise InputError("this model has no shape yet: give it input_shape=..., or call model.build(shape)")

    def _check_shape_and_dtype(self, x):
        check_array(x, "the model")
        if x.dtype.kind != "f" and x.dtype != np.uint8:
            raise InputError(
                f"the model needs floating point numbers or uint8 images, got {x.dtype}: "
                f"convert with x.astype('{self.dtype}')"
            )
        if self.input_shape is None:
            if x.ndim < 2:
                raise InputError(f"the model needs a batch (N, ...), got shape {x.shape}")
            return
        if tuple(x.shape[1:]) != self.input_shape:
            fix = ""
            if tuple(x.shape) == self.input_shape:
                fix = ": add the batch axis with x[None]"
            elif tuple(x.shape[1:]) == self.input_shape[1:] and self.input_shape[0] == 1:
                fix = ": add the channel axis with x[:, None]"
            elif tuple(x.shape[1:]) == (*self.input_shape[1:], self.input_shape[0]):
                fix = ": move the channels forward with x.transpose(0, 3, 1, 2)"
            wanted = ", ".join(map(str, ("N", *self.input_shape)))
            raise InputError(f"the model needs a batch ({wanted}), got shape {tuple(x.shape)}{fix}")


def _forward_through(layers, x, training):
    """The output, and the steps of the way back: a list of (layer, its way back).

    On the GPU a layer leaves its bias to the activation after it, which adds it in its own kernel.
    """
    steps, options, on_gpu = [], {}, array_module(x) is not np
    for layer, following in zip(layers, [*layers[1:], None], strict=False):
        leaves_bias = on_gpu and _can_leave_bias(layer, following)
        if leaves_bias:
            options = {"add_bias": False}
        x, way_back = layer.forward(x, training, **options)
        options = {"bias": layer.bias.value} if leaves_bias else {}
        steps.append((layer, way_back))
    return x, steps


def _can_leave_bias(layer, following):
    """Whether `following` can add the bias of `layer`, both with the library's own `forward`."""
    takes = isinstance(following, Activation) and type(following).forward is Activation.forward
    return takes and type(layer) in (Conv2D, Dense) and layer.bias is not None


def _back_through(steps, dy, last):
    """Take the steps back and drop each one's memory; None once `last` is done, of whose input nobody asks."""
    while steps:
        layer, way_back = steps.pop()
        if layer is not last:
            dy = way_back(dy)
            continue
        steps.clear()
        if layer.can_skip_input_gradient:
            way_back(dy, input_gradient=False)
        else:
            way_back(dy)
        return None
    return dy


def _joined(batches):
    """Parts of a batch as one, the batch innermost in memory; None if they are None."""
    if len(batches) == 1 or batches[0] is None:
        return batches[0]
    return batch_first(array_module(batches[0]).concatenate([batch_last(batch) for batch in batches], axis=-1))


def load(path, custom_layers=()):
    """Read a model that `Sequential.save` wrote.

    Args:
        path: the `.npz` file.
        custom_layers: the classes of layers of your own that the model uses; the library's are known.

    Returns:
        a `Sequential` on the active backend.

    Raises:
        FileError: the file is missing, cut, altered, of a newer version, not a model, or its arrays do not fit
            its description. Nothing of it is run, and no array is read before its shape is checked.

    >>> import tempfile
    >>> from minicnn.layers import Dense
    >>> path = tempfile.mkdtemp() + "/model.npz"
    >>> Sequential([Dense(3)], input_shape=(4,)).save(path)
    >>> load(path).layers
    [Dense(3)]
    """
    known = LAYERS | {layer.__name__: layer for layer in custom_layers}
    with ArrayFile(path, "model") as file:
        try:
            model, expected = _described(file.description, known)
        except Exception as error:  # whatever values of another kind lead to
            raise FileError(f"{path} cannot be used: its description does not make a network ({error})") from error
        file.check({name: (shape, model.dtype) for name, (_, _, shape) in expected.items()})
        for name, (layer, key, _) in expected.items():
            setattr(layer, key, Parameter(to_device(file.read(name))))
    return model


def _described(description, known):
    """A model without weights from its description, and `{name: (layer, key, shape)}` of the weights."""
    layers = []
    for entry in description["layers"]:
        entry = dict(entry)
        kind = entry.pop("layer")
        if kind not in known:
            raise InputError(f"unknown layer {kind!r}: give its class in load(path, custom_layers=[...])")
        layers.append(known[kind].from_config({name: _tuples(value) for name, value in entry.items()}))
    model = Sequential(layers, seed=description["seed"], dtype=description["dtype"])
    shape = tuple(whole_number(n, "input_shape", "Sequential") for n in description["input_shape"])
    model.input_shape = shape
    expected = {}
    rng = np.random.default_rng(model.seed)
    for name, layer in zip(model.names, layers, strict=True):
        shapes = layer.parameter_shapes(shape)
        if not shapes:  # no weights to draw; a layer may still prepare itself, and one of the user's own may build
            layer.build(shape, rng, model.dtype)
            shapes = {key: parameter.value.shape for key, parameter in layer.parameters().items()}
        for key, parameter_shape in shapes.items():
            expected[f"{name}.{key}"] = (layer, key, parameter_shape)
        shape = tuple(layer.output_shape(shape))
    return model, expected


def _tuples(value):
    """JSON knows lists only; the layers' arguments are tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _names(layers):
    """A name for each layer: its kind and how many of the kind came before."""
    counts = {}
    names = []
    for layer in layers:
        kind = type(layer).__name__.lower()
        counts[kind] = counts.get(kind, 0) + 1
        names.append(f"{kind}_{counts[kind]}")
    return names


def _bytes(count):
    """A size in memory for people."""
    if count == 0:
        return "-"
    power = min(3, int(math.log(count, 1024)))
    return f"{count / 1024**power:.{0 if power == 0 else 1}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"
