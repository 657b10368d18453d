"""A run's folder, as its owner writes it.

    runs/NAME/
      config.yaml  manifest.json  journal.jsonl  metrics/  status.json  checkpoints/  images/  labels/
      moving.safetensors  glimpse.safetensors  results.json  control/

Source: DESIGN "A run on disk". Not here: how others read it (see `reader`), what a run does (see `pipeline`).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.events import BatchRecovered, Event, RecoverLayout, RecoverProgress, StageFinished, to_payload
from engine.store import checkpoints, folders, journal, preview, tensors
from engine.store.checkpoints import Saved
from engine.store.control import Inbox, Request
from engine.store.files import make_folder, remove, sweep, write
from engine.store.heartbeat import OF_BEAT, Heartbeat
from engine.store.images import ImageWriter
from engine.store.journal import Journal
from engine.store.json_file import write_json
from engine.store.labels import Labels, LabelWriter, open_labels
from engine.store.lock import Owner, timestamp
from engine.store.numbers import Numbers
from engine.store.process import this_process
from engine.store.reader import StoredRun

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA_VERSION = 1
POLL_SECONDS = 0.5  #: how often, at most, the folder is looked into for requests
_IN_STATUS = ("batch", "batches", "beta", "rate", "done", "architecture", "source", "seed", "epoch", "epochs")
_OF_SETTINGS = ("identity", "origins")
_OF_SESSION = ("versions", "device", "threads", "micro_batch")


class Run:
    """A run folder that this process owns: the one door through which it is written.

    folder: the run's folder; manifest: its identity and what is known of its making.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], owner: Owner) -> None:
        self.folder = folder
        self.manifest = manifest
        self._owner = owner
        self._writers: list[ImageWriter | LabelWriter] = []
        self._asked = 0.0
        self._inbox = Inbox(folder)
        self._numbers = Numbers(folder / folders.METRICS, folder / folders.JOURNAL)
        self._journal = Journal(folder / folders.JOURNAL)
        self._told = list(self._journal.notices)
        self._before = self._status_before()
        self._left = False
        try:
            self._heartbeat = Heartbeat(folder / folders.STATUS, {"state": "running"})
        except BaseException:
            with suppress(UserError):
                self._journal.close()
            raise

    def _status_before(self) -> dict[str, Any]:
        try:
            found = StoredRun(self.folder).status()
        except UserError as error:
            self._told.append(f"{error.message}; it is written anew")
            return {}
        return {name: value for name, value in found.items() if name not in OF_BEAT}

    @property
    def images(self) -> Path:
        """The folder of distilled images."""
        return self.folder / folders.IMAGES

    @property
    def results(self) -> dict[str, Any] | None:
        """The numbers of a run that was finished before; None otherwise."""
        return StoredRun(self.folder).results()

    # --- events -----------------------------------------------------------------------------------

    def record(self, event: Event) -> None:
        """Write an event to the journal, its per-iteration numbers to the metrics, and the heartbeat."""
        if isinstance(event, RecoverLayout):
            self._numbers.begin(event)
        payload = self._numbers.take(event) if isinstance(event, RecoverProgress) else to_payload(event)
        self._journal.append(event.kind, payload)
        if isinstance(event, (StageFinished, BatchRecovered)):
            self._numbers.sync()
            self._journal.sync()
        self._beat(event.kind, payload)

    def _beat(self, kind: str, payload: Mapping[str, Any]) -> None:
        facts = {name: payload[name] for name in _IN_STATUS if name in payload}
        if payload.get("accuracy") is not None:
            facts["accuracy"] = payload["accuracy"]  # the latest that was measured
        if kind == "StageStarted":
            facts |= {name: payload[name] for name in ("stage", "total", "unit")}
            self._heartbeat.write({"state": self._heartbeat.status()["state"], **facts})
            return
        if kind == "EpochFinished":
            status = self._heartbeat.status()  # what the stage has trained in all; some may be trained again
            facts["done"] = min(status.get("done", 0) + 1, status.get("total", math.inf))
        elif kind == "RecoverProgress":
            facts["done"] = payload["rows"][1]
            facts["iteration"] = facts["done"] - (payload["batch"] - 1) * payload["total_iterations"]
        self._heartbeat.update(**facts)

    def state(self, name: str) -> None:
        """Say at once that the run is ``running`` or ``paused``."""
        self._heartbeat.write({**self._heartbeat.status(), "state": name})

    def notices(self) -> list[str]:
        """What was found damaged, or was mended, since the last call; to be told to the user."""
        found = [*self._told, *self._numbers.notices, *self._inbox.notices]
        for told in (self._told, self._numbers.notices, self._inbox.notices):
            told.clear()
        return found

    def requests(self) -> list[Request]:
        """What others ask through the run's folder, oldest first; looked for twice a second at most."""
        now = time.monotonic()
        if now - self._asked < POLL_SECONDS:
            return []
        self._asked = now
        return self._inbox.take()

    def spent(self) -> dict[str, dict[str, Any]]:
        """What each stage that this run computed took, by its journal: seconds, rate, and unit."""
        units: dict[str, str] = {}
        found: dict[str, dict[str, Any]] = {}
        for record in journal.read(self.folder / folders.JOURNAL):
            told = record.payload
            if record.kind == "StageStarted":
                units[told["stage"]] = told["unit"]
            elif record.kind == "StageFinished" and not told["reused"]:
                unit = units.get(told["stage"], "")
                found[told["stage"]] = {"seconds": told["seconds"], "rate": told["rate"], "unit": unit}
        return found

    # --- what a stage leaves ----------------------------------------------------------------------

    def checkpoint(
        self, stage: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
    ) -> tuple[int, int]:
        """Make durable all that was written so far, then the stage's state.

        Returns the checkpoint's number and its bytes. Raises UserError("disk").
        """
        self._numbers.sync()
        self._journal.sync()
        for writer in self._writers:
            writer.sync()
        return checkpoints.write(self.folder / folders.CHECKPOINTS, stage, arrays, facts)

    def saved(self, stage: str) -> Saved | None:
        """The stage's newest whole checkpoint, if any; damaged ones are set aside, with a notice."""
        found, damage = checkpoints.newest(self.folder / folders.CHECKPOINTS, stage)
        self._told += damage
        return found

    def forget(self, stage: str) -> None:
        """Remove the stage's checkpoints: what it made is durable elsewhere."""
        checkpoints.forget(self.folder / folders.CHECKPOINTS, stage)

    def image_writer(
        self, shape: tuple[int, int, int, int], classes: tuple[str, ...], done: int = 0
    ) -> ImageWriter:
        """A writer for the set of distilled images, shape (N, C, H, W), `done` of which are kept."""
        self._close_writers()
        writer = ImageWriter(self.images, shape, classes, done)
        self._writers.append(writer)
        self._told += [f"{name} was damaged; it is written again" for name in writer.mended]
        return writer

    def label_writer(self, source: str, shape: tuple[int, int, int], done: int = 0) -> LabelWriter:
        """A writer for a source's soft labels, shape (E, N, K), `done` epochs of which are kept."""
        self._close_writers()
        writer = LabelWriter(self.folder / folders.LABELS, source, shape, done)
        self._writers.append(writer)
        return writer

    def _close_writers(self) -> None:
        while self._writers:
            self._writers.pop().close()

    def labels(self, source: str) -> Labels | None:
        """A source's stored soft labels, or None where they are not complete. Raises UserError("data")."""
        return open_labels(self.folder / folders.LABELS, source)

    def save_moving(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the moving statistics with which recovery ended."""
        tensors.write(self.folder / folders.MOVING, arrays, {"format": "cfm-moving"})

    def moving(self) -> dict[str, NDArray[Any]] | None:
        """The moving statistics with which recovery ended, if any. Raises UserError("data")."""
        return StoredRun(self.folder).moving()

    def save_glimpse(self, seen: preview.Preview) -> None:
        """Replace what others see of the recovery that is at work. Raises UserError("disk")."""
        preview.write(self.folder / folders.GLIMPSE, seen)

    def save_results(self, results: dict[str, Any]) -> None:
        """Write the finished run's numbers."""
        write_json(self.folder / folders.RESULTS, results)

    # --- identity ---------------------------------------------------------------------------------

    def add_to_manifest(self, **facts: Any) -> None:
        """Note what became known after the run began, such as a squeezed teacher's fingerprint."""
        self.manifest = {**self.manifest, **facts}
        write_json(self.folder / folders.MANIFEST, self.manifest)

    def adopt(self, config_yaml: str, **facts: Any) -> None:
        """Go on with other settings; facts: what the manifest then says of them, such as the identity.

        Whoever reads the manifest meanwhile is told what fits `config.yaml`.
        """
        following = {**facts, "config_sha256": _sha256(config_yaml)}
        write_json(self.folder / folders.MANIFEST, {**self.manifest, "next": following})
        write(self.folder / folders.CONFIG, config_yaml.encode())
        self.add_to_manifest(**following)

    # --- leaving ----------------------------------------------------------------------------------

    def close(self, state: str, message: str = "") -> None:
        """Leave the folder: state is ``finished``, ``failed`` or ``stopped``. Closing twice is allowed."""
        stage = self._heartbeat.status().get("stage") if state != "finished" else None
        left = {"state": state, "stage": stage, "message": message if state != "finished" else ""}
        self._leave({name: value for name, value in left.items() if value})

    def release(self) -> None:
        """Leave the folder to another process, in the state in which it was taken."""
        self._leave(self._before)

    def _leave(self, status: dict[str, Any]) -> None:
        if self._left:
            return
        self._left = True
        with ExitStack() as last_first:
            last_first.callback(self._owner.release)
            last_first.callback(self._last_beat, status)
            last_first.callback(self._journal.close)
            last_first.callback(self._numbers.close)
            last_first.callback(self._close_writers)

    def _last_beat(self, status: dict[str, Any]) -> None:
        self._heartbeat.stop()
        if status:
            self._heartbeat.write(status)
        else:
            remove(self.folder / folders.STATUS)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def open_run(
    folder: Path,
    manifest: dict[str, Any],
    config_yaml: str,
    changed: Callable[[StoredRun], bool] | None = None,
) -> Run:
    """Make the folder of a run, or take up the one that is there.

    manifest: its ``identity`` is what two runs must share to be the same run; its ``versions``,
    ``device``, ``threads`` and ``micro_batch`` are noted for each session. changed: looks at the run that
    is there and raises UserError to refuse it, or returns whether it goes on with the settings given here;
    by default a run of another identity is refused.
    Raises UserError("usage") where the folder holds something else, UserError("disk") where another
    process has it or it cannot be written.
    """
    judge = changed or (lambda stored: _refuse_another(stored, manifest["identity"]))
    folders.refuse_foreign(folder)
    if folders.is_run(folder):
        judge(StoredRun(folder))
    make_folder(folder)
    with ExitStack() as left:
        owner = Owner(folder)
        left.callback(owner.release)
        sweep(folder)
        folders.refuse_foreign(folder)
        there = folders.is_run(folder)
        adopting = there and judge(StoredRun(folder))
        known = _taken_up(StoredRun(folder)) if there else _begun(folder, manifest, config_yaml)
        session = {name: manifest[name] for name in _OF_SESSION if name in manifest}
        session |= {"time": timestamp(), **this_process()}
        known["sessions"] = [*known.get("sessions", ()), session]
        write_json(folder / folders.MANIFEST, known)
        run = Run(folder, known, owner)
        left.callback(run.release)
        if adopting:
            run.adopt(config_yaml, **{name: manifest[name] for name in _OF_SETTINGS if name in manifest})
        left.pop_all()
        return run


def _begun(folder: Path, manifest: Mapping[str, Any], config_yaml: str) -> dict[str, Any]:
    write(folder / folders.CONFIG, config_yaml.encode())
    return {**manifest, "config_sha256": _sha256(config_yaml)}


def _taken_up(stored: StoredRun) -> dict[str, Any]:
    stored.config_yaml()  # refused where it is damaged
    return stored.manifest()


def _refuse_another(stored: StoredRun, identity: Mapping[str, Any]) -> bool:
    there = stored.manifest().get("identity", {})
    differing = sorted(name for name in {*there, *identity} if there.get(name) != identity.get(name))
    if differing:
        raise UserError(
            "usage",
            f"{stored.folder} holds another run, with another {' and '.join(differing)}",
            "choose another folder with --out",
        )
    return False
