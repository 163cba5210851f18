"""Fine-tuning: a network that PyTorch trained to name letters learns another question from four images of each letter.

Run it from the project's folder: python examples/fine_tuning.py
With a network of your own:       python examples/fine_tuning.py --model FILE

The question is whether a letter encloses a hole, as A, B and D do. The first layers of a network find strokes and
corners, which answer many questions; only the last dense layer, the head, is for one. So the head is replaced and
trained while the layers before it are frozen, and then all layers are trained a little, with a small learning rate.
Without PyTorch, this library trains the first network.
"""

import argparse
import importlib.util
import logging
import pathlib
import sys
import warnings

import numpy as np

import minicnn as mc
from minicnn.console import run_command, show
from minicnn.core.checks import check_integer, quoted

COUNT, EPOCHS = 4000, 5  # images and epochs of the first network
HOLES = "ABD"  # of the letters A to J
CLASSES = ["no hole", "a hole"]


def images_of(part):
    """The first images with the channel axis, as fractions, and the letters' numbers."""
    x, y = part
    return x[:COUNT, None].astype("float32") / 255, y[:COUNT]


def train_in_pytorch(x, labels, path):
    """Train a network in PyTorch, and export it as ONNX: from here on it is a file."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)  # for such small images more of them only wait for each other
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    x, labels = torch.tensor(x), torch.tensor(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), labels[batch]).backward()
            optimizer.step()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells what else could be installed
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(network.eval(), (x[:1],), path, external_data=False, verbose=False)


def train_here(x, labels, path):
    """The same network, trained by this library."""
    model = mc.Sequential(
        [
            *(mc.Conv2D(8, 3, padding=1), mc.ReLU(), mc.MaxPool2D(2)),
            *(mc.Conv2D(16, 3, padding=1), mc.ReLU(), mc.MaxPool2D(2)),
            *(mc.Flatten(), mc.Dense(64), mc.ReLU(), mc.Dense(10)),
        ],
        input_shape=(1, 28, 28),
    )
    model.fit(x, labels, epochs=EPOCHS, verbose=False)
    model.save(path)


def pretrained(data):
    """The file of a network that names letters."""
    if all(importlib.util.find_spec(name) for name in ("torch", "onnx", "onnxscript")):
        path, train, who = "letters.onnx", train_in_pytorch, "PyTorch"
    else:
        path, train, who = "letters.npz", train_here, "minicnn, because PyTorch with onnxscript is not installed"
    train(*images_of(data.train), path)
    show(f"{path}: a network that names letters, trained on {COUNT:,} images by {who}")
    return path


def split_head(model):
    """The layers of a network before its last dense layer.

    Raises:
        InputError: it does not end in one.
    """
    layers = model.layers[:-1] if isinstance(model.layers[-1], mc.Softmax) else model.layers
    if not isinstance(layers[-1], mc.Dense):
        raise mc.InputError(f"the network must end in a Dense, with or without a Softmax, and ends in {layers[-1]!r}")
    return layers[:-1]


def fresh(value):
    """A layer, or a list of layers, with the same arguments and without weights."""
    if isinstance(value, list):
        return [fresh(item) for item in value]
    if isinstance(value, mc.Layer):
        return type(value)(**{name: fresh(argument) for name, argument in value.config().items()})
    return value


def main():
    """Load, replace the head, train it, then all, and compare with a network that starts from nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a network for grey images of 28 x 28: .onnx, .keras, .h5 or .npz")
    parser.add_argument("--images", type=int, default=4, help="of each letter to learn from (default: 4)")
    parser.add_argument("--epochs", type=int, default=30, help="of each training (default: 30)")
    parser.add_argument("--save", default="fine_tuned.npz", metavar="FILE", help="(default: fine_tuned.npz)")
    parser.add_argument("--min-accuracy", type=float, default=0, metavar="PERCENT", help="fail below this accuracy")
    chosen = parser.parse_args()
    images = check_integer(chosen.images, "--images", "this example")
    epochs = check_integer(chosen.epochs, "--epochs", "this example")
    if not pathlib.Path(chosen.save).absolute().parent.is_dir():
        raise mc.FileError(f"the folder of {quoted(chosen.save)} does not exist")

    data = mc.datasets.load_letters()
    model = mc.exchange.load(chosen.model or pretrained(data))
    if model.input_shape != (1, 28, 28):
        raise mc.InputError(f"this example has images (1, 28, 28), and the network needs {model.input_shape}")
    has_hole = np.isin(list(mc.datasets.LETTERS), list(HOLES)).astype(int)  # 1 or 0 for each letter
    x, y = images_of(data.train)
    few = np.concatenate([np.flatnonzero(y == letter)[:images] for letter in range(10)])
    x, labels = x[few], has_hole[y[few]]
    x_test, y_test = images_of(data.test)

    def fit(model, learning_rate):
        model.fit(x, labels, epochs=epochs, batch_size=8, optimizer=mc.Adam(learning_rate), verbose=False)
        _, accuracy = model.evaluate(x_test, has_hole[y_test])
        return 100 * accuracy

    show(f"{len(x)} images to learn from, {len(x_test):,} to test\n")
    body = split_head(model)
    new_head = [mc.Dense(2), mc.Softmax()]
    beginner = mc.Sequential([*fresh(body), *fresh(new_head)], (1, 28, 28))
    show(f"{'from nothing':45}{fit(beginner, 0.001):5.1f} % correct")

    model = mc.Sequential([*body, *new_head], (1, 28, 28))
    model.classes = CLASSES
    for layer in body:
        layer.trainable = False
    learning = sum(p.value.size for p in model.parameters().values() if p.trainable)
    what = f"a new head ({learning:,} of {model.count_parameters():,} weights learn)"
    show(f"{what:45}{fit(model, 0.01):5.1f} % correct")

    for layer in body:
        layer.trainable = True
    accuracy = fit(model, 0.0003)
    show(f"{'then all layers, a little':45}{accuracy:5.1f} % correct")
    model.save(chosen.save)
    show(f"\nsaved in {chosen.save}")
    return int(accuracy < chosen.min_accuracy)


if __name__ == "__main__":
    sys.exit(run_command(main))
