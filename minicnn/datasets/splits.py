"""Splits: which images are used for training, and which are held out for the test."""

import numpy as np

from minicnn.core import operations
from minicnn.core.checks import check_fraction
from minicnn.core.errors import InputError


def stratified_split(labels, fraction, rng, groups=None):
    """Hold out the same fraction of every class, at random.

    The lab held out the last tenth of images that were sorted by class, so almost all images of one letter. Here
    the images are shuffled first, and the same fraction of every class is held out.

    Args:
        labels: class of each image, (N,) integers.
        fraction: the fraction to hold out, between 0 and 1; of each class, `fraction * count` images, rounded.
        rng: a `numpy.random.Generator`.
        groups: optional (N,) integers; the images of one group, such as copies, stay on the same side of the
            split. A group is never divided, so fewer images of a class may be held out, but never more.

    Returns:
        (train_indices, held_out_indices): integers, both shuffled; every index is in exactly one of them.

    Raises:
        InputError: a fraction not between 0 and 1, groups of another length, or a side without images.

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
    quota = np.array([round(fraction * count) for count in np.bincount(class_index)])
    _, group_index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    images = np.split(np.argsort(group_index, kind="stable"), np.cumsum(sizes)[:-1])  # of each group
    order = rng.permutation(len(sizes))
    lowest, highest = np.full(len(sizes), len(classes)), np.full(len(sizes), -1)
    np.minimum.at(lowest, group_index, class_index)
    np.maximum.at(highest, group_index, class_index)
    chosen = np.zeros(len(sizes), dtype=bool)
    for group in order[(lowest != highest)[order]]:  # groups of several classes first: they are harder to fit in
        remaining = quota - np.bincount(class_index[images[group]], minlength=len(classes))
        if (remaining >= 0).all():
            chosen[group], quota = True, remaining
    single_class = order[(lowest == highest)[order]]
    for label in range(len(classes)):
        of_class = single_class[lowest[single_class] == label]
        chosen[of_class[np.cumsum(sizes[of_class]) <= quota[label]]] = True
    is_held_out = chosen[group_index]
    shuffled = rng.permutation(len(labels))
    train, held_out = shuffled[~is_held_out[shuffled]], shuffled[is_held_out[shuffled]]
    if not (len(train) and len(held_out)):
        raise InputError(f"holding out {fraction} of {len(labels)} images leaves one side empty: use more images")
    return train, held_out


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
