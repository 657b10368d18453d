"""Pictures repaint what changed, charts zoom, thumbnails page: alone in an application without anything else.

After a change on purpose: UPDATE_GOLDEN=1 pytest tests/console/test_widgets.py
"""

from __future__ import annotations

import asyncio
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual.app import App
from textual.strip import Strip

from cfm_tui.console.driver import AsciiFilter, keep_only_changes
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.console.widgets.images import Thumbnails, render_pixels
from cfm_tui.console.widgets.picture import Picture, changed_spans
from cfm_tui.display.charts import Line
from cfm_tui.display.terminal import Terminal

GOLDEN = Path(__file__).parents[1] / "golden" / "thumbnails"
FULL = Terminal(unicode=True, braille=True, blocks=True, colours=256)
ASCII = Terminal(unicode=False, braille=False, blocks=False, colours=0)


class Bare(App[None]):
    """One widget on the whole screen; counts what a terminal would be sent."""

    CSS = "Screen > * { width: 100%; height: 100%; }"

    def __init__(self, widget, terminal: Terminal = FULL, image_mode: str = "auto") -> None:
        super().__init__()
        self.widget, self.terminal, self.image_mode = widget, terminal, image_mode
        self.sent, self.views = 0, []
        self.regions: list[tuple[int, int, int]] = []

    def compose(self):
        yield self.widget

    def on_mount(self) -> None:
        self.widget.focus()

    def _display(self, screen, renderable) -> None:
        renderable = keep_only_changes(renderable)
        if renderable is not None and hasattr(renderable, "render_segments"):
            self.sent += len(renderable.render_segments(self.console).encode())
            self.regions += getattr(renderable, "spans", [])
        super()._display(screen, renderable)

    def on_chart_viewed(self, event: Chart.Viewed) -> None:
        self.views.append(event.view)

    def forget(self) -> None:
        self.sent, self.regions = 0, []


def play(app: Bare, story, size=(60, 14)) -> None:
    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await story(pilot)

    asyncio.run(run())


def screen(app: Bare) -> list[str]:
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def lines(*texts: str) -> list[Strip]:
    return [Strip([Segment(text)]) for text in texts]


# --- pictures ---------------------------------------------------------------------------------------


def test_only_the_cells_that_changed_are_repainted_and_sent() -> None:
    app = Bare(Picture())

    async def story(pilot) -> None:
        app.widget.show(lines("a" * 60, "b" * 60, "c" * 60))
        await pilot.pause()
        app.forget()
        app.widget.show(lines("a" * 60, "b" * 30 + "X" + "b" * 29, "c" * 58 + "YY"))
        await pilot.pause()
        assert sorted(app.regions) == [(1, 30, 31), (2, 58, 60)]
        assert screen(app)[:3] == ["a" * 60, "b" * 30 + "X" + "b" * 29, "c" * 58 + "YY"]
        assert app.sent < 150
        app.forget()
        app.widget.show(lines("a" * 60, "b" * 30 + "X" + "b" * 29, "c" * 58 + "YY"))
        await pilot.pause()
        assert app.sent == 0
        app.widget.show(lines("a" * 60))
        await pilot.pause()
        assert screen(app)[:3] == ["a" * 60, "", ""]

    play(app, story)


PIECES = st.lists(
    st.tuples(st.text("ab数é ", max_size=6), st.sampled_from([None, "red", "bold"])), max_size=6
)


@given(PIECES, PIECES)
def test_the_changed_spans_turn_one_line_into_the_other(before, after) -> None:
    old, new = (Strip([Segment(text, style and Style.parse(style)) for text, style in parts if text])
                for parts in (before, after))  # fmt: skip
    width = max(old.cell_length, new.cell_length)
    old, new = old.adjust_cell_length(width), new.adjust_cell_length(width)
    shown, spans = old, list(changed_spans(old, new))
    for start, end in spans:
        shown = Strip.join([shown.crop(0, start), new.crop(start, end), shown.crop(end)])
    assert shown.text == new.text
    assert all(0 <= start < end <= width for start, end in spans)
    assert bool(spans) == any(one != other for one, other in zip(_each(old), _each(new), strict=True))


def _each(strip: Strip):
    return [(character, style) for text, style, _ in strip.simplify() for character in text] or [None]


# --- charts -----------------------------------------------------------------------------------------


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
        await pilot.press("minus", "left")
        assert chart.view is None
        await pilot.press("plus")
        assert chart.view == (50, 150)
        await pilot.press("right")
        assert chart.view == (75, 175)
        await pilot.press("right", "right", "right")
        assert chart.view == (100, 200)
        await pilot.press("equals_sign", "left")
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


def test_an_empty_chart_takes_every_key() -> None:
    app = Bare(Chart())

    async def story(pilot) -> None:
        for lines in ([], [Line("a", np.array([1.0]), np.array([math.nan]))]):
            app.widget.plot(lines)
            await pilot.press("plus", "minus", "left", "right", "0", "y")
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
    chart._lines = [Line('a, "b"', np.array([0, 1]), np.array([0.5, math.nan]), np.array([1.5, 2]))]
    assert chart.csv() == 'line,x,low,high\n"a, ""b""",0,0.5,1.5\n"a, ""b""",1,nan,2\n'


def test_every_character_is_ascii_through_the_filter() -> None:
    app = Bare(Chart(), ASCII)
    app._filters.append(AsciiFilter())

    async def story(pilot) -> None:
        app.widget.styles.border = ("round", "white")
        app.widget.border_title = "Ψ beside Ψs"
        app.widget.plot([curve()], title="β")
        await pilot.pause()
        drawn = [strip.text for strip in app.screen._compositor.render_strips()]
        assert all(line.isascii() and len(line) == 60 for line in drawn)
        assert "P beside Ps" in drawn[0]

    play(app, story)


# --- thumbnails -------------------------------------------------------------------------------------


def disc(channels: int, size: int = 32) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / (size - 1)
    grey = np.where((x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.09, 230 - 60 * y, 90 * x)
    return np.stack([grey, 255 - grey, 128 + 0 * grey])[:channels].astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["ascii", "half", "off"])
def test_thumbnails_look_as_before(channels, mode) -> None:
    app = Bare(Thumbnails(), image_mode=mode)

    async def story(pilot) -> None:
        app.widget.show_images([disc(channels), 255 - disc(channels)], ["3 three", "tench"], 16, cursor=1)
        await pilot.pause()
        drawn = "\n".join(strip.render(app.console) for strip in app.widget._strips) + "\n"
        path = GOLDEN / f"{mode}-{channels}.txt"
        if os.environ.get("UPDATE_GOLDEN"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(drawn, encoding="utf-8")
        assert drawn == path.read_text(encoding="utf-8")
        assert "[tench         ]" in screen(app)[0]

    app.console._color_system = ColorSystem.EIGHT_BIT
    play(app, story, (40, 10))


@pytest.mark.parametrize(
    ("width", "height", "fit"), [(60, 18, 6), (34, 9, 2), (33, 9, 1), (5, 2, 1), (70, 27, 12)]
)
def test_as_many_images_are_laid_out_as_fit(width, height, fit) -> None:
    app = Bare(Thumbnails(), image_mode="ascii")

    async def story(pilot) -> None:
        assert app.widget.capacity(width, height, 16) == fit
        app.widget.show_images([disc(1)] * 20, [f"<{n}>" for n in range(20)], 16)
        await pilot.pause()
        if width >= 16:
            shown = " ".join(screen(app))
            assert f"<{fit - 1}>" in shown
            assert f"<{fit}>" not in shown

    play(app, story, (width, height))


def test_an_image_that_stays_the_same_is_neither_drawn_nor_sent_again() -> None:
    app = Bare(Thumbnails(), image_mode="half")

    async def story(pilot) -> None:
        images = [disc(3, 20), disc(3, 24)]
        app.widget.show_images(images, ["a", "b"], 16, cursor=0)
        await pilot.pause()
        app.forget()
        misses = render_pixels.cache_info().misses
        app.widget.show_images([image.copy() for image in images], ["a", "b"], 16, cursor=1)
        await pilot.pause()
        assert render_pixels.cache_info().misses == misses
        assert {y for y, _, _ in app.regions} == {0}
        assert app.sent < 200

    play(app, story)


def test_no_images_hostile_labels_and_any_size() -> None:
    app = Bare(Thumbnails())

    async def story(pilot) -> None:
        app.widget.show_images([], [], 16)
        app.widget.show_images([disc(1), disc(3, 7)], ["\x1b[2J", "猫科动物们猫科动物们"], 500, cursor=0)
        for size in ((3, 2), (80, 24), (1, 1)):
            await pilot.resize_terminal(*size)
            await pilot.pause()

    play(app, story)


def test_a_light_theme_has_dark_strokes() -> None:
    app = Bare(Thumbnails(), image_mode="ascii")

    async def story(pilot) -> None:
        app.widget.show_images([np.full((1, 8, 8), 255, np.uint8)], [""], 8)
        await pilot.pause()
        assert screen(app)[1] == "@" * 8
        app.theme = "textual-light"
        await pilot.pause()
        assert screen(app)[1].strip() == ""

    play(app, story, (20, 6))
