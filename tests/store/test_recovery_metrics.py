"""The numbers of recovery over several sessions of a run."""

import numpy as np
from recorded import layout, opened, progress, record_recovery

from engine.store import metrics


def table(folder):
    return metrics.read(folder / "metrics" / "recover.f32")


def test_a_recovery_that_begins_anew_begins_its_numbers_anew(tmp_path):
    for taps in (1, 2):
        run = opened(tmp_path / "r")
        for cut in range(2):
            run.record(layout(taps=taps))
            run.record(progress(1, 0, 3 - cut, taps=taps))
        run.close("stopped")
        columns, rows = table(tmp_path / "r")
        assert len(columns) == 4 + taps
        assert rows[:, 1].tolist() == [0, 1]
        assert not np.isnan(rows).any()


def test_a_recovery_that_goes_on_keeps_the_numbers_before_it(tmp_path):
    run = opened(tmp_path / "r")
    record_recovery(run)
    run.close("stopped")
    whole = table(tmp_path / "r")[1].copy()
    run = opened(tmp_path / "r")
    run.record(layout(done=6))
    run.record(progress(2, 2))
    assert run.notices() == []
    assert np.array_equal(table(tmp_path / "r")[1], whole)
    run.close("stopped")
    damaged = bytearray((tmp_path / "r" / "metrics" / "recover.f32").read_bytes())
    damaged[-whole.nbytes] ^= 1
    (tmp_path / "r" / "metrics" / "recover.f32").write_bytes(damaged)
    run = opened(tmp_path / "r")
    run.record(layout(done=6))
    run.record(progress(2, 2))
    (told,) = run.notices()
    assert "rows 0 to 1 were damaged" in told
    assert run.notices() == []
    found = table(tmp_path / "r")[1]
    assert np.isnan(found[:2]).all()
    assert np.array_equal(found[2:], whole[2:])
    run.close("finished")
