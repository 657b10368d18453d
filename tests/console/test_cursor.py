"""Where the cursor is, is seen without colours."""

from __future__ import annotations

import pytest
from consoles import console, drive, until

from cfm_tui.console.engine_link import CompareRuns, Configure, OpenGallery
from cfm_tui.display.terminal import Terminal

GREY = Terminal(unicode=True, braille=True, blocks=True, colours=0)


def marked(pilot) -> list[int]:
    """The lines below the tabs that have a mark, or reversed cells."""
    screen = pilot.app.screen
    found = []
    for y, strip in enumerate(screen._compositor.render_strips(screen.size)[1:], 1):
        reversed_text = "".join(part.text for part in strip if part.style and part.style.reverse)
        if "▸" in strip.text or reversed_text.strip():
            found.append(y)
    return found


OPENINGS = {
    "runs": (lambda runs: None, "gone", ()),
    "form": (lambda runs: Configure(), "data set", ()),
    "presets": (lambda runs: Configure(), "data set", ("p",)),
    "choice": (lambda runs: None, "gone", ("e",)),
    "commands": (lambda runs: None, "gone", ("question_mark",)),
    "gallery": (lambda runs: OpenGallery(runs / "done"), "of 3×", ()),
    "compare": (lambda runs: CompareRuns([runs / "done", runs / "broken"]), "done", ()),
}


@pytest.mark.parametrize("how", ["theme", "variable"])
@pytest.mark.parametrize("where", OPENINGS)
def test_the_cursor_is_seen_and_moves(runs, monkeypatch, where, how):
    opening, text, keys = OPENINGS[where]
    if how == "variable":
        monkeypatch.setenv("NO_COLOR", "1")

    async def script(pilot):
        await until(pilot, text)
        await pilot.press(*keys)
        await pilot.pause(0.3)
        before = marked(pilot)
        assert before
        await pilot.press("down")
        await until(pilot, lambda: marked(pilot) != before)
        assert marked(pilot)

    theme = "cfm-mono" if how == "theme" else "cfm-dark"
    drive(console(runs, opening=opening(runs), terminal=GREY, theme=theme, images="ascii"), script, (100, 30))


def test_the_panel_with_the_focus_is_seen(runs):
    async def script(pilot):
        await until(pilot, "gone")
        assert any("1 Runs" in part.text for part in reversed_parts(pilot))

    def reversed_parts(pilot):
        strips = pilot.app.screen._compositor.render_strips(pilot.app.screen.size)
        return [part for strip in strips for part in strip if part.style and part.style.reverse]

    drive(console(runs, terminal=GREY, theme="cfm-mono"), script)
