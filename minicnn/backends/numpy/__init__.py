"""The backend "numpy", the default: the operations of the core on all cores of the processor.

The files, from the ground up: `threads.py`, `prefetch.py` and `layout.py`; `matmul.py`,
`gradients.py` and `updates.py` for the matrix products and what is done with
them; `columns.py`, `convolution.py`, `winograd.py` and `pooling.py` for the
images. Each trick says what it gains, and is tested against the backend "plain".
"""

import functools
import math
import weakref

import numpy as np

from minicnn.backends.numpy import convolution, gradients, normalization, pooling, threads, updates
from minicnn.backends.numpy.gradients import LowRank
from minicnn.backends.numpy.layout import batch_first, batch_innermost, batch_last, concatenate
from minicnn.backends.numpy.matmul import PARALLEL_WORK, mean_of_images, parallel_matmul
from minicnn.backends.numpy.prefetch import is_in_memory, prefetch
from minicnn.backends.numpy.threads import (
    Meeting,
    append_in_order,
    chunk_slices,
    current_chunk,
    exchange,
    parallel_map,
    shared_slices,
    single_threaded_blas,
    thread_count,
    tune_malloc,
)
from minicnn.core.layer import independent_samples
from minicnn.core.layers import Conv2D
from minicnn.core.operations import Operations

SMALLEST_CHUNK, LARGEST_CHUNK = 16, 64  # images that a core takes at a time through the layers on images
LARGE_IMAGE = 2**14  # numbers of a layer's image: half of the largest chunk is taken where there are as many
MUCH_WORK = 2**30  # multiply-adds: half of the smallest chunk is taken where it has as many, as in AlexNet


class NumpyOperations(Operations):
    """NumPy and its BLAS, with chunks of a batch on all cores."""

    name = "numpy"
    sharing = "means"  # the kind of layers whose chunks are computed together: see `Layer.independent_samples`

    def __init__(self):
        tune_malloc()
        self._plans = {}  # what `_plan` returned, by the layers' ids and its other arguments

    def batch(self, x, dtype):
        x = np.asarray(x)  # no subclass, in which `*` or an overflow may mean something else
        x_last = batch_last(x)
        if x.dtype == dtype and x_last.flags.c_contiguous:
            return x
        ready = np.empty(x_last.shape, dtype=dtype)
        if x.dtype == np.uint8:
            np.divide(x_last, np.dtype(dtype).type(255), out=ready)
        else:
            ready[...] = x_last
        return batch_first(ready)

    def batches(self, x, rows):
        """As in the core. What is not simply an array in memory is prepared one batch ahead, in a thread."""
        if is_in_memory(x) or thread_count() == 1:
            return super().batches(x, rows)
        return prefetch(functools.partial(self.take, x), list(rows))

    def convolve(self, x, weight, window, groups=1):
        return convolution.convolve(x, weight, window, groups)

    def linear(self, x, weight):
        def to_weight(dy):
            gradient = LowRank(dy.T, x)
            return gradient if gradient.is_smaller else gradient.materialize()

        def to_input(dy):
            return parallel_matmul(weight.T, dy.T).T

        return parallel_matmul(weight, x.T).T, to_weight, to_input  # memory layout is (units, N)

    def add_bias(self, y, bias):
        y_last = batch_last(y)  # (F, ..., N)
        y_last += bias.reshape(-1, *(1,) * (y.ndim - 1))

        def to_bias(dy):
            return batch_last(dy).sum(axis=tuple(range(1, dy.ndim)))

        return y, to_bias

    def max_pool(self, x, window):
        return pooling.max_pool(x, window)

    def average_pool(self, x, window, count_padding=False):
        return pooling.average_pool(x, window, count_padding)

    def mean(self, x, axes):
        """As in the core; over the batch, that of all its chunks."""
        if 0 not in axes:
            first = x.ndim - len(axes)
            if axes != tuple(range(first, x.ndim)):
                return super().mean(x, axes)
            mean = mean_of_images(x, first)
            return mean, x.size // mean.size
        total = x.sum(axis=axes, keepdims=True)
        totals, counts = zip(*self.from_all(total, len(x)), strict=True)
        n = x[0].size // total.size * sum(counts)
        return sum(totals) / x.dtype.type(n), n

    def from_all(self, array, images):
        """What each chunk of the batch calls this with, its array and its count of images: a list of such pairs."""
        return exchange((array, images))

    def once(self, function):
        if current_chunk() in (None, 0):
            function()

    def normalize(self, x, axes, scale, shift, epsilon):
        if axes == (0, *range(2, x.ndim)):
            return normalization.normalize_channels(x, scale, shift, epsilon, self.from_all)
        return super().normalize(x, axes, scale, shift, epsilon)

    def collect(self, gradients, gradient):
        append_in_order(gradients, gradient)

    def total(self, gradients_):
        return gradients.rows_of(*gradients.merge(gradients_))

    def squared_norm(self, gradients_):
        return gradients.squared_norm(gradients_)

    def apply(self, optimizer, changes, scale=None):
        with single_threaded_blas():
            for value, gradient, arguments in changes:
                updates.apply(optimizer, value, gradient, arguments, scale)

    def convolution_bytes(self, input_shape, filters, window, groups, itemsize):
        return convolution.written_bytes(input_shape, filters, window, groups, itemsize)

    def run(self, layers, x, training=False):
        """As in the core, with chunks of the batch on all cores where the layers allow it.

        The layers on images are computed in chunks; a dense layer would read all its weights for every chunk, and
        divides its matrix products instead. A layer that needs the complete batch ends a segment, and after it the
        batch is cut again. Where layers need nothing but means of the complete batch, as BatchNorm does, each core has
        one chunk and all are computed together.
        """
        passes = []
        before = threads.training.set(training)
        try:
            with single_threaded_blas():
                for segment, slices, together in self._segments(layers, x, training):
                    if slices is None:
                        x, backward = super().run(segment, x, training)
                    else:
                        x, backward = self._run_chunks(segment, slices, together, x, training)
                    passes.append((segment, backward))
        finally:
            threads.training.reset(before)

        def backward(dy, stop=None):
            with single_threaded_blas():
                while passes:
                    segment, segment_backward = passes.pop()
                    dy = segment_backward(dy, stop)
                    if any(layer is stop for layer in segment):
                        passes.clear()
            return dy

        return x, backward

    def _run_chunks(self, layers, slices, together, x, training):
        """A segment of layers for each chunk of the batch; together where they share means."""
        meeting = Meeting(len(slices)) if together else None

        def forward_chunk(rows):
            return Operations.run(self, layers, batch_innermost(x[rows]), training)

        outputs, backwards = zip(*parallel_map(forward_chunk, slices, meeting), strict=True)

        def backward(dy, stop):
            def backward_chunk(item):
                rows, chunk_backward = item
                return chunk_backward(batch_innermost(dy[rows]), stop)

            gradients = parallel_map(backward_chunk, zip(slices, backwards, strict=True), meeting)
            return None if gradients[0] is None else concatenate(gradients)

        return concatenate(outputs), backward

    def _segments(self, layers, x, training):
        """The layers in segments: a list of (layers, slices of the batch, whether they are computed together).

        The slices are None for a batch that is not cut.
        """
        if not layers:
            return []
        N, cores = len(x), thread_count()
        plan, work, largest = self._plan(layers, x.shape[1:], training, self.sharing if cores > 1 else None)
        half = SMALLEST_CHUNK // 2
        smallest = half if half * work >= MUCH_WORK else SMALLEST_CHUNK
        per_core = max(-(-N // cores), smallest)
        limit = LARGEST_CHUNK if largest < LARGE_IMAGE else LARGEST_CHUNK // 2
        one_each, chunks = chunk_slices(N, per_core), shared_slices(N, min(per_core, limit))
        if N * work < PARALLEL_WORK or len(chunks) < 2 or current_chunk() is not None or _is_divided(layers, x):
            return [(layers, None, False)]
        segments = []
        for start, stop, cut, share in plan:
            slices = one_each if share else chunks
            segments.append((layers[start:stop], slices if cut and len(slices) > 1 else None, share))
        return segments

    def _plan(self, layers, shape, training, sharing):
        """What `_plan` below returns, which is computed once for each row of layers."""
        key = (*map(id, layers), shape, training, sharing)
        owners, *plan = self._plans.get(key, (None,))
        if owners is None or any(owner() is not layer for owner, layer in zip(owners, layers, strict=True)):
            if len(self._plans) > 1000:
                self._plans.clear()
            plan = _plan(layers, shape, training, sharing)
            self._plans[key] = [weakref.ref(layer) for layer in layers], *plan
        return plan


def _is_divided(layers, x):
    """Whether the only layer divides its work among the cores by itself, and so needs no copies of the batch."""
    layer, *others = layers
    return (
        not others
        and isinstance(layer, Conv2D)
        and convolution.is_divided(x.shape, layer.window, layer.filters, layer.groups, x.dtype.itemsize)
    )


def _plan(layers, shape, training, sharing):
    """The segments of a row of layers, its multiply-adds an image, and the numbers of the largest layer's image.

    Returns:
        a list of (start, stop, whether the batch may be cut, whether its chunks share means), and two numbers.
    """
    segments, work, largest = [], 0, 1
    for index, layer in enumerate(layers):
        cut = len(shape) == 3 and independent_samples(layer, training, sharing)
        share = cut and not independent_samples(layer, training)
        multiply_adds = layer.multiply_adds(shape)
        if segments and segments[-1]["cut"] == cut:
            segments[-1]["stop"] = index + 1
            segments[-1]["work"] += multiply_adds
            segments[-1]["share"] |= share
        else:
            segments.append({"start": index, "stop": index + 1, "cut": cut, "work": multiply_adds, "share": share})
        work += multiply_adds
        shape = layer.built_output_shape(shape)
        largest = max(largest, math.prod(shape))
    # to cut a batch again costs a copy, which pays only where there is something to multiply
    plan = [(s["start"], s["stop"], s["cut"] and (s["work"] > 0 or s["start"] == 0), s["share"]) for s in segments]
    return plan, work, largest
