"""Every layer, forward and back, against loops written from its formula: any shape, option, dtype and memory order."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import built
from test_oracles import paddings, sizes

import minicnn as mc
from minicnn.backends.numpy import convolution

dtypes = st.sampled_from(["float32", "float64"])
orders = st.sampled_from(["C", "F", "batch innermost", "every second", "backwards"])
seeds = st.integers(0, 2**16)
quickly = settings(max_examples=50, deadline=None, derandomize=True)


@pytest.fixture(scope="module", params=["numpy", "plain"], autouse=True)
def backend(request):
    """Everything here holds for the formulas of the core and for the fast backend."""
    yield mc.use(request.param)
    mc.use("numpy")


def drawn(shape, dtype, order, seed):
    """Random numbers that lie in memory in one of several ways."""
    x = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    if order == "F":
        return np.asfortranarray(x)
    if order == "batch innermost":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
    if order == "every second":
        wide = np.zeros((*shape[:-1], 2 * shape[-1]), dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if order == "backwards":
        return np.ascontiguousarray(x[::-1, ..., ::-1])[::-1, ..., ::-1]
    return x


def agree(found, expected, dtype):
    tolerance = 2e-4 if dtype == "float32" else 1e-11
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@given(
    st.integers(1, 3), st.integers(4, 7), st.integers(4, 7), sizes, sizes, sizes, paddings, st.integers(1, 2),
    st.integers(1, 2), st.integers(1, 2), dtypes, orders, orders, seeds, st.booleans(),
)  # fmt: skip
@quickly
def test_the_backward_pass_of_a_convolution(
    N, H, W, kernel, stride, dilation, padding, groups, C, F, dtype, one, two, seed, small
):
    """Each product of a weight and a pixel contributes to the gradients of both."""
    dilation = tuple(min(d, 2) for d in dilation)
    if any(d * (k - 1) + 1 > size for d, k, size in zip(dilation, kernel, (H, W), strict=True)):
        return
    layer = built(
        lambda: mc.Conv2D(F * groups, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups),
        (C * groups, H, W),
        dtype,
        seed,
    )
    x = drawn((N, C * groups, H, W), dtype, one, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "is_small", lambda *_: small)
        y, backward = layer.forward(x)
        dy = drawn(y.shape, dtype, two, seed + 1)
        found = backward(dy)
    weight = layer.weight.value
    (top, _), (left, _) = layer.window.pads(H, W)
    dx, dweight = np.zeros(x.shape), np.zeros(weight.shape)
    for n, f, oh, ow in itertools.product(*map(range, y.shape)):
        for c, kh, kw in itertools.product(*map(range, weight.shape[1:])):
            h = oh * layer.window.stride[0] + kh * dilation[0] - top
            w = ow * layer.window.stride[1] + kw * dilation[1] - left
            if 0 <= h < H and 0 <= w < W:
                channel = f // F * C + c
                dx[n, channel, h, w] += weight[f, c, kh, kw] * dy[n, f, oh, ow]
                dweight[f, c, kh, kw] += x[n, channel, h, w] * dy[n, f, oh, ow]
    agree(found, dx, dtype)
    agree(layer.weight.grad, dweight, dtype)
    agree(layer.bias.grad, dy.sum(axis=(0, 2, 3), dtype="float64"), dtype)


@given(st.integers(4, 7), st.integers(4, 7), sizes, paddings, st.booleans(), dtypes, orders, orders, seeds)
@quickly
def test_the_backward_pass_of_pooling(H, W, stride, padding, include, dtype, one, two, seed):
    """A maximum gives all to its first largest pixel, a mean an equal share to each real pixel."""
    x = drawn((2, 2, H, W), dtype, one, seed).round(0)  # round numbers, so that there are ties
    for layer in (
        mc.MaxPool2D(3, stride=stride, padding=padding),
        mc.AvgPool2D(3, stride=stride, padding=padding, count_include_pad=include),
    ):
        y, backward = layer.forward(x)
        dy = drawn(y.shape, dtype, two, seed + 1)
        (top, _), (left, _) = layer.window.pads(H, W)
        dx = np.zeros(x.shape)
        for n, c, oh, ow in itertools.product(*map(range, y.shape)):
            places = [
                (h, w)
                for h in range(oh * layer.window.stride[0] - top, oh * layer.window.stride[0] - top + 3)
                for w in range(ow * layer.window.stride[1] - left, ow * layer.window.stride[1] - left + 3)
                if 0 <= h < H and 0 <= w < W
            ]
            if isinstance(layer, mc.MaxPool2D):
                h, w = max(places, key=lambda place: x[n, c, place[0], place[1]])
                dx[n, c, h, w] += dy[n, c, oh, ow]
            else:
                for h, w in places:
                    dx[n, c, h, w] += dy[n, c, oh, ow] / (9 if include else len(places))
        agree(backward(dy), dx, dtype)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.booleans(), dtypes, orders, orders, seeds)
@quickly
def test_dense_forward_and_back(N, D, units, bias, dtype, one, two, seed):
    layer = built(lambda: mc.Dense(units, use_bias=bias), (D,), dtype, seed)
    x = drawn((N, D), dtype, one, seed)
    y, backward = layer.forward(x)
    dy = drawn((N, units), dtype, two, seed + 1)
    expected, dx, dweight = np.zeros((N, units)), np.zeros((N, D)), np.zeros((units, D))
    for n, unit, d in itertools.product(range(N), range(units), range(D)):
        expected[n, unit] += layer.weight.value[unit, d] * x[n, d]
        dx[n, d] += layer.weight.value[unit, d] * dy[n, unit]
        dweight[unit, d] += x[n, d] * dy[n, unit]
    agree(y, expected + (layer.bias.value if bias else 0), dtype)
    agree(backward(dy), dx, dtype)
    agree(layer.weight.grad, dweight, dtype)
    if bias:
        agree(layer.bias.grad, dy.sum(axis=0, dtype="float64"), dtype)


CURVES = {
    "ReLU": (lambda x: max(x, 0.0), lambda x: float(x > 0)),
    "Tanh": (math.tanh, lambda x: 1 - math.tanh(x) ** 2),
    "Sigmoid": (lambda x: 1 / (1 + math.exp(-x)), lambda x: math.exp(-x) / (1 + math.exp(-x)) ** 2),
}


@pytest.mark.parametrize("name", CURVES)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), dtypes, orders, orders, seeds)
@quickly
def test_activations_forward_and_back(name, shape, dtype, one, two, seed):
    curve, slope = CURVES[name]
    x, dy = drawn(tuple(shape), dtype, one, seed), drawn(tuple(shape), dtype, two, seed + 1)
    y, backward = getattr(mc, name)().forward(x)
    agree(y, np.vectorize(curve, otypes=[float])(x), dtype)
    agree(backward(dy), dy * np.vectorize(slope, otypes=[float])(x), dtype)


@given(st.integers(1, 3), st.integers(1, 5), st.sampled_from([(), (2, 3)]), dtypes, orders, orders, seeds)
@quickly
def test_softmax_forward_and_back(N, K, rest, dtype, one, two, seed):
    x, dy = drawn((N, K, *rest), dtype, one, seed), drawn((N, K, *rest), dtype, two, seed + 1)
    y, backward = mc.Softmax().forward(x)
    expected, dx = np.zeros(x.shape), np.zeros(x.shape)
    for n, *place in itertools.product(range(N), *map(range, rest)):
        at = (n, slice(None), *place)
        p = [math.exp(v) for v in x[at].astype(float)]
        p = np.array(p) / sum(p)
        jacobian = [[p[i] * ((i == j) - p[j]) for j in range(K)] for i in range(K)]
        expected[at], dx[at] = p, np.array(jacobian) @ dy[at]
    agree(y, expected, dtype)
    agree(backward(dy), dx, dtype)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), dtypes, orders, orders, seeds)
@quickly
def test_flatten_and_global_mean_forward_and_back(N, C, H, W, dtype, one, two, seed):
    x = drawn((N, C, H, W), dtype, one, seed)
    y, backward = mc.Flatten().forward(x)
    dy = drawn(y.shape, dtype, two, seed + 1)
    agree(y, np.array([[v for plane in image for row in plane for v in row] for image in x.tolist()]), dtype)
    agree(backward(dy), dy.reshape(x.shape), dtype)
    y, backward = mc.GlobalAvgPool2D().forward(x)
    dy = drawn(y.shape, dtype, two, seed + 2)
    agree(y, [[sum(map(sum, plane)) / (H * W) for plane in image] for image in x.tolist()], dtype)
    agree(backward(dy), np.repeat(dy, H * W, axis=1).reshape(x.shape) / (H * W), dtype)


@given(st.floats(0, 0.9), dtypes, orders, seeds)
@quickly
def test_dropout_keeps_the_mean_and_uses_the_same_mask_backward(rate, dtype, order, seed):
    x = drawn((4, 300), dtype, order, seed)
    y, backward = mc.Dropout(rate, seed=seed).forward(x, training=True)
    kept = y != 0
    agree(y[kept], x[kept] / (1 - rate), dtype)
    assert abs(kept.mean() - (1 - rate)) < 0.1  # six standard deviations
    dy = np.ones_like(x)
    agree(backward(dy), kept / (1 - rate), dtype)


@pytest.mark.parametrize("layer", [mc.ReLU(), mc.Tanh(), mc.Sigmoid(), mc.Softmax(), mc.Flatten(), mc.Dropout(0.5)])
def test_half_precision_stays_half_precision(layer, rng):
    x = rng.normal(size=(2, 3)).astype("float16")
    y, backward = layer.forward(x, training=True)
    assert y.dtype == backward(y).dtype == np.float16


@pytest.mark.parametrize(
    ("layer", "at_infinity"), [(mc.Tanh(), [-1, 1]), (mc.Sigmoid(), [0, 1]), (mc.ReLU(), [0, np.inf])]
)
def test_activations_at_the_borders_of_the_numbers(layer, at_infinity):
    huge = np.array([[-np.inf, np.inf]])
    np.testing.assert_array_equal(layer(huge), [at_infinity])
    tiny = np.array([[5e-324, -5e-324, 0.0]])  # the smallest numbers there are
    assert np.isfinite(layer(tiny)).all()
    np.testing.assert_allclose(layer(tiny), layer(np.zeros((1, 3))), atol=1e-300)


def test_softmax_of_huge_numbers_and_of_a_class_ruled_out():
    np.testing.assert_array_equal(mc.Softmax()(np.array([[1e4, -1e4], [-1e4, -1e4]])), [[1, 0], [0.5, 0.5]])
    np.testing.assert_array_equal(mc.Softmax()(np.array([[-np.inf, 0.0]])), [[0, 1]])
