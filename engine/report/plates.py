"""The figures of a report in their places: titles, captions and texts for those who do not see them.

A caption says what is drawn, over how many, and what the bars are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.config import Objective
from engine.config.responses import Response, of_objective, reads_beta
from engine.report import drawing, figures, grids
from engine.report.groups import Accuracy, Group, GroupSimilarity
from engine.report.page import Plate, slug
from engine.report.subject import Subject
from engine.runs.results import format_mean_std

_CLASSES = (
    "Bars: sample standard deviation over classes (none for a single one); small dots: single classes; in"
    " brackets: how many classes, of all distilled sets together."
)


def accuracy(rows: Sequence[Accuracy]) -> Plate:
    """Figure 6's form."""
    sets = sorted({row.sets for row in rows})
    sets_told = counted(sets[-1], "distilled set") if len(sets) == 1 else f"{sets[0]} to {sets[-1]} sets"
    caption = (
        "Top-1 accuracy on the real test images after the last epoch, in percent. Filled circles: students"
        " trained on the distilled images; hollow squares: on as many real images, under the same labels and"
        " budget. Bars: sample standard deviation over students (none for a single one); in brackets: how"
        f" many students, trained on {sets_told} for each row. The axis does not begin at zero."
    )
    pairs = [
        (row.label, format_mean_std(row.distilled, 1), format_mean_std(row.control, 1, "none"))
        for row in rows
    ]
    told = "; ".join(f"{label}: {distilled}, control {control}" for label, distilled, control in pairs)
    return Plate("accuracy", "Accuracy by method", caption, told, figures.accuracy(rows))


def similarity(rows: Sequence[GroupSimilarity]) -> Plate:
    """Figure 2."""
    caption = (
        "Mean cosine similarity of all pairs of images of a class (UniDD Figure 2), between what the"
        " teacher's last linear layer reads: its penultimate features, of images as they are. Each set is"
        " seen by the teacher that it was distilled through. Large dots: mean over classes. " + _CLASSES
    )
    told = "; ".join(f"{row.label}: {format_mean_std(row.spread, 3, 'none')}" for row in rows)
    return Plate("similarity", "Intra-class similarity", caption, told, figures.similarity(rows))


def counted(count: int, what: str, plural: str = "s") -> str:
    """A number of things."""
    return f"{count} {what}{plural if count != 1 else ''}"


def schedule(groups: Sequence[Group]) -> Plate | None:
    """β_b of the groups whose filters read it; None where there is none."""
    found: dict[tuple[float, ...], list[str]] = {}
    for group in groups:
        betas = next((read for each in group.subjects if (read := betas_read(each))), None)
        if betas:
            found.setdefault(tuple(betas), []).append(group.label)
    if not found:
        return None
    lines = [(", ".join(labels), betas) for betas, labels in found.items()]
    caption = "β_b of every recovery batch in order (UniDD Eq. 19), for methods whose filter reads β."
    told = "; ".join(
        f"{name}: from {betas[0]:.3g} to {betas[-1]:.3g} in {counted(len(betas), 'batch', 'es')}"
        for name, betas in lines
    )
    return Plate("schedule", "β schedule", caption, told, figures.schedules(lines))


def betas_read(subject: Subject) -> list[float]:
    """β_b of a run; empty where none of its filters reads β, or recovery has not begun."""
    layout = subject.record.layout
    config = subject.config
    if layout is None or config is None or not reads_beta(config):
        return []
    return [float(beta) for beta in layout.betas]


def methods_grid(groups: Sequence[Group]) -> Plate | None:
    """Figures 1 and 4: real beside each method."""
    grid = grids.by_method(groups)
    if grid is None:
        return None
    caption = (
        "Rows: classes. The first image of each: real, if it could be read, then of each method's first run,"
        " which is the one with the first β where there is any (UniDD Figures 1, 4). " + grid.left_out
    )
    alt = f"Images of {len(grid.rows)} classes, columns: {', '.join(grid.columns)}"
    return Plate("images-by-method", "Real and distilled images", caption, alt, grids.draw(grid), True)


def images(subject: Subject) -> Plate | None:
    """Figure 5: a column for each β_b, or for each image of a class where there is no β."""
    by_beta = subject.config is None or reads_beta(subject.config)
    grid = grids.of_run(subject, by_beta=by_beta)
    if grid is None:
        return None
    real = " First column: the real image with which the control begins." if subject.real_KCHW else ""
    with_beta = ", with their β_b (UniDD Figure 5)" if by_beta else ""
    caption = (
        f"Distilled images of {subject.name} ({subject.method}). Rows: classes; columns: the images"
        f" of a class in the order in which they were made{with_beta}.{real}"
        f" {grid.left_out}"
    )
    alt = f"Images of {len(grid.rows)} classes, columns: {', '.join(grid.columns)}"
    title = "Images by β_b" if by_beta else "Images by class"
    return Plate(f"images-{slug(subject.name)}", title, caption, alt, grids.draw(grid), True)


def losses(subject: Subject) -> Plate | None:
    """CE and the terms of every layer."""
    course = subject.record.course
    if course is None:
        return None
    taps, batches = course.layout.taps, len(course.layout.betas)
    band = ""
    if course.stride > 1:
        band = (
            f" Lines: means of {course.stride} iterations that follow each other; bands: their least and"
            " greatest values."
        )
    shown = drawing.chosen(len(taps), drawing.PANELS - 1)
    left_out = f" Shown are {len(shown)} of {len(taps)} layers." if len(shown) < len(taps) else ""
    some = f"the first {course.done:,} of " if course.done < course.rows else ""
    ends = ", divided by dotted lines" if 1 < batches <= figures.BOUNDS else ""
    caption = (
        f"Recovery of {subject.name} ({subject.method}): cross-entropy, then each term (filter/signal)"
        f" at each tap, unweighted (UniDD Eq. 20), over {some}{course.rows:,} iterations:"
        f" {counted(batches, 'batch', 'es')} of {course.iterations:,}{ends}.{band}{left_out} One recovery, so"
        " no error bars."
    )
    alt = f"Curves of {', '.join(['cross-entropy', *course.layout.terms])} at {len(taps)} layers"
    name = f"losses-{slug(subject.name)}"
    return Plate(name, "Losses by layer", caption, alt, figures.loss_curves(course))


def spectra(subject: Subject) -> Plate | None:
    """Real and distilled spectra with the filters over them."""
    layers = subject.layers
    if not layers:
        return None
    over = filters_of(subject)
    if subject.source == "images":
        what = "Ψ over all training images, Ψ_s over all distilled images at once, un-augmented."
    else:
        there = subject.images is not None and subject.images.count > 0
        why = "teacher or data are not at hand" if there else "no distilled image is finished"
        what = (
            f"As recovery left them, because {why}: Ψ_s of its last, moving statistics, through random views."
        )
    reading = (
        " Dashed, on the right axis: f(λ) over the real eigenvalues, as a share of its largest value there;"
        " what rises to the right is high-pass, what falls is low-pass."
    )
    if not subject.optimised:
        reading = " Nothing was optimised, so there is no filter to draw."
    elif not over:
        reading = " The objective's filter is no function of the spectrum, so none is drawn."
    shown = drawing.chosen(len(layers), drawing.PANELS)
    left_out = f" Shown are {len(shown)} of {len(layers)} layers." if len(shown) < len(layers) else ""
    taps = " at the inputs of convolutions" if _other_taps(subject) else ""
    caption = (
        f"Eigenvalues by rank, largest first, of {subject.name} ({subject.method}){taps}. {what} Below"
        f" {figures.FLOOR:g} of the largest, nothing is drawn.{reading}{left_out}"
    )
    alt = f"Real and distilled spectra at {len(layers)} layers"
    name = f"spectra-{slug(subject.name)}"
    return Plate(name, "Spectra and filters", caption, alt, figures.spectra(layers, over))


def filters_of(subject: Subject) -> list[Response]:
    """What is drawn over spectra: `filters_over` them at the β_b of a run."""
    config = subject.config
    return [] if config is None or not config.optimises else filters_over(config.objective, betas_of(subject))


def filters_over(objective: Objective, betas: Sequence[float]) -> list[Response]:
    """An objective's filters, at the first and the last of `betas`.

    The diagonal filter is left out: what it does is no function of the spectrum.
    """
    known = [beta for beta in betas if np.isfinite(beta)]
    found = of_objective(objective, [known[0], known[-1]] if known else [])
    return [each for each in found if each.term.filter != "diagonal"]


def betas_of(subject: Subject) -> list[float]:
    """β_b as recovery told them, else of the images that there are."""
    if subject.record.layout is not None:
        return [float(beta) for beta in subject.record.layout.betas]
    if subject.images is None:
        return []
    return [float(beta) for beta in subject.images.beta_N[np.argsort(subject.images.batch_N, kind="stable")]]


def _other_taps(subject: Subject) -> bool:
    config = subject.config
    return subject.source == "images" and config is not None and not config.objective.has_covariance
