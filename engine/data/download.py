"""Fetching the archives of known data sets: resumed, verified, unpacked in one step or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn

from filelock import FileLock, Timeout

from engine.data.catalogue import KNOWN, Archive
from engine.data.finding import locate
from engine.data.layout import refuse
from engine.data.places import data_root, expanded
from engine.data.unpack import ELSEWHERE, unpack
from engine.errors import UserError
from engine.store.files import free_bytes, guarded

Phase = Literal["download", "unpack"]
Progress = Callable[[Phase, int, int], None]
BLOCK = 256 * 1024
_CUT = (http.client.HTTPException, urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError)
PATIENCE = 30.0  # seconds without a byte
SLACK = 1.1  # an archive may be larger than what is known of it by this factor


def get(name: str, root: Path | None = None, progress: Progress | None = None) -> Path:
    """Bring the set `name` to `root` (None: the user's data folder) and say where it lies.

    What is already there is left as it is. A cut download is kept and resumed by the next call.
    progress(phase, done, total): bytes of the download, files of the unpacking; total 0 if unknown.
    Raises UserError: "network", "disk", or "data" for a set that no program may fetch.
    """
    known = KNOWN[name]
    root = expanded(root or data_root())
    if known.folders and (place := locate(name, root, by_name=True)) is not None:
        return place[0]
    if known.archive is None:
        refuse(f"{name} cannot be downloaded", known.note.format(root=root))
    archive = known.archive
    with guarded(root, hint=ELSEWHERE):
        root.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(root / f".{archive.file}.lock", timeout=0):
                return _get(archive, root, progress)
        except Timeout:
            raise UserError(
                "usage", f"another process is fetching {archive.file} to {root}", "wait until it is done"
            ) from None


def _get(archive: Archive, root: Path, progress: Progress | None) -> Path:
    by_hand, part = root / archive.file, root / f"{archive.file}.part"
    if by_hand.exists():
        _verify(by_hand, archive, "delete it and run again")
        return unpack(by_hand, root, archive.folder, _phase(progress, "unpack"))
    fetch(archive, part, _phase(progress, "download"))
    target = unpack(part, root, archive.folder, _phase(progress, "unpack"))
    part.unlink()
    return target


def _phase(progress: Progress | None, phase: Phase) -> Callable[[int, int], None] | None:
    return None if progress is None else partial(progress, phase)


def fetch(archive: Archive, part: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Download `archive` to `part`, going on from what is there, and verify it. Raises UserError."""
    start = part.stat().st_size if part.exists() else 0
    try:
        with _open(archive.url, start) as response:
            if response.status != 206 or _first_byte(response) != start:
                start = 0
            _receive(response, archive, part, start, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or start == 0:
            _unreachable(archive, part, f"the server answers {error.code} {error.reason}", error)
        # 416: nothing lies beyond what is there already, so it is whole, or wrong.
    except _CUT as error:
        _unreachable(archive, part, str(getattr(error, "reason", None) or error), error)
    try:
        _require_size(part.stat().st_size, archive)
        _verify(part, archive, "run the same command again to fetch it anew")
    except UserError:
        part.unlink()
        raise


def _open(url: str, start: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "cfm-tui", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE)
    assert isinstance(response, http.client.HTTPResponse)
    return response


def _first_byte(response: http.client.HTTPResponse) -> int:
    text = (response.headers.get("Content-Range") or "").removeprefix("bytes ").split("-")[0]
    return int(text) if text.isdecimal() else -1


def _receive(
    response: http.client.HTTPResponse,
    archive: Archive,
    part: Path,
    start: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    length = response.headers.get("Content-Length") or ""
    total = start + int(length[:18]) if length.isdecimal() else 0
    _require_size(total, archive)
    if total - start > free_bytes(part.parent):
        message = f"{archive.file} needs {total - start:,} more bytes in {part.parent}"
        raise UserError("disk", message, f"free some space there, or {ELSEWHERE}")
    done = start
    with open(part, "ab" if start else "wb") as file:
        while done <= archive.bytes * SLACK and (block := response.read(BLOCK)):
            file.write(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    if done < total:
        raise ConnectionError(f"the connection was cut, {total - done:,} bytes are missing")


def _unreachable(archive: Archive, part: Path, reason: str, error: Exception) -> NoReturn:
    kept = part.stat().st_size if part.exists() else 0
    message = f"cannot fetch {archive.url}: {reason}"
    by_hand = (
        f"fetch that address by hand, put the file at {part.with_suffix('')}, and run the same command again"
    )
    if kept:
        message += f"; {kept:,} bytes are kept in {part}"
        by_hand = f"run the same command again to go on from there, or {by_hand}"
    raise UserError("network", message, by_hand) from error


def _require_size(found: int, archive: Archive) -> None:
    if found > archive.bytes * SLACK:
        raise UserError(
            "network",
            f"{archive.url} sends more than the {archive.bytes:,} bytes that it should",
            "is a portal or proxy in between? fetch it by another network",
        )


def _verify(path: Path, archive: Archive, advice: str) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != archive.md5:
        raise UserError("network", f"{path} is not {archive.url}: MD5 {found}, not {archive.md5}", advice)
