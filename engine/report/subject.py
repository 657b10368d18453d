"""The data of a run for a report: its files, the measurements on it, and what is missing and why.

Unfinished and damaged runs raise no errors; missing data are recorded instead.
Legend: N distilled images, C channels, H, W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.config import Config, settings
from engine.config.settings import Resolved
from engine.errors import UserError
from engine.events import Event
from engine.report import lens as lenses
from engine.report import losses, similarity
from engine.report.lens import Finder, LensLayer
from engine.report.losses import LossRecord
from engine.report.similarity import Similarity
from engine.spectral.recovery_batches import control_set, initial_indices
from engine.store import RunFile, StoredRun
from engine.store.images import Reader

T = TypeVar("T")
Pixels = NDArray[np.uint8]
Source = Literal["images", "recovery"]


@dataclass(frozen=True)
class Missing:
    """Data that a report cannot show. hint: how to restore them; empty if that is impossible."""

    what: str
    why: str
    hint: str = ""


@dataclass(eq=False)
class Subject:
    """A run. A field is None or empty if its data are missing; `missing` says why.

    layers: spectra. source: what they were measured on: the distilled images, or recovery's statistics.
    real_KCHW: the first real image of the control, by label. similarity, similarity_real: of the distilled
    images, and of the same number of real images. teacher: its fingerprint.
    """

    run: StoredRun
    state: str
    resolved: Resolved | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] | None = None
    record: LossRecord = field(default_factory=lambda: LossRecord(None, None, ()))
    images: Reader | None = None
    layers: list[LensLayer] = field(default_factory=list)
    source: Source | None = None
    real_KCHW: dict[int, Pixels] = field(default_factory=dict)
    similarity: Similarity | None = None
    similarity_real: Similarity | None = None
    teacher: str | None = None
    missing: list[Missing] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.run.name

    @property
    def config(self) -> Config | None:
        """The settings; None if they cannot be read."""
        return None if self.resolved is None else self.resolved.config

    @property
    def method(self) -> str:
        """The method's name; ``?`` if the settings cannot be read."""
        return "?" if self.config is None else self.config.objective.method

    @property
    def optimised(self) -> bool:
        """Whether the images are optimised; True if the settings cannot be read."""
        return self.config is None or self.config.optimises

    def add_missing(self, what: str, why: str, hint: str = "") -> None:
        """Record missing data."""
        self.missing.append(Missing(what, why, hint))

    @contextmanager
    def catch_missing(self, what: str) -> Generator[None, None, None]:
        """Record `what` as missing if the block raises UserError."""
        try:
            yield
        except UserError as error:
            self.add_missing(what, error.message, error.hint)


def read(run: StoredRun) -> Subject:
    """Read the files of a run without computing anything."""
    subject = Subject(run, run.state())
    with subject.catch_missing("identity"):
        subject.manifest = run.manifest()
    with subject.catch_missing("settings"):
        resolved = settings.load_stored(run)
        subject.resolved = Resolved(
            resolved.config, {**resolved.origins, **subject.manifest.get("origins", {})}
        )
    with subject.catch_missing("results"):
        subject.results = _require_summary(run.results(), run)
        if subject.results is None:
            subject.add_missing(
                "results", f"the run is not finished: {subject.state}", f"cfm resume {run.folder}"
            )
    with subject.catch_missing("losses"):
        subject.record = losses.read(run)
        if subject.record.course is None and subject.optimised:
            subject.add_missing("losses", "recovery has recorded no numbers, or they are damaged")
    with subject.catch_missing("distilled images"):
        subject.images = Reader(run.folder / RunFile.IMAGES)
        if subject.images.count < subject.images.total:
            count, total = subject.images.count, subject.images.total
            why = f"{count} of {total} are finished; these are shown"
            if not count:
                why = f"none of {total} is finished yet"
            subject.add_missing("distilled images", why, f"cfm resume {run.folder}")
    return subject


def _require_summary(results: dict[str, Any] | None, run: StoredRun) -> dict[str, Any] | None:
    """Return results, or None before the end of a run. Raises UserError("disk") if the summary is missing."""
    if results is not None and not isinstance(results.get("summary"), dict):
        path = run.folder / RunFile.RESULTS
        raise UserError("disk", f"{path} contains no results", "restore the file, or start the run again")
    return results


def measure(subject: Subject, finder: Finder) -> Generator[Event, None, None]:
    """Measure a run's images with its teacher; without images, teacher or data, read the recorded spectra."""
    if subject.config is not None:
        with subject.catch_missing("real images"):
            _load_real_images(subject, subject.config, finder)
        if subject.images is not None and subject.images.count:
            with subject.catch_missing("spectra of the images, and their similarity"):
                yield from _measure_images(subject, subject.config, subject.images, finder)
    if not subject.layers:
        layout = subject.record.layout
        subject.layers = lenses.load_recorded_spectra(subject.run, [] if layout is None else layout.taps)
        subject.source = "recovery" if subject.layers else None


def _measure_images(
    subject: Subject, config: Config, images: Reader, finder: Finder
) -> Generator[Event, None, None]:
    lens, device = finder.lens(subject.run, config), finder.place.device
    distilled = lenses.like(load_all_pixels(images), images.labels_N, lens.data)
    control = control_set(config, lens.data.train)
    subject.teacher = lens.fingerprint
    subject.similarity = similarity.measure_set(lens.teacher, distilled, device)
    subject.similarity_real = similarity.measure_set(lens.teacher, control, device)
    subject.layers = yield from lenses.spectra(config, lens, distilled, finder.place)
    subject.source = "images"


def load_all_pixels(images: Reader) -> Pixels:
    """Return all finished images, shape (N, C, H, W). Raises UserError if one is damaged."""
    return np.stack([images.pixels(number) for number in range(images.count)])


def _load_real_images(subject: Subject, config: Config, finder: Finder) -> None:
    train = finder.data(subject.run, config).train
    first_K = initial_indices(config, train)[0]
    pixels_KCHW = train.pixels(first_K).numpy()
    subject.real_KCHW = dict(enumerate(pixels_KCHW))


def gather(
    runs: list[StoredRun], finder: Finder, on_message: Callable[[str], None] = lambda _: None
) -> Generator[Event, None, list[Subject]]:
    """Read and measure all runs. on_message: called with a text before each run."""
    subjects = []
    for run in runs:
        on_message(f"reading {run.name}")
        subject = read(run)
        yield from measure(subject, finder)
        subjects.append(subject)
    return subjects
