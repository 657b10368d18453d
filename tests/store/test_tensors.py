import hashlib
import json
import os
import struct

import numpy as np
import pytest
import safetensors.numpy

from engine.errors import UserError
from engine.store import tensors


def some_arrays():
    rng = np.random.default_rng(0)
    return {
        "odd": rng.standard_normal((3, 5)).astype(np.float32).T,
        "count": np.array(7, np.int64),
        "half": rng.standard_normal((2, 1, 3)).astype(np.float16),
        "bytes": np.arange(3, dtype=np.uint8),
        "truth": np.array([True, False]),
        "none": np.empty((0, 4), np.float64),
    }


def test_arrays_come_back_bit_for_bit_in_any_reader(tmp_path):
    path, arrays = tmp_path / "a.safetensors", some_arrays()
    assert tensors.write(path, arrays, {"fact": "β"}) == path.stat().st_size
    found, facts = tensors.read(path)
    assert facts == {"fact": "β"}
    for reading in (found, safetensors.numpy.load_file(path)):
        assert reading.keys() == arrays.keys()
        for name, array in arrays.items():
            assert reading[name].dtype == array.dtype
            assert np.array_equal(reading[name], array)
            assert reading[name].flags.aligned
            assert reading[name].flags.writeable


def test_the_seal_is_the_digest_of_the_file_with_zeros_in_its_place(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors.write(path, some_arrays(), {"sha": "0" * 64})
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    told = json.loads(content[8 : 8 + length])["__metadata__"]["sha256"]
    blank = content.replace(told.encode(), b"0" * 64, 1)
    assert told == hashlib.sha256(blank).hexdigest()


def test_any_altered_lost_or_added_byte_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors.write(path, {"x": np.arange(6, dtype=np.float32), "n": np.array(3, np.int64)}, {"fact": "β"})
    whole = path.read_bytes()
    contents = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(len(whole))]
    contents += [whole[:at] for at in range(len(whole))] + [whole + b"\0", b""]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.safetensors is damaged") as caught:
            tensors.read(path)
        assert caught.value.kind == "data"


def test_a_file_of_another_maker_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(4, np.float32)}, path, {"sha256": "0" * 64})
    with pytest.raises(UserError, match="is damaged"):
        tensors.read(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}",
        b"[" * 2000,
        b'{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}',
        b'{"x":[]}',
        b"null",
    ],
)
def test_a_header_that_is_nonsense_is_refused_though_its_seal_fits(tmp_path, header):
    text = b'{"__metadata__":{"sha256":"' + b"0" * 64 + b'","sealed":"file"},"y":' + header + b"}"
    raw = struct.pack("<Q", len(text)) + text
    path = tmp_path / "a.safetensors"
    path.write_bytes(tensors.seal(raw))
    with pytest.raises(UserError, match="is damaged"):
        tensors.read(path)


def test_a_file_that_is_absent_is_not_called_damaged(tmp_path):
    with pytest.raises(UserError, match="cannot read") as caught:
        tensors.read(tmp_path / "a.safetensors")
    assert caught.value.kind == "disk"


def test_an_array_larger_than_its_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    header = tensors.Header.build({"x": ("<f4", (1000,))}, {}, "file")
    path.write_bytes(tensors.seal(header))
    with pytest.raises(UserError, match="is damaged"):
        tensors.read(path)
    os.truncate(path, 0)
    with pytest.raises(UserError, match="is damaged"):
        tensors.Header.read(path)
