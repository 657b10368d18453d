"""The run's heartbeat: a thread that rewrites ``status.json`` while the owner computes."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.store.json_file import write_json
from engine.store.lock import timestamp
from engine.store.process import this_process

CHANGED_SECONDS = 1.0  #: the shortest time between two updates, in seconds
SILENT_SECONDS = 15.0  #: the longest time between two updates, in seconds
HEARTBEAT_KEYS = ("time", "pid", "host", "started")  #: keys that every update adds to the status
THREAD = True  #: False: the status is written only by `write`, in the caller's thread


class Heartbeat:
    """Writer of a run's status until it is stopped.

    path: the file. Raises UserError("disk") if the first status cannot be written.
    """

    def __init__(self, path: Path, status: dict[str, Any]) -> None:
        self.path = path
        self._process = this_process()
        self._lock = threading.Lock()  # held while the status is changed
        self._writing = threading.Lock()  # held while the file is written, which may take long
        self._status = dict(status)
        self._changed = False
        self._ended = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True) if THREAD else None
        if self._thread is not None:
            self._thread.start()

    def update(self, **facts: Any) -> None:
        """Change some keys of the status; the file follows within about a second."""
        with self._lock:
            self._status |= facts
            self._changed = True

    def write(self, status: dict[str, Any]) -> None:
        """Replace the whole status and write it at once. Raises UserError("disk")."""
        with self._lock:
            self._status = dict(status)
        self._write()

    def status(self) -> dict[str, Any]:
        """Return the current status."""
        with self._lock:
            return dict(self._status)

    def stop(self) -> None:
        """Stop the updates; the file stays. Stopping twice is allowed."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _write(self) -> None:
        with self._writing:
            with self._lock:
                status, self._changed = dict(self._status), False
            write_json(self.path, {**status, "time": timestamp(), **self._process})
            self._written_at = time.monotonic()

    def _loop(self) -> None:
        while not self._ended.wait(CHANGED_SECONDS):
            # A full or unavailable disk is reported by the owner's own writes.
            with suppress(Exception):
                if self._changed or time.monotonic() - self._written_at >= SILENT_SECONDS:
                    self._write()
