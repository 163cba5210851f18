"""Pooling: one number for each window, so that the next layer sees a smaller image.

Max and average pooling slide the same window and differ in what they keep of
it: the largest pixel, whose gradient it alone receives, or the mean, whose
gradient all pixels share.
"""

import math

from minicnn.backend import array_module, batch_first, batch_last, fused
from minicnn.errors import InputError
from minicnn.im2col import Window, pad
from minicnn.layers.base import Layer, check_image_shape


class Pooling2D(Layer):
    """What max and average pooling share: the window and its arithmetic."""

    splits_batch = True

    def __init__(self, pool_size=2, stride=None, padding="valid"):
        self.pool_size = pool_size
        self.stride = stride
        self.padding = padding
        self.window = Window(pool_size, pool_size if stride is None else stride, padding)

    def output_shape(self, input_shape):
        check_image_shape(self, ("N", *input_shape))
        C, H, W = input_shape
        for name, (before, after), size in zip(
            ("height", "width"), self.window.pads(H, W), self.window.kernel_size, strict=True
        ):
            if max(before, after) >= size:
                raise InputError(
                    f"{self!r} pads {max(before, after)} pixels, which its window of {name} {size} cannot see "
                    f"past: the padding must be smaller than the window"
                )
        try:
            return (C, *self.window.output_shape(H, W))
        except InputError as error:
            raise InputError(f"{self!r} on images of {H} x {W}: {error}") from None

    def give(self, pixels, gradient):
        """Add to pixels that are zero unless windows overlap; where they do not, writing takes half the time."""
        if self.window.overlaps:
            pixels += gradient
        else:
            pixels[...] = gradient

    def crop(self, padded, H, W):
        """The images (N, C, H, W) inside a padded array (C, HP, WP, N)."""
        (top, _), (left, _) = self.window.pads(H, W)
        return batch_first(padded[:, top : top + H, left : left + W])


class MaxPool2D(Pooling2D):
    """The largest pixel of each window.

        y[n, c, oh, ow] = max over kh, kw of padded[n, c, oh * stride + kh, ow * stride + kw]

    The padding is minus infinity, so it never wins. The gradient goes to the largest pixel; where several
    are equally large, to the first of them in row order.

    Input: (N, C, H, W). Output: (N, C, OH, OW) with `OH = (top + H + bottom - KH) // stride + 1`.

    Args:
        pool_size: the window's height and width in pixels, an int or a pair.
        stride: pixels from window to window, an int or a pair; None for the pool size.
        padding: as for `Conv2D`; less than the window's size.

    Raises:
        InputError: a window that does not fit the padded image; padding that reaches the window's size.

    >>> import numpy as np
    >>> y, backward = MaxPool2D(2).forward(np.array([[[[1.0, 2.0], [4.0, 3.0]]]]))
    >>> y[0, 0], backward(np.ones_like(y))[0, 0]
    (array([[4.]]), array([[0., 0.],
           [1., 0.]]))

    Source: Ranzato et al., "Unsupervised learning of invariant feature hierarchies", 2007.
    """

    def forward(self, x, training=False):
        self.check_input(x, ndim=4)
        xp = array_module(x)
        _, C, H, W = x.shape
        _, OH, OW = self.output_shape((C, H, W))
        image = batch_last(pad(x, self.window.pads(H, W), value=-math.inf))  # (C, HP, WP, N)
        taps = [(rows, cols) for _, rows, cols in self.window.taps(slice(0, OH), slice(0, OW))]
        y = image[:, taps[0][0], taps[0][1]].copy()  # (C, OH, OW, N)
        winner = xp.zeros(y.shape, dtype="uint8" if len(taps) <= 256 else "int32")
        for tap, (rows, cols) in enumerate(taps[1:], start=1):
            fused(self._challenge)(y, winner, image[:, rows, cols], winner.dtype.type(tap))
        padded_shape = image.shape

        def backward(dy):
            dy = batch_last(dy)
            dimage = xp.zeros(padded_shape, dtype=dy.dtype)
            for tap, (rows, cols) in enumerate(taps):
                self.give(dimage[:, rows, cols], fused(self._won)(dy, winner, winner.dtype.type(tap)))
            return self.crop(dimage, H, W)

        return batch_first(y), backward

    @staticmethod
    def _challenge(xp, largest, winner, candidate, tap):
        """Where the candidate is larger, it is the largest so far, and its tap the winner."""
        xp.maximum(winner, (candidate > largest) * tap, out=winner)  # 5 times faster than a mask
        xp.maximum(largest, candidate, out=largest)

    @staticmethod
    def _won(xp, dy, winner, tap):
        """The gradient of the windows in which a tap was the largest."""
        return dy * (winner == tap)


class AvgPool2D(Pooling2D):
    """The mean of each window.

        y[n, c, oh, ow] = (sum over kh, kw of padded[n, c, oh * stride + kh, ow * stride + kw]) / count

    The padding is zero and, unless `count_include_pad`, is not counted: the mean is that of the real pixels.
    Every pixel receives an equal share of its window's gradient.

    Input: (N, C, H, W). Output: (N, C, OH, OW) with `OH = (top + H + bottom - KH) // stride + 1`.

    Args:
        pool_size, stride, padding: as for `MaxPool2D`.
        count_include_pad: divide by the whole window's size, padding counted.

    Raises:
        InputError: a window that does not fit the padded image; padding that reaches the window's size.

    >>> import numpy as np
    >>> AvgPool2D(2)(np.array([[[[1.0, 2.0], [4.0, 3.0]]]]))[0, 0]
    array([[2.5]])

    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998 (there with a learned
    factor and bias for each channel, left out here as in every later use).
    """

    def __init__(self, pool_size=2, stride=None, padding="valid", count_include_pad=False):
        super().__init__(pool_size, stride, padding)
        self.count_include_pad = count_include_pad

    def forward(self, x, training=False):
        self.check_input(x, ndim=4)
        xp = array_module(x)
        _, C, H, W = x.shape
        _, OH, OW = self.output_shape((C, H, W))
        image = batch_last(pad(x, self.window.pads(H, W)))  # (C, HP, WP, N)
        taps = [(rows, cols) for _, rows, cols in self.window.taps(slice(0, OH), slice(0, OW))]
        share = self._share(xp, H, W, OH, OW, x.dtype)
        y = image[:, taps[0][0], taps[0][1]].copy()  # (C, OH, OW, N)
        for rows, cols in taps[1:]:
            y += image[:, rows, cols]
        y *= share
        padded_shape = image.shape

        def backward(dy):
            dy = batch_last(dy) * share
            dimage = xp.zeros(padded_shape, dtype=dy.dtype)
            for rows, cols in taps:
                self.give(dimage[:, rows, cols], dy)
            return self.crop(dimage, H, W)

        return batch_first(y), backward

    def _share(self, xp, H, W, OH, OW, dtype):
        """One pixel's part of its window's mean: a number, or (OH, OW, 1) where windows reach the padding."""
        KH, KW = self.window.kernel_size
        pads = self.window.pads(H, W)
        if self.count_include_pad or pads == ((0, 0), (0, 0)):
            return 1 / (KH * KW)
        real = [
            [min(place * stride + kernel, before + size) - max(place * stride, before) for place in range(places)]
            for places, stride, kernel, (before, _), size in zip(
                (OH, OW), self.window.stride, (KH, KW), pads, (H, W), strict=True
            )
        ]
        return xp.asarray([[[1 / (h * w)] for w in real[1]] for h in real[0]], dtype=dtype)


class GlobalAvgPool2D(Layer):
    """The mean of each channel over the whole image: (N, C, H, W) to (N, C).

        y[n, c] = (sum over h, w of x[n, c, h, w]) / (H * W)

    Raises:
        InputError: something that is no batch of images (N, C, H, W).

    >>> import numpy as np
    >>> GlobalAvgPool2D()(np.arange(8.0).reshape(1, 2, 2, 2))
    array([[1.5, 5.5]])

    Source: Lin et al., "Network in network", 2014.
    """

    splits_batch = True

    def output_shape(self, input_shape):
        check_image_shape(self, ("N", *input_shape))
        return (input_shape[0],)

    def forward(self, x, training=False):
        self.check_input(x, ndim=4)
        xp = array_module(x)
        _, _, H, W = x.shape

        def backward(dy):
            dx = (dy.T * (1 / (H * W)))[:, None, None, :]  # (C, 1, 1, N)
            return xp.broadcast_to(dx, (x.shape[1], H, W, x.shape[0])).transpose(3, 0, 1, 2)

        return batch_first(batch_last(x).mean(axis=(1, 2))), backward
