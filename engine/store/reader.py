"""Runs as readers see them: found by name or path, listed, and looked into; nothing is written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import UserError
from engine.events import STAGES, Event, RecoverLayout, Stage
from engine.store import checkpoints, folders, images, journal, preview, tensors
from engine.store.files import unreadable
from engine.store.json_file import read_json
from engine.store.lock import owner_of, timestamp
from engine.store.process import alive
from engine.store.tail import Rows, Tail

if TYPE_CHECKING:
    from numpy.typing import NDArray

State = Literal["new", "running", "paused", "stopped", "failed", "finished", "lost", "damaged"]
AT_WORK: tuple[State, ...] = ("running", "paused")  #: states of a run that a process has
_PIECE_SECONDS = 0.1  # how long the record is read before what it told is passed on
LOST_SECONDS = 120.0  #: how old the heartbeat of a run on another host may be


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
        found = read_json(self.folder / folders.MANIFEST)
        following = found.pop("next", None)  # told before the configuration is replaced
        if following is not None and following["config_sha256"] == _digest(self.folder / folders.CONFIG):
            found |= following
        return found

    def config_yaml(self) -> str:
        """The configuration's text, as it was written. Raises UserError("disk")."""
        path = self.folder / folders.CONFIG
        wanted = self.manifest().get("config_sha256")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError("disk", f"{path} does not exist", "restore it, or start the run anew") from None
        except OSError as error:
            raise unreadable(path, error) from error
        if hashlib.sha256(content).hexdigest() != wanted:
            hint = "restore it, or start the run anew; settings are changed with `cfm resume --set`"
            raise UserError("disk", f"{path} is damaged: its content is not what was written", hint)
        return content.decode()

    def created(self) -> str:
        """When the run was begun, UTC in ISO 8601; where its manifest is damaged, when that was written."""
        path = self.folder / folders.MANIFEST
        try:
            told = read_json(path).get("created")
        except UserError:
            told = None
        return told if isinstance(told, str) else timestamp(path.stat().st_mtime)

    def require_whole(self) -> None:
        """Raise UserError("disk") where a file that every run begins with is absent or damaged."""
        self.config_yaml()

    def status(self) -> dict[str, Any]:
        """The latest heartbeat; empty before the first. Raises UserError("disk")."""
        path = self.folder / folders.STATUS
        return read_json(path) if path.exists() else {}

    def state(self) -> State:
        """What the run is doing; ``lost`` where it says that it is at work, but nobody is any more."""
        try:
            self.require_whole()
            return state_by(self.status())
        except UserError:
            return "damaged"

    def owner(self) -> dict[str, Any] | None:
        """The process that has the run: pid, host, started, since. None where nobody has."""
        return owner_of(self.folder)

    def results(self) -> dict[str, Any] | None:
        """The finished run's numbers, or None before its end. Raises UserError("disk")."""
        path = self.folder / folders.RESULTS
        return read_json(path) if path.exists() else None

    def tail(self) -> Tail:
        """The record, read piece by piece as it grows."""
        return Tail(self.folder)

    def events(self) -> Iterator[Event]:
        """All that was recorded, oldest first; numbers that are damaged or were replaced are NaN."""
        return self.follow(lambda: True)

    def follow(self, stop: Callable[[], bool], poll: float = 0.5) -> Iterator[Event]:
        """The same, and what is recorded from now on, looked for every `poll` seconds until `stop` says so.

        What was recorded before `stop` said so is given in full.
        """
        tail = Tail(self.folder, together=False)
        layout = tail.layout
        while True:
            last = stop()
            tail.behind = True
            while tail.behind:
                for told in tail.more(_PIECE_SECONDS):
                    event = told.event(layout) if isinstance(told, Rows) else told.event
                    layout = event if isinstance(event, RecoverLayout) else layout
                    yield event
            if last:
                return
            time.sleep(poll)

    def begun(self) -> set[Stage]:
        """The stages that have begun, by the journal or a checkpoint."""
        told = journal.read(self.folder / folders.JOURNAL)
        begun = {record.payload.get("stage") for record in told if record.kind == "StageStarted"}
        saved = self.folder / folders.CHECKPOINTS
        return {stage for stage in STAGES if stage in begun or checkpoints.paths(saved, stage)}

    def checkpoints(self) -> int:
        """How many checkpoints were written so far, in all sessions."""
        return checkpoints.last_number(self.folder / folders.CHECKPOINTS)

    def damage(self) -> list[str]:
        """What is wrong with the journal, by line. `check` looks at every file."""
        return journal.damage(self.folder / folders.JOURNAL)

    def glimpse(self) -> preview.Preview | None:
        """What recovery looked like lately, or at its end; None where that is absent or damaged."""
        return preview.latest(self.folder / folders.GLIMPSE)

    def moving(self) -> dict[str, NDArray[Any]] | None:
        """The moving statistics with which recovery ended, if any (`moments.pack`). Raises UserError."""
        path = self.folder / folders.MOVING
        return tensors.read(path)[0] if path.is_file() else None

    def log(self) -> str:
        """What a detached run printed; empty where there is none."""
        path = self.folder / folders.LOG
        return path.read_text("utf-8", "replace") if path.is_file() else ""

    def has_images(self) -> bool:
        """Whether the distilled images are complete."""
        return images.is_complete(self.folder / folders.IMAGES)

    def images(self, first: int | None = None) -> images.Images:
        """The distilled images, or the `first` of them. Raises UserError("data") before all are there."""
        return images.read(self.folder / folders.IMAGES, first)


def state_by(status: dict[str, Any]) -> State:
    """What a run is doing, by its heartbeat and by whether its process lives."""
    state: State = status.get("state", "new")
    return "lost" if state in AT_WORK and not _beats(status) else state


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _beats(status: dict[str, Any]) -> bool:
    living = alive(status)
    if living is not None:
        return living
    try:
        age = time.time() - datetime.fromisoformat(status["time"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return False
    return abs(age) <= LOST_SECONDS  # clocks differ


def find(name: str) -> StoredRun:
    """A run by path, or by its name in the runs folder. Raises UserError("usage") with what is near."""
    place = folders.runs_folder()
    for folder in (Path(name), place / name):
        if folders.is_run(folder):
            return StoredRun(folder)
    import difflib

    known = [run.name for run in list_runs()]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"`cfm runs` lists the runs in {place}"
    raise UserError("usage", f"there is no run {name}", hint)


def list_runs(folder: Path | None = None) -> list[StoredRun]:
    """All runs in a folder (default: the runs folder), oldest first."""
    place = folder or folders.runs_folder()
    if not place.is_dir():
        return []
    runs = [StoredRun(entry) for entry in place.iterdir() if folders.is_run(entry)]
    return sorted(runs, key=lambda run: (run.created(), run.name))
