"""Find the mistake 6: softmax with cross-entropy."""

import numpy as np

from minicnn.exercises import check


def softmax_cross_entropy(logits, labels):
    """The loss of a batch and its gradient. The formula is right; one line of the code does not do what it should.

        p = softmax(logits), for each row
        loss = mean over n of -log p[n, labels[n]]
        dlogits = (p - target) / N, where target[n, k] is 1 for k = labels[n], and 0 elsewhere

    Args:
        logits: (N, K), of any size: some thousands, too.
        labels: integers (N,), from 0 to K - 1.

    Returns:
        loss, a number, and dlogits (N, K).
    """
    N, K = logits.shape
    shifted = logits - logits.mean()
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_p[np.arange(N), labels].mean()
    dlogits = (np.exp(log_p) - np.eye(K)[labels]) / N
    return loss, dlogits


def test_softmax_cross_entropy():
    check("find06_cross_entropy", softmax_cross_entropy)
