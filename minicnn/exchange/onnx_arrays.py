"""The ONNX operators that are no layers: they move axes, add and concatenate arrays, or compute with constants.

A transpose or a reshape changes only which axis of the file's array is which of ours.
A sum becomes a `Residual`, a concatenation `Branches`. A product with constants goes
into the weights of the layer before it. And where a few such operators together
compute a function that is a layer here, such as SiLU, they become that layer.
"""

import math

import numpy as np

from minicnn.core.layers import (
    GELU,
    BatchNorm,
    Clip,
    GroupNorm,
    Hardswish,
    LocalResponseNorm,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
    UpSampling2D,
)
from minicnn.exchange.onnx_graph import axes_of
from minicnn.exchange.onnx_values import (
    UnsupportedError,
    digits,
    for_channels,
    image,
    ordinary,
    own,
    parameters,
)

EXACT_GELU = (
    "the exact GELU needs the error function, which NumPy does not have: build the network with the formula with "
    "tanh, in PyTorch nn.GELU(approximate='tanh'), in Keras gelu(x, approximate=True); it differs by less than 0.0005"
)


# The order of the axes: no layers, but for Flatten


def _identity(net, node):
    net.put(node, node.inputs[0], [], net.value(node.inputs[0]))


def _cast(net, node):
    if node.attributes.get("to") not in (1, 10, 11, 16):
        raise UnsupportedError("it converts numbers to integers, and layers compute with floating point numbers")
    _identity(net, node)


def _flatten(net, node):
    value = net.value(node.inputs[0])
    if node.attributes.get("axis", 1) not in (1, -len(value.axes)):
        raise UnsupportedError("it flattens from another axis than the first after the batch")
    net.put(node, node.inputs[0], [], value.regrouped((math.prod(value.file_shape),)))


def _reshape(net, node):
    if node.inputs[0] in net.errors and (_group_norm(net, node) or _repeated(net, node)):
        return
    value = net.value(node.inputs[0])
    before = (net.batch, *value.file_shape)
    sizes = [int(n) for n in np.ravel(net.constant(node, 1))]
    if not node.attributes.get("allowzero", 0):
        sizes = [before[index] if n == 0 else n for index, n in enumerate(sizes)]
    if sizes.count(-1) == 1:
        known = math.prod(n for n in sizes if n != -1)
        sizes[sizes.index(-1)] = math.prod(before) // max(1, known)
    if not sizes or sizes[0] != net.batch or math.prod(sizes) != math.prod(before):
        raise UnsupportedError(
            f"it makes {sizes} of {('N', *value.file_shape)}, which does not keep the samples apart: export the "
            "network with a batch of any size, or with -1 as the first number of the shape"
        )
    net.put(node, node.inputs[0], [], value.regrouped(sizes[1:]))


def _group_norm(net, node):
    """GroupNorm as PyTorch writes it: a reshape to (N, G, ...), a normalization of each of G, and this reshape back.

    Returns:
        whether it is that; then the layer is put into the network.
    """
    middle = net.nodes.get(node.inputs[0])
    first = net.nodes.get(middle.inputs[0]) if middle and middle.operator == "InstanceNormalization" else None
    if first is None or first.operator != "Reshape" or first.inputs[0] not in net.values:
        return False
    value = ordinary(net, first.inputs[0])
    scale, shift = net.constant(middle, 1), net.constant(middle, 2)
    groups, channels = len(scale), value.own_shape[0]
    there, back = (net.constant(reshape, 1).tolist() for reshape in (first, node))
    if channels % groups or there[1:] != [groups, -1] or back[1:] != list(value.file_shape):
        return False
    layer = GroupNorm(groups, epsilon=digits(middle.attributes.get("epsilon", 1e-5)))
    scale, shift = (np.repeat(array, channels // groups) for array in (scale, shift))
    net.put(node, first.inputs[0], parameters(net, layer, value.own_shape, scale=scale, shift=shift))
    return True


def _repeated(net, node):
    """UpSampling2D along one axis as Keras writes it: a Tile of a new axis behind it, then this reshape of the two.

    Returns:
        whether it is that; then the layer is put into the network.
    """
    before, order = net.nodes.get(node.inputs[0]), None
    if before is not None and before.operator == "Transpose":
        before, order = net.nodes.get(before.inputs[0]), before.attributes["perm"]
    if before is None or before.operator != "Tile" or before.inputs[0] not in net.values:
        return False
    value = net.values[before.inputs[0]]
    axes = list(zip(net.constant(before, 1).tolist(), ["N", *value.axes], strict=True))  # (times, axes of ours)
    axes = [axes[axis] for axis in order or range(len(axes))]
    index = max(range(len(axes)), key=lambda axis: axes[axis][0])
    times, new = axes.pop(index)
    changed = axes[index - 1][1] if index > 0 else "N"
    if new != () or changed not in ((1,), (2,)) or axes[0] != (1, "N") or any(other != 1 for other, _ in axes):
        return False
    layer = UpSampling2D((times, 1) if changed == (1,) else (1, times))
    after = value._replace(shape=layer.output_shape(value.own_shape), axes=tuple(group for _, group in axes[1:]))
    if net.constant(node, 1).tolist()[1:] != list(after.file_shape):
        return False
    net.put(node, before.inputs[0], layer, after)
    return True


def _transpose(net, node):
    value = net.value(node.inputs[0])
    first, *rest = node.attributes.get("perm", range(len(value.axes), -1, -1))
    if first != 0 or sorted(rest) != list(range(1, len(value.axes) + 1)):
        raise UnsupportedError("it moves the axis of the batch")
    net.put(node, node.inputs[0], [], value._replace(axes=tuple(value.axes[axis - 1] for axis in rest)))


def _squeeze(net, node):
    value = net.value(node.inputs[0])
    axes = axes_of(node, [None, net.constant(node, 1)])
    if axes is None:
        axes = [axis for axis, size in enumerate(value.file_shape, 1) if size == 1]
    dropped = {axis % (len(value.axes) + 1) for axis in axes}
    if 0 in dropped or any(value.file_shape[axis - 1] != 1 for axis in dropped):
        raise UnsupportedError("it drops the axis of the batch, or one that has more than one number")
    kept = tuple(group for axis, group in enumerate(value.axes, 1) if axis not in dropped)
    net.put(node, node.inputs[0], [], value._replace(axes=kept))


def _unsqueeze(net, node):
    value = net.value(node.inputs[0])
    axes = axes_of(node, [None, net.constant(node, 1)])
    rank = len(value.axes) + 1 + len(axes)
    added = {axis % rank for axis in axes}
    if 0 in added:
        raise UnsupportedError("it adds an axis before that of the batch")
    left = iter(value.axes)
    net.put(
        node, node.inputs[0], [], value._replace(axes=tuple(() if a in added else next(left) for a in range(1, rank)))
    )


# Several arrays


def _arithmetic(net, node):
    """Add, Sub, Mul and Div: of two arrays, or of one and a constant."""
    constants = [net.is_constant(name) for name in node.inputs]
    if node.operator == "Div" and _local_response(net, node):
        return None
    for name, is_constant in zip(node.inputs, constants, strict=True):
        if not is_constant:
            net.value(name)
    if not any(constants):
        if node.operator == "Mul" and node.inputs[0] == node.inputs[1]:
            raise UnsupportedError(
                "it squares an array, and no layer here does, but for a LocalResponseNorm as PyTorch writes it"
            )
        if node.operator != "Add":
            raise UnsupportedError(
                f"it computes {node.operator} of two arrays that depend on the input, and the blocks here add or "
                "concatenate"
            )
        return _sum(net, node)
    which = constants.index(False)
    source, constant = node.inputs[which], net.arrays[node.inputs[1 - which]]
    value = net.value(source)
    if node.operator == "Div" and which == 1:
        raise UnsupportedError("it divides a constant by the array")
    c = for_channels(value, constant).astype("float64")
    with np.errstate(all="ignore"):
        scale, shift = {
            "Add": lambda: (1.0, c),
            "Sub": lambda: (1.0, -c) if which == 0 else (-1.0, c),
            "Mul": lambda: (c, 0.0),
            "Div": lambda: (1 / c, 0.0),
        }[node.operator]()
    _scale_and_shift(net, node, source, scale, shift)


def _local_response(net, node):
    """LocalResponseNorm as PyTorch writes it: `x / (k + alpha * mean of the squares of the channels around)**beta`.

    Returns:
        whether it is that; then the layer is put into the network.
    """
    source, name = node.inputs
    found = []
    while [n.operator for n in found][-1:] != ["Mul"] or len(found) < 4:  # the last Mul is the square
        before = net.nodes.get(name)
        read = [] if before is None else [n for n in before.inputs if n and n not in net.arrays]
        if before is not None and before.operator == "If":
            read = _read_by_either(before)
        if len(set(read)) != 1 or len(found) > 12:
            return False
        name = read[0]
        if before.operator not in ("If", "Reshape", "Squeeze", "Unsqueeze"):
            found.append(before)
        elif before.operator == "Reshape" and source in net.values:
            sizes, shape = net.constant(before, 1).tolist()[1:], net.values[source].file_shape
            there_or_back = (1, *shape)[-len(sizes) :] if sizes else ()
            if len(sizes) < len(shape) or any(n not in (-1, m) for n, m in zip(sizes, there_or_back, strict=True)):
                return False
    if [n.operator for n in found] != ["Pow", "Add", "Mul", "AveragePool", "Pad", "Mul"] or found[-1].inputs != [
        source
    ] * 2:
        return False
    image(net, source)
    beta, k, alpha = (float(net.arrays[n.inputs[1]]) for n in found[:3])
    size, *rest = found[3].attributes["kernel_shape"]
    if set(rest) != {1} or net.constant(found[4], 1).tolist() != [0, 0, size // 2, 0, 0] * 2:
        return False
    net.put(node, source, LocalResponseNorm(size, alpha=digits(alpha), beta=digits(beta), k=digits(k)))
    return True


def _read_by_either(node):
    """What the branches of an If read, where both only drop axes: the older exporter of PyTorch writes squeeze so."""
    inside = [inner for key in ("then_branch", "else_branch") for inner in node.attributes.get(key, ())]
    if not {inner.operator for inner in inside} <= {"Constant", "Identity", "Squeeze"}:
        return []
    written = {name for inner in inside for name in inner.outputs}
    return [name for inner in inside for name in inner.inputs if name and name not in written]


def _negative(net, node):
    _scale_and_shift(net, node, node.inputs[0], -1.0, 0.0)


def _scale_and_shift(net, node, source, scale, shift):
    """`y = scale * x + shift` for each channel, with constants."""
    net.put(node, source, scaling(net, net.value(source).own_shape, scale, shift))


def scaling(net, shape, scale, shift):
    """A frozen BatchNorm of mean 0 and variance 1: a scale and a shift for each channel. [] if they change nothing."""
    if np.all(scale == 1) and not np.any(shift):
        return []
    scale, shift = (np.broadcast_to(np.asarray(item, "float64"), shape[:1]) for item in (scale, shift))
    layer = BatchNorm()
    parameters(net, layer, shape, scale=scale, shift=shift)
    layer.running_mean.value = own(net, np.zeros(shape[0]))
    layer.running_variance.value = own(net, np.full(shape[0], 1 - layer.epsilon))  # epsilon is added to it
    layer.trainable = False
    net.constant_scales.add(layer)
    return [layer]


def _sum(net, node):
    values = [net.value(name) for name in node.inputs]
    found = recognized(net, node, node.inputs)
    if found is not None:
        return found()
    if len(values) == 1:
        return net.put(node, node.inputs[0], [])
    first = values[0]
    if any((v.own_shape, v.file_shape, v.order) != (first.own_shape, first.file_shape, first.order) for v in values):
        shapes = ", ".join(str(value.file_shape) for value in values)
        raise UnsupportedError(f"it adds arrays of the shapes {shapes}, and the rows of a block end in the same shape")
    net.join(node, node.inputs, "add", first)


def _concat(net, node):
    names = list(node.inputs)
    for count in range(
        min(len(names) - 1, 200), 1, -1
    ):  # a DenseNet concatenates what it concatenated before, and more
        if tuple(names[:count]) in net.concatenated:
            names = [net.concatenated[tuple(names[:count])], *names[count:]]
            break
    values = [net.value(name) for name in names]
    first = values[0]
    axis = node.attributes["axis"] % (len(first.axes) + 1)
    same = all((v.axes, v.is_flat, v.shape[1:]) == (first.axes, False, first.shape[1:]) for v in values)
    if not axis or first.axes[axis - 1] != (0,) or not same:
        shapes = ", ".join(str(value.file_shape) for value in values)
        raise UnsupportedError(
            f"it concatenates arrays of the shapes {shapes} along axis {axis}, not along the channels"
        )
    value = first._replace(shape=(sum(value.shape[0] for value in values), *first.shape[1:]))
    net.concatenated[tuple(node.inputs)] = node.outputs[0]
    if len(names) == 1:
        return net.put(node, names[0], [])
    net.join(node, names, "concatenate", value)


# Functions of one number that a file spells out


_ERF = np.vectorize(math.erf, otypes=["float64"])

#: Operators that treat every number separately, as functions of NumPy; the node comes first.
ELEMENTWISE = {
    "Add": lambda node, a, b: a + b,
    "Sub": lambda node, a, b: a - b,
    "Mul": lambda node, a, b: a * b,
    "Div": lambda node, a, b: a / b,
    "Pow": lambda node, a, b: np.power(a, b),
    "Max": lambda node, *arrays: np.max(np.broadcast_arrays(*arrays), axis=0),
    "Min": lambda node, *arrays: np.min(np.broadcast_arrays(*arrays), axis=0),
    "Identity": lambda node, x: x,
    "Cast": lambda node, x: x,
    "Neg": lambda node, x: -x,
    "Sqrt": lambda node, x: np.sqrt(x),
    "Exp": lambda node, x: np.exp(x),
    "Tanh": lambda node, x: np.tanh(x),
    "Erf": lambda node, x: _ERF(x),
    "Erfc": lambda node, x: 1 - _ERF(x),
    "Sigmoid": lambda node, x: 1 / (1 + np.exp(-x)),
    "HardSigmoid": lambda node, x: np.clip(
        x * node.attributes.get("alpha", 0.2) + node.attributes.get("beta", 0.5), 0, 1
    ),
    "Relu": lambda node, x: np.maximum(x, 0),
    "Clip": lambda node, x, low=None, high=None: np.clip(
        x, node.attributes.get("min", low), node.attributes.get("max", high)
    ),
}  # fmt: skip

_POINTS = np.linspace(-9, 9, 61)
_SLOPE = 0.25  # stands for the slopes of a PReLU
_EXACT_GELU = _POINTS * (1 + _ERF(_POINTS / math.sqrt(2))) / 2
_KNOWN = [
    (layer, layer.value(_POINTS, *layer.constants))
    for layer in (ReLU(), Clip(0.0, 6.0), SiLU(), GELU(), Hardswish(), Sigmoid(), Tanh())
]


def recognized(net, node, sources):
    """A layer that is what a node and those before it compute together, found by its values at some points.

    Exporters write SiLU as a product with a sigmoid, GELU as ten nodes, and each in its own way. Where a few nodes
    compute a function of every number of one array, the function is what counts.

    Args:
        net: the `Network`.
        node: the last of the nodes.
        sources: the arrays that it reads and that depend on the input.

    Returns:
        a function that puts the layer into the network, or None.

    Raises:
        UnsupportedError: it is a function that is known and not here.
    """
    if node.operator not in ELEMENTWISE:
        return None
    start = net.forks.common(sources)
    for _ in range(12):
        net.evaluations -= 1
        if start is None or net.evaluations < 0:
            return None
        if start in net.values:
            computed = {start: _POINTS}
            slopes = []
            try:
                with np.errstate(all="ignore"):
                    y = _evaluate(net, node, computed, slopes)
            except (TypeError, ValueError):  # inputs or attributes that the operator does not have
                return None
            if y is None:
                return None
            found = _prelu_of(net, node, start, y, slopes[0]) if slopes else _layer_of(net, node, start, y)
            if found is not None:
                return found
        start = net.forks.of[start]
    return None


def _layer_of(net, node, start, y):
    if _same(y, _EXACT_GELU):
        raise UnsupportedError(EXACT_GELU)
    for layer, values in _KNOWN:
        if _same(y, values):
            return lambda: net.put(node, start, type(layer)(**layer.config()))
    return None


def _prelu_of(net, node, start, y, slopes):
    for sign in (1, -1):
        if _same(y, np.where(_POINTS > 0, _POINTS, sign * _SLOPE * _POINTS)):
            return lambda: put_prelu(net, node, start, sign * slopes)
    return None


def _same(y, values):
    return np.shape(y) == values.shape and np.abs(y - values).max() < 1e-5


def _evaluate(net, node, computed, slopes):
    """What a node computes at the points, or None where it is not a function of each number alone."""
    arguments = []
    for name in node.inputs:
        if name in computed:
            arguments.append(computed[name])
        elif name in net.arrays:
            array = net.arrays[name]
            if array.size != 1 and (array.dtype.kind != "f" or any(array is not other for other in slopes)):
                return None
            slopes += [array] if array.size != 1 else []
            arguments.append(_SLOPE if array.size != 1 else float(array.reshape(())))
        else:
            before = net.nodes.get(name)
            net.evaluations -= 1
            if before is None or before.operator not in ELEMENTWISE or len(computed) > 24 or net.evaluations < 0:
                return None
            arguments.append(_evaluate(net, before, computed, slopes))
            if arguments[-1] is None:
                return None
    y = ELEMENTWISE[node.operator](node, *arguments)
    computed[node.outputs[0]] = y
    return y


def put_prelu(net, node, source, slope):
    value = net.value(source)
    slope = for_channels(value, slope)
    layer = PReLU(shared=len(slope) == 1)
    net.put(node, source, parameters(net, layer, value.own_shape, slope=slope))


#: The function of each operator.
OPERATORS = {
    "Add": _arithmetic,
    "Cast": _cast,
    "Concat": _concat,
    "Div": _arithmetic,
    "Flatten": _flatten,
    "Identity": _identity,
    "Mul": _arithmetic,
    "Neg": _negative,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Sub": _arithmetic,
    "Sum": _sum,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
