"""Ownership of a run by one process at a time: a file lock, and a description of the owner for others."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engine.errors import UserError
from engine.store.files import guarded, remove
from engine.store.json_file import read_json, write_json
from engine.store.process import alive, this_process

LOCK, OWNER = "lock", "owner.json"
PATIENCE = 2.0  #: seconds to wait for an owner to describe itself
_POLL = 0.02


def timestamp(seconds: float | None = None) -> str:
    """Return a time as UTC in ISO 8601, to the second. seconds: since 1970; default: now."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class Owner:
    """Ownership of a run folder by this process, until `release` or the end of the process.

    described: False for a short ownership that must also work on a full disk; no description is written then.
    Raises UserError("disk") that names the owning process, its host and since when it owns the run.
    """

    def __init__(self, folder: Path, *, described: bool = True) -> None:
        self._description_path = folder / OWNER
        self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
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
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with guarded(folder / LOCK):
                    self._lock.acquire()
                return
            except Timeout:
                owner = owner_of(folder)
                if owner is None and time.monotonic() < deadline:
                    time.sleep(_POLL)
                    continue
            who = "another process"
            if owner is not None:
                who = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
            raise UserError(
                "disk",
                f"{folder} is being written by {who}",
                "wait for it or stop it, or choose another folder with --out",
            )

    def release(self) -> None:
        """Release the run; releasing twice is allowed."""
        if self._lock.is_locked:
            with suppress(OSError, UserError):  # a description that remains is harmless: the lock is free
                remove(self._description_path)
            self._lock.release()


def owner_of(folder: Path) -> dict[str, Any] | None:
    """Return the run's owner (pid, host, started, since) by its description; None if absent or dead."""
    try:
        owner = read_json(folder / OWNER)
        description = {name: owner[name] for name in ("pid", "host", "started", "since")}
    except (UserError, KeyError):
        return None
    return None if alive(description) is False else description
