"""A run as it goes: its stages, losses, layers, images and log; and how it is paused, saved, stopped."""

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
from cfm_tui.console.screens.base import SMALL, Page, Panel
from cfm_tui.console.screens.dialogs import Choice
from cfm_tui.console.screens.layer import LayerPage
from cfm_tui.console.screens.parts import Log, Now
from cfm_tui.console.screens.views import VIEWS, Curves, Numbers, View, fitting
from cfm_tui.console.session import Session
from cfm_tui.console.widgets.thumbnails import Thumbnails
from cfm_tui.display.run_state import RunModel
from engine.errors import UserError
from engine.store import AT_WORK, StoredRun, control, folders
from engine.store.control import Command
from engine.store.preview import MOST_IMAGES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

READ_SECONDS = 0.05  #: of a tick, for reading the record
CHART_SECONDS = 2.0  #: between two drawings of charts and tables, unasked
NOW, LOSSES, LAYERS, IMAGES, LOG = range(1, 6)
ALL = frozenset((NOW, LOSSES, LAYERS, IMAGES, LOG))


class MonitorPage(Page):
    """One run, of this process or another, at work or finished.

    folder: the run's; None while a session that was just begun has none. session: the one that computes it
    in this process.
    """

    HEADING = "run"
    AUTO_FOCUS = ""  # where there is room for one panel, it is the first, which has nothing to focus
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "pause", id="monitor.pause", tooltip="Pause the engine, or let it go on"),
        Binding("w", "checkpoint", "save", id="monitor.checkpoint", tooltip="Write a checkpoint now"),
        Binding("S", "stop", "stop", id="monitor.stop", tooltip="Stop the run; it can be resumed"),
        Binding("D", "detach", "detach", id="monitor.detach", tooltip="Let a process of its own go on"),
        Binding("v", "view", "view", id="monitor.view", tooltip="Recovery's numbers, or the trainings'"),
        Binding("s", "sort", "sort", show=False, id="monitor.sort", tooltip="Sort the table differently"),
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
        self._began = time.monotonic()
        self._model: RunModel | None = None
        self._opening = False
        self._problem: list[str] = []  # why the record cannot be read
        self._asked: Command | Literal[""] = ""
        self._stale: set[int] = set()
        self._drawn = 0.0
        self._due: list[int] = []  # panels that are to be drawn, one with each tick
        self._view: View | None = None  # None: what the run is at
        self._names: list[str] = []
        self._sample: Sample | None = None
        self._sampling = False
        self._offered: tuple[bool, bool] | None = None
        self._panels: list[Panel] = []
        self._now, self._curves, self._numbers = Now(), Curves(), Numbers()
        self._thumbnails, self._lines = Thumbnails(id="thumbnails"), Log(id="lines")

    def body(self) -> Iterator[Widget]:
        """Five panels."""
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
        """What is known at once."""
        self._panels = self.panels()
        width, height = self.app.size
        if width >= SMALL[0] and height >= SMALL[1]:
            self.action_panel(LOSSES)
        self.tick()

    # --- following the run ------------------------------------------------------------------------

    def tick(self) -> None:
        """Read what is new; draw what changed and is seen: charts at most every two seconds, one a tick."""
        model = self._model
        if not self._panels or not all(part.is_running for part in self.children):
            return  # being built, or left
        if model is None:
            self._warm_up()
            return
        if not model.rests and model.read(READ_SECONDS):
            self._stale |= ALL
        self._hear(model)
        if self._stale or self._due or model.state in AT_WORK or self._session is not None:
            self._draw(model)

    def _warm_up(self) -> None:
        """Say what is waited for until there is a record to follow."""
        session = self._session
        if self._problem:
            return
        if self._folder is None and session is not None:
            self._folder = session.folder
        if self._folder is not None:
            if not self._opening:
                self._opening = True
                folder = self._folder
                self.work(self._open, folder)
            if session is None:
                self._now.say(["reading the record"])
                self.say(str(self._folder), "")
                return
        if session is not None:
            self._now.say(formatting.warming(session, time.monotonic() - self._began))
            self.say(session.name, formatting.loading(session))

    def _open(self, folder: Path) -> None:
        """On a thread: a record of days takes a second to read."""
        try:
            model = RunModel(StoredRun(folder))
            model.read()
            while model.behind and self.is_running:
                model.read()
        except Exception as error:
            self.back(self._unreadable, error)
            raise
        self.back(self._opened, model)

    def _unreadable(self, error: Exception) -> None:
        """Say in place why there is nothing to follow; the console itself tells it, too."""
        told = [error.message, f"→ {error.hint}"] if isinstance(error, UserError) else [repr(error)]
        self._problem = ["the record cannot be read", *told]
        self._now.say(self._problem)

    def _opened(self, model: RunModel) -> None:
        self._model = model
        self._names = formatting.class_names(model.run.folder)
        self._refresh()

    def _refresh(self) -> None:
        """Draw all that is seen, at once."""
        self._stale |= ALL
        self._drawn, self._due = 0.0, []
        if self._model is not None:
            self._draw(self._model, asked=True)

    def _arrange(self) -> None:
        """Panels that come into sight are drawn at once."""
        super()._arrange()
        self.set_class(self._current == LOG, "-reads-log")
        self.call_after_refresh(self._refresh)

    # --- drawing ----------------------------------------------------------------------------------

    def _panel(self, number: int) -> Panel:
        return self._panels[number - 1]

    def _seen(self, number: int) -> bool:
        try:
            return self.find_widget(self._panel(number)).visible_region.area > 0
        except NoWidget:
            return False

    def _draw(self, model: RunModel, *, asked: bool = False) -> None:
        words = self._words(model)
        self._offer()
        self.say(model.run.name, words)
        if self._seen(NOW):
            self._stale.discard(NOW)
            own = self._own()
            if own is not None and own.state == "loading":
                self._now.say(
                    formatting.warming(own, time.monotonic() - self._began, formatting.stages(model))
                )
            else:
                self._now.show(model, words, self.host.terminal)
        if LOG in self._stale:
            self._draw_log(model)
        drawing = {LOSSES: self._draw_curves, LAYERS: self._draw_table, IMAGES: self._draw_images}
        if not self._due and time.monotonic() - self._drawn >= CHART_SECONDS:
            self._due = [number for number in drawing if number in self._stale and self._seen(number)]
            self._drawn = time.monotonic() if self._due else self._drawn
        count = len(self._due) if asked else 1  # a key must not wait for all of them
        for number in self._due[:count]:
            self._stale.discard(number)
            drawing[number](model)
        self._due = self._due[count:]

    def _words(self, model: RunModel) -> str:
        own = self._own()
        where = "here" if own else ""
        if not own and model.state == "running":
            where = f"in process {model.status.get('pid')} on {model.status.get('host')}"
        return formatting.doing(model, self._asked, where, own is not None and own.state == "loading")

    def _draw_curves(self, model: RunModel) -> None:
        self._panel(LOSSES).say(self._curves.show(model, self._view or fitting(model)))

    def _draw_table(self, model: RunModel) -> None:
        view = self._view or fitting(model)
        self._panel(LAYERS).say(self._numbers.show(model, view, self.host.terminal))

    def _draw_images(self, model: RunModel) -> None:
        glimpse = model.glimpse
        if glimpse is None:
            self._draw_sample(model)
            return
        self._names = self._names or formatting.class_names(model.run.folder)
        names = [self._names[label] if label < len(self._names) else str(label) for label in glimpse.labels_M]
        self._show_images(f"batch {glimpse.batch}, it {glimpse.iteration}", list(glimpse.images_MCHW), names)

    def _draw_sample(self, model: RunModel) -> None:
        """Where no recovery shows its images as it goes, as where none is optimised: those that are kept."""
        found = self._sample
        if found is None:
            self._panel(IMAGES).say(f"Images: none{' yet' if model.state in (*AT_WORK, 'new') else ''}")
        else:
            of = f" of {found.total:,}" if found.count < found.total else ""
            self._show_images(f"{found.count:,}{of}", found.images, found.names)
        if not self._sampling and (found is None or found.count < found.total):
            self._sampling = True
            self.work(self._look_for_images, model.run.folder / folders.IMAGES)

    def _look_for_images(self, place: Path) -> None:
        """On a thread."""
        self.back(self._sampled, sample(place, MOST_IMAGES))

    def _sampled(self, found: Sample | None) -> None:
        self._sampling = False
        if found is not None and (self._sample is None or found.count > self._sample.count):
            self._sample, self._drawn = found, 0.0
            self._stale.add(IMAGES)

    def _show_images(self, what: str, images: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> None:
        self._panel(IMAGES).say(f"Images: {what}")
        self._thumbnails.show_widest(images, names)

    def _draw_log(self, model: RunModel) -> None:
        self._stale.discard(LOG)
        for line in self._lines.follow(model.log):
            if self._asked == "checkpoint" and line.text.startswith("checkpoint "):
                self._asked = ""
                self.notify(f"{line.text}", markup=False)

    # --- steering ---------------------------------------------------------------------------------

    def _own(self) -> Session | None:
        """The session that computes this run in this process, if one does."""
        for session in (self._session, self.host.session):
            if session is not None and session.live and self._same(session.folder):
                return session
        return None

    def _same(self, folder: Path | None) -> bool:
        return (folder and folder.absolute()) == (self._folder and self._folder.absolute())

    def _hear(self, model: RunModel) -> None:
        """Whether the record says that what was asked has happened."""
        happened = {
            "pause": model.state == "paused",
            "continue": model.state == "running",
            "stop": False,
            "checkpoint": False,
        }
        if self._asked and (model.state not in AT_WORK or happened[self._asked]):
            self._asked = ""

    def _worked_on(self) -> bool:
        return self._own() is not None or (self._model is not None and self._model.state in AT_WORK)

    def _at_work(self) -> bool:
        """Whether somebody is at work on the run; says so where nobody is."""
        found = self._worked_on()
        if not found:
            self.notify("nobody is at work on this run", severity="warning")
        return found

    def offers(self, action: str) -> bool:
        """A run is steered while somebody is at work on it, and detached from this process alone."""
        if action in ("pause", "checkpoint", "stop"):
            return self._worked_on()
        return action != "detach" or self._own() is not None

    def _offer(self) -> None:
        offered = self._worked_on(), self._own() is not None
        if offered != self._offered:
            self._offered = offered
            self.refresh_bindings()

    def _ask(self, command: Command) -> None:
        if not self._at_work():
            return
        own, folder = self._own(), self._folder
        if own is not None:
            own.ask(command, "the console")
        elif folder is not None:
            self.work(control.request, folder, command)
        self._asked = command
        self._refresh()

    def action_pause(self) -> None:
        """Pause the engine, or let it go on."""
        if not self.host.refused("pause or go on"):
            waits = self._asked == "pause" or (self._model is not None and self._model.state == "paused")
            self._ask("continue" if waits else "pause")

    def action_checkpoint(self) -> None:
        """Write a checkpoint at the next save point."""
        if not self.host.refused("write a checkpoint"):
            self._ask("checkpoint")

    def action_stop(self) -> None:
        """Ask, and stop the run at its next save point."""
        if self.host.refused("stop") or not self._at_work():
            return
        answers = [("keep", "keep it at work"), ("stop", "stop: write a checkpoint and end")]
        self.app.push_screen(
            Choice("Stop this run?", answers), lambda answer: self._ask("stop") if answer == "stop" else None
        )

    async def action_detach(self) -> None:
        """Hand this process's run to one of its own; another's is that already."""
        if self.host.refused("detach"):
            return
        if self._own() is None:
            self.notify("this run is not at work here: leaving the console does not disturb it")
        else:
            await self.app.run_action("app.detach")

    def action_images(self) -> None:
        """The run's gallery."""
        if self._folder is not None:
            self.post_message(OpenGallery(self._folder))

    # --- looking ----------------------------------------------------------------------------------

    def action_view(self) -> None:
        """The next view of panels 2 and 3."""
        if self._model is None:
            return
        now = self._view or fitting(self._model)
        self._view = VIEWS[(VIEWS.index(now) + 1) % len(VIEWS)]
        self._numbers.by = 0
        self._refresh()

    def action_sort(self) -> None:
        """Sort the table by the next column."""
        self._numbers.by += 1
        self._refresh()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the chosen layer."""
        model, chosen = self._model, self._numbers.chosen()
        if model is not None and model.layout is not None and chosen in model.layout.taps:
            self.app.push_screen(LayerPage(model, chosen))

    def csv(self) -> str:
        """The data of the chart that is shown."""
        return self._curves.csv()
