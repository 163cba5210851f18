"""A gradient need not be a matrix: that of a dense weight is a product of two thin ones.

For a layer of 5000 units on 25088 inputs and a batch of 32 it is `dy.T`
(5000, 32) times `x` (32, 25088). The product has 125 million numbers, the
factors one million. So the factors are kept, and multiplied one block of rows
at a time, while the block is in the processor's cache, when an optimizer
applies it; or never, where BLAS adds the product to the weights.
"""

import numpy as np

from minicnn.backends.numpy.matmul import thin_matmul


class LowRank:
    """The product `left (rows, N) @ right (N, columns)`, not computed yet.

    >>> gradient = LowRank(np.ones((2, 1)), np.ones((1, 3)))
    >>> gradient.shape, gradient + 1
    ((2, 3), array([[2., 2., 2.],
           [2., 2., 2.]]))
    """

    __array_ufunc__ = None  # NumPy then leaves `array + LowRank` to this class

    def __init__(self, left, right):
        self.left, self.right = left, right
        self.shape, self.dtype = (left.shape[0], right.shape[1]), left.dtype

    @property
    def is_smaller(self):
        """Whether the factors have fewer numbers than the product."""
        return self.left.shape[1] * sum(self.shape) < self.shape[0] * self.shape[1]

    def materialize(self, rows=slice(None)):
        """The product's rows, as an array."""
        return thin_matmul(self.left[rows], self.right)

    def squared_norm(self):
        """||A @ B||**2 = sum((A.T @ A) * (B @ B.T)), where both are only N by N."""
        left, right = self.left.astype("float64"), self.right.astype("float64")
        return ((left.T @ left) * (right @ right.T)).sum()

    def __add__(self, other):
        return self.materialize() + other

    __radd__ = __add__


def merge(gradients):
    """A parameter's gradients as (dense, low_rank), each None where there is none; the list then holds just these."""
    if len(gradients) == 1:
        (gradient,) = gradients
        return (None, gradient) if isinstance(gradient, LowRank) else (gradient, None)
    low_rank = [gradient for gradient in gradients if isinstance(gradient, LowRank)]
    dense = [gradient for gradient in gradients if not isinstance(gradient, LowRank)]
    if len(low_rank) > 1:  # [A1 A2] @ [[B1], [B2]] = A1 @ B1 + A2 @ B2
        left = np.concatenate([gradient.left for gradient in low_rank], axis=1)
        low_rank = [LowRank(left, np.concatenate([gradient.right for gradient in low_rank], axis=0))]
    if len(dense) > 1:
        dense = [sum(dense[1:], start=dense[0])]
    gradients[:] = dense + low_rank
    return (dense or [None])[0], (low_rank or [None])[0]


def squared_norm(gradients):
    """The sum of the squares of the total gradient's numbers, in float64; of a product without computing it."""
    dense, low_rank = merge(gradients)
    if dense is None:
        return max(low_rank.squared_norm(), 0.0)  # rounding may leave a little below zero
    dense = dense.astype("float64")
    if low_rank is None:
        return (dense * dense).sum()
    # ||P + G||**2 = ||P||**2 + 2 sum(P * G) + ||G||**2
    mixed = (low_rank.left.astype("float64") * (dense @ low_rank.right.T.astype("float64"))).sum()
    return max((dense * dense).sum() + 2 * mixed + low_rank.squared_norm(), 0.0)


def rows_of(dense, low_rank, rows=slice(None)):
    """Some rows of the total gradient, in an array of its own."""
    if low_rank is None:
        return dense[rows].copy()
    gradient = low_rank.materialize(rows)
    if dense is not None:
        gradient += dense[rows]
    return gradient
