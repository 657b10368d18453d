"""A frozen teacher that computes labels, with folded BatchNorm and a fixed precision.

Legend: M images, C channels, H, W, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.backbones.graph import fold_batchnorm, place_on
from engine.config import Precision
from engine.device import autocast, conv_precision


class Labeller:
    """A frozen copy of a teacher for labelling views: BatchNorm folded, channels-last."""

    def __init__(self, teacher: nn.Module, device: torch.device, precision: Precision) -> None:
        self.network = place_on(fold_batchnorm(teacher), device)
        self.device = device
        self.precision: Precision = precision

    @torch.no_grad()
    def __call__(self, x_MCHW: Tensor) -> Tensor:
        """Return logits (M, K) in float32."""
        with conv_precision(self.precision), autocast(self.device, self.precision):
            logits_MK: Tensor = self.network(x_MCHW)
        return logits_MK.float()
