"""Commands whose standard streams are closed, full, of a narrow encoding, or no terminal for colours."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from commandline import REPOSITORY, call

from cfm_tui.cli import common
from cfm_tui.display import streams, terminal
from engine.store import StoredRun

FOLDER = "café±→[ipc=10]\x1b[31m"


def cfm(redirections: str, *words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run `cfm WORDS` in a shell that redirects its streams."""
    command = ["sh", "-c", f'"$@" {redirections}', "sh", sys.executable, "-m", "cfm_tui", *map(str, words)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("CFM_", "PYTHONIO"))}
    return subprocess.run(
        command, cwd=REPOSITORY, env={**plain, **environment}, capture_output=True, check=False
    )


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    tiny.finish(tiny.begun(folder))
    return folder / "run"


@pytest.fixture
def runs(tmp_path: Path, finished_run: Path) -> dict[str, str]:
    """The environment of a runs folder with a finished run whose name has unusual characters."""
    shutil.copytree(finished_run, tmp_path / "runs" / FOLDER)
    return {"CFM_RUNS": str(tmp_path / "runs"), "CFM_CACHE": str(tmp_path / "cache")}


@pytest.mark.parametrize("redirections", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_like_the_null_device(tmp_path: Path, redirections: str) -> None:
    places = {"CFM_RUNS": str(tmp_path), "CFM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = cfm(redirections, "run", "--preset", "smoke", "--out", tmp_path / "run", **places)
    assert done.returncode == 0, done.stderr
    assert StoredRun(tmp_path / "run").state() == "finished"


def test_files_of_a_run_never_get_the_descriptor_of_a_closed_stream(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from cfm_tui.display.streams import prepare_standard_streams\n"
        "prepare_standard_streams()\n"
        f"with open({str(tmp_path / 'file')!r}, 'w') as file:\n"
        "    print('lost'); print('lost', file=sys.stderr); os.write(1, b'lost'); os.write(2, b'lost')\n"
        "    file.write(f'{file.fileno()} {sys.stdin.read()!r} {sys.stdin.isatty()}')\n"
    )
    command = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0
    descriptor, *rest = (tmp_path / "file").read_text().split()
    assert int(descriptor) > 2
    assert rest == ["''", "False"]


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, "café±>[ipc=10]"),
        ({"PYTHONIOENCODING": "ascii"}, "cafe+>[ipc=10]"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "[ipc=10]"),
        ({"PYTHONIOENCODING": "utf-8"}, "café±→[ipc=10]"),
    ],
)
def test_characters_that_cannot_be_encoded_are_replaced(runs, environment, text) -> None:
    encoding = environment.get("PYTHONIOENCODING", "ascii")
    run = f"{runs['CFM_RUNS']}/{FOLDER}"
    for words in (["show", run, "--losses", "--betas"], ["runs"]):
        done = cfm("", *words, **runs, **environment)
        assert done.returncode == 0, done.stderr
        done.stdout.decode(encoding)
        assert b"\x1b" not in done.stdout
    assert text + r"\x1b[31m" in done.stdout.decode(encoding)


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8"}])
def test_json_loses_no_character(runs, environment) -> None:
    done = cfm("", "runs", "--json", **runs, **environment)
    assert b"\x1b" not in done.stdout
    assert json.loads(done.stdout)["runs"][0]["folder"] == f"{runs['CFM_RUNS']}/{FOLDER}"


def test_names_that_are_not_text_are_written_too() -> None:
    document = {"name": os.fsdecode(b"caf\xe9")}
    assert json.loads(common.format_json(document))["name"] == document["name"]
    assert streams.escape_control_characters(document["name"]) == r"caf\xe9"


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [("runs", ""), ("runs --json", "1"), ("--help", "1"), ("--version", ""), ("preset show", "1")],
)
def test_a_full_device_is_an_error_that_the_user_can_fix(runs, words, unbuffered) -> None:
    done = cfm(">/dev/full", *words.split(), PYTHONUNBUFFERED=unbuffered, **runs)
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "cfm: cannot write the output: No space left on device\n→ redirect it to a disk with free space\n"
    )


def test_a_stderr_that_is_full_does_not_change_the_exit_code(runs) -> None:
    assert cfm("2>/dev/full", "runs", **runs).returncode == 0
    assert cfm("2>/dev/full", "show", "nothing", **runs).returncode == 2


@pytest.mark.parametrize(
    ("environment", "is_terminal", "colours"),
    [
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm-256color"}, False, False),
        ({"TERM": "xterm-256color"}, True, True),
    ],
)
def test_images_are_in_colour_only_where_the_console_shows_colours(
    capsys, monkeypatch, finished_run, environment, is_terminal, colours
) -> None:
    known = {"LC_ALL": "C.UTF-8", **environment}
    monkeypatch.setattr(terminal, "environment", lambda _: known)
    for options in ([], ["--betas"], ["--losses"]):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
        out, _ = call(capsys, "show", finished_run, *options)
        assert ("\x1b[" in out) == colours
        assert colours or "▀" not in out


def test_every_text_is_printed_through_one_function() -> None:
    printing = re.compile(r"typer\.echo\(|click\.echo\(|(?<!\.)\bprint\(")
    for path in (REPOSITORY / "cfm_tui" / "cli").glob("*.py"):
        lines = [line for line in path.read_text().splitlines() if printing.search(line)]
        allowed = {"common.py": 2, "__init__.py": 2}  # before the commands are imported, and errors
        assert len(lines) <= allowed.get(path.name, 0), (path, lines)
