"""Blocks: layers that hold rows of layers. Each row receives the block's input, and their outputs are joined.

A row of many layers is hard to train, because the gradient must pass through
all of them. In a block it has a shorter way: the gradient of a sum is passed to
every row unchanged, and where one of them is empty, straight to the layer
before the block.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from minicnn.core import operations
from minicnn.core.errors import InputError
from minicnn.core.layer import Built, Layer, build_layer, shared_independence
from minicnn.core.types import Array, Backward, DType, Shape


class Block(Layer):
    """What residual blocks and branches share: the rows are built and run as a `Sequential` does with its own."""

    def rows(self) -> dict[str, list[Layer]]:
        """`{name: list of layers}`; a row without layers returns its input.

        Returns:
            a dict in the order of the outputs.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a rows method")

    def combined_shape(self, shapes: list[Shape]) -> Shape:
        """The shape of one output, from those of the rows.

        Args:
            shapes: one for each row.

        Returns:
            the shape of one output, without the batch axis.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a combined_shape method")

    def combine(self, outputs: list[Array]) -> tuple[Array, Callable[[Array], list[Array]]]:
        """The outputs of the rows as one, and a function of its gradient to a list of theirs.

        Args:
            outputs: the arrays (N, ...) of the rows, in their order.

        Returns:
            (y, split): the output, and a function of dy to the list of the gradients of the outputs.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a combine method")

    def build(self, input_shape: Shape, rng: np.random.Generator | None = None, dtype: DType = "float32") -> Shape:
        rng = rng or np.random.default_rng(0)
        shapes = []
        for row in self.rows().values():
            shape = tuple(input_shape)
            for layer in row:
                shape = build_layer(layer, shape, rng, dtype)
            shapes.append(shape)
        output_shape = self.combined_shape(shapes)
        self._built = Built(tuple(input_shape), np.dtype(dtype), output_shape)
        return output_shape

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        found = {}
        for name, row in self.rows().items():
            shape = tuple(input_shape)
            for index, layer in enumerate(row):
                for key, parameter_shape in layer.parameter_shapes(shape).items():
                    found[f"{name}.{index}.{key}"] = parameter_shape
                shape = tuple(layer.output_shape(shape))
        return found

    def output_shape(self, input_shape: Shape) -> Shape:
        shapes = []
        for row in self.rows().values():
            shape = tuple(input_shape)
            for layer in row:
                shape = layer.built_output_shape(shape)
            shapes.append(shape)
        return self.combined_shape(shapes)

    @property
    def independent_samples(self) -> bool | str:
        """That of the layers inside: a batch may be split where every one of them allows it."""
        return shared_independence(layer for row in self.rows().values() for layer in row)

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_input(x)
        passes = [operations.current.run(row, x, training) for row in self.rows().values()]
        y, split = self.combine([output for output, _ in passes])
        backwards = [row_backward for _, row_backward in passes]

        def backward(dy):
            if not backwards:
                raise InputError("backward was already called for this forward pass: call forward again")
            return _sum([backwards.pop(0)(dy_row) for dy_row in split(dy)])

        return y, backward

    def checked_row(self, layers: Sequence[Layer], name: str) -> list[Layer]:
        """A layer, or a list of layers, as a new list.

        Args:
            layers: what was given as a row.
            name: of the argument, for an error.

        Returns:
            the layers, as a list of its own.

        Raises:
            InputError: something else.
        """
        row = [layers] if isinstance(layers, Layer) else layers
        if not isinstance(row, (list, tuple)):
            raise InputError(f"{type(self).__name__} needs {name} as a list of layers, got {layers!r}")
        for layer in row:
            if not isinstance(layer, Layer):
                raise InputError(
                    f"{type(self).__name__} needs layers in {name}, got {layer!r}: did you forget the brackets ()?"
                )
        return list(row)

    def check_each_once(self) -> None:
        """Refuse a layer that stands in two places of this block."""
        layers = [id(layer) for row in self.rows().values() for layer in row]
        if len(set(layers)) < len(layers):
            raise InputError(f"a layer stands twice in this {type(self).__name__}: make a second one of its kind")


class Residual(Block):
    """A row of layers that learns what to add to its input.

        y = f(x) + shortcut(x)

    with f the layers in a row, and the shortcut the identity unless layers are given. Backward:
    `dx = f's backward of dy + the shortcut's backward of dy`; through the identity that is dy itself, so the gradient
    reaches the layers before the block however many layers it holds.

    Input: any shape that the layers take. Output: that of the layers, which must be that of the shortcut.

    Args:
        layers: a list of layers, or one.
        shortcut: a list of layers, or one; None for the identity. Where the layers change the number of channels or
            the size of the images, it needs a convolution of 1x1: `shortcut=Conv2D(filters, 1, stride=2)`.

    Attributes:
        layers, shortcut: lists of layers; the shortcut None where it is the identity.

    Raises:
        InputError: no layers, or something that is not a layer; one layer in two places; when built, outputs of
            different shapes, which cannot be added.

    >>> import numpy as np
    >>> from minicnn.core.layers import Conv2D, ReLU
    >>> block = Residual([Conv2D(4, 3, padding="same"), ReLU()], shortcut=Conv2D(4, 1))
    >>> block.build((2, 6, 6))
    (4, 6, 6)
    >>> block(np.ones((1, 2, 6, 6), "float32")).shape, list(block.parameters())[2:]
    ((1, 4, 6, 6), ['shortcut.0.weight', 'shortcut.0.bias'])

    Source: He, Zhang, Ren & Sun, "Deep residual learning for image recognition", 2016.
    """

    def __init__(self, layers: Sequence[Layer], *, shortcut: Sequence[Layer] | None = None):
        self.layers = self.checked_row(layers, "layers")
        self.shortcut = None if shortcut is None else self.checked_row(shortcut, "shortcut")
        if not self.layers:
            raise InputError("Residual needs a layer at least")
        self.check_each_once()

    def rows(self) -> dict[str, list[Layer]]:
        return {"layers": self.layers, "shortcut": self.shortcut or []}

    def combined_shape(self, shapes: list[Shape]) -> Shape:
        of_layers, of_shortcut = map(tuple, shapes)
        if of_layers != of_shortcut:
            raise self._shapes_error(of_layers, of_shortcut)
        return of_layers

    def combine(self, outputs: list[Array]) -> tuple[Array, Callable[[Array], list[Array]]]:
        self.combined_shape([y.shape[1:] for y in outputs])
        return _sum(outputs), lambda dy: [dy, dy]

    def _shapes_error(self, of_layers, of_shortcut):
        what = "the shortcut" if self.shortcut else "the input, which is the shortcut,"
        fix = "give it a shortcut of layers that ends in the shape of the others"
        if len(of_layers) == len(of_shortcut) == 1 and not self.shortcut:
            fix = f"shortcut=Dense({of_layers[0]}, use_bias=False)"
        elif len(of_layers) == len(of_shortcut) == 3 and not self.shortcut:
            filters, OH, OW = of_layers
            stride = tuple(-(-size // smaller) for size, smaller in zip(of_shortcut[1:], (OH, OW), strict=True))
            if tuple(-(-size // s) for size, s in zip(of_shortcut[1:], stride, strict=True)) == (OH, OW):
                stride = stride[0] if stride[0] == stride[1] else stride
                fix = f"shortcut=Conv2D({filters}, 1{'' if stride == 1 else f', stride={stride}'})"
            else:
                fix = f'convolutions with padding="same" keep the size; shortcut=Conv2D({filters}, 1) the channels'
        return InputError(
            f"Residual cannot add {of_layers}, the output of its layers, and {of_shortcut}, the shape of {what} "
            f"because they differ: {fix}"
        )


class Branches(Block):
    """Several rows of layers, each with the same input; their outputs are added, or concatenated along axis 1.

        y = f1(x) + f2(x) + ...                                 with join="add"
        y = f1(x)'s channels, then f2(x)'s channels, ...        with join="concatenate"

    Backward: `dx` is the sum of what the rows' backward passes return, each for all of dy (add), or for the channels
    of dy that are its own (concatenate).

    Input: any shape that the layers take. Output: that of the rows, with the sum of their channels if concatenated.

    Args:
        branches: a list of lists of layers, two at least. An empty list is the identity: `[[...], []]` with
            "concatenate" is a block of a DenseNet.
        join: "add" or "concatenate".

    Attributes:
        branches: a list of lists of layers.

    Raises:
        InputError: fewer than two branches, or something that is not a layer in them; one layer in two places; an
            unknown join; when built, outputs of shapes that cannot be joined.

    >>> import numpy as np
    >>> from minicnn.core.layers import Conv2D
    >>> block = Branches([[Conv2D(4, 1)], [Conv2D(2, 3, padding="same")], []], join="concatenate")
    >>> block.build((3, 6, 6))
    (9, 6, 6)
    >>> block(np.ones((1, 3, 6, 6), "float32")).shape
    (1, 9, 6, 6)

    Source: Szegedy et al., "Going deeper with convolutions", 2015; with the identity: Huang et al., "Densely connected
    convolutional networks", 2017.
    """

    def __init__(self, branches: Sequence[Sequence[Layer]], *, join: str = "add"):
        if not isinstance(branches, (list, tuple)) or len(branches) < 2:
            raise InputError(f"Branches needs a list of two lists of layers at least, got {branches!r}")
        if join not in ("add", "concatenate"):
            raise InputError(f"Branches needs join as 'add' or 'concatenate', got {join!r}")
        self.branches = [self.checked_row(row, "branches") for row in branches]
        self.join = join
        self.check_each_once()

    def rows(self) -> dict[str, list[Layer]]:
        return {f"branches.{index}": row for index, row in enumerate(self.branches)}

    def combined_shape(self, shapes: list[Shape]) -> Shape:
        first = tuple(shapes[0])
        start = 0 if self.join == "add" else 1  # the axes from here on must be the same
        if any(len(shape) != len(first) or tuple(shape)[start:] != first[start:] for shape in shapes):
            raise self._shapes_error(shapes)
        return first if self.join == "add" else (sum(shape[0] for shape in shapes), *first[1:])

    def combine(self, outputs: list[Array]) -> tuple[Array, Callable[[Array], list[Array]]]:
        shape = self.combined_shape([y.shape[1:] for y in outputs])
        if self.join == "add":
            return _sum(outputs), lambda dy: [dy] * len(outputs)
        edges = [0, *itertools.accumulate(y.shape[1] for y in outputs)]
        channels = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
        combined = np.empty_like(outputs[0], shape=(len(outputs[0]), *shape))
        for part, y in zip(channels, outputs, strict=True):
            combined[:, part] = y
        return combined, lambda dy: [dy[:, part] for part in channels]

    def _shapes_error(self, shapes):
        found = ", ".join(str(tuple(shape)) for shape in shapes)
        fix = "their height and width must be the same"
        if self.join == "add":
            fix = 'they must be the same: end each in as many channels, or use join="concatenate"'
        return InputError(f"Branches cannot {self.join} outputs of the shapes {found}: {fix}")


def _sum(arrays):
    return functools.reduce(lambda a, b: operations.current.elementwise(operations.add, a, b), arrays)
