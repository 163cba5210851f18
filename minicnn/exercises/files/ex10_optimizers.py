"""Exercise 10: momentum and Adam.

The gradient g says in which direction the loss grows. A step goes the other way. Momentum remembers the direction of
the last steps. Adam also remembers how large the gradients were, and makes steps of about the same size for every
weight.

Both functions are one step for one array of weights. They return new arrays: what they remember is given to the next
step again.
"""

import numpy as np

from minicnn.exercises import check


def momentum_step(w, g, v, learning_rate, momentum):
    """One step with momentum.

        (1) v = momentum * v + g
        (2) w = w - learning_rate * v

    Args:
        w, g: the weights and their gradient, arrays of one shape.
        v: what is remembered, zeros before the first step.
        learning_rate, momentum: numbers.

    Returns:
        the new w and the new v.
    """
    raise NotImplementedError("write momentum_step")


def adam_step(w, g, m, v, t, learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-7):
    """One step of Adam.

        (1) m = beta1 * m + (1 - beta1) * g
        (2) v = beta2 * v + (1 - beta2) * g * g
        (3) m_hat = m / (1 - beta1**t)
        (4) v_hat = v / (1 - beta2**t)
        (5) w = w - learning_rate * m_hat / (sqrt(v_hat) + epsilon)

    Args:
        w, g: the weights and their gradient, arrays of one shape.
        m, v: what is remembered, zeros before the first step.
        t: the number of the step: 1, 2, 3, ...
        learning_rate, beta1, beta2, epsilon: numbers.

    Returns:
        the new w, m and v.
    """
    raise NotImplementedError("write adam_step")


def test_momentum_step():
    check("momentum_step", momentum_step)


def test_adam_step():
    check("adam_step", adam_step)


if __name__ == "__main__":
    w, zeros = np.array([1.0, 1.0]), np.zeros(2)
    print(momentum_step(w, np.array([2.0, 0.0]), zeros, 0.1, 0.9))  # [0.8, 1], [2, 0]
    print(adam_step(w, np.array([1000.0, -0.001]), zeros, zeros, 1, 0.1)[0])  # about [0.9, 1.1]
