"""The console in a real terminal: tmux drives it, its screen is read, and the terminal is taken away."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress

import psutil
import pytest
from commandline import REPOSITORY

from engine import store
from engine.config import settings
from engine.runs import launch
from engine.store import StoredRun, control

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
SECONDS = 120
MODE = "stty -a | tr ' ' '\\n' | grep icanon"  # whether the terminal gives whole lines, as it should
SLOW = ("recover.iterations=100000", "checkpoint_seconds=1")


class Tmux:
    """A terminal of its own with one program in it."""

    def __init__(self, folder, words, size, **environment):
        self.socket, self.folder = f"cfm-{uuid.uuid4().hex[:8]}", folder
        told = {
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
        }
        told |= {"CFM_RUNS": str(folder / "runs"), "CFM_CACHE": str(folder / "cache"), **environment}
        setting = " ".join(f"{name}={shlex.quote(value)}" for name, value in told.items())
        code = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
        code += "from cfm_tui.cli import console, main; "
        code += "console() if sys.argv[1] == 'tui' else main()"
        code = code.replace("console()", "(sys.argv.pop(1), console())").replace(
            "main()", "(sys.argv.pop(1), main())"
        )
        program = shlex.join([sys.executable, "-P", "-c", code, *words])
        line = f"unset NO_COLOR COLORTERM; {setting} {program}; echo LEFT $?; {MODE}; sleep 600"
        columns, lines = size
        self("new-session", "-d", "-x", str(columns), "-y", str(lines), "-c", str(folder), line)

    def __call__(self, *words):
        command = ["tmux", "-L", self.socket, "-f", "/dev/null", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout

    def screen(self):
        return self("capture-pane", "-p")

    def press(self, *keys):
        self("send-keys", *keys)

    def until(self, there, seconds=SECONDS):
        """Wait for a text on screen, or until `there()`."""
        holds = there if callable(there) else lambda: there in self.screen()
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{there}\n{self.screen()}"
            time.sleep(0.1)

    def console(self):
        """The process of the console."""
        pid = int(self("display-message", "-p", "#{pane_pid}"))
        return next(each for each in psutil.Process(pid).children(recursive=True) if "python" in each.name())

    def close(self):
        """Take the terminal away."""
        self("kill-server")


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def open_one(*words, size=(80, 24), **environment):
        opened.append(Tmux(tmp_path, words, size, **environment))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()
    for run in store.list_runs(tmp_path / "runs"):
        owner = run.owner()
        if owner is not None:
            with suppress(ProcessLookupError):
                os.kill(owner["pid"], signal.SIGKILL)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that was begun and not yet computed; it takes hours."""
    monkeypatch.chdir(tmp_path)
    resolved = settings.resolve(preset="smoke", sets=SLOW)
    _, owned = launch.prepare_run(resolved, tmp_path / "runs" / "slow", "slow")
    owned.release()
    return StoredRun(tmp_path / "runs" / "slow")


def at_work_in(run, state="running"):
    """The process that recovers the run now; None while there is none."""
    status = run.status()
    there = status.get("state") == state and status.get("stage") == "recover" and run.checkpoints() > 0
    return status["pid"] if there and run.state() == state else None


def resumed_here(terminal, run):
    """The console, computing the run itself."""
    tmux = terminal("tui")
    tmux.until("slow")
    tmux.press("o")
    tmux.until("Resume ")
    tmux.press("h")
    tmux.until(lambda: at_work_in(run) is not None)
    assert at_work_in(run) == tmux.console().pid
    return tmux


def goes_on_elsewhere(run, console, seconds=SECONDS):
    """Wait until another process has the run, and the console is gone."""
    deadline = time.monotonic() + seconds
    while at_work_in(run) in (None, console.pid) or (console.is_running() and console.status() != "zombie"):
        assert time.monotonic() < deadline, (run.status(), run.log())
        time.sleep(0.2)
    control.request(run.folder, "stop")
    while run.state() != "stopped":
        assert time.monotonic() < deadline, (run.status(), run.log())
        time.sleep(0.2)
    assert not store.verify_run(run.folder)


def test_a_closed_terminal_hands_the_run_over(terminal, run):
    tmux = resumed_here(terminal, run)
    console = tmux.console()
    tmux.close()
    goes_on_elsewhere(run, console)


def test_leaving_detached_hands_the_run_over(terminal, run):
    tmux = resumed_here(terminal, run)
    console = tmux.console()
    tmux.press("q")
    tmux.until("A run is active in this console")
    tmux.press("d")
    tmux.until("LEFT 0")
    assert "cfm attach" in tmux.screen()
    goes_on_elsewhere(run, console)


def test_leaving_stopped_saves_the_run(terminal, run):
    tmux = resumed_here(terminal, run)
    tmux.press("q")
    tmux.until("A run is active in this console")
    tmux.press("s")
    tmux.until("LEFT 0")
    assert "cfm resume" in tmux.screen()
    assert run.state() == "stopped"
    assert not store.verify_run(run.folder)


def test_remaining_changes_nothing(terminal, run):
    tmux = resumed_here(terminal, run)
    tmux.press("q")
    tmux.until("A run is active in this console")
    tmux.press("r")
    tmux.until(lambda: "A run is active in this console" not in tmux.screen())
    assert at_work_in(run) == tmux.console().pid


def test_sigterm_saves_the_run_and_ends(terminal, run):
    tmux = resumed_here(terminal, run)
    tmux.console().send_signal(signal.SIGTERM)
    tmux.until("LEFT 143")
    assert run.state() == "stopped"
    tmux.until(lambda: re.search(r"^icanon", tmux.screen(), re.MULTILINE))


def test_schedulers_warn_of_the_end_and_the_run_is_saved(terminal, run):
    tmux = resumed_here(terminal, run)
    before = run.checkpoints()
    for name in (signal.SIGUSR1, signal.SIGUSR2):
        tmux.console().send_signal(name)
    tmux.until(lambda: run.checkpoints() > before)
    assert at_work_in(run) == tmux.console().pid


def test_a_console_that_is_halted_and_let_go_on_is_as_it_was(terminal, run):
    tmux = resumed_here(terminal, run)
    console = tmux.console()
    console.suspend()
    tmux.press("?")
    time.sleep(1)
    assert "type to find a command" not in tmux.screen()
    console.resume()
    tmux.until("type to find a command")
    tmux.press("Escape")
    before = run.status()["done"]
    tmux.until(lambda: run.status()["done"] > before)
    assert at_work_in(run) == console.pid


def test_a_terminal_closed_while_a_run_stops_does_not_begin_it_again(terminal, run):
    tmux = resumed_here(terminal, run)
    console = tmux.console()
    tmux.press("q")
    tmux.until("A run is active in this console")
    tmux.press("s")
    tmux.close()
    console.wait(SECONDS)
    assert run.state() == "stopped"


def test_a_console_whose_terminal_is_gone_does_not_spin(terminal, tmp_path):
    tmux = terminal("tui")
    tmux.until("No runs in")
    console = tmux.console()
    tmux.close()
    console.wait(20)


def test_without_a_terminal_it_says_what_to_use_instead():
    code = "from cfm_tui.cli import console; console()"
    left = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert left.returncode == 2
    assert "needs a terminal" in left.stderr
    assert "cfm run" in left.stderr


def test_the_whole_terminal_is_used_and_resizing_is_followed(terminal, run):
    tmux = terminal("tui", size=(120, 40))
    tmux.until("slow")
    for columns, lines in ((120, 40), (40, 12), (200, 60), (30, 5), (80, 24)):
        tmux("resize-window", "-x", str(columns), "-y", str(lines))
        fits = lambda columns=columns, lines=lines: fills(tmux.screen(), columns, lines)  # noqa: E731
        tmux.until(fits, 20)


def fills(screen, columns, lines):
    """The line above the table is as wide as the terminal, and the keys stand in its last line."""
    shown = screen.rstrip("\n").split("\n")
    wide = [line for line in shown if len(line) == columns and line.count("─") > columns - 60]
    return bool(wide) and len(shown) == lines


TERMINALS = [
    {"TERM": "xterm-256color"},
    {"TERM": "xterm"},
    {"TERM": "screen-256color"},
    {"TERM": "linux"},
    {"TERM": "xterm-256color", "NO_COLOR": "1"},
    {"TERM": "xterm-256color", "LANG": "C", "LC_ALL": "C"},
]


@pytest.mark.parametrize("environment", TERMINALS, ids=lambda each: "-".join(each.values()))
def test_every_terminal_shows_it(terminal, run, environment):
    tmux = terminal("tui", **environment)
    tmux.until("slow")
    if environment.get("LC_ALL") == "C":
        assert tmux.screen().isascii()
    if "NO_COLOR" in environment:
        raw = tmux("capture-pane", "-p", "-e")
        assert not re.search(r"\x1b\[[0-9;]*\b(3[0-8]|4[0-8]|9[0-7]|10[0-7])\b", raw)
    tmux.press("q")
    tmux.until("LEFT 0")
