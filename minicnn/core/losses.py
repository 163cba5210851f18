"""Losses: one number for how wrong a batch is, and its gradient.

A loss is called like a function and returns both: `loss, dlogits = loss_function(logits, labels)`.
Labels are validated before anything is computed: a wrong label costs one error message, not a training run.
"""

from collections.abc import Sequence

import numpy as np

from minicnn.core import operations
from minicnn.core.arguments import Configured
from minicnn.core.checks import check_array, check_number, check_unmasked, quoted
from minicnn.core.errors import InputError
from minicnn.core.types import Array, ArrayLike, Shape


class Loss(Configured):
    """What every loss is: `loss, doutputs = loss_function(outputs, labels)`.

    A loss of your own needs `compute`; with `check` it refuses labels that cannot be right before any work is done.
    Without a `check` of its own the labels need the shape of the outputs; they may be class indices (N,) where
    `is_classification` is True.

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

    def __call__(self, outputs: Array, labels: ArrayLike) -> tuple[Array, Array]:
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

    def check(self, labels: Array, shape: Shape) -> None:
        """Refuse labels that do not belong to outputs of this shape, with an InputError; here those of another shape.

        (N, 1) and (N,) would be broadcast to (N, N), and the loss would be the mean of N * N wrong differences.

        Args:
            labels: an array, one item for each sample.
            shape: of the outputs, (N, ...).
        """
        are_indices = self.is_classification and tuple(labels.shape) == tuple(shape[:1])
        if tuple(labels.shape) != tuple(shape) and not are_indices:
            raise _shape_error(type(self).__name__, labels.shape, shape)

    def compute_checked(self, outputs: Array, labels: Array) -> tuple[Array, Array]:
        """`compute`, and an InputError where it does not return a scalar and a gradient like the outputs.

        Args:
            outputs: (N, ...), floating point.
            labels: as the loss needs them.

        Returns:
            (loss, doutputs), as from `compute`.
        """
        result = self.compute(outputs, labels)
        is_pair = isinstance(result, tuple) and len(result) == 2
        shapes = [getattr(item, "shape", None) for item in result] if is_pair else None
        if shapes != [(), outputs.shape] or result[1].dtype != outputs.dtype:
            raise self._result_error(result, outputs)
        return result

    def _result_error(self, result, outputs):
        items = result if isinstance(result, tuple) else (result,)
        came = ", ".join(f"{type(item).__name__} {getattr(item, 'shape', '')}".strip() for item in items)
        if len(items) == 2 and getattr(items[1], "shape", None) == outputs.shape:
            came += f" of {items[1].dtype}"
        return InputError(
            f"{type(self).__name__}.compute must return the loss, a scalar such as array.mean(), and its gradient, an "
            f"array {outputs.shape} of {outputs.dtype}; it returned {came}"
        )

    def compute(self, outputs: Array, labels: Array) -> tuple[Array, Array]:
        """The loss, a scalar, and its gradient with respect to the outputs; for labels that `check` has validated.

        Args:
            outputs: (N, ...), floating point.
            labels: as the loss needs them.

        Returns:
            (loss, doutputs): a scalar, and an array of the shape and dtype of the outputs.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a compute method")


def _shape_error(name, labels, shape):
    """The error for labels of a shape that does not belong to outputs of a shape, with the likely fix."""
    labels, shape, fix = tuple(labels), tuple(shape), ""
    if shape == (*labels, 1):
        fix = ": add an axis with y[:, None]"
    elif labels == (*shape, 1):
        fix = ": remove an axis with y.ravel()"
    elif labels == shape[:1]:
        fix = ": for class indices set is_classification = True in the loss, or give it a check method"
    return InputError(f"{name} needs labels of the shape of the outputs, {shape}, got {labels}{fix}")


def as_labels(labels: ArrayLike) -> Array:
    """Labels or targets as an array, one item for each sample; an array of the backend in use is returned as it is.

    Args:
        labels: an array, a list, or whatever else NumPy can read, such as another library's tensor.

    Returns:
        an array (N, ...).

    Raises:
        InputError: something that is not such an array, such as rows of different lengths.

    >>> as_labels([2, 0])
    array([2, 0])
    """
    is_ready = operations.current.owns(labels) and labels.ndim and not hasattr(labels, "mask")
    return labels if is_ready else _read_labels(labels)


def _read_labels(labels):
    """A list, a masked array without masked values, or another library's tensor, as an array."""
    check_unmasked(labels, "labels")
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

    With `label_smoothing` s a target is `(1 - s) * target + s / K`: no class is ever certain, so no logit has to grow
    without end. With `class_weights` the target is then multiplied by the weights, class by class, so that mistakes in
    a rare class count more. The sum is divided by N, not by the sum of the weights as in PyTorch: so the loss of a data
    set does not depend on the batches in which it is computed, and neither does a sample's gradient.

    Args:
        label_smoothing: at least 0 and less than 1.
        class_weights: K numbers of at least 0, or None for 1 each.

    Args of the call:
        logits: (N, K), floating point, K classes.
        labels: class indices (N,) of an integer dtype, from 0 to K - 1; or one-hot or soft rows (N, K), not
            negative, each adding up to 1.

    Returns of the call:
        loss: the mean over the batch, a scalar of the logits' dtype, in nats.
        dlogits: its gradient, (N, K).

    Raises:
        InputError: a number out of its range; labels of the wrong length, dtype or range; logits as for `Loss`.

    >>> import numpy as np
    >>> loss, dlogits = SoftmaxCrossEntropy()(np.array([[0.0, 0.0]]), np.array([1]))
    >>> round(float(loss), 4), dlogits
    (0.6931, array([[ 0.5, -0.5]]))
    >>> loss, dlogits = SoftmaxCrossEntropy(class_weights=[1, 3])(np.array([[0.0, 0.0]]), np.array([1]))
    >>> round(float(loss), 4), dlogits
    (2.0794, array([[ 1.5, -1.5]]))

    Sources: Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990; label
    smoothing: Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016.
    """

    is_classification = True
    from_logits = True

    label_smoothing, class_weights = 0.0, None  # for a subclass with a constructor of its own

    def __init__(self, *, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None):
        self.label_smoothing = check_number(label_smoothing, "label_smoothing", "SoftmaxCrossEntropy", below=1)
        self.class_weights = None if class_weights is None else _check_weights(class_weights)

    def compute(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        shifted = logits - logits.max(axis=1, keepdims=True)  # (N, K), the largest is 0
        exponentials = np.exp(shifted)
        total = exponentials.sum(axis=1, keepdims=True)  # (N, 1), between 1 and K
        target = labels if labels.ndim == 2 else labels[:, None] == np.arange(logits.shape[1], like=logits)
        target, weight = target.astype(logits.dtype), 1.0
        if self.label_smoothing or self.class_weights:
            target, weight = self._weighted(target)
        arguments = shifted, exponentials, total, target, weight, float(len(logits))
        losses, dlogits = operations.current.elementwise(self._loss_and_gradient, *arguments)
        return losses.sum() / len(logits), dlogits

    def _weighted(self, target):
        """The target (N, K) with smoothing and class weights, and the sum of each row (N, 1)."""
        target = (1 - self.label_smoothing) * target + self.label_smoothing / target.shape[1]
        if self.class_weights:
            target = target * operations.current.array(self.class_weights, target.dtype)
        return target, target.sum(axis=1, keepdims=True)

    @staticmethod
    def _loss_and_gradient(shifted, exponentials, total, target, weight, N):
        # -log(softmax) = log(total) - shifted; where the target is 0 its logit does not count, even at -inf.
        losses = target * (np.log(total) - np.where(target > 0, shifted, 0))
        return losses, (weight * exponentials / total - target) / N

    def check(self, labels: Array, shape: Shape) -> None:
        """Refuse labels that do not belong to logits of this shape (N, K)."""
        if len(shape) != 2 or (self.class_weights and len(self.class_weights) != shape[1]):
            raise self._logits_error(shape)
        (_check_rows if labels.ndim == 2 else _check_indices)(operations.current.to_numpy(labels), shape)

    def _logits_error(self, shape):
        if len(shape) != 2:
            return InputError(f"SoftmaxCrossEntropy needs logits (N, K), got shape {tuple(shape)}")
        return InputError(f"SoftmaxCrossEntropy has {len(self.class_weights)} class_weights, for {shape[1]} classes")


def _check_weights(weights):
    """Class weights as a tuple of numbers."""
    try:
        array = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.ndim != 1 or not array.size or not (np.isfinite(array).all() and array.min() >= 0 and array.max() > 0):
        raise InputError(
            "SoftmaxCrossEntropy needs class_weights as one number of at least 0 for each class, not all 0, got "
            + quoted(weights)
        )
    return tuple(array.tolist())


def _check_rows(labels, shape):
    """Refuse rows that are not one-hot or soft labels for logits of this shape (N, K)."""
    if labels.shape != tuple(shape):
        fix = ": class indices are one axis, y.ravel()" if labels.shape == (shape[0], 1) else ""
        raise InputError(f"logits {tuple(shape)} need one-hot labels {tuple(shape)}, got {labels.shape}{fix}")
    if labels.dtype.kind not in "fiub":
        raise InputError(f"one-hot labels need numbers, got {labels.dtype}")
    sums = labels.sum(axis=1, dtype=np.float64)
    if not ((labels >= 0).all() and np.allclose(sums, 1, atol=1e-3)):
        raise InputError("each row of one-hot or soft labels must be at least 0 and add up to 1")


def _index_fix(labels):
    """How to make class indices of labels of another kind, for a message."""
    if labels.dtype.kind in "USOT":
        return ": classes, y = np.unique(y, return_inverse=True) numbers the names"
    is_integer = labels.dtype.kind == "b" or (labels.dtype.kind == "f" and (labels == np.round(labels)).all())
    return ": convert with y.astype(int)" if is_integer else ""


def _check_indices(labels, shape):
    """Refuse labels that are not class indices for logits of this shape (N, K)."""
    are_indices = labels.shape == tuple(shape[:1]) and labels.dtype.kind in "iu"
    if not are_indices or (labels.size and (labels.min() < 0 or labels.max() >= shape[1])):
        raise _indices_error(labels, *shape)


def _indices_error(labels, N, K):
    if labels.ndim != 1 or len(labels) != N:
        shapes = f"{N} class indices ({N},) or rows {(N, K)}"
        return InputError(f"logits {(N, K)} need {shapes}, got labels {labels.shape}")
    if labels.dtype.kind not in "iu":
        return InputError(f"class indices must be integers, got {labels.dtype}{_index_fix(labels)}")
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
        InputError: shapes that differ, or targets that are not finite real numbers; outputs as for `Loss`.

    >>> import numpy as np
    >>> loss, doutputs = MeanSquaredError()(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
    >>> float(loss), doutputs
    (2.0, array([[0., 2.]]))

    Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", 1986 (there half the
    sum of the squares instead of their mean).
    """

    def compute(self, outputs: Array, targets: Array) -> tuple[Array, Array]:
        difference = outputs - targets.astype(outputs.dtype)
        return (difference * difference).mean(), difference * (2 / difference.size)

    def check(self, targets: Array, shape: Shape) -> None:
        """Refuse targets that do not belong to outputs of this shape, or are not finite numbers."""
        super().check(targets, shape)
        _check_targets(targets, type(self).__name__)


class BinaryCrossEntropy(Loss):
    """Sigmoid and cross-entropy together, on logits: for yes or no, or for several labels that may all be true.

        loss = mean of  -target * log(sigmoid(logit)) - (1 - target) * log(1 - sigmoid(logit))
             = mean of  max(logit, 0) - logit * target + log(1 + exp(-abs(logit)))
        dlogits = (sigmoid(logits) - targets) / logits.size

    The second form is the same and never overflows. The network ends without a Sigmoid: its outputs are the logits,
    and so is what `predict` returns. A logit above 0 means yes; the probability is `1 / (1 + exp(-logit))`.

    Args of the call:
        logits: any shape, floating point, such as (N, 1).
        targets: the same shape, from 0 to 1.

    Returns of the call:
        loss: a scalar of the logits' dtype, in nats.
        dlogits: its gradient, of the logits' shape.

    Raises:
        InputError: shapes that differ, or targets outside [0, 1]; logits as for `Loss`.

    >>> import numpy as np
    >>> loss, dlogits = BinaryCrossEntropy()(np.array([[0.0], [0.0]]), np.array([[1], [0]]))
    >>> round(float(loss), 4), dlogits
    (0.6931, array([[-0.25],
           [ 0.25]]))

    Source: Cox, "The regression analysis of binary sequences", 1958.
    """

    def compute(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        arguments = logits, targets.astype(logits.dtype), float(logits.size)
        losses, dlogits = operations.current.elementwise(self._loss_and_gradient, *arguments)
        return losses.mean(), dlogits

    @staticmethod
    def _loss_and_gradient(logits, targets, size):
        losses = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))
        return losses, ((np.tanh(logits * 0.5) + 1) * 0.5 - targets) / size

    def check(self, targets: Array, shape: Shape) -> None:
        """Refuse targets that do not belong to logits of this shape, or are not from 0 to 1."""
        super().check(targets, shape)
        values = _check_targets(targets, type(self).__name__)
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            raise InputError(
                f"BinaryCrossEntropy needs targets from 0 to 1, got numbers from {values.min()} to {values.max()}"
            )


def _check_targets(targets, name):
    """Targets as a NumPy array, if they are finite real numbers or True and False; else an InputError."""
    if targets.dtype.kind not in "fiub":
        raise InputError(f"{name} needs targets that are numbers, got {targets.dtype}")
    targets = operations.current.to_numpy(targets)
    if not np.isfinite(targets).all():
        index = ", ".join(map(str, np.argwhere(~np.isfinite(targets))[0]))
        raise InputError(f"the target at [{index}] is NaN or infinite: clean the data first")
    return targets


class Hinge(Loss):
    """The multiclass SVM loss: the score of the label's class should exceed every other score by a margin.

        loss = mean over n of  sum over k != label of max(0, scores[n, k] - scores[n, label] + margin)
        dscores[n, k] = 1 / N for each k that is inside the margin, minus their number / N at the label

    A sample whose scores are right by the margin has no gradient any more, unlike with `SoftmaxCrossEntropy`. Where a
    score lies exactly on the margin there is no derivative; the loss uses the subgradient 0.

    Args:
        margin: above 0.

    Args of the call:
        scores: (N, K), floating point, before a closing Softmax.
        labels: class indices (N,), from 0 to K - 1; or one-hot rows (N, K), of which the largest number counts.

    Returns of the call:
        loss: the mean over the batch, a scalar of the scores' dtype.
        dscores: its gradient, (N, K).

    Raises:
        InputError: a margin that is not above 0; labels as for `SoftmaxCrossEntropy`; scores as for `Loss`.

    >>> import numpy as np
    >>> loss, dscores = Hinge()(np.array([[3.0, 2.5, -1.0]]), np.array([0]))
    >>> float(loss), dscores
    (0.5, array([[-1.,  1.,  0.]]))

    Source: Weston & Watkins, "Support vector machines for multi-class pattern recognition", 1999; the loss of the
    course CS231n.
    """

    is_classification = True
    from_logits = True

    def __init__(self, *, margin: float = 1.0):
        self.margin = check_number(margin, "margin", "Hinge")
        if self.margin == 0:
            raise InputError("Hinge needs a margin above 0: with 0, scores that are all equal are without any loss")

    def compute(self, scores: Array, labels: Array) -> tuple[Array, Array]:
        labels = labels.argmax(axis=1) if labels.ndim == 2 else labels
        is_label = labels[:, None] == np.arange(scores.shape[1], like=scores)  # (N, K)
        of_label = np.where(is_label, scores, 0).sum(axis=1, keepdims=True)  # (N, 1)
        excess = np.where(is_label, 0, scores - of_label + self.margin)
        inside = (excess > 0).astype(scores.dtype)
        dscores = inside - is_label * inside.sum(axis=1, keepdims=True)
        return (excess * inside).sum() / len(scores), dscores / len(scores)

    def check(self, labels: Array, shape: Shape) -> None:
        """Refuse labels that do not belong to scores of this shape (N, K)."""
        if len(shape) != 2:
            raise InputError(f"Hinge needs scores (N, K), got shape {tuple(shape)}")
        (_check_rows if labels.ndim == 2 else _check_indices)(operations.current.to_numpy(labels), shape)
