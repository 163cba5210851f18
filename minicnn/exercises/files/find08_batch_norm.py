"""Find the mistake 8: batch normalization."""

import numpy as np

from minicnn.exercises import check


def batch_norm(x, scale, shift, running, training, momentum=0.9, epsilon=1e-5):
    """Batch normalization. The formula is right; the code has one mistake.

        in training: mean and variance of x for each channel, over N, H, W; then, with n = N * H * W,
                     running = momentum * running + (1 - momentum) * (the mean; n / (n - 1) * the variance)
        in evaluation: mean and variance are those of `running`, which stays as it is
        normalized = (x - mean) / root with root = sqrt(variance + epsilon), and y = scale * normalized + shift
        dscale = sum of dy * normalized, and dshift = sum of dy, for each channel
        in training: dx = (d - mean(d) - normalized * mean(d * normalized)) / root, with d = dy * scale
        in evaluation: dx = d / root

    Args:
        x: images (N, C, H, W).
        scale, shift: (C,).
        running: a dict with "mean" (C,) and "variance" (C,). Training stores the new values in it.
        training: True in training, False in evaluation.
        momentum, epsilon: numbers.

    Returns:
        y, and backward(dy), which returns dx, dscale, dshift.
    """
    axes = (0, 2, 3)
    n = x.size // x.shape[1]
    mean, variance = x.mean(axis=axes), x.var(axis=axes)
    running["mean"] = momentum * running["mean"] + (1 - momentum) * mean
    running["variance"] = momentum * running["variance"] + (1 - momentum) * variance * n / (n - 1)
    if not training:
        mean, variance = running["mean"], running["variance"]
    root = np.sqrt(variance + epsilon)[:, None, None]
    normalized = (x - mean[:, None, None]) / root

    def backward(dy):
        d = dy * scale[:, None, None]
        dscale, dshift = (dy * normalized).sum(axis=axes), dy.sum(axis=axes)
        if not training:
            return d / root, dscale, dshift
        mean_d = d.mean(axis=axes, keepdims=True)
        mean_product = (d * normalized).mean(axis=axes, keepdims=True)
        return (d - mean_d - normalized * mean_product) / root, dscale, dshift

    return scale[:, None, None] * normalized + shift[:, None, None], backward


def test_batch_norm():
    check("find08_batch_norm", batch_norm)
