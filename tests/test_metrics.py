"""Metrics: by hand and against slow versions, and what they refuse."""

import re

import numpy as np
import pytest

import minicnn as mc
from minicnn import metrics

ROWS = np.array([[0.1, 0.9, 0.0], [0.8, 0.2, 0.0], [0.2, 0.3, 0.5], [0.4, 0.35, 0.25]])  # of classes 1, 0, 2, 0
INDICES = np.array([1, 0, 2, 0])
LABELS = np.array([1, 1, 2, 0])
ONE_HOT = np.eye(3)[LABELS]


def test_correct_counts_the_rows_whose_largest_number_is_at_the_label():
    for labels in (LABELS, ONE_HOT):
        assert metrics.correct(ROWS, labels) == 3
    assert metrics.correct(np.ones((2, 1)), np.zeros(2, int)) == 2


def test_top_k_accuracy_by_hand(rng):
    assert [metrics.top_k_accuracy(ROWS, LABELS, k=k) for k in (1, 2, 3)] == [0.75, 1.0, 1.0]
    assert metrics.top_k_accuracy(ROWS, ONE_HOT, k=1) == 0.75
    assert metrics.top_k_accuracy(np.zeros((3, 7)), [4, 5, 6]) == pytest.approx(1 / 3)  # ties; five of seven classes
    many = np.tile([0.0, 1.0], (5, 100))  # in each row the first five of a hundred equal ones are 1, 3, 5, 7 and 9
    assert metrics.top_k_accuracy(many, [1, 3, 5, 7, 9]) == 1
    scores, labels = rng.normal(size=(50, 8)), rng.integers(0, 8, 50)
    expected = np.mean([sum(row > row[label]) < 3 for row, label in zip(scores, labels, strict=True)])
    assert metrics.top_k_accuracy(scores, labels, k=3) == expected


def test_class_report_by_its_formulas(rng):
    labels, predictions = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    report = metrics.class_report(labels, predictions, names="abcd")
    for k in range(4):
        hits = np.sum((labels == k) & (predictions == k))
        precision, recall = hits / np.sum(predictions == k), hits / np.sum(labels == k)
        assert report.precision[k] == pytest.approx(precision) and report.recall[k] == pytest.approx(recall)
        assert report.f1[k] == pytest.approx(2 * precision * recall / (precision + recall))
        assert report.support[k] == np.sum(labels == k)
    assert report.accuracy == np.mean(labels == predictions)
    assert report.names == ["a", "b", "c", "d"] and f"{report.precision[2]:.3f}" in repr(report)
    assert len(repr(report).splitlines()) == 6 and len({len(line) for line in repr(report).splitlines()}) == 1


def test_class_report_of_classes_that_do_not_occur():
    """0 / 0 is NaN and shown as a dash; nothing warns."""
    report = metrics.class_report([0, 0], [0, 1], names=["zero", "one", "two"])
    np.testing.assert_array_equal(report.precision, [1, 0, np.nan])
    np.testing.assert_array_equal(report.recall, [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(report.f1, [2 / 3, 0, np.nan])
    assert repr(report).splitlines()[3].split() == ["two", "-", "-", "-", "0"]
    assert metrics.class_report(LABELS, ROWS).names == ["0", "1", "2"]
    assert report != metrics.class_report([0, 0], [0, 1], names=["zero", "one", "two"])  # by identity, without an error


def test_the_confusion_matrix_takes_its_size_from_indices_rows_or_the_argument():
    np.testing.assert_array_equal(metrics.confusion_matrix(LABELS, INDICES), [[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    assert metrics.confusion_matrix([0, 1], [0, 3]).shape == (4, 4)
    assert metrics.confusion_matrix([0, 0], np.eye(3)[[0, 1]]).shape == (3, 3)
    assert metrics.confusion_matrix([0, 2], [0, 0], 3).shape == (3, 3)
    assert metrics.confusion_matrix([0], [0], 5).shape == (5, 5)
    assert metrics.confusion_matrix(np.zeros(0, int), np.zeros(0, int)).shape == (0, 0)
    for classes in (0, 3.0, "3"):
        with pytest.raises(mc.InputError, match="classes"):
            metrics.confusion_matrix([0, 1], [0, 0], classes)
    with pytest.raises(mc.InputError, match="class 3"):
        metrics.confusion_matrix([0, 3], [0, 0], 3)


def test_confident_mistakes_are_ordered_and_ties_keep_their_order():
    rows = np.array([[0.4, 0.6], [0.1, 0.9], [0.9, 0.1], [0.4, 0.6]])
    np.testing.assert_array_equal(metrics.confident_mistakes(rows, [0, 0, 0, 0]), [1, 0, 3])
    np.testing.assert_array_equal(metrics.confident_mistakes(rows, np.eye(2)[[0, 0, 0, 0]]), [1, 0, 3])
    assert metrics.confident_mistakes(rows, [1, 1, 0, 1]).size == 0
    many = metrics.confident_mistakes(np.tile([[0.4, 0.6], [0.3, 0.7]], (100, 1)), np.zeros(200, int))
    np.testing.assert_array_equal(many, [*range(1, 200, 2), *range(0, 200, 2)])


def test_class_indices_of_rows_and_of_indices():
    for array in (INDICES, ROWS, ROWS.astype("float32"), np.eye(3, dtype=int)[INDICES], np.eye(3, dtype=bool)[INDICES]):
        found = metrics.class_indices(array)
        np.testing.assert_array_equal(found, INDICES)
        assert found.dtype == np.int64
    assert metrics.class_indices(np.zeros(0)).shape == (0,)


NAN = np.where(ROWS == 0.9, np.nan, ROWS)
REFUSED = {
    "a column of labels": (lambda f: f(LABELS[:, None], ROWS), "y.ravel()"),
    "texts": (lambda f: f(np.array(list("baca")), ROWS), "np.unique"),
    "rows of texts": (lambda f: f(ROWS.astype(str), ROWS), "labels"),
    "floats": (lambda f: f(LABELS + 0.5, ROWS), "integers"),
    "negative": (lambda f: f(LABELS - 1, ROWS), "-1"),
    "three axes": (lambda f: f(LABELS.reshape(1, 2, 2), ROWS), "(1, 2, 2)"),
    "too few": (lambda f: f(LABELS[:3], ROWS), "3"),
    "a scalar": (lambda f: f(3, ROWS), "labels"),
    "rows of different lengths": (lambda f: f([[0, 1], [1]], ROWS), "labels"),
    "a dict": (lambda f: f({"a": 1}, ROWS), "labels"),
    "NaN": (lambda f: f(LABELS, NAN), "row 0"),
    "NaN in labels": (lambda f: f(NAN, ROWS), "row 0"),
    "masked labels": (lambda f: f(np.ma.array(LABELS, mask=[1, 0, 0, 0]), ROWS), "masked"),
}
FUNCTIONS = {
    "confusion_matrix": metrics.confusion_matrix,
    "class_report": metrics.class_report,
    "confident_mistakes": lambda labels, rows: metrics.confident_mistakes(rows, labels),
    "top_k_accuracy": lambda labels, rows: metrics.top_k_accuracy(rows, labels, k=2),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize(("wrong", "named"), REFUSED.values(), ids=REFUSED)
def test_labels_and_predictions_are_checked(function, wrong, named):
    with pytest.raises(mc.InputError, match=re.escape(named)):
        wrong(function)


def test_a_column_of_predictions_is_refused():
    for function in (metrics.confusion_matrix, metrics.class_report):
        with pytest.raises(mc.InputError, match=r"y\.ravel\(\)"):
            function(LABELS, INDICES[:, None])
    with pytest.raises(mc.InputError, match=r"y\.ravel\(\)"):
        metrics.correct(ROWS, LABELS[:, None])
    for outputs, labels in ((ROWS, LABELS[:2]), (ROWS, ONE_HOT[:, :2]), (INDICES, LABELS)):
        with pytest.raises(mc.InputError):
            metrics.correct(outputs, labels)


def test_what_needs_rows_refuses_indices_and_labels_out_of_range():
    for function in (metrics.confident_mistakes, metrics.top_k_accuracy):
        with pytest.raises(mc.InputError, match="need probabilities"):
            function(INDICES, LABELS)
        with pytest.raises(mc.InputError, match="3 is out of range"):
            function(ROWS, [0, 1, 2, 3])
    for k in (0, 4, 1.0):
        with pytest.raises(mc.InputError, match="k"):
            metrics.top_k_accuracy(ROWS, LABELS, k=k)


def test_a_measure_of_no_images_is_refused():
    with pytest.raises(mc.InputError, match="one image"):
        metrics.top_k_accuracy(np.zeros((0, 3)), np.zeros(0, int), k=1)
    with pytest.raises(mc.InputError, match="one image"):
        metrics.class_report(np.zeros(0, int), np.zeros(0, int))
