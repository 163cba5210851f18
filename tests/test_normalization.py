"""Batch, layer and group normalization: the formula by loops, the running values, and what is refused."""

import itertools
import math

import numpy as np
import pytest
from layer_cases import built

import minicnn as mc
from minicnn.core.operations import Operations


@pytest.fixture(scope="module", params=["numpy", "plain"], autouse=True)
def backend(request):
    """Everything here holds for the formulas of the core and for the fast backend."""
    yield mc.use(request.param)
    mc.use("numpy")


def normalized_by_loops(x, same, epsilon):
    """Each number of x less the mean of those that `same` puts together with it, by their standard deviation."""
    sets = {}
    for index in itertools.product(*map(range, x.shape)):
        sets.setdefault(same(index), []).append(index)
    y = np.zeros_like(x)
    for members in sets.values():
        values = [float(x[index]) for index in members]
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        for index in members:
            y[index] = (x[index] - mean) / math.sqrt(variance + epsilon)
    return y


CASES = {
    "batch, images": (lambda: mc.BatchNorm(epsilon=0.1), (4, 3, 5, 2), lambda index: index[1]),
    "batch, vectors": (lambda: mc.BatchNorm(), (4, 6), lambda index: index[1]),
    "layer, images": (lambda: mc.LayerNorm(), (3, 2, 3, 4), lambda index: index[0]),
    "layer, vectors": (lambda: mc.LayerNorm(epsilon=0.1), (3, 6), lambda index: index[0]),
    "group, images": (lambda: mc.GroupNorm(2), (3, 4, 2, 3), lambda index: (index[0], index[1] // 2)),
    "group, vectors": (lambda: mc.GroupNorm(2), (3, 6), lambda index: (index[0], index[1] // 3)),
    "instance": (lambda: mc.GroupNorm(3), (2, 3, 4, 3), lambda index: index[:2]),
}


@pytest.mark.parametrize(("make", "shape", "same"), CASES.values(), ids=CASES)
def test_normalization_is_normalization_by_loops(make, shape, same, rng):
    layer = built(make, shape[1:])
    x = rng.normal(3, 2, size=shape)
    y, _ = layer.forward(x, training=True)
    scale, shift = (
        p.value.reshape(p.value.shape + (1,) * (x.ndim - 1 - p.value.ndim)) for p in (layer.scale, layer.shift)
    )
    expected = normalized_by_loops(x, same, layer.epsilon) * scale + shift
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("make", "shape", "same"), CASES.values(), ids=CASES)
def test_gradients_are_right_in_evaluation_too(make, shape, same, rng):
    layer = built(make, shape[1:])
    layer.forward(rng.normal(3, 2, size=shape), training=True)  # other running values than at the start
    assert mc.gradcheck.check(layer, rng.normal(size=shape)).passed


@pytest.mark.parametrize("axes", [axes for n in (1, 2, 3, 4) for axes in itertools.combinations(range(4), n)])
def test_a_mean_over_any_axes_is_the_one_of_the_core(axes, backend, rng):
    x = rng.normal(size=(5, 4, 3, 2))
    expected, count = Operations().mean(x, axes)
    mean, n = mc.backends.current().mean(x, axes)
    assert (mean.shape, n) == (expected.shape, count)
    np.testing.assert_allclose(mean, expected, atol=1e-12)


@pytest.mark.parametrize("offset", [1.0, 3000.0])
def test_a_mean_far_from_zero_costs_few_digits(offset, rng):
    """The mean of the squares less the square of the mean would leave no digit of float32."""
    x = rng.normal(offset, size=(64, 2, 8, 8)).astype("float32")
    layer = mc.BatchNorm()
    layer.build((2, 8, 8))
    y, _ = layer.forward(x, training=True)
    x, axes = x.astype("float64"), (0, 2, 3)
    expected = (x - x.mean(axis=axes, keepdims=True)) / x.std(axis=axes, keepdims=True)
    np.testing.assert_allclose(y, expected, atol=2e-5 + 3e-7 * offset)


# What BatchNorm keeps


def test_the_running_values_follow_their_formula(rng):
    layer = built(lambda: mc.BatchNorm(momentum=0.8), (3, 4, 2))
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(3):
        x = rng.normal(2, 3, size=(5, 3, 4, 2))
        layer.forward(x, training=True)
        layer.forward(x + 1)  # outside training nothing is kept
        mean = 0.8 * mean + 0.2 * x.mean(axis=(0, 2, 3))
        variance = 0.8 * variance + 0.2 * x.var(axis=(0, 2, 3), ddof=1)
        np.testing.assert_allclose(layer.running_mean.value, mean, rtol=1e-12)
        np.testing.assert_allclose(layer.running_variance.value, variance, rtol=1e-12)
    x = rng.normal(size=(1, 3, 4, 2))
    as_channel = (slice(None), None, None)
    expected = (x - mean[as_channel]) / np.sqrt(variance[as_channel] + layer.epsilon)
    expected = expected * layer.scale.value[as_channel] + layer.shift.value[as_channel]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-12)


def test_a_frozen_batchnorm_keeps_everything_as_it_is(rng):
    x = rng.normal(2, 3, size=(8, 3, 4, 2))
    layer = built(mc.BatchNorm, (3, 4, 2))
    layer.forward(x, training=True)
    layer.trainable = False
    mean, variance = layer.running_mean.value.copy(), layer.running_variance.value.copy()
    y, backward = layer.forward(x, training=True)
    np.testing.assert_array_equal(y, layer(x))
    assert backward(y).shape == x.shape and not layer.scale.has_gradient
    np.testing.assert_array_equal(layer.running_mean.value, mean)
    np.testing.assert_array_equal(layer.running_variance.value, variance)


def images(count=48, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, 1, 8, 8), dtype="float32"), np.arange(count) % 3


def network(dtype="float32", seed=0):
    """Everything that a modern network has: normalization, a block with a shortcut, dropout of channels."""
    inner = [
        mc.Conv2D(8, 3, stride=2, padding=1, use_bias=False),
        mc.BatchNorm(),
        mc.ReLU(),
        mc.Conv2D(8, 3, padding=1),
    ]
    layers = [
        *(mc.Conv2D(4, 3, padding="same"), mc.BatchNorm(), mc.ReLU()),
        mc.Residual([*inner, mc.BatchNorm()], shortcut=[mc.Conv2D(8, 1, stride=2, use_bias=False), mc.BatchNorm()]),
        *(mc.ReLU(), mc.Dropout(0.2, axes=(2, 3)), mc.GroupNorm(2), mc.GlobalAvgPool2D()),
        *(mc.LayerNorm(), mc.Dense(3)),
    ]
    return mc.Sequential(layers, (1, 8, 8), seed=seed, dtype=dtype)


def kept(model):
    arrays = {name: p.value for name, p in model.parameters().items()}
    return arrays | {name: np.asarray(state.value) for name, state in model.states().items()}


def test_a_run_is_resumed_to_the_same_bits_with_all_that_is_kept(tmp_path):
    x, y = images()

    def run(epochs, name, resume=False):
        model = network()
        model.fit(
            x, y, epochs=epochs, optimizer=mc.Adam(0.01), verbose=False, checkpoint=tmp_path / name, resume=resume
        )
        return model

    expected = run(3, "complete.npz")
    run(2, "stopped.npz")
    resumed = run(3, "stopped.npz", resume=True)
    assert len(kept(resumed)) == len(resumed.parameters()) + 10
    for name, array in kept(expected).items():
        np.testing.assert_array_equal(kept(resumed)[name], array, err_msg=name)
    resumed.save(tmp_path / "model.npz")
    loaded = mc.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.predict(x), expected.predict(x))
    assert repr(loaded.layers) == repr(resumed.layers)
    for model in (loaded, resumed):
        model.fit(x, y, epochs=1, optimizer=mc.SGD(0.1), shuffle=False, verbose=False)
    np.testing.assert_array_equal(loaded.predict(x), resumed.predict(x))


def test_outside_training_an_answer_does_not_depend_on_the_rest_of_the_batch():
    x, y = images()
    model = network("float64")
    model.fit(x, y, epochs=1, optimizer=mc.Adam(0.01), verbose=False)
    expected = np.concatenate([model.predict(x[:1]), model.predict(x[1:40]), model.predict(x[40:])])
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-9)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_the_statistics_are_those_of_the_complete_batch_however_it_is_divided(threads, backend, monkeypatch, rng):
    if backend == "plain":
        pytest.skip("plain divides nothing")
    monkeypatch.setenv("MINICNN_THREADS", threads)
    x = rng.normal(size=(80, 2, 16, 16))
    inner = [mc.Conv2D(16, 3, padding=1, use_bias=False), mc.BatchNorm()]
    layers = [mc.Conv2D(16, 3, use_bias=False), mc.BatchNorm(), mc.ReLU(), mc.Residual(inner)]
    model = mc.Sequential(layers, (2, 16, 16), dtype="float64")
    found = {}
    for name in ("numpy", "plain"):
        mc.use(name)
        y, backward = model.forward(x, training=True)
        dx = backward(y)
        found[name] = [y, dx, *(parameter.grad for parameter in model.parameters().values())]
        for parameter in model.parameters().values():
            parameter.clear_gradient()
    mc.use("numpy")
    conv = layers[0](x)
    mean = conv.mean(axis=(0, 2, 3))
    np.testing.assert_allclose(layers[1].running_mean.value, (0.9 * 0.1 + 0.1) * mean, rtol=1e-9)
    for array, expected in zip(found["numpy"], found["plain"], strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


# What is refused


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_number_for_each_channel_is_refused_in_training_alone(shape, rng):
    layer = built(mc.BatchNorm, shape[1:])
    x = rng.normal(size=shape)
    with pytest.raises(mc.InputError, match="batch_size"):
        layer.forward(x, training=True)
    assert layer(x).shape == shape
    assert layer.forward(np.concatenate([x, x]), training=True)[0].shape == (2, *shape[1:])


@pytest.mark.parametrize(
    ("make", "shape", "named"),
    [
        (lambda: mc.BatchNorm(momentum=1.0), (3,), "momentum"),
        (lambda: mc.BatchNorm(momentum="0.9"), (3,), "momentum"),
        (lambda: mc.BatchNorm(epsilon=0), (3,), "epsilon"),
        (lambda: mc.LayerNorm(epsilon=-1e-5), (3,), "epsilon"),
        (lambda: mc.LayerNorm(epsilon=math.inf), (3,), "epsilon"),
        (lambda: mc.GroupNorm(0), (4,), "groups"),
        (lambda: mc.GroupNorm(3), (4, 5, 5), "4 channels into 3"),
        (lambda: mc.GroupNorm(4), (4,), "zeros"),
        (lambda: mc.LayerNorm(), (1,), "zeros"),
        (lambda: mc.BatchNorm(), (3, 4), "images"),
        (lambda: mc.GroupNorm(2), (4, 4), "images"),
    ],
)
def test_what_cannot_be_normalized_is_refused(make, shape, named):
    with pytest.raises(mc.InputError, match=named):
        make().build(shape)


@pytest.mark.parametrize("make", [mc.BatchNorm, mc.LayerNorm, lambda: mc.GroupNorm(1)])
def test_a_batch_of_another_shape_is_refused(make, rng):
    layer = built(make, (3, 4, 5))
    for shape in ((2, 3, 4), (2, 3), (2, 2, 4, 5), (2, 6, 4, 5)):
        with pytest.raises(mc.InputError):
            layer.forward(rng.normal(size=shape))
    if isinstance(layer, mc.LayerNorm):  # it has a scale for each pixel; a channel's would be broadcast
        with pytest.raises(mc.InputError, match=r"GroupNorm\(1\)"):
            layer.forward(rng.normal(size=(2, 3, 4, 1)))
    else:
        assert layer(rng.normal(size=(2, 3, 7, 9))).shape == (2, 3, 7, 9)
