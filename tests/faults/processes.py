"""`cfm` commands as processes of their own, to be killed, signalled and cut off from their terminals.

By default they are born of a process that has already loaded everything, which saves the seconds that
loading takes; with CFM_FAULTS=all each is started as a user starts it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bar import FULL
from commandline import REPOSITORY

#: Signals as from a terminal: a shell's background job, or nohup, and all that it starts, ignores some.
HEAD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
for number, path in enumerate({paths}):
    fd = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(fd, number)
    os.close(fd)
"""
TERMINAL = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.setsid()
fd = os.open({path!r}, os.O_RDWR)
for number in range(3):
    os.dup2(fd, number)
os.close(fd)
"""
TAIL = "\nfrom cfm_tui.cli import main\nmain()"
#: Its children end as an interpreter does, but for taking apart what was loaded: that takes a second.
NURSERY = """
import atexit, gc, json, os, sys, threading, traceback
def live(code):
    try:
        exec(code, {})
        left = 0
    except SystemExit as end:
        left = end.code or 0
    except BaseException:
        traceback.print_exc()
        left = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        left = 120
    os._exit(left)
import cfm_tui.cli, cfm_tui.display.progress, cfm_tui.display.tables
import cfm_tui.process.detach, cfm_tui.process.signals
import engine.runs.launch, engine.runs.pipeline, engine.runs.thread, rich.progress
gc.freeze()
os.write(1, b"[]\\n")
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        pid, status = os.waitpid(order["wait"], os.WNOHANG)
        found = os.waitstatus_to_exitcode(status) if pid else None
    else:
        found = os.fork()
    if found == 0 and "code" in order:
        os.environ.clear()
        os.environ.update(order["environment"])
        sys.argv = ["cfm", *order["words"]]
        live(order["code"])
    os.write(1, json.dumps([found]).encode() + b"\\n")
"""


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without its settings, on one processor, and what is to be changed of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CFM_")}
    pinned = {"OMP_NUM_THREADS": "1", "CFM_VALIDATE__TOGETHER": "never"}
    return {**kept, **pinned, "PYTHONPATH": str(REPOSITORY), **changes}


class Process:
    """A started `cfm` command; what it prints is kept in files."""

    def __init__(self, pid: int, poll, out: Path, err: Path) -> None:
        self.pid = pid
        self._poll = poll
        self._out = out
        self._err = err
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative where a signal killed it; None while it lives."""
        if self.returncode is None:
            self.returncode = self._poll()
        return self.returncode

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit code, once it has ended."""
        until(lambda: self.poll() is not None, seconds, self.said)
        return self.returncode  # type: ignore[return-value]

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send(signal.SIGKILL)

    def out(self) -> str:
        """What it printed on stdout, so far."""
        return self._out.read_text() if self._out.is_file() else ""

    def err(self) -> str:
        """What it printed on stderr, so far."""
        return self._err.read_text() if self._err.is_file() else ""

    def said(self) -> str:
        """All of it, for a message."""
        return f"stdout: {self.out()}\nstderr: {self.err()}"


class Nursery:
    """Bears `cfm` processes; those that are left at the end are killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._born: list[Process] = []
        self._mother: subprocess.Popen[str] | None = None

    def __enter__(self) -> Nursery:
        return self

    def _bear(self) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        mother = subprocess.Popen([sys.executable, "-c", NURSERY], cwd=REPOSITORY, env=environment(), **pipes)
        mother.stdout.readline()
        return mother

    def __exit__(self, *_: object) -> None:
        for process in self._born:
            process.kill()
        if self._mother is not None:
            self._mother.kill()
            self._mother.communicate()

    def cfm(
        self, *words, code="", terminal="", out=None, err=None, born: bool = not FULL, **changes: str
    ) -> Process:
        """Start `cfm WORDS`.

        code: Python, executed before it. terminal: the name of one to live in. out, err: other places for
        what it prints, such as pipes. born: of the process that has loaded everything; else it is started
        as a user starts it. changes: of its environment.
        """
        number = len(self._born)
        out, err = out or self._folder / f"{number}.out", err or self._folder / f"{number}.err"
        head = HEAD.format(paths=[os.devnull, str(out), str(err)])
        code = head + (TERMINAL.format(path=terminal) if terminal else "") + code + TAIL
        told = [str(word) for word in words]
        begin = self._fork if born else _started
        process = Process(*begin(code, told, environment(**changes)), Path(out), Path(err))
        self._born.append(process)
        return process

    def _fork(self, code: str, words: list[str], env: dict[str, str]):
        pid = self._ask({"code": code, "words": words, "environment": env})
        return pid, lambda: self._ask({"wait": pid})

    def _ask(self, order: dict[str, object]):
        self._mother = self._mother or self._bear()
        self._mother.stdin.write(json.dumps(order) + "\n")
        self._mother.stdin.flush()
        return json.loads(self._mother.stdout.readline())[0]


def _started(code: str, words: list[str], env: dict[str, str]):
    process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=REPOSITORY, env=env)
    return process.pid, process.poll


def until(true, seconds: float = 60.0, said=lambda: "", every: float = 0.005) -> None:
    """Wait until something holds. Fails with what is `said` where it does not come to that."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, said()
        time.sleep(every)
