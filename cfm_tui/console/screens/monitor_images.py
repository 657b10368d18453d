"""Panel 3 of the monitor: images of the current batch, or of an earlier preview."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from cfm_tui.console.pictures import Sample
from cfm_tui.console.screens.base import Page, Panel
from cfm_tui.console.widgets.images import Thumbnails
from cfm_tui.display.run_state import RunModel
from engine.store import ACTIVE, RunFile
from engine.store.preview import Preview


class BatchImages(Thumbnails):
    """Images of a preview, or of the finished set where recovery writes none: if nothing is optimised."""

    def __init__(self) -> None:
        super().__init__(id="thumbnails", live=True)
        self._class_names: list[str] = []
        self._sample: Sample | None = None
        self._is_sampling = False

    def show_run(self, model: RunModel, scrubbed: Preview | None) -> str:
        """Draw the images, and return the panel's title. scrubbed: shown instead of the latest preview."""
        preview = model.preview if scrubbed is None else scrubbed
        if preview is None:
            return f"Images · {self._show_sample(model)}"
        known = self._class_names = self._class_names or list_class_names(model.run.folder)
        names = [known[label] if label < len(known) else str(label) for label in preview.labels_M]
        hidden_count = self.show_widest(list(preview.images_MCHW), names)
        more = f" · +{hidden_count}" if hidden_count else ""
        beta = f" · β {preview.beta:.3g}" if scrubbed is not None and model.betas else ""
        later = " · ] later" if scrubbed is not None else " · [ earlier"
        return f"Images · batch {preview.batch}, it {preview.iteration:,}{beta}{more}{later}"

    def _show_sample(self, model: RunModel) -> str:
        shown, page = self._sample, cast(Page, self.screen)

        def store(loaded: Sample | None) -> None:
            self._is_sampling = False
            if loaded is not None and (self._sample is None or loaded.count > self._sample.count):
                self._sample = loaded
                cast(Panel, self.parent).set_title(self.show_run(model, None))

        if not self._is_sampling and (shown is None or shown.count < shown.total):
            self._is_sampling = True
            folder, count = model.repeat_run.folder / RunFile.IMAGES, Preview.MOST_IMAGES
            page.run_in_thread(lambda: page.call_in_ui(store, Sample.read(folder, count)))
        if shown is None:
            return "none yet" if model.state in (*ACTIVE, "new") else "none"
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
