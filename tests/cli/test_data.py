"""`cfm data`: list, check, get."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commandline import call, call_json
from picture_trees import make_tree
from renamed_digits import save, teacher
from typer.testing import CliRunner

from cfm_tui.cli.data import app
from engine import store
from engine.errors import UserError


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def document(*arguments: object) -> dict[str, Any]:
    found = json.loads(run(*arguments, "--json"))
    assert found.pop("schema_version") == 1
    return dict(found)


def test_list_finds_sets_below_the_root_by_their_names(tmp_path: Path) -> None:
    make_tree(tmp_path / "tiny-imagenet-200", {"train/n00000001": 1})
    found = {entry["name"]: entry for entry in document("list", "--root", tmp_path)["sets"]}
    assert found["tiny-imagenet"]["path"] == str(tmp_path / "tiny-imagenet-200")
    assert not found["imagenet"]["found"]
    assert found["digits"]["found"]
    assert found["cifar100"]["downloadable"]
    assert "`cfm data get cifar10`" in run("list", "--root", tmp_path)
    inside = document("list", "--root", tmp_path / "tiny-imagenet-200")["sets"]
    assert [entry["name"] for entry in inside if entry["path"]] == ["tiny-imagenet"]


def test_check_tells_what_a_folder_holds_and_names_unreadable_files(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 4, "train/b": 6, "test/a": 1, "test/b": 1})
    (tmp_path / "train/b/5.png").write_bytes(b"")
    found = document("check", "--root", tmp_path)
    assert found["classes"] == 2
    assert found["splits"]["train"] == {"images": 9, "per_class": {"min": 4, "max": 5}, "held_out": False}
    assert found["splits"]["test"]["images"] == 2
    assert found["resolutions"] == [{"width": 16, "height": 16, "images": 11}]
    assert [(bad["split"], bad["file"]) for bad in found["unreadable"]] == [("train", "train/b/5.png")]
    assert found["ok"] is False
    assert found["mean"] == pytest.approx([0.5] * 3, abs=0.05)
    assert "train/b/5.png: " in run("check", "--root", tmp_path)


def test_check_lists_pictures_though_none_can_be_read(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 1, "train/b": 1})
    for name in "ab":
        (tmp_path / "train" / name / "0.png").write_bytes(b"")
    shown = run("check", "cifar10", "--root", tmp_path)
    assert "train/b/0.png: not an image" in shown
    assert "normalised" not in shown


def test_check_takes_settings_and_tells_what_would_be_held_out(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 10, "train/b": 10}, size=(32, 32))
    found = document(
        "check", "folder", "--root", tmp_path, "--set", "data.image_size=16", "--set", "data.holdout=0.2"
    )
    assert found["image_size"] == 16
    assert found["splits"]["test"] == {"images": 4, "per_class": {"min": 2, "max": 2}, "held_out": True}


def test_check_of_the_digits_needs_no_folder() -> None:
    found = document("check")
    assert (found["name"], found["classes"], found["image_size"]) == ("digits", 10, 16)
    assert sum(split["images"] for split in found["splits"].values()) == 1797


def test_check_of_a_teacher_tells_its_order_and_writes_it(tmp_path: Path) -> None:
    path = save(teacher(), tmp_path / "teacher.pth")
    words = ["check", "digits", "--set", "backbone.width=16", "--teacher", path]
    found = document(*words)["teacher"]
    assert (found["source"], found["images"], found["class_order"]) == (path, 300, None)
    assert found["accuracy"] > 90
    order = ["--set", "data.class_order=[9,8,7,6,5,4,3,2,1,0]"]
    found = document(*words, *order, "--save-class-order", tmp_path / "order.txt")["teacher"]
    assert found["accuracy"] < 20
    assert found["class_order"] == list("0123456789")
    assert (tmp_path / "order.txt").read_text().split() == found["class_order"]
    text = run(*words, *order)
    assert "data.class_order=['0', '1'" in text
    assert "% of 300 training images right, mean confidence" in text
    applied = document(*words, "--set", f"data.class_order={tmp_path / 'order.txt'}")["teacher"]
    assert applied["class_order"] is None


def test_an_unknown_set_offers_the_nearest() -> None:
    with pytest.raises(UserError, match="cifar1") as caught:
        run("check", "cifar1")
    assert "cifar10" in caught.value.hint


def test_get_of_what_comes_with_the_program_says_so() -> None:
    assert "nothing to download" in run("get", "digits")


def test_the_command_group_loads_no_torch() -> None:
    code = "import cfm_tui.cli.data, sys; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


CANNOT_BE = ["~nobody-of-this-name/x", "x" * 5000]


@pytest.mark.parametrize(
    ("command", "root"),
    [("check", "x\udcff"), *((command, root) for command in ("list", "check", "get") for root in CANNOT_BE)],
)
def test_a_root_that_cannot_be_is_refused(command: str, root: str) -> None:
    with pytest.raises(UserError) as caught:
        run(command, *([] if command == "list" else ["cifar10"]), "--root", root)
    assert caught.value.hint


BYTE, CONTROL, COMPOSED = os.fsdecode(b"caf\xe9"), "a\x1b[31mred\nline [ipc=10]", "caf\u00e9"


def test_names_are_shown_as_they_are_and_control_nothing(tmp_path: Path) -> None:
    make_tree(tmp_path, {f"train/{name}": 3 for name in (BYTE, CONTROL, COMPOSED)})
    (tmp_path / "train" / CONTROL / "\x1b.png").touch()
    shown = run("check", "--root", tmp_path, "--set", "data.image_size=16")
    assert "(a\\x1b[31mred\\nline [ipc=10], café, caf\\xe9)" in shown
    assert "/\\x1b.png: " in shown
    assert "\x1b" not in shown


def test_classes_of_any_name_pass_through_a_run_and_all_that_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))
    make_tree(tmp_path / "set", {f"train/{name}": 4 for name in (BYTE, CONTROL, COMPOSED)})
    make_tree(tmp_path / "set", {f"test/{name}": 1 for name in (BYTE, CONTROL, "cafe\u0301")})
    (tmp_path / "set" / "train" / CONTROL / "\x1b\xe9.png").touch()
    settings = ["--preset", "smoke", "--set", "data.name=folder", "--data-root", "set"]
    settings += ["--set", "data.on_bad_image=skip"]
    shown = call(capsys, "run", *settings, "--out", "run")
    assert "/\\x1bé.png" in shown[1]
    for command in ("show", "table", "report", "check"):
        shown += call(capsys, command, "run")
    assert "\x1b" not in "".join(shown)
    for layout in ("sre2l", "rded", "dd-ranking", "huggingface"):
        call(capsys, "export", "run", "--format", layout, "--out", layout)
    given = call_json(capsys, "results", "validate", "huggingface", *settings, "--out", "given")
    assert given["repeats"][0]["students"] == [
        student
        for student in store.StoredRun(tmp_path / "run").results()["repeats"][0]["students"]
        if student["source"] != "start"
    ]
