"""One owner of a run at a time, held by a lock of the operating system, described for the others."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from engine.errors import UserError
from engine.store.files import guarded, write_json


def timestamp(seconds: float | None = None) -> str:
    """A moment as UTC in ISO 8601, to the second; now unless given in seconds since 1970."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class Owner:
    """Takes a run folder for this process, until `release` or the process's end.

    Raises UserError("disk") that names the process, its host and since when it has the run.
    """

    def __init__(self, folder: Path) -> None:
        self._described = folder / "owner.json"
        self._lock = FileLock(folder / "lock", timeout=0, thread_local=False)
        try:
            with guarded(folder / "lock"):
                self._lock.acquire()
        except Timeout:
            raise UserError(
                "disk",
                f"{folder} is being written by {self._who()}",
                "wait for it or stop it, or choose another folder with --out",
            ) from None
        write_json(self._described, {"pid": os.getpid(), "host": socket.gethostname(), "since": timestamp()})

    def _who(self) -> str:
        try:
            owner = json.loads(self._described.read_text())
            return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def release(self) -> None:
        """Let the run go; releasing twice is allowed."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._described.unlink()
            self._lock.release()
