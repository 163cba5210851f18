"""What each layer of Keras is here: a function of its arguments for each class.

A class that is not in the list below is refused by its name. So nothing in a
file is ever run, whatever a file calls its layers.
"""

import math
from typing import NamedTuple

import numpy as np

from minicnn import console
from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer
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
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    UpSampling2D,
    ZeroPad2D,
)
from minicnn.exchange.keras_arrays import (
    ARRAYS,
    DEPTHWISE,
    MEAN,
    SCALE,
    SHIFT,
    VARIANCE,
    Array,
    Tensor,
    arrays_of,
)


class Made(NamedTuple):
    """A layer, and those of its arrays that are in the file; the others have the values `constants`."""

    layer: Layer
    arrays: tuple = ()
    constants: tuple = ()


def from_keras(kind, config, x, channels_last):
    """What a layer of Keras is here.

    Args:
        kind: the name of its class.
        config: its arguments, as its `get_config` returns them.
        x: the Tensor that it receives.
        channels_last: whether the network's images are (N, H, W, C) in Keras.

    Returns:
        a list of Made, which may be empty; and the Tensor that goes into the first of them.

    Raises:
        InputError: a class or options that this library does not have; the message says what would have to change.
    """
    if kind in _REFUSED:
        raise InputError(_REFUSED[kind])
    if kind == "Reshape":
        return _reshape(config["target_shape"], x, channels_last)
    if kind not in _READERS:
        raise InputError("there is no such layer here: the network has to be trained without it")
    made = _READERS[kind](config, x, channels_last)
    activation = config.get("activation")
    if activation is not None and kind != "Activation":
        made = [*made, *_activation(config, x, channels_last)]
    return [item if isinstance(item, Made) else Made(item) for item in made], x


def _pair(value):
    """Keras's pairs are lists; two equal numbers are one here."""
    if isinstance(value, (list, tuple)):
        return value[0] if len(value) == 2 and value[0] == value[1] else tuple(value)
    return value


def _only(config, **allowed):
    """Refuse options of other values than those that this library computes with."""
    for name, values in allowed.items():
        value = config.get(name, values[0])
        if value not in values:
            raise InputError(f"its {name} is {quoted(value, 60)}, and only {quoted(values[0], 60)} is known here")


def _is_image(x):
    return len(x.shape) == 3


def _window(config):
    return {
        "stride": _pair(config.get("strides", 1)),
        "padding": config.get("padding", "valid"),
        "dilation": _pair(config.get("dilation_rate", 1)),
    }


def _conv(config, x, channels_last):
    layer = Conv2D(
        config["filters"],
        _pair(config["kernel_size"]),
        **_window(config),
        groups=config.get("groups", 1),
        use_bias=config.get("use_bias", True),
    )
    return [Made(layer, arrays_of(layer))]


def _depthwise_layer(config, x, use_bias):
    multiplier = config.get("depth_multiplier", 1)
    return Conv2D(
        x.shape[0] * multiplier,
        _pair(config["kernel_size"]),
        **_window(config),
        groups=x.shape[0],
        use_bias=use_bias,
    )


def _depthwise(config, x, channels_last):
    layer = _depthwise_layer(config, x, config.get("use_bias", True))
    return [Made(layer, (DEPTHWISE, *arrays_of(layer)[1:]))]


def _separable(config, x, channels_last):
    first = _depthwise_layer(config, x, use_bias=False)
    second = Conv2D(config["filters"], 1, use_bias=config.get("use_bias", True))
    return [
        Made(first, (DEPTHWISE,)),
        Made(second, (Array("pointwise_kernel", "weight", "kernel"), *arrays_of(second)[1:])),
    ]


def _transposed(config, x, channels_last):
    window, padding, added = _window(config), config.get("padding", "valid"), config.get("output_padding")
    options = {"use_bias": config.get("use_bias", True)}
    layer = Conv2DTranspose(config["filters"], _pair(config["kernel_size"]), **window, **options)
    if padding == "same" and added is None:
        return [Made(layer, arrays_of(layer))]
    # Keras gives the output's size, and what is more or less than the kernels reach is at the bottom and the right.
    pads, more = [], []
    added = (None, None) if added is None else (added, added) if not isinstance(added, list) else added
    for size, extent, stride, extra in zip(x.shape[1:], layer.window.extent, layer.window.stride, added, strict=True):
        full = (size - 1) * stride + extent
        if padding == "valid":
            output = full + (max(stride - extent, 0) if extra is None else extra)
        else:
            output = full - 2 * (extent // 2) + extra
        cut = max(full - output, 0)
        pads.append((cut // 2, cut - cut // 2))
        more.append(max(output - full, 0))
    window["padding"] = tuple(pads) if any(map(any, pads)) else "valid"
    layer = Conv2DTranspose(
        config["filters"], _pair(config["kernel_size"]), **window, **options, output_padding=_pair(more)
    )
    return [Made(layer, arrays_of(layer))]


def _dense(config, x, channels_last):
    if config.get("quantization_config"):
        raise InputError("its weights are quantized, and only floating point numbers are read: save it before that")
    if not _is_image(x):
        layer = Dense(config["units"], use_bias=config.get("use_bias", True))
        return [Made(layer, arrays_of(layer))]
    if not channels_last:
        raise InputError("on images of channels_first it multiplies their columns: put a Flatten before it")
    layer = Conv2D(config["units"], 1, use_bias=config.get("use_bias", True))  # each pixel's channels
    return [Made(layer, (ARRAYS[Dense][0], *arrays_of(layer)[1:]))]


def _pool(kind):
    def read(config, x, channels_last):
        size = _pair(config.get("pool_size", 2))
        stride = _pair(config.get("strides"))
        return [kind(size, stride=None if stride == size else stride, padding=config.get("padding", "valid"))]

    return read


def _global_pool(kind):
    def read(config, x, channels_last):
        _only(config, keepdims=(False,))
        return [kind()]

    return read


def _check_axis(config, x, channels_last):
    """Refuse a normalization over another axis than that of the channels or features."""
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    right = (-1, len(x.shape)) if channels_last or not _is_image(x) else (1, -3)
    if isinstance(axis, bool) or axis not in right:
        raise InputError(f"its axis is {quoted(axis, 40)}, and only that of the channels, {right[0]}, is known here")


def _scale_and_shift(config, before=()):
    """The arrays of a normalization, and the constants in place of those that it was made without."""
    present = [config.get("scale", True), config.get("center", True)]
    arrays = [array for array, is_there in zip((SCALE, SHIFT), present, strict=True) if is_there]
    constants = [(name, value) for name, value, is_there in zip(("scale", "shift"), (1, 0), present, strict=True)
                 if not is_there]  # fmt: skip
    return (*arrays, *before), tuple(constants)


def _batch_norm(config, x, channels_last):
    _check_axis(config, x, channels_last)
    _only(config, renorm=(False,))
    layer = BatchNorm(momentum=config.get("momentum", 0.99), epsilon=config.get("epsilon", 1e-3))
    return [Made(layer, *_scale_and_shift(config, (MEAN, VARIANCE)))]


def _layer_norm(config, x, channels_last):
    _only(config, rms_scaling=(False,))
    axis = config.get("axis", -1)
    axes = sorted(a % (len(x.shape) + 1) for a in (axis if isinstance(axis, list) else [axis]))
    if axes != list(range(1, len(x.shape) + 1)):
        raise InputError(
            "it normalizes each pixel alone, and LayerNorm here all numbers of an image: give it axis=[1, 2, 3], or "
            "use GroupNormalization(1)"
        )
    if _is_image(x) and not channels_last:
        raise InputError("its weights are for images of channels_first: GroupNormalization has one for each channel")
    return [Made(LayerNorm(epsilon=config.get("epsilon", 1e-3)), *_scale_and_shift(config))]


def _group_norm(config, x, channels_last):
    _check_axis(config, x, channels_last)
    if x.order:
        raise InputError("it makes groups of the features of a flattened image: put it before the Flatten")
    groups = config.get("groups", 32)
    layer = GroupNorm(x.shape[0] if groups == -1 else groups, epsilon=config.get("epsilon", 1e-3))
    return [Made(layer, *_scale_and_shift(config))]


def _dropout(config, x, channels_last):
    _only(config, noise_shape=(None,))
    return [Dropout(config["rate"])]


def _relu(config, x, channels_last):
    _only(config, threshold=(0, None))
    slope, highest = config.get("negative_slope") or 0, config.get("max_value")
    if slope and highest is not None:
        raise InputError("it has both a negative_slope and a max_value: one of them is known here at a time")
    return [Clip(0, highest) if highest is not None else LeakyReLU(slope) if slope else ReLU()]


def _prelu(config, x, channels_last):
    axes = config.get("shared_axes") or []
    images = ([1, 2], [1, 2, 3]) if channels_last else ([2, 3], [1, 2, 3])
    if axes not in (images if _is_image(x) else ([], [1])) or not channels_last:
        raise InputError("it has a slope for each pixel, and here it has one for each channel: shared_axes=[1, 2]")
    layer = PReLU(shared=axes[-1:] == [len(x.shape)])
    return [Made(layer, arrays_of(layer))]


def _zero_padding(config, x, channels_last):
    pads = config.get("padding", 1)
    if isinstance(pads, list) and all(isinstance(sides, list) for sides in pads):  # [[top, bottom], [left, right]]
        is_even = all(sides[0] == sides[-1] for sides in pads)
        return [ZeroPad2D(_pair([sides[0] for sides in pads]) if is_even else tuple(map(tuple, pads)))]
    return [ZeroPad2D(_pair(pads))]


def _leaky_relu(config, x, channels_last):
    return [LeakyReLU(config.get("negative_slope", config.get("alpha", 0.3)))]


def _upsampling(config, x, channels_last):
    _only(config, interpolation=("nearest",))
    return [UpSampling2D(_pair(config.get("size", 2)))]


def _softmax(config, x, channels_last):
    _check_axis(config, x, channels_last)
    return [Softmax()]


def _rescaling(config, x, channels_last):
    """A frozen BatchNorm, whose scale and shift are those of the layer; nothing where they change nothing."""
    channels = x.shape[0]
    scale, offset = (np.broadcast_to(np.asarray(config[key], float), (channels,)) for key in ("scale", "offset"))
    if x.is_input and np.all(np.abs(scale) < 0.02):  # for pixels from 0 to 255, such as 1/255 and 1/127.5
        scale = scale * 255
    if np.allclose(scale, 1) and np.allclose(offset, 0):
        return []
    layer = BatchNorm()
    one = 1 - layer.epsilon
    constants = (("scale", scale), ("shift", offset), ("running_mean", 0), ("running_variance", one))
    return [Made(layer, (), (*constants, ("trainable", False)))]


def _training_only(config, x, channels_last):
    console.warn(
        f"{quoted(config.get('name', ''), 60)} changes images in training alone and is left out: "
        "model.fit(augmentation=...) does that here"
    )
    return []


def _nothing(config, x, channels_last):
    return []


def _activation(config, x, channels_last):
    """The layers of an activation, from the argument of that name: a text, or a described function or layer."""
    name = config.get("activation", "linear")
    if isinstance(name, dict):
        if isinstance(name.get("config"), dict):  # a layer
            made, _ = from_keras(name["class_name"], name["config"], x, channels_last)
            return made
        name = name.get("config")
    if name == "gelu":
        console.warn(
            "gelu is computed here by the formula with tanh, and in Keras by the error function: the two differ by "
            "less than 0.0005"
        )
    if name in ("softmax", "log_softmax") and _is_image(x) and not channels_last:
        raise InputError("on images of channels_first its softmax is over a row of pixels, not over the channels")
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise InputError(f"its activation {quoted(name, 60)} is not known here: {', '.join(_ACTIVATIONS)} are")
    return [make() for make in _ACTIVATIONS[name]]


def _reshape(target, x, channels_last):
    """A Flatten; or no layer, and the Tensor with another shape."""
    if target not in ([-1], [math.prod(x.shape)]):
        return [], _reshaped(target, x, channels_last)
    if _is_image(x) and not channels_last:
        raise InputError("it flattens images of channels_first in another order than Flatten: use Flatten")
    return [Made(Flatten())] if _is_image(x) else [], x


def _reshaped(target, x, channels_last):
    """The Tensor with another shape, where the numbers stay in their order here, too."""
    C, H, W = x.shape if _is_image(x) else (None,) * 3
    there = (H, W, C) if channels_last and _is_image(x) else x.shape
    target = tuple(target)
    count = math.prod(there)
    if target.count(-1) == 1 and (rest := -math.prod(target)) > 0 and count % rest == 0:
        target = tuple(count // rest if size == -1 else size for size in target)
    if math.prod(target) != count or any(not isinstance(size, int) or size < 1 for size in target):
        raise InputError(f"it cannot make the shape {quoted(target, 60)} of {quoted(there, 60)}")
    if target == there:
        return x
    if x.is_input and len(target) == 3 and (len(there) == 1 or 1 in (there[2], target[2])):
        H, W, C = target if channels_last else (*target[1:], target[0])
        return Tensor((C, H, W), is_input=True)
    raise InputError(
        f"it makes the shape {quoted(target, 60)} of {quoted(there, 60)}, and there is no layer for that here but "
        "Flatten: let the network begin after it"
    )


_ACTIVATIONS = {
    "linear": (),
    "relu": (ReLU,),
    "tanh": (Tanh,),
    "sigmoid": (Sigmoid,),
    "softmax": (Softmax,),
    "elu": (ELU,),
    "leaky_relu": (lambda: LeakyReLU(0.2),),
    "silu": (SiLU,),
    "swish": (SiLU,),
    "hard_silu": (Hardswish,),
    "hard_swish": (Hardswish,),
    "gelu": (GELU,),
    "relu6": (lambda: Clip(0, 6),),
    "hard_tanh": (lambda: Clip(-1, 1),),
    "log_softmax": (LogSoftmax,),
}

_READERS = {
    "InputLayer": _nothing,
    "Conv2D": _conv,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "Conv2DTranspose": _transposed,
    "Dense": _dense,
    "Flatten": lambda config, x, channels_last: [Flatten()],
    "MaxPooling2D": _pool(MaxPool2D),
    "AveragePooling2D": _pool(AvgPool2D),
    "GlobalAveragePooling2D": _global_pool(GlobalAvgPool2D),
    "GlobalMaxPooling2D": _global_pool(GlobalMaxPool2D),
    "UpSampling2D": _upsampling,
    "ZeroPadding2D": _zero_padding,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "Dropout": _dropout,
    "SpatialDropout2D": lambda config, x, channels_last: [Dropout(config["rate"], axes=(2, 3))],
    "Activation": _activation,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "PReLU": _prelu,
    "ELU": lambda config, x, channels_last: [ELU(config.get("alpha", 1.0))],
    "Softmax": _softmax,
    "Rescaling": _rescaling,
    **dict.fromkeys(
        (
            *("GaussianNoise", "GaussianDropout", "ActivityRegularization", "RandomFlip", "RandomRotation"),
            *("RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness"),
        ),
        _training_only,
    ),
}

_REFUSED = {
    "Cropping2D": "it is known here only behind a Conv2DTranspose, in a Sequential model",
    "Normalization": "what it learned from the data is not read: use a Rescaling, or normalize the images before",
    "Lambda": "it is code in the file, which is never run: write it as a layer of your own, or do without it",
    "TFOpLambda": "it is an operation of TensorFlow, not a layer: use the layer of Keras that does the same",
    "SlicingOpLambda": "it is an operation of TensorFlow, not a layer: use the layer of Keras that does the same",
}
