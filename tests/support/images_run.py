"""Runs with images and results that are always the same, for screens that are compared with files."""

from __future__ import annotations

import numpy as np
from recorded import opened, record_recovery

from engine import events
from engine.runs.results import build_document

CLASSES = ("ant", "bee", "cat")
BETAS = (0.1, 0.0854, 0.05, 0.0146)


def pattern(label: int, batch: int, size: int = 16) -> np.ndarray:
    """A disc, a ring or a cross that grows from batch to batch, (1, H, W) in [0, 1]."""
    y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    radius = 0.3 + 0.15 * batch
    away = np.hypot(x, y)
    shapes = (
        np.clip(radius - away, 0, 0.5) * 2,
        np.clip(0.3 - np.abs(away - radius), 0, 0.3) / 0.3,
        np.clip(0.4 - np.minimum(np.abs(x), np.abs(y)), 0, 0.4) / 0.4 * (away < radius + 0.3),
    )
    return shapes[label][None].astype(np.float32)


def add_batch(writer, number: int, size: int = 16) -> None:
    """Batch `number` (from 1): an image of each class."""
    labels = np.arange(len(CLASSES))
    images = np.stack([pattern(label, number - 1, size) for label in labels])
    confidence = np.array([0.5, 0.75, 1.0], np.float32) / number
    writer.add(images, labels, number, BETAS[number - 1], confidence)


def writer_of(run, size: int = 16):
    return run.image_writer((len(CLASSES) * len(BETAS), 1, size, size), CLASSES)


def with_images(folder, batches: int = len(BETAS), text: str = "seed: 0\n", size: int = 16):
    """A run in `folder` whose recovery has come that far, its writer, which is not closed, and the run."""
    run = opened(folder, text=text)
    run.record(events.StageStarted("recover", 8, "iterations"))
    writer = writer_of(run, size)
    for number in range(1, batches + 1):
        add_batch(writer, number, size)
    if batches == len(BETAS):
        writer.finish()
    return run, writer


def results(name: str, accuracy: float) -> dict:
    """Numbers of a finished run: one repeat with three students, half a point apart."""
    students = [
        {"architecture": "convnet", "seed": seed, "source": source, "last": last, "best": last + 1}
        | {"curve": [[2, last]], "weights": "0" * 64}
        for source, mean in (("distilled", accuracy), ("random", accuracy - 10))
        for seed, last in enumerate((mean - 0.5, mean, mean + 0.5))
    ]
    spent = {"seconds": 61.0, "rate": 2.0, "unit": "epochs", "reused": False}
    timings = {stage: dict(spent) for stage in events.STAGES}
    timings["squeeze"] = {"seconds": 0.0, "rate": 0.0, "unit": "epochs", "reused": True}
    teacher = {"architecture": "convnet", "accuracy": 92.5}
    entry = {"seed": 0, "students": students, "teacher": teacher, "timings": timings, "provenance": {}}
    return build_document(name, [entry], 1, [])


def finished(folder, accuracy: float, text: str) -> None:
    """A run that recovered and trained students."""
    run = opened(folder, text=text)
    record_recovery(run)
    for seed in (0, 1):
        for epoch in (1, 2, 3):
            value = accuracy - 6 + 2 * epoch + seed
            run.record(
                events.EpochFinished("validate", "convnet", "distilled", seed, epoch, 3, 1 / epoch, value)
            )
    run.save_results(results(folder.name, accuracy))
    run.close("finished")
