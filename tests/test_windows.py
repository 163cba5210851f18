"""Windows on images that are not as expected: not finite, integers, out of proportion; and kernels in groups."""

import itertools
import runpy

import numpy as np
import pytest
import strict_backend
from layer_cases import built
from strict_backend import strict

import minicnn as mc
from minicnn.backends.cupy import CupyOperations
from minicnn.core.im2col import Window, col2im, im2col, output_size, pad
from minicnn.core.layer import independent_samples
from minicnn.core.layers import convolution_by_loops
from minicnn.core.layers.pooling import Pooling2D


@pytest.fixture(params=["plain", "numpy", "the stand-in"])
def backend(request, monkeypatch):
    monkeypatch.setattr("minicnn.backends.cupy.cublas.find_cublas", lambda xp: strict_backend.cublas)
    mc.use(CupyOperations(strict) if request.param == "the stand-in" else request.param)
    yield mc.backends.current()
    mc.use("numpy")


def max_pool_by_loops(x, dy, window):
    """The largest real pixel of each window, NaN above all, the first of equal ones; and its gradient."""
    y, dx = np.empty(dy.shape), np.zeros(x.shape)
    (top, _), (left, _) = window.pads(*x.shape[2:])
    for n, c, oh, ow in np.ndindex(dy.shape):
        best = None
        for kh, kw in np.ndindex(window.kernel_size):
            h, w = oh * window.stride[0] + kh - top, ow * window.stride[1] + kw - left
            if 0 <= h < x.shape[2] and 0 <= w < x.shape[3]:
                value, largest = x[n, c, h, w], None if best is None else x[n, c, *best]
                if best is None or value > largest or (np.isnan(value) and not np.isnan(largest)):
                    best = h, w
        y[n, c, oh, ow] = x[n, c, *best]
        dx[n, c, *best] += dy[n, c, oh, ow]
    return y, dx


@pytest.mark.parametrize("kernel", [1, 2, (1, 3), (3, 2)])
def test_the_maximum_of_pixels_that_are_not_finite(kernel, backend, rng):
    """NaN is the result, and its pixel receives the gradient; of minus infinities a pixel does, never the padding."""
    for stride, padding in itertools.product((1, 2), ("valid", "same", ((0, 1), (1, 0)), 1)):
        window = Window(kernel, stride, padding)
        if any(max(pads) >= size for pads, size in zip(window.pads(5, 6), window.kernel_size, strict=True)):
            continue
        x = rng.choice([-np.inf, np.nan, np.inf, 0, 1], size=(2, 2, 5, 6), p=[0.6, 0.1, 0.1, 0.1, 0.1])
        dy = rng.normal(size=(2, 2, *window.output_shape(5, 6)))
        expected_y, expected_dx = max_pool_by_loops(x, dy, window)
        y, to_input = backend.max_pool(backend.array(x), window)
        np.testing.assert_array_equal(backend.to_numpy(y), expected_y)
        np.testing.assert_allclose(backend.to_numpy(to_input(backend.array(dy))), expected_dx, atol=1e-12)


def test_a_window_of_300_pixels_routes_its_gradient(backend, rng):
    """More taps than a byte can count."""
    x = rng.normal(size=(2, 1, 16, 20))
    _, to_input = backend.max_pool(backend.array(x), Window((16, 20)))
    dx = backend.to_numpy(to_input(backend.array(np.full((2, 1, 1, 1), 3.0))))
    np.testing.assert_array_equal(dx, 3.0 * (x == x.max(axis=(2, 3), keepdims=True)))


@pytest.mark.parametrize("dilation", [1, 2])
def test_the_mean_of_real_pixels_only(dilation, backend, rng):
    """Pooling layers have no dilation; the operation takes any window."""
    window = Window((3, 2), (2, 1), ((2, 1), (1, 1)), dilation)
    x = rng.normal(size=(2, 2, 6, 5))
    y, _ = backend.average_pool(backend.array(x), window)
    total = im2col(x, window).reshape(2, 6, -1).sum(axis=1)
    count = im2col(np.ones_like(x), window).reshape(2, 6, -1).sum(axis=1)
    expected = (total / count).reshape(2, *window.output_shape(6, 5), 2).transpose(3, 0, 1, 2)
    np.testing.assert_allclose(backend.to_numpy(y), expected, atol=1e-12)


HUGE = [
    lambda: mc.Conv2D(1, 3, padding=20_000),
    lambda: mc.Conv2D(1, 3, padding=((0, 0), (0, 10**8))),
    lambda: mc.Conv2D(1, 10**5, padding="same"),
    lambda: mc.Conv2D(10**6, 3),
    lambda: mc.MaxPool2D(10**5, padding=10**5 - 1),
    lambda: mc.AvgPool2D((1, 10**8), padding="same", stride=1),
    lambda: mc.UpSampling2D(10**4),
    lambda: mc.Conv2DTranspose(1, 3, stride=10**5),
    lambda: mc.Residual([mc.Conv2D(1, 20_001, padding=10_000)]),
]


@pytest.mark.parametrize("make", HUGE)
def test_a_layer_out_of_proportion_is_refused_before_memory_is_allocated(make):
    with pytest.raises(mc.InputError, match=r"would take [\d,]+ MiB, more than the 256 MiB of .*BUDGET.*MINICNN_COL"):
        mc.Sequential([make()], (1, 28, 28))


def test_numbers_beyond_64_bits_are_refused_and_large_ones_compute(backend):
    """A stride in bytes is one of 64 bits."""
    options = [(make, name) for make in (mc.Conv2D, mc.Conv2DTranspose) for name in ("stride", "padding", "dilation")]
    options += [(make, name) for make in (mc.MaxPool2D, mc.AvgPool2D) for name in ("stride", "padding")]
    for (make, name), size in itertools.product(options, (2**30 + 1, 2**62, (1, 2**62), 10**30)):
        arguments = (1, 2) if make in (mc.Conv2D, mc.Conv2DTranspose) else (2,)
        with pytest.raises(mc.InputError, match=f"{name} .* at most"):
            make(*arguments, **{name: size})
    for make in (mc.ZeroPad2D, mc.UpSampling2D, mc.MaxPool2D, lambda size: mc.Conv2D(1, size)):
        with pytest.raises(mc.InputError, match="at most"):
            make(2**62)
    for layer in (mc.Conv2D(1, 2, stride=2**30), mc.MaxPool2D(2, stride=2**30), mc.AvgPool2D(2, stride=2**30)):
        layer.build((1, 4, 5))
        y, backward = layer.forward(backend.array(np.ones((2, 1, 4, 5), "float32")), training=True)
        assert y.shape == (2, 1, 1, 1) and backward(y).shape == (2, 1, 4, 5)


def test_images_out_of_proportion_are_refused_before_memory_is_allocated(backend):
    """Also in layers that were never built, and in the operations themselves."""
    x, window = backend.array(np.zeros((2, 1, 28, 28), "float32")), Window(3, padding=20_000)
    weight = backend.array(np.zeros((1, 1, 3, 3), "float32"))
    for compute in (
        lambda: backend.convolve(x, weight, window),
        lambda: backend.max_pool(x, window),
        lambda: backend.average_pool(x, window),
        lambda: pad(x, window.pads(28, 28)),
        lambda: im2col(backend.to_numpy(x), 1, stride=40_000, padding=20_000),
        lambda: col2im(np.zeros((1, 8)), (2, 1, 28, 28), 1, stride=40_000, padding=20_000),
    ):
        with pytest.raises(mc.InputError, match=r"MiB, more than the 256 MiB of .*BUDGET"):
            compute()


@pytest.mark.parametrize(("setting", "mebibytes"), [("", 256), ("1", 1), ("300", 300)])
def test_the_environment_sets_the_budget(setting, mebibytes, monkeypatch):
    monkeypatch.setenv("MINICNN_COLUMNS_MB", setting)
    assert runpy.run_path(mc.core.im2col.__file__)["BUDGET"] == mebibytes * 2**20


@pytest.mark.parametrize("setting", ["0", "-1", "1.5", "many", "²"])
def test_a_wrong_budget_is_refused(setting, monkeypatch):
    monkeypatch.setenv("MINICNN_COLUMNS_MB", setting)
    with pytest.raises(mc.InputError, match=r"MINICNN_COLUMNS_MB.*above 0"):
        runpy.run_path(mc.core.im2col.__file__)


def test_columns_are_made_of_arrays_only():
    for make in (lambda: im2col([[[[1.0]]]], 1), lambda: col2im([[1.0]], (1, 1, 1, 1), 1)):
        with pytest.raises(mc.InputError, match="needs an array"):
            make()


def test_the_exact_limits(monkeypatch):
    x = np.zeros((2, 1, 4, 4), "float32")  # 128 bytes; columns of 2x2: 4 * 9 * 2 * 4 = 288; with a border: 288
    monkeypatch.setattr(mc.im2col, "BUDGET", 288)
    assert im2col(x, 2).shape == (4, 18) and im2col(x, 1, padding=1).shape == (1, 72)
    monkeypatch.setattr(mc.im2col, "BUDGET", 287)
    for images in (x, x.astype("int32")):
        with pytest.raises(mc.InputError, match="columns"):
            im2col(images, 2)
    assert pad(x, ((2, 2), (2, 2))).nbytes == 4 * x.nbytes  # images four times as large are no mistake
    with pytest.raises(mc.InputError, match="padded images"):
        pad(x, ((2, 2), (2, 3)))
    assert col2im(np.zeros((1, 64)), (2, 1, 4, 4), 1, stride=(2, 1), padding=2).shape == x.shape
    assert col2im(np.zeros((2, 64)), (2, 2, 4, 4), 1, stride=(2, 1), padding=2).shape == (2, 2, 4, 4)
    with pytest.raises(mc.InputError, match="padded images"):
        col2im(np.zeros((1, 72)), (2, 1, 4, 4), 1, stride=(2, 1), padding=((2, 2), (2, 3)))


def test_the_exact_limits_of_a_layer(monkeypatch):
    """256 MiB for one sample, or the budget where that is more: 2**26 numbers of float32."""
    assert built(lambda: mc.UpSampling2D((2**24, 1)), (1, 4, 1), "float32").built_output_shape((1, 4, 1))
    for size, budget in ((2**24 + 1, 1), (2**24 + 1, 2**28 + 15)):  # a smaller budget refuses nothing
        monkeypatch.setattr(mc.im2col, "BUDGET", budget)
        with pytest.raises(mc.InputError, match="output"):
            built(lambda: mc.UpSampling2D((size, 1)), (1, 4, 1), "float32")  # noqa: B023
        built(lambda: mc.UpSampling2D(10), (1, 4, 1), "float32")
    monkeypatch.setattr(mc.im2col, "BUDGET", 2**28 + 16)
    built(lambda: mc.UpSampling2D((2**24 + 1, 1)), (1, 4, 1), "float32")


@pytest.mark.parametrize("pads", [((1, 0), (0, 0)), ((0, 1), (0, 0)), ((0, 0), (1, 0)), ((0, 0), (0, 1))])
def test_the_exact_limit_of_a_padded_image(pads):
    """On each of the four sides, by 8000 pixels: 2 channels of 8192 x 4096 are 2**26 numbers."""
    H, W = (8192 - 8000 if sum(axis) else 4096 for axis in pads)
    for more in (0, 1):
        padding = tuple(tuple(side * (8000 + more) for side in axis) for axis in pads)
        pool_size = tuple(1 + sum(axis) for axis in padding)
        layer = mc.AvgPool2D(pool_size, stride=10_000, padding=padding)
        if more:
            with pytest.raises(mc.InputError, match="padded image"):
                layer.build((2, H, W))
        else:
            assert layer.build((2, H, W)) == (2, 1, 1)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "bool", "int64"])
def test_integers_are_neither_cut_nor_wrapped(dtype):
    x = np.full((1, 1, 3, 3), 1 if dtype == "bool" else 100).astype(dtype)
    weight = np.full((1, 1, 2, 2), 0.3)
    np.testing.assert_allclose(convolution_by_loops(x, weight), convolution_by_loops(x * 1.0, weight))
    np.testing.assert_allclose(convolution_by_loops(x, weight > 0), convolution_by_loops(x * 1.0, (weight > 0) * 1.0))
    np.testing.assert_allclose(convolution_by_loops(x, x[..., :2, :2])[0, 0], 4 * float(x[0, 0, 0, 0]) ** 2)
    columns = im2col(x, 2)
    assert columns.dtype == x.dtype
    np.testing.assert_array_equal(col2im(columns, x.shape, 2), col2im(columns * 1.0, x.shape, 2))
    assert im2col(x, 2, padding=1, fill=1)[0, 0] == 1
    for fill in (0.5, -np.inf, np.nan):
        with pytest.raises(mc.InputError, match="cannot hold"):
            im2col(x, 2, padding=1, fill=fill)


@pytest.mark.parametrize(("one", "two"), list(itertools.product(["float32", "float64"], repeat=2)))
def test_the_loops_compute_in_the_wider_dtype(one, two):
    y = convolution_by_loops(np.ones((1, 1, 2, 2), one), np.ones((1, 1, 2, 2), two))
    assert y.dtype == np.result_type(one, two)


@pytest.mark.parametrize("shapes", [((1, 3, 3), (1, 1, 2, 2)), ((1, 1, 3, 3), (1, 2, 2)), (None, (1, 1, 2, 2))])
def test_the_loops_need_arrays_of_four_axes(shapes):
    x, weight = ([[1.0]] if shape is None else np.ones(shape) for shape in shapes)
    with pytest.raises(mc.InputError, match=r"four axes|needs an array"):
        convolution_by_loops(x, weight)


GROUPED = [
    (mc.initializers.glorot_uniform, mc.Tanh, 64),
    (mc.initializers.glorot_normal, mc.Tanh, 8),
    (mc.initializers.he_uniform, mc.ReLU, 64),
    (mc.initializers.he_normal, mc.ReLU, 1),
]


@pytest.mark.parametrize(("initializer", "activation", "groups"), GROUPED)
def test_the_signal_keeps_its_size_through_five_layers_of_any_groups(initializer, activation, groups, rng):
    """Neither forward nor backward does it fade or grow, whatever the groups."""
    layers = [
        layer
        for _ in range(5)
        for layer in (mc.Conv2D(64, 3, groups=groups, padding="same", weight_initializer=initializer), activation())
    ]
    model = mc.Sequential(layers, (64, 12, 12))
    x = 0.5 * rng.normal(size=(4, 64, 12, 12)).astype("float32")
    y, backward = model.forward(x, training=True)
    dx = backward(np.where(rng.random(y.shape) < 0.5, -1, 1).astype("float32"))
    assert 0.25 < np.sqrt((y * y).mean() / (x * x).mean()) < 4
    assert 0.1 < np.sqrt((dx * dx).mean()) < 4


def test_each_group_draws_by_itself_and_one_group_as_ever():
    shapes = []

    def ones(shape, rng, dtype):
        shapes.append(shape)
        return np.ones(shape, dtype)

    layer = mc.Conv2D(6, (3, 2), groups=3, weight_initializer=ones)
    layer.build((9, 5, 5))
    assert shapes == [(2, 3, 3, 2)] * 3 and layer.weight.value.shape == (6, 3, 3, 2)
    layer = mc.Conv2D(6, 3)
    layer.build((9, 5, 5), np.random.default_rng(5))
    expected = mc.initializers.glorot_uniform((6, 9, 3, 3), np.random.default_rng(5))
    np.testing.assert_array_equal(layer.weight.value, expected)


def test_an_initializer_that_draws_another_shape_is_refused():
    with pytest.raises(mc.InputError, match=r"\(4, 1, 3, 3\).*\(8, 1, 3, 3\)"):
        weight = np.zeros((4, 1, 3, 3), "float32")
        mc.Conv2D(4, 3, groups=2, weight_initializer=lambda shape, rng, dtype: weight).build((2, 5, 5))


def test_the_defaults_are_a_stride_of_one_and_no_padding(rng):
    x, kernels = rng.normal(size=(2, 2, 5, 6)), rng.normal(size=(2, 2, 3, 3))
    assert output_size(5, 2) == 4
    explicit = {"stride": 1, "padding": 0, "dilation": 1}
    assert Window(3) == Window.of(3) == Window(3, **explicit)
    assert Window(3) == Window(3, owner="a layer") and repr(Window(3)) == repr(Window(3, owner="a layer"))
    np.testing.assert_array_equal(im2col(x, 3), im2col(x, 3, **explicit))
    np.testing.assert_array_equal(im2col(x, 1, padding=1), im2col(x, 1, padding=1, fill=0))
    np.testing.assert_array_equal(pad(x, ((1, 0), (0, 1))), pad(x, ((1, 0), (0, 1)), fill=0))
    columns = im2col(x, 3)
    np.testing.assert_array_equal(col2im(columns, x.shape, 3), col2im(columns, x.shape, 3, **explicit))
    loops = convolution_by_loops(x, kernels)
    np.testing.assert_array_equal(loops, convolution_by_loops(x, kernels, bias=None, groups=1, **explicit))
    layer, same = (built(lambda o=o: mc.Conv2D(3, 3, **o), (2, 5, 6)) for o in ({}, {"groups": 1, **explicit}))
    np.testing.assert_array_equal(layer(x), same(x))
    fresh = mc.Conv2D(3, 3)
    fresh.build((2, 5, 6))
    assert not fresh.bias.value.any()


@pytest.mark.parametrize("pool", [mc.MaxPool2D, mc.AvgPool2D])
def test_the_defaults_of_pooling_are_squares_of_two_side_by_side(pool, rng):
    x = rng.normal(size=(2, 2, 5, 6))
    explicit = {"stride": 2, "padding": 0} | ({"count_include_pad": False} if pool is mc.AvgPool2D else {})
    np.testing.assert_array_equal(pool()(x), pool(2, **explicit)(x))
    np.testing.assert_array_equal(pool(3)(x), pool(3, stride=3)(x))
    assert pool(3, stride=(1, 2))(x).shape == (2, 2, 3, 2)
    padded = {"stride": 1, "padding": 1}
    if pool is mc.AvgPool2D:
        np.testing.assert_array_equal(pool(2, **padded)(x), pool(2, **padded, count_include_pad=False)(x))


def test_a_pooling_of_ones_own_needs_its_method():
    Median = type("Median", (Pooling2D,), {})
    with pytest.raises(NotImplementedError, match="Median needs a pool"):
        Median()(np.zeros((1, 1, 2, 2)))


WINDOW_LAYERS = [
    lambda: mc.Conv2D(2, 2),
    mc.MaxPool2D,
    mc.AvgPool2D,
    mc.GlobalAvgPool2D,
    mc.GlobalMaxPool2D,
]


@pytest.mark.parametrize("make", WINDOW_LAYERS)
def test_layers_with_windows_need_images_and_treat_each_by_itself(make):
    with pytest.raises(mc.InputError, match=r"needs images.*x\[:, None\]"):
        make().build((5, 6))
    layer = built(make, (2, 5, 6))
    with pytest.raises(mc.InputError, match=r"needs images"):
        layer.forward(np.ones((2, 5, 6)))
    with pytest.raises(mc.InputError, match=r"float"):
        layer.forward(np.ones((1, 2, 5, 6), int))
    assert layer(np.ones((3, 2, 5, 6))).shape == (3, *layer.output_shape((2, 5, 6)))
    assert independent_samples(layer, training=True)  # so that a batch is computed in chunks on all cores


def test_groups_must_divide_channels_and_filters():
    with pytest.raises(mc.InputError, match="6 filters into 4 groups"):
        mc.Conv2D(6, 3, groups=4)
    with pytest.raises(mc.InputError, match="6 channels into 4 groups"):
        mc.Conv2D(8, 3, groups=4).build((6, 5, 5))


def test_a_convolution_counts_its_multiplications_and_may_have_no_bias():
    layer = mc.Conv2D(6, (3, 2), groups=3, use_bias=False)
    assert layer.build((9, 5, 7)) == (6, 3, 6) and layer.bias is None and set(layer.parameters()) == {"weight"}
    assert layer.multiply_adds((9, 5, 7)) == 6 * 3 * 6 * (9 // 3) * 3 * 2


@pytest.mark.parametrize("name", ["filters", "groups"])
def test_filters_and_groups_are_integers_above_zero(name):
    for number in (0, -1, 1.0, True, "1", None):
        with pytest.raises(mc.InputError, match=name):
            mc.Conv2D(**({"filters": 6, "kernel_size": 3} | {name: number}))


@pytest.mark.parametrize(("channels", "shape"), [(4, (3, 2, 2, 2)), (4, (2, 4, 2, 2)), (5, (2, 2, 2, 2))])
def test_the_loops_refuse_kernels_that_do_not_fit_the_groups(channels, shape):
    with pytest.raises(mc.InputError, match="2 groups"):
        convolution_by_loops(np.ones((1, channels, 3, 3)), np.ones(shape), groups=2)


def test_windows_overlap_where_a_stride_is_less_than_their_extent():
    assert Window(2, 1).overlaps and Window((2, 3), (2, 2)).overlaps and Window(2, 2, dilation=2).overlaps
    assert not Window(2, 2).overlaps and not Window((1, 3), (1, 4)).overlaps and not Window(2, 3, dilation=2).overlaps
