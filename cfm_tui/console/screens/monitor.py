"""The monitor page: a run's stages, losses, layers, images and log, and keys that control the run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from rich.cells import cell_len
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.coordinate import Coordinate
from textual.errors import NoWidget
from textual.events import Resize
from textual.widget import Widget
from textual.widgets import DataTable, RichLog

from cfm_tui.console import formatting
from cfm_tui.console.engine_link import OpenGallery, hidden
from cfm_tui.console.pictures import Sample
from cfm_tui.console.screens.base import Page, Panel, PlainText, Table, show_plainly
from cfm_tui.console.screens.dialogs import Choice
from cfm_tui.console.screens.layer import LayerPage
from cfm_tui.console.session import Session
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.console.widgets.images import Thumbnails
from cfm_tui.display import plot_data
from cfm_tui.display.run_state import LogLine, RunModel
from cfm_tui.display.terminal import Terminal
from engine.errors import UserError
from engine.events import STAGES, Stage
from engine.runs.results import format_mean_std
from engine.store import AT_WORK, RunFile, StoredRun, control
from engine.store.control import Command
from engine.store.preview import Preview

NOW, LOSSES, LAYERS, IMAGES, LOG = range(1, 6)  #: the panels
_ALL = frozenset((NOW, LOSSES, LAYERS, IMAGES, LOG))
View = Literal["recovery", "accuracy", "loss"]  #: what panels 2 and 3 show


class MonitorPage(Page):
    """One run, computed by this process or another, active or finished.

    folder: the run's folder; None if a new session has not created it yet. session: computes the run in
    this process; None for any other run.
    """

    HEADING = "run"
    AUTO_FOCUS = ""  # a small terminal shows the first panel, which has nothing to focus
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "pause", id="monitor.pause", tooltip="Pause the run, or continue it"),
        Binding("w", "checkpoint", "save", id="monitor.checkpoint", tooltip="Write a checkpoint now"),
        Binding("S", "stop", "stop", id="monitor.stop", tooltip="Stop the run; it can be resumed"),
        Binding("D", "detach", "detach", id="monitor.detach", tooltip="Hand the run to a separate process"),
        Binding("v", "view", "view", id="monitor.view", tooltip="Show recovery or training curves"),
        hidden("s", "sort", "sort", id="monitor.sort", tooltip="Sort by the next column"),
        Binding("i", "images", "images", id="monitor.images", tooltip="The distilled images so far"),
    ]

    def __init__(self, folder: Path | None, session: Session | None = None) -> None:
        super().__init__()
        self._folder, self._session = folder, session
        self._opened_at = time.monotonic()
        self._model: RunModel | None = None
        self._opening = False
        self._problem: list[str] = []  # lines that say why the record cannot be read
        self._pending_command: Command | Literal[""] = ""
        self._stale: set[int] = set()
        self._drawn_at = 0.0
        self._due: list[int] = []  # panels to redraw, one per tick
        self._view: View | None = None  # None: the view that fits the current stage
        self._names: list[str] = []
        self._sample: Sample | None = None
        self._sampling = False
        self._offered: tuple[bool, bool] | None = None
        self._panels: list[Panel] = []
        self._now, self._curves, self._numbers = Now(), Curves(), Numbers()
        self._thumbnails, self._lines = Thumbnails(id="thumbnails"), Log()

    def body(self) -> Iterator[Widget]:
        """Yield five panels."""
        yield Panel(NOW, "Now", self._now, id="now")
        losses = Panel(LOSSES, "Losses", self._curves, id="losses")
        layers = Panel(LAYERS, "Layers", self._numbers, id="layers")
        images = Panel(IMAGES, "Images", self._thumbnails, id="images")
        log = Panel(LOG, "Log", self._lines, id="log")
        yield Container(losses, images, id="middle", classes="columns holder")
        yield Container(layers, log, id="bottom", classes="columns holder")

    def begin(self) -> None:
        """Focus the losses if several panels are visible, and draw what is known."""
        self._panels = self.panels()
        width, height = self.app.size
        if width >= self.LEAST[0] and height >= self.LEAST[1]:
            self.action_panel(LOSSES)
        self.tick()

    # --- following the run ------------------------------------------------------------------------

    def tick(self) -> None:
        """Read new records, and redraw visible panels that changed: one chart per tick."""
        model = self._model
        if not self._panels or not all(part.is_running for part in self.children):
            return  # the page is being mounted or removed
        if model is None:
            self._show_startup()
            return
        if not model.is_idle and model.read(self.READ_SECONDS):
            self._stale |= _ALL
        effect = {"pause": "paused", "continue": "running"}.get(self._pending_command)
        if model.state not in AT_WORK or model.state == effect:
            self._pending_command = ""
        if self._stale or self._due or model.state in AT_WORK or self._session is not None:
            self._draw(model)

    def _show_startup(self) -> None:
        """Show the progress of loading until the record can be followed."""
        session = self._session
        if self._problem:
            return
        if self._folder is None and session is not None:
            self._folder = session.folder
        if self._folder is not None:
            if not self._opening:
                self._opening = True
                self.run_in_thread(self._open, self._folder)
            if session is None:
                self._now.show_lines(["reading the record"])
                self.set_title(str(self._folder), "")
                return
        if session is not None:
            self._now.show_lines(formatting.describe_startup(session, time.monotonic() - self._opened_at))
            self.set_title(session.name, formatting.describe_loading(session))

    def _open(self, folder: Path) -> None:
        """Read the record; runs on a thread, since a long one takes a second."""
        try:
            model = RunModel(StoredRun(folder))
            model.read()
            while model.behind and self.is_running:
                model.read()
        except Exception as error:
            reason = [error.message, f"→ {error.hint}"] if isinstance(error, UserError) else [repr(error)]
            self._problem = ["the record cannot be read", *reason]
            self.call_in_ui(self._now.show_lines, self._problem)
            raise

        def use_model() -> None:
            self._model = model
            self._names = list_class_names(model.run.folder)
            self._refresh()

        self.call_in_ui(use_model)

    def _refresh(self) -> None:
        """Redraw all visible panels now."""
        self._stale |= _ALL
        self._drawn_at, self._due = 0.0, []
        if self._model is not None:
            self._draw(self._model, all_due=True)

    def _arrange(self) -> None:
        """Redraw, since panels may have become visible."""
        super()._arrange()
        self.set_class(self._current == LOG, "-reads-log")
        self.call_after_refresh(self._refresh)

    # --- drawing ----------------------------------------------------------------------------------

    def _is_visible(self, number: int) -> bool:
        try:
            return self.find_widget(self._panels[number - 1]).visible_region.area > 0
        except NoWidget:
            return False

    def _draw(self, model: RunModel, *, all_due: bool = False) -> None:
        session, terminal = self._local_session(), self.host.terminal
        loading = session is not None and session.state == "loading"
        where = "here" if session else ""
        if not session and model.state == "running":
            where = f"in process {model.status.get('pid')} on {model.status.get('host')}"
        activity = formatting.describe_activity(model, self._pending_command, where, loading)
        self._update_offers()
        self.set_title(model.run.name, activity)
        if self._is_visible(NOW):
            self._stale.discard(NOW)
            if session is not None and loading:
                seconds, stages = time.monotonic() - self._opened_at, formatting.describe_stages(model)
                self._now.show_lines(formatting.describe_startup(session, seconds, stages))
            else:
                self._now.show(model, activity, terminal)
        if LOG in self._stale:
            self._draw_log(model)
        view = self._view or _default_view(model)
        draw: dict[int, Callable[[], str]] = {
            LOSSES: lambda: self._curves.show(model, view),
            LAYERS: lambda: self._numbers.show(model, view, terminal),
            IMAGES: lambda: f"Images: {self._draw_images(model)}",
        }
        if not self._due and time.monotonic() - self._drawn_at >= self.CHART_SECONDS:
            self._due = [number for number in draw if number in self._stale and self._is_visible(number)]
            self._drawn_at = time.monotonic() if self._due else self._drawn_at
        count = len(self._due) if all_due else 1  # one per tick, so that a key never waits for all of them
        for number in self._due[:count]:
            self._stale.discard(number)
            self._panels[number - 1].set_title(draw[number]())
        self._due = self._due[count:]

    def _draw_images(self, model: RunModel) -> str:
        """Draw images, and return what they are."""
        preview, shown = model.preview, self._sample
        if preview is not None:
            known = self._names = self._names or list_class_names(model.run.folder)
            names = [known[label] if label < len(known) else str(label) for label in preview.labels_M]
            self._thumbnails.show_widest(list(preview.images_MCHW), names)
            return f"batch {preview.batch}, it {preview.iteration}"
        # where recovery wrote no preview, as if nothing is optimised: images of the finished set
        if not self._sampling and (shown is None or shown.count < shown.total):
            self._sampling = True
            folder, count = model.repeat_run.folder / RunFile.IMAGES, Preview.MOST_IMAGES
            self.run_in_thread(lambda: self.call_in_ui(self._store_sample, Sample.read(folder, count)))
        if shown is None:
            return "none yet" if model.state in (*AT_WORK, "new") else "none"
        self._thumbnails.show_widest(shown.images, shown.names)
        return f"{shown.count:,}" + (f" of {shown.total:,}" if shown.count < shown.total else "")

    def _store_sample(self, loaded: Sample | None) -> None:
        self._sampling = False
        if loaded is not None and (self._sample is None or loaded.count > self._sample.count):
            self._sample, self._drawn_at = loaded, 0.0
            self._stale.add(IMAGES)

    def _draw_log(self, model: RunModel) -> None:
        self._stale.discard(LOG)
        for line in self._lines.follow(model.log):
            if self._pending_command == "checkpoint" and line.text.startswith("checkpoint "):
                self._pending_command = ""
                self.notify(line.text)

    # --- control ----------------------------------------------------------------------------------

    def _local_session(self) -> Session | None:
        """Return the session that computes this run in this process, or None."""
        for session in (self._session, self.host.session):
            if session is None or not session.live:
                continue
            if (session.folder and session.folder.absolute()) == (self._folder and self._folder.absolute()):
                return session
        return None

    def _is_active(self) -> bool:
        """Return whether a process computes the run."""
        return self._local_session() is not None or (self._model is not None and self._model.state in AT_WORK)

    def _refuse(self, what: str) -> bool:
        """Return whether a command is impossible, and notify the user why."""
        refused = self.host.refuse_if_read_only(what)
        if not refused and not self._is_active():
            self.notify("no process is computing this run", severity="warning")
        return refused or not self._is_active()

    def offers(self, action: str) -> bool:
        """Offer control keys while a process computes the run, and detaching if it is this one."""
        if action in ("pause", "checkpoint", "stop"):
            return self._is_active()
        return action != "detach" or self._local_session() is not None

    def _update_offers(self) -> None:
        offered = self._is_active(), self._local_session() is not None
        if offered != self._offered:
            self._offered = offered
            self.refresh_bindings()

    def _send(self, command: Command, what: str) -> None:
        if self._refuse(what):
            return
        session, folder = self._local_session(), self._folder
        if session is not None:
            session.ask(command, "the console")
        elif folder is not None:
            self.run_in_thread(control.request, folder, command)
        self._pending_command = command
        self._refresh()

    def action_pause(self) -> None:
        """Pause the engine, or let it continue."""
        state = self._model.state if self._model is not None else ""
        paused = self._pending_command == "pause" or state == "paused"
        self._send("continue" if paused else "pause", "pause or continue")

    def action_checkpoint(self) -> None:
        """Write a checkpoint at the next opportunity."""
        self._send("checkpoint", "write a checkpoint")

    def action_stop(self) -> None:
        """Ask for confirmation, then stop the run at its next checkpoint."""
        if not self._refuse("stop"):
            answers = [("keep", "keep it running"), ("stop", "stop: write a checkpoint and end")]
            question = Choice("Stop this run?", answers)
            self.app.push_screen(question, lambda a: self._send("stop", "stop") if a == "stop" else None)

    async def action_detach(self) -> None:
        """Hand the run to a separate process, if this process computes it."""
        if self.host.refuse_if_read_only("detach"):
            return
        if self._local_session() is None:
            self.notify("this run is not computed here; leaving the console does not affect it")
        else:
            await self.app.run_action("app.detach")

    def action_images(self) -> None:
        """Open the run's gallery."""
        if self._folder is not None:
            self.post_message(OpenGallery(self._folder))

    # --- views ------------------------------------------------------------------------------------

    def action_view(self) -> None:
        """Show the next view in panels 2 and 3."""
        if self._model is None:
            return
        view = self._view or _default_view(self._model)
        views: tuple[View, ...] = get_args(View)
        self._view = views[(views.index(view) + 1) % len(views)]
        self._numbers.sort_column = 0
        self._refresh()

    def action_sort(self) -> None:
        """Sort the table by the next column."""
        self._numbers.sort_column += 1
        self._refresh()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the chosen layer."""
        model, chosen = self._model, self._numbers.find_chosen()
        if model is not None and model.layout is not None and chosen in model.layout.taps:
            self.app.push_screen(LayerPage(model, chosen))

    def csv(self) -> str:
        """Return the data of the visible chart as CSV."""
        return self._curves.first.csv()


# --- panels ------------------------------------------------------------------------------------------


class Words(PlainText):
    """A text that is repainted only when it changes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._shown_text: str | None = None

    def set_lines(self, lines: Sequence[str] | str) -> None:
        """Show these lines."""
        text = lines if isinstance(lines, str) else "\n".join(lines)
        if text != self._shown_text:
            self._shown_text = text
            self.update(text, layout=False)


class Now(Horizontal):
    """A run's stages, progress and speed, with its headline number in large digits and its β schedule."""

    LARGE = 28  #: width in cells of the large number and the lines under it
    DEFAULT_CSS = f"""
    Now {{ height: 1fr; }}
    Now #facts {{ width: 1fr; height: 1fr; }}
    Now #large {{ width: {LARGE}; height: 1fr; padding: 0 1; }}
    Now #digits {{ height: 4; width: 1fr; }}
    Now #place {{ height: 1fr; width: 1fr; }}
    Now #schedule {{ width: 44; height: 1fr; display: none; }}
    """

    def __init__(self) -> None:
        self._facts, self._digits, self._place = Words(id="facts"), Words(id="digits"), Words(id="place")
        self._right, self._schedule = Vertical(self._digits, self._place, id="large"), Chart(id="schedule")
        self._schedule.can_focus = False
        super().__init__(self._facts, self._right, self._schedule)

    def show_lines(self, lines: Sequence[str]) -> None:
        """Show these lines alone."""
        self._facts.set_lines(lines)
        self._right.display = self._schedule.display = False

    def show(self, model: RunModel, activity: str, terminal: Terminal) -> None:
        """Show the run's current state. activity: what the run is doing, in words."""
        width, height = self.size
        if not width or not height:
            return
        number, label = formatting.find_headline(model)
        show_number = width >= 60 and bool(number)
        recovering = model.stage == "recover" and len(model.betas) > 1
        show_schedule = show_number and width >= 110 and height >= 6 and recovering
        facts_width = width - (self.LARGE if show_number else 0) - (44 if show_schedule else 0)
        lines = formatting.describe_run(model, activity, facts_width - 1)
        if not show_number and number:
            lines.insert(-1 if model.state in AT_WORK else len(lines), f"{number} {label}")
        self._facts.set_lines(lines)
        self._right.display, self._schedule.display = show_number, show_schedule
        if not show_number:
            return
        self._digits.set_lines([*formatting.draw_digits(number), label])
        lines = []
        if show_schedule:
            self._schedule.plot(plot_data.betas(model), mark=model.batch)
        elif model.stage == "recover" and model.state in AT_WORK:
            lines = formatting.draw_schedule(model.betas, model.batch, self.LARGE - 2, terminal)
        self._place.set_lines(lines)


class Curves(Horizontal):
    """A chart; if there is room, a second one beside it shows the other curve of the trainings."""

    DEFAULT_CSS = "Curves { height: 1fr; } Curves Chart { width: 1fr; } Curves #second { margin-left: 2; }"
    WIDE = 70  #: minimum width in cells for two charts

    def __init__(self) -> None:
        self.first, self.second = Chart(id="first"), Chart(id="second")
        self.second.display = False
        super().__init__(self.first, self.second)

    def show(self, model: RunModel, view: View) -> str:
        """Draw the charts of a view, and return the panel's title."""
        first, second = self.first, self.second
        second.display = view != "recovery" and self.size.width >= self.WIDE
        if view == "recovery":
            first.plot(plot_data.losses(model), x_label="iteration")
            return "Losses, summed over layers"
        stage = _training_stage(model)
        curves = [(plot_data.accuracies, "%"), (plot_data.training_losses, "loss")]
        if view == "loss":
            curves.reverse()
        for chart, (lines, title) in zip((first, second), curves, strict=True):
            if chart.display:
                chart.plot(lines(model, stage), title=title, x_label="epoch")
        name = "Accuracy and loss" if second.display else "Accuracy" if view == "accuracy" else "Loss"
        return f"{name} by epoch: {'students' if stage == 'validate' else 'teacher'}"


def _default_view(model: RunModel) -> View:
    """Return the view that fits the run's current stage."""
    training = model.stage in ("squeeze", "relabel", "validate") or model.layout is None
    if not model.trainings or not (training or model.state == "finished"):
        return "recovery"
    stage = _training_stage(model)
    has_accuracy = any(each.accuracy for key, each in model.trainings.items() if key[0] == stage)
    return "accuracy" if has_accuracy else "loss"


def _training_stage(model: RunModel) -> Stage:
    """Return the stage whose trainings are shown."""
    return "validate" if any(key[0] == "validate" for key in model.trainings) else "squeeze"


class Numbers(Table):
    """A table of layers and their loss terms, or of trainings, sorted by a column.

    Only changed cells are updated; rows are identified by names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sort_column = 0  #: number of a column; 0 keeps the original order
        self._heads: tuple[str, ...] = ()
        self._widths: list[int] = []  # columns never shrink; Textual computes its widths too late
        self._names: list[str] = []
        self._cells: list[tuple[str, ...]] = []

    def fill(self, heads: Sequence[str], names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        """Show these rows; the cursor stays on the row with the same name.

        heads: column titles. names: one per row. cells: the rows' texts.
        """
        rows, heads, names = [tuple(row) for row in cells], tuple(heads), list(names)
        min_widths = self._widths if heads == self._heads else [0] * len(heads)
        columns = zip(min_widths, zip(heads, *rows, strict=True), strict=True)
        widths = [max(width, *map(cell_len, column)) for width, column in columns]
        if (heads, names, widths) != (self._heads, self._names, self._widths):
            chosen = self.find_chosen()
            self.clear(columns=True)
            for head, width in zip(heads, widths, strict=True):
                self.add_column(Text(head), width=width)
            for name, row in zip(names, rows, strict=True):
                self.add_row(*row, key=name)
            if chosen in names:
                self.move_cursor(row=names.index(chosen), animate=False)
            self._heads, self._names, self._widths = heads, names, widths
        else:
            for at, (old, new) in enumerate(zip(self._cells, rows, strict=True)):
                for column, (old_text, text) in enumerate(zip(old, new, strict=True)):
                    if old_text != text:
                        self.update_cell_at(Coordinate(at, column), text)
        self._cells = rows

    def find_chosen(self) -> str | None:
        """Return the name of the row under the cursor."""
        row = self.cursor_row
        return self._names[row] if 0 <= row < len(self._names) else None

    def show(self, model: RunModel, view: View, terminal: Terminal) -> str:
        """Fill the table, and return the panel's title."""
        return self._show_layers(model, terminal) if view == "recovery" else self._show_trainings(model)

    def _show_layers(self, model: RunModel, terminal: Terminal) -> str:
        terms = model.layout.terms if model.layout else []
        room = (self.size.width - 18) // max(len(terms), 1) - 14
        cells = min(max(room, 6), 40)
        spark = partial(formatting.draw_sparkline, width=cells, terminal=terminal)
        layers = formatting.list_layers(model, spark, cells)
        self.sort_column %= len(terms) + 1
        if self.sort_column:
            layers.sort(key=lambda row: -row[1][self.sort_column - 1])
        heads = ["layer", *(head for term in terms for head in (term, ""))]
        rows = []
        for tap, values, sparklines in layers:
            pairs = zip(values, sparklines, strict=True)
            rows.append([tap, *(cell for number, line in pairs for cell in (_format_value(number), line))])
        self.fill(heads, [tap for tap, _, _ in layers], rows)
        order = f"by {terms[self.sort_column - 1]}" if self.sort_column else "in order"
        return f"Layers of batch {model.batch}, {order}" if layers else "Layers"

    def _show_trainings(self, model: RunModel) -> str:
        columns = ("network", "images", "seed", "epoch", "loss", "last %", "best %")
        rows = _list_trainings(model)
        self.sort_column %= len(columns)
        if self.sort_column:
            rows.sort(key=lambda row: row[self.sort_column])
        self.fill(columns, [" ".join(row[:3]) for row in rows], rows)
        order = f", by {columns[self.sort_column]}" if self.sort_column else ""
        return f"Trainings{order}; `best` peeks at the test set"


def _format_value(number: float | None) -> str:
    """Return a number with four significant digits; empty where it is None."""
    return "" if number is None else "nan" if np.isnan(number) else f"{number:.4g}"


def _list_trainings(model: RunModel) -> list[tuple[str, ...]]:
    """Return the means over seeds if the run is finished, then a row per training, with controls."""
    rows: list[tuple[str, ...]] = []
    if model.results is not None:
        for name, summary in model.results["summary"]["by_architecture"].items():
            last, best = format_mean_std(summary["accuracy"]), format_mean_std(summary["accuracy_best"])
            rows.append((name, "distilled", "mean", "", "", last, best))
            rows.append((name, "random", "mean", "", "", format_mean_std(summary["control"]), ""))
    order = sorted(model.trainings, key=lambda key: (STAGES.index(key[0]), key[1], key[3], key[2]))
    for key in order:
        stage, architecture, source, seed = key
        each = model.trainings[key]
        loss = each.loss.last(0) if each.loss.rows else None
        seed_text = "" if stage == "squeeze" else str(seed)
        row = (architecture, source, seed_text, f"{each.epoch} of {each.epochs}", _format_value(loss))
        rows.append((*row, _format_value(each.last), _format_value(each.best)))
    return rows


class Log(RichLog):
    """A log of lines, scrolled by arrows, j, k, g and G."""

    DEFAULT_CSS = "Log { height: 1fr; background: $background; scrollbar-size-vertical: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("j", "scroll_down", "down", id="log.down"),
        hidden("k", "scroll_up", "up", id="log.up"),
        hidden("g", "scroll_home", "first", id="log.first"),
        hidden("G", "scroll_end", "last", id="log.last"),
    ]

    def __init__(self) -> None:
        super().__init__(max_lines=1000, min_width=20, wrap=True, id="lines")
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
        for line in new:
            self.write(show_plainly(self.format_line(line)))
        return new

    def on_resize(self, event: Resize) -> None:
        """Wrap all lines to the new width."""
        if self.size.width != self._width:
            self._width = self.size.width

            def rewrite() -> None:
                self.clear()
                self._last = None
                self.follow(self._source_lines)

            self.call_after_refresh(rewrite)


def list_class_names(folder: Path) -> list[str]:
    """Return class names by label, from the image folders of a run; empty before there are any."""
    try:
        names = sorted(entry.name for entry in (folder / RunFile.IMAGES).iterdir() if entry.is_dir())
    except OSError:
        return []
    are_numbered = all(name.partition("_")[0].isdigit() and "_" in name for name in names)
    return [name.partition("_")[2] for name in names] if are_numbered else names
