"""Download the archives of known data sets: resume partial downloads, verify them, unpack atomically."""

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
_NETWORK_ERRORS = (
    http.client.HTTPException,
    urllib.error.URLError,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
)
TIMEOUT_SECONDS = 30.0  # without a byte received
SIZE_TOLERANCE = 1.1  # an archive may exceed its expected size by this factor


def get(name: str, root: Path | None = None, progress: Progress | None = None) -> Path:
    """Download the data set `name` to `root` unless it exists there, and return its folder.

    root: None for the user's data folder. An interrupted download is kept and resumed by the next call.
    progress(phase, done, total): counts bytes while downloading, files while unpacking; total is 0 if
    unknown. Raises UserError: "network", "disk", or "data" for a set that cannot be downloaded;
    "usage" while another process downloads it.
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
                return _download_and_unpack(archive, root, progress)
        except Timeout:
            raise UserError(
                "usage", f"another process is downloading {archive.file} to {root}", "wait until it is done"
            ) from None


def _download_and_unpack(archive: Archive, root: Path, progress: Progress | None) -> Path:
    by_hand, part = root / archive.file, root / f"{archive.file}.part"
    if by_hand.exists():
        _verify_md5(by_hand, archive, "delete it and run again")
        return unpack(by_hand, root, archive.folder, _bind_phase(progress, "unpack"))
    fetch(archive, part, _bind_phase(progress, "download"))
    target = unpack(part, root, archive.folder, _bind_phase(progress, "unpack"))
    part.unlink()
    return target


def _bind_phase(progress: Progress | None, phase: Phase) -> Callable[[int, int], None] | None:
    return None if progress is None else partial(progress, phase)


def fetch(archive: Archive, part: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Download `archive` to `part`, resuming a partial file, and verify its size and MD5.

    Raises UserError: "network" or "disk". A file of wrong size or MD5 is deleted.
    """
    start = part.stat().st_size if part.exists() else 0
    try:
        with _open_url(archive.url, start) as response:
            if response.status != 206 or _parse_first_byte(response) != start:
                start = 0
            _receive(response, archive, part, start, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or start == 0:
            _raise_network_error(archive, part, f"the server answers {error.code} {error.reason}", error)
        # 416: the server has no bytes beyond those on disk, so the file is complete or wrong; see below.
    except _NETWORK_ERRORS as error:
        _raise_network_error(archive, part, str(getattr(error, "reason", None) or error), error)
    try:
        _require_size(part.stat().st_size, archive)
        _verify_md5(part, archive, "run the same command again to download it again")
    except UserError:
        part.unlink()
        raise


def _open_url(url: str, start: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "cfm-tui", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    assert isinstance(response, http.client.HTTPResponse)
    return response


def _parse_first_byte(response: http.client.HTTPResponse) -> int:
    """Return the offset at which the response starts in the archive; −1 if the server does not say."""
    first = (response.headers.get("Content-Range") or "").removeprefix("bytes ").split("-")[0]
    return int(first) if first.isdecimal() else -1


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
        while done <= archive.bytes * SIZE_TOLERANCE and (block := response.read(BLOCK)):
            file.write(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    if done < total:
        raise ConnectionError(f"the connection was cut; {total - done:,} bytes are missing")


def _raise_network_error(archive: Archive, part: Path, reason: str, error: Exception) -> NoReturn:
    partial_bytes = part.stat().st_size if part.exists() else 0
    message = f"cannot download {archive.url}: {reason}"
    target = part.with_suffix("")
    advice = f"download that address by hand, put the file at {target}, and run the same command again"
    if partial_bytes:
        message += f"; {partial_bytes:,} bytes are saved in {part}"
        advice = f"run the same command again to resume, or {advice}"
    raise UserError("network", message, advice) from error


def _require_size(size: int, archive: Archive) -> None:
    if size > archive.bytes * SIZE_TOLERANCE:
        raise UserError(
            "network",
            f"{archive.url} sends more than the expected {archive.bytes:,} bytes",
            "a login page or proxy may have answered instead; try another network",
        )


def _verify_md5(path: Path, archive: Archive, advice: str) -> None:
    with open(path, "rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != archive.md5:
        raise UserError("network", f"{path} is not {archive.url}: MD5 {md5}, not {archive.md5}", advice)
