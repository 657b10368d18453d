"""The start page: a table of all runs, from which every other page is opened."""

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
from textual.widgets import DataTable, Input

from cfm_tui.console.engine_link import CompareRuns, Launch, OpenGallery, OpenRun, hidden
from cfm_tui.console.screens.base import FilterLine, Page, Panel, PlainText, Table
from cfm_tui.console.screens.dialogs import Choice
from engine.errors import UserError

if TYPE_CHECKING:  # imported after the page is drawn, so that the console starts fast
    from cfm_tui.console.listing import Listing, Row


class RunsPage(Page):
    """All runs of a folder, to filter, sort, open, compare, resume and delete."""

    TAB = "Runs"
    REFRESH_SECONDS = 2.0  #: interval of reading the runs' folder
    COLUMNS = ("run", "state", "done", "β", "last", "best", "random", "begun")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter", id="runs.filter", tooltip="Filter runs by name or state"),
        Binding("s", "sort", "sort", id="runs.sort", tooltip="Sort by the next column"),
        hidden("S", "turn", "turn", id="runs.turn", tooltip="Reverse the sort order"),
        Binding("space", "mark", "mark", id="runs.mark", tooltip="Mark a run for comparison"),
        Binding("x", "compare", "compare", id="runs.compare", tooltip="Compare the marked runs"),
        Binding("i", "images", "images", id="runs.images", tooltip="The run's distilled images"),
        Binding("o", "resume", "resume", id="runs.resume", tooltip="Resume a run that was stopped or lost"),
        hidden("d", "delete", "delete", id="runs.delete", tooltip="Delete the run's folder"),
        hidden("c", "copy", "copy path", id="runs.copy", tooltip="Copy the run's folder to the clipboard"),
        hidden("r", "refresh", "refresh", id="runs.look"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._listing: Listing | None = None
        self._rows: list[Row] = []
        self._marked: set[Path] = set()
        self._read_at = 0.0
        self._filter_text = ""
        self._column, self._descending = len(self.COLUMNS) - 1, True
        self._shown: list[tuple[object, ...]] = []

    def body(self) -> Iterator[Widget]:
        """Yield the table and the filter."""
        yield Panel(1, "Runs", Table(id="table"), PlainText(id="empty"))
        yield FilterLine("filter: part of a name or a state", lambda: self.query_one("#table", Table))

    def begin(self) -> None:
        """Add the columns, read the runs, and import in the background what a launch needs."""
        from cfm_tui.console.listing import Listing
        from engine.store import runs_folder

        self.query_one("#table", Table).add_columns(*self.COLUMNS)
        self.host.runs = self.host.runs or runs_folder()
        self._listing = Listing(self.host.runs)
        self.update_rows()
        if not self.host.read_only:  # importing the engine takes seconds
            threading.Thread(target=_import_engine, name="loading", daemon=True).start()

    def on_screen_resume(self) -> None:
        """Show what changed while another page was visible."""
        if self._listing is not None:
            self.update_rows()

    def tick(self) -> None:
        """Read the runs' folder every `REFRESH_SECONDS`."""
        if self._listing is not None and time.monotonic() - self._read_at >= self.REFRESH_SECONDS:
            self.update_rows()

    def update_rows(self) -> None:
        """Read the runs that changed, and show them."""
        assert self._listing is not None
        self._read_at = time.monotonic()
        try:
            self._rows = self._listing.read_rows()
        except UserError as error:
            self.host.report_error(error)
        self._fill()

    # --- the table --------------------------------------------------------------------------------

    def _fill(self) -> None:
        wanted = self._filter_text
        rows = [row for row in self._rows if wanted in f"{row.name} {row.state} {row.stage}".lower()]

        def sort_key(row: Row) -> tuple[bool, object]:
            """Sort rows without a value first, or last if descending."""
            numbers = row.done, row.beta, row.last, row.best, row.control
            value = (row.name, row.state, *numbers, row.begun)[self._column]
            return value is not None, value if value is not None else 0

        rows.sort(key=sort_key, reverse=self._descending)
        cells = [tuple(self._cells(row, self._is_here(row))) for row in rows]
        table = self.query_one("#table", Table)
        if cells != self._shown:
            self._put(table, [str(row.folder) for row in rows], cells)
        empty = self.query_one("#empty", PlainText)
        empty.display, table.display = not self._rows, bool(self._rows)
        if not self._rows:
            keys = "n  configure a run      ?  show the keys      q  quit"
            empty.update(f"No runs in {self.host.runs} yet.\n\n{keys}")
        active = sum(row.at_work for row in self._rows)
        order = f"by {self.COLUMNS[self._column]}{' ↓' if self._descending else ' ↑'}"
        count = f"{len(rows)} of {len(self._rows)}" if self._filter_text else f"{len(self._rows)}"
        self.query_one(Panel).set_title(f"Runs: {count}, {active} running, {order}")
        self.set_title(str(self.host.runs))

    def _put(self, table: Table, names: list[str], cells: list[tuple[str | Text, ...]]) -> None:
        """Update the changed cells; refill the table if rows were added, removed or moved."""
        if [key.value for key in table.rows] == names and len(cells) == len(self._shown):
            for row, (before, now) in enumerate(zip(self._shown, cells, strict=True)):
                for column, value in enumerate(now):
                    if before[column] != value:
                        table.update_cell_at(Coordinate(row, column), value, update_width=True)
        else:
            chosen = self.find_chosen()
            table.clear()
            for name, values in zip(names, cells, strict=True):
                table.add_row(*values, key=name)
            if chosen is not None and str(chosen.folder) in names:
                table.move_cursor(row=names.index(str(chosen.folder)), animate=False)
        self._shown = list(cells)

    def _is_here(self, row: Row) -> bool:
        """Return whether this process computes the run."""
        session = self.host.session
        folder = session.folder if session is not None and session.live else None
        return folder is not None and folder.absolute() == row.folder.absolute()

    def _cells(self, row: Row, here: bool) -> list[str | Text]:
        mark = "* " if row.folder in self._marked else ""
        state = f"{row.state} here" if here else row.state
        emphasis = {"finished": "dim"} | dict.fromkeys(
            ("failed", "lost", "damaged", "newer", "running"), "bold"
        )
        accuracies = ("" if value is None else f"{value:.1f}" for value in (row.last, row.best, row.control))
        progress = "" if row.done is None or row.state == "finished" else f"{row.stage} {row.done:.0%}"
        return [
            mark + row.name,
            Text(state, style=emphasis.get(row.state, "")),
            progress or row.stage,
            "" if row.beta is None else f"{row.beta:.3g}",
            *accuracies,
            row.begun[5:16].replace("T", " "),
        ]

    def find_chosen(self) -> Row | None:
        """Return the run under the cursor."""
        table = self.query_one("#table", Table)
        if not table.row_count:
            return None
        name = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return next((row for row in self._rows if str(row.folder) == name), None)

    # --- what keys do -----------------------------------------------------------------------------

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        """Open the run on Enter or a click."""
        if (row := self.find_chosen()) is not None:
            self.post_message(OpenRun(row.folder))

    def action_filter(self) -> None:
        """Open the filter."""
        self.query_one(FilterLine).open()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while the user types."""
        self._filter_text = event.value.strip().lower()
        self._fill()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._column = (self._column + 1) % len(self.COLUMNS)
        self._fill()

    def action_turn(self) -> None:
        """Reverse the sort order."""
        self._descending = not self._descending
        self._fill()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the clicked column; a second click reverses the order."""
        self._descending = not self._descending if self._column == event.column_index else True
        self._column = event.column_index
        self._fill()

    def action_mark(self) -> None:
        """Mark or unmark the run under the cursor, and move down."""
        if (row := self.find_chosen()) is not None:
            self._marked ^= {row.folder}
            self._fill()
            self.query_one("#table", Table).action_cursor_down()

    def action_compare(self) -> None:
        """Compare the marked runs."""
        marked = [row.folder for row in self._rows if row.folder in self._marked]
        if len(marked) < 2:
            self.notify("mark two runs or more with space first")
        else:
            self.post_message(CompareRuns(marked))

    def action_images(self) -> None:
        """Open the gallery of the run under the cursor."""
        if (row := self.find_chosen()) is not None:
            self.post_message(OpenGallery(row.folder))

    def action_copy(self) -> None:
        """Copy the folder of the run under the cursor to the clipboard, and show it."""
        if (row := self.find_chosen()) is not None:
            self.app.copy_to_clipboard(str(row.folder.absolute()))
            self.notify(f"{row.folder.absolute()}")

    def action_refresh(self) -> None:
        """Read the runs' folder now."""
        self.update_rows()

    def action_resume(self) -> None:
        """Ask where to resume the run under the cursor."""
        row = self.find_chosen()
        if row is None or self.host.refuse_if_read_only("resume"):
            return
        if row.at_work or row.state in ("finished", "damaged", "newer"):
            self.notify(f"{row.name} is {row.state}; there is nothing to resume", severity="warning")
            return
        answers = [("here", "here, in this console"), ("detached", "detached, in a separate process")]
        self.app.push_screen(Choice(f"Resume {row.name}?", answers), lambda answer: self._resume(row, answer))

    def _resume(self, row: Row, answer: str | None) -> None:
        from cfm_tui.process.detach import start_detached

        if answer == "here":
            self.post_message(Launch(None, row.name, row.folder))
        elif answer == "detached":
            self.notify(f"{row.name}: starting a process that resumes it")
            self.run_in_thread(start_detached, row.folder)  # it takes a while to start

    def action_delete(self) -> None:
        """Ask, and delete the folder of the run under the cursor."""
        row = self.find_chosen()
        if row is None or self.host.refuse_if_read_only("delete"):
            return
        if self._refuse_active(row):
            return
        answers = [("keep", "no, keep it"), ("delete", "delete the folder and all in it")]
        question = Choice(f"Delete {row.folder}?", answers)

        def delete(answer: str | None) -> None:
            if answer == "delete" and not self._refuse_active(row):  # it may have been resumed meanwhile
                self.run_in_thread(self._remove, row.folder)

        self.app.push_screen(question, delete)

    def _refuse_active(self, row: Row) -> bool:
        """Return whether a run is active, and notify the user if it is."""
        active = row.at_work or self._is_here(row)
        if active:
            state = row.state if row.at_work else "running here"
            self.notify(f"{row.name} is {state}; stop it first", severity="warning")
        return active

    def _remove(self, folder: Path) -> None:
        """Delete a run; runs on a thread, since many images take a while."""
        from engine.store import delete_run

        def show_removal() -> None:
            if not folder.exists():
                self._marked.discard(folder)
            self.update_rows()

        try:
            delete_run(folder)
        finally:
            self.call_in_ui(show_removal)


def _import_engine() -> None:
    import engine.runs.launch  # noqa: F401

    gc.freeze()  # collecting all of torch takes half a second, during which keys are ignored
