"""Verification of all files of a run against their checksums; nothing is changed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from engine.errors import UserError
from engine.store import images, journal, labels, metrics, rows, tensors
from engine.store.checkpoints import Checkpoints, Saved
from engine.store.folders import RunFile, is_run
from engine.store.json_file import read_json
from engine.store.preview import Preview
from engine.store.preview_history import PreviewHistory
from engine.store.reader import StoredRun

_FOLDERS = (RunFile.IMAGES, RunFile.LABELS, RunFile.CHECKPOINTS, RunFile.CONTROL, RunFile.REPEATS)
_RUN_FILE = re.compile(
    rf"({RunFile.REPEATS}/[0-9]+/)?("
    + "|".join(
        (
            *(re.escape(name) for name in RunFile if name not in _FOLDERS),
            rf"{RunFile.IMAGES}/({re.escape(images.TENSORS)}(\.partial)?|[^/]+/[0-9]{{4,}}\.(png|jpg))",
            rf"{re.escape(RunFile.PREVIEWS)}\.partial",
            rf"{RunFile.LABELS}/[^/]+\.safetensors(\.partial)?",
            rf"{RunFile.CHECKPOINTS}/([a-z]+-[0-9]{{6,}}\.safetensors|last\.json)",
            rf"{RunFile.CONTROL}/[0-9]+\.[a-z]+",
        )
    )
    + ")"
)
_IGNORED_SUFFIXES = (".damaged", ".tmp")  # renamed as damaged, or left by a dead writer


def verify_run(folder: Path) -> list[str]:
    """Verify a run and its repeats; return a message for each problem, with the file and what is wrong.

    The messages include a torn end of the journal, and rows of metrics without a matching checksum in the
    journal. ``log.txt`` has no checksum and is not verified. While a process writes to the run, files that it
    is just writing may be reported.
    """
    messages = (message for run in StoredRun(folder).repeats() for message in _verify_repeat(run))
    return list(dict.fromkeys(messages))


def _verify_repeat(run: StoredRun) -> list[str]:
    messages: list[str] = []
    folder = run.folder
    checks: tuple[Callable[[], list[str] | None], ...] = (
        run.require_whole,
        lambda: _check_json(folder),
        lambda: _check_journal_and_metrics(folder),
        lambda: images.check(folder / RunFile.IMAGES, sum(run.progress().images.values())),
        lambda: _check_labels(folder),
        Checkpoints(folder / RunFile.CHECKPOINTS).check,
        lambda: _check_moving(folder),
        lambda: _check_preview(folder),
        lambda: _check_preview_history(folder),
    )
    for check_files in checks:
        try:
            messages += check_files() or []
        except UserError as error:
            messages.append(error.message)
        except OSError as error:
            messages.append(f"cannot read {error.filename or folder}: {error.strerror}")
    return messages


def list_foreign_files(folder: Path) -> list[Path]:
    """Return the files in a run's folder that are not part of the run."""
    paths = (Path(parent) / name for parent, _, names in os.walk(folder) for name in sorted(names))
    return [
        path
        for path in paths
        if path.suffix not in _IGNORED_SUFFIXES
        and not _RUN_FILE.fullmatch(path.relative_to(folder).as_posix())
    ]


def _check_json(folder: Path) -> list[str]:
    messages = []
    requests = sorted((folder / RunFile.CONTROL).glob("[0-9]*"))
    for path in (*(folder / name for name in (RunFile.STATUS, RunFile.RESULTS, RunFile.OWNER)), *requests):
        try:
            if path.exists():
                read_json(path)
        except UserError as error:
            messages.append(error.message)
    path = folder / RunFile.RESULTS
    if not messages and StoredRun(folder).status().get("state") == "finished" and not path.exists():
        messages.append(f"{path} does not exist")
    if not messages and (results := StoredRun(folder).results()) is not None:
        numbers = range(2, len(results.get("repeats", [0])) + 1)
        repeats = (folder / RunFile.REPEATS / str(number) for number in numbers)
        messages += [f"{repeat} does not contain a run" for repeat in repeats if not is_run(repeat)]
    return messages


def _check_journal_and_metrics(folder: Path) -> list[str]:
    path, table = folder / RunFile.JOURNAL, folder / RunFile.METRICS
    reader = journal.JournalReader(path)
    chunks = metrics.valid_chunks(reader.read_new())
    if not path.exists():  # a run creates its journal before its first status
        return [f"{path} does not exist"] if (folder / RunFile.STATUS).exists() else []
    messages = reader.all_damage()
    if not chunks and not table.exists():
        return messages
    if not table.exists():
        return [*messages, f"{table} does not exist"]
    try:
        rows = metrics.read(table)[1]
    except UserError as error:
        return [*messages, error.message]
    damaged = metrics.damaged_ranges(rows, chunks, chunks[-1].end if chunks else 0)
    return [*messages, *(f"{table}: rows {first} to {end - 1} are damaged" for first, end in damaged)]


def _check_labels(folder: Path) -> list[str]:
    messages = []
    for path in sorted((folder / RunFile.LABELS).glob("*.safetensors")):
        try:
            messages += labels.Labels(path).check()
        except UserError as error:
            messages.append(error.message)
    return messages + _check_unfinished_labels(folder)


def _check_unfinished_labels(folder: Path) -> list[str]:
    """Check the epochs of unfinished labels that the newest intact checkpoint counts."""
    for number, path in reversed(Checkpoints(folder / RunFile.CHECKPOINTS).paths("relabel")):
        try:
            facts = Saved.read(path, number).metadata
        except UserError:  # `_check_checkpoints` reports it
            continue
        unfinished = rows.partial(folder / RunFile.LABELS / f"{facts['source']}.safetensors")
        if not unfinished.is_file():
            return []
        return labels.Labels(unfinished).check(facts["epochs"])
    return []


def _check_moving(folder: Path) -> list[str]:
    path = folder / RunFile.MOVING
    if path.is_file():
        tensors.read(path)
    elif "moving" in StoredRun(folder).manifest():
        return [f"{path} does not exist"]
    return []


def _check_preview(folder: Path) -> list[str]:
    path = folder / RunFile.GLIMPSE
    if path.is_file():
        Preview.read(path)
    return []


def _check_preview_history(folder: Path) -> list[str]:
    """Check the whole history, or, of an unfinished one, what the newest intact checkpoint counts."""
    path = folder / RunFile.PREVIEWS
    if path.is_file():
        return PreviewHistory(path).check()
    for number, checkpoint in reversed(Checkpoints(folder / RunFile.CHECKPOINTS).paths("recover")):
        try:
            facts = Saved.read(checkpoint, number).metadata
        except UserError:  # `Checkpoints.check` reports it
            continue
        if rows.partial(path).is_file():
            return PreviewHistory(path).check((facts["batch"], facts["iteration"]))
        return []
    return []
