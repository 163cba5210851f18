"""Every layer with options and an input shape: the common checks run over this list.

A new layer is tested by adding a line. The shapes are odd, not square, and leave remainders on purpose.
"""

import numpy as np
import pytest

import minicnn as mc
from minicnn.core.layers import (
    AvgPool2D,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)

CASES = [
    (lambda: Conv2D(3, 3), (2, 7, 6)),
    (lambda: Conv2D(4, 1, use_bias=False), (3, 5, 4)),
    (lambda: Conv2D(3, (3, 2), stride=(2, 3)), (2, 8, 7)),
    (lambda: Conv2D(3, 3, padding="same", stride=2), (2, 7, 6)),
    (lambda: Conv2D(3, 2, padding="same"), (1, 5, 6)),
    (lambda: Conv2D(2, 3, padding=((0, 2), (1, 0))), (2, 5, 6)),
    (lambda: Conv2D(2, 3, padding=(2, 1), dilation=(1, 2)), (2, 6, 7)),
    (lambda: Conv2D(4, 3, padding=1, groups=2), (4, 5, 5)),
    (lambda: Conv2D(6, 3, padding=2, stride=2, groups=3, dilation=2), (3, 6, 5)),
    (lambda: Conv2D(2, 5), (1, 5, 5)),
    (lambda: Conv2D(64, 3, padding="same"), (64, 5, 6)),  # by Winograd's trick
    (lambda: MaxPool2D(2), (2, 7, 6)),
    (lambda: MaxPool2D((3, 2), stride=1), (2, 5, 6)),
    (lambda: MaxPool2D(3, stride=2, padding=1), (2, 7, 6)),
    (lambda: MaxPool2D(3, stride=2, padding=((0, 2), (1, 0))), (1, 6, 7)),
    (lambda: MaxPool2D(2, stride=3, padding="same"), (2, 8, 7)),
    (lambda: MaxPool2D(2, stride=9), (2, 4, 5)),
    (lambda: AvgPool2D(2), (2, 7, 6)),
    (lambda: AvgPool2D((2, 3), stride=1), (2, 5, 6)),
    (lambda: AvgPool2D(3, stride=2, padding=1), (2, 7, 6)),
    (lambda: AvgPool2D(3, stride=2, padding=1, count_include_pad=True), (2, 7, 6)),
    (lambda: AvgPool2D(2, padding="same"), (2, 7, 5)),
    (lambda: GlobalAvgPool2D(), (3, 4, 5)),
    (lambda: Flatten(), (2, 3, 4)),
    (lambda: Flatten(), (6,)),
    (lambda: Dense(4), (7,)),
    (lambda: Dense(3, use_bias=False), (5,)),
    (lambda: ReLU(), (2, 3, 4)),
    (lambda: Tanh(), (5,)),
    (lambda: Sigmoid(), (2, 3, 4)),
    (lambda: Softmax(), (6,)),
    (lambda: Softmax(), (4, 3, 2)),
    (lambda: Dropout(0.4, seed=1), (2, 3, 4)),
    (lambda: Dropout(0.4, seed=1, axes=(2, 3)), (3, 2, 4)),
    (lambda: mc.LeakyReLU(0.1), (2, 3, 4)),
    (lambda: mc.ELU(0.5), (7,)),
    (lambda: mc.GELU(), (7,)),
    (lambda: mc.SiLU(), (7,)),
    (lambda: mc.Hardswish(), (7,)),
    (lambda: mc.Clip(0, 1.5), (2, 3, 4)),
    (lambda: mc.Clip(-0.7, 0.5), (7,)),
    (lambda: mc.LogSoftmax(), (6,)),
    (lambda: mc.LogSoftmax(), (4, 3, 2)),
    (lambda: mc.PReLU(), (3, 2, 4)),
    (lambda: mc.PReLU(shared=True), (5,)),
    (lambda: mc.LocalResponseNorm(3, alpha=0.9, beta=0.6, k=1.5), (5, 2, 3)),
    (lambda: mc.LocalResponseNorm(9, alpha=2.0), (4,)),
    (lambda: mc.ZeroPad2D(((1, 0), (0, 2))), (2, 3, 4)),
    (lambda: mc.GlobalMaxPool2D(), (3, 4, 5)),
    (lambda: mc.UpSampling2D((2, 3)), (2, 3, 4)),
    (lambda: mc.Conv2DTranspose(4, (3, 2), stride=(2, 3), padding="same", groups=2), (4, 3, 2)),
    (lambda: mc.Conv2DTranspose(2, 3, stride=2, padding=(1, 0), output_padding=(1, 0), dilation=2), (2, 3, 4)),
    (lambda: mc.BatchNorm(), (3, 4, 5)),
    (lambda: mc.BatchNorm(momentum=0.5, epsilon=1e-3), (7,)),
    (lambda: mc.LayerNorm(), (2, 3, 4)),
    (lambda: mc.GroupNorm(2), (4, 3, 2)),
    (lambda: mc.Residual([Conv2D(2, 3, padding="same", use_bias=False), mc.BatchNorm(), ReLU()]), (2, 4, 5)),
    (lambda: mc.Residual([Conv2D(3, 3, stride=2, padding=1)], shortcut=Conv2D(3, 1, stride=2)), (2, 5, 6)),
    (
        lambda: mc.Branches([[Conv2D(3, 3, padding=1)], [MaxPool2D(3, stride=1, padding=1)], []], join="concatenate"),
        (2, 4, 5),
    ),
    (lambda: mc.Branches([[Dense(3), mc.Residual([Tanh(), Dense(3)])], [Dense(3)]]), (6,)),
]


def name(case):
    make, shape = case
    return f"{make()!r}-{'x'.join(map(str, shape))}"


all_layers = pytest.mark.parametrize(("make", "shape"), CASES, ids=[name(case) for case in CASES])


def built(make, shape, dtype="float64", seed=0):
    """A layer with random parameters, the biases included."""
    layer = make()
    rng = np.random.default_rng(seed)
    layer.build(shape, rng, dtype)
    for parameter in layer.parameters().values():
        parameter.value[...] = mc.to_device(rng.normal(size=parameter.value.shape))
    return layer
