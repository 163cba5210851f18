"""What is measured besides the loss."""

import numpy as np

from minicnn.core import operations
from minicnn.core.checks import check_integer
from minicnn.core.errors import InputError


def correct(outputs, labels):
    """How many rows of the outputs have their largest number at the label's class.

    Args:
        outputs: (N, K), logits or probabilities.
        labels: class indices (N,), or one-hot or soft rows (N, K).

    Returns:
        a scalar of the backend in use.

    >>> import numpy as np
    >>> int(correct(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1])))
    1
    """
    labels = operations.current.array(labels)
    if labels.ndim == 2:
        labels = labels.argmax(axis=1)
    return (outputs.argmax(axis=1) == labels).sum()


def confusion_matrix(labels, predictions, classes=None):
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
        InputError: arrays of different lengths, or indices that are not integers from 0 to K - 1.

    >>> confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1])
    array([[1, 1],
           [0, 2]])

    Source: Kohavi and Provost, "Glossary of terms", Machine Learning 30, 1998.
    """
    arrays = {"labels": operations.current.to_numpy(labels), "predictions": operations.current.to_numpy(predictions)}
    smallest = max([0, *(array.shape[1] for array in arrays.values() if array.ndim == 2)])
    indices = {name: _class_indices(array, name) for name, array in arrays.items()}
    rows, columns = indices.values()
    if len(rows) != len(columns):
        raise InputError(f"a confusion matrix needs as many predictions as labels, got {len(columns)} and {len(rows)}")
    smallest = max([smallest, *(int(array.max()) + 1 for array in indices.values() if array.size)])
    K = smallest if classes is None else check_integer(classes, "classes", "a confusion matrix")
    if smallest > K:
        raise InputError(f"a confusion matrix of {K} classes has no row for class {smallest - 1}")
    return np.bincount(rows * K + columns, minlength=K * K).reshape(K, K)


def confident_mistakes(probabilities, labels):
    """The images whose predicted class is not their label, the most confident mistake first.

    Args:
        probabilities: (N, K), as `predict` returns them.
        labels: class indices (N,), or one-hot or soft rows (N, K).

    Returns:
        indices (M,) of the M images, by decreasing probability of the wrong class.

    Raises:
        InputError: probabilities that are not (N, K), or not as many labels.

    >>> confident_mistakes(np.array([[0.4, 0.6], [0.9, 0.1], [0.2, 0.8]]), [0, 0, 0])
    array([2, 0])
    """
    probabilities, labels = (
        operations.current.to_numpy(probabilities),
        _class_indices(operations.current.to_numpy(labels), "labels"),
    )
    if probabilities.ndim != 2 or len(probabilities) != len(labels):
        raise InputError(f"{len(labels)} labels need probabilities ({len(labels)}, K), got {probabilities.shape}")
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]


def _class_indices(array, name):
    """Class indices (N,) from indices or from rows (N, K)."""
    if array.ndim == 2 and array.shape[1]:
        array = array.argmax(axis=1)
    if array.ndim != 1 or (array.size and (array.dtype.kind not in "iu" or array.min() < 0)):
        raise InputError(
            f"{name} must be class indices (N,), integers from 0 on, or rows (N, K); got shape {array.shape} of "
            f"{array.dtype}" + (f" with {array.min()} in it" if array.size and array.dtype.kind in "iuf" else "")
        )
    return array.astype(np.int64)
