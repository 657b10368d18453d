"""A run is deleted whole, whatever is in the way; where it cannot be, that is told."""

import errno
import os
import shutil

import pytest
from faulty_disk import FaultyDisk, each_failure
from recorded import opened

from engine import store
from engine.errors import UserError
from engine.store import files
from engine.store.run import delete_run


def made(folder):
    opened(folder).close("stopped")
    return folder


def test_nothing_is_left(tmp_path):
    delete_run(made(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError) as refused:
        delete_run(tmp_path)
    assert refused.value.kind == "usage"
    assert tmp_path.exists()


def test_leftovers_of_earlier_deletions_are_no_obstacle_and_go_too(tmp_path):
    for name in (".run.deleted", ".run.deleted-2"):
        (tmp_path / name / "images").mkdir(parents=True)
    for other in (".runner.deleted", ".run.deleted-x"):
        (tmp_path / other).mkdir()
    made(tmp_path / ".run.deleted-3")  # a run, whatever its name says
    delete_run(made(tmp_path / "run"))
    assert {entry.name for entry in tmp_path.iterdir()} == {
        ".runner.deleted",
        ".run.deleted-x",
        ".run.deleted-3",
    }


@pytest.mark.parametrize("which", [("write",), ("allocate",), ("open",)])
def test_a_full_disk_is_no_obstacle(tmp_path, monkeypatch, which):
    folder = made(tmp_path / "run")

    class Full(FaultyDisk):
        def open(self, path, flags):
            if flags & os.O_CREAT:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return files.Disk.open(self, path, flags)

    disk = Full() if which == ("open",) else FaultyDisk(1, errno.ENOSPC, which)
    monkeypatch.setattr(files, "disk", disk)
    delete_run(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOTEMPTY, errno.EBUSY, errno.EIO])
def test_every_failure_is_told(tmp_path, monkeypatch, code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    folder = made(tmp_path / "run")
    monkeypatch.setattr(shutil, "rmtree", fail)
    with pytest.raises(UserError) as told:
        delete_run(folder)
    assert told.value.kind == "disk"
    assert os.strerror(code) in told.value.message


def test_it_may_fail_anywhere(tmp_path, monkeypatch):
    def prepare():
        for place in tmp_path.iterdir():
            shutil.rmtree(place)
        return made(tmp_path / "run")

    for folder, error in each_failure(monkeypatch, prepare, delete_run):
        assert error is None or isinstance(error, UserError)
        assert not folder.exists() or store.is_run(folder)


def test_a_run_that_a_process_has_is_left(tmp_path):
    run = opened(tmp_path / "run")
    with pytest.raises(UserError, match="is being written by"):
        delete_run(tmp_path / "run")
    run.close("stopped")
    delete_run(tmp_path / "run")


def test_two_that_delete_leftovers_at_once_do_not_quarrel(tmp_path, monkeypatch):
    folder, truly = made(tmp_path / "run"), shutil.rmtree
    calls = []

    def once_in_the_way(path, *words, **options):
        calls.append(path)
        if len(calls) == 1:
            raise FileNotFoundError(errno.ENOENT, "gone")
        truly(path, *words, **options)

    monkeypatch.setattr(shutil, "rmtree", once_in_the_way)
    delete_run(folder)
    assert list(tmp_path.iterdir()) == []
