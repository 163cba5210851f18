"""Winograd's trick against the convolution's loops, and where it is used."""

import numpy as np
import pytest
from layer_cases import built

import minicnn as mc
from minicnn.backends.numpy import winograd
from minicnn.core.layers import convolution_by_loops

rng = np.random.default_rng(0)


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 1)


OPTIONS = [
    ("valid", (3, 3)),
    ("valid", (6, 10)),
    ("same", (4, 8)),
    ("same", (9, 7)),
    (2, (1, 6)),
    (((0, 2), (1, 0)), (6, 5)),
    (((2, 0), (0, 1)), (10, 3)),
]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(("padding", "shape"), OPTIONS)
def test_it_is_the_convolution(monkeypatch, padding, shape, pieces):
    if pieces:
        monkeypatch.setattr(winograd, "WORK", 1)  # a tile at a time
    layer = built(lambda: mc.Conv2D(2, 3, padding=padding), (3, *shape))
    x = rng.normal(size=(3, 3, *shape))
    assert winograd.suits(x, layer.window, layer.weight.value)
    expected = convolution_by_loops(x, layer.weight.value, layer.bias.value, padding=padding)
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-12)
    mc.gradcheck.check(layer, x)


@pytest.mark.usefixtures("always")
def test_its_rounding_in_float32():
    C, F = 64, 48
    x, weight = rng.normal(size=(2, C, 9, 9)), rng.normal(size=(F, C, 3, 3)) / 24
    exact = convolution_of(x, weight)
    y = convolution_of(x.astype("float32"), weight.astype("float32"))
    assert y.dtype == np.float32
    assert np.abs(y - exact).max() < 3e-5 * np.abs(exact).max()


def convolution_of(x, weight):
    layer = mc.Conv2D(len(weight), 3, padding="same", use_bias=False)
    layer.build(x.shape[1:], dtype=str(x.dtype))
    layer.weight.value[...] = weight
    return layer(x)


@pytest.mark.parametrize(
    ("make", "channels"),
    [
        (lambda: mc.Conv2D(64, 3), 63),
        (lambda: mc.Conv2D(63, 3), 64),
        (lambda: mc.Conv2D(64, 3, stride=2), 64),
        (lambda: mc.Conv2D(64, 3, dilation=2), 64),
        (lambda: mc.Conv2D(64, 3, padding=3), 64),
        (lambda: mc.Conv2D(64, (3, 1)), 64),
        (lambda: mc.Conv2D(128, 3, groups=2), 128),
    ],
)
def test_where_it_does_not_suit(make, channels):
    layer = make()
    layer.build((channels, 6, 6))
    x = np.zeros((1, channels, 6, 6), "float32")
    assert not winograd.suits(x, layer.window, layer.weight.value)


def test_it_stays_within_the_budget(monkeypatch):
    layer = built(lambda: mc.Conv2D(64, 3), (64, 6, 6), "float32")
    x = np.ones((8, 64, 6, 6), "float32")
    assert winograd.suits(x, layer.window, layer.weight.value)
    monkeypatch.setattr("minicnn.im2col.BUDGET", 2**20)
    assert not winograd.suits(x, layer.window, layer.weight.value)
