"""Exercise 8: softmax with cross-entropy.

The last layer gives one number for each class, the logits. Softmax makes probabilities of them. Cross-entropy is the
loss: minus the logarithm of the probability of the right class, as a mean over the batch.

The two belong together. Their gradient is simple, and logits of some thousands lose nothing if you
- subtract the largest logit of each row first: softmax does not change, and exp cannot overflow,
- compute log p directly, as in line (2): exp may round p to 0, and log(0) is minus infinity.
"""

import numpy as np

from minicnn.exercises import check


def softmax_cross_entropy(logits, labels):
    """The loss of a batch and its gradient.

        (1) shifted = logits - (the largest logit of each row)
        (2) log p[n, k] = shifted[n, k] - log(sum over k of exp(shifted[n, k]))
        (3) loss = -(sum over n of log p[n, labels[n]]) / N
        (4) dlogits = (p - target) / N, where target[n, k] is 1 for k = labels[n], and 0 elsewhere

    Args:
        logits: (N, K).
        labels: integers (N,), from 0 to K - 1.

    Returns:
        loss, a number, and dlogits (N, K).
    """
    raise NotImplementedError("write softmax_cross_entropy")


def test_softmax_cross_entropy():
    check("softmax_cross_entropy", softmax_cross_entropy)


if __name__ == "__main__":
    print(softmax_cross_entropy(np.array([[0.0, 0.0]]), np.array([1])))  # 0.693..., [[0.5, -0.5]]
