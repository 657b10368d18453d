"""`cfm doctor`: what it tells, what it calls a problem, and that only real obstacles fail."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from cfm_tui import doctor
from cfm_tui.cli.doctor import doctor as command
from engine import device

APP = typer.Typer()
APP.command()(command)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose folders are below `tmp_path`, with plenty of room."""
    for name in [name for name in os.environ if name.startswith(("CFM_", "COLORTERM", "TMUX", "NO_COLOR"))]:
        monkeypatch.delenv(name)
    for name in ("RUNS", "CACHE", "DATA_ROOT"):
        monkeypatch.setenv(f"CFM_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("TERM", "xterm-256color")
    room(monkeypatch, 2**40)
    monkeypatch.setattr(device, "cpus", lambda: 1024)
    monkeypatch.setattr(doctor, "NVIDIA", tmp_path / "no-driver")
    return tmp_path


def room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=free, total=2**40))


def examined(*expect: str) -> tuple[int, dict]:
    """Exit code and document; the text must hold what is expected."""
    result = CliRunner().invoke(APP, [])
    for part in expect:
        assert part in result.stdout, result.stdout
    machine_readable = CliRunner().invoke(APP, ["--json"])
    assert machine_readable.exit_code == result.exit_code
    document = json.loads(machine_readable.stdout)
    assert document["ok"] is (result.exit_code == 0)
    return result.exit_code, document


def test_a_good_machine_has_no_problems_and_nothing_is_written(machine: Path) -> None:
    code, document = examined("no problems", "digits", "comes with the program")
    assert code == 0
    assert document["schema_version"] == 1
    assert document["problems"] == []
    assert document["packages"]["torch"]
    assert document["devices"][0]["name"] == "cpu"
    assert {name: folder["path"] for name, folder in document["folders"].items()} == {
        "runs": str(machine / "runs"),
        "cache": str(machine / "cache"),
        "data": str(machine / "data_root"),
    }
    assert all(folder["writable"] and not folder["exists"] for folder in document["folders"].values())
    assert list(machine.iterdir()) == []


@pytest.mark.parametrize(("name", "code"), [("RUNS", 1), ("CACHE", 1), ("DATA_ROOT", 0)])
def test_a_folder_that_cannot_be_written_names_its_variable(machine: Path, monkeypatch, name, code) -> None:
    (machine / "file").touch()
    monkeypatch.setenv(f"CFM_{name}", str(machine / "file" / "inside"))
    found, document = examined("cannot be written", f"CFM_{name}")
    assert found == code
    assert [problem["level"] for problem in document["problems"]] == ["error" if code else "warning"]


def test_a_disk_without_locks_is_a_warning(monkeypatch) -> None:
    monkeypatch.setattr("engine.store.lock.supports_locks", lambda _: False)
    assert examined("the file system of the runs folder", "has no locks")[0] == 0


@pytest.mark.parametrize(("free", "code"), [(10 * 2**20, 1), (2**30, 0)])
def test_little_disk_is_a_warning_and_none_an_error(monkeypatch, free: int, code: int) -> None:
    room(monkeypatch, free)
    assert examined("B are free")[0] == code


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_a_torch_that_does_not_load_is_told_not_raised(monkeypatch, package: str) -> None:
    real = importlib.import_module

    def broken(name: str, *rest: object) -> object:
        if name == package:
            raise OSError("libcudart.so.12: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    code, document = examined(f"{package} does not load", "libcudart.so.12", "together", "no run is possible")
    assert code == 1
    assert document["devices"] == []


def test_a_missing_package_is_told(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    code, document = examined("no-such-package is not installed")
    assert code == 1
    assert document["packages"]["no-such-package"] is None


def test_settings_in_the_environment_that_no_run_would_take_are_told(monkeypatch) -> None:
    monkeypatch.setenv("CFM_OBJECTIVE__BETA", "-1")
    assert examined("objective.beta")[0] == 1


def test_more_threads_than_processors_is_a_warning(monkeypatch) -> None:
    monkeypatch.setattr(device, "cpus", lambda: 0)
    assert examined("OMP_NUM_THREADS")[0] == 0


def test_a_gpu_that_torch_cannot_use_is_a_warning(machine: Path, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "NVIDIA", machine)
    assert examined("cannot use the NVIDIA GPU")[0] == 0


def test_data_sets_are_found_where_they_lie(machine: Path) -> None:
    from PIL import Image

    root = machine / "data_root" / "cifar10"
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(root / split / label / "1.png")
    sets = {entry["name"]: entry for entry in examined(f"at {root}")[1]["data_sets"]}
    assert sets["cifar10"]["found"]
    assert not sets["cifar100"]["found"]
    assert not sets["tiny-imagenet"]["found"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, []),
        ({"term": None}, ["TERM is not set"]),
        ({"term": "dumb"}, ["TERM is dumb"]),
        ({"utf8": False, "encoding": "ascii"}, ["ascii, not UTF-8"]),
        ({"columns": 60}, ["60×40 cells"]),
        ({"columns": None, "lines": None}, []),
        ({"tmux": True, "colours": "256"}, ["256 colours"]),
        ({"tmux": True, "colours": "true"}, []),
    ],
)
def test_what_a_terminal_lacks(facts: dict, said: list[str]) -> None:
    whole = {"term": "xterm", "colours": "true", "encoding": "utf-8", "utf8": True}
    problems = doctor._find_terminal_problems({**whole, "columns": 120, "lines": 40, "tmux": False, **facts})
    assert len(problems) == len(said)
    for problem, part in zip(problems, said, strict=True):
        assert problem.level == "warning"
        assert part in problem.message


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        ({"TERM": "xterm-256color"}, "256"),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, "true"),
        ({"TERM": "xterm"}, "16"),
        ({"TERM": "dumb"}, "none"),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, "none"),
    ],
)
def test_colours_follow_the_environment(monkeypatch, environment: dict[str, str], colours: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert doctor._detect_colours() == colours


def test_the_command_loads_nothing_heavy_before_it_runs() -> None:
    heavy = "not {'torch', 'numpy'}.isdisjoint(sys.modules)"
    code = f"import sys, cfm_tui.cli.doctor, cfm_tui.doctor; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ("imagenet/train/train/n01/0.png", "contains splits instead of classes"),
        ("train/train/cat/0.png", "contains splits instead of classes"),
        ("set/train/cat/0.png", "no folder `train`, but"),
    ],
)
def test_class_folders_on_another_level_are_a_problem(machine: Path, picture: str, said: str) -> None:
    path = machine / "data_root" / picture
    path.parent.mkdir(parents=True)
    path.touch()
    code, document = examined(said)
    assert code == 0
    assert [problem["level"] for problem in document["problems"]] == ["warning"]
