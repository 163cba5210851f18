"""A model as an ONNX file, which programs of many kinds can run: each layer becomes a node of a graph.

A node has an operator's name such as "Conv", the names of the arrays that it
reads and writes, and attributes such as the stride. The weights are arrays in
the file, the initializers. Nodes and arrays have the names of the model's
layers and parameters: what `conv2d_1` writes is called `conv2d_1`, and it reads
`conv2d_1.weight`.

The functions below, one for each kind of layer, say what a layer is in ONNX.
A file computes what `predict` computes; nothing in it trains.
"""

import json

import numpy as np

from minicnn import console
from minicnn.core import operations, sequential
from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.core.layer import kept_arrays
from minicnn.core.layers import (
    ELU,
    GELU,
    AvgPool2D,
    BatchNorm,
    Branches,
    Clip,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    GlobalMaxPool2D,
    GroupNorm,
    Hardswish,
    LayerNorm,
    LeakyReLU,
    LocalResponseNorm,
    LogSoftmax,
    MaxPool2D,
    PReLU,
    ReLU,
    Residual,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    UpSampling2D,
    ZeroPad2D,
)
from minicnn.core.types import Path
from minicnn.exchange.onnx_graph import import_onnx
from minicnn.inspect.summary import check_built
from minicnn.model import Sequential
from minicnn.storage.files import atomic_write, path_text

OPSET = 17  # the version of the operators: the first with LayerNormalization; what needs a newer one says so
DENOTATIONS = ["DATA_BATCH", "DATA_CHANNEL", "DATA_FEATURE", "DATA_FEATURE"]  # ONNX's names of the axes N, C, H, W
SIZE_LIMIT = 2**31 - 2**20  # bytes of all arrays: the file's format ends at 2 GiB


def save_onnx(model: Sequential, path: Path, *, logits: bool = False) -> None:
    """Write a model to an ONNX file, atomically. The file gives the answers that `model.predict` gives.

    The graph has one input, "input", float32 of the model's input shape after a batch axis N of any length, and one
    output, "output". Unlike `predict`, it does not divide uint8 images by 255: do that before. Dropout is there and
    passes its input on, as at all times outside training. The names of the classes are in the file's metadata,
    under "classes", as JSON.

    The file has the operators' version (opset) 17; a GELU needs 20, a GroupNorm 21. `onnx.checker` has checked
    it, with the shapes between the layers.

    Args:
        model: a built `Sequential` of layers of this library. One that computes in float64 is written in float32, with
            a warning: programs that run ONNX files have no convolution in float64.
        path: the file, by habit with the suffix `.onnx`.
        logits: whether a closing Softmax is left out, so that the output is what a loss of another library needs.

    Raises:
        InputError: the model is not built; a layer of your own, which ONNX cannot express; more than 2 GiB.
        FileError: the file cannot be written; an older file at `path` is unharmed.
        MissingPackageError: the package onnx is not installed.

    >>> import tempfile, onnx
    >>> import minicnn as mc
    >>> path = tempfile.mkdtemp() + "/lenet5.onnx"
    >>> save_onnx(mc.networks.lenet5(), path)
    >>> [node.op_type for node in onnx.load(path).graph.node][:4]
    ['Conv', 'Tanh', 'AveragePool', 'Conv']

    Source: the operators are specified at https://onnx.ai/onnx/operators/.
    """
    path = path_text(path)
    if not isinstance(model, sequential.Sequential):
        raise InputError(f"save_onnx needs a Sequential, got {quoted(model)}: put the layer into mc.Sequential([...])")
    data = onnx_model(model, logits).SerializeToString()
    with atomic_write(path) as file:
        file.write(data)


def onnx_model(model, logits=False):
    """A model as an `onnx.ModelProto`, checked; the arguments and errors are those of `save_onnx`."""
    onnx = import_onnx()
    _check_inherited("the model", model, sequential.Sequential)
    check_built(model)
    if model.dtype != np.float32:
        console.warn(
            f"this model computes in {model.dtype}, and the ONNX file will compute in float32, which is less exact: "
            "programs that run ONNX files have no convolution in float64"
        )
    graph = Graph(onnx, model)
    output = "input"
    shape = model.input_shape
    for name, layer in model.row_to_logits if logits else model.row:
        output, shape = graph.add(name, layer, output, shape)
    graph.finish(output)
    return graph.model(shape)


class Graph:
    """The graph while it is made: its nodes, its arrays, and the shapes between the layers.

    Args:
        onnx: the package.
        source: the model, whose parameters and states have names.
    """

    def __init__(self, onnx, source):
        self.onnx, self.source = onnx, source
        self.nodes, self.shapes, self.arrays, self.opset = [], {}, {}, OPSET
        self.names = {id(item): name for name, item in kept_arrays(source)}  # a tied parameter has one name
        size = sum(item.value.size for _, item in kept_arrays(source)) * 4
        if size > SIZE_LIMIT:
            raise InputError(f"an ONNX file has at most 2 GiB, and the weights of this model take {size:,} bytes")

    def add(self, name, layer, x, shape):
        """Add the nodes of a layer.

        Args:
            name: the layer's, for its nodes.
            layer: a built layer.
            x: the name of the array that it reads.
            shape: of one sample of this array.

        Returns:
            the name of the array that it writes, and the shape of one sample of it.
        """
        kind = next((kind for kind in type(layer).__mro__ if kind in NODES), None)
        if kind is None:
            raise InputError(
                f"{name}, {layer!r}, is a layer of your own, which ONNX cannot express: save the model with "
                "model.save(path), or build it of layers of the library"
            )
        _check_inherited(name, layer, kind)
        y = NODES[kind](self, name, layer, x, shape)
        shape = tuple(layer.output_shape(shape))
        self.shapes[y] = shape
        return y, shape

    def add_row(self, named_layers, x, shape):
        """Add layers in a row, each of which reads what the one before it writes; the name of the last array."""
        for name, layer in named_layers:
            x, shape = self.add(name, layer, x, shape)
        return x

    def node(self, operator, name, inputs, since=OPSET, **attributes):
        """Add a node; the name of what it writes, which is the node's own.

        Args:
            operator: its name in ONNX.
            name: of the node.
            inputs: names of arrays.
            since: the operators' version that it needs.
            attributes: its numbers.
        """
        self.opset = max(self.opset, since)
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def array(self, name, value, dtype=np.float32):
        """Keep an array in the file; its name."""
        with np.errstate(over="ignore"):
            kept = np.asarray(value, dtype)
        if (np.isinf(kept) & np.isfinite(value)).any():
            raise InputError(f"{name} has numbers that are too large for float32, which an ONNX file computes in")
        self.arrays[name] = kept
        return name

    def kept(self, *items):
        """Keep the arrays of parameters and states in the file, but for None; their names."""
        return [
            self.array(self.names[id(item)], operations.current.to_numpy(item.value))
            for item in items
            if item is not None
        ]

    def finish(self, output):
        """Call what the last layer writes "output"."""
        if output == "input":  # there is no layer
            output = self.node("Identity", "identity", ["input"])
        for name in {"input", output} & self.shapes.keys():  # the graph has these shapes already
            del self.shapes[name]
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = ["output" if name == output else name for name in names]

    def model(self, output_shape):
        """The `onnx.ModelProto`, checked."""
        helper, source = self.onnx.helper, self.source

        def value(name, shape, text=""):
            axes = DENOTATIONS if len(shape) == 3 else None
            return helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, ["N", *shape], text, axes)

        graph = helper.make_graph(
            self.nodes,
            "minicnn",
            [value("input", source.input_shape, "a batch of N samples; divide uint8 pixels by 255")],
            [value("output", output_shape)],
            value_info=[value(name, shape) for name, shape in self.shapes.items()],
        )
        opset = helper.make_opsetid("", self.opset)
        made = helper.make_model(
            graph,
            opset_imports=[opset],
            ir_version=helper.find_min_ir_version_for([opset]),
            producer_name="minicnn",
        )
        for name, array in self.arrays.items():  # last: make_graph and make_model copy what they are given
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            kept = made.graph.initializer.add(name=name, data_type=kind, dims=array.shape)
            kept.raw_data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        if getattr(source, "classes", None) is not None:
            helper.set_model_props(made, {"classes": json.dumps(source.classes, ensure_ascii=False)})
        self.onnx.checker.check_model(made, full_check=True)
        return made


# what each kind of layer is in ONNX: functions of the graph, the layer's name, the layer, the name of the array that it
# reads, and the shape of one sample of it; they return the name of the array that it writes


def _conv(graph, name, layer, x, shape):
    inputs = [x, *graph.kept(layer.weight, layer.bias)]
    attributes = _window(layer.window, layer.window.pads(*shape[1:]), dilated=True)
    return graph.node("Conv", name, inputs, group=layer.groups, **attributes)


def _conv_transpose(graph, name, layer, x, shape):
    inputs = [x, *graph.kept(layer.weight, layer.bias)]
    size = layer.output_shape(shape)[1:]
    pads = layer.window.pads(*size)
    # (H - 1) * stride + extent - top - bottom + output_padding = OH, where "same" fixes OH
    added = [
        OH - ((H - 1) * stride + extent - before - after)
        for OH, H, stride, extent, (before, after) in zip(
            size, shape[1:], layer.window.stride, layer.window.extent, pads, strict=True
        )
    ]
    attributes = _window(layer.window, pads, dilated=True)
    return graph.node("ConvTranspose", name, inputs, group=layer.groups, output_padding=added, **attributes)


def _max_pool(graph, name, layer, x, shape):
    return graph.node("MaxPool", name, [x], **_window(layer.window, layer.window.pads(*shape[1:])))


def _average_pool(graph, name, layer, x, shape):
    attributes = _window(layer.window, layer.window.pads(*shape[1:]))
    return graph.node("AveragePool", name, [x], count_include_pad=int(layer.count_include_pad), **attributes)


def _global_pool(operator):
    def add(graph, name, layer, x, shape):  # (N, C, H, W) to (N, C, 1, 1) to (N, C)
        return graph.node("Flatten", name, [graph.node(operator, f"{name}.pool", [x])], axis=1)

    return add


def _upsampling(graph, name, layer, x, shape):
    scales = graph.array(f"{name}.scales", [1, 1, *layer.window.stride])
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.node("Resize", name, [x, "", scales], **modes)


def _zero_pad(graph, name, layer, x, shape):
    (top, bottom), (left, right) = layer.pads
    pads = graph.array(f"{name}.pads", [0, 0, top, left, 0, 0, bottom, right], np.int64)  # N C H W before, then after
    return graph.node("Pad", name, [x, pads])


def _flatten(graph, name, layer, x, shape):
    return graph.node("Flatten", name, [x], axis=1)


def _dense(graph, name, layer, x, shape):
    return graph.node("Gemm", name, [x, *graph.kept(layer.weight, layer.bias)], transB=1)  # x @ weight.T + bias


def _elementwise(operator, since=OPSET, **attributes):
    """For a layer that is one operator; the attributes are functions of the layer."""

    def add(graph, name, layer, x, shape):
        values = {key: value(layer) for key, value in attributes.items()}
        return graph.node(operator, name, [x], since, **values)

    return add


def _silu(graph, name, layer, x, shape):
    return graph.node("Mul", name, [x, graph.node("Sigmoid", f"{name}.sigmoid", [x])])


def _clip(graph, name, layer, x, shape):
    bounds = graph.array(f"{name}.low", layer.low), graph.array(f"{name}.high", layer.high)
    return graph.node("Clip", name, [x, *bounds])


def _prelu(graph, name, layer, x, shape):
    slope = operations.current.to_numpy(layer.slope.value).reshape(-1, *(1,) * (len(shape) - 1))  # (C, 1, 1)
    return graph.node("PRelu", name, [x, graph.array(graph.names[id(layer.slope)], slope)])


def _dropout(graph, name, layer, x, shape):
    if layer.axes not in ((), []):
        return graph.node("Identity", name, [x])  # ONNX cannot say which numbers are dropped together
    return graph.node("Dropout", name, [x, graph.array(f"{name}.rate", layer.rate)])


def _batch_norm(graph, name, layer, x, shape):
    arrays = graph.kept(layer.scale, layer.shift, layer.running_mean, layer.running_variance)
    return graph.node("BatchNormalization", name, [x, *arrays], epsilon=layer.epsilon, momentum=layer.momentum)


def _layer_norm(graph, name, layer, x, shape):
    inputs = [x, *graph.kept(layer.scale, layer.shift)]
    return graph.node("LayerNormalization", name, inputs, axis=1, epsilon=layer.epsilon)


def _group_norm(graph, name, layer, x, shape):
    inputs = [x, *graph.kept(layer.scale, layer.shift)]
    return graph.node("GroupNormalization", name, inputs, since=21, num_groups=layer.groups, epsilon=layer.epsilon)


def _local_response_norm(graph, name, layer, x, shape):
    attributes = {"size": layer.size, "alpha": layer.alpha, "beta": layer.beta, "bias": layer.k}
    if len(shape) == 3:
        return graph.node("LRN", name, [x], **attributes)
    image = graph.array(f"{name}.image", [0, shape[0], -1, 1], np.int64)  # programs have it for images only
    size = graph.array(f"{name}.shape", [0, *shape], np.int64)
    y = graph.node("LRN", f"{name}.norm", [graph.node("Reshape", f"{name}.reshape", [x, image])], **attributes)
    return graph.node("Reshape", name, [y, size])


def _residual(graph, name, layer, x, shape):
    return graph.node("Add", name, _rows(graph, name, layer, x, shape))


def _branches(graph, name, layer, x, shape):
    rows = _rows(graph, name, layer, x, shape)
    return graph.node("Sum", name, rows) if layer.join == "add" else graph.node("Concat", name, rows, axis=1)


def _sequential(graph, name, layer, x, shape):
    # inside a block: `forward`, which the block calls, leaves a closing Softmax out
    return graph.add_row([(f"{name}.{inner}", item) for inner, item in layer.row_to_logits], x, shape)


def _rows(graph, name, layer, x, shape):
    """The names of what the rows of a block write; a row without layers is the block's input."""
    return [
        graph.add_row([(f"{name}.{key}.{index}", item) for index, item in enumerate(row)], x, shape)
        for key, row in layer.rows().items()
    ]


def _window(window, pads, dilated=False):
    """The attributes of a sliding window, its padding in pixels: before on each axis, then after."""
    (top, bottom), (left, right) = pads
    attributes = {"kernel_shape": window.kernel_size, "strides": window.stride, "pads": [top, left, bottom, right]}
    return attributes | ({"dilations": window.dilation} if dilated else {})


#: What a class derived from one of the library may have of its own, because it changes nothing that is computed.
UNIMPORTANT = {"build", "parameter_shapes", "initial_value", "independent_samples", "needs_input_gradient"}

#: The function of each kind of layer.
NODES = {
    Conv2D: _conv,
    Conv2DTranspose: _conv_transpose,
    MaxPool2D: _max_pool,
    AvgPool2D: _average_pool,
    GlobalAvgPool2D: _global_pool("GlobalAveragePool"),
    GlobalMaxPool2D: _global_pool("GlobalMaxPool"),
    UpSampling2D: _upsampling,
    ZeroPad2D: _zero_pad,
    Flatten: _flatten,
    Dense: _dense,
    ReLU: _elementwise("Relu"),
    Clip: _clip,
    PReLU: _prelu,
    LeakyReLU: _elementwise("LeakyRelu", alpha=lambda layer: layer.negative_slope),
    ELU: _elementwise("Elu", alpha=lambda layer: layer.alpha),
    GELU: _elementwise("Gelu", since=20, approximate=lambda layer: "tanh"),
    SiLU: _silu,
    Hardswish: _elementwise("HardSwish"),
    Tanh: _elementwise("Tanh"),
    Sigmoid: _elementwise("Sigmoid"),
    Softmax: _elementwise("Softmax", axis=lambda layer: 1),
    LogSoftmax: _elementwise("LogSoftmax", axis=lambda layer: 1),
    Dropout: _dropout,
    BatchNorm: _batch_norm,
    LayerNorm: _layer_norm,
    GroupNorm: _group_norm,
    LocalResponseNorm: _local_response_norm,
    Residual: _residual,
    Branches: _branches,
    sequential.Sequential: _sequential,
}


def _check_inherited(name, layer, kind):
    """Refuse a class of the user's own that is derived from a class of the library and computes something else."""
    for derived in type(layer).__mro__:
        if derived is kind:
            return
        for attribute in vars(derived).keys() - UNIMPORTANT if derived is not Sequential else ():
            if hasattr(kind, attribute) and (attribute == "__call__" or not attribute.startswith("__")):
                raise InputError(
                    f"{name} is of the class {derived.__name__}, which has its own {attribute} in place of "
                    f"{kind.__name__}'s, and ONNX cannot express that"
                )
