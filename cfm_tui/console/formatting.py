"""A run as text: its state and results, and drawings of one or a few rows.

Legend: T terms, L taps. Every state is shown without colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len, set_cell_size

from cfm_tui.console.columns import draw_bar
from cfm_tui.display.ascii_image import RAMP
from cfm_tui.display.progress import format_bytes, format_duration, format_rate
from cfm_tui.display.run_summary import parse_text, split_settings
from engine.errors import quote_command
from engine.events import STAGES, Stage
from engine.report.paper import find_paper_number
from engine.runs.results import Results, describe_spread, format_mean_std, sum_timings
from engine.store import AT_WORK, folders

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cfm_tui.console.session import Session
    from cfm_tui.display.host import HostLoad
    from cfm_tui.display.run_state import RunModel
    from cfm_tui.display.terminal import Terminal

_MARKS = {"waiting": "○", "running": "▶", "done": "✓", "reused": "↺"}
#: Notes on reused stages that never started. A cached artefact of theirs would have started them.
_SKIPPED = {"statistics": "skipped", "recover": "skipped", "relabel": "online"}
_VERDICTS = {
    "better": "better than random images (paired t test)",
    "worse": "worse than random images (paired t test)",
    "not shown": "not shown to differ from random images (paired t test)",
    "not tested": "not tested against random images: that needs repeats that differ",
}
_HALTED = dict.fromkeys(("failed", "damaged", "newer"), "✗") | {"paused": "‖", "stopped": "■", "lost": "○"}


def describe_stages(model: RunModel, *, short: bool = False) -> list[str]:
    """Return each stage's mark, name and progress; if `short`, without durations."""
    labels = []
    for stage in STAGES:
        view = model.stages[stage]
        note = ""
        if view.state == "running":
            note = f" {view.done / view.total:.0%}" if view.total else ""
        elif short:
            pass
        elif view.state == "done" and view.seconds >= 1:
            note = f" {format_duration(view.seconds)}"
        elif view.state == "reused":
            note = " cached" if stage in model.started else f" {_SKIPPED.get(stage, 'cached')}"
        mark = _MARKS[view.state] if view.state != "running" else _HALTED.get(model.state, _MARKS["running"])
        labels.append(f"{mark} {stage}{note}")
    return labels


def describe_progress(model: RunModel, terminal: Terminal, load: HostLoad | None = None) -> list[str]:
    """Return a run's position in its stage, β with its schedule, speed, time left and load, if known."""
    stage, parts = model.stage, []
    if model.repeats > 1:
        parts.append(f"repeat {model.repeat}/{model.repeats}")
    view = model.stages.get(stage) if stage else None
    if view is not None and stage == "recover" and model.batch:
        parts.append(f"batch {model.batch}/{model.batches}  it {model.iteration:,}/{model.iterations:,}")
        if model.beta is not None and np.isfinite(model.beta):
            curve = draw_schedule(model.betas, model.batch, 12, terminal)
            parts.append(f"β {model.beta:.3g} {curve}".rstrip())
    elif view is not None:
        parts.append(f"{stage}: {view.done:,} of {view.total:,} {view.unit}" if view.total else str(stage))
    if model.rate and model.rate > 0:
        parts.append(format_rate(model.rate, view.unit if view else "iterations"))
    if (seconds := model.seconds_left) is not None:
        whole = model.run_seconds_left
        overall = "" if whole is None or whole < seconds + 1 else f" (run {format_duration(whole)} left)"
        parts.append(f"{format_duration(seconds)} left{overall}")
    if model.memory_bytes:
        parts.append(f"RAM {format_bytes(model.memory_bytes)}")
    return parts + describe_load(load)


def describe_beta(model: RunModel, beta: float, crossing: float | None) -> str:
    """Return β for the title of a spectrum, after the mark of `crossing`, if there is one; empty without β.

    crossing: as `plot_data.spectrum` returns it.
    """
    return f" · {'┊ λ = ' if crossing is not None else ''}β {beta:.3g}" if model.betas else ""


def describe_load(load: HostLoad | None) -> list[str]:
    """Return the load of this machine's processors, memory and GPUs."""
    if load is None:
        return []
    parts = [f"CPU {load.processors:.0f} %", f"memory {load.used / 1e9:.0f}/{load.total / 1e9:.0f} GB"]
    for gpu in load.gpus:
        others = f", {gpu.others} other{'s' if gpu.others > 1 else ''}" if gpu.others else ""
        parts.append(f"GPU{gpu.number} {gpu.busy} % {gpu.used / 1e9:.0f}/{gpu.total / 1e9:.0f} GB{others}")
    return parts


def describe_run(
    model: RunModel,
    explanation: Sequence[str],
    width: int,
    terminal: Terminal,
    load: HostLoad | None = None,
) -> list[str]:
    """Return the lines at the top of the monitor.

    explanation: of the state, if there is one. load: of this machine, if it computes the run.
    """
    lines = _join(describe_stages(model), width)
    if len(lines) > 1:
        lines = _join(describe_stages(model, short=True), width)
    if model.is_underway:
        return [*lines, *_join([*describe_progress(model, terminal, load), *explanation], width)]
    if model.state == "finished":
        seconds = sum_stage_seconds(model)
        return lines if seconds is None else _join([*lines, f"{format_duration(seconds)} in all"], width)
    if message := str(model.status.get("message") or model.damage or ""):
        lines += textwrap.wrap(message, width)
    lines += explanation
    folder = model.run.folder
    is_in_runs_folder = folder.parent.absolute() == folders.runs_folder().absolute()
    name = folder.name if is_in_runs_folder else folder
    if model.state == "damaged":
        return [*lines, f"→ {quote_command('check', name)} lists the damage"]
    if model.state == "newer":
        return [*lines, "→ install that version of cfm-tui, or a newer one"]
    return [*lines, f"→ {quote_command('resume', name)} resumes it"]


def describe_results(model: RunModel, width: int) -> list[str]:
    """Return the lines of the result card: accuracies beside their control, and what the numbers mean.

    They are of the finished repeats, above the latest accuracies of a repeat at work.
    """
    latest: dict[str, tuple[str, str, str]] = {}  # by images
    for (stage, architecture, source, seed), training in model.trainings.items():
        if stage == "validate" and training.last is not None:
            place = f"{architecture}, seed {seed}, epoch {training.epoch} of {training.epochs}"
            latest[source] = (source, f"{training.last:.2f}", place)
    if model.results is not None:
        lines = describe_summary(model.results, split_settings(model.run.config_yaml()), width)
        if latest and model.repeat > len(model.results["repeats"]):
            lines += _align([(f"repeat {model.repeat}", "latest", ""), *latest.values()])
        return lines
    rows, missing = [("", "latest", ""), *latest.values()], ""
    if not latest:
        rows, missing = [], "no accuracies yet: students are trained after recovery"
        if model.stage == "validate":
            missing = "no accuracies on all test images yet; the curves are of some of them"
        if not model.is_underway:
            missing = "no accuracies: the run ended before it measured one"
    if model.teacher_accuracy is not None:
        rows.append(("teacher", f"{model.teacher_accuracy:.2f}", ""))
    return [*textwrap.wrap(missing, width), *_align(rows)]


def describe_summary(results: Results, settings: Mapping[str, str], width: int) -> list[str]:
    """Return the lines of the result card of a document of results.

    settings: of the run, as `run_summary.split_settings` returns them.
    """
    summary = results["summary"]
    versus = summary["versus_control"]
    difference = significance = ""
    if versus is not None and versus["difference"] is not None:
        points = round(versus["difference"], 2)
        difference = f"{'▲' if points > 0 else '▼'} {points:+.2f} points" if points else "0.00 points"
        if versus["p"] is not None:
            significance = f"p {versus['p']:.2g}, n {versus['n']}"
    rows = [
        ("", "last epoch", "against random"),
        ("distilled", format_mean_std(summary["accuracy"]), difference),
        ("random", format_mean_std(summary["control"]), significance),
        ("start", format_mean_std(summary["start"]), ""),
        ("teacher", format_mean_std(summary["teacher"]), ""),
    ]
    shown = [row for row in rows if row[0] != "start" or summary["start"] is not None]
    if paper := _find_paper_number(results, settings):
        printed = str(paper["printed"]).replace("±", " ± ")
        shown.append(("the paper", printed, paper["source"]))
    against = []
    if max(map(cell_len, _align(shown))) > width:  # the comparison gets lines of its own
        against = [f"against random: {', '.join(filter(None, (difference, significance)))}"] * bool(
            difference
        )
        shown = [(*row[:2], "") for row in shown]
    verdict = _VERDICTS.get((versus or {}).get("verdict", ""), "not compared with random images")
    explanations = (*against, verdict, describe_spread(results))
    return [*_align(shown), *(line for each in explanations for line in textwrap.wrap(each, width))]


def _find_paper_number(results: Results, settings: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the paper's number for a run's method and setting, if its students have one architecture."""
    students = {each["architecture"] for repeat in results["repeats"] for each in repeat["students"]}
    keys = ("data.name", "ipc", "backbone.name", "objective.method")
    data, ipc, network, method = (parse_text(settings.get(key)) or "" for key in keys)
    if len(students) != 1:
        return None
    return find_paper_number(data, ipc, network, students.pop(), method)


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


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
    if state == "starting":
        return f"STARTING: process {model.status['starting']['pid']} takes the run over once it has loaded"
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
        return ["FAILED to start", failure[0], f"→ {failure[1]}   (t: traceback)"]
    marks = known or [f"{_MARKS['waiting']} {stage}" for stage in STAGES]
    done, total = session.read
    moving = "|/-\\"[int(4 * seconds) % 4]  # shows that the console is alive
    lines = [*_join(marks, 76), f"{moving} {describe_loading(session)}, for {format_duration(seconds)}"]
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


def draw_schedule(betas: Sequence[float], batch: int, width: int, terminal: Terminal) -> str:
    """Return a sparkline of the β schedule with brackets around the current batch; empty for one batch."""
    if len(betas) < 2:
        return ""
    count = min(len(betas), width)
    sampled = [betas[round(i * (len(betas) - 1) / max(count - 1, 1))] for i in range(count)]
    line = draw_sparkline([float(np.log10(max(beta, 1e-30))) for beta in sampled], count, terminal)
    at = round((min(max(batch, 1), len(betas)) - 1) * (count - 1) / (len(betas) - 1))
    return f"{line[:at]}[{line[at]}]{line[at + 1 :]}"
