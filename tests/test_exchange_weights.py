"""Weights from files of PyTorch and safetensors, and into them: what is read is what was written, or it is refused."""

import doctest
import importlib.util
import os
import pathlib
import pickle
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from layer_cases import all_layers, built

import minicnn as mc
from minicnn.exchange import torch_file
from minicnn.exchange.weights import load_weights, save_weights

DOCS = pathlib.Path(__file__).parents[1] / "docs"
MADE_BY_TORCH = pathlib.Path(__file__).parent / "exported" / "torch_weights.pt"
NETWORKS = [name for name, made in vars(mc.networks).items() if getattr(made, "__module__", "") == "minicnn.networks"]

safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.set_num_threads(1)
    return torch


def network(name, seed):
    """A network of the library for images that are small, with running means that are not those of a new one."""
    model = getattr(mc.networks, name)((1, 12, 12) if name in ("lenet5", "small_resnet") else (1, 8, 7), 4, seed=seed)
    rng = np.random.default_rng(seed)
    for state in model.states().values():
        if getattr(getattr(state, "value", None), "shape", None):
            state.value = mc.to_device(rng.uniform(0.5, 2, state.value.shape).astype(state.value.dtype))
    return model


def write(path, **arrays):
    """A .safetensors file; "__" in a name stands for a dot."""
    from safetensors.numpy import save_file

    save_file({name.replace("__", "."): np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


def dense_row(count, width=3, names="dense_{}"):
    """Dense layers of one shape, and the arrays of a file for them: array k is filled with k."""
    model = mc.Sequential([mc.Dense(width, use_bias=False) for _ in range(count)], input_shape=(width,))
    return model, {f"{names.format(k)}.weight": np.full((width, width), k, "float32") for k in range(1, count + 1)}


def order_read(model):
    """Which of `dense_row`'s arrays each layer has."""
    return [int(mc.to_numpy(layer.weight.value)[0, 0]) for layer in model.layers]


# Round trips


@all_layers
def test_every_layer_comes_back(make, shape, tmp_path, rng):
    layer = built(make, shape, "float32", seed=1)
    model = mc.Sequential([layer], input_shape=shape)
    save_weights(model, tmp_path / "net.safetensors")
    back = mc.Sequential([built(make, shape, "float32", seed=2)], input_shape=shape)
    load_weights(back, tmp_path / "net.safetensors")
    x = rng.normal(size=(2, *shape)).astype("float32")
    np.testing.assert_array_equal(back.predict(x), model.predict(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_comes_back(name, tmp_path, rng):
    model, back = network(name, 1), network(name, 2)
    save_weights(model, tmp_path / "net.safetensors")
    names = load_weights(back, tmp_path / "net.safetensors")
    assert set(names.values()) >= model.parameters().keys()
    x = rng.random((2, *model.input_shape)).astype("float32")
    np.testing.assert_array_equal(back.predict(x), model.predict(x))


def test_arrays_are_written_as_they_read(tmp_path, rng):
    """safetensors writes the numbers as they lie in memory."""
    model = mc.Sequential([mc.Dense(3), mc.Dense(2)], input_shape=(4,))
    value = rng.normal(size=(3, 4)).astype("float32")
    model.layers[0].weight.value = mc.to_device(np.asfortranarray(value))
    model.layers[1].weight.value = mc.to_device(np.repeat(value[:2, :3], 2, axis=1)[:, ::2])
    save_weights(model, tmp_path / "net.safetensors")
    from safetensors.numpy import load_file

    np.testing.assert_array_equal(load_file(tmp_path / "net.safetensors")["0.weight"], value)
    np.testing.assert_array_equal(load_file(tmp_path / "net.safetensors")["1.weight"], value[:2, :3])


def test_names_of_classes_come_back(tmp_path):
    model = mc.networks.logistic_regression((2,), 3)
    model.classes = ["cat", "dog", "\N{PILE OF POO}"]
    save_weights(model, tmp_path / "net.safetensors")
    back = mc.networks.logistic_regression((2,), 3)
    load_weights(back, tmp_path / "net.safetensors")
    assert back.classes == model.classes


def test_a_tied_array_is_written_for_each_layer_and_read_if_all_agree(tmp_path, rng):
    def tied(seed):
        model = mc.Sequential([mc.Dense(3), mc.Tanh(), mc.Dense(3)], input_shape=(3,), seed=seed)
        model.layers[2].weight = model.layers[0].weight
        return model

    path = tmp_path / "net.safetensors"
    model, back = tied(1), tied(2)
    save_weights(model, path)
    load_weights(back, path)
    x = rng.random((2, 3)).astype("float32")
    np.testing.assert_array_equal(back.predict(x), model.predict(x))
    save_weights(mc.Sequential([mc.Dense(3), mc.Tanh(), mc.Dense(3)], input_shape=(3,)), path)
    with pytest.raises(mc.InputError, match=r"0\.weight.*2\.weight"):
        load_weights(back, path)


def test_a_sequential_inside_another_has_names_of_its_own(tmp_path):
    def nested(seed):
        inner = mc.Sequential([mc.ReLU(), mc.Dense(3)])
        return mc.Sequential([mc.Dense(2), inner, mc.PReLU()], input_shape=(4,), seed=seed)

    model, back = nested(1), nested(2)
    save_weights(model, tmp_path / "net.safetensors")
    names = load_weights(back, tmp_path / "net.safetensors")
    assert names["1.1.weight"] == "sequential_1.dense_1.weight" and names["2.weight"] == "prelu_1.slope"
    assert set(names.values()) == model.parameters().keys()
    np.testing.assert_array_equal(back.predict(np.ones((1, 4))), model.predict(np.ones((1, 4))))


def test_files_of_keras_are_written_and_read(tmp_path, rng):
    pytest.importorskip("h5py", reason="h5py is not installed")
    model, back = network("lenet5", 1), network("lenet5", 2)
    save_weights(model, tmp_path / "net.weights.h5")
    load_weights(back, tmp_path / "net.weights.h5")
    x = rng.random((2, 1, 12, 12)).astype("float32")
    np.testing.assert_allclose(back.predict(x), model.predict(x), atol=1e-6)
    for function in (save_weights, load_weights):
        with pytest.raises(mc.InputError, match="Keras"):
            function(model, tmp_path / "net.weights.h5", names={"a": "dense_1.weight"})


def test_a_layer_of_your_own_is_read_and_written(tmp_path):
    class Scales(mc.Layer):
        factor_initializer = staticmethod(mc.initializers.ones)

        def __init__(self):
            self.more = {"a": [mc.Parameter(np.zeros(2, "float32"))]}

        def parameter_shapes(self, input_shape):
            return {"factor": input_shape}

        def forward(self, x, training=False):
            return x * self.factor.value + self.more["a"][0].value, lambda dy: dy

    model = mc.Sequential([mc.Dense(2), Scales()], input_shape=(2,))
    names = ["0.bias", "0.weight", "1.factor", "1.more.a.0"]
    save_weights(model, tmp_path / "net.safetensors")
    assert sorted(load_weights(model, tmp_path / "net.safetensors")) == names


# PyTorch


def torch_twin(torch, model):
    """A `torch.nn.Sequential` of the same layers, as far as the library's networks need them."""
    nn = torch.nn

    class Residual(nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return x + self.layers(x)

    def twin(layer, shape):
        if isinstance(layer, mc.Conv2D):
            padding = layer.window.pads(*shape[1:])[0][0]
            return nn.Conv2d(
                shape[0],
                layer.filters,
                layer.window.kernel_size,
                layer.window.stride,
                padding,
                bias=layer.use_bias,
            )
        if isinstance(layer, mc.Residual):
            return Residual(row(layer.layers, shape))
        return {
            mc.Dense: lambda: nn.Linear(shape[0], layer.units),
            mc.BatchNorm: lambda: nn.BatchNorm2d(shape[0]),
            mc.MaxPool2D: lambda: nn.MaxPool2d(2),
            mc.AvgPool2D: lambda: nn.AvgPool2d(2),
            mc.GlobalAvgPool2D: lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            mc.Flatten: nn.Flatten,
            mc.ReLU: nn.ReLU,
            mc.Tanh: nn.Tanh,
            mc.Dropout: nn.Dropout,
            mc.Softmax: lambda: nn.Softmax(1),
        }[type(layer)]()

    def row(layers, shape):
        modules = []
        for layer in layers:
            modules.append(twin(layer, shape))
            shape = layer.built_output_shape(shape)
        return nn.Sequential(*modules)

    return row(model.layers, model.input_shape).eval()


def torch_predict(torch, network, x):
    with torch.no_grad():
        return network(torch.tensor(x)).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_pytorch_loads_what_is_written_and_the_other_way_round(name, torch, tmp_path, rng):
    from safetensors.torch import load_file

    model = network(name, 1)
    twin = torch_twin(torch, model)
    save_weights(model, tmp_path / "net.safetensors")
    twin.load_state_dict(load_file(tmp_path / "net.safetensors"))  # strict
    x = rng.random((2, *model.input_shape)).astype("float32")
    np.testing.assert_allclose(torch_predict(torch, twin, x), model.predict(x), rtol=1e-4, atol=1e-6)
    torch.save(twin.state_dict(), tmp_path / "net.pt")
    back = network(name, 2)
    load_weights(back, tmp_path / "net.pt")
    np.testing.assert_array_equal(back.predict(x), model.predict(x))


def resnet_pair(torch):
    """A network in PyTorch with the names of torchvision's ResNets, and the one here."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, before, filters, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(before, filters, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(filters)
            self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(filters)
            self.downsample = None
            if stride > 1:
                self.downsample = nn.Sequential(
                    nn.Conv2d(before, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
                )

        def forward(self, x):
            y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
            return (y + (self.downsample(x) if self.downsample else x)).relu()

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 4, 3, 2, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(4)
            self.layer1 = nn.Sequential(Block(4, 4, 1), Block(4, 4, 1))
            self.layer2 = nn.Sequential(Block(4, 8, 2), Block(8, 8, 1))
            self.fc = nn.Linear(8, 5)

        def forward(self, x):
            x = self.layer2(self.layer1(self.bn1(self.conv1(x)).relu()))
            return self.fc(x.mean((2, 3)))

    def block(filters, stride):
        layers = [
            *(mc.Conv2D(filters, 3, stride=stride, padding=1, use_bias=False), mc.BatchNorm(), mc.ReLU()),
            *(mc.Conv2D(filters, 3, padding=1, use_bias=False), mc.BatchNorm()),
        ]
        shortcut = [mc.Conv2D(filters, 1, stride=stride, use_bias=False), mc.BatchNorm()]
        return [mc.Residual(layers, shortcut=shortcut if stride > 1 else None), mc.ReLU()]

    here = mc.Sequential(
        [
            *(mc.Conv2D(4, 3, stride=2, padding=1, use_bias=False), mc.BatchNorm(), mc.ReLU()),
            *(*block(4, 1), *block(4, 1), *block(8, 2), *block(8, 1), mc.GlobalAvgPool2D(), mc.Dense(5)),
        ],
        input_shape=(3, 15, 13),
    )
    torch.manual_seed(0)
    there = ResNet()
    for _ in range(2):
        there(torch.rand(4, 3, 15, 13))
    return there.eval(), here


def test_a_resnet_of_torchvisions_names_is_loaded(torch, tmp_path, rng):
    there, here = resnet_pair(torch)
    x = rng.random((2, 3, 15, 13)).astype("float32")
    torch.save({"epoch": 3, "model_state_dict": there.state_dict(), "loss": 0.5, "lr": [0.1]}, tmp_path / "net.pt")
    names = load_weights(here, tmp_path / "net.pt")
    expected = torch_predict(torch, there, x)
    np.testing.assert_allclose(here.predict(x), expected, rtol=1e-4, atol=1e-5)
    assert names["layer2.0.downsample.1.weight"] == "residual_3.shortcut.1.scale"

    # What is trained here goes back under the names of the network there.
    here.fit(x, np.array([0, 1]), epochs=1, verbose=False)
    save_weights(here, tmp_path / "back.safetensors", names=names)
    from safetensors.torch import load_file

    there.load_state_dict(load_file(tmp_path / "back.safetensors"))
    np.testing.assert_allclose(torch_predict(torch, there, x), here.predict(x), rtol=1e-4, atol=1e-5)

    # safetensors keeps no order: that of "bn2" and "downsample" is the alphabet's, which is said.
    other = resnet_pair(torch)[1]
    with pytest.warns(UserWarning, match="'layer2.0.bn2' comes before 'layer2.0.downsample.1'"):
        found = load_weights(other, tmp_path / "back.safetensors")
    assert found == names
    load_weights(other, tmp_path / "back.safetensors", names=names)  # no warning
    np.testing.assert_array_equal(other.predict(x), here.predict(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float32"])
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_every_floating_point_dtype_is_read(torch, dtype, kind, tmp_path, rng):
    values = torch.tensor(rng.normal(size=(3, 4))).to(getattr(torch, dtype))
    if kind == "torch":
        torch.save({"weight": values}, tmp_path / "net")
    else:
        from safetensors.torch import save_file

        save_file({"weight": values}, tmp_path / "net")
    for model_dtype in ("float32", "float64"):
        model = mc.Sequential([mc.Dense(3, use_bias=False)], input_shape=(4,), dtype=model_dtype)
        load_weights(model, tmp_path / "net")
        found = model.layers[0].weight.value
        assert found.dtype == model_dtype
        np.testing.assert_array_equal(mc.to_numpy(found), values.double().numpy().astype(model_dtype))


def test_views_of_one_storage_are_read(torch, tmp_path):
    row = torch.arange(60.0)
    state = {
        "0.weight": row[:12].view(4, 3).T,  # transposed
        "1.weight": row[20:40:2][:6].view(2, 3),  # every second number
        "2.weight": torch.nn.Parameter(row[1:2].expand(5, 2)),  # one number for all
    }
    for protocol in (2, 5):
        torch.save(state, tmp_path / "net.pt", pickle_protocol=protocol)
        layers = [mc.Dense(units, use_bias=False) for units in (3, 2, 5)]
        model = mc.Sequential(layers, input_shape=(4,))
        load_weights(model, tmp_path / "net.pt")
        for layer, expected in zip(layers, state.values(), strict=True):
            np.testing.assert_array_equal(mc.to_numpy(layer.weight.value), expected.detach().numpy())


class OfAnyKind:
    pass


def test_what_is_not_a_state_dict_is_refused(torch, tmp_path):
    module = torch.nn.Linear(2, 2)
    state, path = module.state_dict(), tmp_path / "net.pt"
    sparse = {"weight": torch.ones(2, 2).to_sparse(), "bias": torch.ones(2)}
    for content, named in (
        (module, "torch.nn.modules.linear Linear"),
        ({"model": state, "ema": state}, "'model', 'ema'"),
        ({"epoch": 3, "loss": 0.5}, "'epoch', 'loss'"),
        (state["weight"], "by name"),
        ([state], "by name"),
        ({}, "nothing"),
        ({**state, "settings": OfAnyKind()}, "OfAnyKind"),
        ({0: state["weight"]}, "0"),
        (sparse, "_rebuild_sparse_tensor"),
    ):
        torch.save(content, path)
        with pytest.raises(mc.FileError, match=named):
            load_weights(mc.Sequential([mc.Dense(2)], input_shape=(2,)), path)
    torch.save({"weight": state["weight"].int(), "bias": state["bias"]}, path)
    with pytest.raises(mc.InputError, match="int32"):
        load_weights(mc.Sequential([mc.Dense(2)], input_shape=(2,)), path)
    torch.save(state, path, _use_new_zipfile_serialization=False)
    with pytest.raises(mc.FileError, match=r"before 1\.6"):
        load_weights(mc.Sequential([mc.Dense(2)], input_shape=(2,)), path)


# A file that PyTorch wrote, without PyTorch


def small(seed=0, **options):
    """The network of `exported/make_torch_weights.py`."""
    layers = [
        *(mc.Conv2D(2, 3), mc.BatchNorm(), mc.ReLU(), mc.Conv2D(2, 1), mc.BatchNorm(), mc.ReLU()),
        *(mc.Flatten(), mc.Dense(3)),
    ]
    return mc.Sequential(layers, input_shape=(1, 5, 6), seed=seed, **options)


def members(path=MADE_BY_TORCH):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def test_a_file_of_pytorch_is_read_without_it():
    """The layers are taken in the order of the file: the alphabet has "body" before "stem"."""
    model = small()
    names = load_weights(model, MADE_BY_TORCH)
    assert names["stem.1.running_var"] == "batchnorm_1.running_variance"
    image = np.linspace(0, 1, 30, dtype="float32").reshape(1, 1, 5, 6)
    # computed by PyTorch from this file
    np.testing.assert_allclose(model.predict(image), [[-0.1616, -0.1115, 0.1926]], atol=1e-4)
    with torch_file.TorchFile(MADE_BY_TORCH) as file:
        assert file.tensors["classifier.weight"].dtype == "float64"
        assert file.tensors["body.0.weight"].dtype == "bfloat16"


def test_a_big_endian_file_is_read(tmp_path):
    expected, model = small(1), small(2)
    load_weights(expected, MADE_BY_TORCH)
    contents = members()
    contents["torch_weights/byteorder"] = b"big"
    with torch_file.TorchFile(MADE_BY_TORCH) as file:
        for tensor in file.tensors.values():
            name = f"torch_weights/{tensor.storage.member}"
            contents[name] = np.frombuffer(contents[name], tensor.storage.stored_dtype).byteswap().tobytes()
    load_weights(model, written(tmp_path / "big.pt", contents))
    for name, parameter in expected.parameters().items():
        np.testing.assert_array_equal(model.parameters()[name].value, parameter.value)


def test_a_file_of_an_older_version_is_read(tmp_path):
    """Which has no byte order, and another name of the folder in the zip."""
    model, old = small(1), small(2)
    kept = {f"archive/{name}": data for name, data in members().items() if "/data" in name}
    kept = {name.replace("/torch_weights", ""): data for name, data in kept.items()}
    load_weights(model, MADE_BY_TORCH)
    load_weights(old, written(tmp_path / "old.pt", kept))
    for name, parameter in model.parameters().items():
        np.testing.assert_array_equal(old.parameters()[name].value, parameter.value)


def test_a_long_pickle_takes_bounded_memory():
    """A pickle makes many times its size in memory, so its size is limited: to 1 MiB, which makes 100 at most."""
    tracemalloc.start()
    try:
        for instruction in b"(", b"}", b"]":
            torch_file.run(instruction * (torch_file._PROGRAM_LIMIT // 64 - 3) + b"}.")
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20 / 64
    finally:
        tracemalloc.stop()


def changed(name, change):
    """The members of the file with one of them changed; None takes it away."""
    contents = {key.removeprefix("torch_weights/"): data for key, data in members().items()}
    data = change(contents.pop(name, b""))
    contents |= {} if data is None else {name: data}
    return {f"torch_weights/{key}": data for key, data in contents.items()}


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/minicnn-was-here",)


def in_pickle(old, new):
    def change(data):
        assert old in data
        return data.replace(old, new)

    return "data.pkl", change


SHAPE = b"K\x02K\x01K\x03K\x03t"  # (2, 1, 3, 3)
BROKEN = {
    "a pickle that runs a command": ("data.pkl", lambda data: pickle.dumps(Evil(), 2), "posix system"),
    "one of protocol 5": ("data.pkl", lambda data: pickle.dumps(Evil(), 5), "posix system"),
    "one of protocol 0": ("data.pkl", lambda data: pickle.dumps(Evil(), 0), "posix system"),
    "a function by another name": (*in_pickle(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"), "_rebuild_tensor_v9"),
    "an instruction that is not needed": ("data.pkl", lambda data: b"\x80\x02I1\n.", "INT"),
    "a pickle that is cut": ("data.pkl", lambda data: data[:-20], "complete"),
    "a pickle without anything": ("data.pkl", lambda data: b".", "makes no sense"),
    "a very long pickle": ("data.pkl", lambda data: b"]" * 2**22 + data, "bytes"),
    "a larger shape": (*in_pickle(SHAPE, b"K\x02K\x01K\x03K\x04t"), "beyond the end"),
    "a huge shape": (*in_pickle(SHAPE, b"K\x02K\x01J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft"), "beyond the end"),
    "a negative size": (*in_pickle(SHAPE, b"K\x02K\x01J\xff\xff\xff\xffK\x03t"), "another form"),
    "fewer axes than strides": (*in_pickle(SHAPE, b"K\x02K\x01K\x03t"), "another form"),
    "another storage": (*in_pickle(b"FloatStorage", b"LongStorage"), "not as many"),
    "numbers that are missing": ("data/0", lambda data: None, "missing"),
    "numbers that are too few": ("data/0", lambda data: data[:-4], "not as many"),
    "no pickle": ("data.pkl", lambda data: None, "data.pkl"),
    "two pickles": ("../other/data.pkl", lambda data: b"", "several"),
    "an unknown byte order": ("byteorder", lambda data: b"middle", "byte order"),
    "a program": ("constants.pkl", lambda data: b"", "torch.jit"),
}


@pytest.mark.parametrize(("name", "change", "named"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_makes_no_sense_is_refused(name, change, named, tmp_path):
    contents = changed(name, change)
    contents = {key.replace("torch_weights/../", ""): data for key, data in contents.items()}
    model = small()
    before = {key: mc.to_numpy(p.value).copy() for key, p in model.parameters().items()}
    with pytest.raises(mc.FileError, match=named):
        load_weights(model, written(tmp_path / "net.pt", contents))
    assert not pathlib.Path("/tmp/minicnn-was-here").exists()
    for key, parameter in model.parameters().items():
        np.testing.assert_array_equal(parameter.value, before[key])


def test_a_compressed_file_is_refused(tmp_path):
    with pytest.raises(mc.FileError, match="compressed"):
        load_weights(small(), written(tmp_path / "net.pt", members(), zipfile.ZIP_DEFLATED))


def test_files_of_other_kinds_are_refused_with_their_kind(tmp_path):
    small().save(tmp_path / "net.npz")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"weight": 1}))
    (tmp_path / "archive.pt").write_bytes(written(tmp_path / "a.zip", {"a.txt": b"a"}).read_bytes())
    for name, named in {
        "net.npz": "minicnn.load",
        "text.pt": "torch.save",
        "empty.pt": "torch.save",
        "pickle.pt": "pickle",
        "archive.pt": "data.pkl",
        "missing.pt": "missing",
        ".": "folder",
    }.items():
        with pytest.raises(mc.FileError, match=named):
            load_weights(small(), tmp_path / name)
    with pytest.raises(mc.InputError, match="path"):
        load_weights(small(), 3)


# Which array is which


def test_numbers_in_names_count_by_their_value(tmp_path):
    """Text order has 10 and 11 before 2."""
    for names in ("dense_{}", "block.{}.dense", "{}", "b{}x.conv3"):
        model, arrays = dense_row(12, names=names)
        assert sorted(arrays) != list(arrays)
        load_weights(model, write(tmp_path / "net.safetensors", **arrays))
        assert order_read(model) == list(range(1, 13))


def test_the_order_of_definition_counts_for_words_and_values_for_numbers(torch, tmp_path):
    model, arrays = dense_row(12)
    torch.save({name: torch.tensor(array) for name, array in sorted(arrays.items())}, tmp_path / "net.pt")
    load_weights(model, tmp_path / "net.pt")
    assert order_read(model) == list(range(1, 13))
    model, arrays = dense_row(3)
    words = dict(zip(("down.weight", "bottom.weight", "up.weight"), arrays.values(), strict=True))
    torch.save({name: torch.tensor(array) for name, array in words.items()}, tmp_path / "net.pt")
    load_weights(model, tmp_path / "net.pt")
    assert order_read(model) == [1, 2, 3]


def test_names_by_hand(tmp_path):
    model, arrays = dense_row(3)
    path = write(tmp_path / "net.safetensors", **arrays, extra=np.zeros(2, "float32"))
    with pytest.raises(mc.InputError, match="extra"):
        load_weights(model, path)
    names = {"dense_1.weight": "dense_3.weight", "extra": None}
    found = load_weights(model, path, names=names)
    assert order_read(model) == [2, 3, 1]  # the others in order
    assert found == {
        "dense_1.weight": "dense_3.weight",
        "dense_2.weight": "dense_1.weight",
        "dense_3.weight": "dense_2.weight",
    }
    for names, named in (
        ({"dense_9.weight": "dense_1.weight"}, "dense_9.weight.*the file"),
        ({"dense_1.weight": "dense_9.weight"}, "dense_9.weight.*the model"),
        ({"dense_1.weight": "dense_1.weight", "dense_2.weight": "dense_1.weight"}, "twice"),
        ({"extra": "dense_1.weight", "dense_1.weight": None}, r"'extra'.*\(2,\).*dense_1.weight.*\(3, 3\)"),
        (["dense_1.weight"], "dict"),
        ({"dense_1.weight": 1}, "dict"),
    ):
        with pytest.raises(mc.InputError, match=named):
            load_weights(model, path, names=names)
    assert order_read(model) == [2, 3, 1]
    for names, named in (
        ({"a": "dense_1.weight"}, "dense_2.weight.*none"),
        ({"a": "dense_9.weight"}, "dense_9.weight"),
    ):
        with pytest.raises(mc.InputError, match=named):
            save_weights(model, tmp_path / "other.safetensors", names=names)
    assert not (tmp_path / "other.safetensors").exists()


def test_a_network_of_other_layers_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(mc.networks.lenet5((1, 12, 12), 10), path)
    with pytest.raises(mc.InputError, match=r"11\.weight.*\(10, 84\).*dense_3\.weight.*\(4, 84\)"):
        load_weights(mc.networks.lenet5((1, 12, 12), 4), path)
    names = {name: f"net.{name}" for name in load_weights(mc.networks.lenet5((1, 12, 12)), path)}
    from safetensors.numpy import load_file, save_file

    save_file({names[name]: array for name, array in load_file(path).items()}, path)
    with pytest.raises(mc.InputError, match=r"bias \(4,\) and weight \(4, 84\) the model has dense_3, the file none"):
        load_weights(mc.networks.lenet5((1, 12, 12), 4), path)
    with pytest.raises(mc.InputError, match=r"the model has none, the file 'net\.11'"):
        load_weights(mc.networks.lenet5((1, 12, 12), 4), path)
    load_weights(mc.networks.lenet5((1, 12, 12), 10), path)


def test_numbers_that_the_dtype_cannot_hold_are_refused(tmp_path):
    path = write(tmp_path / "net.safetensors", **{"0.weight": np.array([[1e300]])})
    model = mc.Sequential([mc.Dense(1, use_bias=False)], input_shape=(1,))
    with pytest.raises(mc.InputError, match="float64"):
        load_weights(model, path)
    model = mc.Sequential([mc.Dense(1, use_bias=False)], input_shape=(1,), dtype="float64")
    load_weights(model, path)
    assert mc.to_numpy(model.layers[0].weight.value) == 1e300


def test_training_goes_on_from_loaded_weights_and_frozen_layers_stay(rng):
    model = small()
    x, y = rng.random((12, 1, 5, 6)).astype("float32"), np.arange(12) % 3
    model.layers[0].weight.add_gradient(mc.to_device(np.ones((2, 1, 3, 3), "float32")))
    load_weights(model, MADE_BY_TORCH)
    assert not model.layers[0].weight.has_gradient  # those of the weights before
    model.layers[-1] = mc.Dense(4)
    model.layers[0].trainable = False
    before = {name: mc.to_numpy(p.value).copy() for name, p in model.parameters().items()}
    model.fit(x, y, epochs=2, verbose=False)
    for name, parameter in model.parameters().items():
        is_same = np.array_equal(mc.to_numpy(parameter.value), before.get(name))
        assert is_same == name.startswith("conv2d_1.")


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    with pytest.raises(mc.InputError, match="Sequential"):
        save_weights(mc.Dense(3), tmp_path / "net.safetensors")
    with pytest.raises(mc.InputError, match="input_shape"):
        save_weights(mc.Sequential([mc.Dense(3)]), tmp_path / "net.safetensors")
    with pytest.raises(mc.InputError, match=r"\.safetensors"):
        save_weights(small(), tmp_path / "net.pt")
    with pytest.raises(mc.FileError, match="nowhere"):
        save_weights(small(), tmp_path / "nowhere" / "net.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for function in (save_weights, load_weights):
        (tmp_path / "net.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        with pytest.raises(mc.MissingPackageError, match="pip install"):
            function(small(), tmp_path / "net.safetensors")


# Broken files


FUZZ = """
import pathlib, random, resource, sys, warnings, zipfile
sys.path.insert(0, {tests!r})
import minicnn as mc, numpy as np
from minicnn.exchange.weights import load_weights, save_weights
from test_exchange_weights import MADE_BY_TORCH, members, small, written
warnings.simplefilter("ignore")
folder, kind = pathlib.Path({folder!r}), {kind!r}
path = folder / "mutated"
model = small()
load_weights(model, MADE_BY_TORCH)
save_weights(model, folder / "good.safetensors")
good = (folder / "good.safetensors" if kind == "safetensors" else MADE_BY_TORCH).read_bytes()
if kind == "pickle":
    contents = members()
    good = contents["torch_weights/data.pkl"]
    texts = [b"ctorch._utils\\n_rebuild_tensor_v2\\n", b"ctorch\\nLongStorage\\n", b"cos\\nsystem\\n"]
    texts += [bytes([code]) for code in b"()]}}tRQubs\\x85\\x86"]
expected = [p.value.copy() for p in model.parameters().values()]
random.seed({seed})
limit = int(open("/proc/self/statm").read().split()[0]) * 4096 + 2**27
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # 128 MiB more than now: a bound on what is asked for
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # of its own time, however busy the machine is
refused = accepted = 0
for number in range({count}):
    data = bytearray(good)
    for _ in range(random.choice([1, 1, 2, 8])):
        place = random.randrange(len(data)) if random.random() < 0.5 else random.randrange(min(len(data), 1200))
        how = random.randrange(7)
        if how == 0: data[place] ^= 1 << random.randrange(8)
        elif how == 1: data[place] = random.randrange(256)
        elif how == 2: del data[place : place + random.choice([1, 4, 100, 10**6])]
        elif how == 3: data[place:place] = random.randbytes(random.choice([1, 4, 100]))
        elif how == 4: data[place : place + 8] = random.choice([b"\\xff" * 8, b"\\0" * 8, b"\\x7f" * 8, b"99999999"])
        elif how == 5 and kind == "pickle": data[place:place] = random.choice(texts)
        else:
            other = random.randrange(len(data))
            data[place : place + 30] = data[other : other + 30]
        if not data: break
    if kind == "pickle":
        written(path, contents | {{"torch_weights/data.pkl": bytes(data)}})
    else:
        path.write_bytes(data)
    try:
        load_weights(model, path)
        accepted += 1
    except mc.MinicnnError as error:
        assert not isinstance(error.__cause__, MemoryError)  # the bound is kept, not run into
        refused += 1
        continue
    for value, parameter in zip(expected, model.parameters().values(), strict=True):
        assert parameter.value.shape == value.shape and parameter.value.dtype == "float32"
        if kind == "torch":  # it has checksums; safetensors has none
            np.testing.assert_array_equal(parameter.value, value)
print(refused, accepted)
"""


@pytest.mark.parametrize(("kind", "count"), [("torch", 300), ("pickle", 400), ("safetensors", 200)])
def test_mutated_files_give_the_librarys_own_error(tmp_path, kind, count):
    """Hundreds of broken files: each is refused or read, in bounded memory; nothing else happens."""
    code = FUZZ.format(tests=str(pathlib.Path(__file__).parent), folder=str(tmp_path), kind=kind, count=count, seed=1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, accepted = map(int, done.stdout.split())
    assert refused + accepted == count
    assert refused > 0.4 * count


# The page


@pytest.mark.skipif(not DOCS.exists(), reason="the pages are beside the tests in a checkout only")
def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(DOCS / "exchange.md"), module_relative=False)
    assert result.attempted > 10 and result.failed == 0


@pytest.mark.skipif(not DOCS.exists(), reason="the pages are beside the tests in a checkout only")
@pytest.mark.parametrize("library", ["minicnn", "PyTorch"])
def test_the_numbers_of_the_page_are_those_that_are_computed(library):
    """Keras's are printed by `python docs/differences.py`, where it is installed."""
    spec = importlib.util.spec_from_file_location("differences", DOCS / "differences.py")
    differences = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(differences)
    torch = pytest.importorskip("torch", reason="PyTorch is not installed") if library == "PyTorch" else None
    page = (DOCS / "exchange.md").read_text(encoding="utf-8")
    for difference in differences.DIFFERENCES:
        found = difference.minicnn() if torch is None else difference.pytorch(torch)
        title, line = differences.lines(difference, {library: differences.numbers(found)})
        block = page[page.index(title) :].split("\n\n")[0]
        assert line in block.splitlines(), line
