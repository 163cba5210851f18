"""Find the mistake 9: Adam."""

import numpy as np

from minicnn.exercises import check


def adam_step(w, g, m, v, t, learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-7):
    """One step of Adam. The formula is right; one line of the code is not.

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        w = w - learning_rate * m_hat / (sqrt(v_hat) + epsilon)
        with m_hat = m / (1 - beta1**t) and v_hat = v / (1 - beta2**t)

    Args:
        w, g: the weights and their gradient, arrays of one shape.
        m, v: what is remembered, zeros before the first step.
        t: the number of the step: 1, 2, 3, ...
        learning_rate, beta1, beta2, epsilon: numbers.

    Returns:
        the new w, m and v.
    """
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2 * t)
    return w - learning_rate * m_hat / (np.sqrt(v_hat) + epsilon), m, v


def test_adam_step():
    check("find09_adam", adam_step)
