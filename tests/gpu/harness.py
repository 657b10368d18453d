"""Sections of a check: isolated from each other, within a time limit, their rows printed as they come."""

from __future__ import annotations

import math
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What was asked for. data_root, teacher: of the section `whole job`, which is left out without them."""

    device: torch.device
    quick: bool
    data_root: Path | None = None
    teacher: Path | None = None

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Section:
    """A part of the check. seconds: its time limit."""

    name: str
    seconds: float
    rows: Callable[[Options], Iterator[Row]]


@dataclass
class Outcome:
    """What a section measured. status: done, cut (at its time limit) or failed."""

    name: str
    status: str = "done"
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    error: str | None = None


class TimeLimit(BaseException):
    """A section used up its time; no `except Exception` in the code that it measures may catch this."""


def run_section(section: Section, options: Options, seconds: float) -> Outcome:
    """Collect a section's rows until it ends, fails, or `seconds` are over."""
    outcome, began = Outcome(section.name), time.perf_counter()
    print(f"\n## {section.name}\n", flush=True)

    def expire(*_: object) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, expire)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
        try:
            for row in section.rows(options):
                outcome.rows.append(row)
                print_row(outcome.rows)
        except Exception as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            outcome.status, outcome.error = "failed", traceback.format_exc()
            text = str(error).splitlines()
            outcome.rows.append({"failed": f"{type(error).__name__}: {text[0] if text else ''}"})
            print_row(outcome.rows)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except TimeLimit:
        outcome.status = "cut"
    finally:
        signal.signal(signal.SIGALRM, before)
        if options.cuda:
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.empty_cache()
    outcome.seconds = time.perf_counter() - began
    limit = f", cut at its limit of {seconds:.0f} s" if outcome.status == "cut" else ""
    print(f"\n{section.name}: {outcome.seconds:.1f} s{limit}", flush=True)
    return outcome


def finite(row: Row) -> Row:
    """Return a row for JSON, which has no NaN and no infinity: None stands for them."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def print_row(rows: list[Row]) -> None:
    """Print the last row of a Markdown table, below a new head where its columns are new."""
    row = rows[-1]
    if len(rows) == 1 or list(rows[-2]) != list(row):
        print("\n| " + " | ".join(row) + " |\n| " + " | ".join("---" for _ in row) + " |")
    print("| " + " | ".join(_cell(value) for value in row.values()) + " |", flush=True)


def _cell(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
