"""Is the way back right? Numerical gradients against analytic ones.

A derivative is a limit, and a computer can come close to it: move one number
by a tiny step up and down, and see how the output changes. That takes two
runs of the layer for each number and knows nothing of the formula, which
makes it slow, and a judge that cannot share the formula's mistakes.

    numerical = (f(x + h) - f(x - h)) / (2 h)         (central differences, in float64)

Where a function has a corner (ReLU at 0, two equal pixels in a max) it has no
derivative: there the slopes to the left and the right differ, however small
the step, by which such points are recognised and left out.

Source: Chainer's gradient_check and Karpathy's "CS231n" notes describe the craft.
"""

import copy
import dataclasses

import numpy as np

from minicnn.backend import number, to_device, to_numpy
from minicnn.errors import GradientError, InputError
from minicnn.layers import Layer

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
        kinks: how many more lay on a corner, where there is no derivative, and were left out.
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
        target: what was checked, as a text.
        entries: a list of Entry.
        tolerance: the largest relative error that passes.
    """

    target: str
    entries: list
    tolerance: float

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
            kinks = f", {entry.kinks} on a corner left out" if entry.kinks else ""
            verdict = "ok   " if entry.error <= self.tolerance else "WRONG"
            lines.append(
                f"  {verdict} {entry.name:18} {entry.shape!s:18} worst relative error {entry.error:.1e} "
                f"in {entry.checked} derivatives{kinks}"
            )
            if entry.error > self.tolerance:
                lines.append(
                    f"        at {entry.where}: analytic {entry.analytic:.6g}, numerical {entry.numerical:.6g}"
                )
        return "\n".join(lines)


def check(target, x, labels=None, training=False, tolerance=TOLERANCE, seed=0):
    """Compare the gradients of a layer, a loss or a whole model with central differences.

    The target itself is not touched: a copy of it computes in float64. A layer or model gets a random upstream
    gradient `dy`, and what is differentiated is `sum(dy * y)`.

    Args:
        target: a layer (built or not), a `Sequential`, or a loss.
        x: the input: a batch for a layer or model, the outputs (logits) for a loss. It is used as float64.
        labels: for a loss, what its call takes second.
        training: whether to run layers as in training; Dropout then drops the same numbers in every run.
        tolerance: the largest relative error that passes.
        seed: of the upstream gradient, and of the choice of what to check in large arrays.

    Returns:
        a Report.

    Raises:
        GradientError: a gradient is wrong; the message is the report.
        InputError: no derivative could be compared, because every point lies on a corner or there is none; a target
            that is no layer, model or loss; a loss without labels.

    >>> from minicnn.layers import Conv2D
    >>> report = check(Conv2D(2, 3, padding="same"), np.random.default_rng(0).normal(size=(2, 1, 4, 4)))
    >>> report.passed, [entry.name for entry in report.entries]
    (True, ['x', 'weight', 'bias'])

    Source: of central differences, Nocedal & Wright, "Numerical optimization", 2006, chapter 8.1.
    """
    if isinstance(target, type) or not callable(target):
        raise InputError(f"gradcheck needs a layer, a model or a loss, got {target!r}: did you forget the brackets ()?")
    if labels is None and not hasattr(target, "forward"):
        raise InputError(f"gradcheck of {type(target).__name__} needs labels=..., what its call takes second")
    # Not default_rng(seed): a caller who draws x so would get dy == x, and faults that confuse the two would pass.
    rng = np.random.default_rng([seed, 1])
    x = np.array(to_numpy(x), dtype=np.float64)
    if labels is not None:
        value, arrays, gradients = _loss(target, x, labels)
    else:
        value, arrays, gradients = _layer(target, x, training, rng)
    entries = [_compared(name, arrays[name], gradients[name], value, rng) for name in arrays]
    report = Report(repr(target) if isinstance(target, Layer) else type(target).__name__, entries, tolerance)
    if not report.passed:
        raise GradientError(f"wrong gradient\n{report}")
    for entry in entries:
        if not entry.checked:
            why = "has a corner at every point of" if entry.kinks else "has no number in"
            raise InputError(f"{report.target} {why} {entry.name} {entry.shape}: check it at another input")
    return report


def _loss(loss, x, labels):
    """The value of a loss as a function of nothing, its input by name, and the gradient by name."""
    x = to_device(x)
    _, dx = loss(x, labels)
    return (lambda: number(loss(x, labels)[0])), {"x": x}, {"x": to_numpy(dx)}


def _layer(target, x, training, rng):
    """The same for a layer or a model: of `sum(dy * y)`, and with its parameters."""
    target = copy.deepcopy(target)
    layers = getattr(target, "layers", [target])
    if len(layers) > 1 or layers[0] is not target:
        target.dtype = np.dtype(np.float64)
    if not target.parameters():
        target.build(x.shape[1:])
    for parameter in target.parameters().values():
        parameter.value = parameter.value.astype(np.float64)
        parameter.clear_gradient()
    generators = [item for layer in layers for item in vars(layer).values() if isinstance(item, np.random.Generator)]
    states = [generator.bit_generator.state for generator in generators]

    def forward():
        for generator, state in zip(generators, states, strict=True):
            generator.bit_generator.state = state
        return target.forward(x, training)

    x = to_device(x)
    y, backward = forward()
    dy = to_device(rng.normal(size=y.shape))
    gradients = {"x": to_numpy(backward(dy))}
    arrays = {"x": x}
    for name, parameter in target.parameters().items():
        arrays[name] = parameter.value
        whole = parameter.grad
        gradients[name] = np.zeros(parameter.value.shape) if whole is None else to_numpy(whole)
    return (lambda: number((forward()[0] * dy).sum())), arrays, gradients


def _compared(name, array, gradient, value, rng):
    """Numerical and analytic derivatives of one array, compared."""
    entry = Entry(name, tuple(array.shape))
    if gradient.shape != array.shape:
        entry.error, entry.where = np.inf, f"its shape {gradient.shape}"
        return entry
    scale = float(np.abs(gradient).max(initial=0))
    for where, direction in _directions(array, rng):
        analytic = float((gradient * direction).sum())
        numerical, corner = _slope(value, array, direction, scale)
        if corner:
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
    """The ways to move: each number by itself, or for a large array some of them and some random directions."""
    size = array.size
    chosen = range(size) if size <= _EVERY_COORDINATE else sorted(rng.choice(size, _EVERY_COORDINATE, replace=False))
    for place in chosen:
        direction = np.zeros(size)
        direction[place] = 1
        where = tuple(int(i) for i in np.unravel_index(place, array.shape))
        yield where, direction.reshape(array.shape)
    if size > _EVERY_COORDINATE:
        for _ in range(_DIRECTIONS):
            direction = rng.normal(size=array.shape)
            yield "a random direction", direction / np.linalg.norm(direction)


def _slope(value, array, direction, scale):
    """The derivative along a direction, and whether there is a corner instead.

    At a corner the slopes to the left and the right differ, however small the step. Where a function is only bent,
    the difference shrinks with the step; then the smaller step's derivative counts.
    """
    here = to_numpy(array).copy()
    middle, difference = value(), np.inf
    for step in (STEP, STEP / 10, STEP / 100):
        up, down = (_value_at(value, array, here + sign * step * direction) for sign in (1, -1))
        right, left = (up - middle) / step, (middle - down) / step
        before, difference = difference, abs(right - left)
        rounding = 1e-9 * abs(middle) * STEP / step
        corner = difference > 1e-3 * max(abs(right), abs(left), scale) + rounding
        if not corner or difference > before / 3:
            break
    _value_at(value, array, here)
    return (up - down) / (2 * step), corner


def _value_at(value, array, place):
    array[...] = to_device(place)
    return value()


def report_all():
    """Check every layer and loss of the library at random inputs; yields a Report for each."""
    from minicnn import layers, losses

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
