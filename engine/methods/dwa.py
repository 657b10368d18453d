"""DWA: directed weight adjustment; every batch is distilled through its own perturbed teacher.

Before a batch is optimised, a copy of the teacher ascends the cross-entropy of the batch's images:
w ← w + ρ/K · g/‖g‖, K times, g over all weights together. BatchNorm's running statistics do not change.
Source: DWA (Du et al. 2024) and its released code.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import backbones
from engine.checkpoint import StageState, add_prefix, strip_prefix
from engine.config import Perturbation
from engine.methods.extension import Extension

TINY = 1e-12  #: added to ‖g‖, as in the released code


class WeightPerturbation(Extension):
    """Replaces the teacher, for each batch, by a perturbed copy.

    With `restore: round`, only the first batch of a round starts from the teacher itself, and each other one
    from the copy of the batch before it. micro_batch: see `perturb_teacher`. saved: restore that copy.
    """

    def __init__(
        self,
        teacher: nn.Module,
        settings: Perturbation,
        micro_batch: int | None,
        saved: StageState | None = None,
    ) -> None:
        self._teacher = self._start = self._perturbed = teacher
        self._settings = settings
        self._micro_batch = micro_batch
        weights = strip_prefix("perturbed", {} if saved is None else saved.tensors)
        if weights:
            self._start = copy.deepcopy(teacher)
            self._start.load_state_dict(weights, strict=False)  # without buffers, which do not change

    def prepare(self, view_MCHW: Tensor, labels_M: Tensor, *, starts_round: bool) -> nn.Module:
        """Return the perturbed copy of the teacher."""
        if starts_round or self._settings.restore == "batch":
            self._start = self._teacher
        self._perturbed = perturb_teacher(self._start, view_MCHW, labels_M, self._settings, self._micro_batch)
        return self._perturbed

    def finish(self) -> None:
        """Let the next batch of the round start from the copy of this one."""
        self._start = self._teacher if self._settings.restore == "batch" else self._perturbed

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights that the batch in progress, or else the next one, starts from."""
        if self._start is self._teacher:
            return {}
        return add_prefix("perturbed", dict(self._start.named_parameters()))


def perturb_teacher(
    model: nn.Module, x_MCHW: Tensor, labels_M: Tensor, settings: Perturbation, micro_batch: int | None = None
) -> nn.Module:
    """Return a copy of the teacher in evaluation mode, perturbed by `settings.steps` ascent steps.

    `model` is not modified. x_MCHW: normalised views of the images whose cross-entropy is increased.
    micro_batch: how many images pass through the network at once; None: all of them.
    """
    perturbed = backbones.place_on(copy.deepcopy(model).eval().requires_grad_(True), x_MCHW.device)
    weights = list(perturbed.parameters())
    x_MCHW = x_MCHW.detach().contiguous(memory_format=torch.channels_last)
    size = micro_batch or len(x_MCHW)
    parts = list(zip(torch.split(x_MCHW, size), torch.split(labels_M, size), strict=True))
    for _ in range(settings.steps):
        perturbed.zero_grad()
        for part_MCHW, part_M in parts:
            ce = F.cross_entropy(perturbed(part_MCHW), part_M)
            (ce * (len(part_M) / len(labels_M))).backward()  # type: ignore[no-untyped-call]
        pairs = [(weight, weight.grad) for weight in weights if weight.grad is not None]
        with torch.no_grad():
            norm = torch.stack([torch.linalg.vector_norm(g) for _, g in pairs]).norm()
            for weight, g in pairs:
                weight.add_(g * (settings.rho / settings.steps / (norm + TINY)))
    perturbed.zero_grad()
    return perturbed.requires_grad_(False)
