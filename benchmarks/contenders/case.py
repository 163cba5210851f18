"""What is measured: the networks' shapes, and the images, labels and first weights that every contender receives."""

import dataclasses
import math
import pathlib

import numpy as np

IMAGES = {
    "lenet5": 8192,
    "conv_pool": 2048,
    "two_conv": 512,
    "small_resnet": 2048,
}  # in an epoch, unless the user chooses another number
LEARNING_RATE = {"conv_pool": 0.01, "two_conv": 0.01}
WITH_ADAM = ("lenet5", "small_resnet", "dense_adam", "vgg_small", "mobilenet")  # the others learn with SGD
EPSILON = 1e-7  # Adam's; the other libraries' defaults differ
FLATTENED = {"lenet5": (16, 25), "conv_pool": (16, 196), "two_conv": (32, 784)}  # channels, pixels before Flatten


def conv(filters, size, **options):
    """A convolution that keeps the image's size, unless the options say otherwise."""
    return "conv", {"filters": filters, "size": size, "padding": size // 2, "stride": 1, "groups": 1} | options


def pool(size, stride):
    return "max_pool", {"size": size, "stride": stride}


def dense(units):
    return "dense", {"units": units}


RELU, FLATTEN, AVERAGE = ("relu", {}), ("flatten", {}), ("global_average", {})

#: Beyond the lab: the shape of an image, the batch sizes, and the layers, which end in one unit for each class.
NETWORKS = {
    "vgg_small": (
        (3, 32, 32),
        (32, 128),
        [
            *(conv(32, 3), RELU, conv(32, 3), RELU, pool(2, 2)),
            *(conv(64, 3), RELU, conv(64, 3), RELU, pool(2, 2)),
            *(conv(128, 3), RELU, conv(128, 3), RELU, pool(2, 2)),
            *(FLATTEN, dense(256), RELU, dense(10)),
        ],
    ),
    "alexnet": (
        (3, 224, 224),
        (16,),
        [
            *(conv(64, 11, stride=4, padding=2), RELU, pool(3, 2), conv(192, 5), RELU, pool(3, 2)),
            *(conv(384, 3), RELU, conv(256, 3), RELU, conv(256, 3), RELU, pool(3, 2)),
            *(FLATTEN, dense(4096), RELU, dense(4096), RELU, dense(1000)),
        ],
    ),
    "mobilenet": (
        (3, 32, 32),
        (32, 128),
        [
            *(conv(64, 3), RELU),
            *(conv(64, 3, groups=64), RELU, conv(64, 1), RELU) * 3,
            *(AVERAGE, dense(10)),
        ],
    ),
    "dense_adam": ((784,), (32, 128), [dense(1024), RELU, dense(1024), RELU, dense(10)]),
}

#: One layer alone, forward and backward: the shape of an image, the batch sizes, and the layer.
CONV64 = "conv64"
LAYERS = {
    CONV64: ((64, 28, 28), (32, 128), conv(64, 3)),
    "conv96": ((96, 6, 6), (32, 128), conv(96, 3)),
    "depthwise": ((64, 32, 32), (32, 128), conv(64, 3, groups=64)),
    "conv5x5": ((32, 28, 28), (32, 128), conv(32, 5)),
    "conv_stride2": ((64, 28, 28), (32, 128), conv(128, 3, stride=2)),
    "conv1x1": ((256, 14, 14), (32, 128), conv(256, 1)),
    "groups4": ((64, 28, 28), (32, 128), conv(64, 3, groups=4)),
    "max_pool3": ((64, 55, 55), (32,), pool(3, 2)),
    "max_pool2": ((64, 32, 32), (32,), pool(2, 2)),
}
BEYOND = (*NETWORKS, *LAYERS)
SHAPES = {net: shape for net, (shape, _, _) in (NETWORKS | LAYERS).items()}


def shapes(shape, layers):
    """The shape of one image before each of the layers, and after the last one."""
    found = [shape]
    for kind, options in layers:
        if kind in ("conv", "max_pool"):
            padding = options.get("padding", 0)
            size = [(n + 2 * padding - options["size"]) // options["stride"] + 1 for n in shape[1:]]
            shape = (options.get("filters", shape[0]), *size)
        elif kind in ("flatten", "global_average"):
            shape = (math.prod(shape) if kind == "flatten" else shape[0],)
        elif kind == "dense":
            shape = (options["units"],)
        found.append(shape)
    return found


@dataclasses.dataclass
class Case:
    """One network at one batch size.

    Attributes:
        net: a network of the lab, "small_resnet", or a name of `NETWORKS` or `LAYERS`.
        batch: images a step.
        folder: of the images, the labels and the first weights, as `.npy` files.
        threads: how many a contender may use.
    """

    net: str
    batch: int
    folder: pathlib.Path
    threads: int

    @property
    def is_layer(self):
        """Whether it is one layer alone, which is given the gradient of its output instead of labels."""
        return self.net in LAYERS

    @property
    def shape(self):
        return SHAPES.get(self.net, (1, 28, 28))

    @property
    def learning_rate(self):
        return LEARNING_RATE.get(self.net, 0.001)

    @property
    def uses_adam(self):
        return self.net in WITH_ADAM

    def write_data(self, images=None):
        """Write random images and labels, at least one batch; for a layer its input and the gradient of its output."""
        rng = np.random.default_rng(0)
        if self.is_layer:
            x = rng.standard_normal((self.batch, *self.shape), dtype=np.float32)
            output = shapes(self.shape, [LAYERS[self.net][2]])[-1]
            y = rng.standard_normal((self.batch, *output), dtype=np.float32)
        else:
            count = max(1, (images or IMAGES.get(self.net, self.batch)) // self.batch) * self.batch
            x = rng.random((count, *self.shape), dtype=np.float32)
            y = rng.integers(0, 1000 if self.net == "alexnet" else 10, count)
        np.save(self.folder / "x.npy", x)
        np.save(self.folder / "y.npy", y)

    def data(self):
        """All images (count, *shape) in float32, and all labels (count,)."""
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
