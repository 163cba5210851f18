"""Losses: one number for how wrong a batch is, and its gradient.

A loss is called like a function and returns both: `loss, dlogits = loss_function(logits, labels)`.
Labels are validated before anything is computed: a wrong label costs one error message, not a training run.
"""

import numpy as np

from minicnn.core import operations
from minicnn.core.checks import check_array
from minicnn.core.errors import InputError


class Loss:
    """What every loss is: `loss, doutputs = loss_function(outputs, labels)`.

    A loss of your own needs `compute`; with `check` it refuses labels that cannot be right before any work is done.

    Raises:
        InputError: outputs that are not an array of floating point numbers, or an empty batch; what `check` refuses.

    >>> import numpy as np
    >>> class MeanAbsoluteError(Loss):
    ...     def compute(self, outputs, labels):
    ...         difference = outputs - labels
    ...         return abs(difference).mean(), np.sign(difference) / difference.size
    >>> loss, doutputs = MeanAbsoluteError()(np.array([[1.0, 4.0]]), np.array([[1.0, 2.0]]))
    >>> float(loss), doutputs
    (1.0, array([[0. , 0.5]]))
    """

    #: Whether accuracy (the largest output is the label's class) means something for this loss.
    is_classification = False

    #: Whether it is computed from logits, the scores before a closing Softmax, rather than from what `predict` returns.
    from_logits = False

    def __call__(self, outputs, labels):
        check_array(outputs, type(self).__name__)
        if outputs.dtype.kind != "f" or outputs.size == 0:
            raise self._outputs_error(outputs)
        labels = as_labels(labels)
        self.check(labels, outputs.shape)
        return self.compute(outputs, operations.current.array(labels))

    def _outputs_error(self, outputs):
        name = type(self).__name__
        if outputs.dtype.kind != "f":
            return InputError(
                f"{name} needs floating point numbers, got {outputs.dtype}: convert with outputs.astype('float32')"
            )
        return InputError(f"{name} needs one output at least, got shape {outputs.shape}: the batch is empty")

    def check(self, labels, shape):
        """Refuse labels that do not belong to outputs of this shape, with an InputError."""

    def compute(self, outputs, labels):
        """The loss, a scalar, and its gradient with respect to the outputs; for labels that `check` has validated."""
        raise NotImplementedError(f"{type(self).__name__} needs a compute method")


def as_labels(labels):
    """Labels or targets as an array, one item for each sample; an array of the backend in use is returned as it is.

    Args:
        labels: an array, a list, or whatever else NumPy can read, such as another library's tensor.

    Raises:
        InputError: something that is not such an array, such as rows of different lengths.

    >>> as_labels([2, 0])
    array([2, 0])
    """
    return labels if operations.current.owns(labels) and labels.ndim else _read_labels(labels)


def _read_labels(labels):
    """A list, or another library's tensor, as an array."""
    try:
        labels = np.asarray(labels)
    except (TypeError, ValueError) as error:
        raise InputError(f"labels cannot be read as an array, got {type(labels).__name__}: {error}") from error
    if labels.ndim == 0:
        raise InputError(f"labels need an array with one item for each sample, got {labels!r:.60}")
    return labels


class SoftmaxCrossEntropy(Loss):
    """Softmax and cross-entropy together, on logits: the mean negative log-likelihood of the labels.

        loss = mean over n of  sum over k of -target[n, k] * log(softmax(logits)[n, k])
        dlogits = (softmax(logits) - target) / N

    The two are one function because together they are simple and exact: the logarithm undoes the exponential,
    so logits of +-10000 lose nothing. A logit of -inf excludes its class; +inf or NaN result in NaN.

    Args of the call:
        logits: (N, K), floating point, K classes.
        labels: class indices (N,) of an integer dtype, from 0 to K - 1; or one-hot or soft rows (N, K), not
            negative, each adding up to 1.

    Returns of the call:
        loss: the mean over the batch, a scalar of the logits' dtype, in nats.
        dlogits: its gradient, (N, K).

    Raises:
        InputError: labels of the wrong length, dtype or range; logits as for `Loss`.

    >>> import numpy as np
    >>> loss, dlogits = SoftmaxCrossEntropy()(np.array([[0.0, 0.0]]), np.array([1]))
    >>> round(float(loss), 4), dlogits
    (0.6931, array([[ 0.5, -0.5]]))

    Source: Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    """

    is_classification = True
    from_logits = True

    def compute(self, logits, labels):
        shifted = logits - logits.max(axis=1, keepdims=True)  # (N, K), the largest is 0
        exponentials = np.exp(shifted)
        total = exponentials.sum(axis=1, keepdims=True)  # (N, 1), between 1 and K
        target = labels if labels.ndim == 2 else labels[:, None] == np.arange(logits.shape[1], like=logits)
        arguments = shifted, exponentials, total, target.astype(logits.dtype), float(len(logits))
        losses, dlogits = operations.current.elementwise(self._loss_and_gradient, *arguments)
        return losses.sum() / len(logits), dlogits

    @staticmethod
    def _loss_and_gradient(shifted, exponentials, total, target, N):
        # -log(softmax) = log(total) - shifted; where the target is 0 its logit does not count, even at -inf.
        losses = target * (np.log(total) - np.where(target > 0, shifted, 0))
        return losses, (exponentials / total - target) / N

    def check(self, labels, shape):
        """Refuse labels that do not belong to logits of this shape (N, K)."""
        if len(shape) != 2:
            raise InputError(f"SoftmaxCrossEntropy needs logits (N, K), got shape {tuple(shape)}")
        (_check_rows if labels.ndim == 2 else _check_indices)(operations.current.to_numpy(labels), shape)


def _check_rows(labels, shape):
    """Refuse rows that are not one-hot or soft labels for logits of this shape (N, K)."""
    if labels.shape != tuple(shape):
        raise InputError(f"logits {tuple(shape)} need one-hot labels {tuple(shape)}, got {labels.shape}")
    if labels.dtype.kind not in "fiub":
        raise InputError(f"one-hot labels need numbers, got {labels.dtype}")
    sums = labels.sum(axis=1, dtype=np.float64)
    if not ((labels >= 0).all() and np.allclose(sums, 1, atol=1e-3)):
        raise InputError("each row of one-hot or soft labels must be at least 0 and add up to 1")


def _check_indices(labels, shape):
    """Refuse labels that are not class indices for logits of this shape (N, K)."""
    N, K = shape
    are_indices = labels.ndim == 1 and len(labels) == N and labels.dtype.kind in "iu"
    if not are_indices or (N and (labels.min() < 0 or labels.max() >= K)):
        raise _indices_error(labels, N, K)


def _indices_error(labels, N, K):
    if labels.ndim != 1 or len(labels) != N:
        shapes = f"{N} class indices ({N},) or rows {(N, K)}"
        return InputError(f"logits {(N, K)} need {shapes}, got labels {labels.shape}")
    if labels.dtype.kind not in "iu":
        return InputError(f"class indices must be integers, got {labels.dtype}")
    wrong = int(labels.min()) if labels.min() < 0 else int(labels.max())
    return InputError(f"label {wrong} is out of range: with {K} outputs labels run from 0 to {K - 1}")


class MeanSquaredError(Loss):
    """The mean of the squared differences, over the batch and all outputs.

        loss = mean((outputs - targets) ** 2),    doutputs = 2 * (outputs - targets) / outputs.size

    Args of the call:
        outputs: any shape, floating point.
        targets: the same shape.

    Returns of the call:
        loss: a scalar of the outputs' dtype.
        doutputs: its gradient, of the outputs' shape.

    Raises:
        InputError: shapes that differ, or targets that are not real numbers; outputs as for `Loss`.

    >>> import numpy as np
    >>> loss, doutputs = MeanSquaredError()(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
    >>> float(loss), doutputs
    (2.0, array([[0., 2.]]))

    Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", 1986 (there half the
    sum of the squares instead of their mean).
    """

    def compute(self, outputs, targets):
        difference = outputs - targets.astype(outputs.dtype)
        return (difference * difference).mean(), difference * (2 / difference.size)

    def check(self, targets, shape):
        """Refuse targets that do not belong to outputs of this shape."""
        if tuple(targets.shape) != tuple(shape):
            raise InputError(f"outputs {tuple(shape)} need targets of the same shape, got {targets.shape}")
        if targets.dtype.kind not in "fiu":
            raise InputError(f"targets must be numbers, got {targets.dtype}")
