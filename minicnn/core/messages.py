"""The errors of a layer that cannot compute with its input: what was needed, what was received, and the likely fix."""

from minicnn.core import operations
from minicnn.core.checks import check_array
from minicnn.core.errors import InputError


def input_error(layer, x, ndim, features):
    """The error for a batch `x` of another dtype or shape than a layer needs; the arguments of `Layer.check_input`."""
    if x.dtype.kind != "f":
        return InputError(f"{layer!r} needs floating point numbers, got {x.dtype}: convert with x.astype('float32')")
    if not x.size:
        return InputError(f"{layer!r} needs one sample at least, got shape {tuple(x.shape)}")
    return (image_shape_error if ndim == 4 else vector_shape_error)(layer, x.shape, features)


def parameter_error(layer, parameter, x):
    """The error for a parameter that is not made yet, or of another dtype or backend than the input `x`."""
    check_array(x, layer)
    if parameter is None:
        return InputError(f"{layer!r} has no weights yet: put it into a Sequential, or call layer.build(x.shape[1:])")
    value = parameter.value
    if value.dtype != x.dtype:
        return InputError(
            f"{layer!r} has weights of {value.dtype} and got an input of {x.dtype}: "
            f"convert the input with x.astype('{value.dtype}')"
        )
    return InputError(
        f"{layer!r} has its weights in {type(value).__module__} and its input in {type(x).__module__}, and the "
        f"backend in use is {operations.current.name}: convert the input with mc.to_device or mc.to_numpy, and the "
        "layer with layer.convert()"
    )


def check_image_shape(layer, shape, channels=None):
    """Refuse a batch's shape that is not (N, C, H, W), with the likely fix."""
    if len(shape) != 4 or channels not in (None, shape[1]):
        raise image_shape_error(layer, shape, channels)


def image_shape_error(layer, shape, channels):
    """The error for a batch's shape that is not (N, C, H, W), with the likely fix."""
    needed = "C" if channels is None else channels
    fix = ""
    if len(shape) == 3:
        fix = ": add the channel axis with x[:, None]"
    elif len(shape) == 4 and shape[3] == channels:
        fix = ": move the channels forward with x.transpose(0, 3, 1, 2)"
    return InputError(f"{layer!r} needs images (N, {needed}, H, W); got shape {_as_text(shape)}{fix}")


def vector_shape_error(layer, shape, features):
    """The error for a batch's shape that is not (N, D), with the likely fix."""
    needed = "D" if features is None else features
    fix = ": put Flatten() before it" if len(shape) == 4 else ""
    return InputError(f"{layer!r} needs vectors (N, {needed}); got shape {_as_text(shape)}{fix}")


def _as_text(shape):
    """A shape whose axes are numbers or letters: (N, 3)."""
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
