"""Sequential: shapes, summary, the backward pass, and what it refuses."""

import re

import numpy as np
import pytest
from layer_cases import CASES
from layer_cases import name as case_name

import minicnn as mc
from minicnn.core.layer import independent_samples, walk

COUNTS = {"two_conv": 125_499_810, "conv_pool": 15_735_170, "lenet5": 61_706, "logistic_regression": 7_850}


@pytest.mark.parametrize("name", ["conv_pool", "lenet5", "logistic_regression"])
def test_the_labs_networks_have_the_labs_parameter_counts(name):
    assert getattr(mc.networks, name)().count_parameters() == COUNTS[name]


def test_two_conv_has_the_labs_parameter_count(monkeypatch):
    """Without drawing half a gigabyte of weights: from the shapes."""
    model = mc.networks.two_conv(input_shape=None)
    shape, count = (1, 28, 28), 0
    for layer in model.layers:
        count += sum(int(np.prod(s)) for s in layer.parameter_shapes(shape).values())
        shape = layer.output_shape(shape)
    assert count == COUNTS["two_conv"]


@pytest.mark.parametrize(("backend", "memory"), [("plain", "1.8 MiB"), ("numpy", "525.0 KiB")])
def test_the_summary_shows_shapes_parameters_work_and_memory(backend, memory):
    """The second convolution: all columns (150 * 100 * 32 * 4 bytes), or strips (14 rows * 6 * 5 * 10 * 32 * 4)."""
    lines = []
    mc.use(backend)
    model = mc.networks.lenet5()
    model.summary(batch_size=32, print_fn=lines.append)
    mc.use("numpy")
    row = next(line for line in lines if "conv2d_2" in line)
    assert "(16, 10, 10)" in row
    assert "2,416" in row  # 16 * (6 * 25 + 1)
    assert "240,000" in row  # 16 * 100 * 150 multiply-adds
    assert memory in row
    assert any("61,706" in line for line in lines)
    assert any("416,520" in line for line in lines)
    assert any(f"backend {backend}" in line for line in lines)
    for name in model.names:
        assert any(name in line for line in lines)
    assert len({len(line) for line in lines[2 : 2 + len(model.layers)]}) == 1  # the columns are aligned


def test_the_input_shape_is_given_or_told_by_the_first_batch(rng):
    layers = lambda: [mc.Conv2D(2, 3), mc.Flatten(), mc.Dense(3)]  # noqa: E731
    x = rng.random((4, 1, 6, 5), dtype="float32")
    given, told = mc.Sequential(layers(), input_shape=(1, 6, 5)), mc.Sequential(layers())
    np.testing.assert_array_equal(given.predict(x), told.predict(x))
    assert told.input_shape == (1, 6, 5)
    trained = mc.Sequential(layers())
    trained.fit(x, np.array([0, 1, 2, 0]), epochs=1, verbose=False)
    assert trained.count_parameters() == given.count_parameters()


def test_uint8_images_are_scaled_to_0_to_1(rng):
    x = rng.integers(0, 256, size=(3, 1, 28, 28), dtype=np.uint8)
    model = mc.networks.lenet5()
    np.testing.assert_allclose(model.predict(x), model.predict(x / np.float32(255)), rtol=1e-6)
    assert model.prepare(x).max() <= 1


def test_predict_gives_probabilities_and_forward_logits(rng):
    x = rng.random((3, 1, 28, 28), dtype="float32")
    model = mc.networks.lenet5()
    logits, _ = model.forward(x)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(x), probabilities, rtol=1e-5)
    np.testing.assert_allclose(model(x), probabilities, rtol=1e-5)


def test_dropout_is_off_outside_training(rng):
    model = mc.Sequential([mc.Dense(50), mc.Dropout(0.5), mc.Dense(3)], input_shape=(4,))
    x = rng.random((5, 4), dtype="float32")
    np.testing.assert_array_equal(model.predict(x), model.predict(x))
    first, second = model.forward(x, training=True)[0], model.forward(x, training=True)[0]
    assert (first != second).any()


def test_backward_can_be_called_once(rng):
    model = mc.networks.lenet5()
    y, backward = model.forward(rng.random((2, 1, 28, 28), dtype="float32"), training=True)
    backward(np.ones_like(y))
    with pytest.raises(mc.InputError, match="forward again"):
        backward(np.ones_like(y))


def test_without_input_gradient_the_parameters_get_the_same(rng):
    x = rng.random((5, 1, 28, 28), dtype="float32")
    gradients = []
    for wanted in (True, False):
        model = mc.networks.conv_pool(seed=1)
        y, backward = model.forward(x, training=True)
        assert (backward(np.ones_like(y), input_gradient=wanted) is not None) == wanted
        gradients.append({name: p.grad for name, p in model.parameters().items()})
    for name in gradients[0]:
        np.testing.assert_array_equal(gradients[0][name], gradients[1][name])


def test_gradients_of_two_backward_passes_add_up(rng):
    x = rng.random((4, 1, 28, 28), dtype="float32")
    model = mc.networks.lenet5()
    for rows in (slice(0, 2), slice(2, 4)):
        y, backward = model.forward(x[rows], training=True)
        backward(np.ones_like(y))
    added = {name: p.grad for name, p in model.parameters().items()}
    for parameter in model.parameters().values():
        parameter.clear_gradient()
    y, backward = model.forward(x, training=True)
    backward(np.ones_like(y))
    for name, parameter in model.parameters().items():
        np.testing.assert_allclose(added[name], parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (2, 3, 3)])
def test_one_pixel_one_class_one_image(shape, rng):
    model = mc.Sequential([mc.Conv2D(2, 1), mc.ReLU(), mc.GlobalAvgPool2D(), mc.Dense(1)], input_shape=shape)
    x = rng.random((1, *shape), dtype="float32")
    history = model.fit(x, np.array([0]), epochs=2, batch_size=1, verbose=False)
    assert history["loss"] == [0, 0] and history["accuracy"] == [1, 1]


def lenet():
    return mc.networks.lenet5()


X = np.zeros((3, 1, 28, 28), "float32")
REFUSED = {
    "no channel axis": (lambda: lenet().predict(X[:, 0]), "x[:, None]"),
    "no batch axis": (lambda: lenet().predict(X[0]), "x[None]"),
    "channels last": (
        lambda: mc.Sequential([mc.Conv2D(1, 3)], (3, 8, 8)).predict(np.zeros((2, 8, 8, 3), "f")),
        "x.transpose(0, 3, 1, 2)",
    ),
    "integers": (lambda: lenet().predict(X.astype("int32")), "astype('float32')"),
    "a list": (lambda: lenet().predict(X.tolist()), "np.asarray"),
    "a layer on no channel axis": (lambda: mc.MaxPool2D(2).forward(X[:, 0]), "x[:, None]"),
    "an image into Dense": (lambda: mc.Sequential([mc.Dense(3)], (1, 8, 8)), "Flatten()"),
    "float64 into a float32 layer": (
        lambda: mc.Sequential([mc.Dense(2)], (3,)).layers[0].forward(np.zeros((1, 3))),
        "astype('float32')",
    ),
    "a layer not built": (lambda: mc.Conv2D(2, 3).forward(X), "build"),
    "a model not built": (lambda: mc.Sequential([mc.Dense(2)]).summary(), "input_shape"),
    "no layer": (lambda: mc.Sequential([mc.ReLU]), "()"),
    "a layer twice": (lambda: mc.Sequential([mc.ReLU()] * 2), "twice"),
    "a kernel too large": (lambda: mc.Sequential([mc.Conv2D(1, 9)], (1, 8, 8)), "8 x 8"),
    "channels that cannot be grouped": (lambda: mc.Sequential([mc.Conv2D(2, 3, groups=2)], (3, 8, 8)), "3 channels"),
    "filters that cannot be grouped": (lambda: mc.Conv2D(3, 3, groups=2), "3 filters"),
    "a strange dtype": (lambda: mc.Sequential([mc.Dense(2)], dtype="float16"), "float16"),
    "a rate of 1": (lambda: mc.Dropout(1.0), "1.0"),
    "no filters": (lambda: mc.Conv2D(0, 3), "filters"),
    "half a unit": (lambda: mc.Dense(2.5), "2.5"),
    "no list of layers": (lambda: mc.Sequential(mc.Dense(3)), "list"),
    "an input shape that is a number": (lambda: mc.Sequential([mc.Dense(3)], input_shape=784), "784"),
    "an unknown dtype": (lambda: mc.Sequential([mc.Dense(3)], dtype="foo"), "'foo'"),
    "a list into a layer": (lambda: mc.ReLU().forward([[1.0]]), "np.asarray"),
    "a row into Softmax": (lambda: mc.Softmax().forward(np.zeros(3)), "x[None]"),
    "an initializer by its name": (lambda: mc.Dense(2, weight_initializer="he_normal").build((3,)), "he_normal"),
    "a rate that is a text": (lambda: mc.Dropout("0.5"), "'0.5'"),
    "a negative seed": (lambda: mc.Dropout(0.5, seed=-1), "-1"),
    "an empty batch": (lambda: lenet().forward(X[:0]), "one image"),
    "batches of no size": (lambda: lenet().predict(X, batch_size=0), "batch_size"),
    "batches of half a size": (lambda: lenet().predict(X, batch_size=2.5), "2.5"),
    "a gradient of another shape": (lambda: lenet().forward(X)[1](np.zeros((3, 9), "f")), "(3, 10)"),
    "a gradient of another dtype": (lambda: lenet().forward(X)[1](np.zeros((3, 10))), "float32"),
    "a list as gradient": (lambda: lenet().forward(X)[1]([[0.0] * 10] * 3), "np.asarray"),
    "a list into im2col": (lambda: mc.im2col.im2col(X.tolist(), 3), "np.asarray"),
    "a list into col2im": (lambda: mc.im2col.col2im([[0.0] * 4] * 4, (1, 1, 3, 3), 2), "np.asarray"),
    "an array as padding": (lambda: mc.Conv2D(1, 3, padding=np.array([1, 2])), "padding"),
    "a summary of no batch": (lambda: lenet().summary(batch_size=0), "batch_size"),
    "an input shape of 0": (lambda: mc.Sequential([mc.Flatten()], (0, 3, 3)), "0"),
}


@pytest.mark.parametrize(("make", "named"), REFUSED.values(), ids=REFUSED)
def test_errors_name_what_came_and_the_fix(make, named):
    with pytest.raises(mc.InputError, match=re.escape(named)):
        make()


def test_numpys_integers_are_integers(rng):
    two, three = np.int64(2), np.int32(3)
    layer = mc.Conv2D(np.int64(4), three, stride=two, padding=np.int8(1), dilation=np.uint8(1))
    assert layer.window == mc.Conv2D(4, 3, stride=2, padding=1).window
    assert mc.MaxPool2D(two, stride=three).window == mc.MaxPool2D(2, stride=3).window


def test_dropout_built_without_a_generator_starts_from_seed_0():
    x, masks = np.ones((20, 30)), []
    for rng in (None, None, np.random.default_rng(0), np.random.default_rng(1)):
        layer = mc.Dropout(0.5)
        layer.build((30,), rng)
        masks.append(layer.forward(x, training=True)[0])
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])
    assert (masks[0] != masks[3]).any()


@pytest.mark.parametrize(
    ("name", "split"), [("two_conv", 5), ("conv_pool", 4), ("lenet5", 7), ("logistic_regression", 1)]
)
def test_the_cores_share_a_batch_up_to_the_first_dense_layer(name, split, rng, monkeypatch):
    """By what each layer is given: a part of the batch as long as it is images."""
    monkeypatch.setenv("MINICNN_THREADS", "1")
    model = getattr(mc.networks, name)(input_shape=(1, 12, 12))
    monkeypatch.setattr("minicnn.backends.numpy.PARALLEL_WORK", 0)
    lengths = {layer: set() for layer in model.layers[:-1]}
    for layer in lengths:

        def forward(x, training=False, layer=layer, plain=layer.forward):
            lengths[layer].add(len(x))
            return plain(x, training)

        monkeypatch.setattr(layer, "forward", forward)
    model.forward(rng.random((128, 1, 12, 12), dtype="float32"))
    assert list(lengths.values()) == [{64}] * split + [{128}] * (len(lengths) - split)


@pytest.mark.parametrize("make", [make for make, _ in CASES], ids=map(case_name, CASES))
def test_a_batch_may_be_split_in_every_layer_and_in_dropout_outside_training(make):
    assert independent_samples(make(), training=False)
    mixing = dict(walk(make(), (mc.Dropout, mc.layers.BatchNorm)))
    assert independent_samples(make(), training=True) == (not mixing)


class Centred(mc.Layer):
    """A layer of one's own that mixes the images of a batch."""

    def output_shape(self, input_shape):
        return input_shape

    def forward(self, x, training=False):
        return x - x.mean(axis=0), lambda dy: dy - dy.mean(axis=0)


def test_a_layer_that_mixes_the_batch_sees_all_of_it(rng):
    """As large a batch as the library would cut into parts for the cores."""
    layers = [mc.Conv2D(16, 3), Centred(), mc.Conv2D(16, 3)]
    model = mc.Sequential(layers, input_shape=(1, 28, 28))
    x = rng.random((256, 1, 28, 28), dtype="float32")
    expected = x
    for layer in layers:
        expected = layer(expected)
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)


def test_initializers_are_saved_by_name(tmp_path):
    def own(shape, rng, dtype="float32"):
        return np.ones(shape, dtype)

    dense = mc.Dense(3, weight_initializer=mc.initializers.he_normal, bias_initializer=own)
    with pytest.warns(UserWarning, match="bias_initializer"):
        mc.Sequential([dense], input_shape=(4,)).save(tmp_path / "model.npz")
    [loaded] = mc.load(tmp_path / "model.npz").layers
    assert loaded.weight_initializer is mc.initializers.he_normal
    assert loaded.bias_initializer is mc.initializers.zeros
    np.testing.assert_array_equal(loaded.bias.value, 1)


def test_multiply_adds_by_hand():
    """Each number of the output reads a window of the channels in its group."""
    assert mc.Conv2D(8, 3, groups=2).multiply_adds((4, 10, 10)) == 8 * 8 * 8 * (4 // 2) * 3 * 3
    assert mc.Conv2D(6, 5, padding="same").multiply_adds((1, 28, 28)) == 6 * 28 * 28 * 25
    assert mc.Dense(5).multiply_adds((7,)) == 35


def test_half_precision_input_is_converted_by_the_model(rng):
    x = rng.random((2, 1, 28, 28)).astype("float16")
    model = mc.networks.lenet5()
    np.testing.assert_array_equal(model.predict(x), model.predict(x.astype("float32")))
