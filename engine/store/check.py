"""Every file of a run held against the digest with which it was written; nothing is changed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.store import (
    checkpoints,
    control,
    folders,
    images,
    journal,
    labels,
    metrics,
    preview,
    rows,
    tensors,
)
from engine.store.json_file import read_json
from engine.store.lock import LOCK, OWNER
from engine.store.reader import StoredRun

_SEALED = (folders.STATUS, folders.RESULTS, OWNER)
_PLAIN = (
    folders.MANIFEST,
    folders.CONFIG,
    folders.JOURNAL,
    folders.METRICS,
    folders.MOVING,
    folders.GLIMPSE,
    folders.LOG,
    LOCK,
)
_NAMES = re.compile(
    "|".join(
        (
            *(re.escape(name) for name in (*_SEALED, *_PLAIN)),
            rf"{folders.IMAGES}/({re.escape(images.TENSORS)}(\.partial)?|[^/]+/[0-9]{{4,}}\.png)",
            rf"{folders.LABELS}/[^/]+\.safetensors(\.partial)?",
            rf"{folders.CHECKPOINTS}/([a-z]+-[0-9]{{6,}}\.safetensors|last\.json)",
            rf"{control.FOLDER}/[0-9]+\.[a-z]+",
        )
    )
)
_ASIDE = (".damaged", ".tmp")  # set aside, or left by a writer that died


def check(folder: Path) -> list[str]:
    """What is damaged in a run's folder: a message for each place, with the file and what is wrong.

    The end of a journal that was torn when its process died is among them, and rows of numbers that
    the journal does not vouch for. ``log.txt`` is free text and passed over. While the run is at work,
    files that are just being written may be told too.
    """
    found: list[str] = []
    for look in (
        _manifest_and_config,
        _json,
        _journal_and_metrics,
        _images,
        _labels,
        _checkpoints,
        _moving,
        _glimpse,
    ):
        found += _told(look, folder)
    return list(dict.fromkeys(found))


def foreign(folder: Path) -> list[Path]:
    """Files in a run's folder that are not of this run."""
    return [
        path
        for path in _files(folder)
        if path.suffix not in _ASIDE and not _NAMES.fullmatch(path.relative_to(folder).as_posix())
    ]


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in sorted(names))


def _told(look: Callable[[Path], list[str]], folder: Path) -> list[str]:
    """What a look at some files tells, or why it could not be had."""
    try:
        return look(folder)
    except UserError as error:
        return [error.message]
    except OSError as error:
        return [f"cannot read {error.filename or folder}: {error.strerror}"]


def _manifest_and_config(folder: Path) -> list[str]:
    StoredRun(folder).config_yaml()
    return []


def _json(folder: Path) -> list[str]:
    found = []
    for path in (*(folder / name for name in _SEALED), *sorted((folder / control.FOLDER).glob("[0-9]*"))):
        try:
            if path.exists():
                read_json(path)
        except UserError as error:
            found.append(error.message)
    return found or _results(folder)


def _results(folder: Path) -> list[str]:
    run, path = StoredRun(folder), folder / folders.RESULTS
    finished = run.status().get("state") == "finished"
    return [f"{path} does not exist"] if finished and not path.exists() else []


def _journal_and_metrics(folder: Path) -> list[str]:
    path, table = folder / folders.JOURNAL, folder / folders.METRICS
    reading = journal.Reading(path)
    held = metrics.chunks(reading.more())
    if not path.exists():  # it is there before the first heartbeat
        return [f"{path} does not exist"] if (folder / folders.STATUS).exists() else []
    found = reading.all_damage()
    if not held and not table.exists():
        return found
    if not table.exists():
        return [*found, f"{table} does not exist"]
    try:
        wrong = metrics.faults(metrics.read(table)[1], held, held[-1].end if held else 0)
    except UserError as error:
        return [*found, error.message]
    return [*found, *(f"{table}: rows {first} to {end - 1} are damaged" for first, end in wrong)]


def _images(folder: Path) -> list[str]:
    return images.check(folder / folders.IMAGES, _images_kept(folder))


def _images_kept(folder: Path) -> int:
    """How many distilled images a recovery that was cut has left, by the journal."""
    batches: dict[int, int] = {}
    iterations = 0
    for record in journal.read(folder / folders.JOURNAL):
        told: dict[str, Any] = record.payload
        if record.kind == "RecoverProgress":
            iterations = told["total_iterations"]
        elif record.kind == "RecoverLayout":
            kept = told["done"] // (iterations or 1)  # batches, where nothing is optimised
            batches = {batch: count for batch, count in batches.items() if batch <= kept}
        elif record.kind == "BatchRecovered":
            batches[told["batch"]] = told["images"]
    return sum(batches.values())


def _labels(folder: Path) -> list[str]:
    found = []
    for path in sorted((folder / folders.LABELS).glob("*.safetensors")):
        try:
            found += labels.Labels(path).check()
        except UserError as error:
            found.append(error.message)
    return found + _labels_begun(folder)


def _labels_begun(folder: Path) -> list[str]:
    """The epochs of unfinished labels that the newest checkpoint speaks of."""
    place = folder / folders.CHECKPOINTS
    for number, path in reversed(checkpoints.paths(place, "relabel")):
        try:
            facts = checkpoints.read(path, number).facts
        except UserError:  # told with the checkpoints
            continue
        begun = rows.partial(labels.label_path(folder / folders.LABELS, facts["source"]))
        if not begun.is_file():
            return []
        table = rows.Rows(begun, "epoch", labels.HINT)
        return [table.damage(epoch).message for epoch in table.wrong(facts["epochs"])]
    return []


def _checkpoints(folder: Path) -> list[str]:
    return checkpoints.check(folder / folders.CHECKPOINTS)


def _moving(folder: Path) -> list[str]:
    path = folder / folders.MOVING
    if path.is_file():
        tensors.read(path)
    elif "moving" in StoredRun(folder).manifest():
        return [f"{path} does not exist"]
    return []


def _glimpse(folder: Path) -> list[str]:
    path = folder / folders.GLIMPSE
    if path.is_file():
        preview.read(path)
    return []
