"""Images in pixels, from the question to the terminal to the last byte, in a pseudo-terminal."""

from __future__ import annotations

import re

import numpy as np
import pytest
from decoded import decode_kitty, decode_sixel
from images_run import BETAS, pattern, with_images
from standin import KITTY, SILENT, SIXEL, StandIn

from cfm_tui.display.graphics import PLACEHOLDER
from engine.store.images import to_bytes


@pytest.fixture
def folder(tmp_path):
    run, _ = with_images(tmp_path / "runs" / "four")
    run.close("finished")
    return tmp_path


def wanted() -> list[np.ndarray]:
    """The images as the monitor shows them, and enlarged as the gallery does."""
    small = [to_bytes(pattern(label, batch)) for label in range(3) for batch in range(len(BETAS))]
    return small + [pixels.repeat(6, 1).repeat(6, 2) for pixels in small]


def numbers(text: str) -> set[int]:
    """The images whose cells were sent."""
    colours = re.findall(rf"38;2;(\d+);(\d+);(\d+)[;\d]*m{PLACEHOLDER}", text)
    return {int(red) << 16 | int(green) << 8 | int(blue) for red, green, blue in colours}


def open_gallery(folder, answers, *options: str) -> StandIn:
    terminal = StandIn(["attach", "runs/four", *options], folder, answers)
    terminal.until("3 Images")
    terminal.press("i")
    terminal.until("classes")
    return terminal


def quit_console(terminal: StandIn) -> None:
    terminal.press("q")
    terminal.close()


def test_kitty_is_sent_every_image_once_and_they_are_deleted_at_the_end(folder):
    terminal = open_gallery(folder, KITTY)
    try:
        terminal.until(lambda: len(decode_kitty(terminal.text)) >= 20)
        images = decode_kitty(terminal.text)
        assert numbers(terminal.text) <= set(images)
        expected = wanted()
        assert all(any(np.array_equal(pixels, each) for each in expected) for _, pixels in images.values())
        before = terminal.text.count("\x1b_G")
        terminal.press("llh")
        terminal.until("1,2 of")
        assert terminal.text.count("\x1b_G") == before
        assert b"\x1bP" not in terminal.sent
    finally:
        quit_console(terminal)
    assert not decode_kitty(terminal.text)


def test_sixel_shows_the_pixels_of_each_image(folder):
    terminal = open_gallery(folder, SIXEL)
    try:
        terminal.until(lambda: terminal.text.count("\x1bP0;1q") >= 8 * 6)
        assert PLACEHOLDER not in terminal.text
        first = [
            decode_sixel(part) for part in re.findall(r"\x1bP0;1q.*?\x1b\\", terminal.text, re.DOTALL)[:1]
        ]
        assert first[0].shape == (3, 16, 12 * 8)
    finally:
        quit_console(terminal)
    assert "_Gi=31" in terminal.text
    assert terminal.text.count("\x1b_G") == 1


@pytest.mark.parametrize(("answers", "options"), [(SILENT, []), (KITTY, ["--images", "half"])])
def test_no_pixels_are_sent_where_none_are_known_or_wanted(folder, answers, options):
    terminal = open_gallery(folder, answers, *options)
    try:
        terminal.until("▀▀")
    finally:
        quit_console(terminal)
    assert PLACEHOLDER not in terminal.text
    assert terminal.text.count("\x1b_G") <= 1  # the question
    assert "\x1bP0;1q" not in terminal.text


def test_late_answers_are_used_and_are_not_keys(folder):
    terminal = StandIn(["attach", "runs/four"], folder, KITTY, late=3.0)
    try:
        terminal.until(lambda: len(decode_kitty(terminal.text)) >= 3)
        terminal.press("i")
        terminal.until("12 · 1,1 of 3×4")
        assert "Help" not in terminal.text  # nor any other page of a key
        assert "data set" not in terminal.text
    finally:
        quit_console(terminal)


def test_pixels_can_be_forced(folder):
    terminal = open_gallery(folder, SILENT, "--images", "kitty")
    try:
        terminal.until(PLACEHOLDER)
        assert numbers(terminal.text) <= set(decode_kitty(terminal.text))
    finally:
        quit_console(terminal)
