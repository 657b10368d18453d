"""Stages in tests: pulled to their end, and configured to take well under a second."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from engine.config import Config
from engine.recover import recover


def drive(stage):
    """Pull a stage to its end: its events and its artefact."""
    events = []
    while True:
        try:
            events.append(next(stage))
        except StopIteration as stop:
            return events, stop.value


def distil(config, model, real, train, device):
    """Recovery pulled to its end: its events, and all that it handed over."""
    parts = []

    def keep(images_MCHW, labels_M, batch, beta):
        count = len(labels_M)
        parts.append((images_MCHW, labels_M, torch.full((count,), batch), torch.full((count,), beta)))

    events, _ = drive(recover(config, model, real, train, device, keep))
    fields = ("images_NCHW", "labels_N", "batch_N", "beta_N")
    return events, SimpleNamespace(**dict(zip(fields, map(torch.cat, zip(*parts, strict=True)), strict=True)))


def small(**changes) -> Config:
    """A configuration that runs in well under a second a stage."""
    base = {
        "ipc": 2,
        "backbone": {"width": 16},
        "squeeze": {"epochs": 1},
        "recover": {"iterations": 6, "lr": 0.1, "views": {"crop_scale": [0.5, 1.0], "roll": 2}},
        "validate": {"epochs": 3, "seeds": 2, "batch": 8, "evaluate_from": 1.0},
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if isinstance(value, dict) and key in base else value
    return Config.model_validate(base)
