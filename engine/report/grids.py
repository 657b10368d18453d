"""Grids of images: real ones beside distilled ones, one column per β_b or per method.

Legend: C channels, H, W pixels; N images. Pixels are enlarged without smoothing.
Source: UniDD Figures 1, 4, 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import UserError
from engine.report import drawing
from engine.report.drawing import SMALL, TEXT
from engine.report.groups import Group
from engine.report.page import Plate, slug
from engine.report.subject import Pixels, Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from engine.store.images import Reader

_ROWS, _COLUMNS = 10, 10  # maxima


@dataclass(frozen=True)
class Grid:
    """Images in named rows and columns; None is an empty cell."""

    rows: list[str]
    columns: list[str]
    cells: list[list[Pixels | None]]

    @property
    def alt(self) -> str:
        """The alternative text of a figure of the grid."""
        return f"Images of {len(self.rows)} classes, columns: {', '.join(self.columns)}"

    def draw(self) -> Figure:
        """Draw the grid with class names on the left and column names on top."""
        image_HW3, centres, is_enlarged = self.build_mosaic()
        height, width = image_HW3.shape[:2]
        names = [drawing.wrap(name, 9) for name in self.columns]
        slanted = any(name.count("\n") > 1 or max(map(len, name.split("\n"))) > 9 for name in names)
        names = [drawing.wrap(name, 24) for name in self.columns] if slanted else names
        inches = min(drawing.WIDTH - 1.0, 0.62 * len(self.columns))
        figure = drawing.create_figure(inches * height / width + (0.9 if slanted else 0.4), inches + 1.0)
        axes = figure.subplots()
        axes.imshow(image_HW3, interpolation="nearest" if is_enlarged else "antialiased", aspect="equal")
        axes.spines[:].set_visible(False)
        names = [drawing.escape_text(name) for name in names]
        style: dict[str, Any] = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
        axes.set_xticks(centres[: len(names)], names, fontsize=SMALL, **style)
        names = [drawing.escape_text(drawing.shorten(name, 18)) for name in self.rows]
        axes.set_yticks(centres[: len(names)], names, fontsize=TEXT)
        axes.tick_params(length=0, labeltop=True, labelbottom=False, top=False)
        return figure

    def build_mosaic(self) -> tuple[Pixels, list[float], bool]:
        """Return one picture of all cells, the centres of cells in pixels, and whether it is enlarged."""
        cell, gap = 128, 4  # the minimum size of an image on the page, and the white space between images
        sizes = [max(image.shape[1:]) for row in self.cells for image in row if image is not None]
        scale = max(1, -(-cell // max(sizes, default=cell)))
        side = scale * max(sizes, default=cell)
        step, longest = side + gap, max(len(self.rows), len(self.columns))
        shape = (len(self.rows) * step - gap, len(self.columns) * step - gap, 3)
        picture = np.full(shape, 255, np.uint8)
        for row, images in enumerate(self.cells):
            for column, image in enumerate(images):
                if image is not None:
                    large = np.kron(image, np.ones((1, scale, scale), np.uint8))
                    shown = np.broadcast_to(large, (3, *large.shape[1:])).transpose(1, 2, 0)
                    top, left = row * step, column * step
                    picture[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
        return picture, [index * step + (side - 1) / 2 for index in range(longest)], scale > 1


def images(subject: Subject) -> Plate | None:
    """Return a run's images by β_b (UniDD Figure 5), or by class without β; None if there are none.

    There is one row per class: real images first, then the images in order of batches. Damaged images are
    left blank.
    """
    by_beta = subject.config is None or subject.config.uses_beta
    reader = subject.images
    if reader is None or not reader.count:
        return None
    order_N = np.lexsort((reader.batch_N, reader.labels_N))
    present = sorted(set(reader.labels_N.tolist()))
    labels = [present[index] for index in drawing.evenly_spaced(len(present), _ROWS)]
    ranks = max(int((reader.labels_N == label).sum()) for label in labels)
    shown = drawing.evenly_spaced(ranks, _COLUMNS)
    members = [[int(number) for number in order_N if reader.labels_N[number] == label] for label in labels]
    cells = [
        [_read_pixels(reader, numbers[rank]) if rank < len(numbers) else None for rank in shown]
        for numbers in members
    ]
    of_rank = ([numbers[rank] for numbers in members if rank < len(numbers)] for rank in shown)
    columns = [_name_column(reader, numbers, by_beta=by_beta) for numbers in of_rank]
    left_out = _describe_left_out(len(reader.classes), len(labels), ranks, len(shown))
    grid = _build_grid(reader, labels, columns, cells, subject.real_KCHW)
    real = " First column: the first real image of the control." if subject.real_KCHW else ""
    with_beta = ", with their β_b (UniDD Figure 5)" if by_beta else ""
    caption = (
        f"Distilled images of {subject.name} ({subject.method}). Rows: classes; columns: the images"
        f" of a class in order of recovery{with_beta}.{real} {left_out}"
    )
    title = "Images by β_b" if by_beta else "Images by class"
    return Plate(f"images-{slug(subject.name)}", title, caption, grid.alt, grid.draw(), True)


def images_by_method(groups: Sequence[Group]) -> Plate | None:
    """Return the first image of each class (UniDD Figures 1, 4): real, then of each group's first run.

    Return None if fewer than two groups have images, or if their classes differ.
    """
    with_images = []
    for group in groups:
        subjects = (each for each in group.subjects if each.images is not None and each.images.count)
        if (first := next(subjects, None)) is not None:
            with_images.append((group, first))
    shown = [with_images[index] for index in drawing.evenly_spaced(len(with_images), _COLUMNS - 1)]
    readers = [subject.images for _, subject in shown if subject.images is not None]
    if len(readers) < 2 or len({reader.classes for reader in readers}) > 1:
        return None
    labels = drawing.evenly_spaced(len(readers[0].classes), _ROWS)
    real = next((subject.real_KCHW for _, subject in shown if subject.real_KCHW), {})
    cells = [[_read_first_image(reader, label) for reader in readers] for label in labels]
    grid = _build_grid(readers[0], labels, [group.label for group, _ in shown], cells, real)
    classes = len(readers[0].classes)
    left_out = _describe_left_out(classes, len(labels), len(with_images), len(shown), "methods")
    caption = (
        "Rows: classes. Columns: a real image, if available, then the first image of each method's first run,"
        " which has the first β if the method uses β (UniDD Figures 1, 4). " + left_out
    )
    return Plate("images-by-method", "Real and distilled images", caption, grid.alt, grid.draw(), True)


def _build_grid(
    reader: Reader,
    labels: Sequence[int],
    columns: list[str],
    cells: list[list[Pixels | None]],
    real: Mapping[int, Pixels],
) -> Grid:
    """Return a grid with a row for each label; its first column shows the real images, if there are any."""
    names = [reader.classes[label] for label in labels]
    if not real:
        return Grid(names, columns, cells)
    with_real = [[real.get(label), *row] for label, row in zip(labels, cells, strict=True)]
    return Grid(names, ["real", *columns], with_real)


def _read_first_image(reader: Reader, label: int) -> Pixels | None:
    members = np.flatnonzero(reader.labels_N == label)
    if not len(members):
        return None
    return _read_pixels(reader, int(members[np.argmin(reader.batch_N[members])]))


def _read_pixels(reader: Reader, number: int) -> Pixels | None:
    try:
        return reader.pixels(number)
    except UserError:
        return None


def _name_column(reader: Reader, numbers: Sequence[int], *, by_beta: bool) -> str:
    """Return a column's β if `by_beta` and all its images share it, else the batches of its images."""
    betas = {f"{reader.beta_N[number]:.3g}" for number in numbers}
    if by_beta and len(betas) == 1 and "nan" not in betas:
        return f"β {betas.pop()}"
    batches = sorted({int(reader.batch_N[number]) for number in numbers})
    return f"batch {batches[0]}" if len(batches) == 1 else f"batches {batches[0]}–{batches[-1]}"


def _describe_left_out(
    classes: int, rows: int, columns: int, shown: int, what: str = "images of a class"
) -> str:
    parts = [f"{rows} of {classes} classes"] if rows < classes else []
    parts += [f"{shown} of {columns} {what}"] if shown < columns else []
    return f"Only {' and '.join(parts)} are shown, evenly spaced." if parts else ""
