"""The list of runs in a folder, which can be refreshed every second at little cost.

Imported after the first page is drawn, so that the console starts fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.store import AT_WORK, StoredRun, files, folders


@dataclass(frozen=True)
class Row:
    """A run's entry in the list. Accuracies in percent; done: completed fraction of its stage."""

    folder: Path
    name: str
    state: str
    stage: str
    done: float | None
    beta: float | None
    last: float | None
    best: float | None
    control: float | None
    begun: str

    @classmethod
    def read(cls, run: StoredRun) -> Row:
        """Read a run's row; its state is "damaged" where a file is unreadable or its content invalid."""
        begun = ""
        try:
            begun = run.created()
            state, status, results = run.state(), run.status(), run.results()
            if not isinstance(state, str):
                raise TypeError(f"{state!r} is not a state")
            summary = {} if results is None else results["summary"]
            total, done = status.get("total"), status.get("done")
            return cls(
                folder=run.folder,
                name=run.name,
                state=state,
                stage=str(status.get("stage") or ""),
                done=done / total if isinstance(total, int) and isinstance(done, int) and total else None,
                beta=_parse_number(status.get("beta")),
                last=_read_mean(summary, "accuracy", status.get("accuracy")),
                best=_read_mean(summary, "accuracy_best"),
                control=_read_mean(summary, "control"),
                begun=begun,
            )
        except (UserError, OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            name = run.folder.absolute().name
            return cls(run.folder, name, "damaged", "", None, None, None, None, None, begun)

    @property
    def at_work(self) -> bool:
        """Whether a process is computing the run."""
        return self.state in AT_WORK


class Listing:
    """The rows of a folder's runs. Only active runs and runs whose files changed are read again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, tuple[Any, Row]] = {}

    def read_rows(self) -> list[Row]:
        """Return the rows, oldest run first. Raises UserError("disk") where the folder cannot be read."""
        try:
            run_folders = folders.list_run_folders(self.folder, self._known)
        except OSError as error:
            raise UserError(
                "disk", f"{self.folder}: {error.strerror}", "choose another folder with CFM_RUNS"
            ) from error
        rows = {folder: self._load_row(folder) for folder in run_folders}
        listed = folders.list_run_folders(self.folder, rows)  # a run may have been deleted meanwhile
        self._known = {folder: rows[folder] for folder in listed if folder in rows}
        return sorted((row for _, row in self._known.values()), key=lambda row: (row.begun, row.name))

    def _load_row(self, folder: Path) -> tuple[Any, Row]:
        """Return a stamp of the run's files and its row, read again only if necessary."""
        stamp = tuple(files.stamp(folder / name) for name in ("status.json", "results.json", "manifest.json"))
        known = self._known.get(folder)
        if known is not None and known[0] == stamp and known[1].state not in (*AT_WORK, "damaged"):
            return known
        return stamp, Row.read(StoredRun(folder))


def _read_mean(summary: dict[str, Any], name: str, default: float | None = None) -> float | None:
    mean_std = summary.get(name)
    return _parse_number(mean_std["mean"] if isinstance(mean_std, dict) else default)


def _parse_number(number: object) -> float | None:
    """Return a stored number as float, None for None. Raises TypeError for anything else."""
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{number!r} is not a number")
    return float(number)
