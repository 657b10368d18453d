"""The numbers of a finished run, in the shape that scripts rely on (`results.json`)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.store import SCHEMA_VERSION

if TYPE_CHECKING:
    from engine.stages.validate import StudentResult

Results = dict[str, Any]


def mean_std(values: Sequence[float]) -> dict[str, Any] | None:
    """Mean, sample standard deviation (0 for one value) and count; None for no values."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": std, "n": len(values)}


def format_mean_std(found: Mapping[str, Any] | None, digits: int = 2, absent: str = "—") -> str:
    """A spread in words: mean ± standard deviation (count), but one value has no deviation."""
    if found is None:
        return absent
    deviation = f" ± {found['std']:.{digits}f}" if found["n"] > 1 else ""
    return f"{found['mean']:.{digits}f}{deviation} ({found['n']})"


def _of(students: Sequence[StudentResult]) -> dict[str, Any]:
    distilled = [student for student in students if student.source == "distilled"]
    control = [student for student in students if student.source == "random"]
    best = mean_std([student.best for student in distilled])
    return {
        "accuracy": mean_std([student.last for student in distilled]),
        "accuracy_best": None if best is None else {**best, "peeks_at_test_set": True},
        "control": mean_std([student.last for student in control]),
    }


def summary(students: Sequence[StudentResult]) -> dict[str, Any]:
    """Accuracies in percent of the first architecture, and of each by name."""
    names = list(dict.fromkeys(student.architecture for student in students))
    each = {name: _of([student for student in students if student.architecture == name]) for name in names}
    return {"architecture": names[0], **each[names[0]], "by_architecture": each}


def student(result: StudentResult) -> dict[str, Any]:
    """One student's accuracies in percent; `curve` holds (epoch, accuracy) pairs.

    `weights` is the SHA-256 of the final network.
    """
    return {
        "architecture": result.architecture,
        "seed": result.seed,
        "source": result.source,
        "last": result.last,
        "best": result.best,
        "curve": [list(point) for point in result.curve],
        "weights": result.weights,
    }


def document(
    *,
    run: str,
    students: Sequence[StudentResult],
    teacher: dict[str, Any],
    timings: dict[str, Any],
    provenance: dict[str, Any],
) -> Results:
    """The whole document."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run": run,
        "summary": summary(students),
        "students": [student(result) for result in students],
        "teacher": teacher,
        "timings": timings,
        "provenance": provenance,
    }
