import errno
import fcntl
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
import tiny

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


def without_locks(monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_of_the_system_a_file_is_created(tmp_path, monkeypatch, code):
    monkeypatch.setattr(lock.Owner, "PATIENCE", 0.1)
    with monkeypatch.context() as patch:
        without_locks(patch, code)
        assert not lock.supports_locks(tmp_path)
        owner = lock.Owner(tmp_path)
        assert json.loads((tmp_path / "lock.created").read_text())["pid"] == os.getpid()
        with pytest.raises(UserError, match=f"being written by process {os.getpid()}") as caught:
            lock.Owner(tmp_path)
        assert f"if that process is gone, delete {tmp_path / 'lock.created'}" in caught.value.hint
    with pytest.raises(UserError, match="being written by"):  # nor by a process that has locks
        lock.Owner(tmp_path)
    owner.release()
    assert not (tmp_path / "lock.created").exists()
    lock.Owner(tmp_path).release()
    assert lock.supports_locks(tmp_path)


def test_a_process_without_locks_sees_the_owner_that_has_one(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.Owner, "PATIENCE", 0.1)
    owner = lock.Owner(tmp_path)
    (tmp_path / "owner.json").unlink()
    with monkeypatch.context() as patch:
        without_locks(patch, errno.ENOLCK)
        with pytest.raises(UserError, match="being written by"):
            lock.Owner(tmp_path)
        owner.release()
        lock.Owner(tmp_path).release()
    assert not (tmp_path / "lock.created").exists()


@pytest.mark.parametrize("content", [b"", b"{", None])
def test_the_created_file_of_a_dead_process_is_replaced(tmp_path, monkeypatch, content):
    without_locks(monkeypatch, errno.ENOLCK)
    (tmp_path / "lock.created").write_bytes(json.dumps(ended()).encode() if content is None else content)
    owner = lock.Owner(tmp_path)
    assert lock.owner_of(tmp_path)["pid"] == os.getpid()
    owner.release()
    assert os.listdir(tmp_path) == ["lock"]


def test_the_created_file_of_another_host_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.Owner, "PATIENCE", 0.1)
    without_locks(monkeypatch, errno.ENOLCK)
    (tmp_path / "lock.created").write_text(json.dumps({**ended(), "host": "elsewhere"}))
    with pytest.raises(UserError, match="being written by another process") as caught:
        lock.Owner(tmp_path)
    assert "lock.created" in caught.value.hint


def test_of_many_without_locks_at_most_one_wins(tmp_path):
    (tmp_path / "lock.created").write_text(json.dumps(ended()))
    program = OWNER.replace("import sys, time\n", "import sys, time, fcntl, errno\n").replace(
        "folder, begin =",
        "def refuse(*_):\n    raise OSError(errno.ENOLCK, 'No locks')\n"
        "if int(sys.argv[3]):\n    fcntl.flock = refuse\nfolder, begin =",
    )
    with ExitStack() as stack:
        racers = []
        for number in range(6):  # one of them has locks
            words = [sys.executable, "-c", program, str(tmp_path), str(tmp_path / "begin"), str(number)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
            racers.append(stack.enter_context(subprocess.Popen(words, **pipes)))
            stack.callback(racers[-1].kill)
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 6
        (tmp_path / "begin").touch()
        answers = [racer.stdout.readline() for racer in racers]
        assert answers.count("mine\n") == 1, answers


def test_a_whole_run_on_a_disk_without_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))
    without_locks(monkeypatch, errno.ENOLCK)
    tiny.finish(tiny.begun(tmp_path))
    assert store.StoredRun(tmp_path / "run").state() == "finished"
    assert not (tmp_path / "run" / "lock.created").exists()
    with (
        lock.locked(tmp_path / "x"),
        pytest.raises(lock.LockedError),
        lock.locked(tmp_path / "x", wait=False),
    ):
        pass


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
