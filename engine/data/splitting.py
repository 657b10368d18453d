"""Stratified splits with a fixed seed: the same images are held out in every run.

Legend: N images.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.data.layout import listing, refuse
from engine.rng import generator

Array = np.ndarray[Any, Any]
SEED = 0  # of the choice of held-out images; independent of the seed of a run


def split_stratified(labels_N: Array, share: float, classes: tuple[str, ...]) -> tuple[Array, Array]:
    """Return the indices of the remaining and of the held-out images, each ascending.

    Of n images of a class, round(share·n) are held out, but at least 1 and at most n − 1.
    Raises UserError("data") if a class has only one image.
    """
    counts = np.bincount(labels_N, minlength=len(classes))
    if (counts < 2).any():
        names = [classes[index] for index in np.flatnonzero(counts < 2)]
        refuse(
            f"cannot hold out images of classes with fewer than two: {listing(names)}",
            "add images to these classes, or give the set a test split",
        )
    held = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels_N == label)
        held_count = min(max(round(share * int(count)), 1), int(count) - 1)
        held.append(generator(SEED, "holdout", label).permutation(members)[:held_count])
    held_N = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels_N)), held_N), held_N
