"""The arithmetic of a sliding window: how many positions it has, and which pixels each tap of it reads.

Convolution and pooling slide a window over padded images. Axis letters, here and in all layers:

    N  images in the batch          F       filters (output channels)
    C  channels                     KH, KW  height and width of the kernel, in taps
    H, W  height and width          OH, OW  height and width of the output
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from minicnn.core.checks import is_integer, quoted
from minicnn.core.errors import InputError
from minicnn.core.types import Pads, Pair

PADDINGS = {"same": "same", "valid": ((0, 0), (0, 0))}  # "same" depends on the size of the image
LARGEST = 2**30  # taps or pixels of a window; beyond it, distances in memory could leave the range of 64 bits


def output_size(size: int, kernel: int, stride: int = 1, before: int = 0, after: int = 0, dilation: int = 1) -> int:
    """How many positions a window has along one axis.

        output = floor((before + size + after - extent) / stride) + 1
        extent = dilation * (kernel - 1) + 1        (the pixels from first tap to last)

    Args:
        size: pixels along the axis.
        kernel: taps of the window.
        stride: pixels from one position to the next.
        before, after: padding on the two sides, in pixels.
        dilation: pixels from one tap to the next.

    Returns:
        the number of positions; 0 if the window does not fit.

    >>> output_size(28, kernel=5, before=2, after=2)      # (28 + 2*2 - 5) / 1 + 1
    28
    >>> output_size(28, kernel=2, stride=2)
    14
    """
    extent = dilation * (kernel - 1) + 1
    return max(0, (before + size + after - extent) // stride + 1)


@dataclasses.dataclass(frozen=True)
class Window:
    """A sliding window: its size, stride, padding and dilation, each validated once.

    Args:
        kernel_size: taps, an int or (KH, KW).
        stride: pixels between positions, an int or a pair.
        padding: "valid" (none), "same" (ceil(size / stride) positions; an odd pixel is added at the bottom and
            the right), p, (ph, pw), or ((top, bottom), (left, right)).
        dilation: pixels between taps, an int or a pair.
        owner: the layer's text, for error messages.

    Raises:
        InputError: a number that is not an integer, is too small or above 2**30, or a padding of an unknown form.

    >>> Window(5, padding="same").output_shape(28, 28)
    (28, 28)
    >>> Window(3, stride=2, padding=((0, 1), (0, 1))).output_shape(28, 28)
    (14, 14)
    """

    kernel_size: Any
    stride: Any = 1
    padding: Any = "valid"
    dilation: Any = 1
    owner: str = dataclasses.field(default="the window", compare=False, repr=False)

    def __post_init__(self):
        for name in ("kernel_size", "stride", "dilation"):
            object.__setattr__(self, name, pair(getattr(self, name), name, minimum=1))
        object.__setattr__(self, "padding", _normalize_padding(self.padding))

    @staticmethod
    def of(kernel_size: "Pair | Window", stride: Pair = 1, padding: Pads = "valid", dilation: Pair = 1) -> "Window":
        """A Window of these arguments; `kernel_size` itself where it is one already.

        Args:
            kernel_size: taps, an int or (KH, KW); or a Window.
            stride, padding, dilation: as in `Window`; of no use beside a Window.

        Returns:
            a Window.
        """
        return kernel_size if isinstance(kernel_size, Window) else Window(kernel_size, stride, padding, dilation)

    @functools.lru_cache(maxsize=1024)  # noqa: B019, a Window is small
    def pads(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The padding in pixels for an image of this size: ((top, bottom), (left, right))."""
        if self.padding != "same":
            return self.padding
        return tuple(map(_same_padding, (height, width), self.kernel_size, self.stride, self.dilation))

    @functools.lru_cache(maxsize=1024)  # noqa: B019
    def output_shape(self, height: int, width: int) -> tuple[int, int]:
        """The number of positions on an image of this size: (OH, OW), by `output_size` on each axis.

        Raises:
            InputError: the window is larger than the padded image.
        """
        (top, bottom), (left, right) = self.pads(height, width)
        (KH, KW), (SH, SW), (DH, DW) = self.kernel_size, self.stride, self.dilation
        OH = output_size(height, KH, SH, top, bottom, DH)
        OW = output_size(width, KW, SW, left, right, DW)
        if OH == 0 or OW == 0:
            raise self._size_error(top + height + bottom, left + width + right)
        return OH, OW

    def _size_error(self, height, width):
        return InputError(
            f"{self.owner} spans {self.extent[0]} x {self.extent[1]} pixels, more than the padded image of "
            f"{height} x {width}: use a smaller window or more padding, or larger images"
        )

    @functools.cached_property
    def extent(self) -> tuple[int, int]:
        """Pixels from the first tap to the last, (height, width)."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))

    @functools.cached_property
    def overlaps(self) -> bool:
        """Whether some pixels lie in more than one window."""
        return any(stride < extent for stride, extent in zip(self.stride, self.extent, strict=True))

    def taps(self, OH: int, OW: int) -> Iterator[tuple[int, int, slice, slice]]:
        """For each tap (kh, kw), the rows and the columns of the padded image that it reads, as slices.

        Args:
            OH, OW: positions of the window along the height and the width.

        Yields:
            (kh, kw, rows, columns): the tap, and the slices.

        >>> list(Window(2).taps(3, 3))[1]     # the second tap reads one pixel further to the right
        (0, 1, slice(0, 3, 1), slice(1, 4, 1))
        """
        (KH, KW), (SH, SW), (DH, DW) = self.kernel_size, self.stride, self.dilation
        for kh in range(KH):
            for kw in range(KW):
                yield kh, kw, pixels_read(kh * DH, SH, OH), pixels_read(kw * DW, SW, OW)


def pixels_read(first, stride, positions):
    """The pixels along one axis that a tap reads: `first`, `first + stride`, ..., one for each position."""
    return slice(first, first + stride * (positions - 1) + 1, stride)


def pair(value, name, minimum):
    """An int as (int, int); a pair as a tuple of ints, each at least `minimum` and at most `LARGEST`.

    >>> pair(3, "stride", minimum=1)
    (3, 3)
    """
    if _is_size(value, minimum):
        value = (value, value)
    if not _is_pair_of(value, lambda item: _is_size(item, minimum)):
        limits = f"at least {minimum} and at most {LARGEST}"
        raise InputError(f"{name} needs an integer of {limits}, or two of them; got {quoted(value)}")
    return tuple(int(item) for item in value)


def _normalize_padding(padding):
    if isinstance(padding, str) and padding in PADDINGS:
        return PADDINGS[padding]
    if _is_size(padding, 0):
        return (int(padding),) * 2, (int(padding),) * 2
    if _is_pair_of(padding, lambda item: _is_size(item, 0)):
        return tuple((int(p), int(p)) for p in padding)
    if _is_pair_of(padding, lambda item: _is_pair_of(item, lambda p: _is_size(p, 0))):
        return tuple(tuple(int(p) for p in item) for item in padding)
    raise InputError(
        "padding needs 'valid', 'same', pixels p, (ph, pw) or ((top, bottom), (left, right)), each at most "
        f"{LARGEST}; got {quoted(padding)}"
    )


def _same_padding(size, kernel, stride, dilation):
    """(before, after) such that the output has ceil(size / stride) positions; the odd pixel is added after."""
    positions = -(-size // stride)
    total = max(0, (positions - 1) * stride + dilation * (kernel - 1) + 1 - size)
    return total // 2, total - total // 2


def _is_size(value, minimum):
    return is_integer(value, minimum) and value <= LARGEST


def _is_pair_of(value, accepts):
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(accepts, value))
