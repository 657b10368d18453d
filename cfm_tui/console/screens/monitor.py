"""The monitor page: a run's stages, losses, layers, images and log, and keys that control the run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.errors import NoWidget
from textual.widget import Widget
from textual.widgets import DataTable, Input

from cfm_tui.console import formatting
from cfm_tui.console.engine_link import OpenGallery, hidden
from cfm_tui.console.preview_cursor import PreviewCursor
from cfm_tui.console.screens.base import FilterLine, Page, Panel
from cfm_tui.console.screens.dialogs import Choice
from cfm_tui.console.screens.layer import LayerPage
from cfm_tui.console.screens.monitor_images import BatchImages
from cfm_tui.console.screens.monitor_log import Log
from cfm_tui.console.screens.monitor_losses import LossChart
from cfm_tui.console.screens.monitor_results import Results
from cfm_tui.console.screens.monitor_spectrum import Spectrum
from cfm_tui.console.screens.resume import ask_to_resume
from cfm_tui.console.screens.words import Words
from cfm_tui.console.session import Session
from cfm_tui.display.host import HostLoad, HostMonitor
from cfm_tui.display.run_state import RunModel
from engine.errors import UserError
from engine.store import ACTIVE, AT_WORK, StoredRun, control
from engine.store.control import Command

LOSS, SPECTRUM, IMAGES, RESULT, LOG = range(1, 6)  #: the panels
_NAMES = {LOSS: "Loss", SPECTRUM: "Spectrum", IMAGES: "Images", RESULT: "Result", LOG: "Log"}
_ALL = frozenset(_NAMES)
#: Panels that a panel may hide because they share its place.
_SHARING = {LOSS: (SPECTRUM,), SPECTRUM: (LOSS,), IMAGES: (), RESULT: (LOG,), LOG: (IMAGES, RESULT)}


class MonitorPage(Page):
    """One run, computed by this process or another, active or finished.

    folder: the run's folder; None if a new session has not created it yet. session: computes the run in
    this process; None for any other run.
    """

    TAB = "Monitor"
    STARTUP_SECONDS = 0.1  #: interval of looking whether a run that starts has a record
    LOAD_WIDTH = 110  #: columns of a page that shows the machine's load, at least
    AUTO_FOCUS = ""  # a small terminal shows the first panel, which has nothing to focus
    BINDINGS: ClassVar[list[BindingType]] = [
        # one of these two is enabled, so that the footer says what space does
        Binding("space", "pause", "pause", id="monitor.pause", tooltip="Pause the run, or continue it"),
        Binding("space", "continue", "continue", id="monitor.pause", tooltip="Continue the run"),
        Binding("w", "checkpoint", "save", id="monitor.checkpoint", tooltip="Write a checkpoint now"),
        Binding("S", "stop", "stop", id="monitor.stop", tooltip="Stop the run; it can be resumed"),
        Binding(
            "D",
            "detach",
            "leave running, quit",
            id="monitor.detach",
            tooltip="Continue the run in a separate process, and quit the console",
        ),
        Binding("o", "resume", "resume", id="monitor.resume", tooltip="Resume a run that has ended early"),
        Binding(
            "v",
            "view",
            "view",
            id="monitor.view",
            tooltip="Other losses in panel 1, images beside real ones in 3; layers, result or trainings in 4",
        ),
        hidden("s", "sort", "sort", id="monitor.sort", tooltip="Sort the table by the next column"),
        hidden("l", "kinds", "log", id="monitor.kinds", tooltip="In the log: events, all, or warnings"),
        hidden("slash", "search", "search", id="monitor.search", tooltip="Search the log"),
        hidden(
            "left_square_bracket",
            "scrub(-1)",
            "earlier",
            id="monitor.earlier",
            tooltip="Earlier images, spectra and β",
        ),
        hidden(
            "right_square_bracket", "scrub(1)", "later", id="monitor.later", tooltip="Later ones, up to now"
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
        self._upper, self._lower = LOSS, RESULT  # of two panels in one place, the one that is shown
        self._host_monitor = HostMonitor()
        self._history = PreviewCursor()
        self._offered: tuple[bool, ...] | None = None
        self._panels: list[Panel] = []
        self._header = Words(id="header", grows=True)
        self._losses, self._spectrum, self._images = LossChart(), Spectrum(), BatchImages()
        self._results, self._lines = Results(), Log()

    def body(self) -> Iterator[Widget]:
        """Yield the header and five panels."""
        yield self._header
        with Container(id="upper", classes="columns holder"):
            yield Panel(LOSS, _NAMES[LOSS], self._losses, id="loss")
            yield Panel(SPECTRUM, _NAMES[SPECTRUM], self._spectrum, id="spectrum")
        with Container(id="lower", classes="columns holder"):
            yield Panel(IMAGES, _NAMES[IMAGES], self._images, id="images")
            yield Panel(RESULT, _NAMES[RESULT], self._results, id="result")
        yield Panel(LOG, _NAMES[LOG], self._lines, id="log")
        yield FilterLine("search the log", lambda: self._lines)

    def begin(self) -> None:
        """Focus the losses, and draw what is known."""
        self._panels = self.panels()
        self.action_panel(LOSS)
        self.tick()
        if self._model is None:
            self._startup_timer = self.set_interval(self.STARTUP_SECONDS, self._follow_startup)

    def _follow_startup(self) -> None:
        """Read the record as soon as the session has one; `tick` comes less often."""
        if not self.is_loading:
            self._startup_timer.stop()
        elif not self._opening and self._session is not None and self._session.folder is not None:
            self._show_startup()

    # --- following the run ------------------------------------------------------------------------

    def tick(self) -> None:
        """Read new records, and redraw visible panels that changed: one chart per tick."""
        model = self._model
        if not self._panels or not all(part.is_running for part in self.children):
            return  # the page is being mounted or removed
        if model is None:
            self._show_startup()
            return
        shown_run = model.repeat_run
        if not model.is_idle and model.read(self.READ_SECONDS):
            self._stale |= _ALL
        if model.repeat_run is not shown_run:
            self._history = PreviewCursor()
            self._images.clear()
        effect = {"pause": "paused", "continue": "running"}.get(self._pending_command)
        if model.state not in AT_WORK or model.state == effect:
            self._pending_command = ""
        if self._history.is_playing:
            self._move_in_history(lambda: self._history.advance(model.repeat_run))
        if self._stale or self._due or model.state in ACTIVE or self._session is not None:
            self._draw(model)

    @property
    def is_loading(self) -> bool:
        """Whether there is no record to follow yet; then ticks are not delayed, and draw one line."""
        return self._model is None and not self._problem

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
                self._name_panels(" · reading …")
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

    def _name_panels(self, note: str) -> None:
        """Title the panels before there is a record to draw. note: after their names."""
        for panel in self._panels:
            panel.set_title(_NAMES[panel.number] + note)

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
            self.call_in_ui(self._name_panels, "")
            raise

        def use_model() -> None:
            self._model = model
            self._refresh()

        self.call_in_ui(use_model)

    def _refresh(self) -> None:
        """Redraw all visible panels now, with hints of those that share their places."""
        for panel in self._panels:
            sharing = () if self.has_class("-single") else _SHARING[panel.number]
            hints = [f"{each} {_NAMES[each].lower()}" for each in sharing if not self._is_visible(each)]
            panel.set_hint(" · ".join(hints))
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
        session, terminal, scrubbed = self._local_session(), self.host.terminal, self._history.preview
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
            LOSS: lambda: self._losses.show_losses(model, scrubbed),
            SPECTRUM: lambda: self._spectrum.show(model, scrubbed),
            IMAGES: lambda: self._images.show_run(model, scrubbed),
            RESULT: lambda: self._results.show(model, terminal),
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
        """Offer what the run's state allows, and detaching if this process computes it."""
        if action in ("pause", "continue", "checkpoint", "stop"):
            return self._is_active()
        if action == "resume":
            return self._is_resumable()
        return action != "detach" or self._local_session() is not None

    def _update_offers(self) -> None:
        local = self._local_session() is not None
        offered = self._is_active(), local, self._is_paused(), self._is_resumable()
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

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Let a key pause the run, or continue it if it is paused."""
        if action in ("pause", "continue"):
            return self._is_paused() is (action == "continue")
        return super().check_action(action, parameters)

    def _is_paused(self) -> bool:
        """Return whether the run is paused, or a pause is requested."""
        is_paused = self._model is not None and self._model.state == "paused"
        return is_paused or self._pending_command == "pause"

    def _is_resumable(self) -> bool:
        is_halted = self._model is not None and self._model.state in ("stopped", "lost", "failed")
        return is_halted and not self._is_active()

    def action_pause(self) -> None:
        """Pause the engine."""
        self._send("pause", "pause")

    def action_continue(self) -> None:
        """Let a paused engine continue."""
        self._send("continue", "continue")

    def action_resume(self) -> None:
        """Ask where to resume a run that was stopped, lost or failed."""
        if self._folder is None or self.host.refuse_if_read_only("resume"):
            return
        if self._is_resumable():
            ask_to_resume(self, self._folder)
        else:
            self.notify("there is nothing to resume", severity="warning")

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

    def on_thumbnails_picked(self, event: BatchImages.Picked) -> None:
        """Show the image that was clicked large, in the gallery."""
        model = self._model
        if model is not None:
            preview = self._history.preview or model.preview
            batch = None if preview is None else preview.batch
            self.post_message(OpenGallery(model.repeat_run.folder, (batch, event.index)))

    # --- views ------------------------------------------------------------------------------------

    def action_view(self) -> None:
        """Show other losses in panel 1, images beside their start in panel 3, or else other contents in 4."""
        model = self._model
        if model is None:
            return
        if self._current == LOSS:
            self._losses.choose_next(model)
        elif self._current == IMAGES:
            if not self._images.toggle_courses():
                self.notify("there are no real images and starts to show beside these images")
        else:
            self._results.choose_next(model)
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
        """Show an earlier or later preview of the recovery: its images, spectra, β and place among losses."""
        model = self._model
        if model is not None:
            self._move_in_history(lambda: self._history.step(model.repeat_run, step))

    def _move_in_history(self, move: Callable[[], bool | None]) -> None:
        """Move to another preview, and show it. move: returns False where there is no history."""
        try:
            if move() is False:
                self.notify("this run has no history of its images")
        except UserError as error:
            self.host.report_error(error)
        self._stale |= {LOSS, SPECTRUM, IMAGES}
        self._drawn_at = 0.0

    def action_morph(self) -> None:
        """Play how the images of the shown batch change, from those that it starts from."""
        model, history = self._model, self._history
        if model is None or history.is_playing:
            history.is_playing = False
        else:
            batch = model.batch if history.preview is None else history.preview.batch
            self._move_in_history(lambda: history.play(model.repeat_run, batch))

    def action_kinds(self) -> None:
        """Show other kinds of lines in the log."""
        self._lines.kinds = Log.KINDS[(Log.KINDS.index(self._lines.kinds) + 1) % len(Log.KINDS)]
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
