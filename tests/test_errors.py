"""Texts that messages share: similar names, and lists that are cut."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from commandline import REPOSITORY, call
from recorded import opened

from engine import errors
from engine.errors import escape_name, format_names, nearest_name, quote_command, suggest_name


def test_the_nearest_name_is_found_whatever_its_case() -> None:
    assert nearest_name("ConvNet", ["resnet18", "convnet"]) == "convnet"
    assert nearest_name("cfn", ["DM", "CFM"]) == "CFM"
    assert nearest_name("vgg", ["resnet18", "convnet"]) is None
    assert suggest_name("digit", ["digits"], "use one of digits") == "did you mean digits?"
    assert suggest_name("?", ["digits"], "use one of digits") == "use one of digits"


def test_long_lists_are_cut() -> None:
    assert format_names(["a", "b"]) == "a, b"
    assert format_names(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert format_names(["a", "b", "c"], 2, "; ") == "a; b; and 1 more"


@pytest.mark.parametrize("name", ["a b;c", "-y", "--out", "it's", "$(x)`y`", "é", "*"])
def test_a_suggested_command_can_be_pasted(name) -> None:
    for argument in (name, Path(name), Path("runs") / name):
        command = quote_command("resume", argument)
        assert command.startswith("`cfm resume ")
        words = shlex.split(command[1:-1])
        assert Path(words[-1]) == Path(argument)
        assert not words[-1].startswith("-") or words[-2] == "--"
    words = shlex.split(quote_command("data get", "cifar10", root=Path(name))[1:-1])
    assert words[1:4] == ["data", "get", "--root"]
    assert Path(words[4]) == Path(name)
    assert words[5:] == ["cifar10"]


@pytest.mark.parametrize("name", ["a b;c", "-y"])
def test_the_suggestion_of_a_command_is_understood_by_it(capsys, monkeypatch, tmp_path, name) -> None:
    monkeypatch.setenv("CFM_RUNS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    opened(Path(name)).close("stopped")
    (command,) = re.findall("`(.*)`", call(capsys, "pause", "--", name, code=2)[1])
    assert shlex.split(command)[:2] == ["cfm", "resume"]
    call(capsys, "show", *shlex.split(command)[2:])


def test_every_name_in_a_suggested_command_is_quoted() -> None:
    by_hand = re.compile(r"""[`"]cfm [^`"\n]*\{""")
    for package in ("engine", "cfm_tui"):
        for path in (REPOSITORY / package).rglob("*.py"):
            if path != Path(errors.__file__):
                assert not by_hand.search(path.read_text()), f"{path} has a command without quote_command"


def test_names_are_shown_as_they_are_but_cannot_act_on_a_terminal() -> None:
    assert escape_name("cfm[ipc=10] café\u3000猫") == "cfm[ipc=10] café\u3000猫"
    assert escape_name("a\x1b[2J\nb\u202ec") == "a\\x1b[2J\\nb\\u202ec"
    assert escape_name("caf\udce9") == "caf\\xe9"
    assert format_names(["a\nb", "c"]) == "a\\nb, c"
