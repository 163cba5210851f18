"""Convolution: first as the sum that it is, then as one matrix product.

What the field calls a convolution is a cross-correlation: the kernel is not
flipped. Read `convolution_by_loops` first; `Conv2D` computes the same numbers
some thousand times faster.
"""

import numpy as np

from minicnn.core import initializers, operations
from minicnn.core.checks import check_array, check_flag, check_integer
from minicnn.core.errors import InputError
from minicnn.core.layer import Layer
from minicnn.core.messages import check_image_shape
from minicnn.core.parameter import Parameter
from minicnn.core.types import Array, Backward, DType, Initializer, Pads, Pair, Shape
from minicnn.core.window import Window


def convolution_by_loops(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Pair = 1,
    padding: Pads = "valid",
    dilation: Pair = 1,
    groups: int = 1,
) -> np.ndarray:
    """The convolution as nested loops, one output number at a time: slow, and easy to read.

        y[n, f, oh, ow] = bias[f] + sum over c, kh, kw of
                          weight[f, c, kh, kw] * padded[n, c, oh * stride + kh * dilation, ow * stride + kw * dilation]

    With groups, filter f reads only the channels of its own group.

    Args:
        x: images (N, C, H, W), of any dtype of numbers.
        weight: kernels (F, C / groups, KH, KW), likewise.
        bias: (F,) or None.
        stride, padding, dilation: as in `Conv2D`.
        groups: into how many independent groups channels and filters are divided.

    Returns:
        (N, F, OH, OW), of the dtype of a product of `x` and `weight`, but at least float32: integers would be cut.

    Raises:
        InputError: not arrays of four axes, kernels that have not the channels of a group of the images, a window that
            does not fit, or options of an unknown form.

    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> convolution_by_loops(x, np.ones((1, 1, 2, 2)))[0, 0]
    array([[ 8., 12.],
           [20., 24.]])
    """
    for array in (x, weight):
        check_array(array, "convolution_by_loops")
        if array.ndim != 4:
            raise InputError(f"convolution_by_loops needs arrays of four axes, got shape {array.shape}")
    dtype = np.result_type(x.dtype, weight.dtype, np.float32)
    x, weight = x.astype(dtype), weight.astype(dtype)
    window = Window(weight.shape[2:], stride, padding, dilation)
    N, C, H, W = x.shape
    F, group_channels, KH, KW = weight.shape
    if groups * group_channels != C or F % groups:
        raise InputError(f"images {x.shape} and kernels {weight.shape} do not fit in {groups} groups")
    OH, OW = window.output_shape(H, W)
    (top, _), (left, _) = window.pads(H, W)
    (SH, SW), (DH, DW) = window.stride, window.dilation
    y = np.zeros((N, F, OH, OW), dtype=dtype)
    for n in range(N):
        for f in range(F):
            first_channel = f // (F // groups) * group_channels
            for oh in range(OH):
                for ow in range(OW):
                    total = 0.0 if bias is None else bias[f]
                    for c in range(group_channels):
                        for kh in range(KH):
                            for kw in range(KW):
                                h = oh * SH + kh * DH - top
                                w = ow * SW + kw * DW - left
                                if 0 <= h < H and 0 <= w < W:  # outside is the padding, which is zero
                                    total = total + weight[f, c, kh, kw] * x[n, first_channel + c, h, w]
                    y[n, f, oh, ow] = total
    return y


class Conv2D(Layer):
    """A layer of filters; each slides one kernel over the image.

        y[n, f, oh, ow] = bias[f] + sum over c, kh, kw of
                          weight[f, c, kh, kw] * padded[n, c, oh * stride + kh * dilation, ow * stride + kw * dilation]

    Input: (N, C, H, W). Output: (N, F, OH, OW) with
    `OH = (top + H + bottom - (dilation * (KH - 1) + 1)) // stride + 1`, and OW likewise.

    As matrices, with the kernels as rows (F, C * KH * KW) and `columns = im2col(x)`: `y = weight @ columns + bias`.
    Backward: `dweight = dy @ columns.T`, `dx = col2im(weight.T @ dy)`, `dbias = dy` summed over all but the filters.

    Args:
        filters: F, the number of kernels and of output channels.
        kernel_size: KH and KW in taps, an int or a pair.
        stride: pixels from one position of the window to the next, an int or a pair.
        padding: "valid", "same", p, (ph, pw) or ((top, bottom), (left, right)), in pixels of zeros.
        dilation: pixels from one tap of the kernel to the next, an int or a pair.
        groups: into how many independent groups the channels and the filters are divided; with as many
            groups as channels the convolution is depthwise.
        use_bias: whether a learned number is added to each filter's output.
        weight_initializer, bias_initializer: functions of `minicnn.initializers`. The kernels of each group are drawn
            by a call of their own, because their fans are those of the group.

    Attributes:
        weight: Parameter (F, C / groups, KH, KW), once built.
        bias: Parameter (F,), or None without bias.

    Raises:
        InputError: options that cannot be right; on build, channels or filters that the groups do not divide, or
            a kernel larger than the padded image.

    >>> import numpy as np
    >>> layer = Conv2D(6, 5, padding="same")
    >>> layer.build((1, 28, 28))
    (6, 28, 28)
    >>> y, backward = layer.forward(np.ones((2, 1, 28, 28), "float32"))
    >>> backward(np.ones_like(y)).shape, layer.weight.grad.shape, layer.bias.grad
    ((2, 1, 28, 28), (6, 1, 5, 5), array([1568., 1568., 1568., 1568., 1568., 1568.], dtype=float32))

    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998; the matrix form:
    Chellapilla et al., "High performance convolutional neural networks for document processing", 2006.
    """

    weight: Parameter
    bias: Parameter | None

    needs_input_gradient = False

    independent_samples = True

    def __init__(
        self,
        filters: int,
        kernel_size: Pair,
        *,
        stride: Pair = 1,
        padding: Pads = "valid",
        dilation: Pair = 1,
        groups: int = 1,
        use_bias: bool = True,
        weight_initializer: Initializer = initializers.glorot_uniform,
        bias_initializer: Initializer = initializers.zeros,
    ):
        self.filters = check_integer(filters, "filters", "Conv2D")
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = check_integer(groups, "groups", "Conv2D")
        self.use_bias = check_flag(use_bias, "use_bias", "Conv2D")
        self.weight_initializer = weight_initializer
        self.bias_initializer = bias_initializer
        self.window = Window(kernel_size, stride, padding, dilation, owner=repr(self))
        if self.filters % self.groups:
            raise InputError(f"Conv2D cannot divide {filters} filters into {groups} groups of the same size")
        self.weight = None
        self.bias = None

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        shapes = {"weight": (self.filters, input_shape[0] // self.groups, *self.window.kernel_size)}
        if self.use_bias:
            shapes["bias"] = (self.filters,)
        return shapes

    def initial_value(self, name: str, shape: Shape, rng: np.random.Generator, dtype: DType) -> Array:
        if name != "weight":
            return super().initial_value(name, shape, rng, dtype)
        return initializers.by_groups(self.weight_initializer, self.groups, shape, rng, dtype)

    def output_shape(self, input_shape: Shape) -> Shape:
        check_image_shape(self, ("N", *input_shape))
        if input_shape[0] % self.groups:
            raise InputError(
                f"{self!r} cannot divide {input_shape[0]} channels into {self.groups} groups of the same size"
            )
        return (self.filters, *self.window.output_shape(*input_shape[1:]))

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backward]:
        self.check_parameter(self.weight, x)
        self.check_input(x, ndim=4, features=self.weight.value.shape[1] * self.groups)
        y, to_weight, to_input = operations.current.convolve(x, self.weight.value, self.window, self.groups)
        if self.bias is not None:
            y, to_bias = operations.current.add_bias(y, self.bias.value)

        def backward(dy, input_gradient=True):
            if self.weight.trainable:
                self.weight.add_gradient(to_weight(dy))
            if self.bias is not None:
                self.bias.add_gradient(to_bias(dy))
            return to_input(dy) if input_gradient else None

        return y, backward

    def multiply_adds(self, input_shape: Shape) -> int:
        F, OH, OW = self.output_shape(input_shape)
        KH, KW = self.window.kernel_size
        return F * OH * OW * (input_shape[0] // self.groups) * KH * KW
