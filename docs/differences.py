"""The numbers of exchange.md: `python docs/differences.py` prints what this library, PyTorch and Keras compute alike.

PyTorch and Keras are used where they are installed, Keras with each of its backends that is. Every library receives the
same input and the same weights; each method below says it in the words of one library.
"""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np

import minicnn as mc
from minicnn.console import show

ROW = [1.0, 2.0, 3.0, 4.0]
BACKENDS = ("tensorflow", "torch")


class SamePadding:
    """Padding "same" with stride 2: a kernel of three ones over the row 1 2 3 4"""

    @staticmethod
    def minicnn():
        layer = mc.Conv2D(1, (1, 3), stride=(1, 2), padding="same", weight_initializer=mc.initializers.ones)
        layer.build((1, 1, 4))
        return layer(as_images(ROW))

    @staticmethod
    def pytorch(torch):
        """padding=1; "same" is refused where there is a stride."""
        layer = torch.nn.Conv2d(1, 1, (1, 3), (1, 2), (0, 1), bias=False)
        torch.nn.init.ones_(layer.weight)
        return layer(torch.tensor(as_images(ROW)))

    @staticmethod
    def keras(keras):
        layer = keras.layers.Conv2D(1, (1, 3), (1, 2), padding="same", kernel_initializer="ones")
        return layer(as_images(ROW, channels_last=True))


class AveragePooling:
    """Average pooling with padding: windows of 3, stride 2, over the row 1 2 3 4"""

    @staticmethod
    def minicnn():
        return mc.AvgPool2D((1, 3), stride=(1, 2), padding="same")(as_images(ROW))

    @staticmethod
    def pytorch(torch):
        """padding=1; its zeros are counted."""
        return torch.nn.AvgPool2d((1, 3), (1, 2), (0, 1))(torch.tensor(as_images(ROW)))

    @staticmethod
    def keras(keras):
        return keras.layers.AveragePooling2D((1, 3), (1, 2), padding="same")(as_images(ROW, channels_last=True))


class PoolingDefaults:
    """Pooling without arguments: the side of the window, and the stride"""

    @staticmethod
    def minicnn():
        layer = mc.MaxPool2D()
        return [layer.window.kernel_size[0], layer.window.stride[0]]

    @staticmethod
    def pytorch(torch):
        """For MaxPool2d(2); MaxPool2d() is refused."""
        layer = torch.nn.MaxPool2d(2)
        return [layer.kernel_size, layer.stride]

    @staticmethod
    def keras(keras):
        layer = keras.layers.MaxPooling2D()
        return [layer.pool_size[0], layer.strides[0]]


class Flattening:
    """Flatten: an image of 1 x 2 pixels with the channels (1 2) and (3 4)"""

    @staticmethod
    def minicnn():
        return mc.Flatten()(np.array([[[[1, 2]], [[3, 4]]]], "float32"))

    @staticmethod
    def pytorch(torch):
        return torch.nn.Flatten()(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]))

    @staticmethod
    def keras(keras):
        return keras.layers.Flatten()(np.array([[[[1, 3], [2, 4]]]], "float32"))


class Kernels:
    """The shape of the kernels of 8 filters of 5 x 4 over 3 channels"""

    @staticmethod
    def minicnn():
        layer = mc.Conv2D(8, (5, 4))
        layer.build((3, 9, 9))
        return layer.weight.value.shape

    @staticmethod
    def pytorch(torch):
        return torch.nn.Conv2d(3, 8, (5, 4)).weight.shape

    @staticmethod
    def keras(keras):
        layer = keras.layers.Conv2D(8, (5, 4))
        layer.build((None, 9, 9, 3))
        return layer.kernel.shape


class DenseWeights:
    """The shape of the weights of 10 units over 84 inputs"""

    @staticmethod
    def minicnn():
        layer = mc.Dense(10)
        layer.build((84,))
        return layer.weight.value.shape

    @staticmethod
    def pytorch(torch):
        return torch.nn.Linear(84, 10).weight.shape

    @staticmethod
    def keras(keras):
        layer = keras.layers.Dense(10)
        layer.build((None, 84))
        return layer.kernel.shape


class Epsilons:
    """The epsilons of batch normalization, of layer normalization and of Adam"""

    @staticmethod
    def minicnn():
        return [mc.BatchNorm().epsilon, mc.LayerNorm().epsilon, mc.Adam().epsilon]

    @staticmethod
    def pytorch(torch):
        adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
        return [torch.nn.BatchNorm2d(1).eps, torch.nn.LayerNorm(1).eps, adam.defaults["eps"]]

    @staticmethod
    def keras(keras):
        made = keras.layers.BatchNormalization(), keras.layers.LayerNormalization(), keras.optimizers.Adam()
        return [each.epsilon for each in made]


class SmallVariance:
    """Batch normalization in training of the two numbers 0 and 0.02, whose variance is 0.0001"""

    @staticmethod
    def minicnn():
        layer = mc.BatchNorm()
        layer.build((1,))
        return layer.forward(np.array([[0], [0.02]], "float32"), training=True)[0]

    @staticmethod
    def pytorch(torch):
        return torch.nn.BatchNorm1d(1)(torch.tensor([[0.0], [0.02]]))

    @staticmethod
    def keras(keras):
        return keras.layers.BatchNormalization()(np.array([[0], [0.02]], "float32"), training=True)


class RunningVariance:
    """The momentum of batch normalization, and the running variance, 1 before, after the batch 1, 3"""

    @staticmethod
    def minicnn():
        layer = mc.BatchNorm()
        layer.build((1,))
        layer.forward(np.array([[1], [3]], "float32"), training=True)
        return [layer.momentum, layer.running_variance.value[0]]

    @staticmethod
    def pytorch(torch):
        """The momentum is the weight of the new value."""
        layer = torch.nn.BatchNorm1d(1)
        layer(torch.tensor([[1.0], [3.0]]))
        return [layer.momentum, layer.running_var[0]]

    @staticmethod
    def keras(keras):
        """The sum of squares divided by n, not n - 1."""
        layer = keras.layers.BatchNormalization()
        layer(np.array([[1], [3]], "float32"), training=True)
        return [layer.momentum, keras.ops.convert_to_numpy(layer.moving_variance)[0]]


class Gelu:
    """GELU of 1 and of -2"""

    @staticmethod
    def minicnn():
        return mc.GELU()(np.array([[1, -2]], "float32"))

    @staticmethod
    def pytorch(torch):
        """approximate="tanh" gives minicnn's."""
        return torch.nn.GELU()(torch.tensor([[1.0, -2.0]]))

    @staticmethod
    def keras(keras):
        """approximate=True gives minicnn's."""
        return keras.activations.gelu(np.array([[1, -2]], "float32"))


class Leaky:
    """LeakyReLU of -1"""

    @staticmethod
    def minicnn():
        return mc.LeakyReLU()(np.array([[-1]], "float32"))

    @staticmethod
    def pytorch(torch):
        return torch.nn.LeakyReLU()(torch.tensor([[-1.0]]))

    @staticmethod
    def keras(keras):
        return keras.layers.LeakyReLU()(np.array([[-1]], "float32"))


class FirstWeights:
    """The largest first weight of a dense layer of 100 units over 300 inputs, and the largest first bias"""

    @staticmethod
    def minicnn():
        layer = mc.Dense(100)
        layer.build((300,))
        return [abs(layer.weight.value).max(), abs(layer.bias.value).max()]

    @staticmethod
    def pytorch(torch):
        torch.manual_seed(0)
        layer = torch.nn.Linear(300, 100)
        return [layer.weight.data.abs().max(), layer.bias.data.abs().max()]

    @staticmethod
    def keras(keras):
        keras.utils.set_random_seed(0)
        layer = keras.layers.Dense(100)
        layer.build((None, 300))
        return [abs(keras.ops.convert_to_numpy(value)).max() for value in (layer.kernel, layer.bias)]


class Loss:
    """Cross-entropy with its defaults, of the outputs 2 and 1 where the first class is right"""

    @staticmethod
    def minicnn():
        return mc.SoftmaxCrossEntropy()(np.array([[2, 1]], "float32"), np.array([0]))[0]

    @staticmethod
    def pytorch(torch):
        return torch.nn.CrossEntropyLoss()(torch.tensor([[2.0, 1.0]]), torch.tensor([0]))

    @staticmethod
    def keras(keras):
        """Takes the outputs for probabilities; from_logits=True does not."""
        return keras.losses.SparseCategoricalCrossentropy()(np.array([0]), np.array([[2, 1]], "float32"))


class Pixels:
    """A network without layers, and an image of uint8 whose pixel is 255"""

    @staticmethod
    def minicnn():
        """uint8 is divided by 255."""
        return mc.Sequential([mc.Flatten()], input_shape=(1, 1, 1)).predict(np.full((1, 1, 1, 1), 255, "uint8"))

    @staticmethod
    def pytorch(torch):
        return torch.nn.Sequential(torch.nn.Flatten())(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8))

    @staticmethod
    def keras(keras):
        model = keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Flatten()])
        return model.predict(np.full((1, 1, 1, 1), 255, "uint8"), verbose=0)


DIFFERENCES = [
    *(SamePadding, AveragePooling, PoolingDefaults, Flattening, Kernels, DenseWeights, Epsilons, SmallVariance),
    *(RunningVariance, Gelu, Leaky, FirstWeights, Loss, Pixels),
]


def as_images(row, channels_last=False):
    """A row of pixels as a batch of one image with one channel."""
    return np.array(row, "float32").reshape((1, 1, -1, 1) if channels_last else (1, 1, 1, -1))


def numbers(values):
    """An array, a tensor or a list as a flat list of numbers."""
    if isinstance(values, (list, tuple)):
        return [float(value) for value in values]
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return np.ravel(values).astype(float).tolist()


def of_keras():
    """The numbers of Keras with the backend that is in use, as JSON."""
    import keras

    return json.dumps([numbers(found.keras(keras)) for found in DIFFERENCES])


def columns():
    """`{library: [numbers of each difference]}` of all libraries that are installed."""
    found = {"minicnn": [numbers(each.minicnn()) for each in DIFFERENCES]}
    if importlib.util.find_spec("torch"):
        import torch

        found["PyTorch"] = [numbers(each.pytorch(torch)) for each in DIFFERENCES]
    for backend in BACKENDS if importlib.util.find_spec("keras") else ():
        if importlib.util.find_spec(backend):
            environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
            command = [sys.executable, __file__, "--keras"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found[f"Keras ({backend})"] = json.loads(done.stdout.splitlines()[-1])
    return found


def lines(difference, rows):
    """The title of a difference, and a line for each library with its numbers: `{library: numbers}`."""
    yield difference.__doc__
    for library, row in rows.items():
        method = {"minicnn": "minicnn", "PyTorch": "pytorch"}.get(library, "keras")
        shown, note = "  ".join(f"{value:.6g}" for value in row), getattr(difference, method).__doc__ or ""
        yield f"    {library:18}  {shown:22}  {note}".rstrip()


def main():
    """Print every difference."""
    found = columns()
    for index, difference in enumerate(DIFFERENCES):
        show("\n".join(lines(difference, {library: rows[index] for library, rows in found.items()})) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--keras"]:
        show(of_keras())
    else:
        main()
