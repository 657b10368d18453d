"""Base classes of pages and dialogs: a title line, numbered panels, tables, a filter, and a footer with keys.

One panel may fill the page. In a small terminal a page shows one panel at a time; digits choose it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import Any, ClassVar, cast

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.coordinate import Coordinate
from textual.geometry import Region
from textual.screen import ModalScreen, Screen
from textual.visual import VisualType
from textual.widget import Widget
from textual.widgets import DataTable, Input, Static
from textual.widgets.data_table import RowKey

from cfm_tui.console.engine_link import Host, hidden
from cfm_tui.display.streams import escape_control_characters


class Panel(Vertical):
    """A part of a page, with its number and title in the line above it.

    number: the digit key that focuses it; its first focusable widget takes the focus.
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

    def __init__(self, number: int, title: str, *children: Widget, **options: Any) -> None:
        super().__init__(*children, **options)
        self.number = number
        self.set_title(title)

    def set_title(self, title: str) -> None:
        """Change the title, and repaint only its line, if it differs.

        Textual's own setter repaints the whole panel.
        """
        lines = f"{self.number} {title}".splitlines()
        content = Content(escape_control_characters(lines[0])).expand_tabs(4)
        if content == self._border_title:
            return
        self._border_title = content
        if self.is_mounted:
            self.refresh(Region(0, 0, self.outer_size.width, 1).translate(-self.content_offset))


class PlainText(Static):
    """A text that is shown as it is: without markup, and with control characters escaped."""

    def __init__(self, text: Text | str = "", **options: Any) -> None:
        super().__init__(show_plainly(text), markup=False, **options)

    def update(self, content: VisualType = "", *, layout: bool = True) -> None:
        """Change the text."""
        super().update(show_plainly(content), layout=layout)


def show_plainly(content: Any) -> Any:
    """Return a string as a text without markup and control characters; anything else unchanged."""
    return Text(escape_control_characters(content)) if isinstance(content, str) else content


class Table(DataTable[Any]):
    """A table of rows whose cursor also moves by j, k, g and G; its cells are shown as they are."""

    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("j", "cursor_down", "down", id="table.down"),
        hidden("k", "cursor_up", "up", id="table.up"),
        hidden("g", "scroll_top", "first", id="table.first"),
        hidden("G", "scroll_bottom", "last", id="table.last"),
    ]

    def __init__(self, **options: Any) -> None:
        super().__init__(cursor_type="row", zebra_stripes=False, cell_padding=1, **options)

    def add_row(self, *cells: Any, **options: Any) -> RowKey:
        """Add a row at the bottom, and return its key."""
        return super().add_row(*map(show_plainly, cells), **options)

    def update_cell_at(self, coordinate: Coordinate, value: Any, *, update_width: bool = False) -> None:
        """Change a cell."""
        super().update_cell_at(coordinate, show_plainly(value), update_width=update_width)


class FilterLine(Input):
    """A line that filters a list, visible while it has the focus or a text. Its page handles `Input.Changed`.

    hint: shown while the line is empty. target: returns the widget that Enter focuses.
    """

    DEFAULT_CSS = """
    FilterLine { display: none; height: 1; border: none; padding: 0 1; background: $surface; }
    FilterLine.-open { display: block; }
    """

    def __init__(self, hint: str, target: Callable[[], Widget]) -> None:
        super().__init__(placeholder=hint, id="filter", compact=True)
        self._target = target

    def open(self) -> None:
        """Show the line and focus it."""
        self.add_class("-open")
        self.focus()

    def set_text(self, text: str) -> None:
        """Replace the text; an empty text hides the line."""
        self.value = text
        self.set_class(bool(text), "-open")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Focus the list; hide the line if it is empty."""
        event.stop()
        self.set_class(bool(event.value), "-open")
        self._target().focus()


class KeyLine(Widget):
    """A footer in one widget; Textual's builds a widget for each key whenever the focus moves.

    offers: returns whether an action is useful now. Keys of other actions are hidden, but still work: they
    say why nothing happens.
    """

    DEFAULT_CSS = """
    KeyLine { dock: bottom; height: 1; background: $panel; color: $foreground; }
    """

    def __init__(self, offers: Callable[[str], bool]) -> None:
        super().__init__()
        self._text = Text()
        self._offers = offers

    def on_mount(self) -> None:
        """Subscribe to changes of the screen's bindings."""
        self.screen.bindings_updated_signal.subscribe(self, self._update_keys)
        self._update_keys(self.screen)

    def _update_keys(self, screen: Screen[Any]) -> None:
        text = Text(no_wrap=True, overflow="ellipsis", end="")
        enabled = [each for each in screen.active_bindings.values() if each.binding.show and each.enabled]
        offered = [each for each in enabled if self._offers(each.binding.action)]
        # help comes first: in a narrow terminal it leads to the other keys
        for active in sorted(offered, key=lambda active: active.binding.id != "app.help"):
            binding = active.binding
            press = Style(meta={"@click": f"app.simulate_key('{binding.key}')"})
            text.append(self.app.get_key_display(binding), press + Style(bold=True))
            text.append(f" {binding.description}", press)
            text.append("  ")
        text.rstrip()
        if text != self._text or text.spans != self._text.spans:
            self._text = text
            self.refresh()

    def render(self) -> Text:
        """Return the keys with their descriptions."""
        return self._text


class Page(Screen[None]):
    """Base class of the console's pages.

    A page overrides `body`, which yields its panels; `begin`, called once when they are visible; and `tick`,
    called about `fps` times a second while the page is visible.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("f", "fill", "fill", id="page.fill", tooltip="Fill the page with this panel, or not"),
        *(
            hidden(str(digit), f"panel({digit})", f"panel {digit}", id=f"page.panel{digit}")
            for digit in range(1, 10)
        ),
    ]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-normal"), (110, "-wide"), (160, "-huge")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-medium"), (34, "-tall")]  # noqa: RUF012
    HEADING = ""  #: the first part of the title line
    LEAST = (60, 18)  #: columns and lines; below either, one panel is shown at a time
    READ_SECONDS = 0.05  #: time per tick for reading records
    CHART_SECONDS = 2.0  #: interval of redrawing charts

    def __init__(self) -> None:
        super().__init__()
        self._filled = False
        self._current = 1
        self._title = ""

    @property
    def host(self) -> Host:
        """The application that shows this page."""
        return cast(Host, self.app)

    def compose(self) -> ComposeResult:
        """Yield the title, the body and the footer."""
        yield PlainText(id="title")
        yield from self.body()
        yield KeyLine(self.offers)

    def body(self) -> Iterator[Widget]:
        """Yield the page's panels, in the containers of its layout."""
        yield from ()

    def offers(self, action: str) -> bool:
        """Return whether the footer shows the key of an action. Call `refresh_bindings` when that changes."""
        return True

    def on_mount(self) -> None:
        """Show the title and the first panel, then call `begin`."""
        self.set_title()
        self.action_panel(1)
        self.call_after_refresh(self.begin)

    def begin(self) -> None:
        """Start the page's work once it is visible.

        Textual calls a subclass's `on_mount` before the one above.
        """

    def tick(self) -> None:
        """Read what is new, and show it."""

    def set_title(self, subject: str = "", state: str = "") -> None:
        """Show heading, subject and state in the title line, if they changed."""
        title = " " + " · ".join(part for part in (self.HEADING, subject, state) if part)
        if title != self._title:
            self._title = title
            self.query_one("#title", PlainText).update(title)

    # --- threads ----------------------------------------------------------------------------------

    def run_in_thread(self, job: Callable[..., object], *arguments: Any) -> None:
        """Run `job(*arguments)` on a daemon thread, and show the error if it raises one."""

        def run() -> None:
            try:
                job(*arguments)
            except Exception as error:
                self.call_in_ui(self.host.report_error, error)

        name = f"work of {self.HEADING}"
        threading.Thread(target=copy_context().run, args=(run,), name=name, daemon=True).start()

    def call_in_ui(self, callback: Callable[..., object], *arguments: Any) -> None:
        """From a thread of `run_in_thread`: call back on the UI thread, if the page still exists."""

        def run() -> None:
            try:
                if self.is_running and self.is_attached:
                    callback(*arguments)
            except Exception as error:
                self.host.report_error(error)

        if self.is_running:
            with suppress(RuntimeError):  # the console is ending
                self.app.call_from_thread(run)

    def on_resize(self) -> None:
        """Show one panel at a time where there is no room for more."""
        self._arrange()

    def panels(self) -> list[Panel]:
        """Return the page's current panels, ordered by number."""
        return sorted(self.query(Panel), key=lambda panel: panel.number)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable the digits of panels that do not exist."""
        return action != "panel" or any(panel.number in parameters for panel in self.panels())

    def action_panel(self, number: int) -> None:
        """Make a panel the current one, and focus its first focusable widget."""
        target = next((panel for panel in self.panels() if panel.number == number), None)
        if target is None:
            return
        self._current = number
        self._arrange()
        first = next((widget for widget in target.query("*") if widget.focusable), None)
        if first is not None:
            self.set_focus(first)

    def action_fill(self) -> None:
        """Let the current panel fill the page, or show all panels again."""
        self._filled = not self._filled
        self._arrange()

    def on_descendant_focus(self) -> None:
        """Make the panel with the focus the current one."""
        nodes = self.focused.ancestors_with_self if self.focused else []
        panel = next((each for each in nodes if isinstance(each, Panel)), None)
        if panel is not None and panel.number != self._current:
            self._current = panel.number
            self._arrange()

    def _arrange(self) -> None:
        width, height = self.app.size
        self.set_class(self._filled or width < self.LEAST[0] or height < self.LEAST[1], "-single")
        for panel in self.panels():
            panel.set_class(panel.number == self._current, "-current")
            holder = panel.parent
            if isinstance(holder, Widget) and holder is not self:
                inside = any(each.number == self._current for each in holder.query(Panel))
                holder.set_class(inside, "-holds-current")


class Dialog(ModalScreen[Any]):
    """A question or a text over a page; Escape closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "back", id="dialog.leave")]

    def action_leave(self) -> None:
        """Close the dialog without an answer."""
        self.dismiss(None)
