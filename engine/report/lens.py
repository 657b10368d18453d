"""The training images and the teacher of a run, and the spectra that are measured with them.

A run stores neither. Both are loaded through its configuration and verified against the fingerprints in its
manifest. The error for a missing one says how to restore it.
Legend: N images, C channels, H, W pixels, D eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine import backbones
from engine.config import Config
from engine.data import DataSet, ImageSet, load
from engine.errors import UserError
from engine.events import Event, StageStarted
from engine.runs import artefacts
from engine.runs.artefacts import ComputeContext
from engine.spectral import matching
from engine.spectral.moments import Moments
from engine.spectral.taps import Tapped
from engine.stages import statistics
from engine.store import StoredRun

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LensLayer:
    """Eigenvalues of Ψ at a tap, largest first, of the real and of the distilled images; None if unknown."""

    name: str
    real_D: _Floats | None
    synthetic_D: _Floats | None


@dataclass(eq=False)
class Lens:
    """The training images and the teacher of a run. teacher: in evaluation mode, on the device."""

    data: DataSet
    teacher: nn.Module
    fingerprint: str

    def as_image_set(self, pixels_NCHW: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> ImageSet:
        """Return distilled images as a set with the classes and normalisation of the training images."""
        train = self.data.train
        return ImageSet.from_arrays(pixels_NCHW, labels_N, train.classes, train.mean, train.std)

    def measure_spectra(
        self, config: Config, images: ImageSet, place: ComputeContext
    ) -> Generator[Event, None, list[LensLayer]]:
        """Measure the spectra of the real and of the distilled images, each over the whole set, un-augmented.

        If the objective's taps have no Ψ, the inputs of convolutions are used instead.
        Raises UserError("numeric") if statistics are not finite.
        """
        config = _use_pooled_statistics(config)
        real = artefacts.load_cached_statistics(config, self.data, self.teacher, place.cache)
        if real is None:
            yield StageStarted("statistics", len(self.data.train), "images")
            real, _ = yield from artefacts.load_or_measure_statistics(config, self.data, self.teacher, place)
        yield StageStarted("statistics", len(images), "images")
        network = Tapped(self.teacher, config.objective.taps, place.device)
        synthetic, _ = yield from statistics.measure_set(config, network, images, place.device)
        return [
            LensLayer(real_tap.name, _compute_eigenvalues(real_tap), _compute_eigenvalues(synthetic_tap))
            for real_tap, synthetic_tap in zip(real, synthetic, strict=True)
        ]


@dataclass(eq=False)
class Finder:
    """Loads the images and teachers of runs, each shared one only once.

    reading: called with the numbers of images done and in total while images are read.
    """

    place: ComputeContext
    reading: Callable[[int, int], None] | None = None
    _data: dict[str, DataSet] = field(default_factory=dict)
    _teachers: dict[str, tuple[nn.Module, str]] = field(default_factory=dict)

    def data(self, run: StoredRun, config: Config) -> DataSet:
        """Load the images that a run was distilled from.

        Raises UserError("data") if they are missing or have changed.
        """
        key = config.data.model_dump_json()
        if key not in self._data:
            self._data[key] = load(config.data, progress=self.reading)
        data = self._data[key]
        expected = run.manifest().get("identity", {}).get("data")
        if expected not in (None, data.fingerprint):
            raise UserError(
                "data",
                f"the images of {config.data.name} are not the ones that {run.name} was distilled from",
                "restore the original images, or set CFM_DATA_ROOT to their folder",
            )
        return data

    def lens(self, run: StoredRun, config: Config) -> Lens:
        """Load the images and the teacher of a run.

        Raises UserError("data") or UserError("teacher") if one is missing or has changed.
        """
        data = self.data(run, config)
        key = f"{artefacts.teacher_key(config, data)} {config.backbone.teacher}"
        if key not in self._teachers:
            teacher = artefacts.load_given_teacher(config, data)
            teacher = teacher or artefacts.load_cached_teacher(config, data, self.place.cache)
            if teacher is None:
                raise _teacher_error(run, "is no longer in the cache")
            fingerprint = backbones.fingerprint(teacher)
            self._teachers[key] = backbones.place_on(teacher, self.place.device).eval(), fingerprint
        teacher, fingerprint = self._teachers[key]
        known = run.manifest().get("teacher") or {}
        if known.get("fingerprint") not in (None, fingerprint):
            raise _teacher_error(run, "is not the current one: the weights differ")
        return Lens(data, teacher, fingerprint)


def _teacher_error(run: StoredRun, why: str) -> UserError:
    return UserError(
        "teacher",
        f"the teacher that {run.name} was distilled through {why}",
        f"set CFM_CACHE to the cache with it, or train it again: cfm run --config {run.folder}/config.yaml",
    )


def _use_pooled_statistics(config: Config) -> Config:
    """Return the configuration with pooled statistics and with taps that have Ψ."""
    changes: dict[str, Any] = {"statistics": config.statistics.pooled()}
    if not config.objective.has_covariance:
        inputs = {"taps": "conv-input", "patch": 0}
        changes["objective"] = config.objective.model_copy(update=inputs)
    return config.model_copy(update=changes)


def _compute_eigenvalues(moments: Moments) -> _Floats | None:
    """Return the eigenvalues of Ψ, largest first; None if Ψ was not measured or has no finite spectrum."""
    try:
        spectrum_D = matching.spectrum(moments.to(torch.device("cpu"), torch.float64))
    except RuntimeError:  # the values are not finite, or too far apart
        return None
    return None if spectrum_D is None else np.array(spectrum_D)


def load_recorded_spectra(run: StoredRun, taps: list[str]) -> list[LensLayer]:
    """Return the spectra that recovery recorded: Ψ_s of its moving statistics, Ψ of its last preview.

    Both are over random augmented views. Empty if the run recorded neither.
    """
    preview = run.preview()
    preview_spectra = {} if preview is None else preview.spectra
    moving: Mapping[str, NDArray[Any]] = {}
    with suppress(UserError):
        moving = run.moving() or {}
    layers = []
    for number, tap in enumerate(taps or list(preview_spectra)):
        real_D, synthetic_D = (
            None if values_D is None else np.asarray(values_D, np.float64)
            for values_D in preview_spectra.get(tap, (None, None))
        )
        cov_DD = moving.get(f"{number}.cov_DD") if taps else None
        if cov_DD is not None and np.isfinite(cov_DD).all():
            synthetic_D = np.linalg.eigvalsh(cov_DD.astype(np.float64))[::-1].copy()
        if real_D is not None or synthetic_D is not None:
            layers.append(LensLayer(tap, real_D, synthetic_D))
    return layers
