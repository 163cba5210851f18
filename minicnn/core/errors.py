"""The library's own errors: one family, so that one ``except`` catches them all.

Each also is the built-in error a Python programmer would expect in its place.
A message says what was needed, what came, and the likely fix.
"""


class MinicnnError(Exception):
    """Any error raised by minicnn on purpose."""


class InputError(MinicnnError, ValueError):
    """An argument, shape, dtype, label or setting that cannot be right."""


class UnknownNameError(MinicnnError, AttributeError):
    """A name that this library does not have, and other libraries do; the message says where to find it."""


class FileError(MinicnnError, OSError):
    """A file or folder that is missing, broken, not what it claims, or cannot be written."""


class CheckError(MinicnnError, AssertionError):
    """A layer or a loss that breaks what `gradcheck` or `testing` checks; the message says how to mend it.

    It is an AssertionError, so that a test fails with it.
    """


class GradientError(CheckError):
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

    def __init__(self, message: str, history: dict | None = None):
        super().__init__(message)
        self.history = history


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a training run, after a batch; a run with a checkpoint is saved.

    It is a KeyboardInterrupt, so that a notebook or a script does not continue with a half-trained network. For the
    same reason it is not a MinicnnError: that is an Exception, and code that reports errors and goes on would catch it.

    Attributes:
        history: the `History` of the epochs that are done.
        signal: the number of the signal, such as `signal.SIGINT`.
    """

    def __init__(self, message: str, history: dict | None = None, signal: int = 2):
        super().__init__(message)
        self.history, self.signal = history, signal
