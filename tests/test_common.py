"""What every layer must do, checked over the one list of layers."""

import numpy as np
import pytest
from layer_cases import all_layers, built

import minicnn as mc


@pytest.fixture(scope="module", params=["numpy", "plain"], autouse=True)
def backend(request):
    """Everything here holds for the formulas of the core and for the fast backend."""
    yield mc.use(request.param)
    mc.use("numpy")


def run(layer, x, dy_seed=5):
    """Output, input gradient and parameter gradients for a random upstream gradient."""
    for parameter in layer.parameters().values():
        parameter.clear_gradient()
    y, backward = layer.forward(x, training=False)
    dy = np.random.default_rng(dy_seed).normal(size=y.shape).astype(y.dtype)
    dx = backward(dy)
    return y, dx, {name: parameter.grad for name, parameter in layer.parameters().items()}


@all_layers
def test_gradients_agree_with_central_differences(make, shape, rng):
    report = mc.gradcheck.check(make(), rng.normal(size=(3, *shape)), training=True)
    assert report.passed
    assert all(entry.checked for entry in report.entries)


@all_layers
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_is_kept(make, shape, dtype, rng):
    layer = built(make, shape, dtype)
    x = rng.normal(size=(3, *shape)).astype(dtype)
    y, dx, gradients = run(layer, x)
    assert {y.dtype, dx.dtype, *(g.dtype for g in gradients.values())} == {np.dtype(dtype)}
    y, backward = layer.forward(x, training=True)
    assert y.dtype == dtype
    assert backward(np.ones_like(y)).dtype == dtype


@all_layers
def test_the_memory_order_does_not_matter(make, shape, rng):
    layer = built(make, shape)
    x = rng.normal(size=(4, *shape))
    expected = run(layer, np.ascontiguousarray(x))
    wide = np.zeros((8, *shape[:-1], 2 * shape[-1]))
    wide[::2, ..., ::2] = x
    orders = [
        np.asfortranarray(x),
        np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
        wide[::2, ..., ::2],
        np.ascontiguousarray(x[::-1])[::-1],
    ]
    for other in orders:
        y, dx, gradients = run(layer, other)
        np.testing.assert_allclose(y, expected[0], atol=1e-12)
        np.testing.assert_allclose(dx, expected[1], atol=1e-12)
        for name in gradients:
            np.testing.assert_allclose(gradients[name], expected[2][name], atol=1e-12)


@all_layers
def test_no_array_of_the_caller_is_written_into(make, shape, rng):
    layer = built(make, shape)
    x = rng.normal(size=(3, *shape))
    x.flags.writeable = False
    y, backward = layer.forward(x, training=True)
    dy = rng.normal(size=y.shape)
    dy.flags.writeable = False
    y_before = y.copy()
    backward(dy)
    np.testing.assert_array_equal(y, y_before)


@all_layers
@pytest.mark.parametrize("batch", [1, 3])
def test_the_shape_promised_is_the_shape_given(make, shape, batch, rng):
    layer = make()
    promised = layer.build(shape, rng, "float64")
    assert promised == layer.output_shape(shape)
    y, backward = layer.forward(rng.normal(size=(batch, *shape)))
    assert y.shape == (batch, *promised)
    assert backward(np.ones_like(y)).shape == (batch, *shape)
    assert layer.parameter_shapes(shape) == {n: p.value.shape for n, p in layer.parameters().items()}


@all_layers
def test_the_same_input_gives_the_same_bits(make, shape, rng):
    x = rng.normal(size=(3, *shape)).astype("float32")
    first, second = run(built(make, shape, "float32"), x), run(built(make, shape, "float32"), x)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    for name in first[2]:
        np.testing.assert_array_equal(first[2][name], second[2][name])


@all_layers
def test_gradients_of_several_batches_add_up(make, shape, rng):
    layer = built(make, shape)
    x = rng.normal(size=(6, *shape))
    y, backward = layer.forward(x)
    dy = rng.normal(size=y.shape)
    dx = backward(dy)
    whole = {name: parameter.grad for name, parameter in layer.parameters().items()}
    for parameter in layer.parameters().values():
        parameter.clear_gradient()
    for part in (slice(0, 2), slice(2, 6)):
        y_part, backward = layer.forward(x[part])
        np.testing.assert_allclose(y_part, y[part], atol=1e-12)
        np.testing.assert_allclose(backward(dy[part]), dx[part], atol=1e-12)
    for name, parameter in layer.parameters().items():
        np.testing.assert_allclose(parameter.grad, whole[name], atol=1e-12)


@all_layers
def test_nothing_is_remembered_between_calls(make, shape, rng):
    """Two backward passes in the reverse order of their forward passes."""
    layer = built(make, shape)
    first, second = rng.normal(size=(2, 3, *shape))
    y1, backward1 = layer.forward(first)
    dy = rng.normal(size=y1.shape)
    expected = backward1(dy)
    y1, backward1 = layer.forward(first)
    _, backward2 = layer.forward(second)
    backward2(dy)
    np.testing.assert_array_equal(backward1(dy), expected)


@all_layers
def test_bad_input_is_refused(make, shape, rng):
    layer = built(make, shape, "float32")
    x = rng.normal(size=(3, *shape)).astype("float32")
    with pytest.raises(mc.InputError):
        layer.forward(np.ones(x.shape, dtype=int))
    if len(shape) == 3 and not isinstance(layer, (mc.Flatten, mc.ReLU, mc.Tanh, mc.Sigmoid, mc.Softmax, mc.Dropout)):
        with pytest.raises(mc.InputError, match=r"x\[:, None\]"):
            layer.forward(x[:, 0])
    if layer.parameters():
        with pytest.raises(mc.InputError, match="float32"):
            layer.forward(x.astype("float64"))
        with pytest.raises(mc.InputError):
            layer.forward(np.concatenate([x, x], axis=1))
        with pytest.raises(mc.InputError, match="build"):
            make().forward(x)


@all_layers
def test_a_saved_layer_is_the_same_layer(make, shape, rng, tmp_path):
    model = mc.Sequential([make()], input_shape=shape)
    model.save(tmp_path / "model.npz")
    loaded = mc.load(tmp_path / "model.npz")
    assert repr(loaded.layers) == repr(model.layers)
    x = rng.normal(size=(3, *shape)).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))


@all_layers
def test_the_input_gradient_can_be_left_out(make, shape, rng):
    layer = built(make, shape)
    if layer.needs_input_gradient:
        return
    x = rng.normal(size=(3, *shape))
    _, _, expected = run(layer, x)
    for parameter in layer.parameters().values():
        parameter.clear_gradient()
    y, backward = layer.forward(x)
    dy = np.random.default_rng(5).normal(size=y.shape)
    assert backward(dy, input_gradient=False) is None
    for name, parameter in layer.parameters().items():
        np.testing.assert_array_equal(parameter.grad, expected[name])
