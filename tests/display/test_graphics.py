"""Images in pixels: what a terminal is sent, decoded again."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest
from decoded import decode_kitty, decode_sixel
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from textual.strip import Strip

from cfm_tui.display.graphics import PLACEHOLDER, Graphics, encode_kitty, encode_sixel
from cfm_tui.display.terminal import PixelSupport


def disc(channels: int, size: int = 32) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / (size - 1)
    grey = np.where((x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.09, 230 - 60 * y, 90 * x)
    return np.stack([grey, 255 - grey, 128 + 0 * grey])[:channels].astype(np.uint8)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_kitty_gets_the_right_pixels_once(channels, exact):
    sent: list[str] = []
    graphics = Graphics(PixelSupport("kitty"), sent.append)
    pixels = disc(channels)
    lines = graphics.place(pixels, 16, 8, exact=exact)
    assert graphics.place(pixels.copy(), 16, 8, exact=exact) is lines
    [(number, (keys, received))] = decode_kitty("".join(sent)).items()
    assert {"a": "T", "U": "1", "c": "16", "r": "8", "q": "2"}.items() <= keys.items()
    assert np.abs(received.astype(int) - pixels.repeat(3, 1).repeat(3, 2)).max() <= (
        0 if exact or channels == 1 else 16
    )
    assert len(lines) == 8
    for row in lines:
        strip = Strip(row)
        assert strip.cell_length == cell_len(strip.text) == 16
        assert {segment.style.color.triplet for segment in row} == {(0, 0, number)}
    codes = {row[0].text[3 * column : 3 * column + 3] for row in lines for column in range(16)}
    assert len(codes) == 128
    assert all(code[0] == PLACEHOLDER for code in codes)
    assert lines[0][0].text.startswith(f"{PLACEHOLDER}\u0305\u0305{PLACEHOLDER}\u0305\u030d")
    assert lines[2][0].text.startswith(f"{PLACEHOLDER}\u030e\u0305")


def test_a_thumbnail_is_sent_as_large_as_it_is_shown():
    sent: list[str] = []
    graphics = Graphics(PixelSupport("kitty"), sent.append)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 224, 224), np.uint8)
    graphics.place(pixels, 10, 5, exact=False)
    assert decode_kitty("".join(sent))[1][1].shape == (3, 37, 37)  # means of 6 × 6
    assert len(sent[0]) < 40 * 50  # what half blocks take
    graphics.place(pixels, 10, 5, exact=True)
    assert (decode_kitty("".join(sent))[2][1] == pixels).all()


def test_an_image_that_is_not_sharp_is_sent_as_it_is():
    sent: list[str] = []
    graphics = Graphics(PixelSupport("kitty"), sent.append)
    graphics.place(disc(1), 16, 8, exact=True, sharp=False)
    assert (decode_kitty("".join(sent))[1][1] == disc(1)).all()
    graphics.place(disc(1), 16, 8, exact=True)
    assert decode_kitty("".join(sent))[2][1].shape == (1, 96, 96)


def test_the_oldest_image_is_deleted(monkeypatch):
    monkeypatch.setattr(Graphics, "MOST_IMAGES", 2)
    sent: list[str] = []
    graphics = Graphics(PixelSupport("kitty"), sent.append)
    for level in (0, 50, 0, 100):
        graphics.place(np.full((1, 4, 4), level, np.uint8), 4, 2, exact=True)
    assert [image.max() for _, image in decode_kitty("".join(sent)).values()] == [0, 100]
    graphics.delete_all()
    assert not decode_kitty("".join(sent))
    graphics.place(np.full((1, 4, 4), 100, np.uint8), 4, 2, exact=True)
    assert len(decode_kitty("".join(sent))) == 1


def test_long_images_are_sent_in_pieces():
    content = np.random.default_rng(0).bytes(10_000)
    messages = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", encode_kitty(7, content, 3, 2))
    assert [head[-3:] for head, _ in messages] == ["m=1", "m=1", "m=1", "m=0"][-len(messages) :]
    assert base64.b64decode("".join(part for _, part in messages)) == content


def drawn(line, start: int = 0, end: int | None = None, style: Style | None = None) -> str:
    """What the console sends for some cells of a line."""
    strip = Strip(line).crop(start, end)
    return (strip.apply_style(style) if style else strip).render(Console(color_system="truecolor"))


def test_sixel_draws_the_right_pixels_over_blank_cells():
    graphics = Graphics(PixelSupport("sixel", cell=(4, 8)), lambda _: pytest.fail("nothing is sent before"))
    pixels = disc(3, 16)
    lines = graphics.place(pixels, 8, 4, exact=True)
    wanted = pixels.repeat(2, 1).repeat(2, 2).astype(int)
    for row, line in enumerate(lines):
        text = graphics.translate(drawn(line, style=Style(bgcolor="#102030")))
        assert PLACEHOLDER not in text
        assert "48;2;16;32;48m        \x1b8\x1bP" in text
        assert text.startswith("\x1b7")
        assert "\x1b8\x1b[8C" in text
        assert np.abs(decode_sixel(text) - wanted[:, 8 * row : 8 * row + 8]).max() <= 16
    part = graphics.translate(drawn(lines[1], 3, 6))
    assert np.abs(decode_sixel(part) - wanted[:, 8:16, 12:24]).max() <= 16
    assert "\x1b[3C" in part


def test_sixel_leaves_images_that_are_dimmed_blank():
    graphics = Graphics(PixelSupport("sixel"), lambda _: None)
    [line, *_] = graphics.place(disc(1), 8, 4, exact=True)
    dimmed = drawn(line).replace("38;2;0;0;1", "38;2;0;0;77")
    assert graphics.translate(dimmed) == "\x1b[38;2;0;0;77m" + 8 * " " + "\x1b[0m"
    assert graphics.translate("plain") == "plain"


def test_sixel_keeps_to_the_colours_of_the_terminal():
    graphics = Graphics(PixelSupport("sixel", colours=16), lambda _: None)
    rng = np.random.default_rng(0)
    [line, *_] = graphics.place(rng.integers(0, 256, (3, 32, 32), np.uint8), 8, 4, exact=True)
    assert len(re.findall(r"#\d+;2;", graphics.translate(drawn(line)))) <= 16


def test_every_palette_and_height_is_encoded():
    indices = np.arange(7 * 50, dtype=np.uint8).reshape(7, 50)
    palette = list(range(256)) * 3
    received = decode_sixel(encode_sixel(indices, palette))
    wanted = np.array(palette).reshape(256, 3)[indices].transpose(2, 0, 1)
    assert np.abs(received - wanted).max() <= 2
