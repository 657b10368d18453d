"""The baselines' settings in force, held against what is published for each data set; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from commandline import call
from stages import small

from engine.config import Config, settings
from engine.errors import UserError
from engine.methods import rded
from engine.spectral import recovery_batches

PRESETS = {
    "cifar10": "cifar10-10",
    "cifar100": "cifar100-50",
    "tiny-imagenet": "tiny50",
    "imagenet": "imagenet10",
}
DATA = tuple(PRESETS)
BASELINES = ("random", "sre2l", "cda", "dwa", "gvbsm", "rded")
#: By method and key, the value on each of DATA.
TABLE = {
    "sre2l": {
        "weight": (0.01, 0.01, 1.0, 0.01),
        "first_tap": (10,) * 4,
        "init": ("noise",) * 4,
        "lr": (0.25, 0.25, 0.1, 0.25),
        "iterations": (1000, 1000, 4000, 4000),
        "crop": (None, None, (0.08, 1), (0.08, 1)),
        "flip": (False, False, True, True),
        "roll": (4, 4, 4, 32),
        "both ways": (False, False, True, False),
        "curriculum": (False,) * 4,
        "perturbed": (0,) * 4,
    },
    "cda": {
        "weight": (0.01, 0.01, 0.05, 0.01),
        "first_tap": (10,) * 4,
        "init": ("noise",) * 4,
        "lr": (0.25, 0.25, 0.4, 0.25),
        "iterations": (1000, 1000, 4000, 4000),
        "crop": ((0.08, 1),) * 4,
        "flip": (True,) * 4,
        "roll": (4, 4, 4, 32),
        "curriculum": (True,) * 4,
        "perturbed": (0,) * 4,
    },
    "dwa": {
        "weight": (0.01,) * 4,
        "r_var": (11, 11, 11, 2),
        "first_tap": (10,) * 4,
        "init": ("random",) * 4,
        "lr": (0.25, 0.25, 0.1, 0.25),
        "iterations": (1000, 1000, 2000, 2000),
        "crop": (None, None, (0.08, 1), (0.08, 1)),
        "flip": (False, False, True, True),
        "roll": (4, 4, 4, 32),
        "curriculum": (False,) * 4,
        "perturbed": (12, 12, 12, 15),
        "restored": ("batch", "batch", "batch", "round"),
        "rho": (0.015,) * 4,
    },
    "gvbsm": {
        "weight": (0.01,) * 4,
        "first_tap": (10,) * 4,
        "init": ("noise",) * 4,
        "lr": (0.05, 0.05, 0.05, 0.1),
        "iterations": (4000,) * 4,
        "crop": (None, None, None, (0.08, 1)),
        "flip": (True,) * 4,
        "roll": (32,) * 4,
        "straight_through": (0.8, 0.8, 0.8, 0.4),
        "drop": (0.4, 0.4, 0.4, 0),
        "patch": (4, 4, 4, 16),
        "group": ("class",) * 4,
        "density": ((1, 4),) * 4,
        "parts": (1, 1, 10, 1),
        "networks": (5, 5, 5, 4),
        "squeeze": ((5, 64, 0.05, 0), (50, 64, 0.05, 0), (50, 128, 0.1, 0), (90, 256, 0.1, 1e-4)),
        "statistics": (("batched", 64),) * 3 + (("batched", 256),),
    },
    "rded": {"algorithm": ("select",) * 4, "factor": (1, 1, 1, 2), "patches": (1, 1, 1, 2)},
    "random": {"algorithm": ("none",) * 4},
}


#: Authors' settings of students: by method and key, the value on each of DATA; preset imagenet50, not 10.
OWN = {
    "sre2l": {
        "epochs": (400, 400, 100, 300),
        "batch": (128, 128, 256, 1024),
        "optimiser": ("adamw", "adamw", "sgd", "adamw"),
        "lr": (1e-3, 1e-3, 0.2, 1e-3),
        "decay": (1e-2, 1e-2, 1e-4, 1e-2),
        "all decay": (True, True, True, False),
        "schedule": ("cosine",) * 4,
        "loss": (("kl", 0),) * 4,
        "temperature": (30, 30, 20, 20),
        "teacher": ("batch", "batch", "running", "running"),
        "crop": (None, None, (0.08, 1), (0.08, 1)),
        "padding": (4, 4, 0, 0),
        "mixing": (("none", 0.8), ("none", 0.8), ("none", 0), ("batch", 0)),
    },
    "dwa": {
        "epochs": (400, 400, 200, 300),
        "batch": (128, 128, 64, 128),
        "optimiser": ("adamw", "adamw", "sgd", "adamw"),
        "lr": (1e-3, 1e-3, 0.2, 1e-3),
        "all decay": (True, True, True, False),
        "temperature": (30, 30, 1, 20),
        "teacher": ("batch", "batch", "running", "running"),
        "crop": (None, None, (0.08, 1), (0.08, 1)),
        "mixing": (("none", 0.8), ("none", 0.8), ("batch", 0), ("batch", 0)),
    },
    "gvbsm": {
        "epochs": (1000, 1000, 100, 300),
        "batch": (100, 64, 100, 1024),
        "optimiser": ("adamw", "sgd", "sgd", "adamw"),
        "lr": (1e-3, 0.1, 0.1, 1e-3),
        "decay": (0, 5e-4, 5e-4, 1e-2),
        "loss": (("mse", 0.15), ("mse", 0.15), ("mse", 0.1), ("mse", 0.1)),
        "crop": ((0.08, 1),) * 4,
        "mixing": (("batch", 0),) * 4,
    },
    "rded": {
        "epochs": (300,) * 4,
        "batch": (50, 200, 100, 200),
        "optimiser": ("adamw",) * 4,
        "schedule": ("half-cosine",) * 4,
        "temperature": (20,) * 4,
        "crop": (None, None, None, (0.5, 1)),
        "patches": (1, 1, 1, 2),
    },
}
OWN["cda"] = OWN["sre2l"]


def resolved(method, preset, protocol="cfm", *sets):
    return settings.resolve(preset=preset, sets=[f"objective={method}", f"protocol={protocol}", *sets])


def in_force(config: Config) -> dict[str, object]:
    """What the table speaks of, out of a configuration."""
    goal, made, squeeze = config.objective, config.recover, config.squeeze
    found = {
        "algorithm": made.algorithm,
        "first_tap": goal.first_tap,
        "init": made.init,
        "lr": made.lr,
        "iterations": made.iterations,
        "crop": made.views.crop_scale,
        "flip": made.views.flip,
        "roll": made.views.roll,
        "both ways": made.views.roll_both_ways,
        "curriculum": made.crop_curriculum,
        "perturbed": made.perturb.steps,
        "rho": made.perturb.rho,
        "restored": made.perturb.restore,
        "parts": made.class_parts,
        "squeeze": (squeeze.epochs, squeeze.batch, squeeze.optimiser.lr, squeeze.optimiser.weight_decay),
        "statistics": (config.statistics.estimator, config.statistics.batch),
        "factor": made.select.factor,
        "patches": config.validate_.views.patches,
        "straight_through": made.straight_through,
        "drop": made.drop,
        "patch": goal.patch,
        "group": made.group,
        "density": (made.density.weight, made.density.tau),
        "networks": len({config.backbone.name, *config.backbone.also}),
    }
    weights = {(term.filter, term.signal): term.weight for term in goal.terms}
    if ("identity", "mean") in weights:
        found["weight"] = weights["identity", "mean"]
        found["r_var"] = pytest.approx(weights["diagonal", "none"] / weights["identity", "mean"])
    return found


@pytest.mark.parametrize("protocol", settings.PROTOCOLS)
@pytest.mark.parametrize("method", TABLE)
def test_settings_are_the_published_ones_on_every_data_set_and_under_every_protocol(method, protocol):
    for number, data in enumerate(DATA):
        found = in_force(resolved(method, PRESETS[data], protocol).config)
        wanted = {key: values[number] for key, values in TABLE[method].items()}
        assert {key: found[key] for key in wanted} == wanted, data


@pytest.mark.parametrize("method", ["sre2l", "cda", "dwa", "gvbsm"])
def test_the_loop_is_the_one_that_all_share(method):
    for preset in PRESETS.values():
        config = resolved(method, preset).config
        made = config.recover
        assert (made.algorithm, made.betas, made.clamp) == ("optimise", (0.5, 0.9), True)
        assert (made.shared_view, made.emu, config.objective.ce) == (True, False, 1)
        assert config.objective.taps == ("bn-conv" if method == "gvbsm" else "batchnorm")


@pytest.mark.parametrize("method", ["sre2l", "cda", "dwa", "gvbsm"])
def test_methods_that_match_batchnorm_have_it_under_every_protocol(method):
    for protocol in settings.PROTOCOLS:
        assert resolved(method, "cifar10-10-convnet", protocol).config.backbone.norm == "batch"


def test_variances_weigh_as_means_do_but_for_dwa():
    for method in ("sre2l", "cda", "gvbsm"):
        for preset in PRESETS.values():
            assert in_force(resolved(method, preset).config)["r_var"] == 1


@pytest.mark.parametrize("method", BASELINES)
def test_where_nothing_is_published_the_presets_own_budget_holds(method):
    plain = settings.resolve(preset="digits").config.recover
    made = resolved(method, "digits").config.recover
    assert (made.iterations, made.lr, made.views) == (plain.iterations, plain.lr, plain.views)
    assert made.init == ("random" if method == "dwa" else plain.init)


@pytest.mark.parametrize("method", BASELINES)
def test_students_learn_as_those_of_every_other_method(method):
    for preset in PRESETS.values():
        theirs = resolved(method, preset).config.flatten()
        ours = settings.resolve(preset=preset).config.flatten()
        sections = ("validate", "relabel", "ipc") + (() if method == "gvbsm" else ("squeeze",))
        differing = {key for key in ours if key.split(".")[0] in sections}
        assert {key for key in differing if theirs[key] != ours[key]} <= {"validate.views.patches"}


@pytest.mark.parametrize("protocol", settings.PROTOCOLS)
@pytest.mark.parametrize("method", OWN)
def test_own_students_are_the_published_ones_under_every_protocol(method, protocol):
    for number, data in enumerate(DATA):
        preset = "imagenet50" if data == "imagenet" else PRESETS[data]
        config = resolved(method, preset, protocol, "validate.settings=own").config
        own, optimiser = config.validate_, config.validate_.optimiser
        found = {
            "epochs": own.epochs,
            "batch": own.batch,
            "optimiser": optimiser.name,
            "lr": optimiser.lr,
            "decay": optimiser.weight_decay,
            "all decay": optimiser.decay_norm_and_bias,
            "schedule": optimiser.schedule,
            "loss": (own.loss, own.ce_weight),
            "temperature": own.temperature,
            "teacher": own.teacher_batchnorm,
            "crop": own.views.crop_scale,
            "padding": own.views.padding,
            "patches": own.views.patches,
            "mixing": (own.cutmix, own.mixup),
        }
        wanted = {key: values[number] for key, values in OWN[method].items()}
        assert {key: found[key] for key in wanted} == wanted, data
        rest = resolved(method, preset, protocol).config
        assert config.model_copy(update={"validate_": rest.validate_}) == rest


def test_own_students_lie_below_what_is_said_beside_the_method_and_in_a_run(tmp_path):
    own = "validate.settings=own"
    got = resolved("rded", "imagenet10", "cfm", own, "validate.epochs=7")
    assert (got.config.validate_.epochs, got.config.validate_.batch) == (7, 100)
    assert got.origins["validate.batch"] == "method rded, students"
    file = tmp_path / "config.yaml"
    file.write_text(settings.to_yaml(got.config))
    assert settings.resolve(file=file, base=None).config == got.config
    for method in ("cfm", "dm", "random"):  # without settings of students
        shared, asked = (resolved(method, "tiny50", "cfm", *each).config.validate_ for each in ([], [own]))
        assert asked == shared.model_copy(update={"settings": "own"})


@pytest.mark.parametrize("sets", [["ipc=50"], ["ipc=50", "data.name=cifar100"], ["protocol=paper"]])
def test_changes_lead_to_own_students_again(sets):
    config = resolved("rded", "cifar10-10", "cfm", "validate.settings=own", *sets).config
    changed = settings.format_sets(settings.changes("cifar10-10", config))
    assert settings.resolve(preset="cifar10-10", sets=changed).config == config
    assert not any(text.startswith("validate.batch") for text in changed)


def test_students_of_a_method_must_be_sections(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_PRESETS", str(tmp_path))
    (tmp_path / "methods").mkdir()
    for text in ("students: 3", "students: {by_ipc: 3}", "datasets: {digits: {students: [1]}}"):
        (tmp_path / "methods" / "mine.yaml").write_text(f"objective: {{terms: []}}\n{text}\n")
        with pytest.raises(UserError, match=r"students = .* must be a section"):
            settings.resolve(sets=["objective=mine"])


def test_what_is_said_beside_the_method_wins_and_every_value_says_where_it_came_from(tmp_path):
    sets = ["objective=sre2l", "recover.lr=0.3", "objective.first_tap=2"]
    got = settings.resolve(preset="tiny50", sets=sets)
    assert (got.config.recover.lr, got.config.objective.first_tap) == (0.3, 2)
    assert got.config.recover.iterations == 4000
    assert got.origins["recover.iterations"] == "method sre2l, tiny-imagenet"
    assert got.origins["objective.taps"] == got.origins["recover.emu"] == "method sre2l"
    file = tmp_path / "mine.yaml"
    file.write_text("extends: tiny50\nobjective: sre2l\nrecover: {iterations: 7}\ndata: {name: cifar10}\n")
    mine = settings.resolve(file=file).config
    assert (mine.recover.iterations, mine.recover.lr, mine.objective.terms[0].weight) == (7, 0.25, 0.01)


def test_settings_in_force_are_printed_with_their_origin(capsys):
    words = ("preset", "show", "--resolved", "imagenet10", "--set", "objective=rded")
    out, _ = call(capsys, *words)
    pairs = (line.split("#") for line in out.splitlines() if "#" in line)
    lines = {value.strip(): origin.strip() for value, origin in pairs}
    assert lines["algorithm: select"] == "method rded"
    assert lines["factor: 2"] == lines["patches: 2"] == "method rded, imagenet"


@pytest.mark.parametrize("preset", ["digits", "cifar10-10", "imagenet10"])
@pytest.mark.parametrize("method", BASELINES)
def test_what_was_changed_leads_to_the_same_settings_again(method, preset):
    config = settings.resolve(
        preset=preset, sets=[f"objective={method}", "data.name=tiny-imagenet", "recover.iterations=5"]
    ).config
    sets = settings.format_sets(settings.changes(preset, config))
    assert settings.resolve(preset=preset, sets=sets).config == config
    assert len(sets) < 12


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["objective=rded", "recover.init=noise"], ["recover", "noise", "random"]),
        (["objective=random", "recover.init=noise"], ["recover", "noise", "random"]),
        (["objective=rded", "recover.perturb.steps=3"], ["perturb.steps", "has no effect"]),
        (["objective=cda", "recover.views.crop_scale=null"], ["crop_curriculum", "crop_scale"]),
        (["objective=rded", "recover.select.factor=0"], ["recover.select.factor"]),
        (["objective=dwa", "recover.perturb.rho=-1"], ["recover.perturb.rho"]),
        (["objective=dwa", "backbone.also=[resnet18]"], ["perturb", "backbone.also"]),
        (["objective=sre2l", "backbone.also=[resnet18]"], ["backbone.also", "bn-conv"]),
        (["backbone.also=[resnet18]"], ["recover.emu", "backbone.also"]),
        (["objective=gvbsm", "recover.emu=true"], ["emu", "straight_through"]),
        (["objective=gvbsm", "objective.schedule.per=round"], ["group = class", "per = batch"]),
        (["objective=gvbsm", "backbone.also=[resnet18,resnet18]"], ["backbone", "twice"]),
        (["objective=gvbsm", "backbone.also_teachers=[a.pth]"], ["also_teachers has 1 teachers for the 2"]),
        (["objective=sre2l", "recover.drop=0.4"], ["recover.drop", "bn-conv"]),
        (["objective.taps=bn-conv"], ["bn-conv", "ridge"]),
        (["validate.mixup=0.8", "validate.cutmix=batch"], ["mixup = 0.8", "cutmix = batch", "exclude"]),
    ],
)
def test_what_cannot_mean_anything_is_refused_in_words(sets, words):
    with pytest.raises(UserError) as caught:
        settings.resolve(sets=sets)
    assert all(word in caught.value.message for word in words), caught.value.message


def test_classes_with_too_few_images_to_select_from_are_named(digits):
    def require(**select):
        recover = {"algorithm": "select", "select": select}
        recovery_batches.require_enough(small(ipc=5, recover=recover), digits.train)

    with pytest.raises(UserError, match=r"6×6 crops need 180 images of class '\d', which has \d+"):
        require(factor=6)
    assert np.bincount(digits.train.labels_N).min() > 45
    require(factor=3, pool=40)


def test_a_pool_is_as_large_as_the_tiles_are_many(digits):
    def drawn(pool):
        recover = {"algorithm": "select", "select": {"factor": 3, "pool": pool}}
        return len(set(rded.draw_crops(small(ipc=5, recover=recover), digits.train, 0)[0].tolist()))

    assert (drawn(40), drawn(45), drawn(50)) == (45, 45, 50)
