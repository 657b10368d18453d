"""How much the images of a class resemble each other, to a network (UniDD Figure 2, after G-VBSM).

    s_k = 2 / (n_k (n_k − 1)) · Σ_{i<j} cos(h_i, h_j)

over the n_k images of class k; h is what the network's last linear layer reads (penultimate features), of
the image as it is: no augmentation, evaluation mode. The similarity of a set is the mean of s_k over classes.
The paper names no layer and no pairs; G-VBSM, which it follows, takes pairs within a class.
Legend: N images, F features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.data import ImageSet
from engine.runs import results

Floats = NDArray[np.float64]
BATCH = 128  #: images that the network sees at once


@dataclass(frozen=True)
class Similarity:
    """of_class_K: s_k, NaN where a class has fewer than two images with features. images: of the set."""

    of_class_K: Floats
    images: int

    def spread(self) -> dict[str, Any] | None:
        """Mean over classes, sample standard deviation over classes, and how many classes; None for none."""
        return results.mean_std([float(value) for value in self.of_class_K if np.isfinite(value)])


def intra_class(features_NF: NDArray[Any], labels_N: NDArray[np.int64], classes: int) -> Similarity:
    """s_k of every class, in float64.

    Images whose features are all zero, or not finite, have no direction and are left out.
    """
    rows_NF = np.asarray(features_NF, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        norms_N = np.sqrt((rows_NF**2).sum(axis=1))
    usable_N = np.isfinite(norms_N) & (norms_N > 0)
    found_K = np.full(classes, np.nan)
    for label in range(classes):
        members = np.flatnonzero(usable_N & (labels_N == label))
        count = len(members)
        if count >= 2:
            unit_NF = rows_NF[members] / norms_N[members, None]
            total_F = unit_NF.sum(axis=0)  # ‖Σ u_i‖² = n + 2 Σ_{i<j} u_i·u_j
            found_K[label] = (total_F @ total_F - count) / (count * (count - 1))
    return Similarity(found_K, len(labels_N))


@torch.no_grad()
def penultimate(model: nn.Module, images: ImageSet, device: torch.device) -> NDArray[np.float32]:
    """What the last linear layer of `model` reads of every image, shape (N, F)."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1).float().cpu()))
    try:
        for start in range(0, len(images), BATCH):
            model(images.batch(range(start, min(start + BATCH, len(images))), device))
    finally:
        hook.remove()
    found: NDArray[np.float32] = torch.cat(seen).numpy()
    return found


def of_set(model: nn.Module, images: ImageSet, device: torch.device) -> Similarity:
    """The similarity of a set, through a network in evaluation mode on `device`."""
    return intra_class(penultimate(model, images, device), images.labels_N.numpy(), len(images.classes))
