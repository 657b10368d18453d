"""A journal that ends within one of its last two records, at every byte of both."""

import shutil

import pytest
import tiny
from cases import chosen
from cut import differing, emptied, pulled

from engine import store
from engine.events import STAGES
from engine.store import journal, lock

NUMBERS = "metrics/recover.f32"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run, and runs as they lie when their process dies in each of the stages, by name."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock.Heartbeat, "THREAD", False)
        events = pulled(place / "finished").events
        found = {"finished": place / "finished"}
        for stage in STAGES:
            count = died_at(events, stage)
            work = tiny.begun(place / "at work")
            for _ in range(count):
                next(work)
            shutil.copytree(place / "at work", place / stage)
            work.close()
            shutil.rmtree(place / "at work")
            found[stage] = place / stage
    return found


def died_at(events, stage):
    """After how many events a run dies: at a record that is not the stage's last, if it has several."""
    within = [
        number for number, event in enumerate(events, start=1) if getattr(event, "stage", None) == stage
    ]
    return within[2 * len(within) // 3]


def records(path):
    return [(record.seq, record.kind, record.payload) for record in journal.read(path)]


@pytest.mark.parametrize("name", ["finished", *STAGES])
def test_a_journal_that_is_torn(quick_folder, tally, runs, name):
    content = (runs[name] / "run" / "journal.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    all_records = records(runs[name] / "run" / "journal.jsonl")
    whole = tiny.outcome(runs["finished"])
    begin = len(content) - len(lines[-1]) - len(lines[-2])
    for size in chosen(range(begin, len(content)), few=4, seed=len(content)):
        folder = quick_folder / "case"
        emptied(folder)
        shutil.copytree(runs[name], folder, dirs_exist_ok=True)
        path = folder / "run" / "journal.jsonl"
        path.write_bytes(content[:size])
        stand = content[:size].count(b"\n")
        why = ""
        if records(path) != all_records[:stand]:
            why = "earlier records are not read"
        events = list(store.StoredRun(folder / "run").events())
        why = why or ("" if len(events) == stand else "earlier events are not read")
        torn = size > begin and not content[:size].endswith(b"\n")
        damage = journal.damage(path)
        if bool(damage) != torn or not all("torn while it was written" in told for told in damage):
            why = why or f"told of the torn one: {damage}"
        told = pulled(folder)
        why = why or gone_on(folder, told, all_records[:stand], whole, torn)
        tally("a torn journal", not why, f"{name}, {size} of {len(content)} bytes: {why}")
    tally.done()


def gone_on(folder, told, before, whole, torn):
    """What is wrong with a run that was taken up again; empty for nothing."""
    if told.error is not None:
        return f"it ended with {told.error!r}"
    after = records(folder / "run" / "journal.jsonl")
    if after[: len(before)] != before:
        return "earlier records are gone"
    if [seq for seq, _, _ in after] != list(range(1, len(after) + 1)):
        return "its numbers have gaps"
    if len(after) != len(before) + len(told.events):
        return f"{len(after)} records instead of {len(before) + len(told.events)}"
    if [kind for _, kind, _ in after[len(before) :]] != [event.kind for event in told.events]:
        return "other records were appended"
    if any("torn while it was written" in warning for warning in told.warnings) != torn:
        return f"warned: {told.warnings}"
    names, damage = differing(folder, whole), store.verify_run(folder / "run")
    if unvouched(told):
        names = [name for name in names if name != NUMBERS]
        damage = [line for line in damage if NUMBERS not in line]
    return f"other outcome: {names}, {told.warnings}" if names else "; ".join(damage)


def unvouched(told):
    """Whether numbers were given up, aloud: a record is torn away that a later checkpoint relies on.

    No process leaves that behind, for the journal is synced before a checkpoint is written; a knife does.
    """
    return any(f"{NUMBERS}: rows" in warning and "NaN now" in warning for warning in told.warnings)
