"""Folders that cannot be written are refused before anything is computed."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest
import tiny
from commandline import call_json

from engine.errors import UserError
from engine.runs import artefacts
from engine.store import Cache, files
from engine.store.files import require_writable


@pytest.fixture
def untrained(monkeypatch, tmp_path):
    """An empty folder, in which nothing may be computed."""

    def compute(*_):
        raise AssertionError("computed")

    monkeypatch.setattr(artefacts, "squeeze", compute)
    monkeypatch.setattr(artefacts.statistics, "measure", compute)
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("variable", "words", "hint"),
    [
        ("CFM_CACHE", ["run", "--preset", "smoke"], "CFM_CACHE"),
        ("CFM_RUNS", ["run", "--preset", "smoke"], "--out"),
        ("", ["run", "--preset", "smoke", "--out", "file/run"], "--out"),
        ("", ["run", "--preset", "smoke", "--detach", "--out", "file/run"], "--out"),
        ("CFM_CACHE", ["run", "--preset", "smoke", "--detach"], "CFM_CACHE"),
        ("", ["table", "run", "--out", "file/table.md"], "--out"),
        ("", ["report", "run", "--out", "file/report.html"], "--out"),
        ("", ["report", "run", "--png", "file/png"], "--png"),
    ],
)
def test_a_file_in_place_of_a_folder(untrained, capsys, monkeypatch, variable, words, hint):
    if variable:
        monkeypatch.setenv(variable, str(untrained / "file"))
    error = call_json(capsys, "error", *words, code=2)["error"]
    assert error["kind"] == "disk"
    assert f"{untrained / 'file'} is not a folder" in error["message"]
    assert hint in error["hint"]
    assert os.listdir(untrained) in (["file"], ["cache", "file"], ["file", "cache"])


def test_a_full_cache(untrained, capsys, monkeypatch):
    real = tempfile.TemporaryFile

    def refuse(dir):
        if dir == untrained / "cache":
            raise OSError(errno.ENOSPC, "full")
        return real(dir=dir)

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    (untrained / "cache").mkdir()
    error = call_json(capsys, "error", "run", "--preset", "smoke", code=2)["error"]
    assert f"no room left for {untrained / 'cache' / 'teachers'}" in error["message"]
    assert "CFM_CACHE" in error["hint"]
    assert not (untrained / "runs").exists()


def test_score_and_report_ask_before_they_train(untrained, digits):
    context = artefacts.ComputeContext(digits.train.labels_N.device, Cache(untrained / "file"))
    with pytest.raises(UserError, match="is not a folder"):
        next(artefacts.load_or_train_teacher(tiny.plan().config, tiny.plan().data, context))


def test_a_cache_that_has_everything_may_be_read_only(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))
    tiny.finish(tiny.begun(tmp_path))
    monkeypatch.setattr(Cache, "require_writable", lambda *_: pytest.fail("asked"))
    plan = tiny.plan()
    artefacts.require_writable_cache(plan.config, plan.data, [None], Cache(), measures=True)


def test_what_is_asked_of_a_folder(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []
    with pytest.raises(UserError, match="bytes are needed"):
        require_writable(tmp_path, needed=2**80)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="dangling is not a folder"):
        require_writable(tmp_path / "dangling" / "x", "elsewhere")
