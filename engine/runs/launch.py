"""From settings to a run that can be pulled: checked, given a folder, owned by this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from engine.runs import pipeline, resume
from engine.config import settings
from engine import store
from engine.runs import plan as plans
from engine.config import Config
from engine.events import Event
from engine.runs.plan import Plan
from engine.runs.results import Results
from engine.config.settings import Resolved
from engine.runs.control import Control
from engine.store import Cache, Run


def prepare_run(
    resolved: Resolved,
    folder: Path | None,
    name: str,
    command: Sequence[str] = (),
    reading: Callable[[int, int], None] | None = None,
) -> tuple[Plan, Run]:
    """An experiment that was found possible, and its run: a new one, or the one that is in `folder`.

    name: what a new folder's name begins with. reading(done, total): called while images are read.
    Raises UserError: what `plan.prepare` finds; a folder that holds something else, or a run with
    other settings, or one that another process has; a disk without room.
    """
    if folder is not None:
        store.refuse_foreign(folder)
    config = with_absolute_paths(resolved.config)
    plan = plans.prepare(config, reading, folder)
    folder = folder or store.fresh_folder(name, plan.identity()["config"])
    if not store.is_run(folder):
        plans.check_room(plan, folder)
    return plan, open_planned_run(plan, folder, resolved.origins, command)


def run_experiment(
    resolved: Resolved,
    folder: Path | None,
    name: str,
    command: Sequence[str] = (),
    control: Control | None = None,
    reading: Callable[[int, int], None] | None = None,
    opened: Callable[[Path], None] | None = None,
) -> Generator[Event, None, Results]:
    """A whole experiment: `prepare_run`, then `pipeline.run`; nothing is done before the first event is pulled.

    opened(folder): called once the run's folder exists and is this process's. The run is left to others
    however this ends. Raises what those two do.
    """
    plan, run = prepare_run(resolved, folder, name, command, reading)
    try:
        if opened is not None:
            opened(run.folder)
        return (yield from pipeline.run(plan, run, Cache(), command, control))
    finally:
        run.release()  # where it did not come to be pulled


def open_planned_run(plan: Plan, folder: Path, origins: dict[str, str], command: Sequence[str] = ()) -> Run:
    """The run of a plan in `folder`, owned by this process: a new one, or the one that is there.

    origins: by dotted key, the layer that set it. Raises UserError as `prepare_run` does.
    """
    return store.open_run(
        folder,
        plans.manifest(plan, folder.name, origins, command),
        settings.to_yaml(plan.config, origins),
        lambda stored: resume.refuse_changes(plan, stored),
    )


def with_absolute_paths(config: Config) -> Config:
    """The same, its folders and files named so that they are found from any folder."""
    changes: dict[str, dict[str, Any]] = {
        "data": {"root": _absolute(config.data.root)},
        "given": {
            "images": _absolute(config.given.images),
            "labels": _absolute(config.given.labels),
            "statistics": _absolute(config.given.statistics),
        },
        "backbone": {
            "teacher": _anchored(config.backbone.teacher),
            "also_teachers": tuple(map(_anchored, config.backbone.also_teachers)),
        },
    }
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=paths) for name, paths in changes.items()}
    )


def _anchored(teacher: str | None) -> str | None:
    published = teacher is not None and teacher.startswith("torchvision:")
    return teacher if published else _absolute(teacher)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())
