"""Write access to a run's folder, for the process that owns it.

    runs/NAME/
      config.yaml  manifest.json  journal.jsonl  metrics/  status.json  checkpoints/  images/  labels/
      moving.safetensors  glimpse.safetensors  previews.safetensors  results.json
      control/
      repeats/2/  repeats/3/  …    one run for each repeat but the first

Source: DESIGN "A run on disk". Read access for all others is in `reader`.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.events import (
    BatchRecovered,
    Event,
    RecoverLayout,
    RecoverProgress,
    StageFinished,
    StageStarted,
    to_payload,
)
from engine.store import files, folders, tensors
from engine.store.checkpoints import Checkpoints, Saved
from engine.store.control import Inbox, Request
from engine.store.folders import RunFile, free_name
from engine.store.images import FileFormat, ImageWriter
from engine.store.journal import Journal
from engine.store.json_file import write_json
from engine.store.labels import Labels, LabelWriter
from engine.store.lock import Heartbeat, Owner, describe_process, this_process, timestamp
from engine.store.preview import Preview
from engine.store.preview_history import PreviewHistoryWriter
from engine.store.reader import StoredRun
from engine.store.recovery_metrics import MetricsRecorder
from engine.store.run_state import RunState

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SETTINGS_KEYS = ("identity", "origins")
_SESSION_KEYS = ("versions", "device", "execution", "micro_batch")


_PROCESS_KEYS = (*Heartbeat.KEYS, "starting")  # of a status: about the process that owns the run, or will


class Run:
    """A run folder that this process owns; all writes to the folder go through it.

    folder: the run's folder. manifest: its identity and the environment in which it was computed. parent: the
    run of which this one is a further repeat: it receives the requests of others, and its status shows what
    this one does.
    """

    POLL_SECONDS = 0.5  #: the shortest time between two searches for requests

    def __init__(
        self, folder: Path, manifest: dict[str, Any], owner: Owner, parent: Run | None = None
    ) -> None:
        self.folder = folder
        self.parent = parent
        self.manifest = manifest
        self._owner = owner
        self._writer: ImageWriter | LabelWriter | None = None
        self._history: PreviewHistoryWriter | None = None
        self._last_poll = 0.0
        self._inbox = Inbox(folder)
        self._checkpoints = Checkpoints(folder / RunFile.CHECKPOINTS)
        self._metrics = MetricsRecorder(folder / RunFile.METRICS, folder / RunFile.JOURNAL)
        self._journal = Journal(folder / RunFile.JOURNAL)
        self._pending_notices = list(self._journal.notices)
        try:
            status = StoredRun(folder).status()
        except UserError as error:
            self._pending_notices.append(f"{error.message}; it is rewritten")
            status = {}
        self._initial_status = {name: status[name] for name in status if name not in _PROCESS_KEYS}
        self._closed = False
        self._state = RunState()
        try:
            self._heartbeat = Heartbeat(folder / RunFile.STATUS, {"state": "running"})
        except BaseException:
            with suppress(UserError):
                self._journal.close()
            raise

    @property
    def images(self) -> Path:
        """The folder of distilled images."""
        return self.folder / RunFile.IMAGES

    @property
    def results(self) -> dict[str, Any] | None:
        """The results of the repeats that are finished; None before the first is."""
        return StoredRun(self.folder).results()

    # --- events -----------------------------------------------------------------------------------

    def record(self, event: Event) -> None:
        """Write an event to the journal, its per-iteration metrics to the table, and update the status."""
        if isinstance(event, RecoverLayout):
            self._metrics.start(event)
        payload = self._metrics.record(event) if isinstance(event, RecoverProgress) else to_payload(event)
        self._journal.append(event.kind, payload)
        if isinstance(event, (StageFinished, BatchRecovered)):
            self._metrics.sync()
            self._journal.sync()
        self._update_status(event)

    def _update_status(self, event: Event) -> None:
        self._state.add(event)
        status = {**self._state.position, "seconds_left": self._state.run_seconds_left}
        if isinstance(event, StageStarted):
            self._heartbeat.write({"state": self._heartbeat.status()["state"], **status})
        else:
            self._heartbeat.update(**status)
        if self.parent is not None:
            self.parent._update_status(event)

    def set_state(self, name: str) -> None:
        """Set the state in the status, ``running`` or ``paused``, and write it at once."""
        self._heartbeat.write({**self._heartbeat.status(), "state": name})
        if self.parent is not None:
            self.parent.set_state(name)

    def notices(self) -> list[str]:
        """Return messages for the user about damage or repairs since the last call."""
        sources = (self._pending_notices, self._metrics.notices, self._inbox.notices)
        messages = [message for source in sources for message in source]
        for source in sources:
            source.clear()
        return messages

    def requests(self) -> list[Request]:
        """Return new requests of others to this run or its parent, oldest first.

        The folder is searched at most every POLL_SECONDS.
        """
        requests = [] if self.parent is None else self.parent.requests()
        now = time.monotonic()
        if now - self._last_poll < self.POLL_SECONDS:
            return requests
        self._last_poll = now
        return [*requests, *self._inbox.take()]

    def stage_costs(self) -> dict[str, dict[str, Any]]:
        """Return seconds, rate and unit of each stage that this run computed, according to the journal."""
        state = StoredRun(self.folder).progress()
        return {
            stage: {"seconds": end.seconds, "rate": end.rate, "unit": state.stages[stage].unit}
            for stage, end in state.computed.items()
        }

    # --- what a stage stores ----------------------------------------------------------------------

    def checkpoint(
        self, stage: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
    ) -> tuple[int, int]:
        """Make everything written so far durable, then write the stage's state.

        Returns the checkpoint's number and its size in bytes. Raises UserError("disk").
        """
        self._metrics.sync()
        self._journal.sync()
        if self._writer is not None:
            self._writer.sync()
        if self._history is not None:
            with suppress(UserError):  # previews are only displayed
                self._history.sync()
        return self._checkpoints.write(stage, arrays, facts)

    def latest_checkpoint(self, stage: str) -> Saved | None:
        """Return the stage's newest intact checkpoint, or None; damaged ones are renamed, with a notice."""
        checkpoint, damage = self._checkpoints.newest(stage)
        self._pending_notices += damage
        return checkpoint

    def delete_checkpoints(self, stage: str) -> None:
        """Remove the checkpoints of a stage whose artefact is stored."""
        self._checkpoints.delete(stage)

    def image_writer(
        self,
        shape: tuple[int, int, int, int],
        classes: tuple[str, ...],
        done: int = 0,
        form: FileFormat = "png",
    ) -> ImageWriter:
        """Return a writer of the distilled images, shape (N, C, H, W), that keeps the first `done` images.

        form: of the image files.
        """
        self._close_writer()
        self._writer = writer = ImageWriter(self.images, shape, classes, done, form)
        self._pending_notices += [f"{name} was damaged; it was rewritten" for name in writer.repaired]
        return writer

    def label_writer(self, source: str, shape: tuple[int, int, int], done: int = 0) -> LabelWriter:
        """Return a writer of a source's soft labels, shape (E, N, K), that keeps the first `done` epochs."""
        self._close_writer()
        self._writer = writer = LabelWriter(self.folder / RunFile.LABELS, source, shape, done)
        return writer

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def labels(self, source: str) -> Labels | None:
        """Return a source's stored soft labels, or None if incomplete. Raises UserError("data")."""
        return Labels.open(self.folder / RunFile.LABELS, source)

    def save_moving(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the moving statistics at the end of recovery."""
        tensors.write(self.folder / RunFile.MOVING, arrays, {"format": "cfm-moving"})

    def save_preview(self, preview: Preview) -> None:
        """Replace the preview of the running recovery. Raises UserError("disk")."""
        preview.write(self.folder / RunFile.GLIMPSE)

    def preview_history(
        self,
        batches: int,
        iterations: int,
        shape: tuple[int, int, int, int],
        position: tuple[int, int] | None = None,
        sizes: Mapping[str, int] = MappingProxyType({}),
    ) -> PreviewHistoryWriter | None:
        """Return the writer of the history of previews; None if there is no room for it.

        shape, position, sizes: as in `PreviewHistoryWriter`.
        """
        path = self.folder / RunFile.PREVIEWS
        try:
            self._history = PreviewHistoryWriter(path, batches, iterations, shape, position, sizes)
        except UserError as error:
            self._pending_notices.append(f"{error.message}; previews are not kept")
            return None
        if self._history.notice:
            self._pending_notices.append(self._history.notice)
        return self._history

    def save_results(self, results: dict[str, Any]) -> None:
        """Write the results of the repeats that are finished."""
        write_json(self.folder / RunFile.RESULTS, results)

    # --- identity ---------------------------------------------------------------------------------

    def add_to_manifest(self, **facts: Any) -> None:
        """Add facts that became known after the start, such as a squeezed teacher's fingerprint."""
        self.manifest = {**self.manifest, **facts}
        write_json(self.folder / RunFile.MANIFEST, self.manifest)

    def adopt(self, config_yaml: str, **facts: Any) -> None:
        """Replace the run's settings. facts: keys of the manifest that depend on them, such as the identity.

        A concurrent reader always gets the facts that match the `config.yaml` on disk.
        """
        following = {**facts, "config_sha256": _sha256(config_yaml)}
        write_json(self.folder / RunFile.MANIFEST, {**self.manifest, "next": following})
        files.write(self.folder / RunFile.CONFIG, config_yaml.encode())
        self.add_to_manifest(**following)

    # --- closing ----------------------------------------------------------------------------------

    def close(self, state: str, message: str = "") -> None:
        """Close the run with the state ``finished``, ``failed`` or ``stopped``. Closing twice is allowed."""
        stage = self._heartbeat.status().get("stage") if state != "finished" else None
        status = {"state": state, "stage": stage, "message": message if state != "finished" else ""}
        self._close({name: value for name, value in status.items() if value})

    def release(self) -> None:
        """Release the folder for another process, with the status that it had when it was opened."""
        self._close(self._initial_status)

    def _close(self, status: dict[str, Any]) -> None:
        if self._closed:
            return
        self._closed = True
        with ExitStack() as cleanup:  # runs the callbacks from last to first
            cleanup.callback(self._owner.release)
            cleanup.callback(self._write_final_status, status)
            cleanup.callback(self._journal.close)
            cleanup.callback(self._metrics.close)
            cleanup.callback(self._close_writer)
            if self._history is not None:
                cleanup.callback(self._history.close)

    def _write_final_status(self, status: dict[str, Any]) -> None:
        self._heartbeat.stop()
        if status:
            self._heartbeat.write(status)
        else:
            files.remove(self.folder / RunFile.STATUS)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def open_run(
    folder: Path,
    manifest: dict[str, Any],
    config_yaml: str,
    changed: Callable[[StoredRun], bool] | None = None,
    parent: Run | None = None,
) -> Run:
    """Create the folder of a run, or open the existing run in it.

    manifest: its ``identity`` is what two runs must share to be the same run; its ``versions``, ``device``,
    ``execution`` and ``micro_batch`` are stored for each session. changed: receives the existing
    run, and either raises UserError to refuse it or returns whether it adopts the settings given here; by
    default a run with a different identity is refused. parent: as in `Run`.
    Raises UserError("usage") if the folder holds something else, UserError("disk") if another process owns
    it or it cannot be written.
    """
    judge = changed or (lambda stored: _refuse_different(stored, manifest["identity"]))
    folders.require_run_or_empty(folder)
    if folders.is_run(folder):
        judge(StoredRun(folder))
    files.make_folders(folder)
    with ExitStack() as cleanup:
        owner = Owner(folder)
        cleanup.callback(owner.release)
        files.sweep(folder)
        folders.require_run_or_empty(folder)
        adopting = False
        if folders.is_run(folder):
            stored = StoredRun(folder)
            adopting = judge(stored)
            stored.require_whole()
            current = stored.manifest()
        else:
            files.write(folder / RunFile.CONFIG, config_yaml.encode())
            current = {**manifest, "config_sha256": _sha256(config_yaml)}
        session = {name: manifest[name] for name in _SESSION_KEYS if name in manifest}
        session |= {"time": timestamp(), **this_process()}
        current["sessions"] = [*current.get("sessions", ()), session]
        write_json(folder / RunFile.MANIFEST, current)
        run = Run(folder, current, owner, parent)
        cleanup.callback(run.release)
        if adopting:
            run.adopt(config_yaml, **{name: manifest[name] for name in _SETTINGS_KEYS if name in manifest})
        cleanup.pop_all()
        return run


def _refuse_different(stored: StoredRun, identity: Mapping[str, Any]) -> bool:
    """Raise UserError("usage") if a run has a different identity; else return False: nothing to adopt."""
    stored_identity = stored.manifest().get("identity", {})
    names = sorted({*stored_identity, *identity})
    differing = [name for name in names if stored_identity.get(name) != identity.get(name)]
    if differing:
        message = f"{stored.folder} holds another run, with another {' and '.join(differing)}"
        raise UserError("usage", message, files.OUT)
    return False


def delete_run(folder: Path) -> None:
    """Delete a run's folder, even if the disk is full; after an interrupted deletion it is no longer a run.

    Also removes leftovers of interrupted deletions of runs with the same name.
    Raises UserError("usage") if it is not a run, UserError("disk") if a process owns it or it cannot be
    removed.
    """
    hint = "get write permission for that folder, or delete it by hand"
    if not folders.is_run(folder):
        raise UserError("usage", f"{folder} is not a run's folder", "`cfm runs` lists the runs")
    try:
        resolved = folder.resolve()
        owner = Owner(resolved, described=False)
        try:
            aside = resolved.with_name(
                free_name(f".{resolved.name}.deleted", lambda name: os.path.lexists(resolved.with_name(name)))
            )
            files.rename(resolved, aside, hint)
        finally:
            owner.release()
        files.remove(aside / RunFile.MANIFEST, hint)
        _remove_tree(aside)
        leftover = re.compile(rf"\.{re.escape(resolved.name)}\.deleted(-\d+)?")
        for entry in resolved.parent.iterdir():
            if leftover.fullmatch(entry.name) and not folders.is_run(entry):  # a run may be in use
                _remove_tree(entry)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError("disk", f"cannot delete {folder}: {reason}", hint) from error


def _remove_tree(folder: Path) -> None:
    """Remove a folder and its contents, even if other processes are doing the same. Raises OSError."""
    for _ in range(5):
        try:
            files.disk.remove_tree(folder)
        except FileNotFoundError:
            if os.path.lexists(folder):
                continue
        return
    files.disk.remove_tree(folder)


def record_start(folder: Path, pid: int) -> None:
    """Record that a process of this host was started to take over a run: it is ``starting`` while it loads.

    The first status of the new owner replaces this. Nothing is recorded if that has been written, or cannot
    be: the run then keeps its state until the process has loaded it.
    """
    if not folders.is_run(folder):
        return
    with suppress(UserError, OSError):
        owner = Owner(folder, described=False)
        try:
            status = {
                **StoredRun(folder).status(),
                "starting": {**describe_process(pid), "time": timestamp()},
            }
            write_json(folder / RunFile.STATUS, status)
        finally:
            owner.release()
