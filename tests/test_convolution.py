"""The fast convolution is the plain one, for every window."""

import itertools

import numpy as np
import pytest

import minicnn as mc
from minicnn.backends.numpy import columns, convolution, matmul, pooling, threads, winograd
from minicnn.core.operations import Operations
from minicnn.core.window import Window

PADDINGS = (0, 1, ((2, 0), (1, 3)), ((0, 2), (0, 1)), "same")


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2, (1, 2), (3, 1), 4])
@pytest.mark.parametrize("kernel_size", [1, (1, 2), (3, 1), 3, (2, 5)])
def test_a_convolution_and_its_gradients_are_the_plain_ones(kernel_size, stride, groups, small, rng, monkeypatch):
    """By tiles and with all columns; and both ways to the gradient of the images, whichever is the faster one."""
    monkeypatch.setattr(convolution, "is_small", lambda *_: small)
    for padding, dilation, size in itertools.product(PADDINGS, (1, 2), ((9, 9), (10, 11))):
        window = Window(kernel_size, stride, padding, dilation)
        x, weight = rng.normal(size=(3, 4, *size)), rng.normal(size=(8, 4 // groups, *window.kernel_size))
        expected, *gradients = Operations().convolve(x, weight, window, groups)
        dy = rng.normal(size=expected.shape)
        dweight, dx = (gradient(dy) for gradient in gradients)
        y, to_weight, to_input = convolution.convolve(x, weight, window, groups)
        found = [(y, expected), (to_weight(dy), dweight), (to_input(dy), dx)]
        found.append((convolution.scattered_image_gradient(dy, weight, window, groups, x.shape), dx))
        if window.dilation == (1, 1) or window.stride == (1, 1):
            found.append((convolution.image_gradient(dy, weight, window, groups, x.shape), dx))
        for array, plain in found:
            np.testing.assert_allclose(array, plain, atol=1e-10)


@pytest.mark.usefixtures("by_tiles")
def test_a_large_gradient_at_a_stride_of_two_is_computed_by_convolutions(rng, monkeypatch):
    x, weight = rng.normal(size=(2, 3, 9, 8)), rng.normal(size=(4, 3, 3, 3))
    window = Window(3, 2, 1)
    expected, _, plain_to_input = Operations().convolve(x, weight, window)
    dy = rng.normal(size=expected.shape)
    monkeypatch.setattr(convolution, "PHASES_WORK", 0)
    monkeypatch.setattr(convolution, "scattered_image_gradient", None)
    _, _, to_input = convolution.convolve(x, weight, window, 1)
    np.testing.assert_allclose(to_input(dy), plain_to_input(dy), atol=1e-10)


@pytest.mark.usefixtures("by_tiles")
@pytest.mark.parametrize(
    "make", [lambda: mc.Conv2D(6, 3, padding=1), lambda: mc.Conv2D(3, 1), lambda: mc.Conv2D(8, 3, stride=2)]
)
@pytest.mark.parametrize("count", ["1", "3"])
@pytest.mark.parametrize(("width", "strips"), [(12, 2**12), (columns.WIDTH, columns.STRIPS)])
def test_one_convolution_alone_is_divided_among_the_cores_by_tiles(make, count, width, strips, rng, monkeypatch):
    monkeypatch.setenv("MINICNN_THREADS", count)
    monkeypatch.setattr(columns, "WIDTH", width)
    monkeypatch.setattr(columns, "NARROW_WORK", 0)
    monkeypatch.setattr(columns, "STRIPS", strips)
    monkeypatch.setattr(columns, "PARALLEL_WORK", 0)
    monkeypatch.setattr(convolution, "PHASES_WORK", 0)
    monkeypatch.setattr(convolution, "FLIPPED_WORK", 0)
    same_as_plain(mc.Sequential([make()], (4, 11, 10), dtype="float64"), rng.normal(size=(5, 4, 11, 10)))


@pytest.mark.usefixtures("by_tiles")
@pytest.mark.parametrize("count", ["1", "3"])
def test_and_so_is_one_by_winograds_algorithm(count, rng, monkeypatch):
    monkeypatch.setenv("MINICNN_THREADS", count)
    monkeypatch.setattr(winograd, "PARALLEL_WORK", 0)
    monkeypatch.setattr(winograd, "WORK", 2**18)
    monkeypatch.setattr(winograd, "MOST_WORK", 2**18)
    same_as_plain(
        mc.Sequential([mc.Conv2D(64, 3, padding=1)], (64, 10, 13), dtype="float64"), rng.normal(size=(2, 64, 10, 13))
    )


@pytest.mark.parametrize("kept", [0, threads.KEPT])
@pytest.mark.parametrize("count", ["1", "3"])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_small_one_with_all_columns(groups, count, kept, rng, monkeypatch):
    """Whether it keeps them for the backward pass or copies them again; its products alone are divided."""
    monkeypatch.setenv("MINICNN_THREADS", count)
    monkeypatch.setattr(matmul, "PARALLEL_PRODUCT", 0)
    monkeypatch.setattr(threads, "KEPT", kept)
    monkeypatch.setattr(convolution, "tile_columns", None)
    layer = mc.Conv2D(9, 3, stride=2, padding=1, groups=groups)
    same_as_plain(mc.Sequential([layer], (36, 9, 8), dtype="float64"), rng.normal(size=(2, 36, 9, 8)))


def test_columns_beyond_the_budget_are_not_written(monkeypatch):
    monkeypatch.setenv("MINICNN_THREADS", "2")
    shape, window = (1, 64, 16, 16), Window(3, padding="same")
    assert convolution.is_small(shape, window, 4)
    nbytes = convolution.written_bytes(shape, 64, window, 1, 4)
    assert nbytes == Operations().convolution_bytes(shape, 64, window, 1, 4)
    monkeypatch.setattr(mc.im2col, "BUDGET", 4 * nbytes)  # two of them in each core
    assert convolution.is_small(shape, window, 4)
    monkeypatch.setattr(mc.im2col, "BUDGET", 4 * nbytes - 4)
    assert not convolution.is_small(shape, window, 4)


@pytest.mark.parametrize("kept", [0, threads.KEPT])
@pytest.mark.parametrize("count", ["1", "3"])
@pytest.mark.parametrize(
    "options",
    [{"pool_size": 3, "stride": 2}, {"pool_size": 2}, {"pool_size": (4, 1), "stride": (1, 3), "padding": (2, 0)}],
)
def test_and_pooling_by_channels(options, count, kept, rng, monkeypatch):
    """Whether it keeps which pixels are the largest or finds them again; of equal ones it takes the same."""
    monkeypatch.setenv("MINICNN_THREADS", count)
    monkeypatch.setattr(pooling, "BLOCK", 1)
    monkeypatch.setattr(threads, "KEPT", kept)
    x = rng.integers(0, 3, (4, 7, 9, 9)).astype("float64")
    same_as_plain(mc.Sequential([mc.MaxPool2D(**options)], (7, 9, 9), dtype="float64"), x)


def test_after_pooling_numpys_buffer_is_the_users_again(rng, monkeypatch):
    monkeypatch.setenv("MINICNN_THREADS", "2")
    monkeypatch.setattr(pooling, "BLOCK", 1)
    with np.errstate():
        np.setbufsize(4096)
        y, backward = mc.MaxPool2D(3, stride=2).forward(rng.normal(size=(4, 7, 9, 9)))
        backward(np.ones_like(y))
        assert np.getbufsize() == 4096


def same_as_plain(model, x):
    """The output, and the gradients of the input and of the parameters."""
    found = {}
    for name in ("plain", "numpy"):
        mc.use(name)
        y, backward = model.forward(x, training=True)
        dx = backward(np.cos(y))
        found[name] = [y, dx, *(parameter.grad for parameter in model.parameters().values())]
        for parameter in model.parameters().values():
            parameter.clear_gradient()
    for array, expected in zip(found["numpy"], found["plain"], strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
