"""First weights: random numbers of the right variance.

A unit adds `fan_in` products. If every weight had the same spread whatever
the fan, the sums would grow from layer to layer or fade away, and with them
the gradients of the backward pass. Each function here draws weights whose
variance undoes that: `glorot` for symmetric activations such as tanh, `he`
for ReLU, which sets half of its input to zero.

Every function has the signature `(shape, rng, dtype)` and draws with NumPy,
so that the CPU and the GPU start from the same weights.

Sources: Glorot & Bengio, "Understanding the difficulty of training deep
feedforward neural networks", 2010; He et al., "Delving deep into rectifiers",
2015.
"""

import math

import numpy as np

from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.core.types import DType, Initializer, Shape


def fans(shape: Shape) -> tuple[int, int]:
    """How many inputs a unit reads and how many units an input feeds: `(fan_in, fan_out)`.

    For a dense weight `(units, features)` these are the features and the units; for a kernel
    `(F, C, KH, KW)` both count the `KH * KW` taps.

    A shape does not tell the groups of a convolution, so it is the shape of one group, `(F / groups, C / groups, KH,
    KW)`: an input feeds the filters of its own group only. With all F filters counted, `glorot` would draw the weights
    of a depthwise layer of 64 channels and 3x3 taps with a 33rd of the variance, 2 / (9 + 576) instead of 2 / (9 + 9),
    and after five such layers little of the signal would be left. `Conv2D` draws each group by itself (`by_groups`).

    Args:
        shape: of a weight, two axes or more: (units, features), or (F / groups, C / groups, KH, KW).

    Returns:
        (fan_in, fan_out), two integers.

    Raises:
        InputError: a shape of fewer than two axes.

    >>> fans((120, 400)), fans((16, 6, 5, 5))
    ((400, 120), (150, 400))
    """
    if len(shape) < 2:
        raise InputError(f"a weight needs two axes or more to have fans, got shape {shape}")
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def by_groups(
    initializer: Initializer, groups: int, shape: Shape, rng: np.random.Generator, dtype: DType = "float32"
) -> np.ndarray:
    """The kernels of a grouped convolution: those of each group drawn by themselves, because it is a convolution alone.

    Args:
        initializer: a function as in this module.
        groups: G; groups are consecutive along the first axis.
        shape: of all kernels, (F, C / G, KH, KW).
        rng, dtype: as in `glorot_uniform`.

    Returns:
        an array of that shape.

    >>> depthwise = by_groups(glorot_normal, 1000, (1000, 1, 3, 3), np.random.default_rng(0))
    >>> depthwise.shape, round(float(depthwise.var()) * (9 + 9), 1)          # a unit reads 9 inputs, an input feeds 9
    ((1000, 1, 3, 3), 2.0)
    """
    one = (shape[0] // groups, *shape[1:])
    return np.concatenate([initializer(one, rng, dtype) for _ in range(groups)])


def _uniform(shape, rng, dtype, variance):
    limit = math.sqrt(3 * variance)  # a uniform variable on [-limit, limit] has the variance limit**2 / 3
    value = rng.random(shape, dtype=np.dtype(dtype))
    value *= 2 * limit
    value -= limit
    return value


def _normal(shape, rng, dtype, variance):
    value = rng.standard_normal(shape, dtype=np.dtype(dtype))
    value *= math.sqrt(variance)
    return value


def glorot_uniform(shape: Shape, rng: np.random.Generator, dtype: DType = "float32") -> np.ndarray:
    """Uniform with variance `2 / (fan_in + fan_out)`; Keras's default, and ours.

    Args:
        shape: of the weight, two axes or more, as in `fans`.
        rng: a `numpy.random.Generator`.
        dtype: "float32" or "float64".

    Returns:
        a NumPy array; the other initializers take and return the same.

    Raises:
        InputError: a shape that has no fans.

    >>> weight = glorot_uniform((100, 300), np.random.default_rng(0))
    >>> weight.dtype, bool(abs(weight).max() <= (6 / 400) ** 0.5)      # the variance of [-a, a] is a**2 / 3
    (dtype('float32'), True)

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
    """
    return _uniform(shape, rng, dtype, 2 / sum(fans(shape)))


def glorot_normal(shape: Shape, rng: np.random.Generator, dtype: DType = "float32") -> np.ndarray:
    """Normal with variance `2 / (fan_in + fan_out)`; the arguments are those of `glorot_uniform`.

    Args:
        shape: of the weight, two axes or more, as in `fans`.
        rng: a `numpy.random.Generator`.
        dtype: "float32" or "float64".

    Returns:
        a NumPy array of that shape.

    Raises:
        InputError: a shape that has no fans.

    >>> round(float(glorot_normal((100, 300), np.random.default_rng(0)).var()) * 400, 1)
    2.0

    Source: Glorot & Bengio, 2010.
    """
    return _normal(shape, rng, dtype, 2 / sum(fans(shape)))


def he_uniform(shape: Shape, rng: np.random.Generator, dtype: DType = "float32") -> np.ndarray:
    """Uniform with variance `2 / fan_in`; the arguments are those of `glorot_uniform`.

    Args:
        shape: of the weight, two axes or more, as in `fans`.
        rng: a `numpy.random.Generator`.
        dtype: "float32" or "float64".

    Returns:
        a NumPy array of that shape.

    Raises:
        InputError: a shape that has no fans.

    >>> round(float(he_uniform((100, 300), np.random.default_rng(0)).var()) * 300, 1)
    2.0

    Source: He et al., "Delving deep into rectifiers", 2015.
    """
    return _uniform(shape, rng, dtype, 2 / fans(shape)[0])


def he_normal(shape: Shape, rng: np.random.Generator, dtype: DType = "float32") -> np.ndarray:
    """Normal with variance `2 / fan_in`; the arguments are those of `glorot_uniform`.

    Args:
        shape: of the weight, two axes or more, as in `fans`.
        rng: a `numpy.random.Generator`.
        dtype: "float32" or "float64".

    Returns:
        a NumPy array of that shape.

    Raises:
        InputError: a shape that has no fans.

    >>> round(float(he_normal((100, 300), np.random.default_rng(0)).var()) * 300, 1)
    2.0

    Source: He et al., "Delving deep into rectifiers", 2015.
    """
    return _normal(shape, rng, dtype, 2 / fans(shape)[0])


def zeros(shape: Shape, rng: np.random.Generator, dtype: DType = "float32") -> np.ndarray:
    """All zero, of any shape: the usual start of a bias.

    Args:
        shape: of the array.
        rng: not used; here because all initializers are called alike.
        dtype: "float32" or "float64".

    Returns:
        a NumPy array of that shape.

    >>> zeros((3,), rng=None)
    array([0., 0., 0.], dtype=float32)
    """
    return np.zeros(shape, dtype=dtype)


def ones(shape: Shape, rng: np.random.Generator, dtype: DType = "float32") -> np.ndarray:
    """All one, of any shape: the usual start of a scale.

    Args:
        shape: of the array.
        rng: not used; here because all initializers are called alike.
        dtype: "float32" or "float64".

    Returns:
        a NumPy array of that shape.

    >>> ones((3,), rng=None)
    array([1., 1., 1.], dtype=float32)
    """
    return np.ones(shape, dtype=dtype)


#: Every initializer of the library by name: what saved models may ask for.
INITIALIZERS = {
    function.__name__: function for function in (glorot_uniform, glorot_normal, he_uniform, he_normal, zeros, ones)
}


def name_of(function: Initializer) -> str:
    """The name of one of the library's initializers; None for anything else.

    Args:
        function: an initializer, or anything else.

    Returns:
        a str, or None.

    >>> name_of(he_normal)
    'he_normal'
    """
    return next((name for name, known in INITIALIZERS.items() if function is known), None)


def named(name: str) -> Initializer:
    """The library's initializer of a name: the inverse of `name_of`.

    Args:
        name: such as "he_normal".

    Returns:
        the function.

    Raises:
        InputError: there is none of that name.

    >>> named("he_normal") is he_normal
    True
    """
    if name not in INITIALIZERS:
        raise InputError(f"there is no initializer {quoted(name)}: the library's are {', '.join(INITIALIZERS)}")
    return INITIALIZERS[name]
