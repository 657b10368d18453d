"""Capabilities of the terminal: characters and colours, detected from the environment alone.

Commands do not query the terminal: its answer may never come, or may arrive as key presses. The console does,
before it starts, and learns whether the terminal shows images in pixels.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from rich.cells import cell_len, set_cell_size

Colours = Literal[0, 16, 256, "true"]
ImageMode = Literal["auto", "kitty", "sixel", "half", "ascii", "off"]
Images = Literal["kitty", "sixel", "half", "ascii", "off"]


@dataclass(frozen=True)
class PixelSupport:
    """How a terminal shows images in pixels. The rest is for sixel.

    cell: width and height of a cell in pixels. colours: at most, in one image.
    """

    protocol: Literal["kitty", "sixel"]
    cell: tuple[int, int] = (10, 20)
    colours: int = 256


@dataclass(frozen=True)
class Terminal:
    """What a terminal can show.

    unicode: more than ASCII. braille: ⣿, and eighths of a block (▂). blocks: whole and half blocks (▀).
    pixels: how it shows images in pixels, where it said that it does.
    """

    unicode: bool
    braille: bool
    blocks: bool
    colours: Colours
    pixels: PixelSupport | None = None


def detect(environ: Mapping[str, str], encoding: str | None) -> Terminal:
    """Detect the terminal. environ: see `environment`. encoding: of the output stream."""
    term = environ.get("TERM", "").lower()
    settings = map(environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))  # the first that is set takes effect
    locale = next(filter(None, settings), "C")
    unicode = _is_utf8(locale) and (encoding is None or _is_utf8(encoding))
    return Terminal(
        unicode=unicode,
        braille=unicode and not term.startswith(("linux", "dumb", "vt", "cons25", "bsdcon", "sun")),
        blocks=unicode and not term.startswith("dumb"),
        colours=_detect_colours(term, environ),
    )


def of_stdout() -> Terminal:
    """Detect what stdout can show; a file or a pipe shows no colours."""
    capabilities = detect(environment(os.environ), sys.stdout.encoding)
    return capabilities if sys.stdout.isatty() else replace(capabilities, colours=0)


def of_stderr() -> Terminal:
    """Detect what stderr can show."""
    return detect(environment(os.environ), sys.stderr.encoding)


def environment(environ: Mapping[str, str], record: Path = Path("/proc/self/environ")) -> dict[str, str]:
    """Return `environ` with the LC_CTYPE that the process was started with.

    Python sets LC_CTYPE to UTF-8 in the C locale (PEP 538), whatever the terminal supports.
    record: the kernel's copy of the initial environment; if it is missing, `environ` is returned unchanged.
    """
    try:
        entries = [entry.partition(b"=") for entry in record.read_bytes().split(b"\0") if entry]
    except OSError:
        entries = []
    if not entries:
        return dict(environ)
    given = {name: value.decode(errors="replace") for name, _, value in entries}
    locale = {"LC_CTYPE": given[b"LC_CTYPE"]} if b"LC_CTYPE" in given else {}
    return {name: value for name, value in environ.items() if name != "LC_CTYPE"} | locale


def images(wanted: ImageMode, terminal: Terminal) -> Images:
    """Return how to draw images: in pixels if the terminal shows them, else in half blocks or ASCII.

    A mode that the terminal lacks the characters or colours for is replaced by the next simpler one.
    """
    has_colours = terminal.blocks and terminal.colours in (256, "true")
    if wanted == "auto":
        pixels = terminal.pixels
        return (pixels.protocol if pixels is not None else "half") if has_colours else "ascii"
    if wanted in ("kitty", "sixel") and not has_colours:  # colours are the images' numbers
        wanted = "half"
    return "ascii" if wanted == "half" and not (terminal.blocks and terminal.colours) else wanted


def _is_utf8(name: str) -> bool:
    return "utf8" in name.lower().replace("-", "").replace("_", "")


def _detect_colours(term: str, environ: Mapping[str, str]) -> Colours:
    colourless = ("dumb", "vt", "ansi-m", "cons25-m")
    if environ.get("NO_COLOR") or not term or term.endswith("-mono") or term.startswith(colourless):
        return 0
    if term.startswith(("linux", "cons25")):
        return 16
    in_screen = environ.get("STY") and term.startswith("screen")  # GNU screen does not forward true colour
    claims_true_colour = environ.get("COLORTERM", "").lower() in ("truecolor", "24bit")
    known = ("xterm-kitty", "xterm-ghostty", "alacritty", "wezterm", "foot", "contour")
    if (claims_true_colour and not in_screen) or term.endswith("-direct") or term.startswith(known):
        return "true"
    return 256 if "256color" in term else 16


_LOOKALIKES = {
    **dict.fromkeys("─━┄┅┈┉╌╍═╴╶╸╺╼╾⎯‐‑‒–—―−▔▁", "-"),
    **dict.fromkeys("│┃┆┇┊┋╎╏║‖╵╷╹╻╽╿⎢▏▎▕▌▐❘", "|"),
    **{chr(code): "+" for code in range(0x250C, 0x254C)},
    **{chr(code): "+" for code in range(0x2552, 0x2571)},
    **dict.fromkeys("█▓▉▊▋▇▆▅▛▜▙▟■▮◼⬛", "#"),
    **dict.fromkeys("▒▞▚▄▀▃▂▖▗▘▝░▪▬◾", ":"),
    **dict.fromkeys("←◀◂◄⟵⇐", "<"),
    **dict.fromkeys("→▶▸►⟶⇒❯›", ">"),
    **dict.fromkeys("↑▲▴⬆⇑⌃", "^"),
    **dict.fromkeys("↓▼▾⬇⇓⌄", "v"),
    **dict.fromkeys("·•∙⋅…‥⸱", "."),
    **dict.fromkeys("●⬤◉✱★☆✦", "*"),
    **dict.fromkeys("○◌◯□▢◇◆", "o"),
    **dict.fromkeys("✓✔☑", "v"),
    **dict.fromkeys("✗✘×✕☒❌", "x"),
    **dict.fromkeys("‘’‛′", "'"),
    **dict.fromkeys("“”„″", '"'),
    **dict.fromkeys("≈∼", "~"),
    "↺": "=",
    **dict.fromkeys("≤«", "<"),
    **dict.fromkeys("≥»", ">"),
    **dict(zip("╱╲⟋⟍╳αβγδεζηθικλμνξοπρςστυφχψω", "/\\/\\xabgdezhqiklmnxoprsstufcpw", strict=True)),
    **dict(zip("ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ", "ABGDEZHQIKLMNXOPRSTUFCPW", strict=True)),
    **dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺±÷∞√∑∏∂∇↵⏎↔↕ßøØłŁđĐ°", "0123456789-++/8VSPdV<<-|soOlLdDo", strict=True)),
}


@lru_cache(4096)
def to_ascii(text: str) -> str:
    """Return a text of the same width with similar ASCII characters."""
    if text.isascii():
        return text
    ascii_text = "".join(_replace_character(character) for character in text.replace(" ± ", "+/-"))
    cells = cell_len(text)
    return ascii_text if len(ascii_text) == cells else set_cell_size(ascii_text, cells)  # joined characters


@lru_cache(1024)
def _replace_character(character: str) -> str:
    if character.isascii() or character in _LOOKALIKES:
        return _LOOKALIKES.get(character, character)
    if "\u2800" <= character <= "\u28ff":  # Braille: by the number of dots
        return " .:-=+*%#"[(ord(character) - 0x2800).bit_count()]
    cells = cell_len(character)
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return base if len(base) == cells and base.isprintable() else "?" * cells
