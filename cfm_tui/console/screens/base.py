"""What all pages share: a title line, numbered panels of which one may fill the page, and a footer.

In a small terminal a page shows one panel at a time; digits choose it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import Any, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Region
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import DataTable, Static

from cfm_tui.console.engine_link import Host
from cfm_tui.console.widgets.keyline import KeyLine

SMALL = (60, 18)  #: columns and lines below which one panel is shown at a time


class Panel(Vertical):
    """A part of a page with its number and title in the line above it.

    number: the digit that leads to it. what: its title. The first widget in it that can be focused is.
    """

    DEFAULT_CSS = """
    Panel {
        height: 1fr;
        border-top: solid $panel;
        border-title-color: $foreground;
        border-title-style: bold;
    }
    Panel:focus-within { border-top: solid $primary; }
    """

    def __init__(self, number: int, what: str, *children: Widget, **options: Any) -> None:
        super().__init__(*children, **options)
        self.number = number
        self.say(what)

    def say(self, what: str) -> None:
        """Change the title; where it is another, its line is painted and nothing else.

        Textual's own setter paints the whole panel.
        """
        lines = f"{self.number} {what}".splitlines()
        title = Content(lines[0]).expand_tabs(4)
        if title == self._border_title:
            return
        self._border_title = title
        if self.is_mounted:
            self.refresh(Region(0, 0, self.outer_size.width, 1).translate(-self.content_offset))


class Table(DataTable[Any]):
    """A table of rows that is also moved through by j, k, g and G."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "down", show=False, id="table.down"),
        Binding("k", "cursor_up", "up", show=False, id="table.up"),
        Binding("g", "scroll_top", "first", show=False, id="table.first"),
        Binding("G", "scroll_bottom", "last", show=False, id="table.last"),
    ]

    def __init__(self, **options: Any) -> None:
        super().__init__(cursor_type="row", zebra_stripes=False, cell_padding=1, **options)


class Page(Screen[None]):
    """One page of the console.

    `body` gives its panels; `begin` is called once they are seen, `tick` about `fps` times a second while
    the page is seen.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "f", "fill", "fill", show=False, id="page.fill", tooltip="Let one panel fill the page, or not"
        ),
        *(
            Binding(str(digit), f"panel({digit})", f"panel {digit}", show=False, id=f"page.panel{digit}")
            for digit in range(1, 10)
        ),
    ]
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-narrow"),
        (SMALL[0], "-normal"),
        (110, "-wide"),
        (160, "-huge"),
    ]
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-short"),
        (SMALL[1], "-medium"),
        (34, "-tall"),
    ]
    HEADING = ""  #: what the title line begins with
    LEAST = SMALL  #: columns and lines below which one panel is shown at a time

    def __init__(self) -> None:
        super().__init__()
        self._filled = False
        self._current = 1
        self._title = ""

    @property
    def host(self) -> Host:
        """The application that this page belongs to."""
        return cast(Host, self.app)

    def compose(self) -> ComposeResult:
        """The title, the body and the footer."""
        yield Static(id="title", markup=False)
        yield from self.body()
        yield KeyLine(self.offers)

    def body(self) -> Iterator[Widget]:
        """The page's panels, in containers as its layout needs them."""
        yield from ()

    def offers(self, action: str) -> bool:
        """Whether the last line names the key of an action; `refresh_bindings` where that changed."""
        return True

    def on_mount(self) -> None:
        """Show the title and the first panel, then what the page begins with."""
        self.say()
        self.action_panel(1)
        self.call_after_refresh(self.begin)

    def begin(self) -> None:
        """What a page does once it is seen; Textual calls an `on_mount` of theirs before the one above."""

    def tick(self) -> None:
        """Look for what is new, and show it."""

    def say(self, what: str = "", state: str = "") -> None:
        """Set the title line, where it changed: the page's heading, what is shown, and its state."""
        title = " " + " · ".join(part for part in (self.HEADING, what, state) if part)
        if title != self._title:
            self._title = title
            self.query_one("#title", Static).update(title)

    # --- threads ----------------------------------------------------------------------------------

    def work(self, job: Callable[..., object], *given: Any) -> None:
        """Do `job(*given)` on a thread, which ends with the console; what goes wrong there is told."""
        context = copy_context()
        threading.Thread(
            target=context.run, args=(self._do, job, given), name=f"work of {self.HEADING}", daemon=True
        ).start()

    def _do(self, job: Callable[..., object], given: tuple[Any, ...]) -> None:
        try:
            job(*given)
        except Exception as error:
            self.back(self.host.trouble, error)

    def back(self, hear: Callable[..., object], *given: Any) -> None:
        """On a thread of `work`: let the page hear of something, if it is still there."""
        if not self.is_running:
            return
        with suppress(RuntimeError):  # the console ends
            self.app.call_from_thread(self._hears, hear, given)

    def _hears(self, hear: Callable[..., object], given: tuple[Any, ...]) -> None:
        if not (self.is_running and self.is_attached):
            return
        try:
            hear(*given)
        except Exception as error:
            self.host.trouble(error)

    def on_resize(self) -> None:
        """One panel at a time where there is no room for more."""
        self._arrange()

    def panels(self) -> list[Panel]:
        """All panels that the page has now, by number."""
        return sorted(self.query(Panel), key=lambda panel: panel.number)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Digits of panels that are not there are no keys."""
        return action != "panel" or any(panel.number in parameters for panel in self.panels())

    def action_panel(self, number: int) -> None:
        """Go to a panel."""
        found = next((panel for panel in self.panels() if panel.number == number), None)
        if found is None:
            return
        self._current = number
        self._arrange()
        first = next((widget for widget in found.query("*") if widget.focusable), None)
        if first is not None:
            self.set_focus(first)

    def action_fill(self) -> None:
        """Let the current panel fill the page, or all be seen again."""
        self._filled = not self._filled
        self._arrange()

    def on_descendant_focus(self) -> None:
        """The panel with the focus is the current one."""
        node = self.focused
        panel = (
            next((each for each in node.ancestors_with_self if isinstance(each, Panel)), None)
            if node
            else None
        )
        if panel is not None and panel.number != self._current:
            self._current = panel.number
            self._arrange()

    def _arrange(self) -> None:
        width, height = self.app.size
        single = self._filled or width < self.LEAST[0] or height < self.LEAST[1]
        self.set_class(single, "-single")
        for panel in self.panels():
            panel.set_class(panel.number == self._current, "-current")
            holder = panel.parent
            if isinstance(holder, Widget) and holder is not self:
                inside = any(each.number == self._current for each in holder.query(Panel))
                holder.set_class(inside, "-holds-current")


class Dialog(ModalScreen[Any]):
    """A question or a text over a page; Escape leaves it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "back", id="dialog.leave")]

    def action_leave(self) -> None:
        """Leave without an answer."""
        self.dismiss(None)
