"""The lines of spectra and filters."""

from __future__ import annotations

import numpy as np
from monitored import BETAS, TAPS, glimpse

from cfm_tui.display import plot_data
from engine.config import Objective


def goal(*titles):
    """An objective with terms of these filters and signals."""
    pairs = (title.split("/") for title in titles)
    return Objective.model_validate({"terms": [{"filter": f, "signal": g} for f, g in pairs]})


def test_a_filter_without_beta_is_drawn_where_there_is_no_beta():
    objective = Objective.model_validate({"terms": [{"f": "lambda**2", "signal": "none"}]})
    lines = plot_data.over_ranks({plot_data.REAL: np.ones(3)}, objective, [])
    assert [line.name for line in lines] == ["Ψ", "f(Ψ)"]


def test_a_spectrum_says_where_the_filter_turns():
    seen = glimpse()
    lines, turn = plot_data.spectrum(seen, TAPS[1], goal("ridge/none", "ridge/class"))
    assert [line.name for line in lines] == ["Ψ", "Ψ_s", "f(Ψ)", "f(Ψ_s)"]
    real = seen.spectra[TAPS[1]][0]
    assert turn == 1 + sum(real >= BETAS[2])
    assert plot_data.spectrum(seen, TAPS[1], goal("identity/class"))[1] is None


def test_a_filter_that_changes_nothing_has_no_curve_and_no_two_curves_one_name():
    seen = glimpse()
    lines, _ = plot_data.spectrum(seen, TAPS[1], goal("lambda/none", "ridge/class", "identity/mean"))
    assert [line.name for line in lines] == ["Ψ", "Ψ_s", "f(Ψ)", "f(Ψ_s)"]
    lines, _ = plot_data.spectrum(seen, TAPS[1], goal("lambda/none"))
    assert [line.name for line in lines] == ["Ψ", "Ψ_s"]


def test_an_expression_has_its_own_curve_on_each_side():
    seen = glimpse()
    own = Objective.model_validate(
        {
            "parameters": {"alpha": None},
            "terms": [{"f": "1 - 2*alpha*lambda", "f_synthetic": "lambda**2", "name": "two"}],
        }
    )
    lines, turn = plot_data.spectrum(seen, TAPS[1], own)
    assert [line.name for line in lines] == ["Ψ", "Ψ_s", "|f(Ψ)|", "f(Ψ_s)"]
    assert turn is None
    real, synthetic = seen.spectra[TAPS[1]]
    np.testing.assert_allclose(lines[2].y, np.abs(1 - 2 * real / real[0]), rtol=1e-5)
    np.testing.assert_allclose(lines[3].y, synthetic**2, rtol=1e-5)
    both = Objective.model_validate({"terms": [{"filter": "ridge"}, {"f": "lambda**2", "name": "two"}]})
    names = [line.name for line in plot_data.spectrum(seen, TAPS[1], both)[0]]
    assert names == ["Ψ", "Ψ_s", "ridge(Ψ)", "ridge(Ψ_s)", "two(Ψ)", "two(Ψ_s)"]


def test_smoothing_restarts_with_each_batch_and_ignores_what_is_not_finite():
    values = np.concatenate([np.linspace(100, 1, 200), np.linspace(100, 1, 200)])
    values[50] = np.nan
    smoothed = plot_data.smooth(values, [200])
    assert np.isnan(smoothed[50])
    assert np.isfinite(np.delete(smoothed, 50)).all()
    np.testing.assert_allclose(smoothed[200], 100)
    length = plot_data.SMOOTHING * 200
    weights = np.exp(-np.arange(5 * length) / length)
    np.testing.assert_allclose(smoothed[399], np.average(values[:359:-1], weights=weights))
    np.testing.assert_array_equal(plot_data.smooth(values[:20]), values[:20])
