"""The previews that a recovery keeps: where they are taken, what they show, and that they survive."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
from recorded import opened

from engine import store
from engine.errors import Stopped, UserError
from engine.runs.control import Control
from engine.store import preview_history, tensors
from engine.store.preview import Preview
from engine.store.preview_history import PreviewHistory, PreviewHistoryWriter, choose_positions

SHAPE = (3, 1, 4, 4)
SIZES = {"a": 2, "b": 3}  # eigenvalues by tap
REAL = {tap: np.arange(size, 0, -1).astype(np.float32) for tap, size in SIZES.items()}
FILE = "previews.safetensors"


def taken(batch, iteration, images=2):
    rng = np.random.default_rng([batch, iteration])
    pixels_MCHW = rng.integers(0, 256, (images, 1, 4, 4), np.uint8)
    return Preview(batch, iteration, 0.25 * batch, pixels_MCHW, np.arange(images), {}, 1.5e9 + iteration)


def written(path, upto=None, position=None, batches=3, iterations=20):
    """A history with the previews of the first `upto` positions, from a checkpoint on."""
    writer = PreviewHistoryWriter(path, batches, iterations, SHAPE, position)
    for place in choose_positions(batches, iterations)[:upto]:
        if position is None or place > position:
            writer.put(taken(*place))
    writer.sync()
    if upto is None:
        writer.finish()
    writer.close()
    return writer


@pytest.mark.parametrize("batches", [1, 2, 3, 7, 99, 100, 101, 5000])
@pytest.mark.parametrize("iterations", [1, 3, 10, 300, 4000])
def test_positions_are_few_and_have_the_start_and_the_end_of_each_batch(batches, iterations):
    positions = choose_positions(batches, iterations)
    assert positions == sorted(set(positions))
    assert len(positions) <= 200
    numbers = sorted({batch for batch, _ in positions})
    assert (numbers[0], numbers[-1]) == (1, batches)
    assert batches > 100 or len(numbers) == batches
    for number in numbers:
        mine = [iteration for batch, iteration in positions if batch == number]
        assert (mine[0], mine[-1]) == (0, iterations)
        gaps = np.diff(mine)
        assert gaps.max() - gaps.min() <= 1  # evenly spread
        assert gaps.min() >= min(9, iterations)
    assert np.ptp(np.diff(numbers)) <= 1 if len(numbers) > 1 else True


def test_the_largest_history_is_below_32_mb():
    assert preview_history.bytes_needed(100, 1000, (100, 3, 224, 224)) < 32e6


@pytest.mark.parametrize("upto", [None, 5])
def test_previews_come_back_as_they_were_written(tmp_path, upto):
    written(tmp_path / FILE, upto)
    history = PreviewHistory(tmp_path / FILE)
    assert history.positions == choose_positions(3, 20)[:upto]
    for place in history.positions:
        found, wanted = history.read(*place), taken(*place)
        assert (found.batch, found.iteration, found.beta, found.time) == (*place, wanted.beta, wanted.time)
        assert np.array_equal(found.images_MCHW, wanted.images_MCHW)
        assert np.array_equal(found.labels_M, wanted.labels_M)
        assert found.spectra == {}
    assert history.check() == []
    with pytest.raises(UserError, match="no preview of batch 1 after 3 iterations"):
        history.read(1, 3)


def with_spectra(place, taps=("a", "b")):
    synthetic = {tap: (place[1] * REAL[tap]).astype(np.float32) for tap in taps}
    return replace(taken(*place), spectra={tap: (REAL[tap], synthetic[tap]) for tap in taps})


def test_spectra_come_back_beside_those_of_the_real_images(tmp_path):
    writer = PreviewHistoryWriter(tmp_path / FILE, 1, 20, SHAPE, sizes=SIZES)
    writer.put(with_spectra((1, 0)))
    writer.put(with_spectra((1, 10), ["b"]))  # one that could not be decomposed
    writer.put(taken(1, 20))  # one that there was no time for
    writer.finish()
    history = PreviewHistory(tmp_path / FILE)
    first, second, last = (history.read(1, iteration, REAL).spectra for iteration in (0, 10, 20))
    assert list(first) == ["a", "b"]
    assert np.array_equal(first["b"][0], REAL["b"])
    assert np.array_equal(second["b"][1], 10 * REAL["b"])
    assert (list(second), list(last)) == (["b"], [])
    assert list(history.read(1, 0, {"a": REAL["a"]}).spectra) == ["a"]
    assert history.read(1, 0).spectra == {}
    assert history.check() == []


def test_a_history_without_spectra_is_as_it_was(tmp_path):
    """Files of earlier versions, and of runs whose previews have no spectra, have no such column."""
    written(tmp_path / FILE)
    columns = {"time", "beta", "count", "labels", "images", "sha256"}
    assert set(tensors.Header.read(tmp_path / FILE).parts) == columns
    assert PreviewHistory(tmp_path / FILE).read(1, 10, REAL).spectra == {}


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([64] * 3, [0, 1, 2]),
        ([64] * 41, None),
        ([512] * 41, None),
        ([6000, 2000, 6000], [2]),
        ([20_000], []),
        ([], []),
    ],
)
def test_spectra_are_kept_of_a_bounded_number_of_taps(sizes, chosen):
    kept = preview_history.choose_taps({str(number): size for number, size in enumerate(sizes)})
    assert sum(kept.values()) <= preview_history.MOST_EIGENVALUES
    assert len(kept) <= preview_history.MOST_TAPS
    numbers = [int(name) for name in kept]
    assert numbers == sorted(numbers)
    assert chosen is None or numbers == chosen
    assert not numbers or numbers[-1] == len(sizes) - 1


RESUMED = [((2, 10), 5), ((2, 9), 4), ((2, 0), 3), ((1, 0), 0), ((4, 0), 9)]


@pytest.mark.parametrize(("position", "kept"), RESUMED)
def test_resuming_drops_what_is_later_than_the_checkpoint(tmp_path, position, kept):
    positions = choose_positions(3, 20)
    assert len(positions) == 9
    written(tmp_path / FILE, 9)
    writer = PreviewHistoryWriter(tmp_path / FILE, 3, 20, SHAPE, position)
    assert writer.notice == ""
    assert PreviewHistory(tmp_path / FILE).positions == positions[:kept]
    writer.close()
    written(tmp_path / FILE, position=(position[0], position[1] or -1))
    assert PreviewHistory(tmp_path / FILE).positions == positions


def test_a_lost_or_damaged_history_starts_over_with_a_gap(tmp_path):
    writer = written(tmp_path / FILE, position=(1, 20))
    assert "is missing" in writer.notice
    assert PreviewHistory(tmp_path / FILE).positions == choose_positions(3, 20)[3:]
    assert PreviewHistory(tmp_path / FILE).check() == []


def test_a_damaged_preview_is_named_and_the_others_are_read(tmp_path):
    written(tmp_path / FILE)
    content = bytearray((tmp_path / FILE).read_bytes())
    content[bytes(content).index(taken(2, 0).images_MCHW.tobytes()) + 3] ^= 1
    (tmp_path / FILE).write_bytes(content)
    history = PreviewHistory(tmp_path / FILE)
    with pytest.raises(UserError, match="preview 3 does not match"):
        history.read(2, 0)
    assert len(history.check()) == 1
    assert history.read(2, 10).iteration == 10


def test_a_run_without_a_history_has_no_previews(tmp_path):
    opened(tmp_path / "r").close("stopped")
    stored = store.StoredRun(tmp_path / "r")
    assert stored.list_previews() == []
    assert store.verify_run(tmp_path / "r") == []
    with pytest.raises(UserError):
        stored.read_preview(1, 0)


def test_a_run_keeps_how_its_images_came_about(tmp_path):
    tiny.finish(tiny.begun(tmp_path, tiny.plan(checkpoint_seconds=60, recover={"init": "first"})))
    run = store.StoredRun(tmp_path / "run")
    images = run.images()
    assert run.list_previews() == [(1, 0), (1, 3), (2, 0), (2, 3)]
    train = tiny.plan().data.train
    for batch in (1, 2):
        end, start = run.read_preview(batch, 3), run.read_preview(batch, 0)
        mine = images.batch_N == batch
        assert np.array_equal(end.images_MCHW, np.rint(images.images_NCHW[mine] * 255))
        assert np.array_equal(end.labels_M, images.labels_N[mine])
        assert end.beta == pytest.approx(float(images.beta_N[mine][0]))
        first = [np.flatnonzero(train.labels_N.numpy() == label)[batch - 1] for label in end.labels_M]
        assert np.array_equal(start.images_MCHW, train.pixels(np.array(first)).numpy())
        latest = run.preview()
        other = [np.flatnonzero(train.labels_N.numpy() == label)[2] for label in latest.labels_M]
        assert np.array_equal(latest.real_MCHW, train.pixels(np.array(other)).numpy())
        assert list(end.spectra) == list(latest.spectra) != []
        for tap, (real_D, synthetic_D) in end.spectra.items():
            assert np.array_equal(real_D, latest.spectra[tap][0])
            assert batch == 1 or np.array_equal(synthetic_D, latest.spectra[tap][1])
            assert not np.array_equal(synthetic_D, start.spectra.get(tap, (0, 0))[1])
    assert store.verify_run(run.folder) == store.list_foreign_files(run.folder) == []
    shutil.copytree(run.folder, tmp_path / "copy")
    assert store.StoredRun(tmp_path / "copy").list_previews() == run.list_previews()
    store.delete_run(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_resumed_run_has_the_same_history_as_an_uninterrupted_one(tmp_path):
    settings = {"iterations": 30}
    tiny.finish(tiny.begun(tmp_path / "whole", tiny.plan(recover=settings)))
    asked = Control()
    work = tiny.begun(tmp_path / "cut", tiny.plan(recover=settings), asked)
    for event in work:
        if event.kind == "RecoverProgress" and event.batch == 2 and event.iterations[-1] >= 15:
            asked.ask("stop", "me")
            with pytest.raises(Stopped):
                tiny.finish(work)
            break
    run, whole = store.StoredRun(tmp_path / "cut" / "run"), store.StoredRun(tmp_path / "whole" / "run")
    assert (run.folder / f"{FILE}.partial").is_file()
    assert run.list_previews()[-1] == (2, 10)
    assert store.verify_run(run.folder) == store.list_foreign_files(run.folder) == []
    tiny.finish(tiny.begun(tmp_path / "cut", tiny.plan(recover=settings)))
    assert run.list_previews() == whole.list_previews() == choose_positions(2, 30)
    for place in run.list_previews():
        found, wanted = run.read_preview(*place), whole.read_preview(*place)
        assert np.array_equal(found.images_MCHW, wanted.images_MCHW)
        if place[1] == 30:  # whether earlier ones have spectra depends on the time
            assert found.spectra.keys() == wanted.spectra.keys() != set()
        for tap in found.spectra.keys() & wanted.spectra.keys():
            assert np.array_equal(found.spectra[tap][1], wanted.spectra[tap][1])


def test_a_disk_without_room_for_previews_does_not_stop_the_run(tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError("disk", "no room left", "free some space")

    monkeypatch.setattr(preview_history._Table, "put_rows", refuse)
    tiny.finish(tiny.begun(tmp_path / "a"))
    assert store.StoredRun(tmp_path / "a" / "run").list_previews() == []
    monkeypatch.setattr("engine.store.run.PreviewHistoryWriter", refuse)
    events = tiny.finish(tiny.begun(tmp_path / "b"))
    assert any("previews are not kept" in getattr(event, "message", "") for event in events)
    assert tiny.outcome(tmp_path / "a") == tiny.outcome(tmp_path / "b")
