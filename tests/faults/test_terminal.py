"""The terminal, or whoever reads what a run prints, goes away."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
from bar import FULL
from commandline import REPOSITORY, call
from processes import environment, until
from smallest import slow
from test_signals import IGNORED, require_stopped


class Terminal:
    """A terminal that somebody watches until it is closed."""

    def __init__(self):
        self._master, self._slave = os.openpty()
        self.name = os.ttyname(self._slave)
        self.shown = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._wish, self._wished = os.pipe()
        self._reader.start()

    def _read(self):
        while True:
            ready, _, _ = select.select([self._master, self._wish], [], [])
            if self._wish in ready:
                return
            with suppress(OSError):
                self.shown += os.read(self._master, 4096)

    def close(self):
        """As when its window is closed: those that live in it are told, and whatever they write fails."""
        os.write(self._wished, b"x")
        self._reader.join()
        for number in (self._master, self._slave, self._wish, self._wished):
            os.close(number)


class Pipe:
    """A named pipe with a reader that may go away."""

    def __init__(self, path):
        self.path = path
        os.mkfifo(path)
        self._end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def close(self):
        os.close(self._end)


@pytest.mark.parametrize(
    "when", ["once it is on its own", "while it comes up"] if FULL else ["while it comes up"]
)
def test_a_detached_run_outlives_its_terminal(case, counted, capsys, when):
    with counted(f"terminal gone, detached: closed {when}"):
        terminal = Terminal()
        at_home = (case.run / "log.txt").exists  # and the other process has said its first word there
        process = case.start("--detach", terminal=terminal.name)
        if when == "while it comes up":
            until(lambda: at_home() and case.stored.log(), said=lambda: str(terminal.shown))
        else:
            assert process.wait() == 0, terminal.shown
        terminal.close()
        process.wait()
        until(
            lambda: case.stored.state() not in ("new", "starting", "running"),
            120,
            case.stored.log,
            every=0.05,
        )
        case.require_whole()
        assert "all checksums match" in call(capsys, "check", case.run)[0]
        said = case.stored.log()
        assert "Traceback" not in said
        assert all(f"{stage}: " in said for stage in ("squeeze", "recover", "validate"))


@pytest.mark.parametrize("broken", [["err"], ["out"], ["out", "err"]])
def test_a_run_that_nobody_reads_any_more_goes_on(case, counted, tmp_path, broken):
    with counted(f"terminal gone, headless: std{' and std'.join(broken)} broken"):
        pipes = {name: Pipe(tmp_path / name) for name in broken}
        process = case.start(**{name: pipe.path for name, pipe in pipes.items()})
        case.at("squeeze", process)
        for pipe in pipes.values():
            pipe.close()
        code = process.wait()
        case.require_whole()
        assert code == (1 if "out" in broken else 0)  # the results could not be said
        if "out" not in broken:
            assert "distilled" in process.out()


def test_a_run_whose_terminal_is_closed_stops_with_a_checkpoint(case, counted):
    with counted("terminal gone, foreground: stopped"):
        terminal = Terminal()
        process = case.start(terminal=terminal.name, code=slow())
        case.at("recover", process)
        terminal.close()
        require_stopped(case, process, "SIGHUP", 143)
        case.finish()


def test_a_run_under_nohup_whose_terminal_is_closed_goes_on(case, counted):
    with counted("terminal gone, nohup: goes on"):
        terminal = Terminal()
        process = case.start(terminal=terminal.name, code=IGNORED)
        case.at("recover", process)
        terminal.close()
        process.wait()
        case.require_whole()


@pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here")
@pytest.mark.skipif(not FULL, reason="it takes long; CFM_FAULTS=all tries it")
def test_a_run_in_a_session_that_is_killed_stops_with_a_checkpoint(case, counted, tmp_path):
    with counted("terminal gone, tmux: stopped"):
        socket = str(tmp_path / "tmux")
        place = {"CFM_CACHE": str(case.folder / "cache"), "TMUX": ""}
        words = shlex.join([sys.executable, "-m", "cfm_tui", *case.words])
        tmux = ["tmux", "-S", socket]
        command = [*tmux, "-f", os.devnull, "new-session", "-d", words]
        subprocess.run(command, cwd=REPOSITORY, env=environment(**place), check=True)
        until(lambda: case.heard("StageStarted", stage="squeeze"))
        subprocess.run([*tmux, "kill-server"], check=True)
        until(lambda: case.stored.state() != "running", 60, lambda: str(case.stored.status()))
        assert case.stored.status()["state"] == "stopped"
        assert "SIGHUP" in case.stored.status()["message"]
        case.finish()


def test_a_watcher_whose_terminal_is_closed_leaves_the_run_alone(case, counted):
    with counted("terminal gone, watching: the run goes on"):
        terminal = Terminal()
        process = case.start(code=slow(0.1 if FULL else 0.02))
        case.at("squeeze", process)
        watching = case.nursery.cfm("watch", case.run, terminal=terminal.name)
        until(lambda: b"squeeze" in terminal.shown, said=lambda: str(terminal.shown))
        terminal.close()
        assert watching.wait() == 143
        assert process.wait() == 0, process.said()
        case.require_whole()
