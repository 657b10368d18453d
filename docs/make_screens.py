"""Draw the screens that the documentation shows, as SVG, from real runs.

    python docs/make_screens.py RUN

RUN: a finished run, such as that of `cfm run`; the page of runs shows those beside it, too. Writes
docs/screens/*.svg.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from cfm_tui.console.app import ConsoleApp
from cfm_tui.console.engine_link import Configure, OpenRun
from cfm_tui.console.preferences import Preferences
from cfm_tui.display.terminal import Terminal

SCREENS = Path(__file__).parent / "screens"
SIZE = (120, 40)
TERMINAL = Terminal(unicode=True, braille=True, blocks=True, colours="true")


async def draw(opening: Configure | OpenRun | None, runs: Path, keys: list[str], seconds: float) -> str:
    """Return the screen of a page, `seconds` after the last key."""
    app = ConsoleApp(Preferences(theme="cfm-dark", fps=10.0), TERMINAL, runs, read_only=opening is None)
    app.opening = opening
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(2.0)
        await pilot.press(*keys)
        await pilot.pause(seconds)
        return app.export_screenshot(title="cfm-tui")


def main() -> None:
    """Draw all screens."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    SCREENS.mkdir(exist_ok=True)
    pages: dict[str, tuple[Configure | OpenRun | None, list[str], float]] = {
        "runs": (None, [], 2.0),
        "new": (Configure(), ["3", "v"], 30.0),
        "monitor": (OpenRun(run), [], 4.0),
    }
    for name, (opening, keys, seconds) in pages.items():
        svg = asyncio.run(draw(opening, run.parent, keys, seconds))
        (SCREENS / f"{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
