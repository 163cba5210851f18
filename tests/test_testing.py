"""The public checks of a layer: each fails on a layer with its fault and names it, and lets the others pass."""

import doctest
import pathlib
import random

import numpy as np
import pytest

import minicnn as mc
from minicnn.core import operations

VECTORS = (6,)


class OverwritesInput(mc.Layer):
    def forward(self, x, training=False):
        x *= 2
        return x, lambda dy: 2 * dy


class OverwritesGradient(mc.Layer):
    def forward(self, x, training=False):
        def backward(dy):
            dy *= 2
            return dy

        return 2 * x, backward


class Random(mc.Layer):
    def forward(self, x, training=False):
        mask = np.random.rand(*x.shape) > 0.5
        return x * mask, lambda dy: dy * mask


class OwnRandom(mc.Layer):
    def __init__(self):
        self.random = random.Random(0)

    def forward(self, x, training=False):
        factor = self.random.random()
        return x * factor, lambda dy: dy * factor


class Counting(mc.Layer):
    calls = 0

    def forward(self, x, training=False):
        self.calls += 1
        factor = self.calls
        return x * factor, lambda dy: dy * factor


class SpentMask(mc.Layer):
    """Its backward pass writes into what the closure keeps."""

    def forward(self, x, training=False):
        mask = (x > 0).astype(x.dtype)

        def backward(dy):
            np.multiply(mask, dy, out=mask)
            return mask.copy()

        return np.maximum(x, 0), backward


class FirstBackwardOnly(mc.Layer):
    """Its backward pass is right the first time that the layer is used."""

    used = False

    def forward(self, x, training=False):
        def backward(dy):
            factor = 0 if self.used else 1
            self.used = True
            return dy * factor

        return x.copy(), backward


class RunningMean(mc.Layer):
    """Its mean would be lost on save."""

    def __init__(self):
        self.mean = 0.0

    def forward(self, x, training=False):
        mean = self.mean
        if training:
            self.mean = (0.9 * self.mean + x.mean(axis=0) / 10).astype(x.dtype)
        return x - mean, lambda dy: dy


class Lying(mc.Layer):
    def output_shape(self, input_shape):
        return (input_shape[0] + 1,)

    def forward(self, x, training=False):
        return 2 * x, lambda dy: 2 * dy


class Widening(mc.Layer):
    def forward(self, x, training=False):
        factor = np.sqrt(2.0)
        return x * factor, lambda dy: dy * factor


class Single(mc.Layer):
    """It computes in float32 and returns the dtype of its input."""

    def forward(self, x, training=False):
        y = np.tanh(x.astype("float32")).astype(x.dtype)
        return y, lambda dy: dy * (1 - y * y)


class SingleBackward(mc.Layer):
    def forward(self, x, training=False):
        return 2 * x, lambda dy: (2 * dy.astype("float32")).astype(dy.dtype)


class Mixing(mc.Layer):
    independent_samples = True

    def forward(self, x, training=False):
        return x - x.mean(axis=0), lambda dy: dy - dy.mean(axis=0)


class Centring(mc.Layer):
    """It subtracts the mean of the batch, and outside training a mean that it keeps: right, as it stands here."""

    independent_samples = "means"

    def __init__(self):
        self.kept = mc.State(np.zeros((1, *VECTORS)))

    def forward(self, x, training=False):
        if not training:
            return x - self.kept.value.astype(x.dtype), lambda dy: dy
        mean = self.mean(x)
        self.once(lambda: setattr(self.kept, "value", (self.kept.value + mean) / 2))
        return x - mean, lambda dy: dy - self.mean_of_gradient(dy)

    def mean(self, x):
        return operations.current.mean(x, (0,))[0]

    def mean_of_gradient(self, dy):
        return self.mean(dy)

    def once(self, update):
        operations.current.once(update)


class MeanOfChunk(Centring):
    def mean(self, x):
        return x.mean(axis=0, keepdims=True)


class MeanOfChunkBackward(Centring):
    def mean_of_gradient(self, dy):
        return dy.mean(axis=0, keepdims=True)


class UpdateInEachChunk(Centring):
    def once(self, update):
        update()


class MixingOutsideTraining(Centring):
    """What its samples share are means, but outside training, too."""

    independent_samples = "means"

    def forward(self, x, training=False):
        return super().forward(x, training=True)


class MaskOnSelf(mc.Layer):
    def forward(self, x, training=False):
        self.mask = x > 0
        return x * self.mask, lambda dy: dy * self.mask


class Normalizing(mc.Layer):
    """Batch normalization whose backward pass takes the mean and the deviation for constants: right in evaluation."""

    def __init__(self):
        self.mean, self.std = mc.State(np.zeros((1, 1))), mc.State(np.ones((1, 1)))

    def forward(self, x, training=False):
        mean, std = self.mean.value.astype(x.dtype), self.std.value.astype(x.dtype)
        if training:
            mean, std = x.mean(axis=0, keepdims=True), x.std(axis=0, keepdims=True)
            self.mean.value, self.std.value = (self.mean.value + mean) / 2, (self.std.value + std) / 2
        return (x - mean) / std, lambda dy: dy / std


class IgnoresTheRequest(mc.Dense):
    def forward(self, x, training=False):
        y, backward = super().forward(x, training)
        return y, lambda dy, input_gradient=True: backward(dy)


class MemoryOrder(mc.Layer):
    def forward(self, x, training=False):
        factors = np.arange(x.size, dtype=x.dtype)

        def times(a):
            return (a.ravel(order="K") * factors).reshape(a.shape)

        return times(x), times


class OneBackendOnly(mc.Layer):
    def forward(self, x, training=False):
        factor = 2 if operations.current.name == "numpy" else 3
        return factor * x, lambda dy: factor * dy


class Unsaved(mc.Layer):
    """Its weight is not a Parameter, and not the same in a new layer."""

    def __init__(self):
        self.factor = random.random()

    def forward(self, x, training=False):
        return self.factor * x, lambda dy: self.factor * dy


class Renamed(mc.Layer):
    def __init__(self, size=3):
        self.width = size

    def forward(self, x, training=False):
        return 2 * x, lambda dy: 2 * dy


#: For each check: layers that it must refuse, and what its message must contain.
FAULTY = {
    "untouched": [(OverwritesInput, "forward changes its input x"), (OverwritesGradient, "backward changes dy")],
    "repeated_forward": [(Random, "global generator"), (OwnRandom, "attributes do not hold"), (Counting, "calls")],
    "repeated_backward": [(SpentMask, "first call"), (FirstBackwardOnly, "second backward pass")],
    "state": [(RunningMean, r"mean.*lost on save.*State"), (Counting, "calls")],
    "shapes": [(Lying, r"promises \(4, 7\).*gives \(4, 6\)")],
    "dtype": [(Widening, "for float32 numbers the output is float64")],
    "precision": [(Single, "computed in float32"), (SingleBackward, "gradient of x is computed in float32")],
    "samples": [
        (Mixing, "in evaluation: it claims independent_samples.*Set independent_samples = False$"),
        (MixingOutsideTraining, "in evaluation: it claims independent_samples.*Set independent_samples = False$"),
        (MeanOfChunk, 'in training: .* the output.*"evaluation".*every mean'),
        (MeanOfChunkBackward, 'in training: .* the gradient of x.*"evaluation".*every mean'),
        (UpdateInEachChunk, "every chunk of a batch changes kept.*once"),
    ],
    "two_batches": [(MaskOnSelf, "not on self")],
    "gradients": [(Normalizing, r"in training:\n +WRONG x(.|\n)*in evaluation:\n +ok")],
    "input_gradient": [(lambda: IgnoresTheRequest(3), "input_gradient=False")],
    "memory_order": [(MemoryOrder, "Fortran")],
    "backends": [(OneBackendOnly, 'on the backend "numpy"')],
    "saving": [(Unsaved, "another layer"), (Renamed, r"self\.size")],
    "resuming": [(RunningMean, "resumed training run is not the run that was never stopped")],
}


def test_every_check_has_a_layer_that_fails_it():
    assert set(FAULTY) == set(mc.testing.CHECKS)


@pytest.mark.parametrize(
    ("name", "make", "message"), [(name, *fault) for name, faults in FAULTY.items() for fault in faults]
)
def test_a_planted_fault_is_found_and_named(name, make, message):
    with pytest.raises(mc.CheckError, match=message):
        mc.testing.CHECKS[name](mc.testing.Case(make, VECTORS))
    with pytest.raises(mc.CheckError):
        mc.testing.check_layer(make, VECTORS)


# What gradcheck says of them: not that the input was badly chosen


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (OverwritesInput, "forward changes its input"),
        (OverwritesGradient, "backward changes dy"),
        (Random, "global generator"),
        (OwnRandom, r"default_rng\(0\)"),
        (Counting, "calls"),
        (SpentMask, "first call"),
        (FirstBackwardOnly, "second backward pass"),
        (Lying, "promises"),
        (Widening, "float32"),
        (Single, "float32"),
        (SingleBackward, "float32"),
        (Mixing, "independent_samples"),
        (MeanOfChunk, "independent_samples"),
        (UpdateInEachChunk, "independent_samples"),
        (Normalizing, "in training"),
    ],
)
def test_gradcheck_names_the_fault(make, message, rng):
    with pytest.raises(mc.CheckError, match=message):
        mc.gradcheck.check(make(), rng.normal(size=(4, 6)))


def test_a_wide_layer_inside_a_model_is_named(rng):
    model = mc.Sequential([mc.Dense(5), Widening(), mc.Dense(3)])
    with pytest.raises(mc.CheckError, match="float32"):
        mc.gradcheck.check(model, rng.normal(size=(4, 6)))


@pytest.mark.parametrize("make", [Centring, mc.BatchNorm, lambda: mc.Residual([mc.Dense(6), mc.BatchNorm()])])
def test_a_layer_whose_samples_share_means_passes(make, rng):
    before = operations.current
    mc.testing.check_layer(make, VECTORS)
    mc.gradcheck.check(make(), rng.normal(size=(5, 6)))
    assert operations.current is before


# What can be checked


class Product(mc.Layer):
    """Two inputs."""

    def output_shape(self, input_shapes):
        return input_shapes[0]

    def forward(self, x, training=False):
        a, b = x
        return a * b, lambda dy: (dy * b, dy * a)


class Embedding(mc.Layer):
    """Integer inputs, which have no gradient."""

    weight_initializer = staticmethod(mc.initializers.glorot_uniform)

    def parameter_shapes(self, input_shape):
        return {"weight": (5, 3)}

    def output_shape(self, input_shape):
        return (*input_shape, 3)

    def forward(self, x, training=False):
        def backward(dy):
            dweight = np.zeros_like(self.weight.value)
            np.add.at(dweight, x, dy)
            self.weight.add_gradient(dweight)

        return self.weight.value[x], backward


def test_layers_with_several_and_with_integer_inputs_pass():
    mc.testing.check_layer(Product, ((6,), (6,)))
    mc.testing.check_layer(Embedding, (2,), x=np.array([[0, 4], [4, 4], [1, 2]]))


def test_a_gradient_that_is_zero_by_construction_passes():
    """That of a bias before a normalization of each channel."""
    mc.testing.check_layer(lambda: mc.Sequential([mc.Conv2D(2, 3), mc.GroupNorm(2)]), (1, 5, 4))


def test_one_test_for_each_layer_and_check():
    mark = mc.testing.parametrize_with_checks([(mc.Tanh, VECTORS), (Random, VECTORS)], skip=("resuming", "saving"))
    name, parameters = mark.args
    assert name == "check" and len(parameters) == 2 * (len(mc.testing.CHECKS) - 2)
    failed = []
    for parameter in parameters:
        (check,) = parameter.values
        try:
            check()
        except mc.CheckError:
            failed.append(parameter.id)
    assert "Random()-6-repeated_forward" in failed and not any("Tanh" in name for name in failed)


@pytest.mark.parametrize(
    ("arguments", "options", "named"),
    [
        ((mc.Tanh(), VECTORS), {}, "makes a new layer each time"),
        ((lambda layer=mc.Tanh(): layer, VECTORS), {}, "makes a new layer each time"),  # noqa: B008
        ((mc.SoftmaxCrossEntropy, VECTORS), {}, "makes a new layer each time"),
        ((mc.Tanh, VECTORS), {"skip": "gradient"}, "there is no check gradient"),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments, options, named):
    with pytest.raises(mc.InputError, match=named):
        mc.testing.check_layer(*arguments, **options)


def test_the_backend_in_use_stays_in_use():
    mc.use("plain")
    try:
        mc.testing.check_layer(mc.Tanh, VECTORS)
        with pytest.raises(mc.CheckError):
            mc.testing.CHECKS["backends"](mc.testing.Case(OneBackendOnly, VECTORS))
        assert mc.backends.current().name == "plain"
    finally:
        mc.use("numpy")


DOCS = pathlib.Path(__file__).parents[1] / "docs" / "check-your-layer.md"


@pytest.mark.skipif(not DOCS.exists(), reason="the pages are beside the tests in a checkout only")
def test_the_examples_of_the_page_run():
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(DOCS), module_relative=False, optionflags=flags)
    assert result.attempted > 8 and result.failed == 0


def test_the_page_names_every_check():
    text = DOCS.read_text(encoding="utf-8")
    assert [name for name in mc.testing.CHECKS if f"| `{name}` |" not in text] == []
