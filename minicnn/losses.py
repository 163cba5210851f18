"""Losses: one number for how wrong a batch is, and its gradient.

A loss is called like a function and returns both: `loss, dlogits = loss_function(logits, labels)`.
Labels are checked before anything is computed: a wrong label costs a sentence, not a training run.
"""

import numpy as np

from minicnn.backend import array_module, fused, to_numpy
from minicnn.checks import check_array
from minicnn.errors import InputError


class Loss:
    """What every loss is: `loss, doutputs = loss_function(outputs, labels)`.

    A loss of your own needs `compute`; with `check` it refuses labels that cannot be right before any work is done.

    Raises:
        InputError: outputs that are no array of floating point numbers, or an empty batch; what `check` refuses.

    >>> import numpy as np
    >>> from minicnn.backend import array_module
    >>> class MeanAbsoluteError(Loss):
    ...     def compute(self, outputs, labels):
    ...         difference = outputs - labels
    ...         return abs(difference).mean(), array_module(outputs).sign(difference) / difference.size
    >>> loss, doutputs = MeanAbsoluteError()(np.array([[1.0, 4.0]]), np.array([[1.0, 2.0]]))
    >>> float(loss), doutputs
    (1.0, array([[0. , 0.5]]))
    """

    #: Whether accuracy (the largest output is the label's class) means something for this loss.
    is_classification = False

    #: Whether it works on logits, the scores before a closing Softmax, rather than on what `predict` gives.
    takes_logits = False

    def __call__(self, outputs, labels):
        name = type(self).__name__
        check_array(outputs, name)
        if outputs.dtype.kind != "f":
            raise InputError(
                f"{name} needs floating point numbers, got {outputs.dtype}: convert with outputs.astype('float32')"
            )
        if outputs.size == 0:
            raise InputError(f"{name} needs one output at least, got shape {outputs.shape}: the batch is empty")
        labels = as_labels(labels)
        self.check(labels, outputs.shape)
        return self.compute(outputs, labels)

    def check(self, labels, shape):
        """Refuse labels that do not belong to outputs of this shape, with an InputError."""

    def compute(self, outputs, labels):
        """The loss, a scalar, and its gradient by the outputs; for labels that `check` has already seen."""
        raise NotImplementedError(f"{type(self).__name__} needs a compute method")


def as_labels(labels):
    """Labels or targets as an array, one item an image; an array of either backend comes back as it is.

    Args:
        labels: an array, a list, or whatever else NumPy can read, such as another library's tensor.

    Raises:
        InputError: nothing that makes such an array, such as rows of different lengths.

    >>> as_labels([2, 0])
    array([2, 0])
    """
    try:
        array_module(labels)
    except TypeError:  # of neither backend
        try:
            labels = np.asarray(labels)
        except (TypeError, ValueError) as error:
            raise InputError(f"labels cannot be read as an array, got {type(labels).__name__}: {error}") from error
    if labels.ndim == 0:
        raise InputError(f"labels need an array with one item an image, got {labels!r:.60}")
    return labels


class SoftmaxCrossEntropy(Loss):
    """Softmax and cross-entropy together, on logits: how surprised the network is by the labels.

        loss = mean over n of  sum over k of -target[n, k] * log(softmax(logits)[n, k])
        dlogits = (softmax(logits) - target) / N

    The two are one function because together they are simple and exact: the logarithm undoes the exponential,
    so logits of +-10000 lose nothing. A logit of -inf is a class ruled out; +inf or NaN gives NaN.

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
    takes_logits = True

    def compute(self, logits, labels):
        xp = array_module(logits)
        labels = xp.asarray(labels)
        shifted = logits - logits.max(axis=1, keepdims=True)  # (N, K), the largest is 0
        exponentials = xp.exp(shifted)
        total = exponentials.sum(axis=1, keepdims=True)  # (N, 1), between 1 and K
        target = self._rows(xp, labels, logits)
        surprise, dlogits = fused(self._surprise_and_gradient)(shifted, exponentials, total, target, float(len(logits)))
        return surprise.sum() / len(logits), dlogits

    @staticmethod
    def _surprise_and_gradient(xp, shifted, exponentials, total, target, N):
        # -log(softmax) = log(total) - shifted; where the target is 0 its logit does not count, even at -inf.
        surprise = target * (xp.log(total) - xp.where(target > 0, shifted, 0))
        return surprise, (exponentials / total - target) / N

    def check(self, labels, shape):
        """Refuse labels that do not belong to logits of this shape (N, K)."""
        if len(shape) != 2:
            raise InputError(f"SoftmaxCrossEntropy needs logits (N, K), got shape {tuple(shape)}")
        N, K = shape
        labels = to_numpy(labels)
        if labels.ndim == 2:
            if labels.shape != (N, K):
                raise InputError(f"logits {(N, K)} need one-hot labels {(N, K)}, got {labels.shape}")
            if labels.dtype.kind not in "fiub":
                raise InputError(f"one-hot labels need numbers, got {labels.dtype}")
            sums = labels.sum(axis=1, dtype=np.float64)
            if not ((labels >= 0).all() and np.allclose(sums, 1, atol=1e-3)):
                raise InputError("each row of one-hot or soft labels must be at least 0 and add up to 1")
            return
        if labels.ndim != 1 or len(labels) != N:
            raise InputError(
                f"logits {(N, K)} need {N} class indices ({N},) or rows {(N, K)}, got labels {labels.shape}"
            )
        if labels.dtype.kind not in "iu":
            raise InputError(f"class indices must be integers, got {labels.dtype}")
        if N and (labels.min() < 0 or labels.max() >= K):
            wrong = int(labels.min()) if labels.min() < 0 else int(labels.max())
            raise InputError(f"label {wrong} is out of range: with {K} outputs labels run from 0 to {K - 1}")

    @staticmethod
    def _rows(xp, labels, logits):
        """The labels as rows (N, K) of the logits' dtype."""
        if labels.ndim == 2:
            return labels.astype(logits.dtype)
        return (labels[:, None] == xp.arange(logits.shape[1])).astype(logits.dtype)


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
        InputError: shapes that differ, or targets that are no real numbers; outputs as for `Loss`.

    >>> import numpy as np
    >>> loss, doutputs = MeanSquaredError()(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
    >>> float(loss), doutputs
    (2.0, array([[0., 2.]]))

    Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", 1986 (there half the
    sum of the squares instead of their mean).
    """

    def compute(self, outputs, targets):
        xp = array_module(outputs)
        difference = outputs - xp.asarray(targets, dtype=outputs.dtype)
        return (difference * difference).mean(), difference * (2 / difference.size)

    def check(self, targets, shape):
        """Refuse targets that do not belong to outputs of this shape."""
        if tuple(targets.shape) != tuple(shape):
            raise InputError(f"outputs {tuple(shape)} need targets of the same shape, got {targets.shape}")
        if targets.dtype.kind not in "fiu":
            raise InputError(f"targets must be numbers, got {targets.dtype}")
