import errno
import json
import os

import numpy as np
import pytest

from engine.errors import UserError
from engine.store import files, journal, metrics, tensors

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


def written(path, count=5):
    """A journal of `count` events, and the offset at which each line ends."""
    ends = []
    writer = journal.Journal(path)
    for number in range(count):
        writer.append("Notice", {"level": "info", "message": f'β_{number} ,"crc32":"'})
        ends.append(path.stat().st_size)
    writer.close()
    return ends


def test_a_torn_journal_keeps_what_was_whole_at_every_byte_of_two_records(tmp_path):
    path = tmp_path / "journal.jsonl"
    ends = written(path)
    whole = path.read_bytes()
    for size in range(ends[2], len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends)
        assert [record.seq for record in journal.read(path)] == list(range(1, kept + 1))
        writer = journal.Journal(path)
        writer.append("Notice", {"message": "after"})
        writer.close()
        found = list(journal.read(path))
        assert [record.seq for record in found] == list(range(1, kept + 2))
        assert found[-1].payload == {"message": "after"}
        assert len(path.read_bytes().splitlines()) == kept + 1


def test_an_altered_line_is_not_believed(tmp_path):
    path = tmp_path / "journal.jsonl"
    ends = written(path)
    text = bytearray(path.read_bytes())
    text[ends[1] + 20] ^= 1
    path.write_bytes(text)
    assert [record.seq for record in journal.read(path)] == [1, 2, 4, 5]


def test_a_failed_append_leaves_the_journal_whole(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    writer = journal.Journal(path)
    writer.append("Notice", {"message": "first"})
    real = os.write

    def half(handle, data):
        if len(data) > 40:
            return real(handle, data[:40])
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(UserError, match="no room"):
            writer.append("Notice", {"message": "second " * 20})
    writer.append("Notice", {"message": "third"})
    writer.close()
    assert [record.payload["message"] for record in journal.read(path)] == ["first", "third"]


def test_metrics_come_back_and_a_torn_row_is_cut(tmp_path):
    path = tmp_path / "m.f32"
    rows = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    table = metrics.Metrics(path, ["a", "b", "c"])
    table.append(rows[:2])
    table.append(rows[2:])
    table.close()
    columns, found = metrics.read(path)
    assert columns == ["a", "b", "c"]
    assert np.array_equal(found, rows)
    assert json.loads(path.read_bytes().split(b"\n")[0])["dtype"] == "<f4"
    del found
    os.truncate(path, path.stat().st_size - 5)
    assert np.array_equal(metrics.read(path)[1], rows[:4])
    table = metrics.Metrics(path, columns)
    assert table.rows == 4
    table.append(rows[4:])
    table.close()
    assert np.array_equal(metrics.read(path)[1], rows)


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
