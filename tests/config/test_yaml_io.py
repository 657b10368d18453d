import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import yaml_io
from engine.errors import UserError

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
@settings(max_examples=200, deadline=None)
def test_what_is_written_reads_back_on_one_line(value: object) -> None:
    text = yaml_io.inline(value)
    assert "\n" not in text
    assert yaml_io.parse(text, "here") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("0.25", 0.25),
        ("010", 10),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("on", True),
        ("No", False),
        ("~", None),
        ("", None),
        ("<<", "<<"),
        ("e5", "e5"),
        ("'1e-3'", "1e-3"),
    ],
)
def test_plain_scalars_have_the_expected_types(text: str, value: object) -> None:
    got = yaml_io.parse(text, "here")
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is repeated"),
        ("a:\n  - {x: 1, x: 2}\n", "line 2: the key 'x' is repeated"),
        ("a: &x [1]\nb: *x\n", "line 1: anchors"),
        ("a: *x\n", "line 1: anchors"),
        ("a: !!python/object/apply:os.system ['true']\n", "tag"),
        ("a: !!set {x}\n", "tag"),
        ("a: !!int 0x10\n", "whole number"),
        ("a: !!float abc\n", "not a number"),
        ("1: 2\n", "not text"),
        ("[a]: 2\n", "not text"),
        ("a: [1\nb: 2\n", "line 2"),
        ("a: 1\n---\nb: 2\n", "line 2"),
        ("a: " + "9" * 100, "whole number"),
        ("a: " + "[" * 90_000, "nested"),
        ("a: \x00", "special characters"),
        ('a: "\\ud800"', "line 1: half a character"),
        ('"\\ud800": 1', "line 1: half a character"),
        ('a: 1\nb: "\\UFFFFFFFF"', "line 2: an escape"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "line 1: anchors"),
        ("a: &a {b: *a}\n", "anchors"),
        ("? [[[[[[[[[[[[[[[[[[a]]]]]]]]]]]]]]]]]]\n: 1\n", "nested"),
        ("- " * 5_000, "nested"),
        ("? " * 5_000, "nested"),
        ("a: " + "{b: " * 20 + "1" + "}" * 20, "nested"),
        ("a: !!binary aGk=\n", "tag"),
        ("a: !!python/name:os.system\n", "tag"),
        ("!!omap [a: 1]\n", "tag"),
        ("!mine {a: 1}\n", "tag"),
        ("%TAG ! tag:yaml.org,2002:python/\n---\n!name:os.system\n", "tag"),
        ("a: 1" + "\n" * yaml_io.MAX_BYTES, "larger"),
    ],
)
def test_anything_but_plain_data_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        yaml_io.parse(text, "here")
    assert caught.value.kind == "config"
    assert "here" in caught.value.message
    assert words in caught.value.message


def test_a_merge_key_is_a_key_like_any_other() -> None:
    assert yaml_io.parse("<<: {a: 1}\na: 2", "here") == {"<<": {"a": 1}, "a": 2}


@pytest.mark.parametrize(
    "text",
    [
        "[" + "1," * 49_000 + "]",
        "- 1\n" * 24_000,
        "\n".join(f"k{n}: 1" for n in range(11_000)),
        "#\n" * 49_000,
    ],
    ids=["list", "lines", "keys", "comments"],
)
def test_the_longest_text_is_read_in_seconds(text: str) -> None:
    assert yaml_io.MAX_BYTES * 0.9 < len(text) <= yaml_io.MAX_BYTES
    since = time.process_time()
    yaml_io.parse(text, "here")
    assert time.process_time() - since < 6


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"

    def message() -> str:
        with pytest.raises(UserError) as caught:
            yaml_io.read(path)
        assert caught.value.hint
        return caught.value.message

    assert "does not exist" in message()
    path.write_bytes(b"a: 1\nb: \xff\n")
    assert "line 2: not UTF-8" in message()
    path.write_bytes(b"#" * (yaml_io.MAX_BYTES + 1))
    assert "larger" in message()
    path.write_text("- a\n")
    assert "no keys" in message()
    path.write_text("\ufeffa: 1\n", encoding="utf-8")
    assert yaml_io.read(path) == {"a": 1}
    path.write_text("# nothing\n")
    assert yaml_io.read(path) == {}
    path.unlink()
    path.mkdir()
    assert "folder" in message()
    path.rmdir()
    os.mkfifo(path)  # reading it would block
    assert "not a regular file" in message()
    path.unlink()
    path.write_text("a: 1\n", encoding="utf-16")
    assert "line 1: not UTF-8" in message()
    path.write_bytes(bytes(range(256)))
    assert "not UTF-8" in message()
    path = tmp_path / ("x" * 5000)
    assert "does not exist" in message()
    path = tmp_path / "nul\0"
    assert "does not exist" in message()
