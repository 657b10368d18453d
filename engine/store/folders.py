"""Where runs lie, and what tells a run's folder from another."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from engine.errors import UserError
from engine.store import files
from engine.store.control import FOLDER as CONTROL
from engine.store.lock import LOCK, OWNER

CONFIG, MANIFEST, STATUS, RESULTS = "config.yaml", "manifest.json", "status.json", "results.json"
JOURNAL, METRICS, MOVING, LOG = "journal.jsonl", "metrics/recover.f32", "moving.safetensors", "log.txt"
GLIMPSE = "glimpse.safetensors"
IMAGES, LABELS, CHECKPOINTS = "images", "labels", "checkpoints"
_BEFORE_MANIFEST = {LOCK, OWNER, CONFIG, CONTROL, LOG}  # what a run may leave that ended while it was made


def runs_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where runs are made and looked for by name: ``$CFM_RUNS``, else ``runs`` in the current folder."""
    return Path(environ.get("CFM_RUNS") or "runs")


def fresh_folder(preset: str, identity: str, environ: Mapping[str, str] = os.environ) -> Path:
    """A folder for a new run, not yet made: preset, UTC time and the first digits of its identity."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    first = folder = runs_folder(environ) / f"{preset}-{stamp}-{identity[:6]}"
    number = 2
    while folder.exists():
        folder = first.with_name(f"{first.name}-{number}")
        number += 1
    return folder


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / MANIFEST).is_file()


def refuse_foreign(folder: Path) -> None:
    """Raise UserError("usage") where `folder` holds something that is no run."""
    if is_run(folder) or not folder.exists():
        return
    if not folder.is_dir() or any(map(_foreign, folder.iterdir())):
        raise UserError(
            "usage", f"{folder} holds something that is no run", "choose another folder with --out"
        )


def _foreign(entry: Path) -> bool:
    return entry.name not in _BEFORE_MANIFEST and not entry.name.endswith(".tmp")


def open_log(folder: Path) -> IO[bytes]:
    """The run's ``log.txt``, to write at its end. Raises UserError("disk")."""
    path = folder / LOG
    with files.guarded(path):
        return os.fdopen(files.disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")
