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
from engine.config import BackboneName, Config, Node, Threads, yaml_io
from engine.config.messages import format_validation_error
from engine.data import ImageSet
from engine.device import cpus
from engine.errors import UserError
from engine.runs.stacks import StackTrial
from engine.runs.threads import DEFAULT, measure_threads


class ExecutionPlan(Node):
    """How a run computes where its settings do not say.

    threads: torch's number of threads on a CPU, or that it follows the machine; auto: the run chooses it.
    together: architectures whose students are trained in one pass; None: the run chooses them.
    """

    threads: Threads = "auto"
    together: tuple[BackboneName, ...] | None = None

    @property
    def stacked(self) -> tuple[BackboneName, ...]:
        """The architectures whose students are trained in one pass; none where that is not chosen yet."""
        return self.together or ()


def choose_execution(
    config: Config,
    train: ImageSet,
    device: torch.device,
    sessions: Sequence[Mapping[str, Any]] = (),
    given: ExecutionPlan | None = None,
) -> ExecutionPlan:
    """Return the execution plan of a run that begins or resumes, and set torch's number of threads.

    A choice is that of the settings; else that of the given plan; else that of the run's first session;
    else it is measured. sessions: of a run that resumes. Raises UserError("usage") if the given plan stacks
    students that cannot be stacked.
    """
    kept = read_session_plan(sessions[0]) if sessions else ExecutionPlan()
    if given is not None:
        kept = kept.model_copy(update=given.model_dump(exclude_unset=True))
    threads = _choose_threads(config, train, device, kept)
    torch.set_num_threads(threads)  # students are timed with it
    together = _choose_stacks(config, train, device, kept)
    if given is not None and given.together:
        _require_stackable(config, train, device, together)
    return ExecutionPlan(threads="adaptive" if config.threads == "adaptive" else threads, together=together)


def _choose_threads(config: Config, train: ImageSet, device: torch.device, kept: ExecutionPlan) -> int:
    """Return the number of threads with which a run begins; at most `DEFAULT` if it is measured."""
    if isinstance(config.threads, int):
        return config.threads
    if config.threads == "auto" and isinstance(kept.threads, int):
        return kept.threads
    if device.type != "cpu":
        return DEFAULT  # an earlier run of this process may have changed it
    return measure_threads(config, train, min(cpus(), DEFAULT))


def _choose_stacks(
    config: Config, train: ImageSet, device: torch.device, kept: ExecutionPlan
) -> tuple[BackboneName, ...]:
    """Return the architectures whose students are trained together."""
    settings = config.validate_
    architectures = settings.students or (config.backbone.name,)
    students = config.students_per_architecture
    if settings.together == "never" or students == 1:
        return ()
    if settings.together == "auto" and kept.together is not None:
        return tuple(name for name in architectures if name in kept.together)
    trials = (StackTrial(config, name, students, train, device) for name in architectures)
    forced = settings.together == "always"
    return tuple(
        trial.architecture for trial in trials if trial.can_stack() and (forced or trial.is_faster())
    )


def _require_stackable(
    config: Config, train: ImageSet, device: torch.device, architectures: Sequence[BackboneName]
) -> None:
    """Raise UserError("usage") naming an architecture whose students cannot be trained together."""
    for name in architectures:
        if not StackTrial(config, name, config.students_per_architecture, train, device).can_stack():
            message = f"the execution plan trains all students of {name} together, which is not possible"
            message += " here: its layers cannot be stacked, or the memory does not suffice"
            raise UserError("usage", message, "take it out of the plan, or --set validate.together=never")


def read_session_plan(session: Mapping[str, Any]) -> ExecutionPlan:
    """Return the execution plan that a session of a run recorded.

    Earlier versions recorded threads and stacks apart, or threads alone, and had no stacks then. Raises
    UserError("disk") if it is that of a later version.
    """
    recorded = session.get("execution")
    if recorded is None:
        recorded = {"threads": session.get("threads") or "auto", "together": session.get("together") or ()}
    try:
        return ExecutionPlan.model_validate(recorded)
    except ValidationError:
        message = "the run records an execution plan that this version of the program cannot read"
        hint = "use the version of the program that wrote it, or a later one"
        raise UserError("disk", message, hint) from None


def read_execution_plan(source: str) -> ExecutionPlan:
    """Return the execution plan in a JSON or YAML file, or that with which a run began.

    source: the path of a file, or a run's folder or name. Raises UserError: "config" if the file is not an
    execution plan, "usage" if there is neither, or the number of threads follows the machine.
    """
    path = Path(source)
    if path.is_file():
        document = yaml_io.read(path)
        try:
            plan = ExecutionPlan.model_validate(document)
        except ValidationError as error:
            hint = 'write a plan as {"threads": 1, "together": []}'
            raise format_validation_error(error, ExecutionPlan, {}, str(path), hint) from None
    else:
        stored = store.find_run(source)
        path, plan = stored.folder, read_session_plan(stored.manifest()["sessions"][0])
    if plan.threads == "adaptive":
        message = f"{path} has no plan to follow: its number of threads follows the machine"
        raise UserError("usage", message, "give another plan, or --set threads=N")
    return plan
