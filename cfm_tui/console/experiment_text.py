"""What is known about a new experiment, as text and as curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cfm_tui.console.preflight import Findings
from cfm_tui.display.progress import format_bytes, format_count, format_duration
from engine.config import Config, Objective
from engine.config.expressions import PROBES
from engine.config.responses import list_responses
from engine.spectral.schedules import batch_count, beta_at, betas_of_batches

if TYPE_CHECKING:
    from cfm_tui.display.charts import Line
    from engine.runs.preview import DatasetStatus

Curve = tuple[str, Any, Any]  #: name, x, y
POINTS = 2000  #: of a curve, at most
DEFAULT_DECADES = (float(np.log10(PROBES[0])), float(np.log10(PROBES[-1])))  #: log10 λ without a spectrum
DEFAULT_CLASSES = 10  #: until the number of classes is known


def data(findings: Findings, fetching: str = "") -> str:
    """Return the lines about the data set: its location or how to get it, and its content.

    fetching: progress of its download, if any.
    """
    chosen = findings.chosen
    if fetching:
        return f"{fetching}\nleaving this page stops it; the part that was downloaded is kept"
    if chosen is None:
        return f"{findings.doing or 'looking for the data set'} …"
    lines = [chosen.title]
    if findings.possible is False and findings.problem is not None and findings.problem.kind == "data":
        lines += ["", f"! {findings.problem.message}", f"→ {findings.problem.hint}"]
        if chosen.download_bytes:
            lines += [
                f"d: download {format_bytes(chosen.download_bytes)}, as `cfm data get {chosen.name}` does"
            ]
        return "\n".join(lines)
    if findings.place is not None:
        lines.append(f"at {findings.place}")
    preview = findings.look
    if preview is None:
        if chosen.classes and chosen.images:
            lines.append(f"{chosen.images:,} training images, {chosen.classes} classes")
        lines.append(f"{findings.doing} …" if findings.doing else "v: read it and estimate")
        return "\n".join(lines)
    low, high = preview.per_class
    per_class = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    counts = ", ".join(f"{count:,} {split}" for split, count in preview.images.items())
    lines += [f"{counts} images", f"{len(preview.classes)} classes, {per_class} a class"]
    lines.append(f"used as {preview.channels}×{preview.size}×{preview.size}")
    if preview.skipped:
        lines.append(f"! {len(preview.skipped)} unreadable images skipped")
    return "\n".join(lines)


def where(status: DatasetStatus) -> str:
    """Return a data set's location, or how to get it, on one line."""
    if status.path is not None:
        return f"at {status.path}"
    if status.available or status.download_bytes is None:
        return status.note
    return f"not there; {format_bytes(status.download_bytes)} to download"


def backbone(findings: Findings) -> str:
    """Return the lines about the network's size and the teacher."""
    config = findings.config
    weights = "size not known yet" if findings.parameters is None else f"{findings.parameters:,} weights"
    lines = [f"{config.backbone.name}: {weights}"]
    problem = findings.problem
    if problem is not None and problem.kind == "teacher":
        lines += [f"! {problem.message}", f"→ {problem.hint}"]
    elif config.backbone.teacher is None:
        lines.append(
            f"teacher: trained first, {format_count(config.squeeze.epochs, 'epochs')}, unless in the cache"
        )
    else:
        lines.append(f"teacher: {config.backbone.teacher}")
    accuracy = findings.accuracy
    lines.append(
        f"accuracy: {'not known yet' if accuracy is None else f'{accuracy:.2f} %, by an earlier run'}"
    )
    return "\n".join(lines)


def estimate(findings: Findings) -> str:
    """Return the lines about the estimated time by stage, memory and disk space."""
    estimated = findings.estimate
    if estimated is None:
        if findings.doing:
            return f"{findings.doing} …"
        problem = findings.problem
        if problem is not None and problem.kind not in ("data", "teacher"):
            return f"! {problem.message}\n→ {problem.hint}"
        return "v: estimate time, memory and disk"
    lines = [
        f"{stage:<11} {format_duration(seconds) if seconds else 'nothing to do'}"
        for stage, seconds in estimated.seconds.items()
    ]
    lines += [
        f"{'in all':<11} {format_duration(sum(estimated.seconds.values()))}",
        f"{'memory':<11} {format_bytes(estimated.memory_bytes)}",
        f"{'disk':<11} {format_bytes(estimated.disk_bytes)}",
    ]
    if findings.short:
        lines.append(f"! {findings.short}")
    return "\n".join([*lines, estimated.how])


# --- curves --------------------------------------------------------------------------------------


def classes(findings: Findings) -> int:
    """Return the number of classes, or a default until it is known."""
    if findings.look is not None:
        return len(findings.look.classes)
    return (findings.chosen.classes if findings.chosen is not None else None) or DEFAULT_CLASSES


def betas(config: Config, count: int) -> Curve:
    """Return β_b over the batches of `count` classes, sampled at `POINTS` batches at most.

    The curve is empty where the method does not use β.
    """
    if not config.uses_beta:
        reason = "no filter of this method reads it" if config.optimises else "nothing is optimised"
        return f"no β: {reason}", np.empty(0), np.empty(0)
    objective = config.objective
    batches = batch_count(config.recover, config.ipc, count)
    if batches <= POINTS:
        values = betas_of_batches(objective.schedule, objective.beta, config.ipc, batches)
        name = f"β_b of {format_count(batches, 'batches')}"
        return name, np.arange(1, batches + 1), np.array(values)
    steps = batches if objective.schedule.per == "batch" else config.ipc
    sampled_steps = np.unique(np.linspace(0, steps - 1, POINTS).astype(np.int64))
    values = [beta_at(objective.schedule, objective.beta, int(step), steps) for step in sampled_steps]
    return f"β_b of {batches:,} batches", sampled_steps * (batches // steps) + 1, np.array(values)


def responses(config: Config, count: int, eigenvalues: Any = None) -> tuple[list[Line], str]:
    """Return curves of f(λ) of each filter, and the name of their x axis.

    A filter with β has a curve for the first and one for the last β_b of `count` classes.
    eigenvalues: descending; f is evaluated at each of them and drawn over their ranks. None: f is drawn over
    λ in a default range.
    """
    from cfm_tui.display import plot_data  # imported with the first chart
    from cfm_tui.display.charts import ROLES, Line

    objective = config.objective
    _, _, values = betas(config, count)
    ends = list(dict.fromkeys((float(values[0]), float(values[-1])))) if len(values) else []
    if eigenvalues is not None:
        spectra = {plot_data.REAL: np.asarray(eigenvalues, np.float64)}
        drawn = objective if config.optimises else Objective(terms=())
        return plot_data.over_ranks(spectra, drawn, ends), plot_data.RANKS
    decades = np.linspace(*DEFAULT_DECADES, 200)
    curves = list_responses(objective, ends) if config.optimises else []
    return [
        Line(each.name, decades, each.evaluate(10.0**decades), None, ROLES[index % len(ROLES)])
        for index, each in enumerate(curves)
    ], "log10 λ"
