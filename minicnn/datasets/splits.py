"""Splits: which images are used for training, and which are held out for the test."""

import numpy as np

from minicnn.core import operations
from minicnn.core.checks import check_fraction
from minicnn.core.errors import InputError
from minicnn.core.types import ArrayLike


def stratified_split(
    labels: ArrayLike, fraction: float, rng: np.random.Generator, groups: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the same fraction of every class, at random.

    The lab held out the last tenth of images that were sorted by class, so almost all images of one letter. Here
    the images are shuffled first, and the same fraction of every class is held out.

    Args:
        labels: class of each image, (N,) integers.
        fraction: the fraction to hold out, between 0 and 1. Of each class `fraction * count` images are held out,
            rounded up or down so that the sum over all classes comes nearest to `fraction * N`. At least one image of
            a class is held out and at least one is kept; the only image of a class is kept.
        rng: a `numpy.random.Generator`.
        groups: optional (N,) integers; the images of one group, such as copies, stay on the same side of the
            split. A group is never divided, so fewer images of a class may be held out; more only if otherwise none
            would be, and then the smallest group.

    Returns:
        (train_indices, held_out_indices): integers, both shuffled; every index is in exactly one of them.

    Raises:
        InputError: a fraction not between 0 and 1, groups of another length, or no class with two images (or two
            groups of images), so that one side would be empty.

    >>> train, held_out = stratified_split([0] * 10 + [1] * 10, 0.2, np.random.default_rng(0))
    >>> len(train), np.bincount(np.array([0] * 10 + [1] * 10)[held_out]).tolist()
    (16, [2, 2])
    """
    labels = np.asarray(labels)
    check_fraction(fraction, "the held out fraction")
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if groups.shape != labels.shape or labels.ndim != 1:
        raise InputError(f"labels and groups need one number per image, got shapes {labels.shape} and {groups.shape}")
    classes, class_index = np.unique(labels, return_inverse=True)
    quota = _quotas(np.bincount(class_index, minlength=len(classes)), fraction)
    _, group_index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    images = np.split(np.argsort(group_index, kind="stable"), np.cumsum(sizes)[:-1])  # of each group
    order = rng.permutation(len(sizes))
    lowest, highest = np.full(len(sizes), len(classes)), np.full(len(sizes), -1)
    np.minimum.at(lowest, group_index, class_index)
    np.maximum.at(highest, group_index, class_index)
    is_mixed = lowest != highest  # groups of several classes
    chosen = np.zeros(len(sizes), dtype=bool)
    for group in order[is_mixed[order]]:  # these first: they are harder to fit in
        remaining = quota - np.bincount(class_index[images[group]], minlength=len(classes))
        if (remaining >= 0).all():
            chosen[group], quota = True, remaining
    by_class = order[~is_mixed[order]]
    by_class = by_class[np.argsort(lowest[by_class], kind="stable")]
    quota = quota.tolist()  # faster than an array in a loop
    for label, group, size in zip(*(x.tolist() for x in (lowest[by_class], by_class, sizes[by_class])), strict=True):
        if size <= quota[label]:
            chosen[group] = True
            quota[label] -= size
    _hold_out_missing(chosen, class_index, group_index, images, len(classes))
    is_held_out = chosen[group_index]
    shuffled = rng.permutation(len(labels))
    train, held_out = shuffled[~is_held_out[shuffled]], shuffled[is_held_out[shuffled]]
    if not (len(train) and len(held_out)):
        raise InputError(
            f"nothing of these {len(labels)} images can be held out: no class has two of them"
            + (" that are in different groups" if len(sizes) < len(labels) else "")
        )
    return train, held_out


def _quotas(counts, fraction):
    """How many images of each class to hold out: largest remainders; one on each side of a class of two or more."""
    exact = fraction * counts
    quota = np.clip(np.floor(exact + 1e-9).astype(int), np.minimum(counts - 1, 1), np.maximum(counts - 1, 0))
    missing = round(fraction * counts.sum()) - quota.sum()
    candidates = np.argsort(quota - exact, kind="stable")
    candidates = candidates[(quota + 1 < counts)[candidates]]
    quota[candidates[: max(missing, 0)]] += 1
    return quota


def _hold_out_missing(chosen, class_index, group_index, images, n_classes):
    """Choose the smallest group of each class without a chosen one, if no class loses its last image by it."""
    held_out = np.bincount(class_index[chosen[group_index]], minlength=n_classes)
    kept = np.bincount(class_index[~chosen[group_index]], minlength=n_classes)
    for label in np.flatnonzero(held_out == 0):
        if held_out[label]:  # by a group of several classes, a moment ago
            continue
        for group in sorted(set(group_index[class_index == label].tolist()), key=lambda group: len(images[group])):
            count = np.bincount(class_index[images[group]], minlength=n_classes)
            if (kept > count)[count > 0].all():
                chosen[group], held_out, kept = True, held_out + count, kept - count
                break


def copy_groups(images):
    """A group number for each image: a hash of its bytes, so that identical images have the same number.

    >>> first, second, third = copy_groups(np.array([[1, 2], [3, 4], [1, 2]], "uint8"))
    >>> print(first == third, first == second)
    True False
    """
    pixels = np.ascontiguousarray(images).reshape(len(images), -1)
    words = pixels.view(np.uint64) if pixels.shape[1] % 8 == 0 else pixels.astype(np.uint64)
    factors = np.random.default_rng(0).integers(2**63, size=words.shape[1], dtype=np.uint64) * 2 + 1
    return words @ factors


def merge_groups(first, second):
    """One group number for each image, the same for images that are in one group of `first` or in one of `second`.

    Args:
        first, second: (N,) integers. The groups of both that have an image in common become one group.

    Returns:
        (N,) integers.

    >>> merge_groups(np.array([5, 5, 6, 7]), np.array([1, 2, 2, 3]))
    array([0, 0, 0, 3])
    """
    _, first = np.unique(first, return_inverse=True)
    _, second = np.unique(second, return_inverse=True)
    group = np.arange(len(first))
    while True:  # the lowest number of a group wins; repeat until nothing changes
        merged = group
        for numbers in (first, second):
            lowest = np.full(numbers.max(initial=-1) + 1, len(group))
            np.minimum.at(lowest, numbers, merged)
            merged = lowest[numbers]
        if (merged == group).all():
            return group
        group = merged


class Rows:
    """Some rows of an array, copied only when they are indexed.

    Args:
        array: an array of any shape.
        indices: of the rows, (n,) integers.

    >>> rows = Rows(np.array([10, 20, 30]), np.array([2, 0]))
    >>> rows.shape, rows[:1]
    ((2,), array([30]))
    """

    def __init__(self, array, indices):
        self.array, self.indices = array, indices
        self.shape, self.dtype = (len(indices), *array.shape[1:]), array.dtype

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, rows):
        return operations.current.take(self.array, self.indices[rows])
