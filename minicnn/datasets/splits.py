"""Splits: which images teach and which are kept aside to judge."""

import numpy as np

from minicnn.errors import InputError


def stratified_split(labels, fraction, rng, groups=None):
    """Hold out a share of every class, at random: `(train_indices, held_out_indices)`, both shuffled."""
    labels = np.asarray(labels)
    if not 0 < fraction < 1:
        raise InputError(f"the held out fraction must lie between 0 and 1, got {fraction!r}")
    order = rng.permutation(len(labels))
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        held_out[members[: round(fraction * len(members))]] = True
    train, kept = order[~held_out[order]], order[held_out[order]]
    if not (len(train) and len(kept)):
        raise InputError(f"a fraction of {fraction} leaves one side of a split of {len(labels)} empty")
    return train, kept
