"""A chart alone: what it sends, its keys, its size and its numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bare import Bare, play, screen
from textual import events

from cfm_tui.console.widgets.chart import Chart
from cfm_tui.display.charts import Line


def curve(rows: int = 200, name: str = "CE") -> Line:
    x = np.arange(float(rows))
    return Line(name, x, 1 + np.exp(-x / 50))


def test_a_chart_that_grows_sends_little_and_nothing_while_nothing_is_new() -> None:
    app = Bare(Chart())

    async def story(pilot) -> None:
        app.widget.plot([curve(100)], x_label="iteration", whole=(0, 200))
        await pilot.pause()
        app.forget()
        app.widget.plot([curve(104)], x_label="iteration", whole=(0, 200))
        await pilot.pause()
        assert 0 < app.sent < 200
        app.forget()
        app.widget.plot([curve(104)], x_label="iteration", whole=(0, 200))
        await pilot.pause()
        assert app.sent == 0

    play(app, story, (120, 40))


def test_keys_zoom_pan_and_change_the_axis() -> None:
    app = Bare(Chart())

    async def story(pilot) -> None:
        chart = app.widget
        chart.plot([curve(201)])
        await pilot.press("minus", "shift+left")
        assert chart.view is None
        await pilot.press("plus")
        assert chart.view == (50, 150)
        await pilot.press("shift+right")
        assert chart.view == (75, 175)
        await pilot.press("shift+right", "shift+right", "shift+right")
        assert chart.view == (100, 200)
        await pilot.press("equals_sign", "shift+left")
        assert chart.view == (112.5, 162.5)
        whole = screen(app)
        await pilot.press("0")
        assert chart.view is None
        assert screen(app) != whole
        linear = screen(app)
        await pilot.press("y")
        assert chart.log_axis
        assert screen(app) != linear
        for _ in range(60):
            await pilot.press("plus")
        assert chart.view[0] < chart.view[1]
        assert app.views[:3] == [(50, 150), (75, 175), (100, 200)]

    play(app, story)


def test_keys_and_mouse_read_the_values_out() -> None:
    app = Bare(Chart())

    async def story(pilot) -> None:
        chart = app.widget
        chart.plot([curve(201)], x_label="iteration")
        await pilot.pause()
        await pilot.press("left")
        assert screen(app)[0] == f"iteration 200  CE {1 + math.exp(-4):.4g}"
        await pilot.press(*["left"] * 4)
        drawing = chart._drawing
        assert chart.cursor == pytest.approx(200 * (1 - 4 / (drawing.columns - 1)))
        await pilot.hover(Chart, (drawing.left, 5))
        assert screen(app)[0] == "iteration 0  CE 2"
        await pilot.hover(Chart, (0, 5))
        assert chart.cursor is None
        assert "iteration 0" not in screen(app)[0]

    play(app, story)


def test_a_readout_at_the_edge_of_a_zoomed_chart_moves_the_view() -> None:
    app = Bare(Chart())

    async def story(pilot) -> None:
        chart = app.widget
        chart.plot([curve(201)])
        await pilot.press("plus", "left")
        assert chart.view == (50, 150)
        await pilot.press("right")
        assert chart.view == (75, 175)
        assert 75 <= chart.cursor <= 175

    play(app, story)


@pytest.mark.parametrize("log_x", [False, True])
def test_the_wheel_zooms_around_the_mouse(log_x) -> None:
    app = Bare(Chart(log_x=log_x))

    async def story(pilot) -> None:
        chart = app.widget
        chart.plot([Line("λ", np.arange(1.0, 1001), np.arange(1.0, 1001))])
        await pilot.pause()
        place = (chart._drawing.left + chart._drawing.columns // 4, 5)
        under = chart._find_x(place[0])
        for _ in range(4):
            await pilot._post_mouse_events([events.MouseScrollUp], Chart, place)
        low, high = chart.view
        assert high / low < 1000
        assert chart._find_x(place[0]) == pytest.approx(under, rel=0.12)  # the labels' width changes
        for _ in range(9):
            await pilot._post_mouse_events([events.MouseScrollDown], Chart, place)
        assert chart.view is None

    play(app, story)


def test_an_empty_chart_takes_every_key() -> None:
    app = Bare(Chart())

    async def story(pilot) -> None:
        for lines in ([], [Line("a", np.array([1.0]), np.array([math.nan]))]):
            app.widget.plot(lines)
            await pilot.press("plus", "minus", "left", "right", "shift+left", "0", "y")
            assert any("nothing" in line for line in screen(app))

    play(app, story)


@pytest.mark.parametrize("size", [(1, 1), (12, 3), (40, 12), (200, 60)])
def test_a_chart_is_as_large_as_its_place_whatever_that_is(size) -> None:
    app = Bare(Chart())

    async def story(pilot) -> None:
        app.widget.plot([curve(), curve(name="other")], title="losses")
        await pilot.pause()
        await pilot.resize_terminal(30, 9)
        await pilot.pause()
        assert len(screen(app)) == 9
        assert any(line.strip() for line in screen(app))

    play(app, story, size)


def test_a_chart_out_of_sight_is_drawn_when_it_comes_into_sight() -> None:
    app = Bare(Chart())

    async def story(pilot) -> None:
        app.widget.display = False
        await pilot.pause()
        app.widget.plot([curve()], title="losses")
        assert app.widget._strips == [] or "losses" not in app.widget._strips[0].text
        app.widget.display = True
        await pilot.pause()
        assert screen(app)[0].startswith("losses")

    play(app, story)


def test_a_charts_numbers_as_csv() -> None:
    chart = Chart()
    band = np.array([0.25, 0.75]), np.array([1.5, 2])
    chart.plot([Line('a, "b"', np.array([0, 1]), np.array([0.5, math.nan]), band)])
    assert chart.csv() == 'line,x,y,low,high\n"a, ""b""",0,0.5,0.25,1.5\n"a, ""b""",1,nan,0.75,2\n'
