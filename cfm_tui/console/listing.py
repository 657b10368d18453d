"""The list of runs in a folder, which can be refreshed every second at little cost.

Imported after the first page is drawn, so that the console starts fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfm_tui.display.run_summary import RunSummary
from engine.errors import UserError
from engine.store import AT_WORK, RunFile, StoredRun, files, folders

_STAMPED = (RunFile.STATUS, RunFile.RESULTS, RunFile.MANIFEST, RunFile.CONFIG)


@dataclass(frozen=True)
class Row:
    """A run's entry on the page of runs. Accuracies in percent; done: completed fraction of its stage."""

    summary: RunSummary

    def __getattr__(self, name: str) -> Any:
        return getattr(self.summary, name)

    @property
    def stage(self) -> str:
        """The stage, empty if there is none."""
        return self.summary.stage or ""

    @property
    def last(self) -> float | None:
        """The accuracy after the last epoch, or the latest one before."""
        return _mean(self.summary.accuracy, self.summary.latest)

    @property
    def best(self) -> float | None:
        """The accuracy of the best epoch."""
        return _mean(self.summary.best)

    @property
    def control(self) -> float | None:
        """The accuracy of the random control."""
        return _mean(self.summary.control)

    @property
    def begun(self) -> str:
        """When the run was created."""
        return self.summary.created

    @property
    def at_work(self) -> bool:
        """Whether a process is computing the run."""
        return self.summary.is_active


class Listing:
    """The summaries of a folder's runs. Only active runs and runs whose files changed are read again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, tuple[Any, RunSummary]] = {}

    def read_rows(self) -> list[Row]:
        """Return the rows, oldest run first. Raises UserError("disk") where the folder cannot be read."""
        return [Row(summary) for summary in self.read_summaries()]

    def read_summaries(self) -> list[RunSummary]:
        """Return the summaries, oldest run first. Raises UserError("disk") where the folder is unreadable."""
        try:
            run_folders = folders.list_run_folders(self.folder, self._known)
        except OSError as error:
            raise UserError(
                "disk", f"{self.folder}: {error.strerror}", "choose another folder with CFM_RUNS"
            ) from error
        summaries = {folder: self._load_summary(folder) for folder in run_folders}
        listed = folders.list_run_folders(self.folder, summaries)  # a run may have been deleted meanwhile
        self._known = {folder: summaries[folder] for folder in listed if folder in summaries}
        return sorted((each for _, each in self._known.values()), key=lambda each: (each.created, each.name))

    def _load_summary(self, folder: Path) -> tuple[Any, RunSummary]:
        """Return a stamp of the run's files and its summary, read again only if necessary."""
        stamp = tuple(files.stamp(folder / name) for name in _STAMPED)
        known = self._known.get(folder)
        if known is not None and known[0] == stamp and known[1].state not in (*AT_WORK, "damaged"):
            return known
        return stamp, RunSummary.read(StoredRun(folder))


def _mean(accuracy: dict[str, Any] | None, default: float | None = None) -> float | None:
    return default if accuracy is None else float(accuracy["mean"])
