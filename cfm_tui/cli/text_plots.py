"""A run's loss curves, spectra and β grid as text, for `cfm show`.

`cfm report` draws all figures on one HTML page.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from cfm_tui.cli.common import draw_images
from cfm_tui.display import ascii_image, charts, plot_data, terminal
from cfm_tui.display.progress import format_beta
from cfm_tui.display.run_state import RunModel, load_config

if TYPE_CHECKING:
    from cfm_tui.display.charts import Line
    from engine.store import StoredRun

_NAME_COLUMNS = 12  # cells of a class name
_COLOURS = {"primary": "blue", "accent": "magenta", "success": "green", "secondary": "cyan"}
_COLOURS |= {"error": "red", "warning": "yellow", "muted": "bright_black"}
_System = Literal["standard", "256", "truecolor"]
_SYSTEMS: dict[terminal.Colours, _System] = {16: "standard", 256: "256", "true": "truecolor"}


def draw_losses(run: StoredRun) -> str:
    """Draw CE and the terms summed over layers, then each layer's terms, on logarithmic axes."""
    model = RunModel(run)
    while model.behind:
        model.read(0.5)
    if model.layout is None or model.curves is None or not model.curves.rows:
        if (config := load_config(run.folder)) is not None and not config.optimises:
            return "no losses: nothing is optimised"
        return "no losses: recovery recorded no metrics" + (" yet" if model.results is None else "")
    plots = {"all layers": plot_data.losses(model)}
    plots |= {tap: plot_data.layer(model, index) for index, tap in enumerate(model.layout.taps)}
    return "\n\n".join(_draw_chart(lines, title, "iteration") for title, lines in plots.items())


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
    most = max(1, (shutil.get_terminal_size().columns - _NAME_COLUMNS) // (columns + 2))
    places = list(range(album.columns))
    if len(places) > most:  # evenly spaced ones
        places = sorted({round(i * (album.columns - 1) / max(most - 1, 1)) for i in range(most)})
    rows = []
    for row in range(album.rows):
        numbers = [number for place in places if (number := album.number(row, place)) is not None]
        if numbers:
            labels = [album.beta(number) for number in numbers]
            text = draw_images([reader.pixels(number) for number in numbers], labels, columns, _NAME_COLUMNS)
            name = ascii_image.fit_label(album.heading(row) or album.name(numbers[0]), _NAME_COLUMNS - 1)
            lines = zip_longest([name], text.split("\n"), fillvalue=" " * (_NAME_COLUMNS - 1))
            rows.append("\n".join(f"{left} {line}".rstrip() for left, line in lines))
    omitted = len(places) < album.columns
    note = f"\n\n{len(places)} of {album.columns} images per class" if omitted else ""
    return "\n\n".join(rows) + note


def _draw_chart(lines: Sequence[Line], title: str, x_label: str, mark: float | None = None) -> str:
    capabilities = terminal.of_stdout()
    system = _SYSTEMS.get(capabilities.colours)
    width, colours = min(shutil.get_terminal_size().columns, 120), _COLOURS if system is not None else None
    draw = partial(charts.draw, terminal=capabilities, colours=colours, log=True)
    log_x = x_label == plot_data.RANKS
    chart = draw(lines, width, 14, log_x=log_x, title=title, x_label=x_label, mark=mark).text
    console = Console(color_system=system, force_terminal=True, width=120, legacy_windows=False)
    with console.capture() as capture:
        for row in chart.split("\n"):
            row.rstrip()  # in place
            console.print(row)
    return capture.get().removesuffix("\n")
