"""The lines of charts for the numbers of a run.

Legend: D eigenvalues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cfm_tui.display.charts import ROLES, Guide, Line, Section
from cfm_tui.display.downsampling import Floats
from cfm_tui.display.run_state import load_config
from engine.config import Objective
from engine.config.responses import Response
from engine.events import Stage

if TYPE_CHECKING:
    from cfm_tui.display.run_state import RunModel, Training
    from engine.store.preview import Preview

REAL, SYNTHETIC = "Ψ", "Ψ_s"
RANKS = "rank"  #: x label of spectra
SOURCES = ("teacher", "distilled", "random", "start")  #: of the images of a training, in the order of lines
POINTS = 2048  #: maximum number of points of a line, which limits zooming


SMOOTHING = 1 / 25  #: of a batch's points: the smoothing length of losses


def losses(model: RunModel) -> list[Line]:
    """Return the filter terms and the signal terms, each summed over layers, and CE, by iteration.

    Iterations count over all batches. Each line is smoothed within a batch; its band has all values.
    """
    if model.layout is None or model.curves is None:
        return []
    layout = model.layout
    groups: dict[str, list[int]] = {"filter": [], "signal": [], "CE": [layout.CE]}
    for index, term in enumerate(layout.terms):
        name = "filter" if term.endswith("/none") else "signal"
        groups[name] += [layout.column(index, tap) for tap in range(len(layout.taps))]
    names = (name for name, columns in groups.items() if columns)
    return [_sum_columns(model, name, groups[name], ROLES[index]) for index, name in enumerate(names)]


def layer(model: RunModel, tap: int) -> list[Line]:
    """Return every term at one tap, by iteration of the whole recovery."""
    if model.layout is None or model.curves is None:
        return []
    return [
        _sum_columns(model, term, [model.layout.column(index, tap)], ROLES[index % len(ROLES)])
        for index, term in enumerate(model.layout.terms)
    ]


def batches(model: RunModel) -> list[Section]:
    """Return the batches of a recovery as sections of its iterations, with β; empty if there is only one."""
    if model.batches < 2 or not model.iterations:
        return []
    notes = [_format_beta(beta) for beta in model.betas] or [""] * model.batches
    return [
        Section(float(number * model.iterations), f"b{number + 1}", note)
        for number, note in zip(range(model.batches), notes, strict=False)
    ]


def _format_beta(beta: float) -> str:
    return f"{beta:.2g}".removeprefix("0").replace("e-0", "e-")


def _sum_columns(model: RunModel, name: str, columns: list[int], colour: str) -> Line:
    """Return the line of a sum of columns.

    Its band is exact while every iteration is stored, and never too narrow after that.
    """
    assert model.curves is not None
    parts = [model.curves.envelope(column, POINTS) for column in columns]
    x = parts[0][0]
    low, high = (np.sum([part[side] for part in parts], axis=0) for side in (1, 2))
    starts = np.searchsorted(x, np.arange(model.batches + 1) * model.iterations) if model.iterations else ()
    return Line(name, x, smooth((low + high) / 2, starts), (low, high), colour)


def smooth(values: Floats, starts: Sequence[int] | NDArray[np.intp] = ()) -> Floats:
    """Return the exponential moving average of values, separately from each of `starts` on.

    It ignores NaN. Its length is `SMOOTHING` of the longest part.
    """
    parts = [part for part in np.split(values, np.asarray(starts, int)) if len(part)]
    length = SMOOTHING * max(map(len, parts), default=0)
    if length <= 1:
        return values
    kernel = np.exp(-np.arange(math.ceil(5 * length)) / length)
    smoothed = []
    for part in parts:
        known = np.isfinite(part)
        total = np.convolve(np.where(known, part, 0.0), kernel)[: len(part)]
        weight = np.convolve(known.astype(float), kernel)[: len(part)]
        smoothed.append(np.where(known, total / np.where(known, weight, 1.0), np.nan))
    return np.concatenate(smoothed)


def betas(model: RunModel) -> list[Line]:
    """Return β of every batch; empty if no filter uses it."""
    if not model.betas:
        return []
    values = np.asarray(model.betas, np.float64)
    return [Line("β by batch", np.arange(1.0, len(values) + 1), values)]


def accuracies(model: RunModel, stage: Stage) -> list[Line]:
    """Return accuracy by epoch of every kind of training in a stage: means, and ranges, over seeds.

    Before the epochs of which the accuracy is measured, it is that on a part of the test images (see
    `count_preview_images`).
    """
    return _draw_trainings(
        model, stage, lambda training: sorted([*training.preview_accuracy, *training.accuracy])
    )


def count_preview_images(model: RunModel, stage: Stage) -> int:
    """Return the number of test images of early accuracies in a stage; 0 if there are none."""
    counts = (training.preview_images for key, training in model.trainings.items() if key[0] == stage)
    return max(counts, default=0)


def accuracy_guides(model: RunModel) -> list[Guide]:
    """Return the teacher's accuracy, if it is known."""
    accuracy = model.teacher_accuracy
    return [] if accuracy is None else [Guide("teacher", accuracy)]


def training_losses(model: RunModel, stage: Stage) -> list[Line]:
    """Return loss by epoch of every kind of training in a stage: means, and ranges, over seeds."""

    def list_losses(training: Training) -> list[tuple[float, float]]:
        x, low, high = training.loss.envelope(0, POINTS)
        return list(zip((x + 1).tolist(), ((low + high) / 2).tolist(), strict=True))

    return _draw_trainings(model, stage, list_losses)


def _draw_trainings(
    model: RunModel, stage: Stage, points_of: Callable[[Training], Sequence[tuple[float, float]]]
) -> list[Line]:
    """Return a line for each kind of training: the mean over seeds, and as its band their range.

    A line is named after the images, and after the network where there are several.
    """
    kinds: dict[tuple[str, str], dict[float, list[float]]] = {}
    for (training_stage, architecture, source, _), training in sorted(
        model.trainings.items(), key=lambda item: (item[0][1], SOURCES.index(item[0][2]), item[0][3])
    ):
        if training_stage == stage:
            kind = kinds.setdefault((architecture, source), {})
            for epoch, value in points_of(training):
                kind.setdefault(epoch, []).append(value)
    several = len({architecture for architecture, _ in kinds}) > 1
    lines = []
    for index, ((architecture, source), kind) in enumerate(kinds.items()):
        epochs = sorted(kind)
        mean, low, high = (
            np.array([side(kind[epoch]) for epoch in epochs], np.float64) for side in (fmean, min, max)
        )
        name = f"{source} {architecture}" if several else source
        x = np.array(epochs, np.float64)
        lines.append(Line(name, x, mean, (low, high), ROLES[index % len(ROLES)]))
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
    return lines, float(below_beta[0] + 1) if has_turning_point else None


def spectral_gaps(preview: Preview) -> dict[str, float]:
    """Return how far the eigenvalues of Ψ_s are from those of Ψ by tap: Σ|λ_s − λ| / Σλ."""
    gaps = {}
    for tap, sides in preview.spectra.items():
        real_D, synthetic_D = (np.asarray(side, np.float64) for side in sides)
        total = float(np.abs(real_D).sum())
        gaps[tap] = float(np.abs(synthetic_D - real_D).sum()) / total if total else math.nan
    return gaps


def over_ranks(spectra: Mapping[str, Floats], objective: Objective, betas: Sequence[float]) -> list[Line]:
    """Return eigenvalues by their rank, and f(λ) of ridge filters and expressions.

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
        Line(name, np.arange(1.0, len(values_D) + 1), values_D, None, ROLES[index % len(ROLES)])
        for index, (name, values_D) in enumerate(curves.items())
    ]
