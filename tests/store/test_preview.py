"""What a recovery lets others see of itself: written and read, in time, true, and without a trace."""

from functools import partial

import numpy as np
import pytest
import tiny
import torch
from recorded import opened
from stages import drive, recovered_tensors, small

from engine import checkpoint, store
from engine.checkpoint import Checkpoint, StageState
from engine.errors import UserError
from engine.events import BatchRecovered
from engine.runs import control
from engine.runs.control import Control, Steering
from engine.stages import statistics
from engine.stages.recover import recover
from engine.store import lock, preview


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


def seen(number=3):
    rng = np.random.default_rng(number)
    spectra = {f"layers.conv.{tap}": tuple(rng.random((2, 4 + tap)).astype(np.float32)) for tap in (0, 2, 10)}
    images = rng.integers(0, 256, (2, 3, 4, 4), np.uint8)
    real = None if number == 1 else 255 - images  # earlier versions wrote none
    return preview.Preview(number, 17, 0.25, images, np.array([4, 1]), spectra, 1.5e9, real)


def assert_same(found, wanted):
    for name in ("batch", "iteration", "beta", "time"):
        assert getattr(found, name) == getattr(wanted, name)
    assert np.array_equal(found.images_MCHW, wanted.images_MCHW)
    assert np.array_equal(found.labels_M, wanted.labels_M)
    assert np.array_equal(found.real_MCHW, wanted.real_MCHW)
    assert list(found.spectra) == list(wanted.spectra)
    for tap, both in wanted.spectra.items():
        assert all(map(np.array_equal, found.spectra[tap], both))


def test_a_glimpse_is_kept_and_replaced(tmp_path):
    run, stored = opened(tmp_path / "r"), store.StoredRun(tmp_path / "r")
    assert stored.preview() is None
    for number in (1, 2):
        run.save_preview(seen(number))
        assert_same(stored.preview(), seen(number))
    run.close("stopped")
    assert store.verify_run(tmp_path / "r") == store.list_foreign_files(tmp_path / "r") == []


def test_a_damaged_glimpse_is_none_and_is_named(tmp_path):
    opened(tmp_path / "r").close("stopped")
    path = tmp_path / "r" / "glimpse.safetensors"
    seen().write(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        altered = bytearray(whole)
        altered[place] ^= 1 << (place % 8)
        path.write_bytes(altered)
        assert store.StoredRun(tmp_path / "r").preview() is None
        assert any("glimpse.safetensors is damaged" in line for line in store.verify_run(tmp_path / "r"))


def test_the_last_glimpse_of_a_run_shows_its_last_batch_and_what_it_matched(tmp_path):
    tiny.finish(tiny.begun(tmp_path, tiny.plan(checkpoint_seconds=60)))
    run = store.StoredRun(tmp_path / "run")
    found, images = run.preview(), run.images()
    last = images.batch_N == images.batch_N.max()
    assert (found.batch, found.iteration) == (images.batch_N.max(), 3)
    assert found.beta == pytest.approx(float(images.beta_N[-1]))
    assert np.array_equal(found.images_MCHW, np.rint(images.images_NCHW[last] * 255))
    assert np.array_equal(found.labels_M, images.labels_N[last])
    entry = next((tmp_path / "cache" / "statistics").iterdir())
    real = store.Cache(tmp_path / "cache").load("statistics", entry.stem)
    moving, _ = store.tensors.read(tmp_path / "run" / "moving.safetensors")
    assert list(found.spectra) == real.info["taps"]
    for number, (real_D, synthetic_D) in enumerate(found.spectra.values()):
        for shown_D, cov_DD in (
            (real_D, real.arrays[f"{number}.cov_DD"]),
            (synthetic_D, moving[f"{number}.cov_DD"]),
        ):
            wanted_D = np.linalg.eigvalsh(cov_DD.astype(np.float64))[::-1]
            assert np.allclose(shown_D, wanted_D, atol=1e-5 * wanted_D[0])


def recovered(config, teacher, digits, cpu, at_save_point):
    """Recovery's images, its checkpoints shown."""
    real = drive(statistics.measure(config, teacher, digits.train, cpu))[1]
    events, _ = drive(recover(config, teacher, real, digits.train, cpu), at_save_point)
    return torch.cat([recovered_tensors(event)[0] for event in events if isinstance(event, BatchRecovered)])


def test_looking_changes_no_bit_and_shows_the_latest_iteration(teacher, digits, cpu, monkeypatch):
    """Every iteration that may be looked at shows the same as where all of them may be."""
    config = small(ipc=2)
    looks = {"never": {}, "always": {}, "seldom": {}}
    images = {}

    def look(name, point, _):
        found = point.preview() if point.preview else None
        if found is not None:
            looks[name][found.batch, found.iteration] = found

    for name, often in (("never", 0), ("always", 1), ("seldom", 4)):
        count = iter(range(10**6))
        monkeypatch.setattr(
            checkpoint.IntervalTimer, "due", lambda _, c=count, o=often: o > 0 and next(c) % o == o - 1
        )
        at = partial(look, name) if often else lambda *_: None
        images[name] = recovered(config, teacher, digits, cpu, at)
    assert torch.equal(images["never"], images["always"])
    assert torch.equal(images["never"], images["seldom"])
    assert set(looks["seldom"]) == {(1, 4), (2, 2), (2, 6)}
    assert set(looks["always"]) == {(b, i) for b in (1, 2) for i in range(1, 7)} - {(1, 6)}
    for where, found in looks["seldom"].items():
        other = looks["always"][where]
        assert np.array_equal(found.images_MCHW, other.images_MCHW)
        assert all(
            np.array_equal(a, b)
            for tap in other.spectra
            for a, b in zip(found.spectra[tap], other.spectra[tap], strict=True)
        )


def test_large_images_are_made_smaller_and_many_are_left_out(teacher, digits, cpu, monkeypatch):
    monkeypatch.setattr("engine.store.preview.Preview.MOST_IMAGES", 3)
    monkeypatch.setattr("engine.store.preview.Preview.MOST_PIXELS", 4)
    found = []
    recovered(
        small(ipc=1),
        teacher,
        digits,
        cpu,
        lambda point, _: found.append(point.preview()) if point.preview else 0,
    )
    images = recovered(small(ipc=1), teacher, digits, cpu, lambda *_: None)[:3]
    wanted = images.reshape(3, 1, 4, 4, 4, 4).mean(dim=(3, 5)).mul(255)
    assert np.abs(found[-1].images_MCHW - wanted.numpy()).max() <= 0.5 + 1e-3
    assert found[-1].labels_M.tolist() == [0, 1, 2]


def test_diagonal_statistics_have_no_spectrum(teacher, digits, cpu):
    config = small(ipc=1, objective={"terms": [{"filter": "diagonal", "signal": "none", "weight": 1.0}]})
    found = []
    recovered(
        config, teacher, digits, cpu, lambda point, _: found.append(point.preview()) if point.preview else 0
    )
    assert found[-1].spectra == {}


# --- how often ----------------------------------------------------------------------------------------


class Slow:
    """A run in which a glimpse takes a while of a clock of its own."""

    def __init__(self, clock, seconds, error=None):
        self.clock, self.seconds, self.error = clock, seconds, error
        self.looks = []

    def requests(self):
        return []

    def checkpoint(self, *_):
        return 1, 1

    def save_preview(self, found):
        self.looks.append(self.clock[0])
        self.clock[0] += self.seconds
        if self.error is not None:
            raise self.error


def looked(monkeypatch, seconds, error=None, every=5.0, points=4000):
    """When glimpses were taken in a stage of checkpoints, a quarter of a second apart; and its end."""
    clock = [0.0]
    monkeypatch.setattr(control.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(control.time, "perf_counter", lambda: clock[0])
    run = Slow(clock, seconds, error)

    def stage():
        for _ in range(points):
            clock[0] += 0.25
            yield Checkpoint("recover", StageState, preview=seen)
        yield Checkpoint("recover", StageState, always=True, preview=seen)

    steering = Steering(run, Control(), every)
    for point in stage():
        list(steering.handle(point))
    return run.looks, clock[0]


def test_quick_glimpses_are_taken_every_two_seconds_and_at_the_end(monkeypatch):
    looks, end = looked(monkeypatch, 0.001)
    assert looks[0] == 0.25
    assert np.allclose(np.diff(looks[:-1]), 2.0, atol=0.3)
    assert looks[-1] == pytest.approx(end, abs=0.01)


def test_slow_glimpses_take_half_a_percent_of_the_time(monkeypatch):
    looks, end = looked(monkeypatch, 0.5, points=40_000)
    assert 0.0025 < len(looks) * 0.5 / end <= 0.0055


def test_who_wants_checkpoints_everywhere_gets_glimpses_everywhere(monkeypatch):
    assert len(looked(monkeypatch, 0.5, every=0, points=20)[0]) == 21


@pytest.mark.parametrize("error", [UserError("disk", "no room", ""), OSError(5, "I/O error")])
def test_a_disk_that_refuses_a_glimpse_does_not_stop_the_run(monkeypatch, error):
    assert len(looked(monkeypatch, 0.001, error, points=20)[0]) == 4
