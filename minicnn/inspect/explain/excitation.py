"""What a filter looks at: its effective receptive field, an image made for it, and the example images that excite it.

The effective receptive field is the size of the gradient of one output with respect to each pixel. The image is made
by gradient ascent: from grey, all pixels are changed a little in the direction that makes the output larger, and so
on. Both pass one gradient back to the image, for all filters of a layer at once: each has a copy of the image.
"""

import time

import numpy as np

from minicnn.backends import to_device, to_numpy
from minicnn.inspect.explain.steps import flat, run

SECONDS = 2.0  # for all images that are made
STEPS, STEP = 16, 0.12  # of the gradient ascent; the change of a pixel in each, of the range of the pixels
EXAMPLES = 4  # example images shown for each filter
BATCH = 64  # example images in one forward pass


def path_to(step):
    """The layers from the network's input to a step, as a list; blocks before it stand as one layer.

    >>> path_to(None)
    []
    """
    return [] if step is None else [*path_to(step.reads), step.layer]


def input_gradient(layers, images, outputs):
    """The gradient of one output of each image with respect to the image.

    Args:
        layers: from the network's input to the output.
        images: a batch (N, C, H, W).
        outputs: for each image the index of the output, without the batch axis.

    Returns:
        the output of the last layer, and the gradient (N, C, H, W).

    >>> from minicnn.core.layers import ReLU
    >>> y, gradient = input_gradient([ReLU()], np.array([[[[2.0, -1.0]]]]), [(0, 0, 0)])
    >>> gradient
    array([[[[1., 0.]]]])
    """
    y, backwards = to_device(images), []
    for layer in layers:
        y, backward = layer.forward(y, False)
        backwards.append(backward)
    dy = np.zeros(y.shape, y.dtype)
    for n, index in enumerate(outputs):
        dy[(n, *index)] = 1
    dy = to_device(dy)
    for backward in reversed(backwards):
        dy = backward(dy)
    return to_numpy(y), to_numpy(dy)


def effective_fields(step, image):
    """For each filter of a convolution: where its output is largest in size, and the gradient's size in the image.

    Returns:
        positions (F, 2), and pixels (F, H, W) from 0 to 255, the largest of each filter 255.

    Source: Luo, Li, Urtasun & Zemel, "Understanding the effective receptive field in deep convolutional neural
    networks", 2016.
    """
    y = np.abs(to_numpy(step.y)[0])
    positions = np.array([np.unravel_index(plane.argmax(), plane.shape) for plane in y])
    outputs = [(f, *place) for f, place in enumerate(positions)]
    _, gradient = input_gradient(path_to(step), np.repeat(image, len(y), axis=0), outputs)
    size = np.abs(gradient).sum(axis=1)
    return positions, _to_pixels(size, 0, size.max(axis=(1, 2), keepdims=True) + 1e-30)


def ascent(layers, outputs, image, deadline):
    """An image for each output, made by gradient ascent from grey; None where the time does not suffice.

    Args:
        layers, outputs: as for `input_gradient`.
        image: (1, C, H, W), whose range of numbers is that of the made images, or 0 to 1 where it is inside of it.
        deadline: on the clock of `time.perf_counter`.

    Returns:
        pixels (N, C, H, W) from 0 to 255, or None.

    Source: Erhan, Bengio, Courville & Vincent, "Visualizing higher-layer features of a deep network", 2009.
    """
    low, high = float(min(0, image.min())), float(max(1, image.max()))
    noise = np.random.default_rng(0).normal(0, 0.02, (len(outputs), *image.shape[1:]))
    images = ((low + high) / 2 + (high - low) * noise).astype(image.dtype)
    for remaining in range(STEPS, 0, -1):
        start = time.perf_counter()
        _, gradient = input_gradient(layers, images, outputs)
        scale = np.abs(gradient).max(axis=(1, 2, 3), keepdims=True) + np.finfo(gradient.dtype).tiny
        images = np.clip(images + STEP * (high - low) * gradient / scale, low, high)
        end = time.perf_counter()
        if end + (remaining - 1) * (end - start) > deadline:
            return None
    return _to_pixels(images, low, high)


def exciting_examples(model, names, examples):
    """For each filter of some layers, the examples with the largest outputs, the largest first.

    Args:
        model: the network.
        names: of the steps.
        examples: a batch of images as the model takes it.

    Returns:
        `{name: indices (F, k)}`.
    """
    scores = {name: [] for name in names}
    for start in range(0, len(examples), BATCH):
        x = model.prepare(examples[start : start + BATCH])
        for step in flat(run(model.row_to_logits, x, False)):
            if step.name in scores:
                y = to_numpy(step.y)
                scores[step.name].append(y.reshape(*y.shape[:2], -1).max(axis=2))
    count = min(EXAMPLES, len(examples))
    joined = {name: np.concatenate(found) for name, found in scores.items()}
    return {name: np.argsort(-found, axis=0, kind="stable")[:count].T for name, found in joined.items()}


def _to_pixels(images, low, high):
    return np.clip(np.rint(255 * (images - low) / (high - low)), 0, 255).astype(np.uint8)
