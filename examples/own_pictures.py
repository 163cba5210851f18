"""Your own pictures: a folder with one subfolder for each class, a network in colour, and its answers.

Run it from the project's folder: python examples/own_pictures.py
With pictures of your own:        python examples/own_pictures.py --folder PATH
Without any code:                 python -m minicnn train PATH

Without a folder it draws its own: circles, squares, triangles and stars in all colours, sizes and places.
"""

import argparse
import pathlib
import sys

import numpy as np
from common import command, on_all, parse
from PIL import Image, ImageDraw

import minicnn as mc
from minicnn.console import show
from minicnn.datasets import load_folder
from minicnn.datasets.images import read_fitted
from minicnn.inspect import report

SIZE = (32, 32)  # pixels, of the network's input
CORNERS = {"circle": 60, "square": 4, "triangle": 3, "star": 10}  # a star has five far ones and five near ones


def draw(shape, rng):
    """A picture of a shape: any size from 40 to 80 pixels, light in any colour on dark in any colour, any place."""
    width, height = rng.integers(40, 81, size=2)
    ground, ink = rng.integers(0, 100, size=3), rng.integers(100, 256, size=3)
    noise = rng.normal(0, 8, size=(height, width, 3))
    image = Image.fromarray(np.clip(ground + noise, 0, 255).astype(np.uint8))
    radius = rng.uniform(0.3, 0.48) * min(width, height)
    centre = [rng.uniform(radius, side - radius) for side in (width, height)]
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(CORNERS[shape]) / CORNERS[shape]
    radii = np.where(np.arange(CORNERS[shape]) % 2, 0.45, 1.0) * radius if shape == "star" else radius
    corners = np.stack([centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)], axis=1)
    ImageDraw.Draw(image).polygon([tuple(corner) for corner in corners.tolist()], fill=tuple(ink.tolist()))
    return image


def draw_folder(folder, count, seed=0):
    """`count` pictures of each shape, as folder/circle/0.png and so on."""
    rng = np.random.default_rng(seed)
    for shape in CORNERS:
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            draw(shape, rng).save(folder / shape / f"{number}.png")


def main():
    """Read the command line, and run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, help="pictures, one subfolder for each class (default: drawn)")
    parser.add_argument("--count", type=int, default=150, help="pictures to draw of each shape (default: 150)")
    parser.add_argument("--epochs", type=int, default=20, help="how often every picture is seen (default: 20)")
    parser.add_argument("--save", default="shapes.npz", metavar="FILE", help="the network (default: shapes.npz)")
    parser.add_argument("--report", metavar="DIR", help="also write a page that shows the results")
    parser.add_argument("--min-accuracy", type=float, default=0, metavar="PERCENT", help="fail below this accuracy")
    chosen = parse(parser)
    return command(lambda: run(chosen), chosen.ranks)


def run(chosen):
    """Draw, load, train, test, save, and predict one picture; returns the exit code."""
    folder = chosen.folder or pathlib.Path("shapes")

    def load():
        if chosen.folder is None and chosen.ranks.is_first:
            draw_folder(folder, chosen.count)
            show(f"{chosen.count} pictures of each shape drawn in {folder}/")
        return load_folder(folder, SIZE, mode="RGB", test=0.2)

    data = on_all(chosen.ranks, load)
    (x_train, y_train), (x_test, y_test) = data
    show(data)

    model = mc.networks.small_resnet(x_train.shape[1:], classes=len(data.classes))
    model.classes = data.classes  # saved with the network
    steps = chosen.epochs * -(-len(x_train) // 32)
    history = model.fit(
        x_train,
        y_train,
        epochs=chosen.epochs,
        batch_size=32,
        optimizer=mc.Adam(mc.CosineDecay(0.003, steps=steps)),
        augmentation=mc.Augmentation(shift=2, rotate=15, scale=0.1, flip=True),  # more pictures than there are
        communicator=chosen.ranks.communicator,
    )
    if not chosen.ranks.is_first:
        return 0
    loss, accuracy = model.evaluate(x_test, y_test)
    show(f"test loss {loss:.3f}, test accuracy {100 * accuracy:.1f} % on {len(x_test)} pictures")
    model.save(chosen.save)
    if chosen.report:
        report.write(chosen.report, model, (x_test, y_test), history, {"data": str(folder)}, "own_pictures")

    model = mc.load(chosen.save)
    name = data.names["test"][0]
    image = read_fitted(folder / name, SIZE, mode="RGB")  # (3, 32, 32), read as in training
    probabilities = model.predict(image[None])[0]
    best = probabilities.argmax()
    show(f"{name}: {model.classes[best]}, {100 * probabilities[best]:.1f} %")
    return int(100 * accuracy < chosen.min_accuracy)


if __name__ == "__main__":
    sys.exit(main())
