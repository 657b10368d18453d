"""A run's loss curves, spectra and β grid as text, for `cfm show`.

`cfm report` draws all figures on one HTML page.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from cfm_tui.display import ascii_image, charts, plot_data, terminal
from cfm_tui.display.progress import format_beta
from cfm_tui.display.run_state import RunModel, load_config

if TYPE_CHECKING:
    from cfm_tui.display.charts import Line
    from engine.store import StoredRun
    from engine.store.images import Reader

_NAME_COLUMNS = 12  # cells of a class name
_COLOURS = {
    "primary": "blue",
    "accent": "magenta",
    "success": "green",
    "secondary": "cyan",
    "error": "red",
    "warning": "yellow",
    "muted": "bright_black",
}
_SYSTEMS: dict[terminal.Colours, Literal["standard", "256", "truecolor"]] = {
    16: "standard",
    256: "256",
    "true": "truecolor",
}


def draw_losses(run: StoredRun) -> str:
    """Draw CE and the terms summed over layers, then each layer's terms, on logarithmic axes."""
    model = RunModel(run)
    while model.behind:
        model.read(0.5)
    if model.layout is None or model.curves is None or not model.curves.rows:
        config = load_config(run.folder)
        if config is not None and not config.optimises:
            return "no losses: nothing is optimised"
        return "no losses: recovery recorded no metrics" + (" yet" if model.results is None else "")
    total = _draw_chart(plot_data.losses(model), "all layers", "iteration")
    layers = [
        _draw_chart(plot_data.layer(model, index), tap, "iteration")
        for index, tap in enumerate(model.layout.taps)
    ]
    return "\n\n".join([total, *layers])


def draw_spectra(run: StoredRun) -> str:
    """Draw the latest spectra of Ψ and Ψ_s that recovery recorded for each layer, and the ridge filter."""
    preview = run.preview()
    if preview is None or not preview.spectra:
        return (
            "no spectra: recovery recorded none, or its objective does not use Ψ; `cfm report` measures them"
        )
    objective = plot_data.objective_of(run.folder)
    beta = f", {format_beta(preview.beta)}" if any(term.uses_beta for term in objective.terms) else ""
    blocks = [f"Ψ of the real images and Ψ_s of the last recorded batch: batch {preview.batch}{beta}"]
    for tap in preview.spectra:
        lines, turning_point = plot_data.spectrum(preview, tap, objective)
        blocks.append(_draw_chart(lines, tap, plot_data.RANKS, turning_point))
    return "\n\n".join(blocks)


def draw_beta_grid(run: StoredRun, columns: int) -> str:
    """Draw the images as in the paper's Figure 5: one row per class, β_b decreasing from left to right.

    columns: cells of one image. Where not all images of a class fit, evenly spaced ones are drawn.
    """
    from cfm_tui.display.image_grid import Album
    from engine.errors import UserError
    from engine.store import RunFile
    from engine.store.images import Reader

    try:
        reader = Reader(run.folder / RunFile.IMAGES)
    except UserError as error:
        return f"no images: {error.message}"
    album = Album(reader)
    width = shutil.get_terminal_size().columns
    most = max(1, (width - _NAME_COLUMNS) // (columns + 2))
    places = list(range(album.columns))
    if len(places) > most:  # evenly spaced ones
        places = sorted({round(i * (album.columns - 1) / max(most - 1, 1)) for i in range(most)})
    rows = []
    for row in range(album.rows):
        numbers = [
            number
            for place in places
            if (number := album.number(row, place) if not album.flat else place) is not None
        ]
        if numbers:
            name = album.heading(row) or reader.classes[int(reader.labels_N[numbers[0]])]
            rows.append(_draw_row(reader, name, numbers, columns, width))
    omitted = len(places) < album.columns
    note = f"\n\n{len(places)} of {album.columns} images per class" if omitted else ""
    return "\n\n".join(rows) + note


def _draw_row(reader: Reader, name: str, numbers: Sequence[int], columns: int, width: int) -> str:
    in_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    text = ascii_image.grid(
        [reader.pixels(number) for number in numbers],
        [format_beta(reader.beta_N[number]) for number in numbers],
        width=width - _NAME_COLUMNS,
        columns=columns,
        mode="half" if in_colour else "ascii",
        colours="true" if os.environ.get("COLORTERM") in ("truecolor", "24bit") else 256,
    )
    lines = text.split("\n")
    names = [ascii_image.fit_label(name, _NAME_COLUMNS - 1), *[" " * (_NAME_COLUMNS - 1)] * (len(lines) - 1)]
    return "\n".join(f"{name} {line}".rstrip() for name, line in zip(names, lines, strict=True))


def _draw_chart(lines: Sequence[Line], title: str, x_label: str, mark: float | None = None) -> str:
    capabilities = terminal.detect(terminal.environment(os.environ), sys.stdout.encoding)
    system = _SYSTEMS.get(capabilities.colours) if sys.stdout.isatty() else None
    chart = charts.draw(
        lines,
        min(shutil.get_terminal_size().columns, 120),
        14,
        terminal=capabilities,
        colours=_COLOURS if system is not None else None,
        log=True,
        title=title,
        x_label=x_label,
        mark=mark,
    )
    console = Console(color_system=system, force_terminal=True, width=120, legacy_windows=False)
    with console.capture() as capture:
        for row in chart.split("\n"):
            row.rstrip()
            console.print(row)
    return capture.get().removesuffix("\n")
