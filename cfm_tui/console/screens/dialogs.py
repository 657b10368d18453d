"""Dialogs: questions, lists to choose from, texts to read, and the commands of a page."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, cast

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.dom import DOMNode
from textual.geometry import Region, Size
from textual.screen import Screen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from cfm_tui.console.engine_link import hidden
from cfm_tui.console.screens.base import Dialog, PlainText, show_plainly
from cfm_tui.display.streams import escape_control_characters


class _Options(OptionList):
    """A list whose selected option is reported at once: the next key may be for the page below.

    A mark shows its cursor, since terminals without colours do not.
    """

    def render_line(self, y: int) -> Strip:
        """Return a line, with the mark if it is the first of the option under the cursor."""
        strip = super().render_line(y)
        line = self.scroll_offset.y + y
        if line >= len(self._lines) or self._lines[line] != (self.highlighted, 0):
            return strip
        mark = [Segment("▸", segment.style) for segment in strip.crop(0, 1)]
        return Strip.join([Strip(mark, 1), strip.crop(1)])

    def action_select(self) -> None:
        """Report the option under the cursor."""
        if self.highlighted is not None and not self.get_option_at_index(self.highlighted).disabled:
            cast(_ListDialog, self.screen).answer(self.highlighted)


class _ListDialog(Dialog):
    """A question above a list of options; each returns its name."""

    def __init__(self, question: str, names: Sequence[str], options: Sequence[Option]) -> None:
        super().__init__()
        self._question, self._names, self._options = question, names, options

    def compose(self) -> ComposeResult:
        """Yield the question and the options."""
        with Vertical():
            yield PlainText(self._question)
            yield _Options(*self._options)

    def answer(self, index: int) -> None:
        """Return the name of an option."""
        self.dismiss(self._names[index])

    def action_move(self, step: int) -> None:
        """Move the cursor up or down."""
        options = self.query_one(OptionList)
        (options.action_cursor_down if step > 0 else options.action_cursor_up)()

    def action_end(self, end: int) -> None:
        """Move the cursor to the first or last option."""
        options = self.query_one(OptionList)
        (options.action_last if end else options.action_first)()


class Choice(_ListDialog):
    """A question with several answers, chosen by arrows and Enter or by an answer's first letter.

    answers: pairs of the name that the dialog returns and the text that it shows. Texts should start with
    different letters. Escape returns None.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("j", "move(1)", id="dialog.down"),
        hidden("k", "move(-1)", id="dialog.up"),
    ]

    def __init__(self, question: str, answers: Sequence[tuple[str, str]]) -> None:
        options = [Option(show_plainly(f"{text[0]}  {text}"), id=name) for name, text in answers]
        super().__init__(question, [name for name, _ in answers], options)
        self._keys = [text[0].lower() for _, text in answers]

    def on_key(self, event: events.Key) -> None:
        """Return the answer that starts with the pressed key."""
        key = (event.character or "").lower()
        if key in self._keys:
            event.stop()
            self.dismiss(self._names[self._keys.index(key)])


@dataclass(frozen=True)
class Offer:
    """A choice in a long list.

    columns: values beside the name, left out in a narrow terminal. note: its description. barred: it is
    shown, but cannot be chosen.
    """

    name: str
    note: str = ""
    barred: bool = False
    columns: tuple[str, ...] = ()


class Pick(_ListDialog):
    """A dialog that returns the name of the chosen offer, or None by Escape. current: marked name.

    It is as wide as its longest line, up to the terminal. Notes that are too long are wrapped beside the name
    and its columns or, where there is little room, below them. Columns that do not fit are left out.
    """

    FRAME = 6  #: cells of the dialog's border and padding, and of the list's
    SCROLLBAR = 1
    NOTE_LEAST = 30  #: cells of a note beside its name, at least
    AROUND = 3  #: lines of the dialog's border and question
    DEFAULT_CSS = "Pick OptionList { scrollbar-size-vertical: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("j", "move(1)", "down", id="pick.down"),
        hidden("k", "move(-1)", "up", id="pick.up"),
        hidden("g", "end(0)", "first", id="pick.first"),
        hidden("G", "end(1)", "last", id="pick.last"),
    ]

    def __init__(self, question: str, offers: Sequence[Offer], current: str = "") -> None:
        names = [offer.name for offer in offers]
        super().__init__(question, names, [])
        self._offers, self._current = offers, current
        choosable = [index for index, offer in enumerate(offers) if not offer.barred]
        self._first = names.index(current) if current in names else next(iter(choosable), 0)

    def on_resize(self) -> None:
        """Fit the lines to the terminal; put the cursor on the current name at first."""
        options = self.query_one(OptionList)
        at = self._first if options.highlighted is None else options.highlighted
        room = self.app.size.width - self.FRAME - self.SCROLLBAR
        texts = self._lay_out(room)
        longest = max(
            cell_len(line) for text in [Text(self._question), *texts] for line in text.plain.split("\n")
        )
        self.query_one(Vertical).styles.width = min(longest, room) + self.FRAME + self.SCROLLBAR
        options.styles.max_height = max(self.app.size.height - self.AROUND, 1)
        options.set_options(
            Option(text, disabled=offer.barred) for text, offer in zip(texts, self._offers, strict=True)
        )
        options.highlighted = at

    def _lay_out(self, width: int) -> list[Text]:
        """Return the text of each offer, whose lines have at most `width` cells."""
        rows = [(escape_control_characters(each.name), *each.columns) for each in self._offers]
        count = max(map(len, rows), default=1)
        cells = [row + ("",) * (count - len(row)) for row in rows]
        widths = [max(map(cell_len, column)) + 2 for column in zip(*cells, strict=True)]
        indent = 2 + sum(widths)
        is_beside = width - indent >= self.NOTE_LEAST
        if indent > width:
            widths = widths[:1]
        left = indent if is_beside else 4
        texts = []
        for row, offer in zip(cells, self._offers, strict=True):
            note = textwrap.wrap(escape_control_characters(offer.note), max(width - left, 8))
            head = "".join(set_cell_size(cell, size) for cell, size in zip(row, widths, strict=False))
            text = Text(f"{'*' if offer.name == self._current else ' '} {head}", no_wrap=True)
            text.append(f"\n{' ' * left}".join(note if is_beside else ["", *note]), style="dim")
            text.rstrip()
            texts.append(text)
        return texts


class Question(Dialog):
    """A question answered with a line of text; Enter returns it, Escape returns None."""

    def __init__(self, question: str, text: str = "") -> None:
        super().__init__()
        self._question, self._text = question, text

    def compose(self) -> ComposeResult:
        """Yield the question and a text field."""
        with Vertical():
            yield PlainText(self._question)
            yield Input(self._text, compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Return the text."""
        self.dismiss(event.value)


class Reading(Dialog):
    """A text to read: a message, a traceback."""

    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("question_mark,q,enter", "leave", "back", id="reading.leave"),
        hidden("j,down", "scroll(1)", id="reading.down"),
        hidden("k,up", "scroll(-1)", id="reading.up"),
        hidden("g", "ends(0)", id="reading.first"),
        hidden("G", "ends(1)", id="reading.last"),
    ]

    def __init__(self, title: str, text: Text | str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        """Yield the title and the text."""
        with Vertical():
            yield PlainText(Text(escape_control_characters(f"{self._title}   (Esc: back)"), style="bold"))
            with VerticalScroll():
                yield PlainText(self._text)

    def action_scroll(self, step: int) -> None:
        """Scroll up or down by a line."""
        self.query_one(VerticalScroll).scroll_relative(y=step, animate=False)

    def action_ends(self, end: int) -> None:
        """Scroll to the first or last line."""
        box = self.query_one(VerticalScroll)
        (box.scroll_end if end else box.scroll_home)(animate=False)


@dataclass(frozen=True)
class Command:
    """An entry of a list of commands.

    keys: that run it. name: by which its keys are remapped. words: further ones by which it is found.
    """

    section: str
    text: str
    run: Callable[[], Any]
    keys: str = ""
    name: str = ""
    words: str = ""

    def matches(self, words: Sequence[str]) -> bool:
        """Return whether the entry has all of these words, which are in lower case."""
        entry = f"{self.section} {self.text} {self.keys} {self.name} {self.words}".lower()
        return all(word in entry for word in words)


PAGE, PANELS, EVERYWHERE = "This page", "Panels and charts", "Everywhere"  #: sections of commands


def list_commands(screen: Screen[Any]) -> list[Command]:
    """Return the commands of the keys of a screen and of its widgets, also of those without the focus."""
    entries: dict[tuple[str, str], tuple[str, str, DOMNode, list[Binding]]] = {}

    def add(node: DOMNode, binding: Binding, tooltip: str) -> None:
        if not binding.description or binding.system:
            return
        is_page = isinstance(node, Screen) and bool(binding.id) and not str(binding.id).startswith("page.")
        section = EVERYWHERE if node is screen.app else PAGE if is_page else PANELS
        text = tooltip or binding.description
        entry: tuple[str, str, DOMNode, list[Binding]]
        entry = section, f"{text[0].upper()}{text[1:]}", node, []
        entries.setdefault((section, binding.id or binding.action), entry)[3].append(binding)

    for active in screen.active_bindings.values():
        if active.enabled:
            add(active.node, active.binding, active.tooltip)
    in_focus = {active.node for active in screen.active_bindings.values()}
    for widget in screen.query("*"):
        if widget.focusable and widget.display and widget not in in_focus:
            for _, binding in widget._bindings:
                if binding.id and not any(name == binding.id for _, name in entries):
                    add(widget, binding, binding.tooltip)

    def build(section: str, text: str, node: DOMNode, bindings: Sequence[Binding]) -> Command:
        first = bindings[0]

        def run() -> Any:
            if isinstance(node, Widget) and node.focusable and not isinstance(node, Screen):
                node.focus()
            return screen.app.run_action(first.action, node)

        keys = " ".join(dict.fromkeys(screen.app.get_key_display(each) for each in bindings))
        return Command(section, text, run, keys, first.id or "", first.description)

    sections = [PAGE, PANELS, EVERYWHERE]
    ordered = sorted(entries.values(), key=lambda entry: (sections.index(entry[0]), not entry[3][0].id))
    return [build(*entry) for entry in ordered]


class CommandLines(ScrollView, can_focus=False):
    """Commands below the headings of their sections, a line for each; only visible lines are drawn.

    Without the focus: what is typed belongs to the line above. lines: the commands and the headings.
    at: index of the line under the cursor; None where there is no command.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"commands--cursor", "commands--heading", "commands--name"}
    DEFAULT_CSS = """
    CommandLines { height: 1fr; background: $surface; overflow-x: hidden; scrollbar-size-vertical: 1; }
    CommandLines > .commands--cursor { background: $block-cursor-background; color: $block-cursor-foreground; text-style: $block-cursor-text-style; }
    CommandLines > .commands--heading { text-style: bold underline; }
    CommandLines > .commands--name { text-style: dim; }
    """  # noqa: E501

    def __init__(self, commands: Sequence[Command]) -> None:
        super().__init__()
        self.lines: list[Command | str] = []
        self.at: int | None = None
        self.show(commands)

    def show(self, commands: Sequence[Command]) -> None:
        """Show commands, and put the cursor on the first one."""
        self.lines = []
        for section, members in groupby(commands, lambda command: command.section):
            self.lines += [section, *members]
        self.at = 1 if commands else None
        self._keys_width = max((cell_len(command.keys) for command in commands), default=0)
        self.virtual_size = Size(0, len(self.lines))
        self.scroll_to(y=0, animate=False)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return a visible line: a heading, or keys, text and name of a command."""
        index, width = y + self.scroll_offset.y, self.scrollable_content_region.width
        line = Text(no_wrap=True, end="")
        if index < len(self.lines):
            each = self.lines[index]
            if isinstance(each, str):
                line.append(each, self.get_component_rich_style("commands--heading", partial=True))
            else:  # without colours, a terminal does not show the cursor's style
                line.append(f"{'▸' if index == self.at else ' '} {each.keys:>{self._keys_width}}", "bold")
                line.append(f"  {each.text}")
                line.append(f"  {each.name}", self.get_component_rich_style("commands--name", partial=True))
        line.truncate(width, overflow="ellipsis")
        style = self.get_component_rich_style("commands--cursor") if index == self.at else self.rich_style
        return Strip(line.render(self.app.console)).apply_style(style).extend_cell_length(width, style)

    @property
    def command(self) -> Command | None:
        """The command under the cursor."""
        return None if self.at is None else cast(Command, self.lines[self.at])

    def move(self, step: int) -> None:
        """Move the cursor by a number of lines, to a command; by one line, it goes round at the ends."""
        places = [index for index, each in enumerate(self.lines) if isinstance(each, Command)]
        if self.at is None:
            return
        if abs(step) == 1:
            place = (places.index(self.at) + step) % len(places)
        else:
            target = self.at + step
            place = min(range(len(places)), key=lambda place: abs(places[place] - target))
        self.at = places[place]
        top = 0 if place == 0 else self.at  # with the heading of the first section
        self.scroll_to_region(Region(0, top, 1, self.at - top + 1), animate=False)
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """Run the command that is clicked."""
        index = event.get_content_offset_capture(self).y + self.scroll_offset.y
        if 0 <= index < len(self.lines) and isinstance(command := self.lines[index], Command):
            self.screen.dismiss(command)


class CommandList(Dialog):
    """Commands by section: typing filters them, Enter or a click runs one. Escape returns None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("down", "move(1)", id="commands.down"),
        hidden("up", "move(-1)", id="commands.up"),
        hidden("pagedown", "page(1)", id="commands.page_down"),
        hidden("pageup", "page(-1)", id="commands.page_up"),
    ]

    def __init__(self, title: str, commands: Sequence[Command]) -> None:
        super().__init__()
        self._title, self._commands = title, commands

    def compose(self) -> ComposeResult:
        """Yield the title, the line to type into, and the list."""
        with Vertical():
            yield PlainText(Text(f"{self._title}   (Enter: run, Esc: back)", style="bold"))
            yield Input(placeholder="type to find a command or a key", compact=True)
            yield CommandLines(self._commands)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show the commands that match."""
        words = event.value.lower().split()
        matching = [command for command in self._commands if command.matches(words)]
        self.query_one(CommandLines).show(matching)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Return the command under the cursor."""
        event.stop()
        if (command := self.query_one(CommandLines).command) is not None:
            self.dismiss(command)

    def action_move(self, step: int) -> None:
        """Move the cursor up or down."""
        self.query_one(CommandLines).move(step)

    def action_page(self, step: int) -> None:
        """Move the cursor by a page."""
        lines = self.query_one(CommandLines)
        lines.move(step * max(lines.size.height - 1, 2))
