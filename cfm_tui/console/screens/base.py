"""Base classes of pages and dialogs: a line of tabs, numbered panels, tables, a filter, a footer with keys.

One panel may fill the page. In a small terminal a page shows one panel at a time; digits choose it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Any, ClassVar, cast

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text
from textual import events
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
        border-title-color: $foreground 80%;
        border-title-style: bold;
    }
    Panel:focus-within { border-top: solid $primary; border-title-color: $primary; }
    """

    def __init__(self, number: int, title: str, *children: Widget, **options: Any) -> None:
        super().__init__(*children, **options)
        self.number = number
        self._text, self._hint = title, ""
        self._update_title()

    def set_title(self, title: str) -> None:
        """Change the title."""
        self._text = title
        self._update_title()

    def set_hint(self, hint: str) -> None:
        """Show a hint after the title, which is cut where there is no room for both."""
        self._hint = hint
        self._update_title()

    def _update_title(self) -> None:
        """Repaint only the title's line, if it changed; Textual's own setter repaints the whole panel."""
        title = escape_control_characters(f"{self.number} {self._text}".splitlines()[0]).expandtabs(4)
        if self._hint:
            room = self.outer_size.width - 2 - cell_len(f" · {self._hint}")
            if 0 < room < cell_len(title):
                title = set_cell_size(title, room - 1) + "…"
            title += f" · {self._hint}"
        content = Content(title)
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


TABS = {  # page → action of the application that opens it
    "Runs": "runs",
    "New": "configure",
    "Monitor": "monitor",
    "Gallery": "gallery",
    "Compare": "compare",
    "Sweeps": "sweeps",
}

#: The theme's colour of the word for a run's state, and the mark before it.
STATES = {
    "running": ("success", "●"),
    "starting": ("success", "●"),
    "paused": ("warning", "‖"),
    "finished": ("primary", "✓"),
    "failed": ("error", "✗"),
    "damaged": ("error", "✗"),
    "newer": ("error", "✗"),
    "lost": ("error", "○"),
    "stopped": ("secondary", "■"),
}


def state_style(widget: Widget, state: str) -> Style:
    """Return the style of a run's state in the widget's theme."""
    colour = widget.app.theme_variables.get(STATES.get(state, ("foreground", ""))[0], "ansi_default")
    return Style(bold=True) if colour.startswith("ansi_") else Style(bold=True, color=colour)


class TabLine(Widget):
    """The top line: the console's pages, and what the visible one shows.

    tab: the name of the visible page, one of `TABS`.
    """

    WIDE, ROOMY = 60, 100  #: cells of a line that has all tabs, and with two cells between them, at least
    COMPONENT_CLASSES: ClassVar[set[str]] = {"tabs--tab", "tabs--current"}
    DEFAULT_CSS = """
    TabLine { dock: top; height: 1; background: $panel; color: $foreground; }
    TabLine > .tabs--tab { color: $foreground 70%; background: $panel; }
    TabLine > .tabs--current { background: $primary; color: $background; text-style: bold; }
    """

    def __init__(self, tab: str) -> None:
        super().__init__(id="title")
        self._tab = tab
        self._shown = ("", "", "")

    def show(self, subject: str, state: str, kind: str) -> None:
        """Show a subject and its state, and repaint if they changed. kind: the state's key in `STATES`."""
        if (subject, state, kind) != self._shown:
            self._shown = subject, state, kind
            self.refresh()

    async def on_click(self, event: events.Click) -> None:
        """Open the page whose tab was clicked."""
        if action := event.style.meta.get("action"):
            await self.run_action(action)

    def render(self) -> Text:
        """Return the tabs at the left, and subject and state at the right."""
        subject, state, kind = (escape_control_characters(part) for part in self._shown)
        width = self.size.width
        line = Text(no_wrap=True, overflow="ellipsis", end="")
        for name, action in TABS.items():
            if name == self._tab:
                line.append(f" {name} ", self.get_component_rich_style("tabs--current"))
            elif width >= self.WIDE:
                style = self.get_component_rich_style("tabs--tab") + Style(meta={"action": f"app.{action}"})
                line.append(f" {name} " if width >= self.ROOMY else f" {name}", style)
        mark = f"{STATES[kind][1]} " if kind in STATES else ""
        right = Text(no_wrap=True, end="")
        right.append(subject).append("  " if subject and state else "")
        right.append(f"{mark}{state}" if state else "", state_style(self, kind))
        room = max(width - line.cell_len - 2, 0)
        if right.cell_len > room:
            cut = max(room - right.cell_len + cell_len(subject) - 1, 0)  # the state matters more
            start = f"{set_cell_size(subject, cut).rstrip()}…" if cut else ""
            right = Text.assemble(start, "  " if start and state else "", right[cell_len(subject) + 2 :])
            right.truncate(room, overflow="ellipsis")
        line.append(" " * (width - line.cell_len - right.cell_len - 1))
        line.append_text(right)
        return line


class KeyLine(Widget):
    """A footer in one widget; Textual's builds a widget for each key whenever the focus moves.

    Its first line has the keys of the page, its second those that work on every page. In a short terminal
    there is one line. offers: returns whether an action is useful now. Keys of other actions are hidden, but
    still work: they say why nothing happens.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"keys--key", "keys--label"}
    DEFAULT_CSS = """
    KeyLine { dock: bottom; height: 2; background: $panel; color: $foreground; }
    KeyLine > .keys--key { color: $accent; background: $panel; text-style: bold; }
    KeyLine > .keys--label { color: $foreground 80%; background: $panel; }
    """

    def __init__(self, offers: Callable[[str], bool]) -> None:
        super().__init__()
        self._keys: list[tuple[str, str, str, bool]] = []
        self._offers = offers

    def on_mount(self) -> None:
        """Subscribe to changes of the screen's bindings."""
        self.screen.bindings_updated_signal.subscribe(self, self._update_keys)
        self._update_keys(self.screen)

    def _update_keys(self, screen: Screen[Any]) -> None:
        keys = []
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.show and active.enabled and self._offers(binding.action):
                display = self.app.get_key_display(binding)
                keys.append((display, binding.description, binding.key, active.node is self.app))
        if keys != self._keys:
            self._keys = keys
            self.refresh()

    def on_click(self, event: events.Click) -> None:
        """Press the key that was clicked."""
        if key := event.style.meta.get("key"):
            self.app.simulate_key(key)

    def render(self) -> Text:
        """Return the keys with their descriptions."""
        of_page = [key for key in self._keys if not key[3]]
        everywhere = [key for key in self._keys if key[3]]
        if self.size.height < 2:  # help comes first: it leads to the other keys
            return self._build_line([*everywhere[-1:], *of_page, *everywhere[:-1]])
        return Text("\n").join([self._build_line(of_page), self._build_line(everywhere)])

    def _build_line(self, keys: Sequence[tuple[str, str, str, bool]]) -> Text:
        styles = self.get_component_rich_style("keys--key"), self.get_component_rich_style("keys--label")
        line = Text(" ", no_wrap=True, overflow="ellipsis", end="")
        for display, label, key, _ in keys:
            press = Style(meta={"key": key})
            if line.cell_len + cell_len(f"{display} {label}") > self.size.width:
                break
            line.append(display, styles[0] + press).append(f" {label}", styles[1] + press).append("   ")
        line.rstrip()
        return line


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
    TAB = ""  #: one of `TABS`
    LEAST = (60, 18)  #: columns and lines; below either, one panel is shown at a time
    READ_SECONDS = 0.05  #: time per tick for reading records
    CHART_SECONDS = 2.0  #: interval of redrawing charts

    def __init__(self) -> None:
        super().__init__()
        self._filled = False
        self._current = 1
        self._mounted_panels: list[Panel] = []

    @property
    def host(self) -> Host:
        """The application that shows this page."""
        return cast(Host, self.app)

    def compose(self) -> ComposeResult:
        """Yield the title, the body and the footer."""
        yield TabLine(self.TAB)
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
        self._mounted_panels = sorted(self.query(Panel), key=lambda panel: panel.number)
        self.set_title()
        self.action_panel(1)
        self.call_after_refresh(self.begin)

    def begin(self) -> None:
        """Start the page's work once it is visible.

        Textual calls a subclass's `on_mount` before the one above.
        """

    def tick(self) -> None:
        """Read what is new, and show it."""

    @property
    def is_loading(self) -> bool:
        """Whether something is loaded that the user waits for, so that showing it is not delayed."""
        return False

    def set_title(self, subject: str = "", state: str = "", kind: str = "") -> None:
        """Show subject and state in the top line, if they changed. kind: the state's key in `STATES`."""
        self.query_one(TabLine).show(subject, state, kind)

    # --- threads ----------------------------------------------------------------------------------

    def run_in_thread(self, job: Callable[..., object], *arguments: Any) -> None:
        """Run `job(*arguments)` on a daemon thread, and show the error if it raises one."""

        def run() -> None:
            try:
                job(*arguments)
            except Exception as error:
                self.call_in_ui(self.host.report_error, error)

        name = f"work of {type(self).__name__}"
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
        """Return the page's panels, ordered by number; they stay the same once the page is mounted.

        Every change of the key bindings asks for them several times.
        """
        return self._mounted_panels

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
