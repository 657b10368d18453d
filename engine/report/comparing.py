"""Comparison of two rows of a table by Student's paired t test over seeds.

Two accuracies form a pair if the run's seed and the student's seed are the same: both then use the same
teacher and the same initial student. Students of one distilled set share that set and are therefore not
independent samples of the method. With several run seeds, the differences of each run are averaged, and the
test is over runs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

Seeds = tuple[int, int]  #: of the run, and of the student
LEVEL = 0.05  #: significance level


def compared(values: Mapping[Seeds, float], others: Mapping[Seeds, float]) -> dict[str, Any]:
    """Compare `values` with `others` over their common seeds.

    difference: mean difference in percentage points. standard_error: standard error of that mean. errors:
    difference / standard_error. p: two-sided p-value. n: number of pairs of runs, or of students if there is
    only one run. A number is None if it is undefined: with fewer than two pairs, or if all pairs are equal.
    """
    differences = _collect_differences(values, others)
    comparison: dict[str, Any] = dict.fromkeys(("difference", "standard_error", "errors", "p"))
    comparison |= {"n": len(differences), "exceeds_noise": False}
    if not differences:
        return comparison
    comparison["difference"] = mean = statistics.fmean(differences)
    if len(differences) < 2:
        return comparison
    comparison["standard_error"] = error = statistics.stdev(differences) / math.sqrt(len(differences))
    if error > 0:
        from scipy import stats

        comparison["errors"] = mean / error
        comparison["p"] = p = float(2 * stats.t.sf(abs(mean / error), len(differences) - 1))
        comparison["exceeds_noise"] = p < LEVEL
    return comparison


def _collect_differences(values: Mapping[Seeds, float], others: Mapping[Seeds, float]) -> list[float]:
    """Return one difference per run, or one per student if there is only one run."""
    by_run: dict[int, list[float]] = {}
    for run, student in sorted(values):
        if (run, student) in others:
            by_run.setdefault(run, []).append(values[run, student] - others[run, student])
    if len(by_run) == 1:
        return next(iter(by_run.values()))
    return [statistics.fmean(differences) for differences in by_run.values()]
