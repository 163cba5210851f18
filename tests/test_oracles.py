"""Outputs and gradients against independent computations: naive loops, and PyTorch where it is installed."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import built

import minicnn as mc
from minicnn.backends.numpy.gradients import LowRank
from minicnn.core.im2col import Window, col2im, im2col
from minicnn.core.layers import convolution_by_loops


@pytest.fixture(scope="module", params=["numpy", "plain"], autouse=True)
def backend(request):
    """Everything here holds for the formulas of the core and for the fast backend."""
    yield mc.use(request.param)
    mc.use("numpy")


def pooling_by_loops(x, window, reduce):
    """reduce() over the real pixels of every window, and the window's full size, by loops."""
    N, C, H, W = x.shape
    OH, OW = window.output_shape(H, W)
    (top, _), (left, _) = window.pads(H, W)
    y = np.zeros((N, C, OH, OW))
    for n, c, oh, ow in itertools.product(range(N), range(C), range(OH), range(OW)):
        rows = [oh * window.stride[0] + k - top for k in range(window.kernel_size[0])]
        cols = [ow * window.stride[1] + k - left for k in range(window.kernel_size[1])]
        real = [x[n, c, h, w] for h in rows for w in cols if 0 <= h < H and 0 <= w < W]
        y[n, c, oh, ow] = reduce(real)
    return y


paddings = st.one_of(
    st.sampled_from(["valid", "same"]),
    st.integers(0, 2),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.tuples(st.integers(0, 2), st.integers(0, 2))),
)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    batch=st.integers(1, 3),
    height=st.integers(5, 8),
    width=st.integers(5, 8),
    kernel=sizes,
    stride=sizes,
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=paddings,
    groups=st.integers(1, 3),
    channels=st.integers(1, 2),
    filters=st.integers(1, 2),
    dtype=st.sampled_from(["float32", "float64"]),
    order=st.sampled_from("CF"),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_conv2d_is_the_convolution_by_loops(
    batch, height, width, kernel, stride, dilation, padding, groups, channels, filters, dtype, order
):
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    shape = (channels * groups, height, width)
    layer = built(lambda: mc.Conv2D(filters * groups, kernel, **options), shape, dtype)
    x = np.asarray(np.random.default_rng(0).normal(size=(batch, *shape)), dtype=dtype, order=order)
    expected = convolution_by_loops(x, layer.weight.value, layer.bias.value, **options)
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(layer(x), expected, rtol=tolerance, atol=tolerance)


@given(
    height=st.integers(4, 8),
    width=st.integers(4, 8),
    kernel=st.tuples(st.integers(3, 4), st.integers(3, 4)),
    stride=sizes,
    padding=paddings,
    include=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_pooling_is_pooling_by_loops(height, width, kernel, stride, padding, include):
    x = np.random.default_rng(0).normal(size=(2, 2, height, width)) - 5  # a zero in the padding would win a max
    largest = mc.MaxPool2D(kernel, stride=stride, padding=padding)
    np.testing.assert_array_equal(largest(x), pooling_by_loops(x, largest.window, max))
    mean = mc.AvgPool2D(kernel, stride=stride, padding=padding, count_include_pad=include)
    count = (lambda real: kernel[0] * kernel[1]) if include else len
    expected = pooling_by_loops(x, mean.window, lambda real: sum(real) / count(real))
    np.testing.assert_allclose(mean(x), expected, rtol=1e-12)


@given(kernel=sizes, stride=sizes, dilation=sizes, padding=paddings, batch=st.integers(1, 3))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_col2im_is_the_adjoint_of_im2col(kernel, stride, dilation, padding, batch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, 2, 7, 8))
    window = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    columns = im2col(x, **window)
    c = rng.normal(size=columns.shape)
    assert math.isclose((columns * c).sum(), (x * col2im(c, x.shape, **window)).sum(), rel_tol=1e-9, abs_tol=1e-9)


def test_im2col_holds_the_pixels_its_docstring_says():
    x = np.arange(2 * 2 * 5 * 4.0).reshape(2, 2, 5, 4)
    window = Window((2, 3), stride=(2, 1), padding=((1, 0), (0, 2)), dilation=(2, 1))
    columns = im2col(x, (2, 3), (2, 1), ((1, 0), (0, 2)), (2, 1))
    OH, OW = window.output_shape(5, 4)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 2)))
    columns = columns.reshape(2, 2, 3, OH, OW, 2)
    for c, kh, kw, oh, ow, n in np.ndindex(columns.shape):
        assert columns[c, kh, kw, oh, ow, n] == padded[n, c, oh * 2 + kh * 2, ow + kw]


@pytest.mark.parametrize("groups", [1, 2])
def test_the_loops_refuse_kernels_of_other_channels(groups):
    with pytest.raises(mc.InputError, match="do not fit"):
        convolution_by_loops(np.zeros((1, 3, 4, 4)), np.zeros((2, 2, 3, 3)), groups=groups)


def test_a_tie_in_a_max_sends_the_gradient_to_the_first_position_only():
    y, backward = mc.MaxPool2D(2).forward(np.ones((1, 1, 4, 4)))
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 1
    np.testing.assert_array_equal(backward(np.ones_like(y))[0, 0], expected)
    x = np.array([[[[0.0, 3.0, 3.0], [3.0, 1.0, 0.0]]]])
    y, backward = mc.MaxPool2D((2, 3)).forward(x)
    np.testing.assert_array_equal(backward(np.ones_like(y))[0, 0], [[0, 1, 0], [0, 0, 0]])


def test_padding_never_wins_a_max_and_never_takes_a_gradient():
    x = np.full((1, 1, 3, 3), -7.0)
    y, backward = mc.MaxPool2D(2, stride=1, padding=1).forward(x)
    assert (y == -7).all()
    assert backward(np.ones_like(y)).sum() == y.size


@pytest.mark.parametrize("pool", [mc.MaxPool2D, mc.AvgPool2D])
def test_padding_may_not_reach_the_window(pool):
    with pytest.raises(mc.InputError, match="smaller than the window"):
        pool(2, padding=2).build((1, 8, 8))


def transposed_by_loops(layer, x):
    """Each input pixel adds its kernel to the output, beginning at its position less the padding."""
    N, C, H, W = x.shape
    y = np.zeros((N, *layer.output_shape(x.shape[1:])))
    if layer.bias is not None:
        y += layer.bias.value[:, None, None]
    (top, _), (left, _) = layer.window.pads(*y.shape[2:])
    (SH, SW), (DH, DW) = layer.window.stride, layer.window.dilation
    _, F, KH, KW = layer.weight.value.shape
    for n, c, h, w, f, kh, kw in itertools.product(*map(range, (N, C, H, W, F, KH, KW))):
        row, col = h * SH + kh * DH - top, w * SW + kw * DW - left
        if 0 <= row < y.shape[2] and 0 <= col < y.shape[3]:
            first_filter = c // (C // layer.groups) * F
            y[n, first_filter + f, row, col] += layer.weight.value[c, f, kh, kw] * x[n, c, h, w]
    return y


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": (2, 3), "padding": ((0, 1), (2, 0)), "dilation": (2, 1)},
        {"stride": 2, "padding": 1, "output_padding": (0, 1), "groups": 2},
        {"stride": (3, 2), "padding": "same", "use_bias": False},
    ],
)
def test_a_transposed_convolution_is_the_loops_and_the_adjoint_of_a_convolution(options, rng):
    layer = built(lambda: mc.Conv2DTranspose(4, (3, 2), **options), (2, 4, 3))
    x = rng.normal(size=(2, 2, 4, 3))
    y = layer(x)
    np.testing.assert_allclose(y, transposed_by_loops(layer, x), rtol=1e-12, atol=1e-12)
    shared = {name: options[name] for name in ("stride", "padding", "dilation", "groups") if name in options}
    convolution = mc.Conv2D(2, (3, 2), use_bias=False, **shared)
    assert convolution.build(y.shape[1:], dtype="float64") == (2, 4, 3)  # so output_padding belongs to this size
    convolution.weight.value[...] = layer.weight.value
    image = rng.normal(size=y.shape)
    bias = 0 if layer.bias is None else layer.bias.value[:, None, None]
    assert math.isclose((convolution(image) * x).sum(), (image * (y - bias)).sum(), rel_tol=1e-9)


def test_upsampling_repeats_and_a_global_maximum_is_the_largest_pixel(rng):
    x = rng.normal(size=(2, 3, 4, 5))
    np.testing.assert_array_equal(mc.UpSampling2D((2, 3))(x), x.repeat(2, axis=2).repeat(3, axis=3))
    y, backward = mc.GlobalMaxPool2D().forward(np.maximum(x, 0.5))
    for n, c in np.ndindex(2, 3):
        values = np.maximum(x, 0.5)[n, c].ravel().tolist()
        expected = np.zeros(20)
        expected[values.index(max(values))] = 1  # the first of equal ones
        assert y[n, c] == max(values)
        np.testing.assert_array_equal(backward(np.ones((2, 3)))[n, c].ravel(), expected)


@pytest.mark.parametrize(
    ("layer", "formula"),
    [
        (mc.LeakyReLU(0.2), lambda x: x if x > 0 else 0.2 * x),
        (mc.ELU(0.7), lambda x: x if x > 0 else 0.7 * (math.exp(x) - 1)),
        (mc.SiLU(), lambda x: x / (1 + math.exp(-x))),
        (mc.Hardswish(), lambda x: 0 if x <= -3 else x if x >= 3 else x * (x + 3) / 6),
        (mc.Clip(-3, 3), lambda x: -3 if x <= -3 else 3 if x >= 3 else x),
        (mc.GELU(), lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    ],
    ids=["LeakyReLU", "ELU", "SiLU", "Hardswish", "Clip", "GELU"],
)
def test_activations_are_their_formulas(layer, formula, rng):
    x = np.concatenate([rng.normal(size=40) * 3, [0.0, -3.0, 3.0, -40.0, 40.0]])
    np.testing.assert_allclose(layer(x[None])[0], [formula(float(number)) for number in x], rtol=1e-12, atol=1e-12)
    with np.errstate(all="raise"):  # far from zero, where exp would overflow
        far = np.array([[-1e4, 1e4]], dtype="float32")
        y, backward = layer.forward(far)
        assert np.isfinite(y).all() and np.isfinite(backward(np.ones_like(far))).all()


def test_local_response_is_its_formula(rng):
    x = rng.normal(size=(2, 6, 2, 3))
    for size in (1, 3, 5, 13):
        y = mc.LocalResponseNorm(size, alpha=0.7, beta=0.6, k=1.5)(x)
        for c in range(6):
            around = [j for j in range(c - size // 2, c + size // 2 + 1) if 0 <= j < 6]
            scale = 1.5 + 0.7 / size * sum(x[:, j] ** 2 for j in around)
            np.testing.assert_allclose(y[:, c], x[:, c] / scale**0.6, rtol=1e-12)


def test_log_softmax_is_the_logarithm_of_softmax(rng):
    x = rng.normal(size=(3, 4, 2)) * 5
    np.testing.assert_allclose(mc.LogSoftmax()(x), np.log(mc.Softmax()(x)), rtol=1e-9)
    np.testing.assert_array_equal(mc.LogSoftmax()(np.array([[1e4, 0.0]])), [[0.0, -1e4]])


def test_zeros_around_an_image(rng):
    x, pads = rng.normal(size=(2, 3, 4, 5)), ((1, 0), (2, 3))
    y, backward = mc.ZeroPad2D(pads).forward(x)
    np.testing.assert_array_equal(y, np.pad(x, ((0, 0), (0, 0), *pads)))
    np.testing.assert_array_equal(backward(y), x)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: mc.Clip(1, 1), "low < high"),
        (lambda: mc.Clip(0, math.inf), "low < high"),
        (lambda: mc.Clip("0", 6), "low < high"),
        (lambda: mc.LocalResponseNorm(4), "odd"),
        (lambda: mc.LocalResponseNorm(3, k=0), "k above 0"),
        (lambda: mc.ZeroPad2D("same"), "pixels"),
        (lambda: mc.ZeroPad2D(-1), "padding"),
        (lambda: mc.PReLU(shared=1), "shared"),
    ],
)
def test_options_that_cannot_be_right_are_refused(make, named):
    with pytest.raises(mc.InputError, match=named):
        make()


def test_gelu_is_near_its_exact_form():
    x = np.linspace(-6, 6, 1001)
    exact = [number * (1 + math.erf(number / math.sqrt(2))) / 2 for number in x.tolist()]
    assert 1e-5 < np.abs(mc.GELU()(x[None])[0] - exact).max() < 5e-4  # as its docstring says


def test_dropout_of_channels_keeps_or_drops_them_as_a_whole(rng):
    x = rng.normal(size=(8, 50, 3, 4))
    layer = mc.Dropout(0.3, seed=1, axes=(2, 3))
    y, backward = layer.forward(x, training=True)
    ratio = (y / x).reshape(400, 12)
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-12)
    assert 0.2 < (ratio[:, 0] == 0).mean() < 0.4
    np.testing.assert_allclose(ratio[ratio > 0], 1 / 0.7)
    np.testing.assert_allclose(backward(x), y)
    np.testing.assert_array_equal(mc.Dropout(0.3, seed=1, axes=[3, 2]).forward(x, training=True)[0], y)
    rows, _ = mc.Dropout(0.3, seed=1, axes=3).forward(x, training=True)
    assert len(np.unique((rows / x).round(9).reshape(-1, 4).std(axis=1))) == 1
    for wrong in (0, -1, (2, 0), "23", 1.5):
        with pytest.raises(mc.InputError, match="axes"):
            mc.Dropout(0.3, axes=wrong)
    with pytest.raises(mc.InputError, match="axis 3"):
        layer.build((5,))


class TestAgainstPyTorch:
    """The same numbers as PyTorch's, for every layer, loss and optimizer."""

    @pytest.fixture(autouse=True)
    def torch(self):
        self.torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        self.torch.set_num_threads(1)  # for such small arrays its threads cost more than they save

    def compare(self, layer, reference, x, parameters=()):
        """Outputs, input gradients and parameter gradients of a layer and of a function of torch tensors."""
        torch = self.torch
        x_torch = torch.tensor(x, requires_grad=True)
        tensors = [torch.tensor(parameter.value, requires_grad=True) for parameter in parameters]
        expected = reference(x_torch, *tensors)
        y, backward = layer.forward(x)
        np.testing.assert_allclose(y, expected.detach().numpy(), atol=1e-10)
        dy = np.random.default_rng(1).normal(size=y.shape)
        expected.backward(torch.tensor(dy))
        np.testing.assert_allclose(backward(dy), x_torch.grad.numpy(), atol=1e-10)
        for parameter, tensor in zip(parameters, tensors, strict=True):
            np.testing.assert_allclose(parameter.grad, tensor.grad.numpy(), atol=1e-10)

    @pytest.mark.parametrize("kernel", [1, 3, (3, 2)])
    @pytest.mark.parametrize("stride", [1, 2, (1, 3)])
    @pytest.mark.parametrize("padding", [0, 1, (2, 1)])
    @pytest.mark.parametrize("dilation", [1, 2])
    @pytest.mark.parametrize("groups", [1, 2, 4])
    def test_conv2d(self, kernel, stride, padding, dilation, groups, rng):
        layer = built(
            lambda: mc.Conv2D(8, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups), (4, 8, 7)
        )

        def reference(x, weight, bias):
            return self.torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)

        self.compare(layer, reference, rng.normal(size=(2, 4, 8, 7)), [layer.weight, layer.bias])

    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
    @pytest.mark.parametrize("padding", ["same", ((0, 2), (1, 3))])
    @pytest.mark.parametrize("kernel", [2, 3, (4, 3)])
    @pytest.mark.parametrize("dilation", [1, 2])
    def test_conv2d_padded_unevenly_and_without_bias(self, padding, kernel, dilation, rng):
        functional = self.torch.nn.functional
        layer = built(
            lambda: mc.Conv2D(6, kernel, stride=1, padding=padding, dilation=dilation, use_bias=False), (4, 8, 7)
        )

        def reference(x, weight):
            if padding == "same":
                return functional.conv2d(x, weight, padding="same", dilation=dilation)
            (top, bottom), (left, right) = padding
            return functional.conv2d(functional.pad(x, (left, right, top, bottom)), weight, dilation=dilation)

        self.compare(layer, reference, rng.normal(size=(2, 4, 8, 7)), [layer.weight])

    @pytest.mark.parametrize("size", [2, 3, (2, 3)])
    @pytest.mark.parametrize("stride", [None, 1, 2])
    @pytest.mark.parametrize("padding", [0, 1])
    @pytest.mark.parametrize("include", [None, True, False])
    def test_pooling(self, size, stride, padding, include, rng):
        functional = self.torch.nn.functional
        x = rng.normal(size=(2, 3, 8, 7))
        if include is None:
            self.compare(
                mc.MaxPool2D(size, stride=stride, padding=padding),
                lambda x: functional.max_pool2d(x, size, stride, padding),
                x,
            )
        else:
            self.compare(
                mc.AvgPool2D(size, stride=stride, padding=padding, count_include_pad=include),
                lambda x: functional.avg_pool2d(x, size, stride, padding, count_include_pad=include),
                x,
            )

    def test_dense_and_activations(self, rng):
        functional = self.torch.nn.functional
        layer = built(lambda: mc.Dense(5), (7,))
        self.compare(layer, functional.linear, rng.normal(size=(4, 7)), [layer.weight, layer.bias])
        x = rng.normal(size=(3, 4, 5, 2))
        self.compare(mc.ReLU(), self.torch.relu, x)
        self.compare(mc.Tanh(), self.torch.tanh, x)
        self.compare(mc.Sigmoid(), self.torch.sigmoid, x)
        self.compare(mc.Softmax(), lambda x: self.torch.softmax(x, 1), x)
        self.compare(mc.Flatten(), lambda x: x.flatten(1), x)
        self.compare(mc.GlobalAvgPool2D(), lambda x: x.mean((2, 3)), x)

    @pytest.mark.parametrize("kernel", [1, (3, 2)])
    @pytest.mark.parametrize(("stride", "added"), [(1, 0), (2, 1), ((1, 3), (0, 2))])
    @pytest.mark.parametrize("padding", [0, (1, 0)])
    @pytest.mark.parametrize(("dilation", "groups"), [(1, 1), (2, 2)])
    def test_conv2d_transpose(self, kernel, stride, added, padding, dilation, groups, rng):
        options = {"stride": stride, "padding": padding, "output_padding": added, "dilation": dilation}
        layer = built(lambda: mc.Conv2DTranspose(6, kernel, groups=groups, **options), (4, 4, 3))

        def reference(x, weight, bias):
            options = stride, padding, added, groups, dilation
            return self.torch.nn.functional.conv_transpose2d(x, weight, bias, *options)

        self.compare(layer, reference, rng.normal(size=(2, 4, 4, 3)), [layer.weight, layer.bias])

    def test_more_activations(self, rng):
        functional = self.torch.nn.functional
        x = np.concatenate([rng.normal(size=(3, 20)) * 3, np.full((3, 1), 3.0), np.full((3, 1), -3.5)], axis=1)
        self.compare(mc.LeakyReLU(0.2), lambda x: functional.leaky_relu(x, 0.2), x)
        self.compare(mc.ELU(0.7), lambda x: functional.elu(x, 0.7), x)
        self.compare(mc.GELU(), lambda x: functional.gelu(x, approximate="tanh"), x)
        self.compare(mc.SiLU(), functional.silu, x)
        self.compare(mc.Hardswish(), functional.hardswish, x)
        x = rng.normal(size=(2, 3, 4, 5))
        self.compare(mc.GlobalMaxPool2D(), lambda x: x.amax((2, 3)), x)
        self.compare(mc.UpSampling2D((2, 3)), lambda x: functional.interpolate(x, scale_factor=(2, 3)), x)
        self.compare(mc.Clip(-0.5, 1), lambda x: functional.hardtanh(x, -0.5, 1), x)
        self.compare(mc.LogSoftmax(), lambda x: functional.log_softmax(x, 1), x)
        self.compare(mc.LocalResponseNorm(5, alpha=0.9), lambda x: functional.local_response_norm(x, 5, 0.9), x)
        self.compare(mc.ZeroPad2D(((1, 2), (3, 0))), lambda x: functional.pad(x, (3, 0, 1, 2)), x)
        for shared in (False, True):
            layer = built(lambda shared=shared: mc.PReLU(shared=shared), (3, 4, 5))
            self.compare(layer, functional.prelu, x, [layer.slope])

    @pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5, 3)])
    def test_normalization(self, shape, rng):
        torch, nn = self.torch, self.torch.nn
        pairs = [
            (mc.BatchNorm(momentum=0.7), (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(6, momentum=0.3)),
            (mc.LayerNorm(), nn.LayerNorm(shape[1:])),
            (mc.GroupNorm(3), nn.GroupNorm(3, 6)),
        ]
        for layer, reference in pairs:
            layer = built(lambda layer=layer: layer, shape[1:])
            reference = reference.double()
            with torch.no_grad():
                reference.weight.copy_(torch.tensor(layer.scale.value))
                reference.bias.copy_(torch.tensor(layer.shift.value))
            for training in (True, True, False):
                x = rng.normal(2, 3, size=shape)
                reference.train(training)
                reference.zero_grad()
                x_torch = torch.tensor(x, requires_grad=True)
                expected = reference(x_torch)
                y, backward = layer.forward(x, training=training)
                np.testing.assert_allclose(y, expected.detach().numpy(), atol=1e-10)
                dy = rng.normal(size=shape)
                expected.backward(torch.tensor(dy))
                np.testing.assert_allclose(backward(dy), x_torch.grad.numpy(), atol=1e-10)
                for parameter, tensor in ((layer.scale, reference.weight), (layer.shift, reference.bias)):
                    np.testing.assert_allclose(parameter.grad, tensor.grad.numpy(), atol=1e-10)
                    parameter.clear_gradient()
            for name, state in (("running_mean", "running_mean"), ("running_variance", "running_var")):
                if hasattr(layer, name):
                    running = getattr(reference, state).numpy()
                    np.testing.assert_allclose(getattr(layer, name).value, running, atol=1e-10)

    def test_ten_steps_of_a_network_with_residual_blocks_and_batch_normalization(self, rng):
        torch, nn = self.torch, self.torch.nn

        class Block(nn.Module):
            def __init__(self, channels, filters, stride):
                super().__init__()
                self.layers = nn.Sequential(
                    *(nn.Conv2d(channels, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters), nn.SiLU()),
                    *(nn.Conv2d(filters, filters, 3, 1, 1, bias=False), nn.BatchNorm2d(filters)),
                )
                self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(channels, filters, 1, stride, bias=False)

            def forward(self, x):
                return torch.relu(self.layers(x) + self.shortcut(x))

        def block(filters, stride):
            layers = [
                *(mc.Conv2D(filters, 3, stride=stride, padding=1, use_bias=False), mc.BatchNorm(), mc.SiLU()),
                *(mc.Conv2D(filters, 3, padding=1, use_bias=False), mc.BatchNorm()),
            ]
            shortcut = None if stride == 1 else mc.Conv2D(filters, 1, stride=stride, use_bias=False)
            return [mc.Residual(layers, shortcut=shortcut), mc.ReLU()]

        layers = [*block(1, 1), *block(4, 2), mc.GlobalAvgPool2D(), mc.Dense(3)]
        model = mc.Sequential(layers, (1, 8, 8), dtype="float64")
        reference = nn.Sequential(
            Block(1, 1, 1), Block(1, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )
        reference = reference.double()
        with torch.no_grad():
            for tensor, parameter in zip(reference.parameters(), model.parameters().values(), strict=True):
                tensor.copy_(torch.tensor(parameter.value))
        x, labels = rng.normal(size=(40, 1, 8, 8)), rng.integers(0, 3, 40)
        optimizer, loss_function = mc.SGD(0.1, momentum=0.9), mc.SoftmaxCrossEntropy()
        theirs, cross_entropy = torch.optim.SGD(reference.parameters(), 0.1, 0.9), nn.CrossEntropyLoss()
        for step in range(10):
            rows = np.arange(step * 7, step * 7 + 9) % 40
            logits, backward = model.forward(x[rows], training=True)
            loss, dlogits = loss_function(logits, labels[rows])
            backward(dlogits, input_gradient=False)
            optimizer.step(model.parameters())
            theirs.zero_grad()
            expected = cross_entropy(reference(torch.tensor(x[rows])), torch.tensor(labels[rows]))
            expected.backward()
            theirs.step()
            assert math.isclose(loss, expected.item(), rel_tol=1e-8)
        for tensor, parameter in zip(reference.parameters(), model.parameters().values(), strict=True):
            np.testing.assert_allclose(parameter.value, tensor.detach().numpy(), rtol=1e-7, atol=1e-9)
        reference.eval()
        np.testing.assert_allclose(model(x), reference(torch.tensor(x)).detach().numpy(), rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("soft", [False, True])
    def test_losses(self, soft, rng):
        logits = rng.normal(size=(6, 5)) * 10
        labels = rng.dirichlet(np.ones(5), size=6) if soft else rng.integers(0, 5, 6)
        tensor = self.torch.tensor(logits, requires_grad=True)
        expected = self.torch.nn.functional.cross_entropy(tensor, self.torch.tensor(labels))
        expected.backward()
        loss, dlogits = mc.SoftmaxCrossEntropy()(logits, labels)
        assert math.isclose(loss, expected.item(), rel_tol=1e-12)
        np.testing.assert_allclose(dlogits, tensor.grad.numpy(), atol=1e-12)
        tensor = self.torch.tensor(logits, requires_grad=True)
        expected = self.torch.nn.functional.mse_loss(tensor, self.torch.ones(6, 5, dtype=self.torch.float64))
        expected.backward()
        loss, dlogits = mc.MeanSquaredError()(logits, np.ones((6, 5)))
        assert math.isclose(loss, expected.item(), rel_tol=1e-12)
        np.testing.assert_allclose(dlogits, tensor.grad.numpy(), atol=1e-12)

    @pytest.mark.parametrize(
        ("ours", "theirs", "options"),
        [
            (lambda: mc.SGD(0.1), "SGD", {"lr": 0.1}),
            (lambda: mc.SGD(0.1, momentum=0.9), "SGD", {"lr": 0.1, "momentum": 0.9}),
            (
                lambda: mc.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
                "SGD",
                {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
            ),
            (lambda: mc.Adam(0.01), "Adam", {"lr": 0.01, "eps": 1e-7}),
            (
                lambda: mc.Adam(0.01, beta1=0.8, beta2=0.9, epsilon=1e-3),
                "Adam",
                {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3},
            ),
            (lambda: mc.Adam(0.01, weight_decay=0.1), "AdamW", {"lr": 0.01, "eps": 1e-7, "weight_decay": 0.1}),
        ],
        ids=["sgd", "momentum", "nesterov", "adam", "adam-betas", "adamw"],
    )
    def test_ten_steps_of_each_optimizer(self, ours, theirs, options, rng):
        parameter = mc.Parameter(rng.normal(size=(40, 30)))
        tensor = self.torch.tensor(parameter.value.copy(), requires_grad=True)
        optimizer, reference = ours(), getattr(self.torch.optim, theirs)([tensor], **options)
        for _ in range(10):
            left, right = rng.normal(size=(40, 2)), rng.normal(size=(2, 30))
            parameter.add_gradient(LowRank(left, right))
            tensor.grad = self.torch.tensor(left @ right)
            optimizer.step({"w": parameter})
            reference.step()
        np.testing.assert_allclose(parameter.value, tensor.detach().numpy(), atol=1e-10)

    @pytest.mark.parametrize(
        ("network", "batch"), [("lenet5", 32), ("conv_pool", 16), ("two_conv", 8), ("lenet5", 130)]
    )
    def test_ten_steps_of_the_labs_networks(self, network, batch, letters, backend):
        if backend == "plain" and (network, batch) != ("lenet5", 32):
            pytest.skip("slow; test_backend.py compares plain with numpy on all three, with smaller images")
        (x, y), _ = letters
        nn = self.torch.nn
        model = getattr(mc.networks, network)()
        modules = []
        for layer, shape in zip(model.layers, [(1, 28, 28), *shapes_of(model)], strict=False):
            if isinstance(layer, mc.Conv2D):
                padding = 0 if layer.padding == "valid" else "same"
                modules.append(nn.Conv2d(shape[0], layer.filters, layer.kernel_size, padding=padding))
            elif isinstance(layer, mc.Dense):
                modules.append(nn.Linear(shape[0], layer.units))
            elif not isinstance(layer, mc.Softmax):
                kinds = {"Tanh": nn.Tanh, "ReLU": nn.ReLU, "Flatten": nn.Flatten}
                pools = {"AvgPool2D": nn.AvgPool2d, "MaxPool2D": nn.MaxPool2d}
                kind = type(layer).__name__
                modules.append(kinds[kind]() if kind in kinds else pools[kind](2))
        reference = nn.Sequential(*modules)
        with self.torch.no_grad():
            for tensor, parameter in zip(reference.parameters(), model.parameters().values(), strict=True):
                tensor.copy_(self.torch.from_numpy(parameter.value))
        if network == "lenet5":
            ours = mc.Adam(0.001)
            theirs = self.torch.optim.Adam(reference.parameters(), 0.001, eps=1e-7)
        else:
            ours, theirs = mc.SGD(0.01), self.torch.optim.SGD(reference.parameters(), 0.01)
        loss_function, cross_entropy = mc.SoftmaxCrossEntropy(), nn.CrossEntropyLoss()
        losses, expected = [], []
        for step in range(10):
            rows = np.arange(step * batch, (step + 1) * batch) % len(x)
            logits, backward = model.forward(x[rows], training=True)
            loss, dlogits = loss_function(logits, y[rows])
            backward(dlogits, input_gradient=False)
            ours.step(model.parameters())
            losses.append(float(loss))
            theirs.zero_grad()
            loss = cross_entropy(reference(self.torch.tensor(x[rows] / np.float32(255))), self.torch.tensor(y[rows]))
            loss.backward()
            theirs.step()
            expected.append(loss.item())
        np.testing.assert_allclose(losses, expected, atol=1e-4)


def shapes_of(model):
    shape = model.input_shape
    for layer in model.layers:
        shape = layer.output_shape(shape)
        yield shape
