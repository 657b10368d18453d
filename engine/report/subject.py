"""A run as a report sees it: what it left, what could be measured on it, and what is missing and why.

Nothing here raises for a run that is unfinished or damaged: what cannot be had is told.
Legend: M images that are shown, N distilled images, C channels, H, W, K classes.
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
from engine.report.lens import Finder, Layer
from engine.report.losses import Record
from engine.report.similarity import Similarity
from engine.spectral.recovery_batches import control_set, initial_indices
from engine.store import StoredRun, folders
from engine.store.images import Reader

T = TypeVar("T")
Pixels = NDArray[np.uint8]
Source = Literal["images", "recovery"]


@dataclass(frozen=True)
class Missing:
    """What a report cannot show. hint: what would bring it back; empty where nothing would."""

    what: str
    why: str
    hint: str = ""


@dataclass(eq=False)
class Subject:
    """A run. None, or empty, where something is not there; `missing` tells why.

    layers: its spectra, and what they are those of: its distilled images, or of recovery as it went.
    real_KCHW: by label, the first real image that recovery may start from (the control's).
    similar, similar_real: of the distilled images and of as many real ones. teacher: its fingerprint.
    """

    run: StoredRun
    state: str
    resolved: Resolved | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] | None = None
    record: Record = field(default_factory=lambda: Record(None, None, ()))
    images: Reader | None = None
    layers: list[Layer] = field(default_factory=list)
    source: Source | None = None
    real_KCHW: dict[int, Pixels] = field(default_factory=dict)
    similar: Similarity | None = None
    similar_real: Similarity | None = None
    teacher: str | None = None
    missing: list[Missing] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.run.name

    @property
    def config(self) -> Config | None:
        """Its settings."""
        return None if self.resolved is None else self.resolved.config

    @property
    def method(self) -> str:
        """The method's name; ``?`` where the settings cannot be read."""
        return "?" if self.config is None else self.config.objective.method

    @property
    def optimised(self) -> bool:
        """Whether its images are optimised, as far as is known."""
        return self.config is None or self.config.optimises

    def lack(self, what: str, why: str, hint: str = "") -> None:
        """Note what is missing."""
        self.missing.append(Missing(what, why, hint))

    @contextmanager
    def lacking(self, what: str) -> Generator[None, None, None]:
        """What the block cannot have is noted as missing."""
        try:
            yield
        except UserError as error:
            self.lack(what, error.message, error.hint)


def read(run: StoredRun) -> Subject:
    """What a run left, without computing anything."""
    found = Subject(run, run.state())
    with found.lacking("identity"):
        found.manifest = run.manifest()
    with found.lacking("settings"):
        run.config_yaml()  # refused where it is damaged
        resolved = settings.resolve(file=run.folder / folders.CONFIG, base=None)
        found.resolved = Resolved(resolved.config, {**resolved.origins, **found.manifest.get("origins", {})})
    with found.lacking("results"):
        found.results = _whole(run.results(), run)
        if found.results is None:
            found.lack("results", f"the run is not finished: {found.state}", f"cfm resume {run.folder}")
    with found.lacking("losses"):
        found.record = losses.read(run)
        if found.record.course is None and found.optimised:
            found.lack("losses", "recovery told no numbers, or they are damaged")
    with found.lacking("distilled images"):
        found.images = Reader(run.folder / folders.IMAGES)
        if found.images.count < found.images.total:
            found.lack("distilled images", _how_many(found.images), f"cfm resume {run.folder}")
    return found


def _how_many(images: Reader) -> str:
    if not images.count:
        return f"none of {images.total} is finished yet"
    return f"{images.count} of {images.total} are finished; these are shown"


def _whole(results: dict[str, Any] | None, run: StoredRun) -> dict[str, Any] | None:
    """Results in the shape that they are written in. Raises UserError("disk") for another one."""
    if results is not None and not isinstance(results.get("summary"), dict):
        path = run.folder / folders.RESULTS
        raise UserError("disk", f"{path} holds no results", "restore it, or start the run anew")
    return results


def measure(subject: Subject, finder: Finder) -> Generator[Event, None, None]:
    """Look through the run's own teacher at its images, where all three are there; else at its record."""
    if subject.config is not None:
        with subject.lacking("real images"):
            _see_real(subject, subject.config, finder)
        if subject.images is not None and subject.images.count:
            with subject.lacking("spectra of the images, and their similarity"):
                yield from _look_through(subject, subject.config, subject.images, finder)
    if not subject.layers:
        layout = subject.record.layout
        subject.layers = lenses.recorded_spectra(subject.run, [] if layout is None else layout.taps)
        subject.source = "recovery" if subject.layers else None


def _look_through(
    subject: Subject, config: Config, images: Reader, finder: Finder
) -> Generator[Event, None, None]:
    lens, device = finder.lens(subject.run, config), finder.place.device
    distilled = lenses.like(all_pixels(images), images.labels_N, lens.data)
    control = control_set(config, lens.data.train)
    subject.teacher = lens.fingerprint
    subject.similar = similarity.of_set(lens.teacher, distilled, device)
    subject.similar_real = similarity.of_set(lens.teacher, control, device)
    subject.layers = yield from lenses.spectra(config, lens, distilled, finder.place)
    subject.source = "images"


def all_pixels(images: Reader) -> Pixels:
    """The images that there are, (N, C, H, W). Raises UserError where one is damaged."""
    return np.stack([images.pixels(number) for number in range(images.count)])


def _see_real(subject: Subject, config: Config, finder: Finder) -> None:
    train = finder.data(subject.run, config).train
    first_K = initial_indices(config, train)[0]
    pixels_KCHW = train.pixels(first_K).numpy()
    subject.real_KCHW = dict(enumerate(pixels_KCHW))


def gather(
    runs: list[StoredRun], finder: Finder, told: Callable[[str], None] = lambda _: None
) -> Generator[Event, None, list[Subject]]:
    """All runs, read and measured. told(text): called before each."""
    found = []
    for run in runs:
        told(f"reading {run.name}")
        subject = read(run)
        yield from measure(subject, finder)
        found.append(subject)
    return found
