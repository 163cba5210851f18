"""What is measured beside the loss."""

from minicnn.backend import array_module


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
