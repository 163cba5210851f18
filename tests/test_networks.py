"""The lab's networks and one of today: exactly its parameters, the right shapes, weights that follow from the seed."""

import math

import numpy as np
import pytest

import minicnn as mc

PARAMETERS = {
    "two_conv": 125_499_810,
    "conv_pool": 15_735_170,
    "lenet5": 61_706,
    "logistic_regression": 7_850,
    "dense": 795_010,
    "dense_dropout": 795_010,
    "small_resnet": 289_290,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_has_exactly_its_parameters(name):
    shape, total = (1, 28, 28), 0
    for layer in getattr(mc.networks, name)(input_shape=None).layers:  # without making half a gigabyte of weights
        total += sum(math.prod(weights) for weights in layer.parameter_shapes(shape).values())
        shape = layer.output_shape(shape)
    assert total == PARAMETERS[name]
    assert shape == (10,)


@pytest.mark.parametrize("name", ["lenet5", "logistic_regression", "dense", "dense_dropout", "small_resnet"])
def test_built_network_has_them_too_and_gives_probabilities(name, rng):
    model = getattr(mc.networks, name)(seed=1)
    assert model.count_parameters() == PARAMETERS[name]
    probabilities = model.predict(rng.integers(256, size=(3, 1, 28, 28), dtype=np.uint8))
    assert probabilities.shape == (3, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_every_network_of_the_module_is_listed_here():
    made_here = {
        name for name, value in vars(mc.networks).items() if getattr(value, "__module__", "") == mc.networks.__name__
    }
    assert made_here == set(PARAMETERS)


def test_other_inputs_and_classes():
    model = mc.networks.lenet5(input_shape=(3, 32, 32), classes=4)
    assert model.shapes[-1] == (4,)


def test_a_small_resnet_of_small_images_and_its_limit(rng):
    for shape in ((1, 5, 5), (1, 8, 8), (3, 16, 12)):
        model = mc.networks.small_resnet(shape, classes=3, filters=(8, 12, 16))
        assert model.predict(rng.random((2, *shape))).shape == (2, 3)
    with pytest.raises(mc.InputError, match="5 x 5"):
        mc.networks.small_resnet((1, 4, 9))


def test_same_seed_same_weights():
    first, same, other = (mc.networks.lenet5(seed=seed).layers[0].weight.value for seed in (0, 0, 1))
    assert (first == same).all()
    assert (first != other).any()
