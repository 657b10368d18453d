"""What a report reads of a run: the filters at its β_b."""

import numpy as np
from reports import goal, unfinished

from engine.report import figures
from engine.report.lens import LensLayer
from engine.report.subject import filters_over


def test_responses_are_those_of_the_filters():
    values = np.array([4.0, 1.0, 0.0, -1e-9])
    objective = goal("ridge", "lambda", "diagonal")
    assert [term.uses_beta for term in objective.terms] == [True, False, False]
    ridge, last, low = filters_over(objective, [0.5, 0.3, 0.25])
    np.testing.assert_allclose(ridge.evaluate(values), [1 / 4.5, 1 / 1.5, 2, 2])
    np.testing.assert_allclose(ridge.share(values), [0.5 / 4.5, 0.5 / 1.5, 1, 1])
    np.testing.assert_allclose(low.share(values), [1, 0.25, 0, 0])
    overlay = figures.draw_spectra([LensLayer("a", values, None)], [ridge, last, low]).axes[1]
    assert overlay.get_legend_handles_labels()[1] == ["ridge, β = 0.5", "ridge, β = 0.25", "lambda"]
    assert np.isnan(filters_over(goal("ridge"), [0.0])[0].share(values)[2:]).all()


def test_what_is_not_optimised_has_no_filters():
    assert unfinished("given", "objective=cfm", "given.images=elsewhere").filters() == []
    assert len(unfinished("half", "objective=sre2l", "objective=lfm").filters()) == 1
