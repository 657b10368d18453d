"""Seeded, stratified splits: the same images are held out in every run.

Legend: N images.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.data.layout import listing, refuse
from engine.rng import generator

Array = np.ndarray[Any, Any]
SEED = 0  # of the choice of held-out images, apart from any run's own seed


def stratified(labels_N: Array, share: float, classes: tuple[str, ...]) -> tuple[Array, Array]:
    """Indices that stay and indices that are held out, each ascending.

    Of n images of a class, round(share·n) are held out, but at least one, and one stays.
    Raises UserError("data") if a class has only one image.
    """
    counts = np.bincount(labels_N, minlength=len(classes))
    if (counts < 2).any():
        names = [classes[index] for index in np.flatnonzero(counts < 2)]
        refuse(
            f"nothing can be held out of a class with fewer than two images: {listing(names)}",
            "add images to these classes, or give the set a test split",
        )
    held = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels_N == label)
        take = min(max(round(share * int(count)), 1), int(count) - 1)
        held.append(generator(SEED, "holdout", label).permutation(members)[:take])
    held_N = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels_N)), held_N), held_N
