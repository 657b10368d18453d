"""The question where to resume a run, in this console or in a separate process."""

from __future__ import annotations

from pathlib import Path

from cfm_tui.console.engine_link import Launch
from cfm_tui.console.screens.base import Page
from cfm_tui.console.screens.dialogs import Choice


def ask_to_resume(page: Page, folder: Path) -> None:
    """Ask where to resume a run, and resume it there."""

    def resume(answer: str | None) -> None:
        from cfm_tui.process.detach import start_detached

        if answer == "here":
            page.post_message(Launch(None, folder.name, folder))
        elif answer == "detached":
            page.notify(f"{folder.name}: starting a process that resumes it")
            page.run_in_thread(start_detached, folder)  # it takes a while to start

    answers = [("here", "here, in this console"), ("detached", "detached, in a separate process")]
    page.app.push_screen(Choice(f"Resume {folder.name}?", answers), resume)
