"""The figures of a report, each out of plain numbers.

A figure says so where it has nothing to draw. Legend: B buckets, D eigenvalues, R rows and C columns of
images, N values. Not here: what figures look like in common (see `drawing`), image grids (see `grids`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.config.responses import Response
from engine.report import drawing
from engine.report.drawing import COLOURS, DASHES, GREY, SMALL, TEXT
from engine.report.groups import Accuracy, GroupSimilarity
from engine.report.lens import Layer
from engine.report.losses import Curve, LossCourse
from engine.runs.results import format_mean_std

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 1e-8  #: of the largest eigenvalue: what lies below it is not drawn
BOUNDS = 20  #: batches up to which their ends are marked
_LINES = len(COLOURS) * len(DASHES)


def loss_curves(course: LossCourse) -> Figure:
    """CE, then every unweighted term at every tap (some of them where there are many), by iteration."""
    taps, terms = course.layout.taps, course.layout.terms
    shown = drawing.chosen(len(taps), drawing.PANELS - 1)
    found, axes = drawing.panels(1 + len(shown))
    _curves(axes[0], course, [("cross-entropy", course.ce())], "cross-entropy", GREY)
    for place, tap in zip(axes[1:], shown, strict=True):
        each = [(name, course.term(number, tap)) for number, name in enumerate(terms)]
        _curves(place, course, each, taps[tap])
    drawing.legend(found, axes[1:])
    return found


def _curves(
    axes: Axes, course: LossCourse, curves: Sequence[tuple[str, Curve]], title: str, own: str | None = None
) -> None:
    """own: a colour that is not told apart from others."""
    drawing.titled(axes, title, "iteration")
    if not any(np.isfinite(curve.mean_B).any() for _, curve in curves):
        drawing.empty(axes, drawing.NOTHING if curves else "no terms")
        return
    for number, (name, curve) in enumerate(curves):
        colour = own or COLOURS[number % len(COLOURS)]
        dash = DASHES[number % len(DASHES)]
        axes.fill_between(course.x_B, curve.low_B, curve.high_B, color=colour, alpha=0.2, linewidth=0)
        axes.plot(
            course.x_B,
            curve.mean_B,
            color=colour,
            linestyle=dash,
            linewidth=0.9,
            marker="." if len(course.x_B) < 8 else "",
            label=drawing.literal(name),
        )
    bounds = [side_B for _, curve in curves for side_B in (curve.low_B, curve.high_B)]
    drawing.log_if_positive(axes, bounds)
    _whole_ticks(axes)
    batches = len(course.layout.betas)
    if 1 < batches <= BOUNDS:
        for batch in range(1, batches):
            axes.axvline(batch * course.iterations - 0.5, color=GREY, linewidth=0.4, linestyle=":")


def spectra(layers: Sequence[Layer], responses: Sequence[Response]) -> Figure:
    """Both spectra of every layer (some of them where there are many) by rank, the filters over them."""
    shown = [layers[place] for place in drawing.chosen(len(layers), drawing.PANELS)]
    found, axes = drawing.panels(len(shown))
    columns = drawing.across(len(shown))
    overlays: list[Axes] = []
    for number, (place, layer) in enumerate(zip(axes, shown, strict=True)):
        drawing.titled(place, layer.name, "rank", "eigenvalue" if number % columns == 0 else "")
        if not _both_spectra(place, layer):
            drawing.empty(place)
        elif responses:
            last = number % columns == columns - 1 or number == len(shown) - 1
            overlays.append(_filters(place, layer, responses, named=last))
    drawing.legend(found, [*axes, *overlays])
    return found


def _both_spectra(axes: Axes, layer: Layer) -> bool:
    """Whether there was anything to draw."""
    sides = [("Ψ, real", layer.real_D, "-"), ("Ψ_s, distilled", layer.synthetic_D, (0, (3, 1)))]
    known = [values[np.isfinite(values)] for _, values, _ in sides if values is not None]
    most = max((float(values.max()) for values in known if len(values)), default=0.0)
    if most <= 0:
        return False
    for number, (name, values_D, dash) in enumerate(sides):
        if values_D is None:
            continue
        drawn_D = np.where(values_D > FLOOR * most, values_D, np.nan)
        axes.plot(
            np.arange(1, len(drawn_D) + 1),
            drawn_D,
            color=COLOURS[number],
            linestyle=dash,
            linewidth=1.3,
            marker="o" if len(drawn_D) < 6 else "",
            markersize=3,
            label=name,
        )
    _log_ranks(axes, max(len(values) for values in known))
    positive = np.concatenate([values[values > FLOOR * most] for values in known])
    drawing.logarithmic(axes, float(positive.min()), most)
    return True


def _log_ranks(axes: Axes, most: int) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log")
    axes.set_xlim(0.9, max(most, 2) * 1.1)
    ticks = [tick for tick in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048) if tick <= max(most, 2)]
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 6]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))


def _filters(axes: Axes, layer: Layer, responses: Sequence[Response], *, named: bool) -> Axes:
    """Each filter's share of its largest response, on an axis of its own. named: whether that is labelled."""
    overlay: Axes = axes.twinx()
    overlay.spines[["top", "left"]].set_visible(False)
    overlay.set_ylim(-0.03, 1.05)
    overlay.tick_params(labelsize=SMALL, right=named, labelright=named)
    overlay.spines["right"].set_visible(named)
    if named:
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
            label=drawing.literal(legend_of(response)),
        )
    return overlay


def legend_of(response: Response) -> str:
    """What a legend calls a filter."""
    return response.filter if response.beta is None else f"{response.filter}, β = {response.beta:.3g}"


def schedules(betas: Sequence[tuple[str, Sequence[float]]]) -> Figure:
    """β_b of every batch, a line for each name."""
    found, (axes,) = drawing.panels(1, height=2.2)
    drawing.titled(axes, "", "batch b", "β_b")
    drawn = [(name, np.asarray(values, np.float64)) for name, values in betas[:_LINES]]
    if not any(np.isfinite(values).any() for _, values in drawn):
        drawing.empty(axes)
        return found
    for number, (name, values) in enumerate(drawn):
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number % len(DASHES)],
            linewidth=1.2,
            marker="o" if len(values) <= 60 else "",
            markersize=3,
            label=drawing.literal(drawing.shorter(name, 60)),
        )
    drawing.log_if_positive(axes, [values for _, values in drawn])
    _whole_ticks(axes)
    drawing.legend(found, [axes] if len(drawn) > 1 else [])
    return found


def _whole_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


# --- one row for each group --------------------------------------------------------------------------


def similarity(rows: Sequence[GroupSimilarity]) -> Figure:
    """Figure 2: the mean over classes with its standard deviation, and every class as a dot."""
    found, (axes,) = _rows([row.label for row in rows], "mean cosine similarity within a class")
    for place, row in enumerate(rows):
        values = np.asarray(row.of_class, np.float64)
        jitter = (np.arange(len(values)) % 5 - 2) * 0.06
        axes.scatter(values, place + jitter, s=10, color=COLOURS[5], alpha=0.6, linewidth=0, zorder=2)
        if row.spread is not None:
            _mean(axes, place, row.spread, "o", COLOURS[0], filled=True)
            _told(axes, place, format_mean_std(row.spread, 3))
    return found


def accuracy(rows: Sequence[Accuracy]) -> Figure:
    """Figure 6: distilled and control of every group, a panel for each architecture."""
    names = list(dict.fromkeys(row.architecture for row in rows))
    own = [[row for row in rows if row.architecture == name] for name in names]
    found, axes = _rows_panels([[row.label for row in each] for each in own] or [[]], "test accuracy, %")
    for place, name, each in zip(axes, names, own, strict=bool(names)):
        place.set_title(drawing.literal(f"{name} (students)"), fontsize=TEXT)
        apart = 0.18 if any(row.control is not None for row in each) else 0.0
        for at, row in enumerate(each):
            if (spread := row.distilled) is not None:
                _mean(place, at - apart, spread, "o", COLOURS[0], filled=True, label="distilled")
                _told(place, at - apart, format_mean_std(spread, 1))
            if (spread := row.control) is not None:
                _mean(place, at + apart, spread, "s", COLOURS[1], filled=False, label="control (real)")
                _told(place, at + apart, format_mean_std(spread, 1))
    drawing.legend(found, axes)
    return found


def _rows(labels: Sequence[str], x_label: str) -> tuple[Figure, list[Axes]]:
    return _rows_panels([labels], x_label)


def _rows_panels(labels: Sequence[Sequence[str]], x_label: str) -> tuple[Figure, list[Axes]]:
    """Panels under each other, each with a named line for each row, the first on top."""
    heights = [max(len(each), 1) for each in labels]
    found = drawing.figure(0.9 + sum(0.42 * height + 0.45 for height in heights))
    grid = found.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    axes: list[Axes] = [row[0] for row in grid]
    for place, each in zip(axes, labels, strict=True):
        drawing.plain_axes(place)
        drawing.titled(place, "", x_label)
        if not each:
            drawing.empty(place, "nothing to draw yet")
            continue
        place.set_ylim(len(each) - 0.5, -0.5)
        place.set_yticks(range(len(each)), [drawing.literal(drawing.wrapped(name, 34)) for name in each])
        place.tick_params(axis="y", length=0, labelsize=TEXT)
    return found, axes


def _mean(
    axes: Axes,
    place: float,
    spread: dict[str, float],
    marker: str,
    colour: str,
    *,
    filled: bool,
    label: str = "",
) -> None:
    axes.errorbar(
        spread["mean"],
        place,
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


def _told(axes: Axes, place: float, text: str) -> None:
    """A row's numbers, at its right end."""
    axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=SMALL)
