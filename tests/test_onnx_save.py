"""`save_onnx`: two other programs compute from the file what the model computes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from layer_cases import CASES, built, name

import minicnn as mc
from minicnn.commands import NETWORKS

onnx = pytest.importorskip("onnx", reason="ONNX files need the package onnx: pip install '.[test]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="the tests run ONNX files: pip install '.[test]'")
reference = pytest.importorskip("onnx.reference")

SMALL = {"two_conv": {"input_shape": (1, 4, 4)}, "conv_pool": {"input_shape": (1, 9, 8)}}

#: Besides the cases of all layers: what only a file can confuse.
MORE_CASES = [
    (lambda: mc.LayerNorm(epsilon=0.1), (6,)),
    (lambda: mc.GroupNorm(3, epsilon=0.1), (6,)),
    (lambda: mc.BatchNorm(momentum=0.75, epsilon=0.1), (2, 3, 4)),
    (lambda: mc.Conv2DTranspose(3, 2, stride=3, padding="same", use_bias=False), (2, 3, 4)),
    (lambda: mc.ZeroPad2D(((1, 2), (3, 4))), (2, 3, 4)),
]
ALL_CASES = CASES + MORE_CASES


def randomize(model, seed=0):
    """A model with random parameters and running values."""
    rng = np.random.default_rng(seed)
    for parameter in model.parameters().values():
        noise = rng.normal(size=parameter.value.shape)
        if parameter.value.ndim == 1:
            parameter.value[...] += 0.2 * noise
        else:
            parameter.value[...] = noise * (2 / parameter.value[0].size) ** 0.5
    for key, state in model.states().items():
        if key.endswith("running_mean"):
            state.value = rng.normal(size=state.value.shape).astype(model.dtype)
        elif key.endswith("running_variance"):
            state.value = rng.uniform(0.5, 2, size=state.value.shape).astype(model.dtype)
    return model


def images(shape, count=3):
    return np.random.default_rng(5).normal(size=(count, *shape)).astype("float32")


def run(path, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": x})[0]


def run_reference(path, x):
    return reference.ReferenceEvaluator(str(path)).run(["output"], {"input": x})[0]


def assert_close(found, expected, what=""):
    """Equal to 1e-5 of the largest number."""
    assert found.shape == expected.shape and found.dtype == expected.dtype == np.float32, what
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max(), what


def saved(model, tmp_path, **options):
    path = tmp_path / "model.onnx"
    mc.exchange.save_onnx(model, path, **options)
    return path


@pytest.mark.parametrize(("make", "shape"), ALL_CASES, ids=[name(case) for case in ALL_CASES])
def test_every_layer_gives_the_same_answers(make, shape, tmp_path):
    layer = built(make, shape, "float32")
    # onnx.reference takes the batch for the channels in LRN, so there the batch has as many images as channels
    x = images(shape, count=shape[0] if isinstance(layer, mc.LocalResponseNorm) else 3)
    path = saved(randomize(mc.Sequential([layer], shape)), tmp_path)
    y = layer(x)
    onnx.checker.check_model(path, full_check=True)
    assert_close(run(path, x), y)
    assert_close(run(path, x[:1]), y[:1])
    if not (isinstance(layer, mc.Conv2DTranspose) and layer.groups > 1):  # which onnx.reference cannot compute
        assert_close(run_reference(path, x), y)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_gives_the_same_answers(network, tmp_path):
    model = randomize(getattr(mc.networks, network)(**SMALL.get(network, {})))
    x = np.abs(images(model.input_shape, count=5))
    path = saved(model, tmp_path)
    probabilities = model.predict(x)
    assert probabilities.max() > 0.2 and np.ptp(probabilities, axis=0).max() > 0.02  # not the same for every image
    np.testing.assert_allclose(run(path, x), probabilities, rtol=0, atol=1e-6)
    np.testing.assert_allclose(run_reference(path, x[:2]), probabilities[:2], rtol=0, atol=1e-6)
    path = saved(model, tmp_path, logits=True)
    assert_close(run(path, x), model.forward(x)[0])


def window_layer(rng):
    """A layer with a random window; an InputError where the options do not fit together."""
    kernel, stride, dilation, added = (
        tuple(map(int, pair)) for pair in rng.integers([1, 1, 1, 0], [5, 4, 4, 3], (2, 4)).T
    )
    pads = tuple(tuple(map(int, pair)) for pair in rng.integers(0, 3, (2, 2)))
    options = {"stride": stride, "padding": ["same", "valid", pads][rng.integers(3)]}
    grouped = {"dilation": dilation, "groups": int(rng.integers(1, 3))}
    kind = rng.integers(4)
    if kind == 0:
        return mc.Conv2D(4, kernel, **options, **grouped)
    if kind == 1:
        return mc.Conv2DTranspose(4, kernel, output_padding=added, **options, **grouped)
    if kind == 2:
        return mc.MaxPool2D(kernel, **options)
    return mc.AvgPool2D(kernel, count_include_pad=added[0] > 0, **options)


def test_windows_of_all_kinds(tmp_path):
    """Random kernels, strides, paddings, dilations and groups."""
    rng, tested = np.random.default_rng(0), 0
    while tested < 60:
        shape = (int(rng.choice([2, 4])), *map(int, rng.integers(2, 9, 2)))
        try:
            model = randomize(mc.Sequential([window_layer(rng)], shape))
        except mc.InputError:
            continue
        tested += 1
        x = images(shape, count=2)
        assert_close(run(saved(model, tmp_path), x), model.predict(x), what=f"{model.layers} on {shape}")


def nested():
    return mc.Sequential(
        [
            mc.Sequential([mc.Conv2D(2, 3, padding="same"), mc.Softmax()]),
            mc.Residual([mc.Sequential([mc.Conv2D(2, 1), mc.Softmax()])], shortcut=[mc.Sequential([])]),
            mc.Branches([[mc.Conv2D(2, 1), mc.ReLU()], [], [mc.BatchNorm()]]),
            mc.Branches([[], []], join="concatenate"),
            mc.Flatten(),
            mc.Sequential([mc.Dense(3), mc.Softmax()]),
        ],
        input_shape=(1, 4, 5),
    )


def test_blocks_in_blocks(tmp_path):
    model = randomize(nested())
    x = images((1, 4, 5))
    assert_close(run(saved(model, tmp_path), x), model.predict(x))


def test_nodes_and_arrays_have_the_names_of_the_model(tmp_path):
    model = nested()
    graph = onnx.load(saved(model, tmp_path)).graph
    operators = {node.name: node.op_type for node in graph.node}
    assert operators["sequential_1.conv2d_1"] == "Conv" and operators["sequential_2.softmax_1"] == "Softmax"
    assert operators["residual_1"] == "Add" and operators["residual_1.layers.0.conv2d_1"] == "Conv"
    assert operators["branches_1"] == "Sum" and operators["branches_1.branches.0.1"] == "Relu"
    assert operators["branches_2"] == "Concat"
    assert {item.name for item in graph.initializer} == model.parameters().keys() | model.states().keys()
    batch, *shape = graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param == "N" and [d.dim_value for d in shape] == [1, 4, 5]
    assert [v.name for v in (*graph.input, *graph.output)] == ["input", "output"]
    assert "branches_1" in {value.name for value in graph.value_info}  # with its shape, which the checker has verified


def test_a_model_without_layers_returns_its_input(tmp_path):
    x = images((4,))
    assert_close(run(saved(mc.Sequential([], (4,)), tmp_path), x), x)


def test_a_tied_parameter_is_in_the_file_once(tmp_path):
    model = randomize(mc.Sequential([mc.Dense(4), mc.Tanh(), mc.Dense(4)], (4,)))
    model.layers[2].weight = model.layers[0].weight
    model.layers[0].weight.value = np.asfortranarray(model.layers[0].weight.value)  # in another order of memory
    path, x = saved(model, tmp_path), images((4,))
    assert [item.name for item in onnx.load(path).graph.initializer].count("dense_1.weight") == 1
    assert len(onnx.load(path).graph.initializer) == 3
    assert_close(run(path, x), model.predict(x))


def test_the_names_of_the_classes_are_in_the_metadata(tmp_path):
    model = mc.networks.logistic_regression((1, 3, 3), classes=2)
    assert not onnx.load(saved(model, tmp_path)).metadata_props
    model.classes = ["chat", "köpek 犬"]
    (entry,) = onnx.load(saved(model, tmp_path)).metadata_props
    assert entry.key == "classes" and json.loads(entry.value) == model.classes


def test_most_files_need_an_old_version_of_the_operators(tmp_path):
    def version(*layers):
        return onnx.load(saved(mc.Sequential(list(layers), (4,)), tmp_path)).opset_import[0].version

    assert version(mc.Dense(3), mc.LayerNorm()) == 17
    assert version(mc.Dense(3), mc.GELU()) == 20
    assert version(mc.GELU(), mc.GroupNorm(2), mc.ReLU()) == 21


def test_a_float64_model_is_written_in_float32_with_a_warning(tmp_path):
    model = mc.Sequential([mc.Conv2D(2, 3), mc.BatchNorm(), mc.Flatten(), mc.Dense(3)], (1, 5, 5), dtype="float64")
    with pytest.warns(UserWarning, match="float64"):
        path = saved(model, tmp_path)
    x = images((1, 5, 5))
    assert_close(run(path, x), model.predict(x).astype("float32"))
    model.layers[0].weight.value[0] = 1e39
    with pytest.warns(UserWarning), pytest.raises(mc.InputError, match=r"conv2d_1\.weight"):
        saved(model, tmp_path)


class Own(mc.Layer):
    def forward(self, x, training=False):
        return x * 2, lambda dy: dy * 2


class OwnActivation(mc.layers.Activation):
    @staticmethod
    def value(x):
        return x * 2

    @staticmethod
    def gradient(dy, x, y):
        return dy * 2


class SquareKernel(mc.Conv2D):
    """What differs is how it is made: the file can have it."""

    def __init__(self, side):
        super().__init__(2, (side, side))
        self.side = side


class Doubled(mc.ReLU):
    @staticmethod
    def value(x):
        return np.maximum(x, 0) * 2


class Smallest(mc.MaxPool2D):
    def __init__(self):
        super().__init__(3, stride=1, padding=1)

    def pool(self, x):
        y, backward = super().pool(-x)
        return -y, lambda dy: -backward(dy)


class Difference(mc.Residual):
    def combine(self, outputs):
        return outputs[0] - outputs[1], lambda dy: [dy, -dy]


class OwnModel(mc.Sequential):
    def forward(self, x, training=False):
        return super().forward(x * 2, training)


class Trained(mc.Sequential):
    """Other methods around the same computation."""

    def fit(self, x, y, **options):
        return super().fit(x, y, epochs=1, **options)


@pytest.mark.parametrize("kind", [Own, OwnActivation, Doubled, Smallest, lambda: Difference(mc.ReLU())])
def test_a_layer_that_onnx_cannot_express_is_named(kind, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"as it was")
    layer = kind()
    own = type(layer).__name__
    model = mc.Sequential([mc.Conv2D(2, 3), layer], (1, 6, 6))
    with pytest.raises(mc.InputError, match=f"{own.lower()}_1.*{own}"):
        mc.exchange.save_onnx(model, path)
    model = mc.Sequential([mc.Branches([[], [mc.ReLU(), kind()]], join="concatenate")], (1, 6, 6))
    with pytest.raises(mc.InputError, match=rf"branches_1\.branches\.1\.1.*{own}"):
        mc.exchange.save_onnx(model, path)
    assert path.read_bytes() == b"as it was"


def test_derived_classes_that_compute_the_same_are_written(tmp_path):
    model = Trained([SquareKernel(3)], (1, 6, 6))
    x = images((1, 6, 6))
    assert_close(run(saved(model, tmp_path), x), model.predict(x))
    with pytest.raises(mc.InputError, match="OwnModel"):
        saved(OwnModel([mc.ReLU()], (4,)), tmp_path)
    with pytest.raises(mc.InputError, match="ownmodel_1"):
        saved(mc.Sequential([OwnModel([mc.ReLU()])], (4,)), tmp_path)


ERRORS = {
    "not built": (lambda: mc.Sequential([mc.Dense(3)]), mc.InputError, "no shape"),
    "a layer": (lambda: mc.Dense(3), mc.InputError, "Sequential"),
    "too large": (
        lambda: mc.Sequential([mc.Dense(50_000, weight_initializer=mc.initializers.zeros)], (20_000,)),
        mc.InputError,
        "2 GiB",
    ),
}


@pytest.mark.parametrize(("make", "kind", "text"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_written_is_refused(make, kind, text, tmp_path):
    with pytest.raises(kind, match=text):
        mc.exchange.save_onnx(make(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_reported(tmp_path):
    model = mc.networks.logistic_regression((4,))
    with pytest.raises(mc.FileError, match="nowhere"):
        mc.exchange.save_onnx(model, tmp_path / "nowhere" / "model.onnx")
    with pytest.raises(mc.InputError, match="path"):
        mc.exchange.save_onnx(model, 3)


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(mc.MissingPackageError, match=r"minicnn-numpy\[onnx\]"):
        saved(mc.networks.logistic_regression((4,)), tmp_path)


def test_importing_the_library_reads_nothing_of_exchange():
    code = (
        "import sys, minicnn; print(*[m for m in sys.modules if m.split('.')[0] in {'onnx', 'h5py', 'safetensors'} "
        "or m.startswith('minicnn.exchange.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_names_of_other_libraries_are_explained():
    with pytest.raises(AttributeError, match="load_onnx"):
        _ = mc.exchange.load_torch
    assert {"save_onnx", "load"} <= set(dir(mc.exchange))
