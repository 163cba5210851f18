"""The tasks about learning: momentum and Adam, LeNet-5 of the learner's own layers, and its training."""

import numpy as np

from minicnn import networks
from minicnn.core import layers
from minicnn.core.errors import CheckError
from minicnn.datasets import load_letters
from minicnn.exercises import solutions
from minicnn.exercises.task import Task, as_array, as_pair, as_tuple

# Optimizers


def _steps(names, **options):
    """The `run` of an optimizer's step: three steps, each with what the one before returned."""

    def run(function):
        rng = np.random.default_rng(0)
        state = [rng.normal(size=(2, 3)), *(np.zeros((2, 3)) for _ in names[1:])]
        for t in (1, 2, 3):
            counter = {"t": t} if "m" in names else {}
            g = rng.normal(size=(2, 3)) * 10.0 ** rng.integers(-7, 2, size=(2, 3))  # of very different sizes
            arguments = [state[0].copy(), g, *(array.copy() for array in state[1:])]
            returned = as_tuple(function(*arguments, **counter, **options), names, "your function")
            state = [as_array(value, name) for name, value in zip(names, returned, strict=True)]
            for name, value in zip(names[1:] + names[:1], state[1:] + state[:1], strict=True):
                yield f"{name} (after step {t})", value

    return run


MOMENTUM = Task(
    "momentum_step",
    "ex10_optimizers",
    solutions.momentum_step,
    _steps(["w", "v"], learning_rate=0.1, momentum=0.8),
)
ADAM = Task("adam_step", "ex10_optimizers", solutions.adam_step, _steps(["w", "m", "v"], learning_rate=0.1))


@MOMENTUM.mistake(2, "v is not used: it is plain gradient descent, w - learning_rate * g")
def plain_descent(w, g, v, learning_rate, momentum):
    return w - learning_rate * g, momentum * v + g


@MOMENTUM.mistake(1, "v keeps nothing of the last step: momentum * v is missing")
def nothing_kept(w, g, v, learning_rate, momentum):
    return w - learning_rate * g, g


@MOMENTUM.mistake(1, "a factor: g is multiplied by 1 - momentum, as in a moving mean. Here g is added as it is")
def moving_mean(w, g, v, learning_rate, momentum):
    v = momentum * v + (1 - momentum) * g
    return w - learning_rate * v, v


@MOMENTUM.mistake(2, "the sign is wrong: a step goes down, against the gradient")
def uphill(w, g, v, learning_rate, momentum):
    v = momentum * v + g
    return w + learning_rate * v, v


@MOMENTUM.mistake(2, "the old v is used for the step: first v changes, then w")
def old_velocity(w, g, v, learning_rate, momentum):
    return w - learning_rate * v, momentum * v + g


@MOMENTUM.mistake(1, "the learning rate is in v already, and must be in line (2) alone")
def rate_in_the_velocity(w, g, v, learning_rate, momentum):
    v = momentum * v + learning_rate * g
    return w - v, v


@MOMENTUM.mistake(
    1, "v is the step itself, -learning_rate * g: here v adds up the gradients, and line (2) has rate and sign"
)
def velocity_is_the_step(w, g, v, learning_rate, momentum):
    v = momentum * v - learning_rate * g
    return w + v, v


@MOMENTUM.mistake(1, "v is returned unchanged, so that the next step knows nothing of this one")
def velocity_lost(w, g, v, learning_rate, momentum):
    return w - learning_rate * (momentum * v + g), v


def _adam(
    correct_m=lambda m, beta, t: m / (1 - beta**t),
    correct_v=lambda v, beta, t: v / (1 - beta**t),
    root=lambda v, epsilon: np.sqrt(v) + epsilon,
    square=True,
    sign=1,
):
    """Adam with other parts."""

    def adam_step(w, g, m, v, t, learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-7):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (g * g if square else g)
        step = correct_m(m, beta1, t) / root(correct_v(v, beta2, t), epsilon)
        return w - sign * learning_rate * step, m, v

    return adam_step


def _uncorrected(array, beta, t):
    return array


def _multiplied(array, beta, t):
    return array / (1 - beta * t)


def _without_power(array, beta, t):
    return array / (1 - beta)


ADAM.mistake(3, "the correction is missing: m and v begin at 0, and are divided by 1 - beta**t")(
    _adam(_uncorrected, _uncorrected)
)
ADAM.mistake(3, "the correction of m is missing: m begins at 0")(_adam(correct_m=_uncorrected))
ADAM.mistake(4, "the correction of v is missing: v begins at 0")(_adam(correct_v=_uncorrected))
ADAM.mistake(4, "v is corrected with beta1: it has a beta of its own, beta2")(
    _adam(correct_v=lambda v, beta, t: v / (1 - 0.9**t))
)
ADAM.mistake(3, "beta1 is multiplied by t: it is a power, beta1**t")(_adam(correct_m=_multiplied))
ADAM.mistake(4, "beta2 is multiplied by t: it is a power, beta2**t")(_adam(correct_v=_multiplied))
ADAM.mistake(3, "the power is missing: it is 1 - beta**t with the number of the step, and not 1 - beta")(
    _adam(_without_power, _without_power)
)
ADAM.mistake(5, "epsilon is below the root: it is added to the root")(
    _adam(root=lambda v, epsilon: np.sqrt(v + epsilon))
)
ADAM.mistake(5, "the root is missing: m_hat is divided by the root of v_hat")(
    _adam(root=lambda v, epsilon: v + epsilon)
)
ADAM.mistake(2, "the square is missing: v is the mean of g * g")(_adam(square=False))
ADAM.mistake(5, "the sign is wrong: a step goes down, against the gradient")(_adam(sign=-1))


@ADAM.mistake(2, "v is computed with beta1: it has a beta of its own, beta2")
def one_beta(w, g, m, v, t, learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-7):
    return solutions.adam_step(w, g, m, v, t, learning_rate, beta1, beta1, epsilon)


@ADAM.mistake(1, "a factor: g is not multiplied by 1 - beta1, so m is a sum and not a mean")
def sum_of_gradients(w, g, m, v, t, learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-7):
    m = beta1 * m + g
    v = beta2 * v + (1 - beta2) * g * g
    return w - learning_rate * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + epsilon), m, v


@ADAM.mistake(3, "the corrected m is returned: m_hat is used in this step alone, and m and v go on as they are")
def corrected_mean_kept(w, g, m, v, t, learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-7):
    w, m, v = solutions.adam_step(w, g, m, v, t, learning_rate, beta1, beta2, epsilon)
    return w, m / (1 - beta1**t), v / (1 - beta2**t)


# LeNet-5


def _network(function):
    """The logits and all gradients of LeNet-5; first those of the last layer, where the backward pass begins."""
    parameters = solutions.lenet5_parameters(seed=1)
    rng = np.random.default_rng(0)
    for value in parameters.values():
        value += 0.1 * rng.normal(size=value.shape)
    x = rng.normal(size=(3, 1, 28, 28))
    logits, backward = as_pair(function(x, dict(parameters)))
    yield "logits", as_array(logits, "logits")
    gradients = backward(rng.normal(size=np.shape(logits)))
    yield "the backward pass", np.zeros(())
    if not isinstance(gradients, dict):
        raise CheckError(
            f"backward must return a dict with the gradient of each parameter, not {type(gradients).__name__}"
        )
    for name in reversed(parameters):
        if name not in gradients:
            raise CheckError(f'the gradient of "{name}" is missing: backward must return one for every parameter')
        yield f'the gradient of "{name}"', as_array(gradients[name], name)


LENET5 = Task("lenet5", "ex14_lenet5", solutions.lenet5, _network)


def _other_layers(change):
    """LeNet-5 with its list of layers changed."""

    def lenet5(x, parameters):
        model = networks.lenet5(input_shape=None)
        model.layers.pop()
        model.build(x.shape[1:], dtype=x.dtype)
        values = [model.parameters()[solutions.library_name(name)] for name in parameters]
        for parameter, value in zip(values, parameters.values(), strict=True):
            parameter.value = value
        change(model.layers)
        logits, model_backward = model.forward(x)

        def backward(dlogits):
            model_backward(dlogits)
            return {name: parameter.grad for name, parameter in zip(parameters, values, strict=True)}

        return logits, backward

    return lenet5


class _LastAxis(layers.Flatten):
    """Flatten in the order row, column, channel."""

    def forward(self, x, training=False):
        y, backward = super().forward(x.transpose(0, 2, 3, 1))
        return y, lambda dy: backward(dy).transpose(0, 3, 1, 2)


class _LastAxisBackward(layers.Flatten):
    """Flatten whose backward pass has the order row, column, channel."""

    def forward(self, x, training=False):
        N, C, H, W = x.shape
        return super().forward(x)[0], lambda dy: dy.reshape(N, H, W, C).transpose(0, 3, 1, 2)


class _NoDerivative(layers.Tanh):
    """Tanh whose backward pass is forgotten."""

    def forward(self, x, training=False):
        y, _ = super().forward(x)
        return y, lambda dy: dy


def _replace(index, layer):
    def change(row):
        row[index] = layer()

    return change


LENET5.mistake(1, "the first pooling takes the largest pixel: LeNet-5 has average pooling")(
    _other_layers(_replace(2, lambda: layers.MaxPool2D(2)))
)


@LENET5.mistake(1, "both poolings take the largest pixel: LeNet-5 has average pooling")
def max_pooling(x, parameters):
    def change(row):
        row[2], row[5] = layers.MaxPool2D(2), layers.MaxPool2D(2)

    return _other_layers(change)(x, parameters)


LENET5.mistake(3, "a tanh stands after the last layer: logits are any numbers, and no activation comes after them")(
    _other_layers(lambda row: row.append(layers.Tanh()))
)
LENET5.mistake(1, "the tanh after the first convolution is missing")(_other_layers(lambda row: row.pop(1)))
LENET5.mistake(2, "the tanh after the second convolution is missing")(_other_layers(lambda row: row.pop(4)))
LENET5.mistake(3, "the tanh between dense1 and dense2 is missing: without it, the two layers are one")(
    _other_layers(lambda row: row.pop(8))
)
LENET5.mistake(3, "the tanh between dense2 and dense3 is missing: without it, the two layers are one")(
    _other_layers(lambda row: row.pop(10))
)
LENET5.mistake(3, "the images are flattened in another order: flatten with reshape(len(x), -1), without a transpose")(
    _other_layers(_replace(6, _LastAxis))
)
LENET5.mistake(4, "the gradient is put into another order: undo reshape(len(x), -1) with reshape, without a transpose")(
    _other_layers(_replace(6, _LastAxisBackward))
)


def _relu_network(row):
    for index, found in enumerate(row):
        if isinstance(found, layers.Tanh):
            row[index] = layers.ReLU()


LENET5.mistake(1, "the activation is ReLU: LeNet-5 has tanh")(_other_layers(_relu_network))
LENET5.mistake(4, "the chain is broken: the backward pass of the tanh before the last layer is missing")(
    _other_layers(_replace(10, _NoDerivative))
)
LENET5.mistake(4, "the chain is broken: the backward pass of the tanh after the second convolution is missing")(
    _other_layers(_replace(4, _NoDerivative))
)
LENET5.mistake(4, "the chain is broken: the backward pass of the tanh after the first convolution is missing")(
    _other_layers(_replace(1, _NoDerivative))
)


@LENET5.mistake(4, "gradients are mixed up: the gradients of weight and bias of a layer belong to its own names")
def biases_of_other_layers(x, parameters):
    logits, backward = solutions.lenet5(x, parameters)

    def changed(dlogits):
        gradients = backward(dlogits)
        return dict(zip(gradients, reversed(gradients.values()), strict=True))

    return logits, changed


# Training


def _linear(x, parameters):
    """A small network: one dense layer."""
    x, weight, bias = x.reshape(len(x), -1), parameters["weight"], parameters["bias"]

    def backward(dlogits):
        return {"weight": dlogits.T @ x, "bias": dlogits.sum(axis=0)}

    return x @ weight.T + bias, backward


def _training(function):
    """Three epochs of a small network, whose last batch is smaller than the others."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(7, 1, 2, 3)), rng.integers(4, size=7)
    parameters = {"weight": rng.normal(size=(4, 6)), "bias": rng.normal(size=4)}
    before = {name: value.copy() for name, value in parameters.items()}
    result = function(_linear, dict(parameters), x, labels, 3, 3, 0.01, np.random.default_rng(1))
    trained, losses = as_tuple(result, ("parameters", "losses"), "your function")
    if not isinstance(trained, dict) or set(trained) != set(before):
        raise CheckError(f"train must return the parameters as a dict of the same names, not {type(trained).__name__}")
    yield "the list of losses", as_array(losses, "the list of losses")
    for name in before:
        yield f'the trained "{name}"', as_array(trained[name], name)


TRAIN = Task("train", "ex14_lenet5", solutions.train, _training)


def _train(
    keep_rest=True, shuffle="epoch", restart=False, epoch_steps=False, memory="own", labels_by_order=True, forget=False
):
    """The training loop with one thing else."""

    def train(network, parameters, x, labels, epochs, batch_size, learning_rate, rng):
        parameters, losses, t = dict(parameters), [], 0
        zeros = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in parameters.items()}
        kept, order = dict(zeros), np.arange(len(x))
        if shuffle == "once":
            order = rng.permutation(len(x))
        for epoch in range(epochs):
            order = rng.permutation(len(x)) if shuffle == "epoch" else order
            t = 0 if restart else t
            for start in range(0, len(x) if keep_rest else len(x) // batch_size * batch_size, batch_size):
                rows = order[start : start + batch_size]
                logits, backward = network(x[rows], parameters)
                batch = labels[rows] if labels_by_order else labels[start : start + batch_size]
                loss, dlogits = solutions.softmax_cross_entropy(logits, batch)
                losses.append(float(loss))
                t = epoch + 1 if epoch_steps else t + 1
                for name, g in backward(dlogits).items():
                    m, v = zeros[name] if memory == "none" else kept[name]
                    value, *kept[name] = solutions.adam_step(parameters[name], g, m, v, t, learning_rate)
                    if not forget:
                        parameters[name] = value
        return parameters, losses

    return train


TRAIN.mistake(1, "the last batch is left out because it is smaller: it is a batch like the others")(
    _train(keep_rest=False)
)
TRAIN.mistake(1, "the images are not shuffled")(_train(shuffle="never"))
TRAIN.mistake(1, "the images are shuffled once: draw a new permutation in every epoch")(_train(shuffle="once"))
TRAIN.mistake(2, "the labels do not belong to the images: they need the same rows of the permutation")(
    _train(labels_by_order=False)
)
TRAIN.mistake(4, "t begins again in every epoch: it counts all steps of the training")(_train(restart=True))
TRAIN.mistake(4, "t counts the epochs: it counts the steps, one for each batch")(_train(epoch_steps=True))
TRAIN.mistake(4, "m and v are zero in every step: they must be kept from step to step, for each parameter")(
    _train(memory="none")
)
TRAIN.mistake(4, "the parameters never change: store what adam_step returns")(_train(forget=True))

#: The accuracy on the test letters that a right network reaches with ease.
ENOUGH = 0.5


def _letters(train, lenet5):
    """Train LeNet-5 on synthetic letters; the last outcome is a sentence with the accuracy."""
    as_pair(lenet5(np.zeros((1, 1, 28, 28)), solutions.lenet5_parameters()))  # a stub is seen before letters are drawn
    (x, labels), (x_test, labels_test) = load_letters(train=600, test=200)
    x, x_test = (images[:, None].astype("float32") / 255 for images in (x, x_test))
    parameters = solutions.lenet5_parameters(dtype="float32")
    trained, _ = train(lenet5, parameters, x, labels, 4, 32, 0.002, np.random.default_rng(0))
    logits, _ = as_pair(lenet5(x_test, trained))
    accuracy = float((np.argmax(logits, axis=1) == labels_test).mean())
    if not accuracy >= ENOUGH:
        raise CheckError(
            f"after the training {100 * accuracy:.0f} % of the test letters are right; it must be "
            f"{100 * ENOUGH:.0f} %: are lenet5 and train done?"
        )
    yield "", f"test accuracy {100 * accuracy:.0f} % on synthetic letters"


TRAINED = Task("trained", "ex14_lenet5", None, _letters, functions=("train", "lenet5"))
