"""A run's numbers as the lines of charts.

Legend: T terms, L taps, D eigenvalues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cfm_tui.display.charts import ROLES, Line
from cfm_tui.display.run_state import config_of
from engine.config import Objective
from engine.config.responses import distinct, has_beta, of_term
from engine.events import Stage
from engine.store.numbers import FIXED

if TYPE_CHECKING:
    from cfm_tui.display.run_state import RunModel, Training
    from engine.config import Term
    from engine.store.preview import Preview

Floats = NDArray[np.float64]
REAL, SYNTHETIC = "Ψ", "Ψ_s"
RANKS = "log10 rank"  #: what spectra go by
POINTS = 2048  #: of a line, at most: what zooming shows apart


def losses(model: RunModel) -> list[Line]:
    """The filter and the signal terms, each summed over layers, and CE, by iteration of all batches.

    CE comes last, and under the others: on a logarithmic axis it varies most.
    """
    if model.layout is None or model.curves is None:
        return []
    terms, taps = model.layout.terms, len(model.layout.taps)
    groups: dict[str, list[int]] = {"filter terms": [], "signal terms": [], "CE": [FIXED.index("ce")]}
    for index, term in enumerate(terms):
        name = "filter terms" if term.endswith("/none") else "signal terms"
        groups[name] += [len(FIXED) + index * taps + tap for tap in range(taps)]
    found = {name: _summed(model, columns) for name, columns in groups.items() if columns}
    return [Line(name, *found[name], ROLES[index]) for index, name in enumerate(found)]


def layer(model: RunModel, tap: int) -> list[Line]:
    """Every term at one tap, by iteration of the whole recovery."""
    if model.layout is None or model.curves is None:
        return []
    taps = len(model.layout.taps)
    return [
        Line(term, *_summed(model, [len(FIXED) + index * taps + tap]), ROLES[index % len(ROLES)])
        for index, term in enumerate(model.layout.terms)
    ]


def _summed(model: RunModel, columns: list[int]) -> tuple[Floats, Floats, Floats]:
    """Bounds of a sum of columns: exact where every iteration is kept, and never too narrow elsewhere."""
    assert model.curves is not None
    parts = [model.curves.envelope(column, POINTS) for column in columns]
    x = parts[0][0]
    return x, np.sum([low for _, low, _ in parts], axis=0), np.sum([high for _, _, high in parts], axis=0)


def betas(model: RunModel) -> list[Line]:
    """β of every batch, where a filter reads it."""
    if not model.betas:
        return []
    values = np.asarray(model.betas, np.float64)
    return [Line("β by batch", np.arange(1.0, len(values) + 1), values)]


def accuracies(model: RunModel, stage: Stage) -> list[Line]:
    """Accuracy by epoch of every kind of training in a stage: from the worst to the best of its seeds."""
    kinds = _points(model, stage, lambda each: [(float(epoch), value) for epoch, value in each.accuracy])
    return _lines(kinds, min, max)


def training_losses(model: RunModel, stage: Stage) -> list[Line]:
    """Loss by epoch, likewise: the mean over the seeds."""
    return _lines(_points(model, stage, _losses), _mean, _mean)


Points = list[tuple[float, float]]


def _losses(training: Training) -> Points:
    x, low, high = training.loss.envelope(0, POINTS)
    return list(zip((x + 1).tolist(), ((low + high) / 2).tolist(), strict=True))


def _points(
    model: RunModel, stage: Stage, of: Callable[[Training], Points]
) -> dict[str, dict[float, list[float]]]:
    """By kind of training and epoch: a value for each seed."""
    kinds: dict[str, dict[float, list[float]]] = {}
    for (where, architecture, source, _), each in sorted(model.trainings.items()):
        if where == stage:
            name = architecture if source == "teacher" else f"{architecture} {source}"
            kind = kinds.setdefault(name, {})
            for epoch, value in of(each):
                kind.setdefault(epoch, []).append(value)
    return kinds


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _lines(
    kinds: dict[str, dict[float, list[float]]],
    low: Callable[[list[float]], float],
    high: Callable[[list[float]], float],
) -> list[Line]:
    lines = []
    for index, (name, kind) in enumerate(kinds.items()):
        epochs = sorted(kind)
        least = np.array([low(kind[epoch]) for epoch in epochs], np.float64)
        greatest = np.array([high(kind[epoch]) for epoch in epochs], np.float64)
        x = np.array(epochs, np.float64)
        lines.append(Line(name, x, least, greatest, ROLES[index % len(ROLES)]))
    return lines


def objective_of(folder: Path) -> Objective:
    """What a run's images are optimised for; without terms where that cannot be read."""
    config = config_of(folder)
    return Objective(terms=()) if config is None else config.objective


def spectrum(glimpse: Preview, tap: str, objective: Objective) -> tuple[list[Line], float | None]:
    """Eigenvalues of Ψ and Ψ_s with f(λ) of both, as `over_ranks` draws them.

    Also where Ψ falls below β: there the ridge filter turns. None where nothing does.
    """
    real_D, synthetic_D = (np.asarray(side, np.float64) for side in glimpse.spectra[tap])
    spectra = {REAL: real_D, SYNTHETIC: synthetic_D}
    lines = over_ranks(spectra, objective.terms, [glimpse.beta], objective.parameters)
    below = np.flatnonzero(real_D < glimpse.beta)
    turns = any(term.filter == "ridge" for term in objective.terms) and len(below) > 0
    return lines, float(np.log10(below[0] + 1)) if turns else None


def over_ranks(
    spectra: Mapping[str, Floats],
    terms: Sequence[Term],
    betas: Sequence[float],
    parameters: Mapping[str, float | None],
) -> list[Line]:
    """Descending eigenvalues by the logarithm of their rank, and f(λ) of each of ridges and expressions.

    Where f has β, at every β; where it is negative, its size. No other filter has a curve of its own: the
    identity's f is 1, and of `lambda`, as of `diagonal` where Ψ is diagonal, f(Ψ) is Ψ itself.
    """
    curves = dict(spectra)
    largest = float(np.max(spectra[REAL], initial=0.0)) or None
    drawn = [term for term in distinct(terms) if term.filter in ("ridge", None)]
    for term in drawn:
        each = list(dict.fromkeys(betas)) if has_beta(term) else [math.nan]
        f = "f" if len(drawn) == 1 else term.label
        for beta in each:
            at = f" β {beta:.3g}" if len(each) > 1 else ""
            for side, values_D in spectra.items():
                values = np.maximum(values_D, 0.0)
                synthetic = side == SYNTHETIC
                y = of_term(term, values, beta, parameters, largest=largest, synthetic=synthetic)
                name = f"|{f}({side})|" if np.any(y < 0) else f"{f}({side})"
                curves[f"{name}{at}"] = np.abs(y)
    return [
        Line(name, np.log10(np.arange(1.0, len(values_D) + 1)), values_D, None, ROLES[index % len(ROLES)])
        for index, (name, values_D) in enumerate(curves.items())
    ]
