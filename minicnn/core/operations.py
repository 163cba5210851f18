"""The seam: every operation that a backend may compute in another way, as its formula says it.

A layer asks for `operations.current.convolve(...)` and does not know who
computes it. Here is the backend `"plain"`: each operation in a few lines of
NumPy. The other backends inherit from it, replace what they can do faster, and
are tested against it. `docs/backends.md` is the page for whoever writes one.

An operation with a gradient returns its output and functions of `dy`, the
gradient of the loss with respect to that output.
"""

import math

import numpy as np

from minicnn.core.im2col import col2im, im2col


class Operations:
    """The backend "plain", and the base of the others."""

    name = "plain"

    #: Whether a computed number can be read without waiting, so that every loss may be checked.
    checks_are_free = True

    # Arrays

    def array(self, x, dtype=None):
        """`x`, an array or a list, as an array of this backend."""
        return np.asarray(x, dtype=dtype)

    def owns(self, x):
        """Whether `x` is an array of this backend."""
        return isinstance(x, np.ndarray)

    def to_numpy(self, x):
        """`x` as a NumPy array in main memory; an array of another backend is copied by its own `get`."""
        return x.get() if hasattr(x, "get") and hasattr(x, "strides") else np.asarray(x)

    def batch(self, x, dtype):
        """A batch as the layers need it: of the model's dtype; uint8 pixels 0..255 are scaled to 0..1."""
        return np.divide(np.asarray(x), 255, dtype=dtype) if x.dtype == np.uint8 else np.asarray(x, dtype)

    def uniform(self, shape, seed):
        """Random float32 numbers from 0 to 1, the same ones for the same shape (N, ...) and seed."""
        N, *sample = shape
        return np.moveaxis(np.random.default_rng(seed).random((*sample, N), dtype=np.float32), -1, 0)

    def keep(self, x):
        """A data set where its batches can be read fastest; here, as it is."""
        return x

    def take(self, x, rows):
        """Some rows of a data set: a slice, or an array of indices."""
        return x[rows]

    def batches(self, x, rows):
        """Yield the batches of a data set, one for each slice or array of indices in `rows`."""
        return (self.take(x, selected) for selected in rows)

    # Layers

    def convolve(self, x, weight, window, groups=1):
        """Images (N, C, H, W) and kernels (F, C/groups, KH, KW) to images (N, F, OH, OW): `y = weight @ im2col(x)`.

        Returns:
            y, and two functions of dy: to the gradient of the kernels, and to the gradient of the images.
        """
        (N, _, H, W), F = x.shape, len(weight)
        kernels = weight.reshape(groups, F // groups, -1)  # (G, F/G, C/G*KH*KW)
        # (G, C/G*KH*KW, OH*OW*N): the channels of a group are consecutive rows
        columns = im2col(x, window).reshape(groups, kernels.shape[2], -1)

        def to_rows(dy):  # (N, F, OH, OW) as (G, F/G, OH*OW*N)
            return dy.transpose(1, 2, 3, 0).reshape(groups, F // groups, -1)

        def to_weight(dy):
            return (to_rows(dy) @ columns.swapaxes(1, 2)).reshape(weight.shape)

        def to_input(dy):
            dcolumns = kernels.swapaxes(1, 2) @ to_rows(dy)
            return col2im(dcolumns.reshape(-1, columns.shape[2]), x.shape, window)

        y = (kernels @ columns).reshape(F, *window.output_shape(H, W), N)
        return y.transpose(3, 0, 1, 2), to_weight, to_input

    def linear(self, x, weight):
        """Vectors (N, D) and a weight (units, D) to vectors (N, units): `y = x @ weight.T`.

        Returns:
            y, and two functions of dy: to the gradient of the weight, and to the gradient of the vectors.
        """

        def to_weight(dy):
            return dy.T @ x

        def to_input(dy):
            return dy @ weight

        return x @ weight.T, to_weight, to_input

    def add_bias(self, y, bias):
        """Add one number for each channel or unit to y (N, F, ...), which may be overwritten.

        Returns:
            y, and a function of dy to the gradient of the bias (F,).
        """

        def to_bias(dy):
            return dy.sum(axis=(0, *range(2, dy.ndim)))  # over all but the channels

        return y + bias.reshape(-1, *(1,) * (y.ndim - 2)), to_bias

    def max_pool(self, x, window):
        """The largest pixel of each window, and a function of dy to the gradient of the images.

        Of equally large pixels the first in row order receives the gradient. The padding is never the largest, and
        a pixel that is NaN always is.
        """
        N, C, H, W = x.shape
        columns = im2col(x, window, fill=-np.inf)
        columns = columns.reshape(C, -1, columns.shape[1])  # (C, KH*KW, OH*OW*N)
        first = im2col(np.ones_like(x[:, :1]), window).argmax(axis=0)  # of each window, the first pixel of the image
        largest = np.maximum(columns.argmax(axis=1), first)[:, None]  # (C, 1, OH*OW*N)
        y = np.take_along_axis(columns, largest, axis=1).reshape(C, *window.output_shape(H, W), N)

        def to_input(dy):
            dcolumns = np.zeros_like(columns)
            np.put_along_axis(dcolumns, largest, dy.transpose(1, 2, 3, 0).reshape(C, 1, -1), axis=1)
            return col2im(dcolumns.reshape(-1, dcolumns.shape[2]), x.shape, window)

        return y.transpose(3, 0, 1, 2), to_input

    def average_pool(self, x, window, count_padding=False):
        """The mean of each window, and a function of dy to the gradient of the images.

        The padding is zero; it counts as pixels only with `count_padding`.
        """
        N, C, H, W = x.shape
        columns = im2col(x, window).reshape(C, math.prod(window.kernel_size), -1)  # (C, KH*KW, OH*OW*N)
        count = im2col(np.ones_like(x[:1, :1]), window, fill=int(count_padding)).sum(axis=0)[:, None]  # (OH*OW, 1)
        y = columns.sum(axis=1).reshape(C, -1, N) / count  # (C, OH*OW, N)

        def to_input(dy):
            dy = dy.transpose(1, 2, 3, 0).reshape(C, -1, N) / count
            dcolumns = np.broadcast_to(dy.reshape(C, 1, -1), columns.shape)
            return col2im(dcolumns.reshape(-1, columns.shape[2]), x.shape, window)

        return y.reshape(C, *window.output_shape(H, W), N).transpose(3, 0, 1, 2), to_input

    def mean(self, x, axes):
        """The mean of a batch over some axes, which are kept with length 1, and the count of the numbers in each.

        Where other processes or other cores have other images of the batch, a mean over axis 0 is that of all of them.
        """
        mean = x.mean(axis=axes, keepdims=True)
        return mean, x.size // mean.size

    def once(self, function):
        """Call a function that changes what a layer keeps; once a batch, also where it is cut into chunks."""
        function()

    def normalize(self, x, axes, scale, shift, epsilon):
        """A batch with mean 0 and variance 1 over some axes, times a scale, plus a shift.

            factor = 1 / sqrt(variance + epsilon),    normalized = (x - mean) * factor,
            y = scale * normalized + shift

        Every number changes the mean and the variance of all; that gives the last two terms of the gradient:

            dx = (dnormalized - mean(dnormalized) - normalized * mean(dnormalized * normalized)) * factor

        Args:
            scale, shift: arrays with the axes of x, of length 1 along those over which they are the same.

        Returns:
            y, the mean, the variance, the count of the numbers that share a mean, and a function of dy to dx, dscale
            and dshift; where the batch is cut into chunks, the last two are the chunk's part of the sum.
        """
        mean, n = self.mean(x, axes)
        variance, _ = self.mean(self.elementwise(_squared_distance, x, mean), axes)
        factor = 1 / np.sqrt(variance + epsilon)
        normalized = self.elementwise(_normalize, x, mean, factor)
        shared = tuple(axis for axis, size in enumerate(scale.shape) if size == 1)  # one scale for all numbers of these

        def backward(dy):
            dscale = self.elementwise(multiply, dy, normalized).sum(axis=shared)
            dnormalized = self.elementwise(multiply, dy, scale)
            mean1, _ = self.mean(dnormalized, axes)
            mean2, _ = self.mean(self.elementwise(multiply, dnormalized, normalized), axes)
            dx = self.elementwise(_through_mean_and_variance, dnormalized, normalized, mean1, mean2, factor)
            return dx, dscale, dy.sum(axis=shared)

        return self.elementwise(scale_and_shift, normalized, scale, shift), mean, variance, n, backward

    def elementwise(self, formula, *arguments):
        """`formula(*arguments)`, a function of arrays and numbers that treats each element separately.

        The formula uses nothing but its arguments and NumPy's functions, called as `np.name`.
        """
        return formula(*arguments)

    def run(self, layers, x, training=False):
        """Layers in a row: the output of each is the input of the next.

        Returns:
            y, and `backward(dy, stop=None)`, the chain rule: the layers' backward passes in reverse order. Each is
            called once and then dropped, so that its memory is free. The pass ends at the layer `stop`, the first one
            that learns: nobody needs the gradients before it.
        """
        steps = []
        for layer in layers:
            x, backward = layer.forward(x, training)
            steps.append((layer, backward))

        def backward(dy, stop=None):
            while steps:
                layer, layer_backward = steps.pop()
                if layer is stop:
                    steps.clear()
                    if not layer.needs_input_gradient:
                        return layer_backward(dy, input_gradient=False)
                dy = layer_backward(dy)
            return dy

        return x, backward

    # Gradients

    def collect(self, gradients, gradient):
        """Append a gradient, of an array's shape and dtype, to a parameter's list of gradients."""
        gradients.append(gradient)

    def total(self, gradients):
        """The sum of a parameter's gradients, as an array that may be overwritten."""
        return sum(gradients[1:], start=gradients[0] + 0)

    def squared_norm(self, gradients):
        """The sum of the squares of the total gradient's numbers, in float64: squares overflow float32 from 2e19 on."""
        total = self.total(gradients).astype("float64")
        return (total * total).sum()

    def apply(self, optimizer, changes, scale=None):
        """Change the parameters' values by the optimizer's rule.

        Args:
            optimizer: whose `update(w, g, t, learning_rate, **memory)` changes w and the memory's arrays in place.
            changes: a list of (value, gradients, arguments): an array, its list of gradients, and the other
                arguments of `update` by name.
            scale: what all gradients are multiplied by; None for 1.
        """
        for value, gradients, arguments in changes:
            gradient = self.total(gradients) if scale is None else self.total(gradients) * scale
            optimizer.update(value, gradient, **arguments)

    # Training

    def training_step(self, model, loss, optimizer):
        """A function of a batch and its labels that trains the model on it: the four lines of every training loop.

        Returns:
            `step(x, labels, watch)`, which returns the loss and the outputs. `watch` is called between the lines:
            `watch.check_loss(loss)` before the backward pass, `watch.check_gradients()` after it.
        """
        row, parameters = model.row, model.parameters()

        def step(x, labels, watch):
            nonlocal row, parameters
            outputs, backward = model.forward(x, training=True)
            if model.row is not row:  # a callback added or replaced a layer
                row, parameters = model.row, model.parameters()
            value, doutputs = loss.compute_checked(outputs, labels)
            watch.check_loss(value)
            backward(doutputs, input_gradient=False)
            watch.check_gradients()
            optimizer.step(parameters)
            return value, outputs

        return step

    # What `summary` reports

    def convolution_bytes(self, input_shape, filters, window, groups, itemsize):
        """Bytes that `convolve` writes besides its output for images of the shape (N, C, H, W): all columns."""
        N, C, H, W = input_shape
        KH, KW = window.kernel_size
        OH, OW = window.output_shape(H, W)
        return C * KH * KW * OH * OW * N * itemsize


#: The backend in use. `minicnn.use` replaces it.
current = Operations()


def use(operations):
    """Compute with another backend from now on."""
    global current
    current = operations


def to_float(x):
    """A scalar of the backend in use as a Python float; it may have to wait until the scalar is computed."""
    return float(current.to_numpy(x))


# Formulas for `elementwise`: first those that several layers share, then the steps of `normalize`. None is a closure:
# its code says all that it computes, so that a backend can compile it as one kernel.


def add(x, y):
    """The sum of two arrays, such as the outputs of two rows of layers."""
    return x + y


def multiply(x, factor):
    """An array times another, such as the mask of Dropout."""
    return x * factor


def scale_and_shift(x, scale, shift):
    """The last step of a normalization: `x * scale + shift`."""
    return x * scale + shift


def _squared_distance(x, mean):
    return np.square(x - mean)


def _normalize(x, mean, factor):
    return (x - mean) * factor


def _through_mean_and_variance(dnormalized, normalized, mean1, mean2, factor):
    return (dnormalized - mean1 - normalized * mean2) * factor
