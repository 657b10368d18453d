"""A report as one self-contained HTML file without scripts.

Headings are semantic and linked from a table of contents. Colours follow the reader's light or dark mode.
Tables scroll on narrow pages. Every picture has a caption and an alternative text.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING

from engine.report import drawing
from engine.store.folders import free_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_NUMBER = re.compile(r"[-+−]?\d[\d.,]*(\s|$)")  # at the start of a cell
_PIXELS_PER_INCH = 115  # makes the 8-point text of a figure as large as its caption's


@dataclass(frozen=True, eq=False)
class Plate:
    """A figure with its title, caption and alternative text.

    name: of the figure's file. pixels: whether the figure consists of images, not of lines.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    pixels: bool = False

    @cached_property
    def png(self) -> bytes:
        """The content of a PNG file."""
        return drawing.render(self.figure, "png")

    @property
    def width(self) -> int:
        """The width on the page in CSS pixels."""
        return round(_PIXELS_PER_INCH * self.figure.get_figwidth())

    @property
    def source(self) -> str:
        """A data URI: SVG for lines, PNG for images."""
        kind, content = ("png", self.png) if self.pixels else ("svg+xml", drawing.render(self.figure, "svg"))
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class PageTable:
    """A header and rows; the first cell of a row is its name.

    summary: the line that opens a table that is folded; empty for one that is open.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    summary: str = ""


@dataclass(frozen=True)
class Note:
    """A paragraph. warning: whether it is highlighted as a warning."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class PageSection:
    """A heading and its content. level: of the HTML heading, 2 or 3."""

    title: str
    parts: list[Plate | PageTable | Note] = field(default_factory=list)
    level: int = 2


def slug(text: str) -> str:
    """Return a name for files and anchors: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"


def html(title: str, lead: str, sections: Sequence[PageSection], command: str) -> str:
    """Return the page. lead: a sentence below the title. command: repeated in the caption of every figure."""
    anchors: list[str] = []
    contents, body = "", ""
    counter = itertools.count(1)
    for section in sections:
        anchors.append(free_name(slug(section.title), anchors.__contains__))
        anchor, level, heading = anchors[-1], section.level, escape(section.title)
        contents += f'<li class="level{level}"><a href="#{anchor}">{heading}</a></li>\n'
        parts = "\n".join(_format_part(part, command, counter) for part in section.parts)
        heading = f'<h{level} id="{anchor}">{heading}</h{level}>'
        body += f'<section aria-labelledby="{anchor}">\n{heading}\n{parts}\n</section>\n'
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n<p>{escape(lead)}</p>\n</header>\n"
        f'<nav aria-label="Contents">\n<details>\n<summary><h2>Contents</h2></summary>\n'
        f"<ul>\n{contents}</ul>\n</details>\n</nav>\n"
        f"<main>\n{body}</main>\n</body>\n</html>\n"
    )


def _format_part(part: Plate | PageTable | Note, command: str, counter: Iterator[int]) -> str:
    if isinstance(part, Plate):
        kind = "pixels" if part.pixels else "lines"
        return (
            f'<figure id="figure-{escape(part.name)}">\n'
            f'<div class="scroll" tabindex="0"><img class="{kind}" src="{part.source}" width="{part.width}"'
            f' alt="{escape(part.alt, quote=True)}"></div>\n'
            f"<figcaption><b>Figure {next(counter)}. {escape(part.title)}.</b> {escape(part.caption)} "
            f"<span class='made'>Made by <code>{escape(command)}</code></span></figcaption>\n</figure>"
        )
    if isinstance(part, PageTable):
        return _format_table(part)
    kind = ' class="warning" role="note"' if part.warning else ""
    return f"<p{kind}>{escape(part.text)}</p>"


def _format_table(table: PageTable) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    rows = []
    for first, *rest in table.rows:
        kinds = [' class="number"' if _NUMBER.match(text) else "" for text in rest]  # these do not wrap
        cells = "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, rest, strict=True))
        rows.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    body = "\n".join(rows)
    text = (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(table.caption, quote=True)}">'
        f"<table>\n<caption>{escape(table.caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )
    if not table.summary:
        return text
    return f"<details>\n<summary>{escape(table.summary)}</summary>\n{text}\n</details>"


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #ccc;
  --link: #0b5394; --warn: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #161616; --line: #444;
  --link: #8ab8ff; --warn: #3d3216; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); }
nav ul { padding: 0; list-style: none; columns: 18rem; }
nav li.level3 { padding-left: 1.2rem; }
nav h2 { display: inline; font-size: 1.1rem; border: 0; }
summary { cursor: pointer; padding: .3rem 0; }
main details { margin: 1rem 0; }
main summary { color: var(--link); }
figure { margin: 1.5rem 0; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; background: #fff; padding: .5rem;
  border: 1px solid var(--line); border-radius: 4px; }
figcaption { margin-top: .5rem; font-size: .9rem; }
.made { display: block; opacity: .75; font-size: .85rem; }
code { font: .85em/1.4 ui-monospace, monospace; }
.warning { padding: .6rem .8rem; background: var(--warn); border-left: 4px solid #e69f00; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; }
caption { text-align: left; font-size: .9rem; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
thead th { vertical-align: bottom; }
td { max-width: 44rem; }
td.number { white-space: nowrap; }
tbody th { font-weight: 500; min-width: 6rem; max-width: 22rem; }
@media screen and (prefers-color-scheme: dark) {
  img.lines { filter: invert(.9) hue-rotate(180deg); } }
@media screen and (max-width: 48rem) { figure img { max-width: none; } }
@media print { :root { --ink: #000; --paper: #fff; --warn: #fff4d6; } nav { display: none; }
  body { max-width: none; } }
"""
