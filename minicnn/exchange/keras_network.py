"""Keras's description of a network, read as layers: Sequential models, and functional ones that are rows of blocks.

A model of Keras is described by its layers' classes and arguments; a functional
one also by whose outputs each layer receives. A model may hold another model.
"""

import graphlib
import math
import re

import numpy as np

from minicnn import console
from minicnn.core import im2col
from minicnn.core.checks import quoted
from minicnn.core.errors import FileError, InputError, MinicnnError
from minicnn.core.layers import Conv2DTranspose
from minicnn.core.window import Window, pair
from minicnn.exchange.blocks import Node, as_row
from minicnn.exchange.keras_arrays import Tensor, merged, put
from minicnn.exchange.keras_layers import from_keras

MODELS = ("Sequential", "Functional", "Model")
MOST_LAYERS = 5000

_JOINS = {"Add": "add", "Concatenate": "concatenate"}
_NO_JOINS = ("Multiply", "Subtract", "Average", "Maximum", "Minimum", "Dot")


def group_name(kind, used):
    """The name of a layer's group in a file of weights: its class, and its number among those of the class.

    >>> used = {}
    >>> [group_name(kind, used) for kind in ("Conv2D", "ReLU", "Conv2D", "BatchNormalization")]
    ['conv2d', 're_lu', 'conv2d_1', 'batch_normalization']
    """
    name = re.sub(r"\W+", "", kind)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    name = re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
    used[name] = used.get(name, -1) + 1
    return f"{name}_{used[name]}" if used[name] else name


class Reader:
    """One pass through a description.

    Args:
        store: where the arrays are; `store.arrays(path, top, name, names)` returns the Datasets of a layer, by the
            path of its group, the names of the layer and of the layer of the outermost model that it is in, and the
            names of its arrays.

    Attributes:
        layers: those of the network, with their arrays, not built.
        input_shape, dtype: of the network.
    """

    def __init__(self, description, store):
        self._store = store
        self._count = 0
        self.dtype, self._channels_last = self._conventions(description)
        self.input_shape = None
        self.layers, x = self._model(description, None, "layers", "")
        if x.order:
            raise FileError(
                "its output is a flattened image, whose order here is another one: end it before the Flatten"
            )
        if self.input_shape is None:
            raise FileError("it has no layers")

    def _conventions(self, description):
        """The dtype of the computation, and whether images are channels_last, which must be the same everywhere."""
        dtypes, layouts = set(), set()
        for config in _configs(description):
            self._count += 1
            if self._count > MOST_LAYERS:
                raise FileError(f"it has more than the {MOST_LAYERS} layers that are read")
            layouts |= {config.get("data_format")} - {None}
            if "batch_shape" in config or "batch_input_shape" in config:
                continue  # an input; its dtype is that of the data
            policy = config.get("dtype")
            policy = policy["config"]["name"] if isinstance(policy, dict) else policy
            dtypes |= {policy} - {None}
        if len(layouts) > 1:
            raise FileError("some of its layers have channels_last and some channels_first: give all the same one")
        if layouts - {"channels_last", "channels_first"}:
            raise FileError(f"its images are {quoted(layouts.pop(), 40)}, which is not known here")
        if "float64" in dtypes and len(dtypes) > 1:
            raise FileError("some of its layers compute in float64 and some not: give all the same dtype")
        if dtypes - {"float32", "float64"}:
            if not all(re.fullmatch("(mixed_)?b?float(16|32)", str(name)) for name in dtypes):
                raise FileError(f"it computes in {quoted(sorted(map(str, dtypes)), 60)}: save it with dtype float32")
            if any("float16" in name for name in dtypes):
                console.warn("the network computes in float16 in Keras, and in float32 here")
        return "float64" if dtypes == {"float64"} else "float32", layouts != {"channels_first"}

    def _model(self, description, x, path, top):
        """The layers of a model, and the Tensor that leaves it."""
        config = description["config"]
        if description["class_name"] == "Sequential":
            return self._sequential(config, description, x, path, top)
        return self._functional(config, x, path, top)

    def _sequential(self, config, description, x, path, top):
        entries = config["layers"] if isinstance(config, dict) else config  # a list in old files
        x = self._input(description, entries) if x is None else x
        layers, used = [], {}
        for entry in entries:
            if entry["class_name"] == "Cropping2D" and layers and isinstance(layers[-1], Conv2DTranspose):
                group_name("Cropping2D", used)
                layers[-1], x = self._cropped(layers[-1], entry["config"], x)
            elif entry["class_name"] != "InputLayer":
                made, x = self._layer(entry, x, path, top, used)
                layers += made
        return layers, x

    def _cropped(self, layer, config, x):
        """A transposed convolution that leaves out what a Cropping2D behind it cuts off."""
        with _Naming(config["name"], "Cropping2D"):
            if layer.padding == "same" or pair(layer.output_padding, "output_padding", minimum=0) != (0, 0):
                raise InputError("here a Conv2DTranspose has pixels cut off only with padding='valid'")
            crops = Window(1, padding=tuple(map(tuple, config["cropping"]))).padding
            sums = tuple(
                tuple(a + b for a, b in zip(*sides, strict=True))
                for sides in zip(layer.window.padding, crops, strict=True)
            )
            cropped = Conv2DTranspose(**{**layer.config(), "padding": sums})
            cropped.weight, cropped.bias, cropped.trainable = layer.weight, layer.bias, layer.trainable
            pixels = [size - sum(crop) for size, crop in zip(x.shape[1:], crops, strict=True)]
            if min(pixels) < 1:
                raise InputError("it cuts off all of the image")
            return cropped, Tensor((x.shape[0], *pixels))

    def _functional(self, config, x, path, top):
        entries = {entry["config"]["name"]: entry for entry in config["layers"]}
        if len(entries) < len(config["layers"]):
            raise FileError("two of its layers have one name")
        (start,), (end,) = (_ends(config, key) for key in ("input_layers", "output_layers"))
        x = self._input(entries[start], [entries[start]]) if x is None else x
        # the groups are numbered in the order of the description, and the graph is followed in its own
        groups = {}
        paths = {name: group_name(entry["class_name"], groups) for name, entry in entries.items()}
        inputs = {name: _inputs(entry) for name, entry in entries.items()}
        nodes, tensors, shape = {start: Node(())}, {start: x}, self.input_shape
        for name in graphlib.TopologicalSorter(inputs).static_order():
            if name not in entries:
                raise FileError(f"it has no layer {quoted(name, 100)}, whose output is used")
            if name == start or any(before not in tensors for before in inputs[name]) or not inputs[name]:
                continue  # what the input does not lead to
            received = [tensors[before] for before in inputs[name]]
            kind = entries[name]["class_name"]
            if len(received) > 1 or kind in _JOINS:
                tensors[name] = self._join(kind, entries[name], received)
                nodes[name] = Node(tuple(inputs[name]), join=_JOINS[kind])
            else:
                made, tensors[name] = self._layer(entries[name], received[0], path, top, {}, paths[name])
                nodes[name] = Node(tuple(inputs[name]), tuple(made))
        if end not in tensors:
            raise FileError(f"its input does not lead to its output {quoted(end, 60)}")
        if self.input_shape != shape and sum(start in names for names in inputs.values()) > 1:
            raise FileError("its input is reshaped, and used as it was, too")
        return as_row(nodes, start, end), tensors[end]

    def _layer(self, entry, x, path, top, used, group=None):
        """The layers here of one layer there, with their arrays, and the Tensor that leaves them."""
        kind, config = entry["class_name"], entry["config"]
        name = config["name"] if isinstance(config, dict) else ""
        group = f"{path}/{group or group_name(kind, used)}"
        if kind in MODELS:
            return self._model(entry, x, f"{group}/layers", top or name)
        with _Naming(name, kind):
            made, x = from_keras(kind, config, x, self._channels_last)
            if x.is_input:
                self.input_shape = x.shape
            arrays = [array for item in made for array in item.arrays]
            found = iter(self._store.arrays(group, top or name, name, [a.keras for a in arrays]) if arrays else ())
            for item in made:
                self._fill(item, x, found)
                if config.get("trainable") is False:
                    item.layer.trainable = False
                x = x.after(item.layer)
                if math.prod(x.shape) * 4 > im2col.BUDGET:
                    raise InputError(f"its output {x.shape} is larger than minicnn.im2col.BUDGET allows")
        return [item.layer for item in made], x

    def _fill(self, item, x, found):
        """Give a layer its arrays, each of the shape that is needed, and its constants."""
        layer, shapes = item.layer, dict(item.layer.parameter_shapes(x.shape))
        for array in item.arrays:
            shape = shapes.get(array.here, x.shape[:1])  # of a state: one number for each channel
            dataset, needed = next(found), array.keras_shape(layer, shape, x)
            if dataset.shape != needed:
                raise FileError(f"its {array.keras} has the shape {quoted(dataset.shape, 60)}, and {needed} is needed")
            value = array.from_keras(dataset.read(), shape, x.order).astype(self.dtype)
            put(layer, array.here, value)
        for name, value in item.constants:
            if name == "trainable":
                layer.trainable = value
            else:
                put(layer, name, np.full(shapes.get(name, x.shape[:1]), value, self.dtype))

    def _join(self, kind, entry, received):
        """The Tensor that leaves a sum or a concatenation."""
        config = entry["config"]
        with _Naming(config["name"], kind):
            if kind not in _JOINS:
                fix = "only Add and Concatenate join what was split"
                raise InputError(f"it has {len(received)} inputs, and {fix}" if kind not in _NO_JOINS else fix)
            if len(received) < 2:
                raise InputError("it has a single input")
            shapes, images = [x.shape for x in received], len(received[0].shape) == 3
            if kind == "Add":
                if len({(x.shape, x.order) for x in received}) > 1:
                    raise InputError(f"it adds what has different shapes or orders: {quoted(shapes, 100)}")
                return received[0]._replace(is_input=False)
            right = (-1, len(shapes[0])) if self._channels_last or not images else (1, -3)
            if config.get("axis", -1) not in right or len({shape[1:] for shape in shapes}) > 1:
                raise InputError("it concatenates along another axis than that of the channels")
            order = () if images else merged([piece for x in received for piece in x.order or (x.shape,)])
            return Tensor((sum(shape[0] for shape in shapes), *shapes[0][1:]), order)

    def _input(self, description, entries):
        """The Tensor that enters the network, from whichever part of the description has its shape."""
        places = [entries[0]["config"], description.get("config"), description.get("build_config")]
        places += [entries[0].get("build_config")]
        while isinstance(places[0], dict) and "layers" in places[0] and places[0]["layers"]:  # a model in the model
            places.insert(0, places[0]["layers"][0]["config"])
        for place in filter(lambda place: isinstance(place, dict), places):
            for key in ("batch_shape", "batch_input_shape", "build_input_shape", "input_shape"):
                if place.get(key):
                    return self._checked_input(place[key])
        raise FileError(
            "it does not say the shape of its input: build it in Keras, for instance by fit, and save it again"
        )

    def _checked_input(self, batch_shape):
        shape = tuple(batch_shape)[1:]
        if any(size is None for size in shape):
            raise FileError(
                f"its input {quoted(shape, 60)} has no fixed size, and a network here has one: in Keras, put its "
                "layers behind an Input of the size that you need"
            )
        if len(shape) not in (1, 2, 3) or any(not isinstance(size, int) or size < 1 for size in shape):
            raise FileError(f"its input {quoted(shape, 60)} is neither images nor vectors")
        if math.prod(shape) * 4 > im2col.BUDGET:
            raise FileError(f"its input {quoted(shape, 60)} is larger than minicnn.im2col.BUDGET allows")
        if len(shape) == 3 and self._channels_last:
            shape = (shape[2], *shape[:2])
        self.input_shape = (1, *shape) if len(shape) == 2 else shape  # images of one channel
        return Tensor(self.input_shape, is_input=True)


class _Naming:
    """A block in which an error becomes one that names the layer."""

    def __init__(self, name, kind):
        self.name, self.kind = name, kind

    def __enter__(self):
        pass

    def __exit__(self, _, error, traceback):
        if isinstance(error, (MinicnnError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError)):
            why = error if isinstance(error, MinicnnError) else quoted(error, 200)
            kind = quoted(self.kind, 60).strip("'")
            raise FileError(f"its layer {quoted(self.name, 100)} ({kind}) cannot be used: {why}") from error


def _configs(description, depth=0):
    """The arguments of every layer, those in models inside, too."""
    if depth > 20:
        raise FileError("it has models in models in models without end")
    config = description["config"]
    for entry in config["layers"] if isinstance(config, dict) else config:
        if entry["class_name"] in MODELS:
            yield from _configs(entry, depth + 1)
        elif isinstance(entry["config"], dict):
            yield entry["config"]


def _ends(config, key):
    """The names of a model's inputs or outputs, of which there must be one."""
    found = config[key]
    if isinstance(found, dict):
        found = list(found.values())
    found = [found] if found and isinstance(found[0], str) else found
    if len(found) != 1:
        raise FileError(f"it has {len(found)} {key.replace('_layers', 's')}, and a network here has one")
    return [_first_output(found[0])]


def _inputs(entry):
    """The names of the layers whose outputs a layer receives, in the form of Keras 3 or of Keras 2."""
    calls = entry.get("inbound_nodes") or []
    name = entry["config"]["name"]
    if len(calls) > 1:
        raise FileError(f"its layer {quoted(name, 100)} is used {len(calls)} times: make a layer for each")
    found, options = [], {}
    for call in calls:
        if isinstance(call, dict):
            options = call.get("kwargs") or {}
            arguments = call["args"][0] if len(call["args"]) == 1 else call["args"]
            arguments = arguments if isinstance(arguments, list) else [arguments]
            if not all(isinstance(a, dict) and a.get("class_name") == "__keras_tensor__" for a in arguments):
                raise FileError(f"its layer {quoted(name, 100)} computes with a number or an array that is no layer's")
            found = [argument["config"]["keras_history"] for argument in arguments]
        else:
            call = [call] if isinstance(call[0], str) else call
            found = [item[:3] for item in call]
            options = {key: value for item in call for key, value in (item[3] if len(item) > 3 else {}).items()}
    if any(value not in (None, True, False) for value in options.values()):
        raise FileError(f"its layer {quoted(name, 100)} is called with more than one array")
    return [_first_output(item) for item in found]


def _first_output(history):
    """The name of the layer whose output an array is. Its call has a number, which is not needed: there is only one."""
    name, _, output = history
    if not isinstance(name, str) or output != 0:
        raise FileError(
            f"its layer {quoted(name, 100)} is used in several places or has several outputs: make a layer for each"
        )
    return name
