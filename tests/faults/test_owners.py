"""Twenty processes want the same run at the same moment: one has it, the others say who."""

from __future__ import annotations

import json
import signal
import socket

import pytest
from bar import FULL, cases
from processes import until

from engine.store.lock import locked

PROCESSES = 20
#: Each waits before it opens the run until all are there.
TOGETHER = """
import os, sys, time
from engine import store
from engine.runs.control import Steering
def wait_for(name):
    while not os.path.exists(os.path.join({place!r}, name)):
        time.sleep(0.005)
def open_run(*words, original=store.open_run):
    open(os.path.join({place!r}, "ready." + str(os.getpid())), "w").close()
    wait_for("begin")
    return original(*words)
"""
#: Whole `cfm` commands; the one that has the run stays at its first checkpoint until it is told to go on.
COMMANDS = """
store.open_run = open_run
def at(self, point, seconds=0.0, original=Steering.handle):
    wait_for("go on")
    yield from original(self, point, seconds)
Steering.handle = at
"""
#: The opening alone, without the seconds that loading takes.
OPENING = """
from pathlib import Path
from cfm_tui.cli import _report
stored = store.StoredRun(Path({run!r}))
try:
    owned = open_run(stored.folder, stored.manifest(), stored.config_yaml())
    wait_for("go on")
    owned.release()
    code = 0
except BaseException as error:
    code = _report(error, as_json=True)
sys.exit(code)
"""


def raced(case, number, code, **options):
    """Let the processes race; returns the one that has the run, still at work, and the others."""
    place = case.folder / f"race{number}"
    place.mkdir()
    code = (TOGETHER + code).format(place=str(place), run=str(case.run))
    racing = [case.start("--json", code=code, **options) for _ in range(PROCESSES)]
    said = lambda: "\n".join(process.said() for process in racing)  # noqa: E731
    until(lambda: len(list(place.glob("ready.*"))) == PROCESSES, 600, said, every=0.05)
    (place / "begin").touch()
    ended = lambda: sum(process.poll() is not None for process in racing) >= PROCESSES - 1  # noqa: E731
    until(ended, 120, said, every=0.05)
    winners = [process for process in racing if process.poll() is None]
    assert len(winners) == 1, said()
    (place / "go on").touch()
    return winners[0], [process for process in racing if process is not winners[0]]


def require_told(loser, winner):
    """It ended in words that name who has the run."""
    assert loser.returncode == 2, loser.said()
    error = json.loads(loser.out())["error"]
    assert error["kind"] == "disk"
    assert f"process {winner.pid} on {socket.gethostname()} since 20" in error["message"]
    assert "Traceback" not in loser.err()


def left_behind(case, number):
    """A run that was killed, its owner's name still there, or one that was stopped."""
    process = case.start()
    case.at("recover", process)
    process.send((signal.SIGKILL, signal.SIGTERM)[number % 2])
    process.wait()
    assert (case.run / "owner.json").exists() == (number % 2 == 0)


def test_twenty_race_to_open_a_run(case, counted):
    rounds = cases(3, 20)
    left_behind(case, 0)
    for number in rounds:
        with counted(f"two owners: {PROCESSES} open one run"):
            winner, others = raced(case, number, OPENING, born=True)
            for loser in others:
                require_told(loser, winner)
            assert winner.wait() == 0, winner.said()
            assert len(case.stored.manifest()["sessions"]) == number + 2
    case.finish()


@pytest.mark.skipif(not FULL, reason="it takes minutes; CFM_FAULTS=all tries it")
@pytest.mark.parametrize("number", range(3))
def test_twenty_commands_race_for_one_run(case, counted, number, tmp_path_factory):
    """The run is new, was killed, or was stopped; who has it comes to its end.

    One race at a time, whatever else is tried beside it: twenty whole commands need about 10 GB.
    """
    alone = locked(tmp_path_factory.getbasetemp().parent / "race.lock")
    with alone, counted(f"two owners: {PROCESSES} commands for one run"):
        fresh = number % 3 == 0
        if not fresh:
            left_behind(case, number % 3 - 1)
        winner, others = raced(case, number, COMMANDS)
        for loser in others:
            require_told(loser, winner)
        assert winner.wait() == 0, winner.said()
        case.require_whole()
        assert len(case.stored.manifest()["sessions"]) == (1 if fresh else 2)
