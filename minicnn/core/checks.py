"""Argument validation: an argument that is not an array, an integer or a fraction gets an error that names it."""

import math
import numbers
import sys

import numpy as np

from minicnn.core.errors import InputError

LARGEST_NUMBER = sys.float_info.max  # of an argument; a larger integer cannot become a float, nor a long one a text


def check_array(x, owner):
    """Refuse anything that is not an array of NumPy's or CuPy's kind.

    Args:
        x: the argument.
        owner: what needs the array, for the message; it is converted to text only for an error.

    Raises:
        InputError: a list, a number, None, or a tensor whose dtype is another library's; a masked array with masked
            values; a sparse array.

    >>> check_array([1.0, 2.0], "the model")
    Traceback (most recent call last):
    minicnn.core.errors.InputError: the model needs an array, got list: convert with np.asarray(x)
    """
    if type(x) is not np.ndarray:
        _check_other_kind(x, owner)


def _check_other_kind(x, owner):
    """Refuse what is not an array, and an array that would lose something when it is read as NumPy's."""
    if hasattr(x, "toarray"):  # SciPy's sparse arrays
        raise InputError(f"{owner} needs an array, got {type(x).__name__}: convert with x.toarray()")
    if getattr(getattr(x, "dtype", None), "kind", None) is None:
        raise InputError(f"{owner} needs an array, got {type(x).__name__}: convert with np.asarray(x)")
    check_unmasked(x, owner)


def check_unmasked(x, owner):
    """Refuse a masked array in which values are masked: the numbers below the mask would be used.

    >>> check_unmasked(np.ma.array([1.0, 2.0], mask=[False, True]), "fit")
    Traceback (most recent call last):
    minicnn.core.errors.InputError: fit got 1 masked values: fill them with x.filled(0), or leave those samples out
    """
    if np.ma.is_masked(x):
        masked = int(np.ma.getmaskarray(x).sum()) if isinstance(x, np.ma.MaskedArray) else "some"
        fix = "fill them with x.filled(0), or leave those samples out"
        raise InputError(f"{owner} got {masked} masked values: {fix}")


def quoted(value, length=120):
    """A value from outside (a path, a name in a file, an argument) as text for a message, never longer than `length`.

    What cannot be printed is escaped, and the middle of a long text is left out.

    >>> quoted("a.png"), quoted("x" * 500, length=20), quoted(10**5000)
    ("'a.png'", "'xxxxxxx ... xxxxxx'", 'int with thousands of digits')
    """
    try:
        text = repr(value if isinstance(value, (bytes, numbers.Number, type(None))) else str(value))
    except ValueError:  # Python refuses to write out more than 4300 digits
        text = f"{type(value).__name__} with thousands of digits"
    if len(text) <= length:
        return text
    half = (length - 5) // 2
    return f"{text[: length - 5 - half]} ... {text[-half:]}"


def is_too_large(value, depth=3):
    """Whether a value is an integer or a fraction of a size above `LARGEST_NUMBER`, or a list that contains one.

    Args:
        value: the argument.
        depth: how many levels of lists within lists are searched; a padding is ((top, bottom), (left, right)).

    >>> is_too_large(10**5000), is_too_large([1, (2, -(10**5000))]), is_too_large(10**300)
    (True, True, False)
    """
    if isinstance(value, (list, tuple)):
        return depth > 0 and any(is_too_large(item, depth - 1) for item in value)
    return isinstance(value, numbers.Rational) and not -LARGEST_NUMBER <= value <= LARGEST_NUMBER


def is_integer(value, minimum):
    """Whether a value is an integer, Python's or NumPy's, of at least `minimum`; True and False are not integers.

    >>> is_integer(3, minimum=1), is_integer(3.0, minimum=1), is_integer(True, minimum=1)
    (True, False, False)
    """
    is_number = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_number and value >= minimum and not is_too_large(value)


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
        raise InputError(f"{owner} needs {name} as an integer of at least {minimum}, got {quoted(value)}")
    return int(value)


def check_flag(value, name, owner):
    """`value` as a bool.

    Raises:
        InputError: anything but True and False, such as a text in the place of a flag.

    >>> check_flag(False, "use_bias", "Dense")
    False
    """
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{owner} needs {name} as True or False, got {quoted(value)}")
    return bool(value)


def check_number(value, name, owner, below=math.inf):
    """`value` as a float of at least 0 and less than `below`.

    Raises:
        InputError: anything else.

    >>> check_number(1, "weight_decay", "SGD")
    1.0
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < below or is_too_large(value):
        limit = "" if below == math.inf else f" and less than {below}"
        raise InputError(f"{owner} needs a {name} of at least 0{limit}, got {quoted(value)}")
    return float(value)


def check_fraction(value, name):
    """Refuse anything that is not a number between 0 and 1, both excluded.

    Raises:
        InputError: anything else; the message contains `name`.

    >>> check_fraction(0.1, "test_fraction")
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < 1:
        raise InputError(f"{name} must lie between 0 and 1, got {quoted(value)}")


def check_classes(classes):
    """The names of classes as a list of str.

    Raises:
        InputError: not a list of texts, or a name that is empty or appears twice.

    >>> check_classes(("cat", "dog"))
    ['cat', 'dog']
    """
    is_list = np.iterable(classes) and not isinstance(classes, (str, dict, set))  # which have an order
    if not is_list or not all(isinstance(name, str) and name for name in classes):
        raise InputError(f"classes must be a list of names, one for each class, got {quoted(classes)}")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise InputError(f"classes must differ, and {quoted(twice)} is there twice")
    return [str(name) for name in classes]
