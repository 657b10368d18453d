"""Opening the console: on the settings of its options, and where there is no terminal."""

import os
import re
import shlex
import sys
from types import SimpleNamespace

import pytest

from cfm_tui import cli
from cfm_tui.cli.console import console as open_console
from engine.errors import UserError


def call_program(monkeypatch, program, words):
    """Run `cfm` or `cfm-tui` with these words; return its exit code."""
    monkeypatch.setattr("sys.argv", [program, *words])
    with pytest.raises(SystemExit) as left:
        (cli.console if program == "cfm-tui" else cli.main)()
    return left.value.code


def record_calls(monkeypatch, name):
    """Replace a function of a command's module; return the list of first arguments of its calls."""
    module, function = name.split(".")
    calls = []
    monkeypatch.setattr(
        sys.modules[f"cfm_tui.cli.{module}"], function, lambda first, *_, **__: calls.append(first)
    )
    return calls


def test_the_console_says_what_to_use(capsys, monkeypatch):
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert call_program(monkeypatch, "cfm-tui", []) == 2
    assert "cfm run" in capsys.readouterr().err


def test_that_stderr_is_no_terminal_is_said(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(UserError, match="stderr, which is not a terminal") as told:
        open_console()
    assert "redirect" in told.value.hint


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """A working folder with two files of settings."""
    (tmp_path / "mine.yaml").write_text("extends: cifar10-10-convnet\nrecover: {lr: 0.125}\n")
    (tmp_path / "far.yaml").write_text("extends: mine.yaml\nvalidate: {students: [resnet18, convnet]}\n")
    (tmp_path / "own.yaml").write_text("data: {name: cifar100}\nobjective: dm\nipc: 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CFM_PRESETS", "presets")
    for name in ("CFM_DATA_ROOT", "CFM_TEACHER", "CFM_REPEATS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("words", "preset"),
    [
        ("--set ipc=3 --set recover.clamp=false", "digits"),
        ("--preset tiny50 --teacher t.pth --data-root '/my data' --device cpu --repeats 2", "tiny50"),
        ("--config mine.yaml --set objective.beta=0.5", "cifar10-10-convnet"),
        ("--config far.yaml", "cifar10-10-convnet"),
        ("--config own.yaml --set backbone.teacher=null", "digits"),
        ("--preset digits --config own.yaml", "digits"),
        ("--preset cifar10-10 --set objective=frepo --set protocol=paper", "cifar10-10"),
        ("--set data.name=cifar10 --set validate.students=[]", "digits"),
    ],
)
@pytest.mark.parametrize("variable", [{}, {"CFM_IPC": "7", "CFM_TEACHER": "env.pth"}])
def test_options_mean_what_they_mean_to_run(monkeypatch, recipes, words, preset, variable):
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    opened, begun = [], []
    monkeypatch.setattr(
        sys.modules["cfm_tui.cli.console"], "_open", lambda opening, *_, **__: opened.append(opening)
    )
    monkeypatch.setattr(
        sys.modules["cfm_tui.cli.run"],
        "begin",
        lambda resolved, _, name, **__: begun.append((resolved, name)),
    )
    assert call_program(monkeypatch, "cfm-tui", shlex.split(words)) == 0
    assert call_program(monkeypatch, "cfm", ["run", *shlex.split(words)]) == 0
    form = opened[0].form
    assert form.preset == preset
    assert (form.checked.resolved.config, form.name) == (begun[0][0].config, begun[0][1])
    file = re.search(r"(\w+)\.yaml", words)
    assert form.name == (file[1] if file else preset)
    assert bool(form.foreign_dataset) == ("data.name=cifar10" in words)


def test_without_options_the_list_of_runs_is_opened(monkeypatch, recipes):
    opened = []
    monkeypatch.setattr(
        sys.modules["cfm_tui.cli.console"], "_open", lambda opening, *_, **__: opened.append(opening)
    )
    assert call_program(monkeypatch, "cfm-tui", ["--fps", "1"]) == 0
    assert opened == [None]


@pytest.mark.parametrize("words", ["--set ipc=0", "--set ipd=1", "--config none.yaml", "--preset none"])
def test_errors_are_those_of_run(capsys, monkeypatch, recipes, words):
    messages = []
    for program, command in (("cfm-tui", []), ("cfm", ["run"])):
        assert call_program(monkeypatch, program, [*command, *shlex.split(words)]) == 2
        messages.append(capsys.readouterr().err)
    assert messages[0] == messages[1] != ""
