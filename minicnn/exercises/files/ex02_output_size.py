"""Exercise 2: how large is the output?

A window of `kernel` pixels slides along an axis of `size` pixels. On both sides of the axis, `padding` zeros are added.
From one position to the next, the window moves `stride` pixels. How many positions are there? A last step that would
go over the end is not made.
"""

from minicnn.exercises import check


def output_size(size, kernel, stride=1, padding=0):
    """The number of positions along one axis.

        (1) padded = size + 2 * padding
        (2) output = floor((padded - kernel) / stride) + 1

    Args:
        size, kernel, stride, padding: integers.

    Returns:
        an integer.
    """
    raise NotImplementedError("write output_size")


def test_output_size():
    check("output_size", output_size)


if __name__ == "__main__":
    print(output_size(28, 5, padding=2), output_size(28, 2, stride=2))  # 28 14
