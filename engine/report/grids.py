"""Grids of images: real ones beside distilled ones, a column for each β_b or for each method.

Legend: C channels, H, W pixels, R rows (classes), columns from left to right. Pixels are shown as they are,
enlarged without smoothing. Source: UniDD Figures 1, 4, 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.errors import UserError
from engine.report import drawing
from engine.report.drawing import SMALL, TEXT
from engine.report.groups import Group
from engine.report.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from engine.store.images import Reader

Pixels = NDArray[np.uint8]
ROWS, COLUMNS = 10, 10  #: at most
_CELL = 128  # pixels of an image on the page, at least
_GAP = 4  # white pixels between images


@dataclass(frozen=True)
class Grid:
    """Images in rows and columns, each named; None where there is none. left_out: what is not shown."""

    rows: list[str]
    columns: list[str]
    cells: list[list[Pixels | None]]
    left_out: str = ""


def of_run(subject: Subject, *, by_beta: bool) -> Grid | None:
    """A run's images: rows are classes, the first column real images, then from batch to batch.

    by_beta: name columns by their β_b. Damaged images are left blank. None where there are no images at all.
    """
    reader = subject.images
    if reader is None or not reader.count:
        return None
    order_N = np.lexsort((reader.batch_N, reader.labels_N))
    labels = _some_classes(reader)
    ranks = max(int((reader.labels_N == label).sum()) for label in labels)
    shown = drawing.chosen(ranks, COLUMNS)
    members = {label: [int(n) for n in order_N if reader.labels_N[n] == label] for label in labels}
    cells: list[list[Pixels | None]] = []
    for label in labels:
        own = members[label]
        found = [_pixels(reader, own[rank]) if rank < len(own) else None for rank in shown]
        cells.append([subject.real_KCHW.get(label), *found] if subject.real_KCHW else found)
    numbers = [[own[rank] for own in members.values() if rank < len(own)] for rank in shown]
    columns = [_column(reader, each, by_beta=by_beta) for each in numbers]
    left_out = _left_out(len(reader.classes), len(labels), ranks, len(shown))
    return Grid(
        [reader.classes[label] for label in labels],
        ["real", *columns] if subject.real_KCHW else columns,
        cells,
        left_out,
    )


def by_method(groups: Sequence[Group]) -> Grid | None:
    """The first image of each class: real, then of each group's first run that has images.

    None where fewer than two groups have images, or where they are not of the same classes.
    """
    with_images = [(group, first) for group in groups if (first := _first_with_images(group)) is not None]
    shown = [with_images[place] for place in drawing.chosen(len(with_images), COLUMNS - 1)]
    readers = [subject.images for _, subject in shown if subject.images is not None]
    if len(readers) < 2 or len({reader.classes for reader in readers}) > 1:
        return None
    labels = drawing.chosen(len(readers[0].classes), ROWS)
    real = next((subject.real_KCHW for _, subject in shown if subject.real_KCHW), {})
    cells: list[list[Pixels | None]] = []
    for label in labels:
        found = [_first(reader, label) for reader in readers]
        cells.append([real.get(label), *found] if real else found)
    columns = [group.label for group, _ in shown]
    left_out = _left_out(len(readers[0].classes), len(labels), len(with_images), len(shown), "methods")
    names = [readers[0].classes[label] for label in labels]
    return Grid(names, ["real", *columns] if real else columns, cells, left_out)


def _first_with_images(group: Group) -> Subject | None:
    return next((each for each in group.subjects if each.images is not None and each.images.count), None)


def _some_classes(reader: Reader) -> list[int]:
    there = sorted(set(reader.labels_N.tolist()))
    return [there[place] for place in drawing.chosen(len(there), ROWS)]


def _first(reader: Reader, label: int) -> Pixels | None:
    members = np.flatnonzero(reader.labels_N == label)
    if not len(members):
        return None
    return _pixels(reader, int(members[np.argmin(reader.batch_N[members])]))


def _pixels(reader: Reader, number: int) -> Pixels | None:
    try:
        return reader.pixels(number)
    except UserError:
        return None


def _column(reader: Reader, numbers: Sequence[int], *, by_beta: bool) -> str:
    """β of a column, where it is asked for and all images share it; else the batches that they are of."""
    betas = {f"{reader.beta_N[number]:.3g}" for number in numbers}
    if by_beta and len(betas) == 1 and "nan" not in betas:
        return f"β {betas.pop()}"
    batches = sorted({int(reader.batch_N[number]) for number in numbers})
    return f"batch {batches[0]}" if len(batches) == 1 else f"batches {batches[0]}–{batches[-1]}"


def _left_out(classes: int, rows: int, columns: int, shown: int, what: str = "images of a class") -> str:
    parts = [f"{rows} of {classes} classes"] if rows < classes else []
    parts += [f"{shown} of {columns} {what}"] if shown < columns else []
    return f"Shown are {' and '.join(parts)}, at equal distances." if parts else ""


def draw(grid: Grid) -> Figure:
    """The grid with its classes at the left and its columns' names on top."""
    image_HW3, centres, small = _mosaic(grid)
    height, width = image_HW3.shape[:2]
    names = [drawing.wrapped(name, 9) for name in grid.columns]
    slanted = any(name.count("\n") > 1 or max(map(len, name.split("\n"))) > 9 for name in names)
    names = [drawing.wrapped(name, 24) for name in grid.columns] if slanted else names
    inches = min(drawing.WIDTH - 1.0, 0.62 * len(grid.columns))
    found = drawing.figure(inches * height / width + (0.9 if slanted else 0.4), inches + 1.0)
    axes = found.subplots()
    axes.imshow(image_HW3, interpolation="nearest" if small else "antialiased", aspect="equal")
    axes.spines[:].set_visible(False)
    axes.set_xticks(
        [centres[place] for place in range(len(grid.columns))],
        [drawing.literal(name) for name in names],
        fontsize=SMALL,
        rotation=45 if slanted else 0,
        ha="left" if slanted else "center",
        rotation_mode="anchor" if slanted else "default",
    )
    axes.set_yticks(
        [centres[place] for place in range(len(grid.rows))],
        [drawing.literal(drawing.shorter(name, 18)) for name in grid.rows],
        fontsize=TEXT,
    )
    axes.tick_params(length=0, labeltop=True, labelbottom=False, top=False)
    return found


def _mosaic(grid: Grid) -> tuple[Pixels, list[float], bool]:
    """One picture of all, the centres of its cells along either axis, in pixels; whether it is enlarged."""
    sizes = [max(cell.shape[1:]) for row in grid.cells for cell in row if cell is not None]
    times = max(1, -(-_CELL // max(sizes, default=_CELL)))
    side = times * max(sizes, default=_CELL)
    step, most = side + _GAP, max(len(grid.rows), len(grid.columns))
    shape = (len(grid.rows) * step - _GAP, len(grid.columns) * step - _GAP, 3)
    picture = np.full(shape, 255, np.uint8)
    for row, cells in enumerate(grid.cells):
        for column, cell in enumerate(cells):
            if cell is not None:
                large = np.kron(cell, np.ones((1, times, times), np.uint8))
                shown = np.broadcast_to(large, (3, *large.shape[1:])).transpose(1, 2, 0)
                top, left = row * step, column * step
                picture[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    return picture, [place * step + (side - 1) / 2 for place in range(most)], times > 1
