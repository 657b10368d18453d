"""A run handed to a process of its own, in a session of its own: it outlives the terminal."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from engine.errors import UserError
from engine.store import StoredRun, open_log

POLL_SECONDS = 0.1
_started: list[subprocess.Popen[bytes]] = []  # nobody waits for their end
LAST_LINES = 5  # of the log, where the process did not come up


def detached(folder: Path) -> int:
    """Start `cfm resume FOLDER` with its output in the run's log; returns its process number.

    Waits until that process is at work on the run. Raises UserError("usage") with the end of its log where it
    ends before that.
    """
    # -P: what lies in the current folder is no part of the program
    words = [sys.executable, "-P", "-m", "cfm_tui", "resume", str(folder.absolute())]
    with open_log(folder) as log:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    _started.append(process)
    stored = StoredRun(folder)
    while process.poll() is None:
        with suppress(UserError):  # being written
            if stored.status().get("pid") == process.pid:
                return process.pid
        time.sleep(POLL_SECONDS)
    if stored.state() == "finished":
        return process.pid
    last = " / ".join(stored.log().splitlines()[-LAST_LINES:])
    raise UserError("usage", f"the detached run ended at once: {last}", f"`cfm resume {folder}` says more")
