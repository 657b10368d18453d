"""A widget alone in an application without anything else."""

from __future__ import annotations

import asyncio

from rich.segment import Segment
from textual.app import App
from textual.strip import Strip

from cfm_tui.console.driver import keep_only_changes
from cfm_tui.console.widgets.chart import Chart
from cfm_tui.display.terminal import Terminal

FULL = Terminal(unicode=True, braille=True, blocks=True, colours=256)
ASCII = Terminal(unicode=False, braille=False, blocks=False, colours=0)


class Bare(App[None]):
    """One widget on the whole screen; counts what a terminal would be sent."""

    CSS = "Screen > * { width: 100%; height: 100%; }"

    def __init__(self, widget, terminal: Terminal = FULL, image_mode: str = "auto") -> None:
        super().__init__()
        self.widget, self.terminal, self.image_mode = widget, terminal, image_mode
        self.sent, self.views = 0, []
        self.regions: list[tuple[int, int, int]] = []

    def compose(self):
        yield self.widget

    def on_mount(self) -> None:
        self.widget.focus()

    def _display(self, screen, renderable) -> None:
        renderable = keep_only_changes(renderable)
        if renderable is not None and hasattr(renderable, "render_segments"):
            self.sent += len(renderable.render_segments(self.console).encode())
            self.regions += getattr(renderable, "spans", [])
        super()._display(screen, renderable)

    def on_chart_viewed(self, event: Chart.Viewed) -> None:
        self.views.append(event.view)

    def forget(self) -> None:
        self.sent, self.regions = 0, []


def play(app: Bare, story, size=(60, 14)) -> None:
    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await story(pilot)

    asyncio.run(run())


def screen(app: Bare) -> list[str]:
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def lines(*texts: str) -> list[Strip]:
    return [Strip([Segment(text)]) for text in texts]
