"""Comparison of experiments over their repeats: pairs, p, Holm's correction, and verdicts."""

import numpy as np
import pytest
from scipy import stats

from engine.runs.significance import adjust_holm, compare_paired


def test_pairs_are_repeats_with_one_seed_and_a_test_needs_two_of_them():
    one = compare_paired({0: 2.0, 1: 5.0}, {1: 3.0, 2: 9.0})
    assert (one["difference"], one["n"], one["p"], one["verdict"]) == (2.0, 1, None, "not tested")
    none = compare_paired({0: 2.0}, {1: 2.0})
    assert (none["difference"], none["n"], none["verdict"]) == (None, 0, "not tested")


def test_differences_without_variance_are_not_tested():
    """Equal differences whose floating-point values differ by rounding, as of accuracies of 12 images."""
    values = {seed: 100 * correct / 12 for seed, correct in enumerate((4, 7, 11))}
    others = {seed: 100 * correct / 12 for seed, correct in enumerate((3, 6, 10))}
    assert len({values[seed] - others[seed] for seed in values}) > 1
    alike = compare_paired(values, others)
    assert alike["difference"] == pytest.approx(100 / 12)
    assert (alike["errors"], alike["p"], alike["verdict"]) == (None, None, "not tested")


def test_p_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    values, others = (dict(enumerate(rng.normal(50, 2, size=5))) for _ in range(2))
    found = compare_paired(values, others)
    expected = stats.ttest_rel(list(values.values()), list(others.values()))
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["errors"] == pytest.approx(expected.statistic)


def test_holms_correction_is_that_of_his_paper():
    """Four p-values by hand: 4·0.01, 3·0.015, 2·0.03, and 0.04, which may not be below the one before."""
    comparisons = [{"p": p, "difference": 1.0} for p in (0.03, 0.01, 0.04, 0.015)]
    comparisons.append({"p": None, "p_adjusted": None, "difference": 1.0, "verdict": "not tested"})
    adjust_holm(comparisons)
    assert [each["p_adjusted"] for each in comparisons[:4]] == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert [each["verdict"] for each in comparisons] == [
        "not shown",
        "better",
        "not shown",
        "better",
        "not tested",
    ]


@pytest.mark.parametrize("repeats", [3, 6])
def test_an_experiment_repeated_is_rarely_called_different_from_itself(repeats):
    """2,000 tables of six rows of one method, which differ by chance: at most 6 % have a verdict."""
    rng, false_tables = np.random.default_rng(repeats), 0
    for _ in range(2000):
        accuracies_RS = rng.normal(60, 0.7, size=(6, repeats)) + rng.normal(0, 0.5, (6, repeats, 3)).mean(2)
        rows = [dict(enumerate(row)) for row in accuracies_RS]
        comparisons = [compare_paired(row, rows[0]) for row in rows[1:]]
        adjust_holm(comparisons)
        false_tables += any(each["verdict"] in ("better", "worse") for each in comparisons)
    assert false_tables / 2000 <= 0.06
