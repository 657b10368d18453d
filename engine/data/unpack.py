"""Unpack downloaded archives, which are not trusted: only plain files inside one folder, within limits.

Formats: zip (stored or deflated) and tar, plain or gzipped. Other compressions are not supported, because
their headers can request unlimited memory.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from engine.data.layout import refuse
from engine.errors import UserError
from engine.store.files import guarded, sync_folder

ELSEWHERE = "choose another folder with --root"  #: hint for a disk that is full or cannot be written
MAX_BYTES = 2 * 1024**3
MAX_FILES = 250_000  #: including folders
MAX_NAME_BYTES = 255  #: of a member's name, including its folders
BLOCK = 1024**2
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Hostile(Exception):
    """An archive with content that no data set needs; the text is the reason."""


@dataclass(frozen=True)
class _Member:
    """A member of an archive. content: None for a folder. size: declared bytes.

    total: number of members in the archive; 0 if unknown.
    """

    name: str
    content: IO[bytes] | None
    size: int
    total: int = 0


def unpack(archive: Path, into: Path, top: str, progress: Callable[[int, int], None] | None = None) -> Path:
    """Unpack `archive`, whose only top-level folder is `top`, to `into`/`top`: completely or not at all.

    progress(done, total) counts files; total is 0 if the archive does not state it.
    Raises UserError: "data" for a damaged or hostile archive, "disk".
    """
    target, draft = into / top, into / f".{top}.unpacking"
    if target.exists():
        refuse(f"{target} already exists, but is not a data set in a known layout", "move it and run again")
    with guarded(into, hint=ELSEWHERE):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            with _report_damage(archive):
                _extract(archive, draft, progress)
                if not (draft / top).is_dir():
                    raise Hostile(f"it has no folder {top}")
            if hasattr(os, "sync"):
                os.sync()
            os.rename(draft / top, target)
            sync_folder(into)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return target


@contextmanager
def _report_damage(archive: Path) -> Iterator[None]:
    advice = "delete it and download it again"
    try:
        yield
    except UserError:
        raise
    except Hostile as error:
        refuse(f"{archive} is not unpacked: {error}", advice)
    except Exception as error:  # readers of archives raise all kinds of errors on hostile bytes
        is_disk_error = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if is_disk_error:
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        refuse(f"{archive} is damaged: {reason}", advice)


def _extract(archive: Path, draft: Path, progress: Callable[[int, int], None] | None) -> None:
    members = _iter_zip_members if zipfile.is_zipfile(archive) else _iter_tar_members
    left = MAX_BYTES
    for count, member in enumerate(members(archive), 1):
        if count > MAX_FILES:
            raise Hostile(f"it holds more than {MAX_FILES:,} files")
        if member.content is not None:
            written = _copy(member.content, draft / safe_name(member.name), left)
            if written != member.size:
                raise Hostile(f"{member.name!r} has {written:,} bytes and declares {member.size:,}")
            left -= written
        if progress is not None and (count % 256 == 0 or count == member.total):
            progress(count, member.total)


def safe_name(name: str) -> PurePosixPath:
    """Return a member's name as a path relative to the folder it is unpacked to. Raises Hostile."""
    path = PurePosixPath(name)
    is_strange = "\\" in name or ":" in name or not name.isprintable()
    if is_strange or path.is_absolute() or ".." in path.parts or not path.parts:
        raise Hostile(f"it holds a file named {name[:MAX_NAME_BYTES]!r}")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise Hostile(f"it holds a file with a name of {len(name.encode()):,} bytes")
    return path


def _copy(content: IO[bytes], path: Path, limit: int) -> int:
    """Copy at most `limit` bytes to a new file; return their number. Raises Hostile."""
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            while block := content.read(BLOCK):
                written += len(block)
                if written > limit:
                    raise Hostile(f"it unpacks to more than {MAX_BYTES:,} bytes")
                file.write(block)
    except (FileExistsError, NotADirectoryError):
        raise Hostile(f"it holds two files for {path.name!r}") from None
    return written


class _LimitedReader(io.BufferedReader):
    """A reader for `tarfile` that allows `left` more bytes to be read into memory."""

    left = BLOCK

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes. Raises Hostile if that is more than is left."""
        if size is None or not 0 <= size <= self.left:
            raise Hostile("one of its headers declares an invalid size")
        self.left -= size
        return super().read(size)


def _iter_tar_members(archive: Path) -> Iterator[_Member]:
    with open(archive, "rb") as file:
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        stream = _LimitedReader(gzip.GzipFile(fileobj=file) if packed else file)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep all members in memory
                is_plain = (member.isreg() and not member.issparse()) or member.isdir()
                if not is_plain or member.size < 0:
                    raise Hostile(f"it holds {member.name[:MAX_NAME_BYTES]!r}, which is not a plain file")
                stream.left = member.size + BLOCK
                yield _Member(member.name, None if member.isdir() else tar.extractfile(member), member.size)
                stream.left = BLOCK


def _iter_zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as packed:
        members = packed.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir():
                yield _Member(member.filename, None, 0, len(members))
                continue
            encrypted = bool(member.flag_bits & 1)
            if kind not in (0, stat.S_IFREG) or encrypted or member.compress_type not in _ZIP_METHODS:
                raise Hostile(f"it holds {member.filename[:MAX_NAME_BYTES]!r}, which is not a plain file")
            with packed.open(member) as content:
                yield _Member(member.filename, content, member.file_size, len(members))
