"""What every layer must do, checked over the one list of layers: the public checks, and what they cannot know."""

import numpy as np
import pytest
from layer_cases import CASES, all_layers, built

import minicnn as mc


@pytest.fixture(scope="module", params=["numpy", "plain"], autouse=True)
def backend(request):
    """Everything here holds for the formulas of the core and for the fast backend."""
    yield mc.use(request.param)
    mc.use("numpy")


@mc.testing.parametrize_with_checks(CASES)
def test_every_layer_passes_every_check(check):
    check()


def run(layer, x, dy_seed=5):
    """Output, input gradient and parameter gradients for a random upstream gradient."""
    for parameter in layer.parameters().values():
        parameter.clear_gradient()
    y, backward = layer.forward(x, training=False)
    dy = np.random.default_rng(dy_seed).normal(size=y.shape).astype(y.dtype)
    dx = backward(dy)
    return y, dx, {name: parameter.grad for name, parameter in layer.parameters().items()}


@all_layers
def test_the_same_input_gives_the_same_bits(make, shape, rng):
    x = rng.normal(size=(3, *shape)).astype("float32")
    first, second = run(built(make, shape, "float32"), x), run(built(make, shape, "float32"), x)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    for name in first[2]:
        np.testing.assert_array_equal(first[2][name], second[2][name])


@all_layers
def test_bad_input_is_refused(make, shape, rng):
    layer = built(make, shape, "float32")
    x = rng.normal(size=(3, *shape)).astype("float32")
    with pytest.raises(mc.InputError):
        layer.forward(np.ones(x.shape, dtype=int))
    any_shape = (mc.layers.Activation, mc.Flatten, mc.Softmax, mc.LogSoftmax, mc.LocalResponseNorm, mc.Dropout)
    if len(shape) == 3 and not isinstance(layer, any_shape):
        with pytest.raises(mc.InputError, match=r"x\[:, None\]"):
            layer.forward(x[:, 0])
    if layer.parameters():
        with pytest.raises(mc.InputError, match="float32"):
            layer.forward(x.astype("float64"))
        with pytest.raises(mc.InputError):
            layer.forward(np.concatenate([x, x], axis=1))
        with pytest.raises(mc.InputError, match="build"):
            make().forward(x)
