"""What is measured besides the loss."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from minicnn.core import operations
from minicnn.core.checks import check_integer
from minicnn.core.errors import InputError
from minicnn.core.losses import as_labels
from minicnn.core.types import Array, ArrayLike


def correct(outputs: Array, labels: ArrayLike) -> Array:
    """How many rows of the outputs have their largest number at the label's class.

    Args:
        outputs: (N, K), logits or probabilities.
        labels: class indices (N,), or one-hot or soft rows (N, K).

    Returns:
        a scalar of the backend in use.

    Raises:
        InputError: arrays of other shapes.

    >>> import numpy as np
    >>> int(correct(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1])))
    1
    """
    labels = operations.current.array(labels)
    if outputs.ndim != 2 or tuple(labels.shape) not in (tuple(outputs.shape), tuple(outputs.shape[:1])):
        fix = ": remove an axis with y.ravel()" if labels.shape == (len(outputs), 1) else ""
        raise InputError(
            f"correct needs outputs (N, K) and labels (N,) or (N, K), got {outputs.shape} and {labels.shape}{fix}"
        )
    if labels.ndim == 2:
        labels = labels.argmax(axis=1)
    return (outputs.argmax(axis=1) == labels).sum()


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int | None = None) -> np.ndarray:
    """Which class is predicted for which, and how often.

        counts[i, j] = how many images of class i were predicted to be of class j

    The diagonal counts the correct ones; a row adds up to the images of its class.

    Args:
        labels: class indices (N,), or one-hot or soft rows (N, K).
        predictions: class indices (N,), or logits or probabilities (N, K).
        classes: K; where it is None, it follows from the rows or the largest index.

    Returns:
        an int64 array (K, K).

    Raises:
        InputError: arrays of different lengths, indices that are not integers from 0 to K - 1, a column (N, 1), or
            rows that hold NaN.

    >>> confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1])
    array([[1, 1],
           [0, 2]])

    Source: Kohavi and Provost, "Glossary of terms", Machine Learning 30, 1998.
    """
    arrays = {"labels": _read(labels, "labels"), "predictions": _read(predictions, "predictions")}
    smallest = max([0, *(array.shape[1] for array in arrays.values() if array.ndim == 2)])
    indices = {name: class_indices(array, name) for name, array in arrays.items()}
    rows, columns = indices.values()
    if len(rows) != len(columns):
        raise InputError(f"a confusion matrix needs as many predictions as labels, got {len(columns)} and {len(rows)}")
    smallest = max([smallest, *(int(array.max()) + 1 for array in indices.values() if array.size)])
    K = smallest if classes is None else check_integer(classes, "classes", "a confusion matrix")
    if smallest > K:
        raise InputError(f"a confusion matrix of {K} classes has no row for class {smallest - 1}")
    return np.bincount(rows * K + columns, minlength=K * K).reshape(K, K)


def confident_mistakes(probabilities: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """The images whose predicted class is not their label, the most confident mistake first.

    Args:
        probabilities: (N, K), as `predict` returns them.
        labels: class indices (N,), or one-hot or soft rows (N, K).

    Returns:
        indices (M,) of the M images, by decreasing probability of the wrong class.

    Raises:
        InputError: probabilities that are not (N, K) numbers, or not as many labels from 0 to K - 1.

    >>> confident_mistakes(np.array([[0.4, 0.6], [0.9, 0.1], [0.2, 0.8]]), [0, 0, 0])
    array([2, 0])
    """
    probabilities, labels = _check_rows(probabilities, labels)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]


def top_k_accuracy(probabilities: ArrayLike, labels: ArrayLike, k: int = 5) -> float:
    """The fraction of images whose label is among the k classes of the largest probabilities.

    Of classes with the same probability the lower index comes first.

    Args:
        probabilities: (N, K), probabilities or logits.
        labels: class indices (N,), or one-hot or soft rows (N, K).
        k: from 1 to K; with k = 1 it is the accuracy.

    Returns:
        a float from 0 to 1.

    Raises:
        InputError: as for `confident_mistakes`; a k that is not an integer from 1 to K; an empty set.

    >>> top_k_accuracy(np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), [1, 2], k=2)
    0.5

    Source: Russakovsky et al., "ImageNet large scale visual recognition challenge", 2015 (there k = 5).
    """
    probabilities, labels = _check_rows(probabilities, labels)
    if check_integer(k, "k", "top_k_accuracy") > probabilities.shape[1]:
        raise InputError(f"top_k_accuracy needs k of at most {probabilities.shape[1]}, the number of classes, got {k}")
    if not len(labels):
        raise InputError("top_k_accuracy needs one image at least")
    first = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((first == labels[:, None]).any(axis=1).mean())


@dataclasses.dataclass(eq=False)
class ClassReport:
    """What `class_report` returns: one number for each class, and a table as its text.

    Attributes:
        names: of the K classes.
        precision, recall, f1: (K,), float64; NaN where the number is 0 / 0.
        support: (K,), how many images have the class as their label.
        accuracy: the fraction of all images that is correct.

    >>> class_report([0, 1], [0, 1]).accuracy
    1.0
    """

    names: list
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    accuracy: float

    def __repr__(self):
        width = max(8, *map(len, self.names))
        lines = [f"{'class':{width}}  precision  recall      F1  images"]
        for name, *numbers, count in zip(self.names, self.precision, self.recall, self.f1, self.support, strict=True):
            texts = [f"{'-':>6}" if np.isnan(number) else f"{number:6.3f}" for number in numbers]
            lines.append(f"{name:{width}}     {texts[0]}  {texts[1]}  {texts[2]}  {count:6}")
        lines.append(f"{'accuracy':{width}}     {self.accuracy:6.3f}{'':18}{self.support.sum():6}")
        return "\n".join(lines)


def class_report(labels: ArrayLike, predictions: ArrayLike, names: Sequence[str] | None = None) -> ClassReport:
    """Precision, recall and F1 of each class: what the accuracy alone does not tell, above all of rare classes.

        precision = of the images predicted to be of a class, the fraction that is
        recall    = of the images of a class, the fraction predicted to be
        F1        = 2 * precision * recall / (precision + recall), their harmonic mean

    Args:
        labels, predictions: as for `confusion_matrix`.
        names: of the K classes, such as "ABC"; by default their indices.

    Returns:
        a `ClassReport`. A class that is never predicted has the precision NaN, one without images the recall NaN.

    Raises:
        InputError: as for `confusion_matrix`; no images.

    >>> class_report([0, 0, 0, 1], [0, 0, 1, 1], names="AB")
    class     precision  recall      F1  images
    A             1.000   0.667   0.800       3
    B             0.500   1.000   0.667       1
    accuracy      0.750                       4

    Source: van Rijsbergen, "Information retrieval", 1979.
    """
    counts = confusion_matrix(labels, predictions, None if names is None else len(names))
    if not counts.sum():
        raise InputError("class_report needs one image at least")
    hits, support, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        precision, recall, f1 = hits / predicted, hits / support, 2 * hits / (predicted + support)
    names = [str(name) for name in (range(len(counts)) if names is None else names)]
    return ClassReport(names, precision, recall, f1, support, float(hits.sum() / counts.sum()))


def _read(array, name):
    """An argument as a NumPy array."""
    try:
        return operations.current.to_numpy(as_labels(array))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _check_rows(probabilities, labels):
    """Probabilities (N, K) and class indices (N,) as NumPy arrays."""
    probabilities, labels = _read(probabilities, "probabilities"), class_indices(_read(labels, "labels"), "labels")
    if probabilities.ndim != 2 or len(probabilities) != len(labels):
        raise InputError(f"{len(labels)} labels need probabilities ({len(labels)}, K), got {probabilities.shape}")
    class_indices(probabilities, "probabilities")  # whose rows must hold numbers
    if labels.size and labels.max() >= probabilities.shape[1]:
        raise InputError(
            f"label {labels.max()} is out of range: the probabilities have {probabilities.shape[1]} classes"
        )
    return probabilities, labels


def class_indices(array: np.ndarray, name: str = "labels") -> np.ndarray:
    """Class indices (N,) from indices or from rows (N, K), of which the largest number counts.

    Args:
        array: a NumPy array (N,) of integers, or (N, K) of numbers.
        name: what it is called in an error.

    Returns:
        int64 (N,).

    Raises:
        InputError: indices that are not integers from 0; a column (N, 1), every row of which would be class 0; rows
            that hold NaN.

    >>> class_indices(np.array([[0.1, 0.9], [0.8, 0.2]]))
    array([1, 0])
    """
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "fiub":
        if np.isnan(array).any():
            raise InputError(f"{name} must be numbers, and row {np.argwhere(np.isnan(array))[0, 0]} holds NaN")
        array = array.argmax(axis=1)
    if array.ndim != 1 or (array.size and (array.dtype.kind not in "iu" or array.min() < 0)):
        raise _indices_error(array, name)
    return array.astype(np.int64)


def _indices_error(array, name):
    needed = f"{name} must be class indices (N,), integers from 0 on, or rows (N, K)"
    came = f"{needed}; got shape {array.shape} of {array.dtype}"
    if array.ndim == 2 and array.shape[1] == 1:
        return InputError(f"{came}: remove an axis with y.ravel()")
    if array.ndim == 1 and array.dtype.kind in "USO":
        return InputError(f"{came}: classes, y = np.unique(y, return_inverse=True) numbers the names")
    return InputError(came + (f" with {array.min()} in it" if array.size and array.dtype.kind in "iuf" else ""))
