"""The tasks about convolution: by loops, the output size, im2col and col2im, the backward pass, pooling."""

import numpy as np

from minicnn.exercises import solutions
from minicnn.exercises.task import Task, layer, values

# Convolution by loops


def _kernels(KH, KW):
    """Images, kernels and biases of a size; no two axes have the same length but those of a square kernel."""

    def make(rng):
        x, weight = rng.normal(size=(2, 3, 6, 5)), rng.normal(size=(4, 3, KH, KW))
        return x, weight, rng.normal(size=4)

    return make


CONVOLUTION = Task(
    "convolution",
    "ex01_convolution",
    solutions.convolution,
    values({"a kernel of 3 x 3": _kernels(3, 3), "a kernel of 2 x 3": _kernels(2, 3)}, names=("y",)),
)


@CONVOLUTION.mistake(
    2,
    "the kernel is flipped. That is the convolution of mathematics; networks compute a correlation",
)
def flipped_kernel(x, weight, bias):
    return solutions.convolution(x, weight[:, :, ::-1, ::-1], bias)


@CONVOLUTION.mistake(2, "the kernel is transposed: weight[f, c, kw, kh] is read for weight[f, c, kh, kw]")
def transposed_kernel(x, weight, bias):
    return solutions.convolution(x, weight.swapaxes(2, 3), bias)


@CONVOLUTION.mistake(2, "the bias is missing: every sum begins with bias[f]")
def no_bias(x, weight, bias):
    return solutions.convolution(x, weight, None)


@CONVOLUTION.mistake(2, "the bias is added for each product, and not once for each sum")
def bias_in_the_sum(x, weight, bias):
    return solutions.convolution(x, weight, bias * weight[0].size)


@CONVOLUTION.mistake(2, "an overwrite instead of an add: only the last product of the sum is left. Add with +=")
def overwritten_sum(x, weight, bias):
    last = np.zeros_like(weight)
    last[:, -1, -1, -1] = weight[:, -1, -1, -1]
    return solutions.convolution(x, last, None)


@CONVOLUTION.mistake(2, "an overwrite instead of an add: only the bias and the last product are left. Add with +=")
def overwritten_but_bias(x, weight, bias):
    return overwritten_sum(x, weight, bias) + bias[:, None, None]


@CONVOLUTION.mistake(
    2, "an overwrite instead of an add: the sum over the channels is missing, only the last one is left"
)
def last_channel(x, weight, bias):
    return solutions.convolution(x[:, -1:], weight[:, -1:], bias)


@CONVOLUTION.mistake(1, "the last row of positions is missing: there are H - KH + 1 of them, and W - KW + 1 in a row")
def no_first_row(x, weight, bias):
    return solutions.convolution(x, weight, bias)[:, :, :-1]


@CONVOLUTION.mistake(
    1, "the last row and column of positions are missing: there are H - KH + 1 rows and W - KW + 1 columns"
)
def no_first_row_and_column(x, weight, bias):
    return solutions.convolution(x, weight, bias)[:, :, :-1, :-1]


@CONVOLUTION.mistake(1, "y is an array of integers, which cuts off the decimals: np.zeros(shape) makes one of float64")
def integers(x, weight, bias):
    return solutions.convolution(x, weight, bias).astype(int)


@CONVOLUTION.mistake(
    2, "all channels are multiplied with the kernel of channel 0: each channel has its own, weight[f, c]"
)
def kernel_of_the_first_channel(x, weight, bias):
    return solutions.convolution(x, np.broadcast_to(weight[:, :1], weight.shape), bias)


@CONVOLUTION.mistake(1, "rows and columns of the output are exchanged: y[n, f, oh, ow], with OH from H and OW from W")
def transposed_output(x, weight, bias):
    return solutions.convolution(x, weight, bias).swapaxes(2, 3)


# Output size


def _sizes(*arguments):
    return lambda rng: arguments


OUTPUT_SIZE = Task(
    "output_size",
    "ex02_output_size",
    solutions.output_size,
    values(
        {
            "size {}, kernel {}, stride {}, padding {}".format(*numbers): _sizes(*numbers)
            for numbers in [(7, 3, 1, 0), (28, 5, 1, 2), (8, 3, 2, 0), (9, 2, 3, 1), (28, 2, 2, 0), (11, 4, 3, 2)]
        },
        names=("the output size",),
    ),
)


@OUTPUT_SIZE.mistake(2, "the + 1 is missing: a window has a first position before it makes any step")
def no_first_position(size, kernel, stride=1, padding=0):
    return (size + 2 * padding - kernel) // stride


@OUTPUT_SIZE.mistake(1, "the padding is on both sides: 2 * padding")
def padding_once(size, kernel, stride=1, padding=0):
    return (size + padding - kernel) // stride + 1


@OUTPUT_SIZE.mistake(1, "the padding is missing")
def no_padding(size, kernel, stride=1, padding=0):
    return (size - kernel) // stride + 1


@OUTPUT_SIZE.mistake(2, "the division must be rounded down: // and not /. A last step that does not fit is not made")
def not_rounded(size, kernel, stride=1, padding=0):
    return (size + 2 * padding - kernel) / stride + 1


@OUTPUT_SIZE.mistake(2, "the division is rounded up. A last step that does not fit is not made: round down with //")
def rounded_up(size, kernel, stride=1, padding=0):
    return -(-(size + 2 * padding - kernel) // stride) + 1


@OUTPUT_SIZE.mistake(2, "the + 1 is inside of the division: divide first, then add 1")
def one_inside(size, kernel, stride=1, padding=0):
    return (size + 2 * padding - kernel + 1) // stride


@OUTPUT_SIZE.mistake(2, "the stride is missing")
def no_stride(size, kernel, stride=1, padding=0):
    return size + 2 * padding - kernel + 1


# im2col


def _images(*arguments):
    """Images and the arguments of a window."""
    return lambda rng: (rng.normal(size=(2, 3, 6, 5)), *arguments)


def _pad(x, padding):
    return np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))


def _windows(x, kernel_size, stride, padding):
    """The pixels of the windows with all axes apart: (N, C, OH, OW, KH, KW)."""
    view = np.lib.stride_tricks.sliding_window_view(_pad(x, padding), kernel_size, (2, 3))
    return view[:, :, ::stride, ::stride]


IM2COL = Task(
    "im2col",
    "ex03_im2col",
    solutions.im2col,
    values(
        {
            "": _images((3, 3)),
            "stride 2": _images((2, 3), 2),
            "padding 2": _images((2, 3), 1, 2),
            "stride 2 and padding 1": _images((3, 2), 2, 1),
        },
        names=("columns",),
    ),
)


@IM2COL.mistake(
    2, "the columns are in the order (n, oh, ow), and must be in the order (oh, ow, n), where n changes fastest"
)
def batch_first(x, kernel_size, stride=1, padding=0):
    windows = _windows(x, kernel_size, stride, padding)
    return windows.transpose(1, 4, 5, 0, 2, 3).reshape(x.shape[1] * windows[0, 0, 0, 0].size, -1)


@IM2COL.mistake(
    2, "the axes are mixed: an array that begins with n is reshaped. First transpose to (c, kh, kw, oh, ow, n)"
)
def reshaped_from_batch(x, kernel_size, stride=1, padding=0):
    windows = _windows(x, kernel_size, stride, padding)
    return windows.transpose(0, 1, 4, 5, 2, 3).reshape(x.shape[1] * windows[0, 0, 0, 0].size, -1)


@IM2COL.mistake(2, "the kernel is transposed: the rows are in the order (c, kw, kh), and must be (c, kh, kw)")
def transposed_taps(x, kernel_size, stride=1, padding=0):
    windows = _windows(x, kernel_size, stride, padding)
    return windows.transpose(1, 5, 4, 2, 3, 0).reshape(x.shape[1] * windows[0, 0, 0, 0].size, -1)


@IM2COL.mistake(2, "the rows are in the order (kh, kw, c), and must be in the order (c, kh, kw)")
def channels_last(x, kernel_size, stride=1, padding=0):
    windows = _windows(x, kernel_size, stride, padding)
    return windows.transpose(4, 5, 1, 2, 3, 0).reshape(x.shape[1] * windows[0, 0, 0, 0].size, -1)


@IM2COL.mistake(2, "the matrix is transposed: a window is a column, not a row")
def windows_as_rows(x, kernel_size, stride=1, padding=0):
    return solutions.im2col(x, kernel_size, stride, padding).T


@IM2COL.mistake(2, "the stride is missing: the window moves one pixel at a time. Its first pixel is oh * stride")
def small_steps(x, kernel_size, stride=1, padding=0):
    OH, OW = (solutions.output_size(*sizes, stride, padding) for sizes in zip(x.shape[2:], kernel_size, strict=True))
    windows = _windows(x, kernel_size, 1, padding)[:, :, :OH, :OW]
    return windows.transpose(1, 4, 5, 2, 3, 0).reshape(-1, OH * OW * len(x))


@IM2COL.mistake(1, "all of the padding is below and to the right: it must be on both sides")
def padding_on_one_side(x, kernel_size, stride=1, padding=0):
    return solutions.im2col(x, kernel_size, stride, ((0, 2 * padding), (0, 2 * padding)))


@IM2COL.mistake(1, "the padding is missing")
def not_padded(x, kernel_size, stride=1, padding=0):
    return solutions.im2col(x, kernel_size, stride)


# col2im


def _columns(kernel_size, stride, padding):
    def make(rng):
        N, C, H, W = 2, 3, 6, 5
        OH, OW = (solutions.output_size(*sizes, stride, padding) for sizes in zip((H, W), kernel_size, strict=True))
        columns = rng.normal(size=(C * kernel_size[0] * kernel_size[1], OH * OW * N))
        return columns, (N, C, H, W), kernel_size, stride, padding

    return make


COL2IM = Task(
    "col2im",
    "ex04_col2im",
    solutions.col2im,
    values(
        {
            "": _columns((3, 3), 1, 0),
            "stride 2": _columns((3, 2), 2, 0),
            "padding 1": _columns((2, 3), 1, 1),
            "stride 2 and padding 2": _columns((3, 2), 2, 2),
        },
        names=("the image",),
    ),
)


def _scatter(columns, input_shape, kernel_size, stride, padding, add=True):
    """col2im without the last step: the image with its border."""
    N, C, H, W = input_shape
    OH, OW = (solutions.output_size(*sizes, stride, padding) for sizes in zip((H, W), kernel_size, strict=True))
    columns = columns.reshape(C, *kernel_size, OH, OW, N)
    image = np.zeros((N, C, H + 2 * padding, W + 2 * padding))
    for kh in range(kernel_size[0]):
        for kw in range(kernel_size[1]):
            taps = np.s_[:, :, kh : kh + stride * OH : stride, kw : kw + stride * OW : stride]
            values_ = columns[:, kh, kw].transpose(3, 0, 1, 2)
            image[taps] = image[taps] * add + values_
    return image


@COL2IM.mistake(
    2,
    "an overwrite instead of an add: a pixel lies in many windows, and the last one overwrites the others. Add with +=",
)
def overwritten_pixels(columns, input_shape, kernel_size, stride=1, padding=0):
    image = _scatter(columns, input_shape, kernel_size, stride, padding, add=False)
    return image[:, :, padding : padding + input_shape[2], padding : padding + input_shape[3]]


@COL2IM.mistake(
    2,
    "a factor: the sum is divided by the number of windows of the pixel. That would be the inverse of im2col; "
    "col2im is its backward pass, and the gradient of a copy is a sum",
)
def divided_by_the_count(columns, input_shape, kernel_size, stride=1, padding=0):
    count = solutions.col2im(np.ones_like(columns), input_shape, kernel_size, stride, padding)
    return solutions.col2im(columns, input_shape, kernel_size, stride, padding) / np.maximum(count, 1)


@COL2IM.mistake(2, "the kernel is transposed: the rows are in the order (c, kh, kw)")
def transposed_rows(columns, input_shape, kernel_size, stride=1, padding=0):
    rows = columns.reshape(input_shape[1], *kernel_size[::-1], -1).swapaxes(1, 2)
    return solutions.col2im(rows.reshape(columns.shape), input_shape, kernel_size, stride, padding)


@COL2IM.mistake(2, "the columns are read in the order (n, oh, ow), and are in the order (oh, ow, n)")
def batch_first_columns(columns, input_shape, kernel_size, stride=1, padding=0):
    moved = np.moveaxis(columns.reshape(len(columns), input_shape[0], -1), 1, 2)
    return solutions.col2im(moved.reshape(columns.shape), input_shape, kernel_size, stride, padding)


@COL2IM.mistake(
    2, "the axes are mixed: columns has the axes (c, kh, kw, oh, ow, n), and it is read as (n, c, kh, kw, oh, ow)"
)
def read_from_batch(columns, input_shape, kernel_size, stride=1, padding=0):
    N, C, *_ = input_shape
    moved = np.moveaxis(columns.reshape(N, C * kernel_size[0] * kernel_size[1], -1), 0, 2)
    return solutions.col2im(moved.reshape(columns.shape), input_shape, kernel_size, stride, padding)


@COL2IM.mistake(3, "with padding 0, the slice padding:-padding is 0:0 and empty: cut with padding : padding + H")
def cut_with_minus(columns, input_shape, kernel_size, stride=1, padding=0):
    image = _scatter(columns, input_shape, kernel_size, stride, padding)
    return image[:, :, padding:-padding, padding:-padding]


@COL2IM.mistake(3, "the border is still there: the gradient of the padding is cut off at the end")
def with_border(columns, input_shape, kernel_size, stride=1, padding=0):
    return _scatter(columns, input_shape, kernel_size, stride, padding)


@COL2IM.mistake(3, "the border is cut off below and to the right alone: cut off `padding` pixels on each side")
def cut_on_one_side(columns, input_shape, kernel_size, stride=1, padding=0):
    return _scatter(columns, input_shape, kernel_size, stride, padding)[:, :, : input_shape[2], : input_shape[3]]


# The backward pass of a convolution


def random_convolution(kernel_size, *arguments):
    def make(rng):
        weight = rng.normal(size=(4, 3, *kernel_size))
        return rng.normal(size=(2, 3, 6, 5)), weight, rng.normal(size=4), *arguments

    return make


CONVOLUTION_LAYER = Task(
    "convolution_layer",
    "ex05_convolution_backward",
    solutions.convolution_layer,
    layer(
        {
            "": random_convolution((3, 3)),
            "stride 2": random_convolution((2, 3), 2),
            "padding 2": random_convolution((2, 3), 1, 2),
            "stride 2 and padding 1": random_convolution((3, 2), 2, 1),
        },
        gradients=("dx", "dweight", "dbias"),
    ),
)


def _with_gradients(function, change):
    """The layer with another backward pass: `change(dy, dx, and the other gradients)` returns the gradients."""

    def changed(*arguments):
        y, backward = function(*arguments)

        def changed_backward(dy):
            gradients = backward(dy)
            return change(dy, *(gradients if isinstance(gradients, tuple) else (gradients,)))

        return y, changed_backward

    return changed


CONVOLUTION_LAYER.mistake(3, "the sum over the batch is missing: dbias has a number for each image")(
    _with_gradients(solutions.convolution_layer, lambda dy, dx, dweight, dbias: (dx, dweight, dy.sum(axis=(2, 3))))
)
CONVOLUTION_LAYER.mistake(3, "the sum over the positions is missing: dbias has a number for each pixel of the output")(
    _with_gradients(solutions.convolution_layer, lambda dy, dx, dweight, dbias: (dx, dweight, dy.sum(axis=0)))
)
CONVOLUTION_LAYER.mistake(
    3, "it is one number, the sum of everything: each filter has a sum of its own, over axes 0, 2, 3"
)(_with_gradients(solutions.convolution_layer, lambda dy, dx, dweight, dbias: (dx, dweight, dy.sum())))
CONVOLUTION_LAYER.mistake(3, "a factor: it is the mean over the batch. The loss has divided by N already: sum here")(
    _with_gradients(solutions.convolution_layer, lambda dy, dx, dweight, dbias: (dx, dweight, dbias / len(dx)))
)
CONVOLUTION_LAYER.mistake(3, "a factor: it is the mean over batch and positions, and must be the sum")(
    _with_gradients(solutions.convolution_layer, lambda dy, dx, dweight, dbias: (dx, dweight, dy.mean(axis=(0, 2, 3))))
)
CONVOLUTION_LAYER.mistake(2, "a factor: it is the mean over the batch. The loss has divided by N already: sum here")(
    _with_gradients(solutions.convolution_layer, lambda dy, dx, dweight, dbias: (dx, dweight / len(dx), dbias))
)


@CONVOLUTION_LAYER.mistake(2, "the sum over the batch is missing: only the last image of the batch is in it")
def last_image(x, weight, bias, stride=1, padding=0):
    y, backward = solutions.convolution_layer(x, weight, bias, stride, padding)
    _, of_last = solutions.convolution_layer(x[-1:], weight, bias, stride, padding)
    return y, lambda dy: (backward(dy)[0], of_last(dy[-1:])[1], backward(dy)[2])


@CONVOLUTION_LAYER.mistake(
    1, "the axes are mixed: the product has the axes (F, OH * OW * N). First reshape to (F, OH, OW, N), then transpose"
)
def reshaped_output(x, weight, bias, stride=1, padding=0):
    y, backward = solutions.convolution_layer(x, weight, bias, stride, padding)
    return y.transpose(1, 2, 3, 0).reshape(y.shape), backward


def _reshaped_dy(x, weight, bias, stride, padding):
    """dy (N, F, OH, OW) reshaped to (F, OH * OW * N) without a transpose, and then as images again."""
    y, backward = solutions.convolution_layer(x, weight, bias, stride, padding)
    N, F, OH, OW = y.shape
    return y, backward, lambda dy: backward(dy.reshape(F, OH, OW, N).transpose(3, 0, 1, 2))


@CONVOLUTION_LAYER.mistake(
    4, "the axes of dy are mixed: dy is (N, F, OH, OW). First transpose to (F, OH, OW, N), then reshape to (F, -1)"
)
def reshaped_dy(x, weight, bias, stride=1, padding=0):
    y, backward, mixed = _reshaped_dy(x, weight, bias, stride, padding)
    return y, lambda dy: (*mixed(dy)[:2], backward(dy)[2])


@CONVOLUTION_LAYER.mistake(
    4,
    "the kernel is flipped. dx is a convolution with the flipped kernel if it slides over dy; col2im does that already",
)
def flipped_in_backward(x, weight, bias, stride=1, padding=0):
    y, backward = solutions.convolution_layer(x, weight, bias, stride, padding)
    _, flipped = solutions.convolution_layer(x, weight[:, :, ::-1, ::-1], bias, stride, padding)
    return y, lambda dy: (flipped(dy)[0], *backward(dy)[1:])


@CONVOLUTION_LAYER.mistake(4, "the kernel is transposed: kh and kw are exchanged")
def transposed_in_backward(x, weight, bias, stride=1, padding=0):
    y, backward = solutions.convolution_layer(x, weight, bias, stride, padding)
    _, transposed = solutions.convolution_layer(x, weight.swapaxes(2, 3), bias, stride, padding)
    return y, lambda dy: (transposed(dy)[0], *backward(dy)[1:])


@CONVOLUTION_LAYER.mistake(
    4, "an overwrite instead of an add: a pixel receives a gradient from every window in which it lies. Add with +="
)
def overwritten_gradient(x, weight, bias, stride=1, padding=0):
    y, backward = solutions.convolution_layer(x, weight, bias, stride, padding)

    def changed(dy):
        dcolumns = weight.reshape(len(weight), -1).T @ dy.transpose(1, 2, 3, 0).reshape(len(weight), -1)
        return overwritten_pixels(dcolumns, x.shape, weight.shape[2:], stride, padding), *backward(dy)[1:]

    return y, changed


@CONVOLUTION_LAYER.mistake(1, "the bias is missing")
def layer_without_bias(x, weight, bias, stride=1, padding=0):
    return solutions.convolution_layer(x, weight, 0 * bias, stride, padding)


# Pooling


def _equal_pixels(rng):
    """Images in which most windows have several equal largest pixels, as after a ReLU."""
    return np.maximum(rng.normal(size=(2, 3, 5, 7)) - 1, 0), (2, 3), 1


_POOLING = {
    "": lambda rng: (rng.normal(size=(2, 3, 5, 9)), (2, 3), 3),
    "overlapping windows": lambda rng: (rng.normal(size=(2, 3, 5, 7)), (2, 3), 1),
}

MAX_POOL = Task("max_pool", "ex06_pooling", solutions.max_pool, layer(_POOLING | {"equal pixels": _equal_pixels}))
AVERAGE_POOL = Task("average_pool", "ex06_pooling", solutions.average_pool, layer(_POOLING))


def _pooled(x, size, stride, weights, overwrite=False):
    """A backward pass: each pixel of a window receives dy times its weight; `weights` is (N, C, OH, OW, KH, KW)."""

    def backward(dy):
        dx = np.zeros_like(x)
        _, _, OH, OW = dy.shape
        for oh in range(OH):
            for ow in range(OW):
                window = np.s_[:, :, oh * stride : oh * stride + size[0], ow * stride : ow * stride + size[1]]
                gradient = weights[:, :, oh, ow] * dy[:, :, oh, ow, None, None]
                dx[window] = gradient if overwrite else dx[window] + gradient
        return dx

    return backward


@MAX_POOL.mistake(1, "it is the mean of each window, and must be the largest pixel")
def mean_for_max(x, size, stride):
    return solutions.average_pool(x, size, stride)


@MAX_POOL.mistake(2, "every pixel of the window receives the gradient: only the largest one has changed the output")
def gradient_for_all(x, size, stride):
    y, _ = solutions.max_pool(x, size, stride)
    return y, _pooled(x, size, stride, np.ones((*y.shape, *size)))


@MAX_POOL.mistake(
    2, "dy is divided among all pixels of the window, as in average pooling: the largest one receives all"
)
def gradient_of_the_mean(x, size, stride):
    y, _ = solutions.max_pool(x, size, stride)
    return y, _pooled(x, size, stride, np.ones((*y.shape, *size)) / (size[0] * size[1]))


def _is_largest(x, size, stride):
    windows = _windows(x, size, stride, 0)
    return windows == windows.max(axis=(4, 5), keepdims=True)


@MAX_POOL.mistake(
    3, "every one of several equally large pixels receives the gradient: only the first one may, use argmax"
)
def gradient_for_ties(x, size, stride):
    y, _ = solutions.max_pool(x, size, stride)
    return y, _pooled(x, size, stride, _is_largest(x, size, stride))


@MAX_POOL.mistake(3, "several equally large pixels share the gradient: the first one receives all of it, use argmax")
def gradient_shared_by_ties(x, size, stride):
    y, _ = solutions.max_pool(x, size, stride)
    largest = _is_largest(x, size, stride)
    return y, _pooled(x, size, stride, largest / largest.sum(axis=(4, 5), keepdims=True))


@MAX_POOL.mistake(
    3, "the last of several equally large pixels receives the gradient, and it must be the first: > and not >="
)
def gradient_for_the_last(x, size, stride):
    y, _ = solutions.max_pool(x, size, stride)
    _, backward = solutions.max_pool(x[:, :, ::-1, ::-1], size, stride)
    return y, lambda dy: backward(dy[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]


def _first_of(largest):
    """The mask with the first True of each window alone."""
    flat = largest.reshape(*largest.shape[:4], -1)
    first = np.zeros_like(flat)
    np.put_along_axis(first, flat.argmax(axis=-1)[..., None], True, axis=-1)
    return first.reshape(largest.shape)


@MAX_POOL.mistake(
    2, "an overwrite instead of an add: where windows overlap, a pixel may be the largest of several. Add with +="
)
def overwritten_largest_pixel(x, size, stride):
    y, _ = solutions.max_pool(x, size, stride)
    first = _first_of(_is_largest(x, size, stride))

    def backward(dy):
        dx = np.zeros_like(x)
        for n, c, oh, ow, kh, kw in np.argwhere(first):
            dx[n, c, oh * stride + kh, ow * stride + kw] = dy[n, c, oh, ow]
        return dx

    return y, backward


@MAX_POOL.mistake(
    2, "an overwrite instead of an add: where windows overlap, a pixel may be the largest of several. Add with +="
)
def overwritten_maximum(x, size, stride):
    y, _ = solutions.max_pool(x, size, stride)
    return y, _pooled(x, size, stride, _first_of(_is_largest(x, size, stride)), overwrite=True)


@MAX_POOL.mistake(
    2, "the mask is taken from the wrong tensor: a pixel must be the largest of its window, not of the complete image"
)
def largest_of_the_image(x, size, stride):
    y, _ = solutions.max_pool(x, size, stride)
    mask = _windows(x == x.max(axis=(2, 3), keepdims=True), size, stride, 0)
    return y, _pooled(x, size, stride, mask)


@MAX_POOL.mistake(2, "the gradient goes to the first pixel of each window, and must go to the largest one")
def gradient_for_the_first(x, size, stride):
    y, _ = solutions.max_pool(x, size, stride)
    first = np.zeros((*y.shape, *size))
    first[..., 0, 0] = 1
    return y, _pooled(x, size, stride, first)


@AVERAGE_POOL.mistake(1, "a factor: the sum of the window is not divided by KH * KW")
def sum_for_mean(x, size, stride):
    y, backward = solutions.average_pool(x, size, stride)
    return y * size[0] * size[1], lambda dy: backward(dy) * size[0] * size[1]


@AVERAGE_POOL.mistake(2, "a factor: dy is not divided by KH * KW. Each pixel is only a part of the mean")
def undivided_gradient(x, size, stride):
    y, backward = solutions.average_pool(x, size, stride)
    return y, lambda dy: backward(dy) * size[0] * size[1]


@AVERAGE_POOL.mistake(1, "a factor: the sum is divided by KW alone, and the window has KH * KW pixels")
def divided_by_one_side(x, size, stride):
    y, backward = solutions.average_pool(x, size, stride)
    return y * size[0], lambda dy: backward(dy) * size[0]


@AVERAGE_POOL.mistake(
    2, "an overwrite instead of an add: where windows overlap, a pixel belongs to several. Add with +="
)
def overwritten_mean(x, size, stride):
    y, _ = solutions.average_pool(x, size, stride)
    return y, _pooled(x, size, stride, np.full((*y.shape, *size), 1 / (size[0] * size[1])), overwrite=True)


@AVERAGE_POOL.mistake(1, "it is the largest pixel of each window, and must be the mean")
def max_for_mean(x, size, stride):
    return solutions.max_pool(x, size, stride)
