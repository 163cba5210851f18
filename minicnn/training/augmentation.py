"""Augmentation: every epoch sees each image a little shifted, rotated, scaled, so that fewer images teach more.

It is a function of a batch and not a layer of the network: it works on the pixels as they are stored (uint8), beside
the training step, and the network that is saved, evaluated and explained knows nothing of it. It also changes labels
(mixup), which a layer cannot.

What happens to an image follows from (seed, epoch, index of the image) alone, so a resumed run sees the same images.
`fit` counts as the epoch the steps that the optimizer took before it: a second `fit` goes on with new changes.

A geometric change is one affine map, from the pixels of the result to the positions in the image that they show:

    position = centre + M @ (pixel - centre) + move,      M = zoom * rotation @ shear @ flip

The centre is that of the image. A position between four pixels shows their bilinear interpolation; outside the image
all is 0.
"""

import numbers
from typing import Any

import numpy as np

from minicnn.core import operations
from minicnn.core.arguments import Configured
from minicnn.core.checks import check_array, check_flag, check_integer, quoted
from minicnn.core.errors import InputError
from minicnn.core.types import Array

#: What the random numbers of an image are for, each from 0 to 1.
ANGLE, SCALE, SHEAR, MIRROR, DOWN, RIGHT = range(6)
CROP, CROP_DOWN, CROP_RIGHT = range(6, 9)
ERASE, ERASE_HEIGHT, ERASE_WIDTH, ERASE_DOWN, ERASE_RIGHT = range(9, 14)
COUNT = 14

FAR = 10**6  # pixels: float32 holds the position of each
PIXELS = 2**16  # that are sampled at a time: as many as the processor's cache holds


class Augmentation(Configured):
    """Random changes of images: `fit(..., augmentation=Augmentation(shift=2, rotate=10))`.

    Each number is drawn anew for each image and epoch, uniformly from `-value` to `value` unless stated otherwise.

    Args:
        shift: pixels down or up and right or left; a number, or (vertical, horizontal).
        rotate: degrees, at most 180.
        scale: a fraction: 0.1 makes what the image shows up to 10 % smaller or larger.
        shear: pixels to the side for each pixel down: 0.2 slants by up to 11 degrees.
        flip: True to mirror left and right with probability 1/2. Not for letters and digits.
        crop: a fraction: a window of `1 - crop` to 1 times the image's height and width, anywhere in the image, is
            enlarged to the image's size.
        erase: a fraction: with probability 1/2 a rectangle is set to 0, whose height and width are up to this
            fraction of the image's.
        mixup: alpha: an image becomes `a * image + (1 - a) * another`, with `a` from Beta(alpha, alpha), and its label
            `a * label + (1 - a) * the other's`, as rows (N, K). 0 for none; 0.2 is usual. The other image is one of
            those that are trained on.
        seed: of all random numbers.

    Raises:
        InputError: a value that is not a number in its range; in `fit`, a model that does not take images (C, H, W), or
            mixup with a loss of labels that cannot be mixed.

    >>> image = np.zeros((1, 1, 3, 3), "uint8")
    >>> image[0, 0, 1, 1] = 255
    >>> shifted = Augmentation(shift=(0, 1))(image, epoch=3)      # by a fraction of a pixel to the side
    >>> shifted[0, 0]
    array([[  0,   0,   0],
           [ 91, 164,   0],
           [  0,   0,   0]], dtype=uint8)

    Source: Simard et al., "Best practices for convolutional neural networks", 2003, for affine maps; DeVries & Taylor,
    "Improved regularization of convolutional neural networks with cutout", 2017; Zhang et al., "mixup: beyond empirical
    risk minimization", 2018.
    """

    def __init__(
        self,
        *,
        shift: float | tuple[float, float] = 0,
        rotate: float = 0,
        scale: float = 0,
        shear: float = 0,
        flip: bool = False,
        crop: float = 0,
        erase: float = 0,
        mixup: float = 0,
        seed: int = 0,
    ):
        if not isinstance(shift, (tuple, list)):
            self.shift = _number(shift, "shift", FAR)
        elif len(shift) == 2:
            self.shift = tuple(_number(pixels, "shift", FAR) for pixels in shift)
        else:
            raise InputError(f"Augmentation needs shift as pixels, or as (vertical, horizontal), got {quoted(shift)}")
        self.rotate, self.shear = _number(rotate, "rotate", 180), _number(shear, "shear", FAR)
        self.scale, self.crop = _number(scale, "scale", 0.99), _number(crop, "crop", 0.99)
        self.flip = check_flag(flip, "flip", "Augmentation")
        self.erase, self.mixup = _number(erase, "erase", 1), _number(mixup, "mixup", 1000)
        self.seed = check_integer(seed, "seed", "Augmentation", minimum=0)

    def __call__(self, x: Array, epoch: int = 0) -> np.ndarray:
        """The images as an epoch sees them, without mixup, which changes the labels, too.

        Args:
            x: (N, C, H, W), uint8 or floating point; it is not changed.
            epoch: an integer from 0; each sees other changes.

        Returns:
            a NumPy array of the same shape and dtype.

        Raises:
            InputError: something that is not such images.
        """
        check_images(x)
        epoch = check_integer(epoch, "epoch", "Augmentation", minimum=0)
        return self.change(operations.current.to_numpy(x), self.draw(len(x), epoch))

    def views(self, x: Array, y: Array, rows: Array, epoch: int, classes: int) -> tuple[Any, Any]:
        """The images and labels of a data set as an epoch sees them: computed when a batch of them is read.

        Args:
            x: images (N, C, H, W), an array or what can be indexed like one.
            y: labels (N,), or rows (N, K), a NumPy array.
            rows: indices of the images that are trained on: mixup takes its other images from them alone.
            epoch: an integer from 0; each sees other changes.
            classes: K, for the labels of mixup.

        Returns:
            (images, labels), two objects that are indexed like arrays of the length N, by a slice or an array of
            indices. The labels of mixup are floating point rows (N, K).
        """
        drawn = self.draw(len(x), epoch)

        def read(indices):
            return self.change(operations.current.to_numpy(x[indices]), drawn[indices])

        if not self.mixup:
            return _View(read, x.shape, x.dtype), y
        rng = np.random.default_rng([self.seed, epoch, 1])
        others = rows[rng.integers(len(rows), size=len(x))]
        weights = rng.beta(self.mixup, self.mixup, size=len(x)).astype(np.float32)
        targets = np.eye(classes, dtype=np.float32) if y.ndim == 1 else y

        def mix(read, indices):
            first, second = read(indices), read(others[indices])
            a = weights[indices].reshape(-1, *(1,) * (first.ndim - 1))
            return _as(first.dtype, a * first + (1 - a) * second)

        def read_label(indices):
            rows = targets[y[indices] if y.ndim == 1 else indices]
            return rows if rows.dtype.kind == "f" else rows.astype(np.float32)

        images = _View(lambda indices: mix(read, indices), x.shape, x.dtype)
        return images, _View(lambda indices: mix(read_label, indices), (len(y), *targets.shape[1:]), targets.dtype)

    def draw(self, N: int, epoch: int) -> np.ndarray:
        """The random numbers of an epoch, float32 (N, 14) from 0 to 1: a row for each image, for `change`.

        Args:
            N: how many images there are.
            epoch: an integer from 0; each has other numbers.

        Returns:
            float32 (N, 14).
        """
        return np.random.default_rng([self.seed, epoch]).random((N, COUNT), dtype=np.float32)

    def change(self, x: Array, drawn: Array) -> np.ndarray:
        """Images changed as their random numbers say.

        Args:
            x: a NumPy array (N, C, H, W), uint8 or floating point.
            drawn: (N, 14), from 0 to 1: 1/2 is the middle of a range that goes from `-value` to `value`.

        Returns:
            an array of the same shape and dtype; `x` itself where nothing is to be changed.
        """
        if any((*self._shifts(), self.rotate, self.scale, self.shear, self.flip, self.crop)):
            x = sample(x, *self._maps(drawn, x.shape[2:]))
        if self.erase:
            x = _erase(x, self.erase, drawn)
        return x

    def _shifts(self):
        return self.shift if isinstance(self.shift, tuple) else (self.shift, self.shift)

    def _maps(self, drawn, size):
        """M (2, 2, N) and move (2, N) of the affine maps: those of the changes, inverted."""
        drawn = drawn.T.astype(np.float64)
        signed = 2 * drawn - 1  # from -1 to 1
        window = 1 - self.crop * drawn[CROP]  # its side, as a fraction of the image's
        zoom = window / (1 + self.scale * signed[SCALE])
        angle, shear = np.deg2rad(self.rotate) * signed[ANGLE], self.shear * signed[SHEAR]
        cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
        mirror = np.where(self.flip & (drawn[MIRROR] < 0.5), -1, 1)
        M = np.array([[cos - shear * sin, -sin * mirror], [sin + shear * cos, cos * mirror]])
        move = [
            -pixels * signed[shift] + (1 - window) / 2 * (length - 1) * signed[crop]
            for pixels, length, shift, crop in zip(
                self._shifts(), size, (DOWN, RIGHT), (CROP_DOWN, CROP_RIGHT), strict=True
            )
        ]
        return M.astype(np.float32), np.array(move, dtype=np.float32)


def check_images(x):
    """Refuse what is not images (N, C, H, W), uint8 or floating point."""
    check_array(x, "Augmentation")
    if x.ndim != 4 or not (x.dtype == np.uint8 or x.dtype.kind == "f"):
        raise InputError(
            f"Augmentation needs images (N, C, H, W), uint8 or floating point, got {x.dtype} of shape {tuple(x.shape)}"
        )


def sample(x, M, move):
    """Images by their affine maps: a pixel of the result shows `centre + M @ (pixel - centre) + move` of the image.

    Args:
        x: a NumPy array (N, C, H, W), uint8 or floating point.
        M: (2, 2, N), of (row, column).
        move: (2, N), pixels down and right.

    Returns:
        an array of the same shape and dtype.

    >>> image = np.arange(6, dtype="uint8").reshape(1, 1, 2, 3)
    >>> sample(image, np.eye(2)[:, :, None], np.array([[0], [1]]))[0, 0]       # shows what is one pixel to the right
    array([[1, 2, 0],
           [4, 5, 0]], dtype=uint8)
    """
    result = np.empty(x.shape, dtype=x.dtype)
    M, move = np.asarray(M, dtype=np.float32), np.asarray(move, dtype=np.float32)
    step = max(1, PIXELS // max(1, x[0:1].size))
    for start in range(0, len(x), step):
        images = slice(start, start + step)
        _sample(x[images], M[..., images], move[:, images], result[images])
    return result


def _sample(x, M, move, result):
    """`sample` in few passes over memory: one index for each position reads the four pixels around it at once."""
    N, C, H, W = x.shape
    pixels = x.transpose(0, 2, 3, 1)
    # around[n, r, c] are the pixels (r-1, c-1), (r-1, c), (r, c-1), (r, c) of image n; those outside are 0
    around = np.zeros((N, H + 2, W + 2, C, 4), dtype=x.dtype)
    around[:, 1:-1, 1:-1, :, 0] = pixels
    around[:, 1:-1, :-2, :, 1] = pixels
    around[:, :-2, 1:-1, :, 2] = pixels
    around[:, :-2, :-2, :, 3] = pixels
    rows, columns = np.arange(H, dtype=np.float32) - (H - 1) / 2, np.arange(W, dtype=np.float32) - (W - 1) / 2
    index, fractions = np.arange(N).reshape(N, 1, 1), []
    for axis, length in enumerate((H, W)):
        along_columns = (
            M[axis, 1, :, None] * columns + (move[axis] + np.float32((length - 1) / 2 + 1))[:, None]
        )  # (N, W)
        position = (M[axis, 0, :, None] * rows)[:, :, None] + along_columns[:, None]  # (N, H, W), of r or c above
        position.clip(0, length + 1, out=position)  # one pixel outside is as black as any other
        whole = np.floor(position)
        fractions.append(np.subtract(position, whole, out=position).reshape(N, 1, -1))
        index = index * (length + 2) + whole.astype(np.intp)
    found = around.reshape(-1, C * 4).take(index.ravel(), axis=0).reshape(N, H * W, C, 4)
    top_left, top_right, bottom_left, bottom_right = found.transpose(3, 0, 2, 1).astype(
        np.result_type(x.dtype, np.float32), order="C"
    )  # (N, C, H*W) each
    down, right = fractions
    top_right -= top_left
    top_right *= right
    top_left += top_right
    bottom_right -= bottom_left
    bottom_right *= right
    bottom_left += bottom_right
    bottom_left -= top_left
    bottom_left *= down
    top_left += bottom_left
    result[...] = _as(x.dtype, top_left).reshape(x.shape)


def _erase(x, fraction, drawn):
    """Images in which a rectangle is 0, in about half of them."""
    along = []
    for length, size, first in zip(x.shape[2:], (ERASE_HEIGHT, ERASE_WIDTH), (ERASE_DOWN, ERASE_RIGHT), strict=True):
        extent = np.rint(fraction * length * drawn[:, size])
        start = np.floor(drawn[:, first] * (length - extent + 1)).clip(0, length - extent)
        pixels = np.arange(length)
        along.append((pixels >= start[:, None]) & (pixels < (start + extent)[:, None]))  # (N, H), then (N, W)
    rows, columns = along
    rows &= drawn[:, ERASE, None] < 0.5
    return np.where(rows[:, None, :, None] & columns[:, None, None, :], x.dtype.type(0), x)


def _as(dtype, x):
    """Numbers as a dtype; for pixels, which are not negative, rounded."""
    return x.astype(dtype, copy=False) if dtype.kind == "f" else (x + np.float32(0.5)).astype(dtype)


def _number(value, name, highest):
    """An argument as a number from 0 to `highest`: an int or a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value <= highest:
        raise InputError(f"Augmentation needs {name} as a number from 0 to {highest}, got {quoted(value)}")
    return int(value) if value == int(value) else float(value)


def check_augmentation(augmentation, model, y, loss):
    """Refuse what is not an augmentation, and one that the model's input or the labels do not allow."""
    if not isinstance(augmentation, Augmentation):
        raise InputError(f"fit needs augmentation as minicnn.Augmentation(shift=2), got {quoted(augmentation)}")
    if len(model.shapes[0]) != 3:
        raise InputError(f"Augmentation changes images (C, H, W), and this model takes inputs {model.shapes[0]}")
    if augmentation.mixup:
        if y.ndim == 1 and not (loss.is_classification and len(model.shapes[-1]) == 1):
            raise InputError("mixup mixes labels that are class indices or rows: give the targets as rows (N, K)")
        if y.ndim == 1:
            K = model.shapes[-1][0]
            try:
                loss.check(np.full((1, K), 1 / K, dtype=np.float32), (1, K))
            except InputError as error:
                raise InputError(
                    f"mixup makes rows of labels, and {type(loss).__name__} refuses them: {error}"
                ) from error


class _View:
    """What is indexed like an array, and is computed then."""

    def __init__(self, read, shape, dtype):
        self._read, self.shape, self.dtype = read, tuple(shape), np.dtype(dtype)
        self.ndim = len(self.shape)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return self._read(rows)
