"""The gradient of a dense weight is a product of two thin matrices, and is kept as such.

The idea is that of `minicnn.backends.numpy.gradients`. There the product is computed block by block in the
processor's cache; here cuBLAS adds it to the weights.
"""

from minicnn.backends.cupy.cublas import matmul


class LowRank:
    """The product `left (rows, N) @ right (N, columns)`, not computed yet.

    Args:
        xp: the array module.
        left, right: the matrices.
    """

    def __init__(self, xp, left, right):
        self.xp, self.left, self.right = xp, left, right
        self.shape, self.dtype = (left.shape[0], right.shape[1]), left.dtype

    @property
    def is_smaller(self):
        """Whether the factors have fewer numbers than the product."""
        return self.left.shape[1] * sum(self.shape) < self.shape[0] * self.shape[1]

    def materialize(self):
        """The product as an array."""
        return matmul(self.xp, self.left, self.right)


def merge(xp, gradients):
    """A parameter's gradients as (dense, low_rank), each None where there is none; the list then holds just these."""
    low_rank = [gradient for gradient in gradients if isinstance(gradient, LowRank)]
    dense = [gradient for gradient in gradients if not isinstance(gradient, LowRank)]
    if len(low_rank) > 1:  # [A1 A2] @ [[B1], [B2]] = A1 @ B1 + A2 @ B2
        left = xp.concatenate([gradient.left for gradient in low_rank], axis=1)
        low_rank = [LowRank(xp, left, xp.concatenate([gradient.right for gradient in low_rank], axis=0))]
    if len(dense) > 1:
        dense = [sum(dense[1:], start=dense[0])]
    gradients[:] = dense + low_rank
    return (dense or [None])[0], (low_rank or [None])[0]


def total(dense, low_rank):
    """The total gradient, in an array of its own."""
    if low_rank is None:
        return dense.copy()
    gradient = low_rank.materialize()
    if dense is not None:
        gradient += dense
    return gradient


def squared_norm(xp, dense, low_rank):
    """The sum of the squares of the total gradient's numbers, in float64; of a product without computing it."""
    if dense is not None:
        dense = dense.astype("float64")
        dense_norm = (dense * dense).sum()
        if low_rank is None:
            return dense_norm
    # ||A @ B||**2 = sum((A.T @ A) * (B @ B.T)), where both are only N by N
    left, right = low_rank.left.astype("float64"), low_rank.right.astype("float64")
    norm = (matmul(xp, left.T, left) * matmul(xp, right, right.T)).sum()
    if dense is not None:  # ||P + G||**2 = ||P||**2 + 2 sum(P * G) + ||G||**2
        norm = norm + 2 * (left * matmul(xp, dense, right.T)).sum() + dense_norm
    return xp.maximum(norm, 0)  # rounding may leave a little below zero
