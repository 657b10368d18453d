"""Identify a process across hosts, and find out whether it is still alive."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CLOCK_SECONDS = 5.0  #: by how much two readings of a process's start time may differ


def this_process() -> dict[str, Any]:
    """Return what identifies this process: pid, host, and start time (see `started`)."""
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "started": started(pid)}


def started(pid: int) -> float:
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
        is_same = abs(started(candidate.pid) - float(process["started"])) <= CLOCK_SECONDS
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False
    except psutil.Error:
        return None
    return is_same and not is_dead
