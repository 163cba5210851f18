"""What the page shows of each layer: its arrays, and the few more numbers that its view needs."""

import math

import numpy as np

from minicnn.backends import to_device, to_numpy
from minicnn.core import operations
from minicnn.core.im2col import Window
from minicnn.core.layers import (
    LAYERS,
    Activation,
    AvgPool2D,
    BatchNorm,
    Branches,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    GlobalMaxPool2D,
    GroupNorm,
    LayerNorm,
    MaxPool2D,
    Residual,
    UpSampling2D,
)
from minicnn.inspect.explain.numerical import numerical_gradients

ALL_WEIGHTS = 500_000  # of a dense layer whose weights are all on the page; of a larger one, the largest terms
TERMS = 12  # of a unit of a large dense layer
INPUTS = 24  # of a large dense layer, those whose gradients have their terms on the page
ROWS = 256  # units of a large dense layer whose terms are computed together: bounds the memory
CURVE = 12.0  # the curve of an activation is drawn from -CURVE to CURVE

#: The page's view for each kind of layer; any other layer has the generic view.
VIEWS = {
    Conv2D: "convolution",
    MaxPool2D: "pooling",
    AvgPool2D: "pooling",
    GlobalAvgPool2D: "pooling",
    GlobalMaxPool2D: "pooling",
    Dense: "dense",
    Flatten: "flatten",
    Dropout: "elementwise",
    Activation: "elementwise",
    BatchNorm: "normalization",
    LayerNorm: "normalization",
    GroupNorm: "normalization",
    Residual: "block",
    Branches: "block",
    UpSampling2D: "upsampling",
    Conv2DTranspose: "upsampling",
}

#: Which numbers share a mean and a variance.
SHARING = {
    BatchNorm: "In training the numbers of one channel, in all images of the batch, share a mean and a variance; "
    "outside training the values kept from training are used.",
    LayerNorm: "All numbers of an image share a mean and a variance.",
    GroupNorm: "The numbers of a group of channels of one image share a mean and a variance.",
}


def view_of(layer):
    """The name of the page's view; a layer with a `forward` of its own has the generic view, whatever its class.

    >>> view_of(Conv2D(1, 3)), view_of(LAYERS["ZeroPad2D"]())
    ('convolution', 'generic')
    """
    for kind, view in VIEWS.items():
        methods = ("forward", "normalize", "combine")
        if isinstance(layer, kind) and all(_same(type(layer), kind, name) for name in methods):
            return view
    return "generic"


def _same(cls, kind, name):
    return getattr(cls, name, None) is getattr(kind, name, None)


def describe(step, training, seconds):
    """One layer with its arrays, as a dict for the page; `seconds` for each array of numerical gradients, at most."""
    layer, x, dy = step.layer, step.x, step.dy
    view = view_of(layer)
    about = {
        "name": step.name,
        "kind": type(layer).__name__,
        "view": view,
        "text": repr(layer),
        "shape": list(step.y.shape[1:]),
        "from": list(x.shape[1:]),
        "frozen": hasattr(layer, "weight") and not layer.weight.trainable,
        "y": array(step.y),
        "dy": array(dy),
        "dx": array(step.dx),
    }
    if view == "convolution":
        about |= _convolution(layer, x, dy, seconds) | _window(layer.window, x, step.y.shape[2:])
    elif view == "dense":
        about |= _dense(layer, array(x).ravel(), about["dy"], about["dx"].ravel())
    elif view == "upsampling":
        about |= _upsampling(layer, step.y.shape[2:])
    elif view == "flatten":
        about["sizes"] = [f"{'·'.join(map(str, x.shape[1:]))} = {math.prod(x.shape[1:]):,} numbers"]
    elif view == "pooling":
        about |= _pooling(layer, x, step.y, about)
    elif view == "normalization":
        about |= _normalization(layer, x, dy, training)
    elif view == "elementwise" and isinstance(layer, Dropout):
        about["rate"] = layer.rate
    elif view == "elementwise" and type(layer) in LAYERS.values():
        points = np.linspace(-CURVE, CURVE, 481, dtype="float32")
        about |= {"curve": about["kind"], "curveEnd": CURVE, "curveValues": layer.value(points, *layer.constants)}
    elif view == "block":
        about["join"] = getattr(layer, "join", "add")
    elif view == "generic":
        about["parameterShapes"] = [[key, list(p.value.shape)] for key, p in layer.parameters().items()]
    return about


def array(x):
    """A batch of one as a NumPy array without the batch axis.

    >>> array(np.ones((1, 2)))
    array([1., 1.])
    """
    return np.ascontiguousarray(to_numpy(x)[0])


def _gradient(parameter):
    """A parameter's gradient as a NumPy array; zeros where it is frozen."""
    return to_numpy(parameter.grad) if parameter.has_gradient else np.zeros_like(to_numpy(parameter.value))


def _window(window, x, positions):
    """A window on the images x, and the arithmetic of its positions (OH, OW)."""
    H, W = x.shape[2:]
    numbers = {
        "kernel": list(window.kernel_size),
        "stride": list(window.stride),
        "pads": [list(pad) for pad in window.pads(H, W)],
        "dilation": list(window.dilation),
    }
    return {"window": numbers, "sizes": _sizes(window, H, W, positions)}


def _sizes(window, H, W, positions):
    """The arithmetic of the output's height and width, with the numbers filled in."""
    lines = []
    for axis, size, kernel, stride, (a, b), dilation, count in zip(
        ("height", "width"), (H, W), window.kernel_size, window.stride, window.pads(H, W), window.dilation, positions,
        strict=True,
    ):  # fmt: skip
        extent = f"{kernel}" if dilation == 1 else f"({dilation}·({kernel} - 1) + 1)"
        padding = f" + 2·{a}" if a == b and a else f" + {a} + {b}" if a or b else ""
        divisible = (size + a + b - dilation * (kernel - 1) - 1) % stride == 0
        left, right, close = ("(", ")", "") if divisible else ("⌊(", ")", "⌋")
        lines.append(f"{axis}: {left}{size}{padding} - {extent}{right} / {stride}{close} + 1 = {count}")
    return lines


def _convolution(layer, x, dy, seconds):
    """The kernels and the bias, their gradients, and the numerical gradients beside them."""
    weights, inputs = numerical_gradients(layer, x, dy, seconds)
    about = {
        "groups": layer.groups,
        "weight": to_numpy(layer.weight.value),
        "dweight": _gradient(layer.weight),
        "numWeight": weights,
        "numInput": inputs,
    }
    if layer.bias is not None:
        about |= {"bias": to_numpy(layer.bias.value), "dbias": _gradient(layer.bias)}
    return about


def _upsampling(layer, size):
    """The window of the convolution whose backward pass the layer computes, on images of the output's size; kernels."""
    window = layer.window
    numbers = {
        "kernel": list(window.kernel_size),
        "stride": list(window.stride),
        "pads": [list(pad) for pad in window.pads(*size)],
        "dilation": list(window.dilation),
    }
    about = {"window": numbers}
    if not hasattr(layer, "weight"):
        return about
    about |= {"groups": layer.groups, "weight": to_numpy(layer.weight.value), "dweight": _gradient(layer.weight)}
    if layer.bias is not None:
        about |= {"bias": to_numpy(layer.bias.value), "dbias": _gradient(layer.bias)}
    return about


def _pooling(layer, x, y, about):
    """The window; that of a global pooling is as large as the image."""
    found = {"pool": "max" if isinstance(layer, (MaxPool2D, GlobalMaxPool2D)) else "mean"}
    found["countPad"] = bool(getattr(layer, "count_include_pad", False))
    if y.ndim == 2:
        found |= {"y": about["y"][:, None, None], "dy": about["dy"][:, None, None]}
        return found | _window(Window(x.shape[2:]), x, (1, 1))
    return found | _window(layer.window, x, y.shape[2:])


def _dense(layer, x, dy, dx):
    """The weights; of a layer too large for a page, the largest terms of every unit and of some inputs' gradients."""
    weight = to_numpy(layer.weight.value)
    U, D = weight.shape
    biases, learned = ("", D * U) if layer.bias is None else (f" + {U:,} biases", D * U + U)
    about = {"sizes": [f"{D:,} inputs · {U:,} units{biases} = {learned:,} learned numbers"]}
    if layer.bias is not None:
        about |= {"bias": to_numpy(layer.bias.value), "dbias": _gradient(layer.bias)}
    if weight.size <= ALL_WEIGHTS:
        return about | {"weight": weight}
    top = np.concatenate([_largest(weight[start : start + ROWS] * x) for start in range(0, U, ROWS)])  # (U, TERMS)
    inputs = np.argsort(-np.abs(dx), kind="stable")[:INPUTS]
    of_inputs = weight[:, inputs].T  # (INPUTS, U)
    units = _largest(of_inputs * dy)
    return about | {
        "top": top,
        "topWeights": np.take_along_axis(weight, top, axis=1),
        "topOfInput": {
            "inputs": inputs.tolist(),
            "units": units,
            "weights": np.take_along_axis(of_inputs, units, axis=1),
        },
    }


def _largest(terms):
    """The indices of the largest terms of each row, the largest first."""
    size = np.abs(terms)
    found = np.argpartition(-size, TERMS, axis=1)[:, :TERMS]
    order = np.argsort(-np.take_along_axis(size, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def _normalization(layer, x, dy, training):
    """The mean and the variance that were used; of a BatchNorm outside training also those of this image alone."""
    fixed = isinstance(layer, BatchNorm) and not (training and layer.trainable)
    kind = next(kind for kind in SHARING if isinstance(layer, kind))
    groups = {BatchNorm: x.shape[1], LayerNorm: 1}.get(kind) or layer.groups
    about = {
        "sharing": SHARING[kind],
        "epsilon": layer.epsilon,
        "mixes": not fixed and x.ndim == 4,
        **{name: to_numpy(getattr(layer, name).value) for name in ("scale", "shift")},
        **{f"d{name}": _gradient(getattr(layer, name)) for name in ("scale", "shift")},
    }
    own = _own_statistics(layer, x, dy, groups) if x[0].size > groups else None
    if not fixed:
        return about | {"statistics": own | {"alone": isinstance(layer, BatchNorm)}}
    mean, variance = to_numpy(layer.running_mean.value), to_numpy(layer.running_variance.value)
    shape = (-1, *(1,) * (x.ndim - 2))
    normalized = (array(x) - mean.reshape(shape)) / np.sqrt(variance + layer.epsilon).reshape(shape)
    about["statistics"] = {"fixed": True, "mean": mean, "variance": variance, "normalized": normalized}
    return about if own is None else about | {"asInTraining": own | {"alone": True}}


def _own_statistics(layer, x, dy, groups):
    """Normalization with the mean and the variance of the numbers themselves, and the terms of its gradient."""
    x, dy = array(x), array(dy)
    scale, shift = (to_numpy(parameter.value) for parameter in (layer.scale, layer.shift))
    scale, shift = (value.reshape(*value.shape, *(1,) * (x.ndim - value.ndim)) for value in (scale, shift))
    dnormalized = dy * scale
    grouped = dnormalized.reshape(groups, -1)
    one, zero = to_device(np.ones((1, 1), x.dtype)), to_device(np.zeros((1, 1), x.dtype))
    *found, backward = operations.current.normalize(to_device(x.reshape(groups, -1)), (1,), one, zero, layer.epsilon)
    normalized, mean, variance = (to_numpy(value) for value in found[:3])
    return {
        "mean": mean.ravel(),
        "variance": variance.ravel(),
        "normalized": normalized.reshape(x.shape),
        "meanGradient": grouped.mean(axis=1),
        "meanProduct": (grouped * normalized).mean(axis=1),
        "y": normalized.reshape(x.shape) * scale + shift,
        "dx": to_numpy(backward(to_device(grouped))[0]).reshape(x.shape),
    }
