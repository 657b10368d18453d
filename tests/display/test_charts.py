"""Charts of any numbers in any size: what they show, how they look (golden files), and that they never fail.

After a change on purpose: UPDATE_GOLDEN=1 pytest tests/display/test_charts.py
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import numpy as np
import plotext
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from cfm_tui.display.charts import ROLES, Axis, Line, draw
from cfm_tui.display.terminal import Terminal

GOLDEN = Path(__file__).parents[1] / "golden" / "charts"
FULL = Terminal(unicode=True, braille=True, blocks=True, colours=256)
CONSOLE = Terminal(unicode=True, braille=False, blocks=True, colours=16)
ASCII = Terminal(unicode=False, braille=False, blocks=False, colours=0)
COLOURS = {role: f"#00000{number}" for number, role in enumerate((*ROLES, "muted"))}


def curves(count: int = 3, rows: int = 400) -> list[Line]:
    x = np.arange(float(rows))
    t = 400 * x / rows
    return [
        Line("cross-entropy", x, 2 * np.exp(-t / 120) + 0.06 * np.sin(x / 3)),
        Line("filter Ψ", x, np.exp(-t / 250), np.exp(-t / 250) + 0.2, colour="accent"),
        Line("signal", x, 0.5 + 0.3 * np.sin(t / 40), colour="success"),
    ][:count]


def spectrum() -> list[Line]:
    x = np.arange(1.0, 65)
    return [Line("Ψ real", x, 40 / x**2), Line("Ψs", x, 30 / x**1.7, colour="accent")]


LOOKS = {
    "three": lambda: draw(curves(), 60, 14, terminal=FULL, title="losses", x_label="iteration", mark=250),
    "three-console": lambda: draw(curves(), 60, 14, terminal=CONSOLE, x_label="iteration"),
    "three-ascii": lambda: draw(curves(), 60, 14, terminal=ASCII, title="losses", x_label="β"),
    "one-wide": lambda: draw(curves(1, 250_000), 110, 20, terminal=FULL, x_label="iteration"),
    "spectrum-log": lambda: draw(spectrum(), 60, 14, terminal=FULL, log=True, x_label="eigenvalue"),
    "zoomed": lambda: draw(curves(2), 50, 10, terminal=FULL, x_range=(100, 140)),
    "small": lambda: draw(curves(1), 20, 5, terminal=ASCII),
}


@pytest.mark.parametrize("name", LOOKS)
def test_looks_as_before(name: str) -> None:
    path, drawn = GOLDEN / f"{name}.txt", LOOKS[name]().plain + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(drawn, encoding="utf-8")
    assert drawn == path.read_text(encoding="utf-8")


ANY = st.one_of(
    st.floats(-10, 10),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e308, -1e308, 5e-324, 1.0, 1 + 2e-16]),
)
ENDS = st.none() | st.tuples(ANY, ANY)


@st.composite
def lines(pick) -> list[Line]:
    result = []
    for number in range(pick(st.integers(0, 5))):
        values = pick(st.lists(st.tuples(ANY, ANY, ANY), max_size=30))
        x, low, high = (np.array([value[part] for value in values], float) for part in range(3))
        x = np.arange(float(len(values))) if pick(st.booleans()) else x
        name = pick(st.text(max_size=8))
        result.append(Line(name, x, low, high if pick(st.booleans()) else None, ROLES[number]))
    return result


@settings(max_examples=200, deadline=None)
@given(
    lines(),
    st.one_of(st.integers(1, 30), st.integers(1, 200)),
    st.one_of(st.integers(1, 12), st.integers(1, 60)),
    st.sampled_from([FULL, CONSOLE, ASCII]),
    st.booleans(),
    ENDS,
    st.none() | ANY,
    st.sampled_from(["", "iteration", "數 of\nλ"]),
)
def test_any_numbers_in_any_size(drawn, width, height, terminal, log, x_range, mark, label) -> None:
    chart = draw(
        drawn, width, height, terminal=terminal, colours=COLOURS, log=log,
        x_range=x_range, mark=mark, title=label, x_label=label,
    )  # fmt: skip
    rows = chart.plain.split("\n")
    assert len(rows) == height
    assert set(map(cell_len, rows)) == {width}
    assert terminal.unicode or chart.plain.isascii()


@pytest.mark.parametrize(
    ("x", "shown"),
    [
        ([0, 1], ["0", "1"]),
        ([1, 2, 3], ["1", "2", "3"]),
        ([1], ["1"]),
        ([0], ["0"]),
        ([0, 0.25], ["0", "0.05", "0.1", "0.15", "0.2", "0.25"]),
    ],
)
def test_ticks_of_counts_are_whole(x, shown) -> None:
    line = Line("a", np.array(x, float), np.ones(len(x)))
    drawn = draw([line], 80, 10, terminal=FULL).plain
    assert drawn.splitlines()[-1].split() == shown


def test_a_chart_without_cells_is_empty() -> None:
    assert draw(curves(), 0, 5, terminal=FULL).plain.split("\n") == [""] * 5
    assert draw(curves(), 5, 0, terminal=FULL).plain == ""


def test_what_cannot_be_drawn_is_said() -> None:
    x = np.arange(3.0)
    assert "nothing to draw yet" in draw([], 40, 5, terminal=FULL).plain
    assert "nothing to draw yet" in draw([Line("a", x[:0], x[:0])], 40, 5, terminal=FULL).plain
    assert "nothing finite to draw" in draw([Line("a", x, x * math.nan)], 40, 5, terminal=FULL).plain
    said = draw([Line("a", x, -x)], 60, 5, terminal=FULL, log=True).plain
    assert "nothing positive to draw on a log axis" in said


def test_a_spike_among_many_points_reaches_the_top() -> None:
    values = np.zeros(100_000)
    values[54_321] = 7
    for terminal in (FULL, CONSOLE, ASCII):
        rows = draw([Line("spike", np.arange(1e5), values)], 60, 14, terminal=terminal).plain.split("\n")
        assert set(rows[1][5:]) - {" "}


def test_a_gap_stays_a_gap_and_points_far_apart_are_joined() -> None:
    x, y = np.arange(5.0), np.array([1, 1, math.nan, 1, 1])
    row = draw([Line("a", x, y)], 42, 5, terminal=ASCII).plain.split("\n")[2].partition("+")[2]
    assert set(row[:9]) == {"*"}
    assert set(row[13:26]) == {" "}
    assert set(row[31:]) == {"*"}


def test_a_line_goes_on_beyond_the_ends_of_a_zoomed_view() -> None:
    line = Line("a", np.array([0, 1000.0]), np.array([1, 1.0]))
    row = draw([line], 42, 5, terminal=ASCII, x_range=(400, 401)).plain.split("\n")[2]
    assert set(row.partition("+")[2]) == {"*"}


def test_lines_are_told_apart_without_colour() -> None:
    for terminal in (FULL, CONSOLE, ASCII):
        drawn = draw(curves(), 60, 14, terminal=terminal).plain.split("\n")
        assert drawn[0].startswith("A cross-entropy  B filter")
        for mark in "ABC":
            assert any(mark in row for row in drawn[1:-2])


def test_lines_have_the_colours_of_their_roles_unless_there_are_none() -> None:
    def used(terminal: Terminal) -> set[str]:
        chart = draw(curves(), 60, 14, terminal=terminal, colours=COLOURS, mark=200)
        return {span.style.color.name for span in chart.spans if span.style}

    assert used(FULL) == {COLOURS[role] for role in ("primary", "accent", "success", "muted", "warning")}
    assert used(ASCII) == set()


def test_a_mark_stands_where_it_is_said_to() -> None:
    rows = draw(curves(1), 60, 14, terminal=ASCII, mark=200).plain.split("\n")
    plain = next(number for number, row in enumerate(rows) if row.startswith("   |"))
    assert rows[plain][4:].index("|") == round(200 / 399 * 55)
    for outside in (-1, 400, math.nan, math.inf):
        assert draw(curves(1), 60, 14, terminal=ASCII, mark=outside).plain.split("\n")[plain].count("|") == 1


def test_a_curve_that_grows_a_little_keeps_its_axis() -> None:
    def labels(rows: int) -> list[str]:
        x = np.arange(float(rows))
        drawn = draw([Line("a", x, 1 + np.exp(-x / 50))], 60, 14, terminal=ASCII, x_range=(0, 200))
        return [row[:6] for row in drawn.plain.split("\n")]

    assert labels(100) == labels(104)


def test_plotext_keeps_nothing_between_charts() -> None:
    first = draw(curves(), 60, 14, terminal=FULL, log=True, mark=20).plain
    draw(spectrum(), 33, 9, terminal=CONSOLE)
    assert draw(curves(), 60, 14, terminal=FULL, log=True, mark=20).plain == first
    plotext.plot([1, 2, 3], [1, 2, 9])
    assert draw(curves(), 60, 14, terminal=FULL, log=True, mark=20).plain == first


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0, 1000, False, ["0", "200", "400", "600", "800", "1000"]),
        (0, 1_000_000, False, ["0", "200k", "400k", "600k", "800k", "1M"]),
        (0, 50_000, False, ["0", "10k", "20k", "30k", "40k", "50k"]),
        (0, 2.4, False, ["0", "0.5", "1", "1.5", "2"]),
        (-0.02, 0.02, False, ["-0.02", "-0.01", "0", "0.01", "0.02"]),
        (2.301, 2.304, False, ["2.301", "2.302", "2.303", "2.304"]),
        (0, 3e-7, False, ["0", "1e-7", "2e-7", "3e-7"]),
        (-3, 4, True, ["0.001", "0.1", "10", "1000"]),
        (-9, 0, True, ["1e-9", "1e-7", "1e-5", "0.001", "0.1"]),
        (0, 1.5, True, ["1", "2", "5", "10", "20"]),
        (0.3, 0.8, True, ["2", "3", "4", "5", "6"]),
    ],
)
def test_ticks_are_round_and_plain(low, high, log, expected) -> None:
    ticks = Axis(low, high, log).ticks(5)
    assert [label for _, label in ticks] == expected
    assert all(-1e-9 <= share <= 1 + 1e-9 for share, _ in ticks)


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300), st.integers(1, 20))
@example(-1.0, -4e14 - 2, 2)  # no round number lies between
def test_ticks_lie_on_the_axis_in_order_and_are_not_many(low: float, high: float, most: int) -> None:
    if (found := Axis.fit([np.array([low, high])])) is not None:
        ticks = found.ticks(most)
        assert 1 <= len(ticks) <= most + 2 or most < 2
        assert [share for share, _ in ticks] == sorted(share for share, _ in ticks)
        assert all(len(label) <= 13 for _, label in ticks)


def test_a_chart_is_drawn_in_a_moment() -> None:
    best = math.inf
    for _ in range(20):
        began = time.process_time()
        draw(curves(1, 220), 110, 20, terminal=FULL, colours=COLOURS)
        best = min(best, time.process_time() - began)
    assert best < 0.03
