"""A disk that becomes full: the run says what it needs, and goes on once there is room."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from cases import chosen
from cut import amiss, emptied, left_open, lost, pulled, taken_up
from faulty_disk import FaultyDisk

from engine.errors import UserError
from engine.store import files, lock

PARTS = 4
ROOM = ("write", "allocate")
NEEDED = re.compile(r"no room left for \S+: [0-9,]*[1-9][0-9,]* bytes are needed, [0-9,]+ are free$")
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


class FullDisk(FaultyDisk):
    """Has room for `number` − 1 pieces of what is written, and for nothing from then on."""

    def count(self, name):
        super().count(name)
        if self.failed and name in self.which:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcome of a run that nothing happens to, and how many pieces it writes."""
    folder, disk = tmp_path_factory.mktemp("whole"), FaultyDisk(which=ROOM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock.Heartbeat, "THREAD", False)
        patch.setattr(files, "disk", disk)
        assert pulled(folder).error is None
    return tiny.outcome(folder), sum(disk.calls[name] for name in ROOM)


def wrongly_stopped(told):
    """What is wrong with how a run on a full disk ended; empty for nothing."""
    if not isinstance(told.error, UserError) or told.error.kind != "disk":
        return f"it ended with {told.error!r}"
    if not NEEDED.fullmatch(told.error.message):
        return f"it does not tell the bytes that it needs: {told.error.message}"
    return "" if told.error.hint.startswith("free some space") else f"its hint is {told.error.hint}"


@pytest.mark.parametrize("part", range(PARTS))
def test_every_piece_that_finds_no_room(quick_folder, monkeypatch, tally, whole, part):
    outcome, pieces = whole
    for number in chosen(range(part + 1, pieces + 1, PARTS), few=4, seed=part):
        folder = emptied(quick_folder / "case")
        with monkeypatch.context() as patch:
            patch.setattr(files, "disk", FullDisk(number, errno.ENOSPC, ROOM))
            told = pulled(folder)
        why = wrongly_stopped(told)
        why = why or left_open(folder)
        again, used = taken_up(monkeypatch, folder)
        why = why or amiss(folder, again, outcome) or lost(told, again, used)
        tally("a full disk (no room from the Nth piece on)", not why, f"piece {number}: {why}")
    tally.done()


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_a_small_disk_in_memory(tmp_path, tally):
    """In a process that has a mount namespace of its own, so that nothing stays mounted."""
    user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    sizes = chosen(range(8, 260, 4), few=3)
    words = ["unshare", "--mount", *user, sys.executable, str(HERE / "small_disk.py"), str(tmp_path)]
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE), str(HERE.parent / "support")])
    try:
        done = subprocess.run(
            [*words, *map(str, sizes)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
            timeout=600,
        )
    except FileNotFoundError:
        pytest.skip("there is no `unshare`, so no small disk can be mounted")
    if "cannot mount" in done.stderr or done.stderr.startswith("unshare"):
        pytest.skip(f"no small disk can be mounted here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert [case["kib"] for case in cases] == sizes
    for case in cases:
        tally("a full disk (a small tmpfs)", not case["why"], f"{case['kib']} KiB: {case['why']}")
    assert any(case["stopped"] for case in cases)
    tally.done()
