"""Whether two rows of a table differ by more than the noise: Student's paired t test over seeds.

Two accuracies make a pair where the run's seed and the student's seed are the same: then the same teacher and
the same initial student stand behind both.
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
    units of the second. p: two-sided. n: pairs. None for what one pair, or none, cannot tell.
    """
    differences = [values[seeds] - others[seeds] for seeds in sorted(values) if seeds in others]
    found: dict[str, Any] = dict.fromkeys(("difference", "standard_error", "errors", "p"))
    found |= {"n": len(differences), "exceeds_noise": False}
    if not differences:
        return found
    found["difference"] = mean = statistics.fmean(differences)
    if len(differences) < 2:
        return found
    found["standard_error"] = error = statistics.stdev(differences) / math.sqrt(len(differences))
    if error == 0:  # every seed says the same
        found["p"] = 1.0 if mean == 0 else 0.0
    else:
        from scipy import stats

        found["errors"] = mean / error
        found["p"] = float(2 * stats.t.sf(abs(mean / error), len(differences) - 1))
    found["exceeds_noise"] = found["p"] < LEVEL
    return found
