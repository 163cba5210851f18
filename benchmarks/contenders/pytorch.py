"""PyTorch as its users write it; the fused optimizer or the plain one, whichever is faster here."""

import time

import numpy as np
import torch
from torch import nn

from benchmarks.contenders.case import EPSILON, LAYERS, NETWORKS, shapes


class Residual(nn.Sequential):
    """`x + f(x)`, f being the layers in a row."""

    def forward(self, x):
        return x + super().forward(x)


def normalized(inputs, filters, size=3, **window):
    return [nn.Conv2d(inputs, filters, size, bias=False, **window), nn.BatchNorm2d(filters)]


def block(filters):
    first, second = (normalized(filters, filters, padding=1) for _ in range(2))
    return [Residual(*first, nn.ReLU(), *second), nn.ReLU()]


OWN = {
    "lenet5": lambda: [
        nn.Conv2d(1, 6, 5, padding="same"),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, 10),
    ],
    "conv_pool": lambda: [
        nn.Conv2d(1, 16, 3, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3136, 5000),
        nn.ReLU(),
        nn.Linear(5000, 10),
    ],
    "two_conv": lambda: [
        nn.Conv2d(1, 16, 3, padding="same"),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding="same"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(25088, 5000),
        nn.ReLU(),
        nn.Linear(5000, 10),
    ],
    "small_resnet": lambda: [
        *normalized(1, 64, 5, stride=2),
        nn.ReLU(),
        *block(64),
        *block(64),
        *normalized(64, 96, stride=3),
        nn.ReLU(),
        *normalized(96, 96, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    ],
}


def layers(case):
    """The network's layers, without weights."""
    if case.net in OWN:
        return OWN[case.net]()
    described = [LAYERS[case.net][2]] if case.is_layer else NETWORKS[case.net][2]
    return [layer(shape, *one) for shape, one in zip(shapes(case.shape, described), described, strict=False)]


def layer(shape, kind, options):
    """The layer of a description in `case.py`, for images of this shape."""
    if kind == "conv":
        others = {name: options[name] for name in ("stride", "padding", "groups")}
        return nn.Conv2d(shape[0], options["filters"], options["size"], **others)
    if kind == "max_pool":
        return nn.MaxPool2d(options["size"], options["stride"])
    if kind == "dense":
        return nn.Linear(shape[0], options["units"])
    if kind == "global_average":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return {"relu": nn.ReLU, "flatten": nn.Flatten}[kind]()


def make(case, memory_format=torch.contiguous_format):
    torch.set_num_threads(case.threads)
    return OneLayer(case, memory_format) if case.is_layer else Network(case, memory_format)


class Contender:
    versions = {"torch": torch.__version__}  # noqa: RUF012, not changed
    note = ""

    def load(self, case, memory_format):
        """The network with the given weights."""
        with torch.device("meta"):  # PyTorch's own first weights are not needed
            model = nn.Sequential(*layers(case))
        model = model.to_empty(device="cpu").to(memory_format=memory_format)
        self.copy_weights(model, case)
        return model

    @torch.no_grad()
    def copy_weights(self, model, case):
        for parameter, value in zip(model.parameters(), case.weights(), strict=True):
            parameter.copy_(torch.from_numpy(value))
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()


class Network(Contender):
    def __init__(self, case, memory_format):
        self.batch = case.batch
        images, labels = case.data()
        self.images = in_layout(images, memory_format)
        self.labels = torch.from_numpy(labels)
        self.loss = nn.CrossEntropyLoss()
        self.model = self.load(case, memory_format)
        fused = self.is_fused_faster(case)
        self.note = "fused optimizer" if fused else "plain optimizer"
        self.copy_weights(self.model, case)
        self.optimizer = self.make_optimizer(case, fused)

    def make_optimizer(self, case, fused):
        rate = case.learning_rate
        if case.uses_adam:
            return torch.optim.Adam(self.model.parameters(), rate, eps=EPSILON, fused=fused)
        return torch.optim.SGD(self.model.parameters(), rate, fused=fused)

    def is_fused_faster(self, case):
        """Whether steps with the fused optimizer are faster; both are timed in turns, for a second or two."""
        optimizers = {fused: self.make_optimizer(case, fused) for fused in (False, True)}
        times = {False: [], True: []}
        while len(times[True]) < 2 or (len(times[True]) < 100 and sum(times[True]) < 1):
            for fused, self.optimizer in optimizers.items():
                started = time.perf_counter()
                self.step(0)
                times[fused].append(time.perf_counter() - started)
        return np.median(times[True]) < np.median(times[False])

    def rows(self, i):
        start = i * self.batch % len(self.images)
        return slice(start, start + self.batch)

    def step(self, i):
        return self.step_on(self.images[self.rows(i)], self.labels[self.rows(i)])[0].item()

    def step_on(self, images, labels):
        self.optimizer.zero_grad()
        logits = self.model(images)
        loss = self.loss(logits, labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), logits.detach()

    @torch.inference_mode()
    def infer(self, i):
        self.model.eval()
        probabilities = self.model(self.images[self.rows(i)]).softmax(dim=1)
        self.model.train()
        return probabilities

    def epoch(self):
        """PyTorch has no `fit`: this is its users' loop, on tensors in memory, which is faster than a DataLoader."""
        total_loss, n_correct = 0.0, 0
        for rows in torch.randperm(len(self.images)).split(self.batch):
            labels = self.labels[rows]
            loss, logits = self.step_on(self.images[rows], labels)
            total_loss += loss.item() * len(rows)
            n_correct += (logits.argmax(dim=1) == labels).sum().item()
        return total_loss / len(self.images), n_correct / len(self.images)


class OneLayer(Contender):
    def __init__(self, case, memory_format):
        x, dy = case.data()
        self.x = in_layout(x, memory_format).requires_grad_()
        self.dy = in_layout(dy, memory_format)
        self.model = self.load(case, memory_format)

    def step(self, i):
        self.x.grad = None
        self.model.zero_grad()
        y = self.model(self.x)
        y.backward(self.dy)
        gradients = [parameter.grad for parameter in self.model.parameters()]
        return [array[(0,) * array.ndim].item() for array in (y, self.x.grad, *gradients[:1])]

    @torch.inference_mode()
    def infer(self, i):
        return self.model(self.x)


def in_layout(array, memory_format):
    """A NumPy array as a tensor; images with the channels last where that is asked for."""
    tensor = torch.from_numpy(array)
    return tensor.contiguous(memory_format=memory_format) if tensor.ndim == 4 else tensor
