"""One distilled image, large, beside real images of its class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from cfm_tui.console.pictures import SIDE, smaller
from cfm_tui.console.screens.base import Page, Panel
from cfm_tui.console.widgets.picture import Picture
from cfm_tui.console.widgets.showing import image_colours, images_of, is_light
from cfm_tui.console.widgets.thumbnails import Thumbnails, drawn
from cfm_tui.display.ascii_image import RAMP
from engine.errors import UserError
from engine.store import files, folders, images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cfm_tui.console.pictures import Pictures
    from cfm_tui.display.image_grid import Album
    from engine.store import StoredRun

LOOKING = "looking for the data"
MOST = 64  #: real images that are read of a class


class Large(Picture, can_focus=True):
    """One image, as large as there is room."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._pixels: NDArray[np.uint8] | None = None

    def show_image(self, pixels_CHW: NDArray[np.uint8] | None) -> None:
        """Show an image (uint8); None: nothing."""
        self._pixels = pixels_CHW
        self.draw()

    def on_mount(self) -> None:
        """A light theme has another ramp."""
        self.watch(self.app, "theme", self.draw, init=False)

    def on_resize(self) -> None:
        """In the new size."""
        self.draw()

    def draw(self) -> None:
        """Draw the image anew."""
        pixels, mode = self._pixels, images_of(self.app)
        if pixels is None or mode == "off" or not self.size.area:
            self.show([])
            return
        pixels = np.ascontiguousarray(pixels)
        _, high, wide = pixels.shape
        columns = max(min(self.size.width, 2 * self.size.height * wide // high), 1)
        ramp = RAMP[::-1] if is_light(self) else RAMP
        lines = drawn(pixels.tobytes(), pixels.shape, columns, mode, image_colours(self.app), ramp)
        self.show([Strip(line) for line in lines[: self.size.height]])


class ZoomPage(Page):
    """The image under an album's cursor, which is moved here, too.

    run: whose images these are; its stored settings say where the real ones come from.
    """

    HEADING = "image"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l,space", "step(1)", "next", id="zoom.next", tooltip="The next image"),
        Binding("left,h,backspace", "step(-1)", "before", id="zoom.before", tooltip="The image before"),
        Binding("down,j", "row(1)", "row below", id="zoom.down", tooltip="The image below it"),
        Binding("up,k", "row(-1)", "row above", id="zoom.up", tooltip="The image above it"),
        Binding("enter", "leave", "all", id="zoom.leave", tooltip="Back to all images"),
    ]
    DEFAULT_CSS = """
    ZoomPage {
        #large { height: 1fr; }
        #about { height: auto; }
        #said { height: auto; }
        #image, #real { width: 1fr; }
        #real { padding-left: 1; }
        &.-single #real { padding-left: 0; }
    }
    """

    def __init__(self, run: StoredRun, album: Album, pictures: Pictures) -> None:
        super().__init__()
        self._run, self._album, self._pictures = run, album, pictures
        self._config: Any = None
        self._real: dict[int, NDArray[np.uint8] | str] = {}
        self._looking = False
        self._stamp: object = None

    def body(self) -> Iterator[Widget]:
        """The image and what is known of it; real ones."""
        yield Container(
            Panel(1, "Distilled", Static(id="about", markup=False), Large(id="large"), id="image"),
            Panel(
                2, "Real", Static(LOOKING, id="said", markup=False), Thumbnails(id="thumbnails"), id="real"
            ),
            classes="columns holder",
        )

    def begin(self) -> None:
        """The image that was chosen."""
        self._show()

    def on_resize(self) -> None:
        """More or fewer real images have room."""
        self.call_after_refresh(self._show_real)

    def tick(self) -> None:
        """An image that was asked for may have been read; the set may be finished, with its final name."""
        if not os.path.exists(self._album.reader.path):
            self._reopen()
        if self._pictures.news():
            self._show()

    def _reopen(self) -> None:
        stamp = files.stamp(self._run.folder / folders.IMAGES / images.TENSORS)
        if stamp is not None and stamp != self._stamp:
            self._stamp = stamp
            self.work(self._renew)

    def _renew(self) -> None:
        """On a thread: the set under its final name."""
        with suppress(UserError):  # the image itself says so
            self.back(self._renewed, images.Reader(self._run.folder / folders.IMAGES))

    def _renewed(self, reader: images.Reader) -> None:
        self._album.reader = reader
        self._album.again()
        self._pictures.read_from(reader)
        self._show()

    # --- the distilled image ----------------------------------------------------------------------

    def _show(self) -> None:
        album, number = self._album, self._album.here
        if number is None:
            return
        reader = album.reader
        name, label = album.name(number), int(reader.labels_N[number])
        self.say(self._run.name, f"image {number + 1:,} of {reader.total:,}")
        self.query_one("#image", Panel).say(f"Distilled: {name}")
        self.query_one("#about", Static).update(self._about(number))
        self._pictures.want([number])
        small = self._pictures.get(number)
        self.query_one(Large).show_image(small)
        if small is not None and max(self._pictures.shape[1:]) > SIDE:
            self.work(self._read, number)
        self._look_for(label)
        self._show_real()

    def _about(self, number: int) -> str:
        """Everything that is known of an image."""
        reader = self._album.reader
        sure = float(reader.confidence_N[number])
        parts = [f"class {self._album.name(number)}", f"batch {reader.batch_N[number]}"]
        lines = [
            "   ".join([*parts, self._album.beta(number)]).rstrip(),
            "teacher's confidence —" if np.isnan(sure) else f"teacher's confidence {sure:.1%}",
        ]
        problem = self._pictures.problem(number)
        return "\n".join([*lines, problem] if problem else lines)

    def _read(self, number: int) -> None:
        """On a thread: the image in full."""
        try:
            pixels_CHW = self._album.reader.pixels(number)
        except UserError:  # the small one says so, too
            return
        self.back(self._full, number, pixels_CHW)

    def _full(self, number: int, pixels_CHW: NDArray[np.uint8]) -> None:
        if self._album.here == number:
            self.query_one(Large).show_image(pixels_CHW)

    # --- real images ------------------------------------------------------------------------------

    def _look_for(self, label: int | None) -> None:
        if label is not None and label not in self._real and not self._looking:
            self._looking = True
            self.work(self._look, label)

    def _look(self, label: int) -> None:
        """On a thread: real images of the class, from where the run's settings say."""
        try:
            found: NDArray[np.uint8] | str = self._images_of(label)
        except UserError as error:
            found = f"{error.message}\n→ {error.hint}"
        except Exception as error:
            found = f"the data cannot be read: {error!r}"
            self.back(self.host.trouble, error)
        self.back(self._found, label, found)

    def _found(self, label: int, found: NDArray[np.uint8] | str) -> None:
        """Another class may have been gone to meanwhile."""
        self._real[label] = found
        self._looking = False
        self._look_for(self._label())
        self._show_real()

    def _label(self) -> int | None:
        number = self._album.here
        return None if number is None else int(self._album.reader.labels_N[number])

    def _images_of(self, label: int) -> NDArray[np.uint8]:
        from engine.runs.preview import real_images
        from engine.runs.resume import stored_config

        if self._config is None:
            self._config = stored_config(self._run).config
        found = real_images(self._config, label, MOST)
        return np.stack([smaller(image_CHW) for image_CHW in found]) if len(found) else found

    def _show_real(self) -> None:
        label = self._label()
        if not self.is_mounted or label is None:
            return
        found = self._real.get(label)
        said = LOOKING if found is None else found if isinstance(found, str) else ""
        self.query_one("#real", Panel).say(f"Real: {self._album.reader.classes[label]}")
        told = self.query_one("#said", Static)
        told.update(said)
        told.display = bool(said)
        real = [] if found is None or isinstance(found, str) else list(found)
        thumbnails = self.query_one(Thumbnails)
        width = self.app.size.width
        size = 8 if width < 60 else 11 if width < 110 else 16
        thumbnails.show_images(real, [str(number + 1) for number in range(len(real))], size)

    # --- what keys do -----------------------------------------------------------------------------

    def action_step(self, by: int) -> None:
        """To the next image, or the one before."""
        self._album.step(by)
        self._show()

    def action_row(self, by: int) -> None:
        """To the image below, or above."""
        self._album.move(by, 0)
        self._show()

    def action_leave(self) -> None:
        """Back to all images."""
        self.app.pop_screen()
