"""The backend "cupy": the operations of the core on a GPU, with CuPy. Only this folder knows CuPy.

The core calls NumPy's functions on whatever arrays it has. On CuPy's arrays NumPy passes the call on, by the
protocols `__array_ufunc__` and `__array_function__`. So every operation of the core would run here as it is. What
is replaced needs fewer kernels: starting one takes longer than the few microseconds that it runs.

The files, from the ground up: `layout.py`, `fusion.py` and `cublas.py`; `gradients.py` and `updates.py` for the
optimizers; `convolution.py` and `pooling.py` for the images; `transfer.py` for the way to the GPU; `recording.py`
for a training step as one CUDA graph. All functions get the array module, CuPy, as the argument `xp`.
"""

import itertools

import numpy as np

from minicnn.backends.cupy import convolution, gradients, pooling, transfer, updates
from minicnn.backends.cupy.cublas import matmul
from minicnn.backends.cupy.fusion import fuse_elementwise
from minicnn.backends.cupy.gradients import LowRank
from minicnn.backends.cupy.layout import batch_first, batch_innermost, batch_last
from minicnn.backends.cupy.recording import RecordedStep, can_record
from minicnn.core.errors import BackendError
from minicnn.core.layers import Activation, Conv2D, Dense
from minicnn.core.operations import Operations


class CupyOperations(Operations):
    """CuPy's arrays on a GPU, with cuBLAS for the matrix products.

    Args:
        xp: the array module, CuPy.
    """

    name = "cupy"

    checks_are_free = False  # a computed number can be read only after all kernels before it

    def __init__(self, xp):
        self.xp = xp
        self.device_numbers = None  # the optimizer's numbers as scalars on the device, while a step is recorded
        self._indices = {}  # of the batches of an epoch: id -> (array of indices, the same on the device)
        self._bias_is_left = False  # whether the layer that is computed leaves its bias to the activation after it
        self._left_bias = None, None  # an array, and the bias that still has to be added to it

    # Arrays

    def array(self, x, dtype=None):
        return self.xp.asarray(x, dtype=dtype)

    def owns(self, x):
        return isinstance(x, self.xp.ndarray)

    def to_numpy(self, x):
        return x.get() if self.owns(x) else np.asarray(x)

    def batch(self, x, dtype):
        x = self.array(x)
        if x.dtype == np.uint8:
            return batch_first(self.xp.divide(batch_last(x), 255, dtype=dtype))
        return batch_innermost(self.xp, x, dtype)

    def uniform(self, shape, seed):
        """As in the core, but CuPy's numbers are others than NumPy's."""
        N, *sample = shape
        return batch_first(self.xp.random.default_rng(seed).random((*sample, N), dtype="float32"))

    # The data set

    def keep(self, x):
        """A data set on the GPU if it takes at most a quarter of the memory that is free there, else as it is."""
        if self.owns(x):
            return x
        free, _ = self.xp.cuda.Device().mem_info
        return self.array(x) if x.nbytes <= free // 4 else x

    def take(self, x, rows):
        if isinstance(rows, slice):
            return x[rows]
        if not self.owns(x):
            return x[self.to_numpy(rows)]
        host_rows, device_rows = self._indices.get(id(rows), (None, None))
        return x[device_rows if host_rows is rows else self.array(rows)]

    def batches(self, x, rows):
        """As in the core. A data set in main memory is copied to the GPU batch by batch, ahead of time."""
        rows = list(rows)
        if self.owns(x):
            self._indices = transfer.indices_on_device(self.xp, rows)
            return super().batches(x, rows)
        return transfer.prefetch(self.xp, super().batches(x, rows))

    # Layers

    def convolve(self, x, weight, window, groups=1):
        return convolution.convolve(self.xp, x, weight, window, groups)

    def convolution_bytes(self, input_shape, filters, window, groups, itemsize):
        return convolution.written_bytes(input_shape, window, itemsize)

    def linear(self, x, weight):
        xp = self.xp

        def to_weight(dy):
            gradient = LowRank(xp, dy.T, x)
            return gradient if gradient.is_smaller else gradient.materialize()

        def to_input(dy):
            return matmul(xp, weight.T, dy.T).T

        return matmul(xp, weight, x.T).T, to_weight, to_input  # memory layout is (units, N)

    def add_bias(self, y, bias):
        if self._bias_is_left:
            self._left_bias = y, bias
        else:
            y_last = batch_last(y)  # (F, ..., N)
            y_last += bias.reshape(-1, *(1,) * (y.ndim - 1))

        def to_bias(dy):
            return batch_last(dy).sum(axis=tuple(range(1, dy.ndim)))

        return y, to_bias

    def max_pool(self, x, window):
        return pooling.max_pool(self.xp, x, window)

    def average_pool(self, x, window, count_padding=False):
        return pooling.average_pool(self.xp, x, window, count_padding)

    def elementwise(self, formula, *arguments):
        """As in the core, in one kernel, together with the bias that the layer before has left."""
        (y, bias), self._left_bias = self._left_bias, (None, None)
        if y is not None and arguments[0] is y:
            bias = bias.reshape(1, -1, *(1,) * (y.ndim - 2))
            return fuse_elementwise(self.xp, (_add, formula), y, bias)
        return fuse_elementwise(self.xp, (formula,), *arguments)

    def run(self, layers, x, training=False):
        """As in the core. A bias is added in the kernel of the activation after it: two kernels become one."""
        try:
            return super().run(self._announced(layers), x, training)
        finally:
            self._bias_is_left = False

    def _announced(self, layers):
        """Yield the layers; while one is computed, `add_bias` knows whether an activation follows."""
        for layer, following in itertools.zip_longest(layers, layers[1:]):
            self._bias_is_left = (
                _adds_bias(following) and type(layer) in (Conv2D, Dense) and "forward" not in vars(layer)
            )
            yield layer

    # Gradients

    def total(self, gradients_):
        return gradients.total(*gradients.merge(self.xp, gradients_))

    def squared_norm(self, gradients_):
        return gradients.squared_norm(self.xp, *gradients.merge(self.xp, gradients_))

    def apply(self, optimizer, changes, scale=None):
        if type(optimizer).update not in updates.RULES:
            super().apply(optimizer, changes, scale)
            return
        for value, gradients_, arguments in changes:
            dense, low_rank = gradients.merge(self.xp, gradients_)
            updates.apply(self.xp, optimizer, value, dense, low_rank, arguments, scale, self.device_numbers)

    # Training

    def training_step(self, model, loss, optimizer):
        """As in the core; batches whose loss nobody checks are trained on with a recorded step where that works."""
        step = super().training_step(model, loss, optimizer)
        if not can_record(self.xp, model, loss, optimizer):
            return step
        recorded = RecordedStep(self, model, loss, optimizer)

        def step_or_graph(x, labels, watch):
            result = None if getattr(watch, "check_is_due", True) else recorded(x, labels)
            return step(x, labels, watch) if result is None else result

        return step_or_graph


def _adds_bias(layer):
    """Whether a layer computes `elementwise(layer.value, x)` and does not need x again in the backward pass."""
    return (
        isinstance(layer, Activation)
        and type(layer).forward is Activation.forward
        and "forward" not in vars(layer)
        and not layer.gradient_needs_input  # x would be without the bias
        and not layer.constants  # the first formula of a kernel takes all arguments, and that is the sum with the bias
    )


def _add(x, bias):
    return x + bias


def working_backend():
    """The backend on CuPy, once it has shown that it can compute.

    Raises:
        BackendError: CuPy or the GPU does not work; the message says what is missing.
    """
    extras = "pip install 'minicnn-numpy[cuda12]' (or [cuda13], [rocm])"
    try:
        import cupy
    except ImportError as error:
        raise BackendError(f"CuPy cannot be imported ({error}): {extras}") from error
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            raise BackendError("CuPy finds no GPU on this machine")
        import cupy.cublas  # for cublas.py

        trial = cupy.ones((2, 2), dtype=np.float32)
        if not float(((trial @ trial).sum() + cupy.tanh(trial).sum()).get()) > 8:
            raise BackendError("the GPU computes wrong values")
        cupy.random.default_rng(0).random((2, 2))  # for Dropout
    except BackendError:
        raise
    except Exception as error:  # CuPy's own errors cannot be named without CuPy
        why = " ".join(str(error).split())  # CuPy's messages may have many lines
        raise BackendError(f"the GPU cannot be used: {why}; CUDA's libraries come with {extras}") from error
    return CupyOperations(cupy)
