"""Every call by which a whole run changes the disk fails, or is the last one made, or lies."""

import hashlib
import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
from cases import chosen
from cut import Told, amiss, differing, emptied, left_open, lost, pulled, taken_up
from faulty_disk import CALLS, FaultyDisk
from lossy_disk import LossyDisk, PowerLoss, needs_open_files

from engine import store
from engine.errors import UserError
from engine.store import files, images, lock
from engine.store.rows import Rows, partial

PARTS = 8  # tests that share the calls, so that several processes can


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Calls are counted: the heartbeat's come when they like."""
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcome of a run that nothing happens to, and how many calls it makes."""
    folder, disk = tmp_path_factory.mktemp("whole"), FaultyDisk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock.Heartbeat, "THREAD", False)
        patch.setattr(files, "disk", disk)
        told = pulled(folder)
    assert told.error is None
    return tiny.outcome(folder), sum(disk.calls.values())


def numbers(calls, part, few):
    """The calls of one part that are tried; the last part ends with a run that is not touched."""
    return chosen(range(part + 1, calls + 2, PARTS), few, seed=part)


def on(monkeypatch, disk, folder, events=None):
    with monkeypatch.context() as patch:
        patch.setattr(files, "disk", disk)
        return pulled(folder, events)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_call_that_fails(quick_folder, monkeypatch, tally, whole, part):
    outcome, calls = whole
    for number in numbers(calls, part, few=2):
        folder = emptied(quick_folder / "case")
        disk = FaultyDisk(number)
        told = on(monkeypatch, disk, folder)
        why = "" if disk.failed == (number <= calls) else "other calls than in the whole run"
        if told.error is None:  # what only tidies up may fail
            why = why or amiss(folder, told, outcome)
        elif not isinstance(told.error, UserError) or told.error.kind != "disk":
            why = why or f"it ended with {told.error!r}"
        why = why or left_open(folder)
        again, used = taken_up(monkeypatch, folder)
        why = why or amiss(folder, again, outcome) or lost(told, again, used)
        tally("a failing call", not why, f"call {number}: {why}")
    tally.done()


class Torn(LossyDisk):
    """What was not synced may be there in part: the beginning of what was appended, some sectors.

    lost(number) is called before each call: it may look what would be left if the power were lost there.
    """

    SECTOR = 512

    def __init__(self, root, lost):
        self._held = {}  # a handle of each file, by its inode
        self._look = lost
        super().__init__(root)

    def count(self):
        super().count()
        self._look(self.made)

    def leave_both(self, worst, mixed, seed):
        """What is left at worst in one folder, and by chance in another."""
        inode, self._chance = os.stat(self.root).st_ino, random.Random(seed)
        self._build(inode, self.root, worst, None)
        self._build(inode, self.root, mixed, self._chance)

    def _pin(self, path):
        inode = os.stat(path).st_ino
        if inode not in self._held:
            self._held[inode] = super()._pin(path)
        return self._held[inode]

    def _read(self, inode, otherwise):
        rng, now = self._chance, Path(f"/proc/self/fd/{self._held[inode]}").read_bytes()
        if now.startswith(otherwise):
            return now[: rng.randint(len(otherwise), len(now))]
        if len(now) != len(otherwise):
            return now
        parts = range(0, len(now), self.SECTOR)
        return b"".join(rng.choice((now, otherwise))[at : at + self.SECTOR] for at in parts)


def broken_promise(folder, told):
    """What power loss has done to files that are replaced whole, or to images that were reported."""
    run = folder / "run"
    if not store.is_run(run):
        return "the run is lost" if told.events else ""
    allowed = ("torn while it was written", "metrics/recover.f32: rows", ".png")
    wrong = [line for line in store.verify_run(run) if not any(part in line for part in allowed)]
    for path in (folder / "cache").rglob("*.safetensors"):
        try:
            store.Cache(folder / "cache").load(path.parent.name, path.stem)
        except store.DamagedEntry as damage:
            wrong.append(str(damage))
    place = run / "images" / images.TENSORS
    if told.images and not place.is_file():
        place = partial(place)
    if told.images:
        wrong += [f"image {row} is lost" for row in Rows(place).damaged_rows(told.images)]
    if (
        "validate" in told.finished
        and isinstance(told.error, StopIteration)
        and not (run / "results.json").is_file()
    ):
        wrong.append("the results are lost")
    return "; ".join(wrong)


@dataclass
class Lost:
    """A power loss before a call: what was told until then, and what is left."""

    number: int
    told: Told
    left: dict[str, Path]


def losses(monkeypatch, place, wanted):
    """What power losses before each of the wanted calls of one run leave, and after it."""
    found, told, root = [], Told(), emptied(place / "case")

    def lost(number):
        if number in wanted:
            left = {name: emptied(place / f"{number}-{name}") for name in ("worst", "mixed")}
            disk.leave_both(left["worst"], left["mixed"], 1000 + number)
            found.append(Lost(number, Told([*told.events], told.error or PowerLoss()), left))

    disk = Torn(root, lost)
    with monkeypatch.context() as patch:
        patch.setattr(files, "disk", disk)
        pulled(root, told=told)
    assert told.error is None, repr(told.error)
    told.error = StopIteration()
    lost(disk.made + 1)
    disk.let_go()
    return found


@needs_open_files
@pytest.mark.parametrize("part", range(PARTS))
def test_a_power_loss(quick_folder, monkeypatch, tally, whole, part):
    outcome, calls = whole
    known = {}
    wanted = numbers(calls, part, few=1)
    cases = losses(monkeypatch, quick_folder, wanted)
    assert [case.number for case in cases] == wanted
    for case in cases:
        for name, folder in case.left.items():
            same = (content(folder), repr(case.told))
            if same not in known:
                known[same] = not_gone_on(monkeypatch, folder, case.told, outcome)
            why = known[same]
            tally(f"power loss ({name})", not why, f"call {case.number}, {name}: {why}")
            shutil.rmtree(folder)
    tally.done()


def content(folder):
    """The digest of all names and files: what was found for one folder holds for an equal one."""
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        state.update(f"{path.relative_to(folder)}\0".encode())
        if path.is_file():
            state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def not_gone_on(monkeypatch, folder, told, outcome):
    """What is wrong with what a power loss has left, or with how the run goes on; empty for nothing."""
    why = broken_promise(folder, told)
    again, used = taken_up(monkeypatch, folder)
    again.events = [each for each in again.events if not harmless(each)]
    return why or amiss(folder, again, outcome) or lost(told, again, used)


def harmless(event):
    """A warning of what may be left by a power loss: what was cut off, or is made good."""
    known = ("torn while it was written", "it was rewritten")
    return event.kind == "Notice" and any(part in event.message for part in known)


class LyingDisk(FaultyDisk):
    """Says that its `number`-th call was done, and does not do it."""

    said = ""

    def lies(self, name):
        self.calls[name] += 1
        if sum(self.calls.values()) != self.number:
            return False
        self.said = name
        return True


def _lying(name):
    def call(self, *args):
        if not self.lies(name) or name == "close":
            return getattr(files.Disk, name)(self, *args)
        if name == "open":  # all that is written there is gone
            handle, path = tempfile.mkstemp()
            os.unlink(path)
            return handle
        return len(args[1]) if name == "write" else None

    return call


for _name in CALLS:
    setattr(LyingDisk, _name, _lying(_name))


@pytest.mark.parametrize("part", range(PARTS))
def test_a_call_that_was_not_done(quick_folder, monkeypatch, tally, whole, part):
    outcome, calls = whole
    for number in numbers(calls, part, few=1):
        folder = emptied(quick_folder / "case")
        disk = LyingDisk(number)
        told = on(monkeypatch, disk, folder)
        why = silent(folder, told, outcome) or silent(folder, pulled(folder), outcome)
        tally("a call that was not done", not why, f"call {number} ({disk.said}): {why}")
    tally.done()


def known(folder, name):
    """Whether a shared artefact is absent, or set aside by whoever wants it: the next run makes it."""
    if not name.startswith("cache/"):
        return False
    path, cache = folder / name, store.Cache(folder / "cache")
    try:
        return path.suffix == ".tmp" or cache.load(path.parent.name, path.stem) is None
    except store.DamagedEntry:
        return True


def silent(folder, told, outcome):
    """Why a run is neither the same nor known to be damaged; empty where it is one of both."""
    if isinstance(told.error, UserError):
        return ""
    if told.error is not None:
        return f"it ended with {told.error!r}"
    names = [name for name in differing(folder, outcome) if not known(folder, name)]
    named = [*told.warnings, *store.verify_run(folder / "run")]
    return f"other outcome without a word: {names}" if names and not named else ""
