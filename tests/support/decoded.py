"""What a terminal makes of images in pixels."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image


def decode_kitty(text: str) -> dict[int, tuple[dict[str, str], np.ndarray]]:
    """The images that were sent and not deleted: keys and pixels (C, H, W) by number."""
    images, keys, data = {}, {}, ""
    for message in re.findall(r"\x1b_G([^\x1b]*)\x1b\\", text):
        head, _, part = message.partition(";")
        given = dict(item.split("=") for item in head.split(","))
        if given.get("a") == "q":
            continue
        if given.get("a") == "d":
            del images[int(given["i"])]
            continue
        assert len(part) <= 4096
        keys, data = (given if "i" in given else keys), data + part
        if given["m"] == "0":
            image = Image.open(io.BytesIO(base64.b64decode(data)))
            pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
            images[int(keys["i"])] = keys, pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            data = ""
    assert not data
    return images


def decode_sixel(text: str) -> np.ndarray:
    """The image that a terminal draws, (3, H, W); -1 where it draws nothing."""
    width, height, body = re.search(r'\x1bP0;1q"1;1;(\d+);(\d+)(.*?)\x1b\\', text, re.DOTALL).groups()
    image = np.full((int(height), int(width), 3), -1)
    palette, colour, x, y = {}, None, 0, 0
    for number, levels, count, char in re.findall(r"#(\d+)(?:;2;([\d;]+))?|!(\d+)|([?-~$-])", body):
        if levels:
            palette[number] = [round(int(level) * 2.55) for level in levels.split(";")]
        elif number:
            colour = palette[number]
        elif count:
            repeats = int(count)
            continue
        elif char == "$":
            x = 0
        elif char == "-":
            x, y = 0, y + 6
        else:
            for row in range(6):
                if ord(char) - 63 >> row & 1:
                    image[y + row, x : x + repeats] = colour
            x += repeats
        repeats = 1
    return image.transpose(2, 0, 1)
