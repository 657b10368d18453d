import json
import os

import numpy as np
import pytest

from engine.errors import UserError
from engine.store import metrics
from engine.store.journal import Record

COLUMNS = ["a", "b", "c"]
ROWS = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)


def written(path):
    """Nine rows in three chunks."""
    table = metrics.Metrics(path, COLUMNS)
    chunks = [table.append(ROWS[first:end]) for first, end in ((0, 2), (2, 6), (6, 9))]
    table.close()
    return chunks


def reopened(path, rows, chunks):
    table = metrics.Metrics(path, COLUMNS, rows, chunks)
    table.close()
    return metrics.read(path)[1].copy(), table.notices


def test_rows_come_back_and_a_torn_one_is_passed_over(tmp_path):
    path = tmp_path / "m.f32"
    written(path)
    columns, found = metrics.read(path)
    assert columns == COLUMNS
    assert np.array_equal(found, ROWS)
    assert json.loads(path.read_bytes().split(b"\n")[0])["dtype"] == "<f4"
    del found
    os.truncate(path, path.stat().st_size - 5)
    assert np.array_equal(metrics.read(path)[1], ROWS[:8])


@pytest.mark.parametrize("rows", [0, 2, 6, 9])
def test_a_table_goes_on_after_the_rows_that_are_to_stay(tmp_path, rows):
    path = tmp_path / "m.f32"
    chunks = written(path)
    table = metrics.Metrics(path, COLUMNS, rows, chunks)
    new = table.append(-ROWS[rows:])
    table.close()
    assert table.notices == []
    assert (new.first, new.end) == (rows, 9)
    assert np.array_equal(metrics.read(path)[1], np.concatenate([ROWS[:rows], -ROWS[rows:]]))


def test_every_flipped_byte_of_the_rows_becomes_nan_by_its_chunk(tmp_path):
    path = tmp_path / "m.f32"
    chunks = written(path)
    whole = path.read_bytes()
    start = len(whole) - ROWS.nbytes
    for place in range(start, len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 4
        path.write_bytes(altered)
        found, notices = reopened(path, 9, chunks)
        (hit,) = [chunk for chunk in chunks if chunk.first <= (place - start) // 12 < chunk.end]
        wanted = ROWS.copy()
        wanted[hit.first : hit.end] = np.nan
        assert np.array_equal(found, wanted, equal_nan=True)
        assert notices == [f"{path}: rows {hit.first} to {hit.end - 1} were damaged; they are NaN now"]
        assert reopened(path, 9, chunks)[1] == []  # said once


def test_every_flipped_byte_of_the_header_is_noticed_and_mended(tmp_path):
    path = tmp_path / "m.f32"
    chunks = written(path)
    whole = path.read_bytes()
    for place in range(len(whole) - ROWS.nbytes):
        altered = bytearray(whole)
        altered[place] ^= 1 << (place % 8)
        path.write_bytes(altered)
        with pytest.raises(UserError, match=r"m\.f32 is damaged: its header"):
            metrics.read(path)
        found, notices = reopened(path, 9, chunks)
        assert np.array_equal(found, ROWS)
        assert len(notices) == 1
        assert path.read_bytes() == whole


def test_missing_rows_become_nan(tmp_path):
    path = tmp_path / "m.f32"
    chunks = written(path)
    os.truncate(path, path.stat().st_size - 4 * 3 * 4)
    found, notices = reopened(path, 9, chunks)
    assert np.array_equal(found[:2], ROWS[:2])
    assert np.isnan(found[2:]).all()
    assert len(notices) == 2
    path.unlink()
    assert np.isnan(reopened(path, 6, chunks)[0]).all()


def test_rows_that_no_record_speaks_of_are_not_believed(tmp_path):
    path = tmp_path / "m.f32"
    chunks = written(path)
    found, notices = reopened(path, 9, [chunks[0], chunks[2]])
    assert np.isnan(found[2:6]).all()
    assert np.array_equal(found[6:], ROWS[6:])
    assert len(notices) == 1


def test_a_later_record_replaces_all_rows_from_its_first_on():
    def record(first, end, crc32="0" * 8, kind="RecoverProgress"):
        return Record(1, 0.0, kind, {"rows": [first, end], "crc32": crc32})

    told = [record(0, 4), record(4, 8), record(8, 9), record(4, 6, "1" * 8), record(0, 9, kind="Other")]
    assert metrics.valid_chunks(told) == [(0, 4, "0" * 8), (4, 6, "1" * 8)]
    odd = [{}, {"rows": [0], "crc32": ""}, {"rows": [2, 1], "crc32": ""}, {"rows": ["0", 1], "crc32": ""}]
    assert metrics.valid_chunks(Record(1, 0.0, "RecoverProgress", payload) for payload in odd) == []


def test_chunks_are_read_together_and_refused_one_by_one(tmp_path):
    path = tmp_path / "m.f32"
    chunks = written(path)

    def read(*held, columns=COLUMNS, where=path):
        table = metrics.TableReader(where)
        try:
            return table.rows(list(held), columns)
        finally:
            table.close()

    assert np.array_equal(read(chunks[1]), ROWS[2:6])
    assert np.array_equal(read(*chunks), ROWS)
    found = read(chunks[0], chunks[1]._replace(crc32="0" * 8), chunks[2])
    assert np.isnan(found[2:6]).all()
    assert np.array_equal(found[:2], ROWS[:2])
    assert np.array_equal(found[6:], ROWS[6:])
    assert np.isnan(read(chunks[1]._replace(end=5))).all()
    assert np.isnan(read(chunks[1], columns=COLUMNS[::-1])).all()
    assert np.isnan(read(chunks[1], where=tmp_path / "none")).all()
    os.truncate(path, path.stat().st_size - 1)
    found = read(*chunks)
    assert np.array_equal(found[:6], ROWS[:6])
    assert np.isnan(found[6:]).all()


def test_a_table_that_is_replaced_is_read_after_it_was_closed(tmp_path):
    path = tmp_path / "m.f32"
    chunks = written(path)
    table = metrics.TableReader(path)
    table.rows(chunks, COLUMNS)
    other = metrics.Metrics(path, COLUMNS)
    chunk = other.append(-ROWS[:1])
    other.close()
    table.close()
    assert np.array_equal(table.rows([chunk], COLUMNS), -ROWS[:1])
    table.close()
