"""Descriptions of sweeps: shipped ones, their columns, and invalid ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from swept import GRID, TINY, expanded, refused

from engine.config.presets import list_shipped
from engine.errors import UserError
from engine.methods import rded
from engine.spectral import recovery_batches
from engine.sweep import description, points
from engine.sweep.description import Options, find_nearest_preset, load_sweep


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
        one_class = SimpleNamespace(
            labels_N=torch.zeros(least, dtype=torch.long),
            classes=["a"],
            picture_sizes=lambda indices: np.full((len(indices), 2), 32),
        )
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
    assert all(sweep.common["repeats"] >= 3 for sweep in of.values())


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
