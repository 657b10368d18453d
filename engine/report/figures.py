"""The figures of a report with their titles, captions and alternative texts.

A caption says what is drawn, over how many samples, and what the error bars are. A figure without data shows
a text instead. Colours are the Okabe-Ito palette, which is safe for colour-blind readers; curves also differ
in line style. Legend: B buckets, D eigenvalues.
Not here: the common style of figures (see `drawing`), image grids (see `grids`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.config.responses import Response
from engine.report import drawing
from engine.report.drawing import SMALL, TEXT
from engine.report.groups import Accuracy, GroupSimilarity
from engine.report.lens import LensLayer
from engine.report.losses import Curve, LossCourse
from engine.report.page import Plate, slug
from engine.report.subject import Subject
from engine.runs.results import format_mean_std

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
_GREY = "#555555"
_FLOOR = 1e-8  # eigenvalues below this share of the largest are not drawn
_BOUNDS = 20  # batch boundaries are marked up to this number of batches


def losses(subject: Subject) -> Plate | None:
    """Return the figure of a run's CE and terms at every layer; None without numbers."""
    course = subject.record.course
    if course is None:
        return None
    taps, batches = course.layout.taps, len(course.layout.betas)
    band = f" Lines: means of {course.stride} consecutive iterations; bands: their minimum and maximum."
    band = band if course.stride > 1 else ""
    left_out = _describe_left_out(len(taps), drawing.PANELS - 1)
    some = f"the first {course.done:,} of " if course.done < course.rows else ""
    ends = ", separated by dotted lines" if 1 < batches <= _BOUNDS else ""
    caption = (
        f"Recovery of {subject.name} ({subject.method}): cross-entropy, then each term (filter/signal)"
        f" at each tap, unweighted (UniDD Eq. 20), over {some}{course.rows:,} iterations:"
        f" {_format_quantity(batches, 'batch', 'es')} of {course.iterations:,}{ends}.{band}{left_out}"
        " A single recovery, so no error bars."
    )
    alt = f"Curves of {', '.join(['cross-entropy', *course.layout.terms])} at {len(taps)} layers"
    name = f"losses-{slug(subject.name)}"
    return Plate(name, "Losses by layer", caption, alt, draw_losses(course))


def draw_losses(course: LossCourse) -> Figure:
    """Draw CE and the unweighted terms at every tap, or at evenly spaced ones of many, by iteration."""
    taps, terms = course.layout.taps, course.layout.terms
    shown = drawing.evenly_spaced(len(taps), drawing.PANELS - 1)
    figure, axes = drawing.create_panels(1 + len(shown))
    _draw_curves(axes[0], course, [("cross-entropy", course.ce())], "cross-entropy", _GREY)
    for panel, tap in zip(axes[1:], shown, strict=True):
        curves = [(name, course.term(number, tap)) for number, name in enumerate(terms)]
        _draw_curves(panel, course, curves, taps[tap])
    drawing.add_legend(figure, axes[1:])
    return figure


def _draw_curves(
    axes: Axes, course: LossCourse, curves: Sequence[tuple[str, Curve]], title: str, colour: str | None = None
) -> None:
    """Draw curves with their bands. colour: one for all curves; by default, each has its own."""
    drawing.style_axes(axes, title, "iteration")
    if not any(np.isfinite(curve.mean_B).any() for _, curve in curves):
        drawing.draw_empty_panel(axes, "nothing finite to draw" if curves else "no terms")
        return
    marker = "." if len(course.x_B) < 8 else ""
    for number, (name, curve) in enumerate(curves):
        line_colour = colour or _COLOURS[number % len(_COLOURS)]
        style: dict[str, Any] = {"linestyle": _DASHES[number % len(_DASHES)], "linewidth": 0.9}
        label = drawing.escape_text(name)
        axes.fill_between(course.x_B, curve.low_B, curve.high_B, color=line_colour, alpha=0.2, linewidth=0)
        axes.plot(course.x_B, curve.mean_B, color=line_colour, marker=marker, label=label, **style)
    drawing.set_log_scale(axes, [side_B for _, curve in curves for side_B in (curve.low_B, curve.high_B)])
    _use_integer_ticks(axes)
    batches = len(course.layout.betas)
    if 1 < batches <= _BOUNDS:
        for batch in range(1, batches):
            axes.axvline(batch * course.iterations - 0.5, color=_GREY, linewidth=0.4, linestyle=":")


def spectra(subject: Subject) -> Plate | None:
    """Return the figure of a run's real and distilled spectra with its filters; None without spectra."""
    layers = subject.layers
    if not layers:
        return None
    responses = subject.filters()
    if subject.source == "images":
        what = "Ψ over all training images, Ψ_s over all distilled images at once, un-augmented."
    else:
        has_images = subject.images is not None and subject.images.count > 0
        why = "the teacher or the data are missing" if has_images else "no distilled image is finished"
        what = f"As recorded by recovery, because {why}: Ψ_s of its last moving statistics over random views."
    reading = (
        " Dashed, on the right axis: f(λ) of the real eigenvalues, relative to its maximum;"
        " rising to the right is high-pass, falling is low-pass."
    )
    if not subject.optimised:
        reading = " Nothing was optimised, so no filter is drawn."
    elif not responses:
        reading = " The objective's filter is not a function of the spectrum, so it is not drawn."
    left_out = _describe_left_out(len(layers), drawing.PANELS)
    taps = " at the inputs of convolutions" if subject.has_changed_taps else ""
    caption = (
        f"Eigenvalues by rank, largest first, of {subject.name} ({subject.method}){taps}. {what}"
        f" Eigenvalues below {_FLOOR:g} of the largest are not drawn.{reading}{left_out}"
    )
    alt = f"Real and distilled spectra at {len(layers)} layers"
    name = f"spectra-{slug(subject.name)}"
    return Plate(name, "Spectra and filters", caption, alt, draw_spectra(layers, responses))


def draw_spectra(layers: Sequence[LensLayer], responses: Sequence[Response]) -> Figure:
    """Draw both spectra and the filters of every layer, or of evenly spaced ones of many, by rank."""
    shown = [layers[index] for index in drawing.evenly_spaced(len(layers), drawing.PANELS)]
    figure, axes = drawing.create_panels(len(shown))
    grid = axes[0].get_gridspec()
    assert grid is not None
    overlays: list[Axes] = []
    for number, (panel, layer) in enumerate(zip(axes, shown, strict=True)):
        drawing.style_axes(panel, layer.name, "rank", "eigenvalue" if number % grid.ncols == 0 else "")
        if not _draw_spectra(panel, layer):
            drawing.draw_empty_panel(panel)
        elif responses:
            is_last = (number + 1) % grid.ncols == 0 or number == len(shown) - 1
            overlays.append(_draw_filters(panel, layer, responses, labelled=is_last))
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
        if values_D is not None:
            shown_D = np.where(values_D > _FLOOR * largest, values_D, np.nan)
            _plot_by_rank(axes, shown_D, number, dash, 1.3, "o" if len(shown_D) < 6 else "", name)
    drawing.set_log_scale(axes, [values[values > _FLOOR * largest] for values in finite])
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    last = max(2, *(len(values) for values in finite))
    ticks = [2**power for power in range(12) if 2**power <= last]
    axes.set_xscale("log")
    axes.set_xlim(0.9, last * 1.1)
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 6]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    return True


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
        name = response.filter if response.beta is None else f"{response.filter}, β = {response.beta:.3g}"
        dash, marker = _DASHES[(number + 1) % len(_DASHES)], "x" if len(share_D) < 6 else ""
        _plot_by_rank(overlay, share_D, number + 2, dash, 1.0, marker, name)
    return overlay


def schedule(lines: Sequence[tuple[str, Sequence[float]]]) -> Plate:
    """Return the figure of β_b of every batch, one line per name."""
    caption = "β_b of every recovery batch in order (UniDD Eq. 19), for methods whose filter uses β."
    alt = "; ".join(
        f"{name}: from {betas[0]:.3g} to {betas[-1]:.3g} in {_format_quantity(len(betas), 'batch', 'es')}"
        for name, betas in lines
        if betas
    )
    figure, (axes,) = drawing.create_panels(1, height=2.2)
    plate = Plate("schedule", "β schedule", caption, alt, figure)
    drawing.style_axes(axes, "", "batch b", "β_b")
    drawn = [(name, np.asarray(values, np.float64)) for name, values in lines[: len(_COLOURS) * len(_DASHES)]]
    if not any(np.isfinite(values).any() for _, values in drawn):
        drawing.draw_empty_panel(axes)
        return plate
    for number, (name, values) in enumerate(drawn):
        dash, marker = _DASHES[number % len(_DASHES)], "o" if len(values) <= 60 else ""
        _plot_by_rank(axes, values, number, dash, 1.2, marker, drawing.shorten(name, 60))
    drawing.set_log_scale(axes, [values for _, values in drawn])
    _use_integer_ticks(axes)
    drawing.add_legend(figure, [axes] if len(drawn) > 1 else [])
    return plate


def _plot_by_rank(
    axes: Axes, values: NDArray[np.float64], number: int, dash: Any, width: float, marker: str, name: str
) -> None:
    """Plot values over 1, 2, … in the colour of that number."""
    colour, label = _COLOURS[number % len(_COLOURS)], drawing.escape_text(name)
    style: dict[str, Any] = {"linestyle": dash, "linewidth": width, "marker": marker, "markersize": 3}
    axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=label, **style)


def _use_integer_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


# --- one row for each group --------------------------------------------------------------------------


def similarity(rows: Sequence[GroupSimilarity]) -> Plate:
    """Return UniDD Figure 2: mean and standard deviation over classes, and each class as a dot."""
    caption = (
        "Mean cosine similarity of all pairs of images of a class (UniDD Figure 2), between the teacher's"
        " penultimate features (the input of its last linear layer) of un-augmented images. Each set is"
        " evaluated with the teacher that it was distilled through. Large dots: mean over classes. Bars:"
        " sample standard deviation over classes (none for a single one); small dots: single classes; in"
        " brackets: the number of classes over all distilled sets."
    )
    alt = "; ".join(f"{row.label}: {format_mean_std(row.spread, 3, 'none')}" for row in rows)
    labels = [[row.label for row in rows]]
    figure, (axes,) = _create_row_panels(labels, "mean cosine similarity within a class")
    for position, row in enumerate(rows):
        values = np.asarray(row.of_class, np.float64)
        jitter = (np.arange(len(values)) % 5 - 2) * 0.06
        axes.scatter(values, position + jitter, s=10, color=_COLOURS[5], alpha=0.6, linewidth=0, zorder=2)
        _draw_mean(axes, position, row.spread, "o", _COLOURS[0], 3)
    return Plate("similarity", "Intra-class similarity", caption, alt, figure)


def accuracy(rows: Sequence[Accuracy]) -> Plate:
    """Return UniDD Figure 6: distilled and control accuracy of every group, one panel per architecture."""
    caption = (
        "Top-1 accuracy on the real test images after the last epoch, in percent. Filled circles: students"
        " trained on the distilled images; hollow squares: on as many random real images with the same"
        " labels and budget. Bars: sample standard deviation over repeats (none for a single one); in"
        " brackets: the number of repeats, whose students are averaged first. The axis does not start at"
        " zero."
    )
    alt = "; ".join(
        f"{row.label}: {format_mean_std(row.distilled, 1)}, control {format_mean_std(row.control, 1, 'none')}"
        for row in rows
    )
    by_name: dict[str, list[Accuracy]] = {}
    for row in rows:
        by_name.setdefault(row.architecture, []).append(row)
    labels = [[row.label for row in its_rows] for its_rows in by_name.values()]
    figure, axes = _create_row_panels(labels, "test accuracy, %")
    for panel, (name, its_rows) in zip(axes, by_name.items(), strict=True):
        panel.set_title(drawing.escape_text(f"{name} (students)"), fontsize=TEXT)
        offset = 0.18 if any(row.control is not None for row in its_rows) else 0.0
        for position, row in enumerate(its_rows):
            _draw_mean(panel, position - offset, row.distilled, "o", _COLOURS[0], 1, "distilled")
            _draw_mean(panel, position + offset, row.control, "s", _COLOURS[1], 1, "control (real)")
    drawing.add_legend(figure, axes)
    return Plate("accuracy", "Accuracy by method", caption, alt, figure)


def _create_row_panels(labels: Sequence[Sequence[str]], x_label: str) -> tuple[Figure, list[Axes]]:
    """Return a figure of stacked panels with one labelled line per row, the first on top, and its axes."""
    heights = [len(panel_labels) for panel_labels in labels]
    figure = drawing.create_figure(0.9 + sum(0.42 * height + 0.45 for height in heights))
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    axes: list[Axes] = [row[0] for row in grid]
    for panel, panel_labels in zip(axes, labels, strict=True):
        drawing.style_axes(panel, "", x_label)
        names = [drawing.escape_text(drawing.wrap(name, 34)) for name in panel_labels]
        panel.set_ylim(len(panel_labels) - 0.5, -0.5)
        panel.set_yticks(range(len(panel_labels)), names)
        panel.tick_params(axis="y", length=0, labelsize=TEXT)
    return figure, axes


def _draw_mean(
    axes: Axes,
    position: float,
    spread: dict[str, float] | None,
    marker: str,
    colour: str,
    digits: int,
    label: str | None = None,
) -> None:
    """Draw a row's mean with its error bar, and write both at its right end; nothing without numbers."""
    if spread is None:
        return
    error, fill = spread["std"] if spread["n"] > 1 else None, colour if marker == "o" else "white"
    style: dict[str, Any] = {"color": colour, "markersize": 5, "capsize": 3, "linewidth": 1.2, "zorder": 3}
    axes.errorbar(
        spread["mean"], position, xerr=error, fmt=marker, markerfacecolor=fill, label=label, **style
    )
    end, text = (1.01, position), format_mean_std(spread, digits)
    axes.annotate(text, end, xycoords=("axes fraction", "data"), va="center", fontsize=SMALL)


def _describe_left_out(layers: int, limit: int) -> str:
    return f" Only {limit} of {layers} layers are shown." if limit < layers else ""


def _format_quantity(count: int, what: str, plural: str = "s") -> str:
    """Return a count with its noun."""
    return f"{count} {what}{plural if count != 1 else ''}"
