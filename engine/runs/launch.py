"""Turn resolved settings into a run: check them, create or open the run's folder, and run the stages."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from engine import store
from engine.config import Config, settings
from engine.config.settings import Resolved
from engine.config.teacher_source import TeacherSource
from engine.events import Event
from engine.importers.pt_files import CLASS_MAJOR
from engine.runs import pipeline, resume
from engine.runs import plan as plans
from engine.runs.control import Control
from engine.runs.plan import Plan
from engine.runs.results import Results
from engine.store import Cache, Run


def prepare_run(
    resolved: Resolved,
    folder: Path | None,
    name: str,
    command: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Plan, Run]:
    """Check an experiment and open its run: a new run, or the existing run in `folder`.

    name: prefix of a new folder's name. progress(done, total): called while images are read.
    Raises UserError: like `plan.prepare`; if `folder` contains something else, a run with other settings, or
    a run that another process owns; if the disk has too little free space.
    """
    if folder is not None:
        store.require_run_or_empty(folder)
    config = with_absolute_paths(resolved.config)
    plan = plans.prepare(config, progress, folder)
    folder = folder or store.fresh_folder(name, plan.identity["config"])
    if not store.is_run(folder):
        plan.check_room(folder)
    return plan, open_planned_run(plan, folder, resolved.origins, command)


def run_experiment(
    resolved: Resolved,
    folder: Path | None,
    name: str,
    command: Sequence[str] = (),
    control: Control | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_open: Callable[[Path], None] | None = None,
) -> Generator[Event, None, Results]:
    """Run a whole experiment: `prepare_run`, then `pipeline.run`; nothing happens before the first `next`.

    on_open(folder): called once the run's folder exists and this process owns it. The folder is released in
    any case. Raises the errors of `prepare_run` and `pipeline.run`.
    """
    plan, run = prepare_run(resolved, folder, name, command, progress)
    try:
        if on_open is not None:
            on_open(run.folder)
        return (yield from pipeline.run(plan, run, Cache(), command, control))
    finally:
        run.release()  # `pipeline.run` does not release a run that it never started


def open_planned_run(plan: Plan, folder: Path, origins: dict[str, str], command: Sequence[str] = ()) -> Run:
    """Open the run of a plan in `folder` and take ownership: a new run, or the existing one.

    origins: the settings layer that set each dotted key. Raises UserError like `prepare_run`.
    """
    return store.open_run(
        folder,
        plan.manifest(folder.name, origins, command),
        settings.to_yaml(plan.config, origins),
        lambda stored: resume.refuse_changes(plan, stored),
    )


def with_absolute_paths(config: Config) -> Config:
    """Return the configuration with absolute paths, so that a run can be resumed from any working folder."""
    teacher, *others = (
        TeacherSource.parse(text).absolute()
        for text in (config.backbone.teacher, *config.backbone.also_teachers)
    )
    given = {name: _make_absolute(getattr(config.given, name)) for name in ("images", "labels", "statistics")}
    if config.given.image_labels != CLASS_MAJOR:
        given["image_labels"] = _make_absolute(config.given.image_labels)
    changes: dict[str, dict[str, Any]] = {
        "data": {"root": _make_absolute(config.data.root)},
        "given": given,
        "backbone": {"teacher": teacher, "also_teachers": tuple(others)},
    }
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=paths) for name, paths in changes.items()}
    )


def _make_absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())
