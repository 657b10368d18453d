"""Teachers' files that lie about their sizes or hold no plain numbers: refused, in little time and memory."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from spoiling import pickled
from torch import nn

from engine import backbones
from engine.config import Backbone
from engine.errors import UserError

PEAK = Path("/proc/self/clear_refs")
NAME = "classifier.bias"


def build() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return backbones.build(Backbone(width=8), classes=5, channels=3, image_size=32)


def refused(path: Path) -> str:
    """The message of loading a file, which must change nothing and take little memory."""
    model = build()
    before = backbones.fingerprint(model)
    measurable = os.access(PEAK, os.W_OK)
    if measurable:
        PEAK.write_text("5")
        start = peak()
    with pytest.raises(UserError) as caught:
        backbones.load_teacher(model, str(path))
    if measurable:
        assert peak() - start < 200
    assert caught.value.kind == "teacher"
    assert caught.value.hint
    assert len(caught.value.message) < 2000
    assert backbones.fingerprint(model) == before
    return caught.value.message


def peak() -> int:
    """The largest memory of this process so far, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line[:6] == "VmHWM:")
    return int(line.split()[1]) // 1024


def whole(**other: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**build().state_dict(), **other}


def packed(path: Path, content: object, old: bytes = b"", new: bytes = b"", kind: int = 0) -> Path:
    """What `torch.save` writes, with bytes of its pickle replaced, as a zip of some compression."""
    stream = io.BytesIO()
    torch.save(content, stream)
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(path, "w", kind) as made:
        for record in source.infolist():
            data = source.read(record)
            if record.filename.endswith("data.pkl"):
                assert old in data
                data = data.replace(old, new)
            made.writestr(record.filename, data)
    return path


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little")


@pytest.mark.parametrize("count", [10**6, 10**10, 10**15])
def test_shapes_and_storages_that_are_not_there(tmp_path: Path, count: int) -> None:
    """The state dict of one tensor of five numbers, said to be of more."""
    small, path = {NAME: torch.zeros(5)}, tmp_path / "lie.pth"
    storage, shape = b"K\x05tq", b"K\x05\x85"
    assert "cannot be read" in refused(packed(path, small, shape, number(count) + b"\x85"))
    assert "cannot be read" in refused(packed(path, small, storage, number(count) + b"tq"))
    torch.save(small, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert b"K\x05Ntq" in data
    lying = data.replace(b"K\x05Ntq", number(count) + b"Ntq")
    path.write_bytes(lying)
    assert "cannot be read" in refused(path)
    path.write_bytes(lying[:-28] + struct.pack("<q", count) + lying[-20:])
    assert "cannot be read" in refused(path)


def test_a_view_that_would_fill_all_memory_is_refused_by_its_shape(tmp_path: Path) -> None:
    torch.save(whole(**{NAME: torch.zeros(1).expand(10**7, 10**7)}), tmp_path / "view.pth")
    assert "(10000000, 10000000) instead of (5,)" in refused(tmp_path / "view.pth")


def test_compressed_records_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb.pth", {NAME: torch.zeros(10**7)}, kind=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 10**6
    assert "compressed" in refused(bomb)


def test_records_that_overlap_are_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "overlap.pth", whole())
    with zipfile.ZipFile(path) as made:
        sizes = [record.file_size for record in made.infolist()]
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    struct.pack_into("<II", data, at + 20, *[sum(sizes) * 100] * 2)
    path.write_bytes(data)
    assert "larger than the file" in refused(path)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(5).to_sparse(),
        torch.zeros(5, device="meta"),
        torch.zeros(5, dtype=torch.complex64),
    ],
    ids=["sparse", "meta", "complex"],
)
def test_tensors_that_are_no_plain_numbers_are_named(tmp_path: Path, value: torch.Tensor) -> None:
    torch.save(whole(**{NAME: value}), tmp_path / "odd.pth")
    assert f"not plain tensors: {NAME}" in refused(tmp_path / "odd.pth")


DEEP = b"\x80\x02}" + b")" + b"\x85" * 20_000 + b"K\x01s."
COVERED = (
    b"\x80\x02ccollections\nOrderedDict\n)R}"
    + b"".join(b"X%cX\x01\x00\x00\x00xs".replace(b"%c", struct.pack("<I", len(name)) + name)
               for name in (b"get", b"keys", b"items", b"values"))
    + b"b."
)  # fmt: skip


@pytest.mark.parametrize("steps", [DEEP, COVERED, b"\x80\x02]" * 2 + b"."], ids=["deep", "covered", "list"])
def test_dictionaries_that_are_none(tmp_path: Path, steps: bytes) -> None:
    """Keys nested beyond printing; an ordered dictionary whose methods the file replaces; a list."""
    assert "holds no state dict" in refused(pickled(tmp_path / "odd.pth", steps))


@pytest.mark.parametrize(
    "steps", [b"\x80\x02Nr\xff\xff\xff\x3f.", b"\x80\x02" + b"]" * 10_000 + b".", b"\x80\x02\x8a\xff."]
)
def test_pickles_that_take_memory_or_depth(tmp_path: Path, steps: bytes) -> None:
    (tmp_path / "bare.pth").write_bytes(steps)
    refused(tmp_path / "bare.pth")
    refused(pickled(tmp_path / "zip.pth", steps))


def test_old_archives_in_a_tar_are_not_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "old.pth", "w") as made:
        for name in ("storages", "tensors", "pickle", "../escaped"):
            member = tarfile.TarInfo(name)
            member.size = 3
            made.addfile(member, io.BytesIO(b"abc"))
    assert "cannot be read" in refused(tmp_path / "old.pth")
    assert list(tmp_path.iterdir()) == [tmp_path / "old.pth"]


def safetensors(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def one(shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


SAFETENSORS = {
    "header of 2⁶² bytes": struct.pack("<Q", 2**62) + b"{}",
    "header of 90 MB that is not there": struct.pack("<Q", 90 * 1024**2) + b"{}",
    "negative offset": safetensors({NAME: one([1], -4, 0)}, bytes(4)),
    "overlap": safetensors({NAME: one([1], 0, 4), "b": one([1], 0, 4)}, bytes(4)),
    "gap": safetensors({NAME: one([1], 0, 4), "b": one([1], 8, 12)}, bytes(12)),
    "beyond the file": safetensors({NAME: one([10**12], 0, 4 * 10**12)}, bytes(4)),
    "shape that overflows": safetensors({NAME: one([2**62, 2**62], 0, 0)}),
    "more bytes than the shape": safetensors({NAME: one([1], 0, 8)}, bytes(8)),
    "more bytes than are spoken of": safetensors({NAME: one([1], 0, 4)}, bytes(8)),
    "end before start": safetensors({NAME: one([1], 4, 0)}, bytes(4)),
    "unknown type": safetensors({NAME: {**one([1], 0, 4), "dtype": "OBJECT"}}, bytes(4)),
    "nested beyond sense": safetensors(b'{"a":' * 100_000),
    "no object": safetensors(b"[]"),
    "no text": safetensors(b"\xff\xfe\xfd"),
    "empty": b"",
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_that_lie(tmp_path: Path, name: str) -> None:
    (tmp_path / "lie.safetensors").write_bytes(SAFETENSORS[name])
    assert "cannot be read" in refused(tmp_path / "lie.safetensors")


@pytest.mark.parametrize("source", ["~nobody-of-this-name/x.pth", "x" * 5000, "a\0b", "", "/dev/zero"])
def test_paths_that_are_none(source: str) -> None:
    with pytest.raises(UserError) as caught:
        backbones.load_teacher(build(), source)
    assert caught.value.kind == "teacher"
