"""The images: where they come from, how they are split, and how an experiment changes them.

An image stays uint8, and the model scales it to [0, 1], unless the experiment is about the scaling.
"""

import pathlib
import re
import zlib
from typing import NamedTuple

import numpy as np

import minicnn as mc
from minicnn.datasets import LETTERS, normalize, stratified_split

HELD_OUT = 0.1  # the fraction of the training images that is held out for validation, as in the lab
MOVES = ((0, 2), (0, -2), (2, 0), (-2, 0))  # (down, right), in pixels


class Source(NamedTuple):
    """Images (N, 28, 28) uint8 and labels (N,) to train on and to test on, and their description.

    Attributes:
        kind: "letters" or "notMNIST", for the names of files.
        what: the same in words, for every title; for notMNIST also which set and how many images.
    """

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    kind: str
    what: str

    def fingerprint(self):
        """A number that changes with any image or label, so that results of other data are not mixed with these."""
        total = 0
        for array in (self.x, self.y, self.x_test, self.y_test):
            total = zlib.crc32(np.ascontiguousarray(array), total)
        return f"{total:08x}"


class Sets(NamedTuple):
    """Images (N, 1, 28, 28) and labels for training, validation and test; the test images also moved."""

    train: tuple
    validation: tuple
    test: tuple
    moved: tuple


def read(data, samples=None, test_samples=2000, seed=0):
    """The images that `--data` names.

    Args:
        data: "letters", or the path of notMNIST's files.
        samples: how many images to train and validate on; None for all (of letters: 10,000).
        test_samples: how many letters to test on; for notMNIST a tenth is held out.
        seed: of the letters, and of the choice of the test images.

    Raises:
        InputError: more samples than the data set has, or too few to split.
        FileError: the files at the path are not notMNIST.
    """
    if data == "letters":
        sets = mc.datasets.load_letters(train=samples or 10000, test=test_samples, seed=seed)
        kind, what = "letters", mc.datasets.LETTERS_DESCRIPTION
    else:
        sets = mc.datasets.load_notmnist(data, seed=seed)
        kind, what = "notMNIST", f"{set_name(data)}, {len(sets[0][1]) + len(sets[1][1]):,} images"
    (x, y), (x_test, y_test) = sets
    if samples is not None:
        if samples > len(x):
            raise mc.InputError(f"--samples {samples} is more than the {len(x)} images that are not kept for the test")
        x, y = x[:samples], y[:samples]  # they come shuffled
    if len(x) < 100:
        raise mc.InputError(f"the comparison needs 100 images or more to train and validate on, got {len(x)}")
    return Source(x, y, x_test, y_test, kind, what)


def set_name(path):
    """Which set of notMNIST, if the path's name shows it.

    >>> set_name("images/notMNIST_small.tar.gz"), set_name("train-images-idx3-ubyte.gz"), set_name("mine")
    ('notMNIST_small', 'notMNIST (IDX files)', 'notMNIST (set not named)')
    """
    name = pathlib.Path(path).name.lower()
    if found := re.search("small|large", name):
        return f"notMNIST_{found[0]}"
    return "notMNIST (IDX files)" if re.search(r"\bidx[13]?\b", name) else "notMNIST (set not named)"


def split(source, ordered=False, kept=0.0, seed=0):
    """The rows to train on and the rows to validate on.

    Args:
        source: the images.
        ordered: whether to split as in the lab: the images in the order of their classes, the last tenth for
            validation. Otherwise a tenth of every class, and copies of an image stay together.
        kept: with `ordered`, the fraction of the last class that is put back into training.
        seed: of the choice.
    """
    rng = np.random.default_rng([seed, 10])
    if not ordered:
        return stratified_split(source.y, HELD_OUT, rng, groups=_copies(source.x))
    order = np.argsort(source.y, kind="stable")
    count = round(HELD_OUT * len(order))
    train, held_out = order[:-count], order[-count:]
    last = held_out[source.y[held_out] == len(LETTERS) - 1]
    put_back = rng.permutation(last)[: round(kept * np.count_nonzero(source.y == len(LETTERS) - 1))]
    return np.concatenate([train, put_back]), np.setdiff1d(held_out, put_back)


def prepare(source, trial):
    """The sets that a trial uses for training and for measuring."""
    train, validation = split(source, trial.ordered, trial.kept)
    if trial.images is not None:
        train = train[: trial.images]

    def changed(images):
        if trial.permuted:
            order = np.random.default_rng(784).permutation(784)  # one permutation for all images and all trials
            images = images.reshape(len(images), 784)[:, order].reshape(images.shape)
        if trial.normalized:
            images = normalize(images, axis=1)
        return images[:, None]

    return Sets(
        (changed(source.x[train]), source.y[train]),
        (changed(source.x[validation]), source.y[validation]),
        (changed(source.x_test), source.y_test),
        (changed(move(source.x_test)), source.y_test),
    )


def move(images):
    """Every image moved by two pixels: the first to the right, the next to the left, down, up, and so on.

    Pixels that leave the picture are lost; on the other side the pixels of the border are repeated.

    >>> image = np.zeros((1, 28, 28), np.uint8)
    >>> image[0, 5, 5] = 9
    >>> int(move(image)[0, 5, 7])
    9
    """
    moved = np.empty_like(images)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)), mode="edge")
    for start, (down, right) in enumerate(MOVES):
        moved[start::4] = padded[start::4, 2 - down : 30 - down, 2 - right : 30 - right]
    return moved


def _copies(images):
    """A number for each image, the same for images whose bytes are equal."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    return np.unique(rows.view(np.dtype((np.void, rows.shape[1]))).ravel(), return_inverse=True)[1]
