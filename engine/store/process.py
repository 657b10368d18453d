"""Which process on which host wrote something, and whether it still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

CLOCK_SECONDS = 5.0  #: by how much two readings of one process's beginning may differ when a clock is set


def this_process() -> dict[str, Any]:
    """This process for others to recognise: pid, host, and when it was started (seconds since 1970)."""
    import psutil

    return {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}


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
        same = abs(found.create_time() - float(process["started"])) <= CLOCK_SECONDS
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False
    except psutil.Error:
        return None
    return same and not dead
