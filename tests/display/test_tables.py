"""Rows of cells as text."""

from cfm_tui.display import tables
from engine.runs.results import format_mean_std


def test_columns_are_aligned():
    assert tables.align_columns([["a", "bc", "d"], ["abc", "b", ""]]) == "a    bc  d\nabc  b"


def test_csv_quotes_what_needs_it():
    assert tables.as_csv(["x", "y"], [[1, "a,b"]]) == 'x,y\n1,"a,b"\n'


def test_a_spread_in_words():
    assert format_mean_std({"mean": 52.123, "std": 0.5, "n": 3}) == "52.12 ± 0.50 (3)"
    assert format_mean_std({"mean": 52.123, "std": None, "n": 1}, 1) == "52.1 (1)"
    assert format_mean_std(None) == "—"
