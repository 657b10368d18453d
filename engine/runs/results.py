"""Build `results.json`, the document with the numbers of a finished run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from engine.store import SCHEMA_VERSION

if TYPE_CHECKING:
    from engine.stages.validate import StudentResult

Results = dict[str, Any]


def mean_std(values: Sequence[float]) -> dict[str, Any] | None:
    """Return mean, sample standard deviation (0 for one value) and count; None for no values."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": std, "n": len(values)}


def format_mean_std(summary: Mapping[str, Any] | None, digits: int = 2, absent: str = "—") -> str:
    """Format what `mean_std` returns as "mean ± std (count)", without the deviation for one value.

    absent: the text for None.
    """
    if summary is None:
        return absent
    deviation = f" ± {summary['std']:.{digits}f}" if summary["n"] > 1 else ""
    return f"{summary['mean']:.{digits}f}{deviation} ({summary['n']})"


def summarise(students: Sequence[StudentResult]) -> dict[str, Any]:
    """Return the accuracies in percent of the first architecture, and of every architecture by name."""
    by_architecture = {}
    for name in dict.fromkeys(student.architecture for student in students):
        of_name = [student for student in students if student.architecture == name]
        distilled = [student for student in of_name if student.source == "distilled"]
        best = mean_std([student.best for student in distilled])
        by_architecture[name] = {
            "accuracy": mean_std([student.last for student in distilled]),
            "accuracy_best": None if best is None else {**best, "peeks_at_test_set": True},
            "control": mean_std([student.last for student in of_name if student.source == "random"]),
        }
    first = students[0].architecture
    return {"architecture": first, **by_architecture[first], "by_architecture": by_architecture}


def build_document(
    *,
    run: str,
    students: Sequence[StudentResult],
    teacher: dict[str, Any],
    timings: dict[str, Any],
    provenance: dict[str, Any],
) -> Results:
    """Return the whole document."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run": run,
        "summary": summarise(students),
        "students": [
            {**asdict(student), "curve": [list(point) for point in student.curve]} for student in students
        ],
        "teacher": teacher,
        "timings": timings,
        "provenance": provenance,
    }
