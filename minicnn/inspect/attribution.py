"""Which pixels a network's prediction depends on, measured in two ways.

Saliency uses the backward pass: how much would the score of a class change if this pixel changed a little?
Occlusion uses forward passes only: how much probability is lost if a grey patch covers this position?
`minicnn.plots` draws both.
"""

import numpy as np

from minicnn.backends import to_numpy
from minicnn.core.checks import check_integer, quoted
from minicnn.core.errors import InputError
from minicnn.core.layers import Softmax
from minicnn.core.sequential import Sequential
from minicnn.core.types import Array
from minicnn.inspect.explain.collect import check_label, gradients_cleared, one_image, states_restored

PATCHES = 64  # images with a patch in one forward pass: bounds the memory


def saliency(model: Sequential, image: Array, label: int | None = None) -> np.ndarray:
    """The gradient of a class's score with respect to the image.

        saliency[c, h, w] = d score[label] / d image[c, h, w],    score: the logit, before any softmax

    Positive where a brighter pixel would raise the score. The model is left as it was.

    Args:
        model: a built `Sequential` that takes images (C, H, W) and ends in class scores (softmax or logits).
        image: one image, (C, H, W) or (H, W): floating point in the model's range, or uint8; or the path of a picture.
        label: the class, from 0; None for the predicted class.

    Returns:
        a NumPy array (C, H, W) of the model's dtype. For a uint8 image it is the gradient with respect to the pixels
        scaled to [0, 1].

    Raises:
        InputError: an image or label that the model cannot take, a model that does not end in class scores, or
            one that holds gradients of an unfinished training step.
        FileError: the picture cannot be read.

    >>> import minicnn as mc
    >>> model = mc.networks.logistic_regression()  # its score is linear: the gradient is the class's weights
    >>> gradient = saliency(model, np.zeros((28, 28), "uint8"), label=2)
    >>> bool((gradient.ravel() == model.layers[1].weight.value[2]).all())
    True

    Source: Simonyan et al., "Deep inside convolutional networks: visualising image classification models and
    saliency maps", 2013.
    """
    x = one_image(model, image, "saliency")
    check_label(model, label, "saliency")
    with gradients_cleared(model), states_restored(model):
        logits, backward = model.forward(x)
        dlogits = np.zeros_like(logits)
        dlogits[0, int(to_numpy(logits)[0].argmax()) if label is None else int(label)] = 1
        return np.ascontiguousarray(to_numpy(backward(dlogits))[0])


def occlusion(
    model: Sequential, image: Array, label: int | None = None, size: int = 5, stride: int = 1, grey: float = 0.5
) -> np.ndarray:
    """How much of a class's probability is lost when a grey patch covers a part of the image.

        drop[i, j] = p(label | image) - p(label | image with a patch at cell i, j)

    A cell is `stride` x `stride` pixels; the patch is `size` x `size` pixels around its centre, cut off at the border.
    Positive where the network needs the covered pixels; negative where the probability rises without them.

    Args:
        model, image, label: as in `saliency`.
        size: the patch's height and width in pixels.
        stride: pixels from one position of the patch to the next, at most `size`, so that every pixel is covered.
        grey: the patch's value in the range that the layers see, [0, 1] for uint8 images.

    Returns:
        a NumPy array (ceil(H / stride), ceil(W / stride)) of the model's dtype, with values from -1 to 1.

    Raises:
        InputError: as for `saliency`; or a size, stride or grey that cannot be right.
        FileError: the picture cannot be read.

    >>> import minicnn as mc
    >>> occlusion(mc.networks.lenet5(), np.zeros((28, 28), "uint8"), size=7, stride=4).shape
    (7, 7)

    Source: Zeiler and Fergus, "Visualizing and understanding convolutional networks", 2014.
    """
    x = to_numpy(one_image(model, image, "occlusion"))
    check_label(model, label, "occlusion")
    size, stride = check_integer(size, "size", "occlusion"), check_integer(stride, "stride", "occlusion")
    if stride > size:
        raise InputError(f"occlusion with stride {stride} and size {size} never covers some pixels: stride <= size")
    if not np.isfinite(grey):
        raise InputError(f"occlusion needs grey as a finite number, got {quoted(grey)}")
    H, W = x.shape[2:]
    cells = [(top, left) for top in range(0, H, stride) for left in range(0, W, stride)]
    after = []
    with states_restored(model):
        before = _probabilities(model, x)[0]
        label = int(before.argmax()) if label is None else int(label)
        for start in range(0, len(cells), PATCHES):
            chunk = cells[start : start + PATCHES]
            covered = np.repeat(x, len(chunk), axis=0)
            for patched, (top, left) in zip(covered, chunk, strict=True):
                top, left = top + (stride - size) // 2, left + (stride - size) // 2
                patched[:, max(top, 0) : top + size, max(left, 0) : left + size] = grey
            after.append(_probabilities(model, covered)[:, label])
    return (before[label] - np.concatenate(after)).reshape(-(-H // stride), -(-W // stride))


def _probabilities(model, x):
    """The probabilities of the classes for a batch, whether the model ends in softmax or in logits."""
    return to_numpy(Softmax()(model.forward(x)[0]))
