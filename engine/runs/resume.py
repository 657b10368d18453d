"""A run that is there already: which settings may still change, and what is said about the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.config import settings
from engine.config.identity import LOCAL_SETTINGS
from engine.errors import UserError
from engine.events import STAGES, Stage
from engine.runs.plan import Plan
from engine.store import StoredRun

#: The first stage that reads a setting; longer keys win. What is not named is read from the beginning.
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
_SHOWN = 6  # settings that a message names


def differing_settings(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Dotted keys of results-changing settings whose values differ."""
    keys = [*now, *(key for key in there if key not in now)]
    return [key for key in keys if there.get(key) != now.get(key) and key not in LOCAL_SETTINGS]


def refuse_changes(plan: Plan, stored: StoredRun) -> bool:
    """Whether other settings are to be adopted: of where the run is computed, or that no stage read yet.

    Raises UserError("usage") where the folder's run is another one: with the settings that differ,
    or for other images, or another teacher.
    """
    there, now = stored.manifest()["identity"], plan.identity()
    if there.get("data") != now["data"]:
        raise _another(stored, "with other images: those of this run have changed", "")
    if there.get("images") != now.get("images"):
        raise _another(stored, "of other given images, or they have changed", "give those back, or ")
    for name in ("labels", "statistics"):
        if there.get(name) != now.get(name):
            raise _another(stored, f"with other given {name}", "give those back, or ")
    if there.get("teacher") != now["teacher"]:
        raise _another(stored, "with another teacher", "give the teacher that it began with, or ")
    before, after = settings.flat(stored_config(stored).config), settings.flat(plan.config)
    if there.get("config") == now["config"]:
        return before != after
    changed = differing_settings(before, after)
    begun = max((STAGES.index(stage) for stage in stored.begun()), default=-1)
    late = [key for key in changed if STAGES.index(first_read(key)) <= begun]
    if late:
        shown = [f"{key} is {before.get(key)} there and {after.get(key)} here" for key in late[:_SHOWN]]
        more = f"; and {len(late) - _SHOWN} more" if len(late) > _SHOWN else ""
        raise _another(
            stored, "with other settings: " + "; ".join(shown) + more, "leave these as they are, or "
        )
    return True


def stored_config(
    stored: StoredRun, sets: Sequence[str] = (), overrides: Mapping[str, object] | None = None
) -> settings.Resolved:
    """The settings with which a run was begun, and what is to be changed of them.

    Raises UserError: the folder's configuration is damaged, or a change is not possible.
    """
    stored.config_yaml()  # refused where it is damaged
    path = stored.folder / "config.yaml"
    before = settings.flat(settings.resolve(file=path, base=None).config)
    resolved = settings.resolve(file=path, base=None, sets=sets, overrides=overrides)
    known, after = stored.manifest().get("origins", {}), settings.flat(resolved.config)
    origins = {
        key: known.get(key, origin) if before[key] == after[key] else origin
        for key, origin in resolved.origins.items()
    }
    return settings.Resolved(resolved.config, origins)


def first_read(key: str) -> Stage:
    """The first stage whose outcome depends on a setting."""
    parents = [key]
    while "." in parents[-1]:
        parents.append(parents[-1].rpartition(".")[0])
    return next((_FIRST_READ[name] for name in parents if name in _FIRST_READ), "squeeze")


def _another(stored: StoredRun, why: str, first: str) -> UserError:
    return UserError(
        "usage", f"{stored.folder} holds a run {why}", f"{first}choose another folder with --out"
    )


def nonreproducible_reason(sessions: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a run of several sessions is not bit for bit what one session gives; None where it is."""
    for name in ("torch", "device", "threads", "micro_batch"):
        facts = [session["versions"] if name == "torch" else session for session in sessions]
        values = [each.get(name) for each in facts]
        if any(value != values[0] for value in values):
            other = next(value for value in values if value != values[0])
            return f"{name} {values[0] or 'unset'} at its beginning and {other or 'unset'} later"
    return None
