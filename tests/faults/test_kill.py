"""A run that is killed at any moment, once or again, goes on from its last checkpoint, bit for bit."""

from __future__ import annotations

import shutil
import signal
import time

import numpy as np
import pytest
from bar import FULL, cases
from processes import until

from engine.events import STAGES
from engine.store import verify_run

KILLED = -signal.SIGKILL
WITHIN = 0.9  # of a stage's time in the undisturbed run
TRIES = 40  # to kill a run before it is finished: on a loaded machine the harness comes late


def kill_in(case, process, stage, seconds):
    """Kill a process so many seconds after it has come to a stage; whether it was still at work."""
    case.at(stage, process)
    time.sleep(seconds)
    return killed(case, process)


def killed(case, process):
    """Kill a process; whether the run was not finished yet."""
    process.kill()
    return process.wait() == KILLED and case.stored.state() != "finished"


def moment(case, rng, stage):
    """A moment within a stage, as seconds from its beginning."""
    return rng.uniform(0.0, WITHIN * case.undisturbed.seconds[stage])


def killed_once(case, rng, stage):
    """Begin a run and kill it in a stage."""
    for _ in range(TRIES):
        if kill_in(case, case.start(), stage, moment(case, rng, stage)):
            return
        shutil.rmtree(case.folder / "run")  # it was finished first
        shutil.rmtree(case.folder / "cache")
    raise AssertionError("the run was finished before it could be killed, again and again")


def killed_again(case, rng):
    """Resume, and kill it while it opens the run or in a stage that is left; False if it ended first."""
    process, now = case.resume(), case.stage()
    left = STAGES[STAGES.index(now) :] if now in STAGES else STAGES
    stage = str(rng.choice(["opening", *left]))
    if stage != "opening":
        return kill_in(case, process, stage, moment(case, rng, stage))
    owned = lambda: process.poll() is not None or (case.stored.owner() or {}).get("pid") == process.pid  # noqa: E731
    until(owned, said=process.said, every=0.001)
    time.sleep(rng.uniform(0.0, 0.03))
    return killed(case, process)


def require_readable(case):
    """What a kill leaves: a run told as lost, all of it whole but what was being written."""
    assert case.stored.state() == "lost"
    damage = case.stored.damage()
    assert len(damage) <= 1
    assert all("torn while it was written" in told for told in damage)
    told = [line for line in verify_run(case.run) if line not in damage]
    assert all("rows" in line and "metrics" in line for line in told), told
    for _ in case.stored.events():
        pass


@pytest.mark.parametrize("number", cases(5, 60))
def test_killed_in_any_stage(case, tally, number):
    rng = np.random.default_rng([7, number])
    killed_once(case, rng, STAGES[number % len(STAGES)])
    where, again = [case.stage()], 0
    require_readable(case)
    for _ in range((number % 3 == 1) + (number % 6 == 1) if FULL else number % 3 == 1):
        if not killed_again(case, rng):
            break
        where.append(case.stage())
        again += 1
        require_readable(case)
    held = False
    try:
        case.finish()
        held = True
    finally:
        tally(f"SIGKILL, {1 + again} times" if again else "SIGKILL, once", held)
        for stage in where:
            tally(f"SIGKILL in {stage}", held)


@pytest.mark.parametrize("number", cases(1, 12))
def test_killed_while_it_begins(case, tally, number):
    """Before the first stage: the folder is made, but perhaps nothing of a run is in it yet."""
    rng = np.random.default_rng([8, number])
    process = case.start()
    until(lambda: process.poll() is not None or case.run.exists(), said=process.said, every=0.0005)
    time.sleep(rng.uniform(0.0, 0.02))
    process.kill()
    assert process.wait() == KILLED
    held = False
    try:
        process = case.start()
        assert process.wait() == 0, process.said()
        case.require_whole()
        held = True
    finally:
        tally("SIGKILL before the first stage", held)
