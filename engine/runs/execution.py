"""The execution plan of a run: choices left to the program that change results by rounding at most.

They are made once, when a run begins, recorded, and kept when it is resumed, so that it stays bit-exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from engine import store
from engine.config import Config, Node, Threads, yaml_io
from engine.config.messages import format_validation_error
from engine.data import ImageSet
from engine.device import cpus
from engine.errors import UserError
from engine.runs.stacks import StackTrial
from engine.runs.threads import DEFAULT, measure_threads


class ExecutionPlan(Node):
    """How a run computes where its settings do not say.

    threads: torch's number of threads on a CPU, or that it follows the machine; auto: the run chooses it.
    together: architectures whose students are trained in one pass.
    """

    threads: Threads = "auto"
    together: tuple[str, ...] = ()


def choose_plan(
    config: Config,
    train: ImageSet,
    device: torch.device,
    sessions: Sequence[Mapping[str, Any]] = (),
    given: ExecutionPlan | None = None,
) -> ExecutionPlan:
    """Return the execution plan of a run that begins or resumes, and set torch's number of threads.

    A choice is that of the settings; else that of the given plan; else that of the run's first session;
    else it is measured. sessions: of a run that resumes.
    """
    earlier = given or (read_session(sessions[0]) if sessions else None)
    threads = _choose_threads(config, train, device, earlier)
    torch.set_num_threads(threads)
    return ExecutionPlan(
        threads="adaptive" if config.threads == "adaptive" else threads,
        together=_choose_stacks(config, train, device, earlier),
    )


def _choose_threads(
    config: Config, train: ImageSet, device: torch.device, earlier: ExecutionPlan | None
) -> int:
    """Return the number of threads with which a run begins; at most `DEFAULT` if it is measured."""
    if isinstance(config.threads, int):
        return config.threads
    if config.threads == "auto" and earlier is not None and isinstance(earlier.threads, int):
        return earlier.threads
    if device.type != "cpu":
        return DEFAULT  # an earlier run of this process may have changed it
    return measure_threads(config, train, min(cpus(), DEFAULT))


def _choose_stacks(
    config: Config, train: ImageSet, device: torch.device, earlier: ExecutionPlan | None
) -> tuple[str, ...]:
    """Return the architectures whose students are trained together."""
    settings = config.validate_
    architectures = settings.students or (config.backbone.name,)
    students = config.students_per_architecture
    if settings.together == "never" or students == 1:
        return ()
    if settings.together == "auto" and earlier is not None:
        return tuple(name for name in architectures if name in earlier.together)
    trials = (StackTrial(config, name, students, train, device) for name in architectures)
    forced = settings.together == "always"
    return tuple(
        trial.architecture for trial in trials if trial.can_stack() and (forced or trial.is_faster())
    )


def read_session(session: Mapping[str, Any]) -> ExecutionPlan:
    """Return the execution plan that a session of a run recorded.

    Earlier versions recorded the number of threads alone, and trained students one after another.
    """
    recorded = session.get("execution") or {"threads": session.get("threads", "auto")}
    return ExecutionPlan.model_validate(recorded)


def read_plan(source: str) -> ExecutionPlan:
    """Return the execution plan in a JSON or YAML file, or that with which a run began.

    source: the path of a file, or a run's folder or name. Raises UserError: "config" if the file is not an
    execution plan, "usage" if there is neither, or the number of threads of the run was not fixed.
    """
    path = Path(source)
    if path.is_file():
        document = yaml_io.read(path)
        try:
            return ExecutionPlan.model_validate(document)
        except ValidationError as error:
            hint = 'write a plan as {"threads": 1, "together": []}'
            raise format_validation_error(error, ExecutionPlan, {}, str(path), hint) from None
    stored = store.find_run(source)
    plan = read_session(stored.manifest()["sessions"][0])
    if plan.threads == "adaptive":
        message = f"{stored.folder} has no plan to follow: its threads followed the machine"
        raise UserError("usage", message, "give the plan of another run, or --set threads=N")
    return plan
