"""The library's own errors: one family, so that one ``except`` catches them all.

Each also is the built-in error a Python programmer would expect in its place.
A message says what was needed, what came, and the likely fix.
"""


class MinicnnError(Exception):
    """Any error raised by minicnn on purpose.

    >>> import minicnn as mc
    >>> try:
    ...     mc.Dense(0)
    ... except MinicnnError as error:
    ...     print(type(error).__name__)
    InputError
    """


class InputError(MinicnnError, ValueError):
    """An argument, shape, dtype, label or setting that cannot be right.

    >>> import minicnn as mc
    >>> mc.Dense(0)
    Traceback (most recent call last):
    minicnn.core.errors.InputError: Dense needs units as an integer of at least 1, got 0
    """


class UnknownNameError(MinicnnError, AttributeError):
    """A name that this library does not have, and other libraries do; the message says where to find it.

    >>> import minicnn as mc
    >>> mc.MSELoss
    Traceback (most recent call last):
    minicnn.core.errors.UnknownNameError: minicnn has no MSELoss: it is mc.MeanSquaredError()
    """


class FileError(MinicnnError, OSError):
    """A file or folder that is missing, broken, not what it claims, or cannot be written.

    >>> import minicnn as mc
    >>> try:
    ...     mc.load("no such file.npz")
    ... except FileError as error:
    ...     print("no such file.npz" in str(error))
    True
    """


class CheckError(MinicnnError, AssertionError):
    """A layer or a loss that breaks what `gradcheck` or `testing` checks; the message says how to mend it.

    It is an AssertionError, so that a test fails with it.

    >>> import minicnn as mc
    >>> class Careless(mc.Layer):
    ...     def forward(self, x, training=False):
    ...         x *= 2                               # writes into the array of the caller
    ...         return x, lambda dy: 2 * dy
    >>> try:
    ...     mc.testing.check_layer(Careless, (3,))
    ... except CheckError as error:
    ...     print(type(error).__name__)
    CheckError
    """


class GradientError(CheckError):
    """An analytic gradient that disagrees with the numerical one.

    >>> import minicnn as mc, numpy as np
    >>> class Wrong(mc.Layer):
    ...     def forward(self, x, training=False):
    ...         return x * x, lambda dy: dy * x      # the derivative is 2 * x
    >>> try:
    ...     mc.gradcheck.check(Wrong(), np.ones((2, 3)))
    ... except GradientError as error:
    ...     print("analytic" in str(error))
    True
    """


class MissingPackageError(MinicnnError, ImportError):
    """A package that is needed only for what was asked for, and is not installed.

    >>> issubclass(MissingPackageError, ImportError)     # `except ImportError` catches it, too
    True
    """


class BackendError(MinicnnError, RuntimeError):
    """The array backend that was asked for cannot work on this machine.

    >>> import minicnn as mc
    >>> try:
    ...     mc.use("abacus")
    ... except BackendError:
    ...     print("there is no such backend")
    there is no such backend
    """


class DivergenceError(MinicnnError, FloatingPointError):
    """A training run whose numbers are no longer finite.

    Args:
        message: what happened, and where it began.
        history: the `History` of the epochs before, or None.

    Attributes:
        history: as in the arguments.

    >>> DivergenceError("the loss is nan in epoch 1, batch 3").history is None
    True
    """

    def __init__(self, message: str, history: dict | None = None):
        super().__init__(message)
        self.history = history


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a training run, after a batch; a run with a checkpoint is saved.

    It is a KeyboardInterrupt, so that a notebook or a script does not continue with a half-trained network. For the
    same reason it is not a MinicnnError: that is an Exception, and code that reports errors and goes on would catch it.

    Args:
        message: what was saved, and how to resume the run.
        history: the `History` of the epochs that are done, or None.
        signal: the number of the signal.

    Attributes:
        history: the `History` of the epochs that are done.
        signal: the number of the signal, such as `signal.SIGINT`.

    >>> try:
    ...     raise TrainingInterrupted("the run is saved in run.npz")
    ... except KeyboardInterrupt as error:
    ...     print(error)
    the run is saved in run.npz
    """

    def __init__(self, message: str, history: dict | None = None, signal: int = 2):
        super().__init__(message)
        self.history, self.signal = history, signal
