"""The ConvNet of the dataset-distillation literature, with the parameter names of released checkpoints.

Legend: M images, C channels, H, W pixels, K classes. Source: ConvNet-128 of UniDD Section 5; InstanceNorm as
in Dataset Condensation (DC).
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """ConvNet with `depth` blocks of conv 3×3 → norm → ReLU → average pool 2, then one linear classifier.

    norm: ``batch`` (BatchNorm2d) or ``instance`` (GroupNorm with one channel per group, affine).
    image_size: pixels; ``image_size >> depth`` must be at least one.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        image_size: int,
        depth: int,
        width: int,
        norm: Literal["batch", "instance"],
    ) -> None:
        super().__init__()
        side = image_size >> depth
        assert side >= 1, f"{depth} halvings of {image_size} px leave no pixel"
        in_channels = [channels] + [width] * (depth - 1)
        self.layers = nn.ModuleDict(
            {
                "conv": nn.ModuleList(nn.Conv2d(n, width, kernel_size=3, padding=1) for n in in_channels),
                "norm": nn.ModuleList(
                    nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(width, width)
                    for _ in in_channels
                ),
            }
        )
        self.activation = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool2d(2)
        self.classifier = nn.Linear(width * side * side, classes)

    def forward(self, x_MCHW: Tensor) -> Tensor:
        """Return logits, shape (M, K)."""
        convs, norms = (cast(nn.ModuleList, self.layers[part]) for part in ("conv", "norm"))
        for conv, norm in zip(convs, norms, strict=True):
            x_MCHW = self.pool(self.activation(norm(conv(x_MCHW))))
        return cast(Tensor, self.classifier(torch.flatten(x_MCHW, 1)))
