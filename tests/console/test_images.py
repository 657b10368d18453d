"""Grids of images, alone.

After a change on purpose: UPDATE_GOLDEN=1 pytest tests/console/test_images.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from bare import Bare, play, screen
from rich.cells import cell_len
from rich.color import ColorSystem

from cfm_tui.console.widgets.images import Thumbnails, render_text
from cfm_tui.display.graphics import Graphics
from cfm_tui.display.terminal import PixelSupport

GOLDEN = Path(__file__).parents[1] / "golden" / "thumbnails"


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
        assert app.widget.count_fitting(width, height, 16) == fit
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
        misses = render_text.cache_info().misses
        app.widget.show_images([image.copy() for image in images], ["a", "b"], 16, cursor=1)
        await pilot.pause()
        assert render_text.cache_info().misses == misses
        assert {y for y, _, _ in app.regions} == {0}
        assert app.sent < 200

    play(app, story)


@pytest.mark.parametrize(
    ("side", "mode", "widths"),
    [
        (32, "half", [32, 16, 8]),
        (28, "half", [28, 14, 7]),
        (8, "half", [40, 32, 24, 16, 8]),
        (31, "half", sorted(Thumbnails.SIZES, reverse=True)),  # a prime number has too few
        (32, "ascii", sorted(Thumbnails.SIZES, reverse=True)),
    ],
)
def test_half_blocks_have_a_whole_number_scale(side, mode, widths) -> None:
    app = Bare(Thumbnails(), image_mode=mode)

    async def story(pilot) -> None:
        assert app.widget.list_widths((1, side, side), Thumbnails.SIZES) == widths
        assert app.widget.nearest_width((1, side, side), 17, Thumbnails.SIZES) == (14 if side == 28 else 16)

    play(app, story)


@pytest.mark.parametrize("mode", ["kitty", "sixel"])
def test_images_in_pixels_are_sent_once_and_cover_the_same_cells(mode) -> None:
    sent: list[str] = []
    app = Bare(Thumbnails(live=True), image_mode=mode)
    app.graphics = Graphics(PixelSupport("kitty"), sent.append)

    async def story(pilot) -> None:
        images = [disc(3), disc(1)]
        app.widget.show_images(images, ["a", "b"], 16, cursor=0)
        await pilot.pause()
        app.forget()
        app.widget.show_images([image.copy() for image in images], ["a", "b"], 16, cursor=1)
        await pilot.pause()
        assert {y for y, _, _ in app.regions} == {0}
        assert all(cell_len(line) <= 60 for line in screen(app))
        if mode == "sixel":  # half blocks take fewer bytes, where images change by themselves
            assert not sent
            assert "▀" in screen(app)[1]
            return
        assert len(sent) == 2
        app.forget()
        app.widget.show_images([disc(3), 255 - disc(1)], ["a", "b"], 16, cursor=1)
        await pilot.pause()
        assert len(sent) == 3
        assert app.sent < 10 * 16 * 8 + 500  # nine bytes a cell
        assert all(start >= 18 for _, start, _ in app.regions)

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
