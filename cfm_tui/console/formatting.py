"""Texts and table rows of a run's monitor page.

Legend: T terms, L taps. Marks are ASCII, and every state is shown without colour.
"""

from __future__ import annotations

import shlex
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cfm_tui.display.progress import format_bytes, format_duration, format_rate
from engine.events import STAGES, Stage
from engine.runs.results import format_mean_std
from engine.store import RunFile, folders
from engine.store.numbers import FIXED

if TYPE_CHECKING:
    from cfm_tui.console.session import Session
    from cfm_tui.display.run_state import LogLine, RunModel

MARKS = {"waiting": "[ ]", "running": "[>]", "done": "[x]", "reused": "[=]"}
LEFT = dict.fromkeys(("paused", "stopped", "lost", "damaged"), "[-]") | {"failed": "[!]"}
LIVE = ("running", "paused")
LayerRow = tuple[str, list[float], list[str]]  #: tap, values, sparklines
DIGITS = "0123456789-e"  #: characters of `SEGMENTS`, in order; the point is drawn separately
SEGMENTS = (  # three rows of three cells each: readable on every terminal
    " _     _  _     _  _  _  _  _     _ ",
    "| |  | _| _||_||_ |_   ||_||_| _ |_ ",
    "|_|  ||_  _|  | _||_|  ||_| _|   |_ ",
)


def big(text: str) -> list[str]:
    """Return a number as three rows of seven-segment digits; empty for other texts."""
    if not text or set(text) - set(DIGITS + "."):
        return []
    return ["".join(_segment_cells(each, row) for each in text) for row in SEGMENTS]


def _segment_cells(character: str, row: str) -> str:
    if character == ".":
        return "." if row is SEGMENTS[-1] else " "
    start = 3 * DIGITS.index(character)
    return row[start : start + 3]


def bar(share: float, width: int) -> str:
    """Return a progress bar of `width` cells for a fraction."""
    cells = max(width - 2, 1)
    full = min(max(int(share * cells), 0), cells)
    return f"[{'#' * full}{'.' * (cells - full)}]"


def wrapped(items: Sequence[str], width: int) -> list[str]:
    """Return the items side by side, in as many lines as needed."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 2 + len(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines.append(item)
    return lines


def stages(model: RunModel) -> list[str]:
    """Return each stage's mark, name and progress."""
    labels = []
    for stage in STAGES:
        view = model.stages.get(stage)
        state = "waiting" if view is None else view.state
        percent = f" {view.done / view.total:.0%}" if view and state == "running" and view.total else ""
        mark = MARKS[state] if state != "running" else LEFT.get(model.state, MARKS[state])
        labels.append(f"{mark} {stage}{percent}")
    return labels


def command(words: str, folder: Path) -> str:
    """Return a `cfm` command on the run in `folder`, quoted for the shell."""
    is_in_runs_folder = folder.parent.absolute() == folders.runs_folder().absolute()
    return f"`cfm {words} {shlex.quote(folder.name if is_in_runs_folder else str(folder))}`"


def place(model: RunModel) -> str:
    """Return the run's position in its stage."""
    stage = model.stage
    view = model.stages.get(stage) if stage else None
    if view is None:
        return ""
    if stage == "recover" and model.batch:
        return (
            f"batch {model.batch} of {model.batches}, iteration {model.iteration:,} of {model.iterations:,}"
        )
    return f"{stage}: {view.done:,} of {view.total:,} {view.unit}" if view.total else f"{stage}"


def pace(model: RunModel) -> str:
    """Return speed, remaining time and memory, as far as they are known."""
    parts = []
    view = model.stages.get(model.stage) if model.stage else None
    if model.rate and model.rate > 0:
        parts.append(format_rate(model.rate, view.unit if view else "iterations"))
    if model.seconds_left is not None:
        parts.append(f"{format_duration(model.seconds_left)} left")
    if model.memory_bytes:
        parts.append(format_bytes(model.memory_bytes))
    return "   ".join(parts)


def share(model: RunModel) -> float | None:
    """Return the completed fraction of the current stage; None where it is unknown."""
    view = model.stages.get(model.stage) if model.stage else None
    return view.done / view.total if view and view.total else None


def facts(model: RunModel, words: str, width: int) -> list[str]:
    """Return the lines of the panel `Now`. words: the run's state, see `doing`."""
    lines = [*wrapped(stages(model), width), words]
    folder = model.run.folder
    if model.state in LIVE or model.state == "new":
        fraction = share(model)
        lines += [place(model)] if place(model) else []
        lines += [bar(fraction, min(width, 60))] if fraction is not None else []
        return [*lines, pace(model)]
    if model.state == "finished":
        return [*lines, *_format_results(model)]
    if message := str(model.status.get("message") or model.damage or ""):
        lines += textwrap.wrap(message, width)
    if model.state == "damaged":
        return [*lines, f"-> {command('check', folder)} lists the damage"]
    return [*lines, f"-> {command('resume', folder)} resumes it"]


def _format_results(model: RunModel) -> list[str]:
    results = model.results
    if results is None:
        return []
    summary = results["summary"]
    duration = format_duration(total_seconds(model) or 0.0)
    return [
        f"distilled {format_mean_std(summary['accuracy'])} %, last epoch",
        f"random    {format_mean_std(summary['control'])} %, the control",
        f"{summary['architecture']}; teacher {results['teacher']['accuracy']:.2f} %; {duration} in all",
    ]


def stage_seconds(model: RunModel, stage: Stage) -> float | None:
    """Return the duration of a stage; None where it was cached or is not complete."""
    if model.results is not None:
        timing = model.results["timings"][stage]
        return None if timing["reused"] else float(timing["seconds"])
    view = model.stages[stage]
    return view.seconds if view.state == "done" else None


def total_seconds(model: RunModel) -> float | None:
    """Return the duration of all computed stages; None where there is none."""
    durations = [each for each in (stage_seconds(model, stage) for stage in STAGES) if each is not None]
    return sum(durations) if durations else None


def doing(model: RunModel, asked: str, where: str, loading: bool = False) -> str:
    """Return the run's state in words.

    asked: the requested command that has not taken effect yet. where: the process that computes the run.
    """
    state = model.state
    if loading:
        return "LOADING the program and the images"
    if asked == "stop" and state in LIVE:
        return "STOPPING at the next checkpoint"
    if asked == "pause" and state == "running":
        return "PAUSING: the engine will wait at the next checkpoint"
    if state == "paused":
        return f"PAUSED: the engine waits; space continues the run {where}".rstrip()
    if state == "lost":
        pid, host = model.status.get("pid"), model.status.get("host")
        return f"LOST: process {pid} on {host} is gone"
    stage = model.status.get("stage")
    in_stage = f" in {stage}" if stage and state in ("failed", "stopped") else ""
    location = f" {where}" if state == "running" and where else ""
    words = {"new": "NOT STARTED"}.get(state, state.upper())
    request = "; a checkpoint is requested" if asked == "checkpoint" and state in LIVE else ""
    return f"{words}{in_stage}{location}{request}"


def headline(model: RunModel) -> tuple[str, str]:
    """Return the most important number and its label; both empty where a message matters more."""
    if model.state == "finished" and model.results is not None:
        accuracy = model.results["summary"]["accuracy"]
        return ("", "") if accuracy is None else (f"{accuracy['mean']:.1f}", "% distilled, last epoch")
    if model.state not in LIVE:
        return "", ""
    if model.stage == "recover" and model.beta is not None and np.isfinite(model.beta):
        return f"{model.beta:.3g}".replace("e-0", "e-").replace("+", ""), f"β of batch {model.batch}"
    if model.stage in ("squeeze", "validate"):
        accuracies = [each.last for key, each in model.trainings.items() if key[0] == model.stage]
        latest = next((each for each in reversed(accuracies) if each is not None), None)
        return ("", "") if latest is None else (f"{latest:.1f}", "% at the latest look")
    return "", ""


def beta_place(
    betas: Sequence[float], batch: int, width: int, spark: Callable[[Sequence[float]], str]
) -> list[str]:
    """Return a sparkline of the β schedule, and below it a row that marks the current batch."""
    if not betas or width < 4:
        return []
    count = min(len(betas), width)
    sampled = [betas[round(i * (len(betas) - 1) / max(count - 1, 1))] for i in range(count)]
    logs = [float(np.log10(max(beta, 1e-30))) for beta in sampled]
    marked = round((min(max(batch, 1), len(betas)) - 1) * (count - 1) / max(len(betas) - 1, 1))
    return [spark(logs), " " * marked + "^"]


# --- tables ---------------------------------------------------------------------------------------


def value(number: float | None) -> str:
    """Return a number with four significant digits; empty where it is None."""
    return "" if number is None else "nan" if np.isnan(number) else f"{number:.4g}"


def layer_rows(model: RunModel, spark: Callable[[Any], str], points: int) -> list[LayerRow]:
    """Return for each tap its name, its latest loss terms, and their sparklines over the current batch."""
    if model.layout is None or model.batch_curves is None or model.values_TL is None:
        return []
    taps = model.layout.taps
    rows = []
    for index, tap in enumerate(taps):
        values = [float(model.values_TL[term][index]) for term in range(len(model.layout.terms))]
        columns = [len(FIXED) + term * len(taps) + index for term in range(len(model.layout.terms))]
        highs = [
            model.batch_curves.envelope(column, points)[2] for column in columns
        ]  # maxima, so that spikes are visible
        rows.append((tap, values, [spark(high) for high in highs]))
    return rows


TRAINING_COLUMNS = ("network", "images", "seed", "epoch", "loss", "last %", "best %")


def training_rows(model: RunModel) -> list[tuple[str, ...]]:
    """Return the means over seeds if the run is finished, then a row per training, with controls."""
    rows: list[tuple[str, ...]] = []
    if model.results is not None:
        for name, summary in model.results["summary"]["by_architecture"].items():
            last, best = format_mean_std(summary["accuracy"]), format_mean_std(summary["accuracy_best"])
            rows.append((name, "distilled", "mean", "", "", last, best))
            rows.append((name, "random", "mean", "", "", format_mean_std(summary["control"]), ""))
    order = sorted(model.trainings, key=lambda key: (STAGES.index(key[0]), key[1], key[3], key[2]))
    for key in order:
        stage, architecture, source, seed = key
        each = model.trainings[key]
        loss = each.loss.last(0) if each.loss.rows else None
        seed_text = "" if stage == "squeeze" else str(seed)
        row = (architecture, source, seed_text, f"{each.epoch} of {each.epochs}", value(loss))
        rows.append((*row, value(each.last), value(each.best)))
    return rows


def log_line(line: LogLine) -> str:
    """Return a log line with its time, or with date and time if it is from another day."""
    local_time = time.localtime(line.time)
    is_today = time.localtime()[:3] == local_time[:3]
    stamp = time.strftime("%H:%M:%S" if is_today else "%m-%d %H:%M", local_time)
    mark = "! " if line.level != "info" else ""
    return f"{stamp} {mark}{line.text}"


def class_names(folder: Path) -> list[str]:
    """Return class names by label, from the image folders of a run; empty before there are any."""
    images_folder = folder / RunFile.IMAGES
    try:
        names = sorted(entry.name for entry in images_folder.iterdir() if entry.is_dir())
    except OSError:
        return []
    are_numbered = all(name.partition("_")[0].isdigit() and "_" in name for name in names)
    return [name.partition("_")[2] for name in names] if are_numbered else names


def loading(session: Session) -> str:
    """Return the loading progress of a session that has no run yet."""
    if not session.live:
        return "FAILED"
    done, total = session.read
    return f"reading images, {done:,} of {total:,}" if total else "loading the program"


def warming(session: Session, seconds: float, known: Sequence[str] = ()) -> list[str]:
    """Return the loading progress of a session and its duration, or why it could not start.

    known: labels of the run's stages, if the session resumes a run.
    """
    failure = session.failure()
    if failure is not None:
        return ["FAILED to start", failure[0], f"-> {failure[1]}   (t: traceback)"]
    marks = known or [f"{MARKS['waiting']} {stage}" for stage in STAGES]
    done, total = session.read
    lines = [*wrapped(marks, 50), f"WARMING UP: {loading(session)}, for {format_duration(seconds)}"]
    return [*lines, bar(done / total, 40)] if total else lines
