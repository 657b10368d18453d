"""Intra-class similarity of images in the features of a network (UniDD Figure 2, after G-VBSM).

    s_k = 2 / (n_k (n_k − 1)) · Σ_{i<j} cos(h_i, h_j)

over the n_k images of class k. h is the input of the network's last linear layer (the penultimate features)
for the un-augmented image, in evaluation mode. The similarity of a set is the mean of s_k over classes.
The paper specifies neither the layer nor the pairs; G-VBSM, which it follows, uses pairs within a class.
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


@dataclass(frozen=True)
class Similarity:
    """The similarity of a set.

    of_class_K: s_k, NaN for a class with fewer than two usable images. images: number of images of the set.
    """

    of_class_K: NDArray[np.float64]
    images: int

    def spread(self) -> dict[str, Any] | None:
        """Return mean, sample standard deviation and count over classes; None without finite s_k."""
        return results.mean_std([float(value) for value in self.of_class_K if np.isfinite(value)])

    @classmethod
    def of_features(cls, features_NF: NDArray[Any], labels_N: NDArray[np.int64], classes: int) -> Similarity:
        """Compute s_k of every class in float64.

        Images whose features are all zero or not finite have no direction and are skipped.
        """
        rows_NF = np.asarray(features_NF, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            norms_N = np.sqrt((rows_NF**2).sum(axis=1))
        usable_N = np.isfinite(norms_N) & (norms_N > 0)
        similarity_K = np.full(classes, np.nan)
        for label in range(classes):
            members = np.flatnonzero(usable_N & (labels_N == label))
            count = len(members)
            if count >= 2:
                unit_NF = rows_NF[members] / norms_N[members, None]
                total_F = unit_NF.sum(axis=0)  # ‖Σ u_i‖² = n + 2 Σ_{i<j} u_i·u_j
                similarity_K[label] = (total_F @ total_F - count) / (count * (count - 1))
        return cls(similarity_K, len(labels_N))

    @classmethod
    def measure(cls, model: nn.Module, images: ImageSet, device: torch.device) -> Similarity:
        """Measure the similarity of a set with a network in evaluation mode on `device`."""
        features_NF = penultimate_features(model, images, device)
        return cls.of_features(features_NF, images.labels_N.numpy(), len(images.classes))


@torch.no_grad()
def penultimate_features(
    model: nn.Module, images: ImageSet, device: torch.device, batch: int = 128
) -> NDArray[np.float32]:
    """Return the input of the last linear layer of `model` for every image, shape (N, F)."""
    last_linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    features: list[Tensor] = []
    hook = last_linear.register_forward_pre_hook(
        lambda _, inputs: features.append(inputs[0].flatten(1).float().cpu())
    )
    try:
        for start in range(0, len(images), batch):
            model(images.batch(range(start, min(start + batch, len(images))), device))
    finally:
        hook.remove()
    features_NF: NDArray[np.float32] = torch.cat(features).numpy()
    return features_NF
