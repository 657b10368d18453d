"""All distilled images of a run: rows of classes, columns of β_b from left to right; one of them large."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Input, Static

from cfm_tui.console.pictures import Pictures
from cfm_tui.console.screens.base import Page, Panel
from cfm_tui.console.widgets.filtering import Filter
from cfm_tui.console.widgets.wall import SIZES, Tile, Wall
from cfm_tui.display.image_grid import Album
from engine.errors import UserError
from engine.store import AT_WORK, StoredRun, files, folders, images

AWAY = "images are off; start with --images auto, ascii or half to see them"


class GalleryPage(Page):
    """The distilled images of the run in `folder`, as far as there are any."""

    HEADING = "images"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "zoom", "large", id="gallery.zoom", tooltip="This image large, beside real ones"),
        Binding("slash", "filter", "class", id="gallery.filter", tooltip="Show classes that have a text"),
        Binding("o", "only", "only", id="gallery.only", tooltip="Only the class of this image, or all again"),
        Binding("b", "order", "by β", id="gallery.order", tooltip="Rows of classes, or rows of β"),
        Binding("plus,equals_sign", "size(1)", "larger", show=False, id="gallery.larger"),
        Binding("minus", "size(-1)", "smaller", show=False, id="gallery.smaller"),
        Binding("up,k", "move(-1,0)", "up", show=False, id="gallery.up"),
        Binding("down,j", "move(1,0)", "down", show=False, id="gallery.down"),
        Binding("left,h", "move(0,-1)", "left", show=False, id="gallery.left"),
        Binding("right,l", "move(0,1)", "right", show=False, id="gallery.right"),
        Binding("pageup", "page(-1)", "page up", show=False, id="gallery.pageup"),
        Binding("pagedown", "page(1)", "page down", show=False, id="gallery.pagedown"),
        Binding("g,home", "ends(-1)", "first", show=False, id="gallery.first"),
        Binding("G,end", "ends(1)", "last", show=False, id="gallery.last"),
    ]
    DEFAULT_CSS = """
    GalleryPage {
        #wall { height: 1fr; }
        #facts { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
        #none { height: 1fr; padding: 1 2; }
    }
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._run = StoredRun(folder)
        self._place = folder / folders.IMAGES
        self._stamp: object = None
        self._opening = False
        self._cells: int | None = None
        self.album: Album | None = None
        self.pictures: Pictures | None = None

    def body(self) -> Iterator[Widget]:
        """The images, and what is known of the one under the cursor."""
        yield Panel(
            1, "Images", Wall(id="wall"), Static(id="none", markup=False), Static(id="facts", markup=False)
        )
        yield Filter("class: part of a name", lambda: self.query_one(Wall))

    def begin(self) -> None:
        """Look for images at once."""
        if self._stamp is None:  # a tick may have come before
            self._none("looking for images")
        self.say(self._run.name)
        self.tick()

    # --- following the run ------------------------------------------------------------------------

    def tick(self) -> None:
        """Look whether there are more images, where their file changed; show those that were read."""
        self._follow()

    def _follow(self) -> None:
        if self.pictures is None or self.album is None:
            self._open()
            return
        stamp = files.stamp(self.album.reader.path)
        if stamp is None:  # it has its final name now
            self.pictures = self._stamp = None
            self._open()
        elif stamp != self._stamp:
            self._stamp = stamp
            self._more(self.album)
        if self.pictures is not None and self.pictures.news():
            self.draw()

    def _open(self) -> None:
        if self._opening:
            return
        stamp = files.stamp(self._place / images.TENSORS) or files.stamp(
            self._place / f"{images.TENSORS}.partial"
        )
        if stamp is None:
            self._none(_why_none(self._run))
        elif stamp != self._stamp:
            self._opening, self._stamp = True, stamp
            self.work(self._read)

    def _read(self) -> None:
        """On a thread: what images there are."""
        try:
            reader = images.Reader(self._place)
        except UserError as error:
            self.back(self._unreadable, f"{error.message}\n→ {error.hint}")
        except Exception as error:
            self.back(self._unreadable, f"the images cannot be read: {error!r}")
            raise
        else:
            self.back(self._opened, reader)

    def _unreadable(self, why: str) -> None:
        self._opening = False
        self._none(why)

    def _opened(self, reader: images.Reader) -> None:
        self._opening = False
        self.pictures = Pictures(reader)
        if self.album is None:
            self.album = Album(reader)
        else:
            self.album.reader = reader
            self.album.again()
        self.draw()

    def _more(self, album: Album) -> None:
        try:
            if album.reader.look():
                album.again()
                self.draw()
        except UserError as error:
            self._unreadable(f"{error.message}\n→ {error.hint}")

    def on_screen_suspend(self) -> None:
        """Nothing is read for a page that is not seen."""
        if self.pictures is not None:
            self.pictures.want([])

    def on_screen_resume(self) -> None:
        """The cursor may have been moved meanwhile."""
        self.draw()

    # --- drawing ----------------------------------------------------------------------------------

    def on_wall_resized(self) -> None:
        """More or fewer images have room, or colours changed."""
        self.draw()

    def _none(self, why: str) -> None:
        """Say in place why nothing is shown."""
        told = self.query_one("#none", Static)
        told.update(why)
        told.display = True
        self.query_one(Wall).display = self.query_one("#facts", Static).display = False

    def draw(self) -> None:
        """Show the images around the cursor, and ask for those that are not read yet."""
        album, pictures = self.album, self.pictures
        if album is None or pictures is None or not self.is_mounted:
            return
        if self.host.image_mode == "off":
            self._none(f"{album.reader.count:,} of {album.reader.total:,} images are there.\n{AWAY}")
            return
        if not album.reader.count:
            self._none(_why_none(self._run))
            return
        self.query_one("#none", Static).display = False
        wall = self.query_one(Wall)
        wall.display = self.query_one("#facts", Static).display = True
        self._draw_wall(album, pictures, wall)
        self._say(album)

    def _draw_wall(self, album: Album, pictures: Pictures, wall: Wall) -> None:
        wall.measure(pictures.shape, self.size_of_images(), album.longest_heading)
        if album.flat and album.across != wall.across:
            album.again(across=wall.across)
        first_row, first_column = wall.window((album.row, album.column), (album.rows, album.columns))
        places = [
            [album.number(first_row + row, first_column + column) for column in range(wall.across)]
            for row in range(min(wall.down + wall.peeps, album.rows - first_row))
        ]
        pictures.want([number for row in places for number in row if number is not None])
        tiles = [[self._tile(album, pictures, number) for number in row] for row in places]
        headings = [album.heading(first_row + row) for row in range(len(tiles))]
        wall.show_tiles(headings, tiles, (album.row - first_row, album.column - first_column))

    def _tile(self, album: Album, pictures: Pictures, number: int | None) -> Tile | None:
        if number is None:
            return None
        return Tile(number, album.label(number), pictures.get(number), pictures.problem(number))

    def size_of_images(self) -> int:
        """Cells across; what fits the terminal unless it was chosen."""
        width = self.app.size.width
        return self._cells or (8 if width < 60 else 12 if width < 110 else 16 if width < 160 else 20)

    def _say(self, album: Album) -> None:
        reader = album.reader
        sides = ("classes", "β" if album.has_beta else "images")
        rows = album.classes[0] if album.flat else " × ".join(sides[:: 1 if album.order == "class" else -1])
        there = (
            f"{reader.count:,}"
            if reader.count == reader.total
            else f"{reader.count:,} of {reader.total:,} so far"
        )
        place = (
            f"{album.row + 1},{album.column + 1} of {album.rows}×{album.columns}"
            if album.rows
            else "no such class"
        )
        self.query_one(Panel).say(f"Images: {there} · {place} · {rows}")
        told = self.query_one("#facts", Static)
        told.update(facts(album, self.pictures) if album.rows else f"no class has {album.text!r} in its name")

    # --- what keys do -----------------------------------------------------------------------------

    def action_move(self, rows: int, columns: int) -> None:
        """Move the cursor."""
        if self.album is not None:
            self.album.move(rows, columns)
            self.draw()

    def action_page(self, by: int) -> None:
        """As many rows as are seen."""
        self.action_move(by * max(self.query_one(Wall).down, 1), 0)

    def action_ends(self, end: int) -> None:
        """To the first image, or the last."""
        if self.album is not None:
            album = self.album
            self.action_move(end * album.rows, end * album.columns)

    def action_size(self, by: int) -> None:
        """Larger or smaller thumbnails."""
        now = self.size_of_images()
        near = [size for size in SIZES if (size > now if by > 0 else size < now)]
        if near:
            self._cells = near[0] if by > 0 else near[-1]
            self.draw()

    def action_order(self) -> None:
        """Rows of classes, or rows of β."""
        if self.album is not None:
            self.album.again(order="β" if self.album.order == "class" else "class")
            self.draw()

    def action_only(self) -> None:
        """The class of the image under the cursor alone, or all classes again."""
        album = self.album
        if album is None:
            return
        here = album.here
        text = "" if album.text else album.name(here) if here is not None else ""
        self.query_one(Filter).put(text)
        self._filter(text)

    def action_filter(self) -> None:
        """Open the filter."""
        self.query_one(Filter).open()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self._filter(event.value.strip())

    def _filter(self, text: str) -> None:
        if self.album is not None and text != self.album.text:
            self.album.again(text=text)
            self.draw()

    def action_zoom(self) -> None:
        """The image under the cursor, large."""
        if self.album is None or self.pictures is None or self.album.here is None:
            return
        if self.host.image_mode == "off":
            self.notify(AWAY)
            return
        from cfm_tui.console.screens.zoom import ZoomPage

        self.app.push_screen(ZoomPage(self._run, self.album, self.pictures))

    def on_wall_picked(self, event: Wall.Picked) -> None:
        """A click moves the cursor; on the image under it, it zooms."""
        album = self.album
        if album is None:
            return
        if album.here == event.number:
            self.action_zoom()
        else:
            album.go_to(event.number)
            self.draw()


def facts(album: Album, pictures: Pictures | None) -> str:
    """What is known of the image under the cursor, in one line."""
    number = album.here
    if number is None:
        return "not there yet" if album.reader.count < album.reader.total else "no image"
    reader = album.reader
    sure = float(reader.confidence_N[number])
    told = f"teacher {sure:.1%}" if sure == sure else "teacher —"
    problem = pictures.problem(number) if pictures is not None else ""
    parts = [album.name(number), f"batch {reader.batch_N[number]}", album.beta(number), told, problem]
    return " · ".join(part for part in parts if part)


def _why_none(run: StoredRun) -> str:
    """When there will be images."""
    try:
        state, status = run.state(), run.status()
    except UserError as error:
        return f"{error.message}\n→ {error.hint}"
    stage = str(status.get("stage") or "")
    where = f" in its stage {stage}" if stage else ""
    if state in AT_WORK:
        batch = f" Batch {status['batch']} of {status['batches']} is at work." if "batch" in status else ""
        return (
            f"No images yet: the run is {state}{where}.{batch}\nEvery batch that recovery finishes adds some."
        )
    if state == "finished":
        return "No images: they were removed from the run's folder."
    return f"No images: the run is {state}{where}.\n→ `cfm resume {run.name}` goes on with it"
