"""The networks that are compared, how each is trained, and what the lab got with it.

The three networks of the lab's tasks 1 to 3 are trained as in the lab. Of the four others only the lab's accuracy is
known, so they are trained in the simplest way. `small_resnet` is what came after the lab, trained as in `modern.py`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import modern

import minicnn as mc

INPUT_SHAPE = (1, 28, 28)


class Model(NamedTuple):
    """One row of the comparison.

    Attributes:
        network: a function of `minicnn.networks`.
        optimizer: a function of the number of steps in an epoch, and of the epochs, that returns a new optimizer.
        training: the same in words.
        lab: the lab's test accuracy on notMNIST_large, in percent; None where the lab had no such network.
        others: a function that returns the other arguments of `fit`.
    """

    network: Callable
    optimizer: Callable
    training: str
    lab: float | None = None
    others: Callable = dict


MODELS = {
    "logistic_regression": Model(mc.networks.logistic_regression, lambda steps, epochs: mc.SGD(0.01), "SGD 0.01", 81),
    "dense": Model(mc.networks.dense, lambda steps, epochs: mc.SGD(0.01), "SGD 0.01", 10),
    "dense_dropout": Model(
        mc.networks.dense_dropout,
        lambda steps, epochs: mc.SGD(0.01, weight_decay=1e-3),
        "SGD 0.01, L2 0.001, dropout 0.5",
        72,
    ),
    "dense_falling": Model(
        mc.networks.dense,
        lambda steps, epochs: mc.SGD(mc.schedules.ExponentialDecay(0.1, every=steps, factor=0.7)),
        "SGD 0.1, times 0.7 an epoch",
        72,
    ),
    "two_conv": Model(mc.networks.two_conv, lambda steps, epochs: mc.SGD(0.01), "SGD 0.01", 88.4),
    "conv_pool": Model(mc.networks.conv_pool, lambda steps, epochs: mc.SGD(0.01), "SGD 0.01", 87.4),
    "lenet5": Model(mc.networks.lenet5, lambda steps, epochs: mc.Adam(0.001), "Adam 0.001", 87.0),
    "small_resnet": Model(
        mc.networks.small_resnet,
        lambda steps, epochs: modern.adam(steps * epochs),
        "Adam 0.004 falling to 0, augmentation, label smoothing 0.1, averaged weights",
        others=modern.generalization,
    ),
}


def size(name):
    """How many parameters a model has, and the multiply-adds of its forward pass per image; no large weights are made.

    >>> size("lenet5")
    (61706, 416520)
    """
    shape, parameters, multiply_adds = INPUT_SHAPE, 0, 0
    for layer in MODELS[name].network(input_shape=None).layers:
        if layer.layers_inside():  # their shapes are known once it is built
            layer.build(shape)
            parameters += sum(parameter.value.size for parameter in layer.parameters().values())
        else:
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
