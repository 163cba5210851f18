"""A network as Keras describes it: its layers' classes and arguments, and their arrays in Keras's layout.

The same is needed in both directions: to write a file, and to find out which
arrays of a file belong to a network that is there already.
"""

import itertools
from typing import NamedTuple

import numpy as np

from minicnn.core import operations, sequential
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer
from minicnn.core.layers import (
    ELU,
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
from minicnn.core.window import pair
from minicnn.exchange.keras_arrays import DEPTHWISE, Tensor, arrays_of, is_depthwise, merged
from minicnn.exchange.keras_network import group_name


class Step(NamedTuple):
    """A layer of Keras.

    Attributes:
        name, kind, config: its name, its class and its arguments.
        inputs: the names of the steps whose outputs it receives; none for the input itself.
        shape: of one output, as here.
        layer: the layer here, or None.
        received: the Tensor that the layer here receives.
        arrays: its arrays in Keras's order.
    """

    name: str
    kind: str
    config: dict
    inputs: tuple
    shape: tuple
    layer: Layer | None = None
    received: Tensor | None = None
    arrays: tuple = ()

    def values(self):
        """(Array, its Parameter or State, its shape in Keras) of each array."""
        for array in self.arrays:
            kept = getattr(self.layer, array.here)
            yield array, kept, array.keras_shape(self.layer, tuple(kept.value.shape), self.received)

    def keras_values(self):
        """The arrays as Keras keeps them."""
        return [
            array.to_keras(np.asarray(operations.current.to_numpy(kept.value)), shape, self.received.order)
            for array, kept, shape in self.values()
        ]


def steps_of(model):
    """The layers of Keras that a network is made of, each after those whose outputs it receives.

    Raises:
        InputError: a layer, or an option, that Keras does not have; the message names it.
    """
    writer = _Writer(model)
    x = writer.row(model.layers, writer.start)
    if x[1].order:
        raise InputError(
            "Keras would return another order: the network ends in a flattened image. Put a Dense behind it"
        )
    return writer.steps


def by_groups(steps):
    """{name of the group in a file of weights: Step}, as Keras numbers the layers of the same model."""
    used = {}
    return {group_name(step.kind, used): step for step in _in_keras_order(steps)}


def is_sequential(steps):
    """Whether the steps are one row."""
    return all(step.inputs == (before.name,) for before, step in itertools.pairwise(steps))


def _in_keras_order(steps):
    """The steps as a functional model of Keras lists its layers: by their distance from the output, far ones first.

    Those of the same distance come in the order in which a walk back from the output meets them.
    """
    if is_sequential(steps):
        return steps[1:]  # Sequential does not list its input
    named, distance, met = {step.name: step for step in steps}, {steps[-1].name: 0}, {}
    waiting = [steps[-1].name]
    while waiting:
        name = waiting.pop()
        if name not in met:
            met[name] = len(met)
            waiting += reversed(named[name].inputs)
    for step in reversed(steps):
        for before in step.inputs:
            distance[before] = max(distance.get(before, 0), distance[step.name] + 1)
    return sorted(steps, key=lambda step: (-distance[step.name], met[step.name]))


class _Writer:
    """The steps so far. What goes from layer to layer is (the name of a step, a Tensor)."""

    def __init__(self, model):
        self.steps, self._numbers, self._dtype = [], {}, str(model.dtype)
        x = Tensor(model.input_shape)
        config = {"batch_shape": keras_shape(x.shape), "dtype": self._dtype}
        self.start = self._add("InputLayer", config, (), x)

    def row(self, layers, x):
        """Add the layers of a row; returns what leaves it."""
        for layer in layers:
            kind = type(layer)
            if isinstance(layer, sequential.Sequential) and kind.forward is sequential.Sequential.forward:
                x = self.row(layer.layers, x)
            elif kind is Residual:
                x = self._join("Add", x, [layer.layers, layer.shortcut or []])
            elif kind is Branches:
                x = self._join("Add" if layer.join == "add" else "Concatenate", x, layer.branches)
            else:
                x = self._layer(layer, x)
        return x

    def _join(self, kind, x, rows):
        ends = [self.row(row, x) for row in rows]
        shapes, orders = zip(*((tensor.shape, tensor.order) for _, tensor in ends), strict=True)
        if kind == "Add":
            if len(set(orders)) > 1:
                raise InputError(
                    "Keras would add other features: a flattened image is added to what is in another order"
                )
            return self._add(kind, {}, ends, ends[0][1])
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        pieces = [piece for shape, order in zip(shapes, orders, strict=True) for piece in order or (shape,)]
        return self._add(kind, {"axis": -1}, ends, Tensor(shape, merged(pieces) if len(shape) == 1 else ()))

    def _layer(self, layer, x):
        if type(layer) not in _WRITERS:
            raise InputError(f"{layer!r} is not a layer that Keras has: save the network with model.save, or as ONNX")
        _, received = x
        output = received.after(layer)
        for kind, config, arrays, shape in _WRITERS[type(layer)](layer, received):
            tensor = received._replace(shape=shape) if shape else output
            kept = (layer, received, arrays) if arrays else (None, None, ())
            frozen = {} if layer.trainable or not arrays else {"trainable": False}
            x = self._add(kind, config | frozen, [x], tensor, *kept)
        return x

    def _add(self, kind, config, inputs, tensor, layer=None, received=None, arrays=()):
        prefix = kind.lower()
        self._numbers[prefix] = number = self._numbers.get(prefix, 0) + 1
        name = f"{prefix}_{number}"
        config = {"name": name, "dtype": self._dtype, **config}
        names = tuple(before for before, _ in inputs)
        self.steps.append(Step(name, kind, config, names, tensor.shape, layer, received, arrays))
        return name, tensor


def keras_shape(shape):
    """A batch's shape in Keras: (None, H, W, C) or (None, D)."""
    return [None, *shape[1:], shape[0]]


def description(steps):
    """The description of a model that `keras.models.load_model` builds it from."""
    if is_sequential(steps):
        layers = [_entry(step) for step in steps]
        return _described("Sequential", {"name": "sequential", "layers": layers}, "keras")
    shapes = {step.name: step for step in steps}
    layers = []
    for step in steps:
        tensors = [_tensor(shapes[name]) for name in step.inputs]
        arguments = [tensors] if step.kind in ("Add", "Concatenate") else tensors
        nodes = [{"args": arguments, "kwargs": {}}] if tensors else []
        layers.append({**_entry(step), "name": step.name, "inbound_nodes": nodes})
    config = {"name": "functional", "layers": layers}
    config |= {"input_layers": [steps[0].name, 0, 0], "output_layers": [steps[-1].name, 0, 0]}
    return _described("Functional", config, "keras.src.models.functional")


def _entry(step):
    return _described(step.kind, step.config, "keras.layers")


def _described(kind, config, module):
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _tensor(step):
    config = {"shape": keras_shape(step.shape), "dtype": step.config["dtype"], "keras_history": [step.name, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}


# each layer: a list of (class, arguments, arrays, shape of the output where it is not that of the layer)


def _plain(kind, **config):
    return lambda layer, x: [(kind, config, (), None)]


def _activation(name):
    return _plain("Activation", activation=name)


def _window(layer, x, size_name, strides=True):
    """([a ZeroPadding2D if there must be one], the arguments of the window)."""
    window, before = layer.window, []
    config = {size_name: window.kernel_size}
    config |= {"strides": window.stride} if strides else {}
    pads = window.pads(*x.shape[1:])
    same = type(window)(window.kernel_size, window.stride, "same", window.dilation).pads(*x.shape[1:])
    counted = isinstance(layer, Conv2D) or getattr(layer, "count_include_pad", False)
    if not any(map(any, pads)):
        return before, {**config, "padding": "valid"}
    if pads == same and not getattr(layer, "count_include_pad", False):
        return before, {**config, "padding": "same"}
    if not counted:
        raise InputError(f"{layer!r}: pooling in Keras has the padding 'valid' or 'same': use one of these")
    (top, bottom), (left, right) = pads
    shape = (x.shape[0], top + x.shape[1] + bottom, left + x.shape[2] + right)
    return [("ZeroPadding2D", {"padding": pads}, (), shape)], {**config, "padding": "valid"}


def _conv(layer, x):
    before, config = _window(layer, x, "kernel_size")
    window = layer.window
    if max(window.stride) > 1 and max(window.dilation) > 1:
        raise InputError(f"{layer!r}: a convolution in Keras has a stride or a dilation, not both")
    config |= {"dilation_rate": window.dilation, "use_bias": layer.use_bias}
    if is_depthwise(layer, x.shape) and len(set(window.stride)) == 1:  # TensorFlow has no others
        config |= {"depth_multiplier": layer.filters // layer.groups}
        return [*before, ("DepthwiseConv2D", config, (DEPTHWISE, *arrays_of(layer)[1:]), None)]
    config |= {"filters": layer.filters, "groups": layer.groups}
    return [*before, ("Conv2D", config, arrays_of(layer), None)]


def _transposed(layer, x):
    window, (_, H, W) = layer.window, x.shape
    if layer.groups > 1:
        raise InputError(f"{layer!r}: a Conv2DTranspose in Keras has no groups")
    if max(window.stride) > 1 and max(window.dilation) > 1:
        raise InputError(f"{layer!r}: a Conv2DTranspose in Keras has a stride or a dilation, not both")
    config = {"filters": layer.filters, "kernel_size": window.kernel_size, "strides": window.stride}
    config |= {"dilation_rate": window.dilation, "use_bias": layer.use_bias}
    if window.padding == "same":
        return [("Conv2DTranspose", {**config, "padding": "same"}, arrays_of(layer), None)]
    # Keras's output is as large as kernel and stride make it; what is cut off here is cropped there
    added, output = pair(layer.output_padding, "output_padding", minimum=0), layer.output_shape(x.shape)
    full, crops = [], []
    for axis, size in enumerate((H, W)):
        extent, stride = window.extent[axis], window.stride[axis]
        full.append((size - 1) * stride + max(extent, stride))
        first = window.padding[axis][0]
        crops.append((first, full[-1] - first - output[1 + axis]))
    if min(map(min, crops)) < 0:
        raise InputError(f"{layer!r}: Keras has no Conv2DTranspose with an output_padding {added} beyond its kernels")
    steps = [("Conv2DTranspose", {**config, "padding": "valid"}, arrays_of(layer), (output[0], *full))]
    return [*steps, ("Cropping2D", {"cropping": crops}, (), None)] if any(map(any, crops)) else steps


def _dense(layer, x):
    return [("Dense", {"units": layer.units, "use_bias": layer.use_bias}, arrays_of(layer), None)]


def _pool(kind):
    def write(layer, x):
        before, config = _window(layer, x, "pool_size")
        return [*before, (kind, config, (), None)]

    return write


def _batch_norm(layer, x):
    config = {"momentum": layer.momentum, "epsilon": layer.epsilon}
    return [("BatchNormalization", config, arrays_of(layer), None)]


def _layer_norm(layer, x):
    axis = list(range(1, len(x.shape) + 1)) if len(x.shape) > 1 else -1
    return [("LayerNormalization", {"axis": axis, "epsilon": layer.epsilon}, arrays_of(layer), None)]


def _group_norm(layer, x):
    if x.order:
        raise InputError(f"{layer!r} makes groups of a flattened image, in Keras of others: put it before the Flatten")
    return [("GroupNormalization", {"groups": layer.groups, "epsilon": layer.epsilon}, arrays_of(layer), None)]


def _prelu(layer, x):
    axes = list(range(1, len(x.shape) + layer.shared)) if len(x.shape) > 1 or layer.shared else None
    return [("PReLU", {"shared_axes": axes}, arrays_of(layer), None)]


def _dropout(layer, x):
    axes = (layer.axes,) if isinstance(layer.axes, int) else tuple(layer.axes)
    if axes and (sorted(axes) != [2, 3] or len(x.shape) != 3):
        raise InputError(f"{layer!r}: Dropout in Keras is of single numbers, or of channels with axes=(2, 3)")
    return [("SpatialDropout2D" if axes else "Dropout", {"rate": layer.rate}, (), None)]


def _clip(layer, x):
    if layer.low != 0:
        raise InputError(f"{layer!r}: Keras has a ReLU with a max_value, whose lower bound is 0")
    return [("ReLU", {"max_value": layer.high}, (), None)]


_WRITERS = {
    Conv2D: _conv,
    Conv2DTranspose: _transposed,
    Dense: _dense,
    Flatten: _plain("Flatten"),
    MaxPool2D: _pool("MaxPooling2D"),
    AvgPool2D: _pool("AveragePooling2D"),
    GlobalAvgPool2D: _plain("GlobalAveragePooling2D"),
    GlobalMaxPool2D: _plain("GlobalMaxPooling2D"),
    UpSampling2D: lambda layer, x: [("UpSampling2D", {"size": layer.window.stride}, (), None)],
    ZeroPad2D: lambda layer, x: [("ZeroPadding2D", {"padding": layer.pads}, (), None)],
    BatchNorm: _batch_norm,
    LayerNorm: _layer_norm,
    GroupNorm: _group_norm,
    Dropout: _dropout,
    ReLU: _activation("relu"),
    Tanh: _activation("tanh"),
    Sigmoid: _activation("sigmoid"),
    SiLU: _activation("silu"),
    Hardswish: _activation("hard_silu"),
    LogSoftmax: _activation("log_softmax"),
    LeakyReLU: lambda layer, x: [("LeakyReLU", {"negative_slope": layer.negative_slope}, (), None)],
    ELU: lambda layer, x: [("ELU", {"alpha": layer.alpha}, (), None)],
    PReLU: _prelu,
    Clip: _clip,
    Softmax: _plain("Softmax"),
}
