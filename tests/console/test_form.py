"""The form of a new experiment without a screen: what is typed means what `cfm run` makes of it."""

import shlex

import pytest
from forms import form

from cfm_tui.console.form import FIELDS, GLOSSES, LAUNCH, PANELS, Form, list_presets, load_draft, save_draft
from cfm_tui.console.widgets.field import Entry
from engine.config import Config, settings
from engine.store.json_file import write_json


@pytest.fixture(autouse=True)
def user_presets(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_PRESETS", str(tmp_path / "presets"))


def told(command):
    """What `cfm run` would make of a command line."""
    cfm, run, flag, preset, *rest = shlex.split(command)
    assert (cfm, run, flag) == ("cfm", "run", "--preset")
    assert set(rest[::2]) <= {"--set"}
    return settings.resolve(preset=preset, sets=rest[1::2])


def test_fields_are_settings():
    for field in FIELDS.values():
        assert field.key in Config.leaf_keys()
        assert field.panel in PANELS
        assert len(field.label) <= Entry.LABEL_WIDTH
        assert field.help


def test_explained_choices_exist():
    for key, glosses in GLOSSES.items():
        assert set(glosses) == set(FIELDS[key].choices)


@pytest.mark.parametrize("preset", settings.preset_names())
def test_what_a_field_shows_can_be_typed(preset):
    made = Form(preset, {})
    for field in FIELDS.values():
        made.write(field.key, made.shown(field))
    assert not made.texts
    for field in FIELDS.values():
        made.texts[field.key] = made.shown(field) or "null"
    made.texts = {key: text for key, text in made.texts.items() if text != "null" or "students" not in key}
    assert made.check().resolved.config == settings.resolve(preset=preset).config
    assert made.format_command() == f"cfm run --preset {preset}"
    assert made.list_differences() == []


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


def test_problems_are_listed_with_their_places():
    made = form(objective__beta="-1")
    made.write("line 0", "recover.lr=0")
    made.check()
    beta, line = made.list_problems()
    assert beta.startswith("3 Objective, β:\n! objective.beta = -1")
    assert line.startswith("5 Launch, recover.lr=0:\n! recover.lr = 0")
    assert made.summarise(LAUNCH) == "fix β, recover.lr=0"


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
    made.write(Form.line_name(0), "statistics.batch=64")
    made.write(Form.line_name(2), line)
    assert list(made.check().problems) == [Form.line_name(2)]
    assert said in made.checked.problems[Form.line_name(2)]


def test_a_problem_of_no_field_stands_elsewhere():
    made = form(environ={"CFM_RECOVER__SPEED": "1"})
    assert "recover.speed" in made.checked.problems[Form.ELSEWHERE]
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
    made.write(Form.line_name(0), "recover.views={flip: false}")
    made.write(Form.line_name(1), "recover.clamp=false")
    resolved = made.check().resolved
    got = told(made.format_command())
    assert got == resolved
    assert got.config.data.root == "/data/my pictures: all of 'them'"
    assert got.config.validate_.students == ("convnet", "resnet18")
    assert not got.config.recover.clamp
    assert got.origins["ipc"] == "flag"
    assert {line.split(":")[0] for line in made.list_differences()} == set(made.checked.changes)


def test_the_environment_counts_as_it_does_for_cfm_run():
    made = form(environ={"CFM_IPC": "7", "CFM_DATA_ROOT": "/x", "HOME": "/home"})
    assert made.config.ipc == 7
    assert made.origins["ipc"] == "environment CFM_IPC"
    assert made.config.data.root == "/x"
    assert made.format_command() == "cfm run --preset digits"
    made.write("ipc", "8")
    assert made.check().resolved.config.ipc == 8
    assert made.format_command() == "cfm run --preset digits --set ipc=8"


@pytest.mark.parametrize("preset", settings.preset_names())
def test_origins_name_presets_that_can_be_chosen(preset):
    origins = [origin for origin in Form(preset, {}).origins.values() if origin.startswith("preset ")]
    named = {origin.removeprefix("preset ").split(",")[0] for origin in origins}
    assert named <= set(settings.preset_names())


def test_the_origin_of_a_shared_base_is_the_chosen_preset():
    origins = settings.resolve(preset="cifar10-10").origins
    key = next(key for key, origin in origins.items() if origin == "preset _cifar10")
    assert Form("cifar10-10", {}).origins[key] == "preset cifar10-10"


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


def test_whole_numbers_may_have_thousands_separators():
    made = form("cifar10-10", recover__iterations="4,500", validate__epochs=" 12,000 ", seed="1,000,000")
    config = made.checked.resolved.config
    assert (config.recover.iterations, config.validate_.epochs, config.seed) == (4500, 12000, 1_000_000)
    assert "recover.iterations=4500" in made.format_command()
    default = made.checked.before["recover.iterations"]
    made.write("recover.iterations", f"{default:,}")
    assert "recover.iterations" not in made.texts


@pytest.mark.parametrize("text", ["30,00", "3,0000", "0,100", ",100", "1,00,000"])
def test_misplaced_separators_are_a_problem(text):
    assert "recover.iterations" in form(recover__iterations=text).checked.problems


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
    assert (made.preset, made.list_differences(), made.config) == ("mine", [], meant)
    assert settings.resolve(preset="mine").config == meant
    made.write("ipc", "9")
    made.check()
    made.save("mine", replace=True)
    assert settings.resolve(preset="mine").config.ipc == 9


def test_widths_matter_where_there_is_a_convnet():
    made = form("cifar10-10")
    depth = FIELDS["backbone.depth"]
    assert not made.applies(depth)
    made.write("validate.students", "convnet")
    made.check()
    assert made.applies(depth)


def test_presets_are_ordered_by_what_they_were_tuned_for(tmp_path):
    settings.save_preset("mine", "extends: cifar10-10\nipc: 20\n")
    (tmp_path / "presets" / "broken.yaml").write_text("ipc: many\n")
    presets = list_presets()
    names = [each.name for each in presets]
    assert names[:2] == ["digits", "smoke"]
    assert names.index("cifar10-10") < names.index("mine") < names.index("cifar10-50")
    assert (presets[-1].name, presets[-1].dataset) == ("broken", "")
    assert "must be a whole number" in presets[-1].problem


@pytest.mark.parametrize(
    ("preset", "texts", "found"),
    [
        ("digits", {"data__name": "cifar10"}, "cifar10-10-convnet"),
        ("digits", {"data__name": "cifar10", "ipc": "40"}, "cifar10-50-convnet"),
        ("tiny50", {"data__name": "cifar100"}, "cifar100-50"),
        ("cifar10-10", {"data__name": "folder"}, None),
        ("cifar10-10", {"data__name": "cifar10"}, None),
        ("cifar10-10", {"ipc": "50"}, None),
    ],
)
def test_the_nearest_preset_of_another_data_set(preset, texts, found):
    made = form(preset, **texts)
    assert made.find_matching_preset() == found
    assert bool(made.foreign_dataset) == (
        texts.get("data__name") not in (None, "cifar10") or preset == "digits"
    )
    made.accept_foreign_dataset()
    assert made.find_matching_preset() is None


def test_another_preset_keeps_what_is_about_this_machine():
    kept = {"data.root": "/data", "backbone.teacher": "t.pth", "device": "cpu"}
    made = form(**{key.replace(".", "__"): text for key, text in kept.items()}, data__name="cifar10", ipc="4")
    made.lines = ["recover.clamp=false"]
    made.adopt("cifar10-10")
    assert (made.texts, made.lines) == (kept, [])


def test_every_panel_is_summarised():
    made = form("cifar10-10-convnet", backbone__teacher="t.pth", repeats="3")
    assert [made.summarise(panel) for panel in PANELS] == [
        "cifar10, test split",
        "convnet-128, teacher given",
        "cfm, β 0.1 cosine",
        "10/class, 1,000 it, 3 × 1,000 epochs, 3 repeats",
        "2 changes",
    ]
    assert form("cifar10-10").summarise(5) == "as the preset"
    assert "β" not in form(objective__method="dm").summarise(3)


def test_a_draft_has_all_that_was_entered(settings_folder):
    made = form("digits", data__name="cifar10", ipc="ten")
    made.write(Form.line_name(0), "recover.clamp=false")
    made.accept_foreign_dataset()
    made.name = "mine"
    save_draft(made)
    loaded = load_draft({})
    assert loaded.draft() == made.draft()
    assert loaded.name == "mine"
    assert not loaded.foreign_dataset
    assert "ipc" in loaded.checked.problems


@pytest.mark.parametrize(
    "draft", [None, {"texts": {}}, {"preset": "gone", "name": "", "texts": {}, "lines": [], "accepted": []}]
)
def test_a_draft_of_no_use_is_ignored(settings_folder, draft):
    assert load_draft({}) is None
    settings_folder.mkdir()
    path = settings_folder / "draft.json"
    if draft is None:
        path.write_text("{")
    else:
        write_json(path, draft)
    assert load_draft({}) is None


def test_a_run_is_called_after_the_preset_chosen_last():
    made = form("digits")
    assert made.name == "digits"
    made.name = "mine"  # a file's
    made.write("ipc", "3")
    made.check()
    assert made.name == "mine"
    made.start("smoke")
    assert made.name == "smoke"
