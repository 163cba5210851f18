"""Clipping by global norm, against gradients that are multiplied out."""

import numpy as np
import pytest

import minicnn as mc
from minicnn.backends.numpy.gradients import LowRank
from minicnn.core import operations
from minicnn.core.optimizers import gradient_norm


def squared_norm(parameter):
    return operations.current.squared_norm(parameter.gradients)


def parameter_with(rng, rows=40, columns=50, whole=0, products=0, dtype="float64"):
    """A parameter, and its gradient computed the plain way."""
    parameter = mc.Parameter(rng.standard_normal((rows, columns)).astype(dtype))
    expected = np.zeros((rows, columns))
    for _ in range(whole):
        gradient = rng.standard_normal((rows, columns)).astype(dtype)
        parameter.add_gradient(gradient)
        expected += gradient
    for _ in range(products):
        left, right = rng.standard_normal((rows, 3)).astype(dtype), rng.standard_normal((3, columns)).astype(dtype)
        parameter.add_gradient(LowRank(left, right))
        expected += left.astype("float64") @ right.astype("float64")
    return parameter, expected


@pytest.mark.parametrize(("whole", "products"), [(1, 0), (0, 1), (2, 0), (0, 2), (1, 1), (2, 3)])
def test_norm_is_that_of_the_explicit_gradient(whole, products):
    parameter, expected = parameter_with(np.random.default_rng(0), whole=whole, products=products)
    assert float(squared_norm(parameter)) == pytest.approx((expected**2).sum(), rel=1e-12)
    assert np.allclose(parameter.grad, expected)  # computing the norm changed nothing


def test_norm_of_products_that_cancel_is_not_negative():
    rng = np.random.default_rng(1)
    parameter = mc.Parameter(np.zeros((30, 40)))
    left, right = rng.standard_normal((30, 2)), rng.standard_normal((2, 40))
    parameter.add_gradient(LowRank(left, right))
    parameter.add_gradient(LowRank(left, -right))
    assert 0 <= float(squared_norm(parameter)) < 1e-10


def test_norm_of_an_exploding_float32_gradient_does_not_overflow():
    parameter = mc.Parameter(np.zeros((2, 2), "float32"))
    parameter.add_gradient(np.full((2, 2), 1e30, "float32"))
    assert float(gradient_norm({"w": parameter})) == pytest.approx(2e30)


def test_norm_without_gradients_is_zero():
    assert gradient_norm({"w": mc.Parameter(np.zeros(3))}) == 0


@pytest.mark.parametrize("optimizer", [mc.SGD, mc.Adam])
@pytest.mark.parametrize("clip_norm", [0.5, 1e9])
def test_a_clipped_step_is_the_step_of_the_scaled_gradient(optimizer, clip_norm):
    rng = np.random.default_rng(2)
    clipped, explicit = {}, {}
    expected = {}
    for name, (whole, products) in {"a": (1, 0), "b": (0, 2), "c": (1, 1)}.items():
        clipped[name], expected[name] = parameter_with(rng, whole=whole, products=products)
        explicit[name] = mc.Parameter(clipped[name].value.copy())
    norm = np.sqrt(sum((gradient**2).sum() for gradient in expected.values()))
    for name, parameter in explicit.items():
        parameter.add_gradient(expected[name] * min(1, clip_norm / norm))
    optimizer(0.1, clip_norm=clip_norm).step(clipped)
    optimizer(0.1).step(explicit)
    for name in clipped:
        assert np.allclose(clipped[name].value, explicit[name].value, rtol=1e-12, atol=1e-12), name


def test_the_dtype_of_the_weights_is_kept():
    parameter, _ = parameter_with(np.random.default_rng(3), products=1, dtype="float32")
    mc.SGD(clip_norm=0.1).step({"w": parameter})
    assert parameter.value.dtype == np.float32


def test_clipping_never_multiplies_a_product_out_whole():
    """2000 x 3000 numbers would take 48 MB; its factors, in float64, take 0.4 MB."""
    import tracemalloc

    rng = np.random.default_rng(4)
    parameter = mc.Parameter(np.zeros((2000, 3000), "float32"))
    factors = rng.standard_normal((2000, 8)).astype("float32"), rng.standard_normal((8, 3000)).astype("float32")
    parameter.add_gradient(LowRank(*factors))
    tracemalloc.start()
    squared_norm(parameter)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6


@pytest.mark.parametrize("clip_norm", [0, -1, float("nan"), "1", True])
def test_a_clip_norm_that_cannot_be_is_refused(clip_norm):
    with pytest.raises(mc.InputError, match="clip_norm"):
        mc.SGD(clip_norm=clip_norm)
