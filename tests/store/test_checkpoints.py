import os

import numpy as np
import pytest
from faulty_disk import FaultyDisk, each_failure

from engine.errors import UserError
from engine.store import checkpoints, files


def arrays(number):
    return {"images": np.full((2, 3), number, np.float32), "step": np.array(number, np.int64)}


def write(folder, stage, number):
    return checkpoints.Checkpoints(folder).write(
        stage, arrays(number), {"batch": number, "curve": [[1, 0.1]]}
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def is_saved(saved, number, content):
    assert saved.number == number
    assert saved.metadata == {"batch": content, "curve": [[1, 0.1]]}
    assert saved.arrays.keys() == arrays(0).keys()
    return all(np.array_equal(saved.arrays[name], array) for name, array in arrays(content).items())


def test_the_newest_comes_back_and_two_of_each_stage_are_kept(tmp_path):
    folder = tmp_path / "checkpoints"
    assert checkpoints.Checkpoints(folder).newest("squeeze") == (None, [])
    for number, stage in enumerate(("squeeze", "recover", "recover", "squeeze", "recover", "recover"), 1):
        given, size = write(folder, stage, number)
        assert given == number
        assert size == (folder / f"{stage}-{number:06d}.safetensors").stat().st_size
        saved, messages = checkpoints.Checkpoints(folder).newest(stage)
        assert is_saved(saved, number, number)
        assert messages == []
    assert names(folder) == [
        f"{name}.safetensors"
        for name in ("recover-000005", "recover-000006", "squeeze-000001", "squeeze-000004")
    ]
    assert checkpoints.Checkpoints(folder).check() == []


def test_numbers_never_repeat_whatever_is_forgotten_or_damaged(tmp_path):
    write(tmp_path, "squeeze", 1)
    write(tmp_path, "squeeze", 2)
    checkpoints.Checkpoints(tmp_path).delete("squeeze")
    checkpoints.Checkpoints(tmp_path).delete("squeeze")
    assert checkpoints.Checkpoints(tmp_path).newest("squeeze") == (None, [])
    assert write(tmp_path, "recover", 3)[0] == 3
    (tmp_path / "recover-000003.safetensors").write_bytes(b"")
    assert checkpoints.Checkpoints(tmp_path).newest("recover")[0] is None
    assert write(tmp_path, "recover", 4)[0] == 4
    checkpoints.Checkpoints(tmp_path).delete("recover")
    assert write(tmp_path, "validate", 5)[0] == 5
    assert names(tmp_path) == [
        "last.json",
        "recover-000003.safetensors.damaged",
        "validate-000005.safetensors",
    ]


def test_what_was_forgotten_of_one_stage_leaves_the_others(tmp_path):
    write(tmp_path, "squeeze", 1)
    write(tmp_path, "recover", 2)
    checkpoints.Checkpoints(tmp_path).delete("squeeze")
    assert is_saved(checkpoints.Checkpoints(tmp_path).newest("recover")[0], 2, 2)


def test_any_altered_or_lost_byte_of_the_newest_is_noticed_and_the_one_before_it_used(tmp_path):
    write(tmp_path, "recover", 1)
    write(tmp_path, "recover", 2)
    path = tmp_path / "recover-000002.safetensors"
    whole = path.read_bytes()
    contents = [whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :] for at in range(len(whole))]
    for content in [*contents, b"", whole[:7], whole[:-1]]:
        path.write_bytes(content)
        assert len(checkpoints.Checkpoints(tmp_path).check()) == 1
        saved, (message,) = checkpoints.Checkpoints(tmp_path).newest("recover")
        assert is_saved(saved, 1, 1)
        assert str(path) in message
        assert "recover-000002.safetensors.damaged" in message
        assert not path.exists()
        assert checkpoints.Checkpoints(tmp_path).newest("recover")[1] == []
        assert (tmp_path / "recover-000002.safetensors.damaged").read_bytes() == content


def test_without_a_whole_one_there_is_none_and_each_is_reported(tmp_path):
    for number in (1, 2):
        write(tmp_path, "recover", number)
        (tmp_path / f"recover-{number:06d}.safetensors").write_bytes(b"torn")
    saved, messages = checkpoints.Checkpoints(tmp_path).newest("recover")
    assert saved is None
    assert ["the previous one is used" in message for message in messages] == [True, False]


def test_a_checkpoint_under_anothers_name_is_not_believed(tmp_path):
    write(tmp_path, "recover", 1)
    (tmp_path / "recover-000001.safetensors").rename(tmp_path / "squeeze-000009.safetensors")
    saved, (message,) = checkpoints.Checkpoints(tmp_path).newest("squeeze")
    assert saved is None
    assert "it is recover-000001" in message


def test_a_damaged_memory_of_the_last_number_is_reported(tmp_path):
    write(tmp_path, "recover", 1)
    checkpoints.Checkpoints(tmp_path).delete("recover")
    (tmp_path / "last.json").write_bytes(b"{}")
    assert "last.json" in checkpoints.Checkpoints(tmp_path).check()[0]
    _, (message,) = checkpoints.Checkpoints(tmp_path).newest("recover")
    assert "last.json is damaged" in message


def test_one_that_may_not_be_read_is_not_set_aside(tmp_path, monkeypatch):
    write(tmp_path, "recover", 1)

    def refused(*_, **__):
        raise PermissionError(13, os.strerror(13))

    with monkeypatch.context() as patch:
        patch.setattr(np, "fromfile", refused)
        with pytest.raises(UserError, match="cannot read"):
            checkpoints.Checkpoints(tmp_path).newest("recover")
    assert is_saved(checkpoints.Checkpoints(tmp_path).newest("recover")[0], 1, 1)


def test_the_newest_is_the_old_one_or_the_new_one_whatever_fails(tmp_path, monkeypatch):
    number = 0

    def prepare():
        nonlocal number
        number += 1
        folder = tmp_path / str(number)
        write(folder, "recover", 1)
        write(folder, "recover", 2)
        return folder, []

    def work(place):
        folder, told = place
        told.append(write(folder, "recover", 3)[0])

    for (folder, told), error in each_failure(monkeypatch, prepare, work):
        assert error is None or isinstance(error, UserError)
        saved, messages = checkpoints.Checkpoints(folder).newest("recover")
        assert messages == []
        assert saved.number == 3 if told else saved.number in (2, 3)
        assert is_saved(saved, saved.number, saved.number)
        assert write(folder, "recover", 4)[0] == saved.number + 1
    assert number > 8


def test_a_checkpoint_costs_one_sync_of_its_file(tmp_path, monkeypatch):
    write(tmp_path, "recover", 1)
    disk = FaultyDisk()
    monkeypatch.setattr(files, "disk", disk)
    write(tmp_path, "recover", 2)
    assert disk.calls["fsync"] == 3  # the file, its folder, and the folder's own name
