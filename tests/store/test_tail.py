import math

import numpy as np
import pytest
from recorded import layout, opened, progress, record_recovery

from engine import events, store
from engine.errors import UserError
from engine.store import RunFile, journal, lock, tail


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


def row(batch, iteration):
    """A row of the table as `recorded.progress` tells it."""
    terms = [batch + iteration / 16 + tap / 32 for tap in range(2)]
    return [batch, iteration, 0.5, batch + iteration / 8, *terms]


def table(found, rows=8):
    """The numbers after all that was found: what comes later replaces what was there."""
    values = np.full((rows, 6), 77.0)
    for told in found:
        if isinstance(told, tail.TailRows):
            values[told.first : told.first + len(told.values_RP)] = told.values_RP
    return values


WANTED = [row(batch, iteration) for batch in (1, 2) for iteration in range(4)]


def kinds(found):
    return ["Rows" if isinstance(told, tail.TailRows) else told.event.kind for told in found]


def test_a_record_is_read_with_its_numbers_together(tmp_path):
    run = opened(tmp_path / "r")
    record_recovery(run)
    run.record(events.Notice("info", "the end"))
    run.close("stopped")
    reader = store.StoredRun(tmp_path / "r").tail()
    found = reader.read_new()
    assert kinds(found) == ["StageStarted", "RecoverLayout", *["Rows", "BatchRecovered"] * 2, "Notice"]
    assert np.array_equal(table(found), WANTED)
    second = found[4]
    assert (second.batch, second.batches, second.beta, second.total_iterations) == (2, 2, 0.5, 4)
    assert (second.rate, second.first) == (7.0, 4)
    assert reader.layout == layout()
    assert not reader.behind
    assert reader.read_new() == []
    written = [told.time for told in found]
    assert written == sorted(written)


def test_it_tells_what_the_events_tell(tmp_path):
    """Expected: `StoredRun.events`, a record each; and the arrays that were recorded."""
    run = opened(tmp_path / "r")
    record_recovery(run)
    run.record(layout(done=6))
    run.record(events.RecoverProgress(2, 2, 0.5, [2, 3], 4, [0.0, 0.0], [[[0.0, 0.0]]] * 2, 9.0))
    run.record(events.EpochFinished("validate", "convnet", "random", 0, 1, 2, float("nan")))
    run.close("stopped")
    stored = store.StoredRun(tmp_path / "r")
    found = stored.tail().read_new()
    told = [each for each in stored.events() if each.kind == "RecoverProgress"]
    by_event = np.array([value for event in told for value in event.ce])
    by_tail = np.concatenate([each.values_RP[:, 3] for each in found if isinstance(each, tail.TailRows)])
    assert np.array_equal(by_event, by_tail, equal_nan=True)
    assert np.isnan(by_tail).sum() == 2  # the rows that were replaced later
    others = [each.event for each in found if isinstance(each, tail.RecordedEvent)]
    assert others[:-1] == [e for e in stored.events() if e.kind != "RecoverProgress"][:-1]
    assert math.isnan(others[-1].loss)
    assert np.array_equal(table(found)[6:], [[2, 2, 0.5, 0, 0, 0], [2, 3, 0.5, 0, 0, 0]])
    assert np.array_equal(table(found)[:6], WANTED[:6])


def test_damaged_rows_are_nan_and_their_neighbours_are_read(tmp_path):
    run = opened(tmp_path / "r")
    record_recovery(run)
    run.close("stopped")
    path = tmp_path / "r" / RunFile.METRICS
    content = bytearray(path.read_bytes())
    content[-5 * 6 * 4] ^= 1  # row 3, the second chunk
    path.write_bytes(content)
    found = table(store.StoredRun(tmp_path / "r").tail().read_new())
    assert np.isnan(found[2:4]).all()
    kept = [0, 1, 4, 5, 6, 7]
    assert np.array_equal(found[kept], np.array(WANTED)[kept])
    path.unlink()
    assert np.isnan(table(store.StoredRun(tmp_path / "r").tail().read_new())).all()


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_growing_record_is_read_in_pieces(tmp_path, seconds):
    run = opened(tmp_path / "r")
    reader, found = store.StoredRun(tmp_path / "r").tail(), []

    def read():
        count = 0
        while count == 0 or reader.behind:
            found.extend(reader.read_new(seconds))
            count += 1
        return count

    assert read() == 1
    record_recovery(run)
    pieces = read()
    assert (pieces == 1) if seconds else (pieces >= 8)
    run.record(layout(done=4))
    run.record(progress(2, 0, 4))
    read()
    run.close("stopped")
    assert np.array_equal(table(found), WANTED)
    assert reader.damage() == []


def test_a_torn_tail_is_waited_for(tmp_path):
    run = opened(tmp_path / "r")
    record_recovery(run)
    run.close("stopped")
    path = tmp_path / "r" / RunFile.JOURNAL
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    reader = store.StoredRun(tmp_path / "r").tail()
    found = reader.read_new()
    assert kinds(found)[-1] == "Rows"
    assert "torn" in reader.damage()[0]
    path.write_bytes(whole)
    assert kinds(reader.read_new()) == ["BatchRecovered"]
    assert reader.damage() == []


def test_a_table_that_is_written_anew_while_it_is_read_is_read(tmp_path, monkeypatch):
    """The reader stands between two records when the run is taken up and the table replaced."""
    run = opened(tmp_path / "r")
    record_recovery(run)
    reader = store.StoredRun(tmp_path / "r").tail()
    piece = reader._read_until(math.inf)
    found = [next(piece) for _ in range(3)]
    (tmp_path / "r" / RunFile.METRICS).write_bytes(b"x")
    run.record(layout(done=0))
    run.record(progress(1, 0, 4))
    run.record(events.BatchRecovered(1, 2, 0.5, 2))
    found += piece
    run.close("stopped")
    assert np.array_equal(table(found)[:4], WANTED[:4])


def test_a_disk_that_refuses_is_told_after_what_it_gave_and_nothing_is_lost(tmp_path, monkeypatch):
    run = opened(tmp_path / "r")
    record_recovery(run)
    run.close("stopped")
    whole = kinds(store.StoredRun(tmp_path / "r").tail().read_new())
    reader, real, calls = store.StoredRun(tmp_path / "r").tail(), journal._decode, []

    def decode(line):
        calls.append(line)
        if len(calls) == 5:
            raise OSError(5, "Input/output error")
        return real(line)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_decode", decode)
        found = reader.read_new()
        assert kinds(found) == ["StageStarted", "RecoverLayout", "Rows"]
        assert reader.behind
        calls.clear()
        calls.extend("....")
        with pytest.raises(UserError, match=r"cannot read .*journal\.jsonl"):
            reader.read_new()
    assert kinds(found + reader.read_new()) == whole


def test_a_run_without_a_record_has_nothing_to_read(tmp_path):
    assert store.StoredRun(tmp_path / "none").tail().read_new() == []
