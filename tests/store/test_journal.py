import errno
import json

import pytest

from engine.errors import UserError
from engine.store import files, journal


def written(path, count=5):
    """A journal of `count` events, and the offset at which each line ends."""
    ends = []
    writer = journal.Journal(path)
    for number in range(count):
        writer.append("Notice", {"level": "info", "message": f'β_{number} ,"crc32":"'})
        ends.append(path.stat().st_size)
    writer.close()
    return ends


def numbers(path):
    return [record.seq for record in journal.read(path)]


def test_a_torn_journal_keeps_what_was_whole_at_every_byte_of_two_records(tmp_path):
    path = tmp_path / "journal.jsonl"
    ends = written(path)
    whole = path.read_bytes()
    for size in range(ends[2], len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends)
        assert numbers(path) == list(range(1, kept + 1))
        told = journal.damage(path)
        assert len(told) == (size not in ends)
        assert all("torn" in line and str(path) in line for line in told)
        writer = journal.Journal(path)
        assert writer.notices == told
        writer.append("Notice", {"message": "after"})
        writer.close()
        found = list(journal.read(path))
        assert [record.seq for record in found] == list(range(1, kept + 2))
        assert found[-1].payload == {"message": "after"}
        assert len(path.read_bytes().splitlines()) == kept + 1
        assert journal.damage(path) == []


def test_every_flipped_byte_is_told_and_what_it_hit_is_not_believed(tmp_path):
    path = tmp_path / "journal.jsonl"
    ends = written(path, 3)
    whole = path.read_bytes()
    intact = list(journal.read(path))
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1 << (place % 8)
        path.write_bytes(altered)
        hit = sum(end <= place for end in ends)
        found = list(journal.read(path))
        assert intact[hit] not in found
        assert all(record in intact for record in found)
        told = journal.damage(path)
        assert told
        at_end = hit == 2 or place == ends[1] - 1  # without their line break the last two lines are one
        assert ("torn" in told[-1]) == at_end
        assert at_end or f"line {hit + 1} " in " ".join(told)


def test_lines_that_are_missing_repeated_or_put_elsewhere_are_told(tmp_path):
    path = tmp_path / "journal.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)

    def after(*order):
        path.write_bytes(b"".join(lines[number - 1] for number in order))
        return numbers(path), journal.damage(path)

    assert after(1, 2, 3, 4, 5) == ([1, 2, 3, 4, 5], [])
    assert after(1, 2, 4, 5) == ([1, 2, 4, 5], [f"{path}: record 3 is missing before line 3"])
    assert after(4, 5) == ([4, 5], [f"{path}: records 1 to 3 are missing before line 1"])
    assert after(1, 2, 2, 3) == ([1, 2, 3], [f"{path}: line 3 has number 2 after number 2"])
    kept, told = after(1, 3, 2)
    assert kept == [1, 3]
    assert [line.removeprefix(f"{path}: ") for line in told] == [
        "record 2 is missing before line 2",
        "line 3 has number 2 after number 3",
    ]


def test_a_writer_leaves_damage_in_the_middle_where_it_is(tmp_path):
    path = tmp_path / "journal.jsonl"
    ends = written(path)
    text = bytearray(path.read_bytes())
    text[ends[1] + 20] ^= 1
    text[ends[3] + 20] ^= 1
    path.write_bytes(text)
    writer = journal.Journal(path)
    assert [line.split(": ")[1][:12] for line in writer.notices] == [
        "line 3 does ",
        "record 3 is ",
        "torn while i",
    ]
    writer.append("Notice", {"message": "after"})
    writer.close()
    assert numbers(path) == [1, 2, 4, 5]
    assert path.read_bytes()[: ends[3]] == text[: ends[3]]
    assert len(journal.damage(path)) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"[1",
        b'{"seq":1',
        b'{"seq":"1","time":0,"kind":"a","payload":{}',
        b'{"seq":1,"time":0,"kind":"a","payload":1',
    ],
)
def test_a_line_with_a_right_checksum_and_a_wrong_shape_is_damage(tmp_path, body):
    import zlib

    path = tmp_path / "journal.jsonl"
    path.write_bytes(body + f',"crc32":"{zlib.crc32(body):08x}"}}\n'.encode())
    assert numbers(path) == []
    assert len(journal.damage(path)) == 1


def test_a_growing_journal_is_read_on_where_reading_ended(tmp_path):
    path = tmp_path / "journal.jsonl"
    reading = journal.JournalReader(path)
    assert list(reading.read_new()) == []
    written(path, 2)
    assert [record.seq for record in reading.read_new()] == [1, 2]
    with path.open("ab") as file:
        file.write(b'{"seq":3,"ti')
    assert list(reading.read_new()) == []
    writer = journal.Journal(path)
    writer.append("Notice", {"message": "after"})
    writer.close()
    assert [record.payload["message"] for record in reading.read_new()] == ["after"]
    assert list(reading.read_new()) == []
    assert reading.all_damage() == []


def test_a_failed_append_leaves_the_journal_whole(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    writer = journal.Journal(path)
    writer.append("Notice", {"message": "first"})
    real = files.disk.write

    def half(handle, data, at):
        if len(data) > 40:
            return real(handle, data[:40], at)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(files.disk, "write", half)
        with pytest.raises(UserError, match="no room"):
            writer.append("Notice", {"message": "second " * 20})
    writer.append("Notice", {"message": "third"})
    writer.close()
    assert [record.payload["message"] for record in journal.read(path)] == ["first", "third"]
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == [1, 2]
