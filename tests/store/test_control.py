import json
import os
import threading
import time

import pytest

from engine.store import control, lock
from engine.store.json_file import read_json


def test_requests_are_taken_in_order_and_once(tmp_path):
    inbox = control.Inbox(tmp_path)
    assert inbox.take() == []
    asked = ["pause", "checkpoint", "continue", "pause", "stop"]
    files = [control.request(tmp_path, command) for command in asked]
    assert all(file.exists() for file in files)
    found = inbox.take()
    assert [request.command for request in found] == asked
    assert {request.by for request in found} == {f"{control._user_name()}@{os.uname().nodename}"}
    assert not any(file.exists() for file in files)
    assert inbox.take() == []


def test_order_is_by_time_and_not_by_name(tmp_path):
    inbox = control.Inbox(tmp_path)
    later = control.request(tmp_path, "pause")
    later.rename(later.with_name("1000.pause"))
    earlier = control.request(tmp_path, "stop")
    earlier.rename(earlier.with_name("999.stop"))
    assert [request.command for request in inbox.take()] == ["stop", "pause"]


def test_what_was_asked_of_an_earlier_owner_is_not_obeyed(tmp_path):
    old = control.request(tmp_path, "stop")
    inbox = control.Inbox(tmp_path)
    assert not old.exists()
    assert inbox.take() == []


def test_a_request_that_cannot_be_removed_is_obeyed_once(tmp_path, monkeypatch):
    from engine.errors import UserError

    def refuse(path):
        raise UserError("disk", f"cannot write {path}")

    inbox = control.Inbox(tmp_path)
    control.request(tmp_path, "pause")
    monkeypatch.setattr(control, "remove", refuse)
    assert len(inbox.take()) == 1
    assert inbox.take() == []


def test_altered_and_foreign_files_are_not_obeyed(tmp_path):
    inbox = control.Inbox(tmp_path)
    whole = control.request(tmp_path, "stop")
    text = whole.read_bytes()
    for place in range(len(text)):
        altered = bytearray(text)
        altered[place] ^= 4
        (whole.parent / f"{place}.stop").write_bytes(altered)
    for name in ("notes.txt", "1.dance", "x.stop", "²3.stop", ".1.stop.tmp"):
        (whole.parent / name).touch()
    whole.unlink()
    assert inbox.take() == []
    assert len(inbox.notices) == len(text)
    assert all("damaged" in notice and "ignored" in notice for notice in inbox.notices)
    assert len(list(whole.parent.iterdir())) == 5


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "CHANGED_SECONDS", 0.01)
    monkeypatch.setattr(lock.Heartbeat, "SILENT_SECONDS", 0.05)


def wait_until(true, seconds=10):
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.005)
    assert true()


def test_the_heart_beats_while_its_owner_is_silent_and_stops_with_it(tmp_path, fast):
    path, before = tmp_path / "status.json", set(threading.enumerate())
    heart = lock.Heartbeat(path, {"state": "running"})
    first = path.stat().st_ino
    assert {"state": "running", "pid": os.getpid()}.items() <= read_json(path).items()
    wait_until(lambda: path.stat().st_ino != first)
    heart.update(batch=3)
    wait_until(lambda: read_json(path).get("batch") == 3)
    heart.write({"state": "stopped"})
    heart.stop()
    heart.stop()
    assert set(threading.enumerate()) <= before
    status = read_json(path)
    assert status["state"] == "stopped"
    assert "batch" not in status


def test_a_disk_that_fails_does_not_end_the_heart(tmp_path, fast, monkeypatch):
    path = tmp_path / "status.json"
    heart = lock.Heartbeat(path, {"state": "running"})
    real, failed = lock.write_json, []

    def fail(*words):
        failed.append(words)
        raise OSError(5, "gone")

    monkeypatch.setattr(lock, "write_json", fail)
    wait_until(lambda: len(failed) > 2)
    monkeypatch.setattr(lock, "write_json", real)
    before = path.stat().st_ino
    wait_until(lambda: path.stat().st_ino != before)
    heart.stop()


def test_without_its_thread_the_heart_beats_where_it_is_told(tmp_path, fast, monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)
    path, before = tmp_path / "status.json", set(threading.enumerate())
    heart = lock.Heartbeat(path, {"state": "running"})
    assert set(threading.enumerate()) <= before
    heart.update(batch=1)
    assert "batch" not in json.loads(path.read_text())
    heart.write(heart.status())
    assert json.loads(path.read_text())["batch"] == 1
    heart.stop()
