"""The list of runs in a folder, which can be refreshed every second at little cost, and its columns.

Imported after the first page is drawn, so that the console starts fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cfm_tui.console.columns import Column, draw_bar
from cfm_tui.display.progress import format_age, format_duration
from cfm_tui.display.run_summary import RunSummary
from engine.errors import UserError
from engine.store import ACTIVE, RunFile, StoredRun, files, folders

_STAMPED = (RunFile.STATUS, RunFile.RESULTS, RunFile.MANIFEST, RunFile.CONFIG)
BAR = 5  #: cells of the bar of a stage

#: The mark behind a difference to the random control, and the theme's colour of both, by the verdict.
VERDICTS = {"better": ("▲", "success"), "worse": ("▼", "error"), "not shown": ("≈", "foreground")}


class Summaries:
    """Summaries of runs. Only active runs and runs whose files changed are read again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Any, RunSummary]] = {}

    def read(self, folder: Path) -> RunSummary:
        """Return the summary of the run in a folder, the same object if nothing changed."""
        stamp = tuple(files.stamp(folder / name) for name in _STAMPED)
        known = self._known.get(folder)
        if known is None or known[0] != stamp or known[1].state in (*ACTIVE, "damaged"):
            known = self._known[folder] = stamp, RunSummary.read(StoredRun(folder))
        return known[1]

    def keep(self, folders: Iterable[Path]) -> None:
        """Forget all but the runs in these folders."""
        self._known = {folder: self._known[folder] for folder in folders if folder in self._known}

    def __contains__(self, folder: object) -> bool:
        return folder in self._known


class Listing:
    """The summaries of a folder's runs, which are read as `Summaries` does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._summaries = Summaries()

    def read(self) -> list[RunSummary]:
        """Return the summaries, oldest run first. Raises UserError("disk") where the folder is unreadable."""
        known = self._summaries
        try:
            run_folders = folders.list_run_folders(self.folder, known)
        except OSError as error:
            raise UserError(
                "disk", f"{self.folder}: {error.strerror}", "choose another folder with CFM_RUNS"
            ) from error
        summaries = {folder: known.read(folder) for folder in run_folders}
        listed = folders.list_run_folders(self.folder, summaries)  # a run may have been deleted meanwhile
        known.keep(listed)
        present = (summaries[folder] for folder in listed if folder in summaries)
        return sorted(present, key=lambda each: (each.created, each.name))


def format_stage(run: RunSummary) -> str:
    """Return the stage of an active run with a bar; empty for any other run."""
    if not run.is_active or not run.stage:
        return ""
    return run.stage if run.done is None else f"{run.stage} {draw_bar(run.done, BAR)} {run.done:.0%}"


def format_accuracy(accuracy: Mapping[str, Any] | None, latest: float | None = None) -> str:
    """Return an accuracy as mean ± standard deviation; without one, the latest measured value with "…"."""
    if accuracy is None:
        return "" if latest is None else f"{latest:.1f} …"
    deviation = "" if accuracy["std"] is None else f" ± {accuracy['std']:.1f}"
    return f"{accuracy['mean']:.1f}{deviation}"


def format_difference(difference: float | None, verdict: str | None) -> str:
    """Return a difference in points with the mark of its verdict."""
    if difference is None:
        return ""
    mark = VERDICTS.get(verdict or "", (" ", ""))[0]
    return f"{difference:+.1f} {mark}".replace("-", "−")


def _mean(accuracy: Mapping[str, Any] | None, default: float | None = None) -> float | None:
    return default if accuracy is None else float(accuracy["mean"])


#: The columns of the list of runs.
COLUMNS: tuple[Column[RunSummary], ...] = (
    Column("run", lambda run: run.name, lambda run: run.name.lower(), least=13, comfort=(5, 24)),
    Column("state", lambda run: run.state, lambda run: run.state),
    Column("data", lambda run: run.data or "", lambda run: run.data, rank=6, least=9),
    Column("IPC", lambda run: "" if run.ipc is None else str(run.ipc), lambda run: run.ipc, 5, True),
    Column("network", lambda run: run.network or "", lambda run: run.network, rank=9, least=9),
    Column("method", lambda run: run.method or "", lambda run: run.method, rank=3, least=8),
    Column("stage", format_stage, lambda run: run.done if run.is_active else None, rank=2),
    Column(
        "distilled",
        lambda run: format_accuracy(run.accuracy, run.latest if run.stage == "validate" else None),
        lambda run: _mean(run.accuracy, run.latest),
        numeric=True,
    ),
    Column("control", lambda run: format_accuracy(run.control), lambda run: _mean(run.control), 8, True),
    Column(
        "Δ",
        lambda run: format_difference(run.difference, run.verdict),
        lambda run: run.difference,
        rank=1,
        numeric=True,
    ),
    Column(
        "left",
        lambda run: "" if run.seconds_left is None else format_duration(run.seconds_left),
        lambda run: run.seconds_left,
        rank=7,
        numeric=True,
    ),
    Column(
        "age",
        lambda run: "" if run.age_seconds is None else format_age(run.age_seconds),
        lambda run: run.created or None,
        rank=4,
        numeric=True,
    ),
)
