"""Exercise 11: dropout.

In training each number is set to 0 with the probability `rate`, so that the network cannot rely on any one of them. The
others are multiplied by 1 / (1 - rate), so that the sum stays the same on average. In evaluation nothing is changed.

The random numbers must come from the generator `rng`, drawn once, with rng.random(x.shape).
"""

import numpy as np

from minicnn.exercises import check


def dropout(x, rate, rng, training):
    """Dropout.

        (1) mask = 1 where rng.random(x.shape) >= rate, and 0 elsewhere
        (2) in training: y = x * mask / (1 - rate)
        (3) in training: dx = dy * mask / (1 - rate), with the same mask
        (4) in evaluation: y = x and dx = dy

    Args:
        x: an array of any shape.
        rate: the probability of dropping a number, at least 0 and less than 1.
        rng: a numpy.random.Generator.
        training: True in training, False in evaluation.

    Returns:
        y, and backward(dy), which returns dx.
    """
    raise NotImplementedError("write dropout")


def test_dropout():
    check("dropout", dropout)


if __name__ == "__main__":
    print(dropout(np.ones((2, 8)), 0.5, np.random.default_rng(0), True)[0])  # zeros and twos
