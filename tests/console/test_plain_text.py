"""Names that look like markup, or hold control characters, are shown as they are on every page."""

from __future__ import annotations

import re

import pytest
from commandline import REPOSITORY
from consoles import console, drive, shown, until

from cfm_tui.console.engine_link import CompareRuns, OpenGallery, OpenRun
from cfm_tui.console.screens.dialogs import Offer, Pick, Reading

NAME = "cfm[ipc=10]\x1b[31m[x]"
SHOWN = r"cfm[ipc=10]\x1b[31m[x]"


@pytest.fixture
def named(runs):
    """The runs, two of them with such names."""
    (runs / "ended").rename(runs / NAME)
    (runs / "done").rename(runs / f"2{NAME}")
    return runs


def test_the_list_its_dialogs_and_its_messages(named):
    async def script(pilot):
        await until(pilot, SHOWN)
        assert f"2{SHOWN}" in shown(pilot)
        pilot.app.screen.query_one("#table").move_cursor(row=2)
        await pilot.press("c")
        await until(pilot, lambda: shown(pilot).count(SHOWN) > 2)  # the message
        await pilot.press("d")
        await until(pilot, "Delete ")
        assert "\x1b" not in shown(pilot)

    drive(console(named), script, (160, 40))


@pytest.mark.parametrize(
    "opening",
    [
        lambda folder: OpenRun(folder / NAME),
        lambda folder: OpenGallery(folder / f"2{NAME}"),
        lambda folder: CompareRuns([folder / NAME, folder / f"2{NAME}"]),
    ],
)
def test_every_page(named, opening):
    async def script(pilot):
        await until(pilot, "cfm[ipc=10]")
        assert "\x1b" not in shown(pilot)

    drive(console(named, opening=opening(named)), script, (160, 40))


def test_lists_and_texts(named):
    async def script(pilot):
        pilot.app.push_screen(Pick(NAME, [Offer(NAME, NAME)]))
        await until(pilot, lambda: shown(pilot).count(SHOWN) >= 3)
        pilot.app.push_screen(Reading(NAME, NAME))
        await until(pilot, lambda: SHOWN in shown(pilot) and "Esc: back" in shown(pilot))
        pilot.app.notify(NAME)
        await pilot.pause()
        assert "\x1b" not in shown(pilot)

    drive(console(named), script, (120, 40))


def test_no_page_uses_a_widget_that_reads_markup():
    reading = re.compile(r"\b(Static|Label|DataTable|Checkbox|RadioButton|Select)\(")
    for path in (REPOSITORY / "cfm_tui" / "console").rglob("*.py"):
        assert not reading.search(path.read_text()), path
