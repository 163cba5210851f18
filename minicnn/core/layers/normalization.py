"""Normalization: each layer receives numbers of mean 0 and variance 1, whatever the layers before it do.

The three layers differ only in which numbers share a mean and a variance. Batch
normalization takes one channel of all images, so an image's output depends on
the other images of its batch; outside training it uses means and variances kept
from training. Layer and group normalization take the numbers of one image, and
compute the same at all times.

    axes of (N, C, H, W) over which the mean is taken:
    BatchNorm  N, H, W          LayerNorm  C, H, W          GroupNorm  C / groups, H, W
"""

import math
from collections.abc import Callable

import numpy as np

from minicnn.core import initializers, operations
from minicnn.core.checks import check_integer, check_number
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer
from minicnn.core.parameter import Parameter, State
from minicnn.core.types import Array, Backward, DType, Initializer, Shape

#: From `dy` to `dx`, `dscale` and `dshift`.
ToGradients = Callable[[Array], tuple[Array, Array, Array]]


class Normalization(Layer):
    """What the three share: they normalize, and then multiply by a learned scale and add a learned shift."""

    scale: Parameter
    shift: Parameter

    def __init__(self, epsilon: float, scale_initializer: Initializer, shift_initializer: Initializer):
        self.epsilon = check_number(epsilon, "epsilon", type(self).__name__)
        if self.epsilon == 0:
            raise InputError(f"{type(self).__name__} needs an epsilon above 0: the variance of equal numbers is 0")
        self.scale_initializer = scale_initializer
        self.shift_initializer = shift_initializer
        self.scale = None
        self.shift = None

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return {"scale": input_shape[:1], "shift": input_shape[:1]}  # one number for each channel or feature

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) not in (1, 3):
            shape = ", ".join(map(str, ("N", *input_shape)))
            raise InputError(f"{self!r} needs images (N, C, H, W) or vectors (N, D); got shape ({shape})")
        return tuple(input_shape)

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_parameter(self.scale, x)
        self.check_input(x, ndim=len(self.built_input_shape) + 1, features=self.scale.value.shape[0])
        y, to_gradients = self.normalize(x, training)

        def backward(dy):
            dx, dscale, dshift = to_gradients(dy)
            self.scale.add_gradient(dscale.reshape(self.scale.value.shape))
            self.shift.add_gradient(dshift.reshape(self.shift.value.shape))
            return dx

        return y, backward

    def normalize(self, x: Array, training: bool) -> tuple[Array, ToGradients]:
        """The output, and a function of its gradient `dy` that computes the three gradients.

        Args:
            x: (N, C, ...), floating point.
            training: whether to compute as in training.

        Returns:
            y, of the shape of x, and a function of dy to dx, dscale and dshift.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a normalize method")


class BatchNorm(Normalization):
    """Each channel of a batch with mean 0 and variance 1; then a learned scale and shift for each channel.

        y = scale * (x - mean) / sqrt(variance + epsilon) + shift

    In training the mean and the variance (divided by the count n) are those of the channel in this batch: over N, H, W
    of images, over N of vectors. Each step they also go into running values, with n / (n - 1) times the variance, as
    an estimate of the variance of all images:

        running = momentum * running + (1 - momentum) * the batch's

    Outside training the running values are used, and so they are where the layer is frozen (`trainable = False`):
    then it changes nothing that it keeps.

    Backward, with `dnormalized = dy * scale`, the mean over the same axes, and normalized = (y - shift) / scale:

        dx = (dnormalized - mean(dnormalized) - normalized * mean(dnormalized * normalized)) / sqrt(variance + epsilon)
        dscale = sum of dy * normalized,    dshift = sum of dy

    Input and output: (N, C, H, W) or (N, D).

    Args:
        momentum: how much of the running values each step keeps, as in Keras (where it is 0.99): at least 0 and less
            than 1. PyTorch's momentum is the other part, so its 0.1 is 0.9 here.
        epsilon: added to the variance; 1e-5 as in PyTorch (Keras has 1e-3).
        scale_initializer, shift_initializer: functions of `minicnn.initializers`. A scale of zeros in the last
            BatchNorm of a residual block lets the block start as the identity.

    Attributes:
        scale, shift: Parameter (C,), once built; gamma and beta in the paper and Keras, weight and bias in PyTorch.
        running_mean, running_variance: State (C,), once built. The variance is the unbiased one, as in the paper and
            PyTorch; Keras keeps the biased one.

    Raises:
        InputError: another shape than the layer was built for; in training a batch with one number for each channel,
            whose variance says nothing; a momentum or an epsilon out of range.

    >>> import numpy as np
    >>> layer = BatchNorm()
    >>> layer.build((2,))
    (2,)
    >>> y, backward = layer.forward(np.array([[1, 10], [3, 30]], "float32"), training=True)
    >>> y.round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> layer.running_mean.value, layer.running_variance.value
    (array([0.2, 2. ], dtype=float32), array([ 1.1, 20.9], dtype=float32))

    Source: Ioffe & Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
    shift", 2015; the scale of zeros: Goyal et al., "Accurate, large minibatch SGD", 2017.
    """

    independent_samples = "means"

    def __init__(
        self,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        scale_initializer: Initializer = initializers.ones,
        shift_initializer: Initializer = initializers.zeros,
    ):
        super().__init__(epsilon, scale_initializer, shift_initializer)
        self.momentum = check_number(momentum, "momentum", "BatchNorm", below=1)
        self.running_mean = State(None)
        self.running_variance = State(None)

    def build(self, input_shape: Shape, rng: np.random.Generator | None = None, dtype: DType = "float32") -> Shape:
        output_shape = super().build(input_shape, rng, dtype)
        if self.running_mean.value is None:
            self.running_mean.value = operations.current.array(np.zeros(input_shape[:1], dtype))
            self.running_variance.value = operations.current.array(np.ones(input_shape[:1], dtype))
        return output_shape

    def normalize(self, x: Array, training: bool) -> tuple[Array, ToGradients]:
        scale, shift = (_as_batch(parameter.value, x.ndim) for parameter in (self.scale, self.shift))
        if not training or not self.trainable:
            mean, variance = (_as_batch(state.value, x.ndim) for state in (self.running_mean, self.running_variance))
            return _with_kept(x, mean, variance, scale, shift, self.epsilon)
        axes = (0, *range(2, x.ndim))
        y, mean, variance, n, to_gradients = operations.current.normalize(x, axes, scale, shift, self.epsilon)
        if n == 1:
            raise self._count_error(x)

        def update():
            self._update(self.running_mean, mean)
            self._update(self.running_variance, variance * (n / (n - 1)))

        operations.current.once(update)
        return y, to_gradients

    def _update(self, running, batch):
        running.value = running.value * self.momentum + batch.reshape(-1) * (1 - self.momentum)

    def _count_error(self, x):
        return InputError(
            f"{self!r} in training needs more than one number for each channel, got a batch of shape {tuple(x.shape)}: "
            "choose a batch_size that does not leave one sample for the last batch of an epoch, or use LayerNorm"
        )


class LayerNorm(Normalization):
    """Each sample with mean 0 and variance 1 over all its numbers; then a learned scale and shift for each of them.

        y = scale * (x - mean) / sqrt(variance + epsilon) + shift

    The mean and the variance (divided by the count) are those of one sample, over D or over C, H, W. The same in
    training and outside of it, and for every size of the batch. The backward pass is that of `BatchNorm`.

    It is PyTorch's `LayerNorm(x.shape[1:])`. For images with one scale for each channel use `GroupNorm(1)`.

    Input and output: (N, D) or (N, C, H, W).

    Args:
        epsilon: added to the variance; 1e-5 as in PyTorch (Keras has 1e-3).
        scale_initializer, shift_initializer: functions of `minicnn.initializers`.

    Attributes:
        scale, shift: Parameter of the shape of one sample, once built; weight and bias in PyTorch.

    Raises:
        InputError: another shape than the layer was built for, or samples of one number; an epsilon out of range.

    >>> import numpy as np
    >>> layer = LayerNorm()
    >>> layer.build((2,))
    (2,)
    >>> layer(np.array([[1, 3], [20, 10]], "float32")).round(3)
    array([[-1.,  1.],
           [ 1., -1.]], dtype=float32)

    Source: Ba, Kiros & Hinton, "Layer normalization", 2016.
    """

    independent_samples = True

    def __init__(
        self,
        *,
        epsilon: float = 1e-5,
        scale_initializer: Initializer = initializers.ones,
        shift_initializer: Initializer = initializers.zeros,
    ):
        super().__init__(epsilon, scale_initializer, shift_initializer)

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return {"scale": tuple(input_shape), "shift": tuple(input_shape)}

    def output_shape(self, input_shape: Shape) -> Shape:
        _check_count(self, math.prod(input_shape), input_shape)
        return super().output_shape(input_shape)

    def normalize(self, x: Array, training: bool) -> tuple[Array, ToGradients]:
        if x.shape[1:] != self.scale.value.shape:
            raise self._shape_error(x)
        scale, shift = self.scale.value[None], self.shift.value[None]
        y, *_, to_gradients = operations.current.normalize(x, tuple(range(1, x.ndim)), scale, shift, self.epsilon)
        return y, to_gradients

    def _shape_error(self, x):
        return InputError(
            f"{self!r} has a scale for every number of a sample {self.scale.value.shape}; got shape {tuple(x.shape)}: "
            "for images of several sizes use GroupNorm(1)"
        )


class GroupNorm(Normalization):
    """Each group of channels of each image with mean 0 and variance 1; then a scale and shift for each channel.

        y = scale * (x - mean) / sqrt(variance + epsilon) + shift

    The mean and the variance (divided by the count) are those of C / groups neighbouring channels of one image. The
    same in training and outside of it, and for every size of the batch: the choice where batches must be small. With
    as many groups as channels it is instance normalization. The backward pass is that of `BatchNorm`.

    Input and output: (N, C, H, W) or (N, D).

    Args:
        groups: into how many groups of the same size the channels are divided.
        epsilon: added to the variance; 1e-5 as in PyTorch (Keras has 1e-3).
        scale_initializer, shift_initializer: functions of `minicnn.initializers`.

    Attributes:
        scale, shift: Parameter (C,), once built; weight and bias in PyTorch.

    Raises:
        InputError: channels that cannot be divided so, or groups of one number; another shape than the layer was
            built for; an epsilon out of range.

    >>> import numpy as np
    >>> layer = GroupNorm(2)
    >>> layer.build((4,))
    (4,)
    >>> layer(np.array([[1, 3, 20, 10]], "float32")).round(3)
    array([[-1.,  1.,  1., -1.]], dtype=float32)

    Source: Wu & He, "Group normalization", 2018.
    """

    independent_samples = True

    def __init__(
        self,
        groups: int,
        *,
        epsilon: float = 1e-5,
        scale_initializer: Initializer = initializers.ones,
        shift_initializer: Initializer = initializers.zeros,
    ):
        super().__init__(epsilon, scale_initializer, shift_initializer)
        self.groups = check_integer(groups, "groups", "GroupNorm")

    def output_shape(self, input_shape: Shape) -> Shape:
        shape = super().output_shape(input_shape)
        if shape[0] % self.groups:
            raise InputError(f"{self!r} cannot divide {shape[0]} channels into {self.groups} groups of the same size")
        _check_count(self, math.prod(shape) // self.groups, input_shape)
        return shape

    def normalize(self, x: Array, training: bool) -> tuple[Array, ToGradients]:
        grouped = x.reshape(len(x), self.groups, -1, *x.shape[2:])  # (N, G, C/G, H, W)
        ones = (1,) * (x.ndim - 2)
        scale, shift = (parameter.value.reshape(1, self.groups, -1, *ones) for parameter in (self.scale, self.shift))
        axes = tuple(range(2, grouped.ndim))
        y, *_, to_gradients = operations.current.normalize(grouped, axes, scale, shift, self.epsilon)

        def from_groups(dy):
            dx, dscale, dshift = to_gradients(dy.reshape(grouped.shape))
            return dx.reshape(x.shape), dscale, dshift

        return y.reshape(x.shape), from_groups


def _with_kept(x, mean, variance, scale, shift, epsilon):
    """As `Operations.normalize`, with a mean and a variance that were kept: they do not depend on x.

    Returns:
        y, and a function of dy to dx, dscale and dshift.
    """
    elementwise, axes = operations.current.elementwise, (0, *range(2, x.ndim))
    factor = 1 / np.sqrt(variance + epsilon)
    slope = scale * factor  # y = x * slope + (shift - mean * slope): half of the passes over memory

    def to_gradients(dy):
        dscale = elementwise(_times_normalized, dy, x, mean, factor).sum(axis=axes)
        return elementwise(operations.multiply, dy, slope), dscale, dy.sum(axis=axes)

    return elementwise(operations.scale_and_shift, x, slope, shift - mean * slope), to_gradients


def _times_normalized(dy, x, mean, factor):
    return dy * ((x - mean) * factor)


def _as_batch(value, ndim):
    """A value for each channel (C,), or for each number of a sample, with axes of length 1 for all others."""
    return value.reshape(1, *value.shape, *(1,) * (ndim - 1 - value.ndim))


def _check_count(layer, count, input_shape):
    if count < 2:
        raise InputError(
            f"{layer!r} on samples {tuple(input_shape)} would normalize each number alone, and return nothing but zeros"
        )
