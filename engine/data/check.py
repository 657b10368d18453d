"""Report what a data set on disk contains and which pictures are unreadable; every picture is read."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import config
from engine.data.cache import load_or_decode, mean_std
from engine.data.image_folders import TABLES
from engine.data.loading import (
    choose_normalisation,
    decide_shapes,
    is_streamed,
    load_digits,
    split_stratified,
)
from engine.data.pictures import Files, Pictures, Progress, decode_name, list_files
from engine.data.sources import find_source
from engine.errors import UserError, format_names


def check(
    settings: config.Data, root: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Return a JSON-serialisable report with the keys of `cfm data check --json`.

    Unreadable pictures are listed instead of raising. Raises UserError("data") if the set is missing.
    """
    path, streamed, unreadable = None, False, []
    conversions: Counter[str] = Counter()
    not_read: Counter[str] = Counter()
    if settings.name == "digits":
        classes, train, test = load_digits(settings)
        layout, shape, measured = "comes with cfm-tui", train.shape, train.mean_std()
        labels = {"train": train.labels_N, **({} if test is None else {"test": test.labels_N})}
        resolutions = Counter({(8, 8): len(train.labels)})
    else:
        source = find_source(settings, root)
        path, layout, classes = str(source.path), source.layout, source.classes
        shapes = decide_shapes(settings, source, progress)
        shape = shapes["train"]
        streamed = is_streamed(settings.name, len(source.train), shape)
        labels, resolutions = {}, Counter()
        for name, pictures in (("train", source.train), ("test", source.test)):
            if pictures is None:
                continue
            keep_pixels = not is_streamed(settings.name, len(pictures), shape)
            entry = load_or_decode(pictures, shapes[name], progress, keep_pixels)
            labels[name] = pictures.labels_N[entry.indices_N]
            resolutions.update(entry.resolutions)
            conversions.update(entry.conversions)
            not_read.update(_count_other_files(pictures))
            unreadable += [{"split": name, "file": file, "reason": reason} for _, file, reason in entry.bad]
            if name == "train":
                measured = mean_std(entry.sums_N2C, shape.size)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    if len(labels["train"]):
        mean, std = choose_normalisation(settings, shape.channels, lambda: measured)
    splits, problems = _describe_splits(settings, labels, classes)
    sizes = sorted(resolutions.items(), key=lambda item: (-item[1], item[0]))  # the most frequent first
    return {
        "name": settings.name,
        "path": path,
        "layout": layout,
        "classes": len(classes),
        "class_names": list(classes),
        "channels": shape.channels,
        "image_size": shape.size,
        "mean": list(mean),
        "std": list(std),
        "measured": {"mean": list(measured[0]), "std": list(measured[1])},
        "streamed": streamed,
        "splits": splits,
        "resolutions": [
            {"width": width, "height": height, "images": count} for (width, height), count in sizes
        ],
        "conversions": dict(conversions),
        "not_read": dict(not_read.most_common()),
        "unreadable": unreadable,
        "problems": problems,
        "ok": not unreadable and not problems,
    }


def _count_other_files(pictures: Pictures) -> Counter[str]:
    """Count the files in a split's folder that are neither its pictures nor tables, by their endings."""
    if not isinstance(pictures, Files):
        return Counter()
    names = {entry.name for entry in pictures.entries}
    split = pictures.entries[0].name.partition("/")[0]
    others = (name for name in list_files(pictures.root, split) if name not in names)
    files = (decode_name(name.rpartition("/")[2]) for name in others)
    return Counter(
        "hidden" if file.startswith(".") else os.path.splitext(file)[1].lower() or "no ending"
        for file in files
        if file not in TABLES
    )


def _describe_splits(
    settings: config.Data, labels: dict[str, NDArray[Any]], classes: tuple[str, ...]
) -> tuple[dict[str, Any], list[str]]:
    """Count the images of each split; without a test split, of those that would be held out.

    Returns the counts, and messages about what would prevent a run.
    """
    problems, held_out = [], False
    if "test" not in labels:
        try:
            keep, held = split_stratified(labels["train"], settings.holdout, classes)
            labels, held_out = {"train": labels["train"][keep], "test": labels["train"][held]}, True
        except UserError as error:
            problems.append(f"{error.message}: {error.hint}")
    report = {}
    for name, labels_N in labels.items():
        counts = np.bincount(labels_N, minlength=len(classes))
        per_class = {"min": int(counts.min()), "max": int(counts.max())}
        report[name] = {
            "images": len(labels_N),
            "per_class": per_class,
            "held_out": held_out and name == "test",
        }
        if not counts.all():
            missing = [classes[index] for index in np.flatnonzero(counts == 0)]
            problems.append(f"the {name} split has no readable images of {format_names(missing)}")
    return report, problems
