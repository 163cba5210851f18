"""Exercise 7: ReLU and tanh.

An activation is a function of each number alone. Without it, two layers in a row would be one. Its backward pass is
the chain rule for each number: dx = dy * (the derivative of y with respect to x).
"""

import numpy as np

from minicnn.exercises import check


def relu(x):
    """Positive numbers stay, the others become 0.

        (1) y = max(x, 0)
        (2) dx = dy where x > 0, and 0 elsewhere

    Args:
        x: an array of any shape.

    Returns:
        y, and backward(dy), which returns dx.
    """
    raise NotImplementedError("write relu")


def tanh(x):
    """The hyperbolic tangent, np.tanh.

        (1) y = tanh(x)
        (2) dx = dy * (1 - y * y)

    Args:
        x: an array of any shape.

    Returns:
        y, and backward(dy), which returns dx.
    """
    raise NotImplementedError("write tanh")


def test_relu():
    check("relu", relu)


def test_tanh():
    check("tanh", tanh)


if __name__ == "__main__":
    for activation in (relu, tanh):
        y, backward = activation(np.array([-1.0, 0.0, 2.0]))
        print(y, backward(np.ones(3)))  # [0 0 2] [0 0 1]; then about [-0.76 0 0.96] [0.42 1 0.07]
