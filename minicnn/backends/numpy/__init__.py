"""The backend "numpy", the default: the operations of the core on all cores of the processor.

The files, from the ground up: `threads.py`, `prefetch.py` and `layout.py`; `matmul.py`,
`gradients.py` and `updates.py` for the matrix products and what is done with
them; `convolution.py`, `winograd.py` and `pooling.py` for the images. Each
trick says what it gains, and is tested against the backend "plain".
"""

import functools
import weakref

import numpy as np

from minicnn.backends.numpy import convolution, gradients, normalization, pooling, updates
from minicnn.backends.numpy.gradients import LowRank
from minicnn.backends.numpy.layout import batch_first, batch_innermost, batch_last, concatenate
from minicnn.backends.numpy.matmul import PARALLEL_WORK, parallel_matmul
from minicnn.backends.numpy.prefetch import is_in_memory, prefetch
from minicnn.backends.numpy.threads import (
    append_in_order,
    chunk_slices,
    current_chunk,
    parallel_map,
    single_threaded_blas,
    thread_count,
    tune_malloc,
)
from minicnn.core.layer import independent_samples
from minicnn.core.operations import Operations

SMALLEST_CHUNK, LARGEST_CHUNK = 16, 64  # images that a core takes at a time through the layers on images
MUCH_WORK = 2**30  # multiply-adds: half of the smallest chunk is taken where it has as many, as in AlexNet


class NumpyOperations(Operations):
    """NumPy and its BLAS, with chunks of a batch on all cores."""

    name = "numpy"

    def __init__(self):
        tune_malloc()
        self._plans = {}  # what `_segments` returned, by the layers' ids, the shape and the mode

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

    def normalize(self, x, axes, scale, shift, epsilon):
        if axes == (0, *range(2, x.ndim)):
            return normalization.normalize_channels(x, scale, shift, epsilon)
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
        batch is cut again.
        """
        passes = []
        with single_threaded_blas():
            for segment, slices in self._segments(layers, x, training):
                if slices is None:
                    x, backward = super().run(segment, x, training)
                else:
                    x, backward = self._run_chunks(segment, slices, x, training)
                passes.append((segment, backward))

        def backward(dy, stop=None):
            with single_threaded_blas():
                while passes:
                    segment, segment_backward = passes.pop()
                    dy = segment_backward(dy, stop)
                    if any(layer is stop for layer in segment):
                        passes.clear()
            return dy

        return x, backward

    def _run_chunks(self, layers, slices, x, training):
        """A segment of layers for each chunk of the batch."""

        def forward_chunk(rows):
            return Operations.run(self, layers, batch_innermost(x[rows]), training)

        outputs, backwards = zip(*parallel_map(forward_chunk, slices), strict=True)

        def backward(dy, stop):
            def backward_chunk(item):
                rows, chunk_backward = item
                return chunk_backward(batch_innermost(dy[rows]), stop)

            gradients = parallel_map(backward_chunk, zip(slices, backwards, strict=True))
            return None if gradients[0] is None else concatenate(gradients)

        return concatenate(outputs), backward

    def _segments(self, layers, x, training):
        """The layers in segments: a list of (layers, slices of the batch), with None for a batch that is not cut."""
        if not layers:
            return []
        key = (*map(id, layers), x.shape[1:], training)
        owners, plan, work = self._plans.get(key, (None, None, 0))
        if owners is None or any(owner() is not layer for owner, layer in zip(owners, layers, strict=True)):
            if len(self._plans) > 1000:
                self._plans.clear()
            plan, work = _plan(layers, x.shape[1:], training)
            self._plans[key] = [weakref.ref(layer) for layer in layers], plan, work
        N = len(x)
        half = SMALLEST_CHUNK // 2
        smallest = half if half * work >= MUCH_WORK else SMALLEST_CHUNK
        chunk = min(max(-(-N // thread_count()), smallest), LARGEST_CHUNK)
        if N * work < PARALLEL_WORK or chunk >= N or current_chunk() is not None:
            return [(layers, None)]
        slices = chunk_slices(N, chunk)
        return [(layers[start:stop], slices if cut else None) for start, stop, cut in plan]


def _plan(layers, shape, training):
    """The segments of a row of layers, (start, stop, whether the batch may be cut), and its multiply-adds an image."""
    segments, work = [], 0
    for index, layer in enumerate(layers):
        cut = len(shape) == 3 and independent_samples(layer, training)
        multiply_adds = layer.multiply_adds(shape)
        if segments and segments[-1]["cut"] == cut:
            segments[-1]["stop"] = index + 1
            segments[-1]["work"] += multiply_adds
        else:
            segments.append({"start": index, "stop": index + 1, "cut": cut, "work": multiply_adds})
        work += multiply_adds
        shape = layer.built_output_shape(shape)
    # to cut a batch again costs a copy, which pays only where there is something to multiply
    plan = [(s["start"], s["stop"], s["cut"] and (s["work"] > 0 or s["start"] == 0)) for s in segments]
    return plan, work
