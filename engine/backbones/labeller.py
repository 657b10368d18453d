"""A frozen teacher that computes labels, in a fixed precision.

Legend: M images, C channels, H, W, K classes.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from engine.backbones.graph import fold_batchnorm, place_on
from engine.config import Precision
from engine.device import autocast, conv_precision


class Labeller:
    """A frozen copy of a teacher for labelling views, channels-last.

    batchnorm: running: BatchNorm is folded; batch: BatchNorm uses the statistics of each batch that is
    labelled, and keeps none, as a teacher that is left in training mode does.
    """

    def __init__(
        self,
        teacher: nn.Module,
        device: torch.device,
        precision: Precision,
        batchnorm: Literal["running", "batch"] = "running",
    ) -> None:
        if batchnorm == "running":
            network = fold_batchnorm(teacher)
        else:
            network = copy.deepcopy(teacher).eval().requires_grad_(False)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):  # without running statistics, it uses the batch's
                    module.running_mean = module.running_var = module.num_batches_tracked = None
        self.network = place_on(network, device)
        self.device = device
        self.precision: Precision = precision

    @torch.no_grad()
    def __call__(self, x_MCHW: Tensor) -> Tensor:
        """Return logits (M, K) in float32."""
        with conv_precision(self.precision), autocast(self.device, self.precision):
            logits_MK: Tensor = self.network(x_MCHW)
        return logits_MK.float()
