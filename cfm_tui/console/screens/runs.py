"""The start page: a table of all runs, from which every other page is opened."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.widget import Widget
from textual.widgets import DataTable, Input

from cfm_tui.console.columns import Column, sort_rows
from cfm_tui.console.engine_link import CompareRuns, OpenGallery, OpenRun, hidden
from cfm_tui.console.screens.base import STATES, FilterLine, Page, Panel, PlainText, state_style
from cfm_tui.console.screens.column_table import ColumnTable
from cfm_tui.console.screens.dialogs import Choice, Offer, Pick, Question
from cfm_tui.console.screens.resume import ask_to_resume
from cfm_tui.console.widgets.images import Thumbnails
from cfm_tui.display.streams import escape_control_characters
from engine.errors import UserError
from engine.store import RunFile

if TYPE_CHECKING:  # imported after the page is drawn, so that the console starts fast
    from cfm_tui.console.listing import Listing
    from cfm_tui.console.pictures import Sample
    from cfm_tui.display.run_query import Query
    from cfm_tui.display.run_summary import RunSummary


ALL_RUNS = "all runs"  #: the offer that clears the query
NEWEST = "age"  #: the column by which runs are sorted at first
PREVIEW_LEAST = 120  #: columns of a terminal that has a preview beside the list, at least
PREVIEW_IMAGES = 24


class RunsTable(ColumnTable):
    """The table of runs, whose footer says what Enter does."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "open", id="runs.open", tooltip="Open the run's monitor"),
    ]


class RunsPage(Page):
    """All runs of a folder, to query, sort, open, compare, resume and delete, with a preview of one."""

    TAB = "Runs"
    REFRESH_SECONDS = 2.0  #: interval of reading the runs' folder
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "query", "query", id="runs.filter", tooltip="Show the runs that match a query"),
        Binding("s", "sort", "sort", id="runs.sort", tooltip="Sort by the next column"),
        hidden("S", "turn", "reverse order", id="runs.turn", tooltip="Reverse the sort order"),
        Binding("space", "mark", "mark", id="runs.mark", tooltip="Mark a run for comparison"),
        Binding("x", "compare", "compare", id="runs.compare", tooltip="Compare the marked runs"),
        Binding("i", "images", "images", id="runs.images", tooltip="The run's distilled images"),
        Binding("o", "resume", "resume", id="runs.resume", tooltip="Resume a run that was stopped or lost"),
        Binding("Q", "queries", "queries", id="runs.queries", tooltip="Choose a saved query"),
        hidden("w", "save_query", "save query", id="runs.save_query", tooltip="Save the query under a name"),
        hidden("d", "delete", "delete", id="runs.delete", tooltip="Delete the run's folder"),
        hidden("c", "copy", "copy path", id="runs.copy", tooltip="Copy the run's folder to the clipboard"),
        hidden("r", "refresh", "refresh", id="runs.look", tooltip="Read the folder of runs now"),
        hidden("escape", "clear_query", "all runs", id="runs.clear", tooltip="Clear the query"),
    ]
    DEFAULT_CSS = """
    RunsPage #preview { display: none; width: 46; margin-left: 1; }
    RunsPage.-huge #preview { width: 54; }
    RunsPage.-preview #preview { display: block; }
    RunsPage #about { height: auto; padding: 0 1; }
    RunsPage #images { height: 1fr; margin: 1 1 0 1; }
    RunsPage #query { height: auto; layout: vertical; }
    RunsPage #problem { padding: 0 1; }
    RunsPage.-wide #query, RunsPage.-huge #query { layout: horizontal; }
    RunsPage.-wide FilterLine, RunsPage.-huge FilterLine { width: 2fr; }
    RunsPage.-wide #problem, RunsPage.-huge #problem { width: 3fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._listing: Listing | None = None
        self._columns: Sequence[Column[RunSummary]] = ()
        self._runs: list[RunSummary] = []
        self._listed: list[RunSummary] = []
        self._marked: list[Path] = []  # in the order in which they were marked
        self._read_at = 0.0
        self._query: Query | None = None
        self._sorted_by, self._descending = NEWEST, True
        self._previewed: RunSummary | None = None
        self._is_previewing = False

    def body(self) -> Iterator[Widget]:
        """Yield the table, the preview and the query."""
        with Horizontal(classes="columns holder"):
            yield Panel(1, "Runs", RunsTable(id="table"), PlainText(id="empty"))
            yield Panel(2, "Preview", PlainText(id="about"), Thumbnails(id="images"), id="preview")
        with Container(id="query"):
            yield FilterLine(
                "query: part of a name, data=cifar10 ipc>=10 acc>50 state=running",
                lambda: self.query_one("#table", ColumnTable),
            )
            yield PlainText(id="problem", classes="error")

    def begin(self) -> None:
        """Read the runs, and import in the background what a launch needs."""
        from cfm_tui.console.listing import COLUMNS, Listing
        from engine.store import runs_folder

        self._columns = COLUMNS
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
            self._runs = self._listing.read()
        except UserError as error:
            self.host.report_error(error)
        self._fill()

    # --- the table --------------------------------------------------------------------------------

    def _fill(self) -> None:
        runs = [run for run in self._runs if self._query is None or self._query.matches(run)]
        column = next(each for each in self._columns if each.name == self._sorted_by)
        self._listed = sort_rows(runs, column, descending=self._descending)
        table = self.query_one("#table", ColumnTable)
        arrow = " ↓" if self._descending else " ↑"
        headings = [
            each.name + (arrow if each is column and each.name != NEWEST else "") for each in self._columns
        ]
        keys = [str(run.folder) for run in self._listed]
        table.show_rows(self._columns, keys, [self._build_cells(run) for run in self._listed], headings)
        empty = self.query_one("#empty", PlainText)
        empty.display, table.display = not self._listed, bool(self._listed)
        if not self._runs:
            keys_text = "n  configure a run      ?  show the keys      q  quit"
            empty.update(f"No runs in {self.host.runs} yet.\n\n{keys_text}")
        elif not self._listed:
            empty.update("No run matches the query.\n\n/  change it      Esc  clear it")
        self.query_one(Panel).set_title(self._describe_list())
        self.set_title(str(self.host.runs))
        self._update_preview()

    def _describe_list(self) -> str:
        """Return the title of the list: how many runs, how many of them are active, and their order."""
        active = sum(run.is_active for run in self._runs)
        total = len(self._runs)
        count = [] if len(self._listed) == total else [f"{len(self._listed)} of {total}"]
        order = f"by {self._sorted_by} {'↓' if self._descending else '↑'}"
        if self._sorted_by == NEWEST:
            order = "newest first" if self._descending else "oldest first"
        return " · ".join(["Runs", *count, f"{active} running", order])

    def _is_here(self, run: RunSummary) -> bool:
        """Return whether this process computes the run."""
        session = self.host.session
        folder = session.folder if session is not None and session.live else None
        return folder is not None and folder.absolute() == run.folder.absolute()

    def _build_cells(self, run: RunSummary) -> list[Text]:
        """Return the cells of a run for all columns."""
        from cfm_tui.console.listing import VERDICTS

        cells = {column.name: Text(column.show(run)) for column in self._columns}
        if run.folder in self._marked:
            cells["run"] = Text(f"* {run.name}", "bold")
        cells["state"] = self._format_state(run)
        if run.verdict in VERDICTS and run.verdict != "not shown":
            colour = self.app.theme_variables[VERDICTS[run.verdict][1]]
            cells["Δ"].style = "bold" if colour.startswith("ansi_") else f"bold {colour}"
        return list(cells.values())

    def _format_state(self, run: RunSummary) -> Text:
        mark = f"{STATES[run.state][1]} " if run.state in STATES else ""
        here = " here" if self._is_here(run) else ""
        return Text(f"{mark}{run.state}{here}", state_style(self, run.state))

    def find_chosen(self) -> RunSummary | None:
        """Return the run under the cursor."""
        key = self.query_one("#table", ColumnTable).current_key
        return next((run for run in self._runs if str(run.folder) == key), None)

    # --- the preview ------------------------------------------------------------------------------

    def _arrange(self) -> None:
        """Show the preview where there is room for it beside the list."""
        self.set_class(self.app.size.width >= PREVIEW_LEAST, "-preview")
        super()._arrange()
        self.call_after_refresh(self._update_preview)

    def on_data_table_row_highlighted(self, _: DataTable.RowHighlighted) -> None:
        """Show the preview of the run under the cursor."""
        self._update_preview()

    def _update_preview(self) -> None:
        """Read what the preview shows on a thread, if it is visible and shows something else."""
        run = self.find_chosen()
        if self._is_previewing or run == self._previewed or not self.has_class("-preview"):
            return
        if run is None:
            self._previewed = None
            self.query_one("#about", PlainText).update("")
            self.query_one("#images", Thumbnails).show_images([], [], 1)
            return
        self._is_previewing = True
        width = max(self.query_one("#preview").size.width - 2, 20)
        self.run_in_thread(self._read_preview, run, width)

    def _read_preview(self, run: RunSummary, width: int) -> None:
        from cfm_tui.console.pictures import Sample
        from cfm_tui.console.preview import describe_preview

        try:
            lines = describe_preview(run, width)
            sample = Sample.read(run.folder / RunFile.IMAGES, PREVIEW_IMAGES)
        except Exception:
            self.call_in_ui(self._show_preview, run, ["no preview: the run's files are unreadable"], None)
            raise
        self.call_in_ui(self._show_preview, run, lines, sample)

    def _show_preview(self, run: RunSummary, lines: Sequence[str], sample: Sample | None) -> None:
        self._is_previewing, self._previewed = False, run
        head = Text(f"{escape_control_characters(run.name)}\n", "bold").append_text(self._format_state(run))
        about = Text.assemble(head, "\n", escape_control_characters("\n".join(lines)))
        self.query_one("#about", PlainText).update(about)
        images = self.query_one("#images", Thumbnails)

        def show_images() -> None:
            if sample is None:
                images.show_images([], [], 1)
            else:
                images.show_widest(sample.images, sample.names)

        self.call_after_refresh(show_images)  # the text above may need another number of lines
        self._update_preview()

    # --- what keys do -----------------------------------------------------------------------------

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        """Open the run on Enter or a click."""
        if (run := self.find_chosen()) is not None:
            self.post_message(OpenRun(run.folder))

    def action_query(self) -> None:
        """Open the query line."""
        self.query_one(FilterLine).open()

    def action_clear_query(self) -> None:
        """Show all runs again."""
        self.query_one(FilterLine).set_text("")
        self.action_panel(1)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Apply the query while the user types; an invalid one leaves the last valid one in effect."""
        from cfm_tui.display.run_query import parse

        problem = ""
        try:
            self._query = parse(event.value) if event.value.strip() else None
        except UserError as error:
            problem = f"{error.message.removeprefix(f'query {event.value!r}, ')} → {error.hint}"
        self.query_one("#problem", PlainText).update(problem)
        self._fill()

    def action_queries(self) -> None:
        """Offer the saved queries."""
        queries = self.host.preferences.queries
        if not queries:
            self.notify("no query is saved: / opens the query line, w saves what it has")
            return
        offers = [Offer(ALL_RUNS, "no query"), *(Offer(name, text) for name, text in queries.items())]
        current = next((name for name, text in queries.items() if text == self._query_text()), ALL_RUNS)
        self.app.push_screen(Pick("Show", offers, current), self._use_saved)

    def _use_saved(self, name: str | None) -> None:
        if name is not None:
            self.use_query(self.host.preferences.queries.get(name, ""))

    def use_query(self, text: str) -> None:
        """Show the runs that match a query."""
        self.query_one(FilterLine).set_text(text)
        self.action_panel(1)

    def _query_text(self) -> str:
        return "" if self._query is None else self._query.text.strip()

    def action_save_query(self) -> None:
        """Ask for a name, and save the query in the preferences."""
        text = self._query_text()
        if not text:
            self.notify("there is no query to save: / opens the query line")
            return

        def save(name: str | None) -> None:
            if name and name.strip():
                self.host.save_query(name.strip(), text)

        self.app.push_screen(Question(f"Save the query {text} as", text), save)

    def action_sort(self) -> None:
        """Sort by the next visible column."""
        visible = [self._columns[each.position].name for each in self.query_one("#table", ColumnTable).fitted]
        at = visible.index(self._sorted_by) if self._sorted_by in visible else -1
        if visible:
            self._sort(visible[(at + 1) % len(visible)])

    def _sort(self, name: str) -> None:
        """Sort by a column, or reverse the order if runs are sorted by it; numbers descend at first."""
        is_same = name == self._sorted_by
        column = next(each for each in self._columns if each.name == name)
        self._descending = not self._descending if is_same else column.numeric
        self._sorted_by = name
        self._fill()

    def action_turn(self) -> None:
        """Reverse the sort order."""
        self._sort(self._sorted_by)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the clicked column; a second click reverses the order."""
        fitted = self.query_one("#table", ColumnTable).fitted
        self._sort(self._columns[fitted[event.column_index].position].name)

    def action_mark(self) -> None:
        """Mark or unmark the run under the cursor, and move down."""
        if (run := self.find_chosen()) is not None:
            if run.folder in self._marked:
                self._marked.remove(run.folder)
            else:
                self._marked.append(run.folder)
            self._fill()
            self.query_one("#table", ColumnTable).action_cursor_down()

    def action_compare(self) -> None:
        """Compare the marked runs, with the one that was marked first as the reference."""
        listed = {run.folder for run in self._runs}
        marked = [folder for folder in self._marked if folder in listed]
        if len(marked) < 2:
            self.notify("mark two runs or more with space first")
        else:
            self.post_message(CompareRuns(marked))

    def action_images(self) -> None:
        """Open the gallery of the run under the cursor."""
        if (run := self.find_chosen()) is not None:
            self.post_message(OpenGallery(run.folder))

    def action_copy(self) -> None:
        """Copy the folder of the run under the cursor to the clipboard, and show it."""
        if (run := self.find_chosen()) is not None:
            self.app.copy_to_clipboard(str(run.folder.absolute()))
            self.notify(f"{run.folder.absolute()}")

    def action_refresh(self) -> None:
        """Read the runs' folder now."""
        self.update_rows()

    def action_resume(self) -> None:
        """Ask where to resume the run under the cursor."""
        run = self.find_chosen()
        if run is None or self.host.refuse_if_read_only("resume"):
            return
        if run.is_active or run.state in ("finished", "damaged", "newer"):
            self.notify(f"{run.name} is {run.state}; there is nothing to resume", severity="warning")
            return
        ask_to_resume(self, run.folder)

    def action_delete(self) -> None:
        """Ask, and delete the folder of the run under the cursor."""
        run = self.find_chosen()
        if run is None or self.host.refuse_if_read_only("delete"):
            return
        if self._refuse_active(run):
            return
        answers = [("keep", "no, keep it"), ("delete", "delete the folder and all in it")]
        question = Choice(f"Delete {run.folder}?", answers)

        def delete(answer: str | None) -> None:
            if answer == "delete" and not self._refuse_active(run):  # it may have been resumed meanwhile
                self.run_in_thread(self._remove, run.folder)

        self.app.push_screen(question, delete)

    def _refuse_active(self, run: RunSummary) -> bool:
        """Return whether a run is active, and notify the user if it is."""
        active = run.is_active or self._is_here(run)
        if active:
            state = run.state if run.is_active else "running here"
            self.notify(f"{run.name} is {state}; stop it first", severity="warning")
        return active

    def _remove(self, folder: Path) -> None:
        """Delete a run; runs on a thread, since many images take a while."""
        from engine.store import delete_run

        def show_removal() -> None:
            if folder in self._marked and not folder.exists():
                self._marked.remove(folder)
            self.update_rows()

        try:
            delete_run(folder)
        finally:
            self.call_in_ui(show_removal)


def _import_engine() -> None:
    import engine.runs.launch  # noqa: F401

    gc.freeze()  # collecting all of torch takes half a second, during which keys are ignored
