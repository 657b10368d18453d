"""How a file of a run reaches the disk, and how damage to it is noticed.

A file is written under a temporary name, synced, renamed over the old one, and its folder synced, so
that whoever looks finds the old content or the new one. Files that grow are appended to (`Appender`) or
filled in place (`Slots`). All of it goes through `disk`, which a test may replace.
Source: DESIGN "A run on disk". Not here: what the files mean (see the neighbours).
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.errors import UserError

OUT = "choose another folder with --out"  #: how to write a run elsewhere
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NO_WRITING = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EIO,
    errno.ESTALE,
    errno.EFBIG,
}
_NO_SYNC = {
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EACCES,
    errno.EPERM,
    errno.EBADF,
    errno.EISDIR,
}
_AT_ONCE = 2**30  #: bytes given to the system in one call; some refuse more than 2 GiB


class Disk:
    """Every call by which the store changes a disk; a test may let them fail or watch them."""

    def open(self, path: Path, flags: int) -> int:
        """A handle, for writing, or (a folder) for syncing."""
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    def write(self, handle: int, data: memoryview, at: int) -> int:
        """Write at an offset; returns how many bytes were taken."""
        return os.pwrite(handle, data, at)

    def allocate(self, handle: int, size: int) -> None:
        """Make a file `size` bytes long, with room for all of them where the system can promise it."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(handle, 0, size)
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL):
                    raise
        os.ftruncate(handle, size)

    def truncate(self, handle: int, size: int) -> None:
        """Cut a file."""
        os.ftruncate(handle, size)

    def fsync(self, handle: int) -> None:
        """Wait until a file's content, or a folder's names, are durable."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """Give a handle back."""
        os.close(handle)

    def replace(self, old: Path, new: Path) -> None:
        """Rename a file, over another if there is one."""
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def remove_tree(self, path: Path) -> None:
        """Remove a folder and all in it."""
        shutil.rmtree(path)

    def mkdir(self, path: Path) -> None:
        """Create a folder."""
        os.mkdir(path)


disk = Disk()  #: what all modules of the store write through


@contextmanager
def guarded(path: Path, needed: int | None = None, hint: str = OUT) -> Iterator[None]:
    """Turn what the operating system refuses into a UserError("disk") that names `path`.

    needed: bytes that the block writes there, where that is known. hint: how to write elsewhere.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            wanted = f"{needed:,} bytes are needed, " if needed else ""
            raise UserError(
                "disk",
                f"no room left for {path}: {wanted}{free_bytes(path):,} are free",
                f"free some space there, or {hint}",
            ) from error
        if (
            error.errno in (errno.EISDIR, errno.EBUSY) and path.is_dir()
        ):  # busy: the current folder, and above
            raise UserError("disk", f"{path} is a folder", "Name a file.") from error
        if error.errno in _NO_WRITING:
            reason = os.strerror(error.errno or 0)
            raise UserError("disk", f"cannot write {path}: {reason}", hint) from error
        raise


def free_bytes(path: Path) -> int:
    """Bytes that a user may still write on the disk that holds `path`, which need not exist yet."""
    place = path.absolute()
    while not os.path.exists(place):
        place = place.parent
    usage = shutil.disk_usage(place)
    return usage.free if usage.total else sys.maxsize  # some network systems do not tell


def make_folder(path: Path, hint: str = OUT) -> None:
    """Create `path` and its parents, durably; one that is there is left. Raises UserError("disk")."""
    make_folders(path, hint=hint)


def make_folders(*paths: Path, hint: str = OUT) -> None:
    """Create several folders, each with its parents; every folder that holds one is synced once.

    A folder that is there is synced into its parent all the same: who made it may have died before.
    """
    for parent in {path.parent: None for path in paths}:
        if not parent.is_dir():
            make_folders(parent, hint=hint)
        for path in paths:
            if path.parent == parent and not path.is_dir():
                with guarded(path, 4096, hint), suppress(FileExistsError):
                    disk.mkdir(path)
                if not path.is_dir():
                    raise UserError("disk", f"cannot write {path}: it is a file", hint)
        sync_folder(parent, hint)


def sync_folder(path: Path, hint: str = OUT) -> None:
    """Make the names in a folder durable. Systems that cannot sync a folder are left at that."""
    with guarded(path, hint=hint):
        try:
            handle = disk.open(path, os.O_RDONLY)
            try:
                disk.fsync(handle)
            finally:
                disk.close(handle)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise


def rename(old: Path, new: Path, hint: str = OUT) -> None:
    """Rename a file durably, over another if there is one. Raises UserError("disk")."""
    with guarded(new, hint=hint):
        disk.replace(old, new)
    sync_folder(new.parent, hint)


def set_aside(path: Path, hint: str = OUT) -> Path:
    """Rename a damaged file, unless it is gone by now, to ``NAME.damaged``; returns that path."""
    aside = path.with_name(f"{path.name}.damaged")
    with guarded(aside, hint=hint), suppress(FileNotFoundError):
        disk.replace(path, aside)
    sync_folder(path.parent, hint)
    return aside


def remove(path: Path, hint: str = OUT, *, sync_name: bool = True) -> None:
    """Take a file away, durably; one that is not there is no matter. Raises UserError("disk").

    sync_name: False where it may come back after a power loss.
    """
    with guarded(path, hint=hint), suppress(FileNotFoundError):
        disk.unlink(path)
        if sync_name:
            sync_folder(path.parent, hint)


_TRIES = 5  # where another process sweeps the same folder


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it, beside others that do so too. Raises OSError."""
    for _ in range(_TRIES):
        try:
            disk.remove_tree(folder)
        except FileNotFoundError:
            if os.path.lexists(folder):
                continue
        return
    disk.remove_tree(folder)


def sweep(folder: Path) -> None:
    """Remove what writers that died left in `folder`. Only for a folder with one writer: the caller."""
    for leftover in folder.glob(".*.tmp"):
        remove(leftover, sync_name=False)


def _put(handle: int, data: bytes | memoryview, at: int) -> int:
    """Write every byte of `data` from the offset `at`; returns the offset after it."""
    rest = memoryview(data).cast("B")
    while rest:
        taken = disk.write(handle, rest[:_AT_ONCE], at)
        rest, at = rest[taken:], at + taken
    return at


def write(path: Path, *parts: bytes | memoryview, hint: str = OUT, sync_name: bool = True) -> None:
    """Replace the file `path` by `parts`, atomically and durably. Raises UserError("disk") with `hint`.

    sync_name: False leaves it to the caller to sync the folder, once after many files.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.{threading.get_native_id()}.tmp"
    with guarded(path, sum(memoryview(part).nbytes for part in parts), hint):
        try:
            handle = disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                at = 0
                for part in parts:
                    at = _put(handle, part, at)
                disk.fsync(handle)
            finally:
                disk.close(handle)
            disk.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                disk.unlink(temporary)
            raise
    if sync_name:
        sync_folder(path.parent, hint)


def stamp(path: Path) -> object:
    """What tells a file's content from what it was before, without reading it; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def unreadable(path: Path, error: OSError) -> UserError:
    """The report that the system refuses to read a file."""
    reason = os.strerror(error.errno or 0)
    return UserError("disk", f"cannot read {path}: {reason}", "see to it that you may read it")


class Appender:
    """A file that only grows: what was appended before a failure stays, a torn piece is cut off.

    path: the file, created where absent; size: how much of it to keep (the rest is a torn tail).
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        self._torn = False
        with guarded(path, 4096):
            self._handle = disk.open(path, os.O_WRONLY | os.O_CREAT)
            try:
                self.size = os.fstat(self._handle).st_size
                if size is not None and size < self.size:
                    self._cut(size)
                sync_folder(path.parent)
            except BaseException:
                disk.close(self._handle)
                raise

    def append(self, data: bytes) -> None:
        """Add `data` at the end. Raises UserError("disk") and leaves the file as it was."""
        with guarded(self.path, len(data)):
            if self._torn:
                self._cut(self.size)
            try:
                _put(self._handle, data, self.size)
            except BaseException:
                self._torn = True
                with suppress(OSError):
                    self._cut(self.size)
                raise
        self.size += len(data)

    def sync(self) -> None:
        """Make durable what was appended so far."""
        with guarded(self.path):
            disk.fsync(self._handle)

    def close(self) -> None:
        """Sync and close; closing twice is allowed."""
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            with guarded(self.path):
                try:
                    disk.fsync(handle)
                finally:
                    disk.close(handle)

    def _cut(self, size: int) -> None:
        disk.truncate(self._handle, size)
        self.size, self._torn = size, False


class Slots:
    """A file of known size that is filled in place.

    size: its bytes; anew: make it, with room for all of them, discarding what was there; otherwise it
    is opened as it is. Raises UserError("disk") with the bytes that are needed.
    """

    def __init__(self, path: Path, size: int, *, anew: bool) -> None:
        self.path = path
        self._handle = -1
        with guarded(path, size):
            self._handle = disk.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if anew else 0))
            if anew:
                self._claim(size)

    def _claim(self, size: int) -> None:
        try:
            disk.allocate(self._handle, size)
            sync_folder(self.path.parent)
        except BaseException:
            self.close()
            with suppress(OSError):
                disk.unlink(self.path)  # others need what room it got
            raise

    def put(self, at: int, data: bytes | memoryview) -> None:
        """Write `data` at an offset. Raises UserError("disk"); what was there before may be torn then."""
        with guarded(self.path, memoryview(data).nbytes):
            _put(self._handle, data, at)

    def sync(self) -> None:
        """Make durable what was put so far; nothing where it is closed."""
        if self._handle >= 0:
            with guarded(self.path):
                disk.fsync(self._handle)

    def close(self) -> None:
        """Close without syncing; closing twice is allowed."""
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            with guarded(self.path):
                disk.close(handle)
