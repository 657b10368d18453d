import errno
from pathlib import Path

import numpy as np
import pytest
from faulty_disk import FaultyDisk

from engine.errors import UserError
from engine.store import cache, files

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3, np.int64)}


def test_an_entry_comes_back_bit_for_bit(tmp_path):
    shared = cache.Cache(tmp_path)
    name = cache.key(a=1)
    assert shared.load("teachers", name) is None
    shared.save("teachers", name, ARRAYS, {"taps": ["β"]})
    entry = shared.load("teachers", name)
    assert entry.info == {"taps": ["β"]}
    for part, array in ARRAYS.items():
        assert np.array_equal(entry.arrays[part], array)
        assert entry.arrays[part].shape == array.shape


def test_a_key_depends_on_every_part_and_on_nothing_else():
    keys = [cache.key(a=1, b=2), cache.key(a=1, b=3), cache.key(a=1), cache.key(a=12), cache.key(a=[1, 2])]
    assert len(set(keys)) == len(keys)
    assert cache.key(a=1, b=2) == cache.key(b=2, a=1)


def test_any_altered_or_lost_byte_is_noticed_and_the_entry_set_aside(tmp_path):
    shared = cache.Cache(tmp_path)
    shared.save("teachers", "k", ARRAYS, {"taps": ["x"]})
    path = shared.path("teachers", "k")
    whole = path.read_bytes()
    contents = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(len(whole))]
    for content in [*contents, b"", whole[:-1]]:
        path.write_bytes(content)
        with pytest.raises(cache.DamagedEntry) as caught:
            shared.load("teachers", "k")
        assert str(path) in str(caught.value)
        assert [entry.name for entry in path.parent.iterdir()] == ["k.safetensors.damaged"]
        assert shared.load("teachers", "k") is None


def test_an_entry_under_anothers_name_is_not_believed(tmp_path):
    shared = cache.Cache(tmp_path)
    shared.save("teachers", "k", ARRAYS, {})
    shared.path("teachers", "k").rename(shared.path("teachers", "other"))
    with pytest.raises(cache.DamagedEntry, match="another entry"):
        shared.load("teachers", "other")


def test_a_cache_that_cannot_be_written_names_its_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write") as caught:
        cache.Cache(tmp_path / "file" / "below").save("teachers", "k", ARRAYS, {})
    assert "CFM_CACHE" in caught.value.hint
    monkeypatch.setattr(files, "disk", FaultyDisk(1, errno.ENOSPC, ("write",)))
    with pytest.raises(UserError, match="no room") as caught:
        cache.Cache(tmp_path / "full").save("teachers", "k", ARRAYS, {})
    assert "CFM_CACHE" in caught.value.hint
    assert "--out" not in caught.value.hint


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"CFM_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/cfm-tui")),
        ({}, Path.home() / ".cache" / "cfm-tui"),
    ],
)
def test_where_the_cache_lies(environ, folder, monkeypatch):
    for name in ("CFM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert cache.default_folder() == folder


def test_the_entry_that_was_written_first_is_kept_and_returned(tmp_path):
    shared = cache.Cache(tmp_path)
    other = {name: array + 1 for name, array in ARRAYS.items()}
    assert shared.save("teachers", "k", ARRAYS, {"by": 1}).info == {"by": 1}
    entry = shared.save("teachers", "k", other, {"by": 2})
    assert entry.info == {"by": 1}
    assert np.array_equal(entry.arrays["w"], ARRAYS["w"])
    path = shared.path("teachers", "k")
    path.write_bytes(path.read_bytes()[:-1])
    assert shared.save("teachers", "k", other, {"by": 2}).info == {"by": 2}
    assert np.array_equal(shared.load("teachers", "k").arrays["w"], other["w"])
