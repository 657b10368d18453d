"""One owner of a run at a time, held by a lock of the operating system, described for the others."""

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
PATIENCE = 2.0  #: seconds to wait for an owner to say who it is
_POLL = 0.02


def timestamp(seconds: float | None = None) -> str:
    """A moment as UTC in ISO 8601, to the second; now unless given in seconds since 1970."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class Owner:
    """Takes a run folder for this process, until `release` or the process's end.

    described: False for an owner of a moment, who needs no room on the disk to say who it is.
    Raises UserError("disk") that names the process, its host and since when it has the run.
    """

    def __init__(self, folder: Path, *, described: bool = True) -> None:
        self._described = folder / OWNER
        self._lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
        self._acquire(folder)
        if not described:
            return
        try:
            write_json(self._described, {**this_process(), "since": timestamp()})
        except BaseException:
            self._lock.release()
            raise

    def _acquire(self, folder: Path) -> None:
        """Take the lock; the owner that has it may need a moment to describe itself, or to let go."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with guarded(folder / LOCK):
                    self._lock.acquire()
                return
            except Timeout:
                owner = owner_of(folder)
                late = time.monotonic() >= deadline
                if owner is None and not late:
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
        """Let the run go; releasing twice is allowed."""
        if self._lock.is_locked:
            with suppress(OSError, UserError):  # others see that the lock is free
                remove(self._described)
            self._lock.release()


def owner_of(folder: Path) -> dict[str, Any] | None:
    """Who described itself as the run's owner: pid, host, started, since. None where nobody that may live."""
    try:
        owner = read_json(folder / OWNER)
        who = {name: owner[name] for name in ("pid", "host", "started", "since")}
    except (UserError, KeyError):
        return None
    return None if alive(who) is False else who
