"""Argument validation: an argument that is not an array, an integer or a fraction gets an error that names it."""

import numbers

from minicnn.core.errors import InputError


def check_array(x, owner):
    """Refuse anything that is not an array of NumPy's or CuPy's kind.

    Args:
        x: the argument.
        owner: what needs the array, for the message; it is converted to text only for an error.

    Raises:
        InputError: a list, a number, None, or a tensor whose dtype is another library's.

    >>> check_array([1.0, 2.0], "the model")
    Traceback (most recent call last):
    minicnn.core.errors.InputError: the model needs an array, got list: convert with np.asarray(x)
    """
    if getattr(getattr(x, "dtype", None), "kind", None) is None:
        raise InputError(f"{owner} needs an array, got {type(x).__name__}: convert with np.asarray(x)")


def quoted(value, length=120):
    """A value from outside (a path, a name in a file, an argument) as text for a message, never longer than `length`.

    What cannot be printed is escaped, and the middle of a long text is left out.

    >>> quoted("a.png"), quoted("x" * 500, length=20)
    ("'a.png'", "'xxxxxxx ... xxxxxx'")
    """
    text = repr(value if isinstance(value, (bytes, int, float)) else str(value))
    if len(text) <= length:
        return text
    half = (length - 5) // 2
    return f"{text[: length - 5 - half]} ... {text[-half:]}"


def is_integer(value, minimum):
    """Whether a value is an integer, Python's or NumPy's, of at least `minimum`; True and False are not integers.

    >>> is_integer(3, minimum=1), is_integer(3.0, minimum=1), is_integer(True, minimum=1)
    (True, False, False)
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= minimum


def check_integer(value, name, owner, minimum=1):
    """`value` as an int of at least `minimum`.

    Args:
        value: the argument.
        name: the argument's name, for the message.
        owner: what needs it, for the message.
        minimum: the smallest value allowed.

    Raises:
        InputError: anything else.

    >>> check_integer(3, "epochs", "fit")
    3
    """
    if not is_integer(value, minimum):
        raise InputError(f"{owner} needs {name} as an integer of at least {minimum}, got {value!r}")
    return int(value)


def check_fraction(value, name):
    """Refuse anything that is not a number between 0 and 1, both excluded.

    Raises:
        InputError: anything else; the message contains `name`.

    >>> check_fraction(0.1, "test_fraction")
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < 1:
        raise InputError(f"{name} must lie between 0 and 1, got {value!r}")
