"""Exercise 14: LeNet-5 of your own layers, trained.

Now you put your layers together. LeNet-5 reads images of 28 x 28 pixels:

    conv1   6 filters of 5 x 5, padding 2     (N, 6, 28, 28)    tanh, average pooling 2 x 2     (N, 6, 14, 14)
    conv2  16 filters of 5 x 5                (N, 16, 10, 10)   tanh, average pooling 2 x 2     (N, 16, 5, 5)
    flatten                                   (N, 400)
    dense1                                    (N, 120)          tanh
    dense2                                    (N, 84)           tanh
    dense3                                    (N, 10)           these are the logits

The parameters are a dict of arrays: "conv1.weight", "conv1.bias", "conv2.weight", ... to "dense3.bias".

The backward pass of a row of layers is the chain rule: call the backward functions in the reverse order, each with what
the one before returned. Collect the gradients of the parameters on the way.

`train` is the training loop, for any network of this form. The check of "trained" trains your network with your loop on
synthetic letters, and tells the accuracy. It may take a minute if your layers are slow.
"""

import numpy as np
from ex05_convolution_backward import convolution_layer
from ex06_pooling import average_pool
from ex07_activations import tanh
from ex08_cross_entropy import softmax_cross_entropy
from ex09_dense import dense
from ex10_optimizers import adam_step

from minicnn.exercises import check

# ruff: noqa: F401, RUF059 (the imports and the first lines are for your code)


def lenet5(x, parameters):
    """LeNet-5.

        (1) h = average_pool(tanh(convolution_layer(x, conv1, padding=2)), (2, 2), 2)
        (2) h = average_pool(tanh(convolution_layer(h, conv2)), (2, 2), 2)
        (3) h = h.reshape(N, 400), and logits = dense(tanh(dense(tanh(dense(h, dense1)), dense2)), dense3)
        (4) backward: the backward functions of (3), (2) and (1) in the reverse order, none left out

    Args:
        x: images (N, 1, 28, 28).
        parameters: {name: array}.

    Returns:
        logits (N, 10), and backward(dlogits), which returns a dict: {name: the gradient of that parameter}.
    """
    h, conv1_backward = convolution_layer(x, parameters["conv1.weight"], parameters["conv1.bias"], padding=2)
    h, tanh1_backward = tanh(h)
    h, pool1_backward = average_pool(h, (2, 2), 2)
    raise NotImplementedError("write the rest of lenet5")


def train(network, parameters, x, labels, epochs, batch_size, learning_rate, rng):
    """Train a network with Adam.

        (1) in each epoch: order = rng.permutation(len(x)), cut into batches of batch_size; the last may be smaller
        (2) for each batch: loss, dlogits = softmax_cross_entropy(logits, labels), both of the rows of the batch
        (3) gradients = backward(dlogits)
        (4) each parameter: w, m, v = adam_step(w, g, m, v, t, learning_rate), m and v kept for each; t = 1, 2, ...

    Args:
        network: a function like lenet5: network(x, parameters) returns logits and backward.
        parameters: {name: array}, the first weights.
        x: images (N, C, H, W).
        labels: integers (N,).
        epochs, batch_size: integers.
        learning_rate: a number.
        rng: a numpy.random.Generator.

    Returns:
        the trained parameters {name: array}, and a list with the loss of every batch.
    """
    raise NotImplementedError("write train")


def test_lenet5():
    check("lenet5", lenet5)


def test_train():
    check("train", train)


def test_trained():
    check("trained", train, lenet5)
