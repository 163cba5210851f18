"""Everything that a page shows of a network at work, as the library computes it.

The image goes through the layers one by one, the gradient of the loss comes
back through them, and each layer's input, output, gradients and parameters
are kept. The page shows these numbers and computes none of its own, but for
the single products whose sum the library has already given.

Beside some gradients stands a numerical one: the same number nudged up and
down a little, in float64, and the change of the layer's outputs weighed by
the gradients that arrive at them.
"""

import itertools
import math
import pathlib
import time

import numpy as np

from minicnn.backend import to_device, to_numpy
from minicnn.errors import FileError, InputError
from minicnn.im2col import Window
from minicnn.layers import LAYERS, AvgPool2D, Conv2D, Dense, Dropout, Flatten, GlobalAvgPool2D, MaxPool2D, Softmax
from minicnn.losses import SoftmaxCrossEntropy

UNITS, INPUTS = 24, 24  # of a dense layer: units shown, and inputs shown of each
NUMERICAL_SECONDS = 1.5  # of nudging for each layer, at most
NUDGE = 1e-4
TOGETHER = 64  # kernels nudged at a time
DRAWN_PARAMETERS = 500_000  # of a network that the page can compute for a drawn image: it holds all of them
DRAWN_LAYERS = set(LAYERS.values()) - {Softmax}  # that the page can compute


def collect(model, image, label=None, names=None, training=False):
    """The page's data; the arguments are those of `minicnn.explain`."""
    x = one_image(model, image)
    check_label(model, label)
    names = class_names(math.prod(model.output_shape), names)
    layers = model.layers[:-1] if isinstance(model.layers[-1], Softmax) else model.layers
    refuse_unfinished_step(model)
    steps, y = [], x
    for layer in layers:
        inside = y
        y, way_back = layer.forward(y, training)
        steps.append((layer, inside, y, way_back))
    logits = y
    probabilities = to_numpy(Softmax()(logits))[0]
    target = int(probabilities.argmax()) if label is None else int(label)
    loss, dy = SoftmaxCrossEntropy()(logits, np.array([target]))
    if not (np.isfinite(to_numpy(logits)).all() and np.isfinite(to_numpy(loss))):
        raise InputError("explain needs a network whose outputs are finite numbers: this one gives NaN or infinity")
    drawable = (
        not training and model.count_parameters() <= DRAWN_PARAMETERS and DRAWN_LAYERS.issuperset(map(type, layers))
    )
    shown = []
    for name, (layer, inside, y, way_back) in reversed(list(zip(model.names, steps, strict=False))):
        dx = way_back(dy)
        about = _described(name, layer, inside, y, dy, dx)
        if drawable and isinstance(layer, Dense):
            about["whole"] = {key: to_numpy(parameter.value) for key, parameter in layer.parameters().items()}
        shown.insert(0, about)
        dy = dx
    for parameter in model.parameters().values():
        parameter.clear_gradient()
    return {
        "layers": shown,
        "input": _array(x),
        "names": names,
        "given": label is not None,
        "label": target,
        "logits": to_numpy(logits)[0],
        "probabilities": probabilities,
        "loss": float(to_numpy(loss)),
        "drawable": drawable,
        "training": training,
        "parameters": model.count_parameters(),
    }


def class_names(classes, names=None):
    """A text for each class: those given, or letters up to 26 classes, else numbers."""
    if names is None:
        return [chr(65 + k) if classes <= 26 else str(k) for k in range(classes)]
    if len(names) != classes:
        raise InputError(f"there must be a name for each of {classes} classes, got {len(names)}")
    return list(map(str, names))


def check_label(model, label, who="explain"):
    """Refuse a model that does not end in class scores, and a label that is none of its classes (None is none yet)."""
    if len(model.output_shape) != 1:
        raise InputError(f"{who} needs a model that ends in class scores (K,), got {model.output_shape}")
    classes = model.output_shape[0]
    if label is not None and not (hasattr(label, "__index__") and 0 <= label < classes):
        raise InputError(f"{who} needs a label from 0 to {classes - 1}, got {label!r}")


def refuse_unfinished_step(model):
    """Refuse a model that holds gradients: they would be mixed with those that are asked for."""
    if any(parameter.has_gradient for parameter in model.parameters().values()):
        raise InputError("the model holds gradients of an unfinished step: take the step first")


def one_image(model, image, who="explain"):
    """An image, or the path of a picture, as a batch of one as the model's layers take it."""
    if model.input_shape is None or len(model.input_shape) != 3:
        raise InputError(f"{who} needs a model built for images (C, H, W), got input shape {model.input_shape}")
    if isinstance(image, (str, pathlib.Path)):
        image = _read(image, model.input_shape)
    image = np.asarray(image)
    if image.ndim == 2 and model.input_shape[0] == 1:
        image = image[None]
    if tuple(image.shape) != model.input_shape:
        raise InputError(f"{who} needs one image {model.input_shape}, got shape {image.shape}")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise InputError("the image holds NaN or infinity")
    return model.prepare(image[None])


def _read(path, shape):
    """A picture of any size as uint8 (C, H, W), fitted into the input with its proportions kept."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    C, H, W = shape
    if C not in (1, 3):
        raise InputError(f"a picture has one channel or three, the model takes {C}: give an array")
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > 50_000_000:
                raise FileError(f"{path} has {picture.width} x {picture.height} pixels: too many")
            small = ImageOps.pad(picture.convert("L" if C == 1 else "RGB"), (W, H), Image.Resampling.LANCZOS)
            return np.asarray(small).reshape(H, W, C).transpose(2, 0, 1)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path} is not a picture that can be read: {error}") from error


def _array(x):
    """A batch of one as a NumPy array without the batch axis."""
    return np.ascontiguousarray(to_numpy(x)[0])


def _described(name, layer, x, y, dy, dx):
    """One layer with its arrays."""
    kind = type(layer).__name__
    about = {"name": name, "kind": kind, "text": repr(layer), "shape": list(y.shape[1:]), "from": list(x.shape[1:])}
    if isinstance(layer, Dense):
        return about | _dense(layer, x, y, dy, dx)
    if isinstance(layer, Flatten):
        about["sizes"] = [f"{'·'.join(map(str, x.shape[1:]))} = {math.prod(x.shape[1:]):,} numbers"]
    about |= {"y": _array(y), "dy": _array(dy), "dx": _array(dx)}
    if hasattr(layer, "window"):
        about |= _window(layer.window, x, y.shape[2:])
    if isinstance(layer, Conv2D):
        about |= {
            "groups": layer.groups,
            "weight": to_numpy(layer.weight.value),
            "dweight": to_numpy(layer.weight.grad),
        }
        if layer.bias is not None:
            about |= {"bias": to_numpy(layer.bias.value), "dbias": to_numpy(layer.bias.grad)}
        about |= _numerical(layer, x, dy)
    if isinstance(layer, MaxPool2D):
        about["pool"] = "max"
    if isinstance(layer, AvgPool2D):
        about["pool"] = "mean"
        about["countPad"] = bool(layer.count_include_pad)
    if isinstance(layer, GlobalAvgPool2D):  # a mean over one window: the whole image
        window = Window(x.shape[2:])
        about |= {name: about[name][:, None, None] for name in ("y", "dy")} | {"pool": "mean", "countPad": False}
        about |= _window(window, x, (1, 1))
    if isinstance(layer, Dropout):
        about["rate"] = layer.rate
    return about


def _window(window, x, outputs):
    """A window on the images x, and the arithmetic of its places."""
    H, W = x.shape[2:]
    numbers = {
        "kernel": list(window.kernel_size),
        "stride": list(window.stride),
        "pads": [list(pad) for pad in window.pads(H, W)],
        "dilation": list(window.dilation),
    }
    return {"window": numbers, "sizes": _sizes(window, H, W, outputs)}


def _sizes(window, H, W, outputs):
    """The arithmetic of the output's height and width, filled in."""
    lines = []
    for axis, size, kernel, stride, (a, b), dilation, places in zip(
        ("height", "width"), (H, W), window.kernel_size, window.stride, window.pads(H, W), window.dilation, outputs,
        strict=True,
    ):  # fmt: skip
        extent = f"{kernel}" if dilation == 1 else f"({dilation}·({kernel} - 1) + 1)"
        padding = f" + 2·{a}" if a == b and a else f" + {a} + {b}" if a or b else ""
        whole = (size + a + b - dilation * (kernel - 1) - 1) % stride == 0
        left, right = ("(", ")") if whole else ("⌊(", ")")
        close = "" if whole else "⌋"
        lines.append(f"{axis}: {left}{size}{padding} - {extent}{right} / {stride}{close} + 1 = {places}")
    return lines


def _dense(layer, x, y, dy, dx):
    """The units that matter most, and of each the inputs that push it most; the rest is too much for a page."""
    weight, inputs = to_numpy(layer.weight.value), _array(x)
    outputs, gradients = _array(y), _array(dy)
    size = np.abs(outputs) / (np.abs(outputs).max() + 1e-30) + np.abs(gradients) / (np.abs(gradients).max() + 1e-30)
    units = np.sort(np.argsort(-size, kind="stable")[:UNITS])
    terms = weight[units] * inputs  # (units, D)
    top = np.argsort(-np.abs(terms), axis=1, kind="stable")[:, :INPUTS]
    rows = np.arange(len(units))[:, None]
    U, D = weight.shape
    biases, learned = ("", D * U) if layer.bias is None else (f" + {U:,} biases", D * U + U)
    about = {
        "sizes": [f"{D:,} inputs · {U:,} units{biases} = {learned:,} learned numbers"],
        "y": outputs,
        "dy": gradients,
        "dx": _array(dx),
        "units": units.tolist(),
        "top": top.tolist(),
        "topInputs": inputs[top],
        "topWeights": weight[units][rows, top],
        "topGradients": gradients[units][:, None] * inputs[top],
    }
    if layer.bias is not None:
        about |= {"bias": to_numpy(layer.bias.value)[units], "dbias": to_numpy(layer.bias.grad)[units]}
    return about


def _numerical(layer, x, dy):
    """Numerical gradients of a convolution's weights and inputs: NaN where there was no time to nudge.

    d/dw of sum(dy * layer(x)), by ((layer at w + h) - (layer at w - h)) / (2 h) in float64
    """
    x, dy, weight = (to_numpy(array).astype(np.float64) for array in (x, dy, layer.weight.value))
    return {"numWeight": _nudged_weights(layer, x, dy[0], weight), "numInput": _nudged_inputs(layer, x, dy[0], weight)}


def _convolved(layer, x, weight, groups):
    """What `layer` would give for these images with these kernels and without bias, which no difference shows."""
    window = layer.window
    trial = Conv2D(len(weight), window.kernel_size, window.stride, window.padding, window.dilation, groups, False)
    trial.build(x.shape[1:], dtype="float64")
    trial.weight.value = to_device(weight)
    return to_numpy(trial(to_device(x)))


def _nudged_weights(layer, x, dy, weight):
    """Every weight of a kernel is nudged in a copy of the kernel, and many copies are filters of one layer."""
    found = np.full(weight.shape, np.nan)
    F, C = weight.shape[:2]
    for f in _in_time(F):
        group = f // (F // layer.groups)
        channels = x[:, group * C : (group + 1) * C]
        slopes = []
        for start in range(0, weight[f].size, TOGETHER):
            nudges = NUDGE * np.eye(weight[f].size)[start : start + TOGETHER].reshape(-1, *weight[f].shape)
            up, down = (_convolved(layer, channels, weight[f] + sign * nudges, 1)[0] for sign in (1, -1))
            slopes.append(np.tensordot(up - down, dy[f]) / (2 * NUDGE))
        found[f] = np.concatenate(slopes).reshape(weight[f].shape)
    return found


def _nudged_inputs(layer, x, dy, weight):
    """Pixels so far apart that no window sees two of them are nudged together; each changes its own outputs.

    Source: Curtis, Powell & Reid, "On the estimation of sparse Jacobian matrices", 1974.
    """
    _, C, H, W = x.shape
    (top, _), (left, _) = layer.window.pads(H, W)
    OH, OW = dy.shape[1:]
    apart = layer.window.extent
    found = np.full((C, H, W), np.nan)
    for c in _in_time(C):
        found[c] = 0
        for first_row, first_col in itertools.product(*map(range, apart)):
            nudge = np.zeros((1, C, H, W))
            nudge[0, c, first_row :: apart[0], first_col :: apart[1]] = NUDGE
            up, down = (_convolved(layer, x + sign * nudge, weight, layer.groups)[0] for sign in (1, -1))
            slopes = (dy * (up - down)).sum(axis=0) / (2 * NUDGE)  # (OH, OW)
            rows, cols = (
                _seen(places, stride, before, first, step)
                for places, stride, before, first, step in zip(
                    (OH, OW), layer.window.stride, (top, left), (first_row, first_col), apart, strict=True
                )
            )
            real = ((rows >= 0) & (rows < H))[:, None] & ((cols >= 0) & (cols < W))
            row, col = np.broadcast_arrays(rows[:, None], cols)
            np.add.at(found[c], (row[real], col[real]), slopes[real])
    return found


def _seen(places, stride, before, first, step):
    """For each place of a window along an axis, the one of the pixels `first, first + step, ...` that it sees."""
    start = np.arange(places) * stride - before
    return start + (first - start) % step


def _in_time(count):
    """0 to `count - 1`, spread evenly while there is time."""
    deadline = time.perf_counter() + NUMERICAL_SECONDS
    for number in np.random.default_rng(0).permutation(count):
        if time.perf_counter() > deadline:
            return
        yield int(number)
