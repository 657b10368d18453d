"""The monitor page: a run's stages, losses, layers, images and log, and keys that control the run."""

from __future__ import annotations

import re
import time
from bisect import bisect_left
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
from textual.containers import Container, Vertical
from textual.coordinate import Coordinate
from textual.errors import NoWidget
from textual.events import Resize
from textual.widget import Widget
from textual.widgets import DataTable, Input, RichLog

from cfm_tui.console import formatting
from cfm_tui.console.engine_link import OpenGallery, hidden
from cfm_tui.console.pictures import Sample
from cfm_tui.console.screens.base import FilterLine, Page, Panel, PlainText, Table, show_plainly
from cfm_tui.console.screens.dialogs import Choice
from cfm_tui.console.screens.layer import LayerPage
from cfm_tui.console.session import Session
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.console.widgets.images import Thumbnails
from cfm_tui.console.widgets.showing import terminal_of
from cfm_tui.display import plot_data
from cfm_tui.display.host import HostLoad, HostMonitor
from cfm_tui.display.run_state import LogLine, RunModel
from cfm_tui.display.terminal import Terminal
from engine.config import Objective
from engine.errors import UserError
from engine.events import STAGES
from engine.runs.results import format_mean_std
from engine.store import AT_WORK, RunFile, StoredRun, control
from engine.store.control import Command
from engine.store.preview import Preview

LOSS, SPECTRUM, IMAGES, RESULT, LOG = range(1, 6)  #: the panels
_ALL = frozenset((LOSS, SPECTRUM, IMAGES, RESULT, LOG))
Curve = Literal["recovery", "validate", "squeeze"]  #: whose losses panel 1 shows
Table4 = Literal["layers", "result", "trainings"]  #: what panel 4 shows


class MonitorPage(Page):
    """One run, computed by this process or another, active or finished.

    folder: the run's folder; None if a new session has not created it yet. session: computes the run in
    this process; None for any other run.
    """

    TAB = "Monitor"
    LOAD_WIDTH = 110  #: columns of a page that shows the machine's load, at least
    AUTO_FOCUS = ""  # a small terminal shows the first panel, which has nothing to focus
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "pause", id="monitor.pause", tooltip="Pause the run, or continue it"),
        Binding("w", "checkpoint", "save", id="monitor.checkpoint", tooltip="Write a checkpoint now"),
        Binding("S", "stop", "stop", id="monitor.stop", tooltip="Stop the run; it can be resumed"),
        Binding("D", "detach", "leave running", id="monitor.detach", tooltip="Go on in a separate process"),
        Binding(
            "v",
            "view",
            "view",
            id="monitor.view",
            tooltip="Other losses in panel 1; layers, result or trainings in panel 4",
        ),
        hidden("s", "sort", "sort", id="monitor.sort", tooltip="Sort the table by the next column"),
        hidden("l", "kinds", "log", id="monitor.kinds", tooltip="In the log: events, all, or warnings"),
        hidden("slash", "search", "search", id="monitor.search", tooltip="Search the log"),
        hidden(
            "left_square_bracket",
            "scrub(-1)",
            "earlier",
            id="monitor.earlier",
            tooltip="Earlier images and β",
        ),
        hidden(
            "right_square_bracket", "scrub(1)", "later", id="monitor.later", tooltip="Later images, up to now"
        ),
        hidden(
            "m",
            "morph",
            "morph",
            id="monitor.morph",
            tooltip="Play how the batch's images change, from their start",
        ),
        Binding("i", "images", "gallery", id="monitor.images", tooltip="The distilled images so far"),
        Binding("f", "fill", "full", id="page.fill", tooltip="Fill the page with this panel, or not"),
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
        self._curve: Curve | None = None  # None: that of the current stage
        self._table: Table4 | None = None  # likewise
        self._upper, self._lower = LOSS, RESULT  # of two panels in one place, the one that is shown
        self._host_monitor = HostMonitor()
        self._names: list[str] = []
        self._sample: Sample | None = None
        self._sampling = False
        self._scrubbed: Preview | None = None  # an earlier one that is shown instead of the latest
        self._is_playing = False
        self._offered: tuple[bool, bool] | None = None
        self._panels: list[Panel] = []
        self._header = Words(id="header", grows=True)
        self._losses, self._spectrum = Chart(log=True, id="loss-chart"), Spectrum()
        self._thumbnails, self._results, self._lines = (
            Thumbnails(id="thumbnails", live=True),
            Results(),
            Log(),
        )

    def body(self) -> Iterator[Widget]:
        """Yield the header and five panels."""
        yield self._header
        with Container(id="upper", classes="columns holder"):
            yield Panel(LOSS, "Loss", self._losses, id="loss")
            yield Panel(SPECTRUM, "Spectrum", self._spectrum, id="spectrum")
        with Container(id="lower", classes="columns holder"):
            yield Panel(IMAGES, "Images", self._thumbnails, id="images")
            yield Panel(RESULT, "Layers", self._results, id="result")
        yield Panel(LOG, "Log", self._lines, id="log")
        yield FilterLine("search the log", lambda: self._lines)

    def begin(self) -> None:
        """Focus the losses, and draw what is known."""
        self._panels = self.panels()
        self.action_panel(LOSS)
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
        if self._is_playing:
            self._play(model)
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
                self._header.set_lines(["reading the record"])
                self.set_title(str(self._folder), "")
                return
        if session is not None:
            self._header.set_lines(formatting.describe_startup(session, time.monotonic() - self._opened_at))
            self.set_title(
                session.name, "LOADING" if session.live else "FAILED", "" if session.live else "failed"
            )

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
            self.call_in_ui(self._header.set_lines, self._problem)
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
        if self._current in (LOSS, SPECTRUM):
            self._upper = self._current
        if self._current in (RESULT, LOG):
            self._lower = self._current
        self.set_class(self._upper == SPECTRUM, "-spectrum")
        self.set_class(self._lower == LOG, "-log")
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
        state, *explanation = re.split("[:;] ", activity, maxsplit=1)
        self.set_title(model.run.name, state, model.state)
        if session is not None and loading:
            seconds, stages = time.monotonic() - self._opened_at, formatting.describe_stages(model)
            self._header.set_lines(formatting.describe_startup(session, seconds, stages))
        else:
            width = self.app.size.width - 2
            load = self._read_load(model)
            self._header.set_lines(formatting.describe_run(model, explanation, width, terminal, load))
        if LOG in self._stale:
            self._draw_log(model)
        draw: dict[int, Callable[[], str]] = {
            LOSS: lambda: self._draw_losses(model),
            SPECTRUM: lambda: self._spectrum.show(model),
            IMAGES: lambda: f"Images · {self._draw_images(model)}",
            RESULT: lambda: self._results.show(model, self._table or _default_table(model), terminal),
        }
        if not self._due and time.monotonic() - self._drawn_at >= self.CHART_SECONDS:
            self._due = [number for number in draw if number in self._stale and self._is_visible(number)]
            self._drawn_at = time.monotonic() if self._due else self._drawn_at
        count = len(self._due) if all_due else 1  # one per tick, so that a key never waits for all of them
        for number in self._due[:count]:
            self._stale.discard(number)
            self._panels[number - 1].set_title(draw[number]())
        self._due = self._due[count:]

    def _read_load(self, model: RunModel) -> HostLoad | None:
        """Return this machine's load while it computes the run, and there is room to show it."""
        if model.state != "running" or not model.memory_bytes or self.app.size.width < self.LOAD_WIDTH:
            return None
        pid = model.status.get("pid")
        return self._host_monitor.read(pid if isinstance(pid, int) else None)

    def _draw_losses(self, model: RunModel) -> str:
        """Draw the losses, and return the panel's title."""
        chart, curve = self._losses, self._curve or _default_curve(model)
        if curve == "recovery":
            sections = plot_data.batches(model)
            scrubbed, mark = self._scrubbed, None
            if scrubbed is not None:
                mark = float((scrubbed.batch - 1) * model.iterations + scrubbed.iteration)
            chart.plot(plot_data.losses(model), x_label="iteration", sections=sections, mark=mark)
            return f"Loss of recovery, over all layers · {_describe_axis(chart)} · faint: not smoothed"
        chart.plot(plot_data.training_losses(model, curve), x_label="epoch")
        whose = "students, mean over seeds" if curve == "validate" else "the teacher"
        return f"Loss of {whose} · {_describe_axis(chart)}"

    def _draw_images(self, model: RunModel) -> str:
        """Draw images, and return what they are."""
        scrubbed, shown = self._scrubbed, self._sample
        preview = model.preview if scrubbed is None else scrubbed
        if preview is not None:
            known = self._names = self._names or list_class_names(model.run.folder)
            names = [known[label] if label < len(known) else str(label) for label in preview.labels_M]
            hidden_count = self._thumbnails.show_widest(list(preview.images_MCHW), names)
            more = f" · +{hidden_count}" if hidden_count else ""
            beta = f" · β {preview.beta:.3g}" if scrubbed is not None and model.betas else ""
            later = " · ] later" if scrubbed is not None else " · [ earlier"
            return f"batch {preview.batch}, it {preview.iteration:,}{beta}{more}{later}"
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
        if self._panels:
            self._panels[LOG - 1].set_title(self._lines.describe())

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

    def on_thumbnails_picked(self, event: Thumbnails.Picked) -> None:
        """Show the image that was clicked large, in the gallery."""
        model = self._model
        if model is not None:
            preview = model.preview if self._scrubbed is None else self._scrubbed
            batch = None if preview is None else preview.batch
            self.post_message(OpenGallery(model.repeat_run.folder, (batch, event.index)))

    # --- views ------------------------------------------------------------------------------------

    def action_view(self) -> None:
        """Show the next losses in panel 1, or else the next contents of panel 4."""
        model = self._model
        if model is None:
            return
        if self._current == LOSS:
            self._curve = _next(get_args(Curve), self._curve or _default_curve(model))
        else:
            self._table = _next(get_args(Table4), self._table or _default_table(model))
            self._results.table.sort_column = 0
        self._refresh()

    def action_sort(self) -> None:
        """Sort the table by the next column."""
        self._results.table.sort_column += 1
        self._refresh()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the chosen layer."""
        model, chosen = self._model, self._results.table.find_chosen()
        if model is not None and model.layout is not None and chosen in model.layout.taps:
            self.app.push_screen(LayerPage(model, chosen))

    def action_scrub(self, step: int) -> None:
        """Show earlier or later images of the recovery, with their place among the losses."""
        self._is_playing = False
        if self._model is not None:
            self._scrub(self._model, step)

    def _scrub(self, model: RunModel, step: int) -> None:
        positions = model.repeat_run.list_previews()
        if not positions:
            self.notify("this run has no history of its images")
            return
        shown = self._scrubbed
        index = len(positions) if shown is None else bisect_left(positions, (shown.batch, shown.iteration))
        self._show_position(model, positions, index + step)

    def _show_position(self, model: RunModel, positions: Sequence[tuple[int, int]], index: int) -> None:
        """Show a preview of the history, or the latest one if the index is past its end."""
        if index >= len(positions):
            self._scrubbed, self._is_playing = None, False
        else:
            try:
                self._scrubbed = model.repeat_run.read_preview(*positions[max(index, 0)])
            except UserError as error:
                self._is_playing = False
                self.host.report_error(error)
        self._stale |= {LOSS, IMAGES}
        self._drawn_at = 0.0

    def action_morph(self) -> None:
        """Play how the images of the shown batch change, from those that it starts from."""
        model = self._model
        if model is None or self._is_playing:
            self._is_playing = False
            return
        positions = model.repeat_run.list_previews()
        batch = self._scrubbed.batch if self._scrubbed is not None else model.batch
        start = next((index for index, (number, _) in enumerate(positions) if number == batch), None)
        if start is None:
            self.notify("this run has no history of its images")
        else:
            self._is_playing = True
            self._show_position(model, positions, start)

    def _play(self, model: RunModel) -> None:
        """Show the next images of the batch; at its end, the playing ends."""
        shown, positions = self._scrubbed, model.repeat_run.list_previews()
        if shown is None:
            self._is_playing = False
            return
        index = bisect_left(positions, (shown.batch, shown.iteration)) + 1
        if index >= len(positions) or positions[index][0] != shown.batch:
            self._is_playing = False
        else:
            self._show_position(model, positions, index)

    def action_kinds(self) -> None:
        """Show other kinds of lines in the log."""
        self._lines.kinds = _next(Log.KINDS, self._lines.kinds)
        self._show_log()

    def action_search(self) -> None:
        """Open the search of the log."""
        self.action_panel(LOG)
        self.query_one(FilterLine).open()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Search while the user types."""
        self._lines.pattern = event.value.strip().lower()
        self._show_log()

    def _show_log(self) -> None:
        self._lines.rewrite()
        self._panels[LOG - 1].set_title(self._lines.describe())

    def csv(self) -> str:
        """Return the data of the current panel's chart as CSV, by default of the losses."""
        charts = {SPECTRUM: self._spectrum.chart, RESULT: self._results.chart}
        return charts.get(self._current, self._losses).csv()


def _next(choices: tuple[Any, ...], current: Any) -> Any:
    return choices[(choices.index(current) + 1) % len(choices)]


def _default_curve(model: RunModel) -> Curve:
    """Return the losses that fit the run's current stage."""
    stage = _find_training_stage(model)
    is_training = model.stage in ("squeeze", "validate") or model.layout is None
    return stage if stage is not None and is_training else "recovery"


def _default_table(model: RunModel) -> Table4:
    """Return what panel 4 shows in the run's current stage."""
    is_validated = model.state == "finished" or any(key[0] == "validate" for key in model.trainings)
    return "result" if is_validated else "layers" if model.layout is not None else "trainings"


def _find_training_stage(model: RunModel) -> Literal["squeeze", "validate"] | None:
    """Return the stage of the latest trainings."""
    stages = {key[0] for key in model.trainings}
    return "validate" if "validate" in stages else "squeeze" if "squeeze" in stages else None


def _describe_axis(chart: Chart) -> str:
    return "log" if chart.log_axis else "linear"


# --- panels ------------------------------------------------------------------------------------------


class Words(PlainText):
    """A text that is repainted only when it changes. grows: its height follows its number of lines."""

    def __init__(self, *, grows: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._shown_text: str | None = None
        self._grows = grows

    def set_lines(self, lines: Sequence[str] | str) -> None:
        """Show these lines."""
        text = lines if isinstance(lines, str) else "\n".join(lines)
        if text != self._shown_text:
            layout = self._grows and (self._shown_text or "").count("\n") != text.count("\n")
            self._shown_text = text
            self.update(text, layout=layout)


class Spectrum(Vertical):
    """The spectra of one layer, what the filter makes of them, and the gap at every layer."""

    DEFAULT_CSS = "Spectrum { height: 1fr; } Spectrum #gap { height: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("down,j", "turn(1)", "next layer", id="spectrum.next", tooltip="The next layer's spectrum"),
        hidden("up,k", "turn(-1)", "layer before", id="spectrum.before"),
    ]

    def __init__(self) -> None:
        self.chart, self._gap = Chart(log=True, log_x=True, id="spectrum-chart"), Words(id="gap")
        super().__init__(self.chart, self._gap)
        self._number: int | None = None
        self._model: RunModel | None = None
        self._objective: Objective | None = None

    def show(self, model: RunModel) -> str:
        """Draw the spectra, and return the panel's title."""
        self._model = model
        preview = model.preview
        if preview is None or not preview.spectra:
            self.chart.plot([])
            self._gap.set_lines("")
            if preview is not None:
                return "Spectrum: Ψ is not measured"
            return "Spectrum: none yet" if model.state in (*AT_WORK, "new") else "Spectrum: none recorded"
        taps = list(preview.spectra)
        number = len(taps) - 1 if self._number is None else self._number % len(taps)
        if self._objective is None:
            self._objective = plot_data.objective_of(model.run.folder)
        lines, crossing = plot_data.spectrum(preview, taps[number], self._objective)
        self.chart.plot(lines, x_label=plot_data.RANKS, mark=crossing)
        gaps = plot_data.spectral_gaps(preview)
        levels = formatting.draw_sparkline(list(gaps.values()), len(gaps), terminal_of(self.app))
        listed = (
            f"{tap.rpartition('.')[2]} {level} {gap:.0%}"
            for (tap, gap), level in zip(gaps.items(), levels, strict=True)
        )
        self._gap.set_lines(f"gap of Ψ_s to Ψ by layer: {'  '.join(listed)}")
        beta = f" · ┊ λ = β {preview.beta:.3g}" if crossing is not None else ""
        return f"Spectrum of {taps[number]} ({number + 1} of {len(taps)}, j k){beta}"

    def action_turn(self, step: int) -> None:
        """Show the next or previous layer."""
        if self._model is not None and self._model.preview is not None and self._model.preview.spectra:
            count = len(self._model.preview.spectra)
            self._number = ((count - 1 if self._number is None else self._number) + step) % count
            title = self.show(self._model)
            if isinstance(self.parent, Panel):
                self.parent.set_title(title)


class Results(Vertical):
    """The layers' losses, the results beside accuracies by epoch, or all trainings."""

    CHART_LINES = 6  #: height of the chart, at least

    DEFAULT_CSS = """
    Results { height: 1fr; }
    Results #card { height: auto; }
    Results #accuracy { height: 1fr; }
    """

    def __init__(self) -> None:
        self.table, self._card = Numbers(), Words(id="card", grows=True)
        self.chart = Chart(y_bounds=(0, 100), id="accuracy")
        super().__init__(self._card, self.table, self.chart)

    def show(self, model: RunModel, contents: Table4, terminal: Terminal) -> str:
        """Show the contents, and return the panel's title."""
        has_results = contents == "result"
        self._card.display, self.table.display = has_results, not has_results
        lines = formatting.describe_results(model, self.size.width) if has_results else []
        self.chart.display = has_results and self.size.height >= len(lines) + self.CHART_LINES
        if not has_results:
            return self.table.show(model, contents == "layers", terminal)
        self._card.set_lines(lines)
        stage = _find_training_stage(model)
        if stage is not None:
            guides = plot_data.accuracy_guides(model) if stage == "validate" else []
            images = plot_data.count_preview_images(model, stage)
            title = f"accuracy in %, on {images:,} of the test images until the last epochs" if images else ""
            lines_of = plot_data.accuracies(model, stage)
            self.chart.plot(lines_of, title=title, x_label="epoch", guides=guides)
        return "Result" if model.results is not None else "Result so far"


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

    def show(self, model: RunModel, is_of_layers: bool, terminal: Terminal) -> str:
        """Fill the table with layers or trainings, and return the panel's title."""
        return self._show_layers(model, terminal) if is_of_layers else self._show_trainings(model)

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
        return f"Trainings{order}; best epoch is optimistic"


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


def list_class_names(folder: Path) -> list[str]:
    """Return class names by label, from the image folders of a run; empty before there are any."""
    try:
        names = sorted(entry.name for entry in (folder / RunFile.IMAGES).iterdir() if entry.is_dir())
    except OSError:
        return []
    are_numbered = all(name.partition("_")[0].isdigit() and "_" in name for name in names)
    return [name.partition("_")[2] for name in names] if are_numbered else names
