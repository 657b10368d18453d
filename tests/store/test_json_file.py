"""JSON documents with a digest of their content."""

import hashlib
import json

import pytest

from engine.errors import UserError
from engine.store import json_file

VALUES = [{"x": 1}, {"a": "β\n", "b": {"c": [], "d": ',\n  "sha256": "'}}, {"b": {"sha256": "0"}}]


@pytest.mark.parametrize("value", VALUES)
def test_sealed_json_comes_back_and_its_seal_is_what_is_promised(tmp_path, value):
    path = tmp_path / "a.json"
    json_file.write_json(path, value)
    assert json_file.read_json(path) == value
    told = json.loads(path.read_text())
    assert list(told)[-1] == "sha256"
    before = path.read_bytes().rpartition(b',\n  "sha256"')[0]
    assert told["sha256"] == hashlib.sha256(before).hexdigest()


def test_json_has_no_nan(tmp_path):
    json_file.write_json(tmp_path / "a.json", {"x": [float("nan"), 1.5, (float("inf"),)]})
    assert json_file.read_json(tmp_path / "a.json") == {"x": [None, 1.5, [None]]}


def test_any_altered_lost_or_added_byte_of_sealed_json_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    json_file.write_json(path, {"name": "x", "values": [1, 2.5, None]})
    whole = path.read_bytes()
    altered = [
        whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :] for at in range(len(whole)) for bit in (1, 32)
    ]
    shorter = [whole[:at] for at in range(len(whole))]
    longer = [whole + b" ", whole + whole, b" " + whole]
    for content in altered + shorter + longer:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.json is damaged"):
            json_file.read_json(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", '{"x": 1}'])
def test_json_without_a_seal_is_damaged(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        json_file.read_json(tmp_path / "a.json")
