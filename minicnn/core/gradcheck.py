"""Is the backward pass right? Numerical gradients against analytic ones.

A derivative is a limit, and a computer can come close to it: move one number
by a tiny step up and down, and see how the output changes. That takes two
runs of the layer for each number, so it is slow; but it does not use the
formula of the derivative, so it cannot share its mistakes.

    numerical = (f(x + h) - f(x - h)) / (2 h)         (central differences, in float64)

No step is right everywhere. Too large, it sees how the function is curved; too
small, it sees rounding. So where the two derivatives disagree, other steps are
tried, until one agrees, or two agree with each other. Where a function has
a kink (ReLU at 0, two equal pixels in a max) it has no derivative: the slopes
to the left and the right differ, at every step. Such points are left out.

A large array has too many numbers. Then all of them are moved at once, in a
random direction: an error in any one of them shows.

Source: Chainer's gradient_check and Karpathy's "CS231n" notes describe the craft.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from minicnn.core import contract, operations
from minicnn.core.contract import LossLayer, Subject
from minicnn.core.errors import GradientError, InputError
from minicnn.core.layer import Layer
from minicnn.core.losses import Loss
from minicnn.core.types import Array, ArrayLike

STEP = 1e-5
RTOL = 1e-5
RANDOM = "a random direction"
_OTHER_STEPS = (1e-1, 1e1, 1e-2, 1e2, 1e-3, 1e3, 1e-4, 1e4)  # tried where the first does not agree, as multiples of it
_EVERY_COORDINATE = 50  # an array up to this size is checked number by number
_COORDINATES = 8  # of a larger one: this many numbers chosen at random,
_DIRECTIONS = 5  # and this many random directions through all of them


@dataclasses.dataclass
class Entry:
    """One array whose gradient was checked.

    Attributes:
        name: "x", or the parameter's name.
        shape: of the array.
        mode: "training" or "evaluation" where a layer computes another function in training, else "".
        checked: how many derivatives were compared.
        kinks: how many more lay on a kink, where there is no derivative, and were left out.
        error: the worst relative error, and `where` it was: an index, or "a random direction".
        analytic, numerical: the two derivatives there.
        passed: whether every derivative is right.
    """

    name: str
    shape: tuple
    mode: str = ""
    checked: int = 0
    kinks: int = 0
    error: float = 0.0
    where: object = None
    analytic: float = 0.0
    numerical: float = 0.0
    passed: bool = True

    def __str__(self):
        return self.line()

    def line(self, width: int = 18) -> str:
        """The entry as text; `width` is that of the names."""
        kinks = f", {self.kinks} on a kink left out" if self.kinks else ""
        text = (
            f"{'ok   ' if self.passed else 'WRONG'} {self.name:{width}} {self.shape!s:18} worst relative error "
            f"{self.error:.1e} in {self.checked} derivatives{kinks}"
        )
        if self.passed:
            return text
        return f"{text}\n      at {self.where}: analytic {self.analytic:.6g}, numerical {self.numerical:.6g}"


@dataclasses.dataclass(repr=False)
class Report:
    """What `check` found: one `Entry` for each input and each parameter. Its repr is the report as text.

    Attributes:
        target: what was checked, as text.
        entries: a list of Entry; one for each mode where a layer computes another function in training.
        notes: sentences on what else was seen, such as a batch kept on the layer.
    """

    target: str
    entries: list
    notes: tuple = ()

    @property
    def error(self) -> float:
        """The worst relative error of all."""
        return max((entry.error for entry in self.entries), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether every gradient is right."""
        return all(entry.passed for entry in self.entries)

    def __repr__(self):
        lines, mode = [self.target], ""
        width = max((len(entry.name) for entry in self.entries), default=0)
        for entry in self.entries:
            if entry.mode != mode:
                mode = entry.mode
                lines.append(f"  in {mode}:")
            indent = "\n    " if mode else "\n  "
            lines.append(indent[1:] + entry.line(width).replace("\n", indent))
        return "\n".join(lines + [f"  note  {note}" for note in self.notes])


def check(
    target: Layer | Loss,
    x: Array,
    labels: ArrayLike | None = None,
    *,
    training: bool | None = None,
    exclude: Sequence[str] = (),
    step: float = STEP,
    rtol: float = RTOL,
    atol: float = 0.0,
    seed: int = 0,
) -> Report:
    """Compare the gradients of a layer, a loss or a model with central differences.

    The target itself is not changed: a copy of it computes in float64. A layer or model receives a random upstream
    gradient `dy`, and what is differentiated is `sum(dy * y)`. Its states and random generators are restored before
    every run.

    Before that, a layer is tested for what would look like a wrong gradient, or hide one: that two runs at the same
    input agree, that no input is overwritten, that the backward pass can be repeated, that it computes in the dtype of
    its input, that its output has the shape it promises, that every Parameter with a gradient is found in its
    attributes, that nothing else that it changes in training changes its later outputs, and, where it claims
    independent samples, that the two halves of a batch give the outputs and gradients of the batch.

    A derivative is right if `|analytic - numerical| <= atol + rounding + rtol * size`, where size is the sum of the
    two, but at least a thousandth of the array's largest gradient. Rounding is that of float64 in the output.

    Args:
        target: a layer (built or not), a `Sequential`, or a loss.
        x: the input: a batch for a layer or model, the outputs (logits) for a loss; or a tuple of several inputs,
            which the target receives as a tuple. Floating point numbers are used as float64. Integers have no
            gradient. Where backward returns None for an input, its gradient is taken to be zero.
        labels: for a loss, the second argument of its call.
        training: whether to run layers as in training; None for both, where they differ. Dropout then drops the same
            numbers in every run.
        exclude: names of inputs ("x", or "x.0" of several) and parameters that are not checked.
        step: of the differences; for numbers above 1 relative to their size. Others are tried where it fails.
        rtol, atol: the relative and the absolute error that pass.
        seed: of the upstream gradient, and of the choice of what to check in large arrays.

    Returns:
        a Report.

    Raises:
        GradientError: a gradient is wrong; the message is the report.
        CheckError: a layer or loss breaks one of the other promises; the message names it, and the way to mend it.
        InputError: no derivative could be compared, because every point lies on a kink or there is none; a target
            that is not a layer, model or loss; a loss without labels; a name in `exclude` that there is not.

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
    as_layer = target if labels is None else LossLayer(target, labels)
    subject = Subject(as_layer, x, seed=seed)
    excluded = {exclude} if isinstance(exclude, str) else set(exclude)
    names = {*subject.inputs, *subject.parameters}
    if excluded - names:
        raise InputError(f"{subject.name} has no {', '.join(sorted(excluded - names))}: there is {sorted(names)}")
    notes = [f"left out: {name}" for name in sorted(excluded)]
    notes += [f"{name} holds integers: no gradient" for name, x in subject.inputs.items() if x.dtype.kind != "f"]
    modes, changed = contract.keep(subject, as_layer, x, training)
    if changed:
        notes.append(f"forward changed {', '.join(changed)}: a layer that keeps a batch confuses two batches at a time")
    entries = []
    for mode in modes:
        run = subject.run(mode)
        for name, array in subject.moved_arrays().items():
            if name in excluded:
                continue
            entry = Entry(name, tuple(array.shape), contract.mode_name(mode) if mode or len(modes) > 1 else "")
            _Comparison(subject, mode, run, name, step, rtol, atol).fill(entry)
            entries.append(entry)
            if not entry.passed and run.gradients[name] is None:
                notes.append(_missing_note(name, subject))
    report = Report(subject.name, entries, tuple(notes))
    if not report.passed:
        raise GradientError(f"wrong gradient\n{report}")
    for entry in entries:
        if not entry.checked:
            why = "has a kink at every point that was tried of" if entry.kinks else "has no number in"
            raise InputError(f"{report.target} {why} {entry.name} {entry.shape}: check it at another input")
    if not entries:
        raise InputError(f"{report.target} has no gradient to compare: convert integers with x.astype('float64')")
    return report


def _missing_note(name, subject):
    if name in subject.inputs:
        return f"backward returned None for {name}, and the output depends on it; exclude={name!r} leaves it out"
    return f"{name} received no gradient, and the output depends on it: backward must add it with add_gradient"


class _Comparison:
    """The derivatives of `sum(dy * y)` with respect to one array, analytic and numerical, along directions in it."""

    def __init__(self, subject, training, run, name, step, rtol, atol):
        self.subject, self.training, self.array = subject, training, subject.moved_arrays()[name]
        self.step, self.rtol, self.atol = step, rtol, atol
        self.here = operations.current.to_numpy(self.array).copy()
        self.sizes = np.maximum(1, np.abs(self.here))
        gradient = run.gradients[name]
        self.gradient = np.zeros(self.here.shape) if gradient is None else gradient
        self.largest = float(np.abs(self.gradient[np.isfinite(self.gradient)]).max(initial=0))
        self.y = operations.current.array(run.y)
        self.rounding = 2 * np.finfo(float).eps * np.linalg.norm(run.y * operations.current.to_numpy(subject.dy))

    def fill(self, entry):
        """Compare along all directions, and note in the entry what was found."""
        if self.gradient.shape != self.here.shape:
            entry.error, entry.where, entry.passed = math.inf, f"its shape {self.gradient.shape}", False
            return
        for where, direction in self.directions():
            if where == RANDOM and entry.error > self.rtol:
                break  # a wrong number is found: no direction says more
            found = self.compare(direction)
            if found is None:
                entry.kinks += 1
                continue
            entry.checked += 1
            if where == RANDOM and found[0] > self.rtol:
                where, found = self.locate(direction, found)
            if found[0] >= entry.error:
                (entry.error, entry.analytic, entry.numerical), entry.where = found, where
        entry.passed = entry.error <= self.rtol

    def directions(self):
        """Each number; of a large array some numbers, and random directions through all of them."""
        rng, size = self.subject.rng, self.here.size
        is_large = size > _EVERY_COORDINATE
        for index in sorted(rng.choice(size, _COORDINATES, replace=False)) if is_large else range(size):
            yield self.one_number(index)
        if is_large and np.isfinite(self.gradient).any():
            for _ in range(_DIRECTIONS):
                direction = rng.normal(size=self.here.shape) * np.isfinite(self.gradient)
                yield RANDOM, direction / _length(direction)

    def one_number(self, index):
        """(where, direction) of one number of the array."""
        direction = np.zeros(self.here.shape)
        direction.flat[index] = 1
        return tuple(int(i) for i in np.unravel_index(index, self.here.shape)), direction

    def compare(self, direction):
        """(error, analytic, numerical) at the step that agrees best; None where there is a kink at every step."""
        move, best = self.step * direction * self.sizes, None
        rounding = self.rounding / _length(move)
        last = math.inf
        for factor in (1, *_OTHER_STEPS):
            found = self.compare_at(factor * move, rounding)
            if found is None:
                continue
            best = found if best is None else min(best, found)
            if best[0] <= self.rtol:
                return best
            numerical = found[2]
            if abs(numerical - last) <= self.rtol * abs(numerical):
                break  # two steps agree with each other: so it is the analytic derivative that is wrong
            last = numerical
        if best is None or np.count_nonzero(direction) == 1:  # other directions would lose the numbers near zero
            found = self.compare_near_zero(direction)
            best = min((item for item in (best, found) if item is not None), default=None)
        return best

    def compare_near_zero(self, direction):
        """The same with steps that are small beside small numbers, as for sqrt at 1e-9."""
        move = 10 * self.step * direction * np.abs(self.here)
        return self.compare_at(move, self.rounding / _length(self.step * direction * self.sizes))

    def compare_at(self, move, rounding):
        """The same for one step; None where the slopes to both sides differ: a kink, or too large or small a step."""
        length = _length(move)
        if length == 0:
            return None
        right, left = (change / length for change in self.changes(move))
        if not abs(right - left) <= 1e-3 * max(abs(right), abs(left), self.largest) + rounding:
            return None
        analytic, numerical = self.predicted(move) / length, (right + left) / 2
        if not np.isfinite(analytic):
            return math.inf, analytic, numerical
        difference, size = abs(analytic - numerical), max(abs(analytic) + abs(numerical), 1e-3 * self.largest)
        if difference > self.rtol * size:
            difference = max(0.0, difference - self.atol - rounding)
        return difference and difference / size, analytic, numerical

    def predicted(self, move):
        """How the gradient says that the function changes with a move."""
        moved = move != 0
        return float((self.gradient[moved] * move[moved]).sum())

    def changes(self, move):
        """How the function changes up to x + move, and from x - move on."""
        up, down = self.output(self.here + move), self.output(self.here - move)
        self.array[...] = operations.current.array(self.here)
        with np.errstate(all="ignore"):
            return [operations.to_float((change * self.subject.dy).sum()) for change in (up - self.y, self.y - down)]

    def output(self, point):
        self.array[...] = operations.current.array(point)
        with np.errstate(all="ignore"):  # the point may lie outside the function's domain
            return self.subject.forward(training=self.training)[0].copy()  # it may be the array itself

    def locate(self, whole, found):
        """The number that is wrong, by halving the direction: (where, what was found there)."""
        direction = whole
        while np.count_nonzero(direction) > 1:
            indices = np.flatnonzero(direction)
            first, second = direction.copy(), direction.copy()
            first.flat[indices[len(indices) // 2 :]] = 0
            second.flat[indices[: len(indices) // 2]] = 0
            direction = first if self.mismatch(first) >= self.mismatch(second) else second
        where, one = self.one_number(np.flatnonzero(direction)[0])
        at_number, near_zero = self.compare(one), self.compare_near_zero(whole)
        if at_number is not None and at_number[0] > self.rtol:
            return where, at_number
        return RANDOM, found if near_zero is None else min(found, near_zero)

    def mismatch(self, direction):
        """By how much the change that the gradient predicts misses the one that is seen."""
        move = self.step * direction * self.sizes
        return abs(self.predicted(move) - sum(self.changes(move)) / 2)


def _length(array):
    return math.sqrt((array * array).sum())


def report_all():
    """Check every layer and loss of the library at random inputs; yields a Report for each."""
    from minicnn.core import layers, losses

    rng = np.random.default_rng(0)
    images, vectors, small = rng.normal(size=(3, 4, 7, 6)), rng.normal(size=(4, 6)), rng.normal(size=(3, 4, 3, 4))
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
    ):
        yield check(layer, images)
    for layer in (
        layers.Conv2DTranspose(3, 3),
        layers.Conv2DTranspose(4, (3, 2), stride=(2, 3), padding="same", groups=2),
        layers.UpSampling2D(2),
        layers.ZeroPad2D(((1, 0), (0, 2))),
        layers.GlobalAvgPool2D(),
        layers.GlobalMaxPool2D(),
        layers.Flatten(),
        layers.ReLU(),
        layers.LeakyReLU(),
        layers.PReLU(),
        layers.ELU(),
        layers.GELU(),
        layers.SiLU(),
        layers.Hardswish(),
        layers.Clip(-1, 1),
        layers.Tanh(),
        layers.Sigmoid(),
        layers.Softmax(),
        layers.LogSoftmax(),
        layers.Dropout(0.4, seed=1),
        layers.BatchNorm(),
        layers.LayerNorm(),
        layers.GroupNorm(2),
        layers.LocalResponseNorm(3, alpha=1.0),
        layers.Residual([layers.Conv2D(4, 3, padding="same"), layers.BatchNorm(), layers.ReLU()]),
        layers.Branches([[layers.Conv2D(3, 1)], []], join="concatenate"),
    ):
        yield check(layer, small)
    yield check(layers.Dense(5), vectors)
    yield check(layers.Softmax(), vectors)
    yield check(losses.SoftmaxCrossEntropy(), vectors, labels=np.array([0, 5, 2, 2]))
    yield check(losses.SoftmaxCrossEntropy(), vectors, labels=rng.dirichlet(np.ones(6), size=4))
    yield check(losses.MeanSquaredError(), vectors, labels=rng.normal(size=(4, 6)))
    yield check(losses.BinaryCrossEntropy(), vectors, labels=rng.random((4, 6)))
    yield check(losses.Hinge(), vectors, labels=np.array([0, 5, 2, 2]))
