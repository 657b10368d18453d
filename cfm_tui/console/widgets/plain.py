"""Reduce terminal output to the bytes and characters that the terminal needs."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.control import Control
from rich.segment import Segment
from textual._compositor import ChopsUpdate  # no public name; Textual is pinned
from textual.color import Color
from textual.filter import LineFilter

from cfm_tui.display.terminal import to_ascii


class AsciiFilter(LineFilter):
    """Replaces every character by ASCII of the same width, for terminals without Unicode."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return the segments in ASCII."""
        return [Segment(to_ascii(text), style, control) for text, style, control in segments]


class Spans(ChopsUpdate):
    """An update that sends only the changed cells of a line; Textual also sends those left of them."""

    def render_segments(self, console: Console) -> str:
        """Return each span, after a cursor move to its first changed cell."""
        parts: list[str] = []
        for y, first, last in self.spans:
            for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                if strip is None or x >= last or end <= first:
                    continue
                span = strip.crop(max(first - x, 0), min(end, last) - x)
                parts += [Control.move_to(max(first, x), y).segment.text, span.render(console)]
        return "".join(parts)


def only_changes(update: RenderableType | None) -> RenderableType | None:
    """Convert a partial update of Textual to `Spans`; return anything else unchanged."""
    return Spans(update.chops, update.spans, update.chop_ends) if isinstance(update, ChopsUpdate) else update
