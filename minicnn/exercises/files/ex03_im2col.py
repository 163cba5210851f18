"""Exercise 3: im2col, images to columns.

Computers are slow at sliding and fast at multiplying matrices. So the pixels of every window are copied into one column
of a matrix. If the kernels are the rows of another matrix, one product of the two matrices is the convolution.

The rows of the matrix are the taps of the kernel: c changes slowest, kw fastest. The columns are the positions: oh
changes slowest, then ow, and n changes fastest.

A good way: a loop over kh and kw alone. For one tap, the pixels of all positions are a slice of the padded images.
"""

import numpy as np

from minicnn.exercises import check


def im2col(x, kernel_size, stride=1, padding=0):
    """Copy the pixels of every window into one column.

        (1) padded is x with `padding` zeros on each of the four sides
        (2) columns[(c, kh, kw), (oh, ow, n)] = padded[n, c, oh * stride + kh, ow * stride + kw]

    Args:
        x: images (N, C, H, W).
        kernel_size: (KH, KW).
        stride, padding: integers.

    Returns:
        columns (C * KH * KW, OH * OW * N).
    """
    raise NotImplementedError("write im2col")


def test_im2col():
    check("im2col", im2col)


if __name__ == "__main__":
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    print(im2col(x, (2, 2)))  # four columns: [0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]
