"""On a real device: what the stand-in of test_backend.py cannot show."""

import numpy as np
import pytest
from layer_cases import all_layers, built
from test_training import small_model, small_set

import minicnn as mc

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def device():
    try:
        mc.use("cupy")
    except mc.BackendError as error:
        pytest.skip(f"no device: {error}")
    yield
    mc.use("numpy")


@all_layers
def test_gradients_in_float64(make, shape, rng):
    assert mc.gradcheck.check(make(), rng.normal(size=(3, *shape)), training=True).passed


@all_layers
def test_outputs_and_gradients_are_the_hosts(make, shape, rng):
    x = rng.normal(size=(3, *shape)).astype("float32")
    found = []
    for backend in ("numpy", "cupy"):
        mc.use(backend)
        layer = built(make, shape, "float32")
        y, backward = layer.forward(mc.to_device(x))
        dy = np.random.default_rng(5).normal(size=y.shape).astype("float32")
        dx = backward(mc.to_device(dy))
        found.append([mc.to_numpy(a) for a in (y, dx, *(p.grad for p in layer.parameters().values()))])
    for host, there in zip(*found, strict=True):
        np.testing.assert_allclose(there, host, rtol=1e-3, atol=1e-4 * max(1, np.abs(host).max()))


def run(optimizer, path=None):
    x, y = small_set(50)
    model = small_model(dropout=True)
    history = model.fit(x, y, 3, 16, optimizer(), validation_split=0.2, verbose=False)
    if path is not None:
        model.save(path)
    return history, {name: mc.to_numpy(p.value) for name, p in model.parameters().items()}


@pytest.mark.parametrize("optimizer", [lambda: mc.SGD(0.05, 0.9, clip_norm=1.0), lambda: mc.Adam(0.01)])
def test_two_runs_give_the_same_bits(optimizer):
    first, second = run(optimizer), run(optimizer)
    assert first[0]["loss"] == second[0]["loss"]
    for name in first[1]:
        np.testing.assert_array_equal(first[1][name], second[1][name])


def test_saved_here_loaded_there(tmp_path):
    x, _ = small_set(6)
    run(mc.Adam, tmp_path / "model.npz")
    there = mc.load(tmp_path / "model.npz").predict(x)
    mc.use("numpy")
    np.testing.assert_allclose(mc.load(tmp_path / "model.npz").predict(x), there, rtol=1e-3, atol=1e-5)


def test_the_labs_networks_train(rng):
    x, y = rng.integers(0, 256, (64, 1, 28, 28), dtype=np.uint8), rng.integers(0, 10, 64)
    for make in (mc.networks.lenet5, mc.networks.conv_pool, mc.networks.two_conv):
        history = make().fit(x, y, 3, 32, mc.SGD(0.05), verbose=False)
        assert history["loss"][-1] < history["loss"][0]
