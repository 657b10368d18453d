"""Rows of cells as text."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfm_tui.display import progress, tables
from cfm_tui.display.run_summary import RunSummary
from engine.runs.results import format_mean_std


def test_columns_are_aligned():
    assert tables.align_columns([["a", "bc", "d"], ["abc", "b", ""]]) == "a    bc  d\nabc  b"


def test_csv_quotes_what_needs_it():
    assert tables.as_csv(["x", "y"], [[1, "a,b"]]) == 'x,y\n1,"a,b"\n'


def test_a_spread_in_words():
    assert format_mean_std({"mean": 52.123, "std": 0.5, "n": 3}) == "52.12 ± 0.50 (3)"
    assert format_mean_std({"mean": 52.123, "std": None, "n": 1}, 1) == "52.1 (1)"
    assert format_mean_std(None) == "—"


def _runs():
    long = "cifar10-10-convnet-20261128-035639-939b9f"
    accuracy = {"mean": 55.412, "std": 0.707, "n": 3}
    control = {"mean": 51.1, "std": 0.7, "n": 3}
    settings = {"data": "cifar10", "ipc": 10, "network": "resnet18_modified", "method": "cfm"}
    result = {"accuracy": accuracy, "control": control, "difference": 4.312, "verdict": "better"}
    return [
        RunSummary(Path(long), long, "finished", "2020-01-01T00:00:00Z", **settings, **result),
        RunSummary(Path("live"), "live", "running", stage="validate", done=0.64, **settings),
        RunSummary(Path("torn"), "torn", "damaged"),
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 110, 132, 160, None])
def test_the_list_of_runs_fits_its_width(width, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1577836800 + 5 * 3600)
    text = tables.runs_table(_runs(), width)
    assert width is None or max(map(len, text.splitlines())) <= width
    path = Path(__file__).parents[1] / "golden" / "tables" / f"runs-{width or 'all'}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text + "\n", "utf-8")
    assert text + "\n" == path.read_text("utf-8")


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "—"), (5, "5 s"), (90, "2 min"), (7200, "2 h"), (2e5, "2 d")]
)
def test_ages(seconds, text):
    assert progress.format_age(seconds) == text


@given(st.text(min_size=1), st.integers(3, 40))
def test_a_text_is_cut_in_its_middle(text, width):
    cut = tables.cut_middle(text, width)
    assert len(cut) == min(len(text), width)
    assert cut[0] == text[0]
    assert cut[-1] == text[-1]
