"""How sure a number is: intervals for an accuracy, for a difference over seeds, and for two models on one test set."""

import math
from typing import NamedTuple

import numpy as np

# Student's t for 95 %, two-sided, by degrees of freedom; from 10 on a little too wide.
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def wilson(right, total, z=1.959964):
    """The 95 % interval of a share, `right` of `total`.

        centre = (p + z² / 2n) / (1 + z² / n)
        half   = z / (1 + z² / n) * sqrt(p (1 - p) / n + z² / 4n²)

    Unlike `p ± 1.96 sqrt(p (1 - p) / n)` it never leaves [0, 1], and a perfect score has a width.

    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    p = right / total
    grown = 1 + z * z / total
    centre = (p + z * z / (2 * total)) / grown
    half = z / grown * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


class Difference(NamedTuple):
    """A mean difference in percentage points, and half of its 95 % interval (infinite with one seed)."""

    mean: float
    half: float

    def __str__(self):
        return f"{self.mean:+.1f} ± {self.half:.1f}" if math.isfinite(self.half) else f"{self.mean:+.1f} (one seed)"

    def sentence(self, less, more, same):
        """The difference in words: `less`, `more` or `same`, with its numbers."""
        if not math.isfinite(self.half):
            return f"{self} points, of which one seed cannot tell chance"
        close = abs(abs(self.mean) - self.half) < 0.05  # another digit, where one alone could not tell
        numbers = f"{self.mean:+.2f} ± {self.half:.2f}" if close else str(self)
        if abs(self.mean) <= self.half:
            return f"{same} ({numbers} points)"
        return f"{less if self.mean < 0 else more} ({numbers} points)"


def difference(a, b):
    """`a - b` for shares that were measured with the same seeds, as a `Difference` in points.

    >>> print(difference([0.9, 0.92, 0.91], [0.8, 0.8, 0.81]))
    +10.7 ± 2.9
    """
    points = 100 * (np.asarray(a) - np.asarray(b))
    if len(points) < 2:
        return Difference(float(points.mean()), math.inf)
    t = T_95[min(len(points) - 1, len(T_95)) - 1]
    return Difference(float(points.mean()), float(t * points.std(ddof=1) / math.sqrt(len(points))))


def sign_test(a, b):
    """Two models on the same test images: `(only a right, only b right, p)`.

    p is the chance of so uneven a division, or a more uneven one, if both were equally good.

    Args:
        a, b: texts of 0 and 1, image by image.

    >>> sign_test("1111111100", "0000000000")
    (8, 0, 0.0078125)
    """
    only_a = sum(x > y for x, y in zip(a, b, strict=True))
    only_b = sum(x < y for x, y in zip(a, b, strict=True))
    total = only_a + only_b
    tail = sum(math.comb(total, k) for k in range(min(only_a, only_b) + 1))
    return only_a, only_b, min(1.0, 2 * tail / 2**total)


def holm(chances):
    """The p of several tests, made larger for their number; where one is below 0.05, so is the chance of any error.

    >>> [round(p, 2) for p in holm([0.01, 0.5, 0.03])]
    [0.03, 0.5, 0.06]

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order, adjusted, largest = sorted(range(len(chances)), key=lambda i: chances[i]), [0.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[i]))
        adjusted[i] = largest
    return adjusted


def percent(share, digits=1):
    """A share as a percentage."""
    return f"{100 * share:.{digits}f} %"


def spread(shares, digits=1):
    """The mean of shares over seeds, and their smallest and largest where they differ.

    >>> spread([0.5, 0.6])
    '55.0 % (50.0 to 60.0)'
    """
    low, high = (f"{100 * end:.{digits}f}" for end in (min(shares), max(shares)))
    mean = percent(float(np.mean(shares)), digits)
    return mean if low == high else f"{mean} ({low} to {high})"
