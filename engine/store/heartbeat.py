"""The run's heartbeat: ``status.json``, replaced by a thread of its own while the owner computes."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.store.json_file import write_json
from engine.store.lock import timestamp
from engine.store.process import this_process

CHANGED_SECONDS = 1.0  #: at most once in so many seconds where something changed
SILENT_SECONDS = 15.0  #: at least once in so many seconds, whatever the owner does
OF_BEAT = ("time", "pid", "host", "started")  #: what every beat adds to the status
THREAD = True  #: off: the heartbeat is written only where that is asked for, by the caller's thread


class Heartbeat:
    """Writes a run's status until it is stopped.

    path: the file. Raises UserError("disk") where its first beat cannot be written.
    """

    def __init__(self, path: Path, status: dict[str, Any]) -> None:
        self.path = path
        self._process = this_process()
        self._lock = threading.Lock()  # held while the status is changed
        self._writing = threading.Lock()  # held while it is written, which may take long
        self._status = dict(status)
        self._changed = False
        self._ended = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True) if THREAD else None
        if self._thread is not None:
            self._thread.start()

    def update(self, **facts: Any) -> None:
        """Change facts; they are written within about a second."""
        with self._lock:
            self._status |= facts
            self._changed = True

    def write(self, status: dict[str, Any]) -> None:
        """Replace the whole status, at once. Raises UserError("disk")."""
        with self._lock:
            self._status = dict(status)
        self._write()

    def status(self) -> dict[str, Any]:
        """What is told now."""
        with self._lock:
            return dict(self._status)

    def stop(self) -> None:
        """Beat no more; what was written last stays. Stopping twice is allowed."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _write(self) -> None:
        with self._writing:
            with self._lock:
                told, self._changed = dict(self._status), False
            write_json(self.path, {**told, "time": timestamp(), **self._process})
            self._beaten = time.monotonic()

    def _beat(self) -> None:
        while not self._ended.wait(CHANGED_SECONDS):
            # A disk that is full, or gone for a while, is met by the owner where it matters.
            with suppress(Exception):
                if self._changed or time.monotonic() - self._beaten >= SILENT_SECONDS:
                    self._write()
