"""The form of a new experiment without a screen: what is typed means what `cfm run` makes of it."""

import shlex

import numpy as np
import pytest

from cfm_tui.console import experiment_text
from cfm_tui.console.fields import BY_KEY, FIELDS, PANELS
from cfm_tui.console.form import ELSEWHERE, Form, line_name
from cfm_tui.console.preflight import Findings
from cfm_tui.console.widgets.field import LABEL
from cfm_tui.display import plot_data
from cfm_tui.display.progress import format_bytes
from engine.config import Config, settings
from engine.spectral import recovery_batches
from engine.spectral.schedules import betas_of_batches


@pytest.fixture(autouse=True)
def user_presets(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_PRESETS", str(tmp_path / "presets"))


def form(preset="digits", environ=(), **texts):
    made = Form(preset, dict(environ))
    for key, text in texts.items():
        made.write(key.replace("__", "."), text)
    made.check()
    return made


def told(command):
    """What `cfm run` would make of a command line."""
    cfm, run, flag, preset, *rest = shlex.split(command)
    assert (cfm, run, flag) == ("cfm", "run", "--preset")
    assert set(rest[::2]) <= {"--set"}
    return settings.resolve(preset=preset, sets=rest[1::2])


def test_fields_are_settings():
    assert len(BY_KEY) == len(FIELDS)
    for field in FIELDS:
        assert field.key in Config.leaf_keys()
        assert field.panel in PANELS
        assert len(field.label) <= LABEL
        assert field.help


@pytest.mark.parametrize("preset", settings.preset_names())
def test_what_a_field_shows_can_be_typed(preset):
    made = Form(preset, {})
    for field in FIELDS:
        made.write(field.key, made.shown(field))
    assert not made.texts
    for field in FIELDS:
        made.texts[field.key] = made.shown(field) or "null"
    made.texts = {key: text for key, text in made.texts.items() if text != "null" or "students" not in key}
    assert made.check().resolved.config == settings.resolve(preset=preset).config
    assert made.command() == f"cfm run --preset {preset}"
    assert made.differences() == []


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("recover.lr", "-1", "must be greater than 0"),
        ("recover.lr", "[", "recover.lr line 1"),
        ("ipc", "ten", "must be a whole number"),
        ("ipc", "0", "at least 1"),
        ("objective.beta", "0", "makes the ridge filter singular"),
        ("objective.taps", "batchnorm", "has only means and variances"),
        ("objective.method", "cmf", "unknown method"),
        ("validate.students", "convnet, alexnet", "must be one of"),
        ("device", "gpu", "is not a device"),
        ("data.root", "~somebody/x", "your own"),
        ("backbone.depth", "9", "at most 8"),
        ("seed", "-1", "at least 0"),
    ],
)
def test_a_problem_stands_by_its_field_in_the_engines_words(key, text, said):
    made = form(**{key: text})
    assert made.checked.resolved is None
    assert list(made.checked.problems) == [key]
    assert said in made.checked.problems[key]
    made.write(key, "")
    assert made.check().resolved is not None


def test_several_problems_stand_by_their_fields():
    made = form(ipc="0", recover__lr="-1")
    assert set(made.checked.problems) == {"ipc", "recover.lr"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ipc", "is not key=value"),
        ("recover.speed=1", "unknown key"),
        ("relabel.stored_epochs=500", "more than validate.epochs"),
        ("recover.clamp=maybe", "must be true or false"),
        ("recover.lr=0", "greater than 0"),
    ],
)
def test_a_problem_of_a_free_line_stands_by_that_line(line, said):
    made = form()
    made.write(line_name(0), "statistics.batch=64")
    made.write(line_name(2), line)
    assert list(made.check().problems) == [line_name(2)]
    assert said in made.checked.problems[line_name(2)]


def test_a_problem_of_no_field_stands_elsewhere():
    made = form(environ={"CFM_RECOVER__SPEED": "1"})
    assert "recover.speed" in made.checked.problems[ELSEWHERE]
    assert made.config == Config()


def test_the_command_line_means_the_same():
    made = form(
        "cifar10-10",
        protocol="paper",
        objective__method="sre2l",
        ipc="3",
        validate__students="convnet, resnet18",
        data__root="/data/my pictures: all of 'them'",
        backbone__teacher="null",
    )
    made.write(line_name(0), "recover.views={flip: false}")
    made.write(line_name(1), "recover.clamp=false")
    resolved = made.check().resolved
    got = told(made.command())
    assert got == resolved
    assert got.config.data.root == "/data/my pictures: all of 'them'"
    assert got.config.validate_.students == ("convnet", "resnet18")
    assert not got.config.recover.clamp
    assert got.origins["ipc"] == "flag"
    assert {line.split(":")[0] for line in made.differences()} == set(made.checked.changes)


def test_the_environment_counts_as_it_does_for_cfm_run():
    made = form(environ={"CFM_IPC": "7", "CFM_DATA_ROOT": "/x", "HOME": "/home"})
    assert made.config.ipc == 7
    assert made.origins["ipc"] == "environment CFM_IPC"
    assert made.config.data.root == "/x"
    assert made.command() == "cfm run --preset digits"
    made.write("ipc", "8")
    assert made.check().resolved.config.ipc == 8
    assert made.command() == "cfm run --preset digits --set ipc=8"


def test_what_was_not_typed_follows_protocol_and_method():
    made = form(ipc="4")
    made.write("protocol", "reference")
    made.check()
    assert made.config == settings.resolve(sets=["protocol=reference", "ipc=4"]).config
    made.write("protocol", "")
    assert made.check().changes == {"ipc": 4}


def test_a_value_typed_back_is_no_change():
    made = form(ipc="4")
    assert made.check().changes == {"ipc": 4}
    made.write("ipc", "1")
    assert not made.texts


def test_another_preset_drops_or_keeps_what_was_typed():
    made = form(ipc="4")
    made.start("cifar10-10", keep=True)
    assert made.config.ipc == 4
    made.start("cifar10-50")
    assert made.config == settings.resolve(preset="cifar10-50").config


def test_saved_as_a_preset_it_reads_back():
    made = form("cifar10-50", environ={"CFM_SEED": "5"}, protocol="paper", ipc="3", objective__method="lfm")
    meant = made.config
    made.save("mine")
    assert (made.preset, made.differences(), made.config) == ("mine", [], meant)
    assert settings.resolve(preset="mine").config == meant
    made.write("ipc", "9")
    made.check()
    made.save("mine", replace=True)
    assert settings.resolve(preset="mine").config.ipc == 9


def test_widths_matter_where_there_is_a_convnet():
    made = form("cifar10-10")
    depth = BY_KEY["backbone.depth"]
    assert not made.applies(depth)
    made.write("validate.students", "convnet")
    made.check()
    assert made.applies(depth)


# --- what is told --------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["round", "batch"])
@pytest.mark.parametrize("ipc", ["1", "10", "1000000000"])
def test_the_curve_of_beta_is_short_and_falls(per, ipc):
    made = form("cifar100-10", ipc=ipc, objective__schedule__per=per)
    _, x, y = experiment_text.betas(made.config, 100)
    assert 1 <= len(x) == len(y) <= experiment_text.POINTS
    assert y[0] == made.config.objective.beta
    assert np.all(np.diff(y) <= 0)
    assert np.all(np.diff(x) > 0)


@pytest.mark.parametrize("method", settings.method_names())
def test_every_method_has_responses(method):
    made = form(objective__method=method, ipc="10")
    assert made.checked.resolved is not None
    filters = {term.label for term in made.config.objective.terms}
    usual, _ = experiment_text.responses(made.config, 10)
    over, label = experiment_text.responses(made.config, 10, np.array([3.0, 1.0, 0.0, -1e-9]))
    assert len({line.name for line in usual}) == len(usual) >= len(filters)
    assert over[0].name == "Ψ"
    assert (len(over) > 1) == bool(filters & {"ridge", "power", "series"})
    assert label == plot_data.RANKS
    for line in usual + over:
        assert len(line.x) == len(line.low)


def test_responses_are_at_the_betas_of_the_classes_that_there_are():
    made = form("cifar100-10", ipc="1", objective__schedule__per="batch", recover__classes_per_batch="10")
    schedule, beta = made.config.objective.schedule, made.config.objective.beta
    last = betas_of_batches(schedule, beta, 1, 10)[-1]
    names = [line.name for line in experiment_text.responses(made.config, 100)[0]]
    assert f"ridge β {last:.3g}" in names
    assert [line.name for line in experiment_text.responses(made.config, 100, np.ones(4))[0]] == [
        "Ψ",
        f"f(Ψ) β {beta:.3g}",
        f"f(Ψ) β {last:.3g}",
    ]


@pytest.mark.parametrize("classes", [1, 9, 10, 11, 100])
def test_the_curve_of_beta_has_the_batches_of_recovery(classes):
    made = form("cifar100-10", ipc="2", recover__classes_per_batch="10")
    _, x, _ = experiment_text.betas(made.config, classes)
    assert len(x) == len(recovery_batches.plan_batches(made.config, classes))


def test_given_images_have_neither_beta_nor_responses():
    config = Config.model_validate({"given": {"images": "set"}})
    name, x, y = experiment_text.betas(config, 10)
    assert (name, len(x), len(y)) == ("no β: nothing is optimised", 0, 0)
    assert experiment_text.responses(config, 10)[0] == []
    assert [line.name for line in experiment_text.responses(config, 10, np.ones(4))[0]] == ["Ψ"]


def test_sides_of_what_is_not_known():
    found = Findings(Config())
    for text in (
        experiment_text.data(found),
        experiment_text.backbone(found),
        experiment_text.estimate(found),
    ):
        assert text


def test_sizes_are_read_by_people():
    assert [format_bytes(n) for n in (0, 999, 1000, 170_052_171, 5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "170 MB",
        "5.0 TB",
    ]
