"""Distillation methods that a list of terms cannot express, one module each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from engine.checkpoint import StageState
from engine.config import Config
from engine.methods.dwa import WeightPerturbation
from engine.methods.extension import Extension
from engine.methods.gvbsm import LayerSampling
from engine.spectral.taps import Tapped


def build_extensions(
    config: Config,
    teacher: nn.Module,
    networks: Sequence[Tapped],
    device: torch.device,
    saved: StageState | None = None,
) -> list[Extension]:
    """Return the extensions that the settings of recovery ask for, restored from `saved` if given."""
    settings = config.recover
    extensions: list[Extension] = []
    if settings.perturb.steps:
        extensions.append(WeightPerturbation(teacher, settings.perturb, settings.micro_batch, saved))
    if settings.straight_through is not None or settings.drop or settings.density.weight:
        extensions.append(LayerSampling(config, networks, device, saved))
    return extensions
