"""The layers, one file a family."""

from minicnn.core.layer import Layer
from minicnn.core.layers.activations import Activation, ReLU, Sigmoid, Softmax, Tanh
from minicnn.core.layers.conv import Conv2D, convolution_by_loops
from minicnn.core.layers.dense import Dense, Flatten
from minicnn.core.layers.dropout import Dropout
from minicnn.core.layers.pooling import AvgPool2D, GlobalAvgPool2D, MaxPool2D

#: Every layer of the library by name: the closed table that saved models are built from.
LAYERS = {
    layer.__name__: layer
    for layer in (
        Conv2D,
        MaxPool2D,
        AvgPool2D,
        GlobalAvgPool2D,
        Flatten,
        Dense,
        ReLU,
        Tanh,
        Sigmoid,
        Softmax,
        Dropout,
    )
}

__all__ = ["LAYERS", "Activation", "Layer", "convolution_by_loops", *LAYERS]
