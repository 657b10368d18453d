import os
import pwd
import re
from pathlib import Path

import pytest
from commandline import REPOSITORY, SCHEMAS, call, call_json

from cfm_tui.console.preferences import Preferences
from engine import environment
from engine.config import presets, settings
from engine.data import sources
from engine.errors import UserError
from engine.store import cache, folders


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """An empty working folder of a user without a home and without variables."""

    def fail(*_):
        raise KeyError("no such user")

    for name in [name for name in os.environ if name.startswith(("CFM_", "XDG_", "HOME", "USER", "LOGNAME"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", fail)
    monkeypatch.setattr(pwd, "getpwnam", fail)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_home_everything_is_below_the_working_folder(homeless, capsys):
    here = homeless / ".cfm-tui"
    assert cache.default_folder() == here / "cache"
    assert sources.data_root() == here / "data"
    assert presets.user_folder("methods") == here / "config" / "presets" / "methods"
    assert Preferences.path() == here / "config" / "console.yaml"
    assert call_json(capsys, "preset-list", "preset", "list")["presets"]
    document = call_json(capsys, "doctor", "doctor")
    assert document["folders"]["cache"]["path"] == str(here / "cache")
    call(capsys, "run", "--preset", "smoke", "--quiet")
    assert call_json(capsys, "runs", "runs")["runs"][0]["state"] == "finished"
    assert sorted(os.listdir(homeless)) == [".cfm-tui", "runs"]


def test_without_a_home_variables_name_the_folders(homeless, monkeypatch):
    for name in ("RUNS", "CACHE", "DATA_ROOT", "PRESETS"):
        monkeypatch.setenv(f"CFM_{name}", str(homeless / name))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(homeless / "xdg"))
    assert cache.default_folder() == homeless / "CACHE"
    assert folders.runs_folder() == homeless / "RUNS"
    assert sources.data_root() == homeless / "DATA_ROOT"
    assert presets.user_folder() == homeless / "PRESETS"
    assert Preferences.path() == homeless / "xdg" / "cfm-tui" / "console.yaml"


@pytest.mark.parametrize("name", ["CFM_RUNS", "CFM_CACHE", "CFM_PRESETS"])
def test_the_home_of_an_unknown_user_is_an_error_that_the_user_can_fix(capsys, monkeypatch, name):
    monkeypatch.setenv(name, "~nobody-of-that-name/x")
    error = call_json(capsys, "error", "run", "--preset", "smoke", code=2)["error"]
    assert "~nobody-of-that-name/x names the home folder of an unknown user" in error["message"]


def test_only_one_module_asks_for_the_home():
    asking = re.compile(r"platformdirs|Path\.home|\.expanduser\(")
    found = {
        str(path.relative_to(REPOSITORY))
        for package in ("engine", "cfm_tui")
        for path in (REPOSITORY / package).rglob("*.py")
        if asking.search(path.read_text())
    }
    # os.path.expanduser, of the latter two, does not raise
    assert found == {"engine/environment.py", "engine/config/teacher_source.py", "engine/data/sources.py"}


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("CFM_RUN", "CFM_RUNS"),
        ("CFM_CACHES", "CFM_CACHE"),
        ("CFM_DATAROOT", "CFM_DATA_ROOT"),
        ("CFM_PRESET", "CFM_PRESETS"),
        ("CFM_TEACHERS", "CFM_TEACHER"),
        ("CFM_PROTOCL", "CFM_PROTOCOL"),
        ("CFM_RECOVER_LR", "CFM_RECOVER__LR"),
        ("CFM_OBJECTIV__BETA", "objective"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest(monkeypatch, capsys, name, known):
    monkeypatch.setenv(name, "x")
    for words in (["run"], ["runs"]) if "__" not in name else (["run"],):
        error = call_json(capsys, "error", *words, code=2)["error"]
        assert (name if "__" not in name else "objectiv") in error["message"]
        assert known in error["hint"]
    document = call_json(capsys, "doctor", "doctor", code=1)
    assert any(known in problem["hint"] for problem in document["problems"])
    call(capsys, "runs", "--help")


def test_a_variable_like_no_other_is_refused_with_all_names():
    with pytest.raises(UserError, match="unknown variable CFM_QQQQ") as caught:
        settings.require_known_variables({"CFM_QQQQ": "1"})
    assert "CFM_RUNS" in caught.value.hint


def test_every_variable_is_documented_and_every_mentioned_one_is_known():
    documented = (SCHEMAS.parent / "formats.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in documented for name in environment.VARIABLES)
    mentioned = set()
    for package in ("engine", "cfm_tui"):
        for path in (REPOSITORY / package).rglob("*.py"):
            mentioned |= set(re.findall(r"\bCFM_[A-Z_]+[A-Z]\b", path.read_text()))
    example = {"CFM_OBJECTIVE__BETA", "CFM_SECTION__KEY"}
    assert mentioned - example <= set(environment.VARIABLES)
    assert environment.expand_home("~") == Path(os.path.expanduser("~"))
