"""Running `cfm` in a separate process: detached, to survive the terminal, a sweep, or one of its points."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from engine.errors import UserError, quote_command
from engine.store import StoredRun, open_log, record_start
from engine.store.sweeps import StoredSweep

_started: list[subprocess.Popen[bytes]] = []  # keeps the handles alive; nothing waits for these processes


def start_program(
    arguments: list[str], log: IO[Any], environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `cfm` with its output in `log`, in a session of its own, so that Ctrl-C does not reach it."""
    command = [sys.executable, "-P", "-m", "cfm_tui", *arguments]  # -P: do not import from the current folder
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )


def launch_detached(folder: Path, *, paused: bool = False) -> subprocess.Popen[bytes]:
    """Start `cfm resume FOLDER` with its output in the run's log; it takes over the run some seconds later.

    paused: it pauses the run at once.
    """
    options = ["--paused"] if paused else []
    with open_log(folder) as log:
        process = start_program(["resume", str(folder.absolute()), *options], log)
    _started.append(process)
    record_start(folder, process.pid)
    return process


def start_detached(folder: Path, *, paused: bool = False) -> int:
    """Start `cfm resume FOLDER` as `launch_detached` does, and return its process ID.

    Waits until the process has taken over the run. Raises UserError("usage") with the end of the log if the
    process ends before that.
    """
    process = launch_detached(folder, paused=paused)
    stored = StoredRun(folder)
    while process.poll() is None:
        with suppress(UserError):  # the status is being written
            if stored.status().get("pid") == process.pid:
                return process.pid
        time.sleep(0.1)
    if stored.state() == "finished":
        return process.pid
    log_end = " / ".join(stored.log().splitlines()[-5:])
    problem = f"the detached run ended immediately: {log_end}"
    raise UserError("usage", problem, f"run {quote_command('resume', folder)} to see why")


def start_sweep(folder: Path, *, failed_only: bool) -> int:
    """Start `cfm sweep FOLDER` with its output in the sweep's log, and return its process ID.

    failed_only: run only the points that failed. Waits until the process has taken over the sweep. Raises
    UserError("usage") with the end of the log if the process ends with an error before that.
    """
    options = ["--failed"] if failed_only else []
    with open_log(folder) as log:
        process = start_program(["sweep", str(folder.absolute()), *options], log)
    _started.append(process)
    stored = StoredSweep(folder)
    while process.poll() is None:
        owner = stored.owner()
        if owner is not None and owner["pid"] == process.pid:
            return process.pid
        time.sleep(0.1)
    if process.returncode == 0:
        return process.pid
    log_end = " / ".join(StoredRun(folder).log().splitlines()[-5:])
    problem = f"the process of the sweep ended immediately: {log_end}"
    raise UserError("usage", problem, f"run {quote_command('sweep', folder)} to see why")
