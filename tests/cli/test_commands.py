import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import REPOSITORY, call, call_json, start, started
from typer.main import get_command

from cfm_tui import cli
from engine.errors import UserError

HEAVY = ("torch", "torchvision", "numpy", "engine.config", "textual", "rich", "PIL", "scipy", "yaml")


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"], ["preset", "--help"]])
def test_help_loads_nothing_heavy(words):
    program = (
        "import sys\nfrom cfm_tui.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        f"finally:\n    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "cfm" in done.stdout


def test_help_lists_commands_by_what_they_are_for(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    out, _ = call(capsys, "--help")
    path = Path(__file__).parents[1] / "golden" / "help" / "cfm.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(out, "utf-8")
    assert out == path.read_text("utf-8")
    assert "\x1b" not in out
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line[2:3].islower()]
    assert sorted(set(listed) & set(get_command(cli.app).commands)) == sorted(get_command(cli.app).commands)


def test_help_is_quick():
    def seconds():
        """Of processor time: what it takes where nothing else runs."""
        before = os.times()
        start("--help").communicate()
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])

    assert min(seconds() for _ in range(5)) < 0.3


def fail_with(monkeypatch, error):
    def broken(**_):
        raise error

    monkeypatch.setattr("engine.config.settings.resolve", broken)


@pytest.mark.parametrize(
    ("error", "code", "kind", "said"),
    [
        (UserError("disk", "it is full", "make room"), 2, "disk", "cfm: it is full\n→ make room\n"),
        (UserError("data", "no hint"), 2, "data", "cfm: no hint\n"),
        (RuntimeError("a\nb"), 1, "failed", "cfm: failed: RuntimeError: a\n→ run again with --debug"),
        (KeyboardInterrupt(), 130, "interrupted", "cfm: interrupted\n"),
        (cli.Terminated(143), 143, "terminated", "cfm: terminated\n"),
    ],
)
def test_every_failure_is_said_once_with_its_code(capsys, monkeypatch, error, code, kind, said):
    fail_with(monkeypatch, error)
    out, err = call(capsys, "run", code=code)
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith(said)
    assert call_json(capsys, "error", "run", code=code)["error"]["kind"] == kind


@pytest.mark.parametrize("words", [["--debug", "run"], ["run", "--debug"]])
def test_debug_shows_the_traceback(capsys, monkeypatch, words):
    fail_with(monkeypatch, UserError("data", "what"))
    assert "Traceback" in call(capsys, *words, code=2)[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--bogus"], "--bogus"),
        (["nonsense"], "nonsense"),
        (["check"], "RUN"),
        (["show", "x", "--width", "1"], "width"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(capsys, words, said):
    _, err = call(capsys, *words, code=2)
    assert said in err
    assert "--help` lists" in err
    document = call_json(capsys, "error", *words, code=2)
    assert document["error"]["kind"] == "usage"
    assert said in document["error"]["message"]


@pytest.mark.parametrize(
    ("words", "message", "example"),
    [
        (["run", "--repeats", "x"], "--repeats of `cfm run`: 'x' is not a whole number", "--repeats 3"),
        (["run", "--repeats", "0"], "--repeats of `cfm run`: '0' must be at least 1", "--repeats 1"),
        (["run", "--repeats", "2000"], "'2000' must be at most 1000", "--repeats 1000"),
        (["stop", "x", "--wait", "y"], "--wait of `cfm stop`: 'y' is not a number", "--wait 0.5"),
    ],
)
def test_a_wrong_value_of_an_option_is_told_with_an_example(capsys, words, message, example):
    _, err = call(capsys, *words, code=2)
    assert message in err
    assert f"write for example {example};" in err


def test_without_words_it_helps(capsys):
    out, err = call(capsys, code=2)
    assert "Usage: cfm" in out + err
    assert "→" not in err


@pytest.mark.parametrize(
    ("words", "kind", "said", "hint"),
    [
        (["run", "--preset", "digit"], "config", "digit", "digits"),
        (["run", "--set", "recover.itterations=3"], "config", "recover.itterations", "recover.iterations"),
        (["run", "--set", "ipc=0"], "config", "ipc", ""),
        (["run", "--config", "/nowhere.yaml"], "config", "/nowhere.yaml", ""),
        (["run", "--teacher", "/nowhere.pth"], "teacher", "/nowhere.pth", "checkpoint"),
        (["run", "--device", "abacus"], "config", "abacus", ""),
        (["run", "--plan", "nowhere.json"], "usage", "nowhere.json", "cfm runs"),
        (["run", "--set", "validate.students=[convnt]"], "config", "convnt", "convnet"),
        (["run", "--set", "ipc=143"], "data", "class '0' has 142", "142"),
        (["run", "--preset", "cifar10-10", "--data-root", "/nowhere"], "data", "/nowhere", "cfm data get"),
        (["score", "/nowhere"], "data", "/nowhere", "folder"),
        (["show", "nothing"], "usage", "nothing", "cfm runs"),
    ],
)
def test_what_a_person_gets_wrong_is_told_and_leaves_nothing(
    capsys, monkeypatch, tmp_path, words, kind, said, hint
):
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    error = call_json(capsys, "error", *words, code=2)["error"]
    assert error["kind"] == kind
    assert said in error["message"]
    assert hint in error["hint"]
    assert not (tmp_path / "runs").exists()


def test_listings(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path))
    assert call_json(capsys, "runs", "runs")["runs"] == []
    assert "smoke" in [
        preset["name"] for preset in call_json(capsys, "preset-list", "preset", "list")["presets"]
    ]


def test_the_doctor_answers_in_its_shape(capsys):
    assert call_json(capsys, "doctor", "doctor")["ok"]


def test_a_process_of_a_test_is_never_left_behind(tmp_path):
    words = ["run", "--preset", "smoke", "--out", str(tmp_path / "run")]
    with pytest.raises(AssertionError), started(*words) as left:
        raise AssertionError
    with started(*words, seconds=0.1) as late:
        late.communicate()
    assert [process.returncode for process in (left, late)] == [-signal.SIGKILL] * 2


def test_a_reader_that_goes_away_is_no_failure_to_speak_of(tmp_path):
    with start("preset", "show", "--resolved") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
