"""Local response normalization: a channel that answers strongly weakens its neighbours. The layer of AlexNet."""

import numpy as np

from minicnn.core.checks import check_integer, check_number
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer
from minicnn.core.types import Array, Backward


class LocalResponseNorm(Layer):
    """Each number divided by the strength of its neighbours in the channels around it, at the same pixel.

        y[c] = x[c] / scale[c]**beta,    scale[c] = k + alpha / size * (sum of x[j]**2 over size channels around c)

    Channels that do not exist count as zeros. With neighbours(v)[c] the sum of v over the same channels, backward is

        dx = dy / scale**beta - 2 * alpha * beta / size * x * neighbours(dy * x / scale**(beta + 1))

    It learns nothing. Later networks use `BatchNorm` instead; this layer is here for AlexNet, ZFNet and GoogLeNet.

    Input and output: (N, C, ...).

    Args:
        size: how many channels, the channel itself included: an odd number.
        alpha, beta, k: as in the formula; the defaults are those of PyTorch. The paper has k = 2, and an alpha that
            is not divided by the size.

    Raises:
        InputError: an even size, a k of 0, numbers below 0, or an input without an axis of channels.

    >>> import numpy as np
    >>> LocalResponseNorm(3, alpha=3.0, beta=1.0)(np.array([[1.0, 2.0, 0.0]]))
    array([[0.16666667, 0.33333333, 0.        ]])

    Source: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks", 2012.
    """

    independent_samples = True

    def __init__(self, size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        self.size = check_integer(size, "size", "LocalResponseNorm")
        self.alpha = check_number(alpha, "alpha", "LocalResponseNorm")
        self.beta = check_number(beta, "beta", "LocalResponseNorm")
        self.k = check_number(k, "k", "LocalResponseNorm")
        if self.size % 2 == 0:
            raise InputError(f"LocalResponseNorm needs an odd size, the same on both sides of a channel, got {size}")
        if self.k == 0:
            raise InputError("LocalResponseNorm needs a k above 0: where all neighbours are 0 it is what is divided by")

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_input(x)
        if x.ndim < 2:
            raise InputError(
                f"{self!r} needs a batch (N, C, ...), got shape {x.shape}: add the batch axis with x[None]"
            )
        scale = self.neighbours(x * x) * (self.alpha / self.size) + self.k
        factor = scale**-self.beta

        def backward(dy):
            through_scale = self.neighbours(dy * x * factor / scale)
            return dy * factor - x * through_scale * (2 * self.alpha * self.beta / self.size)

        return x * factor, backward

    def neighbours(self, x: Array) -> Array:
        """The sum of the channels around each channel.

        Args:
            x: (N, C, H, W).

        Returns:
            an array of the same shape.
        """
        C, total = x.shape[1], np.zeros_like(x)
        reach = min(self.size // 2, C - 1)
        for offset in range(-reach, reach + 1):
            total[:, max(0, -offset) : C - max(0, offset)] += x[:, max(0, offset) : C - max(0, -offset)]
        return total
