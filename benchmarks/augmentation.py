"""The time of augmentation beside the training step that it feeds.

    python benchmarks/augmentation.py        # some 20 seconds on an idle machine; `--help` lists what can be chosen

First each change alone for one batch, then an epoch of `fit` with all of them and without, in turns. The batches are
changed in a thread beside the step, so an epoch takes less longer than the changes alone.
"""

# ruff: noqa: E402, the path comes before the imports

import argparse
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # so that the code of this checkout is measured

import numpy as np

import minicnn as mc
from benchmarks.machine import machine
from benchmarks.report import spread

CHANGES = {
    "shift": {"shift": 2},
    "rotate": {"rotate": 10},
    "flip": {"flip": True},
    "crop": {"crop": 0.2},
    "erase": {"erase": 0.5},
    "all affine": {"shift": 2, "rotate": 10, "scale": 0.1, "shear": 0.1, "flip": True, "crop": 0.2},
    "all": {
        "shift": 2,
        "rotate": 10,
        "scale": 0.1,
        "shear": 0.1,
        "flip": True,
        "crop": 0.2,
        "erase": 0.5,
        "mixup": 0.2,
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["lenet5", "small_resnet"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, nargs=2, default=(28, 28), metavar=("H", "W"))
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--batches", type=int, default=40, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    shape = (chosen.channels, *chosen.size)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (chosen.batch * chosen.batches, *shape), dtype=np.uint8)
    y = rng.integers(0, 10, len(x))
    print(f"{chosen.batch} uint8 images {shape} a batch; {machine(os.cpu_count())}")
    for name, values in CHANGES.items():
        times = [changed(mc.Augmentation(**values), x, y, chosen.batch) for _ in range(chosen.rounds)]
        print(f"{name:12} {spread(times, '{:.2f}')} ms a batch")
    for name in chosen.networks:
        model = getattr(mc.networks, name)(input_shape=shape)
        optimizer = mc.Adam()
        epoch(model, optimizer, x, y, chosen.batch, None)  # the first one prepares
        found = [
            [epoch(model, optimizer, x, y, chosen.batch, values) for values in (None, CHANGES["all affine"])]
            for _ in range(chosen.rounds)
        ]
        print(f"{name}, a step of fit:  {spread([plain for plain, _ in found], '{:.2f}')} ms")
        print(f"   all affine changes: {spread([augmented for _, augmented in found], '{:.2f}')} ms")
        print(f"   ratio:              {spread([augmented / plain for plain, augmented in found], '{:.2f}')}")


def changed(augmentation, x, y, batch):
    """Milliseconds to change a batch."""
    rows = np.arange(len(x))
    images, labels = augmentation.views(x, y, rows, 0, 10)
    started = time.perf_counter()
    starts = range(0, len(x), batch)
    for start in starts:
        images[rows[start : start + batch]], labels[rows[start : start + batch]]
    return 1000 * (time.perf_counter() - started) / len(starts)


def epoch(model, optimizer, x, y, batch, values):
    """Milliseconds of a step in an epoch of `fit`."""
    augmentation = None if values is None else mc.Augmentation(**values)
    started = time.perf_counter()
    model.fit(x, y, epochs=1, batch_size=batch, optimizer=optimizer, verbose=False, augmentation=augmentation)
    return 1000 * (time.perf_counter() - started) / -(-len(x) // batch)


if __name__ == "__main__":
    main()
