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
        image = np.zeros((C, top + H + bottom, left + W + right, N))
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
        ((mc.ReLU(), np.zeros((0, 3))), "no number"),
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

    with pytest.raises(mc.GradientError, match="a random direction"):
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
