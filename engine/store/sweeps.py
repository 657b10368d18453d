"""A sweep's folder: its description with every point, and a run's folder for each point.

runs/SWEEP/
  sweep.json  lock  POINT/…
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from engine.errors import nearest_name
from engine.store import folders
from engine.store.files import make_folders, sweep
from engine.store.json_file import read_json, write_json
from engine.store.lock import Owner, owner_of
from engine.store.reader import StoredRun, require_known_format


@dataclass(frozen=True)
class StoredSweep:
    """A sweep's folder."""

    folder: Path
    MANIFEST: ClassVar = "sweep.json"

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    def manifest(self) -> dict[str, Any]:
        """Return the sweep's description. Raises UserError("disk"), or NewerRunError."""
        manifest = read_json(self.folder / self.MANIFEST)
        require_known_format(self.folder, manifest, str(manifest.get("version", "unknown")))
        return manifest

    def run(self, point: str) -> StoredRun:
        """Return the run of a point, which may not have started."""
        return StoredRun(self.folder / point)

    def begun(self, point: str) -> bool:
        """Return whether a point's run has started."""
        return folders.is_run(self.folder / point)

    def log(self, point: str) -> IO[bytes]:
        """Open the log of a point's run for appending. Raises UserError("disk")."""
        make_folders(self.folder / point)
        return folders.open_log(self.folder / point)

    def owner(self) -> dict[str, Any] | None:
        """Return the process that runs the sweep (pid, host, started, since), or None."""
        return owner_of(self.folder)

    def acquire(self) -> Owner:
        """Take ownership of the folder, and create it if it is absent.

        Raises UserError("usage") if it is something else, UserError("disk") if another process owns it.
        """
        self._require_sweep_or_empty()
        make_folders(self.folder)
        owner = Owner(self.folder)
        try:
            sweep(self.folder)
            self._require_sweep_or_empty()
        except BaseException:
            owner.release()
            raise
        return owner

    def save(self, manifest: Mapping[str, Any]) -> None:
        """Write the sweep's description; only its owner may call this. Raises UserError("disk")."""
        write_json(self.folder / self.MANIFEST, manifest)

    def _require_sweep_or_empty(self) -> None:
        if not is_sweep(self.folder) and os.path.lexists(self.folder):
            folders.require_leftovers(self.folder, set(), "sweep")


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is a sweep's."""
    return (folder / StoredSweep.MANIFEST).is_file()


def find_sweep(name: str) -> StoredSweep | None:
    """Return a sweep by its folder or its name in the runs folder, or None."""
    for folder in (Path(name), folders.runs_folder() / name):
        if is_sweep(folder):
            return StoredSweep(folder)
    return None


def near(name: str) -> str | None:
    """Return the name of the sweep in the runs folder that is most similar to `name`, or None."""
    folder = folders.runs_folder()
    names = [entry.name for entry in folder.iterdir() if is_sweep(entry)] if folder.is_dir() else []
    return nearest_name(name, names)
