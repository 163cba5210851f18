"""Dense, Flatten and Dropout as they are made: their defaults, what they refuse, what they count."""

import numpy as np
import pytest

import minicnn as mc
from minicnn.core.layer import independent_samples


def test_dense_has_a_bias_unless_it_is_told_otherwise():
    for layer, names in ((mc.Dense(3), {"weight", "bias"}), (mc.Dense(3, use_bias=False), {"weight"})):
        layer.build((5,))
        assert set(layer.parameters()) == names and (layer.bias is None) == ("bias" not in names)
        assert layer.multiply_adds((5,)) == 15
        assert independent_samples(layer, training=True)
    assert independent_samples(mc.Flatten(), training=True)


@pytest.mark.parametrize("units", [0, -1, 2.5, True, "3", None])
def test_dense_needs_a_number_of_units(units):
    with pytest.raises(mc.InputError, match="units"):
        mc.Dense(units)


def test_dense_needs_vectors():
    with pytest.raises(mc.InputError, match=r"needs vectors \(N, D\)"):
        mc.Dense(3).build((2, 5))
    layer = mc.Dense(3)
    layer.build((5,))
    for x in (np.ones((2, 5, 5), "float32"), np.ones((2, 4), "float32"), np.ones(5, "float32")):
        with pytest.raises(mc.InputError):
            layer(x)


def test_a_seed_of_ones_own_is_kept_and_each_step_counts():
    layer, x = mc.Dropout(0.5, seed=7), np.ones((2, 40))
    assert layer.mask_seed.value == 7 and layer.step.value == 0
    layer.build((40,), np.random.default_rng(5))
    assert layer.mask_seed.value == 7
    masks = [layer.forward(x, training=True)[0] for _ in range(3)]
    assert layer.step.value == 3 and all((masks[i] != masks[i - 1]).any() for i in range(3))


def test_dropout_is_off_unless_in_training_and_with_a_rate_of_zero():
    x = np.ones((2, 40))
    for layer, options in ((mc.Dropout(0.5, seed=1), {}), (mc.Dropout(0, seed=1), {"training": True})):
        y, backward = layer.forward(x, **options)
        assert y is x and backward(x) is x and layer.step.value == 0


def test_the_first_seed_comes_from_the_networks_seed_or_is_zero():
    x, layers = np.ones((2, 40)), [mc.Dropout(0.5) for _ in range(4)]
    for layer, seed in zip(layers[1:], (3, 3, 4), strict=True):
        layer.build((40,), np.random.default_rng(seed))
    assert layers[0].mask_seed.value is None
    np.testing.assert_array_equal(*(layer.forward(x, True)[0] for layer in (layers[0], mc.Dropout(0.5, seed=0))))
    zero, one = (mc.Dropout(0.5, seed=seed).forward(x, True)[0] for seed in (0, 1))
    assert (zero != one).any()
    seeds = [layer.mask_seed.value for layer in layers[1:]]
    assert seeds[0] == seeds[1] != seeds[2] and min(seeds) > 2**40  # of all numbers below 2**63


@pytest.mark.parametrize("axes", [1, 2, (1,), [2], (1, 2)])
def test_dropout_needs_an_input_with_its_axes(axes):
    largest = int(np.max(axes))
    layer = mc.Dropout(0.5, seed=1, axes=axes)
    shape = (3,) * (largest + 1)
    assert layer.build(shape[1:]) == shape[1:]
    y, _ = layer.forward(np.ones(shape), training=True)
    assert (y == y.max(axis=axes if isinstance(axes, int) else tuple(axes), keepdims=True)).all()
    for use in (lambda: layer.output_shape(shape[2:]), lambda: layer.forward(np.ones(shape[1:]), training=True)):
        with pytest.raises(mc.InputError, match=f"axis {largest}"):
            use()
    mc.Dropout(0.5, seed=1).forward(np.ones(3), training=True)  # without axes any array will do
