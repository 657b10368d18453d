"""Run an experiment as often as its settings say, and summarise the repeats.

Repeat r of seed s is the experiment with seed s + r − 1, so that a run with three repeats and three runs with
one each give the same numbers. The first repeat is in the run's folder; each further one is a run of its own
in the folder ``repeats`` there. Not here: the stages of a repeat (see `pipeline`), their summary (see
`results`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from engine.errors import Stopped, UserError
from engine.events import Event, Notice, RepeatStarted
from engine.runs import results
from engine.runs.control import Control
from engine.runs.pipeline import record_event, run_stages
from engine.runs.plan import Plan
from engine.runs.results import Results
from engine.runs.resume import open_planned_run
from engine.store import Cache, Run, RunFile, StoredRun


def run(
    plan: Plan, run: Run, cache: Cache, command: Sequence[str] = (), control: Control | None = None
) -> Generator[Event, None, Results]:
    """Run all five stages of every repeat; every event is in the journal before it is yielded.

    control: lets this process request a checkpoint, a pause or a stop.
    The run is always closed: as finished, failed (with the message in its status) or stopped. The results are
    written after each repeat. Raises UserError, or Stopped after a stop request; checkpoints and finished
    artefacts stay on disk.
    """
    control = control or Control()
    with _closing(run):
        document = results.read_results(StoredRun(run.folder))
        finished = [] if document is None else list(document["repeats"])
        planned = plan.config.repeats
        if document is not None and document["repeats_planned"] != planned:
            document = {**document, "repeats_planned": planned, "covers": plan.recomputed_parts()}
            run.save_results(document)
        if finished:  # the process may have ended before it could do so
            run.delete_checkpoints("validate")
        if len(finished) == planned:
            yield from record_event(run, Notice("info", f"{run.folder} is finished; these are its results"))
        while len(finished) < planned:
            number = len(finished) + 1
            of_repeat = plan.for_repeat(number)
            if planned > 1:
                yield from record_event(run, RepeatStarted(number, planned, of_repeat.config.seed))
            if number == 1:
                entry = yield from run_stages(of_repeat, run, cache, command, control)
            else:
                folder = run.folder / RunFile.REPEATS / str(number)
                repeat = open_planned_run(of_repeat, folder, run.manifest.get("origins", {}), command, run)
                with _closing(repeat):
                    entry = yield from _run_further_repeat(of_repeat, repeat, cache, command, control)
            finished.append(entry)
            name = run.folder.resolve().name
            document = results.build_document(name, finished, planned, plan.recomputed_parts())
            run.save_results(document)
            run.delete_checkpoints("validate")
    assert document is not None
    return document


@contextmanager
def _closing(run: Run) -> Iterator[None]:
    """Close a run after the block: as finished, or as failed or stopped by the error that ended it."""
    try:
        yield
        run.close("finished")
    except Exception as error:
        state = "stopped" if isinstance(error, Stopped) else "failed"
        with suppress(UserError, OSError):  # with a full disk, the original error matters more
            run.close(state, str(error))
        raise
    except BaseException:
        run.close("stopped")
        raise


def _run_further_repeat(
    plan: Plan, run: Run, cache: Cache, command: Sequence[str], control: Control
) -> Generator[Event, None, dict[str, Any]]:
    """Run the stages of a repeat with a folder of its own, or return its entry if it is already finished."""
    assert run.parent is not None
    if (stored := results.read_results(StoredRun(run.folder))) is not None:
        run.delete_checkpoints("validate")
        return dict(stored["repeats"][0])
    entry = yield from run_stages(plan, run, cache, command, control)
    name = f"{run.parent.folder.resolve().name}/{RunFile.REPEATS}/{run.folder.name}"
    run.save_results(results.build_document(name, [entry], 1, []))
    run.delete_checkpoints("validate")
    return entry
