"""The lab's networks, and one of today. Each is written out in full, because that is what a reader looks for.

Every network ends in Softmax: `fit` trains on the logits before it, `predict` returns the probabilities after it.
All take the shape of one input (None: that of the first batch), the number of classes, and the weights' seed.
"""

from collections.abc import Sequence

from minicnn.core.layers import (
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    MaxPool2D,
    ReLU,
    Residual,
    Softmax,
    Tanh,
)
from minicnn.core.types import Shape
from minicnn.model import Sequential


def two_conv(input_shape: Shape = (1, 28, 28), classes: int = 10, seed: int = 0) -> Sequential:
    """Task 1: two convolutions and a wide dense layer; 125,499,810 parameters on letters.

    Args:
        input_shape: the shape of one image, (C, H, W).
        classes: K, the number of outputs.
        seed: of the first weights, the shuffling and the dropout masks.

    Returns:
        a `Sequential`, built.

    Raises:
        InputError: an `input_shape` that is not one of images (C, H, W), or too small for the layers.

    >>> small = two_conv(input_shape=(1, 8, 8))            # the same layers, without half a gigabyte of weights
    >>> small.layers[2], small.layers[5], small.shapes[-1]
    (Conv2D(32, 3, padding='same'), Dense(5000), (10,))
    """
    layers = [
        Conv2D(16, 3, padding="same"),
        ReLU(),
        Conv2D(32, 3, padding="same"),
        ReLU(),
        Flatten(),
        Dense(5000),
        ReLU(),
        Dense(classes),
        Softmax(),
    ]
    return Sequential(layers, input_shape, seed=seed)


def conv_pool(input_shape: Shape = (1, 28, 28), classes: int = 10, seed: int = 0) -> Sequential:
    """Task 2: one convolution, max pooling and a wide dense layer; 15,735,170 parameters on letters.

    Args:
        input_shape: the shape of one image, (C, H, W).
        classes: K, the number of outputs.
        seed: of the first weights, the shuffling and the dropout masks.

    Returns:
        a `Sequential`, built.

    Raises:
        InputError: an `input_shape` that is not one of images (C, H, W), or too small for the layers.

    >>> conv_pool().count_parameters()
    15735170
    """
    layers = [
        Conv2D(16, 3, padding="same"),
        ReLU(),
        MaxPool2D(2),
        Flatten(),
        Dense(5000),
        ReLU(),
        Dense(classes),
        Softmax(),
    ]
    return Sequential(layers, input_shape, seed=seed)


def lenet5(input_shape: Shape = (1, 28, 28), classes: int = 10, seed: int = 0) -> Sequential:
    """Task 3: LeNet-5, with tanh and average pooling; 61,706 parameters on letters.

    Args:
        input_shape: the shape of one image, (C, H, W).
        classes: K, the number of outputs.
        seed: of the first weights, the shuffling and the dropout masks.

    Returns:
        a `Sequential`, built.

    Raises:
        InputError: an `input_shape` that is not one of images (C, H, W), or too small for the layers.

    >>> lenet5().count_parameters()
    61706

    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998. As in most later uses,
    the second convolution reads all six channels, pooling has no parameters, and the output is a softmax.
    """
    layers = [
        Conv2D(6, 5, padding="same"),
        Tanh(),
        AvgPool2D(2),
        Conv2D(16, 5),
        Tanh(),
        AvgPool2D(2),
        Flatten(),
        Dense(120),
        Tanh(),
        Dense(84),
        Tanh(),
        Dense(classes),
        Softmax(),
    ]
    return Sequential(layers, input_shape, seed=seed)


def logistic_regression(input_shape: Shape = (1, 28, 28), classes: int = 10, seed: int = 0) -> Sequential:
    """No hidden layer: a weighted sum of the pixels for each class; 7,850 parameters on letters.

    Args:
        input_shape: the shape of one image, (C, H, W), or of one vector, (D,).
        classes: K, the number of outputs.
        seed: of the first weights, the shuffling and the dropout masks.

    Returns:
        a `Sequential`, built.

    Raises:
        InputError: an `input_shape` or a number that cannot be.

    >>> logistic_regression().count_parameters()
    7850
    """
    return Sequential([Flatten(), Dense(classes), Softmax()], input_shape, seed=seed)


def dense(input_shape: Shape = (1, 28, 28), classes: int = 10, units: int = 1000, seed: int = 0) -> Sequential:
    """One hidden layer that sees no neighbourhoods; 795,010 parameters on letters.

    Args:
        input_shape: the shape of one image, (C, H, W), or of one vector, (D,).
        classes: K, the number of outputs.
        units: of the hidden layer.
        seed: of the first weights, the shuffling and the dropout masks.

    Returns:
        a `Sequential`, built.

    Raises:
        InputError: an `input_shape` or a number that cannot be.

    >>> dense().count_parameters()
    795010
    """
    layers = [Flatten(), Dense(units), ReLU(), Dense(classes), Softmax()]
    return Sequential(layers, input_shape, seed=seed)


def dense_dropout(
    input_shape: Shape = (1, 28, 28), classes: int = 10, units: int = 1000, rate: float = 0.5, seed: int = 0
) -> Sequential:
    """The same with half of the hidden units dropped in training; add weight decay in the optimizer.

    Args:
        input_shape: the shape of one image, (C, H, W), or of one vector, (D,).
        classes: K, the number of outputs.
        units: of the hidden layer.
        rate: the fraction of the hidden units that is dropped.
        seed: of the first weights, the shuffling and the dropout masks.

    Returns:
        a `Sequential`, built.

    Raises:
        InputError: an `input_shape`, a number or a rate that cannot be.

    >>> dense_dropout().count_parameters()
    795010
    """
    layers = [Flatten(), Dense(units), ReLU(), Dropout(rate), Dense(classes), Softmax()]
    return Sequential(layers, input_shape, seed=seed)


def small_resnet(
    input_shape: Shape = (1, 28, 28), classes: int = 10, *, filters: Sequence[int] = (64, 96), seed: int = 0
) -> Sequential:
    """A small residual network with batch normalization; 289,290 parameters on letters.

    A first convolution with large kernels, which halves the image; two residual blocks, which do most of the work; for
    each further number of filters a convolution that makes the image three times smaller, and another one; the mean of
    each channel; and a dense layer. Made for images of 28 to 64 pixels; for larger ones give more filters, such as
    `(64, 96, 128)`. They are few layers of many filters: those are computed faster than many layers of few.

    Train it with a falling learning rate: see `examples/modern.py`.

    Args:
        input_shape: (C, H, W), or None for that of the first batch; H and W are at least 5.
        classes: how many.
        filters: of the first stage, and of each stage after it.
        seed: of the first weights.

    Returns:
        a `Sequential`, built.

    Raises:
        InputError: an `input_shape` that is not one of images (C, H, W), or too small; numbers that cannot be.

    >>> small_resnet().count_parameters()
    289290

    Source: He, Zhang, Ren & Sun, "Deep residual learning for image recognition", 2016; Ioffe & Szegedy, "Batch
    normalization", 2015.
    """

    def convolution(count, size=3, **window):
        return [Conv2D(count, size, use_bias=False, **window), BatchNorm()]

    first, *stages = filters
    layers = [*convolution(first, 5, stride=2), ReLU()]  # (first, H/2 - 2, W/2 - 2)
    for _ in range(2):
        block = [*convolution(first, padding=1), ReLU(), *convolution(first, padding=1)]
        layers += [Residual(block), ReLU()]
    for count in stages:
        layers += [*convolution(count, stride=3, padding="same"), ReLU()]  # (count, H/3, W/3)
        layers += [*convolution(count, padding=1), ReLU()]
    layers += [GlobalAvgPool2D(), Dense(classes), Softmax()]
    return Sequential(layers, input_shape, seed=seed)
