"""The data behind the page: everything that one image and its gradient leave in the layers of a network.

The image goes forward through the layers one by one, and the gradient of the
loss goes backward through them. Each layer's input, output, gradients and
parameters are kept, as the library computes them. The page computes only
single products itself; every sum that it shows comes from the library.

Some gradients have a numerical gradient beside them, by central differences in
float64: the number is made a little larger and a little smaller, and the
outputs, weighted by the gradients that arrive there, are compared.
"""

import contextlib
import itertools
import math
import os
import time

import numpy as np

from minicnn.backends import to_device, to_numpy
from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.core.im2col import Window
from minicnn.core.layers import (
    LAYERS,
    Activation,
    AvgPool2D,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from minicnn.core.losses import SoftmaxCrossEntropy
from minicnn.datasets.images import read_fitted
from minicnn.inspect.summary import count_parameters
from minicnn.storage.models import states_restored

UNITS, INPUTS = 24, 24  # of a dense layer: units shown, and inputs shown for each
NUMERICAL_SECONDS = 1.5  # for the numerical gradients of an array, at most
STEP = 1e-4  # of the central differences
TOGETHER = 64  # changed kernels in one convolution
DRAWN_PARAMETERS = 500_000  # of a network that the page computes for a drawn image: the page holds all of them
#: The layers that the page can compute for a drawn image.
DRAWN_LAYERS = {Conv2D, MaxPool2D, AvgPool2D, GlobalAvgPool2D, Dense, Flatten, ReLU, Tanh, Sigmoid, Dropout}

#: The page's view for each kind of layer; any other layer has the generic view.
VIEWS = {
    Conv2D: "convolution",
    MaxPool2D: "pooling",
    AvgPool2D: "pooling",
    GlobalAvgPool2D: "pooling",
    Dense: "dense",
    Flatten: "flatten",
    Dropout: "elementwise",
    Activation: "elementwise",
}


def collect(model, image, label=None, names=None, training=False, invert=False):
    """The page's data; the arguments are those of `minicnn.explain`."""
    x = one_image(model, image, invert=invert)
    check_label(model, label)
    names = class_names(model.shapes[-1][0], names, model)
    with gradients_cleared(model), states_restored(model):
        steps = list(model.trace(x, training))
        logits = steps[-1][3]
        probabilities = to_numpy(Softmax()(logits))[0]
        target = int(probabilities.argmax()) if label is None else int(label)
        loss, dy = SoftmaxCrossEntropy()(logits, np.array([target]))
        if not (np.isfinite(to_numpy(logits)).all() and np.isfinite(to_numpy(loss))):
            raise InputError(
                "explain needs a network whose outputs are finite numbers: this one returns NaN or infinity"
            )
        parameters = count_parameters(model)
        kinds = {type(layer) for _, layer, *_ in steps}
        drawable = not training and parameters <= DRAWN_PARAMETERS and kinds <= DRAWN_LAYERS
        described = []
        for name, layer, layer_x, y, backward in reversed(steps):
            dx = backward(dy)
            about = _describe(name, layer, layer_x, y, dy, dx)
            if drawable and isinstance(layer, Dense):
                about["parameters"] = {key: to_numpy(parameter.value) for key, parameter in layer.parameters().items()}
            described.insert(0, about)
            dy = dx
    return {
        "layers": described,
        "input": _array(x),
        "names": names,
        "given": label is not None,
        "label": target,
        "logits": to_numpy(logits)[0],
        "probabilities": probabilities,
        "loss": float(to_numpy(loss)),
        "drawable": drawable,
        "training": training,
        "parameters": parameters,
    }


def class_names(classes, names=None, model=None):
    """A text for each class: the given ones; else the model's; else letters up to 26 classes, numbers for more."""
    if names is None:
        names = getattr(model, "classes", None)
    if names is None:
        return [chr(65 + k) if classes <= 26 else str(k) for k in range(classes)]
    if len(names) != classes:
        raise InputError(f"names needs one text for each of the {classes} classes, got {len(names)}")
    return list(map(str, names))


def check_label(model, label, caller="explain"):
    """Refuse a model that does not end in class scores, and a label that is not one of its classes; None is valid."""
    if len(model.shapes[-1]) != 1:
        raise InputError(f"{caller} needs a model that ends in class scores (K,), got {model.shapes[-1]}")
    (classes,) = model.shapes[-1]
    if label is not None and not (hasattr(label, "__index__") and 0 <= label < classes):
        raise InputError(f"{caller} needs a label from 0 to {classes - 1}, got {quoted(label)}")


@contextlib.contextmanager
def gradients_cleared(model):
    """A block that may add gradients to the model: they are cleared at its end.

    Raises:
        InputError: the model already holds gradients, which would be mixed with those of the block.
    """
    parameters = model.parameters().values()
    if any(parameter.has_gradient for parameter in parameters):
        raise InputError("the model holds gradients of an unfinished training step: finish the step first")
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.clear_gradient()


def one_image(model, image, caller="explain", invert=False):
    """An image, or the path of a picture, as the batch of one that the model's layers take."""
    if model.input_shape is None or len(model.input_shape) != 3:
        raise InputError(f"{caller} needs a model built for images (C, H, W), got input shape {model.input_shape}")
    if isinstance(image, (str, os.PathLike)):
        image = _read(image, model.input_shape, invert)
    elif invert:
        raise InputError(f"{caller} inverts only the path of a picture: pass an array as the model takes it")
    image = np.asarray(to_numpy(image))
    if image.ndim == 2 and model.input_shape[0] == 1:
        image = image[None]
    if tuple(image.shape) != model.input_shape:
        raise InputError(f"{caller} needs one image {model.input_shape}, got shape {image.shape}")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise InputError("the image holds NaN or infinity")
    return model.prepare(image[None])


def _read(path, shape, invert):
    """A picture of any size as uint8 (C, H, W), fitted into the input with its proportions kept."""
    C, H, W = shape
    if C not in (1, 3):
        raise InputError(f"a picture has one channel or three, the model takes {C}: pass an array")
    return read_fitted(path, (H, W), invert, "L" if C == 1 else "RGB")


def _array(x):
    """A batch of one as a NumPy array without the batch axis."""
    return np.ascontiguousarray(to_numpy(x)[0])


def _gradient(parameter):
    """A parameter's gradient as a NumPy array; zeros where it is frozen."""
    return to_numpy(parameter.grad) if parameter.has_gradient else np.zeros_like(to_numpy(parameter.value))


def _view(layer):
    """The name of the page's view; a layer with a `forward` of its own has the generic view, whatever its class."""
    for kind, view in VIEWS.items():
        if isinstance(layer, kind) and type(layer).forward is kind.forward:
            return view
    return "generic"


def _describe(name, layer, x, y, dy, dx):
    """One layer with its arrays."""
    view = _view(layer)
    about = {
        "name": name,
        "kind": type(layer).__name__,
        "view": view,
        "text": repr(layer),
        "shape": list(y.shape[1:]),
        "from": list(x.shape[1:]),
        "frozen": view in ("convolution", "dense") and not layer.weight.trainable,
        "y": _array(y),
        "dy": _array(dy),
        "dx": _array(dx),
    }
    if view == "convolution":
        about |= _convolution(layer, x, dy) | _window(layer.window, x, y.shape[2:])
    elif view == "dense":
        about |= _dense(layer, _array(x), about["y"], about["dy"])
    elif view == "flatten":
        about["sizes"] = [f"{'·'.join(map(str, x.shape[1:]))} = {math.prod(x.shape[1:]):,} numbers"]
    elif isinstance(layer, GlobalAvgPool2D) and view == "pooling":  # a mean over one window: all of the image
        about |= {"y": about["y"][:, None, None], "dy": about["dy"][:, None, None], "pool": "mean", "countPad": False}
        about |= _window(Window(x.shape[2:]), x, (1, 1))
    elif view == "pooling":
        about |= {"pool": "max"} if isinstance(layer, MaxPool2D) else {"pool": "mean"}
        about["countPad"] = bool(getattr(layer, "count_include_pad", False))
        about |= _window(layer.window, x, y.shape[2:])
    elif view == "elementwise" and isinstance(layer, Dropout):
        about["rate"] = layer.rate
    elif view == "elementwise" and type(layer) in LAYERS.values():
        about["curve"] = type(layer).__name__
    elif view == "generic":
        about["parameterShapes"] = [[key, list(p.value.shape)] for key, p in layer.parameters().items()]
    return about


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


def _convolution(layer, x, dy):
    """The kernels and the bias, their gradients, and the numerical gradients beside them."""
    about = {
        "groups": layer.groups,
        "weight": to_numpy(layer.weight.value),
        "dweight": _gradient(layer.weight),
    }
    if layer.bias is not None:
        about |= {"bias": to_numpy(layer.bias.value), "dbias": _gradient(layer.bias)}
    return about | _numerical(layer, x, dy)


def _dense(layer, x, y, dy):
    """The units with the largest outputs and gradients, and the largest terms of each: all would be too many."""
    weight = to_numpy(layer.weight.value)
    size = np.abs(y) / (np.abs(y).max() + 1e-30) + np.abs(dy) / (np.abs(dy).max() + 1e-30)
    units = np.sort(np.argsort(-size, kind="stable")[:UNITS])
    terms = weight[units] * x  # (units, D)
    top = np.argsort(-np.abs(terms), axis=1, kind="stable")[:, :INPUTS]
    rows = np.arange(len(units))[:, None]
    U, D = weight.shape
    biases, learned = ("", D * U) if layer.bias is None else (f" + {U:,} biases", D * U + U)
    about = {
        "sizes": [f"{D:,} inputs · {U:,} units{biases} = {learned:,} learned numbers"],
        "units": units.tolist(),
        "top": top.tolist(),
        "topInputs": x[top],
        "topWeights": weight[units][rows, top],
        "topGradients": dy[units][:, None] * x[top],
    }
    if layer.bias is not None:
        about |= {"bias": to_numpy(layer.bias.value)[units], "dbias": _gradient(layer.bias)[units]}
    return about


def _numerical(layer, x, dy):
    """Numerical gradients of a convolution's weights and inputs: NaN where the time did not suffice.

    d/dw of sum(dy * layer(x)), by ((layer at w + h) - (layer at w - h)) / (2 h) in float64
    """
    x, dy, weight = (to_numpy(array).astype(np.float64) for array in (x, dy, layer.weight.value))
    return {"numWeight": _weight_slopes(layer, x, dy[0], weight), "numInput": _input_slopes(layer, x, dy[0], weight)}


def _convolve(layer, x, weight, groups):
    """The output of `layer` for these images with these kernels; without bias, which cancels in a difference."""
    window = layer.window
    trial = Conv2D(
        len(weight),
        window.kernel_size,
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        groups=groups,
        use_bias=False,
    )
    trial.build(x.shape[1:], dtype="float64")
    trial.weight.value = to_device(weight)
    return to_numpy(trial(to_device(x)))


def _weight_slopes(layer, x, dy, weight):
    """Each weight of a kernel is changed in a copy of the kernel, and many copies are the filters of one layer."""
    slopes = np.full(weight.shape, np.nan)
    F, C = weight.shape[:2]
    for f in _in_time(F):
        group = f // (F // layer.groups)
        channels = x[:, group * C : (group + 1) * C]
        found = []
        for start in range(0, weight[f].size, TOGETHER):
            changes = STEP * np.eye(weight[f].size)[start : start + TOGETHER].reshape(-1, *weight[f].shape)
            up, down = (_convolve(layer, channels, weight[f] + sign * changes, 1)[0] for sign in (1, -1))
            found.append(np.tensordot(up - down, dy[f]) / (2 * STEP))
        slopes[f] = np.concatenate(found).reshape(weight[f].shape)
    return slopes


def _input_slopes(layer, x, dy, weight):
    """Pixels so far apart that no window sees two of them are changed together; each changes its own outputs.

    Source: Curtis, Powell & Reid, "On the estimation of sparse Jacobian matrices", 1974.
    """
    _, C, H, W = x.shape
    (top, _), (left, _) = layer.window.pads(H, W)
    OH, OW = dy.shape[1:]
    apart = layer.window.extent
    slopes = np.full((C, H, W), np.nan)
    for c in _in_time(C):
        slopes[c] = 0
        for first_row, first_col in itertools.product(*map(range, apart)):
            change = np.zeros((1, C, H, W))
            change[0, c, first_row :: apart[0], first_col :: apart[1]] = STEP
            up, down = (_convolve(layer, x + sign * change, weight, layer.groups)[0] for sign in (1, -1))
            found = (dy * (up - down)).sum(axis=0) / (2 * STEP)  # (OH, OW)
            rows, cols = (
                _pixels_seen(positions, stride, before, first, step)
                for positions, stride, before, first, step in zip(
                    (OH, OW), layer.window.stride, (top, left), (first_row, first_col), apart, strict=True
                )
            )
            inside = ((rows >= 0) & (rows < H))[:, None] & ((cols >= 0) & (cols < W))
            row, col = np.broadcast_arrays(rows[:, None], cols)
            np.add.at(slopes[c], (row[inside], col[inside]), found[inside])
    return slopes


def _pixels_seen(positions, stride, before, first, step):
    """For each position of a window along an axis, the one of the pixels `first, first + step, ...` that it sees."""
    start = np.arange(positions) * stride - before
    return start + (first - start) % step


def _in_time(count):
    """0 to `count - 1` in random order, until the time is over."""
    deadline = time.perf_counter() + NUMERICAL_SECONDS
    for index in np.random.default_rng(0).permutation(count):
        if time.perf_counter() > deadline:
            return
        yield int(index)
