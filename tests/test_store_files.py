import errno
import os

import numpy as np
import pytest

from engine.errors import UserError
from engine.store import files, tensors

CALLS = ("open", "write", "fsync", "replace")


def failing(monkeypatch, call, number, code=errno.EIO):
    """Let the `number`-th use of an operating system's call fail."""
    real, used = getattr(os, call), 0

    def wrapper(*args, **kwargs):
        nonlocal used
        used += 1
        if used == number:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, wrapper)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("number", [1, 2])
def test_a_file_is_old_or_new_whatever_fails(tmp_path, monkeypatch, call, number):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    failing(monkeypatch, call, number)
    try:
        files.write(path, b"ne", b"w")
        wanted = {b"new"}
    except OSError:
        wanted = {b"old", b"new"}
    monkeypatch.undo()
    assert path.read_bytes() in wanted
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_told_with_place_and_bytes(tmp_path, monkeypatch):
    failing(monkeypatch, "write", 1, errno.ENOSPC)
    with pytest.raises(UserError, match=r"no room left for .*file: 1,234 bytes are needed") as caught:
        files.write(tmp_path / "file", b"x" * 1234)
    assert caught.value.kind == "disk"
    assert not list(tmp_path.iterdir())


def test_a_place_that_may_not_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot write .*file: "):
        files.make_folder(tmp_path / "file" / "below")


def test_json_has_no_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"x": [float("nan"), 1.5, (float("inf"),)]})
    assert files.read_json(tmp_path / "a.json") == {"x": [None, 1.5, [None]]}


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_damaged_json_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        files.read_json(tmp_path / "a.json")


def test_arrays_come_back_bit_for_bit_in_any_reader(tmp_path):
    import safetensors.numpy

    rng = np.random.default_rng(0)
    arrays = {
        "odd": rng.standard_normal((3, 5)).astype(np.float32).T,
        "count": np.array(7, np.int64),
        "half": rng.standard_normal((2, 1, 3)).astype(np.float16),
        "bytes": np.arange(3, dtype=np.uint8),
        "none": np.empty((0, 4), np.float64),
    }
    tensors.write(tmp_path / "a.safetensors", arrays, {"fact": "β"})
    found, facts = tensors.read(tmp_path / "a.safetensors")
    assert facts == {"fact": "β"}
    for reading in (found, safetensors.numpy.load_file(tmp_path / "a.safetensors")):
        assert reading.keys() == arrays.keys()
        for name, array in arrays.items():
            assert reading[name].dtype == array.dtype
            assert np.array_equal(reading[name], array)


def test_damaged_arrays_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors.write(path, {"x": np.zeros(4, np.float32)}, {})
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(UserError, match=r"a\.safetensors is damaged"):
        tensors.read(path)
