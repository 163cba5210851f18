"""Argument validation: what is accepted and what is refused, at the exact borders."""

import math

import numpy as np
import pytest

import minicnn as mc
from minicnn.core import checks


class Sparse:
    """Like SciPy's, which NumPy reads as one object."""

    dtype, shape = np.dtype(float), (2, 2)

    def toarray(self):
        return np.zeros(self.shape)


NO_ARRAYS = {
    "a list": ([1.0], r"np\.asarray\(x\)"),
    "nothing": (None, r"np\.asarray\(x\)"),
    "a sparse array": (Sparse(), r"x\.toarray\(\)"),
    "masked values": (np.ma.array([1.0, 2.0, 3.0], mask=[1, 1, 0]), r"2 masked values.*x\.filled\(0\)"),
    "masked values in a list": ([1.0, np.ma.masked], r"np\.asarray"),
}


@pytest.mark.parametrize(("value", "fix"), NO_ARRAYS.values(), ids=NO_ARRAYS)
def test_what_is_not_an_array_is_refused_with_the_fix(value, fix):
    with pytest.raises(mc.InputError, match=f"the model.*{fix}"):
        checks.check_array(value, "the model")


def test_arrays_of_other_kinds_pass_where_nothing_is_lost():
    for array in (np.zeros(2), np.float32(3), np.ma.array([1.0, 2.0]), np.zeros(2).view(np.recarray)):
        checks.check_array(array, "the model")


def test_masks_of_other_libraries_are_not_lost():
    """Such as pandas' nullable integers."""

    class Nullable:
        _mask = np.array([False, True])

    with pytest.raises(mc.InputError, match=r"fit got some masked values.*x\.filled\(0\)"):
        checks.check_unmasked(Nullable(), "fit")


@pytest.mark.parametrize("length", [20, 21, 120])
def test_a_quoted_text_is_never_longer_than_its_length(length):
    options = {} if length == 120 else {"length": length}
    fits = "x" * (length - 2)  # and two quotation marks
    assert checks.quoted(fits, **options) == f"'{fits}'"
    for size in (length - 1, 10 * length):
        text = checks.quoted("a" * size + "z" * size, **options)
        assert len(text) == length
        start, end = text.split(" ... ")
        assert set(start) == {"'", "a"} and set(end) == {"'", "z"} and len(start) - len(end) in (0, 1)


def test_what_is_quoted_is_a_text_unless_it_is_a_number_or_bytes():
    assert [checks.quoted(value) for value in (3, 0.5, b"a", "a\n", [1])] == ["3", "0.5", "b'a'", r"'a\n'", "'[1]'"]


def accepts(check, *arguments, **options):
    try:
        check(*arguments, **options)
    except mc.InputError:
        return False
    return True


@pytest.mark.parametrize(
    ("check", "accepted", "refused"),
    [
        (lambda v: checks.check_integer(v, "epochs", "fit"), [1, 5, np.int8(1)], [0, -1, True, 1.0, "1", None]),
        (lambda v: checks.check_integer(v, "seed", "fit", minimum=0), [0, 1], [-1, False]),
        (lambda v: checks.check_flag(v, "shuffle", "fit"), [True, False, np.True_], [0, 1, None, "yes"]),
        (lambda v: checks.check_number(v, "rate", "SGD"), [0, 1e300, np.float32(2)],
         [-1e-300, math.inf, math.nan, True, False, "1", 1j, None]),
        (lambda v: checks.check_number(v, "rate", "SGD", below=1), [0, 0.999], [1, 1.5]),
        (lambda v: checks.check_fraction(v, "test_fraction"), [1e-300, 0.5, 1 - 2**-53],
         [0, 1, 0.0, 1.0, -0.5, 1.5, True, False, "0.5", None, math.nan]),
    ],
    ids=["integer", "integer from 0", "flag", "number", "number below 1", "fraction"],
)  # fmt: skip
def test_the_exact_borders(check, accepted, refused):
    assert all(accepts(check, value) for value in accepted)
    assert not any(accepts(check, value) for value in refused)


def test_the_message_has_the_limit_only_where_there_is_one():
    with pytest.raises(mc.InputError, match="at least 0, got '-'"):
        checks.check_number("-", "rate", "SGD")
    with pytest.raises(mc.InputError, match="at least 0 and less than 1, got 1"):
        checks.check_number(1, "rate", "SGD", below=1)
