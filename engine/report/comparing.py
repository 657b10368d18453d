"""Whether two rows of a table differ by more than the noise: Student's paired t test over seeds.

Two accuracies make a pair where the run's seed and the student's seed are the same: then the same teacher and
the same initial student stand behind both. Students of one distilled set share that set, so they are no
samples of the method: where runs have several seeds, the differences of each are averaged, and the test is
over runs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

Seeds = tuple[int, int]  #: of the run, and of the student
LEVEL = 0.05  #: a smaller p exceeds the noise


def compared(values: Mapping[Seeds, float], others: Mapping[Seeds, float]) -> dict[str, Any]:
    """How far `values` lie above `others`, over the seeds that both have.

    difference: mean of the differences, in points. standard_error: of that mean. errors: the first in
    units of the second. p: two-sided. n: pairs of runs, or of students where there is one run. None for what
    one pair, none, or pairs that all say the same cannot tell.
    """
    differences = _independent(values, others)
    found: dict[str, Any] = dict.fromkeys(("difference", "standard_error", "errors", "p"))
    found |= {"n": len(differences), "exceeds_noise": False}
    if not differences:
        return found
    found["difference"] = mean = statistics.fmean(differences)
    if len(differences) < 2:
        return found
    found["standard_error"] = error = statistics.stdev(differences) / math.sqrt(len(differences))
    if error > 0:
        from scipy import stats

        found["errors"] = mean / error
        found["p"] = p = float(2 * stats.t.sf(abs(mean / error), len(differences) - 1))
        found["exceeds_noise"] = p < LEVEL
    return found


def _independent(values: Mapping[Seeds, float], others: Mapping[Seeds, float]) -> list[float]:
    """The differences, one of each run; of each student where one run is all that there is."""
    by_run: dict[int, list[float]] = {}
    for run, student in sorted(values):
        if (run, student) in others:
            by_run.setdefault(run, []).append(values[run, student] - others[run, student])
    if len(by_run) == 1:
        return next(iter(by_run.values()))
    return [statistics.fmean(own) for own in by_run.values()]
