"""The library's own errors: one family, so that one ``except`` catches them all.

Each also is the built-in error a Python programmer would expect in its place.
A message says what was needed, what came, and the likely fix.
"""


class MinicnnError(Exception):
    """Any error raised by minicnn on purpose."""


class InputError(MinicnnError, ValueError):
    """An argument, shape, dtype, label or setting that cannot be right."""


class FileError(MinicnnError, OSError):
    """A file or folder that is missing, broken, not what it claims, or cannot be written."""


class GradientError(MinicnnError, AssertionError):
    """An analytic gradient that disagrees with the numerical one."""


class MissingPackageError(MinicnnError, ImportError):
    """A package that is needed only for what was asked for, and is not installed."""


class BackendError(MinicnnError, RuntimeError):
    """The array backend that was asked for cannot work on this machine."""


class DivergenceError(MinicnnError, FloatingPointError):
    """A training run whose numbers are no longer finite.

    Attributes:
        history: the `History` of the epochs before, or None.
    """

    def __init__(self, message, history=None):
        super().__init__(message)
        self.history = history
