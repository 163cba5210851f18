"""Pooling: one number for each window, so that the next layer sees a smaller image.

Max and average pooling slide the same window and differ in what they keep of
it: the largest pixel, which alone receives the gradient, or the mean, whose
gradient is divided equally among the pixels.
"""

from minicnn.core import operations
from minicnn.core.checks import check_flag
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer
from minicnn.core.messages import check_image_shape
from minicnn.core.types import Array, Backward, Pads, Pair, Shape
from minicnn.core.window import Window


class Pooling2D(Layer):
    """What max and average pooling share: the window and its arithmetic."""

    independent_samples = True

    def __init__(self, pool_size: Pair = 2, *, stride: Pair | None = None, padding: Pads = "valid"):
        self.pool_size = pool_size
        self.stride = stride
        self.padding = padding
        self.window = Window(pool_size, pool_size if stride is None else stride, padding, owner=repr(self))
        if self.window.padding != "same":  # which never reaches the window's size
            for name, pads, size in zip(("height", "width"), self.window.padding, self.window.kernel_size, strict=True):
                if max(pads) >= size:
                    raise InputError(
                        f"{self!r} pads {max(pads)} pixels, at least the {name} {size} of its window, which would then "
                        "contain nothing but padding: the padding must be smaller than the window"
                    )

    def output_shape(self, input_shape: Shape) -> Shape:
        check_image_shape(self, ("N", *input_shape))
        return (input_shape[0], *self.window.output_shape(*input_shape[1:]))

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_input(x, ndim=4)
        return self.pool(x)

    def pool(self, x: Array) -> tuple[Array, Backward]:
        """The pooled images, and a function of their gradient to the gradient of x.

        Args:
            x: (N, C, H, W).

        Returns:
            (y, backward): (N, C, OH, OW), and a function of dy to dx.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a pool method")


class MaxPool2D(Pooling2D):
    """The largest pixel of each window.

        y[n, c, oh, ow] = max over kh, kw of padded[n, c, oh * stride + kh, ow * stride + kw]

    The padding is minus infinity, so it is never the largest. The gradient goes to the largest pixel; where several
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

    def pool(self, x: Array) -> tuple[Array, Backward]:
        return operations.current.max_pool(x, self.window)


class AvgPool2D(Pooling2D):
    """The mean of each window.

        y[n, c, oh, ow] = (sum over kh, kw of padded[n, c, oh * stride + kh, ow * stride + kw]) / count

    The padding is zero and, unless `count_include_pad`, is not counted: the mean is that of the real pixels.
    Every pixel receives the same fraction of its window's gradient.

    Input: (N, C, H, W). Output: (N, C, OH, OW) with `OH = (top + H + bottom - KH) // stride + 1`.

    Args:
        pool_size, stride, padding: as for `MaxPool2D`.
        count_include_pad: divide by the size of the window, padding counted.

    Raises:
        InputError: a window that does not fit the padded image; padding that reaches the window's size.

    >>> import numpy as np
    >>> AvgPool2D(2)(np.array([[[[1.0, 2.0], [4.0, 3.0]]]]))[0, 0]
    array([[2.5]])

    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998 (there with a learned
    factor and bias for each channel, left out here as in every later use).
    """

    def __init__(
        self,
        pool_size: Pair = 2,
        *,
        stride: Pair | None = None,
        padding: Pads = "valid",
        count_include_pad: bool = False,
    ):
        self.count_include_pad = check_flag(count_include_pad, "count_include_pad", "AvgPool2D")
        super().__init__(pool_size, stride=stride, padding=padding)

    def pool(self, x: Array) -> tuple[Array, Backward]:
        return operations.current.average_pool(x, self.window, self.count_include_pad)


class GlobalPooling2D(Layer):
    """What the two below share: one window as large as the image."""

    independent_samples = True

    def output_shape(self, input_shape: Shape) -> Shape:
        check_image_shape(self, ("N", *input_shape))
        return (input_shape[0],)

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_input(x, ndim=4)
        y, to_input = self.pool(x, Window(x.shape[2:]))  # (N, C, 1, 1)

        def backward(dy):
            return to_input(dy.reshape(*dy.shape, 1, 1))

        return y.reshape(y.shape[:2]), backward

    def pool(self, x: Array, window: Window) -> tuple[Array, Backward]:
        """The pooled images, and a function of their gradient to the gradient of x.

        Args:
            x: (N, C, H, W).
            window: a `Window` as large as the image.

        Returns:
            (y, backward): (N, C, 1, 1), and a function of dy to dx.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a pool method")


class GlobalAvgPool2D(GlobalPooling2D):
    """The mean of each channel over the image: (N, C, H, W) to (N, C).

        y[n, c] = (sum over h, w of x[n, c, h, w]) / (H * W)

    It is average pooling with one window as large as the image.

    Raises:
        InputError: not a batch of images (N, C, H, W).

    >>> import numpy as np
    >>> GlobalAvgPool2D()(np.arange(8.0).reshape(1, 2, 2, 2))
    array([[1.5, 5.5]])

    Source: Lin et al., "Network in network", 2014.
    """

    def pool(self, x: Array, window: Window) -> tuple[Array, Backward]:
        return operations.current.average_pool(x, window)


class GlobalMaxPool2D(GlobalPooling2D):
    """The largest pixel of each channel: (N, C, H, W) to (N, C).

        y[n, c] = max over h, w of x[n, c, h, w]

    It is max pooling with one window as large as the image: the gradient goes to the largest pixel, and to the first
    of several that are equally large.

    Raises:
        InputError: not a batch of images (N, C, H, W).

    >>> import numpy as np
    >>> GlobalMaxPool2D()(np.arange(8.0).reshape(1, 2, 2, 2))
    array([[3., 7.]])

    Source: Oquab et al., "Is object localization for free?", 2015.
    """

    def pool(self, x: Array, window: Window) -> tuple[Array, Backward]:
        return operations.current.max_pool(x, window)
