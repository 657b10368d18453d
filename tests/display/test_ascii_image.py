"""Images as text: proportions, brightness, colours, and how they look (golden files).

After a change on purpose: UPDATE_GOLDEN=1 pytest tests/display/test_ascii_image.py
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from cfm_tui.display.ascii_image import RAMP, grid, render_cells

GOLDEN = Path(__file__).parents[1] / "golden" / "ascii_image"
CODES = re.compile(r"\x1b\[[0-9;]*m")


def disc(channels: int = 1, size: int = 32) -> np.ndarray:
    """A bright disc left of the middle over a dark slope; three channels differ."""
    y, x = np.mgrid[:size, :size] / (size - 1)
    grey = np.where((x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.09, 230 - 60 * y, 90 * x)
    image = np.stack([grey, 255 - grey, 128 + 0 * grey])[:channels]
    return image.astype(np.uint8)


def constant(value: int, channels: int = 1, size: int = 8) -> np.ndarray:
    return np.full((channels, size, size), value, np.uint8)


def render(image: np.ndarray, columns: int, **options) -> str:
    return render_cells(image, columns, **options).ansi()


def cells(text: str) -> list[str]:
    return CODES.sub("", text).split("\n")


LOOKS = {
    "ascii-grey": lambda: render(disc(), 24),
    "ascii-colour": lambda: render(disc(3), 24, ramp=".-+#"),
    "half-true": lambda: render(disc(3), 12, mode="half", colours="true"),
    "half-256": lambda: render(disc(3), 12, mode="half", colours=256),
    "half-grey-256": lambda: render(disc(), 12, mode="half", colours=256),
    "grid": lambda: grid([disc(), disc(3)[1:2], disc(3)], ["3 three", "tench", "a very long class name"],
                         width=44, columns=20),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKS)
def test_looks_as_before(name: str) -> None:
    path, text = GOLDEN / f"{name}.txt", LOOKS[name]() + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("mode", ["ascii", "half"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 20, 60), (1, 60, 20), (3, 5, 7), (1, 1, 1)])
@pytest.mark.parametrize("columns", [1, 7, 40])
def test_cells_keep_the_images_proportions(mode: str, shape: tuple[int, ...], columns: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    lines = cells(render(image, columns, mode=mode))
    assert {len(line) for line in lines} == {columns}
    assert len(lines) == max(1, round(columns * shape[1] / shape[2] / 2))


@pytest.mark.parametrize("mode", ["ascii", "half"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_constant_images_are_constant(mode: str, channels: int, value: int) -> None:
    lines = render(constant(value, channels), 10, mode=mode, colours=256).split("\n")
    assert len(set(lines)) == 1
    if mode == "ascii":
        assert lines[0] == 10 * RAMP[min(value * len(RAMP) // 255, len(RAMP) - 1)]


def test_ascii_is_ascii_and_uses_the_whole_ramp_of_an_image_with_little_contrast() -> None:
    faint = (100 + np.linspace(0, 12, 64 * 64).reshape(1, 64, 64)).astype(np.uint8)
    text = render(faint, 40)
    assert text.isascii()
    assert {text[0], text[-1]} == {RAMP[0], RAMP[-1]}


def test_areas_are_averaged_in_linear_light() -> None:
    stripes = np.zeros((1, 64, 64), np.uint8)
    stripes[:, :, ::2] = 255
    assert "2;188;188;188" in render(stripes, 8, mode="half")  # half the light, not half the number


def test_averages_cover_every_pixel_alike_at_any_ratio() -> None:
    image = constant(0, size=30)
    for column in range(30):
        image[0, :, column] = 255
        levels = [int(v) for v in re.findall(r"38;2;(\d+);", render(image, 7, mode="half"))]
        image[0, :, column] = 0
        lit = [((v / 255 + 0.055) / 1.055) ** 2.4 for v in levels if v]
        assert sum(lit) / len(render(constant(0, size=30), 7, mode="half").split("\n")) == pytest.approx(
            7 / 30, rel=0.02
        )


def test_256_colours_are_the_nearest_of_the_palette() -> None:
    exact = {16: (0, 0, 0), 231: (255, 255, 255), 196: (255, 0, 0), 67: (95, 135, 175), 244: (128, 128, 128)}
    for number, colour in exact.items():
        image = np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (3, 4, 4))
        assert f"38;5;{number};48;5;{number}m" in render(image, 2, mode="half", colours=256)


def test_upper_and_lower_half_are_upper_and_lower_pixels() -> None:
    image = np.array([[[255], [0]], [[0], [0]], [[0], [255]]], np.uint8)  # red above blue
    assert render(image, 1, mode="half") == "\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[0m"


@pytest.mark.parametrize("colours", [256, "true"])
def test_colour_never_leaks_past_a_line(colours) -> None:
    for line in render(disc(3), 9, mode="half", colours=colours).split("\n"):
        assert line.endswith("\x1b[0m")


@pytest.mark.parametrize(("width", "per_row"), [(80, 4), (39, 2), (38, 2), (37, 1), (10, 1)])
def test_a_grid_stays_within_its_width(width: int, per_row: int) -> None:
    text = grid([disc(), disc(3)] * 2, ["a", "b", "c", "d"], width=width, columns=18)
    assert max(len(line) for line in text.split("\n")) <= width
    assert len(text.split("\n\n")) == -(-4 // per_row)


def test_a_grid_takes_images_of_different_shapes_none_at_all_and_hostile_labels() -> None:
    assert grid([], [], width=80, columns=10) == ""
    tall = np.zeros((1, 40, 10), np.uint8)
    lines = cells(grid([tall, disc()], ["evil\x1b[2J\n", "猫科动物们"], width=80, columns=9, mode="half"))
    assert lines[0].startswith("evil?[2J?")
    assert "猫科动物" in lines[0]
    assert "们" not in lines[0]
    assert len(lines) == 1 + 18


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mode", "colours"), [("ascii", 256), ("half", 256), ("half", "true")])
def test_styled_cells_show_what_the_text_shows(channels, mode, colours) -> None:
    made = render_cells(disc(channels), 12, mode=mode, colours=colours)
    lines = []
    for line in made.segments():
        text = ""
        for part in line:
            text += part.text if mode == "ascii" else _ansi(part.style, colours) + part.text
        lines.append(text + ("\x1b[0m" if mode == "half" else ""))
    assert "\n".join(lines) == made.ansi()


def _ansi(style, colours) -> str:
    if colours == 256:
        return f"\x1b[38;5;{style.color.number};48;5;{style.bgcolor.number}m"
    upper, lower = style.color.triplet, style.bgcolor.triplet
    return "\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*upper, *lower)
