"""The result of `cfm bench` as Markdown that is readable in a terminal, too: at most 80 columns wide."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from cfm_tui.display.progress import format_bytes, format_count, format_duration
from cfm_tui.display.tables import cut_middle

WIDTH = 80
SHORTEST_NAME = 3  #: cells to which a network's name is cut


def bench_table(document: Mapping[str, Any]) -> str:
    """Format a document of `cfm bench`: command, machine and settings, then rates, parts and times."""
    blocks = [
        _format_command(document["command"]),
        _list_settings(document),
        _format_rates(document["rates"], document["peaks"]),
    ]
    if document["recovery_parts"]:
        names = list(document["recovery_parts"])
        shares = [f"{share:.0%}" for share in document["recovery_parts"].values()]
        blocks += ["Parts of a recovery step:", _format_table([names, shares], numeric=set(names))]
    blocks += ["A whole run:", _format_times(document)]
    return "\n\n".join(blocks)


def _format_command(words: Sequence[str]) -> str:
    """Format a command for a shell, on several lines where it is too long; a single word is never split."""
    first, *rest = map(shlex.quote, words)
    lines = [first]
    for word in rest:
        if len(f"{lines[-1]} {word} \\") > WIDTH:
            lines[-1] += " \\"
            lines.append(f"  {word}")
        else:
            lines[-1] += f" {word}"
    return "\n".join(["```sh", *lines, "```"])


def _list_settings(document: Mapping[str, Any]) -> str:
    machine, settings = document["machine"], document["settings"]
    versions = machine["versions"]
    size = "{channels}×{image_size}×{image_size}".format(**settings)
    students = ", ".join(settings["students"])
    trained = f"{settings['students_per_architecture']} students of {students}"
    if settings["together"]:
        trained += f", together: {', '.join(settings['together'])}"
    items = [
        f"cfm-tui {versions['cfm-tui']}, torch {versions['torch']}, Python {versions['python']},"
        f" {machine['system']}",
        f"{machine['processor']}, {format_count(machine['processors'], 'processors')},"
        f" {format_count(machine['threads'], 'threads')}; device {machine['device']}",
        f"{settings['data']}: {settings['train_images']:,} + {settings['test_images']:,} images of {size},"
        f" {settings['classes']} classes",
        f"method {settings['method']}, network {settings['backbone']},"
        f" {format_count(settings['ipc'], 'images')} per class",
        f"{trained}; {format_count(settings['repeats'], 'repeats')}",
        f"memory {format_bytes(document['memory_bytes'])} at the peak,"
        f" labels {format_bytes(document['label_bytes'])}, disk {format_bytes(document['disk_bytes'])}",
    ]
    return "\n".join(
        textwrap.fill(item, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
        for item in items
    )


def _format_rates(rates: Sequence[Mapping[str, Any]], peaks: Mapping[str, float]) -> str:
    """Format the rate of each stage, that of the network alone, and the share of the arithmetic peak.

    peaks: 1e9 operations per second, by precision.
    """
    rows = [["", "net", "batch", "rate", "alone", "share", "of peak"]]
    for rate in rates:
        unit = "it/s" if rate["unit"] == "iterations" else "images/s"
        rows.append(
            [
                f"{rate['what']}, {unit}",
                rate["network"],
                str(rate["batch"]),
                _format_number(rate["rate"]),
                _format_number(rate["bare"]),
                f"{rate['share']:.0%}",
                f"{rate['of_peak']:.0%}",
            ]
        )
    numeric = set(rows[0][2:])
    excess = len(_format_table(rows, numeric).partition("\n")[0]) - WIDTH
    longest = max(len(row[1]) for row in rows)
    for row in rows:
        row[1] = cut_middle(row[1], max(longest - max(excess, 0), SHORTEST_NAME))
    table = _format_table(rows, numeric)
    note = "alone: the bare network. Peak, by a product of large matrices: " + ", ".join(
        f"{_format_number(peak)} GFLOP/s in {precision}" for precision, peak in peaks.items()
    )
    return "\n\n".join([table, textwrap.fill(note + ".", WIDTH)])


def _format_times(document: Mapping[str, Any]) -> str:
    times = {"start": document["start_seconds"], **document["seconds"]}
    total = document["total_seconds"]
    rows = [["", "time", "share"]]
    for name, seconds in times.items():
        if seconds:
            rows.append([name, format_duration(seconds), f"{seconds / total:.0%}"])
        else:
            rows.append([name, "cached or not needed", ""])
    rows.append(["total", format_duration(total), ""])
    return _format_table(rows, numeric={"time", "share"})


def _format_number(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _format_table(rows: Sequence[Sequence[str]], numeric: set[str]) -> str:
    """Format rows, the first of them the head, as an aligned Markdown table. numeric: heads of columns."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    is_numeric = [head in numeric for head in rows[0]]
    rule = [
        "-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, is_numeric, strict=True)
    ]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, is_numeric, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    return "\n".join(line(cells) for cells in [rows[0], rule, *rows[1:]])
