"""What is measured: the networks' shapes, and the images, labels and first weights that every contender receives."""

import dataclasses
import pathlib

import numpy as np

IMAGES = {
    "lenet5": 8192,
    "conv_pool": 2048,
    "two_conv": 512,
    "small_resnet": 2048,
}  # in an epoch, unless the user chooses another number
LEARNING_RATE = {"lenet5": 0.001, "conv_pool": 0.01, "two_conv": 0.01, "small_resnet": 0.001}
WITH_ADAM = ("lenet5", "small_resnet")  # the others learn with SGD
EPSILON = 1e-7  # Adam's; the other libraries' defaults differ

CONV64 = "conv64"  # not a network: one convolution of 64 to 64 channels, 3x3, same, on 28x28, forward and backward
FLATTENED = {"lenet5": (16, 25), "conv_pool": (16, 196), "two_conv": (32, 784)}  # channels, pixels before Flatten


@dataclasses.dataclass
class Case:
    """One network at one batch size.

    Attributes:
        net: "lenet5", "conv_pool", "two_conv", "small_resnet" or "conv64".
        batch: images a step.
        folder: of the images, the labels and the first weights, as `.npy` files.
        threads: how many a contender may use.
    """

    net: str
    batch: int
    folder: pathlib.Path
    threads: int

    @property
    def is_conv64(self):
        return self.net == CONV64

    @property
    def uses_adam(self):
        return self.net in WITH_ADAM

    def write_data(self, images=None):
        """Write random images and labels, at least one batch; for conv64 the input and the gradient of the output."""
        rng = np.random.default_rng(0)
        if self.is_conv64:
            x = rng.standard_normal((self.batch, 64, 28, 28), dtype=np.float32)
            y = rng.standard_normal((self.batch, 64, 28, 28), dtype=np.float32)
        else:
            count = max(1, (images or IMAGES[self.net]) // self.batch) * self.batch
            x = rng.random((count, 1, 28, 28), dtype=np.float32)
            y = rng.integers(0, 10, count)
        np.save(self.folder / "x.npy", x)
        np.save(self.folder / "y.npy", y)

    def data(self):
        """All images (count, 1, 28, 28) in float32, and all labels (count,)."""
        return np.load(self.folder / "x.npy"), np.load(self.folder / "y.npy")

    def write_weights(self, values):
        """Write the first weights in order: kernels (F, C, KH, KW), dense weights (units, features), biases."""
        for index, value in enumerate(values):
            np.save(self.folder / f"weight{index:02}.npy", value)

    def weights(self):
        """Yield the first weights one by one; they stay in the files, so that reading them takes no extra memory."""
        for path in sorted(self.folder.glob("weight*.npy")):
            yield np.load(path, mmap_mode="c")

    def weights_channels_last(self):
        """The same for libraries whose images are (N, H, W, C): kernels (KH, KW, C, F), dense (features, units).

        The first dense layer reads a flattened image, so its features are reordered in the same way as the pixels.
        """
        flattened = False
        for value in self.weights():
            if value.ndim == 4:
                value = value.transpose(2, 3, 1, 0)
            elif value.ndim == 2 and not flattened:
                flattened = True
                value = value.reshape(len(value), *FLATTENED[self.net])  # (units, C, H*W)
                value = value.transpose(2, 1, 0).reshape(-1, len(value))
            elif value.ndim == 2:
                value = value.T
            yield np.ascontiguousarray(value)
