"""Ownership of a run by one process at a time: a lock, a description of the owner, and its heartbeat."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engine.errors import UserError
from engine.store.files import guarded, remove
from engine.store.folders import RunFile
from engine.store.json_file import read_json, write_json


def timestamp(seconds: float | None = None) -> str:
    """Return a time as UTC in ISO 8601, to the second. seconds: since 1970; default: now."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def this_process() -> dict[str, Any]:
    """Return what identifies this process: pid, host, and start time (see `process_start`)."""
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "started": process_start(pid)}


def process_start(pid: int) -> float:
    """Return the start time of a process: seconds since boot where /proc has it, else since 1970.

    Seconds since boot do not change when the clock is set. Raises psutil.Error if there is no such process.
    """
    import psutil

    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat.rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return psutil.Process(pid).create_time()


def alive(process: Mapping[str, Any]) -> bool | None:
    """Return whether a process identified by `this_process` is alive; None if this host cannot tell.

    A later process with the same pid is a different process.
    """
    import psutil

    if process.get("host") != socket.gethostname():
        return None
    try:
        candidate = psutil.Process(int(process["pid"]))
        is_dead = candidate.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        is_same = abs(process_start(candidate.pid) - float(process["started"])) <= 5.0  # seconds
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False
    except psutil.Error:
        return None
    return is_same and not is_dead


class Owner:
    """Ownership of a run folder by this process, until `release` or the end of the process.

    described: False for a short ownership that must also work on a full disk; no description is written then.
    Raises UserError("disk") that names the owning process, its host and since when it owns the run.
    """

    PATIENCE = 2.0  #: seconds to wait for an owner to describe itself

    def __init__(self, folder: Path, *, described: bool = True) -> None:
        self._description_path = folder / RunFile.OWNER
        self._lock = FileLock(folder / RunFile.LOCK, timeout=0, thread_local=False)
        self._acquire(folder)
        if not described:
            return
        try:
            write_json(self._description_path, {**this_process(), "since": timestamp()})
        except BaseException:
            self._lock.release()
            raise

    def _acquire(self, folder: Path) -> None:
        """Acquire the lock; its owner gets a moment to describe itself or to release it."""
        deadline = time.monotonic() + self.PATIENCE
        while True:
            try:
                with guarded(folder / RunFile.LOCK):
                    self._lock.acquire()
                return
            except Timeout:
                owner = owner_of(folder)
                if owner is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
            who = "another process"
            if owner is not None:
                who = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
            message = f"{folder} is being written by {who}"
            raise UserError("disk", message, "wait for it or stop it, or choose another folder with --out")

    def release(self) -> None:
        """Release the run; releasing twice is allowed."""
        if self._lock.is_locked:
            with suppress(OSError, UserError):  # a description that remains is harmless: the lock is free
                remove(self._description_path)
            self._lock.release()


def owner_of(folder: Path) -> dict[str, Any] | None:
    """Return the run's owner (pid, host, started, since) by its description; None if absent or dead."""
    try:
        owner = read_json(folder / RunFile.OWNER)
        description = {name: owner[name] for name in ("pid", "host", "started", "since")}
    except (UserError, KeyError):
        return None
    return None if alive(description) is False else description


class Heartbeat:
    """A thread that rewrites a run's status, at `path`, until it is stopped.

    KEYS: what every update adds. Raises UserError("disk") if the first status cannot be written.
    """

    KEYS = ("time", "pid", "host", "started")
    CHANGED_SECONDS = 1.0  #: the shortest time between two updates
    SILENT_SECONDS = 15.0  #: the longest time between two updates
    THREAD = True  #: False: the status is written only by `write`, in the caller's thread

    def __init__(self, path: Path, status: dict[str, Any]) -> None:
        self.path = path
        self._process = this_process()
        self._lock = threading.Lock()  # held while the status is changed
        self._writing = threading.Lock()  # held while the file is written, which may take long
        self._status = dict(status)
        self._changed = False
        self._ended = threading.Event()
        self._write()
        self._thread = (
            threading.Thread(target=self._loop, name="heartbeat", daemon=True) if self.THREAD else None
        )
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
        while not self._ended.wait(self.CHANGED_SECONDS):
            # A full or unavailable disk is reported by the owner's own writes.
            with suppress(Exception):
                if self._changed or time.monotonic() - self._written_at >= self.SILENT_SECONDS:
                    self._write()
