"""The tasks about layers: activations, the loss, dense, dropout, batch normalization, a residual block."""

import numpy as np

from minicnn.exercises import solutions
from minicnn.exercises.task import Task, layer, values

# ReLU and tanh


def _numbers(rng):
    """Numbers of both signs, with zeros among them."""
    x = rng.normal(size=(4, 5))
    x[1, 2:4] = 0
    return (x,)


RELU = Task("relu", "ex07_activations", solutions.relu, layer({"": _numbers}))
TANH = Task("tanh", "ex07_activations", solutions.tanh, layer({"": _numbers}))


@RELU.mistake(2, "the mask is taken from dy: it belongs to x. Where x was not positive, x did not change y")
def mask_from_dy(x):
    return np.maximum(x, 0), lambda dy: dy * (dy > 0)


@RELU.mistake(2, "at x = 0 the gradient passes: here it is 0, so compare with x > 0 and not x >= 0")
def mask_with_zeros(x):
    return np.maximum(x, 0), lambda dy: dy * (x >= 0)


@RELU.mistake(2, "dy is missing: it is the mask alone. The chain rule multiplies the derivative with dy")
def mask_alone(x):
    return np.maximum(x, 0), lambda dy: 1.0 * (x > 0)


@RELU.mistake(2, "the mask is missing: the gradient passes everywhere")
def no_mask(x):
    return np.maximum(x, 0), lambda dy: dy * 1


@RELU.mistake(2, "it is ReLU of dy where x > 0: negative gradients are gradients, too")
def positive_gradients_only(x):
    return np.maximum(x, 0), lambda dy: np.maximum(dy, 0) * (x > 0)


@RELU.mistake(2, "a factor: it is dy * y, and y is not the derivative. The derivative of ReLU is 1 or 0")
def times_the_output(x):
    y = np.maximum(x, 0)
    return y, lambda dy: dy * y


@RELU.mistake(1, "it is the absolute value: negative numbers become 0")
def absolute(x):
    return np.abs(x), lambda dy: dy * np.sign(x)


@TANH.mistake(2, "the derivative is taken from the wrong tensor: 1 - x * x, and it must be 1 - y * y with y = tanh(x)")
def derivative_from_x(x):
    return np.tanh(x), lambda dy: dy * (1 - x * x)


@TANH.mistake(2, "the square is missing: 1 - y, and it must be 1 - y * y")
def not_squared(x):
    y = np.tanh(x)
    return y, lambda dy: dy * (1 - y)


@TANH.mistake(2, "tanh is applied twice: y is tanh(x) already")
def tanh_twice(x):
    y = np.tanh(x)
    return y, lambda dy: dy * (1 - np.tanh(y) ** 2)


@TANH.mistake(2, "dy is missing: it is the derivative alone. The chain rule multiplies it with dy")
def derivative_alone(x):
    y = np.tanh(x)
    return y, lambda dy: 1 - y * y


@TANH.mistake(2, "it is the derivative of the sigmoid, y * (1 - y), and tanh has 1 - y * y")
def derivative_of_the_sigmoid(x):
    y = np.tanh(x)
    return y, lambda dy: dy * y * (1 - y)


@TANH.mistake(1, "it is the sigmoid, 1 / (1 + exp(-x)), with outputs from 0 to 1; tanh has outputs from -1 to 1")
def sigmoid_for_tanh(x):
    y = 1 / (1 + np.exp(-x))
    return y, lambda dy: dy * y * (1 - y)


# Softmax and cross-entropy


def _logits(size, scale):
    return lambda rng: (scale * rng.normal(size=size), rng.integers(size[1], size=size[0]))


SOFTMAX_CROSS_ENTROPY = Task(
    "softmax_cross_entropy",
    "ex08_cross_entropy",
    solutions.softmax_cross_entropy,
    values({"": _logits((4, 3), 1), "logits of some thousands": _logits((3, 5), 1000)}, names=("loss", "dlogits")),
)


def _loss(logits, labels, axis=1, shift=True, inside=0.0):
    """Softmax and cross-entropy by the textbook: the loss of each sample, the probabilities and the target."""
    target = np.eye(logits.shape[1])[labels]
    exponentials = np.exp(logits - logits.max(axis=axis, keepdims=True) * shift)
    p = exponentials / exponentials.sum(axis=axis, keepdims=True)
    return -np.log((p * target).sum(axis=1) + inside), p, target


@SOFTMAX_CROSS_ENTROPY.mistake(
    4, "a factor: it is not divided by N. The loss is a mean over the batch, so its gradient is"
)
def gradient_of_the_sum(logits, labels):
    loss, dlogits = solutions.softmax_cross_entropy(logits, labels)
    return loss, dlogits * len(logits)


@SOFTMAX_CROSS_ENTROPY.mistake(3, "a factor: it is the sum over the batch, and must be the mean")
def sum_of_losses(logits, labels):
    loss, dlogits = solutions.softmax_cross_entropy(logits, labels)
    return loss * len(logits), dlogits * len(logits)


@SOFTMAX_CROSS_ENTROPY.mistake(3, "a factor: the sum is divided by N * K, the number of all logits; divide by N alone")
def mean_of_everything(logits, labels):
    loss, dlogits = solutions.softmax_cross_entropy(logits, labels)
    return loss / logits.shape[1], dlogits / logits.shape[1]


@SOFTMAX_CROSS_ENTROPY.mistake(2, "the softmax runs along the batch: each row must add up to 1, so use axis=1")
def softmax_of_columns(logits, labels):
    losses, p, target = _loss(logits, labels, axis=0)
    return losses.mean(), (p - target) / len(logits)


@SOFTMAX_CROSS_ENTROPY.mistake(2, "the sum runs over the complete batch: each row has its own, so use axis=1")
def one_sum_of_exponentials(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum())
    return -log_p[range(len(labels)), labels].mean(), (np.exp(log_p) - np.eye(logits.shape[1])[labels]) / len(logits)


@SOFTMAX_CROSS_ENTROPY.mistake(
    3, "[:, labels] reads the labels of all samples in each row: read log_p[np.arange(N), labels]"
)
def labels_of_all_samples(logits, labels):
    _, p, target = _loss(logits, labels)
    return -np.log(p[:, labels]).mean(), (p - target) / len(logits)


@SOFTMAX_CROSS_ENTROPY.mistake(
    4, "[:, labels] changes the labels of all samples in each row: change p[np.arange(N), labels]"
)
def target_of_all_samples(logits, labels):
    loss, dlogits = solutions.softmax_cross_entropy(logits, labels)
    p = dlogits * len(logits) + np.eye(logits.shape[1])[labels]
    p[:, labels] -= 1
    return loss, p / len(logits)


@SOFTMAX_CROSS_ENTROPY.mistake(4, "it is computed from the wrong tensor: p - target, and not log p - target")
def logarithm_for_p(logits, labels):
    loss, dlogits = solutions.softmax_cross_entropy(logits, labels)
    target = np.eye(logits.shape[1])[labels]
    return loss, (np.log(dlogits * len(logits) + target) - target) / len(logits)


@SOFTMAX_CROSS_ENTROPY.mistake(
    2, "a sum or a maximum of each row must keep its axis, (N, 1), to meet (N, K): use keepdims=True"
)
def axis_lost(logits, labels):
    return logits - logits.max(axis=1), None


@SOFTMAX_CROSS_ENTROPY.mistake(1, "the exponential overflows: the largest logit of each row is not subtracted first")
def not_shifted(logits, labels):
    losses, p, target = _loss(logits, labels, shift=False)
    return losses.mean(), (p - target) / len(logits)


@SOFTMAX_CROSS_ENTROPY.mistake(
    1, "the exponential below the logarithm overflows: subtract the largest logit of each row"
)
def logarithm_not_shifted(logits, labels):
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log_p[range(len(labels)), labels].mean(), (np.exp(log_p) - np.eye(logits.shape[1])[labels]) / len(logits)


@SOFTMAX_CROSS_ENTROPY.mistake(
    3,
    "the logarithm of a probability that was rounded to 0 is infinite: compute log p by line (2)",
)
def logarithm_of_zero(logits, labels):
    losses, p, target = _loss(logits, labels)
    return losses.mean(), (p - target) / len(logits)


@SOFTMAX_CROSS_ENTROPY.mistake(
    3,
    "a small number is added in the logarithm. It hides log(0), and the loss no longer belongs to its gradient: "
    "compute log p by line (2)",
)
def small_number_in_the_logarithm(logits, labels):
    losses, p, target = _loss(logits, labels, inside=1e-7)
    return losses.mean(), (p - target) / len(logits)


@SOFTMAX_CROSS_ENTROPY.mistake(4, "the sign is wrong: it is target - p, and must be p - target")
def reversed_difference(logits, labels):
    loss, dlogits = solutions.softmax_cross_entropy(logits, labels)
    return loss, -dlogits


@SOFTMAX_CROSS_ENTROPY.mistake(4, "the target is missing: subtract 1 from the probability of the right class")
def no_target(logits, labels):
    loss, dlogits = solutions.softmax_cross_entropy(logits, labels)
    return loss, dlogits + np.eye(logits.shape[1])[labels] / len(logits)


@SOFTMAX_CROSS_ENTROPY.mistake(3, "the sign is wrong: the logarithm of a probability is negative, the loss is positive")
def negative_loss(logits, labels):
    loss, dlogits = solutions.softmax_cross_entropy(logits, labels)
    return -loss, dlogits


# Dense


def _vectors(units):
    return lambda rng: (rng.normal(size=(4, 3)), rng.normal(size=(units, 3)), rng.normal(size=units))


DENSE = Task(
    "dense",
    "ex09_dense",
    solutions.dense,
    layer({"a square weight": _vectors(3), "5 units": _vectors(5)}, gradients=("dx", "dweight", "dbias")),
)


@DENSE.mistake(1, "the weight is not transposed: weight has the axes (units, D), so it is x @ weight.T")
def not_transposed(x, weight, bias):
    return solutions.dense(x, weight.T, bias)


@DENSE.mistake(1, "the bias is missing")
def dense_without_bias(x, weight, bias):
    return solutions.dense(x, weight, 0 * bias)


@DENSE.mistake(2, "the weight is transposed: forward has x @ weight.T, so backward has dy @ weight")
def transposed_in_backward(x, weight, bias):
    y, backward = solutions.dense(x, weight, bias)
    return y, lambda dy: (dy @ weight.T, *backward(dy)[1:])


@DENSE.mistake(3, "the gradient is transposed: dweight has the axes of weight, (units, D)")
def transposed_gradient(x, weight, bias):
    y, _ = solutions.dense(x, weight, bias)
    return y, lambda dy: (dy @ weight, x.T @ dy, dy.sum(axis=0))


@DENSE.mistake(4, "the sum over the batch is missing: dbias has the axes of bias, (units,)")
def bias_not_summed(x, weight, bias):
    y, backward = solutions.dense(x, weight, bias)
    return y, lambda dy: (*backward(dy)[:2], dy)


@DENSE.mistake(
    4, "it is one number, the sum of everything: each unit has a sum of its own, over the batch, which is axis 0"
)
def one_sum(x, weight, bias):
    y, backward = solutions.dense(x, weight, bias)
    return y, lambda dy: (*backward(dy)[:2], dy.sum())


@DENSE.mistake(4, "the sum runs along the wrong axis: sum over the batch, which is axis 0")
def summed_over_units(x, weight, bias):
    y, backward = solutions.dense(x, weight, bias)
    return y, lambda dy: (*backward(dy)[:2], dy.sum(axis=1))


@DENSE.mistake(4, "a factor: it is the mean over the batch. The loss has divided by N already: sum here")
def mean_of_bias(x, weight, bias):
    y, backward = solutions.dense(x, weight, bias)
    return y, lambda dy: (*backward(dy)[:2], dy.mean(axis=0))


@DENSE.mistake(3, "a factor: it is divided by N. The loss has divided by N already: sum here")
def mean_of_weight(x, weight, bias):
    y, _ = solutions.dense(x, weight, bias)
    return y, lambda dy: (dy @ weight, dy.T @ x / len(x), dy.sum(axis=0))


@DENSE.mistake(3, "an overwrite instead of an add: only the last sample of the batch is in it. Add with +=")
def last_sample(x, weight, bias):
    y, _ = solutions.dense(x, weight, bias)
    return y, lambda dy: (dy @ weight, np.outer(dy[-1], x[-1]), dy.sum(axis=0))


@DENSE.mistake(3, "it is computed from the wrong tensor: dweight is dy times the input x, and not the output y")
def output_for_input(x, weight, bias):
    y, _ = solutions.dense(x, weight, bias)
    return y, lambda dy: (dy @ weight, dy.T @ y, dy.sum(axis=0))


# Dropout


def _dropped(training):
    return lambda rng: (rng.normal(size=(4, 6)), 0.3, np.random.default_rng(rng.integers(1000)), training)


DROPOUT = Task(
    "dropout",
    "ex11_dropout",
    solutions.dropout,
    layer({"in training": _dropped(True), "in evaluation": _dropped(False)}),
)


def _by_mask(mask, backward_mask=None):
    """A dropout layer: `mask(x, rate, rng)` and `backward_mask(mask, x, rate, rng)` are the factors of x and dy."""

    def dropout(x, rate, rng, training):
        if not training:
            return x, lambda dy: dy
        factor = mask(x, rate, rng)
        of_dy = factor if backward_mask is None else backward_mask(factor, x, rate, rng)
        return x * factor, lambda dy: dy * of_dy

    return dropout


def _right_mask(x, rate, rng):
    return (rng.random(x.shape) >= rate) / (1 - rate)


DROPOUT.mistake(2, "a factor: it is not multiplied by 1 / (1 - rate), so the numbers are smaller than in evaluation")(
    _by_mask(lambda x, rate, rng: 1.0 * (rng.random(x.shape) >= rate))
)
DROPOUT.mistake(2, "a factor: it is multiplied by 1 / rate. Kept is the fraction 1 - rate")(
    _by_mask(lambda x, rate, rng: (rng.random(x.shape) >= rate) / rate)
)
DROPOUT.mistake(1, "`rate` is the probability of dropping a number, and you keep with it: keep where random >= rate")(
    _by_mask(lambda x, rate, rng: (rng.random(x.shape) < rate) / (1 - rate))
)
DROPOUT.mistake(
    1, "the mask is taken from the wrong tensor: it compares x with the rate, and must compare random numbers"
)(_by_mask(lambda x, rate, rng: (x >= rate) / (1 - rate)))
DROPOUT.mistake(3, "the mask is drawn again in the backward pass: use the one of the forward pass")(
    _by_mask(_right_mask, lambda mask, x, rate, rng: _right_mask(x, rate, rng))
)
DROPOUT.mistake(3, "the mask is missing in the backward pass: a number that was dropped did not change the output")(
    _by_mask(_right_mask, lambda mask, x, rate, rng: 1.0)
)
DROPOUT.mistake(3, "a factor: the backward pass does not multiply by 1 / (1 - rate)")(
    _by_mask(_right_mask, lambda mask, x, rate, rng: 1.0 * (mask > 0))
)
DROPOUT.mistake(3, "the mask is taken from the wrong tensor: it is where y > 0, and negative numbers are kept, too")(
    _by_mask(_right_mask, lambda mask, x, rate, rng: (x * mask > 0) / (1 - rate))
)


@DROPOUT.mistake(4, "the mode is forgotten: it drops in evaluation, too. Look at `training`")
def drops_always(x, rate, rng, training):
    return solutions.dropout(x, rate, rng, True)


@DROPOUT.mistake(
    4, "a factor: evaluation multiplies by 1 - rate. That belongs to the form that does not scale in training"
)
def scales_in_evaluation(x, rate, rng, training):
    if training:
        return solutions.dropout(x, rate, rng, True)
    return x * (1 - rate), lambda dy: dy * (1 - rate)


# Batch normalization


def _channels(training):
    def make(rng):
        x = rng.normal(loc=rng.normal(size=(3, 1, 1)), scale=2, size=(4, 3, 2, 5))
        running = {"mean": rng.normal(size=3), "variance": rng.uniform(1, 2, size=3)}
        return x, rng.normal(size=3), rng.normal(size=3), running, training

    return make


BATCH_NORM = Task(
    "batch_norm",
    "ex12_batch_normalization",
    solutions.batch_norm,
    layer(
        {"in training": _channels(True), "in evaluation": _channels(False)},
        gradients=("dx", "dscale", "dshift"),
        also=lambda arguments: {f"the running {name}": arguments[3][name] for name in ("mean", "variance")},
    ),
)
_AXES = (0, 2, 3)
_NORM = {"momentum": 0.9, "epsilon": 1e-5}


def _channel(values_):
    return values_[:, None, None]


def _normalized(x):
    return (x - x.mean(axis=_AXES, keepdims=True)) / np.sqrt(x.var(axis=_AXES, keepdims=True) + 1e-5)


@BATCH_NORM.mistake(1, "mean and variance are taken over the batch alone: a channel has one mean, over N, H and W")
def mean_for_each_pixel(x, scale, shift, running, training, **options):
    if not training:
        return solutions.batch_norm(x, scale, shift, running, training)
    normalized = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
    return normalized * _channel(scale) + _channel(shift), solutions.batch_norm(x, scale, shift, running, True)[1]


@BATCH_NORM.mistake(
    1, "mean and variance are those of each image: they must be taken over the batch, too. Over N, H and W"
)
def mean_for_each_image(x, scale, shift, running, training, **options):
    if not training:
        return solutions.batch_norm(x, scale, shift, running, training)
    normalized = (x - x.mean(axis=(2, 3), keepdims=True)) / np.sqrt(x.var(axis=(2, 3), keepdims=True) + 1e-5)
    return normalized * _channel(scale) + _channel(shift), solutions.batch_norm(x, scale, shift, running, True)[1]


@BATCH_NORM.mistake(1, "all channels share one mean and one variance: each channel has its own, over N, H and W")
def one_mean_for_all(x, scale, shift, running, training, **options):
    if not training:
        return solutions.batch_norm(x, scale, shift, running, training)
    normalized = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return normalized * _channel(scale) + _channel(shift), solutions.batch_norm(x, scale, shift, running, True)[1]


@BATCH_NORM.mistake(2, "it is divided by the variance: divide by its root")
def no_root(x, scale, shift, running, training, **options):
    y, backward = solutions.batch_norm(x, scale, shift, running, training)
    if training:
        normalized = (x - x.mean(axis=_AXES, keepdims=True)) / (x.var(axis=_AXES, keepdims=True) + 1e-5)
        y = normalized * _channel(scale) + _channel(shift)
    return y, backward


@BATCH_NORM.mistake(1, "the standard deviation is taken for the variance: np.std is the root of np.var")
def deviation_for_variance(x, scale, shift, running, training, **options):
    y, backward = solutions.batch_norm(x, scale, shift, running, training)
    if training:
        normalized = (x - x.mean(axis=_AXES, keepdims=True)) / np.sqrt(x.std(axis=_AXES, keepdims=True) + 1e-5)
        y = normalized * _channel(scale) + _channel(shift)
    return y, backward


@BATCH_NORM.mistake(
    1, "a factor: the variance is divided by n - 1. Here it is divided by n; only the running one gets n / (n - 1)"
)
def unbiased_variance(x, scale, shift, running, training, **options):
    y, backward = solutions.batch_norm(x, scale, shift, running, training)
    if training:
        variance = x.var(axis=_AXES, keepdims=True, ddof=1)
        y = (x - x.mean(axis=_AXES, keepdims=True)) / np.sqrt(variance + 1e-5) * _channel(scale) + _channel(shift)
    return y, backward


@BATCH_NORM.mistake(2, "epsilon is added to the root: it belongs below the root, to the variance")
def epsilon_outside(x, scale, shift, running, training, **options):
    y, backward = solutions.batch_norm(x, scale, shift, running, training)
    if training:
        normalized = (x - x.mean(axis=_AXES, keepdims=True)) / (x.std(axis=_AXES, keepdims=True) + 1e-5)
        y = normalized * _channel(scale) + _channel(shift)
    return y, backward


def _with_dx(change):
    """Batch normalization with another dx in training: `change(dx, dnormalized, normalized, root)`."""

    def changed(x, scale, shift, running, training, **options):
        y, backward = solutions.batch_norm(x, scale, shift, running, training)
        root = np.sqrt(x.var(axis=_AXES, keepdims=True) + 1e-5)

        def changed_backward(dy):
            dx, dscale, dshift = backward(dy)
            dx = change(dx, dy * _channel(scale), _normalized(x), root) if training else dx
            return dx, dscale, dshift

        return y, changed_backward

    return changed


BATCH_NORM.mistake(
    6, "mean and variance are treated as constants: x changes them, too, which gives the last two terms"
)(_with_dx(lambda dx, dnormalized, normalized, root: dnormalized / root))
BATCH_NORM.mistake(6, "the term of the variance is missing, normalized * mean(d * normalized)")(
    _with_dx(lambda dx, dnormalized, normalized, root: (dnormalized - dnormalized.mean(_AXES, keepdims=True)) / root)
)
BATCH_NORM.mistake(6, "the term of the mean is missing, mean(d)")(
    _with_dx(lambda dx, dnormalized, normalized, root: dx + dnormalized.mean(_AXES, keepdims=True) / root)
)
BATCH_NORM.mistake(6, "a factor: it is not divided by the root of the variance")(
    _with_dx(lambda dx, dnormalized, normalized, root: dx * root)
)


@BATCH_NORM.mistake(6, "the scale is missing: d is dy * scale")
def scale_missing_in_backward(x, scale, shift, running, training, **options):
    y, backward = solutions.batch_norm(x, scale, shift, running, training)
    return y, lambda dy: (backward(dy)[0] / _channel(scale), *backward(dy)[1:])


@BATCH_NORM.mistake(5, "it is computed from the wrong tensor: dscale is the sum of dy * normalized, and not of dy * x")
def scale_from_x(x, scale, shift, running, training, **options):
    y, backward = solutions.batch_norm(x, scale, shift, running, training)
    return y, lambda dy: (backward(dy)[0], (dy * x).sum(axis=_AXES), backward(dy)[2])


@BATCH_NORM.mistake(5, "a factor: it is computed from d = dy * scale, and must be computed from dy")
def scale_from_d(x, scale, shift, running, training, **options):
    y, backward = solutions.batch_norm(x, scale, shift, running, training)
    return y, lambda dy: (backward(dy)[0], backward(dy)[1] * scale, backward(dy)[2] * scale)


@BATCH_NORM.mistake(
    5, "the sum over the batch is missing: dshift has a number for each channel, so sum over N, H and W"
)
def shift_not_summed(x, scale, shift, running, training, **options):
    y, backward = solutions.batch_norm(x, scale, shift, running, training)
    return y, lambda dy: (*backward(dy)[:2], dy.sum(axis=(2, 3)))


@BATCH_NORM.mistake(5, "a factor: it is the mean, and must be the sum")
def mean_of_shift(x, scale, shift, running, training, **options):
    y, backward = solutions.batch_norm(x, scale, shift, running, training)
    return y, lambda dy: (*backward(dy)[:2], dy.mean(axis=_AXES))


@BATCH_NORM.mistake(3, "the running values are never changed: training must store new ones in the dict `running`")
def running_forgotten(x, scale, shift, running, training, **options):
    return solutions.batch_norm(x, scale, shift, dict(running), training)


@BATCH_NORM.mistake(3, "momentum is exchanged: 0.9 of the old value is kept, and 0.1 of the batch's is added")
def momentum_exchanged(x, scale, shift, running, training, **options):
    return solutions.batch_norm(x, scale, shift, running, training, momentum=0.1)


@BATCH_NORM.mistake(3, "a factor: the running variance needs n / (n - 1) times the variance of the batch")
def biased_variance(x, scale, shift, running, training, **options):
    before = running["variance"]
    result = solutions.batch_norm(x, scale, shift, running, training)
    if training:
        running["variance"] = 0.9 * before + 0.1 * x.var(axis=_AXES)
    return result


@BATCH_NORM.mistake(
    4, "the mode is forgotten: evaluation must use the running values, so that an image is judged alone"
)
def always_training(x, scale, shift, running, training, **options):
    return solutions.batch_norm(x, scale, shift, running, True)


@BATCH_NORM.mistake(7, "the backward pass is that of training: in evaluation mean and variance are constants")
def backward_of_training(x, scale, shift, running, training, **options):
    y, backward = solutions.batch_norm(x, scale, shift, running, training)
    if training:
        return y, backward
    factor = 1 / np.sqrt(_channel(running["variance"]) + 1e-5)
    normalized = (x - _channel(running["mean"])) * factor

    def changed(dy):
        d = dy * _channel(scale)
        mean, product = (z.mean(axis=_AXES, keepdims=True) for z in (d, d * normalized))
        return (d - mean - normalized * product) * factor, *backward(dy)[1:]

    return y, changed


@BATCH_NORM.mistake(
    4, "the mode is forgotten: evaluation changes the running values, and a test would change the network"
)
def updated_in_evaluation(x, scale, shift, running, training, **options):
    if not training:
        result = solutions.batch_norm(x, scale, shift, running, False)
        solutions.batch_norm(x, scale, shift, running, True)
        return result
    return solutions.batch_norm(x, scale, shift, running, True)


# A residual block


def _block(rng):
    """Vectors and a branch: a matrix and tanh."""
    weight = rng.normal(size=(5, 5))

    def branch(x):
        y = np.tanh(x @ weight)
        return y, lambda dy: (dy * (1 - y * y)) @ weight.T

    return rng.normal(size=(4, 5)), branch


RESIDUAL = Task("residual", "ex13_residual", solutions.residual, layer({"": _block}))


def _sum_and_backward(x, branch):
    z, backward = branch(x)
    return z + x, backward


@RESIDUAL.mistake(1, "the shortcut is missing: x is added to what the branch returns")
def no_shortcut(x, branch):
    z, backward = branch(x)
    return np.maximum(z, 0), lambda dy: backward(dy * (z > 0))


@RESIDUAL.mistake(2, "ReLU comes before the addition: first add, then ReLU")
def relu_before_the_sum(x, branch):
    z, backward = branch(x)
    return np.maximum(z, 0) + x, lambda dy: backward(dy * (z > 0)) + dy


@RESIDUAL.mistake(2, "the ReLU is missing")
def no_relu(x, branch):
    z, backward = _sum_and_backward(x, branch)
    return z, lambda dy: backward(dy) + dy


@RESIDUAL.mistake(4, "the gradient through the shortcut is missing: x is used twice, so its gradients are added")
def shortcut_without_gradient(x, branch):
    z, backward = _sum_and_backward(x, branch)
    return np.maximum(z, 0), lambda dy: backward(dy * (z > 0))


@RESIDUAL.mistake(4, "the gradient through the branch is missing: x is used twice, so its gradients are added")
def branch_without_gradient(x, branch):
    z, _ = _sum_and_backward(x, branch)
    return np.maximum(z, 0), lambda dy: dy * (z > 0)


@RESIDUAL.mistake(3, "the mask is taken from the wrong tensor: from x, and ReLU received the sum z")
def mask_from_x(x, branch):
    z, backward = _sum_and_backward(x, branch)
    return np.maximum(z, 0), lambda dy: backward(dy * (x > 0)) + dy * (x > 0)


@RESIDUAL.mistake(3, "the mask is taken from the wrong tensor: from the branch's output, and ReLU received the sum z")
def mask_from_the_branch(x, branch):
    z, backward = _sum_and_backward(x, branch)
    return np.maximum(z, 0), lambda dy: backward(dy * (z - x > 0)) + dy * (z - x > 0)


@RESIDUAL.mistake(4, "the mask of the ReLU is missing in the shortcut: it receives dz, not dy")
def shortcut_without_mask(x, branch):
    z, backward = _sum_and_backward(x, branch)
    return np.maximum(z, 0), lambda dy: backward(dy * (z > 0)) + dy


@RESIDUAL.mistake(3, "the mask of the ReLU is missing: dz is 0 where z is not positive")
def relu_without_gradient(x, branch):
    z, backward = _sum_and_backward(x, branch)
    return np.maximum(z, 0), lambda dy: backward(dy) + dy


@RESIDUAL.mistake(4, "the two gradients are multiplied: they are added")
def product_of_gradients(x, branch):
    z, backward = _sum_and_backward(x, branch)
    return np.maximum(z, 0), lambda dy: backward(dy * (z > 0)) * dy * (z > 0)
