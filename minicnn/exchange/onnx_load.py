"""A network from an ONNX file, as layers of this library.

Two things are in the way. An ONNX graph may connect its nodes as it likes, and
a `Sequential` is a row of layers, in which `Residual` and `Branches` hold rows
of their own. So each array that layers compute becomes a `Node` of `blocks.py`,
which finds the rows: where several arrays are added or concatenated, they begin at
the last array that all of them are computed from.

And a graph of TensorFlow keeps images as (N, H, W, C) and transposes them
around every convolution. Here they are (N, C, H, W) at all times. A transpose or
a reshape therefore becomes no layer; it is noted which axis of the file's array
is which of ours (`Value`), and the weights of a dense layer behind a
flattened image are put into our order.

`onnx_graph.py` reads the file, `onnx_layers.py` says which layer an operator is, and
`onnx_arrays.py` what becomes of the operators that are no layers.
"""

import numpy as np

from minicnn.core.checks import check_integer, quoted
from minicnn.core.errors import FileError, InputError
from minicnn.core.layers import (
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Flatten,
    GlobalAvgPool2D,
    GlobalMaxPool2D,
    GroupNorm,
    UpSampling2D,
    ZeroPad2D,
)
from minicnn.core.parameter import Parameter
from minicnn.core.types import Path, Shape
from minicnn.exchange.blocks import Forks, as_row
from minicnn.exchange.blocks import Node as Step
from minicnn.exchange.classes import set_classes
from minicnn.exchange.onnx_arrays import recognized
from minicnn.exchange.onnx_graph import Folder, read_graph
from minicnn.exchange.onnx_layers import OPERATORS
from minicnn.exchange.onnx_values import UnsupportedError, Value, short, short_padding
from minicnn.model import Sequential

#: The size of the batch where a file leaves it open: a prime, so that no product of other sizes is mistaken for it.
_OPEN_BATCH = 1_000_003


def load_onnx(path: Path, *, input_shape: Shape | None = None) -> Sequential:
    """Read a network from an ONNX file, as PyTorch, Keras and tf2onnx write them.

    The network takes images (N, C, H, W), also where the file's are (N, H, W, C), and its outputs are those of the
    file; where they are images, they are (N, C, H, W), too. It is trained, saved and explained like any other network.
    Batch normalization that the exporter has merged into a convolution is lost. A scale or shift by constants, such as
    that of the pixels at the beginning, becomes a frozen `BatchNorm`. A weight that two nodes use becomes two. A
    network that divides the pixels by 255 itself needs them as floating point numbers, because uint8 images are divided
    already; `predict` warns of it.

    No code of the file is run. Arrays in other files are read in the folder of the ONNX file only.

    Args:
        path: the file.
        input_shape: (C, H, W) or (D,), for a file that leaves the size of its input open.

    Returns:
        a `Sequential` on the backend in use, in float64 where the file's input is. `classes` is set where the file's
        metadata has them: a JSON list under the key "classes".

    Raises:
        FileError: the file cannot be read, or has a node that no layer corresponds to; the message says which one,
            and what would have to change.
        MissingPackageError: the package onnx is not installed.

    >>> import tempfile
    >>> import minicnn as mc
    >>> path = tempfile.mkdtemp() + "/model.onnx"
    >>> mc.exchange.save_onnx(mc.Sequential([mc.Dense(3), mc.Softmax()], input_shape=(4,)), path)
    >>> load_onnx(path).layers
    [Dense(3), Softmax()]

    Source: the operators are specified at https://onnx.ai/onnx/operators/.
    """
    graph = read_graph(path)
    try:
        network = Network(graph, input_shape)
        layers = network.layers()
        model = Sequential(layers, network.input_shape, dtype=graph.dtype)
    except UnsupportedError as error:
        raise FileError(f"{quoted(path, 300)} cannot become a Sequential: {error}") from error
    except InputError as error:
        raise FileError(f"{quoted(path, 300)} does not make a network: {error}") from error
    except RecursionError as error:
        raise FileError(f"{quoted(path, 300)} cannot become a Sequential: its blocks are nested too deeply") from error
    if layers and layers[0] in network.constant_scales and np.abs(layers[0].scale.value).max() < 0.05:
        model.learned_range = 0.0, 255.0  # it divides the pixels itself
    model.convert()
    set_classes(model, graph.metadata.get("classes"), path)
    return model


#: What would have to change, for operators whose origin is known.
_HINTS = {
    "If": "it holds graphs of its own; the newer exporter of PyTorch writes none, torch.onnx.export(..., dynamo=True)",
    "Tile": "it repeats an array, and UpSampling2D each pixel: a Resize by nearest neighbours can be read",
    "Expand": "Keras may write UpSampling2D so; a Conv2DTranspose can be read, and a Resize by nearest neighbours",
    "QLinearConv": "it computes with 8-bit integers: export the network before it is quantized",
    "ConvInteger": "it computes with 8-bit integers: export the network before it is quantized",
    "QuantizeLinear": "it computes with 8-bit integers: export the network before it is quantized",
}


class Network:
    """The graph while its nodes become layers, one after the other.

    Args:
        graph: a `Graph`.
        input_shape: of one sample, or None for the file's.

    Attributes:
        input_shape: of one sample, as the `Sequential` takes it.
        arrays: the constants by name, those that were computed included.
        values: for each array that depends on the input, its `Value`.
        steps: for each of them, the `blocks.Node` that computes it.
        forks: for each of them, and for those that no layer computes, the last array that all ways to it pass.
        nodes: by the names of what they write.
        wide_pools: the poolings whose window is as large as the image.
        constant_scales: the layers that stand for a scale and a shift by constants.
        concatenated: what is the concatenation of which arrays.
        numbers_left: how many more numbers the layers may keep; many nodes can use one array of a small file.
        evaluations: how many more nodes may be computed at some points, to recognize a function.
    """

    def __init__(self, graph, input_shape=None):
        self.graph, self.arrays = graph, dict(graph.arrays)
        self.folder = Folder(graph.arrays)
        self.errors, self.forks = {}, Forks(graph.input)
        self.nodes = {name: node for node in graph.nodes for name in node.outputs}
        self.wide_pools, self.constant_scales, self.concatenated = set(), set(), {}
        self.evaluations = 20_000
        self.numbers_left = 2**22 + 16 * sum(array.size for array in graph.arrays.values())
        value, self.batch = self._input(input_shape)
        self.input_shape = value.shape
        self.values, self.steps = {graph.input: value}, {graph.input: Step(())}
        written = {graph.input, *graph.arrays}
        for node in graph.nodes:
            outputs = [name for name in node.outputs if name]
            if not written.isdisjoint(outputs) or len(set(outputs)) < len(outputs):
                raise UnsupportedError(f"{node} writes an array that is there already")
            written.update(outputs)
            self._add(node)

    # For the operators

    def value(self, name):
        """The `Value` of an array that depends on the input; raises what was wrong with the node that writes it."""
        if name in self.errors:
            raise self.errors[name]
        if name in self.arrays:
            raise UnsupportedError("it reads a constant where it needs what was computed from the input")
        if name not in self.values:
            raise UnsupportedError(f"it reads {quoted(name)}, which no node before it writes")
        return self.values[name]

    def is_constant(self, name):
        """Whether an array is the same for every input."""
        return name in self.arrays

    def constant(self, node, index, default=None):
        """An input of a node that must be known, as an array; the default where it is left out."""
        if not node.has(index):
            return default
        name = node.inputs[index]
        if name in self.errors:
            raise self.errors[name]
        if name not in self.arrays:
            raise UnsupportedError(
                f"its input {quoted(name)} is computed from the network's input, and a layer needs it as a constant: "
                "export the network for one size of the input"
            )
        return self.arrays[name]

    def put(self, node, source, layers, value=None):
        """Let the first output of a node be computed by a layer, or by several in a row.

        Args:
            node: the node.
            source: the name of the array that the first layer reads.
            layers: a layer or a list of layers; [] where the numbers stay the same.
            value: of the output; by default that of the source, with the shape that the layers give it.
        """
        layers = layers if isinstance(layers, list) else [layers]
        if value is None:
            value, shape = self.values[source], self.values[source].own_shape
            for layer in layers:
                shape = tuple(layer.output_shape(shape))
            value = value.with_shape(shape)
        if len(value.axes) == 1 and len(value.own_shape) == 3:  # a vector in the file, an image here
            layers, value = [*layers, Flatten()], value.flattened()
        self._set(node, value, Step((source,), tuple(layers), text=str(node)))

    def join(self, node, names, join, value):
        """Let the first output of a node be the sum of several arrays, or their concatenation."""
        self._set(node, value, Step(tuple(names), join=join, text=str(node)))

    def _set(self, node, value, step):
        name = node.outputs[0]
        self.values[name], self.steps[name] = value, step
        self.forks.add(name, step.inputs)

    # From nodes to steps

    def _input(self, input_shape):
        """The `Value` of the input, and the size of the batch."""
        dims = self.graph.input_dims
        if len(dims) not in (2, 3, 4):
            raise UnsupportedError(
                f"its input has the shape {_shown(dims)}, and a Sequential takes images (N, C, H, W) or vectors (N, D)"
            )
        batch, *sample = dims
        last = len(sample) == 3 and _is_channels_last(self.graph)
        order = {3: (1, 2, 0) if last else (0, 1, 2), 2: (1, 2), 1: (0,)}[len(sample)]  # the axes of ours
        shape = [1] * 3 if len(sample) > 1 else [None]  # (N, H, W) is an image of one channel
        for axis, size in zip(order, sample, strict=True):
            shape[axis] = size
        if input_shape is not None:
            is_shape = isinstance(input_shape, (tuple, list)) and len(input_shape) == len(shape)
            if not is_shape or any(n not in (None, given) for n, given in zip(shape, input_shape, strict=True)):
                raise UnsupportedError(
                    f"input_shape={quoted(input_shape)} does not fit its input, which is {_shown(('N', *shape))}"
                )
            shape = [check_integer(n, "input_shape", "load_onnx") for n in input_shape]
        if None in shape or min(shape) < 1 or (batch is not None and batch < 1):
            raise UnsupportedError(
                f"its input has the open shape {_shown(('N', *shape))}: say the size, as in "
                "load_onnx(path, input_shape=(3, 224, 224)), or on the command line --input-shape 3,224,224"
            )
        return Value(tuple(map(int, shape)), tuple((axis,) for axis in order)), batch or _OPEN_BATCH

    def _add(self, node):
        """Compute a node's constant, or make its layers; an error is kept until somebody needs the output."""
        names = [name for name in node.inputs if name]
        try:
            if all(name in self.arrays for name in names):
                self._fold(node)
            elif node.operator == "Shape" and node.inputs[0] in self.values:
                start, end = node.attributes.get("start", 0), node.attributes.get("end", None)
                shape = (self.batch, *self.values[node.inputs[0]].file_shape)[start:end]
                self.arrays[node.outputs[0]] = np.array(shape, "int64")
            else:
                self._make_layers(node, names)
        except UnsupportedError as error:
            self._fail(node, names, error)
        except (InputError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            self._fail(node, names, UnsupportedError(quoted(error, 300)[1:-1]))
        for name in node.outputs[1:]:
            self.errors.setdefault(name, UnsupportedError(f"{node}: only its first output is computed here"))

    def _fold(self, node):
        array = self.folder.fold(node, [self.arrays.get(name) for name in node.inputs])
        if array is None:
            raise UnsupportedError(
                "it computes a constant by an operator that is not computed here: simplify the file first"
            )
        self.arrays[node.outputs[0]] = array

    def _make_layers(self, node, names):
        if node.operator not in OPERATORS:
            for name in names:
                if name in self.errors:
                    raise self.errors[name]
            hint = _HINTS.get(node.operator, "build the network without it, and export it again")
            raise UnsupportedError(f"no layer here computes it: {hint}")
        OPERATORS[node.operator](self, node)

    def _fail(self, node, names, error):
        sources = [name for name in names if name in self.forks.of]
        try:
            found = recognized(self, node, sources) if sources and node.outputs else None
            if found is not None:
                return found()
        except UnsupportedError as better:
            error = better
        if not error.located:
            error = UnsupportedError(f"{node}: {error}", located=True)
        for name in node.outputs:
            self.errors[name] = error
            if sources:
                self.forks.add(name, sources)

    # From steps to rows

    def layers(self):
        """The layers of the whole network, in a row."""
        if len(self.graph.outputs) != 1:
            names = quoted(", ".join(self.graph.outputs), 200)
            raise UnsupportedError(
                f"it has {len(self.graph.outputs)} outputs ({names}), and a Sequential has one: cut the others off "
                "with onnx.utils.extract_model"
            )
        output = self.graph.outputs[0]
        value = self.value(output)
        if value.is_vector and not value.in_order:
            raise UnsupportedError(
                "its output is a flattened image (H, W, C), and vectors here have the order (C, H, W)"
            )
        return as_row(self.steps, self.graph.input, output, self._simplified)

    def _simplified(self, layers):
        """The same layers in a row, where two that follow each other are one layer here."""
        found = []
        for layer in layers:
            before = found[-1] if found else None
            if isinstance(layer, Flatten) and before in self.wide_pools:
                found[-1] = GlobalAvgPool2D() if isinstance(before, AvgPool2D) else GlobalMaxPool2D()
            elif isinstance(layer, Conv2D) and isinstance(before, ZeroPad2D) and layer.padding != "same":
                found[-1] = _padded(layer, before)
            elif isinstance(before, UpSampling2D) and isinstance(layer, UpSampling2D):
                sizes = zip(before.window.stride, layer.window.stride, strict=True)
                found[-1] = UpSampling2D(short([first * second for first, second in sizes]))
            elif layer not in self.constant_scales or not _scale(before, layer):
                found.append(layer)
        return found


def _padded(layer, padding):
    """A convolution that does the work of the padding before it, too."""
    pads = zip(layer.window.padding, padding.pads, strict=True)
    pads = tuple((top + more_top, bottom + more_bottom) for (top, bottom), (more_top, more_bottom) in pads)
    made = Conv2D(**layer.config() | {"padding": short_padding(pads)})
    made.weight, made.bias = layer.weight, layer.bias
    return made


def _scale(layer, scaling):
    """Put a scale and a shift of each channel into the weights of the layer before them; whether that can be done."""
    scale, shift = scaling.scale.value, scaling.shift.value
    if isinstance(layer, (BatchNorm, GroupNorm)):
        layer.scale.value = layer.scale.value * scale
        layer.shift.value = layer.shift.value * scale + shift
        return True
    if not isinstance(layer, (Conv2D, Conv2DTranspose, Dense)) or (
        isinstance(layer, Conv2DTranspose) and layer.groups > 1
    ):
        return False
    axis = 1 if isinstance(layer, Conv2DTranspose) else 0  # of the weight: that of the output channels
    ndim = layer.weight.value.ndim
    layer.weight.value = layer.weight.value * scale.reshape([-1 if i == axis else 1 for i in range(ndim)])
    if layer.bias is not None:
        shift = layer.bias.value * scale + shift
    layer.use_bias, layer.bias = True, Parameter(shift)
    return True


#: Operators that change no axis: they say nothing about the layout of the input.
_NEUTRAL = {"Add", "Cast", "Div", "Identity", "Mul", "Sub"}


def _is_channels_last(graph):
    """Whether the input's images are (N, H, W, C).

    The file may say so. If not, it is seen by what reads them; else by which axis is as long as channels may be.
    """
    if graph.channel_axis is not None:
        return graph.channel_axis == 3
    names = {graph.input}
    for node in graph.nodes:
        if names.isdisjoint(node.inputs):
            continue
        if node.operator in _NEUTRAL:
            names.update(node.outputs)
        elif node.operator == "Transpose":
            return node.attributes.get("perm") == [0, 3, 1, 2]
        elif node.operator not in ("Reshape", "Shape", "Flatten", "Pad"):
            return False
    _, first, _, last = graph.input_dims
    return last in (1, 3, 4) and first not in (1, 3, 4)


def _shown(dims):
    return f"({', '.join('?' if n is None else str(n) for n in dims)})"
