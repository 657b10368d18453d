"""The runs of a folder, as a list that is looked through every second or so without reading much."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import store
from engine.errors import UserError
from engine.store import AT_WORK, StoredRun, files


@dataclass(frozen=True)
class Row:
    """What the list says of a run. Accuracies in percent; done: share of its stage in [0, 1]."""

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

    @property
    def damaged(self) -> bool:
        """Whether it cannot be read, or not now."""
        return self.state == "damaged"

    @property
    def at_work(self) -> bool:
        """Whether a process has the run."""
        return self.state in AT_WORK


class Listing:
    """The rows of a folder's runs; only runs whose files changed, or that are at work, are read again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, tuple[Any, Row]] = {}

    def rows(self) -> list[Row]:
        """All of them, oldest first. Raises UserError("disk") where the folder cannot be read."""
        try:
            found = (
                [entry for entry in self.folder.iterdir() if self._is_run(entry)]
                if self.folder.is_dir()
                else []
            )
        except OSError as error:
            raise UserError(
                "disk", f"{self.folder}: {error.strerror}", "choose another with CFM_RUNS"
            ) from error
        self._known = {folder: self._row(folder) for folder in found}
        return sorted((row for _, row in self._known.values()), key=lambda row: (row.begun, row.name))

    def _is_run(self, entry: Path) -> bool:
        try:
            return store.is_run(entry)
        except OSError:  # one that may not be looked into does not hide the others
            return entry in self._known

    def _row(self, folder: Path) -> tuple[Any, Row]:
        stamp = tuple(files.stamp(folder / name) for name in ("status.json", "results.json", "manifest.json"))
        known = self._known.get(folder)
        if known is not None and known[0] == stamp and not (known[1].at_work or known[1].damaged):
            return known
        return stamp, read(StoredRun(folder))


def read(run: StoredRun) -> Row:
    """A run's row; ``damaged`` where its files cannot be read, or say what no run says."""
    begun = ""
    try:
        begun = run.created()
        return _read(run, begun)
    except (UserError, OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return Row(run.folder, run.folder.absolute().name, "damaged", "", None, None, None, None, None, begun)


def _read(run: StoredRun, begun: str) -> Row:
    state, status, results = run.state(), run.status(), run.results()
    if not isinstance(state, str):
        raise TypeError(f"{state!r} is no state")
    summary = {} if results is None else results["summary"]
    total, done = status.get("total"), status.get("done")
    return Row(
        folder=run.folder,
        name=run.name,
        state=state,
        stage=str(status.get("stage") or ""),
        done=done / total if isinstance(total, int) and isinstance(done, int) and total else None,
        beta=_number(status.get("beta")),
        last=_mean(summary, "accuracy", status.get("accuracy")),
        best=_mean(summary, "accuracy_best"),
        control=_mean(summary, "control"),
        begun=begun,
    )


def _mean(summary: dict[str, Any], name: str, otherwise: float | None = None) -> float | None:
    found = summary.get(name)
    return _number(found["mean"] if isinstance(found, dict) else otherwise)


def _number(found: object) -> float | None:
    """Raises TypeError for what is none."""
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise TypeError(f"{found!r} is no number")
    return float(found)
