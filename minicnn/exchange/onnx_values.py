"""The arrays of an ONNX graph as arrays of ours, and what the functions for its operators share."""

import math
import typing

import numpy as np

from minicnn.core.parameter import Parameter


class UnsupportedError(Exception):
    """Something in a graph that no layer corresponds to."""

    def __init__(self, message, located=False):
        super().__init__(message)
        self.located = located  # whether the message names the node


class Value(typing.NamedTuple):
    """An array of the file, as an array of ours: which axis is which.

    Attributes:
        shape: of one sample of ours, (C, H, W) or (D,); of a flattened image the shape before.
        axes: for each axis of the file's array after the batch, the axes of `shape` that it runs over, the slowest
            first: ((1,), (2,), (0,)) is (H, W, C), and ((1, 2, 0),) the same as one vector.
        is_flat: whether ours is flattened, too: its numbers have the order (C, H, W), and the file's that of `axes`.

    >>> image = Value((3, 4, 5), ((1,), (2,), (0,)))
    >>> image.file_shape, image.in_order
    ((4, 5, 3), False)
    >>> vector = image.regrouped((60,)).flattened()
    >>> vector.own_shape, vector.ordered(np.arange(60.0))[:3]
    ((60,), array([0., 3., 6.]))
    """

    shape: tuple
    axes: tuple
    is_flat: bool = False

    @property
    def own_shape(self):
        """The shape of one sample of our array."""
        return (math.prod(self.shape),) if self.is_flat else self.shape

    @property
    def file_shape(self):
        """The shape of one sample of the file's array."""
        return tuple(math.prod(self.shape[axis] for axis in axes) for axes in self.axes)

    @property
    def order(self):
        """The axes of `shape` as the file has them, the slowest first; without those of one number."""
        return tuple(axis for axes in self.axes for axis in axes if self.shape[axis] > 1)

    @property
    def in_order(self):
        """Whether the numbers of the file's array come in the order of ours."""
        return self.order == tuple(sorted(self.order))

    @property
    def is_vector(self):
        """Whether both arrays are vectors."""
        return len(self.own_shape) == len(self.axes) == 1

    @property
    def is_image(self):
        """Whether both arrays are images (C, H, W)."""
        return len(self.shape) == 3 and self.file_shape == self.own_shape and self.in_order

    def with_shape(self, shape):
        """After a layer that gives one sample this shape."""
        return self if shape == self.own_shape else Value(shape, tuple((axis,) for axis in range(len(shape))))

    def flattened(self):
        """After Flatten, where the file's array is a vector already."""
        if self.in_order:
            return Value((math.prod(self.shape),), ((0,),))
        return Value(self.shape, (self.order,), True)

    def regrouped(self, sizes):
        """After a reshape of the file's array: its samples get axes of these sizes.

        Raises:
            UnsupportedError: an axis of ours would be divided.
        """
        left = [axis for axes in self.axes for axis in axes]
        groups = []
        for size in sizes:
            group = []
            while math.prod(self.shape[axis] for axis in group) < size and left:
                group.append(left.pop(0))
            if math.prod(self.shape[axis] for axis in group) != size:
                raise UnsupportedError(
                    f"it makes {tuple(sizes)} of {self.file_shape}, which is more than to flatten, and there is no "
                    "layer that reshapes"
                )
            groups.append(tuple(group))
        if groups:
            groups[-1] += tuple(left)  # axes of one number
        return self._replace(axes=tuple(groups))

    def ordered(self, array):
        """An array whose last axis runs over the file's vector, with that axis in our order."""
        if self.in_order:
            return array
        leading = range(array.ndim - 1)
        array = array.reshape(*array.shape[:-1], *(self.shape[axis] for axis in self.order))
        places = [len(leading) + int(place) for place in np.argsort(self.order)]
        return array.transpose(*leading, *places).reshape(*array.shape[: len(leading)], -1)


def parameters(net, layer, input_shape, **arrays):
    """Give a layer the weights of the file, after their shapes are validated."""
    for name, shape in layer.parameter_shapes(input_shape).items():
        if arrays[name].shape != tuple(shape):
            raise UnsupportedError(
                f"its {name} has the shape {arrays[name].shape}, and an input of the shape {input_shape} needs "
                f"{tuple(shape)}"
            )
        setattr(layer, name, Parameter(own(net, arrays[name])))
    return layer


def own(net, array):
    """A new array of the network's dtype with these numbers."""
    net.numbers_left -= array.size
    if net.numbers_left < 0:
        raise UnsupportedError("the layers together need much more memory than the weights of the file")
    return np.array(array, net.graph.dtype, order="C")


def image(net, name):
    """The shape (C, H, W) of an array that must be a batch of images."""
    value = net.value(name)
    if not value.is_image:
        raise UnsupportedError(
            f"it needs images (N, C, H, W), and the samples of its input have the shape {value.file_shape} in the file "
            f"and {value.own_shape} here"
        )
    return value.shape


def vector(net, name):
    """The `Value` of an array that must be a batch of vectors."""
    value = net.value(name)
    if not value.is_vector:
        raise UnsupportedError(
            f"it needs vectors (N, D), and the samples of its input have the shape {value.file_shape}: flatten them"
        )
    return value


def for_channels(value, array):
    """A constant that is broadcast against the file's array, as one number or one for each channel (or feature)."""
    if array.size == 1:
        return array.reshape(1)
    sizes = (1,) * (len(value.axes) + 1 - array.ndim) + array.shape
    if value.is_vector and sizes == (1, *value.file_shape):
        return value.ordered(array.reshape(-1))
    channels = (1, *(size if 0 in axes else 1 for axes, size in zip(value.axes, value.file_shape, strict=True)))
    if sizes == channels and array.size == value.shape[0] and not value.is_flat:
        return array.reshape(-1)
    raise UnsupportedError(
        f"its constant of the shape {array.shape} has not one number, nor one for each channel of {value.file_shape}"
    )


def short(pair):
    """A pair as the constructors of layers take it: one number where both are the same."""
    pair = tuple(pair)
    return pair[0] if pair[0] == pair[1] else pair


def short_padding(pads):
    """A padding in its shortest form."""
    pads = tuple(map(tuple, pads))
    if all(before == after for before, after in pads):
        pads = short((pads[0][0], pads[1][0]))
    return "valid" if pads == 0 else pads


def digits(number):
    """A float32 of the file as the number that was meant: 1e-5, not 9.999999747378752e-06."""
    return float(f"{number:.7g}")


def ordinary(net, name):
    """The `Value` of an array of images or vectors that has the same order in the file and here."""
    value = net.value(name)
    return value if value.is_vector and value.in_order else value._replace(shape=image(net, name))
