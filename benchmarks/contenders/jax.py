"""JAX: the complete training step as one function, compiled by `jit`; images as (N, H, W, C), which is faster here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.contenders.case import EPSILON


def conv(x, weight, bias, padding):
    return lax.conv_general_dilated(x, weight, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias


def pool(x, start, function):
    return lax.reduce_window(x, start, function, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def lenet5(w, x):
    x = pool(jnp.tanh(conv(x, w[0], w[1], "SAME")), 0.0, lax.add) / 4
    x = pool(jnp.tanh(conv(x, w[2], w[3], "VALID")), 0.0, lax.add) / 4
    x = jnp.tanh(x.reshape(len(x), -1) @ w[4] + w[5])
    x = jnp.tanh(x @ w[6] + w[7])
    return x @ w[8] + w[9]


def conv_pool(w, x):
    x = pool(jax.nn.relu(conv(x, w[0], w[1], "SAME")), -jnp.inf, lax.max)
    x = jax.nn.relu(x.reshape(len(x), -1) @ w[2] + w[3])
    return x @ w[4] + w[5]


def two_conv(w, x):
    x = jax.nn.relu(conv(x, w[0], w[1], "SAME"))
    x = jax.nn.relu(conv(x, w[2], w[3], "SAME"))
    x = jax.nn.relu(x.reshape(len(x), -1) @ w[4] + w[5])
    return x @ w[6] + w[7]


NETWORKS = {"lenet5": lenet5, "conv_pool": conv_pool, "two_conv": two_conv}


def sgd(rate, weights, gradients, state):
    return [w - rate * g for w, g in zip(weights, gradients, strict=True)], state


def adam(rate, weights, gradients, state, beta1=0.9, beta2=0.999):
    t, first, second = state  # the moments m and v of every weight
    t += 1
    first = [beta1 * m + (1 - beta1) * g for m, g in zip(first, gradients, strict=True)]
    second = [beta2 * v + (1 - beta2) * g * g for v, g in zip(second, gradients, strict=True)]
    weights = [
        w - rate * (m / (1 - beta1**t)) / (jnp.sqrt(v / (1 - beta2**t)) + EPSILON)
        for w, m, v in zip(weights, first, second, strict=True)
    ]
    return weights, (t, first, second)


def make(case):
    return Convolution(case) if case.is_layer else Network(case)


class Contender:
    versions = {"jax": jax.__version__}  # noqa: RUF012, not changed
    note = ""


class Network(Contender):
    def __init__(self, case):
        self.batch = case.batch
        images, self.labels = case.data()
        self.images = images.transpose(0, 2, 3, 1).copy()
        self.weights = [jnp.array(value) for value in case.weights_channels_last()]
        self.state = ()
        if case.uses_adam:
            zeros = [jnp.zeros_like(w) for w in self.weights]
            self.state = (0, zeros, [jnp.zeros_like(w) for w in self.weights])
        network = NETWORKS[case.net]
        optimizer = functools.partial(adam if case.uses_adam else sgd, case.learning_rate)

        def loss_and_logits(weights, images, labels):
            logits = network(weights, images)
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
            return -chosen.mean(), logits

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def train_step(weights, state, images, labels):
            (loss, logits), gradients = jax.value_and_grad(loss_and_logits, has_aux=True)(weights, images, labels)
            n_correct = (logits.argmax(axis=1) == labels).sum()
            return *optimizer(weights, gradients, state), loss, n_correct

        self.train_step = train_step
        self.predict = jax.jit(lambda weights, images: jax.nn.softmax(network(weights, images)))

    def rows(self, i):
        start = i * self.batch % len(self.images)
        return slice(start, start + self.batch)

    def step(self, i):
        loss, _ = self.step_on(self.rows(i))
        return loss

    def step_on(self, rows):
        self.weights, self.state, loss, n_correct = self.train_step(
            self.weights, self.state, self.images[rows], self.labels[rows]
        )
        jax.block_until_ready(self.weights)
        return float(loss), int(n_correct)

    def infer(self, i):
        return self.predict(self.weights, self.images[self.rows(i)]).block_until_ready()

    def epoch(self):
        """JAX has no `fit`: this is the loop that its users write."""
        total_loss, n_correct = 0.0, 0
        order = np.random.default_rng(0).permutation(len(self.images))
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            loss, n_correct_here = self.step_on(rows)
            total_loss += loss * len(rows)
            n_correct += n_correct_here
        return total_loss / len(order), n_correct / len(order)


class Convolution(Contender):
    def __init__(self, case):
        self.x, self.dy = (jnp.array(array.transpose(0, 2, 3, 1)) for array in case.data())
        self.weights = [jnp.array(value) for value in case.weights_channels_last()]

        @jax.jit
        def forward_and_backward(weights, x, dy):
            y, backward = jax.vjp(lambda weights, x: conv(x, *weights, "SAME"), weights, x)
            return y, *backward(dy)

        self.forward_and_backward = forward_and_backward
        self.forward = jax.jit(lambda weights, x: conv(x, *weights, "SAME"))

    def step(self, i):
        y, (dweight, _), dx = jax.block_until_ready(self.forward_and_backward(self.weights, self.x, self.dy))
        return [float(number[0, 0, 0, 0]) for number in (y, dx, dweight)]

    def infer(self, i):
        return self.forward(self.weights, self.x).block_until_ready()
