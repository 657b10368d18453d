"""The points of a sweep's description, their names and settings, and invalid descriptions."""

import json
from types import SimpleNamespace

import pytest
import swept
import torch
from swept import TINY, expanded

from engine.config import Config, settings
from engine.config.presets import list_shipped
from engine.errors import UserError
from engine.methods import rded
from engine.spectral import recovery_batches
from engine.sweep import description, folder, points
from engine.sweep.description import Options, find_nearest_preset, load_sweep
from engine.sweep.schedule import Schedule, list_shared_artefacts

GRID = {"preset": "smoke", "grid": {"objective": ["cfm", "lfm"], "seed": [0, 1]}}


def refused(values, **options):
    with pytest.raises(UserError) as caught:
        expanded(values, **options)
    return caught.value


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "smoke", "gird": {}}, "Did you mean 'grid'?"),
        ({"preset": "smok"}, "Did you mean 'smoke'?"),
        ({}, "either a preset or settings"),
        ({**GRID, "settings": [{"dataset": "digits", "ipc": 1, "backbone": "convnet"}]}, "either a preset"),
        ({"preset": "smoke", "grid": {"seed": []}}, "seed has no values"),
        ({"preset": "smoke", "grid": {"seed": [1, 1]}}, "repeated"),
        ({"preset": "smoke", "grid": {"seed": 1}}, "must be a list"),
        ({"preset": "smoke", "cases": {"a/b": {}}}, "not a valid case name"),
        ({"preset": "smoke", "cases": {"a": {}}, "order": ["a", "b"]}, "order names 'b'"),
        ({"settings": [{"dataset": "cifar", "ipc": 1, "backbone": "convnet"}]}, "cifar10"),
        (
            {"settings": [{"dataset": "folder", "ipc": 1, "backbone": "convnet"}]},
            "no preset has the data",
        ),
        ({"preset": "smoke", "paper": "table99"}, "'table99' is not one of table2, table3"),
        ({"preset": "smoke", "grid": {"seed": ["x"]}}, "seed = x must be a whole number (from the sweep)"),
    ],
)
def test_an_invalid_description_is_refused_with_the_reason(values, message):
    error = refused(values)
    assert message in error.message + error.hint


def test_an_error_in_a_sweep_names_its_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("preset: smoke\ncases: {a: {}}\nagainst: b\n")
    with pytest.raises(UserError) as caught:
        load_sweep(str(path))
    assert caught.value.message == f"{path}: against names 'b', which is not a case; the cases are a"
    assert "cfm sweep" in caught.value.hint
    with pytest.raises(UserError, match="is a folder"):
        load_sweep(str(tmp_path))


def test_a_sweep_resumes_only_with_the_same_inputs(tmp_path):
    place = swept.made(tmp_path / "two", GRID, {}).folder
    first, second = {"data": "d", "teacher": "t"}, {"data": "d", "teacher": "u"}
    folder.write_manifest(place, None, {"objective=cfm,seed=0": first})
    stored = folder.write_manifest(place, None, {"objective=lfm,seed=0": second})
    assert len(folder.load_points(stored)) == 4
    folder.require_same_inputs(place, {"objective=cfm,seed=0": first, "objective=cfm,seed=1": second})
    with pytest.raises(UserError, match="objective=cfm,seed=0 used another teacher"):
        folder.require_same_inputs(place, {"objective=cfm,seed=0": second})


def test_settings_use_the_nearest_preset():
    exact = find_nearest_preset("cifar100", 50, "convnet")
    assert (exact.preset, exact.sets) == ("cifar100-50-convnet", {})
    near = find_nearest_preset("tiny-imagenet", 5, "convnet")
    assert (near.preset, near.sets) == ("tiny50", {"ipc": 5, "backbone.name": "convnet"})
    assert find_nearest_preset("digits", 1, "convnet").preset == "digits"


def test_options_choose_among_settings_and_beyond_them():
    sweep = description.load_sweep("table3")[1]
    names = lambda **options: [each.name for each in sweep.columns(Options(**options))]  # noqa: E731
    assert len(names()) == 5
    assert names(datasets=["imagenet"]) == [f"imagenet-{ipc}-resnet18" for ipc in (10, 50, 100)]
    assert names(datasets=["tiny-imagenet"], ipcs=[1, 5], backbones=["convnet"]) == [
        "tiny-imagenet-1-convnet",
        "tiny-imagenet-5-convnet",
    ]
    assert names(datasets=["digits"], ipcs=[1]) == ["digits-1-resnet18"]
    assert "change `preset`" in refused(TINY, datasets=["cifar10"]).hint
    (point,) = expanded({"preset": "smoke"}, ipcs=[2], backbones=["resnet18"])
    assert (point.config.ipc, point.config.backbone.name) == (2, "resnet18")


@pytest.mark.parametrize("name", list_shipped("sweeps"))
def test_shipped_sweeps_resolve(name):
    called, sweep = description.load_sweep(name)
    assert called == name
    assert sweep.description
    for options in (Options(), Options(datasets=["digits"], ipcs=[1], backbones=["convnet"], budget=0.01)):
        all_points = points.expand(sweep, options)
        assert len(all_points) == len(sweep.cases) * len(sweep.columns(options))
        assert {point.row for point in all_points} == set(sweep.cases)


#: Training images of the smallest class.
LEAST = {"cifar10": 5000, "cifar100": 500, "tiny-imagenet": 500, "imagenet": 732}


def test_rded_has_enough_images_at_every_point_of_shipped_sweeps():
    sweeps = [description.load_sweep(name)[1] for name in list_shipped("sweeps")]
    configs = [point.config for sweep in sweeps for point in points.expand(sweep, Options())]
    selecting = [config for config in configs if config.recover.algorithm == "select"]
    assert {config.data.name for config in selecting} == set(LEAST)
    for config in selecting:
        least = LEAST[config.data.name]
        one_class = SimpleNamespace(labels_N=torch.zeros(least, dtype=torch.long), classes=["a"], size=32)
        recovery_batches.require_enough(config, one_class)
        pool, _ = rded.draw_crops(config, one_class, 0)
        assert len(set(pool.tolist())) >= config.ipc * config.recover.select.factor**2


def test_shipped_sweeps_are_those_of_the_paper():
    of = {name: description.load_sweep(name)[1] for name in list_shipped("sweeps")}
    assert list(of["table2"].cases) == [
        *("random", "dm", "dc", "mtt", "frepo", "sre2l", "gvbsm", "dwa", "rded", "cfm")
    ]
    six = {point.row: point.config.objective for point in points.expand(of["figure6"], Options(ipcs=[10]))}
    assert [six[row].beta for row in six if row.startswith("ridge")] == [1e-1, 1e-2, 1e-3, 1e-4]
    assert (six["low-pass"].method, six["cfm"].schedule.kind) == ("lfm", "cosine")
    parts = {point.row: point.config.objective for point in points.expand(of["table5"], Options())}
    terms_and_ce = {row: (len(each.terms), each.ce) for row, each in parts.items()}
    assert terms_and_ce == {"filter": (1, 0), "filter+signal": (2, 0), "filter+signal+ce": (2, 1)}
    assert len(of["table4"].common["validate.students"]) == 6
    assert all(sweep.common["validate.seeds"] >= 3 for sweep in of.values())


# --- order ------------------------------------------------------------------------------------------


def test_a_shared_artefact_is_computed_by_one_point_while_the_others_wait():
    all_points = expanded({**GRID, "grid": {"seed": [0, 1], "objective": ["cfm", "lfm", "sre2l"]}})
    schedule = Schedule(all_points)

    def begin():
        name = schedule.next()
        if name is not None:
            schedule.states[name] = "running"
        return name

    assert begin() == "seed=0,objective=cfm"
    assert begin() == "seed=1,objective=cfm"  # another teacher
    assert begin() is None
    schedule.reached("seed=0,objective=cfm", "statistics")
    assert begin() == "seed=0,objective=sre2l"  # the same teacher, its statistics at other taps
    assert begin() is None
    schedule.reached("seed=0,objective=cfm", "recover")
    assert begin() == "seed=0,objective=lfm"
    schedule.states["seed=1,objective=cfm"] = "failed"  # the next one makes it
    assert begin() == "seed=1,objective=lfm"
    assert begin() is None


def test_started_points_are_resumed_first():
    all_points = expanded(GRID)
    assert Schedule(all_points, ["objective=lfm,seed=0"]).next() == "objective=lfm,seed=0"
    assert Schedule(all_points).next() == "objective=cfm,seed=0"


def test_shared_artefacts_are_identified_by_their_settings():
    def of(**changes):
        return list_shared_artefacts(Config.model_validate(changes))

    assert of() == of(recover={"lr": 0.5}, ipc=3)
    assert of()["squeeze"] != of(seed=1)["squeeze"]
    assert of(backbone={"teacher": "a.pth"})["squeeze"] == []
    assert of(backbone={"teacher": "a.pth"}) == of(backbone={"teacher": "a.pth"}, seed=1)
    goal = {"taps": "bn-conv", "terms": [{"filter": "diagonal"}]}
    several = of(backbone={"also": ["resnet18"]}, recover={"emu": False}, objective=goal)
    assert several["squeeze"] == of()["squeeze"] + of(backbone={"name": "resnet18"})["squeeze"]
    assert len(several["statistics"]) == 2
    assert of(recover={"algorithm": "none"})["statistics"] == []
    assert of()["squeeze"] == of(statistics={"batch": 3})["squeeze"]
    assert of()["statistics"] != of(statistics={"batch": 3})["statistics"]
    given, mixed = {"teacher": "a.pth"}, {"order": "mixed"}
    assert of(backbone=given, statistics=mixed) == of(backbone=given, statistics=mixed, seed=1)
    batched = {**mixed, "estimator": "batched"}
    assert of(backbone=given, statistics=batched) != of(backbone=given, statistics=batched, seed=1)
