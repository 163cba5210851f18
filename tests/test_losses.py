"""Losses: values by hand, the borders of the numbers, and labels that are checked first."""

import math

import numpy as np
import pytest
from strict_backend import strict

import minicnn as mc
from minicnn.backends.cupy import CupyOperations

cross_entropy = mc.SoftmaxCrossEntropy()
binary = mc.BinaryCrossEntropy()
hinge = mc.Hinge()


def test_cross_entropy_by_hand():
    logits = np.log(np.array([[1.0, 3.0], [1.0, 1.0]]))  # probabilities 1/4, 3/4 and 1/2, 1/2
    loss, dlogits = cross_entropy(logits, np.array([0, 1]))
    assert loss == pytest.approx((math.log(4) + math.log(2)) / 2)
    np.testing.assert_allclose(dlogits, [[-3 / 8, 3 / 8], [1 / 4, -1 / 4]], atol=1e-15)


def test_mean_squared_error_by_hand():
    loss, doutputs = mc.MeanSquaredError()(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 4.0]]))
    assert loss == (4 + 9) / 4
    np.testing.assert_array_equal(doutputs, [[0, 1], [1.5, 0]])


def test_indices_one_hot_and_soft_labels_agree(rng):
    logits, labels = rng.normal(size=(6, 4)), np.array([0, 3, 1, 2, 2, 0])
    one_hot = np.eye(4)[labels]
    expected = cross_entropy(logits, labels)
    for rows in (one_hot, one_hot.astype("float32"), one_hot.astype(int), one_hot.astype(bool)):
        loss, dlogits = cross_entropy(logits, rows)
        assert loss == pytest.approx(expected[0])
        np.testing.assert_allclose(dlogits, expected[1])
    soft = np.full((6, 4), 0.25)
    each = [cross_entropy(logits, np.full(6, k)) for k in range(4)]
    assert cross_entropy(logits, soft)[0] == pytest.approx(np.mean([loss for loss, _ in each]))
    np.testing.assert_allclose(cross_entropy(logits, soft)[1], np.mean([d for _, d in each], axis=0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exact_at_huge_logits(dtype):
    logits = np.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]], dtype)
    loss, dlogits = cross_entropy(logits, np.array([1, 0]))
    assert loss == 1e4 and loss.dtype == dtype
    np.testing.assert_array_equal(dlogits, np.array([[0.5, -0.5, 0], [0, 0, 0]], dtype))


def test_a_logit_of_minus_infinity_is_a_class_ruled_out():
    logits = np.array([[0.0, 0.0, -np.inf]])
    loss, dlogits = cross_entropy(logits, np.array([0]))
    assert loss == pytest.approx(math.log(2))
    np.testing.assert_allclose(dlogits, [[-0.5, 0.5, 0]])
    loss, _ = cross_entropy(logits, np.array([2]))
    assert loss == math.inf


def test_the_rows_of_a_batch_may_be_far_apart():
    """Each is shifted by its own largest logit: by another row's, all its exponentials would be zero."""
    loss, dlogits = cross_entropy(np.array([[1e4, 1e4], [-1e4, -1e4]]), np.array([0, 1]))
    assert loss == pytest.approx(math.log(2))
    np.testing.assert_allclose(dlogits, [[-0.25, 0.25], [0.25, -0.25]])


def test_one_class_is_never_a_surprise():
    loss, dlogits = cross_entropy(np.array([[3.0], [-7.0]]), np.array([0, 0]))
    assert loss == 0
    np.testing.assert_array_equal(dlogits, 0)


def test_a_hundred_thousand_classes(rng):
    logits = rng.normal(size=(2, 100_000)).astype("float32")
    loss, dlogits = cross_entropy(logits, np.array([99_999, 0]))
    wide = logits.astype("float64")
    log_sum = np.log(np.exp(wide).sum(axis=1))
    assert loss == pytest.approx((log_sum - wide[[0, 1], [99_999, 0]]).mean(), rel=1e-5)
    assert abs(dlogits.sum()) < 1e-5


def test_denormal_and_half_precision_logits():
    tiny = np.array([[1e-310, 0.0]])
    assert cross_entropy(tiny, np.array([0]))[0] == pytest.approx(math.log(2))
    loss, dlogits = cross_entropy(np.array([[1.0, 2.0]], "float16"), np.array([0]))
    assert loss.dtype == dlogits.dtype == np.float16
    assert float(loss) == pytest.approx(math.log(1 + math.e), rel=1e-2)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_loss_is_the_mean_over_the_batch(size, rng):
    logits, labels = rng.normal(size=(size, 3)), rng.integers(0, 3, size)
    single = [float(cross_entropy(logits[i : i + 1], labels[i : i + 1])[0]) for i in range(size)]
    assert cross_entropy(logits, labels)[0] == pytest.approx(np.mean(single))


WRONG_LABELS = {
    "too large": np.array([0, 3]),
    "negative": np.array([0, -1]),
    "too few": np.array([0]),
    "floats": np.array([0.0, 1.0]),
    "booleans": np.array([True, False]),
    "texts": np.array(["a", "b"]),
    "a column": np.array([[0], [1]]),
    "other rows": np.eye(4)[:2],
    "rows that add up to 2": np.eye(3)[:2] * 2,
    "negative rows": np.array([[2.0, -1, 0], [1, 0, 0]]),
    "NaN": np.array([[np.nan, 1, 0], [1, 0, 0]]),
    "three axes": np.zeros((2, 3, 1)),
    "rows of texts": np.array([["a", "b", "c"]] * 2),
    "masked": np.ma.array([0, 1], mask=[True, False]),
    "a number": 1,
}


@pytest.mark.parametrize("labels", WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_labels_are_checked(labels):
    with pytest.raises(mc.InputError):
        cross_entropy(np.zeros((2, 3)), labels)


def test_soft_labels_may_be_rounded_but_no_more():
    """Up to 0.001 in the sum."""
    cross_entropy(np.zeros((1, 3)), np.full((1, 3), 0.3333))
    for total in (0.998, 1.002):
        with pytest.raises(mc.InputError, match="add up to 1"):
            cross_entropy(np.zeros((1, 3)), np.array([[0.5, total - 0.5, 0]]))


def test_a_check_of_no_labels_passes():
    """Whether a set may be empty is for others to say."""
    for loss, labels, shape in ((cross_entropy, np.zeros(0, int), (0, 3)), (binary, np.zeros((0, 1)), (0, 1))):
        loss.check(labels, shape)


def test_a_subclass_with_a_constructor_of_its_own_is_without_smoothing_and_weights(rng):
    class Own(mc.SoftmaxCrossEntropy):
        def __init__(self, *, name=""):
            self.name = name

    logits, labels = rng.normal(size=(4, 3)), np.array([0, 2, 1, 1])
    assert Own(name="mine")(logits, labels)[0] == cross_entropy(logits, labels)[0]


def test_the_message_says_how_labels_become_class_indices():
    """And advises nothing where that would change the labels."""
    fixes = {
        r"np\.unique": [np.array(["a", "b"]), np.array(["a", "b"], object)],
        r"y\.astype\(int\)": [np.array([True, False]), np.array([0.0, 1.0])],
        r"y\.ravel\(\)": [np.array([[0], [1]])],
        "need 2 class indices": [np.array([0]), np.zeros((2, 1, 1), int)],
        "got float64$": [np.array([0.5, 1.0])],
        r"got \(2, 4\)$": [np.eye(4)[:2]],
    }
    for named, wrong in fixes.items():
        for labels in wrong:
            with pytest.raises(mc.InputError, match=named):
                cross_entropy(np.zeros((2, 3)), labels)


def test_what_a_loss_of_ones_own_must_have():
    with pytest.raises(NotImplementedError, match="Loss needs a compute"):
        mc.losses.Loss()(np.zeros((1, 2)), np.zeros((1, 2)))
    with pytest.raises(mc.InputError, match="each sample"):
        mc.losses.as_labels(3)
    with pytest.raises(mc.InputError, match="each sample"):
        mc.losses.as_labels(np.array(3))
    for outputs, named in ((np.zeros((1, 2), int), "astype"), (np.zeros((0, 2)), "empty")):
        with pytest.raises(mc.InputError, match=named):
            cross_entropy(outputs, np.zeros((1, 2)))


def test_labels_are_checked_before_anything_is_computed():
    """These logits would make NumPy warn, which is an error here."""
    with pytest.raises(mc.InputError, match="label 7"):
        cross_entropy(np.full((2, 3), np.inf), np.array([0, 7]))


@pytest.mark.parametrize("loss", [cross_entropy, mc.MeanSquaredError(), binary, hinge])
def test_outputs_are_checked(loss):
    for outputs in (np.zeros((1, 2), int), np.zeros((0, 2)), [[0.0, 1.0]]):
        with pytest.raises(mc.InputError):
            loss(outputs, np.zeros(np.shape(outputs)))


class Tensor:
    """Another library's array: NumPy can read it, and its dtype is not NumPy's."""

    dtype = "another.float64"

    def __init__(self, values):
        self.values, self.shape = np.array(values), np.shape(values)

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)


@pytest.mark.parametrize("loss", [cross_entropy, mc.MeanSquaredError(), binary, hinge])
def test_labels_may_be_whatever_numpy_can_read_and_outputs_may_not(loss):
    outputs, labels = np.array([[1.0, 3.0], [0.0, 2.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    expected = loss(outputs, labels)
    for other in (labels.tolist(), Tensor(labels)):
        value, gradient = loss(outputs, other)
        assert value == expected[0]
        np.testing.assert_array_equal(gradient, expected[1])
    for wrong in (Tensor(outputs), outputs.tolist()):
        with pytest.raises(mc.InputError, match=r"np\.asarray"):
            loss(wrong, labels)
    for nothing in (None, 3, [[0.0, 1.0], [1.0]]):
        with pytest.raises(mc.InputError, match="labels"):
            loss(outputs, nothing)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "loss",
    [cross_entropy, mc.MeanSquaredError(), binary, hinge,
     mc.SoftmaxCrossEntropy(label_smoothing=0.1, class_weights=[1, 2, 3])],
)  # fmt: skip
def test_the_dtype_is_the_outputs_and_nothing_given_is_written_into(loss, dtype, rng):
    """Even where the labels have another dtype."""
    outputs, labels = rng.normal(size=(4, 3)).astype(dtype), np.eye(3)[[0, 2, 1, 1]]
    before = outputs.copy(), labels.copy()
    value, gradient = loss(outputs, labels)
    assert value.dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(outputs, before[0])
    np.testing.assert_array_equal(labels, before[1])


@pytest.mark.parametrize("loss", [mc.MeanSquaredError(), binary])
def test_targets_are_checked(loss):
    wrong = [np.zeros((2, 1)), np.zeros(2), np.array([["a", "b"]] * 2), np.full((2, 2), 1j), np.full((2, 2), np.nan)]
    for targets in (*wrong, np.full((2, 2), np.inf)):
        with pytest.raises(mc.InputError):
            loss(np.zeros((2, 2)), targets)
    for targets in (np.zeros((2, 2), bool), np.zeros((2, 2), np.uint8), np.zeros((2, 2), int), [[0, 1], [1, 0]]):
        loss(np.zeros((2, 2)), targets)
    with pytest.raises(mc.InputError, match=r"\[1, 0\]"):
        loss(np.zeros((2, 2)), np.array([[0, 0], [np.nan, 0]]))


def test_targets_of_a_binary_cross_entropy_are_from_0_to_1():
    for targets in (np.array([[-0.1]]), np.array([[1.1]]), np.array([[-1]]), np.array([[2]])):
        with pytest.raises(mc.InputError, match="from 0 to 1"):
            binary(np.zeros((1, 1)), targets)
    for targets in (0.0, 1.0, 0.3):
        binary(np.zeros((1, 1)), np.array([[targets]]))


class MeanAbsolute(mc.losses.Loss):
    """A loss of one's own, with nothing but the formula."""

    def compute(self, outputs, labels):
        difference = outputs - labels
        return abs(difference).mean(), np.sign(difference) / difference.size


class Classifying(MeanAbsolute):
    """One that takes class indices."""

    is_classification = True

    def compute(self, outputs, labels):
        return super().compute(outputs, np.eye(outputs.shape[1])[labels])


def test_a_loss_of_ones_own_does_not_broadcast():
    """(N, 1) and (N,) are (N, N)."""
    model = mc.Sequential([mc.Dense(1)], (3,), dtype="float64")
    x = np.random.default_rng(0).random((5, 3))
    target = x[:, 0]
    for use in (
        lambda: MeanAbsolute()(model(x), target),
        lambda: model.evaluate(x, target, loss=MeanAbsolute()),
        lambda: model.fit(x, target, epochs=1, loss=MeanAbsolute(), verbose=False),
    ):
        with pytest.raises(mc.InputError, match=r"y\[:, None\]"):
            use()
    with pytest.raises(mc.InputError, match=r"y\.ravel\(\)"):
        MeanAbsolute()(model(x)[:, 0], target[:, None])
    assert model.evaluate(x, target[:, None], loss=MeanAbsolute())[0] == pytest.approx(
        abs(model(x)[:, 0] - target).mean()
    )


def test_class_indices_need_a_loss_that_classifies():
    outputs, labels = np.zeros((2, 3)), np.array([0, 2])
    assert Classifying()(outputs, labels)[0] == pytest.approx(1 / 3)
    with pytest.raises(mc.InputError, match="is_classification"):
        MeanAbsolute()(outputs, labels)
    with pytest.raises(mc.InputError):
        Classifying()(outputs, labels[:1])


RESULTS = {
    "no pair": lambda outputs: outputs.mean(),
    "a Python float": lambda outputs: (0.5, outputs),
    "a loss of each sample": lambda outputs: (outputs.sum(axis=1), outputs),
    "a gradient of another shape": lambda outputs: (outputs.mean(), outputs[:1]),
    "a gradient of another dtype": lambda outputs: (outputs.mean(), outputs.astype("float64")),
    "no gradient": lambda outputs: (outputs.mean(), None),
    "three things": lambda outputs: (outputs.mean(), outputs, outputs),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_what_a_loss_of_ones_own_returns_is_checked(result):
    class Own(mc.losses.Loss):
        def compute(self, outputs, labels):
            return result(outputs)

    model, x = mc.Sequential([mc.Dense(3)], (3,)), np.ones((2, 3), "float32")
    for use in (
        lambda: model.evaluate(x, x, loss=Own()),
        lambda: model.fit(x, x, epochs=1, loss=Own(), verbose=False),
    ):
        with pytest.raises(mc.InputError, match=r"Own\.compute must return"):
            use()


def smoothed(target, smoothing, weights):
    return ((1 - smoothing) * target + smoothing / target.shape[1]) * weights


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0]])
def test_label_smoothing_and_class_weights_by_the_formula(smoothing, weights, rng):
    logits, labels = rng.normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    loss = mc.SoftmaxCrossEntropy(label_smoothing=smoothing, class_weights=weights)
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for given, target in ((labels, np.eye(3)[labels]), (rng.dirichlet(np.ones(3), 5),) * 2):
        target = smoothed(target, smoothing, np.ones(3) if weights is None else np.array(weights))
        value, dlogits = loss(logits, given)
        assert value == pytest.approx(-(target * log_softmax).sum() / 5)
        np.testing.assert_allclose(dlogits, (target.sum(axis=1, keepdims=True) * np.exp(log_softmax) - target) / 5)
    assert mc.gradcheck.check(loss, 3 * logits, labels=labels).passed


def test_class_weights_do_not_make_the_loss_depend_on_the_batches(rng):
    x, y = rng.normal(size=(11, 4)), rng.integers(0, 3, 11)
    model = mc.Sequential([mc.Dense(3)], (4,), dtype="float64")
    loss = mc.SoftmaxCrossEntropy(label_smoothing=0.1, class_weights=[1, 10, 0.1])
    expected = model.evaluate(x, y, loss=loss)[0]
    for batch_size in (1, 2, 5, 11):
        assert model.evaluate(x, y, loss=loss, batch_size=batch_size)[0] == pytest.approx(expected, rel=1e-12)
    history = model.fit(x, y, epochs=1, batch_size=3, optimizer=mc.SGD(0.0), loss=loss, verbose=False)
    assert history["loss"][0] == pytest.approx(expected, rel=1e-12)


def test_weights_of_one_and_no_smoothing_change_no_bit(rng):
    logits, labels = rng.normal(size=(5, 3)).astype("float32"), np.array([0, 2, 1, 1, 0])
    plain, weighted = cross_entropy(logits, labels), mc.SoftmaxCrossEntropy(class_weights=np.ones(3))(logits, labels)
    assert plain[0] == weighted[0]
    np.testing.assert_array_equal(plain[1], weighted[1])


def test_wrong_smoothing_and_weights_are_refused():
    for smoothing in (-0.1, 1.0, "a", True, math.nan):
        with pytest.raises(mc.InputError, match="label_smoothing"):
            mc.SoftmaxCrossEntropy(label_smoothing=smoothing)
    for weights in ([], 3, [1, -1], [0, 0], [1, math.nan], [1, math.inf], ["a", "b"], [[1, 2]], {0: 1}, "balanced"):
        with pytest.raises(mc.InputError, match="class_weights"):
            mc.SoftmaxCrossEntropy(class_weights=weights)
    with pytest.raises(mc.InputError, match="2 class_weights, for 3 classes"):
        mc.SoftmaxCrossEntropy(class_weights=[1, 2])(np.zeros((1, 3)), np.array([0]))
    for loss in (cross_entropy, hinge):
        for shape in ((3,), (2, 3, 1)):
            with pytest.raises(mc.InputError, match=r"\(N, K\)"):
                loss(np.zeros(shape), np.zeros(shape[0], int))


def test_binary_cross_entropy_by_hand():
    loss, dlogits = binary(np.log(np.array([[3.0], [1 / 3]])), np.array([[1], [1]]))  # probabilities 3/4 and 1/4
    assert loss == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)
    np.testing.assert_allclose(dlogits, [[-1 / 8], [-3 / 8]])
    loss, dlogits = binary(np.array([1e4, -1e4, 1e4, -1e4]), np.array([1, 0, 0, 1]))
    assert loss == 5000
    np.testing.assert_array_equal(dlogits, [0, 0, 0.25, -0.25])


def test_binary_cross_entropy_learns_and_refuses_a_closing_sigmoid(rng):
    x = rng.normal(size=(40, 2)).astype("float32")
    y = (x[:, :1] > 0).astype(int)
    model = mc.Sequential([mc.Dense(1)], (2,))
    history = model.fit(x, y, epochs=20, optimizer=mc.Adam(0.1), loss=binary, verbose=False)
    assert history["loss"][-1] < history["loss"][0] / 2 and "accuracy" not in history
    assert ((model.predict(x) > 0) == y).mean() > 0.9
    model.add(mc.Sigmoid())
    with pytest.raises(mc.InputError, match="Sigmoid"):
        model.evaluate(x, y, loss=binary)
    with pytest.raises(mc.InputError, match="Softmax"):
        mc.Sequential([mc.Dense(1), mc.Softmax()], (2,)).evaluate(x, y, loss=binary)


def hinge_by_loops(scores, labels, margin):
    total, gradient = 0.0, np.zeros_like(scores)
    for n, label in enumerate(labels):
        for k in range(scores.shape[1]):
            excess = scores[n, k] - scores[n, label] + margin
            if k != label and excess > 0:
                total += excess
                gradient[n, k] += 1
                gradient[n, label] -= 1
    return total / len(scores), gradient / len(scores)


@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_hinge_by_loops(margin, rng):
    scores, labels = rng.normal(size=(7, 4)), rng.integers(0, 4, 7)
    expected = hinge_by_loops(scores, labels, margin)
    for given in (labels, np.eye(4)[labels]):
        loss, dscores = mc.Hinge(margin=margin)(scores, given)
        assert loss == pytest.approx(expected[0])
        np.testing.assert_allclose(dscores, expected[1], atol=1e-15)
    assert mc.gradcheck.check(mc.Hinge(margin=margin), scores, labels=labels).passed


def test_hinge_at_its_margin_and_its_margins_range():
    loss, dscores = hinge(np.array([[2.0, 1.0, 3.5]]), np.array([0]))  # the second score lies exactly on the margin
    assert loss == 2.5
    np.testing.assert_array_equal(dscores, [[-1, 0, 1]])
    assert hinge.margin == 1
    for margin in (0, -1, math.inf, "1"):
        with pytest.raises(mc.InputError, match="margin"):
            mc.Hinge(margin=margin)
    for labels in WRONG_LABELS.values():
        with pytest.raises(mc.InputError):
            hinge(np.zeros((2, 3)), labels)


def test_what_a_loss_says_of_itself():
    """Accuracy is measured, and a closing Softmax left out, where it should."""
    told = {loss: (loss.is_classification, loss.from_logits) for loss in (cross_entropy, hinge, binary)}
    assert list(told.values()) == [(True, True), (True, True), (False, False)]
    assert not mc.MeanSquaredError.is_classification and not mc.MeanSquaredError.from_logits


def test_the_losses_are_pytorchs(rng):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    logits, labels, many = rng.normal(size=(6, 4)), rng.integers(0, 4, 6), rng.random((6, 4))

    def reference(function):
        tensor = torch.tensor(logits, requires_grad=True)
        loss = function(tensor)
        loss.backward()
        return loss.item(), tensor.grad.numpy()

    classes, weights = torch.tensor(labels), np.array([0.5, 1.0, 2.0, 3.0])
    share = weights[labels].sum() / 6  # PyTorch divides by the sum of the weights, ours by N
    pairs = [
        (mc.SoftmaxCrossEntropy(label_smoothing=0.1)(logits, labels),
         reference(lambda t: functional.cross_entropy(t, classes, label_smoothing=0.1))),
        (mc.SoftmaxCrossEntropy(class_weights=weights)(logits, labels),
         reference(lambda t: share * functional.cross_entropy(t, classes, torch.tensor(weights)))),
        (binary(logits, many),
         reference(lambda t: functional.binary_cross_entropy_with_logits(t, torch.tensor(many)))),
        (hinge(logits, labels),  # PyTorch divides by K, too
         reference(lambda t: 4 * functional.multi_margin_loss(t, classes))),
    ]  # fmt: skip
    for (loss, gradient), expected in pairs:
        assert loss == pytest.approx(expected[0])
        np.testing.assert_allclose(gradient, expected[1], atol=1e-12)


LOSSES = {
    "cross-entropy with all": (mc.SoftmaxCrossEntropy(label_smoothing=0.1, class_weights=[1, 2, 3]), np.arange(5) % 3),
    "binary cross-entropy": (binary, np.linspace(0, 1, 15).reshape(5, 3)),
    "hinge": (hinge, np.arange(5) % 3),
    "squared error": (mc.MeanSquaredError(), np.linspace(0, 1, 15).reshape(5, 3)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "labels"), LOSSES.values(), ids=LOSSES)
def test_a_loss_is_the_same_on_every_backend(loss, labels, dtype, rng, monkeypatch):
    """Also on the stand-in for the device, which refuses NumPy's arrays."""
    outputs, found = rng.normal(size=(5, 3)).astype(dtype), []
    for backend in ("plain", "numpy", CupyOperations(strict)):
        mc.use(backend)
        for given in (labels, mc.to_device(labels)):
            value, gradient = loss(mc.to_device(outputs), given)
            assert value.dtype == gradient.dtype == dtype
            found.append((mc.to_numpy(value), mc.to_numpy(gradient)))
        mc.use("numpy")
    for value, gradient in found[1:]:
        np.testing.assert_allclose(value, found[0][0], rtol=1e-6)
        np.testing.assert_allclose(gradient, found[0][1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", ["plain", "numpy"])
def test_a_new_loss_trains_on_every_backend(backend, rng):
    mc.use(backend)
    try:
        x, y = rng.normal(size=(30, 4)).astype("float32"), np.arange(30) % 3
        x[np.arange(30), y] += 3
        for loss in (hinge, mc.SoftmaxCrossEntropy(label_smoothing=0.1, class_weights=[1, 2, 1])):
            model = mc.Sequential([mc.Dense(3), mc.Softmax()], (4,))
            model.fit(x, y, epochs=30, optimizer=mc.Adam(0.1), loss=loss, verbose=False)
            assert model.evaluate(x, y, loss=loss)[1] > 0.9
    finally:
        mc.use("numpy")


@pytest.mark.parametrize("labels", [np.array([2, 0, 1]), np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0, 0.5, 0.5]])])
def test_gradients_agree_with_central_differences(labels, rng):
    assert mc.gradcheck.check(cross_entropy, 3 * rng.normal(size=(3, 3)), labels=labels).passed
    assert mc.gradcheck.check(mc.MeanSquaredError(), rng.normal(size=(3, 3)), labels=rng.normal(size=(3, 3))).passed
    assert mc.gradcheck.check(binary, 3 * rng.normal(size=(3, 3)), labels=rng.random((3, 3))).passed
