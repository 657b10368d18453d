"""What is known of a new experiment, in words and as curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cfm_tui.console.preflight import Findings
from cfm_tui.display.progress import format_bytes, format_count, format_duration
from engine.config import Config
from engine.config.expressions import PROBES
from engine.config.responses import of_objective, reads_beta
from engine.spectral.schedules import batch_count, beta_at, betas_of_batches

if TYPE_CHECKING:
    from cfm_tui.display.charts import Line
    from engine.runs.preview import DatasetStatus

Curve = tuple[str, Any, Any]  #: name, x, y
POINTS = 2000  #: of a curve, at most
USUAL = (float(np.log10(PROBES[0])), float(np.log10(PROBES[-1])))  #: decades of λ where no spectrum is known
CLASSES = 10  #: until it is known how many there are


def data(findings: Findings, fetching: str = "") -> str:
    """The data set: where it lies, or how to get it, and what is in it."""
    chosen = findings.chosen
    if fetching:
        return f"{fetching}\nleaving this page stops it; what has come is kept"
    if chosen is None:
        return f"{findings.doing or 'looking for it'} …"
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
    look = findings.look
    if look is None:
        if chosen.classes and chosen.images:
            lines.append(f"{chosen.images:,} training images, {chosen.classes} classes")
        lines.append(f"{findings.doing} …" if findings.doing else "v: read it and estimate")
        return "\n".join(lines)
    low, high = look.per_class
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    counts = ", ".join(f"{count:,} {split}" for split, count in look.images.items())
    lines += [f"{counts} images", f"{len(look.classes)} classes, {each} a class"]
    lines.append(f"used as {look.channels}×{look.size}×{look.size}")
    if look.skipped:
        lines.append(f"! {len(look.skipped)} unreadable, left out")
    return "\n".join(lines)


def where(each: DatasetStatus) -> str:
    """Where a set lies, or how to get it, on one line."""
    if each.path is not None:
        return f"at {each.path}"
    if each.found or each.download_bytes is None:
        return each.note
    return f"not there; {format_bytes(each.download_bytes)} to download"


def backbone(findings: Findings) -> str:
    """The network's size, and what is known of the teacher."""
    config = findings.config
    weights = "not known yet" if findings.parameters is None else f"{findings.parameters:,} weights"
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
    known = findings.accuracy
    lines.append(f"accuracy: {'not known yet' if known is None else f'{known:.2f} %, by an earlier run'}")
    return "\n".join(lines)


def estimate(findings: Findings) -> str:
    """Time by stage, memory, disk."""
    found = findings.estimate
    if found is None:
        if findings.doing:
            return f"{findings.doing} …"
        problem = findings.problem
        if problem is not None and problem.kind not in ("data", "teacher"):
            return f"! {problem.message}\n→ {problem.hint}"
        return "v: estimate time, memory and disk"
    lines = [
        f"{stage:<11} {format_duration(seconds) if seconds else 'nothing to do'}"
        for stage, seconds in found.seconds.items()
    ]
    lines += [
        f"{'in all':<11} {format_duration(sum(found.seconds.values()))}",
        f"{'memory':<11} {format_bytes(found.memory_bytes)}",
        f"{'disk':<11} {format_bytes(found.disk_bytes)}",
    ]
    if findings.short:
        lines.append(f"! {findings.short}")
    return "\n".join([*lines, found.how])


# --- curves --------------------------------------------------------------------------------------


def classes(findings: Findings) -> int:
    """How many there are, as far as that is known."""
    if findings.look is not None:
        return len(findings.look.classes)
    return (findings.chosen.classes if findings.chosen is not None else None) or CLASSES


def betas(config: Config, count: int) -> Curve:
    """β_b over the batches of `count` classes, at no more than so many of them; none that nothing reads."""
    if not reads_beta(config):
        why = "no filter of this method reads it" if config.optimises else "nothing is optimised"
        return f"no β: {why}", np.empty(0), np.empty(0)
    objective = config.objective
    batches = batch_count(config.recover, config.ipc, count)
    if batches <= POINTS:
        values = betas_of_batches(objective.schedule, objective.beta, config.ipc, batches)
        name = f"β_b of {format_count(batches, 'batches')}"
        return name, np.arange(1, batches + 1), np.array(values)
    steps = batches if objective.schedule.per == "batch" else config.ipc
    at = np.unique(np.linspace(0, steps - 1, POINTS).astype(np.int64))
    values = [beta_at(objective.schedule, objective.beta, int(step), steps) for step in at]
    return f"β_b of {batches:,} batches", at * (batches // steps) + 1, np.array(values)


def responses(config: Config, count: int, eigenvalues: Any = None) -> tuple[list[Line], str]:
    """f(λ) of each filter, where it has β as recovery begins and ends, of `count` classes; and its x axis.

    eigenvalues: descending; f is told of each, as a layer's page does it. None: over the usual range.
    """
    from cfm_tui.display import plot_data  # what draws is loaded with the first chart
    from cfm_tui.display.charts import ROLES, Line

    objective = config.objective
    _, _, values = betas(config, count)
    ends = list(dict.fromkeys((float(values[0]), float(values[-1])))) if len(values) else []
    if eigenvalues is not None:
        spectra = {plot_data.REAL: np.asarray(eigenvalues, np.float64)}
        terms = objective.terms if config.optimises else ()
        return plot_data.over_ranks(spectra, terms, ends, objective.parameters), plot_data.RANKS
    at = np.linspace(*USUAL, 200)
    found = of_objective(objective, ends) if config.optimises else []
    return [
        Line(each.name, at, each.of(10.0**at), None, ROLES[n % len(ROLES)]) for n, each in enumerate(found)
    ], "log10 λ"
