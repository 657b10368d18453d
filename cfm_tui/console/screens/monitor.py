"""The monitor page: a run's stages, losses, layers, images and log, and keys that control the run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.errors import NoWidget
from textual.widget import Widget
from textual.widgets import DataTable

from cfm_tui.console import formatting
from cfm_tui.console.engine_link import OpenGallery
from cfm_tui.console.pictures import Sample, sample
from cfm_tui.console.screens.base import Page, Panel
from cfm_tui.console.screens.dialogs import Choice
from cfm_tui.console.screens.layer import LayerPage
from cfm_tui.console.screens.parts import Log, Now
from cfm_tui.console.screens.views import VIEWS, Curves, Numbers, View, default_view
from cfm_tui.console.session import Session
from cfm_tui.console.widgets.thumbnails import Thumbnails
from cfm_tui.display.run_state import RunModel
from engine.errors import UserError
from engine.store import AT_WORK, RunFile, StoredRun, control
from engine.store.control import Command
from engine.store.preview import Preview

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOW, LOSSES, LAYERS, IMAGES, LOG = range(1, 6)
ALL = frozenset((NOW, LOSSES, LAYERS, IMAGES, LOG))


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
        Binding("s", "sort", "sort", show=False, id="monitor.sort", tooltip="Sort by the next column"),
        Binding("i", "images", "images", id="monitor.images", tooltip="The distilled images so far"),
    ]
    DEFAULT_CSS = """
    MonitorPage {
        #now { height: 7; }
        #middle { height: 1fr; }
        #losses { width: 2fr; }
        #images { width: 1fr; }
        #bottom { height: 6; }
        #layers { width: 2fr; }
        #log { width: 1fr; }
        #thumbnails, #lines { margin-left: 1; }
        &.-medium.-normal #log { display: none; }
        &.-medium.-normal.-reads-log #log { display: block; }
        &.-medium.-normal.-reads-log #layers { display: none; }
        &.-tall #now { height: 9; }
        &.-tall #bottom { height: 1fr; }
        &.-tall.-normal #bottom { layout: vertical; height: 1fr; }
        &.-tall.-normal #layers, &.-tall.-normal #log { width: 1fr; }
    }
    """

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
        self._thumbnails, self._lines = Thumbnails(id="thumbnails"), Log(id="lines")

    def body(self) -> Iterator[Widget]:
        """Yield five panels."""
        yield Panel(NOW, "Now", self._now, id="now")
        yield Container(
            Panel(LOSSES, "Losses", self._curves, id="losses"),
            Panel(IMAGES, "Images", self._thumbnails, id="images"),
            id="middle",
            classes="columns holder",
        )
        yield Container(
            Panel(LAYERS, "Layers", self._numbers, id="layers"),
            Panel(LOG, "Log", self._lines, id="log"),
            id="bottom",
            classes="columns holder",
        )

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
        if not model.rests and model.read(self.READ_SECONDS):
            self._stale |= ALL
        self._clear_completed_command(model)
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
                folder = self._folder
                self.run_in_thread(self._open, folder)
            if session is None:
                self._now.show_lines(["reading the record"])
                self.set_title(str(self._folder), "")
                return
        if session is not None:
            self._now.show_lines(formatting.warming(session, time.monotonic() - self._opened_at))
            self.set_title(session.name, formatting.loading(session))

    def _open(self, folder: Path) -> None:
        """Read the record; runs on a thread, since a long one takes a second."""
        try:
            model = RunModel(StoredRun(folder))
            model.read()
            while model.behind and self.is_running:
                model.read()
        except Exception as error:
            self.call_in_ui(self._show_read_error, error)
            raise
        self.call_in_ui(self._use_model, model)

    def _show_read_error(self, error: Exception) -> None:
        """Show in the first panel why the record cannot be read."""
        reason = [error.message, f"→ {error.hint}"] if isinstance(error, UserError) else [repr(error)]
        self._problem = ["the record cannot be read", *reason]
        self._now.show_lines(self._problem)

    def _use_model(self, model: RunModel) -> None:
        self._model = model
        self._names = formatting.class_names(model.run.folder)
        self._refresh()

    def _refresh(self) -> None:
        """Redraw all visible panels now."""
        self._stale |= ALL
        self._drawn_at, self._due = 0.0, []
        if self._model is not None:
            self._draw(self._model, all_due=True)

    def _arrange(self) -> None:
        """Redraw, since panels may have become visible."""
        super()._arrange()
        self.set_class(self._current == LOG, "-reads-log")
        self.call_after_refresh(self._refresh)

    # --- drawing ----------------------------------------------------------------------------------

    def _panel(self, number: int) -> Panel:
        return self._panels[number - 1]

    def _is_visible(self, number: int) -> bool:
        try:
            return self.find_widget(self._panel(number)).visible_region.area > 0
        except NoWidget:
            return False

    def _draw(self, model: RunModel, *, all_due: bool = False) -> None:
        activity = self._describe_activity(model)
        self._update_offers()
        self.set_title(model.run.name, activity)
        if self._is_visible(NOW):
            self._stale.discard(NOW)
            session = self._local_session()
            if session is not None and session.state == "loading":
                seconds = time.monotonic() - self._opened_at
                self._now.show_lines(formatting.warming(session, seconds, formatting.stages(model)))
            else:
                self._now.show(model, activity, self.host.terminal)
        if LOG in self._stale:
            self._draw_log(model)
        draw = {LOSSES: self._draw_curves, LAYERS: self._draw_table, IMAGES: self._draw_images}
        if not self._due and time.monotonic() - self._drawn_at >= self.CHART_SECONDS:
            self._due = [number for number in draw if number in self._stale and self._is_visible(number)]
            self._drawn_at = time.monotonic() if self._due else self._drawn_at
        count = len(self._due) if all_due else 1  # one per tick, so that a key never waits for all of them
        for number in self._due[:count]:
            self._stale.discard(number)
            draw[number](model)
        self._due = self._due[count:]

    def _describe_activity(self, model: RunModel) -> str:
        session = self._local_session()
        where = "here" if session else ""
        if not session and model.state == "running":
            where = f"in process {model.status.get('pid')} on {model.status.get('host')}"
        loading = session is not None and session.state == "loading"
        return formatting.doing(model, self._pending_command, where, loading)

    def _draw_curves(self, model: RunModel) -> None:
        self._panel(LOSSES).set_title(self._curves.show(model, self._view or default_view(model)))

    def _draw_table(self, model: RunModel) -> None:
        view = self._view or default_view(model)
        self._panel(LAYERS).set_title(self._numbers.show(model, view, self.host.terminal))

    def _draw_images(self, model: RunModel) -> None:
        preview = model.glimpse
        if preview is None:
            self._draw_sample(model)
            return
        self._names = self._names or formatting.class_names(model.run.folder)
        names = [self._names[label] if label < len(self._names) else str(label) for label in preview.labels_M]
        self._show_images(f"batch {preview.batch}, it {preview.iteration}", list(preview.images_MCHW), names)

    def _draw_sample(self, model: RunModel) -> None:
        """Draw images of the finished set where recovery wrote no preview, as if nothing is optimised."""
        shown = self._sample
        if shown is None:
            self._panel(IMAGES).set_title(f"Images: none{' yet' if model.state in (*AT_WORK, 'new') else ''}")
        else:
            of = f" of {shown.total:,}" if shown.count < shown.total else ""
            self._show_images(f"{shown.count:,}{of}", shown.images, shown.names)
        if not self._sampling and (shown is None or shown.count < shown.total):
            self._sampling = True
            self.run_in_thread(self._load_sample, model.run.folder / RunFile.IMAGES)

    def _load_sample(self, folder: Path) -> None:
        """Read images of the set; runs on a thread."""
        self.call_in_ui(self._store_sample, sample(folder, Preview.MOST_IMAGES))

    def _store_sample(self, loaded: Sample | None) -> None:
        self._sampling = False
        if loaded is not None and (self._sample is None or loaded.count > self._sample.count):
            self._sample, self._drawn_at = loaded, 0.0
            self._stale.add(IMAGES)

    def _show_images(self, title: str, images: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> None:
        self._panel(IMAGES).set_title(f"Images: {title}")
        self._thumbnails.show_widest(images, names)

    def _draw_log(self, model: RunModel) -> None:
        self._stale.discard(LOG)
        for line in self._lines.follow(model.log):
            if self._pending_command == "checkpoint" and line.text.startswith("checkpoint "):
                self._pending_command = ""
                self.notify(line.text, markup=False)

    # --- control ----------------------------------------------------------------------------------

    def _local_session(self) -> Session | None:
        """Return the session that computes this run in this process, or None."""
        for session in (self._session, self.host.session):
            if session is None or not session.live:
                continue
            if (session.folder and session.folder.absolute()) == (self._folder and self._folder.absolute()):
                return session
        return None

    def _clear_completed_command(self, model: RunModel) -> None:
        """Forget the pending command once the record shows its effect."""
        completed = {
            "pause": model.state == "paused",
            "continue": model.state == "running",
            "stop": False,
            "checkpoint": False,
        }
        if self._pending_command and (model.state not in AT_WORK or completed[self._pending_command]):
            self._pending_command = ""

    def _is_active(self) -> bool:
        """Return whether a process computes the run."""
        return self._local_session() is not None or (self._model is not None and self._model.state in AT_WORK)

    def _require_active(self) -> bool:
        """Return whether a process computes the run, and show a warning if none does."""
        active = self._is_active()
        if not active:
            self.notify("no process is computing this run", severity="warning")
        return active

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

    def _send(self, command: Command) -> None:
        if not self._require_active():
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
        if not self.host.refused("pause or continue"):
            state = self._model.state if self._model is not None else ""
            paused = self._pending_command == "pause" or state == "paused"
            self._send("continue" if paused else "pause")

    def action_checkpoint(self) -> None:
        """Write a checkpoint at the next opportunity."""
        if not self.host.refused("write a checkpoint"):
            self._send("checkpoint")

    def action_stop(self) -> None:
        """Ask for confirmation, then stop the run at its next checkpoint."""
        if self.host.refused("stop") or not self._require_active():
            return
        answers = [("keep", "keep it running"), ("stop", "stop: write a checkpoint and end")]
        self.app.push_screen(
            Choice("Stop this run?", answers), lambda answer: self._send("stop") if answer == "stop" else None
        )

    async def action_detach(self) -> None:
        """Hand the run to a separate process, if this process computes it."""
        if self.host.refused("detach"):
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
        view = self._view or default_view(self._model)
        self._view = VIEWS[(VIEWS.index(view) + 1) % len(VIEWS)]
        self._numbers.sort_column = 0
        self._refresh()

    def action_sort(self) -> None:
        """Sort the table by the next column."""
        self._numbers.sort_column += 1
        self._refresh()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the chosen layer."""
        model, chosen = self._model, self._numbers.chosen()
        if model is not None and model.layout is not None and chosen in model.layout.taps:
            self.app.push_screen(LayerPage(model, chosen))

    def csv(self) -> str:
        """Return the data of the visible chart as CSV."""
        return self._curves.csv()
