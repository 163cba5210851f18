"""A value that is learned, and its gradient.

The gradient of a dense weight is a product of two thin matrices: for a layer
of 5000 units on 25088 inputs and a batch of 32, `dy.T` (5000, 32) times `x`
(32, 25088). The product has 125 million numbers, the factors one million. So
a parameter keeps the factors, and multiplies them out one block of rows at a
time, while the block is in the processor's cache, when an optimizer applies
it; or not at all, where BLAS can add the product to the value. Whoever asks
for `.grad` gets the whole array.
"""

import numpy as np

from minicnn.backend import array_module, fused
from minicnn.checks import check_array
from minicnn.errors import InputError
from minicnn.products import PRODUCT_BYTES, add_product, matmul
from minicnn.threads import current_part, parts

PIECE_BYTES = 2**19  # of it handed to the optimizer at a time: with the weights and the state in a core's cache


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
        """Add an array of the value's shape to the gradient. It may be kept: do not change it after.

        Raises:
            InputError: no array, or one of another shape.
        """
        check_array(gradient, "a parameter's gradient")
        if gradient.shape != self.value.shape:
            raise InputError(
                f"a parameter of shape {self.value.shape} needs a gradient of that shape, got {gradient.shape}"
            )
        self._whole.append((current_part() or 0, gradient))

    def add_product(self, left, right):
        """Add `left (rows, N) @ right (N, columns)` to the gradient, as factors where those are smaller.

        Raises:
            InputError: no matrices, or matrices whose product is not of the value's shape.
        """
        for factor in (left, right):
            check_array(factor, "a parameter's gradient")
        # (rows, N) and (N, columns); factors of other shapes would fail only in the optimizer, or nowhere
        outer, inner = left.shape[:1] + right.shape[1:], left.shape[1:] + right.shape[:1]
        if outer != self.value.shape or len(inner) != 2 or inner[0] != inner[1]:
            raise InputError(
                f"a parameter of shape {self.value.shape} needs factors (rows, N) and (N, columns) of a product of "
                f"that shape, got {left.shape} and {right.shape}"
            )
        if left.shape[1] * (left.shape[0] + right.shape[1]) < left.shape[0] * right.shape[1]:
            self._products.append((left, right))
        else:
            self.add_gradient(matmul(left, right))

    def clear_gradient(self):
        """Forget the gradient."""
        self._whole = []  # (part of the batch, array of the value's shape)
        self._products = []  # pairs of factors

    @property
    def has_gradient(self):
        """Whether any gradient was added since it was last cleared."""
        return bool(self._whole or self._products)

    @property
    def grad(self):
        """The whole gradient as one new array, or None."""
        if not self.has_gradient:
            return None
        self._join()
        return self._rows(...)

    def gradient_norm_squared(self):
        """The sum of the squares of the gradient's numbers; of a product without multiplying it out.

            ||A @ B||**2 = sum((A.T @ A) * (B @ B.T)),    both N by N

        Computed in float64, because squares overflow float32 from 2e19 on, and norms are asked for where
        gradients explode.

        Returns:
            a float64 scalar of the value's array module (on the GPU nothing is waited for), or 0.0 without a
            gradient.

        >>> import numpy as np
        >>> p = Parameter(np.zeros((200, 300)))
        >>> p.add_product(np.ones((200, 1)), np.ones((1, 300)))
        >>> float(p.gradient_norm_squared())
        60000.0
        """
        if not self.has_gradient:
            return 0.0
        self._join()
        total = 0.0
        if self._whole:
            whole = self._whole[0][1].astype("float64")
            total = total + (whole * whole).sum()
        if self._products:
            left, right = (factor.astype("float64") for factor in self._products[0])
            total = total + (matmul(left.T, left) * matmul(right, right.T)).sum()
            if self._whole:  # ||P + G||**2 = ||P||**2 + 2 sum(P * G) + ||G||**2
                total = total + 2 * (left * matmul(whole, right.T)).sum()
        return array_module(self.value).maximum(total, 0)  # rounding may leave a little below zero

    def gradient_parts(self):
        """The rows of the value in parts for `gradient_blocks`, which different threads may ask for."""
        self._join()
        if not self._products or array_module(self.value) is not np:
            return [...]
        return parts(len(self.value), 1 + PRODUCT_BYTES // self._row_bytes())

    def gradient_blocks(self, part=...):
        """The gradient of some rows, one cache-sized block after the other.

        Args:
            part: one of `gradient_parts()`.

        Yields:
            `(rows, gradient)`: a slice of the value's first axis and the gradient of these rows, an array
            that nobody else uses and that may be overwritten before the next is asked for.
        """
        if part is ...:
            yield ..., self._rows(...)
            return
        gradient = self._rows(part)
        step = 1 + PIECE_BYTES // self._row_bytes()
        for start in range(part.start, part.stop, step):
            rows = slice(start, min(start + step, part.stop))
            yield rows, gradient[rows.start - part.start : rows.stop - part.start]

    def add_to_value(self, factor, keep=None):
        """`value = keep * value + factor * gradient`, a product's gradient without writing it down.

        Args:
            factor: a number, or a scalar array.
            keep: the same; None for 1.
        """
        self._join()
        if self._products:
            add_product(self.value, *self._products[0], factor, keep)
        elif keep is not None:
            self.value *= keep
        if self._whole:
            fused(_add_scaled)(self.value, self._whole[0][1], factor)

    def _row_bytes(self):
        return max(1, self.value.nbytes // len(self.value))

    def _join(self):
        """What several ways back added, as one: in the order of the batch's parts, whoever came first."""
        xp = array_module(self.value)
        if len(self._products) > 1:  # [A1 A2] @ [[B1], [B2]] = A1 @ B1 + A2 @ B2
            lefts, rights = zip(*self._products, strict=True)
            self._products = [(xp.concatenate(lefts, axis=1), xp.concatenate(rights, axis=0))]
        if self._products and xp is np:
            left, right = self._products[0]
            self._products = [(left, np.ascontiguousarray(right))]  # the update by blocks takes 105 for 120 ms
        if len(self._whole) > 1:
            self._whole.sort(key=lambda item: item[0])
            self._whole = [(0, sum((gradient for _, gradient in self._whole[1:]), start=self._whole[0][1]))]

    def _rows(self, rows):
        """The joined gradient of some rows, in an array of its own."""
        if not self._products:
            return self._whole[0][1][rows].copy()
        left, right = self._products[0]
        gradient = matmul(left if rows is ... else left[rows], right)
        if self._whole:
            gradient += self._whole[0][1][rows]
        return gradient


def _add_scaled(xp, value, gradient, factor):
    value += factor * gradient
