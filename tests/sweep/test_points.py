"""The points of a sweep: their names, settings and problems."""

import json

import pytest
from swept import GRID, expanded, refused

from engine.config import settings
from engine.errors import UserError
from engine.sweep import description, points


def test_points_are_all_combinations_each_with_its_own_settings():
    all_points = expanded({**GRID, "set": {"recover": {"iterations": 2}, "objective.beta": 0.5}})
    assert [point.name for point in all_points] == [
        "objective=cfm,seed=0",
        "objective=cfm,seed=1",
        "objective=lfm,seed=0",
        "objective=lfm,seed=1",
    ]
    assert [(point.row, point.config.seed) for point in all_points] == [
        ("cfm", 0),
        ("cfm", 1),
        ("lfm", 0),
        ("lfm", 1),
    ]
    assert {point.column for point in all_points} == {"digits ipc 1 convnet"}
    for point in all_points:
        wanted = settings.resolve(
            preset="smoke",
            sets=[
                f"objective={point.row}",
                f"seed={point.config.seed}",
                "recover.iterations=2",
                "objective.beta=0.5",
            ],
        )
        assert point.config == wanted.config


def test_the_run_of_a_point_resolves_to_the_same_settings():
    environ = {"CFM_RECOVER__LR": "0.125"}
    values = {**GRID, "cases": {"a": {"recover.views.crop_scale": None, "protocol": "paper"}, "b": {}}}
    for point in expanded(values, environ):
        assert point.config.recover.lr == 0.125
        again = settings.resolve(preset=point.preset, sets=point.sets(environ), environ=environ)
        assert again.config == point.config
        assert points.Point.from_record(json.loads(json.dumps(point.record()))) == point


def test_cases_have_names_and_the_grid_multiplies_them():
    values = {
        "preset": "smoke",
        "cases": {"plain": {}, "b+": {"objective.beta": 0.5}},
        "grid": {"ipc": [1, 2]},
    }
    all_points = expanded(values)
    assert [point.name for point in all_points] == ["plain,ipc=1", "plain,ipc=2", "b+,ipc=1", "b+,ipc=2"]
    assert [(point.row, point.column) for point in all_points][1] == (
        "plain",
        "digits ipc 2 convnet ipc=2",
    )
    assert all_points[2].config.objective.beta == 0.5


def test_names_are_short_unique_and_fit_for_folders():
    terms = [[{"filter": "ridge", "signal": signal, "weight": 0.1}] for signal in ("none", "class", "mean")]
    values = {
        "preset": "smoke",
        "grid": {"objective.terms": terms, "objective.taps": ["conv-input", "conv-output"]},
    }
    long = {"preset": "smoke", "grid": {"objective.terms": [term * 9 for term in terms]}}
    for names in ([point.name for point in expanded(each)] for each in (values, long)):
        assert len({name.lower() for name in names}) == len(names)
        assert all(len(name) <= 104 and "/" not in name and " " not in name for name in names)
    both = expanded({"preset": "smoke", "grid": {"squeeze.epochs": [1, 2], "validate.epochs": [2]}})
    assert both[0].name == "squeeze.epochs=1,validate.epochs=2"


def test_a_budget_scales_epochs_and_iterations_and_nothing_else():
    (whole,) = expanded({"preset": "cifar10-10-convnet"})
    (small,) = expanded({"preset": "cifar10-10-convnet"}, budget=0.01)
    before, after = (point.config.flatten() for point in (whole, small))
    changed = {key: [before[key], after[key]] for key in before if before[key] != after[key]}
    assert changed == small.scaled
    assert changed == {
        "squeeze.epochs": [200, 2],
        "recover.iterations": [1000, 10],
        "validate.epochs": [1000, 10],
    }
    stored = {"preset": "smoke", "set": {"relabel.stored_epochs": 2}}
    (least,) = expanded(stored, budget=1e-6)
    assert least.scaled["relabel.stored_epochs"] == [2, 1]
    assert least.config.validate_.epochs == 1


def test_all_problems_are_reported_at_once_with_suggestions():
    error = refused({"preset": "smoke", "cases": {"a": {"recovr.lr": 1}, "b": {"ipc": 0}, "c": {}, "d": {}}})
    assert error.kind == "config"
    assert "3 points of the sweep cannot run" in error.message
    assert "a: unknown key 'recovr'" in error.message
    assert "b: ipc = 0" in error.message
    assert "d: it is the same experiment as c" in error.message
    assert "recover" in error.hint
    many = refused({"preset": "smoke", "grid": {"objective": ["cfn", "cfm"], "seed": [0, 1, 2]}})
    assert "objective=cfn,seed=0 and 2 more: unknown method 'cfn'" in many.message
    assert "'cfm'" in many.hint


def test_a_table_of_the_paper_needs_no_images_to_show_that_its_taps_exist():
    _, table2 = description.load_sweep("table2")

    def shown(*sets):
        options = description.Options(["cifar10"], ["convnet"], [10], sets=sets)
        return points.expand(table2, options)

    protocol = "protocol=paper"
    points.check_without_data(shown(protocol))
    with pytest.raises(UserError) as caught:
        points.check_without_data(shown(protocol, "backbone.norm=instance"))
    assert "sre2l and 1 more: objective.taps = batchnorm" in caught.value.message
    with pytest.raises(UserError, match=r"gone\.pth"):
        points.check_without_data(shown("backbone.teacher=gone.pth"))
