"""Sequential: layers in a row, forward and backward.

Forward, the output of each layer is the input of the next. Backward, each
layer's backward pass takes the gradient from the layer after it. That is the
chain rule, and all of backpropagation.
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minicnn.core import operations
from minicnn.core.checks import check_array, check_integer, quoted
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer, build_layer, shape_returned, shared_independence
from minicnn.core.layers import Softmax
from minicnn.core.types import Array, Backward, DType, Shape

REPEATED = {"row", "row_to_logits", "_row_of", "shapes"}  # attributes in which `walk` would find removed layers


class Sequential(Layer):
    """Layers in a row. It is a layer itself, and may stand in another Sequential.

    Args:
        layers: a list of layers. It may be changed later, by `add` or as every list (`model.layers[-1] = Dense(5)`):
            what is new in it is built before it is used.
        input_shape: the shape of one input, without the batch axis: (C, H, W) or (D,). Where it is None, it is taken
            from the first batch.
        seed: of the first weights, the shuffling and the dropout masks.
        dtype: of the weights and of all computation, "float32" or "float64".

    Attributes:
        layers, input_shape, seed, dtype: as in the arguments.
        names: one name for each layer: its kind, and its number among those of the kind, such as "conv2d_1".
        row: (name, layer) of all layers in a row; a Sequential inside is replaced by its layers.
        row_to_logits: the same without a closing Softmax: the layers that are trained.
        shapes: the input's shape and every layer's output shape, once built.

    Raises:
        InputError: something that is not a layer, one layer used twice, or layers that do not fit each other.

    >>> import numpy as np
    >>> from minicnn.core.layers import Dense, ReLU
    >>> from minicnn.core.losses import SoftmaxCrossEntropy
    >>> from minicnn.core.optimizers import SGD
    >>> model = Sequential([Dense(16), ReLU(), Dense(3)], input_shape=(4,))
    >>> x, labels = np.ones((2, 4), "float32"), np.array([0, 2])
    >>> logits, backward = model.forward(x, training=True)          # a training step is four lines
    >>> loss, dlogits = SoftmaxCrossEntropy()(logits, labels)
    >>> dx = backward(dlogits)
    >>> SGD().step(model.parameters())
    """

    needs_input_gradient = False

    def __init__(
        self, layers: Sequence[Layer] = (), input_shape: Shape | None = None, *, seed: int = 0, dtype: DType = "float32"
    ):
        if not isinstance(layers, (list, tuple)):
            raise InputError(f"Sequential needs a list of layers, got {layers!r}: put the layers into brackets []")
        self.layers = list(layers)
        self.seed = check_integer(seed, "seed", "Sequential", minimum=0)
        if dtype not in ("float32", "float64", np.float32, np.float64):
            raise InputError(f"Sequential computes in float32 or float64, not in {dtype!r}")
        self.dtype = np.dtype(dtype)
        self.input_shape: Shape | None = None
        self._update_row()
        if input_shape is not None:
            self.build(input_shape)

    def build(self, input_shape: Shape, rng: np.random.Generator | None = None, dtype: DType | None = None) -> Shape:
        """Build every layer for the shape that it receives; parameters that are there already are kept.

        Args:
            input_shape: the shape of one input, without the batch axis: (C, H, W) or (D,).
            rng: a `numpy.random.Generator` for the first weights; one with the model's seed where none is given.
            dtype: of the parameters; the model's where none is given.

        Returns:
            the shape of one output.

        Raises:
            InputError: not a shape, or one that the layers cannot compute with.

        >>> from minicnn.core.layers import Dense
        >>> Sequential([Dense(3)]).build((4,))
        (3,)
        """
        self._update_row()
        if not isinstance(input_shape, (list, tuple)):
            raise InputError(f"input_shape needs the shape of one input, such as (1, 28, 28), got {input_shape!r}")
        # A layer that joins later does not start from the same random numbers as the first one.
        rng = rng or np.random.default_rng(self.seed if self.input_shape is None else [self.seed, len(self.layers)])
        self.dtype = np.dtype(dtype or self.dtype)
        shapes = [tuple(check_integer(n, "input_shape", "Sequential") for n in input_shape)]
        for layer in self.layers:
            shapes.append(build_layer(layer, shapes[-1], rng, self.dtype))
            check_promise(layer, shapes[-2], shapes[-1], self.dtype)
        self.input_shape, self.shapes = shapes[0], shapes
        self._update_row()  # the layers of a Sequential inside may be new
        return shapes[-1]

    def add(self, layer: Layer) -> None:
        """Append a layer; where the model's shape is known, it is built.

        Args:
            layer: a layer that is not in the model yet.

        Raises:
            InputError: not a layer, one that the model has already, or one that does not fit; it is not appended.

        >>> from minicnn.core.layers import Dense, ReLU
        >>> model = Sequential(input_shape=(4,))
        >>> model.add(Dense(3))
        >>> model.add(ReLU())
        >>> model.layers
        [Dense(3), ReLU()]
        """
        self.layers.append(layer)
        try:
            self._update_row()
            if self.input_shape is not None:
                self.build(self.input_shape)
        except InputError:
            self.layers.pop()
            self._update_row()
            raise

    def output_shape(self, input_shape: Shape) -> Shape:
        for layer in self.layers:
            input_shape = layer.built_output_shape(input_shape)
        return tuple(input_shape)

    def members(self) -> Iterable[tuple[str, Any]]:
        """(name, layer) of the layers, and the other attributes but those that repeat the layers of the last build."""
        others = (item for item in vars(self).items() if item[0] not in REPEATED)
        return [*zip(self.names, self.layers, strict=False), *others]

    @property
    def ends_in_softmax(self) -> bool:
        """Whether the last layer is a Softmax, which `forward` leaves out."""
        return len(self.row) > len(self.row_to_logits)

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        """The output for a batch, and the backward pass.

        A Softmax at the end is left out here: the output is the logits, which `SoftmaxCrossEntropy` needs.

        Args:
            x: (N, *input_shape), floating point, or uint8 images, which are scaled to [0, 1].
            training: whether Dropout drops.

        Returns:
            y: the output (N, ...).
            backward: a function of `dy` that adds every parameter's gradient and returns `dx`. It can be
                called once, because it frees each layer's memory as it goes. With `input_gradient=False` it saves
                the work for `dx` and returns None.

        Raises:
            InputError: a batch that does not have the shape the network was built for, or an empty one.
        """
        x = self.prepare(x)
        layers = [layer for _, layer in self.row_to_logits]
        y, run_backward = operations.current.run(layers, x, training)
        called, shape, dtype = False, y.shape, y.dtype

        def backward(dy, input_gradient=True):
            nonlocal called
            if called or getattr(dy, "shape", None) != shape or getattr(dy, "dtype", None) != dtype:
                raise _backward_error(called, dy, shape, dtype)
            called = True
            dx = run_backward(dy, stop=None if input_gradient else first_trainable(layers))
            return dx if input_gradient else None

        return y, backward

    def __call__(self, x: Array) -> Array:
        """The output alone, through all layers, a closing Softmax included."""
        y, _ = self.forward(x)
        return self.row[-1][1](y) if self.ends_in_softmax else y

    def trace(self, x: Array, training: bool = False) -> Iterator[tuple[str, Layer, Array, Array, Backward]]:
        """Go through the layers one by one, up to the logits.

        Args:
            x, training: as for `forward`.

        Yields:
            (name, layer, x, y, backward): a layer, its input, its output and its backward pass.

        >>> from minicnn.core.layers import Dense, Softmax
        >>> model = Sequential([Dense(3), Softmax()], input_shape=(4,))
        >>> for name, layer, x, y, backward in model.trace(np.ones((2, 4), "float32")):
        ...     print(name, layer, x.shape, y.shape)
        dense_1 Dense(3) (2, 4) (2, 3)
        """
        x = self.prepare(x)
        for name, layer in self.row_to_logits:
            y, backward = layer.forward(x, training)
            yield name, layer, x, y, backward
            x = y

    def prepare(self, x: Array) -> Array:
        """A batch as the layers need it: an array of the backend in use, of the model's dtype.

        uint8 images are scaled from 0..255 to 0..1. Other floating point dtypes are converted to the model's.

        Args:
            x: (N, *input_shape), floating point or uint8.

        Returns:
            an array of the same shape and the model's dtype.

        Raises:
            InputError: another shape than (N, *input_shape), or a dtype that is neither floating point nor uint8.
        """
        self.check_batch(x)
        if self.input_shape is None or self.layers_changed():
            self.build(x.shape[1:])
        return operations.current.batch(x, self.dtype)

    def layers_changed(self) -> bool:
        """Whether layers were added or replaced since the last build, here or in a Sequential inside."""
        return any(part.layers != layers for part, layers in self._row_of)

    def check_batch(self, x: Array) -> None:
        """Refuse a batch whose shape or dtype the model cannot take; the errors are those of `prepare`.

        Args:
            x: the batch.
        """
        check_array(x, "the model")
        is_number = x.dtype.kind == "f" or x.dtype == np.uint8
        if not is_number or x.ndim < 2 or len(x) == 0 or self.input_shape not in (None, tuple(x.shape[1:])):
            raise self._batch_error(x, is_number)

    @property
    def independent_samples(self) -> bool | str:
        """That of the layers: a batch may be split where every layer allows it."""
        return shared_independence(self.layers)

    def multiply_adds(self, input_shape: Shape) -> int:
        shapes = [tuple(input_shape), *self.shapes[1:]]
        return sum(layer.multiply_adds(shape) for layer, shape in zip(self.layers, shapes, strict=False))

    def config(self) -> dict[str, Any]:
        # The shape is not kept: whoever holds this Sequential builds it.
        return {"layers": self.layers, "input_shape": None, "seed": self.seed, "dtype": str(self.dtype)}

    def _update_row(self):
        """Validate the layers, name them, and put those of a Sequential inside in its place."""
        counts, self.names, self.row, self._row_of = collections.Counter(), [], [], [(self, list(self.layers))]
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise InputError(f"Sequential needs layers, got {quoted(layer)}: did you forget the brackets ()?")
            kind = type(layer).__name__.lower()
            counts[kind] += 1
            name = f"{kind}_{counts[kind]}"
            self.names.append(name)
            if isinstance(layer, Sequential) and type(layer).forward is Sequential.forward:
                layer._update_row()
                self.row += [(f"{name}.{inner_name}", inner) for inner_name, inner in layer.row]
                self._row_of += layer._row_of
            else:
                self.row.append((name, layer))
        if len({id(layer) for _, layer in self.row}) < len(self.row):
            raise InputError("a layer stands twice in this Sequential: make a second one of its kind")
        closing = bool(self.row) and isinstance(self.row[-1][1], Softmax)
        self.row_to_logits = self.row[:-1] if closing else self.row

    def _batch_error(self, x, is_number):
        """The error for a batch that the model cannot take, with the likely fix."""
        expected, shape = self.input_shape, tuple(x.shape)
        if not is_number:
            needed = "the model needs floating point numbers or uint8 images"
            return InputError(f"{needed}, got {x.dtype}: {_conversion(x, self.dtype)}")
        if expected is None and x.ndim < 2:
            return InputError(f"the model needs a batch (N, ...), got shape {shape}")
        if expected in (None, shape[1:]):
            return InputError(f"the model needs one image at least, got a batch of shape {shape}")
        fix = ""
        if shape == expected:
            fix = ": add the batch axis with x[None]"
        elif shape[1:] == expected[1:] and expected[0] == 1:
            fix = ": add the channel axis with x[:, None]"
        elif shape[1:] == (*expected[1:], expected[0]):
            fix = ": move the channels forward with x.transpose(0, 3, 1, 2)"
        needed = ", ".join(map(str, ("N", *expected)))
        return InputError(f"the model needs a batch ({needed}), got shape {shape}{fix}")


def check_promise(layer, input_shape, output_shape, dtype):
    """Refuse a layer of the user's own whose `forward` returns no pair, or another shape than it promises."""
    if type(layer).__module__.partition(".")[0] == "minicnn":
        return  # what the library's own layers promise is tested
    returned = shape_returned(layer, input_shape, dtype)
    if returned != output_shape:
        raise InputError(
            f"{layer!r} promises outputs of the shape {output_shape} for inputs of the shape {input_shape}, and its "
            f"forward returned {returned}: give it a method output_shape(input_shape)"
        )


def _conversion(x, dtype):
    """How a batch of a dtype that a model cannot take is converted without losing what it means."""
    kind = x.dtype.kind
    if kind == "c":
        return "take x.real, x.imag or abs(x)"
    if kind == "O":
        return "it holds Python objects, such as None or rows of different lengths, where each must be a number"
    if kind not in "iu":
        return f"convert with x.astype('{dtype}')" if kind == "b" else "convert it to numbers that mean something"
    smallest, largest = (int(x.min()), int(x.max())) if x.size else (0, 0)
    if smallest < 0 or largest <= 1:
        return f"convert with x.astype('{dtype}')"
    if largest <= 255:
        return "convert pixels from 0 to 255 with x.astype('uint8'), which the model divides by 255"
    return f"convert with (x / {largest}).astype('{dtype}'), so that the numbers are between 0 and 1"


def _backward_error(called, dy, shape, dtype):
    if called:
        return InputError("backward was already called for this forward pass: call forward again")
    check_array(dy, "backward")
    return InputError(f"backward needs a gradient {shape} of {dtype}, got {dy.shape} of {dy.dtype}")


def first_trainable(layers):
    """The first layer that learns: nobody needs the gradients before it. None where no layer learns."""
    for layer in layers:
        if any(parameter.trainable for parameter in layer.parameters().values()):
            return layer
    return None
