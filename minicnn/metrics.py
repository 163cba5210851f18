"""What is measured beside the loss."""

import numpy as np

from minicnn.backend import array_module, to_numpy
from minicnn.checks import whole_number
from minicnn.errors import InputError


def correct(outputs, labels):
    """How many rows of the outputs have their largest number where the labels say.

    Args:
        outputs: (N, K), logits or probabilities.
        labels: class indices (N,), or one-hot or soft rows (N, K).

    Returns:
        a scalar of the arrays' own module (on the GPU nothing is waited for).

    >>> import numpy as np
    >>> int(correct(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1])))
    1
    """
    labels = array_module(outputs).asarray(labels)
    if labels.ndim == 2:
        labels = labels.argmax(axis=1)
    return (outputs.argmax(axis=1) == labels).sum()


def confusion_matrix(labels, predictions, classes=None):
    """Which class is taken for which, and how often.

        counts[i, j] = how many images of class i were taken for class j

    The right ones stand on the diagonal; a row adds up to the images of its class.

    Args:
        labels: class indices (N,), or one-hot or soft rows (N, K).
        predictions: class indices (N,), or logits or probabilities (N, K).
        classes: K; where it is None, the rows or the largest index tell.

    Returns:
        an int64 array (K, K).

    Raises:
        InputError: arrays of different lengths, or indices that are no whole numbers from 0 to K - 1.

    >>> confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1])
    array([[1, 1],
           [0, 2]])

    Source: Kohavi and Provost, "Glossary of terms", Machine Learning 30, 1998.
    """
    given = {"labels": to_numpy(labels), "predictions": to_numpy(predictions)}
    least = max([0, *(array.shape[1] for array in given.values() if array.ndim == 2)])
    indices = {name: _class_indices(array, name) for name, array in given.items()}
    rows, columns = indices.values()
    if len(rows) != len(columns):
        raise InputError(f"a confusion matrix needs as many predictions as labels, got {len(columns)} and {len(rows)}")
    least = max([least, *(int(array.max()) + 1 for array in indices.values() if array.size)])
    K = least if classes is None else whole_number(classes, "classes", "a confusion matrix")
    if least > K:
        raise InputError(f"a confusion matrix of {K} classes has no place for class {least - 1}")
    return np.bincount(rows * K + columns, minlength=K * K).reshape(K, K)


def confident_mistakes(probabilities, labels):
    """The images that are taken for something else than their label, the surest mistake first.

    Args:
        probabilities: (N, K), as `predict` gives them.
        labels: class indices (N,), or one-hot or soft rows (N, K).

    Returns:
        indices (M,) of the M images, by falling probability of the wrong class.

    Raises:
        InputError: probabilities that are not (N, K), or not as many labels.

    >>> confident_mistakes(np.array([[0.4, 0.6], [0.9, 0.1], [0.2, 0.8]]), [0, 0, 0])
    array([2, 0])
    """
    probabilities, labels = to_numpy(probabilities), _class_indices(to_numpy(labels), "labels")
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
            f"{name} must be class indices (N,), whole numbers from 0 on, or rows (N, K); got shape {array.shape} of "
            f"{array.dtype}" + (f" with {array.min()} in it" if array.size and array.dtype.kind in "iuf" else "")
        )
    return array.astype(np.int64)
