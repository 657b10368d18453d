"""Report what a data set on disk contains and which pictures are unreadable; every picture is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import config
from engine.data.cache import DecodedSplit, Shape, load_or_decode, mean_std
from engine.data.loading import (
    MeanStd,
    choose_normalisation,
    decide_shape,
    is_streamed,
    load_digits,
    split_stratified,
)
from engine.data.pictures import Progress
from engine.data.sources import find_source


def check(
    settings: config.Data, root: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Return a JSON-serialisable report with the keys of `cfm data check --json`.

    Unreadable pictures are listed instead of raising. Raises UserError("data") if the set is missing.
    """
    if settings.name == "digits":
        return _check_digits(settings)
    source = find_source(settings, root)
    shape = decide_shape(settings, source, progress)
    splits = {"train": source.train, **({} if source.test is None else {"test": source.test})}
    streamed = {name: is_streamed(settings.name, len(images), shape) for name, images in splits.items()}
    entries = {
        name: load_or_decode(images, shape, progress, keep_pixels=not streamed[name])
        for name, images in splits.items()
    }
    labels = {name: pictures.labels_N[entries[name].indices_N] for name, pictures in splits.items()}
    unreadable = [
        {"split": name, "file": file, "reason": reason}
        for name, entry in entries.items()
        for _, file, reason in entry.bad
    ]
    return {
        "name": settings.name,
        "path": str(source.path),
        "layout": source.layout,
        **_describe_images(settings, source.classes, shape, mean_std(entries["train"].sums_N2C, shape.size)),
        "streamed": streamed["train"],
        "splits": _describe_splits(settings, labels, source.classes),
        "resolutions": _count_resolutions(entries),
        "unreadable": unreadable,
        "ok": not unreadable,
    }


def _describe_images(
    settings: config.Data, classes: tuple[str, ...], shape: Shape, measured: MeanStd
) -> dict[str, Any]:
    """Describe classes, image shape and normalisation."""
    mean, std = choose_normalisation(settings, shape.channels, lambda: measured)
    return {
        "classes": len(classes),
        "class_names": list(classes),
        "channels": shape.channels,
        "image_size": shape.size,
        "mean": list(mean),
        "std": list(std),
        "measured": {"mean": list(measured[0]), "std": list(measured[1])},
    }


def _describe_splits(
    settings: config.Data, labels: dict[str, NDArray[Any]], classes: tuple[str, ...]
) -> dict[str, Any]:
    """Count the images of each split; without a test split, of those that would be held out."""
    held_out = "test" not in labels and bool(np.bincount(labels["train"], minlength=len(classes)).min() > 1)
    if held_out:
        keep, held = split_stratified(labels["train"], settings.holdout, classes)
        labels = {"train": labels["train"][keep], "test": labels["train"][held]}
    report = {}
    for name, labels_N in labels.items():
        counts = np.bincount(labels_N, minlength=len(classes))
        per_class = {"min": int(counts.min()), "max": int(counts.max())}
        report[name] = {
            "images": len(labels_N),
            "per_class": per_class,
            "held_out": held_out and name == "test",
        }
    return report


def _count_resolutions(entries: dict[str, DecodedSplit]) -> list[dict[str, int]]:
    """Count the original resolutions of all files, the most frequent first."""
    total: dict[tuple[int, int], int] = {}
    for entry in entries.values():
        for size, count in entry.resolutions.items():
            total[size] = total.get(size, 0) + count
    ordered = sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))
    return [{"width": width, "height": height, "images": count} for (width, height), count in ordered]


def _check_digits(settings: config.Data) -> dict[str, Any]:
    classes, train, test = load_digits(settings)
    splits = {"train": train.labels_N, **({} if test is None else {"test": test.labels_N})}
    return {
        "name": settings.name,
        "path": None,
        "layout": "comes with scikit-learn",
        **_describe_images(settings, classes, train.shape, train.mean_std()),
        "streamed": False,
        "splits": _describe_splits(settings, splits, classes),
        "resolutions": [{"width": 8, "height": 8, "images": len(train.labels)}],
        "unreadable": [],
        "ok": True,
    }
