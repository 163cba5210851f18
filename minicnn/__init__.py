"""Convolutional networks from scratch on NumPy, or on CuPy for the GPU.

Layers are nouns in CamelCase, functions are verbs in snake_case. Start reading
in `minicnn/layers/activations.py`, then `im2col.py` and `layers/conv.py`.
"""

from minicnn import (
    attribution,
    backend,
    datasets,
    gradcheck,
    im2col,
    initializers,
    layers,
    losses,
    metrics,
    networks,
    optimizers,
    plots,
    schedules,
)
from minicnn.backend import to_device, to_numpy, use
from minicnn.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
)
from minicnn.errors import (
    BackendError,
    DivergenceError,
    FileError,
    GradientError,
    InputError,
    MinicnnError,
    MissingPackageError,
)
from minicnn.explain import Explanation, explain
from minicnn.layers import (
    AvgPool2D,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from minicnn.losses import MeanSquaredError, SoftmaxCrossEntropy
from minicnn.model import Sequential, load
from minicnn.optimizers import SGD, Adam
from minicnn.parameter import Parameter
from minicnn.progress import History
from minicnn.schedules import Constant, CosineDecay, ExponentialDecay, StepDecay, WarmUp

__version__ = "0.1.0"
