"""The data of a run for a report: its files, the measurements on it, and what is missing and why.

Unfinished and damaged runs raise no errors; missing data are recorded instead.
Legend: N distilled images, C channels, H, W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.config import Config, Objective, settings
from engine.config.responses import Response, list_responses
from engine.config.settings import Resolved
from engine.errors import UserError, quote_command
from engine.events import Event
from engine.report.lens import Finder, LensLayer, load_recorded_spectra
from engine.report.losses import LossRecord
from engine.report.similarity import Similarity
from engine.runs.results import keep_first_repeat, read_results
from engine.spectral.recovery_batches import control_set, initial_indices
from engine.store import RunFile, StoredRun
from engine.store.images import Reader

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Missing:
    """Data that a report cannot show. hint: how to restore them; empty if that is impossible."""

    what: str
    why: str
    hint: str = ""


@dataclass(eq=False)
class Subject:
    """One repeat of a run. A field is None or empty if its data are missing; `missing` says why.

    layers: spectra. source: what they were measured on: the distilled images, or recovery's statistics.
    real_KCHW: the first real image of each class that recovery starts from, by label. similarity,
    similarity_real: of the distilled images, and of the same number of real images. teacher: its fingerprint.
    """

    run: StoredRun
    state: str
    resolved: Resolved | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] | None = None
    record: LossRecord = field(default_factory=lambda: LossRecord(None, None, ()))
    images: Reader | None = None
    layers: list[LensLayer] = field(default_factory=list)
    source: Literal["images", "recovery"] | None = None
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

    @property
    def has_changed_taps(self) -> bool:
        """Whether the spectra are those of the inputs of convolutions, not of the objective's taps."""
        is_without_psi = self.config is not None and not self.config.objective.has_covariance
        return self.source == "images" and is_without_psi

    @property
    def betas_in_use(self) -> list[float]:
        """β_b of every batch; empty if no filter uses β, or before recovery."""
        layout = self.record.layout
        if layout is None or self.config is None or not self.config.uses_beta:
            return []
        return [float(beta) for beta in layout.betas]

    def filters(self) -> list[Response]:
        """Return the filters to draw with the spectra, at the run's β_b; empty if nothing is optimised.

        β_b is from the record of recovery, else from the stored images.
        """
        if self.config is None or not self.config.optimises:
            return []
        betas: Sequence[float] = ()
        if self.record.layout is not None:
            betas = self.record.layout.betas
        elif self.images is not None:
            betas = self.images.beta_N[np.argsort(self.images.batch_N, kind="stable")].tolist()
        return filters_over(self.config.objective, betas)

    @contextmanager
    def catch_missing(self, what: str) -> Generator[None, None, None]:
        """Record `what` as missing if the block raises UserError."""
        try:
            yield
        except UserError as error:
            self.missing.append(Missing(what, error.message, error.hint))

    @classmethod
    def read(cls, run: StoredRun) -> Subject:
        """Read the files of a run without computing anything."""
        subject = cls(run, run.state())
        with subject.catch_missing("identity"):
            subject.manifest = run.manifest()
        with subject.catch_missing("settings"):
            resolved = settings.load_stored(run)
            origins = {**resolved.origins, **subject.manifest.get("origins", {})}
            subject.resolved = Resolved(resolved.config, origins)
        to_resume = f"{quote_command('resume', run.folder)} resumes it"
        with subject.catch_missing("results"):
            try:
                results = read_results(run)
                if results is None:
                    raise UserError("usage", f"the run is not finished: {subject.state}", to_resume)
                subject.results = keep_first_repeat(results)
            except (LookupError, TypeError, AttributeError):
                problem = f"{run.folder / RunFile.RESULTS} contains no results"
                raise UserError("disk", problem, "restore the file, or start the run again") from None
        with subject.catch_missing("losses"):
            subject.record = LossRecord.read(run)
            if subject.record.course is None and subject.optimised:
                raise UserError("data", "recovery has recorded no numbers, or they are damaged")
        with subject.catch_missing("distilled images"):
            subject.images = Reader(run.folder / RunFile.IMAGES)
            count, total = subject.images.count, subject.images.total
            if 0 < count < total:
                raise UserError("data", f"{count} of {total} are finished; these are shown", to_resume)
            if count < total:
                raise UserError("data", f"none of {total} is finished yet", to_resume)
        return subject

    def measure(self, finder: Finder) -> Generator[Event, None, None]:
        """Measure the images with the teacher; without images, teacher or data, read the recorded spectra."""
        if self.config is not None:
            with self.catch_missing("real images"):
                train = finder.data(self.run, self.config).train
                first_K = initial_indices(self.config, train)[0]
                self.real_KCHW = dict(enumerate(train.pixels(first_K).numpy()))
            if self.images is not None and self.images.count:
                with self.catch_missing("spectra of the images, and their similarity"):
                    yield from self._measure_images(self.config, self.images, finder)
        if not self.layers:
            layout = self.record.layout
            self.layers = load_recorded_spectra(self.run, [] if layout is None else layout.taps)
            self.source = "recovery" if self.layers else None

    def _measure_images(self, config: Config, images: Reader, finder: Finder) -> Generator[Event, None, None]:
        lens, device = finder.lens(self.run, config), finder.place.device
        pixels_NCHW = np.stack([images.pixels(number) for number in range(images.count)])
        distilled = lens.as_image_set(pixels_NCHW, images.labels_N)
        control = control_set(config, lens.data.train)
        self.teacher = lens.fingerprint
        self.similarity = Similarity.measure(lens.teacher, distilled, device)
        self.similarity_real = Similarity.measure(lens.teacher, control, device)
        self.layers = yield from lens.measure_spectra(config, distilled, finder.place)
        self.source = "images"


def filters_over(objective: Objective, betas: Sequence[float]) -> list[Response]:
    """Return an objective's filters at the first and the last of `betas`.

    The diagonal filter is skipped, because it is not a function of the spectrum.
    """
    finite_betas = [beta for beta in betas if np.isfinite(beta)]
    responses = list_responses(objective, [finite_betas[0], finite_betas[-1]] if finite_betas else [])
    return [each for each in responses if each.term.filter != "diagonal"]
