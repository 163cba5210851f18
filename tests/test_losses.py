"""Losses: values by hand, the borders of the numbers, and labels that are checked first."""

import math

import numpy as np
import pytest

import minicnn as mc

cross_entropy = mc.SoftmaxCrossEntropy()


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
}


@pytest.mark.parametrize("labels", WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_labels_are_checked(labels):
    with pytest.raises(mc.InputError):
        cross_entropy(np.zeros((2, 3)), labels)


def test_labels_are_checked_before_anything_is_computed():
    """These logits would make NumPy warn, which is an error here."""
    with pytest.raises(mc.InputError, match="label 7"):
        cross_entropy(np.full((2, 3), np.inf), np.array([0, 7]))


@pytest.mark.parametrize("loss", [cross_entropy, mc.MeanSquaredError()])
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


@pytest.mark.parametrize("loss", [cross_entropy, mc.MeanSquaredError()])
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
@pytest.mark.parametrize("loss", [cross_entropy, mc.MeanSquaredError()])
def test_the_dtype_is_the_outputs_and_nothing_given_is_written_into(loss, dtype, rng):
    """Even where the labels have another dtype."""
    outputs, labels = rng.normal(size=(4, 3)).astype(dtype), np.eye(3)[[0, 2, 1, 1]]
    before = outputs.copy(), labels.copy()
    value, gradient = loss(outputs, labels)
    assert value.dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(outputs, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_targets_of_a_regression_are_checked():
    for targets in (np.zeros((2, 1)), np.zeros(2), np.array([["a"], ["b"]])):
        with pytest.raises(mc.InputError):
            mc.MeanSquaredError()(np.zeros((2, 2)), targets)


@pytest.mark.parametrize("labels", [np.array([2, 0, 1]), np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0, 0.5, 0.5]])])
def test_gradients_agree_with_central_differences(labels, rng):
    assert mc.gradcheck.check(cross_entropy, 3 * rng.normal(size=(3, 3)), labels=labels).passed
    assert mc.gradcheck.check(mc.MeanSquaredError(), rng.normal(size=(3, 3)), labels=rng.normal(size=(3, 3))).passed
