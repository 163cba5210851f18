"""How Keras stores the arrays of layers, and what they are here.

    in Keras                                        here
    images         (N, H, W, C)                     (N, C, H, W)
    kernels        (KH, KW, C / groups, F)          (F, C / groups, KH, KW)
      transposed   (KH, KW, F, C)                   (C, F, KH, KW)
      depthwise    (KH, KW, C, M)                   (C * M, 1, KH, KW)
    dense weights  (features, units)                (units, features)
    Flatten        row, column, channel             channel, row, column

So after a Flatten the features stand in another order, and whatever has a number
for each feature is reordered: the weights of the next Dense layer, and those of
a normalization before it. `Tensor.order` says which order it is.
"""

import math
from typing import NamedTuple

import numpy as np

from minicnn.core import operations
from minicnn.core.errors import InputError
from minicnn.core.layers import BatchNorm, Conv2D, Conv2DTranspose, Dense, Flatten, GroupNorm, LayerNorm, PReLU
from minicnn.core.parameter import Parameter, State

_MOST_PIECES = 1000  # of an order: so many flattened images may be concatenated


class Tensor(NamedTuple):
    """What goes from one layer to the next.

    Attributes:
        shape: of one sample, as here: (C, H, W) or (D,).
        order: the order of a vector's features: a tuple with (C, H, W) for each flattened image in it, and (D,) for
            D features that are in the same order in Keras.
        is_input: whether it is the network's input itself.
    """

    shape: tuple
    order: tuple = ()
    is_input: bool = False

    def after(self, layer):
        """What a layer makes of it."""
        shape = tuple(layer.output_shape(self.shape))
        if isinstance(layer, Flatten) and len(self.shape) == 3:
            return Tensor(shape, merged([self.shape]))
        return Tensor(shape, self.order if len(self.shape) == len(shape) == 1 and not isinstance(layer, Dense) else ())


def merged(pieces):
    """The order of pieces of features behind each other, as short as can be; () where nothing differs from Keras."""
    order = []
    for piece in pieces:
        if math.prod(piece) in (piece[0], math.prod(piece[1:])):  # one pixel, or one channel
            piece = (math.prod(piece),)
        if order and len(order[-1]) == len(piece) == 1:
            piece = (order.pop()[0] + piece[0],)
        order.append(piece)
    if len(order) > _MOST_PIECES:
        raise InputError(f"more than {_MOST_PIECES} flattened images are concatenated")
    return () if len(order) < 2 and len(order[0]) == 1 else tuple(order)


def positions(order):
    """For each feature here, its position in Keras; None where the order is the same."""
    if not order:
        return None
    found, start = [], 0
    for piece in order:
        count = math.prod(piece)
        index = np.arange(start, start + count)
        if len(piece) == 3:
            C, H, W = piece
            index = index.reshape(H, W, C).transpose(2, 0, 1).ravel()
        found.append(index)
        start += count
    return np.concatenate(found)


class Array(NamedTuple):
    """An array of a layer: its name in Keras and here, and how the two are laid out.

    `layout` is "kernel", "depthwise", "dense" (whose features have an order), "feature" (an array with a number for
    each of the input's features), "slope" (the same, with axes of length 1 in Keras) or "" (the same on both sides).
    """

    keras: str
    here: str
    layout: str = ""

    def keras_shape(self, layer, shape, x):
        """Its shape in Keras, from the shape here and the Tensor that the layer receives."""
        if self.layout == "kernel":
            return (*shape[2:], shape[1], shape[0])
        if self.layout == "depthwise":
            return (*shape[2:], layer.groups, shape[0] // layer.groups)
        if self.layout == "dense":
            return (shape[1], shape[0])
        if self.layout == "slope":
            return (*(1,) * (len(x.shape) - 1), *shape)
        return (*shape[1:], shape[0])

    def from_keras(self, value, shape, order):
        """The array as it is here, from Keras's; `order` is that of the features that the layer receives."""
        if self.layout == "kernel":
            value = value.transpose(3, 2, 0, 1)
        elif self.layout == "depthwise":
            value = value.transpose(2, 3, 0, 1)
        elif self.layout == "dense":
            value = value.T if not order else value[positions(order)].T
        elif self.layout in ("feature", "slope") and order and shape != (1,):
            value = value[positions(order)]
        elif value.ndim == 3:
            value = value.transpose(2, 0, 1)
        return np.ascontiguousarray(value.reshape(shape))

    def to_keras(self, value, keras_shape, order):
        """The array as it is in Keras, from the one here."""
        if self.layout == "kernel":
            value = value.transpose(2, 3, 1, 0)
        elif self.layout == "depthwise":
            KH, KW, C, M = keras_shape
            value = value.reshape(C, M, KH, KW).transpose(2, 3, 0, 1)
        elif self.layout == "dense":
            value = value.reshape(keras_shape[::-1]).T
            value = value if not order else value[np.argsort(positions(order))]
        elif self.layout in ("feature", "slope") and order and value.shape != (1,):
            value = value[np.argsort(positions(order))]
        elif value.ndim == 3:
            value = value.transpose(1, 2, 0)
        return np.ascontiguousarray(value.reshape(keras_shape))


BIAS = Array("bias", "bias")
DEPTHWISE = Array("depthwise_kernel", "weight", "depthwise")
SCALE, SHIFT = Array("gamma", "scale", "feature"), Array("beta", "shift", "feature")
MEAN = Array("moving_mean", "running_mean", "feature")
VARIANCE = Array("moving_variance", "running_variance", "feature")

#: The arrays of each kind of layer, in Keras's order.
ARRAYS = {
    Conv2D: (Array("kernel", "weight", "kernel"), BIAS),
    Conv2DTranspose: (Array("kernel", "weight", "kernel"), BIAS),
    Dense: (Array("kernel", "weight", "dense"), BIAS),
    BatchNorm: (SCALE, SHIFT, MEAN, VARIANCE),
    LayerNorm: (SCALE, SHIFT),
    GroupNorm: (SCALE, SHIFT),
    PReLU: (Array("alpha", "slope", "slope"),),
}


def arrays_of(layer):
    """The arrays of a layer, in Keras's order."""
    arrays = ARRAYS.get(type(layer), ())
    return arrays if getattr(layer, "use_bias", True) else arrays[:1]


def is_depthwise(layer, input_shape):
    """Whether a layer is what Keras calls a DepthwiseConv2D: one group for each of several channels."""
    return type(layer) is Conv2D and layer.groups == input_shape[0] > 1


def put(layer, name, value):
    """Give a layer that is not built a parameter or a state."""
    value = operations.current.array(value)
    if isinstance(getattr(layer, name), State):
        getattr(layer, name).value = value
    else:
        setattr(layer, name, Parameter(value))
