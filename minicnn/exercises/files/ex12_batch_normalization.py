"""Exercise 12: batch normalization.

Each channel gets mean 0 and variance 1 over the batch; then it is multiplied by a learned scale, and a learned shift is
added (gamma and beta in the paper). In evaluation an image must not depend on the others of its batch. So training
keeps running values of the mean and the variance in the dict `running`, and evaluation uses them.

The backward pass of training has three terms: every number of a channel also changes the mean and the variance of all.
Below, n = N * H * W, "mean" and "sum" run over N, H, W, and root = sqrt(variance + epsilon).
"""

import numpy as np

from minicnn.exercises import check


def batch_norm(x, scale, shift, running, training, momentum=0.9, epsilon=1e-5):
    """Batch normalization.

        (1) in training: mean and variance of x for each channel, over N, H, W (variance = mean of (x - mean)**2)
        (2) normalized = (x - mean) / sqrt(variance + epsilon), and y = scale * normalized + shift
        (3) in training: running = momentum * running + (1 - momentum) * (the mean; n / (n - 1) * the variance)
        (4) in evaluation: mean and variance are those of `running`, which stays as it is
        (5) dscale = sum of dy * normalized, and dshift = sum of dy, for each channel
        (6) in training: dx = (d - mean(d) - normalized * mean(d * normalized)) / root, with d = dy * scale
        (7) in evaluation: dx = dy * scale / root

    Args:
        x: images (N, C, H, W).
        scale, shift: (C,).
        running: a dict with "mean" (C,) and "variance" (C,). Training stores the new values in it.
        training: True in training, False in evaluation.
        momentum, epsilon: numbers.

    Returns:
        y, and backward(dy), which returns dx, dscale, dshift.
    """
    raise NotImplementedError("write batch_norm")


def test_batch_norm():
    check("batch_norm", batch_norm)


if __name__ == "__main__":
    x = np.random.default_rng(0).normal(3, 2, size=(8, 1, 4, 4))
    running = {"mean": np.zeros(1), "variance": np.ones(1)}
    y, backward = batch_norm(x, np.ones(1), np.zeros(1), running, True)
    print(y.mean(), y.std(), running)  # about 0, about 1, about 0.3 and 1.3
