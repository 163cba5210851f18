"""Argument validation: what is accepted and what is refused, at the exact borders."""

import fractions
import inspect
import itertools
import math

import numpy as np
import pytest
from layer_cases import CASES

import minicnn as mc
from minicnn.core import checks
from minicnn.core.window import Window

HUGE = 10**5000  # Python writes out 4300 digits at most


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
    values = (3, 0.5, 1j, None, b"a", "a\n", [1])
    assert [checks.quoted(value) for value in values] == ["3", "0.5", "1j", "None", "b'a'", r"'a\n'", "'[1]'"]


def test_what_is_too_long_for_python_to_write_out_is_quoted_by_its_type():
    for value in (HUGE, [HUGE], {1: HUGE}, fractions.Fraction(1, HUGE)):
        assert checks.quoted(value) == f"{type(value).__name__} with thousands of digits"


def accepts(check, *arguments, **options):
    try:
        check(*arguments, **options)
    except mc.InputError:
        return False
    return True


@pytest.mark.parametrize(
    ("check", "accepted", "refused"),
    [
        (lambda v: checks.check_integer(v, "epochs", "fit"), [1, 5, np.int8(1), 10**308],
         [0, -1, True, 1.0, "1", None, 10**309, HUGE, [HUGE]]),
        (lambda v: checks.check_integer(v, "seed", "fit", minimum=0), [0, 1], [-1, False]),
        (lambda v: checks.check_flag(v, "shuffle", "fit"), [True, False, np.True_], [0, 1, None, "yes"]),
        (lambda v: checks.check_number(v, "rate", "SGD"), [0, 1e300, np.float32(2), 10**308],
         [-1e-300, math.inf, math.nan, True, False, "1", 1j, None, 10**309, HUGE, fractions.Fraction(HUGE)]),
        (lambda v: checks.check_number(v, "rate", "SGD", below=1), [0, 0.999], [1, 1.5]),
        (lambda v: checks.check_fraction(v, "test_fraction"), [1e-300, 0.5, 1 - 2**-53],
         [0, 1, 0.0, 1.0, -0.5, 1.5, True, False, "0.5", None, math.nan, HUGE]),
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


MADE = {type(made).__name__: made for made in [make() for make, _ in CASES]} | {
    type(made).__name__: made
    for made in [
        *(mc.SGD(), mc.Adam(), mc.RMSprop(), mc.Adagrad(), mc.SoftmaxCrossEntropy(), mc.Hinge(), mc.Constant(0.1)),
        *(mc.StepDecay(0.1, every=2), mc.ExponentialDecay(0.1, every=2, factor=0.5), mc.CosineDecay(0.1, steps=2)),
        *(mc.WarmUp(mc.Constant(0.1), steps=2), mc.Augmentation(shift=1), mc.EarlyStopping(), mc.ModelCheckpoint("a")),
        *(mc.ReduceLROnPlateau(), mc.AveragedWeights(), mc.CSVLogger("a"), mc.LambdaCallback(), mc.Sequential()),
        mc.LearningRateScheduler(min),
    ]
}


@pytest.mark.parametrize("made", [made for made in MADE.values() if made.arguments()], ids=lambda m: type(m).__name__)
def test_a_number_out_of_all_proportion_is_refused_whatever_argument_it_is(made):
    """Python cannot make a float of it, nor a text for a message."""
    values = (HUGE, -HUGE, 10**309, -(10**309), (HUGE, 1), [[1, HUGE], [1, 1]], fractions.Fraction(HUGE))
    for name, value in itertools.product(made.arguments(), values):
        with pytest.raises(mc.InputError, match=rf"^{type(made).__name__} needs numbers .* as {name}, got"):
            type(made)(**made.arguments() | {name: value})


NETWORKS = ["two_conv", "conv_pool", "lenet5", "logistic_regression", "dense", "dense_dropout", "small_resnet"]
NETWORKS = [getattr(mc.networks, name) for name in NETWORKS]


@pytest.mark.parametrize(
    ("network", "name"), [(network, name) for network in NETWORKS for name in inspect.signature(network).parameters]
)
def test_the_networks_refuse_it_too(network, name):
    with pytest.raises(mc.InputError):
        network(**{name: (HUGE,) * 3 if name in ("input_shape", "filters") else HUGE})


def small_model():
    return mc.Sequential([mc.Dense(3)], input_shape=(2,))


X, LABELS = np.ones((3, 2), "float32"), np.array([0, 1, 2])


@pytest.mark.parametrize(
    "call",
    [
        lambda: Window(HUGE),
        lambda: Window(3, padding=((HUGE, 0), (0, 0))),
        lambda: mc.ReLU(HUGE),
        lambda: mc.Dense(3, HUGE),
        lambda: mc.Sequential([mc.Dense(3)]).build((HUGE,)),
        lambda: small_model().add(HUGE),
        lambda: small_model().summary(HUGE),
        lambda: small_model().predict(X, batch_size=HUGE),
        lambda: small_model().evaluate(X, LABELS, batch_size=HUGE),
        lambda: small_model().fit(X, LABELS, epochs=HUGE),
        lambda: small_model().fit(X, LABELS, batch_size=[HUGE]),
        lambda: small_model().fit(X, LABELS, validation_split=HUGE),
        lambda: setattr(mc.SGD(), "learning_rate", HUGE),
        lambda: setattr(small_model(), "classes", [HUGE]),
        lambda: mc.metrics.confusion_matrix(LABELS, LABELS, classes=HUGE),
        lambda: mc.metrics.top_k_accuracy(X, LABELS, k=HUGE),
        lambda: mc.datasets.normalize(X, HUGE),
        lambda: mc.datasets.load_letters(HUGE),
    ],
)
def test_functions_and_methods_refuse_it_too(call):
    with pytest.raises(mc.InputError):
        call()
