"""Compare the accuracies of two experiments over their repeats.

The test is Student's two-sided paired t test: repeats with the same seed share the random control, the
initial weights of students and, where it is trained, the teacher. Where several rows are compared with one,
p is corrected by Holm's method.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Verdict = Literal["better", "not shown", "worse", "not tested"]
LEVEL = 0.05  #: significance level of the verdicts
FEW_PAIRS = 6  #: below this number, it is stated beside p


def compare_paired(values: Mapping[int, float], others: Mapping[int, float]) -> dict[str, Any]:
    """Compare accuracies in percent with others; keys are the seeds of repeats, and equal seeds are a pair.

    difference: mean of `values` − `others`, in percentage points. standard_error: of that mean. errors:
    difference / standard_error. p: two-sided p-value; `p_adjusted` equals it until `adjust_holm`. n: pairs.
    verdict: see `decide_verdict`. A number is None if it is undefined: without pairs, with one pair, or if
    all differences are equal, since a test needs variance.
    """
    differences = [values[seed] - others[seed] for seed in sorted(values) if seed in others]
    comparison: dict[str, Any] = dict.fromkeys(("difference", "standard_error", "errors", "p", "p_adjusted"))
    comparison |= {"n": len(differences), "verdict": "not tested"}
    if differences:
        comparison["difference"] = statistics.fmean(differences)
    if len(differences) < 2:
        return comparison
    # Equal differences differ by rounding, which must not count as variance.
    rounding = 1e-9 * max(map(abs, [*values.values(), *others.values()]))
    deviation = statistics.stdev(differences)
    if deviation > rounding:
        from scipy import stats

        comparison["standard_error"] = error = deviation / math.sqrt(len(differences))
        comparison["errors"] = errors = comparison["difference"] / error
        comparison["p"] = comparison["p_adjusted"] = float(2 * stats.t.sf(abs(errors), len(differences) - 1))
        comparison["verdict"] = decide_verdict(comparison)
    return comparison


def decide_verdict(comparison: Mapping[str, Any]) -> Verdict:
    """Return whether a difference is shown at `LEVEL`, by its adjusted p-value."""
    if comparison["p_adjusted"] is None:
        return "not tested"
    if comparison["p_adjusted"] >= LEVEL:
        return "not shown"
    return "better" if comparison["difference"] > 0 else "worse"


def reverse(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Return the comparison with both sides exchanged."""
    negated = {
        name: None if comparison[name] is None else -comparison[name] for name in ("difference", "errors")
    }
    verdicts: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
    verdict = comparison["verdict"]
    return {**comparison, **negated, "verdict": verdicts.get(verdict, verdict)}


def adjust_holm(comparisons: Sequence[dict[str, Any]]) -> None:
    """Set `p_adjusted` and `verdict` of comparisons that are made together, in place (Holm 1979).

    The adjusted p-value of the i-th smallest of m is max over j ≤ i of (m − j + 1)·p_j, at most 1.
    """
    tested = sorted((each for each in comparisons if each["p"] is not None), key=lambda each: each["p"])
    largest = 0.0
    for rank, comparison in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * comparison["p"]))
        comparison["p_adjusted"] = largest
        comparison["verdict"] = decide_verdict(comparison)
