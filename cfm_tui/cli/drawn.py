"""A run's curves, spectra and β grid as text: what `cfm show` draws when it is asked to.

The page of all figures is `cfm report`'s.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.color import ColorSystem

from cfm_tui.display import ascii_image, charts, plot_data, terminal
from cfm_tui.display.progress import beta_text
from cfm_tui.display.run_state import RunModel, config_of
from engine.config.responses import has_beta

if TYPE_CHECKING:
    from cfm_tui.display.charts import Line
    from engine.store import StoredRun
    from engine.store.images import Reader

HEIGHT, WIDEST = 14, 120  #: cells of a chart
NAMES = 12  #: cells of a class's name
_COLOURS = {
    "primary": "blue",
    "accent": "magenta",
    "success": "green",
    "secondary": "cyan",
    "error": "red",
    "warning": "yellow",
    "muted": "bright_black",
}
_SYSTEMS = {16: ColorSystem.STANDARD, 256: ColorSystem.EIGHT_BIT, "true": ColorSystem.TRUECOLOR}


def losses(run: StoredRun) -> str:
    """CE and the sums of terms over all layers, then every term at each layer, on logarithmic axes."""
    model = RunModel(run)
    while model.behind:
        model.read(0.5)
    if model.layout is None or model.curves is None or not model.curves.rows:
        config = config_of(run.folder)
        if config is not None and not config.optimises:
            return "no losses: nothing is optimised"
        return "no losses: recovery told no numbers" + (" yet" if model.results is None else "")
    whole = _chart(plot_data.losses(model), "all layers", "iteration")
    layers = [
        _chart(plot_data.layer(model, place), tap, "iteration") for place, tap in enumerate(model.layout.taps)
    ]
    return "\n\n".join([whole, *layers])


def spectra(run: StoredRun) -> str:
    """Both spectra of every layer as recovery saw them last, and the ridge filter over them."""
    seen = run.glimpse()
    if seen is None or not seen.spectra:
        return "no spectra: recovery left none, or its objective reads no Ψ; `cfm report` measures them"
    objective = plot_data.objective_of(run.folder)
    at = f", {beta_text(seen.beta)}" if any(map(has_beta, objective.terms)) else ""
    found = [f"Ψ of the real images and Ψ_s as recovery saw them last: batch {seen.batch}{at}"]
    for tap in seen.spectra:
        lines, turn = plot_data.spectrum(seen, tap, objective)
        found.append(_chart(lines, tap, plot_data.RANKS, turn))
    return "\n\n".join(found)


def beta_grid(run: StoredRun, columns: int) -> str:
    """The images as in the paper's Figure 5: rows are classes, β_b falls from left to right.

    columns: cells of one image. Where not all fit, the images of a class are taken at equal distances.
    """
    from cfm_tui.display.image_grid import Album
    from engine.errors import UserError
    from engine.store import folders
    from engine.store.images import Reader

    try:
        reader = Reader(run.folder / folders.IMAGES)
    except UserError as error:
        return f"no images: {error.message}"
    album = Album(reader)
    width = _width()
    room = max(1, (width - NAMES) // (columns + 2))
    shown = _spread(album.columns, room)
    found = []
    for row in range(album.rows):
        numbers = [
            number
            for place in shown
            if (number := album.number(row, place) if not album.flat else place) is not None
        ]
        if numbers:
            name = album.heading(row) or reader.classes[int(reader.labels_N[numbers[0]])]
            found.append(_row(reader, name, numbers, columns, width))
    left_out = f"\n\n{len(shown)} of {album.columns} images of a class" if len(shown) < album.columns else ""
    return "\n\n".join(found) + left_out


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, at equal distances."""
    if count <= most:
        return list(range(count))
    return sorted({round(place * (count - 1) / max(most - 1, 1)) for place in range(most)})


def _row(reader: Reader, name: str, numbers: Sequence[int], columns: int, width: int) -> str:
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    text = ascii_image.grid(
        [reader.pixels(number) for number in numbers],
        [beta_text(reader.beta_N[number]) for number in numbers],
        width=width - NAMES,
        columns=columns,
        mode="half" if colour else "ascii",
        colours="true" if os.environ.get("COLORTERM") in ("truecolor", "24bit") else 256,
    )
    lines = text.split("\n")
    heads = [ascii_image.label_of(name, NAMES - 1), *[" " * (NAMES - 1)] * (len(lines) - 1)]
    return "\n".join(f"{head} {line}".rstrip() for head, line in zip(heads, lines, strict=True))


def _width() -> int:
    return shutil.get_terminal_size().columns


def _chart(lines: Sequence[Line], title: str, x_label: str, mark: float | None = None) -> str:
    shown = terminal.detect(terminal.environment(os.environ), sys.stdout.encoding)
    system = _SYSTEMS.get(shown.colours) if sys.stdout.isatty() else None
    rows = charts.draw(
        lines,
        min(_width(), WIDEST),
        HEIGHT,
        terminal=shown,
        colours=_COLOURS if system is not None else None,
        log=True,
        title=title,
        x_label=x_label,
        mark=mark,
    )
    return "\n".join(
        "".join(
            text if style is None else style.render(text, color_system=system) for text, style, _ in row
        ).rstrip()
        for row in rows
    )
