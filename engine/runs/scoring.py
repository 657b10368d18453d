"""Score any images with UniDD's terms: distances of filtered signals, cross-entropy and spectra, by layer.

All images pass the teacher once, without augmentation; terms are unweighted (UniDD Eq. 1, 4, 20).
Not here: how the images are read (see `importers.folders`).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from torch import nn

from engine.config import Config, Views
from engine.data import DataSet, ImageSet
from engine.events import Event, Notice, StageStarted
from engine.runs.artefacts import (
    ComputeContext,
    load_given_teacher,
    load_or_measure_statistics,
    load_or_train_teacher,
)
from engine.spectral import matching
from engine.spectral.taps import Tapped
from engine.stages import statistics


def score(
    config: Config, data: DataSet, teacher: nn.Module, images: ImageSet, context: ComputeContext
) -> Generator[Event, None, dict[str, Any]]:
    """Compare `images` with the training set through `teacher` and `config.objective`.

    Returns what `matching.score` returns. Raises UserError("numeric") if Ψ + βI is singular.
    """
    pooled = config.statistics.model_copy(update={"estimator": "pooled", "order": "file", "views": Views()})
    pooled_config = config.model_copy(update={"statistics": pooled})
    yield StageStarted("statistics", len(data.train), "images")
    real, _ = yield from load_or_measure_statistics(pooled_config, data, teacher, context)
    yield StageStarted("statistics", len(images), "images")
    network = Tapped(teacher, config.objective.taps, context.device, patch=config.objective.patch)
    synthetic, ce = yield from statistics.measure_set(pooled_config, network, images, context.device)
    return matching.score(config.objective, real, synthetic, ce)


def load_teacher_on_device(
    config: Config, data: DataSet, context: ComputeContext
) -> Generator[Event, None, nn.Module]:
    """Return the given teacher, or load or squeeze one, on the device.

    Raises UserError("teacher"): the given teacher is missing, unreadable, or does not fit the backbone.
    """
    teacher = load_given_teacher(config, data)
    if teacher is None:
        yield Notice("info", "no teacher was given; squeezing one")
        yield StageStarted("squeeze", config.squeeze.epochs, "epochs")
        teacher, _ = yield from load_or_train_teacher(config, data, context)
    return teacher.to(context.device)
