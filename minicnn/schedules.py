"""Learning rates that change as training goes on.

A schedule is called with the number of steps taken so far and returns the
learning rate of the next one. Every optimizer takes a number or a schedule.
Where one cannot be made of what it is given, it raises an InputError.
"""

import dataclasses
import math
import numbers

from minicnn.errors import InputError


class _Schedule:
    """What the schedules share: their numbers are checked when one is made."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if name == "schedule":
                needs, right = "a schedule", callable(value)
            elif name in ("every", "steps"):
                needs, right = "a whole number above 0", isinstance(value, numbers.Integral) and value > 0
            else:
                needs, right = "a number of at least 0", isinstance(value, numbers.Real) and 0 <= value < math.inf
            if not right or isinstance(value, bool):
                raise InputError(f"{type(self).__name__} needs {name} as {needs}, got {value!r}")


@dataclasses.dataclass
class Constant(_Schedule):
    """The same rate for ever.

    >>> Constant(0.1)(1000)
    0.1
    """

    learning_rate: float

    def __call__(self, step):
        return self.learning_rate


@dataclasses.dataclass
class StepDecay(_Schedule):
    """`learning_rate * factor ** floor(step / every)`: a drop every so many steps.

    >>> rate = StepDecay(0.1, every=100, factor=0.5)
    >>> rate(99), rate(100), rate(250)
    (0.1, 0.05, 0.025)
    """

    learning_rate: float
    every: int
    factor: float = 0.1

    def __call__(self, step):
        return self.learning_rate * self.factor ** (step // self.every)


@dataclasses.dataclass
class ExponentialDecay(_Schedule):
    """`learning_rate * factor ** (step / every)`: the same as StepDecay, but smooth.

    >>> round(ExponentialDecay(0.1, every=100, factor=0.25)(50), 6)
    0.05
    """

    learning_rate: float
    every: int
    factor: float

    def __call__(self, step):
        return self.learning_rate * self.factor ** (step / self.every)


@dataclasses.dataclass
class CosineDecay(_Schedule):
    """Half a cosine from `learning_rate` down to `minimum` in `steps` steps, then `minimum`.

        minimum + (learning_rate - minimum) * (1 + cos(pi * step / steps)) / 2

    >>> rate = CosineDecay(0.1, steps=100)
    >>> rate(0), round(rate(50), 6), rate(1000)
    (0.1, 0.05, 0.0)

    Source: Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017.
    """

    learning_rate: float
    steps: int
    minimum: float = 0.0

    def __call__(self, step):
        share = min(step / self.steps, 1)
        return self.minimum + (self.learning_rate - self.minimum) * (1 + math.cos(math.pi * share)) / 2


@dataclasses.dataclass
class WarmUp(_Schedule):
    """A straight line up to the start of another schedule over `steps` steps; then that schedule.

    >>> rate = WarmUp(Constant(0.1), steps=4)
    >>> [round(rate(step), 3) for step in range(6)]
    [0.025, 0.05, 0.075, 0.1, 0.1, 0.1]

    Source: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017.
    """

    schedule: object
    steps: int

    def __call__(self, step):
        if step < self.steps:
            return self.schedule(0) * (step + 1) / self.steps
        return self.schedule(step - self.steps)
