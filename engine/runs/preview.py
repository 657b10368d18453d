"""What a configuration would use: its images, its networks, and earlier results that apply to it.

torch is imported only by the functions that need it. Functions that may take long call `stop` repeatedly and
raise Cancelled when it returns True.
Legend: N images, M of them shown, C channels, S side, D features.
Not here: how much time and memory a run would take (see `estimates`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from engine.config import Config, Data
    from engine.data import DataSet, ImageSet
    from engine.runs.plan import Plan
    from engine.store import Cache

Array = np.ndarray[Any, Any]
Stop = Callable[[], bool]


class Cancelled(Exception):
    """The caller no longer needs the answer."""


def raise_if_cancelled(stop: Stop | None) -> None:
    """Raise Cancelled if `stop` returns True."""
    if stop is not None and stop():
        raise Cancelled


@dataclass(frozen=True)
class DatasetStatus:
    """A supported data set and where it is stored.

    available: whether it can be loaded. path: its folder or file; None if it is not available or comes with
    the program. classes, images: of the published training set; None if they depend on the folder.
    download_bytes: approximate size; None if `cfm` cannot download it. note: how to get it.
    """

    name: str
    title: str
    available: bool
    path: Path | None
    classes: int | None
    images: int | None
    download_bytes: int | None
    url: str | None
    note: str


@dataclass(frozen=True, eq=False)
class DatasetPreview:
    """Sizes and sample images of a configuration's data set, as the stages read it.

    images: number of images by split, "train" and "test". per_class: smallest and largest number of training
    images of a class. samples_MCSS: uint8 training images, sorted by class. skipped: unreadable files.
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


def list_datasets(root: Path | None = None) -> list[DatasetStatus]:
    """Return every supported data set; search for it in `root`, by default the user's data folder.

    Fast; does not import torch.
    """
    from engine.data.catalogue import KNOWN
    from engine.data.sources import data_root, expand_path, locate

    folder = expand_path(root or data_root())
    statuses = []
    for name, entry in KNOWN.items():
        location = locate(name, folder, by_name=True) if entry.folders else None
        statuses.append(
            DatasetStatus(
                name=name,
                title=entry.title,
                available=name == "digits" or location is not None,
                path=location[0] if location else None,
                classes=entry.classes,
                images=entry.images,
                download_bytes=entry.archive.bytes if entry.archive else None,
                url=entry.archive.url if entry.archive else None,
                note=entry.note.format(root=folder),
            )
        )
    return statuses


def preview_dataset(
    config: Config, progress: Callable[[int, int], None] | None = None, stop: Stop | None = None
) -> DatasetPreview:
    """Load a configuration's data set and describe it; images that are not cached are decoded and cached.

    progress(done, total): called while image files are read. Raises Cancelled, and UserError like
    `data.load`.
    """
    from engine.data import load

    def report_progress(done: int, total: int) -> None:
        raise_if_cancelled(stop)
        if progress is not None:
            progress(done, total)

    data = load(config.data, progress=report_progress)
    train, test = data.train, data.test
    raise_if_cancelled(stop)
    labels_N = train.labels_N.numpy()
    indices_M = _choose_samples(labels_N, len(train.classes))
    counts = np.bincount(labels_N, minlength=len(train.classes))
    return DatasetPreview(
        name=data.name,
        classes=train.classes,
        channels=train.channels,
        size=train.size,
        images={"train": len(train), "test": len(test)},
        per_class=(int(counts.min()), int(counts.max())),
        samples_MCSS=train.pixels(indices_M).numpy(),
        labels_M=labels_N[indices_M],
        skipped=(*train.skipped, *test.skipped),
    )


def _choose_samples(labels_N: Array, classes: int, most: int = 20) -> Array:
    """Return indices of the first one or two images of each class, or of evenly spaced classes if many."""
    per_class = max(1, min(2, most // classes))
    chosen = np.unique(np.linspace(0, classes - 1, min(classes, most)).astype(int))
    return np.concatenate([np.flatnonzero(labels_N == label)[:per_class] for label in chosen])


def real_images(config: Config, label: int, count: int, first: int = 0) -> Array:
    """Return `count` training images of a class from number `first` on, uint8 (M, C, S, S).

    There are fewer at the end of the class.
    """
    train = _load_data(config.data).train
    members = np.flatnonzero(train.labels_N.numpy() == label)[first : first + count]
    pixels: Array = train.pixels(members).numpy()
    return pixels


@lru_cache(maxsize=1)  # successive calls are usually for the same data set
def _load_data(settings: Data) -> DataSet:
    from engine.data import load

    return load(settings)


# --- networks ------------------------------------------------------------------------------------


def count_parameters(config: Config, images: DatasetPreview | ImageSet, name: str | None = None) -> int:
    """Return the number of weights of the backbone, or of the student `name`.

    Raises UserError if the network does not fit the images.
    """
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


def known_teachers(plan: Plan, cache: Cache) -> list[nn.Module | None]:
    """Return the given or cached teacher of every backbone, the main one first; None for a missing one."""
    from engine.runs import artefacts

    pairs = zip(artefacts.single_backbone_configs(plan.config), (plan.teacher, *plan.others), strict=True)
    return [given or artefacts.load_cached_teacher(config, plan.data, cache) for config, given in pairs]


def teacher_accuracy(plan: Plan, cache: Cache, runs: Path | None = None) -> float | None:
    """Return the teacher's accuracy in percent as an earlier run measured it; None if no run did.

    The run must have used the same weights and images. runs: the folder with earlier runs; None for the
    default.
    """
    from engine import backbones
    from engine.store import list_runs

    teacher = known_teachers(plan, cache)[0]
    if teacher is None:
        return None
    fingerprint = backbones.fingerprint(teacher)
    for run in reversed(list_runs(runs)):
        try:
            manifest = run.manifest()
        except UserError:
            continue
        measured = manifest.get("teacher") or {}
        same_images = manifest.get("identity", {}).get("data") == plan.data.fingerprint
        if same_images and measured.get("fingerprint") == fingerprint:
            return float(measured["accuracy"])
    return None


def spectra(plan: Plan, cache: Cache) -> dict[str, Array] | None:
    """Return the eigenvalues of Ψ over the real images by tap, largest first, float64 (D,).

    Returns None if the teacher or the statistics are not cached. Taps without a measured Ψ are skipped.
    """
    from engine.runs import artefacts

    teacher = known_teachers(plan, cache)[0]
    if teacher is None:
        return None
    moments = artefacts.load_cached_statistics(plan.config, plan.data, teacher, cache)
    if moments is None:
        return None
    return {
        tap.name: np.linalg.eigvalsh(tap.cov_DD.numpy())[::-1].copy()
        for tap in moments
        if tap.cov_DD is not None
    }
