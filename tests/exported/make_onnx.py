"""Make the small ONNX files of the tests by the real exporters, each with a batch and what the network answers.

    python tests/exported/make_onnx.py torch                           with PyTorch and onnxscript
    python tests/exported/make_onnx.py keras                           with Keras, TensorFlow and tf2onnx
    KERAS_BACKEND=torch python tests/exported/make_onnx.py keras       with Keras on PyTorch

They were made with PyTorch 2.13, Keras 3.15, TensorFlow 2.21 and tf2onnx 1.17.

The weights are random, and so are the means and variances of the batch normalizations. `torch_dynamo.onnx` keeps its
weights in `torch_dynamo.onnx.data`, as the newer exporter of PyTorch does.
"""

import pathlib
import sys

import numpy as np

FOLDER = pathlib.Path(__file__).parent


def torch_networks():
    """(name, network, shape of a sample, arguments of the exporter)."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Classifier(nn.Module):
        """With the branch of Shape, Gather and Concat that `view(x.size(0), -1)` leaves, and a log_softmax."""

        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
            self.dense1, self.dense2 = nn.Linear(6 * 5 * 4, 8), nn.Linear(8, 5)

        def forward(self, x):
            x = functional.max_pool2d(functional.relu(self.conv2(functional.relu(self.conv1(x)))), 2)
            x = functional.relu(self.dense1(x.view(x.size(0), -1)))
            return functional.log_softmax(self.dense2(x), 1)

    class UNet(nn.Module):
        """Blocks inside blocks, a transposed convolution and an upsampling."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 1, 1)
            self.up, self.d, self.e = nn.ConvTranspose2d(6, 6, 2, 2), nn.Conv2d(12, 4, 1), nn.Conv2d(8, 2, 3, 1, 1)

        def forward(self, x):
            a = functional.silu(self.a(x))
            b = functional.leaky_relu(self.b(functional.max_pool2d(a, 2)), 0.1)
            c = functional.elu(self.c(functional.max_pool2d(b, 2)))
            d = functional.hardswish(self.d(torch.cat([self.up(c), b], 1)))
            return self.e(torch.cat([a, functional.interpolate(d, scale_factor=2)], 1))

    batch = {"dynamo": False, "input_names": ["x"], "dynamic_axes": {"x": {0: "N"}}}
    yield "torch_classifier", Classifier(), (1, 14, 12), batch
    yield "torch_unet", UNet(), (3, 12, 8), batch
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    yield "torch_dynamo", Classifier(), (1, 14, 12), {"dynamo": True, "dynamic_shapes": shapes, "verbose": False}


def make_torch():
    import torch

    torch.manual_seed(0)
    for name, network, shape, options in torch_networks():
        network.eval()
        x = torch.rand(2, *shape)
        torch.onnx.export(network, (x,), FOLDER / f"{name}.onnx", **options)
        without_traces(FOLDER / f"{name}.onnx")
        np.savez_compressed(FOLDER / f"{name}.npz", x=x.numpy(), y=network(x).detach().numpy())


def without_traces(path):
    """Drop what the exporter notes of the program that called it, such as the paths of its files."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    for item in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    onnx.save(model, path)


def keras_networks():
    """(name, network)."""
    import keras
    from keras import layers

    x = first = keras.Input((8, 7, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(x))
    x = layers.ReLU()(x)
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Concatenate()([layers.Conv2D(2, 1, activation="relu")(x), layers.MaxPooling2D(3, 1, padding="same")(x)])
    x = layers.Dense(6, activation="tanh")(layers.Flatten()(layers.MaxPooling2D(2)(x)))
    yield "residual", keras.Model(first, layers.Dense(5)(x))
    mobile = [
        layers.Rescaling(1 / 255.0),
        layers.ZeroPadding2D(((0, 1), (0, 1))),
        layers.Conv2D(4, 3, strides=2, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        layers.PReLU(shared_axes=[1, 2]),
        layers.Conv2D(6, 1),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5, activation="softmax"),
    ]
    yield "mobile", keras.Sequential([keras.Input((10, 12, 3)), *mobile])


def make_keras():
    import keras

    rng = np.random.default_rng(0)
    for name, network in keras_networks():
        if name == "residual" and keras.backend.backend() == "torch":
            continue  # of TensorFlow alone, so that the files stay small
        for weight in network.weights:
            value = rng.normal(0, 0.5, weight.shape)
            weight.assign(np.abs(value) + 0.5 if "variance" in weight.name or "gamma" in weight.name else value)
        name = f"keras_{keras.backend.backend()}_{name}"
        x = rng.random((2, *network.input_shape[1:])).astype("float32") * (255 if "mobile" in name else 1)
        y = np.asarray(network.predict(x, verbose=0))
        network.export(str(FOLDER / f"{name}.onnx"), format="onnx", verbose=False)
        np.savez_compressed(FOLDER / f"{name}.npz", x=x, y=y)


if __name__ == "__main__":
    {"torch": make_torch, "keras": make_keras}[sys.argv[1]]()
