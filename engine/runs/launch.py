"""Turn resolved settings into a run: check them, create or open the run's folder, and run the stages."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from engine import store
from engine.config import Config
from engine.config.settings import Resolved
from engine.config.teacher_source import TeacherSource
from engine.environment import expand_home
from engine.errors import UserError, quote_command
from engine.events import EpochFinished, Estimated, Event, RecoverProgress, StageProgress, map_events
from engine.importers.pt_files import CLASS_MAJOR
from engine.runs import artefacts, repeats
from engine.runs import plan as plans
from engine.runs.control import Control
from engine.runs.execution import ExecutionPlan
from engine.runs.pipeline import record_event
from engine.runs.plan import Plan
from engine.runs.results import Results
from engine.runs.resume import open_planned_run
from engine.store import Cache, Run, RunFile, StoredRun, files, images


def prepare_run(
    resolved: Resolved,
    folder: Path | None,
    name: str,
    command: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    execution: ExecutionPlan | None = None,
) -> tuple[Plan, Run]:
    """Check an experiment and open its run: a new run, or the existing run in `folder`.

    name: prefix of a new folder's name. progress(done, total): called while images are read. execution: the
    plan to follow where settings leave a choice.
    Raises UserError: like `plan.prepare`; if `folder` contains something else, a run with other settings, a
    repeat of a run, or a run that another process owns; if the disk has too little free space.
    """
    if folder is not None:
        if (parent := StoredRun(folder).parent()) is not None:
            hint = f"resume the whole run: {quote_command('resume', parent.folder)}"
            raise UserError("usage", f"{folder} is one repeat of {parent.folder}", hint)
        store.require_run_or_empty(folder)
    files.require_writable(folder or store.runs_folder())
    config = with_absolute_paths(resolved.config)
    plan = plans.prepare(config, progress, folder)
    folder = folder or store.fresh_folder(name, plan.identity["config"])
    stored = StoredRun(folder) if store.is_run(folder) else None
    plan.check_room(folder, 0 if stored is None else len(stored.repeats()))
    sessions = () if stored is None else stored.manifest().get("sessions", ())
    plan = plan.choose_execution(sessions, execution)
    measures = plan.given is None and plan.statistics is None and config.recover.algorithm == "optimise"
    has_images = images.is_complete(folder / RunFile.IMAGES) and config.repeats == 1
    if not has_images and not StoredRun(folder).is_finished(config.repeats):
        last, teachers = plan.config.for_repeat(plan.config.repeats), (plan.teacher, *plan.others)
        artefacts.require_writable_cache(last, plan.data, teachers, Cache(), measures=measures)
    return plan, open_planned_run(plan, folder, resolved.origins, command)


def run_experiment(
    resolved: Resolved,
    folder: Path | None,
    name: str,
    command: Sequence[str] = (),
    control: Control | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_open: Callable[[Path], None] | None = None,
    *,
    estimate: Literal["first", "late"] | None = None,
    execution: ExecutionPlan | None = None,
) -> Generator[Event, None, Results]:
    """Run a whole experiment: `prepare_run`, then `repeats.run`; nothing happens before the first `next`.

    on_open(folder): called once the run's folder exists and this process owns it. The folder is released in
    any case. estimate: estimate how long the stages take, which itself takes some seconds: before the first
    one, or after the first progress of one, when there is something to look at meanwhile. execution: as in
    `prepare_run`. Raises the errors of `prepare_run` and `repeats.run`.
    """
    plan, run = prepare_run(resolved, folder, name, command, progress, execution)
    control = control or Control()
    try:
        if on_open is not None:
            on_open(run.folder)
        estimated = estimate_stages(plan, run, control, anew=estimate == "first")
        if estimated is not None:
            yield from record_event(run, estimated)
        work = repeats.run(plan, run, Cache(), command, control)
        if estimate == "late" and estimated is None:
            work = _estimate_after_progress(work, plan, run, control)
        return (yield from work)
    finally:
        run.release()  # `repeats.run` does not release a run that it never started


def _estimate_after_progress(
    work: Generator[Event, None, Results], plan: Plan, run: Run, control: Control
) -> Generator[Event, None, Results]:
    """Compute a run, and estimate its stages after the first progress; that is not counted as their time."""
    is_pending = True

    def add_estimate(event: Event) -> Iterator[Event]:
        nonlocal is_pending
        yield event
        if is_pending and isinstance(event, StageProgress | EpochFinished | RecoverProgress):
            is_pending = False
            if (estimated := estimate_stages(plan, run, control, anew=True)) is not None:
                yield from record_event(run, estimated)

    return (yield from map_events(work, add_estimate))


def estimate_stages(plan: Plan, run: Run, control: Control, *, anew: bool) -> Estimated | None:
    """Return the estimate that the run recorded, else a new one if `anew`; None for a finished run.

    A new one is None if its trial fails, as the run then will, or while a request to the run is pending.
    """
    stored = StoredRun(run.folder)
    if stored.is_finished(plan.config.repeats):
        return None
    if recorded := stored.progress().estimated:
        return Estimated(recorded)
    if not anew:
        return None
    from engine.runs.estimates import estimate

    try:
        seconds = estimate(plan, Cache(), control.is_asked).seconds
    except Exception:  # an estimate never ends a run
        return None
    return Estimated({stage: each / plan.config.repeats for stage, each in seconds.items()})


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
    return None if path is None else str(expand_home(path).absolute())
