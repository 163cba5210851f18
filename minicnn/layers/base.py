"""What every layer is: one function and the way back.

`forward` returns the output and a closure, `backward`, that takes the
gradient of the loss by the output to the gradient by the input, and adds the
gradient of each parameter on the way. Nothing is remembered on the layer
between calls: whatever the way back needs, the closure holds.
"""

import inspect

import numpy as np

from minicnn import initializers
from minicnn.backend import array_module, to_device
from minicnn.checks import check_array
from minicnn.errors import InputError
from minicnn.parameter import Parameter


class Layer:
    """The base of all layers. A layer of your own needs `forward`; with parameters also `parameter_shapes`.

    The arguments of a layer's constructor are kept as attributes of the same names: `repr`, saving and
    loading read them from there.

    A layer sees the whole batch, unless it says `splits_batch = True`.

    >>> import numpy as np
    >>> from minicnn import initializers
    >>> class Scale(Layer):
    ...     factor_initializer = staticmethod(initializers.glorot_uniform)
    ...
    ...     def parameter_shapes(self, input_shape):
    ...         return {"factor": (1, *input_shape)}
    ...
    ...     def forward(self, x, training=False):
    ...         def backward(dy):
    ...             self.factor.add_gradient((dy * x).sum(axis=0, keepdims=True))
    ...             return dy * self.factor.value
    ...         return x * self.factor.value, backward
    >>> layer = Scale()
    >>> layer.build((3,))
    (3,)
    >>> layer(np.ones((2, 3), "float32")).shape, layer.parameters().keys()
    ((2, 3), dict_keys(['factor']))
    """

    #: Whether `backward(dy, input_gradient=False)` may be called to save the work for an input that nobody
    #: asks the gradient of, such as the images themselves. It then returns None.
    can_skip_input_gradient = False

    #: Whether a batch may be worked on in parts, several at the same time: each image's output must depend on that
    #: image alone. True for the library's layers but Dropout, whose masks follow from the order of its calls.
    splits_batch = False

    def build(self, input_shape, rng=None, dtype="float32"):
        """Check the input's shape, make the parameters, and return the output's shape.

        Args:
            input_shape: the shape of one input, without the batch axis: (C, H, W) or (D,).
            rng: a `numpy.random.Generator` for the first weights; seed 0 where none is given.
            dtype: of the parameters, "float32" or "float64".

        Raises:
            InputError: the layer cannot work on inputs of this shape.
        """
        output_shape = self.output_shape(input_shape)
        rng = rng or np.random.default_rng(0)
        for name, shape in self.parameter_shapes(input_shape).items():
            initializer = getattr(self, f"{name}_initializer")
            if not callable(initializer):
                raise InputError(
                    f"{self!r} needs a function as {name}_initializer, got {initializer!r}: "
                    f"one of minicnn.initializers, such as initializers.he_normal"
                )
            setattr(self, name, Parameter(to_device(initializer(shape, rng, dtype))))
        return output_shape

    def parameter_shapes(self, input_shape):
        """The shapes of the parameters by name, for one input's shape.

        `build` makes each with the layer's attribute `<name>_initializer`, a function as in
        `minicnn.initializers`.
        """
        return {}

    def output_shape(self, input_shape):
        """The shape of one output, without the batch axis, for one input's shape."""
        return tuple(input_shape)

    def forward(self, x, training=False):
        """The output `y` for the input `x`, and the way back: `backward(dy)` returns `dx`.

        Args:
            x: the batch, its first axis the images: (N, C, H, W) or (N, D), of a floating dtype.
            training: whether to behave as in training (only Dropout cares).
        """
        raise NotImplementedError(f"{type(self).__name__} needs a forward method")

    def __call__(self, x):
        """The output alone."""
        return self.forward(x)[0]

    def parameters(self):
        """The learned arrays by name: every attribute that is a Parameter."""
        return {name: item for name, item in vars(self).items() if isinstance(item, Parameter)}

    def multiply_adds(self, input_shape):
        """How many products of a weight and an input one forward pass of one input adds up."""
        return 0

    def column_bytes(self, input_shape, itemsize):
        """Bytes of the im2col matrix of one image."""
        return 0

    def config(self):
        """The constructor's arguments as plain values: what a saved model keeps of the layer.

        Of the library's initializers it is the name; functions of the user's own are left out.
        """
        named = {name: initializers.name_of(value) or value for name, value in self._arguments().items()}
        return {name: value for name, value in named.items() if not callable(value)}

    @classmethod
    def from_config(cls, config):
        """The layer that gave this `config`.

        Raises:
            InputError: an initializer's name that is none of the library's.
        """
        known = {
            name: initializers.named(value) if name.endswith("_initializer") and isinstance(value, str) else value
            for name, value in config.items()
        }
        return cls(**known)

    def __repr__(self):
        signature = inspect.signature(type(self)).parameters
        shown = []
        for name, value in self._arguments().items():
            default = signature[name].default
            if default is inspect.Parameter.empty:
                shown.append(repr(value))
            elif value is not default and value != default:
                shown.append(f"{name}={getattr(value, '__name__', repr(value))}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _arguments(self):
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def check_input(self, x, ndim=None, features=None):
        """Stop at the door what this layer cannot work on.

        Args:
            x: the batch.
            ndim: how many axes it must have: 4 for images, 2 for vectors; None for any.
            features: the length its axis 1 must have; None for any.

        Raises:
            InputError: no array of floating point numbers, another shape, or another dtype or backend than the
                layer's parameters; the message names what came and the likely fix.
        """
        check_array(x, self)
        if x.dtype.kind != "f":
            raise InputError(f"{self!r} needs floating point numbers, got {x.dtype}: convert with x.astype('float32')")
        if ndim == 4:
            check_image_shape(self, x.shape, features)
        elif ndim == 2 and (x.ndim != 2 or features not in (None, x.shape[1])):
            wanted = "D" if features is None else features
            fix = ": put Flatten() before it" if x.ndim == 4 else ""
            raise InputError(f"{self!r} needs vectors (N, {wanted}); got shape {x.shape}{fix}")
        for name, parameter in self.parameters().items():
            if array_module(parameter.value) is not array_module(x):
                raise InputError(
                    f"{self!r} has its {name} in {array_module(parameter.value).__name__} and its input in "
                    f"{array_module(x).__name__}: move the one to the other with mc.to_device or mc.to_numpy"
                )
            if parameter.value.dtype != x.dtype:
                raise InputError(
                    f"{self!r} has a {name} of {parameter.value.dtype} and got an input of {x.dtype}: "
                    f"convert the input with x.astype('{parameter.value.dtype}')"
                )


def check_image_shape(layer, shape, channels=None):
    """Refuse a batch's shape that is not (N, C, H, W), with the likely fix."""
    wanted = "C" if channels is None else channels
    if len(shape) != 4:
        fix = ": add the channel axis with x[:, None]" if len(shape) == 3 else ""
        raise InputError(f"{layer!r} needs images (N, {wanted}, H, W); got shape {tuple(shape)}{fix}")
    if channels not in (None, shape[1]):
        fix = ": move the channels forward with x.transpose(0, 3, 1, 2)" if shape[3] == channels else ""
        raise InputError(f"{layer!r} needs images (N, {wanted}, H, W); got shape {tuple(shape)}{fix}")


def check_built(layer, parameter):
    """Refuse to compute with a layer whose weights have not been made."""
    if parameter is None:
        raise InputError(f"{layer!r} has no weights yet: put it into a Sequential, or call layer.build(x.shape[1:])")
