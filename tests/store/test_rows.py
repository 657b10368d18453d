import errno

import numpy as np
import pytest
import safetensors.numpy
from faulty_disk import FaultyDisk

from engine.errors import UserError
from engine.store import files, rows

R = 6
SHAPES = {"small": ("<f2", (R, 3)), "number": ("<i8", (R,)), "wide": ("<f4", (R, 2, 2))}
FACTS = {"made": "β"}


def columns(first, count, seed=0):
    rng = np.random.default_rng(seed)
    every = {
        "small": rng.standard_normal((R, 3)).astype(np.float16),
        "number": rng.integers(0, 99, R),
        "wide": rng.standard_normal((R, 2, 2)).astype(np.float32),
    }
    return {name: values[first : first + count] for name, values in every.items()}


def written(path, done=0, upto=R, **more):
    writer = rows.RowWriter(path, SHAPES, FACTS, done, **more)
    for row in range(done, upto):
        writer.put_rows(row, columns(row, 1))
    if upto == R:
        writer.finish()
    writer.sync() if upto < R else None
    writer.close()


def test_rows_come_back_in_any_order_and_in_any_reader(tmp_path):
    path = tmp_path / "t.safetensors"
    written(path)
    table = rows.Rows(path)
    assert (table.count, table.metadata, table.shape("wide")) == (R, FACTS, (R, 2, 2))
    for first, count in ((0, R), (4, 2), (1, 1), (R, 0), (0, 0)):
        found = table.read(first, count)
        for name, values in columns(first, count).items():
            assert np.array_equal(found[name], values)
            assert found[name].dtype == values.dtype
    elsewhere = safetensors.numpy.load_file(path)
    assert np.array_equal(elsewhere["wide"], columns(0, R)["wide"])


@pytest.mark.parametrize("done", range(R))
def test_a_table_taken_up_at_any_count_ends_as_one_written_at_once(tmp_path, done):
    written(tmp_path / "whole")
    path = tmp_path / "t"
    writer = rows.RowWriter(path, SHAPES, FACTS)
    for row in range(R):  # more than `done`: what no checkpoint knew of
        writer.put_rows(row, columns(row, 1, seed=int(row >= done)))
    writer.close()
    seen = []
    written(path, done, on_rows=lambda first, kept: seen.append((first, len(kept["number"]))))
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert sum(count for _, count in seen) == done
    assert not rows.partial(path).exists()


def test_any_altered_byte_is_noticed_with_the_row_that_it_is_in(tmp_path):
    path = tmp_path / "t"
    written(path)
    whole = path.read_bytes()
    header = len(rows.Rows(path).header.raw)
    named = set()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(UserError, match="t is damaged: ") as caught:
            rows.Rows(path, "image").read(0, R)
        assert ("image" in caught.value.message) == (at >= header)
        if at >= header:
            (row,) = rows.Rows(path).damaged_rows()
            assert f"image {row} " in caught.value.message
            named.add(row)
            for other in set(range(R)) - {row}:
                rows.Rows(path).read(other, 1)
    assert named == set(range(R))


def test_rows_that_changed_places_are_noticed(tmp_path):
    path = tmp_path / "t"
    written(path)
    whole = bytearray(path.read_bytes())
    for part in rows.Rows(path).header.parts.values():
        width = part.size // R
        first, second = (slice(part.start + row * width, part.start + (row + 1) * width) for row in (1, 2))
        whole[first], whole[second] = whole[second], whole[first]
    path.write_bytes(whole)
    assert rows.Rows(path).damaged_rows() == [1, 2]


@pytest.mark.parametrize("size", [0, 7, 100, -1, 1])
def test_a_table_of_another_size_is_noticed(tmp_path, size):
    path = tmp_path / "t"
    written(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:size] if size < 1 or size > 1 else whole + b"\0")
    with pytest.raises(UserError, match="t is damaged"):
        rows.Rows(path)


def test_only_the_rows_that_are_kept_must_stand(tmp_path):
    path = tmp_path / "t"
    written(path, upto=4)
    partial = rows.partial(path)
    part = rows.Rows(partial).header.parts["number"]
    content = bytearray(partial.read_bytes())
    content[part.start + 2 * 8] ^= 1
    partial.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.partial is damaged: row 2 does not match its checksum"):
        written(path, 3)
    written(path, 2)
    assert rows.Rows(path).damaged_rows() == []


def test_rows_that_were_never_written_are_not_taken_for_zeros(tmp_path):
    path = tmp_path / "t"
    written(path, upto=4)
    with pytest.raises(UserError, match="row 4 does not match"):
        rows.RowWriter(path, SHAPES, FACTS, 5)


@pytest.mark.parametrize(
    ("shapes", "facts"),
    [
        (SHAPES, {"made": "γ"}),
        ({**SHAPES, "number": ("<i4", (R,))}, FACTS),
        ({"number": ("<i8", (R,))}, FACTS),
    ],
)
def test_another_table_is_not_taken_up(tmp_path, shapes, facts):
    written(tmp_path / "t", upto=4)
    with pytest.raises(UserError, match="a different table"):
        rows.RowWriter(tmp_path / "t", shapes, facts, 2)


def test_beginning_anew_discards_what_was_there(tmp_path):
    path = tmp_path / "t"
    written(path)
    rows.RowWriter(path, SHAPES, FACTS).close()
    assert not path.exists()
    assert rows.Rows(rows.partial(path)).damaged_rows() == list(range(R))


def test_a_full_disk_is_met_before_the_first_row_and_its_room_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "disk", FaultyDisk(1, errno.ENOSPC, ("allocate",)))
    with pytest.raises(UserError, match=r"[\d,]+ bytes are needed"):
        rows.RowWriter(tmp_path / "t", SHAPES, FACTS)
    assert not list(tmp_path.iterdir())


def test_rows_are_synced_when_asked_and_not_each_time(tmp_path, monkeypatch):
    disk = FaultyDisk()
    monkeypatch.setattr(files, "disk", disk)
    writer = rows.RowWriter(tmp_path / "t", SHAPES, FACTS)
    before = disk.calls["fsync"]
    for row in range(R):
        writer.put_rows(row, columns(row, 1))
    assert disk.calls["fsync"] == before
    writer.finish()
    assert disk.calls["fsync"] == before + 2  # the file, and the folder that holds its name
