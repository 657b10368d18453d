"""Where runs are stored, the names of their files, and how a run's folder is recognised."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Container, Mapping
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import IO

from engine.environment import expand_home
from engine.errors import UserError
from engine.store import files

SCHEMA_VERSION = 1  #: of what a run's folder holds
_DELETED = re.compile(r"\..+\.deleted(-\d+)?")  #: the name of a folder that is being deleted


class RunFile(StrEnum):
    """The files and folders in a run's folder."""

    CONFIG = "config.yaml"
    MANIFEST = "manifest.json"
    STATUS = "status.json"
    RESULTS = "results.json"
    JOURNAL = "journal.jsonl"
    METRICS = "metrics/recover.f32"
    MOVING = "moving.safetensors"
    GLIMPSE = "glimpse.safetensors"
    PREVIEWS = "previews.safetensors"
    LOG = "log.txt"
    LOCK = "lock"
    LOCK_CREATED = "lock.created"
    OWNER = "owner.json"
    IMAGES = "images"
    LABELS = "labels"
    CHECKPOINTS = "checkpoints"
    CONTROL = "control"
    REPEATS = "repeats"


def runs_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of runs: ``$CFM_RUNS``, else ``runs`` in the current folder."""
    return expand_home(environ.get("CFM_RUNS") or "runs")


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """Return the name if it is free, else the first free one of ``name-2``, ``name-3``, …"""
    names = (f"{name}-{number}" if number > 1 else name for number in count(1))
    return next(each for each in names if not is_taken(each))


def fresh_folder(preset: str, identity: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return an unused folder name for a new run: preset, UTC time and the first digits of its identity."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    folder = runs_folder(environ)
    return folder / free_name(f"{preset}-{stamp}-{identity[:6]}", lambda name: (folder / name).exists())


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's."""
    return (folder / RunFile.MANIFEST).is_file()


def list_run_folders(folder: Path, known: Container[Path] = ()) -> list[Path]:
    """Return the folders of the runs in `folder`, without those that are being deleted.

    known: folders that are runs even if they cannot be looked at now.
    """
    try:
        entries = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []

    def is_listed(entry: Path) -> bool:
        try:
            return not _DELETED.fullmatch(entry.name) and is_run(entry)
        except OSError:  # an unreadable folder does not hide the others
            return entry in known

    return list(filter(is_listed, entries))


def require_run_or_empty(folder: Path) -> None:
    """Raise UserError("usage") if `folder` is neither a run's folder nor empty nor absent."""
    if not is_run(folder) and folder.exists():
        require_leftovers(folder, {RunFile.CONFIG, RunFile.CONTROL, RunFile.LOG}, "run")


def require_leftovers(folder: Path, names: set[RunFile], kind: str) -> None:
    """Raise UserError("usage") if `folder` has more than an interrupted creation of a run or sweep leaves.

    names: files that it leaves besides those of its owner. kind: ``run`` or ``sweep``.
    """
    expected = {RunFile.LOCK, RunFile.LOCK_CREATED, RunFile.OWNER, *names}
    if not folder.is_dir() or any(
        entry.name not in expected and not entry.name.endswith(".tmp") for entry in folder.iterdir()
    ):
        raise UserError("usage", f"{folder} exists and is not a {kind}'s folder", files.OUT)


def open_log(folder: Path) -> IO[bytes]:
    """Open the run's ``log.txt`` for appending. Raises UserError("disk")."""
    path = folder / RunFile.LOG
    with files.guarded(path):
        return os.fdopen(files.disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")
