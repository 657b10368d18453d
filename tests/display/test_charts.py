"""Charts of any numbers in any size: what they show, how they look (golden files), and that they never fail.

After a change on purpose: UPDATE_GOLDEN=1 pytest tests/display/test_charts.py
"""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import plotext
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from cfm_tui.display import charts
from cfm_tui.display.charts import FAINT, ROLES, Axis, Guide, Line, Section
from cfm_tui.display.terminal import Terminal

GOLDEN = Path(__file__).parents[1] / "golden" / "charts"
FULL = Terminal(unicode=True, braille=True, blocks=True, colours=256)
CONSOLE = Terminal(unicode=True, braille=False, blocks=True, colours=16)
ASCII = Terminal(unicode=False, braille=False, blocks=False, colours=0)
COLOURS = {role: f"#0000{number:02}" for number, role in enumerate((*ROLES, "muted"))}
COLOURS |= {role + FAINT: f"#0001{number:02}" for number, role in enumerate(ROLES)}


def draw(*arguments, **options):
    """The chart's text."""
    return charts.draw(*arguments, **options).text


def curves(count: int = 3, rows: int = 400) -> list[Line]:
    x = np.arange(float(rows))
    t = 400 * x / rows
    return [
        Line("cross-entropy", x, 2 * np.exp(-t / 120) + 0.06 * np.sin(x / 3)),
        Line("filter Ψ", x, np.exp(-t / 250) + 0.1, (np.exp(-t / 250), np.exp(-t / 250) + 0.2), "accent"),
        Line("signal", x, 0.5 + 0.3 * np.sin(t / 40), colour="success"),
    ][:count]


def spectrum() -> list[Line]:
    x = np.arange(1.0, 65)
    return [Line("Ψ real", x, 40 / x**2), Line("Ψs", x, 30 / x**1.7, colour="accent")]


def accuracies() -> list[Line]:
    x = np.arange(1.0, 101)
    return [
        Line("distilled", x, 85 - 60 * np.exp(-x / 20)),
        Line("random", x, 70 - 50 * np.exp(-x / 20), colour="accent"),
    ]


SECTIONS = [Section(100.0 * number, f"b{number + 1}", f".{99 - 9 * number}") for number in range(5)]


def batches() -> list[Line]:
    x = np.arange(500.0)
    return [Line("filter", x, (1 + x // 100) * np.exp(-(x % 100) / 30))]


LOOKS = {
    "three": lambda: draw(
        curves(), 60, 14, terminal=FULL, colours=COLOURS, title="losses", x_label="iteration", mark=250
    ),
    "three-console": lambda: draw(curves(), 60, 14, terminal=CONSOLE, x_label="iteration"),
    "three-ascii": lambda: draw(curves(), 60, 14, terminal=ASCII, title="losses", x_label="β"),
    "one-wide": lambda: draw(curves(1, 250_000), 110, 20, terminal=FULL, x_label="iteration"),
    "spectrum-log": lambda: draw(spectrum(), 60, 14, terminal=FULL, log=True, log_x=True, x_label="rank"),
    "accuracy": lambda: draw(
        accuracies(), 70, 12, terminal=FULL, y_bounds=(0, 100), guides=[Guide("teacher", 97)], x_label="epoch"
    ),
    "sections": lambda: draw(batches(), 80, 14, terminal=FULL, log=True, title="loss", sections=SECTIONS),
    "readout": lambda: draw(accuracies(), 50, 10, terminal=FULL, x_label="epoch", cursor=42),
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
        values = pick(st.lists(st.tuples(ANY, ANY, ANY, ANY), max_size=30))
        x, y, low, high = (np.array([value[part] for value in values], float) for part in range(4))
        x = np.arange(float(len(values))) if pick(st.booleans()) else x
        name = pick(st.text(max_size=8))
        result.append(Line(name, x, y, (low, high) if pick(st.booleans()) else None, ROLES[number]))
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
    st.booleans(),
    st.none() | ANY,
    st.lists(st.tuples(ANY, st.text(max_size=4)), max_size=3),
    st.sampled_from([None, (0.0, 100.0)]),
)
def test_any_numbers_in_any_size(
    drawn, width, height, terminal, log, x_range, mark, label, log_x, cursor, places, y_bounds
) -> None:
    chart = draw(
        drawn, width, height, terminal=terminal, colours=COLOURS, log=log, log_x=log_x, x_range=x_range,
        mark=mark, title=label, x_label=label, cursor=cursor, y_bounds=y_bounds,
        guides=[Guide(name, y) for y, name in places],
        sections=[Section(start, name, name) for start, name in places],
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


def test_ticks_of_counts_are_whole_on_a_logarithmic_axis() -> None:
    line = Line("a", np.array([1.0, 2, 3]), np.array([3.0, 2, 1]))
    drawn = draw([line], 80, 10, terminal=FULL, log_x=True, x_label="rank").plain
    assert drawn.splitlines()[-1].split() == ["1", "2", "rank", "3"]


@pytest.mark.parametrize("log", [False, True])
def test_a_chart_of_few_lines_has_values_of_y(log) -> None:
    drawn = draw(
        [Line("a", np.arange(1.0, 11), np.linspace(0.1, 0.5, 10))], 60, 5, terminal=FULL, title="β", log=log
    )
    assert [row.split("┤")[0].strip() for row in drawn.plain.splitlines() if "┤" in row] == ["0.5", "0.1"]


@pytest.mark.parametrize("count", [1, 3, 12])
def test_few_points_are_marked_and_joined(count) -> None:
    line = Line("a", np.arange(1.0, count + 1), 10.0 ** -np.arange(count))
    drawn = draw([line], 60, 14, terminal=FULL, log=True, log_x=True).plain
    assert drawn.count("•") == count
    assert bool(re.search("[⠁-⣿]", drawn)) == (count > 1)
    assert "•" not in draw([spectrum()[0]], 60, 14, terminal=FULL, log=True).plain


def test_why_there_is_nothing_to_draw_is_wrapped() -> None:
    rows = draw([], 20, 7, terminal=FULL, empty="no spectra: nothing is optimised by this run").plain.split(
        "\n"
    )
    assert " ".join(" ".join(rows).split()) == "no spectra: nothing is optimised by this run"
    assert {cell_len(row) for row in rows} == {20}


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


def test_a_spike_among_many_points_keeps_its_height() -> None:
    values = np.zeros(100_000)
    values[54_321] = 7.5
    for terminal in (FULL, CONSOLE, ASCII):
        rows = draw([Line("spike", np.arange(1e5), values)], 40, 14, terminal=terminal).plain.split("\n")
        top = next(row for row in rows if row.startswith("7.5"))
        assert set(top[4:]) - {" "}


def test_a_gap_stays_a_gap_and_points_far_apart_are_joined() -> None:
    x, y = np.arange(5.0), np.array([1, 1, math.nan, 1, 1])
    chart = charts.draw([Line("a", x, y)], 42, 5, terminal=ASCII)
    row = chart.text.plain.split("\n")[1][chart.left :]
    assert set(row[:10]) == set(row[-10:]) == {"*"}
    assert set(row[11:-11]) == {" "}


def test_a_line_goes_on_beyond_the_ends_of_a_zoomed_view() -> None:
    line = Line("a", np.array([0, 1000.0]), np.array([1, 1.0]))
    chart = charts.draw([line], 42, 5, terminal=ASCII, x_range=(400, 401))
    assert set(chart.text.plain.split("\n")[1][chart.left :]) == {"*"}


def test_lines_are_not_joined_across_the_start_of_a_section() -> None:
    x = np.arange(200.0)
    line = Line("a", x, np.where(x < 100, 1.0, 2.0))
    joined, broken = (
        draw([line], 42, 12, terminal=ASCII, sections=sections).plain
        for sections in ((), (Section(0, "b1"), Section(100, "b2", ".05")))
    )
    assert joined.count("*") > 42
    assert broken.count("*") == 38  # two horizontal lines
    assert broken.splitlines()[-2].split() == ["b1", "b2"]
    assert broken.splitlines()[-1].split() == [".05"]


def test_lines_are_told_apart_without_colour() -> None:
    colourless = replace(FULL, colours=0)
    for terminal in (colourless, ASCII):
        drawn = draw(curves(), 40, 14, terminal=terminal).plain.split("\n")
        assert drawn[0].startswith("A cross-entropy  B filter")
        for mark in "ABC":
            assert any(mark in row for row in drawn[1:-2])
    wide = draw(curves(), 90, 14, terminal=colourless).plain
    for name in ("A cross-entropy", "B filter", "C signal"):
        assert name in wide


def test_labels_stand_beside_the_ends_of_their_lines_in_rows_of_their_own() -> None:
    x = np.arange(100.0)
    ends = (1.0, 1.001, 1.002, 5.0, 9.0)
    drawn = draw([Line(f"l{n}", x, np.full(100, y)) for n, y in enumerate(ends)], 70, 14, terminal=FULL).plain
    rows = {
        name: number for number, row in enumerate(drawn.split("\n")) for name in row.split() if name[0] == "l"
    }
    assert len(set(rows.values())) == 5
    assert rows["l4"] < rows["l3"] < rows["l2"]


def test_lines_have_the_colours_of_their_roles_unless_there_are_none() -> None:
    def used(terminal: Terminal) -> set[str]:
        chart = draw(curves(), 60, 14, terminal=terminal, colours=COLOURS, mark=200)
        return {span.style.color.name for span in chart.spans if span.style}

    roles = ("primary", "accent", f"accent{FAINT}", "success", "muted", "warning")
    assert used(FULL) == {COLOURS[role] for role in roles}
    assert used(ASCII) == set()


def test_a_mark_stands_where_it_is_said_to() -> None:
    chart = charts.draw(curves(1), 60, 14, terminal=ASCII, mark=200)
    row = chart.text.plain.split("\n")[1]
    assert row[chart.left :].index("|") == round(200 / 399 * (chart.columns - 1))
    for outside in (-1, 400, math.nan, math.inf):
        assert draw(curves(1), 60, 14, terminal=ASCII, mark=outside).plain.split("\n")[1].count("|") == 1


def test_a_readout_has_the_values_of_the_nearest_points() -> None:
    lines = [
        Line("a", np.array([1.0, 10, 100]), np.array([5.0, 6, 7])),
        Line("b", np.array([1.0, 10, 100]), np.array([0.5, math.nan, 0.25]), colour="accent"),
    ]
    for log_x in (False, True):
        chart = charts.draw(lines, 60, 10, terminal=FULL, x_label="rank", log_x=log_x, cursor=9)
        assert chart.text.plain.startswith("rank 9  a 6  b 0.5 ")
        assert chart.x == pytest.approx((1, 100))


def test_bounds_limit_ticks_and_axis() -> None:
    chart = draw(
        [Line("a", np.arange(2.0), np.array([84.68, 84.68]))], 60, 14, terminal=ASCII, y_bounds=(0, 100)
    )
    ticks = [float(row[: row.index("+")]) for row in chart.plain.split("\n")[1:-2] if "+" in row]
    assert min(ticks) >= 0
    assert max(ticks) <= 100


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e9), st.integers(3, 60), st.booleans())
def test_ticks_of_y_are_the_same_number_of_rows_apart(low, length, rows, log) -> None:
    values = (
        np.array([low, low + length])
        if not log
        else np.array([low % 20 - 10, low % 20 - 10 + length % 30 + 0.01])
    )
    axis = Axis.fit([values], log=log)
    if axis is None:
        return
    extended, ticks = axis.extend_to_rows(rows)
    assert extended.low <= axis.low + 1e-6 * (axis.high - axis.low)
    assert extended.high >= axis.high - 1e-6 * (axis.high - axis.low)
    distances = {after - before for (before, _), (after, _) in pairwise(ticks)}
    assert len(distances) <= 1
    assert len({label for _, label in ticks}) == len(ticks)


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


def test_a_wide_band_does_not_flatten_its_line() -> None:
    x = np.arange(100.0)
    line = 1 + x / 100
    band = (np.where(x % 3 == 0, 1e-5, line), np.where(x % 3 == 1, 1e5, line))
    shown = draw([Line("a", x, line, band=band)], 60, 14, terminal=FULL, log=True).plain
    ticks = [float(word[:-1]) for word in shown.split() if word.endswith("┤") and word[:-1]]
    assert min(ticks) >= 0.2
    assert max(ticks) <= 10
