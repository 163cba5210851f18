"""Splits: which images teach, and which are kept aside to judge."""

import numpy as np

from minicnn.backend import take
from minicnn.checks import check_share
from minicnn.errors import InputError


def stratified_split(labels, fraction, rng, groups=None):
    """Hold out a share of every class, at random.

    The lab held out the last tenth of images that lay ordered by class, and so nearly a whole letter. Here the
    images are shuffled first, and every class gives the same share.

    Args:
        labels: class of each image, (N,) integers.
        fraction: the share to hold out, between 0 and 1; each class gives `fraction * count`, rounded.
        rng: a `numpy.random.Generator`.
        groups: optional (N,) integers; images of one group, such as copies, stay together on one side. A class
            then gives its share as nearly as whole groups allow, and never more.

    Returns:
        (train_indices, held_out_indices): integers, together each index once, both shuffled.

    Raises:
        InputError: a fraction not between 0 and 1, groups of another length, or a side that stays empty.

    >>> train, held_out = stratified_split([0] * 10 + [1] * 10, 0.2, np.random.default_rng(0))
    >>> len(train), np.bincount(np.array([0] * 10 + [1] * 10)[held_out]).tolist()
    (16, [2, 2])
    """
    labels = np.asarray(labels)
    check_share(fraction, "the held out fraction")
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if groups.shape != labels.shape or labels.ndim != 1:
        raise InputError(f"labels and groups need one number an image, got shapes {labels.shape} and {groups.shape}")
    kinds, classes = np.unique(labels, return_inverse=True)
    wanted = np.array([round(fraction * count) for count in np.bincount(classes)])
    _, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    images = np.split(np.argsort(members, kind="stable"), np.cumsum(sizes)[:-1])  # of each group
    order = rng.permutation(len(sizes))
    lowest, highest = np.full(len(sizes), len(kinds)), np.full(len(sizes), -1)
    np.minimum.at(lowest, members, classes)
    np.maximum.at(highest, members, classes)
    chosen = np.zeros(len(sizes), dtype=bool)
    for group in order[(lowest != highest)[order]]:  # groups of several classes first: they fit less easily
        left = wanted - np.bincount(classes[images[group]], minlength=len(kinds))
        if (left >= 0).all():
            chosen[group], wanted = True, left
    pure = order[(lowest == highest)[order]]
    for label in range(len(kinds)):
        of_class = pure[lowest[pure] == label]
        chosen[of_class[np.cumsum(sizes[of_class]) <= wanted[label]]] = True
    held_out = chosen[members]
    shuffled = rng.permutation(len(labels))
    train, kept = shuffled[~held_out[shuffled]], shuffled[held_out[shuffled]]
    if not (len(train) and len(kept)):
        raise InputError(f"holding out {fraction} of {len(labels)} images leaves one side empty: use more images")
    return train, kept


class Rows:
    """Some rows of an array, copied only when they are asked for.

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
        return take(self.array, self.indices[rows])
