"""What is known about a new experiment, without a screen: its curves and its texts."""

import numpy as np
import pytest
from forms import form

from cfm_tui.console.preflight import Findings
from cfm_tui.display import plot_data
from cfm_tui.display.progress import format_bytes
from engine.config import Config, settings
from engine.runs.estimates import Estimate
from engine.runs.preview import DatasetStatus
from engine.spectral import recovery_batches
from engine.spectral.schedules import betas_of_batches


def findings(config, classes):
    """What is known once the number of classes is."""
    status = DatasetStatus(config.data.name, "", True, None, classes, None, None, None, "")
    return Findings(config, sets=(status,))


@pytest.mark.parametrize("per", ["round", "batch"])
@pytest.mark.parametrize("ipc", ["1", "10", "1000000000"])
def test_the_curve_of_beta_is_short_and_falls(per, ipc):
    made = form("cifar100-10", ipc=ipc, objective__schedule__per=per)
    _, x, y = findings(made.config, 100).compute_betas()
    assert 1 <= len(x) == len(y) <= Findings.MOST_POINTS
    assert y[0] == made.config.objective.beta
    assert np.all(np.diff(y) <= 0)
    assert np.all(np.diff(x) > 0)


@pytest.mark.parametrize("method", settings.method_names())
def test_every_method_has_responses(method):
    made = form(objective__method=method, ipc="10")
    assert made.checked.resolved is not None
    filters = {term.label for term in made.config.objective.terms}
    usual, _ = findings(made.config, 10).compute_responses()
    over, label = findings(made.config, 10).compute_responses(np.array([3.0, 1.0, 0.0, -1e-9]))
    assert len({line.name for line in usual}) == len(usual) >= len(filters)
    assert over[0].name == "Ψ"
    assert (len(over) > 1) == bool(filters & {"ridge", "power", "series"})
    assert label == plot_data.RANKS
    for line in usual + over:
        assert len(line.x) == len(line.y)


def test_responses_are_at_the_betas_of_the_classes_that_there_are():
    made = form("cifar100-10", ipc="1", objective__schedule__per="batch", recover__classes_per_batch="10")
    schedule, beta = made.config.objective.schedule, made.config.objective.beta
    last = betas_of_batches(schedule, beta, 1, 10)[-1]
    names = [line.name for line in findings(made.config, 100).compute_responses()[0]]
    assert f"ridge at β_B = {last:.3g}" in names
    assert [line.name for line in findings(made.config, 100).compute_responses(np.ones(4))[0]] == [
        "Ψ",
        f"f(Ψ) at β_1 = {beta:.3g}",
        f"f(Ψ) at β_B = {last:.3g}",
    ]


@pytest.mark.parametrize("classes", [1, 9, 10, 11, 100])
def test_the_curve_of_beta_has_the_batches_of_recovery(classes):
    made = form("cifar100-10", ipc="2", recover__classes_per_batch="10")
    _, x, _ = findings(made.config, classes).compute_betas()
    assert len(x) == len(recovery_batches.plan_batches(made.config, classes))


def test_given_images_have_neither_beta_nor_responses():
    config = Config.model_validate({"given": {"images": "set"}})
    name, x, y = findings(config, 10).compute_betas()
    assert (name, len(x), len(y)) == ("no β: nothing is optimised", 0, 0)
    assert findings(config, 10).compute_responses()[0] == []
    assert [line.name for line in findings(config, 10).compute_responses(np.ones(4))[0]] == ["Ψ"]


def test_sides_of_what_is_not_known():
    found = Findings(Config())
    for text in (found.describe_data(), found.describe_backbone(), found.describe_estimate()):
        assert text


def test_sizes_are_read_by_people():
    assert [format_bytes(n) for n in (0, 999, 1000, 170_052_171, 5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "170 MB",
        "5.0 TB",
    ]


def test_an_estimate_says_that_it_is_one():
    seconds = {"squeeze": 0.0, "statistics": 0.0, "recover": 3600.0, "relabel": 0.0, "validate": 1800.0}
    found = Findings(
        Config(), estimate=Estimate(seconds, 10**9, 10**7, "from a few steps of each stage on cpu")
    )
    assert found.describe_total() == "about 1 h 30 min"
    *_, cached, how = found.describe_estimate().splitlines()
    assert cached == "cached or not needed: squeeze, statistics, relabel"
    assert how == "from a few steps of each stage on cpu"
