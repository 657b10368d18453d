"""The page of sweeps: those of the runs folder, and the points of one as a grid of rows and columns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import DataTable

from cfm_tui.console.engine_link import OpenRun
from cfm_tui.console.screens.base import STATES, Page, Panel, PlainText, Table, state_style
from cfm_tui.console.screens.column_table import ColumnTable
from cfm_tui.console.screens.dialogs import Choice, Offer, Pick, Question, Reading
from engine.environment import expand_home
from engine.errors import UserError

if TYPE_CHECKING:
    from cfm_tui.console.sweeps import PointSummary, SweepListing, SweepSummary
    from engine.sweep.folder import PlannedSweep

LIST, GRID = 1, 2  #: the panels
FILE = "a YAML file"  #: the offer of a sweep that is not included


class SweepTable(ColumnTable):
    """The list of sweeps, whose footer says what Enter does."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "points", id="sweeps.points", tooltip="Go to the sweep's points"),
    ]


class PointGrid(Table):
    """The points of a sweep, whose footer says what Enter does."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "open", id="sweeps.open", tooltip="Open the point's monitor"),
    ]


class SweepsPage(Page):
    """The sweeps of the runs folder, to follow, open and continue."""

    TAB = "Sweeps"
    REFRESH_SECONDS = 2.0  #: interval of reading the sweeps
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "resume", "continue", id="sweeps.resume", tooltip="Run all unfinished points"),
        Binding(
            "b", "begin", "begin", id="sweeps.begin", tooltip="Begin a sweep: an included one, or a file"
        ),
        Binding("R", "retry", "retry failed", id="sweeps.retry", tooltip="Run only the points that failed"),
    ]
    DEFAULT_CSS = """
    SweepsPage #list { height: 6; }
    SweepsPage.-tall #list { height: 10; }
    SweepsPage #grid > .datatable--fixed { background: $background; color: $foreground; text-style: bold; }
    SweepsPage #legend { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._listing: SweepListing | None = None
        self._sweeps: list[SweepSummary] = []
        self._is_reading = False
        self._read_at = 0.0
        self._shown_grid: object = None

    def body(self) -> Iterator[Widget]:
        """Yield the list and the grid."""
        yield Panel(LIST, "Sweeps", SweepTable(id="sweeps"), PlainText(id="empty"), id="list")
        yield Panel(GRID, "Points", PointGrid(id="grid"), PlainText(id="legend", classes="hint"), id="points")

    def begin(self) -> None:
        """Start reading the sweeps."""
        from cfm_tui.console.sweeps import LEGEND, SweepListing
        from engine.store import runs_folder

        self.host.runs = self.host.runs or runs_folder()
        self._listing = SweepListing(self.host.runs)
        grid = self.query_one("#grid", Table)
        grid.cursor_type, grid.fixed_columns = "cell", 1
        self.query_one("#legend", PlainText).update(LEGEND)
        self.set_title(str(self.host.runs))
        self.tick()

    def tick(self) -> None:
        """Read the sweeps on a thread every `REFRESH_SECONDS`."""
        is_due = not self._read_at or time.monotonic() - self._read_at >= self.REFRESH_SECONDS
        if self._listing is not None and is_due and not self._is_reading:
            self._is_reading = True
            self.run_in_thread(self._read, self._listing)

    def _read(self, listing: SweepListing) -> None:
        try:
            sweeps = listing.read()
        except Exception:
            self.call_in_ui(self._show, self._sweeps)
            raise
        self.call_in_ui(self._show, sweeps)

    def _show(self, sweeps: list[SweepSummary]) -> None:
        from cfm_tui.console.sweeps import COLUMNS

        self._is_reading, self._read_at, self._sweeps = False, time.monotonic(), sweeps
        rows = [[Text(column.show(sweep)) for column in COLUMNS] for sweep in sweeps]
        for row, sweep in zip(rows, sweeps, strict=True):
            row[1] = Text(f"{STATES[sweep.state][1]} {sweep.state}", state_style(self, sweep.state))
        table, empty = self.query_one("#sweeps", ColumnTable), self.query_one("#empty", PlainText)
        table.display, empty.display = bool(sweeps), not sweeps
        table.show_rows(COLUMNS, [str(sweep.folder) for sweep in sweeps], rows)
        if not sweeps:
            empty.update(
                "No sweeps in this folder yet.\n\nb begins one, as `cfm sweep table2 --budget 0.1` does."
            )
        active = sum(sweep.is_active for sweep in sweeps)
        self.query_one("#list", Panel).set_title(f"Sweeps · {active} running · newest first")
        self._fill_grid()

    # --- the grid ---------------------------------------------------------------------------------

    def find_chosen(self) -> SweepSummary | None:
        """Return the sweep under the cursor."""
        key = self.query_one("#sweeps", ColumnTable).current_key
        return next((sweep for sweep in self._sweeps if str(sweep.folder) == key), None)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show the grid of the sweep under the cursor."""
        if event.data_table.id == "sweeps":
            self._fill_grid()

    def _fill_grid(self) -> None:
        from cfm_tui.console.sweeps import format_cell, shorten_columns

        sweep = self.find_chosen()
        panel, grid = self.query_one("#points", Panel), self.query_one("#grid", Table)
        if sweep is None:
            panel.set_title("Points")
            grid.clear(columns=True)
            self._shown_grid = None
            return
        shared, names = shorten_columns(sweep.columns())
        rows = [
            [row or "points", *(format_cell(sweep.find_points(row, column)) for column in sweep.columns())]
            for row in sweep.rows()
        ]
        panel.set_title(" · ".join(filter(None, [sweep.name, shared, sweep.problem])))
        if (sweep.folder, names, rows) == self._shown_grid:
            return
        is_same = isinstance(self._shown_grid, tuple) and self._shown_grid[0] == sweep.folder
        cursor = grid.cursor_coordinate
        self._shown_grid = sweep.folder, names, rows
        grid.clear(columns=True)
        for column in zip(("", *names), *rows, strict=True):  # Textual computes widths too late
            grid.add_column(Text(column[0]), width=max(map(cell_len, column)))
        for cells in rows:
            grid.add_row(*map(self._style_cell, cells))
        grid.move_cursor(
            row=cursor.row if is_same else 0, column=max(cursor.column, 1) if is_same else 1, animate=False
        )

    def _style_cell(self, text: str) -> Text:
        """Return a cell with the colours of states: of a failed point's mark and a running point's bar."""
        cell = Text()
        for word in text.split(" "):
            state = "failed" if "✗" in word else "running" if "░" in word or "%" in word else ""
            cell.append(" " if cell else "").append(word, state_style(self, state) if state else "")
        return cell

    def find_points(self) -> Sequence[PointSummary]:
        """Return the points in the cell under the cursor."""
        sweep, grid = self.find_chosen(), self.query_one("#grid", Table)
        row, column = grid.cursor_coordinate
        if sweep is None or not grid.row_count or column < 1:
            return ()
        return sweep.find_points(sweep.rows()[row], sweep.columns()[column - 1])

    # --- what keys do -----------------------------------------------------------------------------

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        """Go from a sweep to its grid."""
        self.action_panel(GRID)

    def on_data_table_cell_selected(self, _: DataTable.CellSelected) -> None:
        """Open the point under the cursor; ask which where the cell has several seeds."""
        self.action_open()

    def action_open(self) -> None:
        """Open the monitor of a point under the cursor."""
        points = self.find_points()
        if len(points) == 1:
            self._open(points[0])
        elif points:
            offers = [Offer(point.name, point.state) for point in points]
            by_name = {point.name: point for point in points}

            def open_chosen(name: str | None) -> None:
                if name is not None:
                    self._open(by_name[name])

            self.app.push_screen(Pick("Open", offers), open_chosen)

    def _open(self, point: PointSummary) -> None:
        from engine.store import is_run

        if is_run(point.folder):
            self.post_message(OpenRun(point.folder))
        else:
            self.notify(f"not started yet: {point.name}")

    def action_begin(self) -> None:
        """Ask for a sweep and its options, show what it would compute, and start it in a separate process."""
        from cfm_tui.console.sweeps import list_included

        if self.host.refuse_if_read_only("begin a sweep"):
            return
        offers = [Offer(FILE, "described by yourself; see docs/sweeps.md")]
        offers += [Offer(name, description) for name, description in list_included()]
        self.app.push_screen(Pick("Begin which sweep?", offers), self._ask_file)

    def _ask_file(self, name: str | None) -> None:
        if name == FILE:
            self.app.push_screen(Question("The sweep's YAML file:"), self._ask_options)
        else:
            self._ask_options(name)

    def _ask_options(self, target: str | None, text: str = "budget=1") -> None:
        if target is not None and target.strip():
            target = target.strip()
            question = f"{target}: budget is the fraction of epochs and iterations to run.\n"
            question += "Add dataset=A,B backbone=A,B ipc=A,B to select columns, or any KEY=VALUE."
            answer = partial(self._plan, target)
            self.app.push_screen(Question(question, text), answer)

    def _plan(self, target: str, text: str | None) -> None:
        if text is not None:
            self.notify(f"{target}: checking its points …")
            self.run_in_thread(self._examine, target, text)

    def _examine(self, target: str, text: str) -> None:
        """On a thread: find out what a sweep would compute and whether it can, and ask to start it."""
        from cfm_tui.console.sweeps import describe_plan, find_problem, parse_options
        from engine.sweep.folder import plan_sweep

        assert self.host.runs is not None
        try:
            planned = plan_sweep(str(expand_home(target)), parse_options(text), self.host.runs)
        except UserError as error:
            self.call_in_ui(self._refuse, target, "", error)
            return
        problem = find_problem(planned)
        if problem is None:
            self.call_in_ui(self._confirm, planned, describe_plan(planned))
        else:
            self.call_in_ui(self._refuse, target, describe_plan(planned), problem)

    def _refuse(self, target: str, plan: str, problem: UserError) -> None:
        """Show why a sweep cannot begin."""
        text = f"{problem.message}\n→ {problem.hint}"
        self.app.push_screen(Reading(f"{target} cannot begin", f"{plan}\n\n{text}" if plan else text))

    def _confirm(self, planned: PlannedSweep, plan: str) -> None:
        answers = [("start", "start: run the points in a separate process"), ("no", "no, leave it")]

        def start(answer: str | None) -> None:
            if answer == "start":
                self.run_in_thread(self._create, planned)

        self.app.push_screen(Choice(f"{planned.folder.name}\n{plan}", answers), start)

    def _create(self, planned: PlannedSweep) -> None:
        """On a thread: write the sweep's folder, and start the process that runs its points."""
        from cfm_tui.process.detach import start_sweep

        planned.create()
        self._read_at = 0.0  # so that it is listed at once
        start_sweep(planned.folder, failed_only=False)

    def action_resume(self) -> None:
        """Run the points of the sweep that are not finished, in a separate process."""
        sweep = self._find_startable("continue a sweep")
        if sweep is not None and sweep.state == "finished":
            self.notify(f"{sweep.name} is finished; there is nothing to continue", severity="warning")
        elif sweep is not None:
            self._start(sweep, failed_only=False)

    def action_retry(self) -> None:
        """Run the points of the sweep that failed, in a separate process."""
        sweep = self._find_startable("retry points")
        if sweep is not None and not sweep.count("failed"):
            self.notify(f"no point of {sweep.name} has failed", severity="warning")
        elif sweep is not None:
            self._start(sweep, failed_only=True)

    def _find_startable(self, what: str) -> SweepSummary | None:
        """Return the sweep under the cursor if a process for it may be started; otherwise say why not."""
        sweep = self.find_chosen()
        if sweep is None or self.host.refuse_if_read_only(what):
            return None
        if sweep.problem:
            self.notify(sweep.problem, severity="error")
            return None
        if sweep.is_active:
            self.notify(f"{sweep.name} is running; `cfm sweep` does one thing at a time", severity="warning")
            return None
        return sweep

    def _start(self, sweep: SweepSummary, *, failed_only: bool) -> None:
        from cfm_tui.process.detach import start_sweep

        self.notify(f"{sweep.name}: starting a process that runs its points")
        self.run_in_thread(lambda: start_sweep(sweep.folder, failed_only=failed_only))
