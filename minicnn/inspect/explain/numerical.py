"""Numerical gradients of a convolution, beside those of its backward pass: central differences in float64.

    d/dw of sum(dy * layer(x)), by ((layer at w + h) - (layer at w - h)) / (2 h)

One number at a time would take a forward pass for each. So many changed copies of a kernel are the filters of one
layer, and pixels so far apart that no window sees two of them are changed together.
"""

import itertools
import time

import numpy as np

from minicnn.backends import to_device, to_numpy
from minicnn.core.layers import Conv2D

STEP = 1e-4  # of the central differences
TOGETHER = 64  # changed kernels in one convolution


def numerical_gradients(layer, x, dy, seconds):
    """The gradients of a convolution's weights and inputs, as NumPy arrays: NaN where the time did not suffice.

    Args:
        layer: a built `Conv2D`.
        x: its input (1, C, H, W).
        dy: the gradient of its output (1, F, OH, OW).
        seconds: for each of the two arrays, at most.

    Returns:
        those of the weights (F, C/groups, KH, KW) and of the input (C, H, W), float64.

    >>> layer = Conv2D(1, 2)
    >>> layer.build((1, 3, 3))
    (1, 2, 2)
    >>> numerical_gradients(layer, np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)), 9)[0].round(6)
    array([[[[4., 4.],
             [4., 4.]]]])
    """
    x, dy, weight = (to_numpy(array).astype(np.float64) for array in (x, dy, layer.weight.value))
    return _weight_slopes(layer, x, dy[0], weight, seconds), _input_slopes(layer, x, dy[0], weight, seconds)


def _convolve(layer, x, weight, groups):
    """The output of `layer` for these images with these kernels; without bias, which cancels in a difference."""
    window = layer.window
    trial = Conv2D(
        len(weight),
        window.kernel_size,
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        groups=groups,
        use_bias=False,
    )
    trial.build(x.shape[1:], dtype="float64")
    trial.weight.value = to_device(weight)
    return to_numpy(trial(to_device(x)))


def _weight_slopes(layer, x, dy, weight, seconds):
    """Each weight of a kernel is changed in a copy of the kernel, and many copies are the filters of one layer."""
    slopes = np.full(weight.shape, np.nan)
    F, C = weight.shape[:2]
    for f in _in_time(F, seconds):
        group = f // (F // layer.groups)
        channels = x[:, group * C : (group + 1) * C]
        found = []
        for start in range(0, weight[f].size, TOGETHER):
            changes = STEP * np.eye(weight[f].size)[start : start + TOGETHER].reshape(-1, *weight[f].shape)
            up, down = (_convolve(layer, channels, weight[f] + sign * changes, 1)[0] for sign in (1, -1))
            found.append(np.tensordot(up - down, dy[f]) / (2 * STEP))
        slopes[f] = np.concatenate(found).reshape(weight[f].shape)
    return slopes


def _input_slopes(layer, x, dy, weight, seconds):
    """Pixels so far apart that no window sees two of them are changed together; each changes its own outputs.

    Source: Curtis, Powell & Reid, "On the estimation of sparse Jacobian matrices", 1974.
    """
    _, C, H, W = x.shape
    (top, _), (left, _) = layer.window.pads(H, W)
    OH, OW = dy.shape[1:]
    apart = layer.window.extent
    slopes = np.full((C, H, W), np.nan)
    for c in _in_time(C, seconds):
        slopes[c] = 0
        for first_row, first_col in itertools.product(*map(range, apart)):
            change = np.zeros((1, C, H, W))
            change[0, c, first_row :: apart[0], first_col :: apart[1]] = STEP
            up, down = (_convolve(layer, x + sign * change, weight, layer.groups)[0] for sign in (1, -1))
            found = (dy * (up - down)).sum(axis=0) / (2 * STEP)  # (OH, OW)
            rows, cols = (
                _pixels_seen(positions, stride, before, first, step)
                for positions, stride, before, first, step in zip(
                    (OH, OW), layer.window.stride, (top, left), (first_row, first_col), apart, strict=True
                )
            )
            inside = ((rows >= 0) & (rows < H))[:, None] & ((cols >= 0) & (cols < W))
            row, col = np.broadcast_arrays(rows[:, None], cols)
            np.add.at(slopes[c], (row[inside], col[inside]), found[inside])
    return slopes


def _pixels_seen(positions, stride, before, first, step):
    """For each position of a window along an axis, the one of the pixels `first, first + step, ...` that it sees."""
    start = np.arange(positions) * stride - before
    return start + (first - start) % step


def _in_time(count, seconds):
    """0 to `count - 1` in random order, until the time is over."""
    deadline = time.perf_counter() + seconds
    for index in np.random.default_rng(0).permutation(count):
        if time.perf_counter() > deadline:
            return
        yield int(index)
