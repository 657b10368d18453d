"""Unpacking of downloaded archives, which are taken for hostile: plain files inside one folder, bounded.

Formats: zip (stored or deflated) and tar, plain or gzipped; others take memory as their headers please.
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

ELSEWHERE = "choose another folder with --root"  #: how to write the data elsewhere
MOST_BYTES = 2 * 1024**3
MOST_FILES = 250_000  #: and folders
MOST_NAME = 255  #: bytes of a member's name with all its folders
BLOCK = 1024**2
_KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Hostile(Exception):
    """An archive that holds what no data set needs; the text says what."""


@dataclass(frozen=True)
class _Member:
    """content: None for a folder. size: the bytes that it declares. total: of members, 0 if unknown."""

    name: str
    content: IO[bytes] | None
    size: int
    total: int = 0


def unpack(archive: Path, into: Path, top: str, progress: Callable[[int, int], None] | None = None) -> Path:
    """Unpack `archive`, whose one top folder is `top`, to `into`/`top`, all of it or nothing.

    progress(done, total) counts files; total is 0 where the archive does not tell. Raises UserError.
    """
    target, draft = into / top, into / f".{top}.unpacking"
    if target.exists():
        refuse(f"{target} is in the way, and is no data set in a known layout", "move it away and run again")
    with guarded(into, hint=ELSEWHERE):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            with _damage(archive):
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
def _damage(archive: Path) -> Iterator[None]:
    advice = "delete it and fetch it again"
    try:
        yield
    except UserError:
        raise
    except Hostile as error:
        refuse(f"{archive} is not unpacked: {error}", advice)
    except Exception as error:  # readers of archives raise anything on hostile bytes
        of_disk = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if of_disk:
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        refuse(f"{archive} is damaged: {reason}", advice)


def _extract(archive: Path, draft: Path, progress: Callable[[int, int], None] | None) -> None:
    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    left = MOST_BYTES
    for count, member in enumerate(members(archive), 1):
        if count > MOST_FILES:
            raise Hostile(f"it holds more than {MOST_FILES:,} files")
        if member.content is not None:
            written = _copy(member.content, draft / safe_name(member.name), left)
            if written != member.size:
                raise Hostile(f"{member.name!r} has {written:,} bytes and declares {member.size:,}")
            left -= written
        if progress is not None and (count % 256 == 0 or count == member.total):
            progress(count, member.total)


def safe_name(name: str) -> PurePosixPath:
    """A member's name as a path below the folder it is unpacked to. Raises Hostile."""
    path = PurePosixPath(name)
    strange = "\\" in name or ":" in name or not name.isprintable()
    if strange or path.is_absolute() or ".." in path.parts or not path.parts:
        raise Hostile(f"it holds a file named {name[:MOST_NAME]!r}")
    if len(name.encode()) > MOST_NAME:
        raise Hostile(f"it holds a file with a name of {len(name.encode()):,} bytes")
    return path


def _copy(content: IO[bytes], path: Path, most: int) -> int:
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            while block := content.read(BLOCK):
                written += len(block)
                if written > most:
                    raise Hostile(f"it unpacks to more than {MOST_BYTES:,} bytes")
                file.write(block)
    except (FileExistsError, NotADirectoryError):
        raise Hostile(f"it holds two files for {path.name!r}") from None
    return written


class _Metered(io.BufferedReader):
    """What `tarfile` reads from: it may take `left` more bytes into memory."""

    left = BLOCK

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes. Raises Hostile where a header asks for more than is left."""
        if size is None or not 0 <= size <= self.left:
            raise Hostile("one of its headers has a senseless size")
        self.left -= size
        return super().read(size)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with open(archive, "rb") as file:
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        stream = _Metered(gzip.GzipFile(fileobj=file) if packed else file)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps them all
                plain = (member.isreg() and not member.issparse()) or member.isdir()
                if not plain or member.size < 0:
                    raise Hostile(f"it holds {member.name[:MOST_NAME]!r}, which is no plain file")
                stream.left = member.size + BLOCK
                yield _Member(member.name, None if member.isdir() else tar.extractfile(member), member.size)
                stream.left = BLOCK


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as packed:
        members = packed.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir():
                yield _Member(member.filename, None, 0, len(members))
                continue
            encrypted = bool(member.flag_bits & 1)
            if kind not in (0, stat.S_IFREG) or encrypted or member.compress_type not in _KINDS:
                raise Hostile(f"it holds {member.filename[:MOST_NAME]!r}, which is no plain file")
            with packed.open(member) as content:
                yield _Member(member.filename, content, member.file_size, len(members))
