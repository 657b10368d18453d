"""Downloads from a server on the loopback that supports ranges and can hang up; archives of all kinds."""

import errno
import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from engine.data import catalogue, download
from engine.data.catalogue import Archive
from engine.errors import UserError

FOLDER = "cifar-10-batches-bin"


class Server(ThreadingHTTPServer):
    """Serves `body`; hangs up after `cut` bytes of it; `ranges` lists the Range headers it got."""

    body = b""
    cut: int | None = None
    ranged = True
    declared = True
    ranges: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranged else 0
        total = len(self.server.body)
        if start and start >= total:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if self.server.declared:
            self.send_header("Content-Length", str(total - start))
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(self.server.body[start : self.server.cut])

    def log_message(self, *args: object) -> None:
        pass


def packed(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar of these members, or of links of another kind whose targets are the contents."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == tarfile.REGTYPE:
                member.size = len(content)
            else:
                member.linkname = content.decode()
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def zipped(members: dict[str | zipfile.ZipInfo, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return stream.getvalue()


def cifar() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{index}.bin" for index in range(1, 6)), "test_batch.bin"]
    return {f"{FOLDER}/{name}": b"\x01" + rng.bytes(3072) for name in names}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server(("127.0.0.1", 0), Handler)
    running.ranges = []
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    offer(running, packed(cifar()), monkeypatch)
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def offer(
    server: Server, body: bytes, monkeypatch: pytest.MonkeyPatch, file: str = "cifar.tar.gz"
) -> Archive:
    """Serve `body` as the archive of cifar10."""
    server.body = body
    return describe(body, monkeypatch, f"http://127.0.0.1:{server.server_address[1]}/{file}")


def describe(body: bytes, monkeypatch: pytest.MonkeyPatch, url: str) -> Archive:
    """Make `body` the archive of cifar10 in the catalogue."""
    archive = Archive(url, hashlib.md5(body).hexdigest(), FOLDER, len(body))
    known = replace(catalogue.KNOWN["cifar10"], archive=archive)
    monkeypatch.setitem(catalogue.KNOWN, "cifar10", known)
    return archive


def unpack(body: bytes, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpack an archive that was put in `root` by hand and has the checksum of the catalogue."""
    describe(body, monkeypatch, "http://127.0.0.1:9/archive")
    root.mkdir(parents=True, exist_ok=True)
    (root / "archive").write_bytes(body)
    return download.download_data_set("cifar10", root)


def test_a_set_is_fetched_verified_and_unpacked_once(server: Server, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    path = download.download_data_set("cifar10", tmp_path / "root", lambda *call: calls.append(call))
    assert path == tmp_path / "root" / FOLDER
    assert {f"{FOLDER}/{file.name}": file.read_bytes() for file in path.iterdir()} == cifar()
    assert calls[-1][0] in ("download", "unpack")
    assert ("download", len(server.body), len(server.body)) in calls
    assert not list((tmp_path / "root").glob("*.part"))
    assert download.download_data_set("cifar10", tmp_path / "root") == path
    assert len(server.ranges) == 1


def test_a_cut_download_is_kept_and_resumed_from_where_it_was_cut(server: Server, tmp_path: Path) -> None:
    server.cut = 5000
    with pytest.raises(UserError, match="cut") as caught:
        download.download_data_set("cifar10", tmp_path)
    assert caught.value.kind == "network"
    assert "again" in caught.value.hint
    assert (tmp_path / "cifar.tar.gz.part").stat().st_size == 5000
    assert not (tmp_path / FOLDER).exists()
    server.cut = None
    download.download_data_set("cifar10", tmp_path)
    assert server.ranges == [None, "bytes=5000-"]


def test_a_server_without_ranges_is_asked_for_the_whole(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cifar.tar.gz.part").write_bytes(b"x" * 100)
    server.ranged = False
    assert download.download_data_set("cifar10", tmp_path).is_dir()


def test_a_whole_part_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cifar.tar.gz.part").write_bytes(server.body)
    assert download.download_data_set("cifar10", tmp_path).is_dir()


def test_a_wrong_checksum_is_refused_and_the_file_dropped(server: Server, tmp_path: Path) -> None:
    server.body = server.body[:-4] + b"evil"
    with pytest.raises(UserError, match="MD5"):
        download.download_data_set("cifar10", tmp_path)
    assert [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.parametrize("declared", [True, False])
def test_a_download_without_end_is_cut_off(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: bool
) -> None:
    monkeypatch.setattr(download, "_BLOCK_BYTES", 1000)
    server.declared = declared
    archive = offer(server, server.body, monkeypatch)
    server.body += bytes(5 * archive.bytes)
    sizes: list[int] = []
    with pytest.raises(UserError, match="sends more than") as caught:
        download.download_data_set("cifar10", tmp_path, lambda phase, done, total: sizes.append(done))
    assert caught.value.kind == "network"
    assert max(sizes, default=0) < 1.2 * archive.bytes
    assert [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_what_fails_the_checksum_is_never_unpacked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("unpacked before it was verified")

    monkeypatch.setattr(download, "_unpack", opened)
    (tmp_path / "cifar.tar.gz").write_bytes(server.body[:-4] + b"evil")
    with pytest.raises(UserError, match="MD5"):
        download.download_data_set("cifar10", tmp_path)
    (tmp_path / "cifar.tar.gz").unlink()
    server.body = server.body[:-4] + b"evil"
    with pytest.raises(UserError, match="MD5"):
        download.download_data_set("cifar10", tmp_path)


def test_an_archive_put_there_by_hand_needs_no_network(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cifar.tar.gz").write_bytes(server.body)
    assert download.download_data_set("cifar10", tmp_path).is_dir()
    assert server.ranges == []


def test_without_a_network_the_message_says_what_to_fetch_and_where_to_put_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = offer(server, server.body, monkeypatch)
    dead = replace(
        catalogue.KNOWN["cifar10"], archive=replace(archive, url="http://127.0.0.1:9/cifar.tar.gz")
    )
    monkeypatch.setitem(catalogue.KNOWN, "cifar10", dead)
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/cifar\.tar\.gz") as caught:
        download.download_data_set("cifar10", tmp_path)
    assert caught.value.kind == "network"
    assert f"put the file at {tmp_path / 'cifar.tar.gz'}" in caught.value.hint


def test_imagenet_says_how_to_come_by_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        download.download_data_set("imagenet", tmp_path)
    assert "licence" in caught.value.hint
    assert str(tmp_path) in caught.value.hint


def test_a_zip_is_unpacked_with_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = unpack(zipped({f"{FOLDER}/deep/": b"", f"{FOLDER}/deep/file": b"x"}), tmp_path, monkeypatch)
    assert (path / "deep" / "file").read_bytes() == b"x"


def test_a_folder_that_is_no_data_set_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FOLDER).mkdir()
    with pytest.raises(UserError, match="already exists"):
        unpack(packed(cifar()), tmp_path, monkeypatch)
    assert list((tmp_path / FOLDER).iterdir()) == []


OUTSIDE = ["../evil", "/evil", f"{FOLDER}/../../evil", "a\\..\\evil", "C:evil"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_no_member_leaves_its_folder(
    tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (packed if kind == "tar" else zipped)({f"{FOLDER}/good": b"x", name: b"x"})
    with suppress(UserError):
        unpack(body, tmp_path / "in" / "to", monkeypatch)
    beside = {path.name for path in (tmp_path / "in" / "to").iterdir()} - {FOLDER}
    assert {name for name in beside if not name.endswith(".lock")} == {"archive"}
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["to"]
    assert not Path("/evil").exists()


def link() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(f"{FOLDER}/link")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


NOISE = np.random.default_rng(0).bytes(100_000)
DAMAGED = {
    "tar, cut": packed({f"{FOLDER}/a": NOISE})[:50_000],
    "tar, a device": packed({f"{FOLDER}/a": b""}, tarfile.CHRTYPE),
    "tar, a pipe": packed({f"{FOLDER}/a": b""}, tarfile.FIFOTYPE),
    "tar, a link to a file of the system": packed({f"{FOLDER}/a": b"/etc/passwd"}, tarfile.SYMTYPE),
    "tar, a very long name": packed({f"{FOLDER}/{'a' * 300}": b""}),
    "tar, a file as folder": packed({f"{FOLDER}/a": b"", f"{FOLDER}/a/b": b""}),
    "tar, a folder as file": packed({f"{FOLDER}/a/b": b"", f"{FOLDER}/a": b""}),
    "tar, another folder": packed({"other/a": b""}),
    "tar, a file as top": packed({FOLDER: b""}),
    "zip, cut": zipped({f"{FOLDER}/a": NOISE})[:50] + zipped({f"{FOLDER}/a": NOISE})[60:],
    "zip, other bytes": zipped({f"{FOLDER}/a": NOISE}, zipfile.ZIP_STORED).replace(NOISE[:9], NOISE[9:18], 1),
    "nothing": b"",
    "noise": NOISE,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_archive_is_named_and_leaves_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="is damaged") as caught:
        unpack(DAMAGED[name], tmp_path, monkeypatch)
    assert caught.value.kind == "data"
    assert str(tmp_path / "archive") in caught.value.message
    assert "download it again" in caught.value.hint
    assert "\n" not in caught.value.message
    assert {path.name for path in tmp_path.iterdir()} <= {"archive", ".archive.lock"}


def test_a_caller_can_stop_while_an_archive_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(phase: str, done: int, total: int) -> None:
        raise RuntimeError("stopped")

    body = zipped({f"{FOLDER}/a": b"x"})
    describe(body, monkeypatch, "http://127.0.0.1:9/archive")
    (tmp_path / "archive").write_bytes(body)
    with pytest.raises(RuntimeError, match="stopped"):
        download.download_data_set("cifar10", tmp_path, stop)
    assert {path.name for path in tmp_path.iterdir()} <= {"archive", ".archive.lock"}


def test_a_link_in_a_zip_is_a_plain_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = unpack(zipped({link(): b"/etc/passwd"}), tmp_path, monkeypatch)
    assert not (path / "link").is_symlink()


def test_a_disk_that_is_full_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extract", full)
    with pytest.raises(UserError, match="no room left") as caught:
        unpack(packed(cifar()), tmp_path, monkeypatch)
    assert caught.value.kind == "disk"
    assert "--root" in caught.value.hint
    assert {path.name for path in tmp_path.iterdir()} <= {"archive", ".archive.lock"}
