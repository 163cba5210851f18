"""The data behind the page: everything that one image and its gradient leave in the layers of a network.

The image goes forward through the layers one by one, and the gradient of the
loss goes backward through them. Each layer's input, output, gradients and
parameters are kept, as the library computes them. The page computes only
single products itself, and adds up the terms that it does not show; every
other number comes from the library.
"""

import contextlib
import os
import time

import numpy as np

from minicnn.backends import to_numpy
from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.core.layers import (
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
from minicnn.inspect.explain import excitation
from minicnn.inspect.explain.describe import ALL_WEIGHTS, array, describe, view_of
from minicnn.inspect.explain.steps import flat, pass_back, run
from minicnn.inspect.summary import count_parameters
from minicnn.storage.models import states_restored

NUMERICAL_SECONDS = 6.0  # for all numerical gradients of a page, at most

#: The layers that the page can compute for a drawn image.
DRAWN_LAYERS = {Conv2D, MaxPool2D, AvgPool2D, GlobalAvgPool2D, Dense, Flatten, ReLU, Tanh, Sigmoid, Dropout}


def collect(model, image, label=None, names=None, training=False, invert=False, examples=None, complete=True):
    """The page's data; the arguments are those of `minicnn.explain`.

    `complete` is whether there are also numerical gradients and what excites the filters, which take seconds.
    """
    x = one_image(model, image, invert=invert)
    check_label(model, None)
    names = class_names(model.shapes[-1][0], names, model)
    label = class_index(label, names)
    check_label(model, label)
    examples = None if examples is None else _check_examples(model, examples)
    with gradients_cleared(model), states_restored(model):
        steps = run(model.row_to_logits, model.prepare(x), training)
        logits = steps[-1].y
        probabilities = to_numpy(Softmax()(logits))[0]
        target = int(probabilities.argmax()) if label is None else label
        loss, dlogits = SoftmaxCrossEntropy()(logits, np.array([target]))
        if not (np.isfinite(to_numpy(logits)).all() and np.isfinite(to_numpy(loss))):
            raise InputError(
                "explain needs a network whose outputs are finite numbers: this one returns NaN or infinity"
            )
        pass_back(steps, dlogits)
        layers = describe_all(steps, training, NUMERICAL_SECONDS if complete else 0)
        data = {
            "layers": layers,
            "input": array(x),
            "names": names,
            "given": label is not None,
            "label": target,
            "logits": to_numpy(logits)[0],
            "probabilities": probabilities,
            "loss": float(to_numpy(loss)),
            "drawable": _is_drawable(model, steps, training),
            "training": training,
            "parameters": count_parameters(model),
        }
        if complete:
            _add_excitation(data, steps, to_numpy(x))
        if examples is not None:
            _add_examples(data, model, steps, examples)
    return data


def describe_all(steps, training, seconds):
    """The layers as a flat list of dicts, those inside a block after it.

    Each has `depth`, how many blocks it is in, and `reads`, the index of the layer whose output it reads: -1 for the
    image. A block has `rows`, the indices of its layers. `seconds` is for all numerical gradients, at most.
    """
    order = {id(step): index for index, step in enumerate(flat(steps))}
    top_level = {id(step) for step in steps}
    convolutions = sum(view_of(step.layer) == "convolution" for step in flat(steps))
    seconds /= max(1, 2 * convolutions)  # each has two arrays
    described = []
    for step in flat(steps):
        about = describe(step, training, seconds)
        about["depth"] = int(id(step) not in top_level)
        about["reads"] = -1 if step.reads is None else order[id(step.reads)]
        if about["view"] == "block":
            about["rows"] = [
                {"name": name, "entries": [order[id(inside)] for inside in row], "dy": array(dy)}
                for (name, row), dy in zip(step.rows.items(), step.row_gradients, strict=True)
            ]
        described.append(about)
    return described


def _is_drawable(model, steps, training):
    """Whether the page can compute the network itself: it then holds all of its parameters."""
    kinds = {type(step.layer) for step in flat(steps)}
    return not training and count_parameters(model) <= ALL_WEIGHTS and kinds <= DRAWN_LAYERS


def _excitable(steps):
    """The steps with filters or classes to excite: (index, step, the index of each one's output)."""
    for index, step in enumerate(flat(steps)):
        if view_of(step.layer) == "convolution":
            F, OH, OW = step.y.shape[1:]
            yield index, step, [(f, OH // 2, OW // 2) for f in range(F)]
        elif step is steps[-1] and view_of(step.layer) == "dense":
            yield index, step, [(u,) for u in range(step.y.shape[1])]


def _add_excitation(data, steps, image):
    """Effective receptive fields, and images made by gradient ascent, as long as the time suffices."""
    deadline = time.perf_counter() + excitation.SECONDS
    for index, step, outputs in _excitable(steps):
        about = data["layers"][index]
        if time.perf_counter() > deadline:
            return
        if about["view"] == "convolution":
            about["effectiveAt"], about["effective"] = excitation.effective_fields(step, image)
            about["effectiveAt"] = about["effectiveAt"].tolist()
        made = excitation.ascent(excitation.path_to(step), outputs, image, deadline)
        if made is not None:
            about["ascent"] = made


def _add_examples(data, model, steps, examples):
    """For each filter and class the example images that excite it most."""
    indices = {step.name: index for index, step, _ in _excitable(steps)}
    found = excitation.exciting_examples(model, indices, examples)
    used = np.unique(np.concatenate([numbers.ravel() for numbers in found.values()])) if found else np.zeros(0, int)
    for name, numbers in found.items():
        data["layers"][indices[name]]["exciting"] = {"images": np.searchsorted(used, numbers), "numbers": numbers}
    images = to_numpy(model.prepare(examples[used])) if len(used) else np.zeros((0, *model.input_shape))
    low, high = min(0, images.min(initial=0)), max(1, images.max(initial=1))
    data |= {
        "examples": np.rint(255 * (images - low) / (high - low)).astype(np.uint8),
        "examplesSeen": len(examples),
    }


def _check_examples(model, examples):
    """Example images as a batch that the model takes."""
    examples = np.asarray(to_numpy(examples))
    if examples.ndim == 3 and model.input_shape[0] == 1:
        examples = examples[:, None]
    if examples.shape[1:] != model.input_shape or not len(examples):
        needed = ", ".join(map(str, ("N", *model.input_shape)))
        raise InputError(f"explain needs examples ({needed}), got shape {examples.shape}")
    model.prepare(examples[:1])
    return examples


def class_index(label, names):
    """A label as an index: it may be the name of a class; None stays None.

    Raises:
        InputError: a text that is neither the name of a class nor a number.

    >>> class_index("B", ["A", "B"]), class_index("1", ["A", "B"]), class_index(0, ["A", "B"])
    (1, 1, 0)
    """
    if not isinstance(label, str):
        return label if label is None or not hasattr(label, "__index__") else label.__index__()
    if label in names:
        return names.index(label)
    if label.isascii() and label.isdigit() and len(label) < 10:
        return int(label)
    known = ", ".join(quoted(name) for name in names[:12]) + (", ..." if len(names) > 12 else "")
    raise InputError(f"no class is named {quoted(label)}: the classes are {known}")


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
