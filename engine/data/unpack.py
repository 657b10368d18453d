"""Unpacking of downloaded archives, which are taken for hostile: plain files inside one folder, bounded."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from engine.data.layout import refuse
from engine.store.files import guarded, sync_folder

ELSEWHERE = "choose another folder with --root"  #: how to write the data elsewhere
MOST_BYTES = 2 * 1024**3
MOST_FILES = 250_000
BLOCK = 1024**2


class Hostile(Exception):
    """An archive that holds what no data set needs; the text says what."""


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
    except Hostile as error:
        refuse(f"{archive} is not unpacked: {error}", advice)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        refuse(f"{archive} is damaged: {error}", advice)


def _extract(archive: Path, draft: Path, progress: Callable[[int, int], None] | None) -> None:
    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    left = MOST_BYTES
    for count, (name, content, total) in enumerate(members(archive), 1):
        if count > MOST_FILES:
            raise Hostile(f"it holds more than {MOST_FILES:,} files")
        left -= _copy(content, draft / safe_name(name), left)
        if progress is not None and (count % 256 == 0 or count == total):
            progress(count, total)


def safe_name(name: str) -> PurePosixPath:
    """A member's name as a path below the folder it is unpacked to. Raises Hostile."""
    path = PurePosixPath(name)
    strange = "\\" in name or ":" in name or "\0" in name
    if strange or path.is_absolute() or ".." in path.parts or not path.parts:
        raise Hostile(f"it holds a file named {name!r}")
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


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes], int]]:
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if member.isdir():
                continue
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                raise Hostile(f"it holds {member.name!r}, which is no plain file")
            yield member.name, content, 0


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes], int]]:
    with zipfile.ZipFile(archive) as packed:
        members = [member for member in packed.infolist() if not member.is_dir()]
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise Hostile(f"it holds {member.filename!r}, which is no plain file")
            with packed.open(member) as content:
                yield member.filename, content, len(members)
