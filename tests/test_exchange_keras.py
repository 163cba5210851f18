"""Files of Keras: what Keras wrote gives the same answers here, and back; what is broken or hostile is refused."""

import gzip
import io
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from layer_cases import CASES

import minicnn as mc
from minicnn.core.layer import kept_arrays
from minicnn.exchange import hdf5
from minicnn.exchange.blocks import Node, as_row

EXPORTED = pathlib.Path(__file__).parent / "exported"
FILES = sorted(path.name.removesuffix(".gz") for path in EXPORTED.glob("keras[23]_*.gz"))
NETWORKS = [name for name in FILES if ".weights" not in name]


@pytest.fixture
def exported(tmp_path):
    """A function that unpacks a file of Keras, and returns its path."""

    def unpack(name):
        path = tmp_path / name
        path.write_bytes(gzip.decompress((EXPORTED / f"{name}.gz").read_bytes()))
        return path

    return unpack


def images(shape):
    """The batch that Keras was asked for, as it is here."""
    C, H, W = shape
    return np.random.default_rng(0).random((4, H, W, C)).astype("float32").transpose(0, 3, 1, 2)


def answers(name):
    with np.load(EXPORTED / "keras_answers.npz") as file:
        return file[name.partition(".")[0]]


def notebook(seed=0):
    """The network of the files keras*_notebook, built here."""
    layers = [
        *(mc.Conv2D(3, 5, padding="same"), mc.Tanh(), mc.AvgPool2D(2)),
        *(mc.Conv2D(4, (3, 2), stride=2, padding="same"), mc.ReLU(), mc.MaxPool2D((2, 1)), mc.Dropout(0.2)),
        *(mc.Flatten(), mc.Dense(6), mc.Tanh(), mc.Dense(3), mc.Softmax()),
    ]
    return mc.Sequential(layers, input_shape=(1, 13, 12), seed=seed)


def mixed(model, seed=0):
    """A network with numbers in all of its arrays, the biases and the states included."""
    rng = np.random.default_rng(seed)
    for _, kept in kept_arrays(model):
        scale = 1 if kept.value.ndim == 1 else kept.value[0].size ** -0.5
        sign = rng.choice([-1, 1], kept.value.shape) if kept.value.ndim > 1 else 1
        kept.value[...] = rng.uniform(0.5, 1.5, kept.value.shape) * scale * sign
    return model


# files that Keras wrote


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_keras_answers_as_in_keras(name, exported):
    model = mc.exchange.load_keras(exported(name))
    np.testing.assert_allclose(model.predict(images(model.input_shape)), answers(name), rtol=0, atol=1e-6)
    assert model.dtype == np.float32


def test_the_layers_are_those_of_keras(exported):
    model = mc.exchange.load_keras(exported("keras3_notebook.keras"))
    assert list(map(repr, model.layers)) == list(map(repr, notebook().layers))
    blocks = mc.exchange.load_keras(exported("keras3_blocks.keras")).layers
    assert [type(layer).__name__ for layer in blocks[3:6]] == ["Residual", "Branches", "Branches"]
    assert blocks[1].epsilon == 1e-3 and blocks[1].momentum == 0.99


@pytest.mark.parametrize("name", [name for name in FILES if "notebook" in name])
def test_weights_go_into_a_network_built_here(name, exported):
    model = notebook(seed=3)
    mc.exchange.load_weights(model, exported(name))
    np.testing.assert_allclose(model.predict(images((1, 13, 12))), answers(name), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["keras2_blocks.h5", "keras3_blocks.keras"])
def test_weights_of_blocks_go_into_blocks(name, exported):
    model = mixed(mc.exchange.load_keras(exported("keras3_blocks.keras")))
    mc.exchange.load_weights(model, exported(name))
    np.testing.assert_allclose(model.predict(images((3, 9, 8))), answers(name), rtol=0, atol=1e-6)


def test_reading_needs_no_package(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    model = mc.exchange.load_keras(exported("keras3_notebook.h5"))
    with pytest.raises(mc.MissingPackageError, match=r"minicnn-numpy\[keras\]"):
        mc.exchange.save_keras(model, exported("keras3_notebook.h5"))


def test_a_loaded_network_learns(exported):
    model = mc.exchange.load_keras(exported("keras3_blocks.keras"))
    model.layers[0].trainable = False
    before = {name: parameter.value.copy() for name, parameter in model.parameters().items()}
    x = np.ascontiguousarray(images(model.input_shape))
    history = model.fit(x, np.array([0, 1, 2, 0]), epochs=8, verbose=False, optimizer=mc.Adam(0.01))
    assert history["loss"][-1] < history["loss"][0]
    changed = {name for name, parameter in model.parameters().items() if (parameter.value != before[name]).any()}
    assert changed == before.keys() - {"conv2d_1.weight"}


# files for Keras

HAS_NOT = {
    "Conv2D(6, 3, stride=2, padding=2, dilation=2, groups=3)": "stride or a dilation",
    "MaxPool2D(pool_size=3, stride=2, padding=1)": "'valid' or 'same'",
    "MaxPool2D(pool_size=3, stride=2, padding=((0, 2), (1, 0)))": "'valid' or 'same'",
    "AvgPool2D(pool_size=3, stride=2, padding=1)": "'valid' or 'same'",
    "Conv2DTranspose(4, (3, 2), stride=(2, 3), padding='same', groups=2)": "no groups",
    "Conv2DTranspose(2, 3, stride=2, padding=(1, 0), output_padding=(1, 0), dilation=2)": "stride or a dilation",
    "GELU()": "not a layer that Keras has",
    "LocalResponseNorm(size=3, alpha=0.9, beta=0.6, k=1.5)": "not a layer that Keras has",
    "LocalResponseNorm(size=9, alpha=2.0)": "not a layer that Keras has",
    "Clip(-0.7, 0.5)": "lower bound",
}
SAME_SHAPE = {"Flatten()": "another order"}  # images only

MODELS = [(repr(make()), lambda seed, m=make, s=shape: mc.Sequential([m()], s, seed=seed)) for make, shape in CASES]
MODELS += [
    (name, lambda seed, name=name: getattr(mc.networks, name)(seed=seed))
    for name in ("lenet5", "logistic_regression", "dense", "dense_dropout", "small_resnet")
]
# the same layers with fewer weights
MODELS += [("conv_pool", lambda seed: mc.networks.conv_pool((1, 7, 6), seed=seed))]
MODELS += [
    (
        "a decoder",
        lambda seed: mc.Sequential(
            [mc.Conv2DTranspose(3, 3, stride=2, padding=1, output_padding=1), mc.Conv2DTranspose(2, 4, stride=3)],
            (2, 5, 4),
            seed=seed,
        ),
    ),
    (
        "flattened images in branches",
        lambda seed: mc.Sequential(
            [
                mc.Branches([[mc.Flatten()], [mc.GlobalAvgPool2D()], [mc.Flatten(), mc.ReLU()]], join="concatenate"),
                *(mc.BatchNorm(), mc.PReLU(), mc.LayerNorm(), mc.Dropout(0.1), mc.Dense(2)),
            ],
            (2, 3, 4),
            seed=seed,
        ),
    ),
    (
        "a Sequential inside",
        lambda seed: mc.Sequential([mc.Sequential([mc.Flatten(), mc.Dense(3)]), mc.Dense(2)], (2, 3, 4), seed=seed),
    ),
    (
        "depthwise and 1x1",
        lambda seed: mc.Sequential(
            [mc.Conv2D(6, 3, groups=3, use_bias=False), mc.Conv2D(2, 1), mc.Conv2D(4, 2, groups=2)],
            (3, 6, 5),
            seed=seed,
        ),
    ),
]


@pytest.mark.parametrize(("name", "make"), MODELS, ids=[name for name, _ in MODELS])
def test_what_is_saved_for_keras_comes_back(name, make, tmp_path, rng):
    pytest.importorskip("h5py", reason="files for Keras are written with h5py")
    model, path, weights = mixed(make(1)), tmp_path / "net.keras", tmp_path / "net.weights.h5"
    images_of = tuple(model.input_shape)
    refused = HAS_NOT.get(name) or (SAME_SHAPE.get(name) if len(images_of) == 3 else None)
    if refused:
        with pytest.raises(mc.InputError, match=refused):
            mc.exchange.save_keras(model, path)
        assert not path.exists()
        return
    x = rng.random((3, *images_of)).astype("float32")
    wanted = model.predict(x)
    mc.exchange.save_keras(model, path)
    np.testing.assert_allclose(mc.exchange.load_keras(path).predict(x), wanted, rtol=0, atol=1e-6 * abs(wanted).max())
    mc.exchange.save_weights(model, weights)
    other = make(2)
    mc.exchange.load_weights(other, weights)
    np.testing.assert_array_equal(other.predict(x), wanted)
    other = make(3)
    mc.exchange.load_weights(other, path)
    np.testing.assert_array_equal(other.predict(x), wanted)


def test_classes_frozen_layers_and_float64_come_back(tmp_path):
    pytest.importorskip("h5py", reason="files for Keras are written with h5py")
    model = mc.Sequential([mc.Flatten(), mc.Dense(4), mc.Tanh(), mc.Dense(2)], (3, 2, 2), dtype="float64", seed=1)
    model.classes = ["cat", "dög"]
    model.layers[1].trainable = False
    mc.exchange.save_keras(model, tmp_path / "net.keras")
    back = mc.exchange.load_keras(tmp_path / "net.keras")
    assert back.classes == ["cat", "dög"] and back.dtype == np.float64
    assert [layer.trainable for layer in back.layers] == [True, False, True, True]
    x = np.random.default_rng(0).random((2, 3, 2, 2))
    np.testing.assert_allclose(back.predict(x), model.predict(x), rtol=1e-13)


def test_a_layer_of_ones_own_is_named(tmp_path):
    class Twice(mc.Dense):
        def forward(self, x, training=False):
            return super().forward(2 * x, training)

    model = mc.Sequential([Twice(3)], (4,))
    for save in (mc.exchange.save_keras, mc.exchange.save_weights):
        with pytest.raises(mc.InputError, match=r"Twice\(3\)"):
            save(model, tmp_path / "net.weights.h5")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit_change_nothing(exported):
    wider = notebook(seed=1)
    wider.layers[-2] = mc.Dense(4)
    more = notebook(seed=1)
    more.layers.insert(1, mc.Conv2D(3, 1))
    strange = notebook(seed=1)
    strange.layers.insert(1, mc.BatchNorm())
    for model, problem in ((wider, r"Dense|dense"), (more, r"onv2[dD]"), (strange, r"atch_?[nN]orm")):
        model.build((1, 13, 12))
        before = {name: kept.value.copy() for name, kept in kept_arrays(model)}
        for name in ("keras3_notebook.weights.h5", "keras3_notebook.keras", "keras2_notebook.h5"):
            with pytest.raises(mc.InputError, match=f"{name}.*(there|needs|here).*") as raised:
                mc.exchange.load_weights(model, exported(name))
            raised.match(problem)
        for name, kept in kept_arrays(model):
            np.testing.assert_array_equal(kept.value, before[name])


def test_old_files_of_weights_alone(exported, tmp_path):
    """What `save_weights("x.h5")` wrote in Keras 2 is what the file of a network has in its group model_weights."""
    h5py = pytest.importorskip("h5py", reason="makes the file")
    with h5py.File(exported("keras2_notebook.h5")) as file, h5py.File(tmp_path / "old.h5", "w") as old:
        for name in file["model_weights"]:
            file["model_weights"].copy(name, old)
        for name, value in file["model_weights"].attrs.items():
            old.attrs[name] = value
    model = notebook(seed=2)
    mc.exchange.load_weights(model, tmp_path / "old.h5")
    np.testing.assert_allclose(model.predict(images((1, 13, 12))), answers("keras2_notebook"), rtol=0, atol=1e-6)
    with pytest.raises(mc.FileError, match="weights and no layers"):
        mc.exchange.load_keras(tmp_path / "old.h5")


@pytest.mark.parametrize("kind", ["SeparableConv2D", "Conv2D with groups"])
def test_a_depthwise_convolution_may_have_other_names_there(kind, tmp_path, rng):
    h5py = pytest.importorskip("h5py", reason="makes the file")
    layers = [mc.Conv2D(6, 3, groups=3, use_bias=False), mc.Conv2D(2, 1)]
    model = mixed(mc.Sequential(layers, (3, 6, 5)))
    first, second, bias = (model.layers[0].weight.value, model.layers[1].weight.value, model.layers[1].bias.value)
    separable = first.reshape(3, 2, 3, 3).transpose(2, 3, 0, 1), second.transpose(2, 3, 1, 0), bias
    groups = {"separable_conv2d": separable}
    if kind != "SeparableConv2D":
        groups = {"conv2d": [first.transpose(2, 3, 1, 0)], "conv2d_1": separable[1:]}
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        for name, arrays in groups.items():
            for index, array in enumerate(arrays):
                file[f"layers/{name}/vars/{index}"] = array
    other = mc.Sequential([mc.Conv2D(6, 3, groups=3, use_bias=False), mc.Conv2D(2, 1)], (3, 6, 5), seed=9)
    mc.exchange.load_weights(other, tmp_path / "x.weights.h5")
    x = rng.random((2, 3, 6, 5)).astype("float32")
    np.testing.assert_array_equal(other.predict(x), model.predict(x))


# with Keras itself


@pytest.fixture(scope="module")
def keras():
    """Keras on TensorFlow. On PyTorch it averages copies of the border where the padding is "same"."""
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras is not on TensorFlow")
    return keras


def lab_lenet5(L):
    return [
        *(L.Input((28, 28, 1)), L.Conv2D(6, 5, padding="same", activation="tanh"), L.AveragePooling2D(2)),
        *(L.Conv2D(16, 5, activation="tanh"), L.AveragePooling2D(2), L.Flatten(), L.Dense(120, activation="tanh")),
        *(L.Dense(84, activation="tanh"), L.Dense(10, activation="softmax")),
    ]


def lab_conv_pool(L, units=50):
    return [
        *(L.Input((28, 28, 1)), L.Conv2D(16, 3, padding="same", activation="relu"), L.MaxPooling2D(2), L.Flatten()),
        *(L.Dense(units, activation="relu"), L.Dense(10)),
    ]


THERE = {
    "the lab's LeNet-5": lab_lenet5,
    "the lab's convolution and pooling": lab_conv_pool,
    "strides": lambda L: [
        *(L.Input((9, 8, 3)), L.Conv2D(4, 3, strides=2, padding="same"), L.BatchNormalization(), L.LeakyReLU()),
        *(L.AveragePooling2D(3, 2, "same"), L.Flatten(), L.Activation("relu"), L.Dropout(0.5), L.Dense(5), L.Softmax()),
    ],
    "depthwise": lambda L: [
        L.Input((9, 8, 3)),
        L.SeparableConv2D(5, 3, depth_multiplier=2, padding="same", activation="silu"),
        *(L.DepthwiseConv2D((3, 2), depth_multiplier=2, strides=2, use_bias=False), L.SpatialDropout2D(0.2)),
        *(L.Flatten(), L.BatchNormalization(), L.Dense(3)),
    ],
    "transposed": lambda L: [
        *(L.Input((5, 4, 3)), L.Conv2DTranspose(4, 3, strides=2, padding="same"), L.UpSampling2D((2, 1))),
        *(L.Conv2DTranspose(2, 2, strides=3), L.Conv2DTranspose(2, 4, strides=3)),
        *(L.Cropping2D(1), L.ZeroPadding2D(((1, 0), (1, 0))), L.PReLU(shared_axes=[1, 2]), L.Flatten(), L.Dense(2)),
    ],
    "normalizations": lambda L: [
        *(L.Input((6, 5, 4)), L.GroupNormalization(2), L.LayerNormalization(axis=[1, 2, 3]), L.GroupNormalization(-1)),
        *(L.Conv2D(4, 3, groups=2, dilation_rate=2), L.Flatten(), L.LayerNormalization(), L.PReLU()),
        *(L.Dense(3, activation="leaky_relu"), L.ELU(0.5), L.Activation("hard_silu"), L.ReLU(max_value=1)),
    ],
    "channels first": lambda L: [
        *(L.Input((3, 9, 8)), L.Conv2D(4, 3, data_format="channels_first"), L.BatchNormalization(axis=1)),
        *(L.MaxPooling2D(data_format="channels_first"), L.Flatten(data_format="channels_first"), L.Dense(3)),
    ],
    "images without channels": lambda L: [
        *(L.Input((7, 6)), L.Reshape((7, 6, 1)), L.Conv2D(2, 3), L.Reshape((-1,)), L.Dense(2)),
    ],
    "dense on pixels": lambda L: [
        *(L.Input((6, 6, 3)), L.Dense(5, "tanh"), L.GlobalMaxPooling2D(), L.Dense(2)),
    ],
}


@pytest.mark.filterwarnings("ignore")  # those of Keras and TensorFlow
@pytest.mark.parametrize(("name", "make"), THERE.items(), ids=THERE)
def test_keras_and_the_network_here_answer_alike(name, make, keras, tmp_path):
    """A network is built, trained and saved in Keras, loaded here, saved here, and loaded in Keras again."""
    keras.utils.set_random_seed(0)
    there = keras.Sequential(make(keras.layers))
    there.compile("adam", "mse")
    x = np.random.default_rng(0).random((8, *there.input_shape[1:])).astype("float32")
    there.fit(x, np.zeros((8, *there.output_shape[1:])), verbose=0)
    wanted = there(x, training=False).numpy()
    here = x if name == "channels first" else x.transpose(0, 3, 1, 2) if x.ndim == 4 else x[:, None]
    for path in (tmp_path / "there.keras", tmp_path / "there.h5"):
        there.save(path)
        model = mc.exchange.load_keras(path)
        np.testing.assert_allclose(model.predict(here), wanted, rtol=0, atol=1e-6)
    there.save_weights(tmp_path / "there.weights.h5")
    if "pixels" not in name:  # a dense layer there is a convolution here
        other = mixed(mc.exchange.load_keras(tmp_path / "there.keras"))
        mc.exchange.load_weights(other, tmp_path / "there.weights.h5")
        np.testing.assert_array_equal(other.predict(here), model.predict(here))
    mc.exchange.save_keras(model, tmp_path / "back.keras")
    mc.exchange.save_weights(model, tmp_path / "back.weights.h5")
    back = keras.models.load_model(tmp_path / "back.keras")
    x = here.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(back(x, training=False).numpy(), wanted, rtol=0, atol=1e-6)
    back.set_weights([weight + 1 for weight in back.get_weights()])
    back.load_weights(tmp_path / "back.weights.h5")
    np.testing.assert_allclose(back(x, training=False).numpy(), wanted, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # those of Keras and TensorFlow
def test_keras_opens_a_residual_network(keras, tmp_path):
    model, path = mc.networks.small_resnet((3, 16, 12), seed=1), tmp_path / "net.keras"
    model.layers.insert(3, mc.Branches([[mc.Conv2D(4, 3, padding="same")], [mc.MaxPool2D(3, stride=1, padding="same")],
                                        []], join="concatenate"))  # fmt: skip
    model.layers[4] = mc.Conv2D(64, 3, stride=2, padding=1)  # its padding differs from "same"
    model.build((3, 16, 12))
    for _, kept in kept_arrays(model):
        kept.value[...] *= 1.1
    x = np.random.default_rng(0).random((4, 3, 16, 12)).astype("float32")
    mc.exchange.save_keras(model, path)
    there = keras.models.load_model(path)
    wanted = there(x.transpose(0, 2, 3, 1), training=False).numpy()
    np.testing.assert_allclose(model.predict(x), wanted, rtol=0, atol=1e-6)
    there.save_weights(tmp_path / "net.weights.h5")
    mc.exchange.load_weights(mixed(model), tmp_path / "net.weights.h5")
    np.testing.assert_allclose(model.predict(x), wanted, rtol=0, atol=1e-6)


# descriptions


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """The same `.keras` file with another description."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    description = json.loads(parts["config.json"])
    description = change(description) or description
    parts["config.json"] = json.dumps(description)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def layer(index, kind=None, **options):
    """A change of the layer with this number."""

    def change(description):
        entry = description["config"]["layers"][index]
        entry["class_name"] = kind or entry["class_name"]
        entry["config"].update(options)

    return change


def every(**options):
    def change(description):
        for entry in description["config"]["layers"]:
            entry["config"].update(options)

    return change


#: of keras3_notebook: 0 input, 1 conv, 2 average, 3 conv, 4 max, 5 dropout, 6 flatten, 7 dense, 8 dense
DESCRIPTIONS = {
    "code": (layer(5, "Lambda", function=["4wAAAA==", None, None]), "'dropout'.*Lambda.*never run"),
    "an operation of TensorFlow": (layer(5, "TFOpLambda"), "operation of TensorFlow"),
    "an unknown layer": (layer(5, "GRU"), "'dropout' .GRU.*no such layer"),
    "a path as a class": (layer(5, "os.system"), "os.system"),
    "a model of one's own": (lambda d: d.update(class_name="MyModel"), "MyModel.*only its own code"),
    "an unknown activation": (layer(1, activation="mish"), "'conv2d'.*mish.*relu"),
    "a padding": (layer(1, padding="causal"), "'conv2d'.*causal"),
    "both layouts": (layer(1, data_format="channels_first"), "channels_last and some channels_first"),
    "quantized weights": (layer(7, quantization_config={"mode": "int8"}), "quantized"),
    "integers": (every(dtype="int8_from_float32"), "int8"),
    "two dtypes": (layer(1, dtype="float64"), "float64 and some not"),
    "an input without a size": (layer(0, batch_shape=[None, None, None, 1]), "no fixed size"),
    "an input of a film": (layer(0, batch_shape=[None, 3, 13, 12, 1]), "neither images nor vectors"),
    "a huge input": (layer(0, batch_shape=[None, 10**6, 10**6, 1]), "larger than"),
    "huge enlarged images": (layer(4, "UpSampling2D", size=[10**4, 10**4]), "larger than"),
    "a smooth enlargement": (layer(4, "UpSampling2D", interpolation="bilinear"), "interpolation.*bilinear.*nearest"),
    "more filters": (layer(1, filters=30), "kernel.*shape.*30"),
    "very many units": (layer(7, units=10**12), "kernel.*shape"),
    "pooling that keeps axes": (layer(4, "GlobalAveragePooling2D", keepdims=True), "keepdims"),
    "normalization of each pixel": (layer(4, "LayerNormalization"), r"axis=\[1, 2, 3\]"),
    "normalization of rows": (layer(4, "BatchNormalization", axis=1), "axis is 1"),
    "another shape": (layer(4, "Reshape", target_shape=[2, -1, 6]), "Reshape.*Flatten"),
    "a bounded and leaky ReLU": (layer(4, "ReLU", negative_slope=0.1, max_value=6), "one of them"),
    "slopes for each pixel": (layer(4, "PReLU"), "slope for each pixel"),
    "a missing option": (lambda d: d["config"]["layers"][1]["config"].pop("filters") and None, "'conv2d'.*filters"),
    "no layers": (lambda d: d["config"].pop("layers") and None, "layers"),
    "a list": (lambda d: [1], "only its own code"),
    "an end in a flattened image": (lambda d: d["config"]["layers"].__delitem__(slice(7, None)), "order"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "named"), DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_a_description_that_cannot_be_used_is_refused(change, named, exported):
    with pytest.raises(mc.FileError, match=rf"(?s)keras3_notebook\.keras.*{named}"):
        mc.exchange.load_keras(rewritten(exported("keras3_notebook.keras"), change))


def joined(kind, **options):
    def change(description):
        for entry in description["config"]["layers"]:
            if entry["class_name"] == "Add":
                entry["class_name"] = kind
                entry["config"].update(options)

    return change


def rewired(name, source):
    """A change of which layer's output a layer receives."""

    def change(description):
        for entry in description["config"]["layers"]:
            if entry["name"] == name:
                entry["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] = source

    return change


def repeated(description):
    entry = description["config"]["layers"][1]
    entry["inbound_nodes"].append(entry["inbound_nodes"][0])


GRAPHS = {
    "products": (joined("Multiply"), "Multiply.*Add and Concatenate"),
    "a concatenation of rows": (joined("Concatenate", axis=1), "another axis"),
    "a layer that is used twice": (repeated, "'first' is used 2 times"),
    "two outputs": (lambda d: d["config"].update(output_layers=[["first", 0, 0], ["add", 0, 0]]), "2 outputs"),
    "a circle": (rewired("first", "re_lu"), "cycle"),
    "a layer that is not there": (rewired("first", "nothing"), "no layer 'nothing'"),
    "branches that do not part at one layer": (rewired("max_pooling2d_1", "batch_normalization"), "."),
}


@pytest.mark.parametrize(("change", "named"), GRAPHS.values(), ids=GRAPHS)
def test_a_graph_that_cannot_be_used_is_refused(change, named, exported):
    with pytest.raises(mc.FileError, match=named):
        mc.exchange.load_keras(rewritten(exported("keras3_blocks.keras"), change))


def test_branches_that_cross_are_refused():
    nodes = {name: Node((source,), (mc.ReLU(),)) for name, source in (("a", "in"), ("b", "in"))}
    nodes |= {"c": Node(("a", "b"), join="add"), "d": Node(("a", "c"), join="add")}
    with pytest.raises(mc.InputError, match="'a' is used in more than one block"):
        as_row({"in": Node(()), **nodes}, "in", "d")


def test_what_differs_is_said(exported):
    path = rewritten(exported("keras3_notebook.keras"), layer(4, "Activation", activation="gelu"))
    path = rewritten(path, lambda d: d["config"]["layers"].__delitem__(slice(6, None)))
    with pytest.warns(UserWarning, match="error function"):
        assert isinstance(mc.exchange.load_keras(path).layers[5], mc.GELU)
    path = rewritten(exported("keras3_notebook.keras"), layer(5, "RandomFlip"))
    with pytest.warns(UserWarning, match="'dropout'.*left out"):
        assert len(mc.exchange.load_keras(path).layers) == 11
    path = rewritten(exported("keras3_notebook.keras"), every(dtype="mixed_float16"))
    with pytest.warns(UserWarning, match="float16"):
        mc.exchange.load_keras(path)


@pytest.mark.parametrize(("scale", "offset", "changed"), [(1 / 255, 0, False), (1 / 127.5, -1, True), (2.0, 1, True)])
def test_a_first_rescaling_is_for_pixels_between_0_and_1_here(scale, offset, changed, exported):
    def change(description):
        description["config"]["layers"].insert(
            1, {"class_name": "Rescaling", "config": {"name": "r", "scale": scale, "offset": offset}}
        )

    plain = mc.exchange.load_keras(exported("keras3_notebook.keras"))
    model = mc.exchange.load_keras(rewritten(exported("keras3_notebook.keras"), change))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 13, 12)).astype("uint8")
    expected = pixels * scale + offset if scale < 1 else pixels / 255 * scale + offset
    np.testing.assert_allclose(model.predict(pixels), plain.predict(expected.astype("float32")), rtol=0, atol=1e-6)
    assert isinstance(model.layers[0], mc.BatchNorm) == changed
    assert not changed or not model.layers[0].trainable


# files that are broken or hostile


def test_a_file_that_is_not_one_of_keras_is_refused(tmp_path, exported):
    (tmp_path / "text.keras").write_text("hello")
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as archive:
        archive.writestr("a.txt", "hello")
    rewritten(exported("keras3_notebook.keras"), lambda d: None, zipfile.ZIP_DEFLATED)
    os.mkfifo(tmp_path / "pipe.h5")
    for name, named in (
        ("text.keras", "neither"), ("zip.keras", r"config\.json"), ("keras3_notebook.keras", "compressed"),
        ("pipe.h5", "pipe"), ("missing.keras", "missing"), (".", "folder"),
    ):  # fmt: skip
        with pytest.raises(mc.FileError, match=named):
            mc.exchange.load_keras(tmp_path / name)


def read_tree(group):
    """All arrays of a group by their paths."""
    found = {}
    for name in group:
        item = group[name]
        inner = read_tree(item) if isinstance(item, hdf5.Group) else {"": item.read()}
        found |= {f"{name}/{key}".rstrip("/"): value for key, value in inner.items()}
    return found


def hdf5_bytes(fill, **options):
    h5py = pytest.importorskip("h5py", reason="makes the file")
    data = io.BytesIO()
    with h5py.File(data, "w", **options) as file:
        fill(file)
    return data.getvalue()


def opened(data):
    return hdf5.Hdf5(io.BytesIO(data), len(data)).root


def test_hdf5_is_read_as_its_library_wrote_it(rng):
    arrays = {f"group {i % 40}/{i}": rng.normal(size=rng.integers(1, 4, i % 5)).astype("<f4") for i in range(300)}
    arrays |= {"half": rng.normal(size=3).astype("f2"), "big": rng.normal(size=(2, 3)).astype(">f8")}
    arrays |= {"empty": np.zeros((0, 3), "f4")}
    names = [f"layer {i}" for i in range(1000)]

    def fill(file):
        for name, array in arrays.items():
            file[name] = array
        file.attrs["text"] = "x" * 100_000
        file.attrs["names"] = names
        file["group 1"].attrs["fixed"] = np.array([b"abc", b"de"])
        file["group 1"].attrs["scalar"] = np.bytes_(b"abc")
        for number in range(30):
            file.attrs[f"other {number}"] = number

    root = opened(hdf5_bytes(fill))
    found = read_tree(root)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert root.attribute("text") == "x" * 100_000 and root.attribute("names") == names
    assert root["group 1"].attribute("fixed") == ["abc", "de"] and root["group 1"].attribute("scalar") == "abc"
    assert root.attribute("no such") is None and "no such" not in root


def external(file):
    file.create_dataset("a", (3,), "f4", external=[("/etc/passwd", 0, 12)])


def virtual(file):
    import h5py

    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (3,))
    file.create_virtual_dataset("a", layout)


def links(kind):
    def fill(file):
        import h5py

        file["there"] = np.zeros(3, "f4")
        file["a"] = h5py.SoftLink("/there") if kind == "soft" else h5py.ExternalLink("other.h5", "/there")

    return fill


REFUSED = {
    "compressed": (
        lambda file: file.create_dataset("a", data=np.zeros((99, 99), "f4"), compression="gzip"),
        "compressed",
    ),
    "in chunks": (lambda file: file.create_dataset("a", data=np.zeros((9, 9), "f4"), chunks=(3, 3)), "chunks"),
    "external": (external, "other files"),
    "virtual": (virtual, "chunks or of other files"),
    "a soft link": (links("soft"), "links"),
    "an external link": (links("external"), "links"),
    "a name beyond ASCII": (lambda file: file.create_group("ä"), "beyond ASCII.*as .keras"),
    "integers": (lambda file: file.create_dataset("a", data=np.zeros(3, "i4")), "floating point"),
    "objects": (lambda file: file.create_dataset("a", data=["x"]), "floating point"),
    "larger than the file": (lambda file: file.create_dataset("a", (10**9,), "f4"), "larger than the file"),
    "never written": (lambda file: file.create_dataset("a", (3,), "f4"), "not its 12 bytes"),
}


@pytest.mark.parametrize(("fill", "named"), REFUSED.values(), ids=REFUSED)
def test_hdf5_that_keras_does_not_write_is_refused(fill, named):
    data = hdf5_bytes(fill)
    with pytest.raises(ValueError, match=named):
        read_tree(opened(data))


def test_hdf5_of_a_newer_layout_is_refused():
    data = hdf5_bytes(lambda file: file.create_dataset("a", data=np.zeros(3, "f4")), libver="latest")
    with pytest.raises(ValueError, match="newer"):
        opened(data)


FUZZ = """
import collections, gzip, io, json, pathlib, random, resource, sys, warnings, zipfile
sys.path.insert(0, {tests!r})
import minicnn as mc, numpy as np
from test_exchange_keras import notebook
warnings.simplefilter("ignore")
path, random = pathlib.Path({folder!r}) / {name!r}, random.Random({seed})
good = gzip.decompress(pathlib.Path({source!r}).read_bytes())
model = notebook()
if path.suffix == ".keras":
    archive = zipfile.ZipFile(io.BytesIO(good))
    parts = {{name: archive.read(name) for name in archive.namelist()}}
limit = int(open("/proc/self/statm").read().split()[0]) * 4096 + 2**27
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # 128 MiB more than now: a bound on what is asked for
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # of its own time, however busy the machine is

def mutated(data):
    data = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 8])):
        place = random.randrange(len(data)) if random.random() < 0.5 else random.randrange(min(len(data), 6000))
        how = random.randrange(6)
        if how == 0: data[place] ^= 1 << random.randrange(8)
        elif how == 1: data[place] = random.randrange(256)
        elif how == 2: del data[place : place + random.choice([1, 4, 100, 10**6])]
        elif how == 3: data[place:place] = random.randbytes(random.choice([1, 4, 100]))
        elif how == 4: data[place : place + 8] = random.choice([b"\\xff" * 8, b"\\0" * 8, b"\\x7f" * 8])
        else:
            other = random.randrange(len(data))
            data[place : place + 30] = data[other : other + 30]
        if not data: break
    return bytes(data)

def deep(count):
    value = []
    for _ in range(count):
        value = [value]
    return value

VALUES = [
    None, True, 0, 1, -1, 2, 2**31, 10**30, 10**400, 0.5, -0.5, 1e308, float("nan"), "", "x", "same", "Dense", "Conv2D",
    "Sequential", "Functional", "Lambda", "Add", "float64", "channels_first", [], {{}}, [1, 2], [1] * 1000, deep(600),
    {{"class_name": "ReLU", "config": {{}}}}, [None, 8, 8, 3], [-1], [10**9] * 3, ["input_layer", 0, 0],
]

def places(value, found):
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            places(value[key], found)
    return found

def redescribed(text):
    description = json.loads(text)
    for _ in range(random.choice([1, 1, 1, 2, 5])):
        container, key = random.choice(places(description, []))
        how = random.randrange(4)
        if how < 2: container[key] = json.loads(json.dumps(random.choice(VALUES)))
        elif how == 2: del container[key]
        elif isinstance(container, list): container.insert(key, json.loads(json.dumps(container[key])))
        else: container[random.choice(["axis", "name", "config"])] = json.loads(json.dumps(container[key]))
    return json.dumps(description)

refused = accepted = 0
for number in range({count}):
    if path.suffix == ".keras":  # with the right checksums
        sys.setrecursionlimit(10**4)  # for us, who make it
        changed = dict(parts)
        if number % 4:
            changed["config.json"] = redescribed(parts["config.json"])
        if number % 4 in (0, 3):
            changed["model.weights.h5"] = mutated(parts["model.weights.h5"])
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in changed.items():
                archive.writestr(name, data)
        if number % 8 == 0:
            path.write_bytes(mutated(path.read_bytes()))
        sys.setrecursionlimit(1000)
    else:
        path.write_bytes(mutated(good))
    try:
        if ".weights" in path.name:
            mc.exchange.load_weights(model, path)
        else:
            back = mc.exchange.load_keras(path)
            if number % 10 == 0 and np.prod(back.input_shape) < 10**5:
                back(np.zeros((2, *back.input_shape), back.dtype))
        accepted += 1
    except mc.MinicnnError as error:
        while error is not None:
            assert not isinstance(error, MemoryError)  # the bound is kept, not run into
            error = error.__cause__
        refused += 1
print(refused, accepted)
"""


@pytest.mark.parametrize(
    ("name", "count"),
    [("keras2_notebook.h5", 300), ("keras3_notebook.weights.h5", 200), ("keras3_blocks.keras", 240)],
)
def test_mutated_files_give_the_librarys_own_error(name, count, tmp_path):
    """Hundreds of broken files: each is refused, or used where what was changed does not matter or makes sense."""
    source, tests = str(EXPORTED / f"{name}.gz"), str(pathlib.Path(__file__).parent)
    code = FUZZ.format(tests=tests, folder=str(tmp_path), name=name, source=source, count=count, seed=1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, accepted = map(int, done.stdout.split())
    assert refused + accepted == count and refused > 0.25 * count
