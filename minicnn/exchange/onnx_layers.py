"""Which layer an ONNX operator is: a function for each operator that becomes a layer.

A function reads the attributes and constants of a node, makes the layer with its
weights, and puts it into the `Network` of `onnx_load.py`. What it cannot express
it refuses with `UnsupportedError`: what the node needs, and what would have to change.
"""

import numpy as np

from minicnn.core.checks import quoted
from minicnn.core.layers import (
    ELU,
    GELU,
    AvgPool2D,
    BatchNorm,
    Clip,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Dropout,
    GroupNorm,
    Hardswish,
    LayerNorm,
    LeakyReLU,
    LocalResponseNorm,
    LogSoftmax,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
    UpSampling2D,
    ZeroPad2D,
)
from minicnn.core.window import Window
from minicnn.exchange import onnx_arrays
from minicnn.exchange.onnx_arrays import EXACT_GELU, put_prelu, scaling
from minicnn.exchange.onnx_graph import axes_of
from minicnn.exchange.onnx_values import (
    UnsupportedError,
    Value,
    digits,
    image,
    ordinary,
    own,
    parameters,
    short,
    short_padding,
    vector,
)

_LARGEST = 2**20  # pixels of a window, a stride or a padding: more is a mistake, or made to do harm


def _geometry(node, sizes, kernel):
    """The arguments of a layer for a sliding window over images of these sizes, and its padding as pairs."""
    if len(kernel) != 2:
        raise UnsupportedError(
            f"its window has {len(kernel)} axes, and the layers here slide over images, which have two"
        )
    stride, dilation = (tuple(node.attributes.get(key, (1, 1))) for key in ("strides", "dilations"))
    numbers = (*kernel, *stride, *dilation, *node.attributes.get("pads", ()))
    if max(numbers) > _LARGEST:
        raise UnsupportedError(f"its window has a number above {_LARGEST}: {max(numbers)}")
    window = Window(tuple(kernel), stride, "same", dilation)
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = window.pads(*sizes)
        pads = pads if auto == "SAME_UPPER" else tuple(pair[::-1] for pair in pads)
    else:
        top, left, bottom, right = node.attributes.get("pads", (0,) * 4) if auto in ("NOTSET", "") else (0,) * 4
        pads = (top, bottom), (left, right)
    options = {"stride": short(window.stride), "dilation": short(window.dilation)}
    return options, pads, "same" if auto == "SAME_UPPER" else short_padding(pads)


# Layers with weights


def _conv(net, node):
    source = node.inputs[0]
    shape, weight, bias = image(net, source), net.constant(node, 1), net.constant(node, 2)
    options, _, padding = _geometry(node, shape[1:], weight.shape[2:])
    layer = Conv2D(
        len(weight),
        short(weight.shape[2:]),
        padding=padding,
        groups=node.attributes.get("group", 1),
        use_bias=bias is not None,
        **options,
    )
    net.put(node, source, parameters(net, layer, shape, weight=weight, bias=bias))


def _conv_transpose(net, node):
    shape, weight, bias = image(net, node.inputs[0]), net.constant(node, 1), net.constant(node, 2)
    options, pads, padding = _geometry(node, shape[1:], weight.shape[2:])
    added = tuple(node.attributes.get("output_padding", (0, 0)))
    groups = node.attributes.get("group", 1)
    asked = node.attributes.get("output_shape")
    if asked is not None and padding != "same":
        window = Window(weight.shape[2:], options["stride"], "valid", options["dilation"])
        full = [(n - 1) * s + extent for n, s, extent in zip(shape[1:], window.stride, window.extent, strict=True)]
        cut = [n + a - int(size) for n, a, size in zip(full, added, asked[-2:], strict=True)]
        pads = [(n - n // 2, n // 2) for n in cut]
        padding = short_padding(pads)
    layer = Conv2DTranspose(
        weight.shape[1] * groups,
        short(weight.shape[2:]),
        padding=padding,
        output_padding=short(added),
        groups=groups,
        use_bias=bias is not None,
        **options,
    )
    if asked is not None and layer.output_shape(shape)[1:] != tuple(asked[-2:]):
        raise UnsupportedError(f"its output_shape {asked} is not what its window gives: export it with pads instead")
    net.put(node, node.inputs[0], parameters(net, layer, shape, weight=weight, bias=bias))


def _gemm(net, node):
    if node.attributes.get("transA", 0):
        raise UnsupportedError("it transposes the batch (transA)")
    weight, bias = net.constant(node, 1), net.constant(node, 2)
    weight = weight if node.attributes.get("transB", 0) else weight.T
    weight = weight * np.asarray(node.attributes.get("alpha", 1.0), weight.dtype)
    if bias is not None:
        bias = np.broadcast_to(bias, (1, len(weight)))[0] * np.asarray(node.attributes.get("beta", 1.0), bias.dtype)
    _linear(net, node, weight, bias)


def _matmul(net, node):
    weight = net.constant(node, 1)
    if weight.ndim != 2:
        raise UnsupportedError(f"it multiplies with an array of the shape {weight.shape}, and a Dense has a matrix")
    _linear(net, node, weight.T, None)


def _linear(net, node, weight, bias):
    value = vector(net, node.inputs[0])
    if weight.shape[1:] == value.own_shape:
        weight = value.ordered(weight)
    layer = parameters(net, Dense(len(weight), use_bias=bias is not None), value.own_shape, weight=weight, bias=bias)
    net.put(node, node.inputs[0], layer, Value((len(weight),), ((0,),)))


def _batch_norm(net, node):
    if node.attributes.get("training_mode", 0):
        raise UnsupportedError(
            "it normalizes as in training: export the network for inference, in PyTorch after model.eval()"
        )
    arrays = [net.constant(node, index) for index in range(1, 5)]
    value = net.value(node.inputs[0])
    if value.is_flat and len(arrays[0]) == value.own_shape[0]:
        arrays = [value.ordered(array) for array in arrays]
    elif not value.is_image and not value.is_vector:
        image(net, node.inputs[0])
    momentum = node.attributes.get("momentum", 0.9)
    momentum = momentum if 0 <= momentum < 1 else 0.9  # exporters write any number: inference does not use it
    layer = BatchNorm(momentum=round(momentum, 6), epsilon=digits(node.attributes.get("epsilon", 1e-5)))
    parameters(net, layer, value.own_shape, scale=arrays[0], shift=arrays[1])
    for state, array in ((layer.running_mean, arrays[2]), (layer.running_variance, arrays[3])):
        if array.shape != layer.scale.value.shape:
            raise UnsupportedError(f"its mean and variance have the shape {array.shape}")
        state.value = own(net, array)
    net.put(node, node.inputs[0], layer)


def _layer_norm(net, node):
    value = ordinary(net, node.inputs[0])
    axis = node.attributes.get("axis", -1)
    if axis not in (1, -len(value.axes)):
        raise UnsupportedError(f"it normalizes from axis {axis} on, and LayerNorm all numbers of a sample")
    scale = net.constant(node, 1)
    shift = net.constant(node, 2, np.zeros_like(scale))
    layer = LayerNorm(epsilon=digits(node.attributes.get("epsilon", 1e-5)))
    net.put(node, node.inputs[0], parameters(net, layer, value.own_shape, scale=scale, shift=shift))


def _group_norm(net, node):
    value = ordinary(net, node.inputs[0])
    scale, shift = net.constant(node, 1), net.constant(node, 2)
    channels = value.own_shape[0]
    groups = node.attributes["num_groups"] if node.operator == "GroupNormalization" else channels
    if node.operator == "GroupNormalization" and node.opset < 21:  # one scale for each group
        scale, shift = (np.repeat(array, channels // groups) for array in (scale, shift))
    layer = GroupNorm(groups, epsilon=digits(node.attributes.get("epsilon", 1e-5)))
    net.put(node, node.inputs[0], parameters(net, layer, value.own_shape, scale=scale, shift=shift))


def _prelu(net, node):
    put_prelu(net, node, node.inputs[0], net.constant(node, 1))


# Pooling, and layers without weights


def _pool(net, node):
    source = node.inputs[0]
    shape = image(net, source)
    kernel = node.attributes["kernel_shape"]
    options, pads, padding = _geometry(node, shape[1:], kernel)
    if options.pop("dilation") != 1:
        raise UnsupportedError("its window has a dilation, and the windows of the poolings here do not")
    kernel, layers = tuple(kernel), []
    counts = node.operator == "AveragePool" and bool(node.attributes.get("count_include_pad", 0)) and np.any(pads)
    if node.attributes.get("ceil_mode", 0) and padding != "same":
        stride = Window(kernel, options["stride"]).stride
        beyond = [_beyond(*item) for item in zip(shape[1:], kernel, stride, pads, strict=True)]
        if counts and any(beyond):  # the padding counts, and what lies beyond it does not
            layers, pads, counts = [ZeroPad2D(pads)], ((0, 0), (0, 0)), False
        pads = [(before, after + more) for (before, after), more in zip(pads, beyond, strict=True)]
        padding = short_padding(pads)
    options |= {"padding": padding, "stride": None if options["stride"] == short(kernel) else options["stride"]}
    if node.operator == "AveragePool":
        layer = AvgPool2D(short(kernel), count_include_pad=bool(counts), **options)
    else:
        layer = MaxPool2D(short(kernel), **options)
    if kernel == shape[1:] and not np.any(pads):
        net.wide_pools.add(layer)
    net.put(node, source, [*layers, layer])


def _beyond(size, kernel, stride, pads):
    """How far the last window reaches beyond the padding, where the number of positions is rounded up (ceil_mode)."""
    before, after = pads
    padded = before + size + after
    positions = -(-(padded - kernel) // stride) + 1
    if (positions - 1) * stride >= before + size:  # a window that would begin beyond the image is left out
        positions -= 1
    return max(0, (positions - 1) * stride + kernel - padded)


def _global_pool(kind):
    def add(net, node):
        shape = image(net, node.inputs[0])
        net.put(node, node.inputs[0], _wide_pool(net, kind, shape))

    return add


def _wide_pool(net, kind, shape):
    layer = kind(short(shape[1:]))
    net.wide_pools.add(layer)
    return layer


def _reduce(kind):
    def add(net, node):  # over the height and the width of an image
        source = node.inputs[0]
        value = net.value(source)
        axes = axes_of(node, [None, net.constant(node, 1)])
        rank = len(value.axes) + 1
        over = sorted(axis % rank for axis in axes or range(rank))
        pixels = [axis for axis in over if axis > 0]
        found = sorted(a for axis in pixels for a in value.axes[axis - 1])
        if 0 in over or value.is_flat or len(value.shape) != 3 or found != [1, 2]:
            raise UnsupportedError(
                f"it reduces the axes {over} of {('N', *value.file_shape)}, and a pooling H and W of images"
            )
        after = Value((value.shape[0], 1, 1), value.axes)
        if not node.attributes.get("keepdims", 1):
            after = after._replace(axes=tuple(a for i, a in enumerate(value.axes, 1) if i not in pixels))
        net.put(node, source, _wide_pool(net, kind, value.shape), after)

    return add


def _lrn(net, node):
    value = net.value(node.inputs[0])
    if value.file_shape != (*value.shape, 1, 1):  # vectors, as the operator takes them
        image(net, node.inputs[0])
    alpha, beta, k = (digits(node.attributes.get(key, default)) for key, default in
                      (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))  # fmt: skip
    net.put(node, node.inputs[0], LocalResponseNorm(node.attributes["size"], alpha=alpha, beta=beta, k=k))


def _activation(make):
    def add(net, node):
        net.value(node.inputs[0])
        net.put(node, node.inputs[0], make(node))

    return add


def _gelu(node):
    if node.attributes.get("approximate", "none") != "tanh":
        raise UnsupportedError(EXACT_GELU)
    return GELU()


def _celu(node):
    if node.attributes.get("alpha", 1.0) != 1:
        raise UnsupportedError("its alpha is not 1; with 1 it is an ELU")
    return ELU()


def _selu(net, node):
    shape = net.value(node.inputs[0]).own_shape
    alpha, gamma = node.attributes.get("alpha", 1.6732632), node.attributes.get("gamma", 1.0507010)
    net.put(node, node.inputs[0], [ELU(digits(alpha)), *scaling(net, shape, gamma, 0.0)])


def _hard_sigmoid(net, node):
    shape = net.value(node.inputs[0]).own_shape
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    net.put(node, node.inputs[0], [*scaling(net, shape, alpha, beta), Clip(0.0, 1.0)])


def _erf(net, node):
    net.value(node.inputs[0])
    raise UnsupportedError(EXACT_GELU)


def _clip(net, node):
    low, high = node.attributes.get("min"), node.attributes.get("max")
    low = low if low is not None else net.constant(node, 1)
    high = high if high is not None else net.constant(node, 2)
    low, high = (None if bound is None or abs(float(bound)) > 3e38 else digits(float(bound)) for bound in (low, high))
    net.value(node.inputs[0])
    if low is None and high is None:
        net.put(node, node.inputs[0], [])
    elif (low, high) == (0, None):
        net.put(node, node.inputs[0], ReLU())
    elif low is None or high is None:
        raise UnsupportedError("it has one bound; with both it would be a Clip")
    else:
        net.put(node, node.inputs[0], Clip(low, high))


def _softmax(kind):
    def add(net, node):
        value = net.value(node.inputs[0])
        rank = len(value.axes) + 1
        axis = node.attributes.get("axis", 1 if node.opset < 13 else -1) % rank
        last = axis if node.opset >= 13 else rank - 1  # in older versions along all axes from this one on
        over = {a for axes in value.axes[max(0, axis - 1) : last] for a in axes if value.shape[a] > 1}
        if axis == 0 or not (value.is_vector or over <= {0}):
            raise UnsupportedError(
                f"it is computed along axis {axis} of {('N', *value.file_shape)}, not along the channels"
            )
        net.put(node, node.inputs[0], kind())

    return add


def _dropout(net, node):
    rate = node.attributes.get("ratio", 0.5)
    rate = float(net.constant(node, 1, rate))
    net.value(node.inputs[0])
    net.put(node, node.inputs[0], Dropout(digits(rate)) if rate else [])


def _pad(net, node):
    source = node.inputs[0]
    value = net.value(source)
    mode = node.attributes.get("mode", "constant")
    pads = node.attributes["pads"] if "pads" in node.attributes else net.constant(node, 1).tolist()
    fill = float(node.attributes.get("value", 0.0) if "pads" in node.attributes else net.constant(node, 2, 0.0))
    axes = net.constant(node, 3)
    axes = range(len(value.axes) + 1) if axes is None else [int(a) % (len(value.axes) + 1) for a in axes]
    found = {axis: (int(before), int(after)) for axis, before, after in
             zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)}  # fmt: skip
    found = {axis: pair for axis, pair in found.items() if pair != (0, 0)}
    if not found:
        return net.put(node, source, [])
    own = {value.axes[axis - 1]: pair for axis, pair in found.items() if axis > 0}
    if mode != "constant" or fill != 0:
        edges = "; Keras on PyTorch writes its average pooling with padding='same' so" if mode == "edge" else ""
        raise UnsupportedError(f"it pads in the mode {quoted(mode)} with {fill:g}, and ZeroPad2D with zeros{edges}")
    if value.is_flat or len(value.shape) != 3 or len(own) < len(found) or not own.keys() <= {(1,), (2,)}:
        raise UnsupportedError(f"it pads other axes of {('N', *value.file_shape)} than the height and the width")
    pads = own.get((1,), (0, 0)), own.get((2,), (0, 0))
    layer = ZeroPad2D(short_padding(pads))
    net.put(node, source, layer, value._replace(shape=layer.output_shape(value.shape)))


#: How nearest neighbours are found, where the result is each pixel repeated.
_REPEATS = {
    ("asymmetric", "floor"), ("tf_half_pixel_for_nn", "floor"),
    *((mode, f"round_prefer_{side}") for mode in ("half_pixel", "pytorch_half_pixel") for side in ("floor", "ceil")),
}  # fmt: skip


def _resize(net, node):
    value = net.value(node.inputs[0])
    scales = net.constant(node, 2 if node.operator == "Resize" and node.opset > 10 else 1)
    if scales is None or not scales.size:
        scales = net.constant(node, 3) / np.array([net.batch, *value.file_shape])
    how = tuple(
        node.attributes.get(key, default)
        for key, default in (
            ("coordinate_transformation_mode", "half_pixel"),
            ("nearest_mode", "round_prefer_floor"),
        )
    )
    if node.attributes.get("mode", "nearest") != "nearest" or (node.opset > 10 and how not in _REPEATS):
        raise UnsupportedError("UpSampling2D repeats each pixel, and this computes others: use the mode 'nearest'")
    factors = dict(zip(((), *value.axes), map(float, scales), strict=True))
    height, width = factors.pop((1,), 1.0), factors.pop((2,), 1.0)
    if value.is_flat or len(value.shape) != 3 or set(factors.values()) > {1.0} or height % 1 or width % 1:
        raise UnsupportedError(
            f"it resizes {('N', *value.file_shape)} by {scales.tolist()}: UpSampling2D repeats the rows and the "
            "columns, each an integer number of times"
        )
    layer = UpSampling2D(short((int(height), int(width))))
    net.put(node, node.inputs[0], layer, value._replace(shape=layer.output_shape(value.shape)))


#: The function of each operator.
OPERATORS = {
    **onnx_arrays.OPERATORS,
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Celu": _activation(_celu),
    "Clip": _clip,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Dropout": _dropout,
    "Elu": _activation(lambda node: ELU(digits(node.attributes.get("alpha", 1.0)))),
    "Erf": _erf,
    "Erfc": _erf,
    "Gelu": _activation(_gelu),
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool(AvgPool2D),
    "GlobalMaxPool": _global_pool(MaxPool2D),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _activation(lambda node: Hardswish()),
    "InstanceNormalization": _group_norm,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _activation(lambda node: LeakyReLU(digits(node.attributes.get("alpha", 0.01)))),
    "LogSoftmax": _softmax(LogSoftmax),
    "MatMul": _matmul,
    "MaxPool": _pool,
    "PRelu": _prelu,
    "Pad": _pad,
    "ReduceMax": _reduce(MaxPool2D),
    "ReduceMean": _reduce(AvgPool2D),
    "Relu": _activation(lambda node: ReLU()),
    "Resize": _resize,
    "Selu": _selu,
    "Sigmoid": _activation(lambda node: Sigmoid()),
    "Softmax": _softmax(Softmax),
    "Tanh": _activation(lambda node: Tanh()),
    "Upsample": _resize,
}
