"""What a run's monitor says, as text and rows of cells; nothing here draws.

Legend: T terms, L taps. Marks are ASCII, and no state is told by colour.
"""

from __future__ import annotations

import shlex
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cfm_tui.display.progress import SHORT, format_bytes, format_duration, format_number
from engine.events import STAGES, Stage
from engine.runs.results import format_mean_std
from engine.store import folders
from engine.store.numbers import FIXED

if TYPE_CHECKING:
    from cfm_tui.console.session import Session
    from cfm_tui.display.run_state import LogLine, RunModel

MARKS = {"waiting": "[ ]", "running": "[>]", "done": "[x]", "reused": "[=]"}
LEFT = dict.fromkeys(("paused", "stopped", "lost", "damaged"), "[-]") | {"failed": "[!]"}
LIVE = ("running", "paused")
LayerRow = tuple[str, list[float], list[str]]  #: tap, values, sparklines
KNOWN = "0123456789-e"  #: what the segments can write, besides the point
SEGMENTS = (  # three rows of three cells each: readable on every terminal
    " _     _  _     _  _  _  _  _     _ ",
    "| |  | _| _||_||_ |_   ||_||_| _ |_ ",
    "|_|  ||_  _|  | _||_|  ||_| _|   |_ ",
)


def big(text: str) -> list[str]:
    """A number in three rows of seven-segment digits; empty where it is no number."""
    if not text or set(text) - set(KNOWN + "."):
        return []
    return ["".join(_segments(each, row) for each in text) for row in SEGMENTS]


def _segments(character: str, row: str) -> str:
    if character == ".":
        return "." if row is SEGMENTS[-1] else " "
    at = 3 * KNOWN.index(character)
    return row[at : at + 3]


def bar(share: float, width: int) -> str:
    """How much is done, in `width` cells."""
    inside = max(width - 2, 1)
    full = min(max(int(share * inside), 0), inside)
    return f"[{'#' * full}{'.' * (inside - full)}]"


def wrapped(items: Sequence[str], width: int) -> list[str]:
    """Items side by side, in as many lines as they need."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 2 + len(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines.append(item)
    return lines


def stages(model: RunModel) -> list[str]:
    """The five, each with its mark and how much of it is done."""
    found = []
    for stage in STAGES:
        view = model.stages.get(stage)
        state = "waiting" if view is None else view.state
        share = f" {view.done / view.total:.0%}" if view and state == "running" and view.total else ""
        mark = MARKS[state] if state != "running" else LEFT.get(model.state, MARKS[state])
        found.append(f"{mark} {stage}{share}")
    return found


def command(words: str, folder: Path) -> str:
    """A command on the run in `folder`, as it can be typed."""
    short = folder.parent.absolute() == folders.runs_folder().absolute()
    return f"`cfm {words} {shlex.quote(folder.name if short else str(folder))}`"


def place(model: RunModel) -> str:
    """Where in its stage the run is."""
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
    """Speed, time left, memory: those that are known."""
    parts = []
    view = model.stages.get(model.stage) if model.stage else None
    if model.rate and model.rate > 0:
        parts.append(f"{format_number(model.rate)} {SHORT.get(view.unit, view.unit) if view else 'it'}/s")
    if model.seconds_left is not None:
        parts.append(f"{format_duration(model.seconds_left)} left")
    if model.memory_bytes:
        parts.append(format_bytes(model.memory_bytes))
    return "   ".join(parts)


def share(model: RunModel) -> float | None:
    """How much of the stage at work is done."""
    view = model.stages.get(model.stage) if model.stage else None
    return view.done / view.total if view and view.total else None


def facts(model: RunModel, words: str, width: int) -> list[str]:
    """The lines of the panel `Now`. words: what the run is doing."""
    lines = [*wrapped(stages(model), width), words]
    folder = model.run.folder
    if model.state in LIVE or model.state == "new":
        done = share(model)
        lines += [place(model)] if place(model) else []
        lines += [bar(done, min(width, 60))] if done is not None else []
        return [*lines, pace(model)]
    if model.state == "finished":
        return [*lines, *_outcome(model)]
    if message := str(model.status.get("message") or model.damage or ""):
        lines += textwrap.wrap(message, width)
    if model.state == "damaged":
        return [*lines, f"-> {command('check', folder)} says what is damaged"]
    return [*lines, f"-> {command('resume', folder)} goes on with it"]


def _outcome(model: RunModel) -> list[str]:
    results = model.results
    if results is None:
        return []
    found = results["summary"]
    took = format_duration(in_all(model) or 0.0)
    return [
        f"distilled {format_mean_std(found['accuracy'])} %, last epoch",
        f"random    {format_mean_std(found['control'])} %, the control",
        f"{found['architecture']}; teacher {results['teacher']['accuracy']:.2f} %; {took} in all",
    ]


def spent(model: RunModel, stage: Stage) -> float | None:
    """Seconds that a stage took; None where it was not computed, or not yet."""
    if model.results is not None:
        timing = model.results["timings"][stage]
        return None if timing["reused"] else float(timing["seconds"])
    view = model.stages[stage]
    return view.seconds if view.state == "done" else None


def in_all(model: RunModel) -> float | None:
    """Seconds that all stages took which were computed; None where none was."""
    known = [each for each in (spent(model, stage) for stage in STAGES) if each is not None]
    return sum(known) if known else None


def doing(model: RunModel, asked: str, where: str, loading: bool = False) -> str:
    """The run's state in words. asked: what was asked and has not happened yet. where: whose run it is."""
    state = model.state
    if loading:
        return "LOADING the program and the images"
    if asked == "stop" and state in LIVE:
        return "STOPPING at the next save point"
    if asked == "pause" and state == "running":
        return "PAUSING: the engine waits from the next save point on"
    if state == "paused":
        return f"PAUSED: the engine waits; space lets it go on {where}".rstrip()
    if state == "lost":
        pid, host = model.status.get("pid"), model.status.get("host")
        return f"LOST: process {pid} on {host} is gone"
    at = model.status.get("stage")
    stage = f" in {at}" if at and state in ("failed", "stopped") else ""
    tail = f" {where}" if state == "running" and where else ""
    words = {"new": "NOT BEGUN", "damaged": "DAMAGED"}.get(state, state.upper())
    saving = "; a checkpoint is asked for" if asked == "checkpoint" and state in LIVE else ""
    return f"{words}{stage}{tail}{saving}"


def headline(model: RunModel) -> tuple[str, str]:
    """The number that matters most now, and what it is; none where a message matters more."""
    if model.state == "finished" and model.results is not None:
        accuracy = model.results["summary"]["accuracy"]
        return ("", "") if accuracy is None else (f"{accuracy['mean']:.1f}", "% distilled, last epoch")
    if model.state not in LIVE:
        return "", ""
    if model.stage == "recover" and model.beta is not None and np.isfinite(model.beta):
        return f"{model.beta:.3g}".replace("e-0", "e-").replace("+", ""), f"β of batch {model.batch}"
    if model.stage in ("squeeze", "validate"):
        known = [each.last for key, each in model.trainings.items() if key[0] == model.stage]
        latest = next((each for each in reversed(known) if each is not None), None)
        return ("", "") if latest is None else (f"{latest:.1f}", "% at the latest look")
    return "", ""


def beta_place(
    betas: Sequence[float], batch: int, width: int, spark: Callable[[Sequence[float]], str]
) -> list[str]:
    """The schedule in one row, and a mark under the current batch in another."""
    if not betas or width < 4:
        return []
    count = min(len(betas), width)
    chosen = [betas[round(i * (len(betas) - 1) / max(count - 1, 1))] for i in range(count)]
    logs = [float(np.log10(max(beta, 1e-30))) for beta in chosen]
    at = round((min(max(batch, 1), len(betas)) - 1) * (count - 1) / max(len(betas) - 1, 1))
    return [spark(logs), " " * at + "^"]


# --- tables ---------------------------------------------------------------------------------------


def value(number: float | None) -> str:
    """A number of a table, in four digits; empty where it is unknown."""
    return "" if number is None else "nan" if np.isnan(number) else f"{number:.4g}"


def layer_rows(model: RunModel, spark: Callable[[Any], str], points: int) -> list[LayerRow]:
    """Each tap's name, latest values, and sparklines of them over the current batch."""
    if model.layout is None or model.batch_curves is None or model.values_TL is None:
        return []
    taps = model.layout.taps
    rows = []
    for index, tap in enumerate(taps):
        values = [float(model.values_TL[term][index]) for term in range(len(model.layout.terms))]
        columns = [len(FIXED) + term * len(taps) + index for term in range(len(model.layout.terms))]
        highs = [model.batch_curves.envelope(column, points)[2] for column in columns]  # spikes in full
        rows.append((tap, values, [spark(high) for high in highs]))
    return rows


TRAINING_COLUMNS = ("network", "images", "seed", "epoch", "loss", "last %", "best %")


def training_rows(model: RunModel) -> list[tuple[str, ...]]:
    """Means over seeds where the run is finished, then each training; the control beside each student."""
    rows: list[tuple[str, ...]] = []
    if model.results is not None:
        for name, found in model.results["summary"]["by_architecture"].items():
            best = found["accuracy_best"]
            rows.append(
                (name, "distilled", "mean", "", "", format_mean_std(found["accuracy"]), format_mean_std(best))
            )
            rows.append((name, "random", "mean", "", "", format_mean_std(found["control"]), ""))
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
    """A line of the log with its time of day; another day's with its date."""
    told = time.localtime(line.time)
    today = time.localtime()[:3] == told[:3]
    stamp = time.strftime("%H:%M:%S" if today else "%m-%d %H:%M", told)
    mark = "! " if line.level != "info" else ""
    return f"{stamp} {mark}{line.text}"


def class_names(folder: Path) -> list[str]:
    """The classes' names by number, from the folders of a run's images; empty before there are any."""
    place = folder / folders.IMAGES
    try:
        names = sorted(entry.name for entry in place.iterdir() if entry.is_dir())
    except OSError:
        return []
    numbered = all(name.partition("_")[0].isdigit() and "_" in name for name in names)
    return [name.partition("_")[2] for name in names] if numbered else names


def loading(session: Session) -> str:
    """What a session is at that has no run yet."""
    if not session.live:
        return "FAILED"
    done, total = session.read
    return f"reading images, {done:,} of {total:,}" if total else "loading the program"


def warming(session: Session, seconds: float, known: Sequence[str] = ()) -> list[str]:
    """A session that is not at work yet: what it is at, and since when; or why it never will be.

    known: the run's stages, where it goes on with one.
    """
    failure = session.failure()
    if failure is not None:
        return ["FAILED before it began", failure[0], f"-> {failure[1]}   (t: traceback)"]
    marks = known or [f"{MARKS['waiting']} {stage}" for stage in STAGES]
    done, total = session.read
    lines = [*wrapped(marks, 50), f"WARMING UP: {loading(session)}, for {format_duration(seconds)}"]
    return [*lines, bar(done / total, 40)] if total else lines
