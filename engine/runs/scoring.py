"""The UniDD lens on any images: filter, signal and cross-entropy values and spectra, layer by layer.

The whole set is looked at once, un-augmented; terms are unweighted (Eq. 1, 4, 20).
Not here: how the images are read (see `interchange.folders`).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from torch import nn

from engine.spectral import matching
from engine.stages import statistics
from engine.runs.artefacts import ComputeContext, given_teacher, load_or_measure_statistics, load_or_train_teacher
from engine.config import Config
from engine.data import DataSet, ImageSet
from engine.events import Event, Notice, StageStarted
from engine.spectral.taps import Tapped


def score(
    config: Config, data: DataSet, teacher: nn.Module, images: ImageSet, place: ComputeContext
) -> Generator[Event, None, dict[str, Any]]:
    """Compare `images` with the training set through `teacher` and `config.objective`.

    Returns what `objective.score` does. Raises UserError("numeric") where Ψ + βI is singular.
    """
    pooled = config.statistics.model_copy(update={"estimator": "pooled", "order": "file"})
    whole = config.model_copy(update={"statistics": pooled})
    yield StageStarted("statistics", len(data.train), "images")
    real, _ = yield from load_or_measure_statistics(whole, data, teacher, place)
    yield StageStarted("statistics", len(images), "images")
    network = Tapped(teacher, config.objective.taps, place.device, patch=config.objective.patch)
    synthetic, ce = yield from statistics.measure_set(whole, network, images, place.device)
    return matching.score(config.objective, real, synthetic, ce)


def teacher_of(config: Config, data: DataSet, place: ComputeContext) -> Generator[Event, None, nn.Module]:
    """The given teacher, or one squeezed for the purpose, on the device. Raises UserError("teacher")."""
    teacher = given_teacher(config, data)
    if teacher is None:
        yield Notice("info", "no teacher was given; one is squeezed")
        yield StageStarted("squeeze", config.squeeze.epochs, "epochs")
        teacher, _ = yield from load_or_train_teacher(config, data, place)
    return teacher.to(place.device)
