"""The figures of a report with their titles, captions and alternative texts.

A caption says what is drawn, over how many samples, and what the error bars are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.config import Objective
from engine.config.responses import Response, list_responses
from engine.report import drawing, figures, grids
from engine.report.groups import Accuracy, Group, GroupSimilarity
from engine.report.page import Plate, slug
from engine.report.subject import Subject
from engine.runs.results import format_mean_std

_CLASSES = (
    "Bars: sample standard deviation over classes (none for a single one); small dots: single classes; in"
    " brackets: the number of classes over all distilled sets."
)


def accuracy(rows: Sequence[Accuracy]) -> Plate:
    """Return the figure of accuracies (UniDD Figure 6)."""
    sets = sorted({row.sets for row in rows})
    trained_on = (
        format_quantity(sets[-1], "distilled set") if len(sets) == 1 else f"{sets[0]} to {sets[-1]} sets"
    )
    caption = (
        "Top-1 accuracy on the real test images after the last epoch, in percent. Filled circles: students"
        " trained on the distilled images; hollow squares: on the same number of real images with the same"
        " labels and budget. Bars: sample standard deviation over students (none for a single one); in"
        f" brackets: the number of students, trained on {trained_on} in each row. The axis does not start"
        " at zero."
    )
    pairs = [
        (row.label, format_mean_std(row.distilled, 1), format_mean_std(row.control, 1, "none"))
        for row in rows
    ]
    alt = "; ".join(f"{label}: {distilled}, control {control}" for label, distilled, control in pairs)
    return Plate("accuracy", "Accuracy by method", caption, alt, figures.accuracy(rows))


def similarity(rows: Sequence[GroupSimilarity]) -> Plate:
    """Return the figure of intra-class similarities (UniDD Figure 2)."""
    caption = (
        "Mean cosine similarity of all pairs of images of a class (UniDD Figure 2), between the teacher's"
        " penultimate features (the input of its last linear layer) of un-augmented images. Each set is"
        " evaluated with the teacher that it was distilled through. Large dots: mean over classes. "
        + _CLASSES
    )
    alt = "; ".join(f"{row.label}: {format_mean_std(row.spread, 3, 'none')}" for row in rows)
    return Plate("similarity", "Intra-class similarity", caption, alt, figures.similarity(rows))


def format_quantity(count: int, what: str, plural: str = "s") -> str:
    """Return a count with its noun."""
    return f"{count} {what}{plural if count != 1 else ''}"


def schedule(groups: Sequence[Group]) -> Plate | None:
    """Return the figure of β_b of the groups whose filters use it; None if there are none."""
    labels_by_betas: dict[tuple[float, ...], list[str]] = {}
    for group in groups:
        betas = next((read for each in group.subjects if (read := betas_in_use(each))), None)
        if betas:
            labels_by_betas.setdefault(tuple(betas), []).append(group.label)
    if not labels_by_betas:
        return None
    lines = [(", ".join(labels), betas) for betas, labels in labels_by_betas.items()]
    caption = "β_b of every recovery batch in order (UniDD Eq. 19), for methods whose filter uses β."
    alt = "; ".join(
        f"{name}: from {betas[0]:.3g} to {betas[-1]:.3g} in {format_quantity(len(betas), 'batch', 'es')}"
        for name, betas in lines
    )
    return Plate("schedule", "β schedule", caption, alt, figures.schedules(lines))


def betas_in_use(subject: Subject) -> list[float]:
    """Return β_b of a run; empty if none of its filters uses β, or before recovery."""
    layout = subject.record.layout
    config = subject.config
    if layout is None or config is None or not config.uses_beta:
        return []
    return [float(beta) for beta in layout.betas]


def methods_grid(groups: Sequence[Group]) -> Plate | None:
    """Return the grid of real images beside each method's (UniDD Figures 1, 4); None if there is none."""
    grid = grids.by_method(groups)
    if grid is None:
        return None
    caption = (
        "Rows: classes. Columns: a real image, if available, then the first image of each method's first run,"
        " which has the first β if the method uses β (UniDD Figures 1, 4). " + grid.left_out
    )
    alt = f"Images of {len(grid.rows)} classes, columns: {', '.join(grid.columns)}"
    return Plate("images-by-method", "Real and distilled images", caption, alt, grids.draw(grid), True)


def images(subject: Subject) -> Plate | None:
    """Return a run's grid of images by β_b (UniDD Figure 5), or by class without β; None if there is none."""
    by_beta = subject.config is None or subject.config.uses_beta
    grid = grids.of_run(subject, by_beta=by_beta)
    if grid is None:
        return None
    real = " First column: the first real image of the control." if subject.real_KCHW else ""
    with_beta = ", with their β_b (UniDD Figure 5)" if by_beta else ""
    caption = (
        f"Distilled images of {subject.name} ({subject.method}). Rows: classes; columns: the images"
        f" of a class in order of recovery{with_beta}.{real}"
        f" {grid.left_out}"
    )
    alt = f"Images of {len(grid.rows)} classes, columns: {', '.join(grid.columns)}"
    title = "Images by β_b" if by_beta else "Images by class"
    return Plate(f"images-{slug(subject.name)}", title, caption, alt, grids.draw(grid), True)


def losses(subject: Subject) -> Plate | None:
    """Return the figure of a run's CE and terms at every layer; None without numbers."""
    course = subject.record.course
    if course is None:
        return None
    taps, batches = course.layout.taps, len(course.layout.betas)
    band = ""
    if course.stride > 1:
        band = f" Lines: means of {course.stride} consecutive iterations; bands: their minimum and maximum."
    shown = drawing.evenly_spaced(len(taps), drawing.PANELS - 1)
    left_out = f" Only {len(shown)} of {len(taps)} layers are shown." if len(shown) < len(taps) else ""
    some = f"the first {course.done:,} of " if course.done < course.rows else ""
    ends = ", separated by dotted lines" if 1 < batches <= figures.BOUNDS else ""
    caption = (
        f"Recovery of {subject.name} ({subject.method}): cross-entropy, then each term (filter/signal)"
        f" at each tap, unweighted (UniDD Eq. 20), over {some}{course.rows:,} iterations:"
        f" {format_quantity(batches, 'batch', 'es')} of {course.iterations:,}{ends}.{band}{left_out} A single"
        " recovery, so no error bars."
    )
    alt = f"Curves of {', '.join(['cross-entropy', *course.layout.terms])} at {len(taps)} layers"
    name = f"losses-{slug(subject.name)}"
    return Plate(name, "Losses by layer", caption, alt, figures.loss_curves(course))


def spectra(subject: Subject) -> Plate | None:
    """Return the figure of a run's real and distilled spectra with its filters; None without spectra."""
    layers = subject.layers
    if not layers:
        return None
    responses = filters_of(subject)
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
    shown = drawing.evenly_spaced(len(layers), drawing.PANELS)
    left_out = f" Only {len(shown)} of {len(layers)} layers are shown." if len(shown) < len(layers) else ""
    config = subject.config
    uses_other_taps = (
        subject.source == "images" and config is not None and not config.objective.has_covariance
    )
    taps = " at the inputs of convolutions" if uses_other_taps else ""
    caption = (
        f"Eigenvalues by rank, largest first, of {subject.name} ({subject.method}){taps}. {what}"
        f" Eigenvalues below {figures.FLOOR:g} of the largest are not drawn.{reading}{left_out}"
    )
    alt = f"Real and distilled spectra at {len(layers)} layers"
    name = f"spectra-{slug(subject.name)}"
    return Plate(name, "Spectra and filters", caption, alt, figures.spectra(layers, responses))


def filters_of(subject: Subject) -> list[Response]:
    """Return the filters to draw with a run's spectra, at its β_b; empty if nothing is optimised."""
    config = subject.config
    return (
        [] if config is None or not config.optimises else filters_over(config.objective, known_betas(subject))
    )


def filters_over(objective: Objective, betas: Sequence[float]) -> list[Response]:
    """Return an objective's filters at the first and the last of `betas`.

    The diagonal filter is skipped, because it is not a function of the spectrum.
    """
    finite_betas = [beta for beta in betas if np.isfinite(beta)]
    responses = list_responses(objective, [finite_betas[0], finite_betas[-1]] if finite_betas else [])
    return [each for each in responses if each.term.filter != "diagonal"]


def known_betas(subject: Subject) -> list[float]:
    """Return β_b of every batch from the record of recovery, else β_b of the stored images."""
    if subject.record.layout is not None:
        return [float(beta) for beta in subject.record.layout.betas]
    if subject.images is None:
        return []
    return [float(beta) for beta in subject.images.beta_N[np.argsort(subject.images.batch_N, kind="stable")]]
