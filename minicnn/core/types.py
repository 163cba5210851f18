"""The names in the signatures: what stands for an array, a shape, a backward pass.

They are for readers, editors and type checkers. Nothing is checked with them while a program runs.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

#: An array of the backend in use: NumPy's, or CuPy's, which has the same methods.
Array = np.ndarray

#: What NumPy can read as an array, such as a list of numbers or another library's tensor.
ArrayLike = Any

#: Lengths of axes, as `(C, H, W)`.
Shape = tuple[int, ...]

DType = str | type | np.dtype

#: One number for the height and the width, or one for each.
Pair = int | tuple[int, int]

#: The pixels around an image, in each of the forms that `Window` takes.
Pads = str | int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]

#: A backward pass: from `dy`, the gradient of the output, to `dx`, that of the input.
Backward = Callable[..., Array]

#: A function as in `minicnn.initializers`: `initializer(shape, rng, dtype)`.
Initializer = Callable[..., Array]

Path = str | os.PathLike
