"""The columns of a table: which of them fit, and how rows are sorted by them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cfm_tui.console.columns import GAP, Column, cut_text, draw_bar, fit_columns, sort_rows

COLUMNS = [
    Column("name", str, str, least=4),
    Column("state", str, str),
    Column("note", str, str, rank=2),
    Column("age", str, str, rank=1),
    Column("left", str, str, rank=3),
]
TEXTS = [["name", "a long name"], ["state", "ok"], ["note", "twelve cells"], ["age", "5 h"], ["left", ""]]


def fit(width):
    return [(COLUMNS[index].name, cells) for index, cells in fit_columns(COLUMNS, TEXTS, width)]


def test_important_columns_get_their_places_first():
    assert fit(100) == [("name", 11), ("state", 5), ("note", 12), ("age", 3)]  # nothing is left
    assert fit(32) == [("name", 4), ("state", 5), ("note", 12), ("age", 3)]
    assert fit(31) == [("name", 11), ("state", 5), ("age", 3)]
    assert fit(18) == [("name", 4), ("state", 5), ("age", 3)]
    assert fit(17) == [("name", 8), ("state", 5)]
    assert fit(3) == [("name", 4), ("state", 5)]


def test_texts_get_their_room_before_less_important_columns():
    first = Column("name", str, str, least=4, comfort=(2, 9))
    columns = [first, *COLUMNS[1:]]
    assert fit_columns(columns, TEXTS, 32) == [(0, 11), (1, 5), (3, 3)]
    assert fit_columns(columns, TEXTS, 37) == [(0, 9), (1, 5), (2, 12), (3, 3)]


@given(st.integers(13, 200))
def test_no_width_is_exceeded(width):
    assert sum(cells + GAP for _, cells in fit(width)) <= width


def test_rows_without_a_value_are_last_in_both_directions():
    column = Column("x", str, lambda row: row)
    assert sort_rows([2, None, 1], column, descending=False) == [1, 2, None]
    assert sort_rows([2, None, 1], column, descending=True) == [2, 1, None]


@given(st.text("ab漢", max_size=20), st.integers(1, 20))
def test_a_text_is_cut_in_its_middle(text, width):
    cut = cut_text(text, width)
    assert cell_len(cut) <= width
    assert cut == text or "…" in cut


def test_a_bar_is_as_long_as_its_share():
    assert [draw_bar(share, 4) for share in (0, 0.5, 1, 2)] == ["░░░░", "██░░", "████", "████"]
