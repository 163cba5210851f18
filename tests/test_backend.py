"""One switch: the whole library on a strict stand-in for the device; and errors that say what is missing."""

import contextlib
import functools
import itertools
import math
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import strict_backend
from device_cases import looked_into, weights_after
from layer_cases import all_layers, built
from strict_backend import copies, strict
from test_training import small_model, small_set

import minicnn as mc
from minicnn.backend import array_module


@pytest.fixture
def device(monkeypatch):
    mc.use(strict)
    monkeypatch.setattr("minicnn.products.cublas", lambda xp: strict_backend.cublas)
    monkeypatch.setattr("minicnn.graph.cublas", lambda xp: strict_backend.cublas)
    copies.clear()
    yield strict
    mc.use("numpy")


@all_layers
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_layer_computes_the_same_on_the_device(make, shape, dtype, device, rng, monkeypatch):
    monkeypatch.setattr("minicnn.winograd.LEAST_CHANNELS", math.inf)  # a trick of the host's, which rounds otherwise
    x = rng.normal(size=(3, *shape)).astype(dtype)
    mc.use("numpy")
    host = built(make, shape, dtype)
    y, backward = host.forward(x)
    dy = rng.normal(size=y.shape).astype(dtype)
    dx = backward(dy)
    mc.use(strict)
    layer = built(make, shape, dtype)
    x_there, dy_there = strict.asarray(x), strict.asarray(dy)
    copies.clear()
    y_there, backward = layer.forward(x_there)
    dx_there = backward(dy_there)
    # The shares of windows that reach the padding are a small table, made on the host.
    assert copies == [] or (isinstance(layer, mc.AvgPool2D) and [way for way, _ in copies] == ["to device"])
    assert y_there.dtype == dx_there.dtype == dtype
    np.testing.assert_allclose(y_there.get(), y, rtol=1e-6, atol=1e-6 * np.abs(y).max())
    np.testing.assert_allclose(dx_there.get(), dx, rtol=1e-5, atol=1e-6 * np.abs(dx).max())
    for name, parameter in host.parameters().items():
        there = layer.parameters()[name].grad
        np.testing.assert_allclose(there.get(), parameter.grad, rtol=1e-5, atol=1e-5)
    layer.forward(x_there, training=True)[1](dy_there)


@pytest.mark.parametrize("budget", [2**20, 2**14, 2**12])
def test_a_convolution_on_the_device_by_tiles(budget, device, rng, monkeypatch):
    """All places at once, some rows at a time, and pieces of rows: the loops' numbers."""
    monkeypatch.setattr("minicnn.im2col.BUDGET", budget)
    layer = mc.Conv2D(6, (3, 2), stride=(1, 2), padding=((1, 0), (2, 1)), groups=2)
    layer.build((4, 9, 8))
    x = rng.normal(size=(5, 4, 9, 8)).astype("float32")
    y, backward = layer.forward(strict.asarray(x))
    dx = backward(y)
    weight, bias = layer.weight.value.get(), layer.bias.value.get()
    expected = mc.layers.convolution_by_loops(x, weight, bias, layer.stride, layer.padding, groups=2)
    np.testing.assert_allclose(y.get(), expected, rtol=1e-4, atol=1e-5)
    mc.use("numpy")
    host = mc.Conv2D(6, (3, 2), stride=(1, 2), padding=((1, 0), (2, 1)), groups=2)
    host.build((4, 9, 8))
    _, backward = host.forward(x)
    np.testing.assert_allclose(dx.get(), backward(expected), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.weight.grad.get(), host.weight.grad, rtol=1e-4, atol=1e-3)


@all_layers
def test_gradients_can_be_checked_on_the_device(make, shape, device, rng):
    assert mc.gradcheck.check(make(), rng.normal(size=(2, *shape)), training=True).passed


OPTIMIZERS = {
    "SGD": lambda: mc.SGD(0.05),
    "SGD with all": lambda: mc.SGD(mc.CosineDecay(0.05, 50), 0.9, nesterov=True, weight_decay=1e-3, clip_norm=1.0),
    "Adam": lambda: mc.Adam(0.01, weight_decay=0.01, clip_norm=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_run_on_the_device_is_the_run_on_the_host(device, optimizer, tmp_path):
    x, y = small_set(50)
    found = {}
    for backend in ("numpy", strict):
        mc.use(backend)
        model = small_model(dropout=True)
        start = {name: mc.to_numpy(p.value).copy() for name, p in model.parameters().items()}
        history = model.fit(x, y, 3, 16, optimizer(), validation_split=0.2, verbose=False)
        end = {name: mc.to_numpy(p.value) for name, p in model.parameters().items()}
        found[backend] = start, end, history["loss"], model.evaluate(x, y), model.predict(x)
        assert all(array_module(p.value).__name__ == mc.backend.active().__name__ for p in model.parameters().values())
    host, there = found["numpy"], found[strict]
    for name in host[0]:
        np.testing.assert_array_equal(host[0][name], there[0][name])  # the same bits to start from
        np.testing.assert_allclose(host[1][name], there[1][name], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(host[2], there[2], rtol=1e-4)
    np.testing.assert_allclose(host[3], there[3], rtol=1e-4)
    np.testing.assert_allclose(host[4], there[4], rtol=1e-3, atol=1e-6)
    assert isinstance(there[4], np.ndarray)


def test_losses_on_the_device(device, rng):
    logits, labels = rng.normal(size=(5, 4)), np.array([3, 0, 1, 1, 2])
    expected, gradient = mc.SoftmaxCrossEntropy()(logits, labels)
    for given in (labels, np.eye(4)[labels]):
        loss, dlogits = mc.SoftmaxCrossEntropy()(strict.asarray(logits), given)
        assert float(loss.get()) == pytest.approx(float(expected))
        np.testing.assert_allclose(dlogits.get(), gradient)
    loss, _ = mc.MeanSquaredError()(strict.asarray(logits), np.zeros((5, 4)))
    assert float(loss.get()) == pytest.approx((logits**2).mean())


def test_labels_are_checked_on_the_host(device):
    """CuPy wraps an index that NumPy refuses: a wrong label would train on another class."""
    with pytest.raises(mc.InputError, match="label 3"):
        mc.SoftmaxCrossEntropy()(strict.asarray(np.zeros((2, 3))), np.array([0, 3]))
    x, y = small_set(12)
    with pytest.raises(mc.InputError):
        small_model().fit(x, y + 1, 1, verbose=False)


@pytest.mark.parametrize("fits", [True, False])
def test_what_crosses_between_host_and_device(device, fits, monkeypatch):
    """The data set once, or a batch at a time; back come a few numbers at the hundredth batch and an epoch's end."""
    monkeypatch.setitem(strict_backend.memory, "free", 2**30 if fits else 1000)
    x, y = small_set(480)
    model = small_model()
    model.fit(x[:16], y[:16], 1, 16, verbose=False)
    copies.clear()
    model.fit(x, y, 1, 16, verbose=False)
    there = [shape for way, shape in copies if way == "to device"]
    back = [shape for way, shape in copies if way == "to host"]
    if fits:
        assert there == [x.shape, y.shape, (480,)]  # and the order of the epoch's batches
    else:
        assert sorted(there) == sorted([(16, 1, 8, 8), (16,)] * 30)
    assert len(back) <= 10 + 3 * len(model.parameters())  # not one a batch


def test_a_validation_set_crosses_once(device):
    x, y = small_set(120)
    for options in ({"validation_split": 0.25}, {"validation_data": (x[:30], y[:30])}):
        copies.clear()
        small_model().fit(x, y, 3, 16, verbose=False, **options)
        images = [shape for way, shape in copies if way == "to device" and len(shape) == 4 and shape[0] > 16]
        assert images == [x.shape] + [(30, 1, 8, 8)] * ("validation_data" in options)


def test_a_model_saved_on_one_is_loaded_on_the_other(device, tmp_path):
    x, _ = small_set(6)
    model = small_model(seed=2)
    there = model.predict(x)
    model.save(tmp_path / "model.npz")
    mc.use("numpy")
    back = mc.load(tmp_path / "model.npz")
    assert isinstance(back.parameters()["dense_1.weight"].value, np.ndarray)
    np.testing.assert_allclose(back.predict(x), there, rtol=1e-5)
    back.save(tmp_path / "host.npz")
    mc.use(strict)
    np.testing.assert_allclose(mc.load(tmp_path / "host.npz").predict(x), there, rtol=1e-5)


def test_a_checkpoint_goes_on_on_the_device(device, tmp_path):
    whole = weights_after(4, tmp_path / "whole.npz", False, images=40, batch_size=8)
    weights_after(2, tmp_path / "cut.npz", False, images=40, batch_size=8)
    resumed = weights_after(4, tmp_path / "cut.npz", True, images=40, batch_size=8)
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_is_looked_into_as_on_the_host(device, rng):
    image = rng.integers(0, 256, (28, 28), dtype=np.uint8)
    for host, there in zip(*looked_into(image, ("numpy", strict)), strict=True):
        np.testing.assert_allclose(there, host, rtol=1e-4, atol=1e-7)


# The stand-in is strict


def test_a_layer_that_calls_numpy_on_its_input_fails(device):
    class Stray(mc.Layer):
        def forward(self, x, training=False):
            return np.tanh(x), lambda dy: dy

    with pytest.raises(TypeError):
        Stray().forward(strict.asarray(np.zeros((2, 3))))


SILENT = {
    "float": float,
    "int": int,
    "a truth value": bool,
    "an index": lambda a: [0, 1][a],
    "iteration": list,
    "np.asarray": np.asarray,
    "np.sum": np.sum,
    "np.concatenate": lambda a: np.concatenate([a, a]),
    "a NumPy array added": lambda a: a + np.zeros(1),
    "added to a NumPy array": lambda a: np.zeros(1) + a,
    "multiplied into a NumPy array": lambda a: np.ones(1).__imul__(a),
    "a NumPy array in a function": lambda a: strict.maximum(a, np.zeros(1)),
    "a NumPy array assigned": lambda a: a.__setitem__(0, np.zeros(1)),
    "assigned to a NumPy array": lambda a: np.zeros(1).__setitem__(0, a),
    "a NumPy index": lambda a: a[np.array([0])],
}


@pytest.mark.parametrize("touch", SILENT.values(), ids=SILENT)
def test_silent_trips_to_the_host_are_refused(touch):
    with pytest.raises((TypeError, ValueError)):
        result = touch(strict_backend.Array(np.ones(1)))
        if result is NotImplemented:
            raise TypeError("not implemented")


def test_it_offers_what_cupy_offers():
    pytest.importorskip("cupy")
    with pytest.raises(AttributeError):
        strict.nditer  # noqa: B018, NumPy has it and CuPy has not
    with pytest.raises(AttributeError):
        strict_backend.Array(np.ones(1)).tobytes_of_nothing  # noqa: B018


# The switch


def fake_cupy(devices=1, allocation=None):
    """What `import cupy` gives on machines in different states."""

    def count():
        if isinstance(devices, Exception):
            raise devices
        return devices

    def ones(*_, **__):
        if allocation is not None:
            raise allocation
        return strict_backend.Array(np.ones((2, 2), "float32"))

    module = types.ModuleType("cupy")
    module.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=count))
    module.ones, module.tanh, module.ndarray = ones, strict.tanh, strict_backend.Array
    module.asarray, module.random = strict.asarray, strict.random
    return module


BROKEN = {
    "no CuPy": (None, "cuda12"),
    "no driver": (fake_cupy(RuntimeError("CUDA driver version is insufficient")), "insufficient"),
    "no GPU": (fake_cupy(0), "no GPU"),
    "no CUDA libraries": (fake_cupy(allocation=RuntimeError("Failure:\nlibcublas.so.12")), "libcublas.*cuda12"),
}


@pytest.mark.parametrize(("module", "named"), BROKEN.values(), ids=BROKEN)
def test_what_is_missing_is_said_in_one_line(module, named, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cupy.cublas", module)
    with pytest.raises(mc.BackendError, match=named) as caught:
        mc.use("cupy")
    assert "\n" not in str(caught.value)
    assert mc.backend.active() is np
    assert mc.use("auto") == "numpy"


def test_a_gpu_that_works_is_taken(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    monkeypatch.setitem(sys.modules, "cupy.cublas", fake_cupy())
    try:
        assert mc.use("auto") == mc.use("cupy") == "cupy"
    finally:
        mc.use("numpy")


def test_an_unknown_backend_is_refused():
    with pytest.raises(mc.BackendError, match=re.escape("'numpy', 'cupy' or 'auto'")):
        mc.use("abacus")


def test_the_environment_variable_chooses():
    code = "import minicnn as mc; print(mc.backend.active().__name__)"
    for value, expected in (("numpy", "numpy"), ("auto", None)):
        done = subprocess.run(
            [sys.executable, "-c", code], env={"MINICNN_BACKEND": value}, capture_output=True, text=True
        )
        assert done.returncode == 0 and (expected is None or done.stdout.strip() == expected)
    done = subprocess.run(
        [sys.executable, "-c", code], env={"MINICNN_BACKEND": "abacus"}, capture_output=True, text=True
    )
    assert "abacus" in done.stderr


def test_a_model_of_one_backend_and_an_array_of_the_other_is_refused(device):
    layer = built(lambda: mc.Dense(2), (3,), "float32")
    with pytest.raises(mc.InputError, match="to_device"):
        layer.forward(np.zeros((1, 3), "float32"))


# From the host, batch by batch


def test_a_set_that_stays_on_the_host_is_sent_ahead(device, rng):
    """Every batch arrives whole, the next is under way before it is used, and memory in use is not written to."""
    x = rng.integers(0, 256, (23, 1, 2, 2), dtype=np.uint8)
    batches = [slice(start, start + 5) for start in range(0, 23, 5)]
    strict_backend.streams.clear()
    strict_backend.host_waits.clear()
    computing, before = strict.cuda.get_current_stream(), len(strict.cuda.get_current_stream().waits)
    sent = mc.backend.fed(x, batches)
    for number, (rows, batch) in enumerate(zip(batches, sent, strict=True), start=1):
        np.testing.assert_array_equal(batch._values, x[rows])
        (copying,) = strict_backend.streams
        assert len(copies) == min(number + 1, len(batches))  # the next, too
        assert len(computing.waits) - before == number
        # The first two find new memory; from then on a copy waits until the last but one batch has been used.
        assert len(copying.waits) == len(copies) and all(event.stream is computing for event in copying.waits)
        # And the host waits for nothing but for the last but one copy, before it writes into the same memory.
        assert len(strict_backend.host_waits) == max(0, len(copies) - 2)
    assert len(set(map(id, copying.waits))) == len(batches)


def test_a_run_that_is_cut_leaves_no_copy_under_way(device, rng):
    sent = mc.backend.fed(rng.random((20, 3)), [slice(0, 8), slice(8, 16), slice(16, 20)])
    next(sent)
    strict_backend.streams.clear()
    sent.close()
    (copying,) = {event.stream for event in strict.cuda.get_current_stream().waits[-1:]}
    assert not any(copying.pending)


def test_a_run_from_the_host_is_the_run_on_the_device(device, monkeypatch):
    losses = []
    for free in (2**30, 1):
        monkeypatch.setitem(strict_backend.memory, "free", free)
        x, y = small_set(50)
        losses.append(small_model(dropout=True).fit(x, y, 2, 16, mc.Adam(), validation_split=0.2, verbose=False))
    assert losses[0]["loss"] == losses[1]["loss"] and losses[0]["val_loss"] == losses[1]["val_loss"]


# Kernels


def step(name, x, labels):
    """A training step of a network of the lab on the device, as a function of nothing."""
    model, optimizer = getattr(mc.networks, name)(), mc.Adam() if name == "lenet5" else mc.SGD(0.01)
    x, labels, loss_function = strict.asarray(x), strict.asarray(labels), mc.SoftmaxCrossEntropy()

    def take():
        logits, backward = model.forward(x, training=True)
        _, dlogits = loss_function.compute(logits, labels)
        backward(dlogits, input_gradient=False)
        optimizer.step(model.parameters())

    return take


# For scale: the layers, losses and optimizers as plain array code take 309 in LeNet-5.
@pytest.mark.parametrize(("name", "kernels"), [("lenet5", 95), ("conv_pool", 50), ("two_conv", 56)])
def test_a_training_step_takes_few_kernels_and_reads_memory_as_it_lies(name, kernels, device, rng):
    """CuPy lays results out in C order: a layer must compute on the order that its batches have in memory."""
    take = step(name, rng.random((8, 1, 28, 28), dtype="float32"), rng.integers(0, 10, 8))
    take()
    strict_backend.launches.clear()
    strict_backend.against_order.clear()
    take()
    assert len(strict_backend.launches) == kernels
    small = {(8, 10), (10, 8)} | {p.value.shape for p in getattr(mc.networks, name)().parameters().values()}
    assert {shape for _, shape in strict_backend.against_order} <= small  # the logits, and the kernels' gradients


def test_adam_is_one_kernel_a_parameter(device):
    model = small_model()
    x, y = small_set(16)
    logits, backward = model.forward(strict.asarray(x), training=True)
    backward(mc.SoftmaxCrossEntropy()(logits, y)[1])
    strict_backend.launches.clear()
    mc.Adam().step(model.parameters())
    assert strict_backend.launches.count("Adam__rule") == len(model.parameters())
    assert set(strict_backend.launches) <= {"Adam__rule", "copy", "matmul", "zeros_like"}


ACTIVATIONS = pytest.mark.parametrize("layer", [mc.ReLU(), mc.Tanh(), mc.Sigmoid()], ids=repr)


@ACTIVATIONS
def test_an_activation_is_one_kernel_with_the_bias_before_it_and_one_back(layer, device, rng):
    x = rng.normal(size=(3, 2, 5, 5)).astype("float32")
    before = [mc.Conv2D(4, 3), mc.Flatten(), mc.Dense(5)]
    model = mc.Sequential([before[0], layer, before[1], before[2], type(layer)()], input_shape=(2, 5, 5))
    for item in (before[0], before[2]):
        item.bias.value[...] = strict.asarray(rng.normal(size=item.bias.value.shape))
    strict_backend.launches.clear()
    y, backward = model.forward(strict.asarray(x))
    name = type(layer).__name__
    assert strict_backend.launches.count(f"_plus_{name}_value") == 2
    assert "add" not in strict_backend.launches and f"{name}_value" not in strict_backend.launches
    backward(y)
    assert strict_backend.launches.count(f"{name}_gradient") == 2
    expected = strict.asarray(x)
    for item in model.layers:
        expected = item(expected)
    np.testing.assert_allclose(y.get(), expected.get(), rtol=1e-6, atol=1e-7)
    assert np.abs(before[0].bias.grad.get()).max() > 0


def test_a_bias_is_left_only_to_an_activation_of_the_librarys(device, rng):
    """A layer of the user's own before or behind may do anything, and gets what it always gets."""

    class Own(mc.layers.Activation):
        def forward(self, x, training=False):
            return x * 2, lambda dy: dy * 2

    class OwnDense(mc.Dense):
        def forward(self, x, training=False):
            return super().forward(x, training)

    x = strict.asarray(rng.normal(size=(2, 3)).astype("float32"))
    for layers in ([mc.Dense(4), Own()], [OwnDense(4), mc.ReLU()], [mc.Dense(4, use_bias=False), mc.ReLU()]):
        model = mc.Sequential(layers, input_shape=(3,))
        if layers[0].bias is not None:
            layers[0].bias.value[...] = 3
        np.testing.assert_array_equal(model(x).get(), layers[1](layers[0](x)).get())


def test_what_is_fused_lies_in_memory_like_its_arguments(device, rng):
    def both(xp, x, y):
        return x * 2 + y

    x, y = (rng.normal(size=(3, 4, 5)) for _ in range(2))
    for turn, back in ((mc.backend.batch_first, mc.backend.batch_last), (lambda a: a, lambda a: a)):
        there, beside = turn(strict.asarray(x)), turn(strict.asarray(y))
        strict_backend.against_order.clear()
        result = mc.backend.fused(both)(there, beside)
        assert back(result).flags.c_contiguous and strict_backend.against_order == []
        np.testing.assert_allclose(back(result).get(), x * 2 + y)


def test_cupy_makes_one_kernel_of_a_fused_function(monkeypatch):
    """CuPy traces a function without a device, and only fails to launch the kernel it has made."""
    cupy = pytest.importorskip("cupy")
    monkeypatch.setitem(mc.backend._namespaces, cupy.ndarray, cupy)

    def array(dtype="float32", shape=(4, 3)):
        memory = np.zeros(shape, dtype)
        owner = cupy.cuda.UnownedMemory(memory.ctypes.data, memory.nbytes, memory, 0)
        return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(owner, 0))

    def adam():
        optimizer = mc.Adam()
        optimizer.steps = 1
        optimizer.update(array(), array(), *optimizer.numbers(), array(), array())

    def step():
        parameter = mc.parameter.Parameter(array())
        parameter.add_gradient(array())
        parameter.add_to_value(-0.01)

    loss, pool = mc.SoftmaxCrossEntropy._surprise_and_gradient, mc.MaxPool2D._challenge
    fused = mc.backend.fused
    calls = {
        "Adam__rule": adam,
        "_add_scaled": step,
        "SoftmaxCrossEntropy__surprise_and_gradient": lambda: fused(loss)(
            array(), array(), array(shape=(4, 1)), array(), 4.0
        ),
        "MaxPool2D__challenge": lambda: fused(pool)(array(), array("uint8"), array(), np.uint8(3)),
        "MaxPool2D__won": lambda: fused(mc.MaxPool2D._won)(array(), array("uint8"), np.uint8(3)),
        "_masked": lambda: fused(mc.layers.regularisation._masked)(array(), array()),
    }
    for layer in (mc.ReLU, mc.Tanh, mc.Sigmoid):
        name, plus = layer.__name__, mc.layers.activations._plus
        calls[f"{name}_value"] = functools.partial(fused(layer.value), array())
        calls[f"{name}_gradient"] = functools.partial(fused(layer.gradient), array(), array())
        calls[f"_plus_{name}_value"] = functools.partial(fused(plus, layer.value), array(), array(shape=(1, 3)))
    for name, call in calls.items():
        monkeypatch.setattr(mc.backend, "_kernels", {})
        with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):  # no device
            call()
        (fusion,) = mc.backend._kernels.values()
        ((kernel, *_),) = fusion._memo.values()
        assert isinstance(kernel, cupy.ElementwiseKernel) and kernel.name == name
        variables = re.findall(r"^(?!const)(\w+) v\d+(?:_\d+)?[;=]", kernel.operation, re.MULTILINE)
        allowed = {"float", "bool"} | ({"unsigned char"} if name == "MaxPool2D__challenge" else set())
        assert set(variables) <= allowed, (name, variables)  # nothing is computed in another precision
        assert "float" in variables or name == "MaxPool2D__challenge"


ORDERS = {
    "by rows": lambda a: a,
    "by columns": lambda a: np.asfortranarray(a),
    "apart": lambda a: np.repeat(np.repeat(a, 2, axis=0), 2, axis=1)[::2, ::2],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("of_the_library", [True, False], ids=["cublas", "gemm of CuPy"])
def test_a_product_on_the_device(of_the_library, dtype, device, rng, monkeypatch):
    """In whatever order the matrices lie, new, into an array, and added to one."""
    if not of_the_library:  # as on ROCm
        monkeypatch.setattr("minicnn.products.cublas", lambda xp: None)
    a, b, c = (rng.normal(size=shape).astype(dtype) for shape in ((5, 7), (7, 3), (5, 3)))
    for left, right in itertools.product(ORDERS.values(), ORDERS.values()):
        there = strict_backend.Array(left(a)), strict_backend.Array(right(b))
        np.testing.assert_allclose(mc.products.device_product(*there).get(), a @ b, rtol=1e-4)
        for place in ORDERS.values():
            out = strict_backend.Array(place(np.full_like(c, np.nan)))
            mc.products.device_product(*there, out)
            np.testing.assert_allclose(out.get(), a @ b, rtol=1e-4)
        out = strict_backend.Array(c.copy())
        mc.products.add_product(out, *there, factor=-0.5)
        np.testing.assert_allclose(out.get(), c - 0.5 * (a @ b), rtol=1e-4, atol=1e-5)
        mc.products.add_product(out, *there, factor=0.5, keep=3.0)
        np.testing.assert_allclose(out.get(), 3 * c - (a @ b), rtol=1e-4, atol=1e-5)


def test_an_error_of_cublas_is_told(device, monkeypatch):
    broken = strict_backend.cublas | {"f": (lambda *_: 13, strict_backend.cublas["f"][1])}
    monkeypatch.setattr("minicnn.products.cublas", lambda xp: broken)
    x = strict.asarray(np.ones((2, 3), "float32"))
    with pytest.raises(mc.BackendError, match=r"error 13 for a product of \(2, 3\) and \(3, 2\)"):
        mc.products.device_product(x, x.T)
