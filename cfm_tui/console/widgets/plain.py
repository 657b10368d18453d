"""What leaves the screen, in as few and as plain bytes as the terminal needs."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.control import Control
from rich.segment import Segment
from textual._compositor import ChopsUpdate  # no public name; Textual is pinned
from textual.color import Color
from textual.filter import LineFilter

from cfm_tui.display.terminal import to_ascii


class AsciiFilter(LineFilter):
    """Every character as an ASCII one of the same width, for a terminal that shows no other."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same segments in ASCII."""
        return [Segment(to_ascii(text), style, control) for text, style, control in segments]


class Spans(ChopsUpdate):
    """Sends the changed cells of a widget's line, where Textual sends all that is left of them, too."""

    def render_segments(self, console: Console) -> str:
        """Move to the first changed cell of each span, and write the span."""
        sent: list[str] = []
        for y, first, last in self.spans:
            for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                if strip is None or x >= last or end <= first:
                    continue
                part = strip.crop(max(first - x, 0), min(end, last) - x)
                sent += [Control.move_to(max(first, x), y).segment.text, part.render(console)]
        return "".join(sent)


def only_changes(update: RenderableType | None) -> RenderableType | None:
    """What Textual is about to display, as `Spans` where it is an update of a part."""
    return Spans(update.chops, update.spans, update.chop_ends) if isinstance(update, ChopsUpdate) else update
