"""`load_onnx`: networks of other libraries, each operator in its forms, and files that are broken or do harm."""

import collections
import itertools
import json
import os
import pathlib
import sys
import warnings

import numpy as np
import pytest
from hostile import count_refused

import minicnn as mc

onnx = pytest.importorskip("onnx", reason="ONNX files need the package onnx: pip install '.[test]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="the tests run ONNX files: pip install '.[test]'")

EXPORTED = pathlib.Path(__file__).parent / "exported"
LIGHT = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def run(path, x):
    """What onnxruntime computes from a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def assert_close(y, expected):
    """Equal to 1e-5 of the largest number."""
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def ours(x):
    """Images (N, H, W, C) as ours."""
    return x.transpose(0, 3, 1, 2)


def write(path, nodes, shape=(3, 7, 6), arrays=None, opset=17, outputs=("y",), batch="N", **metadata):
    """An ONNX file whose input is x; nodes are (operator, inputs, output, attributes)."""
    counts = collections.Counter()
    made = []
    for kind, inputs, out, more in nodes:
        made.append(onnx.helper.make_node(kind, inputs, [out], f"the_{kind}{counts[kind] or ''}", **more))
        counts[kind] += 1
    x = onnx.helper.make_tensor_value_info("x", 1, [batch, *shape])
    found = [onnx.helper.make_tensor_value_info(name, 1, None) for name in outputs]
    arrays = [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in (arrays or {}).items()]
    graph = onnx.helper.make_graph(made, "g", [x], found, arrays)
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())
    return path


def learns(model, x):
    """Whether every parameter that is not frozen receives a gradient."""
    y, backward = model.forward(x)
    backward(np.ones_like(y))
    return all(parameter.has_gradient for parameter in model.parameters().values() if parameter.trainable)


# Files that the exporters made


@pytest.mark.parametrize("name", sorted(path.stem for path in EXPORTED.glob("*.onnx")))
def test_files_of_the_exporters_give_the_answers_of_the_networks(name):
    """Of PyTorch's two exporters and of Keras on TensorFlow and on PyTorch; `exported/make_onnx.py` made them."""
    model = mc.exchange.load_onnx(EXPORTED / f"{name}.onnx")
    data = np.load(EXPORTED / f"{name}.npz")
    x = ours(data["x"]) if name.startswith("keras") else data["x"]
    assert_close(model.predict(x), data["y"])
    assert_close(data["y"], run(EXPORTED / f"{name}.onnx", data["x"]))
    assert learns(model, x)


def test_a_graph_of_tensorflow_becomes_layers_of_ours():
    """The transposes are gone, the pixels are scaled by a frozen layer, and (H, W, C) is (C, H, W)."""
    model = mc.exchange.load_onnx(EXPORTED / "keras_tensorflow_mobile.onnx")
    kinds = "BatchNorm Conv2D Clip Conv2D PReLU Conv2D GlobalAvgPool2D Dense Softmax"
    assert [type(layer).__name__ for layer in model.layers] == kinds.split()
    assert model.input_shape == (3, 10, 12)
    assert [name for name, p in model.parameters().items() if not p.trainable] == [
        "batchnorm_1.scale",
        "batchnorm_1.shift",
    ]
    assert model.learned_range == (0, 255)
    with pytest.warns(UserWarning, match="255"):
        model.predict(np.full((1, 3, 10, 12), 200, "uint8"))  # which would be divided twice
    assert model.layers[1].padding == ((0, 1), (0, 1)) and model.layers[3].groups == 4
    model = mc.exchange.load_onnx(EXPORTED / "keras_tensorflow_residual.onnx")
    kinds = "Conv2D ReLU Residual ReLU Branches MaxPool2D Flatten Dense Tanh Dense"
    assert [type(layer).__name__ for layer in model.layers] == kinds.split()


def test_a_loaded_network_is_trained_further_with_a_new_head(rng):
    model = mc.exchange.load_onnx(EXPORTED / "torch_classifier.onnx")
    model.layers[-2:] = [mc.Dense(3)]
    kept = model.layers[0].weight.value.copy()
    model.layers[0].trainable = False
    x, labels = rng.random((24, 1, 14, 12)), np.arange(24) % 3
    x[labels == 1, :, :7] += 1
    x[labels == 2, :, 7:] += 1
    history = model.fit(x, labels, epochs=8, batch_size=8, optimizer=mc.Adam(0.01), verbose=False)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    np.testing.assert_array_equal(model.layers[0].weight.value, kept)


def made_up(path, divisor):
    """One of ONNX's own models, which are kept without weights, with random ones and a fraction of its channels."""
    model, rng = onnx.load(path), np.random.default_rng(0)
    graph, model.ir_version = model.graph, 8
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    read_by = {name: (node.op_type, k) for node in graph.node for k, name in enumerate(node.input)}

    def small(n):
        return n if n < 4 else n // divisor

    def weight(name, shape):
        kind, position = read_by[name]
        shape = [small(n) for n in shape] if kind == "Reshape" else [*map(small, shape[:2]), *shape[2:]]
        value = rng.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5 if shape[1:] else 0.1 * rng.normal(size=shape)
        if kind == "Unsqueeze" or (kind, position) == ("BatchNormalization", 1):
            value = 1 + value
        if (kind, position) == ("BatchNormalization", 4):
            value = 0.8 + np.abs(value)
        return onnx.numpy_helper.from_array(value.astype("float32"), name)

    shapes = {node.output[0]: arrays[node.input[0]] for node in graph.node if node.op_type == "ConstantOfShape"}
    shapes |= {name: a.shape for name, a in arrays.items() if a.dtype == np.float32 and name in read_by}
    new = [weight(name, list(map(int, shape))) for name, shape in shapes.items()]
    targets = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    new += [onnx.numpy_helper.from_array(np.array([small(n) for n in arrays[name]]), name) for name in targets]
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    if nodes[-1].op_type == "Softmax":  # in which errors would not be seen, where one class has it all
        nodes = nodes[:-1]
    inputs = [value for value in graph.input if value.name not in arrays]
    output = onnx.helper.make_tensor_value_info(nodes[-1].output[0], 1, None)
    model.graph.CopyFrom(onnx.helper.make_graph(nodes, "light", inputs, [output], new))
    return model


@pytest.mark.parametrize(
    "name",
    ["bvlc_alexnet", "inception_v1", "inception_v2", "resnet50", "squeezenet", "vgg19", "zfnet512"],
)
def test_networks_of_onnxs_own_list(name, tmp_path):
    if not LIGHT.is_dir():
        pytest.skip("this version of onnx ships no light models")
    path = tmp_path / "light.onnx"
    path.write_bytes(made_up(LIGHT / f"light_{name}.onnx", 8).SerializeToString())
    model = mc.exchange.load_onnx(path)
    x = np.random.default_rng(1).random((1, 3, 224, 224)).astype("float32")
    assert_close(model.predict(x), run(path, x))


def torch_networks(torch):
    """Small networks, each with what one family of networks needs, and the shape of a sample."""
    nn, functional = torch.nn, torch.nn.functional

    class Of(nn.Module):
        def __init__(self, function, **parts):
            super().__init__()
            self.function = function
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, x):
            return self.function(self, x)

    def conv(*arguments, **options):
        return nn.Sequential(nn.Conv2d(*arguments, bias=False, **options), nn.BatchNorm2d(arguments[1]), nn.ReLU())

    def with_convolutions(*activations):
        layers = [nn.Conv2d(3, 4, 3)]
        for activation in activations:
            layers += [activation, nn.Conv2d(4, 4, 1)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

    def residual(s, x):
        return functional.relu(s.body(x) + s.shortcut(x))

    def densely(s, x):
        found = [s.first(x)]
        for layer in (s.second, s.third):
            found.append(functional.relu(layer(torch.cat(found, 1))))
        return s.last(torch.cat(found, 1).mean((2, 3)))

    normal = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    body = nn.Sequential(conv(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4))
    parts = {f"a{k}": nn.Conv2d(3, 2, k, padding=k // 2) for k in (1, 3)}
    dense = {"first": nn.Conv2d(3, 2, 1), "second": nn.Conv2d(2, 2, 3, padding=1), "third": nn.Conv2d(4, 2, 1)}
    return {
        "lenet": (nn.Sequential(nn.Conv2d(1, 2, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(2, 3, 5),
                                nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 8), nn.Sigmoid(),
                                nn.Linear(8, 5), nn.Softmax(1)), (1, 18, 14)),
        "vgg": (nn.Sequential(conv(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(),
                              nn.Linear(16, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 5)), (3, 8, 8)),
        "relu6": (with_convolutions(nn.ReLU6(), nn.Hardtanh()), (3, 7, 6)),
        "leaky": (with_convolutions(nn.LeakyReLU(0.2), nn.ELU(0.7), nn.PReLU(), nn.PReLU(4)), (3, 7, 6)),
        "smooth": (with_convolutions(nn.SiLU(), nn.Hardswish(), nn.GELU(approximate="tanh"), nn.Sigmoid()), (3, 7, 6)),
        "selu": (with_convolutions(nn.SELU(), nn.CELU(), nn.Hardsigmoid()), (3, 7, 6)),
        "ceil": (nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(3, 2, 1, ceil_mode=True),
                               nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)), (3, 28, 22)),
        "padded pooling": (nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False),
                                         nn.MaxPool2d(3, 2, 1)), (3, 14, 11)),
        "transposed": (nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1),
                                     nn.ConvTranspose2d(4, 2, 4, 2, 1, groups=2, bias=False)), (3, 8, 6)),
        "residual": (nn.Sequential(Of(residual, body=body, shortcut=nn.Conv2d(3, 4, 1, 2)),
                                   Of(residual, body=conv(4, 4, 1), shortcut=nn.Identity())), (3, 9, 8)),
        "inception": (nn.Sequential(Of(lambda s, x: torch.cat([s.a1(x), s.a3(x), functional.max_pool2d(x, 3, 1, 1)], 1),
                                       **parts), nn.AdaptiveMaxPool2d(1), nn.Flatten()), (3, 9, 8)),
        "densenet": (Of(densely, **dense, last=nn.Linear(6, 5)), (3, 7, 6)),
        "pad": (nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(3, 4, 3), nn.ZeroPad2d(1), nn.MaxPool2d(2),
                              nn.Flatten()), (3, 8, 8)),
        "mobile": (nn.Sequential(conv(3, 6, 3, 2, 1), conv(6, 6, 3, 1, 1, groups=6), nn.Conv2d(6, 8, 1),
                                 Of(lambda s, x: s.last(x.mean([2, 3])), last=nn.Linear(8, 5))), (3, 9, 8)),
        "vectors": (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5, bias=False),
                                  nn.LayerNorm(5), nn.LogSoftmax(1)), (6,)),
        "normalized pixels": (nn.Sequential(Of(lambda s, x: (x - normal) / (normal + 0.3)), nn.Conv2d(3, 4, 3, 1, 1)),
                              (3, 7, 6)),
        "one pixel": (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 5, 1),
                                    Of(lambda s, x: x.squeeze(-1).squeeze(-1))), (3, 7, 6)),
        "dilated": (nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2, padding=2), nn.InstanceNorm2d(4, affine=True)),
                    (3, 7, 6)),
        "groups": (nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU()), (3, 7, 6)),
        "alexnet": (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.LocalResponseNorm(5, 0.5, 0.6, 2.0)), (3, 7, 6)),
        "all of an image": (nn.Sequential(nn.Conv2d(3, 2, 3), nn.LayerNorm([2, 5, 4])), (3, 7, 6)),
    }  # fmt: skip


def test_small_networks_of_every_family_from_pytorch(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, (network, shape) in torch_networks(torch).items():
        for part in network.modules():
            if getattr(part, "running_var", None) is not None:
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 1.5)
        network.eval()
        x = torch.rand(3, *shape)
        path = tmp_path / f"{name}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, which PyTorch calls the older one
            options = {"dynamo": False, "input_names": ["x"], "dynamic_axes": {"x": {0: "N"}}}
            torch.onnx.export(network, (x,), path, **options)
        model = mc.exchange.load_onnx(path)
        y = model.predict(x.numpy())
        try:
            assert_close(y, run(path, x.numpy()))
            np.testing.assert_allclose(y, network(x).detach().numpy(), rtol=1e-4, atol=1e-5)
            assert learns(model, x.numpy())
        except AssertionError as error:
            raise AssertionError(f"{name}: {model.layers}") from error


# Each operator in its forms


def chain(*nodes):
    """Nodes in a row from x to y: each is (operator, further inputs, attributes)."""
    names = ["x", *(f"h{k}" for k in range(1, len(nodes))), "y"]
    return [
        (kind, [a, *more], b, options)
        for (kind, more, options), (a, b) in zip(nodes, itertools.pairwise(names), strict=True)
    ]


R = np.random.default_rng(0).normal
KERNELS, SMALL = R(size=(4, 3, 3, 2)).astype("float32"), R(size=(3, 2, 3, 3)).astype("float32")
F32 = {f"f{n}": R(size=n).astype("float32") for n in (3, 4, 6)} | {"k": KERNELS, "s": SMALL, "zero": np.float32(0)}
F32 |= {"c3": R(size=(3, 1, 1)).astype("float32"), "w": R(size=(126, 5)).astype("float32"), "six": np.float32(6)}
I64 = {"to_flat": [0, -1], "flat": [-1, 126], "axes23": [2, 3], "pads": [0, 0, 1, 0, 0, 0, 2, 1], "axis1": [1]}
ARRAYS = F32 | {name: np.array(value, "int64") for name, value in I64.items()}
ARRAYS |= {
    "five": np.array([-1, 1, 3, 7, 6]),
    "open": np.array([0, 1, 3, 7, -1]),
    "ends": np.array([0, 0, 1, 0, 0] * 2),
}
ARRAYS |= {"two": np.float32(2), "half": np.float32(0.5)}
ARRAYS |= {"axis3": np.array([3]), "twice": np.array([1, 1, 1, 2, 1]), "thrice": np.array([1, 1, 1, 3, 1])}
ARRAYS |= {"rows": np.array([-1, 14, 6, 3]), "columns": np.array([-1, 14, 18, 3])}
ARRAYS["scales"] = np.array([1, 1, 2, 3], "float32")
WINDOW = {"kernel_shape": [3, 2]}


def local_response(shape):
    return [
        ("Mul", ["x", "x"], "q", {}), ("Reshape", ["q", shape], "r", {}), ("Pad", ["r", "ends"], "p", {}),
        ("AveragePool", ["p"], "m", {"kernel_shape": [3, 1, 1], "count_include_pad": 1}),
        ("Squeeze", ["m", "axis1"], "n", {}), ("Mul", ["n", "six"], "t", {}), ("Add", ["t", "two"], "u", {}),
        ("Pow", ["u", "half"], "v", {}), ("Div", ["x", "v"], "y", {})]  # fmt: skip


FORMS = {
    "a window with pads, stride and dilation": chain(
        ("Conv", ["k", "f4"], {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]})),
    "same, upper": chain(("Conv", ["k"], {"auto_pad": "SAME_UPPER", "strides": [2, 2]})),
    "same, lower": chain(("Conv", ["k"], {"auto_pad": "SAME_LOWER", "strides": [2, 2]})),
    "valid": chain(("Conv", ["k"], {"auto_pad": "VALID"})),
    "pooling, same": chain(("MaxPool", [], WINDOW | {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
                           ("AveragePool", [], WINDOW | {"auto_pad": "SAME_LOWER", "strides": [1, 1]})),
    "transposed, with an output shape": chain(("ConvTranspose", ["s"], {"strides": [2, 2], "output_shape": [14, 12]})),
    "transposed, same": chain(("ConvTranspose", ["s"], {"strides": [2, 2], "auto_pad": "SAME_UPPER"})),
    "transposed, cut off": chain(("ConvTranspose", ["s"], {"strides": [2, 1], "pads": [1, 0, 0, 2],
                                                           "output_padding": [1, 0]})),
    "a matrix product and a bias": chain(("Reshape", ["flat"], {}), ("MatMul", ["w"], {})),
    "gemm with factors": chain(("Flatten", [], {}), ("Gemm", ["w"], {"alpha": 0.5})),
    "a scale and a shift behind a convolution": chain(("Conv", ["k", "f4"], {}), ("Mul", ["six"], {}),
                                                      ("Sub", ["six"], {})),
    "a scale and a shift behind the input": chain(("Sub", ["c3"], {}), ("Div", ["c3"], {}), ("Neg", [], {}),
                                                  ("Conv", ["k"], {"pads": [1, 1, 1, 1]})),
    "a shift behind a transposed convolution": chain(("ConvTranspose", ["s"], {}), ("Add", ["six"], {}),
                                                     ("Mul", ["six"], {})),
    "zeros around, then a convolution": chain(("Pad", ["pads", "zero"], {}), ("Conv", ["k"], {"pads": [0, 1, 0, 0]})),
    "clip": chain(("Clip", ["zero", "six"], {}), ("Clip", ["zero"], {}), ("Clip", [], {})),
    "global pools": chain(("GlobalMaxPool", [], {}), ("Flatten", [], {"axis": 1})),
    "a reduced mean": chain(("ReduceMean", [], {"axes": [-2, -1], "keepdims": 0})),
    "a reduced maximum": chain(("ReduceMax", [], {"axes": [3, 2]}), ("Squeeze", ["axes23"], {})),
    "softmax of channels": chain(("Softmax", [], {"axis": 1})),
    "log of softmax": chain(("Flatten", [], {}), ("LogSoftmax", [], {})),
    "local response": chain(("LRN", [], {"size": 3, "alpha": 0.3, "beta": 0.6, "bias": 1.5})),
    "instances": chain(("InstanceNormalization", ["f3", "f3"], {"epsilon": 1e-3})),
    "nearest neighbours": chain(("Resize", ["", "scales"], {"mode": "nearest", "nearest_mode": "floor",
                                                            "coordinate_transformation_mode": "asymmetric"})),
    "nearest, halfway": chain(("Resize", ["", "scales"], {"mode": "nearest"})),
    "channels last and back": [
        ("Transpose", ["x"], "t", {"perm": [0, 2, 3, 1]}), ("Mul", ["t", "f3"], "u", {}), ("Relu", ["u"], "v", {}),
        ("Reshape", ["v", "flat"], "a", {}), ("MatMul", ["a", "w"], "y", {})],
    "two sums of three": [
        ("Tanh", ["x"], "a", {}), ("Sigmoid", ["x"], "b", {}), ("Sum", ["a", "x", "b"], "c", {}),
        ("Relu", ["c"], "d", {}), ("Add", ["c", "d"], "y", {})],
    "blocks inside blocks": [
        ("Relu", ["x"], "a", {}), ("Tanh", ["a"], "b", {}), ("Elu", ["b"], "c", {}), ("Add", ["c", "b"], "d", {}),
        ("Sigmoid", ["d"], "e", {}), ("Concat", ["a", "e", "a"], "f", {"axis": 1}), ("Tanh", ["f"], "y", {})],
    "local response, as pytorch writes it": local_response("five"),
    "local response, as pytorch writes it for a batch of one size": local_response("open"),
    "repeated rows and columns, as keras writes them": [
        ("Unsqueeze", ["x", "axis3"], "a", {}), ("Tile", ["a", "twice"], "b", {}),
        ("Transpose", ["b"], "c", {"perm": [0, 2, 3, 4, 1]}), ("Reshape", ["c", "rows"], "d", {}),
        ("Unsqueeze", ["d", "axis3"], "e", {}), ("Tile", ["e", "thrice"], "f", {}),
        ("Reshape", ["f", "columns"], "g", {}), ("Transpose", ["g"], "y", {"perm": [0, 3, 1, 2]})],
    "what changes nothing, in two rows": [
        ("Relu", ["x"], "a", {}), ("Identity", ["a"], "i", {}), ("Tanh", ["i"], "b", {}), ("Elu", ["i"], "c", {}),
        ("Concat", ["b", "c", "a"], "y", {"axis": 1})],
    "twice itself": [("Add", ["x", "x"], "a", {}), ("Concat", ["a", "a"], "y", {"axis": -3})],
    "relu in two halves": [("Max", ["x", "zero"], "a", {}), ("Min", ["a", "six"], "y", {})],
    "silu": [("Sigmoid", ["x"], "a", {}), ("Mul", ["a", "x"], "y", {})],
    "hardswish": [("HardSigmoid", ["x"], "a", {"alpha": 1 / 6, "beta": 0.5}), ("Mul", ["x", "a"], "y", {})],
    "prelu, as keras writes it": [
        ("Relu", ["x"], "p", {}), ("Neg", ["x"], "m", {}), ("Relu", ["m"], "r", {}), ("Mul", ["c3", "r"], "q", {}),
        ("Sub", ["p", "q"], "y", {})],
}  # fmt: skip


@pytest.mark.parametrize("nodes", FORMS.values(), ids=FORMS)
def test_operators_in_their_forms(nodes, tmp_path):
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    arrays = {name: value for name, value in ARRAYS.items() if name in used}
    path = write(tmp_path / "form.onnx", nodes, arrays=arrays)
    model = mc.exchange.load_onnx(path)
    x = np.random.default_rng(3).normal(size=(2, 3, 7, 6)).astype("float32")
    assert_close(model.predict(x), run(path, x))
    assert learns(model, x)


def ceil_cases():
    for size, kernel, stride, pads in itertools.product((5, 6, 7), (2, 3), (2, 3), ((0, 0), (1, 0), (1, 1))):
        if max(pads) < kernel:
            yield size, kernel, stride, pads


def test_pooling_that_rounds_the_number_of_windows_up(tmp_path):
    """Every small case; the last window reaches beyond the padding, and what lies there does not count."""
    x = np.random.default_rng(0).normal(size=(1, 2, 7, 7)).astype("float32")
    for size, kernel, stride, (before, after) in ceil_cases():
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [before, before, after, after]}
        window["ceil_mode"] = 1
        pools = [("MaxPool", {}), ("AveragePool", {}), ("AveragePool", {"count_include_pad": 1})]
        nodes = [(kind, ["x"], f"p{k}", window | more) for k, (kind, more) in enumerate(pools)]
        nodes.append(("Concat", ["p0", "p1", "p2"], "y", {"axis": 1}))
        path = write(tmp_path / "ceil.onnx", nodes, (2, size, size), opset=19)
        model = mc.exchange.load_onnx(path)
        assert_close(model.predict(x[:, :, :size, :size]), run(path, x[:, :, :size, :size]))


def test_older_versions_of_the_operators(tmp_path):
    """Where the axes, bounds and pads are attributes, and softmax runs over all axes from one on."""
    nodes = chain(("Pad", [], {"pads": [0, 0, 1, 1, 0, 0, 0, 0]}), ("Clip", [], {"min": 0.0, "max": 6.0}),
                  ("ReduceMean", [], {"axes": [2, 3]}), ("Squeeze", [], {"axes": [3]}), ("Squeeze", [], {"axes": [2]}),
                  ("Dropout", [], {"ratio": 0.25}), ("Unsqueeze", [], {"axes": [2]}), ("Softmax", [], {}))  # fmt: skip
    path = write(tmp_path / "old.onnx", nodes, opset=9)
    model = mc.exchange.load_onnx(path)
    x = np.random.default_rng(3).normal(size=(2, 3, 7, 6)).astype("float32")
    assert_close(model.predict(x), run(path, x)[:, :, 0])
    assert repr(model.layers[-2]) == "Dropout(0.25)"


def test_the_shape_of_an_open_input_can_be_given(tmp_path):
    path = write(tmp_path / "open.onnx", chain(("Conv", ["k"], {})), (3, "H", "W"), {"k": KERNELS})
    with pytest.raises(mc.FileError, match="input_shape"):
        mc.exchange.load_onnx(path)
    assert mc.exchange.load_onnx(path, input_shape=(3, 9, 8)).shapes[-1] == (4, 7, 7)
    for wrong in ((4, 9, 8), (3, 9), "wide", (3, 9, -1), (3, 0.5, 4), 7):
        with pytest.raises(mc.MinicnnError, match=r"input_shape|integer"):
            mc.exchange.load_onnx(path, input_shape=wrong)


def test_numbers_of_other_precisions(tmp_path):
    """Halves become float32; a network in float64 stays in it."""
    x = np.random.default_rng(0).normal(size=(2, 4))
    for kind, dtype, ours in ((10, "float16", "float32"), (11, "float64", "float64")):
        w = np.random.default_rng(1).normal(size=(4, 3)).astype(dtype)
        value = onnx.helper.make_tensor_value_info("x", kind, ["N", 4])
        node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
        output = onnx.helper.make_tensor_value_info("y", kind, None)
        graph = onnx.helper.make_graph([node], "g", [value], [output], [onnx.numpy_helper.from_array(w, "w")])
        onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
        model = mc.exchange.load_onnx(tmp_path / "m.onnx")
        assert model.dtype == ours
        np.testing.assert_allclose(model.predict(x), x @ w.astype("float64"), rtol=1e-5 if ours == "float32" else 1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["a", "b", "\\u00e9"]', ["a", "b", "é"]),
        ('["a", "b"]', None),
        ("{'a': 1}", None),
        ("[" * 5000, None),
        ("7", None),
    ],
    ids=["fits", "too few", "not JSON", "deep", "a number"],
)
def test_the_names_of_the_classes_come_from_the_metadata(tmp_path, text, expected, recwarn):
    w = np.ones((126, 3), "float32")
    nodes = chain(("Flatten", [], {}), ("MatMul", ["w"], {}))
    path = write(tmp_path / "m.onnx", nodes, arrays={"w": w}, classes=text)
    if expected is None:
        with pytest.warns(UserWarning, match="classes"):
            model = mc.exchange.load_onnx(path)
    else:
        model = mc.exchange.load_onnx(path)
    assert model.classes == expected


# What cannot be loaded says why


GELU = [("Div", ["x", "root"], "a", {}), ("Erf", ["a"], "b", {}), ("Add", ["b", "one"], "c", {}),
        ("Mul", ["x", "c"], "d", {}), ("Mul", ["d", "half"], "y", {})]  # fmt: skip
REFUSED = {
    "an unknown operator": (chain(("Conv", ["k"], {}), ("Det", [], {})), "the_Det.*Det"),
    "an operator of somebody": (chain(("Relu", [], {"domain": "com.example"})), "com.example.Relu"),
    "the exact gelu": (GELU, "approximate='tanh'"),
    "a product of two": ([("Tanh", ["x"], "a", {}), ("Mul", ["x", "a"], "y", {})], "the_Mul.*depend on the input"),
    "weights that are computed": ([("Conv", ["x", "x"], "y", {})], "the_Conv.*constant"),
    "weights that do not fit": (chain(("Conv", ["s"], {})), "the_Conv.*weight.*shape"),
    "a bias that does not fit": (chain(("Conv", ["k", "f3"], {})), "the_Conv.*bias"),
    "edges that are repeated": (chain(("Pad", ["pads"], {"mode": "edge"})), "the_Pad.*edge"),
    "a window with dilation": (chain(("MaxPool", [], WINDOW | {"dilations": [2, 2]})), "the_MaxPool.*dilation"),
    "attributes": (chain(("Conv", ["k"], {"strides": [0, 1]})), r"strides=\[0, 1\].*stride"),
    "bilinear": (chain(("Resize", ["", "scales"], {"mode": "linear"})), "nearest"),
    "a reshape": (chain(("Reshape", ["cube"], {})), "the_Reshape.*reshapes"),
    "a reshape of the batch": (chain(("Reshape", ["mixed"], {})), "samples apart"),
    "two ways that cross": ([
        ("Relu", ["x"], "a", {}), ("Tanh", ["a"], "b", {}), ("Elu", ["a"], "c", {}), ("Add", ["b", "c"], "d", {}),
        ("Sigmoid", ["b"], "e", {}), ("Add", ["d", "e"], "y", {})], "the_Tanh.*more than one block"),
    "a local response of rows": (local_response("across"), "the_Mul.*squares"),
    "repeated images": (chain(("Tile", ["all twice"], {})), "the_Tile.*repeats"),
    "repeated columns of columns": (
        chain(("Unsqueeze", ["axis3"], {}), ("Tile", ["twice"], {}), ("Reshape", ["wrong"], {})), "the_Tile.*repeats"),
    "an array that nobody writes": ([("Add", ["x", "nobody"], "y", {})], "nobody"),
    "an array that is written twice": ([("Relu", ["x"], "a", {}), ("Tanh", ["x"], "a", {}), ("Elu", ["a"], "y", {})],
                                       "the_Tanh.*already"),
    "the input written": ([("Relu", ["x"], "x", {}), ("Elu", ["x"], "y", {})], "the_Relu.*already"),
    "a normalization as in training": (
        chain(("BatchNormalization", ["f3"] * 4, {"training_mode": 1})), "the_BatchNormalization.*inference"),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "named"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_a_layer_names_the_node_and_the_reason(nodes, named, tmp_path):
    more = {"root": np.float32(2**0.5), "one": np.float32(1)}
    more |= {
        "across": np.array([-1, 1, 7, 3, 6]),
        "cube": np.array([0, 7, 6, 3]),
        "all twice": np.array([1, 1, 1, 2]),
        "wrong": np.array([-1, 3, 7, 12]),
        "mixed": np.array([-1, 63]),
    }
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    arrays = {name: value for name, value in (ARRAYS | more).items() if name in used}
    path = write(tmp_path / "refused.onnx", nodes, arrays=arrays)
    with pytest.raises(mc.FileError, match=named) as caught:
        mc.exchange.load_onnx(path)
    assert "refused.onnx" in str(caught.value)


def test_what_is_not_a_network_of_one_input_and_one_output(tmp_path):
    relu = chain(("Relu", [], {}))
    with pytest.raises(mc.FileError, match="2 outputs"):
        mc.exchange.load_onnx(write(tmp_path / "m.onnx", [*relu, ("Tanh", ["x"], "z", {})], outputs=("y", "z")))
    with pytest.raises(mc.FileError, match=r"version 6.*version_converter"):
        mc.exchange.load_onnx(write(tmp_path / "m.onnx", relu, opset=6))
    with pytest.raises(mc.FileError, match=r"\(\?, 1, 2, 3, 4\).*images"):
        mc.exchange.load_onnx(write(tmp_path / "m.onnx", relu, (1, 2, 3, 4)))
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "empty.onnx").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.onnx")
    for name in ("text.onnx", "empty.onnx", "missing.onnx", "pipe.onnx", "."):
        with pytest.raises(mc.FileError):
            mc.exchange.load_onnx(tmp_path / name)
    with pytest.raises(mc.InputError, match="path"):
        mc.exchange.load_onnx(7)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(mc.MissingPackageError, match=r"minicnn-numpy\[onnx\]"):
        mc.exchange.load_onnx(tmp_path / "m.onnx")


# Files that are made to do harm


@pytest.fixture
def external(tmp_path):
    """A function that writes a network whose weights are kept at a location, and returns its path."""
    folder = tmp_path / "model"
    folder.mkdir()

    def make(location, length=None, offset=0, copies=1):
        path = folder / "m.onnx"
        nodes = chain(("Flatten", [], {}), *[("MatMul", [f"w{k}"], {}) for k in range(copies)])
        arrays = {f"w{k}": np.zeros((126, 126) if k < copies else 1, "float32") for k in range(copies)}
        model = onnx.load_model_from_string(write(path, nodes, arrays=arrays).read_bytes())
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
            tensor.data_location = tensor.EXTERNAL
            entries = {"location": location, "offset": offset, "length": 126 * 126 * 4 if length is None else length}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
        path.write_bytes(model.SerializeToString())
        return path

    return make


def test_weights_in_other_files_are_read_in_the_folder_of_the_model_only(external, tmp_path):
    data = np.arange(126 * 126, dtype="float32").tobytes()
    (tmp_path / "secret").write_bytes(data)
    for place in ("weights.bin", "inside/weights.bin"):
        (tmp_path / "model" / place).parent.mkdir(exist_ok=True)
        (tmp_path / "model" / place).write_bytes(data)
        assert mc.exchange.load_onnx(external(place)).layers[1].weight.value[1, 0] == 1
    os.symlink(tmp_path / "secret", tmp_path / "model" / "link.bin")
    for place in ("../secret", str(tmp_path / "secret"), "link.bin", "inside/../../secret", "", ".", "\0"):
        with pytest.raises(mc.FileError, match=r"folder|ONNX"):
            mc.exchange.load_onnx(external(place))
    os.mkfifo(tmp_path / "model" / "pipe")
    for arguments in (
        ("missing.bin",),
        ("pipe",),
        ("inside",),
        ("weights.bin", 4),
        ("weights.bin", None, 1),
        ("weights.bin", None, -1),
        ("weights.bin", None, 10**30),
        ("weights.bin", "many"),
        ("weights.bin", None, 0, 3),  # three arrays in the bytes of one: a small file could ask for any memory
    ):
        with pytest.raises(mc.FileError, match=r"m\.onnx|pipe|inside|missing"):
            mc.exchange.load_onnx(external(*arguments))


def constants(*nodes):
    """Nodes whose constant is the shape of a reshape of x."""
    return [*nodes, ("Reshape", ["x", "c"], "y", {})]


BOMBS = {
    "a constant of a shape": constants(("ConstantOfShape", ["huge"], "c", {})),
    "a concatenation that doubles": constants(
        ("Concat", ["flat"] * 9, "c0", {"axis": 0}),
        *[("Concat", [f"c{k}"] * 9, f"c{k + 1}", {"axis": 0}) for k in range(9)],
        ("Concat", ["c9"] * 2, "c", {"axis": 0}),
    ),
    "an outer product": constants(
        ("Reshape", ["long", "column"], "col", {}), ("Mul", ["long", "col"], "c", {})),
    "indices": constants(("Gather", ["wide", "many"], "c", {})),
    "a border": chain(("Pad", ["border"], {})),
    "a window": chain(("MaxPool", [], {"kernel_shape": [2**40, 2**40], "pads": [2**39] * 4})),
    "an enlargement": chain(("Resize", ["", "times"], {"mode": "nearest"})),
    "a stride": chain(("ConvTranspose", ["s"], {"strides": [2**40, 2**40]})),
    "a weight that many nodes use": chain(("Flatten", [], {}), *[("MatMul", ["square"], {})] * 300),
    "a scale of many channels": chain(("Mul", ["two"], {})),
    "a neighbourhood": chain(("LRN", [], {"size": 2**60 + 1})),
}  # fmt: skip


@pytest.mark.parametrize("nodes", BOMBS.values(), ids=BOMBS)
def test_a_small_file_does_not_use_up_the_memory(nodes, tmp_path):
    arrays = ARRAYS | {
        "huge": np.array([2**20, 2**20]), "long": np.arange(20_000), "column": np.array([-1, 1]),
        "square": np.zeros((126, 126), "float32"),
        "wide": np.zeros((1, 1000), "int64"), "many": np.zeros(5000, "int64"),
        "border": np.array([0, 0, 2**30, 2**30, 0, 0, 0, 0]), "times": np.array([1, 1, 2**20, 2**20], "float32"),
    }  # fmt: skip
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    shape = (10**8, 1, 1) if nodes == BOMBS["a scale of many channels"] else (3, 7, 6)
    path = write(tmp_path / "bomb.onnx", nodes, shape, arrays={name: arrays[name] for name in used & arrays.keys()})
    try:
        model = mc.exchange.load_onnx(path)
    except mc.MinicnnError as error:
        assert not isinstance(error.__cause__, MemoryError)
    else:  # what is larger than all channels is used as all of them
        assert isinstance(model.layers[0], mc.LocalResponseNorm)


def test_deeply_nested_and_very_long_graphs_are_refused_or_loaded(tmp_path):
    deep = [("Relu", ["x"], "a0", {})]
    for k in range(600):  # each block begins before the one inside it
        deep.append(("Tanh", [f"a{k}"], f"a{k + 1}", {}))
    last = "a600"
    for k in range(600):
        deep.append(("Add", [last, f"a{599 - k}"], f"s{k}", {}))
        last = f"s{k}"
    with pytest.raises(mc.FileError, match="deep"):
        mc.exchange.load_onnx(write(tmp_path / "deep.onnx", deep, outputs=(last,)))
    with pytest.raises(mc.FileError, match="10001 nodes"):
        mc.exchange.load_onnx(write(tmp_path / "long.onnx", chain(*[("Relu", [], {})] * 10_001)))


FUZZ = """
import pathlib, random, warnings
import numpy as np, onnx, minicnn as mc
from hostile import load_broken_files, mutated
warnings.simplefilter("ignore")
path = pathlib.Path({folder!r}) / "mutated.onnx"
files = [(pathlib.Path({exported!r}) / name).read_bytes() for name in {names!r}]
random.seed({seed})

NUMBERS = [0, 1, -1, 2, 3, 7, 2**31, -2**31, 2**62, -2**63]
FLOATS = [0.0, -1.0, 1e30, float("nan")]

def mutate_graph(good):
    model = onnx.ModelProto.FromString(good)
    graph = model.graph
    for _ in range(random.choice([1, 1, 2, 4])):
        node = random.choice(graph.node)
        how = random.randrange(9)
        if how == 0: node.op_type = random.choice({operators!r})
        elif how == 1 and node.input: node.input[random.randrange(len(node.input))] = random.choice(
            [name for other in graph.node for name in [*other.input, *other.output]])
        elif how == 2 and node.input: del node.input[random.randrange(len(node.input))]
        elif how == 3 and node.attribute:
            entry = random.choice(node.attribute)
            if entry.ints: entry.ints[random.randrange(len(entry.ints))] = random.choice(NUMBERS)
            else: entry.i, entry.f, entry.s = random.choice(NUMBERS), random.choice(FLOATS), b"x"
        elif how == 4 and node.attribute: del node.attribute[random.randrange(len(node.attribute))]
        elif how == 5 and node.attribute: random.choice(node.attribute).name = random.choice(
            ["axis", "axes", "pads", "perm", "strides", "ceil_mode", "auto_pad", "group", "output_shape", "to"])
        elif how == 6:
            tensor = random.choice(graph.initializer)
            if tensor.dims: tensor.dims[random.randrange(len(tensor.dims))] = random.choice(NUMBERS)
            else: tensor.data_type = random.randrange(20)
        elif how == 7: graph.input[0].type.tensor_type.shape.dim[random.randrange(
            len(graph.input[0].type.tensor_type.shape.dim))].dim_value = random.choice(NUMBERS)
        else: graph.node.append(random.choice(graph.node))
    return model.SerializeToString()

def write(number):
    good = files[number // 2 % len(files)]
    path.write_bytes(mutate_graph(good) if number % 2 else mutated(good))

def predict(model):
    if np.prod(model.input_shape) < 5000:
        model.predict(np.zeros((1, *model.input_shape), "float32"))

load_broken_files({count}, write, lambda: mc.exchange.load_onnx(path), memory=2**28, check=predict)
"""


def test_mutated_files_give_the_librarys_own_error(tmp_path):
    """Bytes changed, and, in graphs that are well formed, operators, names, attributes and shapes."""
    from minicnn.exchange.onnx_layers import OPERATORS

    names = ["torch_classifier.onnx", "keras_torch_mobile.onnx", "torch_unet.onnx", "keras_tensorflow_residual.onnx"]
    settings = {"folder": str(tmp_path), "exported": str(EXPORTED), "names": names, "operators": sorted(OPERATORS)}
    refused = count_refused(FUZZ.format(**settings, count=500, seed=1))
    assert 250 < refused < 475  # a number of a weight may change


def test_the_metadata_of_a_written_file_is_read(tmp_path):
    model = mc.networks.logistic_regression()
    model.classes = [f"'{k}' \u2028" for k in range(10)]
    mc.exchange.save_onnx(model, tmp_path / "m.onnx")
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert json.loads(found["classes"]) == model.classes == mc.exchange.load_onnx(tmp_path / "m.onnx").classes
