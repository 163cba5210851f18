"""Elementwise formulas as one kernel each, by CuPy's `fuse`.

As array code, `dy * (1 - y * y)` is three kernels, and each reads and writes all numbers. `fuse` calls the formula
once with stand-ins for its arguments, notes what it computes, and compiles one kernel from that.
"""

import re
import types
from typing import Any

import numpy as np

from minicnn.backends.cupy.layout import batch_first, batch_last, is_batch_innermost

_kernels: dict[tuple, Any] = {}  # (array module, code of each formula) -> the kernel


def fuse_elementwise(xp, formulas, *arguments):
    """Formulas in one kernel: the first of the arguments, each other one of the result before it.

    The result has the memory layout of the first argument.

    A kernel is made once for each formula in the source code. So whatever differs from call to call must be among the
    arguments; a closure, a method or a function with default values runs kernel by kernel. And a formula must not
    compute with numbers alone, such as `1 - beta`: in a kernel CuPy does that in float16. Pass the result instead.

    Args:
        xp: the array module.
        formulas: functions of arrays and numbers that call NumPy's functions as `np.name`; they may change an array
            in place.
        arguments: arrays, and numbers, which are converted to the first array's dtype.
    """
    if not all(map(_is_fixed, formulas)):
        return _compose(formulas)(*arguments)
    kernel = _kernel(xp, formulas)
    first = next(item for item in arguments if isinstance(item, xp.ndarray))
    # Python's numbers would be float64 for some versions of CuPy, and so the result.
    arguments = [first.dtype.type(item) if isinstance(item, float) else item for item in arguments]
    if not is_batch_innermost(first):
        return kernel(*arguments)
    arguments = [batch_last(item) if getattr(item, "ndim", 0) == first.ndim else item for item in arguments]
    result = kernel(*arguments)
    if isinstance(result, tuple):
        return tuple(map(batch_first, result))
    return None if result is None else batch_first(result)


def _is_fixed(formula):
    """Whether a formula's code says all that it computes."""
    return isinstance(formula, types.FunctionType) and not (
        formula.__closure__ or formula.__defaults__ or formula.__kwdefaults__
    )


def _compose(formulas):
    def composed(*arguments):
        result = formulas[0](*arguments)
        for formula in formulas[1:]:
            result = formula(result)
        return result

    return composed


def _kernel(xp, formulas):
    key = xp, *(formula.__code__ for formula in formulas)
    if key not in _kernels:
        name = re.sub(r"\W", "_", "_".join(formula.__qualname__ for formula in formulas)).replace("__locals__", "_")
        _kernels[key] = xp.fuse(kernel_name=name)(_compose([_with_module(formula, xp) for formula in formulas]))
    return _kernels[key]


def _with_module(formula, xp):
    """The formula with the array module under NumPy's name: NumPy's own functions do not accept the stand-ins."""
    names = {name: xp if value is np else value for name, value in formula.__globals__.items()}
    return types.FunctionType(formula.__code__, names, formula.__name__)
