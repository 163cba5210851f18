"""Learning rates that change as training goes on.

A schedule is called with the number of steps taken so far and returns the
learning rate of the next one. Every optimizer takes a number or a schedule.
Arguments that cannot be right raise an InputError.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import dataclass_transform

from minicnn.core.arguments import Configured, explained
from minicnn.core.errors import InputError


@dataclass_transform()
def _schedule(kind):
    """A dataclass whose wrong call raises a readable error."""
    kind = dataclasses.dataclass(repr=False)(kind)
    kind.__init__ = explained(kind.__init__)
    return kind


class _Schedule(Configured):
    """What the schedules share: their numbers are validated on construction."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if name == "schedule":
                needs, right = "a schedule", callable(value)
            elif name in ("every", "steps"):
                needs, right = "an integer above 0", isinstance(value, numbers.Integral) and value > 0
            else:
                needs, right = "a number of at least 0", isinstance(value, numbers.Real) and 0 <= value < math.inf
            if not right or isinstance(value, bool):
                raise InputError(f"{type(self).__name__} needs {name} as {needs}, got {value!r}")


@_schedule
class Constant(_Schedule):
    """The same rate always.

    Args:
        learning_rate: at least 0.

    Raises:
        InputError: a number out of its range.

    >>> Constant(0.1)(1000)
    0.1
    """

    learning_rate: float

    def __call__(self, step: int) -> float:
        return self.learning_rate


@_schedule
class StepDecay(_Schedule):
    """`learning_rate * factor ** floor(step / every)`: a drop every so many steps.

    Args:
        learning_rate: of the first step, at least 0.
        every: steps from drop to drop, above 0.
        factor: what the rate is multiplied by at each, at least 0.

    Raises:
        InputError: a number out of its range.

    >>> rate = StepDecay(0.1, every=100, factor=0.5)
    >>> rate(99), rate(100), rate(250)
    (0.1, 0.05, 0.025)

    Source: Szegedy et al., "Going deeper with convolutions", 2015 (there 4 % less every 8 epochs).
    """

    learning_rate: float
    _: dataclasses.KW_ONLY
    every: int
    factor: float = 0.1

    def __call__(self, step: int) -> float:
        return self.learning_rate * self.factor ** (step // self.every)


@_schedule
class ExponentialDecay(_Schedule):
    """`learning_rate * factor ** (step / every)`: the same as StepDecay, but smooth.

    Args:
        learning_rate: of the first step, at least 0.
        every: steps in which the rate is multiplied by `factor` once, above 0.
        factor: at least 0.

    Raises:
        InputError: a number out of its range.

    >>> round(ExponentialDecay(0.1, every=100, factor=0.25)(50), 6)
    0.05

    Source: Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016 (there a factor of 0.94
    every two epochs).
    """

    learning_rate: float
    _: dataclasses.KW_ONLY
    every: int
    factor: float

    def __call__(self, step: int) -> float:
        return self.learning_rate * self.factor ** (step / self.every)


@_schedule
class CosineDecay(_Schedule):
    """Half a cosine from `learning_rate` down to `minimum` in `steps` steps, then `minimum`.

        minimum + (learning_rate - minimum) * (1 + cos(pi * step / steps)) / 2

    Args:
        learning_rate: of the first step, at least 0.
        steps: from the first to the last of the curve, above 0.
        minimum: the rate from there on, at least 0.

    Raises:
        InputError: a number out of its range.

    >>> rate = CosineDecay(0.1, steps=100)
    >>> rate(0), round(rate(50), 6), rate(1000)
    (0.1, 0.05, 0.0)

    Source: Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017.
    """

    learning_rate: float
    _: dataclasses.KW_ONLY
    steps: int
    minimum: float = 0.0

    def __call__(self, step: int) -> float:
        progress = min(step / self.steps, 1)
        return self.minimum + (self.learning_rate - self.minimum) * (1 + math.cos(math.pi * progress)) / 2


@_schedule
class WarmUp(_Schedule):
    """A straight line up to the start of another schedule over `steps` steps; then that schedule.

    Args:
        schedule: a schedule, or a function of the step.
        steps: of the straight line, above 0.

    Raises:
        InputError: a number out of its range.

    >>> rate = WarmUp(Constant(0.1), steps=4)
    >>> [round(rate(step), 3) for step in range(6)]
    [0.025, 0.05, 0.075, 0.1, 0.1, 0.1]

    Source: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017.
    """

    schedule: Callable[[int], float]
    _: dataclasses.KW_ONLY
    steps: int

    def __call__(self, step: int) -> float:
        if step < self.steps:
            return self.schedule(0) * (step + 1) / self.steps
        return self.schedule(step - self.steps)
