"""What every layer is: one function and its backward pass; and a tree that holds other layers.

`forward` returns the output and a closure, `backward`, that takes the gradient
of the loss with respect to the output to the gradient with respect to the
input, and adds the gradient of each parameter. A layer keeps nothing of a
batch between calls: whatever the backward pass needs, the closure holds.

A layer may hold parameters, states, random generators and other layers, in
attributes, lists, tuples and dicts. One function, `walk`, finds them all.
"""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from minicnn.core import initializers, operations
from minicnn.core.arguments import Configured
from minicnn.core.checks import check_array, check_flag
from minicnn.core.errors import InputError
from minicnn.core.im2col import check_sample
from minicnn.core.messages import input_error, parameter_error
from minicnn.core.parameter import Parameter, State
from minicnn.core.types import Array, Backward, DType, Shape


@dataclasses.dataclass(frozen=True)
class Built:
    """What the last build of a layer was for, without the batch axis, and the shape that it found."""

    input_shape: Shape
    dtype: np.dtype
    output_shape: Shape


class Layer(Configured):
    """The base of all layers. A layer of your own needs `forward`; with parameters also `parameter_shapes`.

    The arguments of a layer's constructor are kept as attributes of the same names: `repr`, saving and
    loading read them from there. Layers that it holds are built, trained, saved and checked with it.

    >>> import numpy as np
    >>> from minicnn.core import initializers
    >>> class Scale(Layer):
    ...     factor_initializer = staticmethod(initializers.glorot_uniform)
    ...
    ...     def parameter_shapes(self, input_shape):
    ...         return {"factor": (1, *input_shape)}
    ...
    ...     def forward(self, x, training=False):
    ...         def backward(dy):
    ...             self.factor.add_gradient((dy * x).sum(axis=0, keepdims=True))
    ...             return dy * self.factor.value
    ...         return x * self.factor.value, backward
    >>> layer = Scale()
    >>> layer.build((3,))
    (3,)
    >>> layer(np.ones((2, 3), "float32")).shape, layer.parameters()
    ((2, 3), {'factor': Parameter((1, 3), float32)})
    """

    #: Whether `backward` must always compute the gradient of the input. Where it is False, `backward(dy,
    #: input_gradient=False)` saves that work for the first layer that learns, and returns None.
    needs_input_gradient = True

    #: Whether a backend may cut a batch into chunks and compute them at the same time:
    #:
    #: - True: each sample's output depends on that sample alone.
    #: - "evaluation": it does outside training only, as in Dropout, which draws one mask for the complete batch.
    #: - "means": in training it also depends on means over the batch, and on nothing else of the other samples, as in
    #:   BatchNorm. `mean` or `normalize` of `operations.current` must compute them: there the chunks exchange their
    #:   sums. A State is changed by a function given to `once`; otherwise each chunk would change it.
    #: - False: it depends on the other samples in another way.
    #:
    #: The value holds for the class that defines `forward`, and not for a subclass with a `forward` of its own.
    independent_samples: bool | str = False

    _trainable = True
    _built: Built | None = None

    def build(self, input_shape: Shape, rng: np.random.Generator | None = None, dtype: DType = "float32") -> Shape:
        """Validate the input's shape, make the parameters, and return the output's shape.

        Parameters that are there already are kept. Layers that this layer holds are built, too: each for the shape
        that it receives when an image of zeros goes through `forward`.

        Args:
            input_shape: the shape of one input, without the batch axis: (C, H, W) or (D,).
            rng: a `numpy.random.Generator` for the first weights; seed 0 where none is given.
            dtype: of the parameters, "float32" or "float64".

        Returns:
            the shape of one output, without the batch axis.

        Raises:
            InputError: the layer cannot compute with inputs of this shape, needs too much memory for a single one
                (`minicnn.im2col.BUDGET`), or has parameters that do not fit it.
        """
        rng = rng or np.random.default_rng(0)
        output_shape = tuple(self.output_shape(input_shape))
        check_sample(self, input_shape, output_shape)
        for name, shape in self.parameter_shapes(input_shape).items():
            if isinstance(getattr(self, name, None), Parameter):
                self._check_fit(name, shape, dtype)
            else:
                setattr(self, name, self._make_parameter(name, shape, rng, dtype))
        if self.layers_inside():
            output_shape = self._build_layers_inside(input_shape, rng, dtype)
        self._built = Built(tuple(input_shape), np.dtype(dtype), output_shape)
        return output_shape

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        """The shapes of the parameters by name, for one input's shape.

        `build` makes each with the layer's attribute `<name>_initializer`, a function as in
        `minicnn.initializers`.

        Args:
            input_shape: the shape of one input, without the batch axis: (C, H, W) or (D,).

        Returns:
            `{name: shape}`; empty for a layer that learns nothing.
        """
        return {}

    def initial_value(self, name: str, shape: Shape, rng: np.random.Generator, dtype: DType) -> Array:
        """The array that a parameter starts with: by default what `<name>_initializer` draws.

        Args:
            name: of the parameter.
            shape: of its array.
            rng: a `numpy.random.Generator`.
            dtype: "float32" or "float64".

        Returns:
            an array of that shape and dtype.
        """
        return getattr(self, f"{name}_initializer")(shape, rng, dtype)

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of one output, without the batch axis, for one input's shape.

        Args:
            input_shape: the shape of one input: (C, H, W) or (D,).

        Returns:
            the shape of one output; here that of the input.
        """
        return tuple(input_shape)

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        """The output `y` for the input `x`, and the backward pass: `backward(dy)` returns `dx`.

        Args:
            x: the batch, its first axis the samples: (N, C, H, W) or (N, D), of a floating point dtype.
            training: whether to compute as in training (Dropout then drops).

        Returns:
            y: the output, its first axis the samples, of the dtype of `x`.
            backward: a function of `dy`, an array of the shape of `y`. It adds the gradient of each parameter, and
                returns `dx`, of the shape of `x`.

        Change neither `x` nor `y` in place before the backward pass: it computes with them, as Tanh with its `y`, and
        the gradient would be wrong without a word. `y = y - t` makes a new array; `y -= t` does not.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a forward method")

    def __call__(self, x: Array) -> Array:
        """The output alone.

        Args:
            x: the batch (N, ...).

        Returns:
            y, as from `forward`, computed as outside training.
        """
        return self.forward(x)[0]

    def members(self) -> Iterable[tuple[str, Any]]:
        """(name, value) of everything that this layer holds: its attributes."""
        return vars(self).items()

    def parameters(self) -> dict[str, Parameter]:
        """The learned arrays of this layer and of all layers inside, by name; each once.

        >>> from minicnn.core.layers import Dense
        >>> layer = Dense(2)
        >>> layer.build((3,))
        (2,)
        >>> layer.parameters()
        {'weight': Parameter((2, 3), float32), 'bias': Parameter((2,), float32)}
        """
        return dict(walk(self, Parameter))

    def states(self) -> dict[str, State | np.random.Generator]:
        """The states and random generators of this layer and of all layers inside, by name; each once."""
        return dict(walk(self, (State, np.random.Generator)))

    def layers_inside(self) -> dict[str, "Layer"]:
        """The layers that this layer holds, directly or in other layers, by name; each once."""
        return dict(item for item in walk(self, Layer) if item[1] is not self)

    @property
    def trainable(self) -> bool:
        """Whether the layer learns. Set it to False to freeze the layer and all layers inside."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        value = check_flag(value, "trainable", type(self).__name__)
        for _, layer in walk(self, Layer):
            layer._trainable = value
        for parameter in self.parameters().values():
            parameter.trainable = value
            parameter.clear_gradient()

    def convert(self, dtype: DType | None = None) -> None:
        """Convert the parameters and states to a dtype, and move them to the backend in use.

        Args:
            dtype: "float32" or "float64"; None keeps it.

        >>> from minicnn.core.layers import Dense
        >>> layer = Dense(2)
        >>> layer.build((3,))
        (2,)
        >>> layer.convert("float64")
        >>> layer.weight
        Parameter((2, 3), float64)
        """
        for _, item in walk(self, (Parameter, State)):
            if getattr(getattr(item.value, "dtype", None), "kind", None) == "f":
                value = item.value if operations.current.owns(item.value) else operations.current.to_numpy(item.value)
                item.value = operations.current.array(value, dtype)
        for layer in (self, *self.layers_inside().values()):
            if dtype is not None and hasattr(layer, "dtype"):  # a Sequential converts its batches to it
                layer.dtype = np.dtype(dtype)  # type: ignore[attr-defined]

    def multiply_adds(self, input_shape: Shape) -> int:
        """How many products of a weight and an input one forward pass of one sample adds up.

        Args:
            input_shape: the shape of one input: (C, H, W) or (D,).

        Returns:
            an integer; 0 for a layer that multiplies by no weights.
        """
        inside = [layer for layer in self.layers_inside().values() if not layer.layers_inside()]
        return sum(layer.multiply_adds(layer.built_input_shape) for layer in inside if layer.built_input_shape)

    @property
    def built_input_shape(self) -> Shape | None:
        """The shape of one input for which the layer was last built, or None."""
        return self._built.input_shape if self._built else None

    def built_output_shape(self, input_shape: Shape) -> Shape:
        """The output's shape that `build` found for this input's shape; else `output_shape(input_shape)`.

        Args:
            input_shape: the shape of one input: (C, H, W) or (D,).

        Returns:
            the shape of one output.
        """
        if self._built and self._built.input_shape == tuple(input_shape):
            return self._built.output_shape
        return tuple(self.output_shape(input_shape))

    def config(self) -> dict[str, Any]:
        """The constructor's arguments by name: what a file keeps of the layer, besides its arrays.

        Raises:
            InputError: an argument is not kept as an attribute of its name.
        """
        arguments = self.arguments()
        lost = [name for name, value in arguments.items() if value is ...]
        if lost:
            raise InputError(
                f"{type(self).__name__} must keep its constructor's argument as an attribute of the same name: "
                f"self.{lost[0]} is missing"
            )
        return arguments

    def check_input(self, x: Array, ndim: int | None = None, features: int | None = None) -> None:
        """Refuse a batch that this layer cannot compute with.

        Args:
            x: the batch.
            ndim: how many axes it must have: 4 for images, 2 for vectors; None for any.
            features: the length its axis 1 must have; None for any.

        Raises:
            InputError: not an array of floating point numbers, or another shape; the message says what was received
                and the likely fix.
        """
        check_array(x, self)
        if x.dtype.kind != "f" or not x.size or ndim not in (None, x.ndim) or (features and x.shape[1] != features):
            raise input_error(self, x, ndim, features)

    def check_parameter(self, parameter: Parameter | None, x: Array) -> None:
        """Refuse to compute before the parameters are made, or with an input of another dtype or backend.

        Args:
            parameter: a Parameter of this layer; None before it is built.
            x: the batch.

        Raises:
            InputError: the message says how to build the layer or convert the input.
        """
        owns, dtype = operations.current.owns, getattr(x, "dtype", None)
        if parameter is None or parameter.value.dtype != dtype or not (owns(x) and owns(parameter.value)):
            raise parameter_error(self, parameter, x)

    def _make_parameter(self, name, shape, rng, dtype):
        initializer = getattr(self, f"{name}_initializer", None)
        if not callable(initializer):
            raise InputError(
                f"{self!r} needs a function as {name}_initializer, got {initializer!r}: "
                f"one of minicnn.initializers, such as initializers.{initializers.he_normal.__name__}"
            )
        value = self.initial_value(name, shape, rng, dtype)
        if tuple(value.shape) != tuple(shape):
            raise InputError(f"{self!r} needs a {name} {tuple(shape)} from its initializer, got {tuple(value.shape)}")
        parameter = Parameter(operations.current.array(value))
        parameter.trainable = self._trainable
        return parameter

    def _check_fit(self, name, shape, dtype):
        """A parameter that was there before must have the shape and dtype that are needed now."""
        value = getattr(self, name).value
        if tuple(value.shape) != tuple(shape) or value.dtype != dtype:
            raise InputError(
                f"{self!r} was built before: its {name} {tuple(value.shape)} of {value.dtype} does not fit here, where "
                f"{tuple(shape)} of {np.dtype(dtype)} is needed. Make a new layer, or convert it: layer.convert(dtype)"
            )

    def _build_layers_inside(self, input_shape, rng, dtype):
        """Send an image of zeros through `forward`; each layer inside is built for the shape that it receives."""

        def build_first(layer, x, *arguments, **options):
            build_layer(layer, x.shape[1:], rng, dtype)
            del layer.forward
            return layer.forward(x, *arguments, **options)

        inside = self.layers_inside().values()
        for layer in inside:
            layer.forward = functools.partial(build_first, layer)
        try:
            return shape_returned(self, input_shape, dtype)
        finally:
            for layer in inside:
                vars(layer).pop("forward", None)


HOLDERS = (Layer, Parameter, State, np.random.Generator, list, tuple, dict)  # what `walk` looks at


def walk(item, kinds, name=""):
    """(name, item) for every item of some kinds in a layer and all that it holds, each item once.

    Args:
        item: a layer; inside of it also a list, a tuple or a dict.
        kinds: a class, or a tuple of classes.
        name: of the item, before the names of what it holds: "layers.0.weight".

    Returns:
        a list, in which an item stands before what it holds.

    >>> from minicnn.core.layers import Dense, Tanh
    >>> class Block(Layer):
    ...     def __init__(self):
    ...         self.branches = {"left": [Dense(2), Tanh()], "right": [Dense(2)]}
    >>> [name for name, _ in walk(Block(), Dense)]
    ['branches.left.0', 'branches.right.0']
    """
    seen, waiting = {}, [(name, item)]
    while waiting:
        name, item = waiting.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = name, item
        if isinstance(item, Layer):
            members = item.members()
        elif isinstance(item, dict):
            members = item.items()
        else:
            members = enumerate(item) if isinstance(item, (list, tuple)) else ()
        waiting += reversed([(f"{name}.{key}", value) for key, value in members if isinstance(value, HOLDERS)])
    return [(name.removeprefix("."), item) for name, item in seen.values() if isinstance(item, kinds)]


def kept_arrays(layer):
    """(name, Parameter or State) of every array that a layer and the layers inside keep."""
    for name, item in walk(layer, (Parameter, State)):
        if getattr(item.value, "shape", None) is not None:
            yield name, item


@contextlib.contextmanager
def states_kept(layer):
    """A block that may change the states of a layer and of those inside: at its end they are as before."""
    before = {name: copy.deepcopy(_content(state)) for name, state in layer.states().items()}
    try:
        yield
    finally:
        for name, state in layer.states().items():
            if name in before and isinstance(state, np.random.Generator):
                state.bit_generator.state = before[name]
            elif name in before:
                state.value = before[name]


def _content(state):
    return state.bit_generator.state if isinstance(state, np.random.Generator) else state.value


def shape_returned(layer, input_shape, dtype):
    """The shape of one output, as `forward` returns it for an image of zeros; InputError if it returns no pair."""
    with states_kept(layer), np.errstate(all="ignore"):  # zeros may divide by zero
        result = layer.forward(operations.current.array(np.zeros((1, *input_shape), dtype)))
    if isinstance(result, tuple) and len(result) == 2 and callable(result[1]) and hasattr(result[0], "shape"):
        return tuple(result[0].shape[1:])
    raise InputError(
        f"{layer!r}: forward must return two things, the output and the backward pass, `return y, backward` with a "
        f"function backward(dy) that returns dx; it returned {type(result).__name__}"
    )


def build_layer(layer, input_shape, rng, dtype):
    """Build a layer; one that has parameters keeps them, or is refused where they do not fit.

    Returns:
        the shape of one output.

    Raises:
        InputError: the layer cannot compute with inputs of this shape; its parameters do not fit; or its `build`
            would draw them again.
    """
    before, attributes = layer.parameters(), dict(vars(layer))
    shape = tuple(layer.build(tuple(input_shape), rng, dtype))
    built, after = Built(tuple(input_shape), np.dtype(dtype), shape), layer.parameters()
    if any(after.get(name) is not parameter for name, parameter in before.items()):  # a build that makes new ones
        vars(layer).clear()
        vars(layer).update(attributes)
        if layer._built != built:
            raise InputError(
                f"{layer!r} was built before, for inputs of another shape or dtype, and its build makes new "
                "parameters: the old ones would be lost. Make a new layer, or let its build keep the old parameters"
            )
    layer._built = built
    for _, inside in walk(layer, Layer):
        if not inside.trainable:
            inside.trainable = False  # its new parameters, too
    return shape


def independent_samples(layer, training, sharing=None):
    """Whether a batch may be cut into chunks, each of which goes through a layer by itself.

    Args:
        layer: the layer; its attribute of the same name says what holds for it.
        training: whether it computes as in training.
        sharing: "means" where all chunks are computed at the same time, and `Operations.mean` is the mean of all of
            them; None where each is computed without the others.
    """
    for kind in type(layer).__mro__:
        if "independent_samples" in vars(kind):
            independent = layer.independent_samples
            if independent in ("evaluation", "means") and not training:
                return True
            return independent is True or (independent == "means" and sharing == "means")
        if "forward" in vars(kind):
            return False  # a forward of its own, of which the class does not say that it may
    return False


def shared_independence(layers):
    """`independent_samples` of a layer that holds others: a batch may be split where every one of them allows it."""
    layers = list(layers)
    for independent, training, sharing in ((True, True, None), ("means", True, "means"), ("evaluation", False, None)):
        if all(independent_samples(layer, training, sharing) for layer in layers):
            return independent
    return False
