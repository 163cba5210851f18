"""Convolutional networks from scratch on NumPy, or on CuPy for the GPU.

Layers are nouns in CamelCase, functions are verbs in snake_case. Read
`minicnn/core/` in this order: `window.py`, `im2col.py`, `operations.py`,
`parameter.py`, `layer.py`, `layers/`, `losses.py`, `optimizers.py`,
`sequential.py`. `python benchmarks/reading.py` prints the functions of one
training step in the order in which they are entered.
"""

import os
import typing

from minicnn import backends, console, core, datasets, exchange, networks, testing
from minicnn.backends import to_device, to_numpy, use
from minicnn.core import gradcheck, im2col, initializers, layers, losses, metrics, optimizers, schedules
from minicnn.core.errors import (
    BackendError,
    CheckError,
    DivergenceError,
    FileError,
    GradientError,
    InputError,
    MinicnnError,
    MissingPackageError,
    TrainingInterrupted,
    UnknownNameError,
)
from minicnn.core.layers import (
    ELU,
    GELU,
    AvgPool2D,
    BatchNorm,
    Branches,
    Clip,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    GlobalMaxPool2D,
    GroupNorm,
    Hardswish,
    Layer,
    LayerNorm,
    LeakyReLU,
    LocalResponseNorm,
    LogSoftmax,
    MaxPool2D,
    PReLU,
    ReLU,
    Residual,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    UpSampling2D,
    ZeroPad2D,
)
from minicnn.core.losses import BinaryCrossEntropy, Hinge, MeanSquaredError, SoftmaxCrossEntropy
from minicnn.core.optimizers import SGD, Adagrad, Adam, RMSprop
from minicnn.core.parameter import Parameter, State
from minicnn.core.schedules import Constant, CosineDecay, ExponentialDecay, StepDecay, WarmUp
from minicnn.inspect import attribution, plots
from minicnn.inspect.comparison import Comparison
from minicnn.inspect.explain import Explanation, explain
from minicnn.model import Sequential, load
from minicnn.training.augmentation import Augmentation
from minicnn.training.callbacks import (
    AveragedWeights,
    Callback,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
)
from minicnn.training.history import History

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022, the order of the reference
    "Sequential",
    "load",
    "use",
    "to_device",
    "to_numpy",
    "explain",
    "Explanation",
    "History",
    "Augmentation",
    # layers
    "Layer",
    "Parameter",
    "State",
    "Conv2D",
    "Dense",
    "Flatten",
    "MaxPool2D",
    "AvgPool2D",
    "GlobalMaxPool2D",
    "GlobalAvgPool2D",
    "ReLU",
    "LeakyReLU",
    "PReLU",
    "ELU",
    "GELU",
    "SiLU",
    "Hardswish",
    "Clip",
    "Sigmoid",
    "Tanh",
    "Softmax",
    "LogSoftmax",
    "Dropout",
    "BatchNorm",
    "LayerNorm",
    "GroupNorm",
    "LocalResponseNorm",
    "Residual",
    "Branches",
    "Conv2DTranspose",
    "UpSampling2D",
    "ZeroPad2D",
    # losses, optimizers, schedules
    "SoftmaxCrossEntropy",
    "BinaryCrossEntropy",
    "MeanSquaredError",
    "Hinge",
    "SGD",
    "Adam",
    "RMSprop",
    "Adagrad",
    "Constant",
    "StepDecay",
    "ExponentialDecay",
    "CosineDecay",
    "WarmUp",
    # callbacks
    "Callback",
    "EarlyStopping",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "LearningRateScheduler",
    "AveragedWeights",
    "CSVLogger",
    "LambdaCallback",
    # errors
    "MinicnnError",
    "InputError",
    "UnknownNameError",
    "FileError",
    "BackendError",
    "MissingPackageError",
    "DivergenceError",
    "TrainingInterrupted",
    "CheckError",
    "GradientError",
    # modules
    "Comparison",
    "attribution",
    "backends",
    "core",
    "datasets",
    "exchange",
    "gradcheck",
    "im2col",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "networks",
    "optimizers",
    "plots",
    "schedules",
    "testing",
]

use(os.environ.get("MINICNN_BACKEND") or "numpy")


if not typing.TYPE_CHECKING:  # a type checker would take every name for one that the package has

    def __getattr__(name):
        """Called for a name that the package does not have: the error says where it is."""
        raise core.habits.unknown_name("minicnn", name, core.habits.NAMES)


def _curves(history: History) -> bytes:
    """The training curves of a history as a PNG file.

    Args:
        history: the `History`.

    Returns:
        bytes.
    """
    return plots.png(plots.training_curves(history))


History.draw = _curves

# What IPython looks for: in a notebook an error of the library is a few lines, and an interrupt one.
for _error in (MinicnnError, TrainingInterrupted):
    _error._render_traceback_ = console.short_traceback  # type: ignore[union-attr]
