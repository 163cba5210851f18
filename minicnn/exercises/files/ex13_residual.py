"""Exercise 13: a residual block.

A deep row of layers is hard to train. In a residual block the layers (the branch) learn only what to add to their
input. The input itself takes a shortcut around them. The gradient takes the shortcut, too, and so it reaches the first
layers however deep the network is.

x is used twice, by the branch and by the shortcut. What is used twice receives two gradients, and they are added.
"""

import numpy as np

from minicnn.exercises import check


def residual(x, branch):
    """A residual block with a ReLU at the end.

        (1) z = branch(x) + x
        (2) y = max(z, 0)
        (3) dz = dy where z > 0, and 0 elsewhere
        (4) dx = (the backward pass of the branch)(dz) + dz

    Args:
        x: an array of any shape.
        branch: a layer: branch(x) returns an array of the shape of x, and its own function backward.

    Returns:
        y, and backward(dy), which returns dx.
    """
    raise NotImplementedError("write residual")


def test_residual():
    check("residual", residual)


if __name__ == "__main__":

    def double(x):
        return 2 * x, lambda dy: 2 * dy

    y, backward = residual(np.array([-1.0, 2.0]), double)
    print(y, backward(np.ones(2)))  # [0, 6], [0, 3]
