"""The backends compute the same; and on a strict stand-in for the device, what reaches it and how many kernels run."""

import contextlib
import functools
import itertools
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import strict_backend
from device_cases import explained, weights_after
from layer_cases import all_layers, built
from strict_backend import copies, strict
from test_training import small_model, small_set

import minicnn as mc
from minicnn.backends.cupy import CupyOperations, fusion, updates
from minicnn.backends.cupy.cublas import matmul
from minicnn.backends.cupy.gradients import LowRank
from minicnn.backends.cupy.layout import batch_first, batch_last
from minicnn.backends.cupy.pooling import _compare, _route
from minicnn.backends.cupy.transfer import prefetch

BACKENDS = ("plain", "numpy", "the stand-in")


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr("minicnn.backends.cupy.cublas.find_cublas", lambda xp: strict_backend.cublas)
    monkeypatch.setattr("minicnn.backends.cupy.recording.find_cublas", lambda xp: strict_backend.cublas)
    mc.use(CupyOperations(strict))
    copies.clear()
    yield strict
    mc.use("numpy")


def use(backend):
    mc.use(CupyOperations(strict) if backend == "the stand-in" else backend)


# All backends


@all_layers
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_layer_computes_the_same_on_every_backend(make, shape, dtype, device, rng):
    x = rng.normal(size=(3, *shape)).astype(dtype)
    found = {}
    for backend in BACKENDS:
        use(backend)
        layer = built(make, shape, dtype)
        x_here = mc.to_device(x)
        y, backward = layer.forward(x_here)
        dy = mc.to_device(np.random.default_rng(1).normal(size=y.shape).astype(dtype))
        copies.clear()
        layer.forward(x_here)
        dx = backward(dy)
        assert copies == []
        assert y.dtype == dx.dtype == dtype
        arrays = {"y": y, "dx": dx} | {name: p.grad for name, p in layer.parameters().items()}
        found[backend] = {name: mc.to_numpy(array) for name, array in arrays.items()}
        layer.forward(x_here, training=True)[1](dy)
    winograd = "Conv2D(64" in repr(make())  # the backend "numpy" rounds differently there
    for backend in BACKENDS[1:]:
        tolerance = 1e-4 if winograd and backend == "numpy" else 1e-5
        for name, expected in found["plain"].items():
            here = found[backend][name]
            np.testing.assert_allclose(here, expected, rtol=tolerance, atol=tolerance / 2 * np.abs(expected).max())


@all_layers
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_right_on_every_backend(make, shape, backend, device, rng):
    use(backend)
    assert mc.gradcheck.check(make(), rng.normal(size=(2, *shape)), training=True).passed


NETWORKS = {
    "lenet5": (lambda: mc.networks.lenet5(), (1, 28, 28), lambda: mc.Adam()),
    "conv_pool": (lambda: mc.networks.conv_pool((1, 12, 12)), (1, 12, 12), lambda: mc.SGD(0.01)),
    "two_conv": (lambda: mc.networks.two_conv((1, 12, 12)), (1, 12, 12), lambda: mc.SGD(0.01, momentum=0.9)),
}


@pytest.mark.parametrize(("make", "shape", "optimizer"), NETWORKS.values(), ids=NETWORKS)
def test_ten_steps_are_the_same_on_every_backend(make, shape, optimizer, device, rng):
    x, y = rng.integers(0, 256, (40, *shape), dtype=np.uint8), rng.integers(0, 10, 40)
    found = {}
    for backend in BACKENDS:
        use(backend)
        model = make()
        history = model.fit(x, y, epochs=1, batch_size=4, optimizer=optimizer(), verbose=False)
        weights = {name: mc.to_numpy(p.value) for name, p in model.parameters().items()}
        found[backend] = history["loss"], weights, model.predict(x)
    loss, weights, probabilities = found["plain"]
    for backend in BACKENDS[1:]:
        assert found[backend][0] == pytest.approx(loss, rel=1e-5)
        for name, expected in weights.items():
            np.testing.assert_allclose(found[backend][1][name], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
        np.testing.assert_allclose(found[backend][2], probabilities, rtol=1e-3, atol=1e-5)


# The device


@pytest.mark.parametrize("budget", [2**20, 2**14, 2**12])
def test_a_convolution_on_the_device_by_tiles(budget, device, rng, monkeypatch):
    """All positions at once, some rows at a time, and pieces of rows: the loops' numbers."""
    monkeypatch.setattr("minicnn.im2col.BUDGET", budget)
    layer = mc.Conv2D(6, (3, 2), stride=(1, 2), padding=((1, 0), (2, 1)), groups=2)
    layer.build((4, 9, 8))
    x = rng.normal(size=(5, 4, 9, 8)).astype("float32")
    y, backward = layer.forward(strict.asarray(x))
    dx = backward(y)
    weight, bias = layer.weight.value.get(), layer.bias.value.get()
    expected = mc.layers.convolution_by_loops(x, weight, bias, layer.stride, layer.padding, groups=2)
    np.testing.assert_allclose(y.get(), expected, rtol=1e-4, atol=1e-5)
    gradient = layer.weight.grad.get()
    monkeypatch.undo()
    mc.use("plain")
    plain = mc.Conv2D(6, (3, 2), stride=(1, 2), padding=((1, 0), (2, 1)), groups=2)
    plain.build((4, 9, 8))
    _, backward = plain.forward(x)
    np.testing.assert_allclose(dx.get(), backward(expected), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, plain.weight.grad, rtol=1e-4, atol=1e-3)


def test_one_position_beyond_the_budget_is_refused(device, monkeypatch):
    monkeypatch.setattr("minicnn.im2col.BUDGET", 100)
    layer = built(lambda: mc.Conv2D(2, 3), (1, 5, 5), "float32")
    with pytest.raises(mc.InputError, match="BUDGET"):
        layer.forward(strict.asarray(np.zeros((2, 1, 5, 5), "float32")))


@pytest.mark.parametrize("dtype", ["uint8", "float64", "float32"])
def test_a_batch_gets_the_models_dtype_and_memory_layout(dtype, device, rng):
    x = rng.integers(0, 256, (5, 2, 4, 3)).astype(dtype)
    batch = mc.backends.current().batch(x, "float32")
    assert batch_last(batch).flags.c_contiguous and batch.dtype == "float32"
    np.testing.assert_allclose(batch.get(), x / 255 if dtype == "uint8" else x, rtol=1e-6)
    strict_backend.launches.clear()
    assert mc.backends.current().batch(batch, "float32").data.ptr == batch.data.ptr and not strict_backend.launches


def test_a_window_as_large_as_the_image_is_one_mean(device, rng):
    x = strict.asarray(rng.normal(size=(3, 2, 4, 5)))
    strict_backend.launches.clear()
    y, backward = mc.GlobalAvgPool2D().forward(x)
    backward(y)
    assert strict_backend.launches == ["mean", "mul"]


@pytest.mark.parametrize(("budget", "expected"), [(2**20, 10 * 9 * 36), (1440, 10 * 9 * 2)])
def test_the_bytes_of_a_convolution_are_those_of_its_columns(budget, expected, device, monkeypatch):
    """Two of six positions of a row fit into half of the budget."""
    monkeypatch.setattr("minicnn.im2col.BUDGET", budget)
    operations = mc.backends.current()
    assert operations.convolution_bytes((10, 1, 8, 8), 4, mc.im2col.Window(3), 1, 4) == 4 * expected


OPTIMIZERS = {
    "SGD": lambda: mc.SGD(0.05),
    "SGD with all": lambda: mc.SGD(
        mc.CosineDecay(0.05, steps=50), momentum=0.9, nesterov=True, weight_decay=1e-3, clip_norm=1.0
    ),
    "Adam": lambda: mc.Adam(0.01, weight_decay=0.01, clip_norm=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_run_on_the_device_is_the_run_on_the_host(device, optimizer):
    x, y = small_set(50)
    found = {}
    for backend in ("numpy", "the stand-in"):
        use(backend)
        model = small_model(dropout=True)
        start = {name: mc.to_numpy(p.value).copy() for name, p in model.parameters().items()}
        history = model.fit(x, y, epochs=3, batch_size=16, optimizer=optimizer(), validation_split=0.2, verbose=False)
        end = {name: mc.to_numpy(p.value) for name, p in model.parameters().items()}
        found[backend] = start, end, history["loss"], model.evaluate(x, y), model.predict(x)
        assert all(mc.backends.current().owns(p.value) for p in model.parameters().values())
    host, there = found["numpy"], found["the stand-in"]
    for name in host[0]:
        np.testing.assert_array_equal(host[0][name], there[0][name])  # the same bits to start from
        np.testing.assert_allclose(host[1][name], there[1][name], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(host[2], there[2], rtol=1e-4)
    np.testing.assert_allclose(host[3], there[3], rtol=1e-4)
    np.testing.assert_allclose(host[4], there[4], rtol=1e-3, atol=1e-6)
    assert isinstance(there[4], np.ndarray)


def test_losses_on_the_device(device, rng):
    logits, labels = rng.normal(size=(5, 4)), np.array([3, 0, 1, 1, 2])
    mc.use("plain")
    expected, gradient = mc.SoftmaxCrossEntropy()(logits, labels)
    mc.use(CupyOperations(strict))
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
        small_model().fit(x, y + 1, epochs=1, verbose=False)


@pytest.mark.parametrize("fits", [True, False])
def test_what_crosses_between_host_and_device(device, fits, monkeypatch):
    """The data set once, or a batch at a time; back come a few numbers at the hundredth batch and an epoch's end."""
    monkeypatch.setitem(strict_backend.memory, "free", 2**30 if fits else 1000)
    x, y = small_set(480)
    model = small_model()
    model.fit(x[:16], y[:16], epochs=1, batch_size=16, verbose=False)
    copies.clear()
    model.fit(x, y, epochs=1, batch_size=16, verbose=False)
    there = [shape for way, shape in copies if way == "to device"]
    back = [shape for way, shape in copies if way == "to host"]
    first = (1, 1, 8, 8)  # which is checked before all work, and builds what is not built
    if fits:
        assert there == [first, x.shape, y.shape, (480,)]  # and the order of the epoch's batches
    else:
        assert sorted(there) == sorted([first] * 2 + [(16, 1, 8, 8), (16,)] * 30)
    assert len(back) <= 10 + 3 * len(model.parameters())  # not one a batch


def test_a_validation_set_crosses_once(device):
    x, y = small_set(120)
    for options in ({"validation_split": 0.25}, {"validation_data": (x[:30], y[:30])}):
        copies.clear()
        small_model().fit(x, y, epochs=3, batch_size=16, verbose=False, **options)
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
    mc.use(CupyOperations(strict))
    np.testing.assert_allclose(mc.load(tmp_path / "host.npz").predict(x), there, rtol=1e-5)


def test_a_run_is_resumed_on_the_device(device, tmp_path):
    uninterrupted = weights_after(4, tmp_path / "uninterrupted.npz", False, images=40, batch_size=8)
    weights_after(2, tmp_path / "stopped.npz", False, images=40, batch_size=8)
    resumed = weights_after(4, tmp_path / "stopped.npz", True, images=40, batch_size=8)
    for a, b in zip(uninterrupted, resumed, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_is_explained_as_on_the_host(device, rng):
    image = rng.integers(0, 256, (28, 28), dtype=np.uint8)
    for host, there in zip(*explained(image, ("numpy", mc.backends.current())), strict=True):
        np.testing.assert_allclose(there, host, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_a_rule_of_the_users_own_gets_arrays_of_the_device(clip_norm, device, rng):
    class SignDescent(mc.optimizers.Optimizer):
        def update(self, w, g, t, learning_rate):
            assert isinstance(w, strict.ndarray) and isinstance(g, strict.ndarray)
            g *= 2  # which it may overwrite
            w -= learning_rate * np.sign(g)

    value, gradient = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    parameter = mc.Parameter(strict.asarray(value))
    there = strict.asarray(gradient)
    parameter.add_gradient(there)
    SignDescent(0.5, clip_norm=clip_norm).step({"w": parameter})
    np.testing.assert_array_equal(there.get(), gradient)
    np.testing.assert_allclose(parameter.value.get(), value - 0.5 * np.sign(gradient))


@pytest.mark.parametrize("dense", [0, 1, 2])
@pytest.mark.parametrize("low_rank", [0, 1, 2])
def test_gradients_of_several_backward_passes(dense, low_rank, device, rng):
    """Products stay factors; the norm and the total are those of the sum, and every rule applies it."""
    arrays = [rng.normal(size=(20, 30)) for _ in range(dense)]
    factors = [(rng.normal(size=(20, 2)), rng.normal(size=(2, 30))) for _ in range(low_rank)]
    expected = sum(arrays) + sum(a @ b for a, b in factors)
    if not dense + low_rank:
        return
    rules = [
        mc.SGD(0.1),
        mc.SGD(0.1, weight_decay=0.5, clip_norm=0.5),
        mc.SGD(0.1, momentum=0.9, weight_decay=0.5, clip_norm=0.5),
        mc.Adam(),
    ]
    for rule in rules:
        values = []
        for backend in ("plain", "the stand-in"):
            use(backend)
            parameter = mc.Parameter(mc.to_device(np.ones((20, 30))))
            for array in arrays if backend == "the stand-in" else [expected]:
                parameter.add_gradient(mc.to_device(array))
            for left, right in factors if backend == "the stand-in" else []:
                parameter.add_gradient(LowRank(strict, strict.asarray(left), strict.asarray(right)))
            norm = mc.optimizers.gradient_norm({"w": parameter})
            assert float(mc.to_numpy(norm)) == pytest.approx(np.linalg.norm(expected))
            np.testing.assert_allclose(mc.to_numpy(parameter.grad), expected, rtol=1e-9)
            rule.step({"w": parameter})
            values.append(mc.to_numpy(parameter.value))
        np.testing.assert_allclose(*values, rtol=1e-9)


# The stand-in is strict

SILENT = {
    "float": float,
    "int": int,
    "a truth value": bool,
    "an index": lambda a: [0, 1][a],
    "iteration": list,
    "np.asarray": np.asarray,
    "np.array": np.array,
    "a NumPy array added": lambda a: a + np.zeros(1),
    "added to a NumPy array": lambda a: np.zeros(1) + a,
    "multiplied into a NumPy array": lambda a: np.ones(1).__imul__(a),
    "a NumPy array in a function": lambda a: strict.maximum(a, np.zeros(1)),
    "a NumPy array in a function of NumPy": lambda a: np.maximum(a, np.zeros(1)),
    "a NumPy array in a list": lambda a: np.concatenate([a, np.zeros(1)]),
    "a NumPy array as the output": lambda a: np.exp(a, out=np.zeros(1)),
    "a NumPy array assigned": lambda a: a.__setitem__(0, np.zeros(1)),
    "assigned to a NumPy array": lambda a: np.zeros(1).__setitem__(0, a),
    "a NumPy index": lambda a: a[np.array([0])],
    "a function that CuPy does not have": lambda a: np.busday_count(a, a),
    "a function without the protocol": lambda a: np.lib.stride_tricks.as_strided(a, (1,), (8,)),
    "a matrix product by NumPy's name": lambda a: np.matmul(a, a),
    "a ufunc's method": np.add.reduce,
}


@pytest.mark.parametrize("touch", SILENT.values(), ids=SILENT)
def test_silent_copies_to_the_host_are_refused(touch):
    with pytest.raises((TypeError, ValueError)):
        result = touch(strict_backend.Array(np.ones(1)))
        if result is NotImplemented:
            raise TypeError("not implemented")


#: What the core and formulas of users call on arrays of any backend.
DISPATCHED = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sign": np.sign,
    "maximum": lambda a: np.maximum(a, 0.5),
    "maximum of scalars": lambda a: np.maximum(np.float32(0.5), a),
    "divide": lambda a: np.divide(a, 255, dtype="float32"),
    "where": lambda a: np.where(a > 1, a, 0),
    "zeros_like": lambda a: np.zeros_like(a, shape=(3, 2)),
    "ones_like": lambda a: np.ones_like(a),
    "full_like": lambda a: np.full_like(a, -np.inf, order="C", shape=(3, 2)),
    "arange": lambda a: np.arange(3, like=a),
    "broadcast_to": lambda a: np.broadcast_to(a, (2, 2, 2)),
    "concatenate": lambda a: np.concatenate([a, a]),
    "sum": lambda a: np.sum(a, axis=1),
}


@pytest.mark.parametrize("call", DISPATCHED.values(), ids=DISPATCHED)
def test_numpys_functions_run_on_the_device(call):
    values = np.array([[0.25, 2.0], [1.0, 3.0]])
    copies.clear()
    result = call(strict_backend.Array(values))
    assert isinstance(result, strict_backend.Array) and copies == []
    np.testing.assert_array_equal(result.get(), call(values))


def test_cupy_implements_the_protocols_as_the_stand_in():
    """Without a device CuPy finds the function, and only fails to launch it."""
    cupy = pytest.importorskip("cupy")
    a = cupy_array(cupy, shape=(2, 2))
    for name, call in DISPATCHED.items():
        try:
            assert isinstance(call(a), cupy.ndarray), name
        except cupy.cuda.runtime.CUDARuntimeError:
            continue
    for name in ("a function that CuPy does not have", "a function without the protocol", "np.asarray"):
        with pytest.raises(TypeError):
            SILENT[name](a)


def cupy_array(cupy, dtype="float32", shape=(4, 3)):
    """An array of CuPy whose memory is the host's: nothing can be computed with it."""
    memory = np.zeros(shape, dtype)
    owner = cupy.cuda.UnownedMemory(memory.ctypes.data, memory.nbytes, memory, 0)
    return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(owner, 0))


def test_it_offers_what_cupy_offers():
    pytest.importorskip("cupy")
    with pytest.raises(AttributeError):
        strict.nditer  # noqa: B018, NumPy has it and CuPy does not
    with pytest.raises(AttributeError):
        strict_backend.Array(np.ones(1)).tobytes_of_nothing  # noqa: B018


# The switch


def fake_cupy(devices=1, allocation=None):
    """What `import cupy` returns on machines in different states."""

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
def test_what_is_missing_is_reported_in_one_line(module, named, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cupy.cublas", module)
    with pytest.raises(mc.BackendError, match=named) as caught:
        mc.use("cupy")
    assert "\n" not in str(caught.value)
    assert mc.backends.current().name == "numpy"
    assert mc.use("auto") == "numpy"


def test_a_gpu_that_works_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    monkeypatch.setitem(sys.modules, "cupy.cublas", fake_cupy())
    try:
        assert mc.use("auto") == mc.use("cupy") == "cupy"
    finally:
        mc.use("numpy")


def test_an_unknown_backend_is_refused():
    with pytest.raises(mc.BackendError, match=re.escape("'plain', 'numpy', 'cupy', 'auto'")):
        mc.use("abacus")


def test_the_environment_variable_chooses():
    code = "import minicnn as mc; print(mc.backends.current().name)"
    for value, expected in (("plain", "plain"), ("numpy", "numpy"), ("auto", None)):
        done = subprocess.run(
            [sys.executable, "-c", code], env={"MINICNN_BACKEND": value}, capture_output=True, text=True
        )
        assert done.returncode == 0 and (expected is None or done.stdout.strip() == expected)
    done = subprocess.run(
        [sys.executable, "-c", code], env={"MINICNN_BACKEND": "abacus"}, capture_output=True, text=True
    )
    assert "abacus" in done.stderr


def test_a_model_is_moved_between_backends_with_all_that_it_holds(device, rng):
    x = rng.random((3, 1, 8, 8), dtype="float32")
    mc.use("numpy")
    model = small_model(dropout=True)
    expected = model.predict(x)
    use("the stand-in")
    model.convert()
    assert all(mc.backends.current().owns(parameter.value) for parameter in model.parameters().values())
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5)
    mc.use("numpy")
    model.convert()
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5)


def test_a_model_of_one_backend_and_an_array_of_the_other_is_refused(device):
    layer = built(lambda: mc.Dense(2), (3,), "float32")
    with pytest.raises(mc.InputError, match="to_device"):
        layer.forward(np.zeros((1, 3), "float32"))


# From main memory, batch by batch


def test_a_set_in_main_memory_is_prefetched(device, rng):
    """Every batch arrives complete, the next is copied before it is used, and memory in use is not written to."""
    x = rng.integers(0, 256, (23, 1, 2, 2), dtype=np.uint8)
    batches = [slice(start, start + 5) for start in range(0, 23, 5)]
    strict_backend.streams.clear()
    strict_backend.host_waits.clear()
    computing, before = strict.cuda.get_current_stream(), len(strict.cuda.get_current_stream().waits)
    prefetched = prefetch(strict, (x[rows] for rows in batches))
    for number, (rows, batch) in enumerate(zip(batches, prefetched, strict=True), start=1):
        np.testing.assert_array_equal(batch._values, x[rows])
        (copying,) = strict_backend.streams
        assert len(copies) == min(number + 1, len(batches))  # the next, too
        assert len(computing.waits) - before == number
        # The first two find new memory; from then on a copy waits until the last but one batch has been used.
        assert len(copying.waits) == len(copies) and all(event.stream is computing for event in copying.waits)
        # And the host waits for nothing but for the last but one copy, before it writes into the same memory.
        assert len(strict_backend.host_waits) == max(0, len(copies) - 2)
    assert len(set(map(id, copying.waits))) == len(batches)


def test_a_run_that_is_stopped_leaves_no_copy_under_way(device, rng):
    x = rng.random((20, 3))
    prefetched = prefetch(strict, (x[rows] for rows in (slice(0, 8), slice(8, 16), slice(16, 20))))
    next(prefetched)
    strict_backend.streams.clear()
    prefetched.close()
    (copying,) = {event.stream for event in strict.cuda.get_current_stream().waits[-1:]}
    assert not any(copying.pending)


def test_a_set_is_kept_on_the_device_up_to_a_quarter_of_the_free_memory(device, monkeypatch):
    operations, x = mc.backends.current(), np.zeros(100, "uint8")
    monkeypatch.setitem(strict_backend.memory, "free", 399)
    assert operations.keep(x) is x
    monkeypatch.setitem(strict_backend.memory, "free", 400)
    assert operations.owns(operations.keep(x))
    monkeypatch.setitem(strict_backend.memory, "free", 0)
    there = strict.asarray(x)
    assert operations.keep(there) is there


def test_rows_are_taken_wherever_the_set_and_the_indices_are(device, rng):
    x, rows = rng.random((20, 3)), np.array([4, 1, 19])
    operations = mc.backends.current()
    batches = [rows, np.array([7, 2])]
    for kept in (x, strict.asarray(x)):
        copies.clear()
        strict_backend.streams.clear()
        for selected, batch in zip(batches, operations.batches(kept, batches), strict=True):
            np.testing.assert_array_equal(batch._values, x[selected])
            labels = operations.take(strict.asarray(x[:, 0]), selected)  # with the same indices
            np.testing.assert_array_equal(labels._values, x[selected, 0])
        assert kept is x or [shape for _, shape in copies].count((5,)) == 1  # the indices of all batches, once
        assert len(strict_backend.streams) == (kept is x)  # of the copies that are made ahead of time
        for selected in (rows, strict.asarray(rows), slice(2, 5)):
            batch = operations.to_numpy(operations.take(kept, selected))
            np.testing.assert_array_equal(batch, x[selected if isinstance(selected, slice) else rows])


def test_a_run_from_the_host_is_the_run_on_the_device(device, monkeypatch):
    losses = []
    for free in (2**30, 1):
        monkeypatch.setitem(strict_backend.memory, "free", free)
        x, y = small_set(50)
        losses.append(
            small_model(dropout=True).fit(
                x, y, epochs=2, batch_size=16, optimizer=mc.Adam(), validation_split=0.2, verbose=False
            )
        )
    assert losses[0]["loss"] == losses[1]["loss"] and losses[0]["val_loss"] == losses[1]["val_loss"]


# Kernels


def training_step(name, x, labels):
    """A training step of a network of the lab on the device, as a function without arguments."""
    model, optimizer = getattr(mc.networks, name)(), mc.Adam() if name == "lenet5" else mc.SGD(0.01)
    x, labels, loss_function = strict.asarray(x), strict.asarray(labels), mc.SoftmaxCrossEntropy()

    def step():
        logits, backward = model.forward(x, training=True)
        _, dlogits = loss_function.compute(logits, labels)
        backward(dlogits, input_gradient=False)
        optimizer.step(model.parameters())

    return step


# For scale: the layers, losses and optimizers as array code take 309 in LeNet-5.
@pytest.mark.parametrize(("name", "kernels"), [("lenet5", 87), ("conv_pool", 50), ("two_conv", 55)])
def test_a_training_step_is_few_kernels_that_follow_the_memory_layout(name, kernels, device, rng):
    """CuPy lays results out in C order: a layer must compute on the layout that its batches have."""
    step = training_step(name, rng.random((8, 1, 28, 28), dtype="float32"), rng.integers(0, 10, 8))
    step()
    strict_backend.launches.clear()
    strict_backend.against_layout.clear()
    step()
    assert len(strict_backend.launches) == kernels
    assert {shape for _, shape in strict_backend.against_layout} <= {(8, 10), (10, 8)}  # the logits


RULES = {
    "_adam": lambda: mc.Adam(weight_decay=0.1),
    "_momentum": lambda: mc.SGD(momentum=0.9, weight_decay=0.1),
    "_nesterov": lambda: mc.SGD(momentum=0.9, nesterov=True),
    "_subtract": lambda: mc.SGD(weight_decay=0.1),
}


@pytest.mark.parametrize(("name", "make"), RULES.items(), ids=RULES)
def test_an_optimizer_is_one_kernel_a_parameter(name, make, device):
    model = small_model()
    x, y = small_set(16)
    logits, backward = model.forward(strict.asarray(x), training=True)
    backward(mc.SoftmaxCrossEntropy()(logits, y)[1])
    optimizer = make()
    strict_backend.launches.clear()
    optimizer.step(model.parameters())
    assert strict_backend.launches.count(name) == len(model.parameters())
    assert set(strict_backend.launches) <= {name, "zeros_like"}


@pytest.mark.parametrize("layer", [mc.ReLU(), mc.Tanh(), mc.Sigmoid()], ids=repr)
def test_an_activation_is_one_kernel_with_the_bias_before_it_and_one_backward(layer, device, rng):
    x = rng.normal(size=(3, 2, 5, 5)).astype("float32")
    before = [mc.Conv2D(4, 3), mc.Flatten(), mc.Dense(5)]
    model = mc.Sequential([before[0], layer, before[1], before[2], type(layer)()], input_shape=(2, 5, 5))
    for item in (before[0], before[2]):
        item.bias.value[...] = strict.asarray(rng.normal(size=item.bias.value.shape))
    strict_backend.launches.clear()
    y, backward = model.forward(strict.asarray(x))
    name = type(layer).__name__
    assert strict_backend.launches.count(f"_add_{name}_value") == 2
    assert "add" not in strict_backend.launches and f"{name}_value" not in strict_backend.launches
    backward(y)
    assert strict_backend.launches.count(f"{name}_gradient") == 2
    expected = strict.asarray(x)
    for item in model.layers:
        expected = item(expected)
    np.testing.assert_allclose(y.get(), expected.get(), rtol=1e-6, atol=1e-7)
    assert np.abs(before[0].bias.grad.get()).max() > 0


class OwnForward(mc.layers.Activation):
    def forward(self, x, training=False):
        return x * 2, lambda dy: dy * 2


class OwnDense(mc.Dense):
    def forward(self, x, training=False):
        y, backward = super().forward(x, training)
        return y * 2, lambda dy: backward(dy * 2)


class Cube(mc.layers.Activation):
    """Its gradient needs the input, with the bias."""

    @staticmethod
    def value(x):
        return x * x * x

    @staticmethod
    def gradient(dy, x, y):
        return dy * 3 * x * x


class Twice(mc.layers.Activation):
    """The same formula on its input twice: the bias belongs to both."""

    gradient_needs_input = False

    def __init__(self):
        self.inner = mc.ReLU()

    def forward(self, x, training=False):
        y, backward = self.inner.forward(x, training)
        return y + x, lambda dy: backward(dy) + dy


BIAS = {
    "a forward of its own": lambda: [mc.Dense(4), OwnForward()],
    "a dense layer of the user's own": lambda: [OwnDense(4), mc.ReLU()],
    "no bias": lambda: [mc.Dense(4, use_bias=False), mc.ReLU()],
    "a gradient that needs the input": lambda: [mc.Dense(4), Cube()],
    "an activation inside": lambda: [mc.Dense(4), Twice()],
    "an activation of the library": lambda: [mc.Dense(4), mc.Sigmoid()],
    "no activation": lambda: [mc.Dense(4), mc.Dense(4), mc.Dropout(0.5)],
}


@pytest.mark.parametrize("make", BIAS.values(), ids=BIAS)
def test_a_bias_is_added_once_whatever_follows(make, device, rng):
    x, dy = rng.normal(size=(3, 5)), rng.normal(size=(3, 4))
    found = []
    for backend in ("plain", "the stand-in"):
        use(backend)
        model = mc.Sequential(make(), input_shape=(5,), dtype="float64")
        for name, parameter in model.parameters().items():
            if name.endswith("bias"):
                parameter.value[...] = mc.to_device(np.arange(1.0, 5))
        y, backward = model.forward(mc.to_device(x))
        arrays = [y, backward(mc.to_device(dy)), *(p.grad for p in model.parameters().values())]
        found.append([mc.to_numpy(array) for array in arrays])
    for expected, here in zip(*found, strict=True):
        np.testing.assert_allclose(here, expected, rtol=1e-12, atol=1e-12)


def test_an_error_between_a_layer_and_its_activation_leaves_no_bias(device, rng):
    class Broken(mc.ReLU):
        broken = False

        def check_input(self, x, ndim=None, features=None):
            if self.broken:
                raise mc.InputError("broken")

    dense = mc.Dense(4, bias_initializer=lambda shape, rng, dtype: np.ones(shape, dtype))
    model = mc.Sequential([dense, Broken()], input_shape=(3,))
    model.layers[1].broken = True
    x = strict.asarray(np.zeros((2, 3), "float32"))
    with pytest.raises(mc.InputError, match="broken"):
        model(x)
    np.testing.assert_array_equal(mc.ReLU()(x).get(), np.zeros((2, 3)))
    np.testing.assert_array_equal(dense(x).get(), np.ones((2, 4)))


def test_a_layer_that_refused_its_input_adds_its_bias_later(device):
    dense = mc.Dense(4, bias_initializer=lambda shape, rng, dtype: np.ones(shape, dtype))
    model = mc.Sequential([dense, mc.ReLU()], input_shape=(3,))
    dense.convert("float64")
    with pytest.raises(mc.InputError, match="float64"):
        model(np.zeros((2, 3), "float32"))
    np.testing.assert_array_equal(dense(strict.asarray(np.zeros((2, 3)))).get(), np.ones((2, 4)))


def test_what_is_fused_keeps_the_memory_layout_of_its_arguments(device, rng):
    def formula(x, y, factor):
        return x * factor + y, np.maximum(x, y)

    x, y = (rng.normal(size=(3, 4, 5)).astype("float32") for _ in range(2))
    for view, inverse in ((batch_first, batch_last), (lambda a: a, lambda a: a)):
        there, beside = view(strict.asarray(x)), view(strict.asarray(y))
        strict_backend.against_layout.clear()
        strict_backend.launches.clear()
        results = mc.backends.current().elementwise(formula, there, beside, 2.0)
        assert len(strict_backend.launches) == 1 and strict_backend.against_layout == []
        for result, expected in zip(results, (x * 2 + y, np.maximum(x, y)), strict=True):
            assert inverse(result).flags.c_contiguous and result.dtype == "float32"
            np.testing.assert_array_equal(inverse(result).get(), expected)


def test_a_formula_that_may_change_is_not_compiled(device):
    """A closure computes with numbers that are not among its arguments: the second call is another function."""
    x = strict.asarray(np.array([1.0, -2.0]))
    for factor in (2.0, 3.0):
        result = mc.backends.current().elementwise(lambda x, factor=factor: np.maximum(x, 0) * factor, x)
        np.testing.assert_array_equal(result.get(), [factor, 0])
        bound = types.MethodType(lambda self, x: np.maximum(x, 0) * self, factor)
        np.testing.assert_array_equal(mc.backends.current().elementwise(bound, x).get(), [factor, 0])
        partial = functools.partial(np.multiply, factor)
        np.testing.assert_array_equal(mc.backends.current().elementwise(partial, x).get(), [factor, -2 * factor])
        closure = _times(factor)
        np.testing.assert_array_equal(mc.backends.current().elementwise(closure, x).get(), [factor, -2 * factor])


def _times(factor):
    return lambda x: x * factor


def test_cupy_makes_one_kernel_of_a_fused_function(monkeypatch):
    """CuPy traces a function without a device, and only fails to launch the kernel that it has made."""
    cupy = pytest.importorskip("cupy")
    array = functools.partial(cupy_array, cupy)
    operations = CupyOperations(cupy)

    def update(optimizer, device_numbers, **memory):
        scalars = [array(shape=()) for _ in updates.numbers_of(optimizer, 0.1, 1)] if device_numbers else None
        scale = array(shape=()) if device_numbers else None
        arguments = {"t": 1, "learning_rate": 0.1, **memory}
        return lambda: updates.apply(cupy, optimizer, array(), array(), None, arguments, scale, scalars)

    memory = {"v": array()}
    loss, rows = mc.SoftmaxCrossEntropy._loss_and_gradient, array(shape=(4, 1))
    calls = [
        (
            "SoftmaxCrossEntropy__loss_and_gradient",
            lambda: elementwise(loss, array(), array(), rows, array(), 1.0, 4.0),
        ),
        ("_compare", lambda: fuse(_compare, array(), array("uint8"), array(), np.uint8(3))),
        ("_route", lambda: fuse(_route, array(), array("uint8"), np.uint8(3))),
    ]
    for device_numbers in (False, True):
        calls += [
            ("_adam", update(mc.Adam(), device_numbers, m=array(), **memory)),
            ("_subtract", update(mc.SGD(), device_numbers)),
            ("_momentum", update(mc.SGD(momentum=0.9), device_numbers, **memory)),
            ("_nesterov", update(mc.SGD(momentum=0.9, nesterov=True), device_numbers, **memory)),
        ]
    elementwise = operations.elementwise

    def fuse(formula, *arguments):
        return fusion.fuse_elementwise(cupy, (formula,), *arguments)

    def with_bias(layer):
        y = array()
        operations._left_bias = y, array(shape=(3,))
        return elementwise(layer.value, y)

    core, kept = mc.core.operations, mc.core.layers.normalization
    for formula in (core.add, core.multiply, core.scale_and_shift, core._squared_distance, kept._times_normalized):
        arguments = [array() for _ in range(formula.__code__.co_argcount)]
        calls.append((formula.__name__, functools.partial(elementwise, formula, *arguments)))
    through = core._through_mean_and_variance
    means = [array(shape=(1, 3)) for _ in range(3)]
    calls.append((through.__name__, functools.partial(elementwise, through, array(), array(), *means)))
    for layer in (mc.LeakyReLU(), mc.ELU(), mc.GELU(), mc.SiLU(), mc.Hardswish()):
        name, constants = type(layer).__name__, layer.constants
        calls.append((f"{name}_value", functools.partial(elementwise, layer.value, array(), *constants)))
        gradient = functools.partial(elementwise, layer.gradient, array(), array(), array(), *constants)
        calls.append((f"{name}_gradient", gradient))
    for layer in (mc.ReLU, mc.Tanh, mc.Sigmoid):
        name = layer.__name__
        calls.append((f"{name}_value", functools.partial(elementwise, layer.value, array())))
        calls.append((f"{name}_gradient", functools.partial(elementwise, layer.gradient, array(), array(), array())))
        calls.append((f"_add_{name}_value", functools.partial(with_bias, layer)))
    for name, call in calls:
        monkeypatch.setattr(fusion, "_kernels", {})
        with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):  # no device
            call()
        (fused,) = fusion._kernels.values()
        ((kernel, *_),) = fused._memo.values()
        assert isinstance(kernel, cupy.ElementwiseKernel) and kernel.name == name
        variables = re.findall(r"^(?!const)(\w+) v\d+(?:_\d+)?[;=]", kernel.operation, re.MULTILINE)
        allowed = {"float", "bool"} | ({"unsigned char"} if name == "_compare" else set())
        assert set(variables) <= allowed, (name, variables)  # nothing is computed in another precision
        assert "float" in variables or name == "_compare"


LAYOUTS = {
    "rows": lambda a: a,
    "columns": lambda a: np.asfortranarray(a),
    "every second of rows": lambda a: np.repeat(np.repeat(a, 2, axis=0), 2, axis=1)[::2, ::2],
    "rows of a wider matrix": lambda a: np.concatenate([a, a], axis=1)[:, : a.shape[1]],
    "columns of a higher matrix": lambda a: np.asfortranarray(np.concatenate([a, a]))[: len(a)],
    "one row repeated": lambda a: np.broadcast_to(a[:1], a.shape),
    "one column repeated": lambda a: np.broadcast_to(np.ascontiguousarray(a[:, :1]), a.shape),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("own", [True, False], ids=["cublas", "gemm of CuPy"])
@pytest.mark.parametrize("shapes", [((5, 7), (7, 3)), ((1, 7), (7, 3)), ((5, 1), (1, 3)), ((5, 7), (7, 1))], ids=str)
def test_a_product_on_the_device(shapes, own, dtype, device, rng, monkeypatch):
    """In whatever memory layout: new, into an array, and added to one."""
    if not own:  # as on ROCm
        monkeypatch.setattr("minicnn.backends.cupy.cublas.find_cublas", lambda xp: None)
    a, b = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    c = rng.normal(size=(len(a), b.shape[1])).astype(dtype)
    for left, right in itertools.product(LAYOUTS.values(), LAYOUTS.values()):
        there = strict_backend.Array(left(a)), strict_backend.Array(right(b))
        expected = left(a) @ right(b)
        np.testing.assert_allclose(matmul(strict, *there).get(), expected, rtol=1e-4, atol=1e-5)
        for name, layout in LAYOUTS.items():
            if "repeated" not in name:
                out = strict_backend.Array(layout(np.full_like(c, np.nan)))
                matmul(strict, *there, out)
                np.testing.assert_allclose(out.get(), expected, rtol=1e-4, atol=1e-5)
                out = strict_backend.Array(layout(c.copy()))
                matmul(strict, *there, out, beta=3.0)
                np.testing.assert_allclose(out.get(), 3 * c + expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["rows of a wider matrix", "columns of a higher matrix"])
def test_a_product_copies_no_matrix_whose_rows_or_columns_are_contiguous(layout, device, rng):
    a, b = (strict_backend.Array(LAYOUTS[layout](rng.normal(size=shape))) for shape in ((5, 7), (7, 3)))
    strict_backend.launches.clear()
    matmul(strict, a, b)
    assert strict_backend.launches == ["gemm"]


def test_an_error_of_cublas_is_reported(device, monkeypatch):
    broken = strict_backend.cublas | {"f": (lambda *_: 13, strict_backend.cublas["f"][1])}
    monkeypatch.setattr("minicnn.backends.cupy.cublas.find_cublas", lambda xp: broken)
    x = strict.asarray(np.ones((2, 3), "float32"))
    with pytest.raises(mc.BackendError, match=r"error 13 for a product of \(2, 3\) and \(3, 2\)"):
        matmul(strict, x, x.T)
