"""One image large, beside real ones of its class."""

from __future__ import annotations

import threading

import pytest
from consoles import console, drive, here, loaded, shown, until
from images_run import add_batch, with_images

from cfm_tui.console.engine_link import OpenGallery
from cfm_tui.console.screens.gallery import GalleryPage
from cfm_tui.console.screens.zoom import ZoomPage
from engine.errors import UserError
from engine.runs import preview
from engine.store import images, lock


@pytest.fixture(autouse=True)
def no_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


def gallery(folder, **options):
    return console(folder.parent, opening=OpenGallery(folder), **{"images": "ascii", **options})


async def has_pictures(pilot):
    await until(pilot, lambda: getattr(pilot.app.screen, "pictures", None) is not None)


async def zoomed(pilot):
    await has_pictures(pilot)
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, ZoomPage))
    await until(pilot, "class ant   batch 1")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with one run, whose four batches of three classes are finished."""
    place = tmp_path_factory.mktemp("runs")
    run, _ = with_images(place / "four")
    run.close("finished")
    return place


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


def test_one_image_is_shown_large_and_others_are_reached_from_there(place):
    async def script(pilot):
        await loaded(pilot)
        await pilot.press("enter")
        await until(pilot, "class ant   batch 1   β 0.1")
        assert isinstance(pilot.app.screen, ZoomPage)
        assert "teacher's confidence 50.0%" in shown(pilot)
        await pilot.press("right", "l")
        await until(pilot, "class ant   batch 3   β 0.05")
        await pilot.press("down", "h")
        await until(pilot, "class bee   batch 2")
        await pilot.press("k", "left")
        await until(pilot, "class ant   batch 1")
        await pilot.press("left", "up")
        await until(pilot, "class ant   batch 1")
        await pilot.press("j", "space")
        await until(pilot, "class bee   batch 2")
        await until(pilot, "@@@")
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, GalleryPage)
        assert here(pilot) == "bee 2"
        await pilot.press("enter", "escape")
        assert isinstance(pilot.app.screen, GalleryPage)

    drive(gallery(place / "four"), script)


def test_real_images_of_the_class_stand_beside_it(finished):
    async def script(pilot):
        await loaded(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: "Real" in shown(pilot) and "looking" not in shown(pilot), 60)
        assert "Real: ape" in shown(pilot)
        assert [len(found) > 3 for found in pilot.app.screen._real.values()] == [True]
        assert any(
            line.split("│")[-1].rstrip().endswith("2") or " 2 " in line for line in shown(pilot).splitlines()
        )

    drive(gallery(finished), script, (120, 40))


def test_it_says_that_it_looks_for_the_data(place, monkeypatch):
    held = threading.Event()

    def slow(config, label, count):
        held.wait(30)
        raise UserError("data", "the disk was pulled out", "put it back")

    monkeypatch.setattr(preview, "real_images", slow)

    async def script(pilot):
        await loaded(pilot)
        await pilot.press("enter")
        await until(pilot, "looking for the data")
        await pilot.press("j", "k")
        held.set()
        await until(pilot, "the disk was pulled out")
        assert "→ put it back" in shown(pilot)

    drive(gallery(place / "four"), script)


def test_data_that_is_not_there_is_told_in_place(tmp_path):
    text = f"data: {{name: cifar10, root: {tmp_path}/none}}\nbackbone: {{name: convnet}}\n"
    run, _ = with_images(tmp_path / "lonely", text=text)
    run.close("finished")

    async def script(pilot):
        await loaded(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: "looking" not in shown(pilot) and "Real" in shown(pilot), 60)
        assert "→" in shown(pilot)
        assert "cifar" in shown(pilot).lower()

    drive(gallery(tmp_path / "lonely"), script, (120, 40))
