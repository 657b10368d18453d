"""The line editor by itself: keys, selection, suggestions, and what a narrow field shows."""

import pytest
from rich.cells import cell_len

from cfm_tui.console.line_editor import LineEditor


def edited(text, *keys, suggestions=()):
    """An editor after these keys; a key of one character is typed."""
    editor = LineEditor(text, suggestions)
    for key in keys:
        editor.press(key, key if len(key) == 1 else None)
    return editor


@pytest.mark.parametrize(
    ("keys", "text", "cursor"),
    [
        (["7"], "7", 1),
        (["backspace"], "", 0),
        (["delete"], "", 0),
        (["left", "7"], "7a b.c", 1),
        (["right", "7"], "a b.c7", 6),
        (["end", "backspace"], "a b.", 4),
        (["home", "delete"], " b.c", 0),
        (["end", "left", "left", "ctrl+u"], ".c", 0),
        (["end", "ctrl+w"], "a b.", 4),
        (["end", "ctrl+w", "ctrl+w"], "a ", 2),
        (["ctrl+u"], "", 0),
        (["ctrl+w"], "", 0),
        (["home", "backspace", "left"], "a b.c", 0),
        (["end", "delete", "right"], "a b.c", 5),
        (["f9", "ctrl+x"], "a b.c", 5),
    ],
)
def test_keys(keys, text, cursor):
    editor = edited("a b.c", *keys)
    assert (editor.text, editor.cursor) == (text, cursor)


def test_right_at_the_end_accepts_the_suggestion():
    names = ("recover.lr=", "recover.clamp=", "recover.clip=")
    editor = edited("", *"recover.cl", suggestions=names)
    assert editor.suggestion == "amp="
    assert editor.render(30).plain == "recover.clamp= "
    editor.press("left")
    assert editor.suggestion == ""
    editor.press("right")
    editor.press("right")
    assert (editor.text, editor.suggestion) == ("recover.clamp=", "")
    assert edited("", "x", "right", suggestions=names).text == "x"


def test_a_paste_is_one_printable_line():
    editor = edited("old")
    editor.paste("new\x1b[A\x07!\nrest")
    assert editor.text == "new[A!"
    editor.paste("")
    assert editor.text == "new[A!"


@pytest.mark.parametrize("text", ["plain text of some length", "宽字符和 mixed 的文本"])
@pytest.mark.parametrize("width", [3, 8, 80])
def test_the_cursor_is_always_visible(text, width):
    editor = LineEditor(text)
    for cursor in range(len(text), -1, -1):
        editor.place_cursor(cursor)
        first = editor.first_visible(width)
        assert first <= cursor
        cursor_cells = cell_len(text[cursor]) if cursor < len(text) else 1
        assert cell_len(text[first:cursor]) + cursor_cells <= width
        shown = editor.render(width)
        assert cell_len(shown.plain) <= width
        assert editor.index_at(cell_len(text[first:cursor]), width) == cursor


def test_a_selection_is_shown_whole():
    spans = LineEditor("abc").render(10).spans
    assert [(span.start, span.end) for span in spans if span.style.reverse] == [(0, 3)]
