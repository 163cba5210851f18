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
    largest = mc.MaxPool2D(kernel, stride, padding)
    np.testing.assert_array_equal(largest(x), pooling_by_loops(x, largest.window, max))
    mean = mc.AvgPool2D(kernel, stride, padding, count_include_pad=include)
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


class TestAgainstPyTorch:
    """The same numbers as PyTorch's, for every layer, loss and optimizer."""

    @pytest.fixture(autouse=True)
    def torch(self):
        self.torch = pytest.importorskip("torch", reason="PyTorch is not installed")

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
        layer = built(lambda: mc.Conv2D(8, kernel, stride, padding, dilation, groups), (4, 8, 7))

        def reference(x, weight, bias):
            return self.torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)

        self.compare(layer, reference, rng.normal(size=(2, 4, 8, 7)), [layer.weight, layer.bias])

    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
    @pytest.mark.parametrize("padding", ["same", ((0, 2), (1, 3))])
    @pytest.mark.parametrize("kernel", [2, 3, (4, 3)])
    @pytest.mark.parametrize("dilation", [1, 2])
    def test_conv2d_padded_unevenly_and_without_bias(self, padding, kernel, dilation, rng):
        functional = self.torch.nn.functional
        layer = built(lambda: mc.Conv2D(6, kernel, 1, padding, dilation, use_bias=False), (4, 8, 7))

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
                mc.MaxPool2D(size, stride, padding), lambda x: functional.max_pool2d(x, size, stride, padding), x
            )
        else:
            self.compare(
                mc.AvgPool2D(size, stride, padding, count_include_pad=include),
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
            (lambda: mc.Adam(0.01, 0.8, 0.9, 1e-3), "Adam", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3}),
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
