"""What is checked before an experiment begins."""

import pytest
import torch
from commandline import call_json
from stages import small

from engine import backbones
from engine.errors import UserError
from engine.runs import plan


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))


def test_a_teacher_of_other_classes_is_refused_before_anything_is_made(capsys, tmp_path):
    config = small().backbone
    model = backbones.build(config, classes=7, channels=1, image_size=32)
    torch.save(model.state_dict(), tmp_path / "seven.pth")
    words = ["run", "--preset", "smoke", "--teacher", tmp_path / "seven.pth"]
    error = call_json(capsys, "error", *words, code=2)["error"]
    assert error["kind"] == "teacher"
    assert "7" in error["message"] + error["hint"]
    assert not (tmp_path / "runs").exists()


def test_a_run_needs_room(tmp_path, monkeypatch):
    prepared = plan.prepare(small())
    prepared.check_room(tmp_path)
    monkeypatch.setattr("engine.store.files.free_bytes", lambda _: 1000)
    with pytest.raises(UserError, match="1,000 are free") as caught:
        prepared.check_room(tmp_path)
    assert caught.value.kind == "disk"
