"""The networks that are compared, how each is trained, and what the lab got with it.

The three networks of the lab's tasks 1 to 3 are trained as in the lab. Of the four others only the lab's accuracy is
known, so they are trained in the simplest way.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import minicnn as mc

INPUT_SHAPE = (1, 28, 28)


class Model(NamedTuple):
    """One row of the comparison.

    Attributes:
        network: a function of `minicnn.networks`.
        optimizer: a function of the number of steps in an epoch that returns a new optimizer.
        training: the same in words.
        lab: the lab's test accuracy on notMNIST_large, in percent.
    """

    network: Callable
    optimizer: Callable
    training: str
    lab: float


MODELS = {
    "logistic_regression": Model(mc.networks.logistic_regression, lambda steps: mc.SGD(0.01), "SGD 0.01", 81),
    "dense": Model(mc.networks.dense, lambda steps: mc.SGD(0.01), "SGD 0.01", 10),
    "dense_dropout": Model(
        mc.networks.dense_dropout,
        lambda steps: mc.SGD(0.01, weight_decay=1e-3),
        "SGD 0.01, L2 0.001, dropout 0.5",
        72,
    ),
    "dense_falling": Model(
        mc.networks.dense,
        lambda steps: mc.SGD(mc.schedules.ExponentialDecay(0.1, every=steps, factor=0.7)),
        "SGD 0.1, times 0.7 an epoch",
        72,
    ),
    "two_conv": Model(mc.networks.two_conv, lambda steps: mc.SGD(0.01), "SGD 0.01", 88.4),
    "conv_pool": Model(mc.networks.conv_pool, lambda steps: mc.SGD(0.01), "SGD 0.01", 87.4),
    "lenet5": Model(mc.networks.lenet5, lambda steps: mc.Adam(0.001), "Adam 0.001", 87.0),
}


def size(name):
    """How many parameters a model has, and the multiply-adds of its forward pass per image; no weights are made.

    >>> size("lenet5")
    (61706, 416520)
    """
    shape, parameters, multiply_adds = INPUT_SHAPE, 0, 0
    for layer in MODELS[name].network(input_shape=None).layers:
        parameters += sum(math.prod(weights) for weights in layer.parameter_shapes(shape).values())
        multiply_adds += layer.multiply_adds(shape)
        shape = layer.output_shape(shape)
    return parameters, multiply_adds


def expected_seconds(name, trained, evaluated):
    """About how long a model takes on two cores, estimated from its multiply-adds; only for the progress bar.

    Args:
        trained: how many images are trained on, each counted once for every epoch.
        evaluated: how many images go through the forward pass only.
    """
    _, multiply_adds = size(name)
    return 0.1 + trained * (3 * multiply_adds / 4e10 + 6e-5) + evaluated * (multiply_adds / 6e10 + 1e-5)
