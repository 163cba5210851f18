"""The door that everything computing on arrays shares: a list or another library's tensor gets a sentence."""

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
