"""The judge of gradients, judged: it finds every planted fault, and it accepts what is right."""

import subprocess
import sys

import numpy as np
import pytest

import minicnn as mc


def convolution(rng, **options):
    layer = mc.Conv2D(3, 3, padding=1, **options)
    layer.build((2, 5, 4), rng, "float64")
    return layer, rng.normal(size=(3, 2, 5, 4))


class Spoiled(mc.Layer):
    """A layer around another one whose backward pass is spoiled by `spoil(inner, dy, backward)`."""

    def __init__(self, inner, spoil):
        self.inner, self.spoil = inner, spoil

    def output_shape(self, input_shape):
        return self.inner.output_shape(input_shape)

    def build(self, input_shape, rng=None, dtype="float64"):
        return self.inner.build(input_shape, rng, dtype)

    def parameters(self):
        return self.inner.parameters()

    def forward(self, x, training=False):
        y, backward = self.inner.forward(x, training)
        return y, lambda dy: self.spoil(self.inner, dy, backward)


def change_gradient(name, change):
    def spoil(layer, dy, backward):
        dx = backward(dy)
        parameter = layer.parameters()[name]
        gradient = parameter.grad
        parameter.clear_gradient()
        parameter.add_gradient(change(gradient))
        return dx

    return spoil


def only_first_image(layer, dy, backward):
    """A sum over the batch that is missing: the parameters hear of the first image alone."""
    dx = backward(dy)
    for parameter in layer.parameters().values():
        parameter.clear_gradient()
    first = np.zeros_like(dy)
    first[0] = dy[0]
    backward(first)
    return dx


FAULTS = {
    "a transposed kernel": ("weight", change_gradient("weight", lambda g: np.ascontiguousarray(g.swapaxes(2, 3)))),
    "a flipped kernel": ("weight", change_gradient("weight", lambda g: np.ascontiguousarray(g[:, :, ::-1, ::-1]))),
    "a missing sum over the batch": ("weight", only_first_image),
    "a bias gradient off by a factor": ("bias", change_gradient("bias", lambda g: g / 3)),
    "a mean for a sum": ("weight", change_gradient("weight", lambda g: g / 3)),
    "an input gradient of another sign": ("x", lambda layer, dy, backward: -backward(dy)),
    "an input gradient off by a thousandth": ("x", lambda layer, dy, backward: 1.001 * backward(dy)),
    "no parameter gradient": ("weight", change_gradient("weight", np.zeros_like)),
}


@pytest.mark.parametrize(("where", "spoil"), FAULTS.values(), ids=FAULTS)
def test_planted_faults_are_found(where, spoil, rng):
    layer, x = convolution(rng)
    assert mc.gradcheck.check(layer, x).passed
    with pytest.raises(mc.GradientError) as caught:
        mc.gradcheck.check(Spoiled(layer, spoil), x)
    wrong = [line for line in str(caught.value).splitlines() if "WRONG" in line]
    assert any(f"WRONG {where}" in line for line in wrong)


def test_a_col2im_that_overwrites_is_found(rng, monkeypatch):
    def overwrite(columns, input_shape, window):
        (N, C, H, W), (KH, KW), (OH, OW) = input_shape, window.kernel_size, window.output_shape(*input_shape[2:])
        (top, bottom), (left, right) = window.pads(H, W)
        image = np.zeros((C, top + H + bottom, left + W + right, N), columns.dtype)
        columns = columns.reshape(C, KH, KW, OH, OW, N)
        for kh, kw, rows, cols in window.taps(OH, OW):
            image[:, rows, cols] = columns[:, kh, kw]  # = instead of +=
        return image[:, top : top + H, left : left + W].transpose(3, 0, 1, 2)

    layer, x = convolution(rng)
    mc.use("plain")
    try:
        assert mc.gradcheck.check(layer, x).passed
        monkeypatch.setattr(mc.core.operations, "col2im", overwrite)
        with pytest.raises(mc.GradientError, match="WRONG x"):
            mc.gradcheck.check(layer, x)
    finally:
        mc.use("numpy")


def test_a_mask_from_the_wrong_tensor_is_found(rng):
    class WrongMask(mc.Layer):
        def forward(self, x, training=False):
            return np.maximum(x, 0), lambda dy: dy * (dy > 0)  # it should be x > 0

    with pytest.raises(mc.GradientError):
        mc.gradcheck.check(WrongMask(), rng.normal(size=(3, 4)))


def test_a_wrong_loss_is_found(rng):
    class Doubled(mc.SoftmaxCrossEntropy):
        def compute(self, logits, labels):
            loss, dlogits = super().compute(logits, labels)
            return loss, 2 * dlogits

    class DiagonalOnly:
        """Only the diagonal of softmax's Jacobian, and the mean forgotten."""

        def __call__(self, logits, labels):
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            rows = np.arange(len(labels))
            gradient = np.zeros_like(p)
            gradient[rows, labels] = p[rows, labels] - 1
            return -np.log(p[rows, labels]).mean(), gradient / len(labels)

    logits, labels = rng.normal(size=(3, 5)), np.array([4, 0, 0])
    for loss in (Doubled(), DiagonalOnly()):
        with pytest.raises(mc.GradientError):
            mc.gradcheck.check(loss, logits, labels=labels)
    assert mc.gradcheck.check(mc.SoftmaxCrossEntropy(), logits, labels=labels).passed


def test_kinks_are_left_out_and_counted():
    x = np.array([[0.0, 1.0, -2.0, 0.0]])
    [entry] = mc.gradcheck.check(mc.ReLU(), x).entries
    assert (entry.checked, entry.kinks) == (2, 2)
    ties = np.array([[[[1.0, 1.0], [0.0, -1.0]]]])
    [entry] = mc.gradcheck.check(mc.MaxPool2D(2), ties).entries
    assert (entry.checked, entry.kinks) == (2, 2)


class Steep(mc.Layer):
    """y = tanh(300 x): so curved that it looks like a kink from afar. Its backward pass returns 0 where `wrong`."""

    def __init__(self, wrong=False):
        self.wrong = wrong

    def forward(self, x, training=False):
        y = np.tanh(300 * x)
        return y, lambda dy: dy * 300 * (1 - y * y) * (0 if self.wrong else 1)


def test_what_is_only_bent_is_no_kink():
    x = np.array([[-0.004, -0.001, 0.0005, 0.002, 0.006]])
    [entry] = mc.gradcheck.check(Steep(), x).entries
    assert (entry.checked, entry.kinks) == (5, 0)
    with pytest.raises(mc.GradientError):
        mc.gradcheck.check(Steep(wrong=True), x)


def test_a_kink_close_by_is_none():
    """ReLU at a millionth: the first step reaches over the kink, a smaller one does not."""
    [entry] = mc.gradcheck.check(mc.ReLU(), np.array([[2e-6, -2e-6]])).entries
    assert (entry.checked, entry.kinks) == (2, 0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((mc.ReLU(), np.zeros((0, 3))), "at least"),
        ((mc.ReLU, np.ones((1, 3))), "brackets"),
        ((mc.SoftmaxCrossEntropy(), np.ones((1, 3))), "labels"),
        (("tanh", np.ones((1, 3))), "'tanh'"),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments, named):
    with pytest.raises(mc.InputError, match=named):
        mc.gradcheck.check(*arguments)


def test_nothing_but_kinks_is_an_error_not_a_pass():
    with pytest.raises(mc.InputError, match="kink"):
        mc.gradcheck.check(mc.ReLU(), np.zeros((2, 3)))


def test_a_wrong_slope_beside_kinks_is_still_found():
    class Half(mc.Layer):
        def forward(self, x, training=False):
            return np.maximum(x, 0), lambda dy: dy * (x > 0) * 0.5

    with pytest.raises(mc.GradientError):
        mc.gradcheck.check(Half(), np.array([[0.0, 0.0, 0.0, 1.0]]))


def test_large_arrays_are_checked_by_directions_and_one_wrong_number_far_off_is_found(rng):
    layer = mc.Dense(80)
    layer.build((60,), rng, "float64")
    report = mc.gradcheck.check(layer, rng.normal(size=(2, 60)))
    weight = next(entry for entry in report.entries if entry.name == "weight")
    assert weight.checked < weight.shape[0] * weight.shape[1]

    def one_wrong(gradient):
        gradient[57, 31] += 5
        return gradient

    with pytest.raises(mc.GradientError, match=r"at \(57, 31\): analytic"):
        mc.gradcheck.check(Spoiled(layer, change_gradient("weight", one_wrong)), rng.normal(size=(2, 60)))


def test_a_whole_model_and_the_target_is_not_touched(rng):
    model = mc.Sequential(
        [mc.Conv2D(2, 3), mc.Tanh(), mc.AvgPool2D(2), mc.Flatten(), mc.Dropout(0.3), mc.Dense(3), mc.Softmax()],
        input_shape=(1, 6, 6),
    )
    before = {name: (p.value, p.value.copy()) for name, p in model.parameters().items()}
    report = mc.gradcheck.check(model, rng.normal(size=(2, 1, 6, 6)), training=True)
    assert {entry.name for entry in report.entries} == {"x", *model.parameters()}
    assert model.dtype == np.float32
    for name, parameter in model.parameters().items():
        assert parameter.value is before[name][0] and not parameter.has_gradient
        np.testing.assert_array_equal(parameter.value, before[name][1])


def test_a_gradient_of_another_shape_is_wrong(rng):
    class Squeezed(mc.Layer):
        def forward(self, x, training=False):
            return 2 * x, lambda dy: (2 * dy).ravel()

    with pytest.raises(mc.GradientError, match="shape"):
        mc.gradcheck.check(Squeezed(), rng.normal(size=(2, 3)))


def test_the_command_prints_the_report_of_every_layer():
    done = subprocess.run([sys.executable, "-m", "minicnn", "gradcheck"], capture_output=True, text=True, check=True)
    for name in mc.layers.LAYERS:
        assert f"{name}(" in done.stdout
    assert "WRONG" not in done.stdout and "SoftmaxCrossEntropy" in done.stdout


# No false alarms


class Elementwise(mc.Layer):
    """y = f(x), and its derivative."""

    def __init__(self, f, derivative):
        self.f, self.derivative = f, derivative

    def forward(self, x, training=False):
        return self.f(x), lambda dy: dy * self.derivative(x)


CURVES = {
    "sqrt": (np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    "log": (np.log, lambda x: 1 / x),
    "sin": (np.sin, np.cos),
    "square": (np.square, lambda x: 2 * x),
}


@pytest.mark.parametrize("shape", [(3, 5), (3, 40)], ids=["every number", "directions"])
@pytest.mark.parametrize("exponents", [(-9, -8), (0, 1), (5, 5.1), (-9, 5)])
@pytest.mark.parametrize("name", CURVES)
def test_numbers_of_any_size_are_no_false_alarm(name, exponents, shape, rng):
    f, derivative = CURVES[name]
    x = 10.0 ** rng.uniform(*exponents, size=shape)
    [entry] = mc.gradcheck.check(Elementwise(f, derivative), x).entries
    assert entry.passed and entry.kinks == 0
    with pytest.raises(mc.GradientError):
        mc.gradcheck.check(Elementwise(f, lambda x: 1.001 * derivative(x)), x)


class Centre(mc.Layer):
    """What every normalization begins with: the gradient of a bias before it is zero."""

    def forward(self, x, training=False):
        return x - x.mean(axis=0), lambda dy: dy - dy.mean(axis=0)


@pytest.mark.parametrize("size", [1, 1e5])
@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_that_is_zero_by_construction_is_no_false_alarm(seed, size):
    x = size * np.random.default_rng(seed).normal(size=(6, 4))
    report = mc.gradcheck.check(mc.Sequential([mc.Dense(5), Centre()]), x, seed=seed)
    assert all(entry.kinks == 0 for entry in report.entries)


# Arguments


class Scaled(mc.Layer):
    """y = x * weight, with a gradient of the weight that is left out."""

    weight_initializer = staticmethod(mc.initializers.glorot_uniform)

    def parameter_shapes(self, input_shape):
        return {"weight": (1, *input_shape)}

    def forward(self, x, training=False):
        return x * self.weight.value, lambda dy: dy * self.weight.value


def test_a_forgotten_gradient_is_named_and_can_be_left_out(rng):
    x = rng.normal(size=(2, 3))
    with pytest.raises(mc.GradientError, match="weight received no gradient"):
        mc.gradcheck.check(Scaled(), x)
    report = mc.gradcheck.check(Scaled(), x, exclude="weight")
    assert [entry.name for entry in report.entries] == ["x"] and "left out: weight" in report.notes
    with pytest.raises(mc.InputError, match="no bias"):
        mc.gradcheck.check(Scaled(), x, exclude=("x", "bias"))


class Gate(mc.Layer):
    """y = a * b of two inputs; None for the gradient of b."""

    def output_shape(self, input_shapes):
        return input_shapes[0]

    def forward(self, x, training=False):
        a, b = x
        return a * b, lambda dy: (dy * b, None)


def test_several_inputs_and_none_for_no_gradient(rng):
    a, b = rng.normal(size=(2, 3, 4))
    with pytest.raises(mc.GradientError, match=r"ok +x\.0(.|\n)*WRONG x\.1(.|\n)*returned None for x\.1"):
        mc.gradcheck.check(Gate(), (a, b))
    assert mc.gradcheck.check(Gate(), (a, b), exclude="x.1").passed
    report = mc.gradcheck.check(Gate(), (a, b > 0))  # True and False have no gradient
    assert [entry.name for entry in report.entries] == ["x.0"] and "x.1" in str(report)

    class One(Gate):
        def forward(self, x, training=False):
            y, backward = super().forward(x)
            return y, lambda dy: backward(dy)[0]

    with pytest.raises(mc.CheckError, match="tuple of 2 gradients"):
        mc.gradcheck.check(One(), (a, b))
    with pytest.raises(mc.CheckError, match="output_shape"):
        mc.gradcheck.check(mc.Tanh(), (a, b))


def test_integers_alone_leave_nothing_to_compare():
    class Double(mc.Layer):
        def forward(self, x, training=False):
            return 2.0 * x, lambda dy: None

    with pytest.raises(mc.InputError, match="convert integers"):
        mc.gradcheck.check(Double(), np.array([[1, 2]]))


def test_the_tolerances_and_the_step_are_those_given(rng):
    x = rng.normal(size=(2, 3))
    slightly_wrong = Elementwise(np.tanh, lambda x: 1.001 * (1 - np.tanh(x) ** 2))
    with pytest.raises(mc.GradientError):
        mc.gradcheck.check(slightly_wrong, x)
    assert mc.gradcheck.check(slightly_wrong, x, rtol=1e-2).passed
    assert mc.gradcheck.check(slightly_wrong, x, atol=1e-2).passed
    stairs = Elementwise(lambda x: np.floor(x / 2**-10) * 2**-10, np.ones_like)
    with pytest.raises(mc.GradientError):
        mc.gradcheck.check(stairs, x)
    assert mc.gradcheck.check(stairs, x, step=0.25).passed


# The report


class Modes(mc.Layer):
    """Another function in training; its gradient there is wrong by `factor`."""

    def __init__(self, factor=1):
        self.factor = factor

    def forward(self, x, training=False):
        if training:
            return 3 * x, lambda dy: 3 * self.factor * dy
        return x.copy(), lambda dy: dy


def test_both_modes_are_checked_where_they_differ_and_named(rng):
    x = rng.normal(size=(2, 3))
    report = mc.gradcheck.check(Modes(), x)
    assert [entry.mode for entry in report.entries] == ["training", "evaluation"]
    assert [entry.mode for entry in mc.gradcheck.check(mc.Tanh(), x).entries] == [""]
    with pytest.raises(mc.GradientError, match=r"in training:\n +WRONG"):
        mc.gradcheck.check(Modes(2), x)
    with pytest.raises(mc.GradientError, match=r"in training:\n +WRONG"):
        mc.gradcheck.check(Modes(2), x, training=True)
    assert [entry.mode for entry in mc.gradcheck.check(Modes(2), x, training=False).entries] == [""]


def test_the_repr_of_a_report_is_the_report(rng):
    report = mc.gradcheck.check(mc.Dense(3), rng.normal(size=(2, 4)))
    assert repr(report) == str(report)
    lines = repr(report).splitlines()
    assert lines[0] == "Dense(3)" and len(lines) == 4 and all("ok" in line for line in lines[1:])


@pytest.mark.parametrize("size", [60, 6000])
def test_an_error_in_any_one_number_is_found_and_located(size, rng):
    """A ten-thousandth of the norm of the gradient is enough, however large the array."""
    layer = mc.Dense(size // 20)
    layer.build((20,), rng, "float64")
    for _ in range(5):
        row, column = rng.integers(size // 20), rng.integers(20)

        def spoil(gradient, row=row, column=column):
            gradient[row, column] += 2e-4 * np.linalg.norm(gradient)
            return gradient

        with pytest.raises(mc.GradientError, match=rf"WRONG weight(.|\n)*at \({row}, {column}\)"):
            mc.gradcheck.check(Spoiled(layer, change_gradient("weight", spoil)), rng.normal(size=(2, 20)))


def test_a_large_array_costs_few_runs(rng):
    class Counted(mc.Layer):
        runs = 0

        def forward(self, x, training=False):
            Counted.runs += 1
            return np.tanh(x), lambda dy: dy * (1 - np.tanh(x) ** 2)

    for size in (100, 10000):
        Counted.runs = 0
        mc.gradcheck.check(Counted(), rng.normal(size=(2, size)))
        assert Counted.runs < 70


# Losses


class Loss:
    """A mean squared error; `spoil` changes what it returns."""

    def __init__(self, spoil=lambda loss, gradient: (loss, gradient)):
        self.spoil = spoil

    def __call__(self, outputs, labels):
        difference = outputs - labels.astype(outputs.dtype)
        return self.spoil((difference**2).mean(), 2 * difference / difference.size)


class Overwriting(Loss):
    def __call__(self, outputs, labels):
        labels -= outputs
        return (labels**2).mean(), -2 * labels / labels.size


@pytest.mark.parametrize(
    ("loss", "named"),
    [
        (Loss(lambda loss, gradient: (loss * np.float64(1), gradient)), "float32"),
        (Loss(lambda loss, gradient: (loss, gradient.astype("float64"))), "float32"),
        (Loss(lambda loss, gradient: (np.stack([loss, loss]), gradient)), "one number"),
        (Loss(lambda loss, gradient: loss), "return loss, doutputs"),
        (Loss(lambda loss, gradient: (loss, gradient[0])), "shape"),
        (Loss(lambda loss, gradient: (loss + np.random.rand(), gradient)), "global generator"),
        (Overwriting(), "changes its labels"),
    ],
)
def test_what_a_loss_does_wrong_is_named(loss, named, rng):
    with pytest.raises(mc.CheckError, match=named):
        mc.gradcheck.check(loss, rng.normal(size=(3, 4)), rng.normal(size=(3, 4)))


@pytest.mark.parametrize("labels", [np.eye(3)[[0, 2]], np.array([[0.5, 0.5, 0], [0.1, 0.2, 0.7]]), np.array([2, 0])])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_labels_of_every_kind_and_dtype(labels, dtype, rng):
    labels = labels if labels.ndim == 1 else labels.astype(dtype)
    report = mc.gradcheck.check(mc.SoftmaxCrossEntropy(), rng.normal(size=(2, 3)).astype(dtype), labels)
    assert report.passed and report.entries[0].checked == 6
    assert mc.gradcheck.check(Loss(lambda loss, gradient: (float(loss), gradient)), np.ones((2, 3)), np.zeros((2, 3)))
