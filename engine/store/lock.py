"""Ownership of a run by one process at a time: a lock, a description of the owner, and its heartbeat."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.store.files import guarded, remove
from engine.store.folders import RunFile
from engine.store.json_file import read_json, write_json

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)  # of a file system without locks


def timestamp(seconds: float | None = None) -> str:
    """Return a time as UTC in ISO 8601, to the second. seconds: since 1970; default: now."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def this_process() -> dict[str, Any]:
    """Return what identifies this process: pid, host, and start time (see `process_start`)."""
    return describe_process(os.getpid())


def describe_process(pid: int) -> dict[str, Any]:
    """Return what identifies a process of this host (see `this_process`). Raises ProcessLookupError."""
    import psutil

    try:
        return {"pid": pid, "host": socket.gethostname(), "started": process_start(pid)}
    except psutil.Error as error:
        raise ProcessLookupError(f"there is no process {pid}") from error


def process_start(pid: int) -> float:
    """Return the start time of a process: seconds since boot where /proc has it, else since 1970.

    Seconds since boot do not change when the clock is set. Raises psutil.Error if there is no such process.
    """
    import psutil

    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat.rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return psutil.Process(pid).create_time()


def alive(process: Mapping[str, Any]) -> bool | None:
    """Return whether a process identified by `this_process` is alive; None if this host cannot tell.

    A later process with the same pid is a different process.
    """
    import psutil

    if process.get("host") != socket.gethostname():
        return None
    try:
        candidate = psutil.Process(int(process["pid"]))
        is_dead = candidate.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        is_same = abs(process_start(candidate.pid) - float(process["started"])) <= 5.0  # seconds
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False
    except psutil.Error:
        return None
    return is_same and not is_dead


class Lock:
    """An exclusive lock on `path` among processes, which ends with its process.

    It is the operating system's (flock). Where the file system has none, it is a file ``NAME.created``, which
    one process can create; that of a dead process of this host is ignored. Both kinds exclude each other:
    each holder says who it is before it looks for a holder of the other kind.
    """

    SETTLE_SECONDS = 0.05  #: how long a created file must remain; others may be removing an old one

    def __init__(self, path: Path) -> None:
        self.path = path
        self.created_path = path.with_name(f"{path.name}.created")
        self._handle = -1
        self._mine: bytes = b""

    def acquire(self) -> bool:
        """Return whether the lock is now held; False if another process holds it. Raises OSError."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in _NO_LOCKS:
                return self._acquire_by_creation()
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        self._handle = handle
        with suppress(OSError):  # a full disk; only a holder of the other kind would read it
            os.ftruncate(handle, 0)
            os.pwrite(handle, _describe_holder(), 0)
        if _is_held(_read_bytes(self.created_path)):
            self.release()
            return False
        return True

    def _acquire_by_creation(self) -> bool:
        holder = _read_bytes(self.created_path)
        if holder is not None and (_is_held(holder) or not self._remove_old(holder)):
            return False
        mine = _describe_holder()
        try:
            handle = os.open(self.created_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return False
        try:
            os.write(handle, mine)
        finally:
            os.close(handle)
        self._mine = mine
        time.sleep(self.SETTLE_SECONDS)
        if _read_bytes(self.created_path) != mine or _is_held(_read_bytes(self.path)):
            self.release()
            return False
        return True

    def _remove_old(self, content: bytes) -> bool:
        """Remove the file of a dead process; put back another's that took its place meanwhile."""
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}.{threading.get_native_id()}.tmp")
        try:
            os.rename(self.created_path, aside)
            if _read_bytes(aside) != content:
                os.rename(aside, self.created_path)
                return False
            os.unlink(aside)
        except FileNotFoundError:
            return False
        return True

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._handle >= 0:
            with suppress(OSError):
                os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = -1
        elif self._mine:
            if _read_bytes(self.created_path) == self._mine:
                with suppress(OSError):
                    os.unlink(self.created_path)
            self._mine = b""


class LockedError(Exception):
    """Another process holds a lock."""


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock on `path` in the block. wait: for another holder; otherwise LockedError is raised."""
    lock = Lock(path)
    while not lock.acquire():
        if not wait:
            raise LockedError(f"{path} is locked")
        time.sleep(0.1)
    try:
        yield
    finally:
        lock.release()


def supports_locks(folder: Path) -> bool:
    """Return whether the file system of a writable folder has the operating system's locks."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in _NO_LOCKS
    return True


def _describe_holder() -> bytes:
    return json.dumps({**this_process(), "since": timestamp(), "ns": time.time_ns()}).encode()


def _read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _is_held(content: bytes | None) -> bool:
    """Return whether the holder that is described is not known to be dead."""
    if content is None:
        return False
    try:
        holder = json.loads(content)
    except ValueError:  # it has ended, or is about to describe itself
        return False
    return isinstance(holder, dict) and alive(holder) is not False


class Owner:
    """Ownership of a run folder by this process, until `release` or the end of the process.

    described: False for a short ownership that must also work on a full disk; no description is written then.
    Raises UserError("disk") that names the owning process, its host and since when it owns the run.
    """

    PATIENCE = 2.0  #: seconds to wait for an owner to describe itself

    def __init__(self, folder: Path, *, described: bool = True) -> None:
        self._description_path = folder / RunFile.OWNER
        self._lock = Lock(folder / RunFile.LOCK)
        self._is_locked = False
        self._acquire(folder)
        if not described:
            return
        try:
            write_json(self._description_path, {**this_process(), "since": timestamp()})
        except BaseException:
            self._lock.release()
            raise

    def _acquire(self, folder: Path) -> None:
        """Acquire the lock; its owner gets a moment to describe itself or to release it."""
        deadline = time.monotonic() + self.PATIENCE
        while True:
            with guarded(folder / RunFile.LOCK):
                self._is_locked = self._lock.acquire()
            if self._is_locked:
                return
            owner = owner_of(folder)
            if owner is None and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            who = "another process"
            if owner is not None:
                who = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
            message = f"{folder} is being written by {who}"
            hint = "wait for it or stop it, or choose another folder with --out"
            if self._lock.created_path.exists():
                hint += f"; if that process is gone, delete {self._lock.created_path}"
            raise UserError("disk", message, hint)

    def release(self) -> None:
        """Release the run; releasing twice is allowed."""
        if self._is_locked:
            self._is_locked = False
            with suppress(OSError, UserError):  # a description that remains is harmless: the lock is free
                remove(self._description_path)
            self._lock.release()


def owner_of(folder: Path) -> dict[str, Any] | None:
    """Return the run's owner (pid, host, started, since) by its description; None if absent or dead."""
    try:
        owner = read_json(folder / RunFile.OWNER)
        description = {name: owner[name] for name in ("pid", "host", "started", "since")}
    except (UserError, KeyError):
        return None
    return None if alive(description) is False else description


class Heartbeat:
    """A thread that rewrites a run's status, at `path`, until it is stopped.

    KEYS: what every update adds. Raises UserError("disk") if the first status cannot be written.
    """

    KEYS = ("time", "pid", "host", "started")
    CHANGED_SECONDS = 1.0  #: the shortest time between two updates
    SILENT_SECONDS = 15.0  #: the longest time between two updates
    THREAD = True  #: False: the status is written only by `write`, in the caller's thread

    def __init__(self, path: Path, status: dict[str, Any]) -> None:
        self.path = path
        self._process = this_process()
        self._lock = threading.Lock()  # held while the status is changed
        self._writing = threading.Lock()  # held while the file is written, which may take long
        self._status = dict(status)
        self._changed = False
        self._ended = threading.Event()
        self._write()
        self._thread = (
            threading.Thread(target=self._loop, name="heartbeat", daemon=True) if self.THREAD else None
        )
        if self._thread is not None:
            self._thread.start()

    def update(self, **facts: Any) -> None:
        """Change some keys of the status; the file follows within about a second."""
        with self._lock:
            self._status |= facts
            self._changed = True

    def write(self, status: dict[str, Any]) -> None:
        """Replace the whole status and write it at once. Raises UserError("disk")."""
        with self._lock:
            self._status = dict(status)
        self._write()

    def status(self) -> dict[str, Any]:
        """Return the current status."""
        with self._lock:
            return dict(self._status)

    def stop(self) -> None:
        """Stop the updates; the file stays. Stopping twice is allowed."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _write(self) -> None:
        with self._writing:
            with self._lock:
                status, self._changed = dict(self._status), False
            write_json(self.path, {**status, "time": timestamp(), **self._process})
            self._written_at = time.monotonic()

    def _loop(self) -> None:
        while not self._ended.wait(self.CHANGED_SECONDS):
            # A full or unavailable disk is reported by the owner's own writes.
            with suppress(Exception):
                if self._changed or time.monotonic() - self._written_at >= self.SILENT_SECONDS:
                    self._write()
