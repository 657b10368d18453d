"""The monitor of runs at rest: the images that they keep, and what its last line offers."""

from __future__ import annotations

import pytest
from consoles import shown, until
from images_run import with_images
from monitored import before_recovery, made, recovering, watch

from engine.store import lock


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


def keys(pilot):
    """The line with the keys of the page."""
    return shown(pilot).splitlines()[-2]


@pytest.mark.parametrize("text", ["objective: random\n", "seed: 0\n"])
@pytest.mark.parametrize("batches", [2, 4])
def test_images_that_no_recovery_shows_as_it_goes_are_shown(tmp_path, text, batches):
    run, writer = with_images(tmp_path / "seen", batches=batches, text=text)
    writer.close()
    run.close("finished")

    async def script(pilot, page):
        await until(pilot, "3 Images · 12" if batches == 4 else "3 Images · 6 of 12")
        await until(pilot, lambda: len(page._images._images) == 3 * batches)
        assert page._images._labels[:3] == ["ant", "bee", "cat"]
        assert "ant" in shown(pilot)

    watch(tmp_path / "seen", script, (120, 40))


def test_a_run_without_images_says_so(tmp_path):
    folder = made(tmp_path / "seen", before_recovery, "stopped")

    async def script(pilot, page):
        await until(pilot, lambda: "3 Images · none" in shown(pilot) and "none yet" not in shown(pilot))

    watch(folder, script, (120, 40))


@pytest.mark.parametrize(("state", "offered"), [("running", True), ("stopped", False)])
def test_the_last_line_offers_what_can_be_done(tmp_path, state, offered):
    folder = made(tmp_path / "seen", recovering, state)

    async def script(pilot, page):
        await until(pilot, state.upper())
        await until(pilot, lambda: ("space pause" in keys(pilot)) is offered)
        assert ("S stop" in keys(pilot)) is ("w save" in keys(pilot)) is offered
        assert "D leave running" not in keys(pilot)  # it is not at work here
        assert "i gallery" in keys(pilot)

    watch(folder, script)
