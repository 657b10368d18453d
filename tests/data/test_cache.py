"""The cache of decoded pixels: written once, made anew when it is damaged or files change."""

import errno
import struct
from pathlib import Path

import pytest
from faulty_disk import FaultyDisk
from picture_trees import make_tree

import engine.data
from engine.config import Data
from engine.data import cache as cache_module
from engine.data.pictures import Files
from engine.errors import UserError
from engine.store import files

COUNTS = {"train/cat": 12, "train/ant": 5, "test/ant": 3, "test/cat": 2}


def load(root: Path, **settings: object) -> engine.data.DataSet:
    return engine.data.load(Data(name="folder", root=str(root), **settings))


def test_files_are_decoded_once_and_anew_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "set", COUNTS)
    opened: list[str] = []
    original = Files.open
    monkeypatch.setattr(Files, "open", lambda self, i: opened.append(self.name(i)) or original(self, i))
    first = load(tmp_path / "set", image_size=16)
    assert len(opened) == 17 + 22  # training headers, then every picture
    opened.clear()
    assert load(tmp_path / "set", image_size=16).fingerprint == first.fingerprint
    assert not opened
    make_tree(tmp_path / "set", {"x": 0, "test/ant": 3})
    assert load(tmp_path / "set", image_size=16).fingerprint != first.fingerprint
    assert set(opened) == {f"test/{name}.png" for name in ("ant/0", "ant/1", "ant/2", "cat/0", "cat/1")}


def test_a_damaged_cache_entry_is_made_anew(tmp_path: Path, cache: Path) -> None:
    make_tree(tmp_path / "set", COUNTS)
    before = load(tmp_path / "set").fingerprint
    for pixels in cache.glob("images/*/pixels.u8"):
        pixels.write_bytes(b"cut")
    assert load(tmp_path / "set").fingerprint == before
    lies = {"descr": "<i8", "fortran_order": False, "shape": (10**14, 2, 3)}
    for content in (
        b"",
        b"\x93NUMPY",
        _npy(lies),
        _npy({**lies, "descr": "|O"}),
        _npy({**lies, "shape": (17,)}),
    ):
        for sums in cache.glob("images/*/sums.npy"):
            sums.write_bytes(content)
        assert load(tmp_path / "set").fingerprint == before


def _npy(header: dict[str, object]) -> bytes:
    text = repr(header).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(17 * 8)


def test_a_full_disk_is_reported_and_leaves_nothing_behind(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "set", COUNTS)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "decode_chunks", full)
    with pytest.raises(UserError, match="no room left") as caught:
        load(tmp_path / "set")
    assert caught.value.kind == "disk"
    assert "CFM_CACHE" in caught.value.hint
    assert not [path for path in (cache / "images").iterdir() if path.is_dir()]
    monkeypatch.undo()


def test_a_cache_that_fills_up_with_the_last_file_names_its_variable(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "set", COUNTS)
    disk = FaultyDisk(2, errno.ENOSPC, ("write",))  # the first writes the sums, the second the last file
    monkeypatch.setattr(files, "disk", disk)
    with pytest.raises(UserError, match="no room left") as caught:
        load(tmp_path / "set")
    assert "CFM_CACHE" in caught.value.hint
    assert "--out" not in caught.value.hint
