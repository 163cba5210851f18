"""Optimizers: from gradients to better weights.

A rule is one method, `update`, that reads like its formula. Every rule here
treats each number separately, so a backend may apply it to some rows of a
parameter at a time.
"""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.core import operations
from minicnn.core.arguments import Configured
from minicnn.core.checks import check_flag, check_number
from minicnn.core.errors import InputError
from minicnn.core.parameter import Parameter
from minicnn.core.schedules import Constant
from minicnn.core.types import Array


class Optimizer(Configured):
    """What all optimizers share: the learning rate, and the memory of each parameter.

    A rule of your own needs `update`, and `memory` if it remembers anything.

    Args:
        learning_rate: a number of at least 0, or a schedule.
        weight_decay: at least 0.
        clip_norm: the largest global norm of the gradients, above 0, or None.

    Raises:
        InputError: a number out of its range.

    >>> import numpy as np
    >>> from minicnn.core.parameter import Parameter
    >>> class SignDescent(Optimizer):
    ...     def update(self, w, g, t, learning_rate):
    ...         w -= learning_rate * np.sign(g)
    >>> p = Parameter(np.array([1.0, 1.0]))
    >>> p.add_gradient(np.array([30.0, -0.2]))
    >>> SignDescent(0.5).step({"w": p})
    >>> p.value
    array([0.5, 1.5])

    Attributes:
        steps: how many steps the parameters of the last call of `step` have taken.
        memories: `{Parameter: {"t": steps taken, name: array, ...}}`. It belongs to the Parameter object: another
            model starts fresh, and a parameter that joins later has its own t. It is forgotten with the parameter.
        schedule: the learning rate as a function of the steps taken.
    """

    #: The names of the arrays that the rule remembers for each parameter, all zero at first.
    memory: tuple[str, ...] = ()

    def __init__(
        self,
        learning_rate: float | Callable[[int], float],
        *,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ):
        self.learning_rate = learning_rate
        self.weight_decay = check_number(weight_decay, "weight_decay", type(self).__name__)
        self.clip_norm = None if clip_norm is None else check_number(clip_norm, "clip_norm", type(self).__name__)
        if self.clip_norm == 0:
            raise InputError(f"{type(self).__name__} needs a clip_norm above 0, or None")
        self.steps = 0
        self.memories: weakref.WeakKeyDictionary[Parameter, dict] = weakref.WeakKeyDictionary()

    @property
    def learning_rate(self) -> float:
        """The rate of the next step. Set it to a number or a schedule."""
        return self.schedule(self.steps)

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        is_rate = not callable(value)
        self.schedule = Constant(check_number(value, "learning_rate", type(self).__name__)) if is_rate else value

    def step(self, parameters: dict[str, Parameter] | None = None) -> None:
        """Change every parameter that has a gradient, and clear the gradients; without any gradient, nothing.

        Args:
            parameters: `{name: Parameter}`, as from `model.parameters()`. A parameter with two names is changed once.

        Raises:
            InputError: not such a dict; a parameter whose value was replaced by one of another shape.
        """
        if not isinstance(parameters, dict):
            raise _parameters_error(parameters)
        self.steps = self.steps_taken(parameters)
        ready = [parameter for parameter in dict.fromkeys(parameters.values()) if parameter.gradients]
        if ready:
            changes = [(p.value, p.gradients, self._arguments(p)) for p in ready]
            operations.current.apply(self, changes, None if self.clip_norm is None else self._scale(ready))
            self.steps += 1
        for parameter in ready:
            parameter.gradients.clear()

    def steps_taken(self, parameters: dict[str, Parameter]) -> int:
        """How many steps these parameters have taken with this optimizer: the most of any of them.

        Args:
            parameters: `{name: Parameter}`.

        Returns:
            an integer from 0.
        """
        return max((memory["t"] for memory in map(self.memories.get, parameters.values()) if memory), default=0)

    def arguments(self) -> dict[str, Any]:
        rate = self.schedule.learning_rate if isinstance(self.schedule, Constant) else self.schedule
        return super().arguments() | {"learning_rate": rate}

    def update(self, w: Array, g: Array, t: int, learning_rate: float, **memory: Array) -> None:
        """Change the weights `w` and the arrays of the memory in place.

        Args:
            w: the value, or some of its rows.
            g: the gradient of the same shape, which may be overwritten.
            t: the number of the parameter's step, from 1.
            learning_rate: a number.
            memory: the arrays by their names, of the shape of `w`.
        """
        raise NotImplementedError(f"{type(self).__name__} needs an update method")

    def _arguments(self, parameter):
        """The arguments of `update` for a parameter's next step: t, the learning rate and the memory's arrays."""
        memory = self.memories.get(parameter)
        if memory is None:
            memory = self.memories[parameter] = {"t": 0} | {n: np.zeros_like(parameter.value) for n in self.memory}
        if any(memory[name].shape != parameter.value.shape for name in self.memory):
            raise self._memory_error(parameter.value.shape, memory)
        memory["t"] += 1
        return {"learning_rate": self.schedule(self.steps), **memory}

    def _memory_error(self, shape, memory):
        remembered = [memory[name].shape for name in self.memory]
        return InputError(
            f"{type(self).__name__} remembers arrays {remembered[0]} of a parameter that is now {tuple(shape)}: its "
            "value was replaced. Change it in place, or use a new optimizer"
        )

    def _scale(self, parameters):
        """What the gradients are multiplied by so that their norm does not exceed `clip_norm`."""
        norm = _norm(parameters)
        return (self.clip_norm / np.maximum(norm, self.clip_norm)).astype(parameters[0].value.dtype)


def gradient_norm(parameters: dict[str, Parameter]) -> float:
    """The norm of all gradients together: the root of the sum of the squares of all their numbers.

    Args:
        parameters: `{name: Parameter}`.

    Returns:
        a float64 scalar of the backend in use; 0.0 where there is no gradient.

    >>> import numpy as np
    >>> from minicnn.core.parameter import Parameter
    >>> a, b = Parameter(np.zeros(2)), Parameter(np.zeros(1))
    >>> a.add_gradient(np.array([3.0, 0.0]))
    >>> b.add_gradient(np.array([4.0]))
    >>> float(gradient_norm({"a": a, "b": b}))
    5.0
    """
    return _norm([p for p in dict.fromkeys(parameters.values()) if p.has_gradient])


def _parameters_error(parameters):
    return InputError(f"step needs a dict of parameters, got {type(parameters).__name__}: step(model.parameters())")


def _norm(parameters):
    return sum(operations.current.squared_norm(parameter.gradients) for parameter in parameters) ** 0.5


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

        g = gradient + weight_decay * w                   (L2: the gradient of weight_decay / 2 * sum of w**2)
        v = momentum * v + g
        w = w - learning_rate * v                         (Nesterov: w - learning_rate * (g + momentum * v))

    Args:
        learning_rate: a number, or a schedule.
        momentum: how much of the last step's direction is kept, at least 0 and less than 1.
        nesterov: look ahead along the momentum; needs momentum.
        weight_decay: of the L2 kind, at least 0.
        clip_norm: where the norm of all gradients together (`gradient_norm`) is larger, they are scaled down to it;
            None leaves them.

    Raises:
        InputError: a number out of its range.

    >>> import numpy as np
    >>> from minicnn.core.parameter import Parameter
    >>> p = Parameter(np.array([1.0]))
    >>> p.add_gradient(np.array([2.0]))
    >>> SGD(learning_rate=0.1).step({"w": p})
    >>> p.value, p.grad
    (array([0.8]), None)

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.
    """

    def __init__(
        self,
        learning_rate: float | Callable[[int], float] = 0.01,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, clip_norm=clip_norm)
        self.momentum = check_number(momentum, "momentum", "SGD", below=1)
        self.nesterov = check_flag(nesterov, "nesterov", "SGD")
        if nesterov and not momentum:
            raise InputError("SGD with nesterov=True needs a momentum above 0")
        self.memory = ("v",) if momentum else ()

    def update(self, w: Array, g: Array, t: int, learning_rate: float, v: Array | None = None) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * w
        if self.momentum:
            v *= self.momentum
            v += g
            g = g + self.momentum * v if self.nesterov else v
        w -= learning_rate * g


class Adam(Optimizer):
    """Steps of about the learning rate in every direction, whatever the size of its gradients.

        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        w = w - learning_rate * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + epsilon)

    with t the number of the step, from 1. Weight decay is decoupled (AdamW): before all that,
    `w = w - learning_rate * weight_decay * w`.

    Where epsilon is added differs between libraries. Here it is added to the root of the corrected mean, as in the
    paper's algorithm 1 and in PyTorch (there 1e-8), with Keras's number 1e-7. Keras adds it before the correction:
    its epsilon acts like `epsilon / sqrt(1 - beta2**t)` here, in the first step 32 times as much. It matters where
    gradients are about as small as epsilon: with gradients of 1e-7 the first step here is learning_rate / 2, and in
    Keras 1 / 33 of the learning rate.

    Args:
        learning_rate: a number, or a schedule.
        beta1, beta2: how slowly the two means forget, at least 0 and less than 1.
        epsilon: added to the root, so that nothing is divided by zero; above 0.
        weight_decay: of the decoupled kind, at least 0.
        clip_norm: where the norm of all gradients together (`gradient_norm`) is larger, they are scaled down to it;
            None leaves them.

    Raises:
        InputError: a number out of its range.

    >>> import numpy as np
    >>> from minicnn.core.parameter import Parameter
    >>> p = Parameter(np.array([1.0, 1.0]))
    >>> p.add_gradient(np.array([1000.0, -0.001]))
    >>> Adam(learning_rate=0.1).step({"w": p})
    >>> p.value.round(3)
    array([0.9, 1.1])

    Sources: Kingma & Ba, "Adam: a method for stochastic optimization", 2015; Loshchilov & Hutter, "Decoupled
    weight decay regularization", 2019.
    """

    memory = ("m", "v")

    def __init__(
        self,
        learning_rate: float | Callable[[int], float] = 0.001,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, clip_norm=clip_norm)
        self.beta1 = check_number(beta1, "beta1", "Adam", below=1)
        self.beta2 = check_number(beta2, "beta2", "Adam", below=1)
        self.epsilon = _check_epsilon(epsilon, "Adam")

    def update(self, w: Array, g: Array, t: int, learning_rate: float, m: Array, v: Array) -> None:
        if self.weight_decay:
            w *= 1 - learning_rate * self.weight_decay
        m *= self.beta1
        m += (1 - self.beta1) * g
        v *= self.beta2
        v += (1 - self.beta2) * g * g
        m_hat = m / (1 - self.beta1**t)
        v_hat = v / (1 - self.beta2**t)
        w -= learning_rate * m_hat / (np.sqrt(v_hat) + self.epsilon)


class RMSprop(Optimizer):
    """Each gradient divided by the root of a moving mean of its squares.

        g = gradient + weight_decay * w
        v = rho * v + (1 - rho) * g**2
        w = w - learning_rate * g / (sqrt(v) + epsilon)

    It is Adam without the mean of the gradients and without the correction of the first steps, which are therefore
    large: the first one is `learning_rate / sqrt(1 - rho)`, whatever the size of the gradient. Momentum, which some
    libraries add, is left out. PyTorch's epsilon is in the same place; Keras's is added to v, below the root.

    Args:
        learning_rate: a number, or a schedule.
        rho: how slowly the mean forgets, at least 0 and less than 1. PyTorch calls it alpha, and has 0.99.
        epsilon: above 0.
        weight_decay: of the L2 kind, at least 0.
        clip_norm: as for `SGD`.

    Raises:
        InputError: a number out of its range.

    >>> import numpy as np
    >>> from minicnn.core.parameter import Parameter
    >>> p = Parameter(np.array([1.0, 1.0]))
    >>> p.add_gradient(np.array([1000.0, -0.001]))
    >>> RMSprop(learning_rate=0.1, rho=0.75).step({"w": p})
    >>> p.value.round(3)
    array([0.8, 1.2])

    Source: Hinton, "Neural networks for machine learning", lecture 6e, 2012.
    """

    memory = ("v",)

    def __init__(
        self,
        learning_rate: float | Callable[[int], float] = 0.001,
        *,
        rho: float = 0.9,
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, clip_norm=clip_norm)
        self.rho = check_number(rho, "rho", "RMSprop", below=1)
        self.epsilon = _check_epsilon(epsilon, "RMSprop")

    def update(self, w: Array, g: Array, t: int, learning_rate: float, v: Array) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * w
        v *= self.rho
        v += (1 - self.rho) * g * g
        w -= learning_rate * g / (np.sqrt(v) + self.epsilon)


class Adagrad(Optimizer):
    """Each gradient divided by the root of the sum of all its squares so far, so that every weight has its own rate.

        g = gradient + weight_decay * w
        s = s + g**2
        w = w - learning_rate * g / (sqrt(s) + epsilon)

    A weight that rarely has a gradient keeps a large rate; all rates only fall. The sum begins at 0, as in the paper
    and in PyTorch; Keras begins at 0.1.

    Args:
        learning_rate: a number, or a schedule.
        epsilon: above 0.
        weight_decay: of the L2 kind, at least 0.
        clip_norm: as for `SGD`.

    Raises:
        InputError: a number out of its range.

    >>> import numpy as np
    >>> from minicnn.core.parameter import Parameter
    >>> p, optimizer = Parameter(np.array([1.0])), Adagrad(learning_rate=0.1)
    >>> for gradient in (3.0, 4.0):                        # 1 - 0.1 * 3 / 3 - 0.1 * 4 / 5
    ...     p.add_gradient(np.array([gradient]))
    ...     optimizer.step({"w": p})
    >>> p.value.round(3)
    array([0.82])

    Source: Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning and stochastic optimization", 2011.
    """

    memory = ("s",)

    def __init__(
        self,
        learning_rate: float | Callable[[int], float] = 0.01,
        *,
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, clip_norm=clip_norm)
        self.epsilon = _check_epsilon(epsilon, "Adagrad")

    def update(self, w: Array, g: Array, t: int, learning_rate: float, s: Array) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * w
        s += g * g
        w -= learning_rate * g / (np.sqrt(s) + self.epsilon)


def _check_epsilon(epsilon, owner):
    if check_number(epsilon, "epsilon", owner) == 0:
        raise InputError(f"{owner} needs an epsilon above 0: where a gradient is zero, it alone prevents 0 / 0")
    return float(epsilon)
