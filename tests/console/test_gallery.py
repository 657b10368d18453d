"""The gallery: every key and flow, on runs that are finished, at work, damaged, or have no images yet."""

from __future__ import annotations

import numpy as np
import pytest
from consoles import SIZES, console, drive, golden, here, loaded, shown, until
from images_run import BETAS, CLASSES, add_batch, with_images
from recorded import opened
from textual.events import MouseScrollDown, MouseScrollUp

from cfm_tui.console.engine_link import OpenGallery, OpenRun
from cfm_tui.console.screens.gallery import GalleryPage
from cfm_tui.console.screens.monitor import MonitorPage
from cfm_tui.console.screens.zoom import ZoomPage
from cfm_tui.console.widgets.images import Thumbnails, Wall
from cfm_tui.display.graphics import PLACEHOLDER
from engine import events
from engine.errors import UserError
from engine.store import images
from engine.store.preview import Preview
from engine.store.rows import Rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with one run, whose four batches of three classes are finished."""
    place = tmp_path_factory.mktemp("runs")
    run, _ = with_images(place / "four")
    run.close("finished")
    return place


def gallery(folder, **options):
    return console(folder.parent, opening=OpenGallery(folder), **{"images": "ascii", **options})


def test_rows_are_classes_and_columns_go_by_beta(place):
    async def script(pilot):
        await loaded(pilot)
        text = shown(pilot)
        assert "12 · 1,1 of 3×4 · classes × β" in text
        first = next(line for line in text.splitlines() if line.startswith("ant"))
        assert [f"β {beta:.3g}" in first for beta in BETAS] == [True] * 4
        assert "ant · batch 1 · β 0.1 · teacher 50.0%" in text
        await pilot.press("b")
        assert "4×3 · β × classes" in shown(pilot)
        first = next(line for line in shown(pilot).splitlines() if line.startswith("β 0.1"))
        assert all(name in first for name in CLASSES)

    drive(gallery(place / "four"), script, (120, 40))


def test_the_title_of_a_set_without_beta_names_none(tmp_path):
    run = opened(tmp_path / "given")
    writer = run.image_writer((3, 1, 16, 16), CLASSES)
    writer.add(np.zeros((3, 1, 16, 16)), np.arange(3), 1, np.nan, np.full(3, np.nan))
    writer.finish()
    run.close("finished")

    async def script(pilot):
        await loaded(pilot)
        assert "classes × images" in shown(pilot)
        await pilot.press("b")
        assert "images × classes" in shown(pilot)

    drive(gallery(tmp_path / "given"), script, (120, 40))


@pytest.fixture
def one_each(tmp_path):
    """A run whose recovery has finished seven of ten classes, of an image each."""
    run = opened(tmp_path / "ten")
    run.record(events.StageStarted("recover", 8, "iterations"))
    writer = run.image_writer((10, 1, 8, 8), [f"class{number}" for number in range(10)])
    pixels = np.linspace(0, 1, 7).reshape(7, 1, 1, 1) * np.ones((1, 1, 8, 8))
    writer.add(pixels.astype(np.float32), np.arange(7), 1, 0.1, np.ones(7, np.float32))
    yield run
    run.close("finished")


def test_classes_of_one_image_fill_the_page(one_each):
    async def script(pilot):
        await loaded(pilot)
        text = shown(pilot)
        assert "7 of 10 so far · 1,1 of 2×6 · 6 classes in a row" in text
        assert "[class0 β 0.1    ] class1 β 0.1 " in text
        for keys, wanted in (
            (("l", "l"), "class2"),
            (("j",), "class6"),  # the last one that is finished
            (("k", "end"), "class6"),
            (("home", "right"), "class1"),
            (("pagedown", "pageup"), "class0"),
        ):
            await pilot.press(*keys)
            assert here(pilot) == f"{wanted} 1", keys
        wall = pilot.app.screen.query_one(Wall)
        await pilot.click(wall, offset=(4 * 18 + 3, 3))
        assert here(pilot) == "class4 1"
        await pilot._post_mouse_events([MouseScrollDown], wall, button=0)
        assert here(pilot) == "class6 1"
        await pilot.press("b")
        assert "1,7 of 1×10 · β × classes" in shown(pilot)
        await pilot.press("b", "slash", *"class5", "enter")
        assert "1,1 of 1×1 · class5" in shown(pilot)
        await pilot.press("slash", *["backspace"] * 6, "enter")
        assert "1,6 of 2×6 · 6 classes in a row" in shown(pilot)

    drive(gallery(one_each.folder), script, (120, 40))


def test_rows_of_classes_that_wrap_scroll_and_show_the_batch_in_work(one_each):
    async def script(pilot):
        await loaded(pilot)
        await pilot.press("plus", "plus")
        await until(pilot, "1,1 of 5×2 · 2 classes")
        pixels = np.zeros((3, 1, 8, 8), np.uint8)
        one_each.save_preview(Preview(2, 5, 0.1, pixels, np.arange(7, 10), {}, 0.0))
        await until(pilot, "7 of 10 so far, 3 unfinished ◌")
        await pilot.press("G")
        await until(pilot, "[◌ class9 β 0.1")
        assert "5,2 of 5×2" in shown(pilot)
        assert "class0" not in shown(pilot)
        await pilot.press("enter", "left")
        await until(pilot, "class class8   batch 2")

    drive(gallery(one_each.folder), script, (60, 18))


def test_the_cursor_goes_everywhere(place):
    async def script(pilot):
        await loaded(pilot)
        for keys, wanted in (
            (("right",), "ant 2"),
            (("l", "j"), "bee 3"),
            (("down",), "cat 3"),
            (("h", "left", "k"), "bee 1"),
            (("up", "up"), "ant 1"),
            (("G",), "cat 4"),
            (("g",), "ant 1"),
            (("pagedown",), "cat 1"),
            (("pageup",), "ant 1"),
            (("end",), "cat 4"),
            (("b",), "cat 4"),
            (("h",), "bee 4"),
            (("k",), "bee 3"),
            (("home",), "ant 1"),
        ):
            await pilot.press(*keys)
            assert here(pilot) == wanted, keys
            assert f"{wanted.split()[0]} · batch {wanted.split()[1]}" in shown(pilot)

    drive(gallery(place / "four"), script)


def test_one_class_alone_flows_over_the_width(place):
    async def script(pilot):
        await loaded(pilot)
        await pilot.press("j", "o")
        assert "1,1 of 1×4 · bee" in shown(pilot)
        await pilot.press("plus", "plus", "equals_sign")
        await until(pilot, "1,1 of 2×3 · bee")
        await pilot.press("l", "j")
        assert here(pilot) == "bee 4"  # the last row has only one
        await pilot.press("minus", "minus", "minus", "minus")
        assert "1,4 of 1×4 · bee" in shown(pilot)
        await pilot.press("o")
        assert "2,4 of 3×4" in shown(pilot)

    drive(gallery(place / "four"), script)


def test_classes_are_filtered_by_name(place):
    async def script(pilot):
        await loaded(pilot)
        await pilot.press("slash", "a")
        assert "of 2×4" in shown(pilot)
        await pilot.press("backspace", *"zz")
        assert "no class has 'zz' in its name" in shown(pilot)
        await pilot.press("enter", "j", "l", "enter", "G", "b", "o")
        assert isinstance(pilot.app.screen, GalleryPage)
        await pilot.press("slash", "backspace", "backspace", *"Cat", "enter")
        assert "of 1×4 · cat" in shown(pilot)
        await pilot.press("slash", "backspace", "backspace", "backspace", "enter")
        assert "of 4×3" in shown(pilot)
        assert not pilot.app.screen.query_one("#filter").has_class("-open")

    drive(gallery(place / "four"), script)


def test_a_run_at_work_shows_what_is_there_and_grows(tmp_path):
    run, writer = with_images(tmp_path / "live", batches=2)

    async def script(pilot):
        await loaded(pilot)
        assert "6 of 12 so far" in shown(pilot)
        await pilot.press("l")
        add_batch(writer, 3)
        await until(pilot, "9 of 12 so far")
        assert here(pilot) == "ant 2"
        add_batch(writer, 4)
        writer.finish()
        await until(pilot, "Images: 12 ·")
        await pilot.press("G")
        await loaded(pilot)
        assert here(pilot) == "cat 4"

    drive(gallery(tmp_path / "live"), script)
    run.close("finished")


def test_images_of_the_batch_in_work_are_shown_as_they_become(tmp_path):
    run, writer = with_images(tmp_path / "live", batches=2)

    def preview(iteration, level):
        pixels = np.full((3, 1, 16, 16), 255, np.uint8)
        pixels[:, :, :, :level] = 0
        return Preview(3, iteration, 0.05, pixels, np.arange(3), {}, 0.0)

    async def script(pilot):
        await loaded(pilot)
        assert "◌" not in shown(pilot)
        run.save_preview(preview(20, 4))
        await until(pilot, "6 of 12 so far, 3 unfinished ◌")
        await until(pilot, "◌ β 0.05")
        await pilot.press("l", "l")
        await until(pilot, "ant · batch 3 · β 0.05 · unfinished, iteration 20")
        before = [line for line in shown(pilot).splitlines() if "@@@" in line]
        run.save_preview(preview(30, 8))
        await until(pilot, "unfinished, iteration 30")
        assert [line for line in shown(pilot).splitlines() if "@@@" in line] != before
        await pilot.press("enter")
        await until(pilot, "unfinished, iteration 30")
        run.save_preview(preview(40, 8))
        await until(pilot, "unfinished, iteration 40")
        await pilot.press("escape")
        add_batch(writer, 3)
        await until(pilot, "9 of 12 so far ·")
        assert here(pilot) == "ant 3"
        await until(pilot, "ant · batch 3 · β 0.05 · teacher 16.7%")
        assert "◌" not in shown(pilot)

    drive(gallery(tmp_path / "live"), script, (120, 40))
    run.close("finished")


def test_the_first_batch_is_shown_before_any_is_finished(tmp_path):
    run, _ = with_images(tmp_path / "live", batches=0)

    async def script(pilot):
        await until(pilot, "No images yet")
        run.save_preview(Preview(1, 0, 0.1, np.zeros((3, 1, 16, 16), np.uint8), np.arange(3), {}, 0.0))
        await until(pilot, "0 of 12 so far, 3 unfinished ◌")
        await until(pilot, "◌ β 0.1")

    drive(gallery(tmp_path / "live"), script)
    run.close("finished")


def test_it_says_when_there_will_be_images(tmp_path):
    run = opened(tmp_path / "early")

    async def script(pilot):
        await until(pilot, "No images yet: the run is running")
        run.record(events.StageStarted("squeeze", 8, "epochs"))
        await until(pilot, "in its stage squeeze")
        await pilot.press("enter", "l", "j", "G", "b", "o", "plus", "pagedown")
        assert isinstance(pilot.app.screen, GalleryPage)
        run.record(events.StageStarted("recover", 8, "iterations"))
        writer = run.image_writer((3, 1, 16, 16), CLASSES)
        await until(pilot, "in its stage recover")
        add_batch(writer, 1)
        writer.finish()
        await until(pilot, "Images: 3 ·")

    drive(gallery(tmp_path / "early"), script)
    run.close("finished")


@pytest.mark.parametrize(("state", "told"), [("failed", "resumes it"), ("finished", "were removed")])
def test_a_run_that_ended_without_images_says_so(tmp_path, state, told):
    opened(tmp_path / "over").close(state, "no room" if state == "failed" else "")

    async def script(pilot):
        await until(pilot, told)

    drive(gallery(tmp_path / "over"), script)


def test_images_can_be_off(place):
    async def script(pilot):
        await until(pilot, "12 of 12 images exist")
        assert "--images" in shown(pilot)
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, GalleryPage)
        assert not pilot.app.screen.pictures._cache

    drive(gallery(place / "four", images="off"), script)


def test_a_damaged_image_is_told_where_it_stands(tmp_path):
    run, _ = with_images(tmp_path / "hurt")
    run.close("finished")
    path = tmp_path / "hurt" / "images" / images.TENSORS
    part = Rows(path).header.parts["images"]
    with path.open("r+b") as file:
        file.seek(part.start + 3 * part.size // 12)
        file.write(b"\x00\x01\x02\x03")

    async def script(pilot):
        await loaded(pilot)
        await pilot.press("l")
        await until(pilot, "image 3 does not match its checksum")
        assert "damaged" in shown(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ZoomPage))
        await until(pilot, "image 3 does not match its checksum")

    drive(gallery(tmp_path / "hurt"), script, (200, 60))


def test_a_set_that_cannot_be_read_is_told(tmp_path):
    run, _ = with_images(tmp_path / "torn")
    run.close("finished")
    (tmp_path / "torn" / "images" / images.TENSORS).write_bytes(b"nothing")

    async def script(pilot):
        await until(pilot, "is damaged")
        await until(pilot, "→")

    drive(gallery(tmp_path / "torn"), script)


def test_only_what_is_seen_is_read(place):
    async def script(pilot):
        await loaded(pilot)
        page = pilot.app.screen
        wall = page.query_one(Wall)
        seen = (wall.down + wall.partial_rows) * wall.across
        assert len(page.pictures._cache) <= seen < 12
        await pilot.press("G")
        await loaded(pilot)
        assert page.album.here in page.pictures._cache

    drive(gallery(place / "four"), script, (40, 12))


def test_a_click_moves_the_cursor_and_another_one_zooms(place):
    async def script(pilot):
        await loaded(pilot)
        wall = pilot.app.screen.query_one(Wall)
        await pilot.click(wall, offset=(wall.size.width - 1, wall.size.height - 1))
        await pilot.click(wall, offset=(5 + 14 + 6, 3))
        assert here(pilot) == "ant 2"
        await pilot.click(wall, offset=(5 + 14 + 6, 3))
        await until(pilot, lambda: isinstance(pilot.app.screen, ZoomPage))

    drive(gallery(place / "four"), script)


@pytest.mark.parametrize("mode", ["ascii", "half"])
def test_resizing_and_themes_break_nothing(place, mode):
    async def script(pilot):
        await loaded(pilot)
        for size in ((20, 6), (3, 2), (200, 60), (40, 12), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            await pilot.press("l", "plus")
        for theme in ("cfm-light", "cfm-mono"):
            pilot.app.theme = theme
            await pilot.pause()
        await pilot.press("enter")
        for size in ((20, 6), (3, 2), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
        await until(pilot, "class ant")

    drive(gallery(place / "four", images=mode), script)


@pytest.mark.parametrize("size", SIZES)
def test_the_screens_at_every_size(tmp_path, size):
    text = f"data: {{name: cifar10, root: {tmp_path}}}\nbackbone: {{name: convnet}}\n"
    run, _ = with_images(tmp_path / "four", text=text)
    run.close("finished")

    async def script(pilot):
        await loaded(pilot)
        golden(f"gallery-{size[0]}x{size[1]}", shown(pilot))
        await pilot.press("l", "b")
        await loaded(pilot)
        golden(f"gallery-by-beta-{size[0]}x{size[1]}", shown(pilot))
        await pilot.press("enter")
        page = pilot.app.screen
        await until(pilot, lambda: page._real and "looking" not in shown(pilot), 60)
        for label in page._real:  # what is not found has a path in it
            page._real[label] = np.stack([np.uint8(255 * np.tri(16))[None, ::-1]] * 9)
        page._show()
        await pilot.pause()
        golden(f"gallery-large-{size[0]}x{size[1]}", shown(pilot))

    drive(gallery(tmp_path / "four"), script, size)


async def has_pictures(pilot):
    await until(pilot, lambda: getattr(pilot.app.screen, "pictures", None) is not None)


@pytest.mark.parametrize("kind", [UserError("disk", "no such luck", "wait"), RuntimeError("no such luck")])
def test_a_set_that_cannot_be_read_is_opened_once(tmp_path, monkeypatch, kind):
    run, _ = with_images(tmp_path / "torn")
    run.close("finished")
    tries = []

    def fail(place):
        tries.append(place)
        raise kind

    with monkeypatch.context() as patch:
        patch.setattr("cfm_tui.console.screens.gallery.LiveReader", fail)

        async def script(pilot):
            await until(pilot, "no such luck")
            await pilot.pause(0.5)
            assert len(tries) == 1
            patch.undo()
            path = tmp_path / "torn" / "images" / images.TENSORS
            path.touch()  # restored
            await has_pictures(pilot)

        drive(gallery(tmp_path / "torn"), script)


def test_pixels_are_saved_as_half_blocks_and_come_back(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def script(pilot):
        await loaded(pilot)
        await until(pilot, PLACEHOLDER)
        for letter, suffix in (("t", "txt"), ("p", "svg")):
            await pilot.press("e", letter)
            await until(pilot, lambda suffix=suffix: any(tmp_path.glob(f"*.{suffix}")))
            saved = next(tmp_path.glob(f"*.{suffix}")).read_text("utf-8")
            assert PLACEHOLDER not in saved
            assert "▀▀" in saved
            await until(pilot, PLACEHOLDER)

    drive(gallery(place / "four", images="kitty"), script)


def test_images_in_pixels_are_sent_again_after_the_console_was_suspended(place):
    async def script(pilot):
        await loaded(pilot)
        await until(pilot, PLACEHOLDER)
        before = len(pilot.app.graphics._by_number)
        last = max(pilot.app.graphics._by_number)
        assert before
        pilot.app.app_resume_signal.publish(pilot.app)
        await until(pilot, lambda: pilot.app.graphics._by_number)
        await until(pilot, lambda: len(pilot.app.graphics._by_number) == before)
        assert min(pilot.app.graphics._by_number) > last

    drive(gallery(place / "four", images="kitty"), script)


def test_the_wheel_goes_through_rows_and_images(place):
    async def script(pilot):
        await loaded(pilot)
        wall = pilot.app.screen.query_one(Wall)
        await pilot._post_mouse_events([MouseScrollDown], wall, button=0)
        assert here(pilot) == "bee 1"
        await pilot._post_mouse_events([MouseScrollUp], wall, button=0)
        assert here(pilot) == "ant 1"
        await pilot.press("enter")
        await until(pilot, "class ant   batch 1")
        await pilot._post_mouse_events([MouseScrollDown], "#large", button=0)
        await until(pilot, "class ant   batch 2")
        await pilot._post_mouse_events([MouseScrollUp], "#large", button=0)
        await until(pilot, "class ant   batch 1")

    drive(gallery(place / "four"), script)


@pytest.mark.parametrize(("image", "shown_as"), [((None, 5), "cat   batch 2"), ((3, 1), "bee   batch 3")])
def test_the_gallery_opens_with_an_image_large(place, image, shown_as):
    async def script(pilot):
        await until(pilot, f"class {shown_as}")
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, GalleryPage)

    drive(console(place, opening=OpenGallery(place / "four", image), images="ascii"), script)


def test_an_image_that_does_not_exist_is_not_shown_large(place):
    async def script(pilot):
        await loaded(pilot)
        assert isinstance(pilot.app.screen, GalleryPage)

    drive(console(place, opening=OpenGallery(place / "four", (9, 0)), images="ascii"), script)


@pytest.mark.parametrize("with_preview", [True, False])
def test_a_click_on_an_image_of_the_monitor_shows_it_large(tmp_path, with_preview):
    run, _ = with_images(tmp_path / "live", batches=2)
    if with_preview:
        images_MCHW = np.stack([np.full((1, 16, 16), 80 * n, np.uint8) for n in range(3)])
        run.save_preview(Preview(3, 20, 0.05, images_MCHW, np.arange(3), {}, 0.0))

    async def script(pilot):
        await until(pilot, "it 20" if with_preview else "6 of 12")
        thumbnails = pilot.app.screen.query_one(Thumbnails)
        await until(pilot, lambda: thumbnails._strips)
        size = thumbnails._cells_wide
        await pilot.click(thumbnails, offset=(size + 1, 1))  # between two
        assert isinstance(pilot.app.screen, MonitorPage)
        await pilot.click(thumbnails, offset=(size + 3, 1))
        await until(pilot, f"class bee   batch {3 if with_preview else 1}")

    drive(console(tmp_path, opening=OpenRun(tmp_path / "live"), images="ascii"), script, (120, 40))
    run.close("stopped")
