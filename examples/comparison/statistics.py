"""How certain a number is: intervals for an accuracy and for a difference over seeds, tests for two models."""

import math
from typing import NamedTuple

import numpy as np

# Student's t for 95 %, two-sided, by degrees of freedom; from 10 on the interval is a little too wide.
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def wilson(right, total, z=1.959964):
    """The 95 % interval of a fraction, `right` of `total`.

        centre = (p + z² / 2n) / (1 + z² / n)
        half   = z / (1 + z² / n) * sqrt(p (1 - p) / n + z² / 4n²)

    Unlike `p ± 1.96 sqrt(p (1 - p) / n)` it never leaves [0, 1], and its width is never 0.

    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    p = right / total
    scale = 1 + z * z / total
    centre = (p + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


class Difference(NamedTuple):
    """A mean difference in percentage points, and half of its 95 % interval (infinite with one seed)."""

    mean: float
    half: float

    def __str__(self):
        if not math.isfinite(self.half):
            return f"{self.mean:+.1f} (one seed)"
        digits = (
            1 if abs(abs(self.mean) - self.half) >= 0.1 else 2
        )  # two where one digit would not show whether 0 is inside
        return f"{self.mean:+.{digits}f} ± {self.half:.{digits}f}"

    def sentence(self, less, more, same):
        """The difference in words: `less`, `more` or `same`, with its numbers."""
        if not math.isfinite(self.half):
            return f"{self} points, of which one seed cannot tell chance"
        if abs(self.mean) <= self.half:
            return f"{same} ({self} points)"
        return f"{less if self.mean < 0 else more} ({self} points)"


def difference(a, b):
    """`a - b` for fractions that were measured with the same seeds, as a `Difference` in points.

    >>> print(difference([0.9, 0.92, 0.91], [0.8, 0.8, 0.81]))
    +10.7 ± 2.9
    """
    points = 100 * (np.asarray(a) - np.asarray(b))
    if len(points) < 2:
        return Difference(float(points.mean()), math.inf)
    t = T_95[min(len(points) - 1, len(T_95)) - 1]
    return Difference(float(points.mean()), float(t * points.std(ddof=1) / math.sqrt(len(points))))


def t_test(a, b):
    """The p of a mean difference over seeds, by Student's t test.

    It is the probability of a difference as large or larger if the true difference is 0. With the angle
    `w = atan(|t| / sqrt(n))` and n degrees of freedom, the probability of a smaller one is

        n even:  sin w (1 + 1/2 cos² w + 1·3/(2·4) cos⁴ w + ... up to cosⁿ⁻² w)
        n odd:   2/π (w + sin w (cos w + 2/3 cos³ w + ... up to cosⁿ⁻² w))

    >>> round(t_test([0.02, 0.03, 0.04], [0.0, 0.0, 0.0]), 3)
    0.035

    Source: Abramowitz and Stegun, "Handbook of mathematical functions", 1964, 26.7.3 and 26.7.4.
    """
    gaps = np.asarray(a, dtype=float) - np.asarray(b)
    n = len(gaps) - 1
    if n < 1 or not gaps.any():
        return 1.0
    angle = math.atan2(abs(gaps.mean()), gaps.std(ddof=1) / math.sqrt(n + 1) * math.sqrt(n))
    cosine, odd = math.cos(angle), n % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, n + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    smaller = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + smaller) if odd else smaller))


def sign_test(a, b):
    """Two models on the same test images: `(only a right, only b right, p)`.

    p is the probability of a division at least as uneven, if both are equally good.

    Args:
        a, b: texts with 0 or 1 for each image.

    >>> sign_test("1111111100", "0000000000")
    (8, 0, 0.0078125)
    """
    only_a = sum(x > y for x, y in zip(a, b, strict=True))
    only_b = sum(x < y for x, y in zip(a, b, strict=True))
    total = only_a + only_b
    tail = sum(math.comb(total, k) for k in range(min(only_a, only_b) + 1))
    return only_a, only_b, min(1.0, 2 * tail / 2**total)


def holm(chances):
    """The p of several tests, corrected for their number.

    If every difference with a p below 0.05 is called real, the probability of any mistake is below 0.05.

    >>> [round(p, 2) for p in holm([0.01, 0.5, 0.03])]
    [0.03, 0.5, 0.06]

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order, adjusted, largest = sorted(range(len(chances)), key=lambda i: chances[i]), [0.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[i]))
        adjusted[i] = largest
    return adjusted


def percent(fraction, digits=1):
    """A fraction as a percentage."""
    return f"{100 * fraction:.{digits}f} %"


def spread(fractions, digits=1):
    """The mean of fractions over seeds, and the smallest and the largest where they differ.

    >>> spread([0.5, 0.6])
    '55.0 % (50.0 to 60.0)'
    """
    low, high = (f"{100 * end:.{digits}f}" for end in (min(fractions), max(fractions)))
    mean = percent(float(np.mean(fractions)), digits)
    return mean if low == high else f"{mean} ({low} to {high})"
