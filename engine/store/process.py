"""Which process on which host wrote something, and whether it still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CLOCK_SECONDS = 5.0  #: by how much two readings of one process's beginning may differ


def this_process() -> dict[str, Any]:
    """This process for others to recognise: pid, host, and when it was started (see `started`)."""
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "started": started(pid)}


def started(pid: int) -> float:
    """When a process was started: seconds since the system's start where it tells, else since 1970.

    The former does not change when somebody sets the clock. Raises psutil.Error: it does not live.
    """
    import psutil

    try:
        told = Path(f"/proc/{pid}/stat").read_bytes()
        return int(told.rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return psutil.Process(pid).create_time()


def alive(process: Mapping[str, Any]) -> bool | None:
    """Whether a process told by `this_process` lives; None where that cannot be seen from this host.

    A process that has since been given the same pid is another one.
    """
    import psutil

    if process.get("host") != socket.gethostname():
        return None
    try:
        found = psutil.Process(int(process["pid"]))
        dead = found.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        same = abs(started(found.pid) - float(process["started"])) <= CLOCK_SECONDS
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False
    except psutil.Error:
        return None
    return same and not dead
