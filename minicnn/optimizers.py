"""Optimizers: from gradients to better weights.

Every rule here treats each number by itself. So a parameter whose gradient is
a product of thin factors is updated one block of rows at a time: the block of
the gradient is multiplied out, applied while it is in the processor's cache,
and its memory used again for the next. Plain SGD only adds it to the weights,
and leaves that to BLAS.
"""

import math
import numbers
from functools import partial

from minicnn.backend import array_module, fused
from minicnn.errors import InputError
from minicnn.schedules import Constant
from minicnn.threads import in_parallel, one_core_blas


class Optimizer:
    """What all optimizers share: the step count, the learning rate, and state kept by parameter name.

    A rule of your own needs `update`, and `slots` if it remembers anything.

    Args:
        learning_rate: a number of at least 0, or a schedule.
        weight_decay: at least 0.
        clip_norm: the largest global norm of the gradients, above 0, or None.

    Raises:
        InputError: a number out of its range.

    >>> import numpy as np
    >>> from minicnn.parameter import Parameter
    >>> class SignDescent(Optimizer):
    ...     def update(self, value, gradient, rate):
    ...         value -= rate * np.sign(gradient)
    >>> p = Parameter(np.array([1.0, 1.0]))
    >>> p.add_gradient(np.array([30.0, -0.2]))
    >>> SignDescent(0.5).step({"w": p})
    >>> p.value
    array([0.5, 1.5])

    Attributes:
        steps: how many steps were taken.
        state: `{parameter name: {slot: array}}`.
        schedule: the learning rate as a function of the steps taken.
    """

    #: The arrays that the rule remembers for each parameter, all starting at zero.
    slots = ()

    def __init__(self, learning_rate, weight_decay=0.0, clip_norm=None):
        self.learning_rate = learning_rate
        self.weight_decay = _number(weight_decay, "weight_decay", self)
        self.clip_norm = None if clip_norm is None else _number(clip_norm, "clip_norm", self)
        if self.clip_norm == 0:
            raise InputError(f"{type(self).__name__} needs a clip_norm above 0, or None")
        self.steps = 0
        self.state = {}

    @property
    def learning_rate(self):
        """The rate of the next step. Set it to a number or a schedule."""
        return self.schedule(self.steps)

    @learning_rate.setter
    def learning_rate(self, value):
        self.schedule = value if callable(value) else Constant(_number(value, "learning_rate", self))

    def numbers(self):
        """What the rule takes in the next step beside the arrays, such as the learning rate: `update`'s arguments."""
        return (self.learning_rate,)

    @one_core_blas()
    def step(self, parameters, numbers=None):
        """Change every parameter that has a gradient, and clear the gradients.

        Args:
            parameters: `{name: Parameter}`, as from `model.parameters()`; the state is kept by name.
            numbers: those of `numbers()`, as scalars on the device where the step is recorded (`minicnn.graph`).

        Raises:
            InputError: no such dict; the state under a name belongs to a parameter of another shape.
        """
        if not isinstance(parameters, dict):
            raise InputError(f"step needs a dict of parameters, got {type(parameters).__name__}: model.parameters()")
        scale = None
        numbers = self.numbers() if numbers is None else numbers
        parameters = {name: parameter for name, parameter in parameters.items() if parameter.has_gradient}
        if parameters and self.clip_norm is not None:
            value = next(iter(parameters.values())).value
            norm = array_module(value).maximum(gradient_norm(parameters), self.clip_norm)
            scale = (self.clip_norm / norm).astype(value.dtype)  # on the GPU nothing is waited for
        self.steps += 1
        for name, parameter in parameters.items():
            self._change(parameter, self._state(name, parameter.value), numbers, scale)
            parameter.clear_gradient()

    def _change(self, parameter, state, numbers, scale):
        in_parallel(partial(self._update_part, parameter, state, numbers, scale), parameter.gradient_parts())

    def _update_part(self, parameter, state, numbers, scale, part):
        for rows, gradient in parameter.gradient_blocks(part):
            if scale is not None:
                gradient *= scale
            block_state = {slot: array[rows] for slot, array in state.items()}
            self.update(parameter.value[rows], gradient, *numbers, **block_state)

    def update(self, value, gradient, rate, **state):
        """Change `value` and the state's arrays in place; `gradient` may be overwritten."""
        raise NotImplementedError(f"{type(self).__name__} needs an update method")

    def _state(self, name, value):
        if name not in self.state:
            xp = array_module(value)
            self.state[name] = {slot: xp.zeros_like(value) for slot in self.slots}
        for slot, array in self.state[name].items():
            if array.shape != value.shape:
                raise InputError(
                    f"{type(self).__name__} keeps a {slot} of shape {array.shape} for {name!r}, which now "
                    f"has shape {value.shape}: use a new optimizer for a new model"
                )
        return self.state[name]


def gradient_norm(parameters):
    """The length of all gradients together, as one long vector: `sqrt(sum of all squares)`.

    Args:
        parameters: `{name: Parameter}`.

    Returns:
        a float64 scalar of the parameters' array module; 0.0 where there is no gradient.

    >>> import numpy as np
    >>> from minicnn.parameter import Parameter
    >>> a, b = Parameter(np.zeros(2)), Parameter(np.zeros(1))
    >>> a.add_gradient(np.array([3.0, 0.0]))
    >>> b.add_gradient(np.array([4.0]))
    >>> float(gradient_norm({"a": a, "b": b}))
    5.0
    """
    return sum(parameter.gradient_norm_squared() for parameter in parameters.values()) ** 0.5


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
    >>> from minicnn.parameter import Parameter
    >>> p = Parameter(np.array([1.0]))
    >>> p.add_gradient(np.array([2.0]))
    >>> SGD(learning_rate=0.1).step({"w": p})
    >>> p.value, p.grad
    (array([0.8]), None)

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.
    """

    def __init__(self, learning_rate=0.01, momentum=0.0, nesterov=False, weight_decay=0.0, clip_norm=None):
        super().__init__(learning_rate, weight_decay, clip_norm)
        self.momentum = _number(momentum, "momentum", self, below=1)
        self.nesterov = nesterov
        if nesterov and not momentum:
            raise InputError("SGD with nesterov=True needs a momentum above 0")
        self.slots = ("velocity",) if momentum else ()

    def numbers(self):
        rate = self.learning_rate
        return -rate, 1 - rate * self.weight_decay

    def _change(self, parameter, state, numbers, scale):
        if self.momentum:
            super()._change(parameter, state, numbers, scale)
        else:  # nothing is remembered: one pass over the memory
            factor, keep = numbers
            parameter.add_to_value(factor if scale is None else factor * scale, keep if self.weight_decay else None)

    def update(self, value, gradient, factor, keep, velocity=None):
        if self.weight_decay:
            gradient += self.weight_decay * value
        if velocity is not None:
            velocity *= self.momentum
            velocity += gradient
            if self.nesterov:
                gradient += self.momentum * velocity
            else:
                gradient[...] = velocity
        gradient *= factor
        value += gradient


class Adam(Optimizer):
    """Steps of about the learning rate in every direction, whatever the size of its gradients.

        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        w = w - learning_rate * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + epsilon)

    with t the number of the step, from 1. Weight decay is decoupled (AdamW): before all that,
    `w = w - learning_rate * weight_decay * w`.

    Args:
        learning_rate: a number, or a schedule.
        beta1, beta2: how slowly the two means forget, at least 0 and less than 1.
        epsilon: added to the root, so that nothing is divided by zero. Keras's 1e-7, not the paper's 1e-8.
        weight_decay: of the decoupled kind, at least 0.
        clip_norm: where the norm of all gradients together (`gradient_norm`) is larger, they are scaled down to it;
            None leaves them.

    Raises:
        InputError: a number out of its range.

    >>> import numpy as np
    >>> from minicnn.parameter import Parameter
    >>> p = Parameter(np.array([1.0, 1.0]))
    >>> p.add_gradient(np.array([1000.0, -0.001]))
    >>> Adam(learning_rate=0.1).step({"w": p})
    >>> p.value.round(3)
    array([0.9, 1.1])

    Sources: Kingma & Ba, "Adam: a method for stochastic optimization", 2015; Loshchilov & Hutter, "Decoupled
    weight decay regularization", 2019.
    """

    slots = ("mean", "square")

    def __init__(self, learning_rate=0.001, beta1=0.9, beta2=0.999, epsilon=1e-7, weight_decay=0.0, clip_norm=None):
        super().__init__(learning_rate, weight_decay, clip_norm)
        self.beta1 = _number(beta1, "beta1", self, below=1)
        self.beta2 = _number(beta2, "beta2", self, below=1)
        self.epsilon = _number(epsilon, "epsilon", self)
        if self.epsilon == 0:
            raise InputError("Adam needs an epsilon above 0: where a gradient is zero, it alone keeps 0 / 0 away")

    def numbers(self):
        rate, t = self.learning_rate, self.steps + 1
        correction = math.sqrt(1 - self.beta2**t)  # of the root; taken out of the fraction
        return 1 - rate * self.weight_decay, self.epsilon * correction, rate * correction / (1 - self.beta1**t)

    def update(self, value, gradient, keep, epsilon, rate, mean, square):
        if self.weight_decay:
            value *= keep
        factors = self.beta1, 1 - self.beta1, self.beta2, 1 - self.beta2
        fused(self._rule)(value, gradient, mean, square, *factors, epsilon, rate)

    @staticmethod
    def _rule(xp, value, gradient, mean, square, beta1, new1, beta2, new2, epsilon, rate):
        mean *= beta1
        mean += new1 * gradient
        square *= beta2
        gradient *= gradient
        gradient *= new2
        square += gradient
        root = xp.sqrt(square, out=gradient)
        root += epsilon
        step = xp.divide(mean, root, out=root)
        step *= rate
        value -= step


def _number(value, name, optimizer, below=math.inf):
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < below:
        limit = "" if below == math.inf else f" and less than {below}"
        raise InputError(f"{type(optimizer).__name__} needs a {name} of at least 0{limit}, got {value!r}")
    return float(value)
