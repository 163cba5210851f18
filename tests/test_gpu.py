"""On a real device: what the stand-in of test_backend.py cannot show."""

import numpy as np
import pytest
from device_cases import explained, weights_after
from layer_cases import all_layers, built
from test_backend import OPTIMIZERS
from test_training import small_model, small_set

import minicnn as mc
from minicnn.backends.cupy import CupyOperations
from minicnn.backends.cupy.recording import RecordedStep, can_record

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


LOSSES = [
    (mc.SoftmaxCrossEntropy(), np.array([3, 0, 1, 1, 2])),
    (mc.SoftmaxCrossEntropy(), np.eye(4)[[3, 0, 1, 1, 2]]),
    (mc.MeanSquaredError(), np.ones((5, 4))),
]


@pytest.mark.parametrize(("loss", "labels"), LOSSES)
def test_gradients_of_losses_in_float64(loss, labels, rng):
    assert mc.gradcheck.check(loss, rng.normal(size=(5, 4)), labels=labels).passed


def run(optimizer, path=None):
    x, y = small_set(50)
    model = small_model(dropout=True)
    history = model.fit(x, y, epochs=3, batch_size=16, optimizer=optimizer(), validation_split=0.2, verbose=False)
    if path is not None:
        model.save(path)
    return history, {name: mc.to_numpy(p.value) for name, p in model.parameters().items()}


@pytest.mark.parametrize("optimizer", [lambda: mc.SGD(0.05, momentum=0.9, clip_norm=1.0), lambda: mc.Adam(0.01)])
def test_two_runs_give_the_same_bits(optimizer):
    first, second = run(optimizer), run(optimizer)
    assert first[0]["loss"] == second[0]["loss"]
    for name in first[1]:
        np.testing.assert_array_equal(first[1][name], second[1][name])


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_recorded_run_is_the_run_kernel_by_kernel(make, monkeypatch, recwarn):
    x, y = small_set(400)
    found = []
    for records in (True, False):
        monkeypatch.setattr("minicnn.backends.cupy.can_record", can_record if records else lambda *_: False)
        model = small_model()
        history = model.fit(x, y, epochs=2, batch_size=16, optimizer=make(), validation_split=0.2, verbose=False)
        found.append([history["loss"], *(mc.to_numpy(p.value).tolist() for p in model.parameters().values())])
    xp = mc.backends.current().xp
    assert can_record(xp, model, mc.SoftmaxCrossEntropy(), make()) and not recwarn.list
    assert found[0] == found[1]


def test_a_recorded_step_of_the_labs_networks(rng):
    x, y = rng.random((32, 1, 28, 28), dtype="float32"), rng.integers(0, 10, 32)
    x, y, loss_function = mc.to_device(x), mc.to_device(y), mc.SoftmaxCrossEntropy()
    for make in (mc.networks.lenet5, mc.networks.conv_pool, mc.networks.two_conv):
        losses = []
        for records in (True, False):
            model, optimizer = make(), mc.SGD(0.05)
            step = RecordedStep(mc.backends.current(), model, loss_function, optimizer)
            for _ in range(4):
                if records:
                    loss, _ = step(x, y)
                else:
                    logits, backward = model.forward(x, training=True)
                    loss, dlogits = loss_function.compute(logits, y)
                    backward(dlogits, input_gradient=False)
                    optimizer.step(model.parameters())
                losses.append(float(loss))
        assert losses[:4] == losses[4:] and losses[3] < losses[0]


def test_a_run_from_the_host_is_the_run_on_the_device(monkeypatch):
    on_device = run(mc.Adam)
    monkeypatch.setattr(CupyOperations, "keep", lambda self, x: x)  # as if the set did not fit
    from_host = run(mc.Adam)
    assert on_device[0]["loss"] == from_host[0]["loss"] and on_device[0]["val_loss"] == from_host[0]["val_loss"]
    for name in on_device[1]:
        np.testing.assert_array_equal(on_device[1][name], from_host[1][name])


def test_a_run_that_was_stopped_is_resumed_with_the_same_bits(tmp_path):
    uninterrupted = weights_after(4, tmp_path / "uninterrupted.npz", False)
    weights_after(2, tmp_path / "stopped.npz", False)
    for a, b in zip(uninterrupted, weights_after(4, tmp_path / "stopped.npz", True), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_convolution_by_tiles(rng, monkeypatch):
    """cuBLAS writes into a part of the output, whose rows are not next to each other in memory."""
    x = rng.normal(size=(5, 4, 9, 8)).astype("float32")
    found = []
    for budget in (2**28, 2**14, 2**12):
        monkeypatch.setattr("minicnn.im2col.BUDGET", budget)
        layer = built(lambda: mc.Conv2D(6, (3, 2), stride=(1, 2), padding=1, groups=2), (4, 9, 8), "float32")
        y, backward = layer.forward(mc.to_device(x))
        found.append([mc.to_numpy(a) for a in (y, backward(y), layer.weight.grad, layer.bias.grad)])
    for other in found[1:]:
        for expected, tiled in zip(found[0], other, strict=True):
            np.testing.assert_allclose(tiled, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_network_is_explained_as_on_the_host(rng):
    image = rng.integers(0, 256, (28, 28), dtype=np.uint8)
    for host, there in zip(*explained(image, ("numpy", "cupy")), strict=True):
        np.testing.assert_allclose(there, host, rtol=1e-3, atol=1e-6)


def test_a_model_saved_here_is_loaded_there(tmp_path):
    x, _ = small_set(6)
    run(mc.Adam, tmp_path / "model.npz")
    there = mc.load(tmp_path / "model.npz").predict(x)
    mc.use("numpy")
    np.testing.assert_allclose(mc.load(tmp_path / "model.npz").predict(x), there, rtol=1e-3, atol=1e-5)


def test_the_labs_networks_train(rng):
    x, y = rng.integers(0, 256, (64, 1, 28, 28), dtype=np.uint8), rng.integers(0, 10, 64)
    for make in (mc.networks.lenet5, mc.networks.conv_pool, mc.networks.two_conv):
        history = make().fit(x, y, epochs=3, batch_size=32, optimizer=mc.SGD(0.05), verbose=False)
        assert history["loss"][-1] < history["loss"][0]
