"""What a configuration would do, before it is launched: the images, the networks, and what is known already.

This module loads torch only in what needs it. Whatever takes long asks `stop` now and then and raises
Cancelled where that says so.
Legend: M images, C channels, S side, D features.
Not here: how long it would take (see `trial`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from engine.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from engine.config import Config, Data
    from engine.data import DataSet
    from engine.runs.plan import Plan
    from engine.store import Cache

Array = np.ndarray[Any, Any]
Stop = Callable[[], bool]
SAMPLES = 20  #: images of a look, at most
SAMPLES_OF_CLASS = 2


class Cancelled(Exception):
    """Nobody wants the answer any more."""


def require_wanted(stop: Stop | None) -> None:
    """Raise Cancelled where `stop` says so."""
    if stop is not None and stop():
        raise Cancelled


@dataclass(frozen=True)
class DatasetStatus:
    """A known data set. path: where it lies; None where it was not found, or comes with the program.

    classes, images: of the training set as it is published; None where that depends on the folder.
    download_bytes: about; None where it cannot be fetched. note: how to come by it.
    """

    name: str
    title: str
    found: bool
    path: Path | None
    classes: int | None
    images: int | None
    download_bytes: int | None
    url: str | None
    note: str


@dataclass(frozen=True, eq=False)
class DatasetPreview:
    """What a configuration's data set holds, as stages would read it.

    images: of each split, "train" and "test". per_class: the fewest and the most training images of a class.
    samples_MCSS: uint8 training images, by class. skipped: unreadable files that are left out.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    size: int
    images: dict[str, int]
    per_class: tuple[int, int]
    samples_MCSS: Array
    labels_M: Array
    skipped: tuple[str, ...]


class Images(Protocol):
    """What a network must know of the images that it sees: a `DatasetPreview`, or a plan's training set."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def channels(self) -> int:
        """Of every image."""

    @property
    def size(self) -> int:
        """Side in pixels."""


def list_datasets(root: Path | None = None) -> list[DatasetStatus]:
    """Every known set, looked for in `root`, else in the user's data folder. Cheap; needs no torch."""
    from engine.data.catalogue import KNOWN
    from engine.data.finding import locate
    from engine.data.places import data_root, expanded

    folder = expanded(root or data_root())
    found = []
    for name, known in KNOWN.items():
        place = locate(name, folder, by_name=True) if known.folders else None
        found.append(
            DatasetStatus(
                name=name,
                title=known.title,
                found=name == "digits" or place is not None,
                path=place[0] if place else None,
                classes=known.classes,
                images=known.images,
                download_bytes=known.archive.bytes if known.archive else None,
                url=known.archive.url if known.archive else None,
                note=known.note.format(root=folder),
            )
        )
    return found


def preview_dataset(
    config: Config, reading: Callable[[int, int], None] | None = None, stop: Stop | None = None
) -> DatasetPreview:
    """Read the data set, decoding it into the cache where it is not there yet.

    reading(done, total): called while image files are read. Raises Cancelled, or UserError as `data.load`.
    """
    from engine.data import load

    def progress(done: int, total: int) -> None:
        require_wanted(stop)
        if reading is not None:
            reading(done, total)

    data = load(config.data, progress=progress)
    train, test = data.train, data.test
    require_wanted(stop)
    labels_N = train.labels_N.numpy()
    shown_M = _samples(labels_N, len(train.classes))
    counts = np.bincount(labels_N, minlength=len(train.classes))
    return DatasetPreview(
        name=data.name,
        classes=train.classes,
        channels=train.channels,
        size=train.size,
        images={"train": len(train), "test": len(test)},
        per_class=(int(counts.min()), int(counts.max())),
        samples_MCSS=train.pixels(shown_M).numpy(),
        labels_M=labels_N[shown_M],
        skipped=(*train.skipped, *test.skipped),
    )


def _samples(labels_N: Array, classes: int) -> Array:
    """The first images of each class, or of classes at equal distances where there are many."""
    each = max(1, min(SAMPLES_OF_CLASS, SAMPLES // classes))
    chosen = np.unique(np.linspace(0, classes - 1, min(classes, SAMPLES)).astype(int))
    return np.concatenate([np.flatnonzero(labels_N == label)[:each] for label in chosen])


def real_images(config: Config, label: int, count: int, first: int = 0) -> Array:
    """`count` real training images of a class, uint8 (M, C, S, S), from its `first` on; fewer at its end."""
    train = _loaded(config.data).train
    members = np.flatnonzero(train.labels_N.numpy() == label)[first : first + count]
    pixels: Array = train.pixels(members).numpy()
    return pixels


@lru_cache(maxsize=1)  # pages of one run's classes follow each other
def _loaded(settings: Data) -> DataSet:
    from engine.data import load

    return load(settings)


# --- networks ------------------------------------------------------------------------------------


def parameters(config: Config, images: Images, name: str | None = None) -> int:
    """How many weights the backbone has, or the student `name`. Raises UserError where it does not fit."""
    import torch

    from engine import backbones

    with torch.device("meta"):
        network = backbones.build(
            config.backbone,
            classes=len(images.classes),
            channels=images.channels,
            image_size=images.size,
            name=name,
        )
    return sum(weight.numel() for weight in network.parameters())


def known_teacher(plan: Plan, cache: Cache) -> nn.Module | None:
    """The given teacher, or the squeezed one if the cache has it."""
    return known_teachers(plan, cache)[0]


def known_teachers(plan: Plan, cache: Cache) -> list[nn.Module | None]:
    """The same of every backbone, the experiment's own first."""
    from engine.runs import artefacts

    pairs = zip(artefacts.single_backbone_configs(plan.config), (plan.teacher, *plan.others), strict=True)
    return [given or artefacts.cached_teacher(config, plan.data, cache) for config, given in pairs]


def teacher_accuracy(plan: Plan, cache: Cache, runs: Path | None = None) -> float | None:
    """The teacher's accuracy in percent, if an earlier run with the same weights and images measured it.

    runs: the folder of runs to look in; None for the usual one.
    """
    from engine import backbones
    from engine.store import list_runs

    teacher = known_teacher(plan, cache)
    if teacher is None:
        return None
    fingerprint = backbones.fingerprint(teacher)
    for run in reversed(list_runs(runs)):
        try:
            manifest = run.manifest()
        except UserError:
            continue
        known = manifest.get("teacher") or {}
        same_images = manifest.get("identity", {}).get("data") == plan.data.fingerprint
        if same_images and known.get("fingerprint") == fingerprint:
            return float(known["accuracy"])
    return None


def spectra(plan: Plan, cache: Cache) -> dict[str, Array] | None:
    """By tap, the eigenvalues of Ψ over the real images, largest first, float64 (D,).

    None where teacher or statistics are not in the cache. Taps of which Ψ is not measured are left out.
    """
    from engine.runs import artefacts

    teacher = known_teacher(plan, cache)
    if teacher is None:
        return None
    real = artefacts.cached_statistics(plan.config, plan.data, teacher, cache)
    if real is None:
        return None
    return {
        tap.name: np.linalg.eigvalsh(tap.cov_DD.numpy())[::-1].copy()
        for tap in real
        if tap.cov_DD is not None
    }
