"""The console as a Textual application: pages over each other, one timer, one run of its own at most."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from rich.console import RenderableType
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.events import Event, Key
from textual.filter import Monochrome, NoColor
from textual.screen import Screen

from cfm_tui.console import export, themes
from cfm_tui.console.driver import Aside, TerminalDriver
from cfm_tui.console.engine_link import CompareRuns, Configure, Launch, OpenGallery, OpenRun
from cfm_tui.console.governor import Governor
from cfm_tui.console.preferences import Preferences
from cfm_tui.console.screens.base import Page
from cfm_tui.console.screens.dialogs import Choice, Reading, keys
from cfm_tui.console.screens.runs import RunsPage
from cfm_tui.console.shutdown import Leaving
from cfm_tui.console.widgets.plain import AsciiFilter, only_changes
from cfm_tui.display.terminal import Terminal
from engine.errors import UserError

if TYPE_CHECKING:
    from cfm_tui.console.session import Session

LOOK_SECONDS = 1.0  #: at most between looks at the terminal and the session
QUIET_SECONDS = 1.0  #: after a key, in which nothing is drawn unasked beside a run at work here…
LONGEST_SECONDS = 3.0  #: …but no longer than so many


class ConsoleApp(App[str]):
    """Its result is what is printed once the terminal is free again.

    runs: the folder whose runs are listed; None for the usual one. read_only: nothing is launched,
    steered or deleted.
    """

    CSS_PATH = "app.tcss"
    TITLE = "cfm-tui"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit", id="app.quit", tooltip="Leave; asks where a run is at work here"),
        Binding("question_mark", "help", "keys", id="app.help", tooltip="The keys that work here"),
        Binding(
            "ctrl+p", "command_palette", "palette", show=False, id="app.palette", tooltip="Find any command"
        ),
        Binding("escape", "back", "back", show=False, id="app.back", tooltip="To the page before"),
        Binding("r", "runs", "runs", show=False, id="app.runs", tooltip="All runs"),
        Binding("n", "configure", "new", show=False, id="app.new", tooltip="Configure a new run"),
        Binding(
            "e",
            "export",
            "export",
            show=False,
            id="app.export",
            tooltip="Save what is on screen, or a chart's data",
        ),
        Binding(
            "t", "traceback", "error", show=False, id="app.traceback", tooltip="The last error's traceback"
        ),
    ]

    def __init__(
        self, preferences: Preferences, terminal: Terminal, runs: Path | None, *, read_only: bool = False
    ) -> None:
        super().__init__(driver_class=TerminalDriver if sys.__stdin__ is not None else None)
        self.preferences, self.terminal, self.runs, self.read_only = preferences, terminal, runs, read_only
        self.image_mode = preferences.images
        self.session: Session | None = None
        self.aside: Aside | None = None
        self.opening: Launch | Configure | OpenRun | None = None
        self._governor = Governor()
        self._trouble: tuple[str, str, str] | None = None
        self._drawn = self._pressed = 0.0
        self._undrawn = ""
        self._leaving = Leaving(lambda: self.session, self._left)
        self.animation_level = "none"
        if self.no_color:  # Textual's own answer is greys
            self._filters = [each for each in self._filters if not isinstance(each, Monochrome)]
            self._filters.append(NoColor())
        if not terminal.unicode:
            self._filters.append(AsciiFilter())

    def on_mount(self) -> None:
        """Themes, keys, the first page, the timer."""
        for theme in themes.THEMES:
            self.register_theme(theme)
        self.theme = self.preferences.theme or themes.fitting(self.terminal.colours)
        self.set_keymap(self.preferences.keys)
        self.push_screen(RunsPage())
        if self.opening is not None:
            self.post_message(self.opening)
        self.set_interval(min(1 / self.preferences.fps, LOOK_SECONDS), self._tick)
        if threading.current_thread() is threading.main_thread():
            self._leaving.listen()

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        super()._display(screen, only_changes(renderable))

    @property
    def failed(self) -> BaseException | None:
        """What ended the application, if it did not end as it should."""
        return self._exception

    async def on_event(self, event: Event) -> None:
        """Note when somebody types."""
        if isinstance(event, Key):
            self._pressed = time.monotonic()
        await super().on_event(event)

    # --- the timer --------------------------------------------------------------------------------

    def _tick(self) -> None:
        driver = self._driver
        if isinstance(driver, TerminalDriver) and driver.gone():
            driver.exit_event.set()  # reading the end of the input over and over would keep a core busy
            self._leaving.hear("SIGHUP")
        self._look_after_session()
        if self.aside is not None:
            self.aside.trim()
        now, written = time.monotonic(), getattr(driver, "written", 0)
        sharing = self.session is not None and self.session.live
        typing = sharing and now - self._pressed < QUIET_SECONDS
        if now - self._drawn < (LONGEST_SECONDS if typing else 0.9 / self.preferences.fps):
            return
        if self._governor.may_draw(written, sharing):
            self._drawn = now
            try:
                self.draw()
            except Exception as error:  # a page that cannot be drawn does not end a run
                self._tell_once(error)

    def _tell_once(self, error: Exception) -> None:
        if repr(error) != self._undrawn:
            self._undrawn = repr(error)
            self.trouble(error)

    def draw(self) -> None:
        """Let the visible page show what is new."""
        page = next((screen for screen in reversed(self.screen_stack) if isinstance(screen, Page)), None)
        if page is not None and page.is_mounted and page.is_attached:  # not while it is taken down
            page.tick()

    def _look_after_session(self) -> None:
        session = self.session
        if session is None or session.live:
            return
        self.session = None
        failure = session.failure()
        if failure is not None:
            self._trouble = failure
            self.notify(
                f"{failure[0]}\n→ {failure[1]}  (t: traceback)", severity="error", timeout=30, markup=False
            )

    # --- leaving ----------------------------------------------------------------------------------

    async def action_quit(self) -> None:
        """Leave at once where nothing is at work here; ask otherwise."""
        if self.session is None or not self.session.live:
            self.exit()
            return
        answers = [
            ("stop", "stop: write a checkpoint and end; `cfm resume` goes on later"),
            ("detach", "detach: a process of its own goes on, this terminal is free"),
            ("remain", "remain here"),
        ]
        self.push_screen(Choice("A run is at work here.", answers), self._leave)

    def action_detach(self) -> None:
        """Hand the run to a process of its own and leave."""
        self._leave("detach")

    def _leave(self, answer: str | None) -> None:
        if answer in ("stop", "detach"):
            self.notify("leaving at the next save point")
            self._leaving.by_hand(cast(Literal["stop", "detach"], answer))

    def _left(self, said: str, code: int) -> None:
        """Called on any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self.exit(said, return_code=code))

    # --- pages ------------------------------------------------------------------------------------

    def show(self, page: Page) -> None:
        """Show a page over the ones that are there."""
        self.push_screen(page)

    async def action_back(self) -> None:
        """To the page before; the list of runs is the first."""
        if len(self.screen_stack) > 2:
            self.pop_screen()

    def action_runs(self) -> None:
        """To the list of runs."""
        while len(self.screen_stack) > 2:
            self.pop_screen()

    def action_configure(self) -> None:
        """To a new experiment."""
        self.post_message(Configure())

    def on_configure(self, message: Configure) -> None:
        """Show the form of a new experiment."""
        if self.refused("configure"):
            return
        from cfm_tui.console.screens.configure import ConfigurePage

        there = [screen for screen in self.screen_stack if isinstance(screen, ConfigurePage)]
        while there and self.screen is not there[0]:
            self.pop_screen()
        if not there:
            self.show(ConfigurePage(message.preset))

    def on_open_run(self, message: OpenRun) -> None:
        """Show a run's monitor."""
        from cfm_tui.console.screens.monitor import MonitorPage

        self.show(MonitorPage(message.folder))

    def on_open_gallery(self, message: OpenGallery) -> None:
        """Show a run's images."""
        from cfm_tui.console.screens.gallery import GalleryPage

        self.show(GalleryPage(message.folder))

    def on_compare_runs(self, message: CompareRuns) -> None:
        """Show several runs beside each other."""
        from cfm_tui.console.screens.compare import ComparePage

        self.show(ComparePage(message.folders))

    def on_launch(self, message: Launch) -> None:
        """Begin a run here and show its monitor."""
        if self.refused("launch"):
            return
        if self.session is not None and self.session.live:
            self.notify("a run is at work here already; detach or stop it first", severity="error")
            return
        from cfm_tui.console.screens.monitor import MonitorPage
        from cfm_tui.console.session import Session

        self.session = Session(message.resolved, message.name, message.folder)
        self.action_runs()
        self.show(MonitorPage(message.folder, self.session))

    def refused(self, what: str) -> bool:
        """Whether this console only looks on, which is then said."""
        if self.read_only:
            self.notify(f"read-only: cannot {what}", severity="warning")
        return self.read_only

    # --- everywhere -------------------------------------------------------------------------------

    def action_help(self) -> None:
        """The keys that work here."""
        self.push_screen(Reading("Keys that work here", keys(self.screen)))

    def action_traceback(self) -> None:
        """The traceback of what went wrong last."""
        if self._trouble is None:
            self.notify("nothing has gone wrong here")
        else:
            self.push_screen(Reading(self._trouble[0], self._trouble[2]))

    def trouble(self, error: BaseException) -> None:
        """Say what went wrong in place; `t` shows its traceback."""
        import traceback

        message, hint = (error.message, error.hint) if isinstance(error, UserError) else (repr(error), "")
        self._trouble = message, hint, "".join(traceback.format_exception(error))
        self.notify(f"{message}\n→ {hint}" if hint else message, severity="error", timeout=15, markup=False)

    def action_export(self) -> None:
        """Ask in which form, and save it."""
        answers = [("txt", "text of the screen"), ("svg", "picture of the screen (SVG)")]
        if callable(getattr(self.screen, "csv", None)):
            answers.append(("csv", "data of the chart (CSV)"))
        self.push_screen(Choice("Save which?", answers), self._export)

    def _export(self, form: str | None) -> None:
        if form is None:
            return
        if form == "csv":
            name, text = "chart", str(cast(Any, self.screen).csv())
        else:
            name, text = "screen", export.screen_text(self) if form == "txt" else self.export_screenshot()
        try:
            self.notify(f"saved {export.save(name, form, text)}", timeout=10, markup=False)
        except UserError as error:
            self.trouble(error)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Everything that a key does here, and the themes."""
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.id and not binding.id.startswith("page.panel"):
                yield SystemCommand(
                    binding.description.capitalize(),
                    active.tooltip or binding.description,
                    partial(self.run_action, binding.action, active.node),
                )
        for name in themes.NAMES:
            yield SystemCommand(
                f"Theme {name}", "Change the colours", lambda name=name: setattr(self, "theme", name)
            )
