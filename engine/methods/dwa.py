"""DWA: directed weight adjustment; every batch is distilled through a teacher of its own.

Before a batch is optimised, a copy of the teacher climbs the cross-entropy of the batch's images:
w ← w + ρ/K · g/‖g‖, K times, g over all weights together. BatchNorm's running statistics stay.
Source: DWA (Du et al. 2024) and its released code.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import backbones
from engine.config import Perturbation

TINY = 1e-12  #: added to ‖g‖, as in the released code


def perturbed(model: nn.Module, x_MCHW: Tensor, labels_M: Tensor, settings: Perturbation) -> nn.Module:
    """A copy of the teacher in evaluation mode, `settings.steps` ascent steps away; `model` is left as it is.

    x_MCHW: the views of the images that the copy is turned against, normalised.
    """
    climber = backbones.placed(copy.deepcopy(model).eval().requires_grad_(True), x_MCHW.device)
    weights = list(climber.parameters())
    x_MCHW = x_MCHW.detach().contiguous(memory_format=torch.channels_last)
    for _ in range(settings.steps):
        ce = F.cross_entropy(climber(x_MCHW), labels_M)
        gradients = torch.autograd.grad(ce, weights, allow_unused=True)
        ascend(weights, gradients, settings.rho / settings.steps)
    return climber.requires_grad_(False)


@torch.no_grad()
def ascend(weights: list[nn.Parameter], gradients: tuple[Tensor | None, ...], length: float) -> None:
    """One step of that length along the gradient of all weights together, in place."""
    pairs = [(weight, g) for weight, g in zip(weights, gradients, strict=True) if g is not None]
    norm = torch.stack([torch.linalg.vector_norm(g) for _, g in pairs]).norm()
    for weight, g in pairs:
        weight.add_(g * (length / (norm + TINY)))
