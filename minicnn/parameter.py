"""A value that is learned, and its gradient.

The gradient of a dense weight is a product of two thin matrices: for a layer
of 5000 units on 25088 inputs and a batch of 32, `dy.T` (5000, 32) times `x`
(32, 25088). The product has 125 million numbers, the factors one million. So
a parameter keeps the factors, and multiplies them out one block of rows at a
time, while the block is in the processor's cache, when an optimizer applies
it. Whoever asks for `.grad` gets the whole array.
"""

from minicnn.backend import array_module

BLOCK_BYTES = 2**20  # rows of a gradient multiplied out at a time: about half of a core's cache


class Parameter:
    """A learned array and the gradient collected for it since the last step.

    Attributes:
        value: the array. Optimizers change it in place.
        grad: the gradient, an array of the value's shape and dtype, or None if there is none yet.

    >>> import numpy as np
    >>> p = Parameter(np.zeros((2, 3)))
    >>> p.add_gradient(np.ones((2, 3)))
    >>> p.add_product(np.ones((2, 1)), np.ones((1, 3)))   # adds ones((2, 1)) @ ones((1, 3))
    >>> p.grad
    array([[2., 2., 2.],
           [2., 2., 2.]])
    """

    def __init__(self, value):
        self.value = value
        self.clear_gradient()

    def add_gradient(self, gradient):
        """Add an array of the value's shape to the gradient. It may be kept: do not change it after."""
        self._whole.append(gradient)

    def add_product(self, left, right):
        """Add `left (rows, N) @ right (N, columns)` to the gradient, as factors where those are smaller."""
        if left.shape[1] * (left.shape[0] + right.shape[1]) < left.shape[0] * right.shape[1]:
            self._products.append((left, right))
        else:
            self._whole.append(left @ right)

    def clear_gradient(self):
        """Forget the gradient."""
        self._whole = []  # arrays of the value's shape
        self._products = []  # pairs of factors

    @property
    def has_gradient(self):
        """Whether any gradient was added since it was last cleared."""
        return bool(self._whole or self._products)

    @property
    def grad(self):
        """The whole gradient as one new array, or None."""
        return self._rows(slice(None)) if self.has_gradient else None

    def gradient_blocks(self):
        """The gradient, one cache-sized block of rows after the other.

        Yields:
            `(rows, gradient)`: a slice of the value's first axis and the gradient of these rows, an array
            that nobody else uses and that may be overwritten. A scalar value is one block, `...`.
        """
        if not self._products:
            yield ..., self._rows(...)
            return
        self._join_products()
        row_bytes = max(1, self.value.nbytes // len(self.value))
        step = max(1, BLOCK_BYTES // row_bytes)
        for start in range(0, len(self.value), step):
            rows = slice(start, start + step)
            yield rows, self._rows(rows)

    def _join_products(self):
        """Several pairs of factors as one: [A1 A2] @ [[B1], [B2]] = A1 @ B1 + A2 @ B2."""
        if len(self._products) > 1:
            xp = array_module(self.value)
            lefts, rights = zip(*self._products, strict=True)
            self._products = [(xp.concatenate(lefts, axis=1), xp.concatenate(rights, axis=0))]

    def _rows(self, rows):
        """The gradient of some rows, in an array of its own."""
        total = None
        for left, right in self._products:
            product = left[rows] @ right
            total = product if total is None else total + product
        for whole in self._whole:
            total = whole[rows].copy() if total is None else total + whole[rows]
        return total
