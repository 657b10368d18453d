"""Panel 5 of the monitor: the log of a run."""

from __future__ import annotations

import time
from collections import deque
from itertools import takewhile
from typing import ClassVar

from textual.binding import BindingType
from textual.events import Resize
from textual.widgets import RichLog

from cfm_tui.console.engine_link import hidden
from cfm_tui.console.screens.base import show_plainly
from cfm_tui.display.run_state import LogLine


class Log(RichLog):
    """A log of lines, scrolled by arrows, j, k, g and G.

    kinds: what it shows, one of `KINDS`. pattern: part of the lines that it shows, in lower case.
    """

    KINDS = ("events", "all", "warnings")  #: `events` leaves out checkpoints

    DEFAULT_CSS = "Log { height: 1fr; background: $background; scrollbar-size-vertical: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("j", "scroll_down", "down", id="log.down"),
        hidden("k", "scroll_up", "up", id="log.up"),
        hidden("g", "scroll_home", "first", id="log.first"),
        hidden("G", "scroll_end", "last", id="log.last"),
    ]

    def __init__(self) -> None:
        super().__init__(max_lines=1000, min_width=20, wrap=True, id="lines")
        self.kinds, self.pattern = self.KINDS[0], ""
        self._source_lines: deque[LogLine] = deque()
        self._last: LogLine | None = None
        self._width = 0

    @staticmethod
    def format_line(line: LogLine) -> str:
        """Return a log line with its time, or with date and time if it is from another day."""
        local_time = time.localtime(line.time)
        is_today = time.localtime()[:3] == local_time[:3]
        stamp = time.strftime("%H:%M:%S" if is_today else "%m-%d %H:%M", local_time)
        return f"{stamp} {'! ' if line.level != 'info' else ''}{line.text}"

    def follow(self, lines: deque[LogLine]) -> list[LogLine]:
        """Append the lines that are new since the last call, and return them."""
        new = list(takewhile(lambda line: line is not self._last, reversed(lines)))[::-1]
        self._source_lines, self._last = lines, lines[-1] if lines else None
        for line in filter(self._is_wanted, new):
            self.write(show_plainly(self.format_line(line)))
        return new

    def _is_wanted(self, line: LogLine) -> bool:
        is_of_kind = {
            "events": not line.text.startswith("checkpoint "),
            "all": True,
            "warnings": line.level != "info",
        }
        return is_of_kind[self.kinds] and self.pattern in line.text.lower()

    def describe(self) -> str:
        """Return the panel's title: what is shown, and what is not."""
        title = "Log" if self.kinds == "all" else f"Log · {self.kinds}"
        hidden_count = sum(not self._is_wanted(line) for line in self._source_lines)
        title += f' · "{self.pattern}"' if self.pattern else ""
        return f"{title} · {hidden_count} folded, l shows" if hidden_count else title

    def rewrite(self) -> None:
        """Write all lines again."""
        self.clear()
        self._last = None
        self.follow(self._source_lines)

    def on_hide(self) -> None:
        """Wrap all lines again when the log is shown: what is written meanwhile is wrapped too narrowly."""
        self._width = 0

    def on_resize(self, event: Resize) -> None:
        """Wrap all lines to the new width."""
        if self.size.width not in (0, self._width):
            self._width = self.size.width
            self.call_after_refresh(self.rewrite)
