"""The layers, one file a family."""

from minicnn.core.layer import Layer
from minicnn.core.layers.activations import (
    ELU,
    GELU,
    Activation,
    Clip,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from minicnn.core.layers.blocks import Block, Branches, Residual
from minicnn.core.layers.conv import Conv2D, convolution_by_loops
from minicnn.core.layers.dense import Dense, Flatten
from minicnn.core.layers.dropout import Dropout
from minicnn.core.layers.local_response import LocalResponseNorm
from minicnn.core.layers.normalization import BatchNorm, GroupNorm, LayerNorm
from minicnn.core.layers.pooling import AvgPool2D, GlobalAvgPool2D, GlobalMaxPool2D, MaxPool2D
from minicnn.core.layers.upsampling import Conv2DTranspose, UpSampling2D, ZeroPad2D

#: Every layer of the library by name: the closed table that saved models are built from.
LAYERS = {
    layer.__name__: layer
    for layer in (
        Conv2D,
        MaxPool2D,
        AvgPool2D,
        GlobalAvgPool2D,
        GlobalMaxPool2D,
        Conv2DTranspose,
        UpSampling2D,
        ZeroPad2D,
        Flatten,
        Dense,
        ReLU,
        LeakyReLU,
        PReLU,
        ELU,
        GELU,
        SiLU,
        Hardswish,
        Clip,
        Tanh,
        Sigmoid,
        Softmax,
        LogSoftmax,
        Dropout,
        BatchNorm,
        LayerNorm,
        GroupNorm,
        LocalResponseNorm,
        Residual,
        Branches,
    )
}

__all__ = ["LAYERS", "Activation", "Block", "Layer", "convolution_by_loops", *LAYERS]
