"""Loss curves of any record: means and bounds of buckets, and what was done again counts once."""

import numpy as np
from recorded import layout, opened, progress, record_recovery

from engine import events, store
from engine.report.losses import LossCourse, LossRecord

TAPS = ["conv0", "conv1"]


def test_curves_are_means_and_bounds_of_their_buckets():
    rng = np.random.default_rng(0)
    batches, iterations, taps = 7, 300, 3
    shape = events.RecoverLayout(["a", "b", "c"], ["ridge/none", "ridge/mean"], [0.1] * batches)
    table = rng.standard_normal((batches * iterations, 4 + 2 * taps)).astype(np.float32)
    table[100:130, 6] = np.nan
    found = LossCourse(shape, iterations)
    for first in range(0, len(table), 128):
        found.add(first, table[first : first + 128])
    each = -(-len(table) // LossCourse.BUCKETS)
    assert found.stride == each == 6
    wide = table.astype(np.float64)
    for column, curve in ((3, found.ce()), (6, found.term(0, 2)), (7, found.term(1, 0))):
        parts = [wide[start : start + each, column] for start in range(0, len(wide), each)]
        known = [part[np.isfinite(part)] for part in parts]
        assert any(len(part) == 0 for part in known) == (column == 6)
        for of, got in ((np.mean, curve.mean_B), (np.min, curve.low_B), (np.max, curve.high_B)):
            wanted = [of(part) if len(part) else np.nan for part in known]
            np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
    assert found.x_B[0] == 2.5


def test_the_record_is_read_as_it_was_written_and_what_was_done_again_counts_once(tmp_path):
    run = opened(tmp_path / "run")
    record_recovery(run)
    run.record(events.Notice("warning", "careful"))
    run.record(layout(done=4))  # the second batch is cut and done again
    run.record(progress(2, 0))
    run.record(progress(2, 2))
    run.close("stopped")
    found = LossRecord.read(store.StoredRun(tmp_path / "run"))
    assert found.warnings == ("careful",)
    course = found.course
    np.testing.assert_array_equal(course.x_B, np.arange(8))
    wanted = [batch + number / 8 for batch in (1, 2) for number in range(4)]
    np.testing.assert_array_equal(course.ce().mean_B, wanted)
    np.testing.assert_array_equal(course.term(0, 1).mean_B[:2], [1 + 1 / 32, 1 + 1 / 16 + 1 / 32])
    told = course.to_dict()
    assert (told["iterations"], told["stride"]) == (8, 1)
    assert [layer["name"] for layer in told["layers"]] == TAPS
