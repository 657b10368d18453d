"""Panel 3 of the monitor: images of the current batch, or of an earlier preview."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len

from cfm_tui.console.pictures import Sample
from cfm_tui.console.screens.base import Page, Panel
from cfm_tui.console.widgets.images import Thumbnails
from cfm_tui.display.ascii_image import line_count
from cfm_tui.display.graphics import resize
from cfm_tui.display.run_state import RunModel
from engine.errors import UserError
from engine.store import RunFile
from engine.store.preview import Preview


class BatchImages(Thumbnails, can_focus=True):
    """Images of a preview, or of the finished set where recovery writes none: if nothing is optimised.

    A preview's images are shown alone, or beside a real one of their class and what they started from: by
    default where all of them fit.
    """

    COURSE_CELLS = 24  #: width of a real image, the start and the present image side by side, at least
    TITLE_MARGIN = 4  #: cells of the panel's title line beside the title

    def __init__(self) -> None:
        super().__init__(id="thumbnails", live=True)
        self._chosen_courses: bool | None = None  # whether images are beside their start; None: if all fit
        self._shows_courses: bool | None = None  # None where starts or real images are not recorded
        self._start: Preview | None = None
        self._start_of: tuple[Path, int] | None = None  # run and batch
        self._class_names: list[str] = []
        self._sample: Sample | None = None
        self._is_sampling = self._was_sampled = False

    def clear(self) -> None:
        """Show nothing: the next images are of another repeat."""
        self._sample = None
        self.show_images([], [], 1)

    def show_run(self, model: RunModel, scrubbed: Preview | None) -> str:
        """Draw the images, and return the panel's title. scrubbed: shown instead of the latest preview."""
        preview = model.preview if scrubbed is None else scrubbed
        if preview is None:
            self._shows_courses = None
            return f"Images · {self._show_sample(model)}"
        names = self._name_classes(model, preview)
        courses = self._join_courses(model, preview) if self.image_mode != "off" else []
        count = len(preview.images_MCHW)
        size = self._choose_size(courses, count)
        self._shows_courses = size is not None if courses else None
        if size is not None:
            hidden_count = count - self._count_fitting(courses, size)
            self.show_images(courses, names[: len(courses)], size)
        else:
            hidden_count = self.show_widest(list(preview.images_MCHW), names)
        title = "Images" if size is None else "Real ▸ start ▸ now"
        title += f" +{hidden_count}" if hidden_count else ""
        title += f" · batch {preview.batch}, it {preview.iteration:,}"
        hints = [f"β {preview.beta:.3g}"] if scrubbed is not None and model.betas else []
        hints += ["v now only" if size is not None else "v beside real"] if courses else []
        for hint in (*hints, "[ earlier" if scrubbed is None else "] later"):
            longer = f"{title} · {hint}"
            title = longer if cell_len(longer) <= self.size.width - self.TITLE_MARGIN else title
        return title

    def toggle_courses(self) -> bool:
        """Show images beside their starts, or alone; return False if there are no starts and real images."""
        if self._shows_courses is None:
            return False
        self._chosen_courses = not self._shows_courses
        return True

    def _name_classes(self, model: RunModel, preview: Preview) -> list[str]:
        """Return the class names of a preview's images; their numbers until the names are known."""
        known = self._class_names = self._class_names or list_class_names(model.run.folder)
        return [known[label] if label < len(known) else str(label) for label in preview.labels_M]

    def _join_courses(self, model: RunModel, preview: Preview) -> list[NDArray[np.uint8]]:
        """Return the images beside a real one of their class and what they started from, each three as one.

        Empty where these are not recorded.
        """
        latest = model.preview
        if latest is None or latest.real_MCHW is None:
            return []
        start = self._read_start(model, preview.batch)
        if start is None:
            return []
        real = dict(zip(latest.labels_M.tolist(), latest.real_MCHW, strict=True))
        labels = start.labels_M.tolist()
        if not real.keys() >= set(labels) or preview.labels_M[: len(labels)].tolist() != labels:
            return []
        channels, side, _ = preview.images_MCHW[0].shape
        background = self.background_colors[1]
        colour = background.rgb if channels == 3 else (round(255 * background.brightness),) * channels
        gap_CHW = np.zeros((channels, side, max(side // 8, 1)), np.uint8)
        gap_CHW += np.array(colour, np.uint8)[:, None, None]
        courses = []
        for label, first_CHW, now_CHW in zip(labels, start.images_MCHW, preview.images_MCHW, strict=False):
            parts = [resize(real[label], side), gap_CHW, resize(first_CHW, side), gap_CHW, now_CHW]
            courses.append(np.concatenate(parts, axis=2))
        return courses

    def _read_start(self, model: RunModel, batch: int) -> Preview | None:
        """Return the preview of the images that a batch starts from; None if it is not kept."""
        run = model.repeat_run
        if self._start_of != (run.folder, batch):
            try:
                self._start = run.read_preview(batch, 0)
            except UserError:  # it is not written yet, not kept, or damaged
                return None
            self._start_of = run.folder, batch
        return self._start

    def _choose_size(self, courses: Sequence[NDArray[np.uint8]], count: int) -> int | None:
        """Return the width at which to show the courses of `count` images; None to show the images alone.

        It is the largest at which all fit. Where none is, it is the least if courses were chosen.
        """
        if not courses or self._chosen_courses is False:
            return None
        sizes = [size for size in self.SIZES if size >= self.COURSE_CELLS]
        fitting = (size for size in sizes if self._count_fitting(courses, size) == count)
        return next(fitting, sizes[-1] if self._chosen_courses else None)

    def _count_fitting(self, courses: Sequence[NDArray[np.uint8]], size: int) -> int:
        across = (self.size.width + self.GAP) // (size + self.GAP)
        down = self.size.height // (1 + line_count(courses[0].shape, size))
        return min(across * down, len(courses))

    def _show_sample(self, model: RunModel) -> str:
        shown, page = self._sample, cast(Page, self.screen)

        def store(loaded: Sample | None) -> None:
            self._is_sampling, self._was_sampled = False, True
            if loaded is not None and (self._sample is None or loaded.count > self._sample.count):
                self._sample = loaded
                cast(Panel, self.parent).set_title(self.show_run(model, None))
            elif self._sample is None:
                cast(Panel, self.parent).set_title(f"Images · {explain_absence()}")

        def explain_absence() -> str:
            if model.is_underway:
                return "none yet"
            return "none" if self._was_sampled else "reading …"

        if not self._is_sampling and (shown is None or shown.count < shown.total):
            self._is_sampling = True
            folder, count = model.repeat_run.folder / RunFile.IMAGES, Preview.MOST_IMAGES
            page.run_in_thread(lambda: page.call_in_ui(store, Sample.read(folder, count)))
        if shown is None:
            return explain_absence()
        self.show_widest(shown.images, shown.names)
        return f"{shown.count:,}" + (f" of {shown.total:,}" if shown.count < shown.total else "")


def list_class_names(folder: Path) -> list[str]:
    """Return class names by label, from the image folders of a run; empty before there are any."""
    try:
        names = sorted(entry.name for entry in (folder / RunFile.IMAGES).iterdir() if entry.is_dir())
    except OSError:
        return []
    are_numbered = all(name.partition("_")[0].isdigit() and "_" in name for name in names)
    return [name.partition("_")[2] for name in names] if are_numbered else names
