"""A sweep's folder: its description with every point, and one run's folder for each.

runs/SWEEP/
  sweep.json  lock  POINT/…
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from engine.errors import UserError
from engine.store import folders
from engine.store.files import make_folder, sweep
from engine.store.json_file import read_json, write_json
from engine.store.lock import LOCK, OWNER, Owner
from engine.store.reader import StoredRun

MANIFEST = "sweep.json"


@dataclass(frozen=True)
class StoredSweep:
    """A sweep's folder to read from."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    def manifest(self) -> dict[str, Any]:
        """What the sweep is. Raises UserError("disk")."""
        return read_json(self.folder / MANIFEST)

    def run(self, point: str) -> StoredRun:
        """The run of a point, which may not have begun."""
        return StoredRun(self.folder / point)

    def begun(self, point: str) -> bool:
        """Whether a point's run is there."""
        return folders.is_run(self.folder / point)

    def log(self, point: str) -> IO[bytes]:
        """The log of a point's run, to write at its end. Raises UserError("disk")."""
        make_folder(self.folder / point)
        return folders.open_log(self.folder / point)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (folder / MANIFEST).is_file()


def find_sweep(name: str) -> StoredSweep | None:
    """A sweep by its folder, or by its name in the runs folder."""
    for folder in (Path(name), folders.runs_folder() / name):
        if is_sweep(folder):
            return StoredSweep(folder)
    return None


def near(name: str) -> str | None:
    """The sweep in the runs folder whose name is nearest."""
    place = folders.runs_folder()
    known = [entry.name for entry in place.iterdir() if is_sweep(entry)] if place.is_dir() else []
    found = difflib.get_close_matches(name, known, n=1)
    return found[0] if found else None


def own_sweep(folder: Path) -> Owner:
    """Take a sweep's folder for this process, making it where it is not there.

    Raises UserError("usage") where it holds something else, UserError("disk") where another process has it.
    """
    _refuse_foreign(folder)
    make_folder(folder)
    owner = Owner(folder)
    try:
        sweep(folder)
        _refuse_foreign(folder)
    except BaseException:
        owner.release()
        raise
    return owner


def save_sweep(folder: Path, manifest: Mapping[str, Any]) -> StoredSweep:
    """Write what the sweep is. Only for who owns the folder. Raises UserError("disk")."""
    write_json(folder / MANIFEST, manifest)
    return StoredSweep(folder)


def _refuse_foreign(folder: Path) -> None:
    if is_sweep(folder) or not os.path.lexists(folder):
        return
    mine = {LOCK, OWNER}
    entries = folder.iterdir() if folder.is_dir() else [folder]
    if any(entry.name not in mine and not entry.name.endswith(".tmp") for entry in entries):
        raise UserError(
            "usage", f"{folder} holds something that is no sweep", "choose another folder with --out"
        )
