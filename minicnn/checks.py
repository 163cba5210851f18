"""The doors that the whole library shares: what is no array, no whole number or no share gets a sentence."""

import numbers

from minicnn.errors import InputError


def check_array(x, owner):
    """Refuse what is no array of NumPy's kind, which NumPy and CuPy make.

    Args:
        x: what was given.
        owner: who needs the array, for the message; it is turned into a text only where it is needed.

    Raises:
        InputError: a list, a number, None, or a tensor whose dtype is another library's.

    >>> check_array([1.0, 2.0], "the model")
    Traceback (most recent call last):
    minicnn.errors.InputError: the model needs an array, got list: convert with np.asarray(x)
    """
    if getattr(getattr(x, "dtype", None), "kind", None) is None:
        raise InputError(f"{owner} needs an array, got {type(x).__name__}: convert with np.asarray(x)")


def is_whole(value, least):
    """Whether a value is a whole number, Python's or NumPy's, of at least `least`; True and False are none.

    >>> is_whole(3, least=1), is_whole(3.0, least=1), is_whole(True, least=1)
    (True, False, False)
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least


def whole_number(value, name, owner, least=1):
    """`value` as an int of at least `least`.

    Args:
        value: what was given.
        name: of the argument, for the message.
        owner: who needs it, for the message.
        least: the smallest that is right.

    Raises:
        InputError: anything else.

    >>> whole_number(3, "epochs", "fit")
    3
    """
    if not is_whole(value, least):
        raise InputError(f"{owner} needs {name} as a whole number of at least {least}, got {value!r}")
    return int(value)


def check_share(value, name):
    """Refuse what is no number between 0 and 1, both left out.

    Raises:
        InputError: anything else; the message has `name` in it.

    >>> check_share(0.1, "test_fraction")
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < 1:
        raise InputError(f"{name} must lie between 0 and 1, got {value!r}")
