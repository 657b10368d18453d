import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from engine import store
from engine.errors import UserError
from engine.store import lock
from engine.store.json_file import read_json, write_json

REPOSITORY = Path(store.__file__).parents[2]
OWNER = """
import sys, time
from pathlib import Path
from engine.errors import UserError
from engine.store.lock import Owner
folder, begin = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
while not begin.exists():
    time.sleep(0.001)
try:
    owner = Owner(folder)
    print("mine", flush=True)
except UserError as error:
    print(error.message, flush=True)
sys.stdin.read()
"""


def contender(stack, folder, begin):
    """A process that takes `folder` once the file `begin` is there, and ends when it is killed."""
    words = [sys.executable, "-c", OWNER, str(folder), str(begin)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    process = stack.enter_context(subprocess.Popen(words, **pipes))
    stack.callback(process.kill)
    return process


def test_of_many_that_race_one_wins_and_the_others_say_who(tmp_path):
    with ExitStack() as stack:
        racers = [contender(stack, tmp_path, tmp_path / "begin") for _ in range(6)]
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 6
        write_json(tmp_path / "owner.json", {**ended(), "since": "2020-01-01T00:00:00Z"})
        (tmp_path / "begin").touch()
        answers = {racer.pid: racer.stdout.readline() for racer in racers}
        (winner,) = [pid for pid, answer in answers.items() if answer == "mine\n"]
        lost = [answer for answer in answers.values() if answer != "mine\n"]
        assert all(f"process {winner} on {socket.gethostname()} since 20" in answer for answer in lost)
        assert read_json(tmp_path / "owner.json")["pid"] == winner


def test_a_dead_owner_leaves_the_run_to_the_next(tmp_path):
    with ExitStack() as stack:
        other = contender(stack, tmp_path, tmp_path)
        assert [other.stdout.readline() for _ in range(2)] == ["ready\n", "mine\n"]
        with pytest.raises(UserError, match=rf"process {other.pid} on \S+ since \d{{4}}-\d\d-\d\dT"):
            lock.Owner(tmp_path)
        other.kill()
        other.wait()
        assert lock.owner_of(tmp_path) is None
        owner = lock.Owner(tmp_path)
        assert lock.owner_of(tmp_path)["pid"] == os.getpid()
        owner.release()
        owner.release()
        assert not (tmp_path / "owner.json").exists()


def test_an_owner_without_a_readable_name_is_still_the_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.Owner, "PATIENCE", 0.1)
    owner = lock.Owner(tmp_path)
    (tmp_path / "owner.json").write_text("{")
    with pytest.raises(UserError, match="being written by another process"):
        lock.Owner(tmp_path)
    owner.release()


def test_an_owner_that_lets_go_meanwhile_is_followed(tmp_path, monkeypatch):
    owner = lock.Owner(tmp_path)
    (tmp_path / "owner.json").unlink()
    monkeypatch.setattr(time, "sleep", lambda _: owner.release())
    lock.Owner(tmp_path).release()


def test_a_run_that_cannot_say_who_owns_it_is_let_go(tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError("disk", "no room")

    with monkeypatch.context() as patch:
        patch.setattr(lock, "write_json", refuse)
        with pytest.raises(UserError, match="no room"):
            lock.Owner(tmp_path)
    lock.Owner(tmp_path).release()


def ended():
    """A process of this host that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        told = {
            "pid": other.pid,
            "host": socket.gethostname(),
            "started": lock.process_start(other.pid),
        }
    return told


def test_a_process_is_known_by_host_pid_and_when_it_was_started():
    me = lock.this_process()
    assert json.loads(json.dumps(me)) == me
    assert lock.alive(me) is True
    assert lock.alive({**me, "started": me["started"] - 3600}) is False  # the pid was given away
    assert lock.alive({**me, "host": "elsewhere"}) is None
    assert lock.alive(ended()) is False
    assert lock.alive({"host": me["host"]}) is False


def test_a_process_that_ended_and_was_not_reaped_is_dead():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        told = {**lock.this_process(), "pid": other.pid}
        told["started"] = lock.process_start(other.pid)
        assert lock.alive(told) is True
        other.kill()
        until = time.monotonic() + 10
        while lock.alive(told) and time.monotonic() < until:
            time.sleep(0.01)
        assert lock.alive(told) is False
        assert psutil.pid_exists(other.pid)
