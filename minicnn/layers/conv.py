"""Convolution: first as the sum it is, then as one matrix product.

What the field calls a convolution is a cross-correlation: the kernel is not
turned over. Read `convolution_by_loops` first; `Conv2D` computes the same
numbers some thousand times faster.
"""

import numpy as np

from minicnn import initializers, winograd
from minicnn.backend import array_module, batch_last
from minicnn.checks import whole_number
from minicnn.errors import InputError
from minicnn.im2col import TILE, Window, add_tile_columns, pad, tile_columns, tiles
from minicnn.layers.base import Layer, check_built, check_image_shape
from minicnn.products import stacked_product, summed_product


def convolution_by_loops(x, weight, bias=None, stride=1, padding="valid", dilation=1, groups=1):
    """The convolution as nested loops, one output number at a time: slow, and plain to read.

        y[n, f, oh, ow] = bias[f] + sum over c, kh, kw of
                          weight[f, c, kh, kw] * padded[n, c, oh * stride + kh * dilation, ow * stride + kw * dilation]

    With groups, filter f sees only the channels of its own group.

    Args:
        x: images (N, C, H, W).
        weight: kernels (F, C / groups, KH, KW).
        bias: (F,) or None.
        stride, padding, dilation: as in `Conv2D`.
        groups: into how many independent parts channels and filters are divided.

    Returns:
        (N, F, OH, OW), of the dtype of `x`.

    Raises:
        InputError: kernels of other channels than the images' groups have, a window that does not fit, or options
            of no known form.

    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> convolution_by_loops(x, np.ones((1, 1, 2, 2)))[0, 0]
    array([[ 8., 12.],
           [20., 24.]])
    """
    window = Window(weight.shape[2:], stride, padding, dilation)
    N, C, H, W = x.shape
    F, group_channels, KH, KW = weight.shape
    if groups * group_channels != C or F % groups:
        raise InputError(f"images {x.shape} and kernels {weight.shape} do not fit each other in {groups} groups")
    OH, OW = window.output_shape(H, W)
    (top, _), (left, _) = window.pads(H, W)
    (SH, SW), (DH, DW) = window.stride, window.dilation
    y = np.zeros((N, F, OH, OW), dtype=x.dtype)
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
                                if 0 <= h < H and 0 <= w < W:  # outside lies the padding, which is zero
                                    total = total + weight[f, c, kh, kw] * x[n, first_channel + c, h, w]
                    y[n, f, oh, ow] = total
    return y


class Conv2D(Layer):
    """A layer of filters, each sliding one kernel over the whole image.

        y[n, f, oh, ow] = bias[f] + sum over c, kh, kw of
                          weight[f, c, kh, kw] * padded[n, c, oh * stride + kh * dilation, ow * stride + kw * dilation]

    Input: (N, C, H, W). Output: (N, F, OH, OW) with
    `OH = (top + H + bottom - (dilation * (KH - 1) + 1)) // stride + 1`, and OW likewise.

    As matrices: `Y = W @ columns`, with `W` the kernels as rows (F, C * KH * KW) and `columns` from `im2col`.
    Back: `dW = dY @ columns.T`, `dcolumns = W.T @ dY`, `dx = col2im(dcolumns)`, `dbias = dY` summed over places.

    On the CPU, 3x3 kernels at a stride of 1 from 64 channels or more to 64 filters or more are computed by Winograd's
    trick instead (`minicnn.winograd`): the same numbers in half the time, with a float32 rounding of about 1e-5 of
    the largest instead of 1e-6.

    Args:
        filters: F, the number of kernels and of output channels.
        kernel_size: KH and KW in pixels, an int or a pair.
        stride: pixels from one place of the window to the next, an int or a pair.
        padding: "valid", "same", p, (ph, pw) or ((top, bottom), (left, right)), in pixels of zeros.
        dilation: pixels from one tap of the kernel to the next, an int or a pair.
        groups: into how many independent parts the channels and the filters are divided; with as many
            groups as channels the convolution is depthwise.
        use_bias: whether each filter adds a learned number.
        weight_initializer, bias_initializer: functions of `minicnn.initializers`.

    Attributes:
        weight: Parameter (F, C / groups, KH, KW), once built.
        bias: Parameter (F,), or None without bias.

    Raises:
        InputError: options that fit nothing; on build, channels or filters that the groups do not divide, or
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

    splits_batch = True

    can_skip_input_gradient = True

    def __init__(
        self,
        filters,
        kernel_size,
        stride=1,
        padding="valid",
        dilation=1,
        groups=1,
        use_bias=True,
        weight_initializer=initializers.glorot_uniform,
        bias_initializer=initializers.zeros,
    ):
        self.filters = whole_number(filters, "filters", "Conv2D")
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = whole_number(groups, "groups", "Conv2D")
        self.use_bias = use_bias
        self.weight_initializer = weight_initializer
        self.bias_initializer = bias_initializer
        self.window = Window(kernel_size, stride, padding, dilation)
        if self.filters % self.groups:
            raise InputError(f"Conv2D cannot divide {filters} filters into {groups} groups of the same size")
        self.weight = None
        self.bias = None

    def parameter_shapes(self, input_shape):
        shapes = {"weight": (self.filters, input_shape[0] // self.groups, *self.window.kernel_size)}
        if self.use_bias:
            shapes["bias"] = (self.filters,)
        return shapes

    def output_shape(self, input_shape):
        check_image_shape(self, ("N", *input_shape))
        C, H, W = input_shape
        if C % self.groups:
            raise InputError(f"{self!r} cannot divide {C} channels into {self.groups} groups of the same size")
        try:
            return (self.filters, *self.window.output_shape(H, W))
        except InputError as error:
            raise InputError(f"{self!r} on images of {H} x {W}: {error}") from None

    def forward(self, x, training=False, add_bias=True):  # the activation after it may add it instead
        check_built(self, self.weight)
        self.check_input(x, ndim=4, features=self.weight.value.shape[1] * self.groups)
        _, OH, OW = self.output_shape(x.shape[1:])
        compute = self._by_winograd if winograd.suits(x, self.window, self.weight.value) else self._by_columns
        y, without_bias = compute(x, OH, OW)
        if self.bias is not None and add_bias:
            y_last = batch_last(y)  # (F, OH, OW, N), as it lies in memory
            y_last += self.bias.value[:, None, None, None]

        def backward(dy, input_gradient=True):
            if self.bias is not None:
                self.bias.add_gradient(batch_last(dy).sum(axis=(1, 2, 3)))
            return without_bias(dy, input_gradient)

        return y, backward

    def _by_columns(self, x, OH, OW):
        """The convolution without bias, and its way back, by im2col."""
        xp = array_module(x)
        N, C, H, W = x.shape
        F = self.filters
        weight = self._matrices(self.weight.value)  # (G, 1, F/G, KH*C/G*KW)
        image = self._grouped(pad(x, self.window.pads(H, W)))  # (G, C/G, HP, WP, N)
        places = tiles(x, self.window, F)
        y = xp.empty((F, OH, OW, N), dtype=x.dtype).transpose(3, 0, 1, 2)
        for rows, cols in places:
            columns = tile_columns(image, self.window, rows, cols)  # (G, S, KH*C/G*KW, M), S matrices a group
            stacked_product(weight, columns, out=self._tile(y, rows, cols, columns.shape[1]))
        # small ones are kept for the way back, which takes 0.05 ms less of LeNet-5's 2
        kept = columns if len(places) == 1 and columns.nbytes <= TILE else None

        def backward(dy, input_gradient):
            dweight = None
            dimage = xp.zeros(image.shape, dtype=x.dtype) if input_gradient else None
            for rows, cols in places:
                columns = tile_columns(image, self.window, rows, cols) if kept is None else kept
                dtile = xp.ascontiguousarray(self._tile(dy, rows, cols, columns.shape[1]))  # (G, S, F/G, M)
                # dY @ columns.T, turned over: BLAS needs half the time so
                part = summed_product(columns, dtile)
                dweight = part if dweight is None else dweight + part
                if input_gradient:
                    dcolumns = stacked_product(weight.swapaxes(2, 3), dtile)
                    add_tile_columns(dcolumns, dimage, self.window, rows, cols)
            self.weight.add_gradient(self._kernels(dweight.swapaxes(1, 2)))
            if input_gradient:
                (top, _), (left, _) = self.window.pads(H, W)
                padded = dimage.reshape(C, *image.shape[2:])
                return padded[:, top : top + H, left : left + W].transpose(3, 0, 1, 2)

        return y, backward

    def _by_winograd(self, x, OH, OW):
        """The same for 3x3 kernels and many channels: a step of 64 to 64 takes half the time."""
        weight, pads = self.weight.value, self.window.pads(*x.shape[2:])
        image = winograd.padded(x, pads)

        def backward(dy, input_gradient):
            self.weight.add_gradient(winograd.kernel_gradient(image, dy))
            return winograd.image_gradient(dy, weight, pads) if input_gradient else None

        return winograd.convolve(image, weight, (OH, OW)), backward

    def _grouped(self, x):
        """Images (N, C, H, W) as (G, C/G, H, W, N)."""
        return x.transpose(1, 2, 3, 0).reshape(self.groups, -1, *x.shape[2:], len(x))

    def _tile(self, y, rows, cols, count):
        """A tile of the output as `count` matrices a group: (G, count, F/G, rows*cols*N/count); a view."""
        tile = self._grouped(y)[:, :, rows, cols]
        return tile.reshape(*tile.shape[:2], count, -1).swapaxes(1, 2)

    def _matrices(self, weight):
        """The kernels (F, C/G, KH, KW) as matrices, a kernel in each row: (G, 1, F/G, KH*C/G*KW)."""
        F, C, KH, KW = weight.shape
        return weight.transpose(0, 2, 1, 3).reshape(self.groups, 1, F // self.groups, KH * C * KW)

    def _kernels(self, matrices):
        """Matrices (G, F/G, KH*C/G*KW) as kernels (F, C/G, KH, KW)."""
        F, C, KH, KW = self.weight.value.shape
        return matrices.reshape(F, KH, C, KW).transpose(0, 2, 1, 3)

    def multiply_adds(self, input_shape):
        F, OH, OW = self.output_shape(input_shape)
        KH, KW = self.window.kernel_size
        return F * OH * OW * (input_shape[0] // self.groups) * KH * KW

    def column_bytes(self, input_shape, itemsize):
        _, OH, OW = self.output_shape(input_shape)
        KH, KW = self.window.kernel_size
        return input_shape[0] * KH * KW * OH * OW * itemsize
