"""What a run was distilled through, found again: its images and its teacher, and what the two tell of it.

A run keeps neither; both are found through its configuration and held against the fingerprints in its
manifest. What is not there any more is told with what would bring it back.
Legend: K classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
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

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """Eigenvalues of Ψ at a tap, largest first: of the real images and of the distilled ones.

    None where that side is not known.
    """

    name: str
    real_D: Floats | None
    synthetic_D: Floats | None


@dataclass(eq=False)
class Lens:
    """The images and the teacher of a run. teacher: in evaluation mode, on the device."""

    data: DataSet
    teacher: nn.Module
    fingerprint: str


@dataclass(eq=False)
class Finder:
    """Finds images and teachers of several runs; what several share is read once.

    reading(done, total): called while images are read.
    """

    place: ComputeContext
    reading: Callable[[int, int], None] | None = None
    _data: dict[str, DataSet] = field(default_factory=dict)
    _teachers: dict[str, tuple[nn.Module, str]] = field(default_factory=dict)

    def data(self, run: StoredRun, config: Config) -> DataSet:
        """The images that a run was made of.

        Raises UserError("data"): absent, or no longer the same.
        """
        key = config.data.model_dump_json()
        if key not in self._data:
            self._data[key] = load(config.data, progress=self.reading)
        found = self._data[key]
        wanted = run.manifest().get("identity", {}).get("data")
        if wanted not in (None, found.fingerprint):
            raise UserError(
                "data",
                f"the images of {config.data.name} are not those that {run.name} was made of",
                "bring those back, or name their folder with CFM_DATA_ROOT",
            )
        return found

    def lens(self, run: StoredRun, config: Config) -> Lens:
        """The images and the teacher of a run. Raises UserError("data") or ("teacher"): absent, or others."""
        data = self.data(run, config)
        key = f"{artefacts.teacher_key(config, data)} {config.backbone.teacher}"
        if key not in self._teachers:
            artefacts.require_teacher(config)
            teacher = artefacts.given_teacher(config, data)
            if teacher is None:
                teacher = artefacts.cached_teacher(config, data, self.place.cache)
            if teacher is None:
                raise _gone(run, "is no longer in the cache")
            fingerprint = backbones.fingerprint(teacher)
            self._teachers[key] = backbones.place_on(teacher, self.place.device).eval(), fingerprint
        teacher, fingerprint = self._teachers[key]
        known = run.manifest().get("teacher") or {}
        if known.get("fingerprint") not in (None, fingerprint):
            raise _gone(run, "is not the one that is there now: the weights differ")
        return Lens(data, teacher, fingerprint)


def _gone(run: StoredRun, why: str) -> UserError:
    return UserError(
        "teacher",
        f"the teacher that {run.name} was distilled through {why}",
        f"bring the cache back (CFM_CACHE), or squeeze it again: cfm run --config {run.folder}/config.yaml",
    )


def like(pixels_NCHW: NDArray[np.uint8], labels_N: NDArray[np.int64], data: DataSet) -> ImageSet:
    """Distilled images as a set beside the training images."""
    train = data.train
    return ImageSet.from_arrays(pixels_NCHW, labels_N, train.classes, train.mean, train.std)


def spectra(
    config: Config, lens: Lens, images: ImageSet, place: ComputeContext
) -> Generator[Event, None, list[Layer]]:
    """Spectra of the real and of the distilled images, each set looked at as a whole, un-augmented.

    Where the objective reads taps that tell no Ψ, those of the inputs of convolutions.
    Raises UserError("numeric") where statistics are not finite.
    """
    whole = _whole(config)
    real = artefacts.cached_statistics(whole, lens.data, lens.teacher, place.cache)
    if real is None:
        yield StageStarted("statistics", len(lens.data.train), "images")
        real, _ = yield from artefacts.load_or_measure_statistics(whole, lens.data, lens.teacher, place)
    yield StageStarted("statistics", len(images), "images")
    network = Tapped(lens.teacher, whole.objective.taps, place.device)
    synthetic, _ = yield from statistics.measure_set(whole, network, images, place.device)
    pairs = zip(real, synthetic, strict=True)
    return [Layer(r.name, eigenvalues(r), eigenvalues(s)) for r, s in pairs]


def _whole(config: Config) -> Config:
    """The same with pooled statistics, and with taps that tell Ψ."""
    changes: dict[str, Any] = {}
    if config.statistics.estimator != "pooled":
        pooled = {"estimator": "pooled", "order": "file"}
        changes["statistics"] = config.statistics.model_copy(update=pooled)
    if not config.objective.has_covariance:
        inputs = {"taps": "conv-input", "patch": 0}
        changes["objective"] = config.objective.model_copy(update=inputs)
    return config.model_copy(update=changes)


def eigenvalues(moments: Moments) -> Floats | None:
    """Of Ψ, largest first; None where it was not measured, or no spectrum can be found."""
    try:
        found = matching.spectrum(moments.to(torch.device("cpu"), torch.float64))
    except RuntimeError:  # the values are not finite, or too far apart
        return None
    return None if found is None else np.array(found)


def recorded_spectra(run: StoredRun, taps: list[str]) -> list[Layer]:
    """What recovery itself left of spectra: Ψ_s of its moving statistics, Ψ as it was last looked at.

    Both through random views. Empty where the run left neither.
    """
    glimpse = run.glimpse()
    seen = {} if glimpse is None else glimpse.spectra
    moving = _moving(run, taps)
    found = []
    for tap in taps or list(seen):
        real_D, seen_D = seen.get(tap, (None, None))
        synthetic_D = moving.get(tap, _wide(seen_D))
        if real_D is not None or synthetic_D is not None:
            found.append(Layer(tap, _wide(real_D), synthetic_D))
    return found


def _wide(values_D: NDArray[Any] | None) -> Floats | None:
    return None if values_D is None else np.asarray(values_D, np.float64)


def _moving(run: StoredRun, taps: list[str]) -> dict[str, Floats]:
    try:
        arrays = run.moving() or {}
    except UserError:
        return {}
    found = {}
    for number, tap in enumerate(taps):
        cov_DD = arrays.get(f"{number}.cov_DD")
        if cov_DD is not None and np.isfinite(cov_DD).all():
            found[tap] = np.linalg.eigvalsh(cov_DD.astype(np.float64))[::-1].copy()
    return found
