"""Wide residual networks for small images, with BatchNorm and ReLU before each convolution.

Legend: M images, C channels, H, W pixels, K classes. Source: Zagoruyko and Komodakis 2016.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Block(nn.Module):
    """Two convolutions 3×3; the shortcut is a convolution 1×1 where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        # named as in torchvision's ResNets, so that it is recognised as a shortcut
        self.downsample = None
        if inputs != outputs or stride != 1:
            self.downsample = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x_MCHW: Tensor) -> Tensor:
        active_MCHW = F.relu(self.bn1(x_MCHW))
        shortcut_MCHW = x_MCHW if self.downsample is None else self.downsample(active_MCHW)
        y_MCHW: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active_MCHW))))
        return shortcut_MCHW + y_MCHW


class WideResNet(nn.Module):
    """WRN-depth-widen: three groups of blocks with 16, 32 and 64 times `widen` channels; total stride 4."""

    def __init__(self, *, classes: int, channels: int, depth: int, widen: int) -> None:
        super().__init__()
        assert (depth - 4) % 6 == 0, "a network has three groups of (depth − 4)/6 blocks"
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks, inputs = [], 16
        for outputs, stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
            for number in range((depth - 4) // 6):
                blocks.append(_Block(inputs, outputs, stride if number == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_MCHW: Tensor) -> Tensor:
        """Return logits, shape (M, K)."""
        x_MCHW = F.relu(self.bn(self.blocks(self.conv1(x_MCHW))))
        logits_MK: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x_MCHW, 1), 1))
        return logits_MK
