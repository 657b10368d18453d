"""Archives that lie, and pickles that are more than arrays: refused, in little time and memory."""

import gzip
import io
import os
import pickle
import re
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from engine.data import pickles, unpack
from engine.data.cifar import CIFAR10, CIFAR100
from engine.errors import UserError

TOP = "cifar-10-batches-bin"
END = bytes(1024)


def refused(data: bytes, folder: Path) -> str:
    """The message of unpacking `data`, which must leave nothing behind."""
    (folder / "in" / "to").mkdir(parents=True)
    (folder / "archive").write_bytes(data)
    with pytest.raises(UserError) as caught:
        unpack.unpack(folder / "archive", folder / "in" / "to", TOP)
    assert caught.value.kind == "data"
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert list((folder / "in").rglob("*")) == [folder / "in" / "to"]
    return caught.value.message


def tar(*members: tuple[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as made:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header of a tar with any size, negative ones and those of other kinds' members too."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    field = bytearray(size.to_bytes(12, "big", signed=True))
    field[0] = 0xFF if size < 0 else 0x80
    block[124:136], block[148:156] = field, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def sparse() -> bytes:
    member = tarfile.TarInfo(f"{TOP}/a")
    member.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
        "GNU.sparse.name": f"{TOP}/a", "GNU.sparse.realsize": str(10**12),
    }  # fmt: skip
    member.size = 512
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as made:
        made.addfile(member, io.BytesIO(b"1\n0\n0\n".ljust(512, b"\0")))
    return stream.getvalue()


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as made:
        for name, content in members:
            made.writestr(name, content)
    return stream.getvalue()


def patched(data: bytes, local: int, central: int, form: str, value: int) -> bytes:
    """A zip of one member with a field of its two headers replaced."""
    changed = bytearray(data)
    struct.pack_into(form, changed, changed.index(b"PK\3\4") + local, value)
    struct.pack_into(form, changed, changed.index(b"PK\1\2") + central, value)
    return bytes(changed)


def link() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(f"{TOP}/link")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


ONE = zipped((f"{TOP}/a", bytes(10_000)))
WHOLE = tar((f"{TOP}/a", np.random.default_rng(0).bytes(100_000)))
ZEROS = bytes(8 * 1024**2)
ARCHIVES = {
    "tar, very long name": (tar((f"{TOP}/{'a' * 300}", b"")), "a name of"),
    "tar, very deep": (tar((f"{TOP}{'/a' * 3000}", b"")), "a name of"),
    "tar, control characters": (tar((f"{TOP}/a\x1b[2J", b"")), r"a\\x1b\[2J"),
    "tar, no UTF-8": (tar((f"{TOP}/a\udcff", b"")), "a file named"),
    "tar, no name": (tar(("", b"")), "a file named ''"),
    "tar, twice": (tar((f"{TOP}/a", b"x"), (f"{TOP}/a", b"y")), "two files for 'a'"),
    "tar, a file as folder": (tar((f"{TOP}/a", b""), (f"{TOP}/a/b", b"")), "two files for 'b'"),
    "tar, a folder as file": (tar((f"{TOP}/a/b", b""), (f"{TOP}/a", b"")), "two files for 'a'"),
    "tar, another top": (tar(("other/a", b"")), "no folder"),
    "tar, a file as top": (tar((TOP, b"")), "no folder"),
    "tar, cut": (WHOLE[:50_000], "is damaged"),
    "tar, other bytes": (WHOLE[:-8] + b"12345678", "CRC"),
    "tar, negative size": (gzip.compress(header(f"{TOP}/a", 0) + header(f"{TOP}/b", -512) + END), "plain"),
    "tar, negative folder": (header(TOP, -512, tarfile.DIRTYPE) + END, "plain"),
    "tar, negative long name": (header("x", -512, tarfile.GNUTYPE_LONGNAME) + END, "header"),
    "tar, negative extension": (header("x", -512, tarfile.XHDTYPE) + END, "header"),
    "tar, huge long name": (gzip.compress(header("x", 2**23, tarfile.GNUTYPE_LONGNAME) + ZEROS), "header"),
    "tar, huge extension": (gzip.compress(header("x", 2**23, tarfile.XHDTYPE) + ZEROS), "header"),
    "tar, endless extensions": (header("x", 0, tarfile.XHDTYPE) * 5000 + END, "is damaged"),
    "tar, huge size": (header(f"{TOP}/a", 10**15) + END, "is damaged"),
    "tar, sparse": (sparse(), "not a plain file"),
    "tar, another compression": (tar((f"{TOP}/a", b""), mode="w:xz"), "is damaged"),
    "zip, link": (zipped((link(), b"/etc/passwd")), "not a plain file"),
    "zip, more declared": (patched(ONE, 22, 24, "<I", 2**31), "declares 2,147,483,648"),
    "zip, less declared": (patched(ONE, 22, 24, "<I", 10), "is damaged"),
    "zip, encrypted": (patched(ONE, 6, 8, "<H", 1), "not a plain file"),
    "zip, another compression": (zipped((f"{TOP}/a", b""), kind=zipfile.ZIP_LZMA), "not a plain file"),
    "zip, two names": (ONE.replace(b"bin/a", b"bin/b", 1), "is damaged"),
    "zip, no UTF-8": (patched(ONE, 6, 8, "<H", 2048).replace(b"bin/a", b"bin/\xff"), "is damaged"),
    "zip, backslash": (zipped((f"{TOP}/..\\a", b"")), "a file named"),
    "zip, cut": (ONE[:50] + ONE[60:], "is damaged"),
    "nothing": (b"", "is damaged"),
    "noise": (np.random.default_rng(1).bytes(1000), "is damaged"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    data, said = ARCHIVES[name]
    message = refused(data, tmp_path)
    assert re.search(said, message), message


def test_names_that_come_twice_in_a_zip_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped((f"{TOP}/a", b"x"), (f"{TOP}/a", b"y"))
    assert "two files for 'a'" in refused(data, tmp_path)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_folders_count_as_members(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MAX_FILES", 100)
    names = [f"{TOP}/{index}/" for index in range(101)]
    data = b"".join(header(name, 0, tarfile.DIRTYPE) for name in names) + END
    assert "more than 100" in refused(
        data if kind == "tar" else zipped(*((name, b"") for name in names)), tmp_path
    )


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_the_size_of_all_members_together_is_bounded(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "MAX_BYTES", 1000)
    members = [(f"{TOP}/{index}", bytes(400)) for index in range(3)]
    assert "more than 1,000 bytes" in refused((tar if kind == "tar" else zipped)(*members), tmp_path)


# ---- pickles


def cost(make: object) -> bytes:
    return pickle.dumps({"data": make, "labels": [0]})


BOMB = b"K\x01\x85q\x00" + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60))
TEXT = b"X" + struct.pack("<I", 1000) + b"x" * 1000 + b"q\x00X\x06\x00\x00\x00latin1q\x01"
FLAGS = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
PICKLES = {
    "far memory slot": (b"\x80\x02Nr\xff\xff\xff\x3f.", "slot"),
    "a tuple that doubles, as key": (b"\x80\x02}" + BOMB + b"Ns.", "repeats a tuple"),
    "endless copies of bytes": (
        b"\x80\x02" + TEXT + b"]q\x02(" + b"c_codecs\nencode\nh\x00h\x01\x86R" * 500 + b"e.", "too many"
    ),
    "bytes that are not there": (b"\x80\x04\x8e" + (10**12).to_bytes(8, "little") + b".", "expected"),
    "an array larger than its bytes": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"\x89U\x04abcdtb.", "cannot reshape"
    ),
    "an array of objects": (cost(np.array([object], dtype=object)), "asks for|not allowed"),
    "an instance": (b"\x80\x02cnumpy\ndtype\n)\x81.", "NEWOBJ"),
    "an old instance": (b"(S'x'\nios\nsystem\n.", "INST"),
    "a reference outside": (b"\x80\x02K\x01Q.", "BINPERSID"),
    "a list": (b"\x80\x02].", "no dictionary"),
    "deep lists": (b"\x80\x02}X\x01\x00\x00\x00a" + b"]" * 200_000 + b"a" * 199_999 + b"s.", "no uint8"),
    "keys that are no names": (b"\x80\x02}K\x01Ns.", "no dictionary"),
    "half": (cost(np.zeros(1000))[:500], "cannot be read"),
    "nothing": (b"", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_pickle_takes_no_memory_and_no_time(tmp_path: Path, name: str) -> None:
    data, said = PICKLES[name]
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for index in range(1, 6):
        (folder / f"data_batch_{index}").write_bytes(data)
    with pytest.raises(UserError, match=said) as caught:
        CIFAR10[1].read(folder, want_test=False)
    assert caught.value.kind == "data"
    assert "data_batch_1" in caught.value.message


def test_flags_of_a_dtype_are_not_listened_to(tmp_path: Path) -> None:
    """NumPy itself takes the flag that says `these bytes are pointers` from the file."""
    data = b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    data += b"(K\x01K\x04\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R" + FLAGS + b"\x89U\x04abcdtbs."
    (tmp_path / "batch").write_bytes(data)
    found = pickles.read(tmp_path / "batch")["data"]
    assert found.dtype == np.uint8
    assert not found.dtype.hasobject
    assert bytes(found) == b"abcd"


@pytest.mark.parametrize(
    "labels", [[10**30], [-1], [True], ["1"], 5, [[0]], [256], {"a": 1}], ids=lambda labels: str(labels)
)
def test_labels_that_are_none_are_refused(tmp_path: Path, labels: object) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for index in range(1, 6):
        content = {"data": np.zeros((1, 3072), np.uint8), "labels": labels}
        (folder / f"data_batch_{index}").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="one number an image"):
        CIFAR10[1].read(folder, want_test=False)


@pytest.mark.parametrize(
    "names", [["a"], 5, "x" * 100, [["a"]] * 100, ["a\x1b[2J"] * 100, ["x" * 5000] * 100, [None] * 100]
)
def test_class_names_that_are_none_are_refused(tmp_path: Path, names: object) -> None:
    (tmp_path / "train").touch()
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    with pytest.raises(UserError, match="class names"):
        CIFAR100[1].read(tmp_path, want_test=False)


@pytest.mark.skipif(not hasattr(os, "truncate"), reason="no sparse files")
def test_a_pickle_too_large_to_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "batch").touch()
    os.truncate(tmp_path / "batch", pickles.MAX_BYTES + 1)
    with pytest.raises(UserError, match="larger than"):
        pickles.read(tmp_path / "batch")
