"""Dialogs over a page."""

from __future__ import annotations

import pytest
from consoles import SIZES, console, drive, golden, shown, until
from textual.events import MouseScrollDown

from cfm_tui.console.engine_link import CompareRuns
from cfm_tui.console.screens.base import Table
from cfm_tui.console.screens.compare import ComparePage
from cfm_tui.console.screens.dialogs import Command, CommandLines, CommandList, Offer, Pick, list_commands
from cfm_tui.console.screens.runs import RunsPage
from cfm_tui.console.widgets.chart import Chart
from engine.store.json_file import read_json, write_json


def listed(pilot):
    """The lines of the dialog: commands, and the headings of their sections."""
    return pilot.app.screen.query_one(CommandLines).lines


def listed_names(pilot):
    """The names of the commands that the dialog shows."""
    return [each.name for each in listed(pilot) if isinstance(each, Command)]


def test_help_has_sections_with_the_names_of_actions(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("question_mark")
        commands = [each for each in listed(pilot) if isinstance(each, Command)]
        assert list(dict.fromkeys(each.section for each in commands)) == [
            "This page",
            "Panels and charts",
            "Everywhere",
        ]
        sections = {each.name: each.section for each in commands}
        assert sections["runs.sort"] == "This page"
        assert sections["table.down"] == sections["page.panel1"] == "Panels and charts"
        assert sections["app.quit"] == "Everywhere"
        assert "page.panel3" not in sections  # there are two
        assert all(each.text and each.keys for each in commands)
        assert "runs.sort" in shown(pilot)
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, RunsPage)

    drive(console(runs), script)


def test_typing_filters_and_enter_runs(runs):
    def names(pilot):
        table = pilot.app.screen.query_one("#table", Table)
        return [str(table.get_row_at(row)[0]) for row in range(table.row_count)]

    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("question_mark", *"REVERSE sort".replace(" ", ""))
        assert listed(pilot) == []
        await pilot.press("enter")  # nothing is found
        await pilot.press(*["backspace"] * 4, "space", *"sort")
        assert listed(pilot)[0] == "This page"
        assert listed_names(pilot) == ["runs.turn"]
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsPage))
        await until(pilot, lambda: names(pilot) == ["done", "ended", "broken", "gone"])
        await pilot.press("question_mark", "down", "down", "up", "pagedown", "pageup", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsPage))

    drive(console(runs), script)


def test_the_cursor_of_a_list_moves_by_lines_and_pages(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("question_mark")
        lines = pilot.app.screen.query_one(CommandLines)
        commands = [index for index, each in enumerate(lines.lines) if isinstance(each, Command)]
        assert lines.at == 1
        await pilot.press("up")  # goes round, past the headings
        assert lines.at == commands[-1]
        await pilot.press("pagedown")  # does not
        assert lines.at == commands[-1]
        await pilot.press("down", "pagedown")
        assert lines.at == lines.size.height
        assert "▸" in shown(pilot)
        await pilot.press(*["pageup"] * 9)
        await pilot.pause(0.1)
        assert (lines.at, lines.scroll_offset.y) == (1, 0)
        assert "This page" in shown(pilot)

    drive(console(runs), script)


def test_a_list_is_scrolled_by_the_wheel_and_a_click_runs_a_command(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("question_mark")
        lines = pilot.app.screen.query_one(CommandLines)
        await pilot.click(CommandLines, offset=(5, 0))  # a heading
        assert isinstance(pilot.app.screen, CommandList)
        lines.post_message(MouseScrollDown(lines, 1, 1, 0, 1, 0, False, False, False))
        await until(pilot, lambda: lines.scroll_offset.y > 0)
        index = next(i for i, each in enumerate(lines.lines) if getattr(each, "name", "") == "runs.queries")
        await pilot.click(CommandLines, offset=(5, index - lines.scroll_offset.y))
        await until(pilot, lambda: isinstance(pilot.app.screen, Pick))

    drive(console(runs, queries={"lost ones": "state=lost"}), script)


def test_only_visible_lines_are_drawn(runs, monkeypatch):
    drawn, draw = set(), CommandLines.render_line
    monkeypatch.setattr(CommandLines, "render_line", lambda self, y: drawn.add(y) or draw(self, y))

    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("question_mark")
        await until(pilot, "Show the runs that match")
        lines = pilot.app.screen.query_one(CommandLines)
        assert max(drawn) < lines.size.height < len(lines.lines)

    drive(console(runs), script)


def test_commands_of_a_chart_without_the_focus_are_listed_and_run(runs):
    async def script(pilot):
        await until(pilot, lambda: isinstance(pilot.app.screen, ComparePage))
        page = pilot.app.screen
        chart = page.query_one("#accuracies", Chart)
        assert page.focused is not chart
        assert {"chart.log", "chart.closer"} <= {each.name for each in list_commands(page)}
        await pilot.press("question_mark", *"chart.log", "enter")
        await until(pilot, lambda: chart.log_axis)
        assert page.focused is chart

    drive(console(runs, opening=CompareRuns([runs / "ended", runs / "broken"])), script)


def test_remapped_keys_are_shown(runs):
    async def script(pilot):
        await until(pilot, "gone")
        keys = {each.name: each.keys for each in list_commands(pilot.app.screen)}
        assert keys["runs.turn"] == "z"
        assert keys["table.down"] == "j"

    drive(console(runs, keys={"runs.turn": "z"}), script)


def test_the_palette_has_themes_and_saved_queries(runs):
    async def script(pilot):
        await until(pilot, "gone")
        await pilot.press("ctrl+p", *"light", "enter")
        await until(pilot, lambda: pilot.app.theme == "cfm-light")
        await pilot.press("ctrl+p", *"lost", "space", *"ones", "enter")
        await until(pilot, "Runs · 1 of 4")
        await pilot.press("ctrl+p")
        assert all(each.text for each in listed(pilot) if isinstance(each, Command))
        assert isinstance(pilot.app.screen, CommandList)

    drive(console(runs, queries={"lost ones": "state=lost"}), script)


def test_help_at_every_size(runs):
    for name in ("done", "ended", "broken", "gone"):
        path = runs / name / "manifest.json"
        write_json(path, {**read_json(path), "created": ""})

    async def script(pilot):
        await until(pilot, "gone")
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await pilot.press("question_mark")
            await pilot.pause(0.3)
            lines = [line.strip(" ") for line in shown(pilot).splitlines() if "│" in line]
            box = [line[line.index("│") : line.rindex("│") + 1] for line in lines]
            golden(f"help-{size[0]}x{size[1]}", "\n".join(box) + "\n")
            await pilot.press("escape")

    drive(console(runs), script)


OFFERS = [
    Offer("— group", barred=True),
    Offer(
        "one",
        "a note that is too long for one line of most terminals",
        columns=("10/class", "convnet"),
    ),
    Offer("another", "short", columns=("1/class", "resnet18")),
]


@pytest.mark.parametrize(
    ("size", "lines"),
    [
        (
            (120, 40),
            ["  one      10/class  convnet   a note that is too long for one line of most terminals"],
        ),
        (
            (80, 24),
            [
                "  one      10/class  convnet   a note that is too long for one line of",
                "most terminals",
            ],
        ),
        ((40, 12), ["  one      10/class  convnet", "      a note that is too long"]),
    ],
)
def test_a_list_is_as_wide_as_its_lines_and_wraps_notes(runs, size, lines):
    async def script(pilot):
        await until(pilot, "gone")
        pilot.app.push_screen(Pick("Which?", OFFERS, "another"))
        await until(pilot, "Which?")
        text = shown(pilot)
        assert [line for line in lines if line not in text] == []
        assert "▸ another" in text
        assert "…" not in text.partition("Which?")[2].partition("└")[0]
        chosen = []
        pilot.app.pop_screen()
        pilot.app.push_screen(Pick("Which?", OFFERS, "another"), chosen.append)
        await pilot.press("up", "enter")
        await pilot.pause()
        assert chosen == ["one"]

    drive(console(runs), script, size)


def test_a_list_fits_the_terminal_when_that_is_resized(runs):
    async def script(pilot):
        await until(pilot, "gone")
        pilot.app.push_screen(Pick("Which?", OFFERS))
        await until(pilot, "10/class")
        await pilot.press("down")
        await pilot.resize_terminal(40, 12)
        await pilot.pause()
        assert "▸ another" in shown(pilot)
        await pilot.resize_terminal(26, 12)
        await pilot.pause()
        assert "▸ another" in shown(pilot)
        assert "class" not in shown(pilot)

    drive(console(runs), script)
