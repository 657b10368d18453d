"""Score any images with UniDD's terms: distances of filtered signals, cross-entropy and spectra, by layer.

All images pass the teacher once, without augmentation; terms are unweighted (UniDD Eq. 1, 4, 20).
Not here: how the images are read (see `importers.folders`).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import nn

from engine.config import Config
from engine.data import DataSet, ImageSet
from engine.device import explain_out_of_memory
from engine.events import Event, Notice, StageStarted
from engine.runs.artefacts import (
    ComputeContext,
    load_checked_teacher,
    load_or_measure_statistics,
    load_or_train_teacher,
)
from engine.spectral import matching
from engine.spectral.microbatch import Observer
from engine.spectral.moments import Moments
from engine.spectral.taps import Tapped
from engine.stages import statistics


def score(
    config: Config,
    data: DataSet,
    teacher: nn.Module,
    images: ImageSet,
    context: ComputeContext,
    *,
    gradients: bool = False,
) -> Generator[Event, None, dict[str, Any]]:
    """Compare `images` with the training set through `teacher` and `config.objective`.

    Returns what `matching.score` returns, and with `gradients` under that name what `compare_gradients`
    returns. Raises UserError("numeric") if Ψ + βI is singular.
    """
    pooled_config = config.model_copy(update={"statistics": config.statistics.pooled()})
    yield StageStarted("statistics", len(data.train), "images")
    real, _ = yield from load_or_measure_statistics(pooled_config, data, teacher, context)
    yield StageStarted("statistics", len(images), "images")
    network = Tapped(teacher, config.objective.taps, context.device, patch=config.objective.patch)
    synthetic, ce = yield from statistics.measure_set(pooled_config, network, images, context.device)
    scores = matching.score(config.objective, real, synthetic, ce)
    if gradients:
        scores["gradients"] = compare_gradients(config, network, real, images, context.device)
    return scores


def compare_gradients(
    config: Config,
    network: Tapped,
    real: Sequence[Moments],
    images: ImageSet,
    device: torch.device,
) -> dict[str, float]:
    """Return ‖∇‖ of the weighted `terms` and of the cross-entropy `ce` in the pixels, and their `ratio`.

    The images are one recovery batch, without views; β is that of the objective.
    """
    terms = matching.MatchingLoss(config.objective, [tap.to(device) for tap in real], config.objective.beta)
    x_MCHW = images.batch(range(len(images)), device).requires_grad_()
    labels_M = images.labels_N.to(device)
    onehot_MK = torch.nn.functional.one_hot(labels_M, len(images.classes)).float()
    size = config.recover.micro_batch
    needs = terms.needs_covariance, terms.needs_labels
    observe = Observer(network, labels_M, onehot_MK, *needs, size, config.statistics.centre)
    with explain_out_of_memory(device, f"the gradient of {len(images)} images", "set recover.micro_batch"):
        synthetic, ce = observe(x_MCHW)
        terms_norm, ce_norm = terms.gradient_norms(terms.values(synthetic), ce, x_MCHW).tolist()
    return {"terms": terms_norm, "ce": ce_norm, "ratio": terms_norm / ce_norm if ce_norm else math.inf}


def load_teacher_on_device(
    config: Config, data: DataSet, context: ComputeContext
) -> Generator[Event, None, nn.Module]:
    """Return the given teacher, or load or squeeze one, on the device.

    Raises UserError("teacher"): the given teacher is missing, unreadable, does not fit the backbone, or
    has the classes in another order.
    """
    teacher, warnings = load_checked_teacher(config, data, context.device)
    yield from (Notice("warning", text) for text in warnings)
    if teacher is None:
        yield Notice("info", "no teacher was given: it is taken from the cache, or trained")
        yield StageStarted("squeeze", config.squeeze.epochs, "epochs")
        teacher, _ = yield from load_or_train_teacher(config, data, context)
    return teacher.to(context.device)
