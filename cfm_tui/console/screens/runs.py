"""The list of all runs: where every other page is reached from."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.widget import Widget
from textual.widgets import DataTable, Input, Static

from cfm_tui.console.engine_link import CompareRuns, Launch, OpenGallery, OpenRun
from cfm_tui.console.screens.base import Page, Panel, Table
from cfm_tui.console.screens.dialogs import Choice
from cfm_tui.console.widgets.filtering import Filter
from engine.errors import UserError

if TYPE_CHECKING:  # the page is drawn before it is known what is to be listed
    from cfm_tui.console.listing import Listing, Row

LOOK_SECONDS = 2.0  #: between looks at the runs' folder
COLUMNS = ("run", "state", "done", "β", "last", "best", "random", "begun")
EMPTY = "No runs in {folder} yet.\n\nn  configures one      ?  the keys      q  leaves"


class RunsPage(Page):
    """All runs of a folder: filtered, sorted, marked, opened, compared, gone on with, deleted."""

    HEADING = "cfm-tui"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "slash", "filter", "filter", id="runs.filter", tooltip="Show runs whose name or state has a text"
        ),
        Binding("s", "sort", "sort", id="runs.sort", tooltip="Sort by the next column"),
        Binding("S", "turn", "turn", show=False, id="runs.turn", tooltip="Sort the other way round"),
        Binding("space", "mark", "mark", id="runs.mark", tooltip="Mark for comparing"),
        Binding("x", "compare", "compare", id="runs.compare", tooltip="Compare the marked runs"),
        Binding("i", "images", "images", id="runs.images", tooltip="The run's distilled images"),
        Binding("o", "resume", "go on", id="runs.resume", tooltip="Resume a run that was stopped or lost"),
        Binding("d", "delete", "delete", show=False, id="runs.delete", tooltip="Delete the run's folder"),
        Binding(
            "c",
            "copy",
            "copy path",
            show=False,
            id="runs.copy",
            tooltip="Copy the run's folder to the clipboard",
        ),
        Binding("r", "refresh", "look again", show=False, id="runs.look"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._listing: Listing | None = None
        self._rows: list[Row] = []
        self._marked: set[Path] = set()
        self._looked = 0.0
        self._text = ""
        self._column, self._turned = len(COLUMNS) - 1, True
        self._shown: list[tuple[object, ...]] = []

    def body(self) -> Iterator[Widget]:
        """The table, and the filter under it."""
        yield Panel(1, "Runs", Table(id="table"), Static(id="empty", markup=False))
        yield Filter("filter: part of a name or a state", lambda: self.query_one("#table", Table))

    def begin(self) -> None:
        """Columns, and the first look."""
        from cfm_tui.console.listing import Listing
        from engine.store import runs_folder

        self.query_one("#table", Table).add_columns(*COLUMNS)
        self.host.runs = self.host.runs or runs_folder()
        self._listing = Listing(self.host.runs)
        self.look()
        if not self.host.read_only:  # what a launch needs takes seconds to load
            threading.Thread(target=_load, name="loading", daemon=True).start()

    def on_screen_resume(self) -> None:
        """What changed while another page was seen."""
        if self._listing is not None:
            self.look()

    def tick(self) -> None:
        """Look through the folder every few ticks."""
        if self._listing is not None and time.monotonic() - self._looked >= LOOK_SECONDS:
            self.look()

    def look(self) -> None:
        """Read what changed and show it."""
        assert self._listing is not None
        self._looked = time.monotonic()
        try:
            self._rows = self._listing.rows()
        except UserError as error:
            self.host.trouble(error)
        self._fill()

    # --- the table --------------------------------------------------------------------------------

    def _fill(self) -> None:
        found = [row for row in self._rows if self._text in f"{row.name} {row.state} {row.stage}".lower()]
        found.sort(key=lambda row: _key(row, self._column), reverse=self._turned)
        cells = [tuple(self._cells(row, self._is_here(row))) for row in found]
        table = self.query_one("#table", Table)
        if cells != self._shown:
            self._put(table, [str(row.folder) for row in found], cells)
        empty = self.query_one("#empty", Static)
        empty.display, table.display = not self._rows, bool(self._rows)
        if not self._rows:
            empty.update(EMPTY.format(folder=self.host.runs))
        live = sum(row.at_work for row in self._rows)
        order = f"by {COLUMNS[self._column]}{' ↓' if self._turned else ' ↑'}"
        chosen = f"{len(found)} of {len(self._rows)}" if self._text else f"{len(self._rows)}"
        self.query_one(Panel).say(f"Runs: {chosen}, {live} at work, {order}")
        self.say(str(self.host.runs))

    def _put(self, table: Table, names: list[str], cells: list[tuple[str | Text, ...]]) -> None:
        """Change the cells that changed; where rows came, went or moved, fill the table anew."""
        if [key.value for key in table.rows] == names and len(cells) == len(self._shown):
            for row, (before, now) in enumerate(zip(self._shown, cells, strict=True)):
                for column, value in enumerate(now):
                    if before[column] != value:
                        table.update_cell_at(Coordinate(row, column), value, update_width=True)
        else:
            chosen = self.chosen()
            table.clear()
            for name, values in zip(names, cells, strict=True):
                table.add_row(*values, key=name)
            if chosen is not None and str(chosen.folder) in names:
                table.move_cursor(row=names.index(str(chosen.folder)), animate=False)
        self._shown = list(cells)

    def _here(self) -> Path | None:
        session = self.host.session
        return session.folder if session is not None and session.live else None

    def _is_here(self, row: Row) -> bool:
        here = self._here()
        return here is not None and here.absolute() == row.folder.absolute()

    def _cells(self, row: Row, here: bool) -> list[str | Text]:
        mark = "* " if row.folder in self._marked else ""
        state = f"{row.state} here" if here else row.state
        done = "" if row.done is None or row.state == "finished" else f"{row.stage} {row.done:.0%}"
        return [
            mark + row.name,
            Text(state, style=_STYLES.get(row.state, "")),
            done or row.stage,
            _number(row.beta, "{:.3g}"),
            *(_number(value, "{:.1f}") for value in (row.last, row.best, row.control)),
            row.begun[5:16].replace("T", " "),
        ]

    def chosen(self) -> Row | None:
        """The run under the cursor."""
        table = self.query_one("#table", Table)
        if not table.row_count:
            return None
        name = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return next((row for row in self._rows if str(row.folder) == name), None)

    # --- what keys do -----------------------------------------------------------------------------

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        """Enter, or a click."""
        if (row := self.chosen()) is not None:
            self.post_message(OpenRun(row.folder))

    def action_filter(self) -> None:
        """Open the filter."""
        self.query_one(Filter).open()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self._text = event.value.strip().lower()
        self._fill()

    def action_sort(self) -> None:
        """By the next column."""
        self._column = (self._column + 1) % len(COLUMNS)
        self._fill()

    def action_turn(self) -> None:
        """The other way round."""
        self._turned = not self._turned
        self._fill()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a column's name sorts by it; another turns it round."""
        self._turned = not self._turned if self._column == event.column_index else True
        self._column = event.column_index
        self._fill()

    def action_mark(self) -> None:
        """Mark the run under the cursor, or take the mark away, and go down."""
        if (row := self.chosen()) is not None:
            self._marked ^= {row.folder}
            self._fill()
            self.query_one("#table", Table).action_cursor_down()

    def action_compare(self) -> None:
        """Show the marked runs beside each other."""
        there = [row.folder for row in self._rows if row.folder in self._marked]
        if len(there) < 2:
            self.notify("mark two runs or more with space first")
        else:
            self.post_message(CompareRuns(there))

    def action_images(self) -> None:
        """The images of the run under the cursor."""
        if (row := self.chosen()) is not None:
            self.post_message(OpenGallery(row.folder))

    def action_copy(self) -> None:
        """The folder of the run under the cursor, to the clipboard and on screen."""
        if (row := self.chosen()) is not None:
            self.app.copy_to_clipboard(str(row.folder.absolute()))
            self.notify(f"{row.folder.absolute()}", markup=False)

    def action_refresh(self) -> None:
        """Look at once."""
        self.look()

    def action_resume(self) -> None:
        """Ask where the run under the cursor is to go on."""
        row = self.chosen()
        if row is None or self.host.refused("resume"):
            return
        if row.at_work or row.state in ("finished", "damaged"):
            self.notify(f"{row.name} is {row.state}; there is nothing to go on with", severity="warning")
            return
        answers = [("here", "here, in this console"), ("detached", "detached: in a process of its own")]
        self.app.push_screen(
            Choice(f"Go on with {row.name}?", answers), lambda answer: self._resume(row, answer)
        )

    def _resume(self, row: Row, answer: str | None) -> None:
        if answer == "here":
            self.post_message(Launch(None, row.name, row.folder))
        elif answer == "detached":
            self.notify(f"{row.name}: starting a process that goes on with it", markup=False)
            self.work(_go_on, row.folder)

    def action_delete(self) -> None:
        """Ask, and delete the folder of the run under the cursor."""
        row = self.chosen()
        if row is None or self.host.refused("delete"):
            return
        if row.at_work or self._is_here(row):
            state = row.state if row.at_work else "at work here"
            self.notify(f"{row.name} is {state}; stop it first", severity="warning", markup=False)
            return
        answers = [("keep", "no, keep it"), ("delete", "delete the folder and all in it")]
        self.app.push_screen(
            Choice(f"Delete {row.folder}?", answers), lambda answer: self._delete(row, answer)
        )

    def _delete(self, row: Row, answer: str | None) -> None:
        if answer != "delete":
            return
        if self._is_here(row):  # begun meanwhile
            self.notify(f"{row.name} is at work here; stop it first", severity="warning", markup=False)
        else:
            self.work(self._remove, row.folder)

    def _remove(self, folder: Path) -> None:
        """On a thread: images of days take a while."""
        from engine.store import delete

        try:
            delete(folder)
        finally:
            self.back(self._removed, folder)

    def _removed(self, folder: Path) -> None:
        if not folder.exists():
            self._marked.discard(folder)
        self.look()


def _go_on(folder: Path) -> None:
    from cfm_tui.process.detach import detached

    detached(folder)


def _load() -> None:
    import engine.runs.launch  # noqa: F401

    gc.freeze()  # to look through all of torch for garbage takes half a second, in which no key is heard


_STYLES = {"failed": "bold", "lost": "bold", "damaged": "bold", "running": "bold", "finished": "dim"}


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _key(row: Row, column: int) -> tuple[bool, object]:
    """What a row is sorted by; rows without a value come last, or first when turned."""
    value = (row.name, row.state, row.done, row.beta, row.last, row.best, row.control, row.begun)[column]
    return value is not None, value if value is not None else 0
