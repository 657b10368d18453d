"""The gallery page: all distilled images of a run, in rows of classes and columns of β_b."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from textual import events
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Input

from cfm_tui.console.engine_link import hidden
from cfm_tui.console.pictures import PictureLoader
from cfm_tui.console.screens.base import FilterLine, Page, Panel, PlainText
from cfm_tui.console.widgets.images import Tile, Wall
from cfm_tui.display.image_grid import Album
from cfm_tui.display.live_reader import LiveReader
from engine.errors import UserError, quote_command
from engine.store import AT_WORK, RunFile, StoredRun, files, images


class GalleryPage(Page):
    """The distilled images of the run in `folder`, as far as recovery has come.

    image: one to show large, as in `OpenGallery`.
    """

    TAB = "Gallery"
    IMAGES_OFF = "images are off; start with --images auto, ascii or half to see them"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "zoom", "large", id="gallery.zoom", tooltip="This image large, beside real images"),
        Binding("slash", "filter", "class", id="gallery.filter", tooltip="Filter classes by name"),
        Binding("o", "only", "only", id="gallery.only", tooltip="Only the class of this image, or all"),
        Binding("b", "order", "by β", id="gallery.order", tooltip="Rows of classes, or rows of β"),
        hidden("plus,equals_sign", "size(1)", "larger", id="gallery.larger"),
        hidden("minus", "size(-1)", "smaller", id="gallery.smaller"),
        hidden("up,k", "move(-1,0)", "up", id="gallery.up"),
        hidden("down,j", "move(1,0)", "down", id="gallery.down"),
        hidden("left,h", "move(0,-1)", "left", id="gallery.left"),
        hidden("right,l", "move(0,1)", "right", id="gallery.right"),
        hidden("pageup", "page(-1)", "page up", id="gallery.pageup"),
        hidden("pagedown", "page(1)", "page down", id="gallery.pagedown"),
        hidden("g,home", "ends(-1)", "first", id="gallery.first"),
        hidden("G,end", "ends(1)", "last", id="gallery.last"),
    ]

    def __init__(self, folder: Path, image: tuple[int | None, int] | None = None) -> None:
        super().__init__()
        self._opening_image = image
        self._run = StoredRun(folder)
        self._images_folder = folder / RunFile.IMAGES
        self._stamp: object = None
        self._opening = False
        self._chosen_width: int | None = None
        self.album: Album[LiveReader] | None = None
        self.pictures: PictureLoader | None = None

    def body(self) -> Iterator[Widget]:
        """Yield the images, with a description of the image under the cursor, and the filter."""
        none, facts = PlainText(id="none"), PlainText(id="facts")
        yield Panel(1, "Images", Wall(id="wall"), none, facts)
        yield FilterLine("class: part of a name", lambda: self.query_one(Wall))

    def begin(self) -> None:
        """Open the images."""
        if self._stamp is None:  # no tick came before
            self._show_message("looking for images")
        self.set_title(self._run.name)
        self.tick()

    # --- following the run ------------------------------------------------------------------------

    @property
    def is_loading(self) -> bool:
        """Whether images are being read."""
        return self.pictures is not None and self.pictures.is_reading

    def tick(self) -> None:
        """Read new images if their file changed, and redraw with those that were loaded meanwhile."""
        if self.pictures is None or self.album is None:
            self._open()
            return
        if files.stamp(self.album.reader.path) is None:  # the file was renamed to its final name
            self.pictures = self._stamp = None
            self._open()
        else:
            self._read_new(self.album)
        if self.pictures is not None and self.pictures.take_news():
            self.draw()

    def _open(self) -> None:
        if self._opening:
            return
        names = images.TENSORS, f"{images.TENSORS}.partial"
        stamp = next(filter(None, (files.stamp(self._images_folder / name) for name in names)), None)
        if stamp is None:
            self._show_message(_explain_no_images(self._run))
        elif stamp != self._stamp:
            self._opening, self._stamp = True, stamp
            self.run_in_thread(self._read)

    def _read(self) -> None:
        """Open the set of images; runs on a thread."""
        try:
            reader = LiveReader(self._run)
        except UserError as error:
            self.call_in_ui(self._show_error, f"{error.message}\n→ {error.hint}")
        except Exception as error:
            self.call_in_ui(self._show_error, f"the images cannot be read: {error!r}")
            raise
        else:
            self.call_in_ui(self._use_reader, reader)

    def _show_error(self, message: str) -> None:
        self._opening = False
        self._show_message(message)

    def _use_reader(self, reader: LiveReader) -> None:
        self._opening = False
        self.pictures = PictureLoader(reader)
        if self.album is None:
            self.album = Album(reader)
        else:
            self.album.reader = reader
            self.album.rearrange()
        self.draw()
        if self._opening_image is not None:
            (batch, index), self._opening_image = self._opening_image, None
            numbers = range(reader.count) if batch is None else np.flatnonzero(reader.batch_N == batch)
            if index < len(numbers):
                self.album.go_to(int(numbers[index]))
                self.action_zoom()

    def _read_new(self, album: Album[LiveReader]) -> None:
        try:
            if album.reader.poll():
                album.rearrange()
                self.draw()
        except UserError as error:
            self._show_error(f"{error.message}\n→ {error.hint}")

    def on_screen_suspend(self) -> None:
        """Stop reading images while the page is hidden."""
        if self.pictures is not None:
            self.pictures.want([])

    def on_screen_resume(self) -> None:
        """Redraw, since another page may have moved the cursor."""
        self.draw()

    # --- drawing ----------------------------------------------------------------------------------

    def on_wall_resized(self) -> None:
        """Redraw when the size or the colours changed."""
        self.draw()

    def _show_message(self, message: str) -> None:
        """Show a message in place of the images."""
        message_area = self.query_one("#none", PlainText)
        message_area.update(message)
        message_area.display = True
        self.query_one(Wall).display = self.query_one("#facts", PlainText).display = False

    def draw(self) -> None:
        """Show the images around the cursor, and request those that are not loaded yet."""
        album, pictures = self.album, self.pictures
        if album is None or pictures is None or not self.is_mounted:
            return
        reader = album.reader
        if self.host.image_mode == "off":
            self._show_message(f"{reader.finished:,} of {reader.total:,} images exist.\n{self.IMAGES_OFF}")
            return
        if not reader.count:
            self._show_message(_explain_no_images(self._run))
            return
        self.query_one("#none", PlainText).display = False
        wall = self.query_one(Wall)
        wall.display = self.query_one("#facts", PlainText).display = True
        self._draw_wall(album, pictures, wall)
        self._describe(album)

    def _draw_wall(self, album: Album[LiveReader], pictures: PictureLoader, wall: Wall) -> None:
        width = wall.nearest_width(pictures.shape, self.image_width(), wall.SIZES)
        wall.measure(pictures.shape, width, 0)
        if (album.across, album.down) != (wall.across, wall.down):
            album.rearrange(window=(wall.across, wall.down))
        wall.measure(pictures.shape, width, album.longest_heading)
        first_row, first_column = wall.find_window((album.row, album.column), (album.rows, album.columns))
        numbers = [
            [album.number(first_row + row, first_column + column) for column in range(wall.across)]
            for row in range(min(wall.down + wall.partial_rows, album.rows - first_row))
        ]
        pictures.want([number for row in numbers for number in row if number is not None])

        def make_tile(number: int | None) -> Tile | None:
            if number is None:
                return None
            label, pixels_CHW, problem = album.label(number), pictures.get(number), pictures.problem(number)
            return Tile(number, label, pixels_CHW, problem, number >= album.reader.finished)

        tiles = [[make_tile(number) for number in row] for row in numbers]
        headings = [album.heading(first_row + row) for row in range(len(tiles))]
        wall.show_tiles(headings, tiles, (album.row - first_row, album.column - first_column))

    def image_width(self) -> int:
        """Return the width of thumbnails in cells: the chosen one, or one that suits the terminal."""
        width = self.app.size.width
        return self._chosen_width or (8 if width < 60 else 12 if width < 110 else 16 if width < 160 else 20)

    def _describe(self, album: Album[LiveReader]) -> None:
        reader = album.reader
        sides = ("classes", "β" if album.has_beta else "images")
        rows = album.classes[0] if album.flat else " × ".join(sides[:: 1 if album.order == "class" else -1])
        count = f"{reader.finished:,}"
        if reader.finished != reader.total:
            count += f" of {reader.total:,} so far"
        if unfinished := reader.count - reader.finished:
            count += f", {unfinished} unfinished {Wall.UNFINISHED}"
        place, facts = "no such class", f"no class has {album.text!r} in its name"
        if album.rows:
            place = f"{album.row + 1},{album.column + 1} of {album.rows}×{album.columns}"
            if album.groups > 1:
                rows = f"{album.groups} classes in a row"
            facts = describe_image(album, self.pictures)
        self.query_one(Panel).set_title(f"Images: {count} · {place} · {rows}")
        self.query_one("#facts", PlainText).update(facts)

    # --- what keys do -----------------------------------------------------------------------------

    def action_move(self, rows: int, columns: int) -> None:
        """Move the cursor."""
        if self.album is not None:
            self.album.move(rows, columns)
            self.draw()

    def action_page(self, by: int) -> None:
        """Move by as many rows as are visible."""
        self.action_move(by * max(self.query_one(Wall).down, 1), 0)

    def action_ends(self, end: int) -> None:
        """Move to the first or the last image."""
        if self.album is not None:
            album = self.album
            self.action_move(end * album.rows, end * album.columns)

    def action_size(self, by: int) -> None:
        """Show larger or smaller thumbnails."""
        if self.pictures is None:
            return
        wall, shape = self.query_one(Wall), self.pictures.shape
        widths = wall.list_widths(shape, wall.SIZES)
        index = widths.index(wall.nearest_width(shape, self.image_width(), wall.SIZES)) - by
        if 0 <= index < len(widths):
            self._chosen_width = widths[index]
            self.draw()

    def action_order(self) -> None:
        """Switch between rows of classes and rows of β."""
        if self.album is not None:
            self.album.rearrange(order="β" if self.album.order == "class" else "class")
            self.draw()

    def action_only(self) -> None:
        """Show only the class of the image under the cursor, or all classes again."""
        album = self.album
        if album is None:
            return
        here = album.here
        text = "" if album.text else album.name(here) if here is not None else ""
        self.query_one(FilterLine).set_text(text)
        self._filter(text)

    def action_filter(self) -> None:
        """Open the filter."""
        self.query_one(FilterLine).open()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while the user types."""
        self._filter(event.value.strip())

    def _filter(self, text: str) -> None:
        if self.album is not None and text != self.album.text:
            self.album.rearrange(text=text)
            self.draw()

    def action_zoom(self) -> None:
        """Show the image under the cursor large."""
        if self.album is None or self.pictures is None or self.album.here is None:
            return
        if self.host.image_mode == "off":
            self.notify(self.IMAGES_OFF)
            return
        from cfm_tui.console.screens.zoom import ZoomPage

        self.app.push_screen(ZoomPage(self._run, self.album, self.pictures))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Move to the row below."""
        event.stop()
        self.action_move(1, 0)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Move to the row above."""
        event.stop()
        self.action_move(-1, 0)

    def on_wall_picked(self, event: Wall.Picked) -> None:
        """Move the cursor to the clicked image; a click on the image under it zooms."""
        album = self.album
        if album is None:
            return
        if album.here == event.number:
            self.action_zoom()
        else:
            album.go_to(event.number)
            self.draw()


def describe_image(album: Album[Any], pictures: PictureLoader | None) -> str:
    """Return class, batch, β and the teacher's confidence of the image under the cursor, in one line."""
    number = album.here
    if number is None:
        return "not recovered yet" if album.reader.count < album.reader.total else "no image"
    reader = album.reader
    confidence = float(reader.confidence_N[number])
    confidence_text = f"teacher {confidence:.1%}" if confidence == confidence else "teacher —"
    if number >= getattr(reader, "finished", reader.count):
        confidence_text = f"unfinished, iteration {reader.iteration:,}"
    problem = pictures.problem(number) if pictures is not None else ""
    batch = f"batch {reader.batch_N[number]}"
    return " · ".join(filter(None, (album.name(number), batch, album.beta(number), confidence_text, problem)))


def _explain_no_images(run: StoredRun) -> str:
    """Return why a run has no images, and when it will have some."""
    try:
        state, status = run.state(), run.status()
    except UserError as error:
        return f"{error.message}\n→ {error.hint}"
    stage = str(status.get("stage") or "")
    where = f" in its stage {stage}" if stage else ""
    if state in AT_WORK:
        batch = ""
        if "batch" in status:
            batch = f" Batch {status['batch']} of {status['batches']} is being recovered."
        return f"No images yet: the run is {state}{where}.{batch}\nEvery finished batch adds images."
    if state == "finished":
        return "No images: they were removed from the run's folder."
    return f"No images: the run is {state}{where}.\n→ {quote_command('resume', run.name)} resumes it"
