"""What a data set on disk holds, and what is wrong with it: every picture is read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine import config
from engine.data import digits
from engine.data.cache import Decoded, Shape, channel_sums, mean_std
from engine.data.catalogue import DIGITS_SIZE
from engine.data.decode import Progress
from engine.data.finding import find
from engine.data.loading import decoded, is_streamed, normalisation_of, shape_of
from engine.data.pictures import Pictures
from engine.data.splitting import stratified

Array = np.ndarray[Any, Any]


def check(
    settings: config.Data, root: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """A report as JSON-serialisable data; its keys are those of `cfm data check --json`.

    Unreadable pictures are listed, not refused. Raises UserError where there is nothing to report on.
    """
    if settings.name == "digits":
        return _check_digits(settings)
    found = find(settings, root)
    shape = shape_of(settings, found, progress)
    splits = {"train": found.train, **({} if found.test is None else {"test": found.test})}
    entries = {name: _entry(settings, pictures, shape, progress) for name, pictures in splits.items()}
    labels = {name: pictures.labels_N[entries[name].kept] for name, pictures in splits.items()}
    unreadable = [
        {"split": name, "file": file, "reason": reason}
        for name, entry in entries.items()
        for _, file, reason in entry.bad
    ]
    return {
        "name": settings.name,
        "path": str(found.path),
        "layout": found.layout,
        **_images(settings, found.classes, shape, entries["train"].sums_N2C),
        "streamed": is_streamed(settings.name, len(found.train), shape),
        "splits": _splits(settings, labels, found.classes),
        "resolutions": _resolutions(entries),
        "unreadable": unreadable,
        "ok": not unreadable,
    }


def _entry(settings: config.Data, pictures: Pictures, shape: Shape, progress: Progress | None) -> Decoded:
    keep = not is_streamed(settings.name, len(pictures), shape)
    return decoded(pictures, shape, progress, keep_pixels=keep)


def _images(settings: config.Data, classes: tuple[str, ...], shape: Shape, sums_N2C: Array) -> dict[str, Any]:
    """What the images are, and how they are normalised."""
    measured = mean_std(sums_N2C, shape.size)
    mean, std = normalisation_of(settings, shape.channels, lambda: measured)
    return {
        "classes": len(classes),
        "class_names": list(classes),
        "channels": shape.channels,
        "image_size": shape.size,
        "mean": list(mean),
        "std": list(std),
        "measured": {"mean": list(measured[0]), "std": list(measured[1])},
    }


def _splits(settings: config.Data, labels: dict[str, Array], classes: tuple[str, ...]) -> dict[str, Any]:
    """Counts of each split; without a test split, of what would be held out."""
    held_out = "test" not in labels and bool(np.bincount(labels["train"], minlength=len(classes)).min() > 1)
    if held_out:
        keep, held = stratified(labels["train"], settings.holdout, classes)
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


def _resolutions(entries: dict[str, Decoded]) -> list[dict[str, int]]:
    """Of the files as they are, the commonest first."""
    total: dict[tuple[int, int], int] = {}
    for entry in entries.values():
        for size, count in entry.resolutions.items():
            total[size] = total.get(size, 0) + count
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return [{"width": width, "height": height, "images": count} for (width, height), count in ordered]


def _check_digits(settings: config.Data) -> dict[str, Any]:
    pixels, labels = digits.arrays(settings.image_size or DIGITS_SIZE)
    keep, held = stratified(labels, digits.TEST_SHARE, digits.CLASSES)
    splits = {"train": labels[keep], **({"test": labels[held]} if settings.test == "test" else {})}
    return {
        "name": settings.name,
        "path": None,
        "layout": "comes with scikit-learn",
        **_images(settings, digits.CLASSES, Shape(1, pixels.shape[2]), channel_sums(pixels[keep])),
        "streamed": False,
        "splits": _splits(settings, splits, digits.CLASSES),
        "resolutions": [{"width": 8, "height": 8, "images": len(labels)}],
        "unreadable": [],
        "ok": True,
    }
