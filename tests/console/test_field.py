"""A field of the form: typed into, turned, cleared, left."""

from __future__ import annotations

from consoles import shown, until
from forms import focused, opened, played, write
from textual.events import AppBlur

from cfm_tui.console.screens.configure import ConfigurePage
from cfm_tui.console.screens.dialogs import Pick
from cfm_tui.console.widgets.field import Entry
from engine.config import settings


def test_a_value_is_typed_and_committed(place):
    async def script(pilot, page):
        await pilot.press("4", "down")
        assert focused(page).name == "ipc"
        await write(pilot, "20")
        await until(pilot, "1 change")  # while it is typed
        assert page.form.config.ipc == 20
        await pilot.press("enter")
        assert focused(page).name == "ipc"
        assert not focused(page).editing
        await pilot.press("j")
        assert "*IPC                 20" in shown(pilot)

    played(opened(place), script)


def test_letters_are_text_inside_a_field(place):
    async def script(pilot, page):
        page.go(page.find_entry("backbone.teacher"))
        await pilot.press("enter", *"qlpwcvdsjkgG", "enter")
        assert page.form.texts == {"backbone.teacher": "qlpwcvdsjkgG"}
        assert pilot.app.screen is page

    played(opened(place), script)


def test_escape_leaves_the_field_and_then_the_page(place):
    async def script(pilot, page):
        await pilot.press("4", "down")
        await write(pilot, "77")
        await pilot.press("escape")
        assert (page.form.config.ipc, page.form.texts) == (1, {})
        assert pilot.app.screen is page
        await pilot.press("escape")
        assert not isinstance(pilot.app.screen, ConfigurePage)

    played(opened(place), script)


def test_moving_on_commits(place):
    async def script(pilot, page):
        await pilot.press("4", "down")
        for key, value in (("tab", "3"), ("up", "5"), ("down", "6")):
            page.go(page.find_entry("ipc"))
            await write(pilot, value)
            await pilot.press(key)
            assert page.form.config.ipc == int(value)
            assert not page.find_entry("ipc").editing
            assert focused(page).name in ("protocol", "recover.iterations")

    played(opened(place), script)


def test_choices_are_turned_and_picked(place):
    async def script(pilot, page):
        page.go(page.find_entry("objective.schedule.kind"))
        await pilot.press("right")
        assert page.form.config.objective.schedule.kind == "linear"
        await pilot.press("left", "left")
        assert page.form.config.objective.schedule.kind == "constant"
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, Pick)
        await pilot.press("g", "j", "k", "enter")
        assert page.form.config.objective.schedule.kind == "cosine"
        page.go(page.find_entry("objective.method"))
        await pilot.press("enter")
        await pilot.pause()
        assert settings.describe("dm", "methods")[:20] in shown(pilot)
        await pilot.press("escape")
        assert page.form.config.objective.method == "cfm"

    played(opened(place), script)


def test_backspace_takes_the_presets_value_again(place):
    async def script(pilot, page):
        page.go(page.find_entry("objective.schedule.kind"))
        await pilot.press("right")
        assert page.form.texts
        await pilot.press("backspace")
        assert not page.form.texts

    played(opened(place), script)


def test_a_click_edits(place):
    async def script(pilot, page):
        await pilot.press("4")
        await pilot.click(page.find_entry("ipc"))
        await pilot.press("backspace", "9", "enter")
        assert page.form.config.ipc == 9

    played(opened(place), script)


def test_of_a_long_value_its_end_is_shown_and_all_of_it_below(place):
    async def script(pilot, page):
        path = f"/somewhere/{'deep/' * 8}teacher.pth"
        page.go(page.find_entry("backbone.teacher"))
        await write(pilot, path)
        await pilot.press("enter")
        await pilot.pause()
        assert "…" in shown(pilot)
        assert any(line.startswith("▸*teacher") and "teacher.pth" in line[22:] for line in lines(pilot))
        assert path in " ".join(lines(pilot)[-4:-2])

    played(opened(place), script)


def lines(pilot):
    return shown(pilot).splitlines()


def test_a_click_on_an_arrow_turns_and_elsewhere_lists_the_choices(place):
    async def script(pilot, page):
        entry = page.find_entry("data.test")
        choices = entry.choices
        page.go(entry)
        await pilot.pause()
        for arrow, expected in (("▸", choices[1]), ("◂", choices[0])):
            await pilot.click(entry, offset=(entry.render().plain.rindex(arrow), 0))
            assert (entry.value, pilot.app.screen) == (expected, page)
        await pilot.click(entry, offset=(entry.render().plain.rindex("▸") - 1, 0))
        assert isinstance(pilot.app.screen, Pick)

    played(opened(place), script)


def test_a_click_places_the_cursor(place):
    async def script(pilot, page):
        page.go(page.find_entry("backbone.teacher"))
        await pilot.press("enter", *"abcdef", "enter")
        entry = page.find_entry("backbone.teacher")
        await pilot.click(entry, offset=(Entry.LABEL_WIDTH + 3 + 2, 0))
        await pilot.press("X")
        await pilot.click(entry, offset=(Entry.LABEL_WIDTH + 3 + 12, 0))
        await pilot.press("Y", "enter")
        assert entry.value == "abXcdefY"

    played(opened(place), script)


def test_editing_outlives_the_focus_of_the_terminal(place):
    async def script(pilot, page):
        page.go(page.find_entry("backbone.teacher"))
        await pilot.press("enter", "a")
        pilot.app.post_message(AppBlur())
        await pilot.pause()
        await pilot.press(*"lq", "enter")
        assert page.form.texts == {"backbone.teacher": "alq"}

    played(opened(place), script)
