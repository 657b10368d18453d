"""Read access to runs: find one by name or path, list them, and read what they stored; nothing is written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import UserError, suggest_name
from engine.events import STAGES, Event, RecoverLayout, RepeatStarted, Stage
from engine.store import folders, images, journal, tensors
from engine.store.checkpoints import Checkpoints
from engine.store.files import unreadable_error
from engine.store.folders import RunFile
from engine.store.json_file import read_json
from engine.store.lock import alive, owner_of, timestamp
from engine.store.metrics import Chunk
from engine.store.preview import Preview
from engine.store.preview_history import PreviewHistory
from engine.store.run_state import RunState
from engine.store.tail import Tail, TailRows
from engine.version import product_version

if TYPE_CHECKING:
    from numpy.typing import NDArray

State = Literal[
    "new", "starting", "running", "paused", "stopped", "failed", "finished", "lost", "damaged", "newer"
]
AT_WORK: tuple[State, ...] = ("running", "paused")  #: states of a run that a process owns
ACTIVE: tuple[State, ...] = ("starting", *AT_WORK)  #: states of a run that a process owns or is about to own
_PIECE_SECONDS = 0.1  # how long the record is read before its events are yielded


class NewerRunError(UserError):
    """A run or a sweep was written by a newer version of the program, whose files this one may misread."""


@dataclass(frozen=True)
class StoredRun:
    """A run folder to read from."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name; of a further repeat, its path from the folder of the first."""
        folder = self.folder.resolve()
        if folder.parent.name == RunFile.REPEATS:
            return "/".join(folder.parts[-3:])
        return folder.name

    def manifest(self) -> dict[str, Any]:
        """Return the run's identity and environment. Raises UserError("disk"), or NewerRunError."""
        manifest = read_json(self.folder / RunFile.MANIFEST)
        require_known_format(self.folder, manifest, written_by(manifest))
        following = manifest.pop("next", None)  # `Run.adopt` writes it before it replaces the configuration
        if following is not None and following["config_sha256"] == _file_sha256(self.folder / RunFile.CONFIG):
            manifest |= following
        return manifest

    def config_yaml(self) -> str:
        """Return the verified text of the configuration. Raises UserError("disk")."""
        path = self.folder / RunFile.CONFIG
        expected = self.manifest().get("config_sha256")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError("disk", f"{path} does not exist", "restore it, or start a new run") from None
        except OSError as error:
            raise unreadable_error(path, error) from error
        if hashlib.sha256(content).hexdigest() != expected:
            hint = "restore it, or start a new run; to change settings, use `cfm resume --set`"
            raise UserError("disk", f"{path} is damaged: its content does not match its checksum", hint)
        return content.decode()

    def created(self) -> str:
        """Return when the run was created, UTC in ISO 8601; the manifest's mtime if it is damaged.

        Empty if the run was deleted meanwhile.
        """
        path = self.folder / RunFile.MANIFEST
        try:
            created = read_json(path).get("created")
        except UserError:
            created = None
        try:
            return created if isinstance(created, str) else timestamp(path.stat().st_mtime)
        except OSError:
            return ""

    def require_whole(self) -> None:
        """Raise UserError("disk") if the manifest or the configuration is absent or damaged."""
        self.config_yaml()

    def status(self) -> dict[str, Any]:
        """Return the latest status, empty before the first heartbeat. Raises UserError("disk")."""
        path = self.folder / RunFile.STATUS
        return read_json(path) if path.exists() else {}

    def state(self) -> State:
        """Return the state of the run; ``lost`` if its status says that it runs, but its process is gone.

        ``starting`` while a process loads that was started to take it over (see `record_start`). ``newer`` if
        a newer version of the program wrote it.
        """
        try:
            self.require_whole()
            return state_by(self.status())
        except NewerRunError:
            return "newer"
        except UserError:
            return "damaged"

    def owner(self) -> dict[str, Any] | None:
        """Return the process that owns the run (pid, host, started, since), or None."""
        return owner_of(self.folder)

    def results(self) -> dict[str, Any] | None:
        """Return the results of all repeats that are finished, or None before the first is.

        Raises UserError("disk"). `is_finished` tells whether all repeats are.
        """
        path = self.folder / RunFile.RESULTS
        return read_json(path) if path.exists() else None

    def is_finished(self, repeats: int | None = None) -> bool:
        """Return whether the results of all repeats exist. Raises UserError("disk").

        repeats: how many there are to be; None: as many as the results say.
        """
        results = self.results()
        if results is None:
            return False
        return len(results.get("repeats", [0])) >= (repeats or results.get("repeats_planned", 1))

    def parent(self) -> StoredRun | None:
        """Return the run of which this is a further repeat; None if it is not one."""
        folder = self.folder.resolve()
        is_repeat = folder.parent.name == RunFile.REPEATS and folders.is_run(folder.parent.parent)
        return StoredRun(folder.parent.parent) if is_repeat else None

    def repeats(self) -> list[StoredRun]:
        """Return the runs of all repeats that have begun: this one, then those in its folder ``repeats``."""
        folder = self.folder / RunFile.REPEATS
        numbers = sorted(int(entry.name) for entry in folder.glob("[0-9]*") if entry.name.isdecimal())
        further = (StoredRun(folder / str(number)) for number in numbers)
        return [self, *(run for run in further if folders.is_run(run.folder))]

    def tail(self) -> Tail:
        """Return an incremental reader of the recorded events."""
        return Tail(self.folder)

    def events(self) -> Iterator[Event]:
        """Yield all recorded events, oldest first; metrics that are damaged or were replaced are NaN."""
        return self.follow(lambda: True)

    def follow(self, stop: Callable[[], bool], poll: float = 0.5) -> Iterator[Event]:
        """Yield all recorded events, then new ones, polling every `poll` seconds until `stop` returns True.

        All events that were recorded before `stop` returned True are yielded.
        """
        tail = Tail(self.folder, merge_rows=False)
        layout = tail.layout
        while True:
            last = stop()
            tail.behind = True
            while tail.behind:
                for entry in tail.read_new(_PIECE_SECONDS):
                    event = entry.event(layout) if isinstance(entry, TailRows) else entry.event
                    layout = event if isinstance(event, RecoverLayout) else layout
                    yield event
            if last:
                return
            time.sleep(poll)

    def progress(self) -> RunState:
        """Return where the run is, according to its journal; its metrics are not read.

        Further repeats have journals of their own; only the first is in this one.
        """
        state = RunState()
        for record in journal.read(self.folder / RunFile.JOURNAL):
            if chunk := Chunk.parse(record):
                if values := record.recovery_fields():
                    state.add_iterations(chunk.end, record.time, **values)
            elif (event := record.event()) is not None and not isinstance(event, RepeatStarted):
                state.add(event, record.time)
        return state

    def started_stages(self) -> set[Stage]:
        """Return the stages that have started, according to the journal or to a checkpoint."""
        started, checkpoints = self.progress().started, Checkpoints(self.folder / RunFile.CHECKPOINTS)
        return {stage for stage in STAGES if stage in started or checkpoints.paths(stage)}

    def checkpoints(self) -> int:
        """Return how many checkpoints were written so far, in all sessions and repeats."""
        folders_of_repeats = (run.folder / RunFile.CHECKPOINTS for run in self.repeats())
        return sum(Checkpoints(folder).last_number() for folder in folders_of_repeats)

    def damage(self) -> list[str]:
        """Return a message for each problem of the journal. `verify_run` verifies all files."""
        return journal.damage(self.folder / RunFile.JOURNAL)

    def preview(self) -> Preview | None:
        """Return the latest preview of the recovery, or None if it is absent or damaged."""
        try:
            return Preview.read(self.folder / RunFile.GLIMPSE)
        except UserError:
            return None

    def list_previews(self) -> list[tuple[int, int]]:
        """Return the batch, from 1, and the iteration of each preview in the recovery's history, in order.

        Empty if there is no history, or it is damaged. Reads no images.
        """
        try:
            return PreviewHistory(self.folder / RunFile.PREVIEWS).positions
        except UserError:
            return []

    def read_preview(self, batch: int, iteration: int) -> Preview:
        """Return a preview that `list_previews` lists. Raises UserError("data") if it is damaged.

        It has spectra where the history has them, and the latest preview has those of the real images.
        """
        latest = self.preview()
        real = {} if latest is None else {tap: real_D for tap, (real_D, _) in latest.spectra.items()}
        return PreviewHistory(self.folder / RunFile.PREVIEWS).read(batch, iteration, real)

    def moving(self) -> dict[str, NDArray[Any]] | None:
        """Return the moving statistics after recovery (see `moments.pack`), or None. Raises UserError."""
        path = self.folder / RunFile.MOVING
        return tensors.read(path)[0] if path.is_file() else None

    def log(self) -> str:
        """Return what a detached run printed, or an empty string."""
        path = self.folder / RunFile.LOG
        return path.read_text("utf-8", "replace") if path.is_file() else ""

    def has_images(self) -> bool:
        """Return whether the distilled images are complete."""
        return images.is_complete(self.folder / RunFile.IMAGES)

    def images(self, first: int | None = None) -> images.Images:
        """Return the distilled images, or the `first` of them. Raises UserError("data") if incomplete."""
        return images.read(self.folder / RunFile.IMAGES, first)


def require_known_format(folder: Path, manifest: Mapping[str, Any], version: str) -> None:
    """Raise NewerRunError if a manifest's format is newer than this program's. version: of its program."""
    if (schema := manifest.get("schema_version", 0)) > folders.SCHEMA_VERSION:
        message = (
            f"{folder} was written by cfm-tui {version} in format {schema};"
            f" this is cfm-tui {product_version()}, which reads formats up to {folders.SCHEMA_VERSION}"
        )
        raise NewerRunError("usage", message, "install that version of cfm-tui, or a newer one")


def written_by(manifest: Mapping[str, Any]) -> str:
    """Return the version of the program that wrote a run, by its manifest."""
    versions = manifest.get("versions")
    return str(versions.get("cfm-tui", "unknown")) if isinstance(versions, dict) else "unknown"


def state_by(status: dict[str, Any]) -> State:
    """Return the state of a run from its status, and from whether its process is alive."""
    starting = status.get("starting")
    if isinstance(starting, dict) and _is_process_alive(starting):
        return "starting"
    state: State = status.get("state", "new")
    return "lost" if state in AT_WORK and not _is_process_alive(status) else state


def _file_sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _is_process_alive(status: dict[str, Any]) -> bool:
    """Return whether the process of a status is alive; on another host, judge by the age of the heartbeat."""
    is_alive = alive(status)
    if is_alive is not None:
        return is_alive
    try:
        age = time.time() - datetime.fromisoformat(status["time"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return False
    return abs(age) <= 120.0  # seconds; the clocks of two hosts differ


def find_run(name: str) -> StoredRun:
    """Return a run by path, or by name in the runs folder. Raises UserError("usage") with a similar name."""
    runs_folder = folders.runs_folder()
    for folder in (Path(name), runs_folder / name):
        if folders.is_run(folder):
            return StoredRun(folder)
    hint = suggest_name(
        name, [run.name for run in list_runs()], f"`cfm runs` lists the runs in {runs_folder}"
    )
    raise UserError("usage", f"there is no run {name}", hint)


def list_runs(folder: Path | None = None) -> list[StoredRun]:
    """Return all runs in a folder (default: the runs folder), oldest first."""
    runs = map(StoredRun, folders.list_run_folders(folder or folders.runs_folder()))
    return sorted(runs, key=lambda run: (run.created(), run.name))
