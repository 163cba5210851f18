"""Exercise 4: col2im, the backward pass of im2col.

im2col copied each pixel into several columns. The gradient of a copy is a sum: every entry of the columns has a
gradient, and a pixel receives the sum of the gradients of all its copies. So col2im is not the inverse of im2col: it
does not bring back the pixels, it adds up.

This is im2col with the assignment turned around: the same loop, the same slices.
"""

import numpy as np

from minicnn.exercises import check


def col2im(columns, input_shape, kernel_size, stride=1, padding=0):
    """Add every entry of the columns to the pixel from which im2col copied it.

        (1) padded is zero at first, of the shape (N, C, H + 2 * padding, W + 2 * padding)
        (2) padded[n, c, oh * stride + kh, ow * stride + kw] += columns[(c, kh, kw), (oh, ow, n)]
        (3) the result is padded without its border: `padding` pixels are cut off on each side

    Args:
        columns: (C * KH * KW, OH * OW * N), in the order of exercise 3.
        input_shape: (N, C, H, W).
        kernel_size: (KH, KW).
        stride, padding: integers.

    Returns:
        an array (N, C, H, W).
    """
    raise NotImplementedError("write col2im")


def test_col2im():
    check("col2im", col2im)


if __name__ == "__main__":
    print(col2im(np.ones((4, 4)), (1, 1, 3, 3), (2, 2)))  # in how many windows is each pixel? [1, 2, 1], [2, 4, 2], ...
