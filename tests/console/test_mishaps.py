"""Pages when what they read is renamed, or cannot be read, while they look at it."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace

import pytest
from consoles import console, drive, shown, until
from images_run import add_batch, with_images
from monitored import made, recovering

from cfm_tui.console import driver
from cfm_tui.console.app import ConsoleApp
from cfm_tui.console.engine_link import CompareRuns, OpenGallery, OpenRun
from cfm_tui.console.screens import compare, monitor
from cfm_tui.console.screens.compare import ComparePage
from cfm_tui.console.screens.gallery import GalleryPage
from cfm_tui.console.screens.zoom import ZoomPage
from engine.errors import UserError
from engine.runs import preview
from engine.store import images, lock


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


def gallery(folder):
    return console(folder.parent, opening=OpenGallery(folder), images="ascii")


async def opened(pilot):
    await until(pilot, lambda: getattr(pilot.app.screen, "pictures", None) is not None)


async def zoomed(pilot):
    await opened(pilot)
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, ZoomPage))
    await until(pilot, "class ant   batch 1")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("disk", "the journal is gone", "restore it"), ["the journal is gone", "→ restore it"]),
        (RuntimeError("no such luck"), ["RuntimeError", "no such luck"]),
    ],
)
def test_a_record_that_cannot_be_opened_says_why(tmp_path, monkeypatch, error, said):
    def fail(run):
        raise error

    folder = made(tmp_path / "seen", recovering)
    monkeypatch.setattr(monitor, "RunModel", fail)

    async def script(pilot):
        await until(pilot, "the record cannot be read")
        await pilot.press("1")
        await pilot.pause(0.3)
        text = shown(pilot)
        assert [each for each in said if each not in text] == []
        assert "reading the record" not in text

    drive(console(folder.parent, opening=OpenRun(folder)), script, (120, 40))


def test_settings_that_cannot_be_compared_are_told(tmp_path, monkeypatch):
    def fail(folder):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(compare, "read_settings", fail)
    folders = [made(tmp_path / name, recovering) for name in "ab"]

    async def script(pilot):
        await until(pilot, lambda: isinstance(pilot.app.screen, ComparePage))
        await until(pilot, "no such luck")
        await until(pilot, lambda: "Settings that differ: reading" not in shown(pilot))

    drive(console(tmp_path, opening=CompareRuns(folders)), script)


@pytest.mark.parametrize("kind", [UserError("disk", "no such luck", "wait"), RuntimeError("no such luck")])
def test_a_set_that_cannot_be_read_is_opened_once(tmp_path, monkeypatch, kind):
    run, _ = with_images(tmp_path / "torn")
    run.close("finished")
    tries = []

    def fail(place):
        tries.append(place)
        raise kind

    with monkeypatch.context() as patch:
        patch.setattr(images, "Reader", fail)

        async def script(pilot):
            await until(pilot, "no such luck")
            await pilot.pause(0.5)
            assert len(tries) == 1
            patch.undo()
            path = tmp_path / "torn" / "images" / images.TENSORS
            path.touch()  # restored
            await opened(pilot)

        drive(gallery(tmp_path / "torn"), script)


def test_a_set_that_is_finished_while_an_image_is_large_goes_on(tmp_path):
    run, writer = with_images(tmp_path / "live", batches=3)
    add_batch(writer, 4)

    async def script(pilot):
        await zoomed(pilot)
        page = pilot.app.screen
        writer.finish()
        page._pictures._cache[page._album.here] = "it is gone"  # read in the moment of the renaming
        page._show()
        await until(pilot, lambda: "it is gone" not in shown(pilot))
        assert page._album.reader.path.name == images.TENSORS
        await pilot.press("j", "j", "l", "l", "l")
        await until(pilot, "class cat   batch 4")
        await until(pilot, lambda: page._pictures.get(page._album.here) is not None)
        assert page._pictures.problem(page._album.here) == ""
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, GalleryPage)
        await until(pilot, "Images: 12 ·")

    drive(gallery(tmp_path / "live"), script, (120, 40))
    run.close("finished")


def test_a_class_that_is_gone_to_while_the_last_one_is_found_is_looked_for(tmp_path, monkeypatch):
    run, _ = with_images(tmp_path / "four")
    run.close("finished")
    asked, held = [], threading.Event()

    def slow(config, label, count):
        asked.append(label)
        held.wait(20)
        raise UserError("data", f"nothing of class {label}", "wait")

    monkeypatch.setattr(preview, "real_images", slow)

    async def script(pilot):
        await zoomed(pilot)
        page = pilot.app.screen
        await until(pilot, lambda: asked)
        truly, moved = page.call_in_ui, []

        def just_before(callback, *arguments):
            if not moved:  # the last moment at which the thread could have seen it
                moved.append(pilot.app.call_from_thread(page.action_row, 1))
            truly(callback, *arguments)

        page.call_in_ui = just_before
        held.set()
        await until(pilot, "nothing of class 1")
        assert asked == [0, 1]

    drive(gallery(tmp_path / "four"), script, (120, 40))


def test_what_libraries_print_is_kept_off_the_screen_and_told_at_the_end(capfd, monkeypatch):
    monkeypatch.setattr(driver.CapturedOutput, "MOST_BYTES", 5000)
    with driver.capture_output() as captured:
        os.write(1, b"lost\n" * 2000)
        captured.trim()
        os.write(2, b"a library warns\n")
        captured.trim()
        assert captured.tail() == "a library warns\n"
        os.write(1, b"x" * 3000)
        assert captured.tail() == "x" * driver.CapturedOutput.TAIL_BYTES
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("after\n", "")


def test_while_somebody_types_a_run_here_is_drawn_less(tmp_path, monkeypatch):
    drawn = []
    app = console(tmp_path)
    monkeypatch.setattr(ConsoleApp, "LONGEST_SECONDS", 0.5)
    monkeypatch.setattr(app._governor, "may_draw", lambda written, sharing: True)
    monkeypatch.setattr(app, "draw", lambda: drawn.append(time.monotonic()))

    async def typed(pilot, seconds):
        drawn.clear()
        until_then = time.monotonic() + seconds
        while time.monotonic() < until_then:
            await pilot.press("j")
            await pilot.pause(0.05)
        return len(drawn)

    async def script(pilot):
        assert await typed(pilot, 1.2) > 5
        app.session = SimpleNamespace(live=True, failure=lambda: None)
        await pilot.pause(0.2)
        assert 1 <= await typed(pilot, 1.2) <= 4
        drawn.clear()
        await pilot.pause(1.7)  # of which the first second is quiet
        assert len(drawn) > 5
        app.session = None

    drive(app, script)
