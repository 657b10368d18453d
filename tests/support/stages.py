"""Stages in tests: pulled to their end, and configured to take well under a second."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from engine.checkpoint import Checkpoint
from engine.config import Config
from engine.events import BatchRecovered
from engine.stages.recover import recover
from engine.stages.relabel import StoredLabels, relabel


def drive(stage, at_save_point=lambda event, events: None):
    """Pull a stage to its end: its events but for checkpoints, which are shown, and its artefact."""
    events = []
    while True:
        try:
            event = next(stage)
        except StopIteration as stop:
            return events, stop.value
        if isinstance(event, Checkpoint):
            at_save_point(event, events)
        else:
            events.append(event)


def recovered_tensors(event):
    """The images, labels and confidences of a finished batch."""
    batch = event.recovered
    return tuple(map(torch.from_numpy, (batch.pixels_MCHW, batch.labels_M, batch.confidence_M)))


def distil(config, model, real, train, device):
    """Recovery pulled to its end: its events, and all that it handed over."""
    events, _ = drive(recover(config, model, real, train, device))
    parts = []
    for event in events:
        if isinstance(event, BatchRecovered):
            images_MCHW, labels_M, confidence_M = recovered_tensors(event)
            told = (torch.full((len(labels_M),), value) for value in (event.batch, event.beta))
            parts.append((images_MCHW, labels_M, *told, confidence_M))
    fields = ("images_NCHW", "labels_N", "batch_N", "beta_N", "confidence_N")
    return events, SimpleNamespace(**dict(zip(fields, map(torch.cat, zip(*parts, strict=True)), strict=True)))


def label(config, teacher, images, device):
    """Relabelling pulled to its end: the stored labels, and all of them as one array (E, N, K)."""
    kept = []
    drive(relabel(config, teacher, images, device, lambda _, logits_NK: kept.append(logits_NK), "distilled"))
    logits_ENK = torch.stack(kept)
    return StoredLabels(len(kept), logits_ENK.numpy().__getitem__), logits_ENK


def small(**changes) -> Config:
    """A configuration that runs in well under a second a stage."""
    base = {
        "ipc": 2,
        "backbone": {"width": 16},
        "squeeze": {"epochs": 1},
        "recover": {"iterations": 6, "lr": 0.1, "views": {"crop_scale": [0.5, 1.0], "roll": 2}},
        "validate": {"epochs": 3, "seeds": 2, "batch": 8, "evaluate_from": 1.0, "preview_images": 0},
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if isinstance(value, dict) and key in base else value
    return Config.model_validate(base)
