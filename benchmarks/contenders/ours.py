"""minicnn from this checkout, with its default backend "numpy"."""

import io
import sys
import time

import numpy as np

import minicnn as mc
from benchmarks.contenders.case import LAYERS, NETWORKS
from benchmarks.layer_times import layer_times
from minicnn.backends.numpy.layout import batch_innermost


def make(case):
    mc.use("numpy")
    contender = load(case)
    case.write_weights(parameter.value for parameter in contender.model.parameters().values())
    return contender


def load(case):
    """The contender on the backend in use."""
    return OneLayer(case) if case.is_layer else Network(case)


class Contender:
    versions = {"minicnn": mc.__version__, "numpy": np.__version__}  # noqa: RUF012, not changed
    note = ""


class Network(Contender):
    def __init__(self, case):
        self.batch = case.batch
        self.images, self.labels = case.data()
        if case.net in NETWORKS:
            layers = [layer(*described) for described in NETWORKS[case.net][2]]
            self.model = mc.Sequential([*layers, mc.Softmax()], input_shape=case.shape)
        else:
            self.model = getattr(mc.networks, case.net)()
        self.optimizer = mc.Adam(case.learning_rate) if case.uses_adam else mc.SGD(case.learning_rate)
        self.loss = mc.SoftmaxCrossEntropy()

    def rows(self, i):
        start = i * self.batch % len(self.images)
        return slice(start, start + self.batch)

    def step(self, i):
        rows = self.rows(i)
        logits, backward = self.model.forward(self.images[rows], training=True)
        loss, dlogits = self.loss(logits, self.labels[rows])
        backward(dlogits, input_gradient=False)
        self.optimizer.step(self.model.parameters())
        return loss

    def infer(self, i):
        return self.model(self.images[self.rows(i)])

    def epoch(self):
        self.fit(self.images)

    def fit(self, images):
        stderr, sys.stderr = sys.stderr, Terminal()
        try:
            self.model.fit(images, self.labels, epochs=1, batch_size=self.batch, optimizer=self.optimizer)
        finally:
            sys.stderr = stderr

    def fit_overhead(self):
        """Seconds of an epoch of `fit` on uint8 images, and of the same number of steps alone on ready batches."""
        images = (self.images * 255).astype(np.uint8)
        started = time.perf_counter()
        self.fit(images)
        between = time.perf_counter()
        for i in range(len(images) // self.batch):
            self.step(i)
        return {"fit": between - started, "steps": time.perf_counter() - between}

    def layer_times(self, seconds):
        return layer_times(self.model, self.step, self.loss, self.optimizer, seconds)


class OneLayer(Contender):
    def __init__(self, case):
        self.x, self.dy = map(batch_innermost, case.data())  # each contender has them in its own memory layout
        self.model = mc.Sequential([layer(*LAYERS[case.net][2])], input_shape=case.shape)
        self.parameters = self.model.parameters()

    def step(self, i):
        y, backward = self.model.forward(self.x, training=True)
        dx = backward(self.dy)
        gradients = [parameter.grad for parameter in self.parameters.values()]
        for parameter in self.parameters.values():
            parameter.clear_gradient()
        return [float(array[(0,) * array.ndim]) for array in (y, dx, *gradients[:1])]

    def infer(self, i):
        return self.model(self.x)


def layer(kind, options):
    """The layer of a description in `case.py`."""
    if kind == "conv":
        filters, size, others = options["filters"], options["size"], ("stride", "padding", "groups")
        return mc.Conv2D(filters, size, **{name: options[name] for name in others})
    if kind == "max_pool":
        return mc.MaxPool2D(options["size"], stride=options["stride"])
    if kind == "dense":
        return mc.Dense(options["units"])
    return {"relu": mc.ReLU, "flatten": mc.Flatten, "global_average": mc.GlobalAvgPool2D}[kind]()


class Terminal(io.StringIO):
    """Where `fit` draws its progress bar, as it does on a terminal."""

    def isatty(self):
        return True
