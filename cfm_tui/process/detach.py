"""Running a run in a detached process, which survives the terminal."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from engine.errors import UserError
from engine.store import StoredRun, open_log

_started: list[subprocess.Popen[bytes]] = []  # keeps the handles alive; nothing waits for these processes


def start_detached(folder: Path) -> int:
    """Start `cfm resume FOLDER` with its output in the run's log, and return its process ID.

    Waits until the process has taken over the run. Raises UserError("usage") with the end of the log if the
    process ends before that.
    """
    # -P: do not import modules from the current folder
    command = [sys.executable, "-P", "-m", "cfm_tui", "resume", str(folder.absolute())]
    with open_log(folder) as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    _started.append(process)
    stored = StoredRun(folder)
    while process.poll() is None:
        with suppress(UserError):  # the status is being written
            if stored.status().get("pid") == process.pid:
                return process.pid
        time.sleep(0.1)
    if stored.state() == "finished":
        return process.pid
    log_end = " / ".join(stored.log().splitlines()[-5:])
    raise UserError(
        "usage", f"the detached run ended immediately: {log_end}", f"run `cfm resume {folder}` to see why"
    )
