"""What the terminal can show: its characters and its colours, from the environment alone.

Nothing is asked of the terminal itself: the answer may never come, or arrive as keys.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from rich.cells import cell_len, set_cell_size

Colours = Literal[0, 16, 256, "true"]
Images = Literal["ascii", "half", "off"]

LOCALE = ("LC_ALL", "LC_CTYPE", "LANG")  # the first that is set decides
OWN_TRUE_COLOUR = ("xterm-kitty", "xterm-ghostty", "alacritty", "wezterm", "foot", "contour")
NO_COLOUR = ("dumb", "vt", "ansi-m", "cons25-m")
POOR_FONT = ("linux", "dumb", "vt", "cons25", "bsdcon", "sun")


@dataclass(frozen=True)
class Terminal:
    """unicode: more than ASCII. braille: ⣿, and eighths of a block (▂). blocks: whole and half blocks (▀)."""

    unicode: bool
    braille: bool
    blocks: bool
    colours: Colours


def detect(environ: Mapping[str, str], encoding: str | None) -> Terminal:
    """environ: as the terminal gave it (see `environment`); encoding: of the stream that is written to."""
    term = environ.get("TERM", "").lower()
    unicode = _is_utf8(_locale(environ)) and (encoding is None or _is_utf8(encoding))
    return Terminal(
        unicode=unicode,
        braille=unicode and not term.startswith(POOR_FONT),
        blocks=unicode and not term.startswith("dumb"),
        colours=_colours(term, environ),
    )


def environment(environ: Mapping[str, str], record: Path = Path("/proc/self/environ")) -> dict[str, str]:
    """`environ` with the locale that the process was started with.

    Python itself sets LC_CTYPE to UTF-8 where the locale is C (PEP 538), which says nothing of the terminal.
    record: where the kernel keeps the first environment; `environ` stays as it is where there is none.
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


def images(wanted: Literal["auto", "ascii", "half", "off"], terminal: Terminal) -> Images:
    """How images are drawn: in colour by half blocks where that works, else in ASCII."""
    if wanted == "auto":
        return "half" if terminal.blocks and terminal.colours in (256, "true") else "ascii"
    return "ascii" if wanted == "half" and not (terminal.blocks and terminal.colours) else wanted


def _locale(environ: Mapping[str, str]) -> str:
    return next((environ[name] for name in LOCALE if environ.get(name)), "C")


def _is_utf8(name: str) -> bool:
    return "utf8" in name.lower().replace("-", "").replace("_", "")


def _colours(term: str, environ: Mapping[str, str]) -> Colours:
    if environ.get("NO_COLOR") or not term or term.startswith(NO_COLOUR) or term.endswith("-mono"):
        return 0
    if term.startswith(("linux", "cons25")):
        return 16
    in_screen = bool(environ.get("STY")) and term.startswith("screen")  # which forwards no true colour
    said = environ.get("COLORTERM", "").lower() in ("truecolor", "24bit")
    if (said and not in_screen) or term.endswith("-direct") or term.startswith(OWN_TRUE_COLOUR):
        return "true"
    return 256 if "256color" in term else 16


ALIKE = {
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
    **dict.fromkeys("≤«", "<"),
    **dict.fromkeys("≥»", ">"),
    **dict(
        zip("╱╲⟋⟍╳αβγδεζηθικλμνξοπρςστυφχψω", "/\\/\\xabgdezhqiklmnxoprsstufcpw", strict=True),
    ),
    **dict(zip("ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ", "ABGDEZHQIKLMNXOPRSTUFCPW", strict=True)),
    **dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺±÷∞√∑∏∂∇↵⏎↔↕ßøØłŁđĐ°", "0123456789-++/8VSPdV<<-|soOlLdDo", strict=True)),
}


def to_ascii(text: str) -> str:
    """The same text, in as many cells, of ASCII characters that look or sound alike."""
    return text if text.isascii() else _to_ascii(text)


@lru_cache(4096)
def _to_ascii(text: str) -> str:
    result = "".join(_plain(character) for character in text)
    cells = cell_len(text)
    return result if len(result) == cells else set_cell_size(result, cells)  # joined characters


@lru_cache(1024)
def _plain(character: str) -> str:
    if character.isascii() or character in ALIKE:
        return ALIKE.get(character, character)
    if "\u2800" <= character <= "\u28ff":  # Braille: by how many of its dots are set
        return " .:-=+*%#"[(ord(character) - 0x2800).bit_count()]
    cells = cell_len(character)
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return base if len(base) == cells and base.isprintable() else "?" * cells
