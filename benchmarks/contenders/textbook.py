"""The layers as textbooks write them in NumPy: images (N, C, H, W), im2col, one matrix product, no tricks.

It shows how much faster minicnn computes the same mathematics because it uses memory and cores with care.
"""

import numpy as np

from benchmarks.contenders.case import EPSILON


def im2col(x, size, pad):
    """Every window of the images as a row: (N * OH * OW, C * size * size)."""
    N, C, H, W = x.shape
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    OH, OW = H + 2 * pad - size + 1, W + 2 * pad - size + 1
    columns = np.empty((N, C, size, size, OH, OW), dtype=x.dtype)
    for i in range(size):
        for j in range(size):
            columns[:, :, i, j] = x[:, :, i : i + OH, j : j + OW]
    return columns.transpose(0, 4, 5, 1, 2, 3).reshape(N * OH * OW, -1)


def col2im(columns, shape, size, pad):
    """Each entry of the rows added to the pixel that `im2col` copied it from."""
    N, C, H, W = shape
    OH, OW = H + 2 * pad - size + 1, W + 2 * pad - size + 1
    columns = columns.reshape(N, OH, OW, C, size, size).transpose(0, 3, 4, 5, 1, 2)
    x = np.zeros((N, C, H + 2 * pad, W + 2 * pad), dtype=columns.dtype)
    for i in range(size):
        for j in range(size):
            x[:, :, i : i + OH, j : j + OW] += columns[:, :, i, j]
    return x[:, :, pad : pad + H, pad : pad + W]


class Conv:
    def __init__(self, weight, bias, pad):
        self.weight, self.bias, self.pad = weight, bias, pad

    def forward(self, x):
        N, _, H, _ = self.shape = x.shape
        F, _, size, _ = self.weight.shape
        self.columns = im2col(x, size, self.pad)
        y = self.columns @ self.weight.reshape(F, -1).T + self.bias
        return y.reshape(N, H + 2 * self.pad - size + 1, -1, F).transpose(0, 3, 1, 2)

    def backward(self, dy):
        F, _, size, _ = self.weight.shape
        dy = dy.transpose(0, 2, 3, 1).reshape(-1, F)
        self.dweight = (self.columns.T @ dy).T.reshape(self.weight.shape)
        self.dbias = dy.sum(axis=0)
        return col2im(dy @ self.weight.reshape(F, -1), self.shape, size, self.pad)


class Dense:
    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias

    def forward(self, x):
        self.x = x
        return x @ self.weight.T + self.bias

    def backward(self, dy):
        self.dweight = dy.T @ self.x
        self.dbias = dy.sum(axis=0)
        return dy @ self.weight


class Pool:
    """2 x 2 windows side by side."""

    def windows(self, x):
        N, C, H, W = x.shape
        return x.reshape(N, C, H // 2, 2, W // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(N, C, H // 2, W // 2, 4)

    def images(self, windows):
        N, C, OH, OW, _ = windows.shape
        return windows.reshape(N, C, OH, OW, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(N, C, OH * 2, OW * 2)


class MaxPool(Pool):
    def forward(self, x):
        windows = self.windows(x)
        self.largest = windows.argmax(axis=-1)[..., None]
        return np.take_along_axis(windows, self.largest, axis=-1)[..., 0]

    def backward(self, dy):
        windows = np.zeros((*dy.shape, 4), dtype=dy.dtype)
        np.put_along_axis(windows, self.largest, dy[..., None], axis=-1)
        return self.images(windows)


class AvgPool(Pool):
    def forward(self, x):
        return self.windows(x).mean(axis=-1)

    def backward(self, dy):
        return self.images(np.repeat(dy[..., None] / 4, 4, axis=-1))


class ReLU:
    def forward(self, x):
        self.positive = x > 0
        return x * self.positive

    def backward(self, dy):
        return dy * self.positive


class Tanh:
    def forward(self, x):
        self.y = np.tanh(x)
        return self.y

    def backward(self, dy):
        return dy * (1 - self.y**2)


class Flatten:
    def forward(self, x):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy):
        return dy.reshape(self.shape)


def network(net, w):
    if net == "lenet5":
        layers = [Conv(w[0], w[1], 2), Tanh(), AvgPool(), Conv(w[2], w[3], 0), Tanh(), AvgPool(), Flatten()]
        return [*layers, Dense(w[4], w[5]), Tanh(), Dense(w[6], w[7]), Tanh(), Dense(w[8], w[9])]
    if net == "conv_pool":
        return [Conv(w[0], w[1], 1), ReLU(), MaxPool(), Flatten(), Dense(w[2], w[3]), ReLU(), Dense(w[4], w[5])]
    layers = [Conv(w[0], w[1], 1), ReLU(), Conv(w[2], w[3], 1), ReLU(), Flatten()]
    return [*layers, Dense(w[4], w[5]), ReLU(), Dense(w[6], w[7])]


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


class SGD:
    def __init__(self, rate):
        self.rate = rate

    def step(self, weights, gradients):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight -= self.rate * gradient


class Adam:
    def __init__(self, rate, beta1=0.9, beta2=0.999):
        self.rate, self.beta1, self.beta2 = rate, beta1, beta2
        self.t, self.m, self.v = 0, None, None

    def step(self, weights, gradients):
        if self.m is None:
            self.m, self.v = [[np.zeros_like(weight) for weight in weights] for _ in range(2)]
        self.t += 1
        for weight, gradient, m, v in zip(weights, gradients, self.m, self.v, strict=True):
            m[...] = self.beta1 * m + (1 - self.beta1) * gradient
            v[...] = self.beta2 * v + (1 - self.beta2) * gradient**2
            m_hat, v_hat = m / (1 - self.beta1**self.t), v / (1 - self.beta2**self.t)
            weight -= self.rate * m_hat / (np.sqrt(v_hat) + EPSILON)


def make(case):
    return Network(case)


class Network:
    versions = {"numpy": np.__version__}  # noqa: RUF012, not changed
    note = ""

    def __init__(self, case):
        self.batch = case.batch
        self.images, self.labels = case.data()
        self.weights = [np.array(value) for value in case.weights()]
        self.layers = network(case.net, self.weights)
        rate = case.learning_rate
        self.optimizer = Adam(rate) if case.uses_adam else SGD(rate)

    def rows(self, i):
        start = i * self.batch % len(self.images)
        return slice(start, start + self.batch)

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return softmax(x)

    def step(self, i):
        labels = self.labels[self.rows(i)]
        probabilities = self.forward(self.images[self.rows(i)])
        loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
        dy = probabilities.copy()
        dy[np.arange(len(labels)), labels] -= 1
        dy /= len(labels)
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        learned = [layer for layer in self.layers if hasattr(layer, "weight")]
        self.optimizer.step(self.weights, [g for layer in learned for g in (layer.dweight, layer.dbias)])
        return loss

    def infer(self, i):
        return self.forward(self.images[self.rows(i)])
