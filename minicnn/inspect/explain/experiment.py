"""What the live page can change: a pixel, a weight, the label, a window, one step of SGD, an epoch of a run.

A page that is served sends one change at a time, as plain values from outside. `Experiment.change` checks it, changes
the image, the label or the network, and everything is computed again by the library. A change that cannot be made
leaves all as it was.
"""

import glob
import math
import re

import numpy as np

from minicnn.backends import to_device, to_numpy
from minicnn.core.checks import quoted
from minicnn.core.errors import FileError, InputError
from minicnn.core.layer import Layer, walk
from minicnn.core.layers import AvgPool2D, Conv2D, MaxPool2D
from minicnn.core.losses import SoftmaxCrossEntropy
from minicnn.core.optimizers import SGD
from minicnn.inspect.explain.collect import (
    check_label,
    class_index,
    class_names,
    collect,
    gradients_cleared,
    one_image,
)
from minicnn.storage.models import restore_states, states_of, states_restored

#: The arguments of a layer's window that the page can change: of each kind of layer.
WINDOWS = {
    Conv2D: ("kernel_size", "stride", "padding"),
    MaxPool2D: ("pool_size", "stride", "padding"),
    AvgPool2D: ("pool_size", "stride", "padding"),
}
LARGEST_WINDOW = 32  # pixels or taps, of what is typed into the page
LARGEST_NUMBER = 1e6  # of a pixel, a weight or a rate that is typed into the page
MOVED = 12  # parameters whose largest change is shown after a step


class Experiment:
    """A network, an image and a label that a page may change.

    Args:
        model, image, label, names, training, invert: as for `minicnn.explain`.
        epochs: `{epoch: path}` of the networks of a run, as `kept_epochs` returns it.
        load: a function that reads a network from a path; needed for `epochs`.

    Raises:
        InputError, FileError: as `minicnn.explain`.

    >>> import minicnn as mc
    >>> experiment = Experiment(mc.networks.logistic_regression(), np.zeros((28, 28), "uint8"), label=2)
    >>> data = experiment.change({"do": "label", "label": 1})
    >>> data["label"], data["live"]["message"]
    (1, 'The right class is now B.')
    """

    def __init__(self, model, image, label=None, names=None, training=False, invert=False, epochs=None, load=None):
        self.model, self.training, self.epochs, self.load = model, training, epochs or {}, load
        self.image = to_numpy(one_image(model, image, "explain --live", invert))[0].copy()
        check_label(model, None, "explain --live")
        self.names = class_names(model.shapes[-1][0], names, model)
        self.label = class_index(label, self.names)
        check_label(model, self.label, "explain --live")
        self._first = model, self.image, self.label
        self._restart()
        self.data = self._collect()

    def change(self, request):
        """Make one change.

        Args:
            request: a dict; `do` is the name of the change, one of `CHANGES`, and the others are its arguments.

        Returns:
            the page's data after it; `data["live"]` has the sentence `message` and what belongs to the live page.

        Raises:
            InputError, FileError: the change cannot be made; all is as before.
        """
        if not isinstance(request, dict):
            raise InputError(f"a change is an object with the name of what to do, got {quoted(request)}")
        name = request.get("do")
        if not (isinstance(name, str) and name in CHANGES):
            raise InputError(f"the page can do {', '.join(CHANGES)}, got {quoted(name)}")
        before = self.model, self.image, self.label, self.epoch, self.step, list(self.losses)
        values = {key: to_numpy(p.value).copy() for key, p in self.model.parameters().items()}
        try:
            with np.errstate(all="ignore"):  # `collect` refuses outputs that are not finite
                found = CHANGES[name](self, **_arguments(name, request))
                message, complete = found if isinstance(found, tuple) else (found, False)
                self.data = self._collect(complete)
        except Exception:
            self.model, self.image, self.label, self.epoch, self.step, self.losses = before
            for key, parameter in self.model.parameters().items():
                parameter.value[...] = to_device(values[key])
            raise
        self.data["live"]["message"] = message
        return self.data

    def _collect(self, complete=False):
        data = collect(self.model, self.image, self.label, self.names, self.training, complete=complete)
        layers = dict(walk(self.model, Layer))
        for about in data["layers"]:
            about["options"] = _window_texts(layers[about["name"]])
        self.losses = [*self.losses, data["loss"]][-40:]
        data["drawable"] = True  # the library computes what is drawn
        return data | {
            "live": {
                "message": "",
                "complete": complete,
                "epochs": sorted(self.epochs),
                "epoch": self.epoch,
                "step": self.step,
                "losses": self.losses,
            }
        }

    # What can be changed. Each returns the sentence that the page shows.

    def _pixel(self, index, value):
        index = _index(index, self.image.shape, "the image")
        image = self.image.copy()
        image[index] = _number(value, "a pixel")
        before, self.image = self.image[index], image
        return f"Pixel {list(index)} was {before:.4g} and is now {image[index]:.4g}."

    def _pixels(self, pixels):
        if not (isinstance(pixels, list) and len(pixels) == self.image.size):
            raise InputError(f"the image needs a list of {self.image.size} numbers")
        image = np.array([_number(pixel, "a pixel") for pixel in pixels], self.image.dtype)
        self.image = image.reshape(self.image.shape)
        return "The image is now your drawing."

    def _first_image(self):
        self.image = self._first[1]
        return "The image is the one that the page began with."

    def _label(self, label):
        label = class_index(label, self.names) if isinstance(label, str) else label
        if isinstance(label, bool):
            raise InputError(f"the right class needs a number or a name, got {quoted(label)}")
        check_label(self.model, label, "explain --live")
        self.label = label
        return "The right class is the predicted one." if label is None else f"The right class is now {self._name()}."

    def _weight(self, parameter, index, value):
        array = self._parameter(parameter).value
        index = _index(index, array.shape, quoted(parameter))
        before = float(to_numpy(array[index]))
        array[index] = _number(value, "a weight")
        return f"{parameter}{list(index)} was {before:.4g} and is now {float(to_numpy(array[index])):.4g}."

    def _window(self, layer, **texts):
        target = dict(walk(self.model, Layer)).get(layer) if isinstance(layer, str) else None
        names = WINDOWS.get(type(target))
        if names is None:
            raise InputError(f"the layer {quoted(layer)} has no window that can be changed")
        unknown = sorted(texts.keys() - set(names))
        if unknown:
            raise InputError(f"{type(target).__name__} has no argument {quoted(unknown[0])}, it has {', '.join(names)}")
        changes = {name: _window_value(name, text) for name, text in texts.items()}
        before, shown = self.model, repr(target)
        self.model, notes = rebuilt(before, layer, changes)
        return " ".join([f"{layer} was {shown} and is now {dict(walk(self.model, Layer))[layer]!r}.", *notes])

    def _sgd(self, learning_rate, parameter=None, index=None):
        """One step on this image alone; the weight that the page shows is reported as a sum."""
        rate = _number(learning_rate, "the learning rate")
        if rate <= 0:
            raise InputError(f"the learning rate must be above 0, got {rate:g}")
        parameters = self.model.parameters()
        chosen = None
        if parameter is not None:
            chosen = parameter, _index(index, self._parameter(parameter).value.shape, quoted(parameter))
        with gradients_cleared(self.model), states_restored(self.model):
            logits, backward = self.model.forward(to_device(self.image[None]), self.training)
            target = self.label if self.label is not None else int(to_numpy(logits)[0].argmax())
            loss, dlogits = SoftmaxCrossEntropy()(logits, np.array([target]))
            backward(dlogits)
            before = {name: to_numpy(p.value).copy() for name, p in parameters.items() if p.has_gradient}
            gradients = {name: to_numpy(parameters[name].grad).copy() for name in before}
            SGD(rate).step(parameters)
        after = {name: to_numpy(parameters[name].value) for name in before}

        def row(name, index, is_chosen=False):
            numbers = before[name][index], gradients[name][index], rate * gradients[name][index], after[name][index]
            plain = [float(number) for number in numbers]
            return {"name": name, "index": list(map(int, index)), "numbers": plain, "chosen": is_chosen}

        moved = [
            (name, np.unravel_index(np.abs(gradient).argmax(), gradient.shape)) for name, gradient in gradients.items()
        ]
        rows = [row(*chosen, is_chosen=True)] if chosen and chosen[0] in before else []
        rows += [row(*one) for one in moved[:MOVED]]
        self.step = {"rate": rate, "before": float(to_numpy(loss)), "rows": rows, "others": max(0, len(moved) - MOVED)}
        norm = math.sqrt(sum(float((gradient.astype(np.float64) ** 2).sum()) for gradient in gradients.values()))
        self.step["after"] = self._loss(target)
        return f"One step of SGD: each weight minus {rate:g} times its gradient. The gradient's norm was {norm:.4g}."

    def _epoch(self, epoch):
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch not in self.epochs:
            kept = ", ".join(map(str, sorted(self.epochs)[:12])) or "none"
            raise InputError(f"the run has no epoch {quoted(epoch)}: the kept epochs are {kept}")
        model = self.load(self.epochs[epoch])
        first = self._first[0]
        if repr(model.layers) != repr(first.layers) or model.input_shape != first.input_shape:
            raise InputError(f"{quoted(self.epochs[epoch], 300)} is another network than the page's: {model.layers!r}")
        self.model, self.epoch, self.step = model, epoch, None
        return f"The network is that after epoch {epoch}."

    def _restart(self):
        """The network, the image and the label that the page began with."""
        first, self.image, self.label = self._first
        self.model = rebuilt(first)[0]
        self.epoch, self.step, self.losses = None, None, []
        return "All is as at the beginning."

    def _complete(self):
        return "With numerical gradients, and what excites each filter most.", True

    def _loss(self, target):
        with states_restored(self.model):
            logits, _ = self.model.forward(to_device(self.image[None]), self.training)
        loss, _ = SoftmaxCrossEntropy()(logits, np.array([target]))
        return float(to_numpy(loss))

    def _name(self):
        return self.names[self.label]

    def _parameter(self, name):
        found = self.model.parameters().get(name) if isinstance(name, str) else None
        if found is None:
            raise InputError(f"the network has no parameter {quoted(name)}")
        return found


#: What a page can do, by the name that it sends.
CHANGES = {
    "pixel": Experiment._pixel,
    "pixels": Experiment._pixels,
    "first image": Experiment._first_image,
    "label": Experiment._label,
    "weight": Experiment._weight,
    "window": Experiment._window,
    "sgd": Experiment._sgd,
    "epoch": Experiment._epoch,
    "restart": Experiment._restart,
    "complete": Experiment._complete,
}
#: The arguments of each: those needed, and those that may be there.
ARGUMENTS = {
    "pixel": ({"index", "value"}, set()),
    "pixels": ({"pixels"}, set()),
    "label": ({"label"}, set()),
    "weight": ({"parameter", "index", "value"}, set()),
    "window": ({"layer"}, {"kernel_size", "pool_size", "stride", "padding"}),
    "sgd": ({"learning_rate"}, {"parameter", "index"}),
    "epoch": ({"epoch"}, set()),
}


def kept_epochs(pattern):
    """The networks of a run that `ModelCheckpoint` kept, by epoch.

    Args:
        pattern: the file's name as `ModelCheckpoint` got it, such as "run/epoch-{epoch}.npz".

    Returns:
        `{epoch: path}`.

    Raises:
        InputError: a name without {epoch}.
        FileError: there is no such file.

    >>> kept_epochs("run.npz")
    Traceback (most recent call last):
    minicnn.core.errors.InputError: 'run.npz' has no {epoch}: give the name as ModelCheckpoint got it, such as \
run/epoch-{epoch}.npz
    """
    pieces = re.split(r"(\{[^{}]*\})", pattern)
    if not any(re.match(r"\{epoch\b", piece) for piece in pieces):
        raise InputError(
            f"{quoted(pattern, 300)} has no {{epoch}}: give the name as ModelCheckpoint got it, such as "
            "run/epoch-{epoch}.npz"
        )
    seen = False
    expression, wildcard = "", ""
    for piece in pieces:
        if re.match(r"\{epoch\b", piece):
            expression += r"0*(?P<epoch>\d{1,9})" if not seen else r"\d{1,9}"
            seen = True
        elif piece.startswith("{"):
            expression += r"[^/\\]*?"
        else:
            expression += re.escape(piece)
        wildcard += "*" if piece.startswith("{") else glob.escape(piece)
    try:
        paths = sorted(glob.glob(wildcard))
    except ValueError as error:  # a NUL character
        raise FileError(f"cannot look for {quoted(pattern, 300)}: {error}") from error
    found = {int(match["epoch"]): path for path in paths if (match := re.fullmatch(expression, path))}
    if not found:
        raise FileError(f"no file is named like {quoted(pattern, 300)}, with a number for {{epoch}}")
    return dict(sorted(found.items()))


def rebuilt(model, name=None, changes=None):
    """A copy of a network, in which a layer has other arguments.

    Layers that fit as before keep their weights. A kernel of another size keeps the weights around its middle, and
    its new taps are 0. A layer that does not fit any more, as a Dense behind images of another size, gets new weights.

    Args:
        model: the network; it is left as it is.
        name: of the layer, as `walk` names it; None for a plain copy.
        changes: `{argument: value}` of its constructor.

    Returns:
        the new network, and a list of sentences about what else changed.

    Raises:
        InputError: the layers do not fit, or end in another shape.

    >>> import minicnn as mc
    >>> changed, notes = rebuilt(mc.networks.lenet5(), "conv2d_1", {"kernel_size": 3})
    >>> changed.layers[0]
    Conv2D(6, 3, padding='same')
    """
    target = dict(walk(model, Layer))[name] if name else None
    layers = [_remade(layer, target, changes or {}) for layer in model.layers]
    new = type(model)(layers, model.input_shape, seed=model.seed, dtype=model.dtype)
    new.classes = model.classes
    if new.shapes[-1] != model.shapes[-1]:
        raise InputError(f"the network would end in the shape {new.shapes[-1]} instead of {model.shapes[-1]}")
    old, made = model.parameters(), new.parameters()
    if old.keys() != made.keys() or model.states().keys() != new.states().keys():
        raise InputError("this network shares parameters or has states of its own making: its layers cannot be changed")
    misfits = {_owner(key) for key in made if made[key].value.shape != old[key].value.shape} - {name}
    notes = []
    for key, parameter in made.items():
        value = old[key].value
        if _owner(key) in misfits:
            continue
        if value.shape != parameter.value.shape:
            value = _centred(value, parameter.value)
            notes.append("Its kernels keep the weights around their middle, and new taps are 0.")
        parameter.value[...] = value
    restore_states(new, *states_of(model))
    for owner in sorted(misfits):
        needed, had = (found[f"{owner}.weight"].value.shape[1:] for found in (made, old))
        notes.append(
            f"{owner} reads {math.prod(needed):,} numbers instead of {math.prod(had):,}: all of its weights are new "
            "and untrained."
        )
    return new, notes


def _owner(name):
    return name.rpartition(".")[0]


def _remade(value, target, changes):
    """A layer made again by its constructor, with all layers inside."""
    if isinstance(value, Layer):
        arguments = {key: _remade(item, target, changes) for key, item in value.config().items()}
        new = type(value)(**(arguments | (changes if value is target else {})))
        if not value.trainable:
            new.trainable = False
        return new
    if isinstance(value, (list, tuple)):
        return type(value)(_remade(item, target, changes) for item in value)
    if isinstance(value, dict):
        return {key: _remade(item, target, changes) for key, item in value.items()}
    return value


def _centred(kernels, like):
    """Kernels (F, C, KH, KW) of another size: cut at the border, or with a border of zeros."""
    found = np.zeros(like.shape, like.dtype)
    inside, outside = [], []
    for old, new in zip(kernels.shape[2:], like.shape[2:], strict=True):
        size, shift = min(old, new), (new - old) // 2
        inside.append(slice(max(0, shift), max(0, shift) + size))
        outside.append(slice(max(0, -shift), max(0, -shift) + size))
    found[:, :, inside[0], inside[1]] = to_numpy(kernels)[:, :, outside[0], outside[1]]
    return to_device(found)


def _window_texts(layer):
    """The arguments of a layer's window as the page shows them; None where it has none to change."""
    names = WINDOWS.get(type(layer))
    if names is None:
        return None
    values = layer.window.kernel_size, layer.window.stride, layer.window.padding
    return [[name, _text(value)] for name, value in zip(names, values, strict=True)]


def _text(value):
    if isinstance(value, str):
        return value
    flat = [number for part in value for number in (part if isinstance(part, tuple) else (part,))]
    return str(flat[0]) if len(set(flat)) == 1 else ", ".join(map(str, flat))


def _window_value(name, text):
    """What was typed for a window: "3", "3, 5" or, for a padding, "same", "valid" or four numbers."""
    form = "a number such as 3, or two such as 3, 5"
    if name == "padding":
        form = '"same", "valid", or pixels: one number, two (height, width) or four (top, bottom, left, right)'
    given = str(text).strip() if isinstance(text, (str, int)) and not isinstance(text, bool) else ""
    if name == "padding" and given in ("same", "valid"):
        return given
    numbers = re.fullmatch(r"\d{1,4}(?:\s*[,x ]\s*\d{1,4})*", given, re.ASCII) and re.findall(r"\d+", given)
    if not numbers or len(numbers) not in ((1, 2, 4) if name == "padding" else (1, 2)):
        raise InputError(f"{name} needs {form}, got {quoted(text)}")
    numbers = tuple(map(int, numbers))
    if max(numbers) > LARGEST_WINDOW:
        raise InputError(f"{name} of at most {LARGEST_WINDOW} can be typed here, got {max(numbers)}")
    if len(numbers) == 4:
        return numbers[:2], numbers[2:]
    return numbers[0] if len(set(numbers)) == 1 else numbers


def _arguments(name, request):
    needed, optional = ARGUMENTS.get(name, (set(), set()))
    arguments = {key: value for key, value in request.items() if key != "do"}
    if missing := sorted(needed - arguments.keys()):
        raise InputError(f"{name} needs {', '.join(missing)}")
    if unknown := sorted(arguments.keys() - needed - optional):
        raise InputError(f"{name} takes no {quoted(unknown[0])}")
    return arguments


def _number(value, what):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST_NUMBER:
        raise InputError(f"{what} needs a number of a size up to {LARGEST_NUMBER:,.0f}, got {quoted(value)}")
    return float(value)


def _index(index, shape, what):
    fits = isinstance(index, list) and len(index) == len(shape)
    if not fits or not all(type(i) is int and 0 <= i < size for i, size in zip(index, shape, strict=True)):
        raise InputError(f"{what} has the shape {tuple(shape)} and no number at {quoted(index)}")
    return tuple(index)
