"""A run as text: its state and results, and drawings of one or a few rows.

Legend: T terms, L taps. Marks are ASCII, and every state is shown without colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cfm_tui.display.ascii_image import RAMP
from cfm_tui.display.progress import format_bytes, format_duration, format_rate
from engine.errors import quote_command
from engine.events import STAGES, Stage
from engine.runs.results import describe_spread, describe_verdict, format_mean_std, sum_timings
from engine.store import AT_WORK, folders

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cfm_tui.console.session import Session
    from cfm_tui.display.run_state import RunModel
    from cfm_tui.display.terminal import Terminal

_MARKS = {"waiting": "[ ]", "running": "[>]", "done": "[x]", "reused": "[=]"}


def describe_stages(model: RunModel) -> list[str]:
    """Return each stage's mark, name and progress."""
    left = dict.fromkeys(("paused", "stopped", "lost", "damaged", "newer"), "[-]") | {"failed": "[!]"}
    labels = []
    for stage in STAGES:
        view = model.stages.get(stage)
        state = "waiting" if view is None else view.state
        percent = f" {view.done / view.total:.0%}" if view and state == "running" and view.total else ""
        mark = _MARKS[state] if state != "running" else left.get(model.state, _MARKS[state])
        labels.append(f"{mark} {stage}{percent}")
    return labels


def describe_progress(model: RunModel, width: int) -> list[str]:
    """Return a run's position in its stage, a bar, and speed, remaining time and memory, as far as known."""
    stage, lines, pace = model.stage, [], []
    repeat = f"repeat {model.repeat} of {model.repeats}, " if model.repeats > 1 else ""
    view = model.stages.get(stage) if stage else None
    if view is not None and stage == "recover" and model.batch:
        batch = f"batch {model.batch} of {model.batches}"
        lines.append(f"{repeat}{batch}, iteration {model.iteration:,} of {model.iterations:,}")
    elif view is not None:
        progress = f": {view.done:,} of {view.total:,} {view.unit}" if view.total else ""
        lines.append(f"{repeat}{stage}{progress}")
    if view is not None and view.total:
        lines.append(draw_bar(view.done / view.total, min(width, 60)))
    if model.rate and model.rate > 0:
        pace.append(format_rate(model.rate, view.unit if view else "iterations"))
    if model.seconds_left is not None:
        pace.append(f"{format_duration(model.seconds_left)} left")
    if model.memory_bytes:
        pace.append(format_bytes(model.memory_bytes))
    return [*lines, "   ".join(pace)]


def describe_run(model: RunModel, activity: str, width: int) -> list[str]:
    """Return the lines of the panel `Now`. activity: see `describe_activity`."""
    lines = [*_join(describe_stages(model), width), activity]
    if model.state in (*AT_WORK, "new"):
        return [*lines, *describe_progress(model, width)]
    if model.state == "finished":
        if model.results is None:
            return lines
        summary = model.results["summary"]
        teacher, duration = summary["teacher"]["mean"], format_duration(sum_stage_seconds(model) or 0.0)
        notes = (describe_verdict(summary["versus_control"]), describe_spread(model.results))
        return [
            *lines,
            f"distilled {format_mean_std(summary['accuracy'])} %, last epoch",
            f"random    {format_mean_std(summary['control'])} %, the control",
            *(line for note in notes for line in textwrap.wrap(note, width)),
            f"{summary['architecture']}; teacher {teacher:.2f} %; {duration} in all",
        ]
    if message := str(model.status.get("message") or model.damage or ""):
        lines += textwrap.wrap(message, width)
    folder = model.run.folder
    is_in_runs_folder = folder.parent.absolute() == folders.runs_folder().absolute()
    name = folder.name if is_in_runs_folder else folder
    if model.state == "damaged":
        return [*lines, f"-> {quote_command('check', name)} lists the damage"]
    if model.state == "newer":
        return [*lines, "-> install that version of cfm-tui, or a newer one"]
    return [*lines, f"-> {quote_command('resume', name)} resumes it"]


def find_stage_seconds(model: RunModel, stage: Stage) -> float | None:
    """Return the duration of a stage; None where it was cached or is not complete."""
    if model.results is not None:
        timing = sum_timings(model.results)[stage]
        return None if timing["reused"] else float(timing["seconds"])
    view = model.stages[stage]
    return view.seconds if view.state == "done" else None


def sum_stage_seconds(model: RunModel) -> float | None:
    """Return the duration of all computed stages; None where there is none."""
    durations = [each for each in (find_stage_seconds(model, stage) for stage in STAGES) if each is not None]
    return sum(durations) if durations else None


def describe_activity(model: RunModel, asked: str, where: str, loading: bool = False) -> str:
    """Return the run's state in words.

    asked: the requested command that has not taken effect yet. where: the process that computes the run.
    """
    state = model.state
    if loading:
        return "LOADING the program and the images"
    if asked == "stop" and state in AT_WORK:
        return "STOPPING at the next checkpoint"
    if asked == "pause" and state == "running":
        return "PAUSING: the engine will wait at the next checkpoint"
    if state == "paused":
        return f"PAUSED: the engine waits; space continues the run {where}".rstrip()
    if state == "lost":
        pid, host = model.status.get("pid"), model.status.get("host")
        return f"LOST: process {pid} on {host} is gone"
    stage = model.status.get("stage")
    words = "NOT STARTED" if state == "new" else state.upper()
    if stage and state in ("failed", "stopped"):
        words += f" in {stage}"
    if state == "running" and where:
        words += f" {where}"
    return f"{words}; a checkpoint is requested" if asked == "checkpoint" and state in AT_WORK else words


def find_headline(model: RunModel) -> tuple[str, str]:
    """Return the most important number and its label; both empty where a message matters more."""
    if model.state == "finished" and model.results is not None:
        accuracy = model.results["summary"]["accuracy"]
        return ("", "") if accuracy is None else (f"{accuracy['mean']:.1f}", "% distilled, last epoch")
    if model.state not in AT_WORK:
        return "", ""
    if model.stage == "recover" and model.beta is not None and np.isfinite(model.beta):
        return f"{model.beta:.3g}".replace("e-0", "e-").replace("+", ""), f"β of batch {model.batch}"
    if model.stage in ("squeeze", "validate"):
        accuracies = [each.last for key, each in model.trainings.items() if key[0] == model.stage]
        latest = next((each for each in reversed(accuracies) if each is not None), None)
        return ("", "") if latest is None else (f"{latest:.1f}", "% at the latest look")
    return "", ""


def describe_loading(session: Session) -> str:
    """Return the loading progress of a session that has no run yet."""
    if not session.live:
        return "FAILED"
    done, total = session.read
    return f"reading images, {done:,} of {total:,}" if total else "loading the program"


def describe_startup(session: Session, seconds: float, known: Sequence[str] = ()) -> list[str]:
    """Return the loading progress of a session and its duration, or why it could not start.

    known: labels of the run's stages, if the session resumes a run.
    """
    failure = session.describe_failure()
    if failure is not None:
        return ["FAILED to start", failure[0], f"-> {failure[1]}   (t: traceback)"]
    marks = known or [f"{_MARKS['waiting']} {stage}" for stage in STAGES]
    done, total = session.read
    lines = [*_join(marks, 50), f"WARMING UP: {describe_loading(session)}, for {format_duration(seconds)}"]
    return [*lines, draw_bar(done / total, 40)] if total else lines


def list_layers(
    model: RunModel, spark: Callable[[Any], str], points: int
) -> list[tuple[str, list[float], list[str]]]:
    """Return for each tap its name, its latest loss terms, and their sparklines over the current batch."""
    if model.layout is None or model.batch_curves is None or model.values_TL is None:
        return []
    layout, rows = model.layout, []
    for index, tap in enumerate(layout.taps):
        values = [float(model.values_TL[term][index]) for term in range(len(layout.terms))]
        columns = [layout.column(term, index) for term in range(len(layout.terms))]
        # maxima, so that spikes are visible
        highs = [model.batch_curves.envelope(column, points)[2] for column in columns]
        rows.append((tap, values, [spark(high) for high in highs]))
    return rows


# --- drawings ---------------------------------------------------------------------------------------


def _join(items: Sequence[str], width: int) -> list[str]:
    """Return the items side by side, in as many lines of a width as needed."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 2 + len(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines.append(item)
    return lines


def draw_bar(share: float, width: int) -> str:
    """Return a progress bar of `width` cells for a fraction."""
    cells = max(width - 2, 1)
    full = min(max(int(share * cells), 0), cells)
    return f"[{'#' * full}{'.' * (cells - full)}]"


def draw_digits(text: str) -> list[str]:
    """Return a number as three rows of seven-segment digits; empty for other texts."""
    segments = (  # of three cells each: readable on every terminal
        " _     _  _     _  _  _  _  _     _ ",
        "| |  | _| _||_||_ |_   ||_||_| _ |_ ",
        "|_|  ||_  _|  | _||_|  ||_| _|   |_ ",
    )
    digits = "0123456789-e"  # in the order of the segments; the point is one cell wide
    if not text or set(text) - set(digits + "."):
        return []

    def cells(character: str, row: str) -> str:
        if character == ".":
            return "." if row is segments[-1] else " "
        start = 3 * digits.index(character)
        return row[start : start + 3]

    return ["".join(cells(each, row) for each in text) for row in segments]


def draw_sparkline(values: Sequence[float] | NDArray[np.float32], width: int, terminal: Terminal) -> str:
    """Return a sparkline of `width` cells, scaled from the smallest to the largest value.

    Where several values share a cell, the largest is shown; a cell without a finite value is `!`. If there
    are fewer values than cells, the rest is blank.
    """
    numbers = np.asarray(values, np.float64)
    levels = "▁▂▃▄▅▆▇█" if terminal.braille else RAMP
    if width < 1 or not len(numbers):
        return " " * width
    values_per_cell = -(-len(numbers) // width)
    finite = np.isfinite(numbers)
    starts = np.arange(0, len(numbers), values_per_cell)
    high = np.maximum.reduceat(np.where(finite, numbers, -np.inf), starts)
    has_value = np.isfinite(high)
    if not has_value.any():
        return ("!" * len(high)).ljust(width)
    low, top = high[has_value].min() / 2, high[has_value].max() / 2  # halved: their difference is finite
    filled = np.where(has_value, high, 2 * low)
    share = np.zeros(len(high)) if top <= low else (filled / 2 - low) / (top - low)
    steps = np.clip(np.rint(share * (len(levels) - 1)), 0, len(levels) - 1).astype(int)
    cells = (levels[step] if valid else "!" for step, valid in zip(steps, has_value, strict=True))
    return "".join(cells).ljust(width)


def draw_schedule(betas: Sequence[float], batch: int, width: int, terminal: Terminal) -> list[str]:
    """Return a sparkline of the β schedule, and below it a row that marks the current batch."""
    if not betas or width < 4:
        return []
    count = min(len(betas), width)
    sampled = [betas[round(i * (len(betas) - 1) / max(count - 1, 1))] for i in range(count)]
    logs = [float(np.log10(max(beta, 1e-30))) for beta in sampled]
    marked = round((min(max(batch, 1), len(betas)) - 1) * (count - 1) / max(len(betas) - 1, 1))
    return [draw_sparkline(logs, count, terminal), " " * marked + "^"]
