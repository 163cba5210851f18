"""An ONNX file as plain nodes and NumPy arrays; and the arithmetic of constants that its graph contains.

An ONNX file is a list of nodes. Each has an operator, such as Conv, and names:
of the arrays it reads and of the arrays it writes. Arrays that no node writes
are the weights, the initializers. So the graph is a program without branches
and loops, and reading it executes nothing: the package onnx parses the bytes,
and here they become `Node`s and arrays, after their sizes are validated.

Exporters leave small calculations in the graph, such as "the first number of
the shape, then -1" for a reshape. `fold` computes a node whose inputs are all known.
"""

import dataclasses
import math
import os
import pathlib

import numpy as np

from minicnn.core.checks import quoted
from minicnn.core.errors import FileError, MissingPackageError
from minicnn.storage.files import open_file, path_text, reading

SIZE_LIMIT = 2**31  # bytes; the format ends there
NODE_LIMIT = 10_000
_SMALL_GRAPH = 10  # nodes of a graph inside a node
OLDEST_OPSET = 7  # since then arrays of different shapes are broadcast as in NumPy
_SMALL = 2**16  # numbers that the arithmetic of shapes may make, beside those of the file

#: The numbers in front of an array's bytes that say its dtype (`TensorProto.DataType`), as far as they are read.
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64",
}  # fmt: skip
_BFLOAT16 = 16  # the upper half of a float32


@dataclasses.dataclass
class Node:
    """One operation of a graph.

    Attributes:
        name: as in the file, or the name of its first output.
        operator: such as "Conv"; with its domain in front where that is not ONNX's own.
        inputs, outputs: names of arrays; an input that is left out is "".
        attributes: by name: numbers, texts, lists of them, arrays, or, of a small graph inside the node, its Nodes.
        opset: the version of the operators.
    """

    name: str
    operator: str
    inputs: list
    outputs: list
    attributes: dict
    opset: int

    def __str__(self):
        shown = ", ".join(f"{key}={value!r}" for key, value in self.attributes.items())
        return (
            f"node {quoted(self.name)} ({quoted(self.operator)[1:-1]}{', ' if shown else ''}{quoted(shown, 300)[1:-1]})"
        )

    def has(self, index):
        """Whether the input of this index is given."""
        return index < len(self.inputs) and self.inputs[index] != ""


@dataclasses.dataclass
class Graph:
    """What a file describes.

    Attributes:
        nodes: in an order in which they can be computed.
        arrays: the constants by name.
        input, input_dims: the name of the input and its dimensions, the batch included; None for one that is open.
        channel_axis: which of them the file says the channels are on, or None.
        dtype: of the input, "float32" or "float64".
        outputs: names.
        metadata: texts by name.
    """

    nodes: list
    arrays: dict
    input: str
    input_dims: tuple
    channel_axis: int
    dtype: str
    outputs: list
    metadata: dict


def read_graph(path):
    """Read an ONNX file.

    Args:
        path: the file. Arrays that it keeps in other files are read where those are in the same folder, or below.

    Returns:
        a `Graph`.

    Raises:
        FileError: the file is missing or broken, too large, has more than one input, or refers to files elsewhere.
        MissingPackageError: the package onnx is not installed.
    """
    onnx = import_onnx()
    path = path_text(path)
    with open_file(path) as file, reading(path, "an ONNX file"):
        size = os.fstat(file.fileno()).st_size
        if size > SIZE_LIMIT:
            raise FileError(f"{quoted(path, 300)} has {size} bytes, more than an ONNX file can have ({SIZE_LIMIT})")
        data = file.read()
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # the parser's own class of errors
        raise FileError(f"{quoted(path, 300)} is not an ONNX file: {quoted(error, 200)}") from error
    del data
    with reading(path, "a complete ONNX file"):
        return _graph(onnx, model, path)


def import_onnx():
    """The package onnx; a MissingPackageError with the command that installs it."""
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise MissingPackageError("ONNX files need the package onnx: pip install 'minicnn-numpy[onnx]'") from error
    return onnx


def _graph(onnx, model, path):
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    shown = quoted(path, 300)
    if not model.graph.node and not model.graph.output:
        raise FileError(f"{shown} is not an ONNX file, or holds no graph")
    if opset < OLDEST_OPSET:
        raise FileError(
            f"{shown} uses version {opset} of ONNX's operators, and the oldest that is read is {OLDEST_OPSET}: convert "
            "it with onnx.version_converter.convert_version(model, 17)"
        )
    if len(model.graph.node) > NODE_LIMIT or sum(len(node.input) for node in model.graph.node) > 10 * NODE_LIMIT:
        raise FileError(
            f"{shown} has {len(model.graph.node)} nodes; at most {NODE_LIMIT} are read, with 10 inputs each on average"
        )
    external = _ExternalFiles(path)
    arrays = {tensor.name: _array(onnx, tensor, external) for tensor in model.graph.initializer}
    if model.graph.sparse_initializer:
        raise FileError(f"{shown} has sparse weights, which this library does not have: export them as dense arrays")
    inputs = [value for value in model.graph.input if value.name not in arrays]
    if len(inputs) != 1:
        names = quoted(", ".join(value.name for value in inputs), 200)
        raise FileError(f"{shown} has {len(inputs)} inputs ({names}), and a Sequential has one")
    kind = inputs[0].type.tensor_type
    if DTYPES.get(kind.elem_type) not in ("float32", "float64", "float16"):
        raise FileError(
            f"{shown} takes numbers of the dtype {_dtype_name(onnx, kind.elem_type)}, and a Sequential floating point "
            "numbers: export it with an input of float32"
        )
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    denotations = [dim.denotation for dim in kind.shape.dim]
    nodes = [_node(onnx, node, opset, external) for node in model.graph.node]
    return Graph(
        nodes=nodes,
        arrays=arrays,
        input=inputs[0].name,
        input_dims=dims,
        channel_axis=denotations.index("DATA_CHANNEL") if "DATA_CHANNEL" in denotations else None,
        dtype="float64" if DTYPES[kind.elem_type] == "float64" else "float32",
        outputs=[value.name for value in model.graph.output],
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def _node(onnx, node, opset, external):
    outputs = list(node.output)
    name = node.name or next(iter(outputs), "")
    operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    attributes = {entry.name: _attribute(onnx, entry, opset, external) for entry in node.attribute}
    return Node(name, operator, list(node.input), outputs, attributes, opset)


def _attribute(onnx, entry, opset, external):
    kinds = onnx.AttributeProto
    if entry.type == kinds.GRAPH:
        small = entry.g.node if len(entry.g.node) <= _SMALL_GRAPH else ()  # whoever needs a large one is refused anyway
        return [_node(onnx, node, opset, external) for node in small]
    if entry.type == kinds.TENSOR:
        return _array(onnx, entry.t, external)
    if entry.type == kinds.STRING:
        return entry.s.decode(errors="replace")
    if entry.type == kinds.STRINGS:
        return [text.decode(errors="replace") for text in entry.strings]
    fields = {kinds.INT: "i", kinds.FLOAT: "f", kinds.INTS: "ints", kinds.FLOATS: "floats"}
    if entry.type not in fields:
        return "..."  # a sparse array, say: whoever needs it is refused anyway
    value = getattr(entry, fields[entry.type])
    return value if isinstance(value, (int, float)) else list(value)


def _array(onnx, tensor, external):
    """A tensor of the file as a NumPy array; floating point numbers of 16 bits become float32."""
    shape = tuple(tensor.dims)
    kind = tensor.data_type
    if kind not in DTYPES and kind != _BFLOAT16:
        raise FileError(
            f"{quoted(external.path, 300)}: {quoted(tensor.name)} has the dtype {_dtype_name(onnx, kind)}, which is "
            "not read: export the network in float32"
        )
    dtype = np.dtype("uint16" if kind == _BFLOAT16 else DTYPES[kind]).newbyteorder("<")
    if min(shape, default=1) < 0:
        raise ValueError(f"{quoted(tensor.name)} has the shape {shape}")
    if tensor.data_location == tensor.EXTERNAL:
        array = external.read(tensor, dtype, math.prod(shape))
    elif tensor.HasField("raw_data"):
        array = np.frombuffer(tensor.raw_data, dtype)
    else:
        array = onnx.numpy_helper.to_array(tensor)
        array, kind = array.astype("float32") if kind == _BFLOAT16 else array, 1
    if array.size != math.prod(shape):
        raise ValueError(f"{quoted(tensor.name)} has {array.size} numbers, and its shape is {shape}")
    if kind == _BFLOAT16:
        array = (array.astype("uint32") << 16).view("float32")
    if array.dtype == np.float16:
        array = array.astype("float32")
    return array.reshape(shape).astype(array.dtype.newbyteorder("="), copy=False)


def _dtype_name(onnx, kind):
    names = {value: name for name, value in onnx.TensorProto.DataType.items()}
    return names.get(kind, f"of number {kind}").lower()


class _ExternalFiles:
    """The files beside an ONNX file that keep some of its arrays.

    A file may name any other file of the machine. Only those in its own folder, or in a folder inside, are read, and
    links that lead out of it are not followed. All arrays together may not take more bytes than the file has.
    """

    def __init__(self, path):
        self.path = path
        self.folder = pathlib.Path(os.path.realpath(os.path.dirname(os.path.abspath(path))))
        self.left = {}  # bytes of each file that no array has taken yet

    def read(self, tensor, dtype, count):
        """`count` numbers, mapped: they are read from the disk where they are used."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location, offset = entries.get("location", ""), int(entries.get("offset") or 0)
        size = count * dtype.itemsize
        file = pathlib.Path(os.path.realpath(self.folder / location))
        who = f"{quoted(self.path, 300)}: the array {quoted(tensor.name)}"
        if not location or not file.is_relative_to(self.folder) or file == self.folder:
            raise FileError(
                f"{who} is kept in the file {quoted(location, 200)}, which is not in the folder of the ONNX file and "
                "so is not read: put it there, or save the network in one file"
            )
        with open_file(file) as opened:
            length = os.fstat(opened.fileno()).st_size
        left = self.left.setdefault(file, length)
        if int(entries.get("length") or size) != size or offset < 0 or offset + size > length or size > left:
            raise FileError(f"{who} needs {size} bytes from {offset} on in {quoted(file, 300)}, which has {length}")
        self.left[file] -= size
        return np.memmap(file, dtype, "r", offset, (count,)) if count else np.empty(0, dtype)


# The arithmetic of constants


class Folder:
    """Computes nodes whose inputs are all known, as long as the results are small.

    Args:
        arrays: the arrays of the file. All results together may have as many numbers as these, and some thousand.
    """

    def __init__(self, arrays):
        self.left = _SMALL + 4 * sum(array.size for array in arrays.values())

    def fold(self, node, inputs):
        """The array that a node writes, or None where this arithmetic does not have its operator.

        Args:
            node: a `Node`.
            inputs: its arrays, None for one that is left out.

        Raises:
            ValueError, LookupError, TypeError: the inputs do not fit the operator, or the result is too large.
        """
        if node.operator not in FOLDED:
            return None
        size, compute = FOLDED[node.operator]
        self.left -= size(node, inputs)
        if self.left < 0:
            raise ValueError("the constants that it computes are larger than the file")
        with np.errstate(all="ignore"):
            return np.asarray(compute(node, inputs))


def axes_of(node, inputs):
    """The axes of a node: an attribute in older versions of ONNX, an input in newer ones; None where not given."""
    if "axes" in node.attributes:
        return [int(axis) for axis in node.attributes["axes"]]
    given = inputs[1] if len(inputs) > 1 else None
    return None if given is None else [int(axis) for axis in np.ravel(given)]


def _same_size(node, inputs):
    return max((array.size for array in inputs if array is not None), default=1)


def _broadcast_size(node, inputs):
    return math.prod(np.broadcast_shapes(*(array.shape for array in inputs)))


def _constant(node, inputs):
    kinds = {"value": None, "value_int": "int64", "value_ints": "int64", "value_float": "float32",
             "value_floats": "float32"}  # fmt: skip
    given = [(name, value) for name, value in node.attributes.items() if name in kinds]
    (name, value), *_ = given
    return np.asarray(value, kinds[name])


def _constant_of_shape(node, inputs):
    value = np.ravel(node.attributes.get("value", np.zeros(1, "float32")))[0]
    return np.full([int(n) for n in inputs[0]], value)


def _cast(node, inputs):
    return inputs[0].astype(DTYPES[node.attributes["to"]])


def _divide(node, inputs):
    a, b = inputs
    return a // b if a.dtype.kind == b.dtype.kind == "i" else a / b


def _gather_size(node, inputs):
    data, indices = inputs
    return indices.size * data.size // max(1, data.shape[node.attributes.get("axis", 0)])


def _reshape(node, inputs):
    data, target = inputs
    return data.reshape([data.shape[i] if n == 0 else int(n) for i, n in enumerate(target)])


def _slice(node, inputs):
    data = inputs[0]
    if node.opset < 10:
        starts, ends = node.attributes["starts"], node.attributes["ends"]
        axes, steps = node.attributes.get("axes"), None
    else:
        starts, ends, axes, steps = ([*map(int, v)] if v is not None else None for v in [*inputs[1:], None, None][:4])
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    selected = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        selected[axis] = slice(start, end if end >= -data.shape[axis] or step > 0 else None, step)
    return data[tuple(selected)]


def _squeeze(node, inputs):
    axes = axes_of(node, inputs)
    return np.squeeze(inputs[0], None if axes is None else tuple(axes))


def _elementwise(function):
    return _broadcast_size, lambda node, inputs: function(*inputs)


#: For each operator: how many numbers the result has, and the result, from the node and its inputs.
FOLDED = {
    "Add": _elementwise(np.add),
    "Cast": (_same_size, _cast),
    "Ceil": _elementwise(np.ceil),
    "Concat": (
        lambda node, inputs: sum(array.size for array in inputs),
        lambda node, inputs: np.concatenate(inputs, axis=node.attributes["axis"]),
    ),
    "Constant": (_same_size, _constant),
    "ConstantOfShape": (lambda node, inputs: math.prod(int(n) for n in inputs[0]), _constant_of_shape),
    "Div": (_broadcast_size, _divide),
    "Equal": _elementwise(np.equal),
    "Floor": _elementwise(np.floor),
    "Gather": (
        _gather_size,
        lambda node, inputs: np.take(inputs[0], inputs[1].astype(int), axis=node.attributes.get("axis", 0)),
    ),
    "Identity": (_same_size, lambda node, inputs: inputs[0]),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Pow": _elementwise(np.power),
    "Reciprocal": _elementwise(np.reciprocal),
    "ReduceProd": (
        _same_size,
        lambda node, inputs: np.prod(inputs[0], keepdims=bool(node.attributes.get("keepdims", 1))),
    ),
    "Reshape": (_same_size, _reshape),
    "Shape": (lambda node, inputs: inputs[0].ndim, lambda node, inputs: np.array(inputs[0].shape, "int64")),
    "Slice": (_same_size, _slice),
    "Sqrt": _elementwise(np.sqrt),
    "Squeeze": (_same_size, _squeeze),
    "Sub": _elementwise(np.subtract),
    "Transpose": (_same_size, lambda node, inputs: np.transpose(inputs[0], node.attributes.get("perm"))),
    "Unsqueeze": (_same_size, lambda node, inputs: np.expand_dims(inputs[0], tuple(axes_of(node, inputs)))),
    "Where": _elementwise(np.where),
}
