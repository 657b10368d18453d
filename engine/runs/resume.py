"""Open the run of a plan; of an existing run, decide which settings may still change, and refuse the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config import settings
from engine.config.identity import changed_settings
from engine.errors import UserError, format_names
from engine.events import STAGES, Stage
from engine.runs.execution import read_session_plan
from engine.runs.plan import Plan
from engine.runs.results import read_results
from engine.store import Run, StoredRun, open_run

#: The first stage that reads a setting; longer keys win. Settings that are not listed are read by all stages.
_FIRST_READ: dict[str, Stage] = {
    "objective": "recover",
    "objective.taps": "statistics",
    "objective.patch": "statistics",
    "statistics": "statistics",
    "ipc": "recover",
    "recover": "recover",
    "relabel": "relabel",
    "validate": "relabel",
    "given": "recover",
}


#: The inputs that a resumed run must share with its first session, why they differ, and the remedy.
_INPUTS = (
    ("data", "with other images: the data set has changed since", ""),
    ("images", "of other given images, or they have changed", "use the original ones, or "),
    ("labels", "with other given labels", "use the original ones, or "),
    ("statistics", "with other given statistics", "use the original ones, or "),
    ("teacher", "with another teacher", "use the teacher that it started with, or "),
)


def open_planned_run(
    plan: Plan,
    folder: Path,
    origins: dict[str, str],
    command: Sequence[str] = (),
    parent: Run | None = None,
) -> Run:
    """Open the run of a plan in `folder` and take ownership: a new run, or the existing one.

    origins: the settings layer that set each dotted key. parent: the run of which this is a repeat. Raises
    UserError("usage") if `folder` contains something else or a run that cannot have the plan's settings,
    UserError("disk") if another process owns it or it cannot be written.
    """
    return open_run(
        folder,
        plan.manifest(folder.name, origins, command),
        settings.to_yaml(plan.config, origins),
        lambda stored: refuse_changes(plan, stored),
        parent,
    )


def refuse_changes(plan: Plan, stored: StoredRun) -> bool:
    """Return whether a resumed run adopts changed settings; refuse changes that would alter finished work.

    A setting may change if it does not affect results, or if no stage has read it yet.
    Raises UserError("usage") if the run in the folder has other settings, images, labels or statistics,
    another teacher, or more finished repeats.
    """
    stored_identity, identity = stored.manifest()["identity"], plan.identity
    for name, reason, remedy in _INPUTS:
        if stored_identity.get(name) != identity.get(name):
            raise _other_run_error(stored, reason, remedy)
    results = read_results(stored)
    finished = 0 if results is None else len(results["repeats"])
    if plan.config.repeats < finished:
        message = (
            f"{stored.folder} has the results of {finished} repeats; repeats = {plan.config.repeats} is fewer"
        )
        raise UserError("usage", message, f"give --repeats {finished} or more")
    before = settings.load_stored(stored).config
    if stored_identity.get("config") == identity["config"]:
        return before != plan.config
    changed = changed_settings(before, plan.config)
    last_begun = max((STAGES.index(stage) for stage in stored.started_stages()), default=-1)
    refused = [key for key in changed if STAGES.index(first_read(key)) <= last_begun]
    if refused:
        shown = ["{} is {} there and {} here".format(key, *changed[key]) for key in refused]
        raise _other_run_error(
            stored, f"with other settings: {format_names(shown, 6, '; ')}", "keep the original values, or "
        )
    return True


def stored_config(
    stored: StoredRun, sets: Sequence[str] = (), overrides: Mapping[str, object] | None = None
) -> settings.Resolved:
    """Return the settings that a run was started with, with changes applied.

    sets: `KEY=VALUE`. overrides: values by dotted key. Raises UserError: the stored configuration is damaged,
    or a change is invalid.
    """
    before = settings.load_stored(stored).config.flatten()
    resolved = settings.load_stored(stored, sets, overrides)
    stored_origins, after = stored.manifest().get("origins", {}), resolved.config.flatten()
    origins = {
        key: stored_origins.get(key, origin) if before[key] == after[key] else origin
        for key, origin in resolved.origins.items()
    }
    return settings.Resolved(resolved.config, origins)


def first_read(key: str) -> Stage:
    """Return the first stage that reads a setting, given its dotted key."""
    parents = [key]
    while "." in parents[-1]:
        parents.append(parents[-1].rpartition(".")[0])
    return next((_FIRST_READ[name] for name in parents if name in _FIRST_READ), "squeeze")


def _other_run_error(stored: StoredRun, reason: str, remedy: str) -> UserError:
    return UserError(
        "usage", f"{stored.folder} contains a run {reason}", f"{remedy}choose another folder with --out"
    )


def nonreproducible_reason(sessions: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why a run is not bit-for-bit equal to an uninterrupted one; None if it is."""
    plans = [read_session_plan(session) for session in sessions]
    if any(plan.threads == "adaptive" for plan in plans):
        return "the number of threads follows the machine (threads = adaptive)"
    compared: dict[str, list[Any]] = {
        "torch": [session["versions"].get("torch") for session in sessions],
        **{name: [session.get(name) for session in sessions] for name in ("device", "micro_batch")},
        "the number of threads": [plan.threads for plan in plans],
        "the architecture of students trained together": [", ".join(plan.stacked) for plan in plans],
    }
    for name, values in compared.items():
        first, other = values[0], next((value for value in values if value != values[0]), values[0])
        if other != first:
            return f"{name} was {first or 'unset'} in the first session and {other or 'unset'} later"
    return None
