import errno

import pytest
from faulty_disk import FaultyDisk, each_failure

from engine.errors import UserError
from engine.store import files


def test_a_file_is_old_or_new_whatever_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"

    def prepare():
        path.write_bytes(b"old")
        return path

    outcomes = set()
    for _, error in each_failure(monkeypatch, prepare, lambda path: files.write(path, b"ne", b"w")):
        content = path.read_bytes()
        outcomes.add((content, error is None))
        assert error is None or (isinstance(error, UserError) and error.kind == "disk")
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert outcomes == {(b"old", False), (b"new", False), (b"new", True)}


def test_a_full_disk_is_told_with_place_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "disk", FaultyDisk(1, errno.ENOSPC, ("write",)))
    with pytest.raises(UserError, match=r"no room left for .*file: 1,234 bytes are needed") as caught:
        files.write(tmp_path / "file", b"x" * 1234)
    assert caught.value.kind == "disk"
    assert not list(tmp_path.iterdir())


def test_a_place_that_may_not_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot write .*file: "):
        files.make_folders(tmp_path / "file" / "below")


def test_folders_are_made_with_their_parents_and_each_holder_is_synced_once(tmp_path, monkeypatch):
    disk = FaultyDisk()
    monkeypatch.setattr(files, "disk", disk)
    places = [tmp_path / "a" / "b" / name for name in "cdef"]
    files.make_folders(*places)
    assert all(place.is_dir() for place in places)
    assert disk.calls["mkdir"] == 6
    assert disk.calls["fsync"] == 3


@pytest.mark.parametrize(("code", "told"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_a_folder_that_cannot_be_synced_is_told_unless_its_system_never_does(
    tmp_path, monkeypatch, code, told
):
    monkeypatch.setattr(files, "disk", FaultyDisk(2, code, ("fsync",)))
    if told:
        with pytest.raises(UserError, match="cannot write"):
            files.write(tmp_path / "file", b"x")
    else:
        files.write(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_what_dead_writers_left_is_swept_and_nothing_else(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    class Dying(FaultyDisk):
        def replace(self, old, new):
            raise Killed

        def unlink(self, path):
            raise OSError

    monkeypatch.setattr(files, "disk", Dying())
    with pytest.raises(Killed):
        files.write(tmp_path / "file", b"x")
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    files.write(tmp_path / "file", b"y")
    files.sweep(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


class Filling(files.Disk):
    """Takes 10 bytes and is full then; may refuse to cut as well."""

    def __init__(self, cuts):
        self.cuts = cuts
        self.room = 10

    def write(self, handle, data, at):
        if not self.room:
            raise OSError(errno.ENOSPC, "full")
        taken = super().write(handle, data[: self.room], at)
        self.room -= taken
        return taken

    def truncate(self, handle, size):
        if not self.cuts:
            raise OSError(errno.EIO, "no")
        super().truncate(handle, size)


@pytest.mark.parametrize("cuts", [True, False])
def test_an_append_that_failed_leaves_nothing_behind(tmp_path, monkeypatch, cuts):
    path = tmp_path / "file"
    appender = files.Appender(path)
    appender.append(b"one\n")
    with monkeypatch.context() as patch:
        patch.setattr(files, "disk", Filling(cuts))
        with pytest.raises(UserError, match="no room"):
            appender.append(b"a long line that does not fit\n")
    assert (path.read_bytes() == b"one\n") == cuts
    appender.append(b"two\n")
    appender.close()
    assert path.read_bytes() == b"one\ntwo\n"


def test_an_appender_keeps_what_it_is_told_to(tmp_path):
    path = tmp_path / "file"
    for size, kept in ((None, b""), (6, b"abcdef"), (3, b"abc")):
        appender = files.Appender(path, size)
        assert path.read_bytes() == kept
        appender.append(b"abcdefgh"[len(kept) :])
        appender.close()
        appender.close()


def test_slots_claim_their_room_at_once_and_give_it_back_if_there_is_too_little(tmp_path, monkeypatch):
    path = tmp_path / "file"
    slots = files.Slots(path, 100_000, create=True)
    assert path.stat().st_blocks * 512 >= 100_000
    slots.put(99_997, b"end")
    slots.close()
    files.Slots(path, 100_000, create=False).close()
    assert path.read_bytes() == bytes(99_997) + b"end"
    monkeypatch.setattr(files, "disk", FaultyDisk(1, errno.ENOSPC, ("allocate",)))
    with pytest.raises(UserError, match="200,000 bytes are needed"):
        files.Slots(path, 200_000, create=True)
    assert not path.exists()
