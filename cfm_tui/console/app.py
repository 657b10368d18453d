"""The console as a Textual application: a stack of pages, one timer, and at most one run in this process."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
import threading
import time
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from rich.color import ColorSystem
from rich.console import RenderableType
from textual.app import App
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.events import Event, Key, Paste
from textual.filter import Monochrome, NoColor
from textual.screen import Screen

import cfm_tui.console.screens as screens
import cfm_tui.console.widgets as widgets
from cfm_tui.console.driver import (
    AsciiFilter,
    CapturedOutput,
    Governor,
    TerminalAnswers,
    TerminalDriver,
    keep_only_changes,
)
from cfm_tui.console.engine_link import CompareRuns, Configure, Launch, OpenGallery, OpenRun, hidden
from cfm_tui.console.input_order import deliver
from cfm_tui.console.preferences import THEMES, Preferences, choose_theme, write_queries
from cfm_tui.console.screens.base import TABS, Page
from cfm_tui.console.screens.dialogs import Choice, Command, CommandList, Reading, list_commands
from cfm_tui.console.screens.runs import RunsPage
from cfm_tui.console.shutdown import Shutdown
from cfm_tui.display import terminal
from cfm_tui.display.streams import escape_control_characters
from cfm_tui.display.terminal import PixelSupport, Terminal
from engine.errors import UserError

if TYPE_CHECKING:
    from cfm_tui.console.form import Form
    from cfm_tui.console.screens.configure import ConfigurePage
    from cfm_tui.console.session import Session
    from cfm_tui.display.graphics import Graphics


_KEY_NAMES = {"⏎": "enter", "↑": "up", "↓": "down", "←": "left", "→": "right"}


class ConsoleApp(App[str]):
    """The console; its return value is the text to print after it closes.

    runs: the folder whose runs are listed; None for the default. read_only: forbids launching, controlling
    and deleting runs.
    """

    CSS_PATH = "app.tcss"
    TITLE = "cfm-tui"
    QUIET_SECONDS = 1.0  #: after a key press, without unrequested redraws while a run is computed here…
    LONGEST_SECONDS = 3.0  #: …but redraw at least this often
    TITLE_SECONDS = 5.0  #: interval of updates of the terminal's title
    ENABLE_COMMAND_PALETTE = False  #: Textual's own
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back", id="app.back", tooltip="Back to the previous page"),
        Binding("r", "runs", "runs", id="app.runs", tooltip="List all runs"),
        Binding("n", "configure", "new", id="app.new", tooltip="Configure a new run"),
        hidden("m", "monitor", "monitor", id="app.monitor", tooltip="The run that was opened last"),
        hidden("W", "sweeps", "sweeps", id="app.sweeps", tooltip="The sweeps of the runs folder"),
        hidden("less_than_sign", "turn(-1)", "tab before", id="app.before", tooltip="The page to the left"),
        hidden("greater_than_sign", "turn(1)", "next tab", id="app.next", tooltip="The page to the right"),
        hidden("e", "export", "export", id="app.export", tooltip="Save the screen, or the data of a chart"),
        hidden("t", "traceback", "error", id="app.traceback", tooltip="Show the traceback of the last error"),
        Binding("ctrl+p", "command_palette", "commands", id="app.palette", tooltip="Find any command"),
        Binding(
            "q", "quit", "quit", id="app.quit", tooltip="Leave; asks if a run is active here, keeps a draft"
        ),
        Binding("question_mark", "help", "help", id="app.help", tooltip="Show and run what works here"),
    ]

    def __init__(
        self, preferences: Preferences, terminal: Terminal, runs: Path | None, *, read_only: bool = False
    ) -> None:
        super().__init__(driver_class=TerminalDriver if sys.__stdin__ is not None else None)
        self.preferences, self.terminal, self.runs, self.read_only = preferences, terminal, runs, read_only
        self.image_mode = preferences.images
        self.session: Session | None = None
        self.captured_output: CapturedOutput | None = None
        self.opening: Launch | Configure | OpenRun | None = None
        self.awaits_answers = False  #: whether the terminal may still answer what it was asked before
        self.last_run: Path | None = None  #: the one that was opened last
        self.draft_notice = ""  #: what became of an edited form, after the end
        self._draft: Form | None = None
        self._form_page: ConfigurePage | None = None  #: of the draft
        self._saved_draft: dict[str, Any] | None = None  #: what need not be saved again
        self._governor = Governor()
        self._last_error: tuple[str, str, str] | None = None
        self._drawn_at = self._key_pressed_at = self._titled_at = 0.0
        self._reported_draw_error = ""
        self._shutdown_guard = Shutdown(lambda: self.session, self._exit_from_thread)
        self.animation_level = "none"
        self._keep_numbers_of_images()
        if self.no_color:  # Textual's default filter shows greys
            self._filters = [each for each in self._filters if not isinstance(each, Monochrome)]
            self._filters.append(NoColor())
        if not terminal.unicode:
            self._filters.append(AsciiFilter())

    def on_mount(self) -> None:
        """Set up themes and keys, show the first page, and start the timer."""
        for theme in THEMES.values():
            self.register_theme(theme)
        # without colours, only cfm-mono shows where the cursor is
        wanted = "cfm-mono" if self.no_color else self.preferences.theme
        self.theme = wanted or choose_theme(self.terminal.colours, None)
        self.set_keymap(self.preferences.keys)
        self.push_screen(RunsPage())
        if self.opening is not None:
            self.post_message(self.opening)
        self.set_interval(min(1 / self.preferences.fps, 1.0), self._tick)
        self.app_resume_signal.subscribe(self, self._send_images_again)
        self._write_terminal("\x1b[22;2t")  # the terminal keeps its title…
        if threading.current_thread() is threading.main_thread():
            self._shutdown_guard.install_handlers()

    def on_unmount(self) -> None:
        """Restore the terminal's title, delete its images, and keep an edited form for the next session."""
        if "graphics" in vars(self):
            self.graphics.delete_all()
        self._write_terminal("\x1b[23;2t")
        if self._draft is not None and self._draft.draft() != self._saved_draft:
            from cfm_tui.console.form import save_draft

            try:
                save_draft(self._draft)
                self.draft_notice = "The form is kept as a draft; n in cfm-tui returns to it."
            except UserError as error:
                self.draft_notice = f"The draft of the form is lost: {error.message}\n→ {error.hint}"

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        super()._display(screen, keep_only_changes(renderable))

    @property
    def _pixel_mode(self) -> Literal["kitty", "sixel"] | None:
        mode = terminal.images(self.image_mode, self.terminal)
        return mode if mode in ("kitty", "sixel") else None

    def use_late_answers(self, answers: TerminalAnswers) -> None:
        """Draw images in pixels from now on, if the terminal says that it can. Works on any thread."""

        def use() -> None:
            if "graphics" not in vars(self):
                self.terminal = replace(self.terminal, pixels=answers.pixels)
                self._keep_numbers_of_images()
                self._redraw_images()

        if self._loop is not None and answers.pixels is not None:
            self._loop.call_soon_threadsafe(use)

    def _keep_numbers_of_images(self) -> None:
        if self._pixel_mode is not None:  # the numbers are colours, which must not be rounded
            self.console._color_system = ColorSystem.TRUECOLOR

    @cached_property
    def graphics(self) -> Graphics:
        """The images in pixels that the terminal was sent."""
        from cfm_tui.display.graphics import Graphics  # after the first page is drawn

        protocol, support = self._pixel_mode, self.terminal.pixels
        assert protocol is not None
        if support is None or support.protocol != protocol:
            support = PixelSupport(protocol)
        graphics = Graphics(support, self._write_terminal)
        if protocol == "sixel" and isinstance(self._driver, TerminalDriver):
            self._driver.translate = graphics.translate
        return graphics

    def _send_images_again(self, _: object) -> None:
        """Send images after ctrl+z: the terminal may have dropped them with the screen."""
        if "graphics" in vars(self):
            self.graphics.delete_all()
            self._redraw_images()

    def _redraw_images(self) -> None:
        from cfm_tui.console.widgets.images import ImageWidget

        for screen in self.screen_stack:
            for widget in screen.query(ImageWidget):
                widget.draw()

    def get_key_display(self, binding: Binding) -> str:
        """Return how a key is shown; without Unicode, the names of Enter and the arrows instead of signs."""
        display = super().get_key_display(binding)
        return display if self.terminal.unicode else _KEY_NAMES.get(display, display)

    @property
    def failed(self) -> BaseException | None:
        """The exception that ended the application; None after a normal end."""
        return self._exception

    def notify(self, message: str, **options: Any) -> None:
        """Show a message for a while, as it is: without markup."""
        super().notify(escape_control_characters(message), **{**options, "markup": False})

    async def on_event(self, event: Event) -> None:
        """Deliver keys and pasted texts in their order, and record their time."""
        if isinstance(event, Key | Paste) and not event.is_forwarded:
            self._key_pressed_at = time.monotonic()
            await deliver(self, event)
        else:
            await super().on_event(event)

    # --- the timer --------------------------------------------------------------------------------

    def _tick(self) -> None:
        driver = self._driver
        if isinstance(driver, TerminalDriver) and driver.is_closed():
            driver.exit_event.set()  # reading the end of the input in a loop would keep a core busy
            self._shutdown_guard.handle_signal("SIGHUP")
        self._check_session()
        if self.captured_output is not None:
            self.captured_output.trim()
        now, written = time.monotonic(), getattr(driver, "written", 0)
        is_computing = self.session is not None and self.session.live and self.session.state != "loading"
        is_typing = is_computing and now - self._key_pressed_at < self.QUIET_SECONDS
        if now - self._drawn_at < (self.LONGEST_SECONDS if is_typing else 0.9 / self.preferences.fps):
            return
        page = self._visible_page()
        if self._governor.may_draw(written, is_computing) or (page is not None and page.is_loading):
            self._drawn_at = now
            try:
                self.draw()
            except Exception as error:  # a page that cannot be drawn must not end a run
                if repr(error) != self._reported_draw_error:
                    self._reported_draw_error = repr(error)
                    self.report_error(error)

    def _visible_page(self) -> Page | None:
        return next((screen for screen in reversed(self.screen_stack) if isinstance(screen, Page)), None)

    def draw(self) -> None:
        """Refresh the visible page."""
        page = self._visible_page()
        if page is not None and page.is_mounted and page.is_attached:  # not while it is being removed
            page.tick()

    def _check_session(self) -> None:
        """Show a session's progress in the terminal's title; drop it when it ended, and report failure."""
        session = self.session
        if session is None:
            return
        if session.live:
            self._show_terminal_title(session)
            return
        self.session = None
        failure = session.describe_failure()
        if session.heir is None:
            self._notify_terminal(f"{session.name} {'failed' if failure is not None else 'ended'}")
        if failure is not None:
            self._last_error = failure
            text = f"{failure[0]}\n→ {failure[1]}  (t: traceback)"
            self.notify(text, severity="error", timeout=30)

    def _show_terminal_title(self, session: Session) -> None:
        now = time.monotonic()
        if session.folder is None or now - self._titled_at < self.TITLE_SECONDS:
            return
        from cfm_tui.display.progress import format_duration  # after the first page is drawn
        from engine.store import StoredRun

        self._titled_at = now
        status = StoredRun(session.folder).status()
        total, done = status.get("total"), status.get("done")
        share = f"{done / total:.0%}" if isinstance(done, int) and isinstance(total, int) and total else ""
        left = status.get("seconds_left")
        duration = format_duration(left) if isinstance(left, int | float) else ""
        parts = (str(status.get("stage") or ""), share, duration, session.name)
        self._write_terminal(f"\x1b]2;{escape_control_characters(' '.join(filter(None, parts)))}\x07")

    def _notify_terminal(self, text: str) -> None:
        """Ring the bell, and ask the terminal for a notification (OSC 9) and a title."""
        text = escape_control_characters(text)
        self._write_terminal(f"\x07\x1b]9;cfm-tui: {text}\x07\x1b]2;{text}\x07")

    def _write_terminal(self, codes: str) -> None:
        if isinstance(self._driver, TerminalDriver):
            self._driver.write(codes)

    # --- leaving ----------------------------------------------------------------------------------

    async def action_quit(self) -> None:
        """Leave at once if no run is computed here; ask otherwise."""
        if self.session is None or not self.session.live:
            self.exit()
            return
        answers = [
            ("stop", "stop: write a checkpoint and end; `cfm resume` resumes it later"),
            ("detach", "detach: continue in a separate process and free this terminal"),
            ("remain", "remain here"),
        ]
        self.push_screen(Choice("A run is active in this console.", answers), self._leave)

    def action_detach(self) -> None:
        """Hand the run to a separate process and leave."""
        self._leave("detach")

    def _leave(self, answer: str | None) -> None:
        if answer in ("stop", "detach"):
            self.notify("leaving at the next checkpoint")
            self._shutdown_guard.leave_on_request(cast(Literal["stop", "detach"], answer))

    def _exit_from_thread(self, farewell: str, code: int) -> None:
        """Exit with a text to print and an exit code; may be called on any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self.exit(farewell, return_code=code))

    # --- pages ------------------------------------------------------------------------------------

    async def action_back(self) -> None:
        """Return to the previous page; the list of runs is the first."""
        if len(self.screen_stack) > 2:
            self.pop_screen()

    def action_runs(self) -> None:
        """Return to the list of runs."""
        while len(self.screen_stack) > 2:
            self.pop_screen()

    async def action_configure(self) -> None:
        """Open the form of a new experiment."""
        await self.on_configure(Configure())

    async def on_configure(self, message: Configure) -> None:
        """Show the form of a new experiment; it is kept as a draft, also when the console is closed."""
        if self.refuse_if_read_only("configure"):
            return
        from cfm_tui.console.form import Form, load_draft
        from cfm_tui.console.screens.configure import ConfigurePage

        page = self._form_page
        if page is not None and page in self.screen_stack:
            while self.screen is not page:
                self.pop_screen()
            return
        if message.form is None and self._draft is None and (draft := load_draft(os.environ)) is not None:
            self._draft, self._saved_draft = draft, draft.draft()
            if draft.list_overrides():
                self.notify("the draft of your last session; p starts from a preset")
        elif message.form is not None or self._draft is None:
            self._draft = message.form or Form(None, os.environ)
            self._saved_draft = self._draft.draft()
        if page is not None and page.form is self._draft:
            page.reopen()
        else:
            if page is not None:
                self.uninstall_screen(page)
                await page.remove()
            page = self._form_page = ConfigurePage(self._draft)
            self.install_screen(page, "form")  # it stays mounted, since building it takes long
        with self.batch_update():
            await self.push_screen(page)

    def action_monitor(self) -> None:
        """Open the monitor of the run that was opened last."""
        self._open_last(OpenRun)

    def action_gallery(self) -> None:
        """Open the images of the run that was opened last."""
        self._open_last(OpenGallery)

    def _open_last(self, kind: type[OpenRun] | type[OpenGallery]) -> None:
        session = self.session
        folder = session.folder if session is not None and session.folder is not None else self.last_run
        if folder is None:
            self.notify("open a run first: Enter in the list of runs")
        else:
            self.action_runs()
            self.post_message(kind(folder))

    def action_compare(self) -> None:
        """Compare the runs that are marked in the list."""
        self.action_runs()
        self.call_later(self.run_action, "screen.compare")

    def action_sweeps(self) -> None:
        """Open the list of sweeps."""
        from cfm_tui.console.screens.sweeps import SweepsPage

        self.action_runs()
        self.push_screen(SweepsPage())

    async def action_turn(self, step: int) -> None:
        """Open the page whose tab is next to the current one."""
        tab = getattr(self.screen, "TAB", "")
        if tab in TABS:
            names = list(TABS)
            await self.run_action(TABS[names[(names.index(tab) + step) % len(names)]])

    def on_open_run(self, message: OpenRun) -> None:
        """Show a run's monitor."""
        from cfm_tui.console.screens.monitor import MonitorPage

        self.last_run = message.folder
        self.push_screen(MonitorPage(message.folder))

    def on_open_gallery(self, message: OpenGallery) -> None:
        """Show a run's images."""
        from cfm_tui.console.screens.gallery import GalleryPage

        self.last_run = message.folder
        self.push_screen(GalleryPage(message.folder, message.image))

    def on_compare_runs(self, message: CompareRuns) -> None:
        """Compare several runs."""
        from cfm_tui.console.screens.compare import ComparePage

        self.push_screen(ComparePage(message.folders))

    def on_launch(self, message: Launch) -> None:
        """Start a run in this process and show its monitor."""
        if self.refuse_if_read_only("launch"):
            return
        if self.session is not None and self.session.live:
            self.notify("a run is already active in this console; detach or stop it first", severity="error")
            return
        from cfm_tui.console.screens.monitor import MonitorPage
        from cfm_tui.console.session import Session

        self.session = Session(message.resolved, message.name, message.folder)
        self._governor, self._key_pressed_at = Governor(), 0.0  # now somebody looks: no debts, no quiet
        self.action_runs()
        self.push_screen(MonitorPage(message.folder, self.session))

    def refuse_if_read_only(self, what: str) -> bool:
        """Return whether the console is read-only, and notify the user if it is."""
        if self.read_only:
            self.notify(f"read-only: cannot {what}", severity="warning")
        return self.read_only

    # --- everywhere -------------------------------------------------------------------------------

    def action_help(self) -> None:
        """Show the commands of this page by section."""
        self.push_screen(CommandList("Help", list_commands(self.screen)), self._run_command)

    def action_command_palette(self) -> None:
        """Show the commands of this page, the saved queries and the themes."""
        commands = list_commands(self.screen)
        for name, text in self.preferences.queries.items():
            commands.append(Command("Queries", f"Runs: {name}", partial(self._use_query, text), words=text))
        for name in THEMES:
            commands.append(Command("Themes", f"Theme {name}", partial(setattr, self, "theme", name)))
        self.push_screen(CommandList("Commands", commands), self._run_command)

    def _run_command(self, command: Command | None) -> None:
        if command is not None:
            self.call_later(command.run)

    def _use_query(self, text: str) -> None:
        self.action_runs()
        cast(RunsPage, self.screen).use_query(text)

    def action_traceback(self) -> None:
        """Show the traceback of the last error."""
        if self._last_error is None:
            self.notify("there has been no error")
        else:
            self.push_screen(Reading(self._last_error[0], self._last_error[2]))

    def report_error(self, error: BaseException) -> None:
        """Notify the user of an error; `t` shows its traceback."""
        import traceback

        message, hint = (error.message, error.hint) if isinstance(error, UserError) else (repr(error), "")
        self._last_error = message, hint, "".join(traceback.format_exception(error))
        self.notify(f"{message}\n→ {hint}" if hint else message, severity="error", timeout=15)

    def save_query(self, name: str, text: str) -> None:
        """Save a query of runs under a name in the preferences, and notify the user."""
        preferences = self.preferences.with_query(name, text)
        try:
            write_queries(Preferences.path(), preferences.queries)
        except (UserError, OSError) as error:
            self.report_error(error)
        else:
            self.preferences = preferences
            self.notify(f"saved {name} in {Preferences.path()}")

    def action_export(self) -> None:
        """Ask for a format, and save the screen or a chart's data."""
        answers = [("txt", "text of the screen"), ("svg", "picture of the screen (SVG)")]
        if callable(getattr(self.screen, "csv", None)):
            answers.append(("csv", "data of the chart (CSV)"))
        self.push_screen(Choice("Save as", answers), self._export)

    def _export(self, form: str | None) -> None:
        """Save the screen or a chart's data; images in pixels are drawn in half blocks meanwhile."""
        if form is None or form == "csv" or self._pixel_mode is None:
            self._save(form)
            return
        mode, self.image_mode = self.image_mode, "half"
        self._redraw_images()

        def save_text() -> None:
            self._save(form)
            self.image_mode = mode
            self._redraw_images()

        self.set_timer(0.1, save_text)  # a wall of images is filled by its page, in a later message

    def _save(self, form: str | None) -> None:
        """Write the screen or a chart's data into a new file in the current folder."""
        from engine.store import files
        from engine.store.folders import free_name

        if form is None:
            return
        if form == "csv":
            name, text = "chart", str(cast(Any, self.screen).csv())
        else:
            name, text = "screen", self.render_text() if form == "txt" else self.export_screenshot()
        stem = f"cfm-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        path = Path(f"{free_name(stem, lambda each: Path(f'{each}.{form}').exists())}.{form}").absolute()
        try:
            files.write(path, text.encode(), hint="start the console in a writable folder")
            self.notify(f"saved {path}", timeout=10)
        except UserError as error:
            self.report_error(error)

    def render_text(self) -> str:
        """Return the visible screen as plain text."""
        strips = self.screen._compositor.render_strips(self.screen.size)
        return "\n".join(strip.text.rstrip() for strip in strips) + "\n"


def list_action_names() -> list[str]:
    """Return the ids of all key bindings, by which `console.yaml` remaps them, sorted."""
    modules = [__name__]
    for package in (screens, widgets):
        modules += [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    binding_ids = set()
    for module_name in modules:
        for _, kind in inspect.getmembers(importlib.import_module(module_name), inspect.isclass):
            if issubclass(kind, DOMNode) and kind.__module__.startswith("cfm_tui."):
                bindings = vars(kind).get("BINDINGS", ())
                binding_ids |= {each.id for each in bindings if isinstance(each, Binding) and each.id}
    return sorted(binding_ids)
