"""Download the archives of known data sets: resume partial downloads, verify them, unpack atomically."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import ssl
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

from engine.data.catalogue import KNOWN, Archive
from engine.data.pictures import Progress
from engine.data.sources import data_root, expand_path, locate
from engine.errors import UserError, raise_data_error
from engine.store.files import free_bytes, guarded, sync_folder
from engine.store.lock import LockedError, locked

_BLOCK_BYTES = 256 * 1024
_ELSEWHERE = "choose another folder with --root"
_DOWNLOAD_AGAIN = "delete it and download it again"
_NETWORK_ERRORS = (
    http.client.HTTPException,
    urllib.error.URLError,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
)


def download_data_set(
    name: str, root: Path | None = None, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Path:
    """Download the data set `name` to `root` unless it exists there, and return its folder.

    root: None for the user's data folder. An interrupted download is kept and resumed by the next call.
    progress(phase, done, total): counts bytes in phase "download", files in phase "unpack"; total is 0 if
    unknown. Raises UserError: "network", "disk", or "data" for a set that cannot be downloaded;
    "usage" while another process downloads it.
    """
    known = KNOWN[name]
    root = expand_path(root or data_root())
    if known.folders and (place := locate(name, root, by_name=True)) is not None:
        return place[0]
    if known.archive is None:
        raise_data_error(f"{name} cannot be downloaded", known.note.format(root=root))
    archive = known.archive
    with guarded(root, hint=_ELSEWHERE):
        root.mkdir(parents=True, exist_ok=True)
        try:
            with locked(root / f".{archive.file}.lock", wait=False):
                return _download_and_unpack(archive, root, progress)
        except LockedError:
            raise UserError(
                "usage", f"another process is downloading {archive.file} to {root}", "wait until it is done"
            ) from None


def _download_and_unpack(archive: Archive, root: Path, progress: Callable[[str, int, int], None]) -> Path:
    by_hand, part = root / archive.file, root / f"{archive.file}.part"
    if by_hand.exists():
        _verify_md5(by_hand, archive, "delete it and run again")
        return _unpack(by_hand, root, archive.folder, partial(progress, "unpack"))
    _download(archive, part, partial(progress, "download"))
    target = _unpack(part, root, archive.folder, partial(progress, "unpack"))
    part.unlink()
    return target


def _download(archive: Archive, part: Path, progress: Progress) -> None:
    """Download `archive` to `part`, resuming a partial file, and verify its size and MD5.

    Raises UserError: "network" or "disk". A file of wrong size or MD5 is deleted.
    """
    start = part.stat().st_size if part.exists() else 0
    try:
        with _open_url(archive.url, start) as response:
            content_range = response.headers.get("Content-Range") or ""
            if response.status != 206 or not content_range.startswith(f"bytes {start}-"):
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
    response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30.0)
    assert isinstance(response, http.client.HTTPResponse)
    return response


def _receive(
    response: http.client.HTTPResponse, archive: Archive, part: Path, start: int, progress: Progress
) -> None:
    length = response.headers.get("Content-Length") or ""
    total = start + int(length[:18]) if length.isdecimal() else 0
    _require_size(total, archive)
    if total - start > free_bytes(part.parent):
        message = f"{archive.file} needs {total - start:,} more bytes in {part.parent}"
        raise UserError("disk", message, f"free some space there, or {_ELSEWHERE}")
    done = start
    with open(part, "ab" if start else "wb") as file:
        while done <= archive.max_bytes and (block := response.read(_BLOCK_BYTES)):
            file.write(block)
            done += len(block)
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
    if size > archive.max_bytes:
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


def _unpack(archive: Path, into: Path, top: str, progress: Progress) -> Path:
    """Unpack a verified archive, whose only top-level folder is `top`: completely or not at all.

    Raises UserError("data") for a damaged archive, OSError for problems of the disk.
    """
    target, draft = into / top, into / f".{top}.unpacking"
    if target.exists():
        raise_data_error(
            f"{target} already exists, but is not a data set in a known layout", "move it and run again"
        )
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        for count, total in _extract(archive, draft):
            if count % 256 == 0 or count == total:
                progress(count, total)
        if not (draft / top).is_dir():
            raise_data_error(f"{archive} is damaged: it has no folder {top}", _DOWNLOAD_AGAIN)
        if hasattr(os, "sync"):
            os.sync()
        os.rename(draft / top, target)
        sync_folder(into)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _extract(archive: Path, folder: Path) -> Iterator[tuple[int, int]]:
    """Unpack to `folder`; yield the numbers of files that are done and of all, 0 if unknown."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                infos = zipped.infolist()
                for count, info in enumerate(infos, 1):
                    zipped.extract(info, folder)
                    yield count, len(infos)
        else:
            with tarfile.open(archive) as tar:
                for count, member in enumerate(tar, 1):
                    tar.extract(member, folder, filter="data")
                    yield count, 0
    except Exception as error:  # readers of archives raise all kinds of errors on damaged bytes
        # Names and offsets in an archive cause these; all others are errors of the system.
        of_archive = (None, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
        if isinstance(error, OSError) and error.errno not in of_archive:
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise_data_error(f"{archive} is damaged: {reason}", _DOWNLOAD_AGAIN)
