"""How a file of a run reaches the disk: whole or not at all.

A file is written under a temporary name, synced, renamed over the old one, and its folder synced, so
that whoever looks finds the old content or the new one. Source: DESIGN "A run on disk".
Not here: what the files mean (see the neighbours).
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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
}


def to_json(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON; numbers that JSON cannot hold (NaN, infinities) become null."""
    separators = (",", ":") if indent is None else None
    return json.dumps(
        _finite(value), indent=indent, separators=separators, ensure_ascii=False, allow_nan=False
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


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
    """Create `path` and its parents; each new entry is synced into its parent. Raises UserError("disk")."""
    if path.is_dir():
        return
    make_folder(path.parent, hint)
    with guarded(path, 4096, hint):
        path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable. Systems that cannot sync a folder are left at that."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_all(handle: int, data: bytes | memoryview) -> None:
    """Write every byte of `data` to a file descriptor."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(handle, rest) :]


def write(path: Path, *parts: bytes | memoryview, hint: str = OUT) -> None:
    """Replace the file `path` by `parts`, atomically and durably. Raises UserError("disk") with `hint`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with guarded(path, sum(memoryview(part).nbytes for part in parts), hint):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            try:
                for part in parts:
                    write_all(handle, part)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Take a file away, durably; one that is not there is no matter. Raises UserError("disk")."""
    with guarded(path):
        path.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: Any, hint: str = OUT) -> None:
    """Replace the file `path` by `value` as indented JSON. Raises UserError("disk") with `hint`."""
    write(path, (to_json(value, indent=2) + "\n").encode(), hint=hint)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError("disk") where the file is absent or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            "disk", f"{path} does not exist", "is this a run folder? `cfm runs` lists them"
        ) from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError("disk", f"cannot read {path}: {reason}", "see to it that you may read it") from error
    except ValueError as error:
        raise UserError("disk", f"{path} is damaged: {error}", "restore it, or start the run anew") from error
    if not isinstance(value, dict):
        raise UserError("disk", f"{path} is damaged: it holds no object", "restore it, or start the run anew")
    return value


class Appender:
    """A file that only grows: what was appended before a failure stays, a torn piece is cut off.

    path: the file, created where absent; size: how much of it to keep (the rest is a torn tail).
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        created = not path.exists()
        with guarded(path, 4096):
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.size = os.fstat(self._handle).st_size
        if size is not None and size < self.size:
            self._cut(size)
        if created:
            sync_folder(path.parent)

    def append(self, data: bytes) -> None:
        """Add `data` at the end. Raises UserError("disk") and leaves the file as it was."""
        with guarded(self.path, len(data)):
            try:
                os.lseek(self._handle, self.size, os.SEEK_SET)
                write_all(self._handle, data)
            except BaseException:
                with suppress(OSError):
                    self._cut(self.size)
                raise
        self.size += len(data)

    def sync(self) -> None:
        """Make durable what was appended so far."""
        with guarded(self.path):
            os.fsync(self._handle)

    def close(self) -> None:
        """Sync and close; closing twice is allowed."""
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            try:
                with guarded(self.path):
                    os.fsync(handle)
            finally:
                os.close(handle)

    def _cut(self, size: int) -> None:
        os.ftruncate(self._handle, size)
        self.size = size
