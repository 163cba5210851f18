"""The arguments of a call: what fits no signature gets a sentence, and `repr` shows what is not the default.

All but the first arguments of the library's constructors are given by name. So
`Dense(3, "relu")` cannot mean a dense layer whose `use_bias` is "relu".
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from minicnn.core import habits
from minicnn.core.checks import LARGEST_NUMBER, is_too_large, quoted
from minicnn.core.errors import InputError

Function = TypeVar("Function", bound=Callable)


def explained(function: Function) -> Function:
    """A method whose wrong call raises an InputError with the signature and the likely fix, not a bare TypeError.

    A number that is too large to be a float is refused, too: it could neither be computed with nor shown.

    >>> class Box:
    ...     @explained
    ...     def fill(self, count, *, color="red"):
    ...         return count, color
    >>> Box().fill(3, "blue")
    Traceback (most recent call last):
    minicnn.core.errors.InputError: fill(count, *, color='red'): too many positional arguments; all after * have names
    """

    names = list(inspect.signature(function).parameters)[1:]

    @functools.wraps(function)
    def call(self, *arguments, **named):
        for name, value in (*zip(names, arguments, strict=False), *named.items()):
            if is_too_large(value):
                needs = f"numbers of a size up to {LARGEST_NUMBER:.1e} as {name}"
                raise InputError(f"{_name(self, function)} needs {needs}, got {quoted(value)}")
        try:
            return function(self, *arguments, **named)
        except TypeError as error:
            if error.__traceback__.tb_next is not None:  # an error inside the function
                raise
        raise _call_error(function, self, arguments, named)

    return call  # type: ignore[return-value]


def _name(owner, function):
    """What the user called: a class, or a method."""
    return type(owner).__name__ if function.__name__ == "__init__" else function.__name__


def _call_error(function, owner, arguments, named):
    """The error for a call that does not fit the signature."""
    signature = inspect.signature(function)
    name = _name(owner, function)
    parameters = list(signature.parameters.values())[1:]
    shown = [p.replace(default=p.default if p.default is p.empty else _Shown(p.default)) for p in parameters]
    shown = signature.replace(
        parameters=[p.replace(annotation=p.empty) for p in shown], return_annotation=inspect.Signature.empty
    )
    hints = [habits.ARGUMENTS[key] for key in named if key not in signature.parameters and key in habits.ARGUMENTS]
    try:
        signature.bind(owner, *arguments, **named)
        reason = "this call does not fit"
    except TypeError as error:
        reason = str(error)
    if reason.startswith("too many positional"):
        reason += "; all after * have names" if any(p.kind is p.KEYWORD_ONLY for p in parameters) else ""
        hints += [habits.POSITIONS[name]] if name in habits.POSITIONS else []
    return InputError(": ".join([f"{name}{shown}", reason, *hints]))


class _Shown:
    """A default value as a signature shows it: a function by its name."""

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return getattr(self.value, "__name__", repr(self.value))


class Configured:
    """What is made with arguments that it keeps: the base of layers, losses, optimizers, schedules and callbacks.

    The arguments of the constructor are kept as attributes of the same names. `repr` reads them from there, and so
    does what saves and compares.

    >>> class Box(Configured):
    ...     def __init__(self, size, *, color="red"):
    ...         self.size, self.color = size, color
    >>> Box(3), Box(3, color="blue")
    (Box(3), Box(3, color='blue'))
    """

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = explained(cls.__init__)

    @explained
    def __init__(self) -> None:
        pass

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments by name; `...` for one that is not kept under its name."""
        return {name: getattr(self, name, ...) for name in inspect.signature(type(self)).parameters}

    def __getattr__(self, name):  # called where nothing of this name was found
        if name in habits.ATTRIBUTES:
            raise habits.unknown_name(type(self).__name__, name, habits.ATTRIBUTES)
        return self.__getattribute__(name)  # raises Python's own error, also the one inside a property

    def __repr__(self):
        shown = []
        parameters = inspect.signature(type(self)).parameters
        for name, value in self.arguments().items():
            default = parameters[name].default
            text = "..." if value is ... else getattr(value, "__name__", repr(value))
            if default is inspect.Parameter.empty and parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY:
                shown.append(text)
            elif repr(value) != repr(default):
                shown.append(f"{name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"
