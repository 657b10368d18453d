"""The page of one distilled image, large, beside real images of its class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widget import Widget

from cfm_tui.console.engine_link import hidden
from cfm_tui.console.screens.base import Page, Panel, PlainText
from cfm_tui.console.widgets.images import LargeImage, Thumbnails
from cfm_tui.display.graphics import shrink
from cfm_tui.display.live_reader import LiveReader
from engine.errors import UserError
from engine.store import RunFile, files, images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cfm_tui.console.pictures import PictureLoader
    from cfm_tui.display.image_grid import Album
    from engine.store import StoredRun


class ZoomPage(Page):
    """The image under an album's cursor; keys of this page move that cursor.

    run: the run that distilled the images; its stored settings name the data set of the real images.
    """

    TAB = "Gallery"
    LOADING = "looking for the data"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right", "step(1)", "next", id="zoom.next", tooltip="The next image"),
        Binding("left", "step(-1)", "before", id="zoom.before", tooltip="The previous image"),
        Binding("down", "row(1)", "row below", id="zoom.down", tooltip="The image below"),
        Binding("up", "row(-1)", "row above", id="zoom.up", tooltip="The image above"),
        hidden("l,space", "step(1)", "next", id="zoom.next_alias"),
        hidden("h,backspace", "step(-1)", "before", id="zoom.before_alias"),
        hidden("j", "row(1)", "row below", id="zoom.down_alias"),
        hidden("k", "row(-1)", "row above", id="zoom.up_alias"),
        hidden("enter,q", "leave", "all", id="zoom.leave", tooltip="Back to all images"),
    ]

    def __init__(self, run: StoredRun, album: Album[LiveReader], pictures: PictureLoader) -> None:
        super().__init__()
        self._run, self._album, self._pictures = run, album, pictures
        self._config: Any = None
        self._real: dict[int, NDArray[np.uint8] | str] = {}
        self._loading_real = False
        self._stamp: object = None

    def body(self) -> Iterator[Widget]:
        """Yield a panel with the image and its description, and a panel with real images."""
        about, said = PlainText(id="about"), PlainText(self.LOADING, id="said")
        yield Container(
            Panel(1, "Distilled", about, LargeImage(id="large"), id="image"),
            Panel(2, "Real", said, Thumbnails(id="thumbnails"), id="real"),
            classes="columns holder",
        )

    def begin(self) -> None:
        """Show the chosen image."""
        self._show()

    def on_resize(self) -> None:
        """Show as many real images as now fit."""
        self.call_after_refresh(self._show_real)

    @property
    def is_loading(self) -> bool:
        """Whether images are being read."""
        return self._pictures.is_reading

    def tick(self) -> None:
        """Show images that were read or changed meanwhile; reopen the set after it got its final name."""
        if not os.path.exists(self._album.reader.path):
            stamp = files.stamp(self._run.folder / RunFile.IMAGES / images.TENSORS)
            if stamp is not None and stamp != self._stamp:
                self._stamp = stamp

                def reopen() -> None:
                    with suppress(UserError):  # reading an image reports the same error
                        self.call_in_ui(self._use_reader, LiveReader(self._run))

                self.run_in_thread(reopen)
            return
        has_news = self._pictures.take_news()
        with suppress(UserError):  # likewise
            if self._album.reader.poll():
                self._album.rearrange()
                has_news = True
        if has_news:
            self._show()

    def _use_reader(self, reader: LiveReader) -> None:
        self._album.reader = reader
        self._album.rearrange()
        self._pictures.read_from(reader)
        self._show()

    # --- the distilled image ----------------------------------------------------------------------

    def _show(self) -> None:
        album, number = self._album, self._album.here
        if number is None:
            return
        reader = album.reader
        name, label = album.name(number), int(reader.labels_N[number])
        self.set_title(self._run.name, f"image {number + 1:,} of {reader.total:,}")
        self.query_one("#image", Panel).set_title(f"Distilled: {name}")
        self.query_one("#about", PlainText).update(self._about(number))
        self._pictures.want([number])
        small_CHW = self._pictures.get(number)
        self.query_one(LargeImage).show_image(small_CHW, live=number >= reader.finished)
        is_reduced = small_CHW is not None and small_CHW.shape != tuple(self._pictures.shape)
        if is_reduced and number < reader.finished:
            self.run_in_thread(self._read_full_size, number)
        self._start_loading_real(label)
        self._show_real()

    def _about(self, number: int) -> str:
        """Return class, batch, β, the teacher's confidence, and the reading problem if there is one."""
        reader = self._album.reader
        confidence = float(reader.confidence_N[number])
        parts = [f"class {self._album.name(number)}", f"batch {reader.batch_N[number]}"]
        lines = [
            "   ".join([*parts, self._album.beta(number)]).rstrip(),
            "teacher's confidence —" if np.isnan(confidence) else f"teacher's confidence {confidence:.1%}",
        ]
        if number >= reader.finished:
            lines[1] = f"unfinished, iteration {reader.iteration:,}"
        problem = self._pictures.problem(number)
        return "\n".join([*lines, problem] if problem else lines)

    def _read_full_size(self, number: int) -> None:
        """Read the image at full size; runs on a thread."""
        try:
            pixels_CHW = self._album.reader.pixels(number)
        except UserError:  # the small image reports the same error
            return

        def show_full_size() -> None:
            if self._album.here == number:
                self.query_one(LargeImage).show_image(pixels_CHW)

        self.call_in_ui(show_full_size)

    # --- real images ------------------------------------------------------------------------------

    def _start_loading_real(self, label: int | None) -> None:
        if label is not None and label not in self._real and not self._loading_real:
            self._loading_real = True
            self.run_in_thread(self._load_real, label)

    def _load_real(self, label: int) -> None:
        """Load real images of a class, or the reason why they cannot be read; runs on a thread."""
        try:
            images_or_problem: NDArray[np.uint8] | str = self._read_real(label)
        except UserError as error:
            images_or_problem = f"{error.message}\n→ {error.hint}"
        except Exception as error:
            images_or_problem = f"the data cannot be read: {error!r}"
            self.call_in_ui(self.host.report_error, error)
        self.call_in_ui(self._store_real, label, images_or_problem)

    def _store_real(self, label: int, images_or_problem: NDArray[np.uint8] | str) -> None:
        self._real[label] = images_or_problem
        self._loading_real = False
        self._start_loading_real(self._current_label())  # the user may have moved to another class
        self._show_real()

    def _current_label(self) -> int | None:
        number = self._album.here
        return None if number is None else int(self._album.reader.labels_N[number])

    def _read_real(self, label: int) -> NDArray[np.uint8]:
        from engine.runs.preview import real_images
        from engine.runs.resume import stored_config

        if self._config is None:
            self._config = stored_config(self._run).config
        images_MCHW = real_images(self._config, label, 64)
        return np.stack([shrink(image_CHW) for image_CHW in images_MCHW]) if len(images_MCHW) else images_MCHW

    def _show_real(self) -> None:
        label = self._current_label()
        if not self.is_mounted or label is None:
            return
        loaded = self._real.get(label, self.LOADING)
        message = loaded if isinstance(loaded, str) else ""
        real = [] if isinstance(loaded, str) else list(loaded)
        self.query_one("#real", Panel).set_title(f"Real: {self._album.reader.classes[label]}")
        message_line = self.query_one("#said", PlainText)
        message_line.update(message)
        message_line.display = bool(message)
        thumbnails = self.query_one(Thumbnails)
        width = self.app.size.width
        size = 8 if width < 60 else 11 if width < 110 else 16
        if real:
            size = thumbnails.nearest_width(real[0].shape, size, (*thumbnails.SIZES, size))
        thumbnails.show_images(real, [str(number + 1) for number in range(len(real))], size)

    # --- what keys do -----------------------------------------------------------------------------

    def action_step(self, by: int) -> None:
        """Go to the next or previous image."""
        self._album.step(by)
        self._show()

    def action_row(self, by: int) -> None:
        """Go to the image below or above."""
        self._album.move(by, 0)
        self._show()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Go to the next image."""
        event.stop()
        self.action_step(1)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Go to the previous image."""
        event.stop()
        self.action_step(-1)

    def action_leave(self) -> None:
        """Go back to all images."""
        self.app.pop_screen()
