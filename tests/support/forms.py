"""The page of a new experiment in tests: opened, played on, told what it would find out."""

from __future__ import annotations

import inspect
import os
import time
from pathlib import Path

from consoles import PLAIN, drive, until

from cfm_tui.console.app import ConsoleApp
from cfm_tui.console.engine_link import Configure
from cfm_tui.console.form import Form
from cfm_tui.console.preferences import Preferences
from cfm_tui.console.preflight import Findings
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.console.widgets.field import Entry


def nowhere(folder, cache, monkeypatch):
    """A folder with nothing in it to be in, and where to put what runs share."""
    monkeypatch.chdir(folder)
    for name, value in (
        ("CACHE", str(cache)),
        ("RUNS", "runs"),
        ("DATA_ROOT", "data"),
        ("PRESETS", "presets"),
    ):
        monkeypatch.setenv(f"CFM_{name}", value)
    monkeypatch.delenv("CFM_TEACHER", raising=False)
    return folder


class Recorded(ConsoleApp):
    """Keeps what it is asked to launch."""

    CSS_PATH = Path(inspect.getfile(ConsoleApp)).with_name("app.tcss")
    launched = None

    def on_launch(self, message):
        message.prevent_default()
        self.launched = message


def form(preset="digits", environ=(), **texts):
    """A form in which these texts were typed."""
    made = Form(preset, dict(environ))
    for key, text in texts.items():
        made.write(key.replace("__", "."), text)
    made.check()
    return made


def opened(place, preset="smoke", kind=ConsoleApp, **options):
    app = kind(Preferences(fps=20.0), PLAIN, place / "runs", **options)
    app.opening = Configure(Form(preset, os.environ))
    return app


def played(app, script, size=(80, 24)):
    """Run the script on the page, once it is there."""

    async def play(pilot):
        await until(pilot, lambda: getattr(pilot.app.screen, "TAB", "") == "New")
        await script(pilot, pilot.app.screen)

    drive(app, play, size)


def focused(page):
    return next(each for each in page.focused.ancestors_with_self if isinstance(each, Entry | Chart))


async def write(pilot, text):
    """Begin to edit the field with the focus, and replace what it says."""
    await pilot.press("enter", *text or ["delete"])


def tell(page, findings=None):
    """Nothing is found out any more but what is told here."""
    page.touched = time.monotonic() + 1000
    if page._study is not None:
        page._study.stop()
    page._study = None
    page._take(findings or Findings(page.form.config))
