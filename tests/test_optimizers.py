"""Optimizers, schedules and first weights, by their formulas."""

import gc
import math

import numpy as np
import pytest

import minicnn as mc
from minicnn import initializers
from minicnn.backends.numpy.gradients import LowRank
from minicnn.backends.numpy.matmul import gemm
from minicnn.core.parameter import Parameter, watch_gradients


def sgd(w, gradients, rate, momentum=0.0, nesterov=False, decay=0.0):
    v = 0
    for g in gradients:
        g = g + decay * w
        v = momentum * v + g
        w = w - rate * (g + momentum * v if nesterov else v)
    return w


def adam(w, gradients, rate, b1=0.9, b2=0.999, epsilon=1e-7, decay=0.0):
    m = s = 0
    for t, g in enumerate(gradients, start=1):
        w = w - rate * decay * w
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g * g
        w = w - rate * (m / (1 - b1**t)) / (np.sqrt(s / (1 - b2**t)) + epsilon)
    return w


def rmsprop(w, gradients, rate, rho=0.9, epsilon=1e-7, decay=0.0):
    v = 0
    for g in gradients:
        g = g + decay * w
        v = rho * v + (1 - rho) * g * g
        w = w - rate * g / (np.sqrt(v) + epsilon)
    return w


def adagrad(w, gradients, rate, epsilon=1e-7, decay=0.0):
    s = 0
    for g in gradients:
        g = g + decay * w
        s = s + g * g
        w = w - rate * g / (np.sqrt(s) + epsilon)
    return w


RULES = {
    "SGD": (lambda: mc.SGD(0.1), lambda w, g: sgd(w, g, 0.1)),
    "momentum": (lambda: mc.SGD(0.1, momentum=0.9), lambda w, g: sgd(w, g, 0.1, 0.9)),
    "Nesterov": (lambda: mc.SGD(0.1, momentum=0.9, nesterov=True), lambda w, g: sgd(w, g, 0.1, 0.9, True)),
    "SGD with L2": (lambda: mc.SGD(0.1, weight_decay=0.3), lambda w, g: sgd(w, g, 0.1, decay=0.3)),
    "SGD with all": (lambda: mc.SGD(0.1, momentum=0.5, weight_decay=0.3), lambda w, g: sgd(w, g, 0.1, 0.5, decay=0.3)),
    "Adam": (lambda: mc.Adam(0.1), lambda w, g: adam(w, g, 0.1)),
    "Adam with other numbers": (
        lambda: mc.Adam(0.01, beta1=0.8, beta2=0.99, epsilon=1e-3),
        lambda w, g: adam(w, g, 0.01, 0.8, 0.99, 1e-3),
    ),
    "RMSprop": (lambda: mc.RMSprop(0.1), lambda w, g: rmsprop(w, g, 0.1)),
    "RMSprop with other numbers": (
        lambda: mc.RMSprop(0.1, rho=0.6, epsilon=1e-3, weight_decay=0.3),
        lambda w, g: rmsprop(w, g, 0.1, 0.6, 1e-3, 0.3),
    ),
    "Adagrad": (lambda: mc.Adagrad(0.1), lambda w, g: adagrad(w, g, 0.1)),
    "Adagrad with other numbers": (
        lambda: mc.Adagrad(0.1, epsilon=1e-3, weight_decay=0.3),
        lambda w, g: adagrad(w, g, 0.1, 1e-3, 0.3),
    ),
    "Adam with decoupled decay": (lambda: mc.Adam(0.1, weight_decay=0.3), lambda w, g: adam(w, g, 0.1, decay=0.3)),
}
all_rules = pytest.mark.parametrize(("make", "formula"), RULES.values(), ids=RULES)


@all_rules
@pytest.mark.parametrize("backend", ["plain", "numpy"])
def test_ten_steps_by_the_formula(make, formula, backend, rng):
    w = rng.normal(size=(4, 3))
    gradients = rng.normal(size=(10, 4, 3))
    parameter, optimizer = Parameter(w.copy()), make()
    mc.use(backend)
    for gradient in gradients:
        parameter.add_gradient(gradient.copy())
        optimizer.step({"w": parameter})
    mc.use("numpy")
    np.testing.assert_allclose(parameter.value, formula(w, gradients), rtol=1e-12)
    assert optimizer.steps == 10 and parameter.grad is None


@all_rules
@pytest.mark.parametrize("has_gemm", [True, False])
@pytest.mark.parametrize(("size", "bytes_at_a_time"), [(0, 1), (0, 1000), (0, 2**23), (10**4, 2**23)])
def test_thin_products_by_blocks_are_the_whole_gradient(
    make, formula, size, bytes_at_a_time, has_gemm, rng, monkeypatch
):
    """A weight of 90 x 110 with factors of 5 columns, and an array added to it besides; with BLAS's own sum, and where
    that BLAS is not found."""
    if not has_gemm:
        monkeypatch.setattr("minicnn.backends.numpy.matmul._blas_gemm", lambda dtype: None)
        monkeypatch.setattr("minicnn.backends.numpy.matmul._blas_axpby", lambda dtype: None)
    monkeypatch.setattr("minicnn.backends.numpy.updates.PARALLEL_SIZE", size)
    monkeypatch.setattr("minicnn.backends.numpy.updates.PRODUCT_BYTES", bytes_at_a_time)
    monkeypatch.setattr("minicnn.backends.numpy.updates.BLOCK_BYTES", bytes_at_a_time // 2)
    w = rng.normal(size=(90, 110))
    parameter, optimizer, gradients = Parameter(w.copy()), make(), []
    for step in range(3):
        left, right = rng.normal(size=(90, 5)), rng.normal(size=(5, 110))
        parameter.add_gradient(LowRank(left, right))
        gradients.append(left @ right)
        if step == 1:
            more = rng.normal(size=w.shape)
            parameter.add_gradient(more)
            parameter.add_gradient(LowRank(left, right))
            gradients[-1] = 2 * gradients[-1] + more
        np.testing.assert_allclose(parameter.grad, gradients[-1], rtol=1e-10, atol=1e-12)
        optimizer.step({"w": parameter})
    np.testing.assert_allclose(parameter.value, formula(w, gradients), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_product_added_in_place(dtype, order, rng):
    """Whatever the memory order of all three."""
    out = np.array(rng.normal(size=(7, 9)), dtype=dtype, order=order)
    left, right = rng.normal(size=(3, 7)).astype(dtype).T, rng.normal(size=(9, 3)).astype(dtype).T
    expected = 0.5 * out - 0.25 * (left @ right)
    gemm(out, left, right, alpha=-0.25, beta=0.5)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    assert out.dtype == dtype


@all_rules
def test_a_gradient_that_was_added_is_not_written_into(make, formula, rng):
    gradient = rng.normal(size=(4, 3))
    before, parameter = gradient.copy(), Parameter(np.ones((4, 3)))
    parameter.add_gradient(gradient)
    make().step({"w": parameter})
    np.testing.assert_array_equal(gradient, before)


def test_a_gradient_of_another_shape_is_refused():
    parameter = Parameter(np.zeros((3, 2)))
    for add in (
        lambda: parameter.add_gradient(np.float64(1)),
        lambda: parameter.add_gradient(np.zeros((1, 2))),
    ):
        with pytest.raises(mc.InputError, match=r"\(3, 2\)"):
            add()
    with pytest.raises(mc.InputError, match="list"):
        parameter.add_gradient([[0.0] * 2] * 3)
    assert not parameter.has_gradient
    with pytest.raises(mc.InputError, match=r"model\.parameters"):
        mc.SGD().step(mc.networks.logistic_regression())


@all_rules
def test_float32_stays_float32(make, formula):
    parameter = Parameter(np.ones((3, 2), "float32"))
    optimizer = make()
    for _ in range(2):
        parameter.add_gradient(np.ones((3, 2), "float32"))
        optimizer.step({"w": parameter})
    memory = optimizer.memories[parameter]
    arrays = [parameter.value, *(memory[name] for name in optimizer.memory)]
    assert {array.dtype for array in arrays} == {np.dtype("float32")}


@all_rules
def test_the_memory_belongs_to_the_parameter(make, formula, rng):
    """A second model starts fresh, although its parameters have the same names."""
    w, gradients, optimizer = rng.normal(size=(4, 3)), rng.normal(size=(3, 4, 3)), make()
    values = []
    for _ in range(2):
        parameter = Parameter(w.copy())
        for gradient in gradients:
            parameter.add_gradient(gradient)
            optimizer.step({"w": parameter})
        values.append(parameter.value)
        assert optimizer.steps == 3
    np.testing.assert_array_equal(values[0], values[1])


def test_a_second_model_starts_at_the_beginning_of_the_schedule():
    optimizer, changes = mc.SGD(mc.StepDecay(1.0, every=2, factor=0.5)), []
    for _ in range(2):
        parameter = Parameter(np.zeros(1))
        for _ in range(3):
            parameter.add_gradient(np.ones(1))
            optimizer.step({"w": parameter})
        changes.append(parameter.value[0])
    assert changes == [-2.5, -2.5]


def test_a_parameter_that_joins_late_has_its_own_step_count(rng):
    """Such as the first layers of a network that are unfrozen later; the schedule continues for all."""
    optimizer, head, late = mc.Adam(0.1), Parameter(np.zeros(2)), Parameter(np.zeros(2))
    gradients = rng.normal(size=(5, 2))
    for step, gradient in enumerate(gradients):
        head.add_gradient(gradient)
        if step >= 3:
            late.add_gradient(gradient)
        optimizer.step({"head": head, "late": late})
    np.testing.assert_allclose(head.value, adam(np.zeros(2), gradients, 0.1), rtol=1e-12)
    np.testing.assert_allclose(late.value, adam(np.zeros(2), gradients[3:], 0.1), rtol=1e-12)
    assert optimizer.steps == 5


def test_a_tied_parameter_is_changed_once(rng):
    gradients = rng.normal(size=(4, 2))
    for make, formula in RULES.values():
        optimizer, tied = make(), Parameter(np.ones(2))
        for gradient in gradients:
            tied.add_gradient(gradient / 2)
            tied.add_gradient(gradient / 2)
            optimizer.step({"encoder": tied, "decoder": tied})
        np.testing.assert_allclose(tied.value, formula(np.ones(2), gradients), rtol=1e-10)


def test_the_memory_is_forgotten_with_the_parameter():
    optimizer = mc.Adam()
    parameter = Parameter(np.zeros(2))
    parameter.add_gradient(np.ones(2))
    optimizer.step({"w": parameter})
    assert len(optimizer.memories) == 1
    del parameter
    gc.collect()
    assert len(optimizer.memories) == 0


def test_a_step_without_any_gradient_is_not_counted():
    optimizer, parameter = mc.Adam(0.1), Parameter(np.zeros(2))
    optimizer.step({"w": parameter})
    assert optimizer.steps == 0
    parameter.add_gradient(np.ones(2))
    optimizer.step({"w": parameter})
    np.testing.assert_allclose(parameter.value, adam(np.zeros(2), [np.ones(2)], 0.1))


def test_a_parameter_without_gradient_is_left_alone():
    parameter = Parameter(np.ones(3))
    mc.SGD(0.1, weight_decay=0.5).step({"w": parameter})
    np.testing.assert_array_equal(parameter.value, 1)


def test_a_value_that_was_replaced_by_another_shape_is_refused():
    optimizer, parameter = mc.Adam(), Parameter(np.zeros(3))
    parameter.add_gradient(np.ones(3))
    optimizer.step({"w": parameter})
    parameter.value = np.zeros(4)
    parameter.add_gradient(np.ones(4))
    with pytest.raises(mc.InputError, match=r"\(3,\).*\(4,\)"):
        optimizer.step({"w": parameter})


@pytest.mark.parametrize(
    "make",
    [
        lambda: mc.SGD(-0.1),
        lambda: mc.SGD("fast"),
        lambda: mc.SGD(math.nan),
        lambda: mc.SGD(momentum=1.0),
        lambda: mc.SGD(nesterov=True),
        lambda: mc.SGD(weight_decay=-1),
        lambda: mc.SGD(clip_norm=0),
        lambda: mc.Adam(beta1=1.0),
        lambda: mc.Adam(beta2=-0.1),
        lambda: mc.Adam(epsilon=-1e-8),
        lambda: mc.Adam(epsilon=0),
        lambda: mc.SGD(True),
        lambda: mc.SGD(clip_norm=-1),
        lambda: mc.SGD(weight_decay=math.inf),
        lambda: mc.SGD(momentum=0.0, nesterov=True),
        lambda: mc.Adam(weight_decay="0.1"),
        lambda: mc.Adam(beta2=1.0),
        lambda: mc.RMSprop(rho=1.0),
        lambda: mc.RMSprop(epsilon=0),
        lambda: mc.Adagrad(epsilon=0),
        lambda: mc.Adagrad(-1),
        lambda: mc.StepDecay(0.1, every=True),
        lambda: mc.StepDecay(0.1, every=5, factor=-0.1),
        lambda: mc.StepDecay("0.1", every=5),
        lambda: mc.CosineDecay(0.1, steps=5, minimum=math.nan),
        lambda: mc.ExponentialDecay(0.1, every=5, factor=math.inf),
        lambda: mc.WarmUp(mc.Constant(0.1), steps=0),
        lambda: mc.Constant(True),
        lambda: mc.StepDecay(0.1, every=0),
        lambda: mc.StepDecay(0.1, every=2.5),
        lambda: mc.CosineDecay(0.1, steps=0),
        lambda: mc.ExponentialDecay(-0.1, every=10, factor=0.5),
        lambda: mc.WarmUp(0.1, steps=5),
        lambda: mc.Constant(math.inf),
    ],
)
def test_numbers_out_of_range_are_refused(make):
    with pytest.raises(mc.InputError):
        make()


def test_schedules_by_their_formulas():
    assert [mc.StepDecay(1.0, every=3, factor=0.5)(step) for step in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert mc.ExponentialDecay(1.0, every=4, factor=0.5)(2) == pytest.approx(math.sqrt(0.5))
    cosine = mc.CosineDecay(1.0, steps=8, minimum=0.2)
    assert [cosine(0), cosine(4), cosine(8), cosine(99)] == pytest.approx([1, 0.6, 0.2, 0.2])
    warm = mc.WarmUp(mc.StepDecay(1.0, every=2, factor=0.1), steps=4)
    assert mc.WarmUp(mc.StepDecay(1.0, every=1, factor=0.1), steps=2)(0) == 0.5  # from the start of the other
    assert [warm(step) for step in range(8)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.1, 0.1])


def test_an_optimizer_follows_its_schedule():
    optimizer, parameter = mc.SGD(mc.StepDecay(1.0, every=2, factor=0.5)), Parameter(np.zeros(1))
    changes = []
    for _ in range(5):
        before = parameter.value.copy()
        parameter.add_gradient(np.ones(1))
        optimizer.step({"w": parameter})
        changes.append(float((before - parameter.value)[0]))
    assert changes == [1, 1, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(
    ("draw", "variance"),
    [
        (initializers.glorot_uniform, 2 / (300 + 200)),
        (initializers.glorot_normal, 2 / (300 + 200)),
        (initializers.he_uniform, 2 / 300),
        (initializers.he_normal, 2 / 300),
    ],
)
@pytest.mark.parametrize("shape", [(200, 300), (8, 12, 5, 5)])
def test_first_weights_have_the_variance_of_the_paper(draw, variance, shape):
    """Both shapes have a fan-in of 300 and a fan-out of 200."""
    value = draw(shape, np.random.default_rng(0), "float64")
    spread = 12 / math.sqrt(value.size)  # some standard errors
    assert abs(value.mean()) < spread * math.sqrt(variance) / 3
    assert value.var() == pytest.approx(variance, rel=spread)
    if "uniform" in draw.__name__:
        assert abs(value).max() <= math.sqrt(3 * variance)
    np.testing.assert_array_equal(value, draw(shape, np.random.default_rng(0), "float64"))
    assert draw(shape, np.random.default_rng(0), "float32").dtype == np.float32


@pytest.mark.parametrize(("layer", "shape"), [(mc.Dense(200), (300,)), (mc.Conv2D(20, 3), (30, 5, 5))])
def test_the_defaults_are_kerass(layer, shape):
    layer.build(shape, np.random.default_rng(0))
    expected = initializers.glorot_uniform(layer.weight.value.shape, np.random.default_rng(0))
    np.testing.assert_array_equal(layer.weight.value, expected)
    np.testing.assert_array_equal(layer.bias.value, 0)


DEFAULTS = {
    "SGD": (lambda: mc.SGD(), {"learning_rate": 0.01, "momentum": 0, "nesterov": False, "weight_decay": 0}),
    "Adam": (lambda: mc.Adam(), {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7}),
    "RMSprop": (lambda: mc.RMSprop(), {"learning_rate": 0.001, "rho": 0.9, "epsilon": 1e-7, "weight_decay": 0}),
    "Adagrad": (lambda: mc.Adagrad(), {"learning_rate": 0.01, "epsilon": 1e-7, "weight_decay": 0}),
    "StepDecay": (lambda: mc.StepDecay(0.5, every=2), {"factor": 0.1}),
    "CosineDecay": (lambda: mc.CosineDecay(0.5, steps=2), {"minimum": 0}),
}


@pytest.mark.parametrize(("make", "expected"), DEFAULTS.values(), ids=DEFAULTS)
def test_the_defaults_are_those_of_the_documentation(make, expected):
    for name, value in expected.items():
        assert getattr(make(), name) == value
    if hasattr(make(), "clip_norm"):
        assert make().clip_norm is None and make().weight_decay == 0 and make().steps == 0


class SignDescent(mc.optimizers.Optimizer):
    """A rule of one's own."""

    def update(self, w, g, t, learning_rate):
        w -= learning_rate * np.sign(g)


def test_a_rule_of_ones_own_has_the_optimizers_defaults():
    optimizer, parameter = SignDescent(0.5), Parameter(np.zeros(2))
    assert optimizer.weight_decay == 0 and optimizer.clip_norm is None and optimizer.steps == 0
    assert repr(optimizer) == "SignDescent(0.5)"
    parameter.add_gradient(np.array([30.0, -0.1]))
    optimizer.step({"w": parameter})
    np.testing.assert_array_equal(parameter.value, [-0.5, 0.5])
    parameter.add_gradient(np.ones(2))
    with pytest.raises(NotImplementedError, match="Optimizer needs an update"):
        mc.optimizers.Optimizer(0.1).step({"w": parameter})


def test_numbers_at_the_border_of_their_range_are_accepted():
    mc.SGD(0, momentum=0.0, weight_decay=0, clip_norm=1e-9)
    mc.Adam(0, beta1=0, beta2=0, epsilon=1e-300)
    mc.RMSprop(rho=0)
    mc.StepDecay(0, every=1, factor=0)
    mc.CosineDecay(0, steps=1, minimum=0)
    mc.WarmUp(lambda step: 0.1, steps=np.int64(1))


def test_the_norm_of_the_gradients_is_clipped_only_above_clip_norm():
    for size, expected in ((0.5, 0.5), (1.0, 1.0), (4.0, 1.0)):
        parameter, other = Parameter(np.zeros(1)), Parameter(np.zeros(1))
        parameter.add_gradient(np.array([0.6 * size]))
        other.add_gradient(np.array([0.8 * size]))
        mc.SGD(1.0, clip_norm=1.0).step({"a": parameter, "b": other})
        np.testing.assert_allclose([parameter.value[0], other.value[0]], [-0.6 * expected, -0.8 * expected])


@pytest.mark.parametrize("rule", [mc.SGD, mc.Adam, mc.RMSprop, mc.Adagrad])
def test_every_rule_clips_the_norm(rule):
    """As if the gradient had been as short from the start."""
    values = []
    for gradient, options in (([3.0, 4.0], {"clip_norm": 1.0}), ([0.6, 0.8], {}), ([3.0, 4.0], {})):
        parameter = Parameter(np.zeros(2))
        parameter.add_gradient(np.array(gradient))
        rule(0.1, **options, **({} if rule is mc.SGD else {"epsilon": 1.0})).step({"w": parameter})
        values.append(parameter.value)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-12)
    assert abs(values[0] - values[2]).max() > 1e-3


def test_without_momentum_nothing_is_remembered():
    """Momentum's array is as large as the weights."""
    parameter = Parameter(np.zeros(2))
    for momentum, remembered in ((0.0, {"t"}), (0.5, {"t", "v"})):
        optimizer = mc.SGD(0.1, momentum=momentum)
        parameter.add_gradient(np.ones(2))
        optimizer.step({"w": parameter})
        assert set(optimizer.memories[parameter]) == remembered


def test_adams_epsilon_is_where_pytorch_has_it():
    """In the first step Keras's would act 32 times as strongly: it matters where gradients are as small as epsilon."""
    rate, g, epsilon = 0.1, 1e-7, 1e-7
    m, v = (1 - 0.9) * g, (1 - 0.999) * g * g
    pytorch = rate * (m / (1 - 0.9)) / (math.sqrt(v / (1 - 0.999)) + epsilon)
    keras = rate * math.sqrt(1 - 0.999) / (1 - 0.9) * m / (math.sqrt(v) + epsilon)
    parameter = Parameter(np.zeros(1))
    parameter.add_gradient(np.array([g]))
    mc.Adam(rate, epsilon=epsilon).step({"w": parameter})
    assert -parameter.value[0] == pytest.approx(pytorch, rel=1e-9) == pytest.approx(rate / 2)
    assert keras == pytest.approx(rate / 32.6, rel=1e-2)
    parameter = Parameter(np.zeros(1))
    parameter.add_gradient(np.array([g]))
    mc.Adam(rate, epsilon=epsilon / math.sqrt(1 - 0.999)).step({"w": parameter})  # what the docstring says of Keras's
    assert -parameter.value[0] == pytest.approx(keras, rel=1e-9)


@pytest.mark.parametrize("name", ["RMSprop", "Adagrad"])
def test_the_rules_are_pytorchs(name, rng):
    torch = pytest.importorskip("torch")
    w, gradients = rng.normal(size=(3, 2)), rng.normal(size=(5, 3, 2))
    ours = {"RMSprop": mc.RMSprop(0.01, rho=0.9, epsilon=1e-4), "Adagrad": mc.Adagrad(0.01, epsilon=1e-4)}[name]
    tensor = torch.tensor(w, requires_grad=True)
    options = {"RMSprop": {"alpha": 0.9}, "Adagrad": {}}[name]
    theirs = getattr(torch.optim, name)([tensor], lr=0.01, eps=1e-4, **options)
    parameter = Parameter(w.copy())
    for gradient in gradients:
        parameter.add_gradient(gradient)
        ours.step({"w": parameter})
        tensor.grad = torch.tensor(gradient)
        theirs.step()
    np.testing.assert_allclose(parameter.value, tensor.detach().numpy(), rtol=1e-12)


def test_a_frozen_parameter_collects_no_gradient_and_says_so():
    parameter = Parameter(np.zeros(2))
    assert parameter.grad is None and not parameter.has_gradient and parameter.trainable
    parameter.trainable = False
    parameter.add_gradient(np.ones(2))
    assert not parameter.has_gradient
    assert "frozen" in repr(parameter)
    with pytest.raises(mc.InputError):
        parameter.add_gradient(np.ones(3))


def test_a_gradient_is_forgotten_on_request():
    parameter = Parameter(np.zeros(2))
    parameter.add_gradient(np.ones(2))
    parameter.clear_gradient()
    assert parameter.grad is None and not parameter.has_gradient


def test_a_watch_notes_who_receives_a_gradient_until_its_block_ends():
    """Frozen parameters too: whether a gradient arrives does not depend on whether it is used."""
    parameter, frozen, late = (Parameter(np.zeros(1)) for _ in range(3))
    frozen.trainable = False
    with watch_gradients() as receivers:
        for receiver in (parameter, frozen, parameter):
            receiver.add_gradient(np.ones(1))
    late.add_gradient(np.ones(1))
    assert receivers == {parameter, frozen} and Parameter.receivers is None


def test_the_learning_rate_may_be_set_to_a_number_or_a_schedule():
    optimizer = mc.SGD(0.1)
    optimizer.learning_rate = 0.2
    assert optimizer.learning_rate == 0.2
    optimizer.learning_rate = mc.StepDecay(1.0, every=1, factor=0.5)
    parameter = Parameter(np.zeros(1))
    for expected in (1.0, 0.5):
        assert optimizer.learning_rate == expected
        parameter.add_gradient(np.ones(1))
        optimizer.step({"w": parameter})
    with pytest.raises(mc.InputError, match="learning_rate"):
        optimizer.learning_rate = "fast"


def test_the_norm_of_no_gradients_is_zero_and_a_tied_parameter_counts_once():
    parameter = Parameter(np.zeros(2))
    assert mc.optimizers.gradient_norm({"w": parameter}) == 0
    parameter.add_gradient(np.array([3.0, 4.0]))
    assert mc.optimizers.gradient_norm({"a": parameter, "b": parameter}) == 5
