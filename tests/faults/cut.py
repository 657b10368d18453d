"""Runs that were cut, in this process: what they told, what taking them up again gives, what differs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import tiny

from engine import store
from engine.events import STAGES, Event, Notice, StageFinished
from engine.store.run import Run


@dataclass
class Told:
    """What a run said before it ended, and how it ended."""

    events: list[Event] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def warnings(self) -> list[str]:
        """What a person was warned of."""
        return [each.message for each in self.events if isinstance(each, Notice) and each.level == "warning"]

    @property
    def reused(self) -> set[str]:
        """Stages of which nothing was computed."""
        return {each.stage for each in self.events if isinstance(each, StageFinished) and each.reused}

    @property
    def finished(self) -> set[str]:
        """Stages that were told to be finished."""
        return {each.stage for each in self.events if isinstance(each, StageFinished)}

    @property
    def saved(self) -> dict[str, int]:
        """The last checkpoint of each stage that was reported."""
        return {each.stage: each.number for each in self.events if each.kind == "Checkpointed"}

    @property
    def images(self) -> int:
        """How many images were reported to be recovered."""
        return sum(each.images for each in self.events if each.kind == "BatchRecovered")


def pulled(folder: Path, events: int | None = None, plan=None, told: Told | None = None) -> Told:
    """Begin the run in a folder, or take it up, and pull so many of its events; all unless told.

    told: gets what is said, so that others can look meanwhile.
    """
    told = Told() if told is None else told
    try:
        work = tiny.begun(folder, plan)
        while events is None or len(told.events) < events:
            told.events.append(next(work))
        work.close()
    except StopIteration:
        pass
    except BaseException as error:
        told.error = error
    return told


def taken_up(monkeypatch, folder: Path, plan=None) -> tuple[Told, dict[str, int]]:
    """Take a run up and pull it to its end; also which checkpoint each stage went on from."""
    used: dict[str, int] = {}
    original = Run.latest_checkpoint

    def saved(run, stage):
        found = original(run, stage)
        if found is not None:
            used[stage] = found.number
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Run, "latest_checkpoint", saved)
        return pulled(folder, plan=plan), used


def differing(folder: Path, whole: dict[str, str]) -> list[str]:
    """Names of what is not as in the uninterrupted run, or is in one of both only."""
    try:
        found = tiny.outcome(folder)
    except (OSError, KeyError, ValueError) as error:
        return [f"{type(error).__name__}: {error}"]
    return sorted(name for name in {*found, *whole} if found.get(name) != whole.get(name))


def amiss(folder: Path, told: Told, whole: dict[str, str]) -> str:
    """What is wrong with a run that is to be finished, whole and without a warning; empty for nothing."""
    wrong = []
    if told.error is not None:
        wrong.append(f"it ended with {told.error!r}")
    if told.warnings:
        wrong.append(f"it warned: {told.warnings}")
    if names := differing(folder, whole):
        wrong.append(f"other outcome: {names}")
    if damage := store.verify_run(folder / "run"):
        wrong.append(f"damaged: {damage}")
    if others := store.list_foreign_files(folder / "run"):
        wrong.append(f"left behind: {others}")
    if not wrong and (state := store.StoredRun(folder / "run").state()) != "finished":
        wrong.append(f"its state is {state}")
    return "; ".join(wrong)


def lost(before: Told, after: Told, used: dict[str, int]) -> str:
    """What was reported saved or finished and was not used; empty for nothing."""
    wrong = []
    if any(isinstance(each, Notice) and "is finished" in each.message for each in after.events):
        return ""
    for stage in STAGES:
        kept = stage in before.finished and stage != "validate"  # the students are on disk with the results
        if kept and stage not in after.reused:
            wrong.append(f"{stage} was finished and is done again")
        if not kept and stage not in after.reused and used.get(stage, 0) < before.saved.get(stage, 0):
            wrong.append(f"{stage} went on from {used.get(stage)} instead of {before.saved[stage]}")
    return "; ".join(wrong)


def emptied(folder: Path) -> Path:
    """A new folder; one that is there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def rest(folder: Path, events: int) -> Path:
    """What lies in a folder when the process that computes a run there dies after so many events."""
    work = tiny.begun(folder / "at work")
    for _ in range(events):
        next(work)
    shutil.copytree(folder / "at work", folder / "left")
    work.close()
    return folder / "left"


def left_open(folder: Path) -> str:
    """Files below a folder that this process still has open; empty for none, or where it cannot be seen."""
    found = []
    for handle in Path("/proc/self/fd").glob("*"):
        try:
            path = handle.readlink()
        except OSError:  # the handle with which these are listed
            continue
        if path.is_relative_to(folder):
            found.append(str(path.relative_to(folder)))
    return f"still open: {', '.join(found)}" if found else ""
