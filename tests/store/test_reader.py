import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from recorded import layout, opened, progress, record_recovery

from engine import events, store
from engine.errors import UserError
from engine.store import lock
from engine.store.json_file import write_json
from engine.store.lock import timestamp


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


def test_a_run_says_what_it_is_doing(tmp_path):
    stored = store.StoredRun(tmp_path / "r")
    run = opened(tmp_path / "r")
    assert stored.state() == "running"
    assert stored.owner()["pid"] == os.getpid()
    run.set_state("paused")
    assert stored.state() == "paused"
    for state in ("stopped", "failed", "finished"):
        run.close(state)
        assert stored.state() == state
        run = opened(tmp_path / "r")
    run.close("stopped")
    assert stored.owner() is None
    (tmp_path / "r" / "status.json").unlink()
    assert stored.state() == "new"


def ended():
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        told = {"pid": other.pid, "started": lock.process_start(other.pid)}
    return told


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_run_whose_process_is_gone_is_lost(tmp_path, state):
    opened(tmp_path / "r").close("stopped")
    stored, me = store.StoredRun(tmp_path / "r"), lock.this_process()

    def told(seconds=0, **changes):
        beat = {"state": state, **me, "time": timestamp(time.time() - seconds), **changes}
        write_json(tmp_path / "r" / "status.json", beat)
        return stored.state()

    assert told() == state
    assert told(10_000) == state  # alive, however long it says nothing
    assert told(**ended()) == "lost"
    assert told(started=me["started"] - 60) == "lost"  # the pid is another process's by now
    assert told(host="elsewhere") == state
    assert told(60, host="elsewhere") == state
    assert told(130, host="elsewhere") == "lost"
    assert told(host="elsewhere", time="yesterday") == "lost"
    assert told(130, state="finished") == "finished"


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "status.json"])
def test_every_flipped_byte_of_what_a_run_begins_with_is_told(tmp_path, name):
    opened(tmp_path / "r").close("stopped")
    path, stored = tmp_path / "r" / name, store.StoredRun(tmp_path / "r")
    whole = path.read_bytes()
    assert stored.config_yaml() == "seed: 0\n"
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1 << (place % 8)
        path.write_bytes(altered)
        assert stored.state() == "damaged"
        with pytest.raises(UserError, match=f"{name} is damaged"):
            stored.status() if name == "status.json" else stored.config_yaml()


def recorded(folder):
    run = opened(folder)
    record_recovery(run)
    run.record(events.EpochFinished("validate", "convnet", "random", 0, 1, 2, float("nan")))
    return run


def test_what_was_recorded_comes_back_with_its_numbers(tmp_path):
    recorded(tmp_path / "r").close("stopped")
    found = list(store.StoredRun(tmp_path / "r").events())
    wanted = [events.StageStarted("recover", 8, "iterations"), layout()]
    for batch in (1, 2):
        wanted += [progress(batch, 0), progress(batch, 2), events.BatchRecovered(batch, 2, 0.5, 2)]
    assert found[:-1] == wanted
    assert np.isnan(found[-1].loss)
    assert found[-1].accuracy is None


def test_numbers_that_were_damaged_or_replaced_are_nan(tmp_path):
    run = recorded(tmp_path / "r")
    run.record(layout(done=6))
    run.record(events.RecoverProgress(2, 2, 0.5, [2, 3], 4, [0.0, 0.0], [[[0.0, 0.0]]] * 2, 7.0))
    run.close("stopped")
    path = tmp_path / "r" / "metrics" / "recover.f32"
    content = bytearray(path.read_bytes())
    content[-8 * 6 * 4] ^= 1
    path.write_bytes(content)
    found = [event for event in store.StoredRun(tmp_path / "r").events() if event.kind == "RecoverProgress"]
    lost, whole = [found[0], found[3]], [found[1], found[2]]
    assert whole == [progress(1, 2), progress(2, 0)]
    assert found[4].ce == [0.0, 0.0]
    assert [event.iterations for event in lost] == [[0, 1], [2, 3]]
    assert all(np.isnan([*event.ce, *np.ravel(event.terms)]).all() for event in lost)
    assert np.shape(lost[0].terms) == (2, 1, 2)
    path.unlink()
    bare = [event for event in store.StoredRun(tmp_path / "r").events() if event.kind == "RecoverProgress"]
    assert np.isnan([event.ce for event in bare]).all()


def test_unknown_records_are_passed_over(tmp_path):
    run = opened(tmp_path / "r")
    run._journal.append("Later", {"x": 1})
    run._journal.append("Notice", {"volume": 1})
    run._journal.append("RecoverProgress", {"rows": [0, 2**40], "crc32": "0" * 8})
    run.record(events.Notice("info", "here"))
    run.close("stopped")
    assert list(store.StoredRun(tmp_path / "r").events()) == [events.Notice("info", "here")]


def test_a_growing_run_is_followed_until_told_to_stop(tmp_path):
    run, done, found = opened(tmp_path / "r"), threading.Event(), []

    def follow():
        for event in store.StoredRun(tmp_path / "r").follow(done.is_set, poll=0.005):
            found.append(event)

    follower = threading.Thread(target=follow)
    follower.start()
    record_recovery(run)
    until = time.monotonic() + 10
    while len(found) < 8 and time.monotonic() < until:
        time.sleep(0.005)
    assert len(found) == 8
    assert follower.is_alive()
    run.record(events.Notice("info", "the last"))
    done.set()
    follower.join(10)
    assert not follower.is_alive()
    assert found == list(store.StoredRun(tmp_path / "r").events())
    assert found[-1].message == "the last"
    run.close("stopped")


def test_the_stages_that_have_begun_are_known(tmp_path):
    run = opened(tmp_path / "r")
    stored = store.StoredRun(tmp_path / "r")
    assert stored.started_stages() == set()
    run.record(events.StageFinished("squeeze", 0.0, 0.0, reused=True))
    run.record(events.StageStarted("statistics", 1, "images"))
    run.record(events.StageStarted("recover", 1, "iterations"))
    run.close("stopped")
    assert stored.started_stages() == {"statistics", "recover"}
    assert stored.damage() == []


def test_runs_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path))
    opened(tmp_path / "digits-1").close("finished")
    assert store.find_run(str(tmp_path / "digits-1")).name == store.find_run("digits-1").name == "digits-1"
    assert [run.name for run in store.list_runs()] == ["digits-1"]
    with pytest.raises(UserError, match="no run digit-1") as caught:
        store.find_run("digit-1")
    assert "digits-1" in caught.value.hint


def test_runs_are_listed_by_when_they_were_begun_whatever_is_missing(tmp_path):
    def listed():
        return [run.name for run in store.list_runs(tmp_path)]

    for name, created in (("c", "2024-01-02T00:00:00Z"), ("a", "2024-01-03T00:00:00Z"), ("b", None)):
        manifest = {"identity": {}, **({"created": created} if created else {})}
        store.open_run(tmp_path / name, manifest, "").close("finished")
    os.utime(tmp_path / "b" / "manifest.json", (0, 0))
    os.utime(tmp_path / "a" / "config.yaml", (0, 0))
    assert listed() == ["b", "c", "a"]
    (tmp_path / "c" / "config.yaml").unlink()
    (tmp_path / "b" / "manifest.json").write_bytes(b"{")
    assert listed() == ["c", "a", "b"]
