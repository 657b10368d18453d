"""The figures of a report, drawn from plain numbers.

A figure without data shows a text instead. Legend: B buckets, D eigenvalues.
Not here: the common style of figures (see `drawing`), image grids (see `grids`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.config.responses import Response
from engine.report import drawing
from engine.report.drawing import COLOURS, DASHES, GREY, SMALL, TEXT
from engine.report.groups import Accuracy, GroupSimilarity
from engine.report.lens import LensLayer
from engine.report.losses import Curve, LossCourse
from engine.runs.results import format_mean_std

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 1e-8  #: eigenvalues below this share of the largest are not drawn
BOUNDS = 20  #: batch boundaries are marked up to this number of batches
_MAX_LINES = len(COLOURS) * len(DASHES)


def loss_curves(course: LossCourse) -> Figure:
    """Draw CE and the unweighted terms at every tap, or at evenly spaced ones of many, by iteration."""
    taps, terms = course.layout.taps, course.layout.terms
    shown = drawing.evenly_spaced(len(taps), drawing.PANELS - 1)
    figure, axes = drawing.create_panels(1 + len(shown))
    _draw_curves(axes[0], course, [("cross-entropy", course.ce())], "cross-entropy", GREY)
    for panel, tap in zip(axes[1:], shown, strict=True):
        curves = [(name, course.term(number, tap)) for number, name in enumerate(terms)]
        _draw_curves(panel, course, curves, taps[tap])
    drawing.add_legend(figure, axes[1:])
    return figure


def _draw_curves(
    axes: Axes, course: LossCourse, curves: Sequence[tuple[str, Curve]], title: str, colour: str | None = None
) -> None:
    """Draw curves with their bands. colour: one for all curves; by default, each has its own."""
    drawing.set_titles(axes, title, "iteration")
    if not any(np.isfinite(curve.mean_B).any() for _, curve in curves):
        drawing.draw_empty_panel(axes, drawing.NOTHING if curves else "no terms")
        return
    for number, (name, curve) in enumerate(curves):
        line_colour = colour or COLOURS[number % len(COLOURS)]
        dash = DASHES[number % len(DASHES)]
        axes.fill_between(course.x_B, curve.low_B, curve.high_B, color=line_colour, alpha=0.2, linewidth=0)
        axes.plot(
            course.x_B,
            curve.mean_B,
            color=line_colour,
            linestyle=dash,
            linewidth=0.9,
            marker="." if len(course.x_B) < 8 else "",
            label=drawing.escape_text(name),
        )
    bounds = [side_B for _, curve in curves for side_B in (curve.low_B, curve.high_B)]
    drawing.set_log_scale_if_positive(axes, bounds)
    _use_integer_ticks(axes)
    batches = len(course.layout.betas)
    if 1 < batches <= BOUNDS:
        for batch in range(1, batches):
            axes.axvline(batch * course.iterations - 0.5, color=GREY, linewidth=0.4, linestyle=":")


def spectra(layers: Sequence[LensLayer], responses: Sequence[Response]) -> Figure:
    """Draw both spectra and the filters of every layer, or of evenly spaced ones of many, by rank."""
    shown = [layers[index] for index in drawing.evenly_spaced(len(layers), drawing.PANELS)]
    figure, axes = drawing.create_panels(len(shown))
    columns = drawing.panels_per_row(len(shown))
    overlays: list[Axes] = []
    for number, (panel, layer) in enumerate(zip(axes, shown, strict=True)):
        drawing.set_titles(panel, layer.name, "rank", "eigenvalue" if number % columns == 0 else "")
        if not _draw_spectra(panel, layer):
            drawing.draw_empty_panel(panel)
        elif responses:
            is_labelled = number % columns == columns - 1 or number == len(shown) - 1
            overlays.append(_draw_filters(panel, layer, responses, labelled=is_labelled))
    drawing.add_legend(figure, [*axes, *overlays])
    return figure


def _draw_spectra(axes: Axes, layer: LensLayer) -> bool:
    """Draw the spectra of a layer; return False if there is nothing to draw."""
    sides = [("Ψ, real", layer.real_D, "-"), ("Ψ_s, distilled", layer.synthetic_D, (0, (3, 1)))]
    finite = [values[np.isfinite(values)] for _, values, _ in sides if values is not None]
    largest = max((float(values.max()) for values in finite if len(values)), default=0.0)
    if largest <= 0:
        return False
    for number, (name, values_D, dash) in enumerate(sides):
        if values_D is None:
            continue
        shown_D = np.where(values_D > FLOOR * largest, values_D, np.nan)
        axes.plot(
            np.arange(1, len(shown_D) + 1),
            shown_D,
            color=COLOURS[number],
            linestyle=dash,
            linewidth=1.3,
            marker="o" if len(shown_D) < 6 else "",
            markersize=3,
            label=name,
        )
    _use_log_ranks(axes, max(len(values) for values in finite))
    positive = np.concatenate([values[values > FLOOR * largest] for values in finite])
    drawing.set_log_scale(axes, float(positive.min()), largest)
    return True


def _use_log_ranks(axes: Axes, rank_count: int) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log")
    axes.set_xlim(0.9, max(rank_count, 2) * 1.1)
    ticks = [
        tick for tick in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048) if tick <= max(rank_count, 2)
    ]
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 6]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))


def _draw_filters(axes: Axes, layer: LensLayer, responses: Sequence[Response], *, labelled: bool) -> Axes:
    """Draw each filter's share of its largest response on a second y axis, and return that axis.

    labelled: whether that axis has ticks and a label.
    """
    overlay: Axes = axes.twinx()
    overlay.spines[["top", "left"]].set_visible(False)
    overlay.set_ylim(-0.03, 1.05)
    overlay.tick_params(labelsize=SMALL, right=labelled, labelright=labelled)
    overlay.spines["right"].set_visible(labelled)
    if labelled:
        overlay.set_ylabel("f(λ) / max f", fontsize=TEXT)
    values_D = layer.real_D if layer.real_D is not None else layer.synthetic_D
    assert values_D is not None
    for number, response in enumerate(responses):
        share_D = response.share(values_D)
        overlay.plot(
            np.arange(1, len(share_D) + 1),
            share_D,
            color=COLOURS[(number + 2) % len(COLOURS)],
            linestyle=DASHES[(number + 1) % len(DASHES)],
            linewidth=1.0,
            marker="x" if len(share_D) < 6 else "",
            markersize=3,
            label=drawing.escape_text(legend_label(response)),
        )
    return overlay


def legend_label(response: Response) -> str:
    """Return a filter's name in a legend."""
    return response.filter if response.beta is None else f"{response.filter}, β = {response.beta:.3g}"


def schedules(betas: Sequence[tuple[str, Sequence[float]]]) -> Figure:
    """Draw β_b of every batch, one line per name."""
    figure, (axes,) = drawing.create_panels(1, height=2.2)
    drawing.set_titles(axes, "", "batch b", "β_b")
    drawn = [(name, np.asarray(values, np.float64)) for name, values in betas[:_MAX_LINES]]
    if not any(np.isfinite(values).any() for _, values in drawn):
        drawing.draw_empty_panel(axes)
        return figure
    for number, (name, values) in enumerate(drawn):
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number % len(DASHES)],
            linewidth=1.2,
            marker="o" if len(values) <= 60 else "",
            markersize=3,
            label=drawing.escape_text(drawing.shorten(name, 60)),
        )
    drawing.set_log_scale_if_positive(axes, [values for _, values in drawn])
    _use_integer_ticks(axes)
    drawing.add_legend(figure, [axes] if len(drawn) > 1 else [])
    return figure


def _use_integer_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


# --- one row for each group --------------------------------------------------------------------------


def similarity(rows: Sequence[GroupSimilarity]) -> Figure:
    """Draw UniDD Figure 2: mean and standard deviation over classes, and each class as a dot."""
    figure, (axes,) = _create_row_panels(
        [[row.label for row in rows]], "mean cosine similarity within a class"
    )
    for position, row in enumerate(rows):
        values = np.asarray(row.of_class, np.float64)
        jitter = (np.arange(len(values)) % 5 - 2) * 0.06
        axes.scatter(values, position + jitter, s=10, color=COLOURS[5], alpha=0.6, linewidth=0, zorder=2)
        if row.spread is not None:
            _draw_mean(axes, position, row.spread, "o", COLOURS[0], filled=True)
            _annotate(axes, position, format_mean_std(row.spread, 3))
    return figure


def accuracy(rows: Sequence[Accuracy]) -> Figure:
    """Draw UniDD Figure 6: distilled and control accuracy of every group, one panel per architecture."""
    names = list(dict.fromkeys(row.architecture for row in rows))
    rows_by_architecture = [[row for row in rows if row.architecture == name] for name in names]
    figure, axes = _create_row_panels(
        [[row.label for row in architecture_rows] for architecture_rows in rows_by_architecture] or [[]],
        "test accuracy, %",
    )
    for panel, name, architecture_rows in zip(axes, names, rows_by_architecture, strict=bool(names)):
        panel.set_title(drawing.escape_text(f"{name} (students)"), fontsize=TEXT)
        offset = 0.18 if any(row.control is not None for row in architecture_rows) else 0.0
        for position, row in enumerate(architecture_rows):
            if (spread := row.distilled) is not None:
                _draw_mean(panel, position - offset, spread, "o", COLOURS[0], filled=True, label="distilled")
                _annotate(panel, position - offset, format_mean_std(spread, 1))
            if (spread := row.control) is not None:
                _draw_mean(
                    panel, position + offset, spread, "s", COLOURS[1], filled=False, label="control (real)"
                )
                _annotate(panel, position + offset, format_mean_std(spread, 1))
    drawing.add_legend(figure, axes)
    return figure


def _create_row_panels(labels: Sequence[Sequence[str]], x_label: str) -> tuple[Figure, list[Axes]]:
    """Return a figure of stacked panels with one labelled line per row, the first on top, and its axes."""
    heights = [max(len(panel_labels), 1) for panel_labels in labels]
    figure = drawing.create_figure(0.9 + sum(0.42 * height + 0.45 for height in heights))
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    axes: list[Axes] = [row[0] for row in grid]
    for panel, panel_labels in zip(axes, labels, strict=True):
        drawing.style_axes(panel)
        drawing.set_titles(panel, "", x_label)
        if not panel_labels:
            drawing.draw_empty_panel(panel, "nothing to draw yet")
            continue
        panel.set_ylim(len(panel_labels) - 0.5, -0.5)
        panel.set_yticks(
            range(len(panel_labels)), [drawing.escape_text(drawing.wrap(name, 34)) for name in panel_labels]
        )
        panel.tick_params(axis="y", length=0, labelsize=TEXT)
    return figure, axes


def _draw_mean(
    axes: Axes,
    position: float,
    spread: dict[str, float],
    marker: str,
    colour: str,
    *,
    filled: bool,
    label: str = "",
) -> None:
    axes.errorbar(
        spread["mean"],
        position,
        xerr=spread["std"] if spread["n"] > 1 else None,
        fmt=marker,
        color=colour,
        markerfacecolor=colour if filled else "white",
        markersize=5,
        capsize=3,
        linewidth=1.2,
        label=label or None,
        zorder=3,
    )


def _annotate(axes: Axes, position: float, text: str) -> None:
    """Write a row's numbers at its right end."""
    axes.annotate(text, (1.01, position), xycoords=("axes fraction", "data"), va="center", fontsize=SMALL)
