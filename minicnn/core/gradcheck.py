"""Is the backward pass right? Numerical gradients against analytic ones.

A derivative is a limit, and a computer can come close to it: move one number
by a tiny step up and down, and see how the output changes. That takes two
runs of the layer for each number, so it is slow; but it does not use the
formula of the derivative, so it cannot share its mistakes.

    numerical = (f(x + h) - f(x - h)) / (2 h)         (central differences, in float64)

Where a function has a kink (ReLU at 0, two equal pixels in a max) it has no
derivative: there the slopes to the left and the right differ, however small
the step. Such points are recognised by that, and left out.

Source: Chainer's gradient_check and Karpathy's "CS231n" notes describe the craft.
"""

import copy
import dataclasses

import numpy as np

from minicnn.core import operations
from minicnn.core.errors import GradientError, InputError
from minicnn.core.layer import Layer, build_layer, independent_samples, walk
from minicnn.core.parameter import Parameter, State, watch_gradients

STEP = 1e-5
TOLERANCE = 1e-5
_EVERY_COORDINATE = 150  # an array up to this size is checked number by number
_DIRECTIONS = 5  # beyond it: as many numbers chosen at random, and this many random directions through all of them


@dataclasses.dataclass
class Entry:
    """One array whose gradient was checked.

    Attributes:
        name: "x", or the parameter's name.
        shape: of the array.
        checked: how many derivatives were compared.
        kinks: how many more lay on a kink, where there is no derivative, and were left out.
        error: the worst relative error, and `where` it was: an index, or "a random direction".
        analytic, numerical: the two derivatives there.
    """

    name: str
    shape: tuple
    checked: int = 0
    kinks: int = 0
    error: float = 0.0
    where: object = None
    analytic: float = 0.0
    numerical: float = 0.0


@dataclasses.dataclass
class Report:
    """What `check` found: one `Entry` for the input and one for each parameter.

    Attributes:
        target: what was checked, as text.
        entries: a list of Entry.
        tolerance: the largest relative error that passes.
        notes: sentences on what else was seen, such as a batch kept on the layer.
    """

    target: str
    entries: list
    tolerance: float
    notes: tuple = ()

    @property
    def error(self):
        """The worst relative error of all."""
        return max(entry.error for entry in self.entries)

    @property
    def passed(self):
        """Whether every gradient is right."""
        return all(entry.error <= self.tolerance for entry in self.entries)

    def __str__(self):
        lines = [self.target]
        for entry in self.entries:
            kinks = f", {entry.kinks} on a kink left out" if entry.kinks else ""
            verdict = "ok   " if entry.error <= self.tolerance else "WRONG"
            lines.append(
                f"  {verdict} {entry.name:18} {entry.shape!s:18} worst relative error {entry.error:.1e} "
                f"in {entry.checked} derivatives{kinks}"
            )
            if entry.error > self.tolerance:
                lines.append(
                    f"        at {entry.where}: analytic {entry.analytic:.6g}, numerical {entry.numerical:.6g}"
                )
        lines += [f"  note  {note}" for note in self.notes]
        return "\n".join(lines)


def check(target, x, labels=None, training=False, tolerance=TOLERANCE, seed=0):
    """Compare the gradients of a layer, a loss or a model with central differences.

    The target itself is not changed: a copy of it computes in float64. A layer or model receives a random upstream
    gradient `dy`, and what is differentiated is `sum(dy * y)`. Its states and random generators are restored before
    every run.

    Of a layer it is checked besides that every Parameter with a gradient is found in its attributes, that nothing
    else that it changes in training changes its later outputs, and, where it claims independent samples, that the two
    halves of a batch give the outputs and gradients of the batch.

    Args:
        target: a layer (built or not), a `Sequential`, or a loss.
        x: the input: a batch for a layer or model, the outputs (logits) for a loss. It is used as float64.
        labels: for a loss, the second argument of its call.
        training: whether to run layers as in training; Dropout then drops the same numbers in every run.
        tolerance: the largest relative error that passes.
        seed: of the upstream gradient, and of the choice of what to check in large arrays.

    Returns:
        a Report.

    Raises:
        GradientError: a gradient is wrong; the message is the report.
        InputError: no derivative could be compared, because every point lies on a kink or there is none; a target
            that is not a layer, model or loss; a loss without labels; a layer that would lose something on save.

    >>> from minicnn.core.layers import Conv2D
    >>> report = check(Conv2D(2, 3, padding="same"), np.random.default_rng(0).normal(size=(2, 1, 4, 4)))
    >>> report.passed, [entry.name for entry in report.entries]
    (True, ['x', 'weight', 'bias'])

    Source: of central differences, Nocedal & Wright, "Numerical optimization", 2006, chapter 8.1.
    """
    if isinstance(target, type) or not callable(target):
        raise InputError(f"gradcheck needs a layer, a model or a loss, got {target!r}: did you forget the brackets ()?")
    if labels is None and not hasattr(target, "forward"):
        raise InputError(f"gradcheck of {type(target).__name__} needs labels=..., the second argument of its call")
    # Not default_rng(seed): a caller who draws x so would have dy == x, and a backward that confuses them would pass.
    rng = np.random.default_rng([seed, 1])
    x = np.array(operations.current.to_numpy(x), dtype=np.float64)
    notes = ()
    if labels is not None:
        value, arrays, gradients = _prepare_loss(target, x, labels)
    else:
        layer = _float64_copy(target, x)
        notes = _check_memory(layer, x, rng)
        value, arrays, gradients = _prepare_layer(layer, x, training, rng)
    entries = [_compare(name, arrays[name], gradients[name], value, rng) for name in arrays]
    report = Report(_name(target), entries, tolerance, notes)
    if not report.passed:
        raise GradientError(f"wrong gradient\n{report}")
    for entry in entries:
        if not entry.checked:
            why = "has a kink at every point of" if entry.kinks else "has no number in"
            raise InputError(f"{report.target} {why} {entry.name} {entry.shape}: check it at another input")
    return report


def _name(target):
    """What the report calls the target: a layer by its repr, a model or a loss by its class."""
    return repr(target) if isinstance(target, Layer) and not hasattr(target, "row") else type(target).__name__


def _prepare_loss(loss, x, labels):
    """The value of a loss as a function without arguments, its input by name, and the gradient by name."""
    x = operations.current.array(x)
    _, dx = loss(x, labels)
    return (lambda: operations.to_float(loss(x, labels)[0])), {"x": x}, {"x": operations.current.to_numpy(dx)}


def _float64_copy(target, x):
    """A copy of a layer, built for x, with its parameters and states in float64."""
    layer = copy.deepcopy(target)
    layer.convert("float64")
    for _, inner in walk(layer, Layer):
        if hasattr(inner, "dtype"):
            inner.dtype = np.dtype(np.float64)
    if isinstance(layer, Layer):
        build_layer(layer, x.shape[1:], None, np.float64)
    for parameter in layer.parameters().values():
        parameter.trainable = True
        parameter.clear_gradient()
    return layer


def _prepare_layer(layer, x, training, rng):
    """The value `sum(dy * y)` of a layer as a function without arguments, its input and parameters, and gradients."""
    forward = _repeatable(layer, training)
    x = operations.current.array(x)
    y, backward = forward(x)
    dy = operations.current.array(rng.normal(size=y.shape))
    with watch_gradients() as receivers:
        dx = backward(dy)
    parameters = layer.parameters()
    for parameter in receivers - set(parameters.values()):
        raise InputError(
            f"{layer!r} adds gradients to a Parameter of shape {tuple(parameter.value.shape)} that its attributes do "
            "not hold, so it is not trained or saved: keep it in an attribute, or there in a list, a tuple or a dict"
        )
    gradients = {"x": operations.current.to_numpy(dx)}
    for name, parameter in parameters.items():
        missing = np.zeros(parameter.value.shape)
        gradients[name] = operations.current.to_numpy(parameter.grad) if parameter.has_gradient else missing
        parameter.clear_gradient()
    if independent_samples(layer, training) and len(x) > 1:
        _check_halves(layer, forward, x, y, dy, gradients)
    arrays = {"x": x} | {name: parameter.value for name, parameter in parameters.items()}
    return (lambda: operations.to_float((forward(x)[0] * dy).sum())), arrays, gradients


def _repeatable(layer, training):
    """`forward` with the states and random generators as they are now, each time."""
    states = [(item, _state_of(item)) for item in layer.states().values()]

    def forward(x):
        for item, state in states:
            _restore(item, state)
        return layer.forward(x, training)

    return forward


def _state_of(item):
    return item.bit_generator.state if isinstance(item, np.random.Generator) else copy.deepcopy(item.value)


def _restore(item, state):
    if isinstance(item, np.random.Generator):
        item.bit_generator.state = state
    else:
        item.value = copy.deepcopy(state)


def _check_memory(layer, x, rng):
    """Refuse a layer whose output depends on something that training changed and no file keeps.

    Returns:
        notes on attributes that training changed, although the output does not depend on them.
    """
    before = {name: dict(vars(inner)) for name, inner in walk(layer, Layer)}
    expected = operations.current.to_numpy(_repeatable(layer, False)(operations.current.array(x))[0])
    training, evaluation = _repeatable(layer, True), _repeatable(layer, False)
    training(operations.current.array(x + rng.normal(size=x.shape)))
    changed = [
        f"{name}.{key}".lstrip(".")
        for name, inner in walk(layer, Layer)
        for key, value in vars(inner).items()
        if value is not before.get(name, {}).get(key) and not isinstance(value, (Parameter, State, Layer))
    ]
    after = operations.current.to_numpy(evaluation(operations.current.array(x))[0])
    names = ", ".join(changed)
    if changed and not np.array_equal(expected, after, equal_nan=True):
        raise InputError(
            f"{_name(layer)}: forward(training=True) changed {names}, on which later outputs depend and which would be "
            "lost on save: keep it in minicnn.State"
        )
    if changed:
        return (f"forward changed {names}: a layer that keeps a batch confuses two batches at a time",)
    return ()


def _check_halves(layer, forward, x, y, dy, gradients):
    """Refuse a layer that claims independent samples and computes something else for the halves of a batch."""
    half = len(x) // 2
    found = []
    for rows in (slice(0, half), slice(half, None)):
        y_half, backward = forward(x[rows])
        found.append([operations.current.to_numpy(array) for array in (y_half, backward(dy[rows]))])
    outputs, dx = (np.concatenate(halves) for halves in zip(*found, strict=True))
    pairs = {"y": (operations.current.to_numpy(y), outputs), "x": (gradients["x"], dx)}
    for name, parameter in layer.parameters().items():
        if parameter.has_gradient:
            pairs[name] = gradients[name], operations.current.to_numpy(parameter.grad)
        parameter.clear_gradient()
    for name, (complete, halves) in pairs.items():
        scale = np.abs(complete).max(initial=0) + 1e-12
        if complete.shape != halves.shape or not np.allclose(complete, halves, rtol=1e-9, atol=1e-9 * scale):
            what = "output" if name == "y" else f"gradient of {name}"
            raise InputError(
                f"{_name(layer)} claims independent_samples, but the {what} of a batch is not that of its two halves: "
                "set independent_samples = False"
            )


def _compare(name, array, gradient, value, rng):
    """Numerical and analytic derivatives of one array, compared."""
    entry = Entry(name, tuple(array.shape))
    if gradient.shape != array.shape:
        entry.error, entry.where = np.inf, f"its shape {gradient.shape}"
        return entry
    scale = float(np.abs(gradient).max(initial=0))
    for where, direction in _directions(array, rng):
        analytic = float((gradient * direction).sum())
        numerical, is_kink = _slope(value, array, direction, scale)
        if is_kink:
            entry.kinks += 1
            continue
        entry.checked += 1
        difference = abs(analytic - numerical)
        error = difference / max(abs(analytic) + abs(numerical), 1e-3 * scale, 1e-8) if difference else 0.0
        if not error <= entry.error:  # NaN counts as worse
            entry.error, entry.where = error if error == error else np.inf, where
            entry.analytic, entry.numerical = analytic, numerical
    return entry


def _directions(array, rng):
    """Where to differentiate: at each number; of a large array at some numbers and along some random directions."""
    size = array.size
    chosen = range(size) if size <= _EVERY_COORDINATE else sorted(rng.choice(size, _EVERY_COORDINATE, replace=False))
    for index in chosen:
        direction = np.zeros(size)
        direction[index] = 1
        where = tuple(int(i) for i in np.unravel_index(index, array.shape))
        yield where, direction.reshape(array.shape)
    if size > _EVERY_COORDINATE:
        for _ in range(_DIRECTIONS):
            direction = rng.normal(size=array.shape)
            yield "a random direction", direction / np.linalg.norm(direction)


def _slope(value, array, direction, scale):
    """The derivative along a direction, and whether there is a kink instead.

    At a kink the slopes to the left and the right differ, however small the step. Where a function is only curved,
    the difference shrinks with the step; then the derivative of the smaller step is used.
    """
    here = operations.current.to_numpy(array).copy()
    middle, difference = value(), np.inf
    for step in (STEP, STEP / 10, STEP / 100):
        up, down = (_value_at(value, array, here + sign * step * direction) for sign in (1, -1))
        right, left = (up - middle) / step, (middle - down) / step
        before, difference = difference, abs(right - left)
        rounding = 1e-9 * abs(middle) * STEP / step
        is_kink = difference > 1e-3 * max(abs(right), abs(left), scale) + rounding
        if not is_kink or difference > before / 3:
            break
    _value_at(value, array, here)
    return (up - down) / (2 * step), is_kink


def _value_at(value, array, point):
    array[...] = operations.current.array(point)
    return value()


def report_all():
    """Check every layer and loss of the library at random inputs; yields a Report for each."""
    from minicnn.core import layers, losses

    rng = np.random.default_rng(0)
    images, vectors = rng.normal(size=(3, 4, 7, 6)), rng.normal(size=(4, 6))
    for layer in (
        layers.Conv2D(6, 3),
        layers.Conv2D(6, (3, 2), stride=2, padding="same"),
        layers.Conv2D(4, 3, padding=((0, 2), (1, 0)), dilation=2, groups=2),
        layers.Conv2D(8, 3, padding=1, groups=4, use_bias=False),
        layers.MaxPool2D(2),
        layers.MaxPool2D(3, stride=2, padding=1),
        layers.AvgPool2D(2),
        layers.AvgPool2D(3, stride=2, padding=1),
        layers.AvgPool2D(3, stride=2, padding="same", count_include_pad=True),
        layers.GlobalAvgPool2D(),
        layers.Flatten(),
        layers.ReLU(),
        layers.Tanh(),
        layers.Sigmoid(),
        layers.Softmax(),
        layers.Dropout(0.4, seed=1),
    ):
        yield check(layer, images, training=True)
    yield check(layers.Dense(5), vectors)
    yield check(layers.Softmax(), vectors)
    yield check(losses.SoftmaxCrossEntropy(), vectors, labels=np.array([0, 5, 2, 2]))
    yield check(losses.SoftmaxCrossEntropy(), vectors, labels=rng.dirichlet(np.ones(6), size=4))
    yield check(losses.MeanSquaredError(), vectors, labels=rng.normal(size=(4, 6)))


def main(arguments):
    """`python -m minicnn gradcheck`: print the report of every layer and loss."""
    for report in report_all():
        print(report)
    print("every gradient agrees with central differences")
