"""Durable writes of files and folders.

A file is written under a temporary name, synced and renamed over the old one, and its folder is synced, so a
reader sees either the old content or the new. Files that grow are appended to (`Appender`) or filled in place
(`Slots`). All changes go through `disk`, which a test may replace.
Source: DESIGN "A run on disk".
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.errors import UserError

OUT = "choose another folder with --out"  #: the hint for a run that cannot be written
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NO_WRITING = {
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
    errno.EEXIST, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE, errno.EFBIG,
}  # fmt: skip
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_SYNC = {*_UNSUPPORTED, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
_MAX_WRITE = 2**30  #: bytes written by one call; some systems refuse more than 2 GiB


class Disk:
    """All calls by which the store changes a disk; a test may count them or let them fail."""

    def open(self, path: Path, flags: int) -> int:
        """Open a file for writing, or a folder for syncing, and return its descriptor."""
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    def write(self, handle: int, data: memoryview, at: int) -> int:
        """Write at an offset and return how many bytes were written."""
        return os.pwrite(handle, data, at)

    def allocate(self, handle: int, size: int) -> None:
        """Make a file `size` bytes long, and reserve the space if the file system can."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(handle, 0, size)
                return
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
        os.ftruncate(handle, size)

    def truncate(self, handle: int, size: int) -> None:
        """Truncate a file to `size` bytes."""
        os.ftruncate(handle, size)

    def fsync(self, handle: int) -> None:
        """Wait until a file's content, or a folder's names, are durable."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """Close a descriptor."""
        os.close(handle)

    def replace(self, old: Path, new: Path) -> None:
        """Rename a file, replacing `new` if it exists."""
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def remove_tree(self, path: Path) -> None:
        """Remove a folder and its contents."""
        shutil.rmtree(path)

    def mkdir(self, path: Path) -> None:
        """Create a folder."""
        os.mkdir(path)


disk = Disk()  #: the disk that all modules of the store write through


@contextmanager
def guarded(path: Path, needed: int | None = None, hint: str = OUT) -> Iterator[None]:
    """Raise UserError("disk") naming `path` if the operating system refuses a write in the block.

    needed: how many bytes the block writes, if known. hint: how to write elsewhere.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            wanted = f"{needed:,} bytes are needed, " if needed else ""
            message = f"no room left for {path}: {wanted}{free_bytes(path):,} are free"
            raise UserError("disk", message, f"free some space there, or {hint}") from error
        # EBUSY: `path` is the current folder or one of its parents.
        if error.errno in (errno.EISDIR, errno.EBUSY) and path.is_dir():
            raise UserError("disk", f"{path} is a folder", "give the path of a file") from error
        if error.errno in _NO_WRITING:
            reason = os.strerror(error.errno or 0)
            raise UserError("disk", f"cannot write {path}: {reason}", hint) from error
        raise


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk of `path`, which need not exist yet."""
    place = path.absolute()
    while not os.path.exists(place):
        place = place.parent
    usage = shutil.disk_usage(place)
    return usage.free if usage.total else sys.maxsize  # some network file systems report nothing


def require_writable(folder: Path, hint: str = OUT, needed: int = 4096) -> None:
    """Raise UserError("disk") if files cannot be written to a folder, which need not exist yet.

    needed: how many bytes must be free. Nothing is left behind.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise UserError("disk", f"cannot write {folder}: {place} is not a folder", hint)
    with guarded(folder, needed, hint), tempfile.TemporaryFile(dir=place) as file:
        file.write(bytes(4096))
        file.flush()
    if (free := free_bytes(place)) < needed:
        message = f"no room left for {folder}: {needed:,} bytes are needed, {free:,} are free"
        raise UserError("disk", message, f"free some space there, or {hint}")


def make_folders(*paths: Path, hint: str = OUT) -> None:
    """Create folders with their parents, durably, unless they exist; each parent is synced once.

    A parent is synced even if the folder exists, because its creator may have died before syncing it.
    Raises UserError("disk").
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
    """Make the names in a folder durable, where the system can sync a folder."""
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
    """Rename a file durably, replacing `new` if it exists. Raises UserError("disk")."""
    with guarded(new, hint=hint):
        disk.replace(old, new)
    sync_folder(new.parent, hint)


def set_aside(path: Path, hint: str = OUT) -> Path:
    """Rename a damaged file, if it still exists, to ``NAME.damaged`` and return that path."""
    aside = path.with_name(f"{path.name}.damaged")
    with guarded(aside, hint=hint), suppress(FileNotFoundError):
        disk.replace(path, aside)
    sync_folder(path.parent, hint)
    return aside


def remove(path: Path, hint: str = OUT, *, sync_name: bool = True) -> None:
    """Remove a file durably, if it exists. Raises UserError("disk").

    sync_name: False if the file may reappear after a power loss.
    """
    with guarded(path, hint=hint), suppress(FileNotFoundError):
        disk.unlink(path)
        if sync_name:
            sync_folder(path.parent, hint)


def sweep(folder: Path) -> None:
    """Remove the temporary files of dead writers from `folder`; the caller must be its only writer."""
    for temporary in folder.glob(".*.tmp"):
        remove(temporary, sync_name=False)


def _write_all(handle: int, at: int, *parts: bytes | memoryview) -> None:
    """Write all of the parts, one behind the other, from the offset `at` on."""
    for part in parts:
        rest = memoryview(part).cast("B")
        while rest:
            count = disk.write(handle, rest[:_MAX_WRITE], at)
            rest, at = rest[count:], at + count


def write(path: Path, *parts: bytes | memoryview, hint: str = OUT, sync_name: bool = True) -> None:
    """Replace the content of `path` by `parts`, atomically and durably. Raises UserError("disk") with `hint`.

    sync_name: False if the caller syncs the folder, once after many files.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.{threading.get_native_id()}.tmp"
    with guarded(path, sum(memoryview(part).nbytes for part in parts), hint):
        try:
            handle = disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                _write_all(handle, 0, *parts)
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
    """Return a value that changes whenever the file is replaced or grows; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def unreadable_error(path: Path, error: OSError) -> UserError:
    """Return the UserError("disk") for a file that the system refuses to read."""
    reason = os.strerror(error.errno or 0)
    return UserError("disk", f"cannot read {path}: {reason}", "check its permissions")


class Appender:
    """A file that is only appended to; after a failed append, the partial piece is removed.

    path: the file, created if absent. size: how many of its bytes to keep (default: all); the rest is a torn
    tail.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        self._torn = False
        with guarded(path, 4096):
            self._handle = disk.open(path, os.O_WRONLY | os.O_CREAT)
            try:
                self.size = os.fstat(self._handle).st_size
                if size is not None and size < self.size:
                    self._truncate(size)
                sync_folder(path.parent)
            except BaseException:
                disk.close(self._handle)
                raise

    def append(self, data: bytes) -> None:
        """Append `data`. Raises UserError("disk"); the file is then unchanged."""
        with guarded(self.path, len(data)):
            if self._torn:
                self._truncate(self.size)
            try:
                _write_all(self._handle, self.size, data)
            except BaseException:
                self._torn = True
                with suppress(OSError):
                    self._truncate(self.size)
                raise
        self.size += len(data)

    def sync(self) -> None:
        """Make everything appended so far durable."""
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

    def _truncate(self, size: int) -> None:
        disk.truncate(self._handle, size)
        self.size, self._torn = size, False


class Slots:
    """A file of known size that is filled in place.

    size: its size in bytes. create: create it and reserve its space, discarding an existing file; otherwise
    an existing file is opened unchanged. Raises UserError("disk") with the number of bytes needed.
    """

    def __init__(self, path: Path, size: int, *, create: bool) -> None:
        self.path = path
        self._handle = -1
        with guarded(path, size):
            self._handle = disk.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if create else 0))
            if not create:
                return
            try:
                disk.allocate(self._handle, size)
                sync_folder(path.parent)
            except BaseException:
                self.close()
                with suppress(OSError):
                    disk.unlink(path)  # free the space that was reserved
                raise

    def put(self, at: int, data: bytes | memoryview) -> None:
        """Write `data` at an offset. Raises UserError("disk"); the old content may be partly overwritten."""
        with guarded(self.path, memoryview(data).nbytes):
            _write_all(self._handle, at, data)

    def sync(self) -> None:
        """Make everything written so far durable, unless the file is closed."""
        if self._handle >= 0:
            with guarded(self.path):
                disk.fsync(self._handle)

    def close(self) -> None:
        """Close without syncing; closing twice is allowed."""
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            with guarded(self.path):
                disk.close(handle)
