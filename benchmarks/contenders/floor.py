"""The limit: the network's matrix products alone, on NumPy's BLAS, and Adam's passes over memory.

Every buffer is allocated before. No columns are built, no activation is computed, no other optimizer changes a weight.
Max pooling alone, which has no product, is NumPy's calls along one axis after the other.
Each product is computed in the way that was measured to be fastest: directly or transposed (`(B.T @ A.T).T`), with BLAS
on all cores or on one; or all of them by `parallel_matmul` of minicnn's numpy backend, which divides them among the
cores in pieces. Adam needs seven calls for each weight, on all cores where it is large.
"""

import dataclasses
import time

import numpy as np
import threadpoolctl

from benchmarks.contenders.case import LAYERS, NETWORKS, shapes
from minicnn.backends.numpy.layout import small_buffers
from minicnn.backends.numpy.matmul import parallel_matmul
from minicnn.backends.numpy.threads import parallel_map, per_core_slices, shared_slices, thread_count
from minicnn.backends.numpy.updates import PARALLEL_SIZE, RULES
from minicnn.core.optimizers import Adam

ADAM = Adam()


@dataclasses.dataclass
class Product:
    """`a @ b` into `out`, by a function such as `np.matmul`, with BLAS on some threads."""

    a: np.ndarray
    b: np.ndarray
    out: np.ndarray
    threads: int
    function: object = np.matmul

    def compute(self):
        self.function(self.a, self.b, out=self.out)


@dataclasses.dataclass
class Update:
    """Adam's step: of a weight, its gradient, and the means of the gradients and of their squares."""

    weight: np.ndarray
    gradient: np.ndarray
    mean: np.ndarray
    square: np.ndarray
    threads: int = 1  # of BLAS

    def compute(self):
        rows = len(self.weight)
        parallel_map(self.step, per_core_slices(rows) if self.weight.size >= PARALLEL_SIZE else [slice(0, rows)])

    def step(self, rows):
        w, g, m, v = (array[rows] for array in (self.weight, self.gradient, self.mean, self.square))
        RULES[Adam.update](ADAM, w, g, t=1, learning_rate=0.001, m=m, v=v)


@dataclasses.dataclass
class Passes:
    """Calls of NumPy, (function, arrays, out), on some channels at a time, on all cores."""

    calls: list
    channels: int
    threads: int = 1  # of BLAS

    def compute(self):
        count = len(self.calls[0][2])
        with small_buffers():
            parallel_map(self.on_channels, shared_slices(count, min(self.channels, -(-count // thread_count()))))

    def on_channels(self, part):
        for function, arrays, out in self.calls:
            function(*(array[part] for array in arrays), out=out[part])


def max_pool(image, dy, size, stride):
    """NumPy's calls for max pooling without padding, of arrays (C, H, W, N).

    Forward along each axis a maximum for every tap of the window but the first. Backward for each of these the
    comparison, the share of the gradient that goes to the tap's pixels, and the rest; every share is written, or added
    where a later tap has written.

    Returns:
        (forward, backward, y, dx): two lists of calls, and the arrays in which the results are then.
    """
    forward, compare, shares = [], [], []
    dimage = dx = np.zeros_like(image)
    for axis in (2, 1):
        positions = (image.shape[axis] - size) // stride + 1
        stops = [tap + stride * (positions - 1) + 1 for tap in range(size)]
        taps = [(slice(None),) * axis + (slice(tap, stop, stride),) for tap, stop in enumerate(stops)]
        pixels, targets = [image[tap] for tap in taps], [dimage[tap] for tap in taps]
        largest, rest, share = (np.zeros(pixels[0].shape, image.dtype) for _ in range(3))
        gradient, calls = dy if axis == 1 else np.zeros_like(largest), []
        for tap in range(1, size):
            forward.append((np.maximum, [pixels[tap], largest if tap > 1 else pixels[0]], largest))
        for tap in reversed(range(size)):
            left = gradient if tap == size - 1 else rest
            if tap > 0:
                mask = np.zeros(left.shape, bool)
                compare.append((np.equal, [pixels[tap], largest], mask))
                calls += [(np.multiply, [left, mask], share), (np.subtract, [left, share], rest)]
            target, written = targets[tap], share if tap > 0 else left
            is_written = tap + stride < size  # by a later tap
            calls.append((np.add, [target, written], target) if is_written else (np.positive, [written], target))
        shares = calls + shares
        image, dimage = largest, gradient
    return forward, compare + shares, image, dx


def conv(N, C, F, size, out):
    """rows, inner and columns of the product of the kernels and the columns of the complete batch."""
    return F, C * size * size, out * out * N


def dense(N, features, units):
    return units, features, N


def products(case):
    """(rows, inner, columns) of each layer's product `weight @ x`, the first layer first."""
    net, N = case.net, case.batch
    if net in OWN:
        return OWN[net](N)
    described = [LAYERS[net][2]] if case.is_layer else NETWORKS[net][2]
    found, before = [], shapes(case.shape, described)
    for (C, *_), after, (kind, options) in zip(before, before[1:], described, strict=False):
        if kind == "conv":
            groups = options["groups"]
            product = conv(N, C // groups, options["filters"] // groups, options["size"], after[1])
            found += [product] * groups
        elif kind == "dense":
            found.append(dense(N, C, options["units"]))
    return found


OWN = {
    "lenet5": lambda N: [
        conv(N, 1, 6, 5, 28),
        conv(N, 6, 16, 5, 10),
        dense(N, 400, 120),
        dense(N, 120, 84),
        dense(N, 84, 10),
    ],
    "conv_pool": lambda N: [conv(N, 1, 16, 3, 28), dense(N, 3136, 5000), dense(N, 5000, 10)],
    "two_conv": lambda N: [
        conv(N, 1, 16, 3, 28),
        conv(N, 16, 32, 3, 28),
        dense(N, 25088, 5000),
        dense(N, 5000, 10),
    ],
    "small_resnet": lambda N: [
        conv(N, 1, 64, 5, 12),
        *[conv(N, 64, 64, 3, 12)] * 4,
        *[conv(N, 64, 96, 3, 4), conv(N, 96, 96, 3, 4)],
        dense(N, 96, 10),
    ],
}


def make(case):
    return Floor(case)


class Floor:
    versions = {"numpy": np.__version__}  # noqa: RUF012, not changed

    def __init__(self, case):
        blas = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
        self.set_threads = [library.set_num_threads for library in blas]
        self.threads = case.threads
        self.note = "matrix products, Adam" if case.uses_adam else "matrix products only"
        kind, options = LAYERS[case.net][2] if case.is_layer else (None, {})
        if kind == "max_pool":
            self.plan_max_pool(case, **options)
            return
        plans = {"by BLAS": ([], []), "in pieces": ([], [])}
        for index, (rows, inner, columns) in enumerate(products(case)):
            weight = np.full((rows, inner), 0.01, np.float32)
            x = np.full((inner, columns), 0.01, np.float32)
            dy = np.full((rows, columns), 0.01, np.float32)
            backward_pairs = [(dy, x.T)]
            if index or case.is_layer:  # the gradient of a network's images is not needed
                backward_pairs.append((weight.T, dy))
            for direction, pairs in enumerate([[(weight, x)], backward_pairs]):
                for a, b in pairs:
                    out = np.zeros((len(a), b.shape[1]), np.float32)
                    plans["by BLAS"][direction].append(self.fastest(a, b, out))
                    plans["in pieces"][direction].append(Product(a, b, out, self.threads, parallel_matmul))
            if case.uses_adam:
                for _, backward in plans.values():
                    gradient = backward[-len(backward_pairs)].out
                    own = weight if gradient.shape == weight.shape else weight.T.copy()
                    backward.append(Update(own, gradient, np.zeros_like(own), np.zeros_like(own)))
        # BLAS's threads go on spinning for a while and take the cores from other threads: so one plan for all products
        self.forward, self.backward = min(plans.values(), key=lambda plan: self.time(plan[0] + plan[1]))

    def plan_max_pool(self, case, size, stride):
        self.note = "NumPy's calls along each axis"
        output = shapes(case.shape, [LAYERS[case.net][2]])[-1]
        image, dy = (np.full((*shape, case.batch), 0.01, np.float32) for shape in (case.shape, output))
        *plans, _, _ = max_pool(image, dy, size, stride)
        self.forward, self.backward = (
            [min((Passes(calls, channels) for channels in (1, 2, 4, 8, 16, 32)), key=lambda call: self.time([call]))]
            for calls in plans
        )

    def fastest(self, a, b, out):
        """The fastest way to compute `a @ b` with BLAS."""
        transposed = np.zeros(out.T.shape, np.float32)
        candidates = [
            candidate
            for threads in {1, self.threads}
            for candidate in (Product(a, b, out, threads), Product(b.T, a.T, transposed, threads))
        ]
        return min(candidates, key=lambda candidate: self.time([candidate]))

    def time(self, calls):
        """The shortest time of a few runs; the first one is a warm-up and does not count."""
        times = []
        while len(times) < 3 or (sum(times) < 0.05 and len(times) < 20):
            started = time.perf_counter()
            self.run(calls)
            times.append(time.perf_counter() - started)
        return min(times[1:])

    def run(self, calls):
        """Compute products and updates."""
        for call in calls:
            for set_threads in self.set_threads:
                set_threads(call.threads)
            call.compute()

    def step(self, i):
        self.run(self.forward)
        self.run(self.backward)
        return 0.0

    def infer(self, i):
        self.run(self.forward)
