"""User presets, and the settings in which a configuration differs from a preset."""

from __future__ import annotations

import json
import shlex

import pytest
from commandline import check
from typer.testing import CliRunner

from cfm_tui.cli.preset import app
from engine.config import presets, settings
from engine.config.settings import resolve
from engine.errors import UserError

EDITS = [
    {"recover.lr": 0.3, "data.root": "/x y/it's #1", "recover.views.crop_scale": None, "seed": 7},
    {"protocol": "paper", "ipc": 1, "validate.students": ["convnet", "resnet18"]},
    {"objective.method": "hfm", "objective.beta": 1e-3, "data.root": "2024"},
    {"protocol": "reference", "objective.method": "sre2l", "objective.first_tap": 2.0},
    {"objective.terms": [{"filter": "ridge", "signal": "class", "weight": 0.5}], "backbone.teacher": None},
    {"objective.method": "mtt", "objective.parameters": {"alpha": 0.01, "P": 7}},
    {"objective.terms": [{"f": "1/(lambda+a)", "signal": "class"}], "objective.parameters": {"a": 0.5}},
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_PRESETS", str(tmp_path / "presets"))
    return tmp_path / "presets"


def write(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def refused(kind, call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert caught.value.kind == kind
    assert caught.value.hint
    return caught.value


# --- user presets ----------------------------------------------------------------------------------


def test_a_user_preset_is_found_by_name_and_labelled(folder):
    write(folder, "mine", "extends: _shared\nseed: 5\nprotocols: {paper: {seed: 6}}\n")
    write(folder, "_shared", "description: shared by mine\nextends: cifar10-10\nipc: 3\n")
    got = resolve(preset="mine")
    assert (got.config.data.name, got.config.ipc, got.config.seed) == ("cifar10", 3, 5)
    assert (got.origins["ipc"], got.origins["seed"]) == ("user preset _shared", "user preset mine")
    paper = resolve(preset="mine", sets=["protocol=paper"])
    assert (paper.config.seed, paper.origins["seed"]) == (6, "user preset mine, protocol paper")
    assert [preset.name for preset in presets.user_presets()] == ["mine"]
    assert "mine" in refused("config", resolve, preset="mien").hint


def test_a_file_that_extends_a_user_preset_excludes_another_preset(folder, tmp_path):
    write(folder, "mine", "seed: 5\n")
    file = tmp_path / "run.yaml"
    file.write_text("extends: mine\nipc: 2\n")
    config = resolve(file=file).config
    assert (config.seed, config.ipc) == (5, 2)
    assert "extends a preset" in refused("config", resolve, file=file, preset="digits").message


def test_the_name_of_a_shipped_preset_is_refused(folder):
    write(folder, "digits", "ipc: 3\n")
    message = refused("config", resolve, preset="digits").message
    assert str(folder / "digits.yaml") in message
    assert resolve(preset="tiny50").config.ipc == 50
    assert presets.user_presets()[0].problem == message
    assert "ships" in refused("usage", settings.save_preset, "tiny50", "ipc: 3\n").message


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"CFM_PRESETS": "/p", "XDG_CONFIG_HOME": "/x"}, "/p"),
        ({"XDG_CONFIG_HOME": "/x"}, "/x/cfm-tui/presets"),
        ({"XDG_CONFIG_HOME": ""}, "/home/me/.config/cfm-tui/presets"),
    ],
)
def test_the_folder_of_user_presets(environ, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("CFM_PRESETS", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert str(presets.user_folder()) == expected
    assert resolve(environ=environ) == resolve()


def test_saving_replaces_only_on_request(folder):
    path = settings.save_preset("mine", "ipc: 3\n")
    assert path == folder / "mine.yaml"
    assert "already" in refused("usage", settings.save_preset, "mine", "ipc: 4\n").message
    assert resolve(preset="mine").config.ipc == 3
    settings.save_preset("mine", "ipc: 4\n", replace=True)
    assert resolve(preset="mine").config.ipc == 4
    assert [entry.name for entry in folder.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("name", ["", "_base", "a/b", "../a", "a.yaml", ".hidden", "a\nb", "x" * 200])
def test_invalid_names_are_refused(name, folder):
    refused("usage", settings.save_preset, name, "ipc: 3\n")
    assert not folder.exists()


@pytest.mark.parametrize(
    "text", ["- ipc", "ipc: [", "extends: mine\n", "extends: nothing\n", "protocols: 3\n"]
)
def test_an_invalid_preset_is_not_saved(text, folder):
    refused("config", settings.save_preset, "mine", text)
    assert not folder.exists()


def test_the_commands_list_them_and_mark_invalid_ones(folder):
    def cfm_preset(*words, code=0):
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == code, result.output
        return result.stdout

    write(folder, "mine", "description: Nearer to home\nextends: smoke\n")
    write(folder, "torn", "ipc: [\n")
    text = cfm_preset("list")
    assert "Nearer to home" in text
    assert "cannot be used" in text
    document = json.loads(cfm_preset("list", "--json"))
    check(document, "preset-list")
    assert {each["name"]: "problem" in each for each in document["own"]} == {"mine": False, "torn": True}
    assert cfm_preset("show", "mine") == (folder / "mine.yaml").read_text()
    assert "# preset smoke" in cfm_preset("show", "mine", "--resolved")
    lines = cfm_preset("validate", code=2).splitlines()
    assert "mine: valid" in lines
    assert any(line.startswith("torn: ") and "line" in line for line in lines)


# --- what differs ----------------------------------------------------------------------------------


def edited(preset, edit):
    return resolve(preset=preset, sets=settings.format_sets(edit)).config


@pytest.mark.parametrize("preset", settings.preset_names())
def test_changes_lead_from_the_preset_to_the_configuration(preset, tmp_path):
    for edit in EDITS:
        wanted = edited(preset, edit)
        changed = settings.changes(preset, wanted)
        assert set(changed) <= set(edit)
        sets = settings.format_sets(changed)
        assert resolve(preset=preset, sets=sets).config == wanted
        words = shlex.split(settings.format_command(preset, sets))
        assert words[:4] == ["cfm", "run", "--preset", preset]
        assert resolve(preset=words[3], sets=words[5::2]).config == wanted
        assert set(words[4::2]) <= {"--set"}


def test_a_preset_has_no_changes_from_itself():
    for preset in settings.preset_names():
        assert settings.changes(preset, resolve(preset=preset).config) == {}


def test_settings_from_the_environment_are_not_changes_in_that_environment():
    environ = {"CFM_DATA_ROOT": "/sets", "CFM_IPC": "3"}
    config = resolve(preset="smoke", environ=environ, sets=["seed=2"]).config
    assert settings.changes("smoke", config, environ) == {"seed": 2}
    assert settings.changes("smoke", config) == {"seed": 2, "ipc": 3, "data.root": "/sets"}


def test_a_method_that_conflicts_with_the_preset_is_written_in_full(folder):
    text = "protocols: {paper: {objective: {method: sre2l, taps: batchnorm}}}\nprotocol: paper\n"
    write(folder, "mine", text + "validate: {epochs: 20}\nrelabel: {stored_epochs: 20}\n")
    for edit in ({"objective.method": "hfm", "objective.taps": "conv-input"}, {"protocol": "cfm", "ipc": 3}):
        wanted = edited("mine", edit)
        sets = settings.format_sets(settings.changes("mine", wanted))
        assert resolve(preset="mine", sets=sets).config == wanted


@pytest.mark.parametrize("edit", EDITS)
def test_a_configuration_saved_as_a_preset_resolves_to_itself(edit):
    wanted = edited("cifar10-10", edit)
    settings.save_preset("mine", settings.format_preset("mine", "cifar10-10", wanted, "Mine: all # of it"))
    assert resolve(preset="mine").config == wanted
    assert settings.describe("mine") == "Mine: all # of it"
    again = resolve(preset="mine", sets=["seed=9", "statistics.batch=64"]).config
    settings.save_preset("mine", settings.format_preset("mine", "mine", again), replace=True)
    assert resolve(preset="mine").config == again
    assert presets.load_document("mine").extends == "cifar10-10"
