"""Upsampling: layers that make images larger, for networks whose output is an image. And a border of zeros.

The first two are a known layer backwards. `UpSampling2D` copies each pixel into a
square, and its backward pass adds the square up. `Conv2DTranspose` computes
what the backward pass of a `Conv2D` computes, and its backward pass is that
convolution.
"""

import numpy as np

from minicnn.core import initializers, operations
from minicnn.core.checks import check_flag, check_integer, quoted
from minicnn.core.errors import InputError
from minicnn.core.im2col import pad
from minicnn.core.layer import Layer
from minicnn.core.messages import check_image_shape
from minicnn.core.parameter import Parameter
from minicnn.core.types import Array, Backward, DType, Initializer, Pads, Pair, Shape
from minicnn.core.window import Window, pair


class UpSampling2D(Layer):
    """Each pixel becomes a rectangle of equal pixels (the nearest pixel's value).

        y[n, c, h * SH + i, w * SW + j] = x[n, c, h, w]    for i < SH and j < SW

    Backward: `dx[n, c, h, w] = sum over i, j of dy[n, c, h * SH + i, w * SW + j]`.

    Input: (N, C, H, W). Output: (N, C, H * SH, W * SW).

    Args:
        size: SH and SW, an int or a pair.

    Raises:
        InputError: not a batch of images (N, C, H, W); a size that is not an integer or is too small.

    >>> import numpy as np
    >>> UpSampling2D(2)(np.array([[[[1.0, 2.0]]]]))[0, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.]])

    Source: Odena, Dumoulin & Olah, "Deconvolution and checkerboard artifacts", 2016, who follow it with a convolution.
    """

    independent_samples = True

    def __init__(self, size: Pair = 2):
        self.size = size
        self.window = Window(pair(size, "size", minimum=1), size)  # windows side by side: the pixels of a rectangle

    def output_shape(self, input_shape: Shape) -> Shape:
        check_image_shape(self, ("N", *input_shape))
        C, H, W = input_shape
        SH, SW = self.window.stride
        return C, H * SH, W * SW

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_input(x, ndim=4)
        _, _, H, W = shape = x.shape
        y = np.empty_like(x, shape=(len(x), *self.output_shape(shape[1:])))
        for _, _, rows, cols in self.window.taps(H, W):
            y[:, :, rows, cols] = x

        def backward(dy):
            dx = np.zeros_like(dy, shape=shape)
            for _, _, rows, cols in self.window.taps(H, W):
                dx += dy[:, :, rows, cols]
            return dx

        return y, backward


class ZeroPad2D(Layer):
    """A border of zeros around each image: `y[n, c, h + top, w + left] = x[n, c, h, w]`, and 0 elsewhere.

    Backward: `dx[n, c, h, w] = dy[n, c, h + top, w + left]`. A convolution has a padding of its own; this is for
    where nothing else does the work, such as before a pooling whose padding should count as zeros.

    Input: (N, C, H, W). Output: (N, C, top + H + bottom, left + W + right).

    Args:
        padding: pixels: p, (ph, pw) or ((top, bottom), (left, right)).

    Raises:
        InputError: not a batch of images (N, C, H, W); a padding of another form.

    >>> import numpy as np
    >>> ZeroPad2D(((1, 0), (0, 2)))(np.ones((1, 1, 1, 1)))[0, 0]
    array([[0., 0., 0.],
           [1., 0., 0.]])

    Source: the arithmetic of padding: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", 2016.
    """

    independent_samples = True

    def __init__(self, padding: Pads = 1):
        if isinstance(padding, str):
            raise InputError(f"ZeroPad2D needs pixels as padding, got {quoted(padding)}")
        self.padding = padding
        self.window = Window(1, padding=padding)  # which validates the padding; a window of one pixel sees all of it

    @property
    def pads(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, bottom), (left, right)) in pixels."""
        return self.window.padding

    def output_shape(self, input_shape: Shape) -> Shape:
        check_image_shape(self, ("N", *input_shape))
        return (input_shape[0], *self.window.output_shape(*input_shape[1:]))

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_input(x, ndim=4)
        (top, _), (left, _) = self.pads
        _, _, H, W = x.shape

        def backward(dy):
            return dy[:, :, top : top + H, left : left + W]

        return pad(x, self.pads), backward


class Conv2DTranspose(Layer):
    """The adjoint of `Conv2D`: the backward pass of a convolution, used forward. Each input pixel adds a kernel.

        y[n, f, h * stride + kh * dilation - top, w * stride + kw * dilation - left]
            += sum over c of weight[c, f, kh, kw] * x[n, c, h, w],    from bias[f]

    A `Conv2D` with this window and these kernels takes images of this layer's output shape to images of its input
    shape. With its columns: `y = col2im(weight.T @ x) + bias`. Backward: `dx` is that convolution of dy; `dweight` is
    the convolution's gradient of the kernels, for the images dy and the output's gradient x; `dbias = dy` summed over
    all but the filters. It is not the inverse of a convolution, although it is called a deconvolution, too.

    Input: (N, C, H, W). Output: (N, F, OH, OW), with pixels or "valid" as padding
    `OH = (H - 1) * stride + dilation * (KH - 1) + 1 - top - bottom + output_padding`, with "same" `OH = H * stride`;
    OW likewise.

    Args:
        filters: F, the number of output channels.
        kernel_size, stride, dilation: of the convolution, as in `Conv2D`.
        padding: of the convolution, as in `Conv2D`: so many pixels are cut off the output.
        output_padding: pixels to add to the height and width at the bottom and the right, an int or a pair, less than
            the stride. A convolution of stride 2 takes images of 7 and of 8 pixels to the same size; this chooses.
        groups: as in `Conv2D`.
        use_bias: whether a learned number is added to each output channel.
        weight_initializer, bias_initializer: functions of `minicnn.initializers`.

    Attributes:
        weight: Parameter (C, F / groups, KH, KW), once built, as in PyTorch: the kernels of the convolution.
            An initializer computes its fans from this shape, as in PyTorch and Keras.
        bias: Parameter (F,), or None without bias.

    Raises:
        InputError: not a batch of images (N, C, H, W), or not of the channels the layer was built for; channels or
            filters that `groups` does not divide; padding that leaves nothing of the output; an output_padding that is
            not less than the stride, or given beside "same".

    >>> import numpy as np
    >>> layer = Conv2DTranspose(1, 2, stride=2, weight_initializer=initializers.ones)
    >>> layer.build((1, 1, 2))
    (1, 2, 4)
    >>> layer(np.array([[[[1, 2]]]], "float32"))[0, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.]], dtype=float32)

    Source: Zeiler et al., "Deconvolutional networks", 2010; its arithmetic: Dumoulin & Visin, "A guide to convolution
    arithmetic for deep learning", 2016.
    """

    weight: Parameter
    bias: Parameter | None

    independent_samples = True

    def __init__(
        self,
        filters: int,
        kernel_size: Pair,
        *,
        stride: Pair = 1,
        padding: Pads = "valid",
        output_padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        use_bias: bool = True,
        weight_initializer: Initializer = initializers.glorot_uniform,
        bias_initializer: Initializer = initializers.zeros,
    ):
        self.filters = check_integer(filters, "filters", "Conv2DTranspose")
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.output_padding = output_padding
        self.dilation = dilation
        self.groups = check_integer(groups, "groups", "Conv2DTranspose")
        self.use_bias = check_flag(use_bias, "use_bias", "Conv2DTranspose")
        self.weight_initializer = weight_initializer
        self.bias_initializer = bias_initializer
        self.window = Window(kernel_size, stride, padding, dilation, owner=repr(self))
        added = pair(output_padding, "output_padding", minimum=0)
        if any(a >= s for a, s in zip(added, self.window.stride, strict=True)):
            raise InputError(f"{self!r} needs an output_padding less than its stride {self.window.stride}")
        if padding == "same" and added != (0, 0):
            raise InputError(f"{self!r} cannot have an output_padding: with padding 'same' the size is fixed")
        self.weight = None
        self.bias = None

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        shapes = {"weight": (input_shape[0], self.filters // self.groups, *self.window.kernel_size)}
        if self.use_bias:
            shapes["bias"] = (self.filters,)
        return shapes

    def initial_value(self, name: str, shape: Shape, rng: np.random.Generator, dtype: DType) -> Array:
        if name != "weight":
            return super().initial_value(name, shape, rng, dtype)
        return initializers.by_groups(self.weight_initializer, self.groups, shape, rng, dtype)

    def output_shape(self, input_shape: Shape) -> Shape:
        check_image_shape(self, ("N", *input_shape))
        C, H, W = input_shape
        if C % self.groups or self.filters % self.groups:
            raise InputError(
                f"{self!r} cannot divide {C} channels and {self.filters} filters into {self.groups} groups of the same "
                "size"
            )
        SH, SW = self.window.stride
        if self.window.padding == "same":
            return self.filters, H * SH, W * SW
        (top, bottom), (left, right) = self.window.padding
        added = pair(self.output_padding, "output_padding", minimum=0)
        OH = (H - 1) * SH + self.window.extent[0] - top - bottom + added[0]
        OW = (W - 1) * SW + self.window.extent[1] - left - right + added[1]
        if OH < 1 or OW < 1:
            raise InputError(f"{self!r} on images of {H} x {W} cuts off more than its output has: use less padding")
        return self.filters, OH, OW

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_parameter(self.weight, x)
        self.check_input(x, ndim=4, features=self.weight.value.shape[0])
        weight, window, groups = self.weight.value, self.window, self.groups
        image = np.zeros_like(x, shape=(len(x), *self.output_shape(x.shape[1:])))
        _, _, to_input = operations.current.convolve(image, weight, window, groups)  # to_input needs the shape alone
        y = to_input(x)
        if self.bias is not None:
            y, to_bias = operations.current.add_bias(y, self.bias.value)

        def backward(dy):
            dx, to_weight, _ = operations.current.convolve(dy, weight, window, groups)
            if self.weight.trainable:
                self.weight.add_gradient(to_weight(x))
            if self.bias is not None:
                self.bias.add_gradient(to_bias(dy))
            return dx

        return y, backward

    def multiply_adds(self, input_shape: Shape) -> int:
        C, H, W = input_shape
        KH, KW = self.window.kernel_size
        return C * H * W * (self.filters // self.groups) * KH * KW
