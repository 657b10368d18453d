"""A run's folder, as its owner writes it and as others read it.

    runs/NAME/
      config.yaml  manifest.json  journal.jsonl  metrics/  status.json  images/  labels/  results.json

Source: DESIGN "A run on disk". Not here: what a run does (see `pipeline`).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.events import BatchRecovered, Event, RecoverLayout, RecoverProgress, StageFinished, to_payload
from engine.store import tensors
from engine.store.files import guarded, make_folder, read_json, write, write_json
from engine.store.images import ImageWriter
from engine.store.journal import Journal
from engine.store.lock import Owner, timestamp
from engine.store.metrics import Metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA_VERSION = 1
HEARTBEAT_SECONDS = 1.0
_IN_METRICS = ("iterations", "ce", "terms")
_IN_STATUS = ("batch", "batches", "beta", "rate", "done", "architecture", "source", "seed", "epoch", "epochs")


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


class Run:
    """A run folder that this process owns: the one door through which it is written.

    folder: the run's folder; manifest: its identity and what is known of its making.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], owner: Owner) -> None:
        self.folder = folder
        self.manifest = manifest
        self._owner = owner
        self._journal = Journal(folder / "journal.jsonl")
        self._metrics: Metrics | None = None
        self._status: dict[str, Any] = {"state": "running"}
        self._beaten = 0.0

    @property
    def images(self) -> Path:
        """The folder of distilled images."""
        return self.folder / "images"

    @property
    def labels(self) -> Path:
        """The folder of stored soft labels."""
        return self.folder / "labels"

    @property
    def results(self) -> dict[str, Any] | None:
        """The numbers of a run that was finished before; None otherwise."""
        path = self.folder / "results.json"
        return read_json(path) if path.exists() else None

    def record(self, event: Event) -> None:
        """Write an event to the journal, its per-iteration numbers to the metrics, and the heartbeat.

        The journal has a `RecoverProgress` without those numbers, and with the `rows` of the metrics
        that hold them (first, and one past the last), in the table that the latest `RecoverLayout` began.
        """
        payload = to_payload(event)
        if isinstance(event, RecoverLayout):
            self._begin_metrics(event)
        if isinstance(event, RecoverProgress):
            for field in _IN_METRICS:
                del payload[field]
            payload["rows"] = self._append_metrics(event)
        self._journal.append(event.kind, payload)
        if isinstance(event, (StageFinished, BatchRecovered)):
            self._journal.sync()
        self._heartbeat(event.kind, payload)

    def _begin_metrics(self, layout: RecoverLayout) -> None:
        """A table without rows: recovery begins with its first iteration, whatever was cut before."""
        if self._metrics is not None:
            self._metrics.close()
        path = self.folder / "metrics" / "recover.f32"
        make_folder(path.parent)
        with guarded(path):
            path.unlink(missing_ok=True)
        columns = ["batch", "iteration", "beta", "ce"]
        columns += [f"{term} @ {tap}" for term in layout.terms for tap in layout.taps]
        self._metrics = Metrics(path, columns)

    def _append_metrics(self, event: RecoverProgress) -> list[int]:
        assert self._metrics is not None, "RecoverLayout comes before RecoverProgress"
        first = self._metrics.rows
        rows = [
            [event.batch, iteration, event.beta, ce, *(value for term in terms for value in term)]
            for iteration, ce, terms in zip(event.iterations, event.ce, event.terms, strict=True)
        ]
        if rows:
            self._metrics.append(rows)
        return [first, self._metrics.rows]

    def _heartbeat(self, kind: str, payload: dict[str, Any]) -> None:
        if kind == "StageStarted":
            self._status = {"state": "running", "stage": payload["stage"], "total": payload["total"]}
            self._status["unit"] = payload["unit"]
        self._status.update({name: payload[name] for name in _IN_STATUS if name in payload})
        if kind == "StageStarted" or time.monotonic() - self._beaten >= HEARTBEAT_SECONDS:
            self._write_status()

    def _write_status(self) -> None:
        self._beaten = time.monotonic()
        beat = {"time": timestamp(), "pid": os.getpid(), "host": socket.gethostname()}
        write_json(self.folder / "status.json", {**self._status, **beat})

    def save_labels(self, source: str, logits_ENK: NDArray[np.float16]) -> None:
        """Write a source's stored soft labels: logits of E epochs, N images, K classes."""
        make_folder(self.labels)
        tensors.write(self.labels / f"{source}.safetensors", {"logits": logits_ENK}, {"format": "cfm-labels"})

    def load_labels(self, source: str) -> NDArray[np.float16] | None:
        """A source's stored soft labels, or None where there are none. Raises UserError("data")."""
        path = self.labels / f"{source}.safetensors"
        return tensors.read(path)[0]["logits"] if path.exists() else None

    def image_writer(self, shape: tuple[int, int, int, int], classes: tuple[str, ...]) -> ImageWriter:
        """A writer for the set of distilled images, shape (N, C, H, W)."""
        return ImageWriter(self.images, shape, classes)

    def add_to_manifest(self, **facts: Any) -> None:
        """Note what became known after the run began, such as a squeezed teacher's fingerprint."""
        self.manifest = {**self.manifest, **facts}
        write_json(self.folder / "manifest.json", self.manifest)

    def save_results(self, results: dict[str, Any]) -> None:
        """Write the finished run's numbers."""
        write_json(self.folder / "results.json", results)

    def close(self, state: str, message: str = "") -> None:
        """Leave the folder: state is ``finished``, ``failed`` or ``interrupted``."""
        try:
            left = {"stage": self._status.get("stage"), "message": message} if state != "finished" else {}
            self._status = {"state": state, **{name: value for name, value in left.items() if value}}
            self._write_status()
            if self._metrics is not None:
                self._metrics.close()
            self._journal.close()
        finally:
            self._owner.release()


def open_run(folder: Path, manifest: dict[str, Any], config_yaml: str) -> Run:
    """Make the folder of a run, or take up one of the same identity.

    manifest: its ``identity`` is what two runs must share to be the same run.
    Raises UserError("usage") where the folder holds something else, UserError("disk") where another
    process has it or it cannot be written.
    """
    known = folder / "manifest.json"
    _refuse_something_else(folder, known, manifest["identity"])
    make_folder(folder)
    owner = Owner(folder)
    try:
        _refuse_something_else(folder, known, manifest["identity"])
        if not known.exists():
            write(folder / "config.yaml", config_yaml.encode())
            write_json(known, manifest)
        return Run(folder, read_json(known), owner)
    except BaseException:
        owner.release()
        raise


def refuse_foreign(folder: Path) -> None:
    """Raise UserError("usage") where `folder` holds something that is no run."""
    if (folder / "manifest.json").is_file() or not folder.exists():
        return
    if not folder.is_dir() or _holds_foreign_files(folder):
        raise UserError(
            "usage", f"{folder} holds something that is no run", "choose another folder with --out"
        )


def _refuse_something_else(folder: Path, known: Path, identity: Mapping[str, Any]) -> None:
    refuse_foreign(folder)
    if not known.exists():
        return
    there = read_json(known).get("identity", {})
    changed = sorted(name for name in {*there, *identity} if there.get(name) != identity.get(name))
    if changed:
        raise UserError(
            "usage",
            f"{folder} holds another run, with another {' and '.join(changed)}",
            "choose another folder with --out",
        )


def _holds_foreign_files(folder: Path) -> bool:
    ours = {"lock", "owner.json", "config.yaml"}
    return any(entry.name not in ours and not entry.name.endswith(".tmp") for entry in folder.iterdir())
