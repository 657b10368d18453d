"""Runs as readers see them: found by name or path, listed, and looked into; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.store import images, journal
from engine.store.files import read_json
from engine.store.lock import timestamp
from engine.store.run import runs_folder


@dataclass(frozen=True)
class StoredRun:
    """A run folder to read from."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    def manifest(self) -> dict[str, Any]:
        """Identity and circumstances. Raises UserError("disk")."""
        return read_json(self.folder / "manifest.json")

    def created(self) -> str:
        """When the run was begun, UTC in ISO 8601; where its manifest is damaged, when that was written."""
        path = self.folder / "manifest.json"
        try:
            told = read_json(path).get("created")
        except UserError:
            told = None
        return told if isinstance(told, str) else timestamp(path.stat().st_mtime)

    def require_whole(self) -> None:
        """Raise UserError("disk") where a file that every run begins with is absent or damaged."""
        self.manifest()
        path = self.folder / "config.yaml"
        if not path.is_file():
            raise UserError("disk", f"{path} does not exist", "restore it, or start the run anew")

    def status(self) -> dict[str, Any]:
        """The latest heartbeat; empty before the first."""
        path = self.folder / "status.json"
        return read_json(path) if path.exists() else {}

    def results(self) -> dict[str, Any] | None:
        """The finished run's numbers, or None before its end."""
        path = self.folder / "results.json"
        return read_json(path) if path.exists() else None

    def events(self) -> Iterator[journal.Record]:
        """The journal, oldest first."""
        return journal.read(self.folder / "journal.jsonl")

    def has_images(self) -> bool:
        """Whether the distilled images are complete."""
        return images.is_complete(self.folder / "images")

    def images(self, first: int | None = None) -> images.Images:
        """The distilled images, or the `first` of them. Raises UserError("data") before all are there."""
        return images.read(self.folder / "images", first)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / "manifest.json").is_file()


def find(name: str) -> StoredRun:
    """A run by path, or by its name in the runs folder. Raises UserError("usage") with what is near."""
    for folder in (Path(name), runs_folder() / name):
        if is_run(folder):
            return StoredRun(folder)
    import difflib

    known = [run.name for run in list_runs()]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"`cfm runs` lists the runs in {runs_folder()}"
    raise UserError("usage", f"there is no run {name}", hint)


def list_runs(folder: Path | None = None) -> list[StoredRun]:
    """All runs in a folder (default: the runs folder), oldest first."""
    place = folder or runs_folder()
    if not place.is_dir():
        return []
    runs = [StoredRun(entry) for entry in place.iterdir() if is_run(entry)]
    return sorted(runs, key=lambda run: (run.created(), run.name))
