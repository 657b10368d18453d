import random
import shutil

import numpy as np
import pytest
from recorded import CLASSES, layout, logits, opened, pixels, progress, record_recovery

from engine import store
from engine.store import control, lock

FREE = {"lock", "log.txt"}


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


def whole_run(folder):
    """A run at work that has left every kind of file, finished and not."""
    run = opened(folder)
    record_recovery(run)
    writer = run.image_writer((4, 1, 4, 4), CLASSES)
    for batch in (1, 2):
        writer.add(pixels()[2 * batch - 2 : 2 * batch], np.array([0, 1]), batch, 0.5, np.ones(2))
        run.checkpoint("recover", {"x": np.arange(3.0)}, {"batch": batch})
    writer.finish()
    run.save_moving({"x": np.arange(3)})
    for source in ("distilled", "random"):
        writer = run.label_writer(source, (3, 4, 2))
        for epoch, logits_NK in enumerate(logits()[: 3 if source == "distilled" else 2]):
            writer.put(epoch, logits_NK)
        if source == "distilled":
            writer.finish()
    run.checkpoint("relabel", {}, {"source": "random", "epochs": 2})
    run.save_results({"summary": {}})
    with store.open_log(folder) as log:
        log.write(b"loading\n")
    control.request(folder, "pause")
    return run


def cut_recovery(folder):
    """A run that was cut in its second batch, taken up, and cut again."""
    run = opened(folder)
    writer = run.image_writer((4, 1, 4, 4), CLASSES)
    record_recovery(run)
    writer.add(pixels()[:2], np.array([0, 1]), 1, 0.5, np.ones(2))
    run.record(layout(done=6))
    run.record(progress(2, 2))
    run.checkpoint("recover", {"x": np.arange(3.0)}, {"batch": 2})
    run.close("stopped")
    return run


def in_unused_rows(path, place):
    """Whether a byte belongs to rows of an unfinished table that were not written yet."""
    return path.suffix == ".partial" and path.read_bytes()[place] == 0


@pytest.mark.parametrize("make", [whole_run, cut_recovery])
def test_flipped_bytes_are_told_by_file_and_nothing_is_changed(tmp_path, make):
    run = make(tmp_path / "at work")
    folder = shutil.copytree(tmp_path / "at work", tmp_path / "r")
    run.close("stopped")
    assert store.verify_run(folder) == []
    assert store.list_foreign_files(folder) == []
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in FREE]
    assert len(files) >= 9
    rng = random.Random(0)
    for path in files:
        content = path.read_bytes()
        places = rng.sample(range(len(content)), min(12, len(content)))
        for place in places:
            if in_unused_rows(path, place):
                continue
            altered = bytearray(content)
            altered[place] ^= 1 << rng.randrange(8)
            path.write_bytes(altered)
            found = store.verify_run(folder)
            assert any(path.name in told for told in found), (path, place, found)
            assert path.read_bytes() == altered
        path.write_bytes(content)
    assert store.verify_run(folder) == []


def test_missing_files_are_told(tmp_path):
    run = whole_run(tmp_path / "r")
    run.close("finished")
    folder = tmp_path / "r"
    for name in (
        "config.yaml",
        "manifest.json",
        "journal.jsonl",
        "metrics/recover.f32",
        "images/bee/0001.png",
    ):
        path = folder / name
        path.rename(folder / "log.txt")
        assert any(path.name in told for told in store.verify_run(folder)), name
        (folder / "log.txt").rename(path)
    assert store.verify_run(folder) == []


def of_the_record(folder):
    """Damage of journal and metrics."""
    return [told for told in store.verify_run(folder) if "journal.jsonl" in told or "recover.f32" in told]


def test_a_torn_journal_and_numbers_behind_it_are_told(tmp_path):
    run = opened(tmp_path / "r")
    record_recovery(run)
    run.close("stopped")
    path = tmp_path / "r" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines)[:-5])
    (told,) = of_the_record(tmp_path / "r")
    assert "journal.jsonl: torn" in told
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    told = of_the_record(tmp_path / "r")
    assert len(told) == 2
    assert "record 4 is missing" in told[0]
    assert "rows 2 to 3 are damaged" in told[1]


def test_what_is_not_of_the_run_is_told_apart(tmp_path):
    opened(tmp_path / "r").close("stopped")
    (tmp_path / "r" / "notes.txt").touch()
    (tmp_path / "r" / "old").mkdir()
    (tmp_path / "r" / "old" / "status.json").touch()
    (tmp_path / "r" / "images").mkdir()
    (tmp_path / "r" / "images" / "holiday.jpg").touch()
    assert store.verify_run(tmp_path / "r") == []
    found = [str(path.relative_to(tmp_path / "r")) for path in store.list_foreign_files(tmp_path / "r")]
    assert sorted(found) == ["images/holiday.jpg", "notes.txt", "old/status.json"]


def test_results_that_are_gone_are_named(tmp_path):
    opened(tmp_path / "r").close("finished")
    assert store.verify_run(tmp_path / "r") == [f"{tmp_path / 'r' / 'results.json'} does not exist"]
