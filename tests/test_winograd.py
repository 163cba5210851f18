"""Winograd's trick against the convolution's loops, and where it is used."""

import numpy as np
import pytest
from layer_cases import built

import minicnn as mc
from minicnn.backends.numpy import threads, winograd
from minicnn.core.layers import convolution_by_loops

pytestmark = pytest.mark.usefixtures("by_tiles")
rng = np.random.default_rng(0)


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", {True: 1, False: 1})
    yield
    winograd.best_algorithm.cache_clear()


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
@pytest.mark.parametrize("m", winograd.TILES)
@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(("padding", "shape"), OPTIONS)
def test_it_is_the_convolution(monkeypatch, padding, shape, pieces, m):
    monkeypatch.setattr(winograd, "TILES", (m,))
    winograd.best_algorithm.cache_clear()
    if pieces:
        monkeypatch.setattr(winograd, "WORK", 1)  # a tile at a time
    layer = built(lambda: mc.Conv2D(2, 3, padding=padding), (3, *shape))
    x = rng.normal(size=(3, 3, *shape))
    assert winograd.suits(x, layer.window, layer.weight.value)
    expected = convolution_by_loops(x, layer.weight.value, layer.bias.value, padding=padding)
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-12)
    mc.gradcheck.check(layer, x)


def test_what_is_kept_for_the_backward_pass_does_not_change_it(monkeypatch):
    """A backward pass may follow inference, too, where nothing is kept; and there is a limit of memory."""
    x, dy = rng.normal(size=(4, 48, 6, 6)).astype("float32"), rng.normal(size=(4, 64, 6, 6)).astype("float32")
    found = []
    for training, limit in ((True, threads.KEPT), (False, threads.KEPT), (True, 0)):
        monkeypatch.setattr(threads, "KEPT", limit)
        layer = mc.Conv2D(64, 3, padding=1)
        model = mc.Sequential([layer], (48, 6, 6), seed=1)
        assert winograd.suits(x, layer.window, layer.weight.value)
        _, backward = model.forward(x, training=training)
        found.append((backward(dy), layer.weight.grad))
    for dx, dweight in found[1:]:
        np.testing.assert_array_equal(dx, found[0][0])
        np.testing.assert_array_equal(dweight, found[0][1])


def test_the_tiles_waste_few_outputs():
    sizes = {size: winograd.best_algorithm(32, size, size, 96, 96).m for size in (4, 6, 8, 9, 12, 28)}
    assert sizes == {4: 4, 6: 3, 8: 4, 9: 3, 12: 4, 28: 4}


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize(("H", "W"), [(28, 28), (4, 4), (30, 5), (13, 60)])
@pytest.mark.parametrize("work", [2**14, winograd.WORK])
def test_its_tiles_are_computed_once_and_each_core_has_as_many(cores, H, W, work, monkeypatch):
    monkeypatch.setenv("MINICNN_THREADS", str(cores))
    monkeypatch.setattr(winograd, "WORK", work)
    monkeypatch.setattr(winograd, "PARALLEL_WORK", 0)
    by = winograd.algorithm(4)
    image = winograd.padded(by, np.zeros((2, 3, H, W)), ((1, 1), (1, 1)))
    seen = np.zeros((-(-H // 4), -(-W // 4)), int)
    shares = []
    for pieces in winograd._pieces_for_each_core(by, image, 3, 3):
        before = seen.sum()
        for rows, cols in pieces:
            seen[rows, cols] += 1
        shares.append(seen.sum() - before)
    assert (seen == 1).all()
    assert max(shares) - min(shares) <= 1


def test_few_images_and_many_filters_have_the_tiles_with_fewer_points():
    assert {N: winograd.best_algorithm(N, 13, 13, 256, 256).m for N in (8, 64)} == {8: 3, 64: 4}


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("m", winograd.TILES)
def test_its_rounding_in_float32(monkeypatch, m):
    monkeypatch.setattr(winograd, "TILES", (m,))
    winograd.best_algorithm.cache_clear()
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
        (lambda: mc.Conv2D(32, 3), 31),
        (lambda: mc.Conv2D(31, 3), 32),
        (lambda: mc.Conv2D(64, 3, stride=2), 64),
        (lambda: mc.Conv2D(64, 3, dilation=2), 64),
        (lambda: mc.Conv2D(64, 3, padding=3), 64),
        (lambda: mc.Conv2D(64, (3, 1)), 64),
        (lambda: mc.Conv2D(64, (3, 5), padding=1), 64),
        (lambda: mc.Conv2D(64, 4, padding=1), 64),
        (lambda: mc.Conv2D(64, 1), 64),
        (lambda: mc.Conv2D(128, 3, groups=2), 128),
    ],
)
def test_where_it_does_not_suit(make, channels):
    layer = make()
    layer.build((channels, 6, 6))
    x = np.zeros((1, channels, 6, 6), "float32")
    assert not winograd.suits(x, layer.window, layer.weight.value)


def test_fewer_channels_suit_in_training_only(monkeypatch):
    layer = built(lambda: mc.Conv2D(40, 3), (40, 6, 6), "float32")
    suited = []
    convolve = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda *arguments: suited.append(True) or convolve(*arguments))
    model, x = mc.Sequential([layer], (40, 6, 6)), rng.normal(size=(2, 40, 6, 6)).astype("float32")
    predicted = model(x)
    assert not suited
    y, _ = model.forward(x, training=True)
    assert np.abs(y - predicted).max() < 3e-5 * np.abs(predicted).max()
    assert suited


def test_it_stays_within_the_budget(monkeypatch):
    layer = built(lambda: mc.Conv2D(64, 3), (64, 6, 6), "float32")
    x = np.ones((8, 64, 6, 6), "float32")
    assert winograd.suits(x, layer.window, layer.weight.value)
    monkeypatch.setattr("minicnn.im2col.BUDGET", 2**20)
    assert not winograd.suits(x, layer.window, layer.weight.value)
