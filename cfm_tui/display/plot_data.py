"""The lines of charts for the numbers of a run.

Legend: D eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from cfm_tui.display.charts import ROLES, Line
from cfm_tui.display.downsampling import Floats
from cfm_tui.display.run_state import load_config
from engine.config import Objective
from engine.config.responses import Response
from engine.events import Stage

if TYPE_CHECKING:
    from cfm_tui.display.run_state import RunModel, Training
    from engine.store.preview import Preview

REAL, SYNTHETIC = "Ψ", "Ψ_s"
RANKS = "log10 rank"  #: x label of spectra
POINTS = 2048  #: maximum number of points of a line, which limits zooming


def losses(model: RunModel) -> list[Line]:
    """Return the filter terms and the signal terms, each summed over layers, and CE, by iteration.

    Iterations count over all batches. CE is last and thus drawn below the others, because it varies most on a
    logarithmic axis.
    """
    if model.layout is None or model.curves is None:
        return []
    layout = model.layout
    groups: dict[str, list[int]] = {"filter terms": [], "signal terms": [], "CE": [layout.CE]}
    for index, term in enumerate(layout.terms):
        name = "filter terms" if term.endswith("/none") else "signal terms"
        groups[name] += [layout.column(index, tap) for tap in range(len(layout.taps))]
    curves = {name: _sum_columns(model, columns) for name, columns in groups.items() if columns}
    return [Line(name, *curves[name], ROLES[index]) for index, name in enumerate(curves)]


def layer(model: RunModel, tap: int) -> list[Line]:
    """Return every term at one tap, by iteration of the whole recovery."""
    if model.layout is None or model.curves is None:
        return []
    return [
        Line(term, *_sum_columns(model, [model.layout.column(index, tap)]), ROLES[index % len(ROLES)])
        for index, term in enumerate(model.layout.terms)
    ]


def _sum_columns(model: RunModel, columns: list[int]) -> tuple[Floats, Floats, Floats]:
    """Return x and the bounds of a sum of columns.

    The bounds are exact while every iteration is stored, and never too narrow after that.
    """
    assert model.curves is not None
    parts = [model.curves.envelope(column, POINTS) for column in columns]
    x = parts[0][0]
    return x, np.sum([low for _, low, _ in parts], axis=0), np.sum([high for _, _, high in parts], axis=0)


def betas(model: RunModel) -> list[Line]:
    """Return β of every batch; empty if no filter uses it."""
    if not model.betas:
        return []
    values = np.asarray(model.betas, np.float64)
    return [Line("β by batch", np.arange(1.0, len(values) + 1), values)]


def accuracies(model: RunModel, stage: Stage) -> list[Line]:
    """Return accuracy by epoch of every kind of training in a stage, from the worst to the best seed."""
    return _draw_trainings(model, stage, lambda training: training.accuracy, min, max)


def training_losses(model: RunModel, stage: Stage) -> list[Line]:
    """Return loss by epoch of every kind of training in a stage, averaged over seeds."""

    def list_losses(training: Training) -> list[tuple[float, float]]:
        x, low, high = training.loss.envelope(0, POINTS)
        return list(zip((x + 1).tolist(), ((low + high) / 2).tolist(), strict=True))

    return _draw_trainings(model, stage, list_losses, fmean, fmean)


def _draw_trainings(
    model: RunModel,
    stage: Stage,
    points_of: Callable[[Training], Sequence[tuple[float, float]]],
    low: Callable[[list[float]], float],
    high: Callable[[list[float]], float],
) -> list[Line]:
    """Return a line for each kind of training, from `low` to `high` of the values of all seeds."""
    kinds: dict[str, dict[float, list[float]]] = {}
    for (training_stage, architecture, source, _), training in sorted(model.trainings.items()):
        if training_stage == stage:
            kind = kinds.setdefault(architecture if source == "teacher" else f"{architecture} {source}", {})
            for epoch, value in points_of(training):
                kind.setdefault(epoch, []).append(value)
    lines = []
    for index, (name, kind) in enumerate(kinds.items()):
        epochs = sorted(kind)
        least, greatest = (np.array([side(kind[epoch]) for epoch in epochs]) for side in (low, high))
        lines.append(Line(name, np.array(epochs, np.float64), least, greatest, ROLES[index % len(ROLES)]))
    return lines


def objective_of(folder: Path) -> Objective:
    """Return the objective of a run; one without terms if it cannot be read."""
    config = load_config(folder)
    return Objective(terms=()) if config is None else config.objective


def spectrum(preview: Preview, tap: str, objective: Objective) -> tuple[list[Line], float | None]:
    """Return the lines of Ψ, Ψ_s and their f(λ) (see `over_ranks`), and a ridge filter's turning point.

    The turning point is x of the first eigenvalue of Ψ below β; None without a ridge filter or such a value.
    """
    real_D, synthetic_D = (np.asarray(side, np.float64) for side in preview.spectra[tap])
    spectra = {REAL: real_D, SYNTHETIC: synthetic_D}
    lines = over_ranks(spectra, objective, [preview.beta])
    below_beta = np.flatnonzero(real_D < preview.beta)
    has_turning_point = any(term.filter == "ridge" for term in objective.terms) and len(below_beta) > 0
    return lines, float(np.log10(below_beta[0] + 1)) if has_turning_point else None


def over_ranks(spectra: Mapping[str, Floats], objective: Objective, betas: Sequence[float]) -> list[Line]:
    """Return eigenvalues by log10 of their rank, and f(λ) of ridge filters and expressions.

    f is evaluated at every β if it depends on β, and its absolute value is drawn if it is negative. Other
    filters have no curve: f of `identity` is 1, and f(Ψ) of `lambda` (and of `diagonal` for a diagonal Ψ) is
    Ψ itself.
    """
    curves = dict(spectra)
    largest = float(np.max(spectra[REAL], initial=0.0)) or None
    drawn_terms = [term for term in objective.distinct_filters() if term.filter in ("ridge", None)]
    for term in drawn_terms:
        term_betas: list[float | None] = [*dict.fromkeys(betas)] if term.uses_beta else [None]
        f = "f" if len(drawn_terms) == 1 else term.label
        for beta in term_betas:
            suffix = f" β {beta:.3g}" if len(term_betas) > 1 else ""
            for side, values_D in spectra.items():
                response = Response(objective, term, beta, side == SYNTHETIC, largest)
                response_D = response.evaluate(values_D)
                name = f"|{f}({side})|" if np.any(response_D < 0) else f"{f}({side})"
                curves[f"{name}{suffix}"] = np.abs(response_D)
    return [
        Line(name, np.log10(np.arange(1.0, len(values_D) + 1)), values_D, None, ROLES[index % len(ROLES)])
        for index, (name, values_D) in enumerate(curves.items())
    ]
