"""The preferences of the console, and what is wrong with them."""

from __future__ import annotations

import pytest

from cfm_tui.console.app import list_action_names
from cfm_tui.console.preferences import Preferences, write_queries
from engine.errors import UserError


def read(folder, text):
    path = folder / "console.yaml"
    path.write_text(text)
    return Preferences.read(path, list_action_names)


def test_without_a_file_all_is_usual(tmp_path):
    assert Preferences.read(tmp_path / "none.yaml", list) == Preferences()


def test_preferences_are_read(tmp_path):
    found = read(tmp_path, "theme: cfm-safe\nimages: off\nfps: 0.5\nkeys: {runs.turn: 'z,ctrl+o'}\n")
    assert found == Preferences("cfm-safe", "off", 0.5, {"runs.turn": "z,ctrl+o"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("thme: cfm-safe", "did you mean theme?"),
        ("theme: cfm-save", "did you mean cfm-safe?"),
        ("images: haif", "did you mean half?"),
        ("fps: fast", "fps is 'fast'"),
        ("fps: 0", "fps is 0"),
        ("fps: true", "fps is True"),
        ("keys: [q]", "keys is not a mapping"),
        ("keys: {runs.trun: z}", "did you mean runs.turn?"),
        ("keys: {runs.turn: 7}", "keys.runs.turn is 7"),
        ("keys: {runs.turn: ''}", "keys.runs.turn is ''"),
        ("- 1", "console.yaml"),
    ],
)
def test_what_is_wrong_with_preferences_is_named(tmp_path, text, said):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_queries_are_written_and_the_rest_of_the_file_is_kept(tmp_path):
    file = tmp_path / "new" / "console.yaml"
    write_queries(file, {"best": "acc>50"})
    assert Preferences.read(file, list).queries == {"best": "acc>50"}
    file.write_text("# mine\nqueries:\n  best: acc>50\n  # old\nfps: 1.0  # slow\n")
    write_queries(file, {"best": "acc>60", "it's: odd": 'name="a b"'})
    assert file.read_text().startswith("# mine\nfps: 1.0  # slow\nqueries:\n")
    assert Preferences.read(file, list).queries == {"best": "acc>60", "it's: odd": 'name="a b"'}


def test_queries_in_a_form_that_cannot_be_replaced_stay(tmp_path):
    file = tmp_path / "console.yaml"
    text = "{fps: 1.0, queries: {best: acc>50}}\n"
    file.write_text(text)
    with pytest.raises(UserError, match="cannot be replaced"):
        write_queries(file, {"best": "acc>60"})
    assert file.read_text() == text


@pytest.mark.parametrize("queries", ["[a]", "{a: 1}", '{a: "acc>much"}', '{a: "nokey=1"}'])
def test_a_wrong_query_is_named(tmp_path, queries):
    file = tmp_path / "console.yaml"
    file.write_text(f"queries: {queries}\n")
    with pytest.raises(UserError, match=r"console\.yaml: queries"):
        Preferences.read(file, list)
