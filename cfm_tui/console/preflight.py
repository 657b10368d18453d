"""Checks and estimates of a new experiment, computed on a background thread while its form is edited.

A study examines one configuration; pages poll its `findings`. Heavy modules are imported when it starts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfm_tui.display.progress import format_bytes
from engine.config import Config
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.runs.estimates import Estimate
    from engine.runs.plan import Plan
    from engine.runs.preview import DatasetPreview, DatasetStatus

SMALL = 60_000  #: training images of a set that is read without a request


@dataclass(frozen=True, eq=False)
class Findings:
    """What is known about a configuration so far; a field is None while it is unknown.

    doing: the current step. possible: whether data and teacher are available. place: path of the images.
    problem: why the experiment cannot be launched. trouble: an unexpected error. look: the content of the
    data set. parameters: number of weights. accuracy: of the teacher, in percent. spectra: eigenvalues of Ψ
    by tap. short: the resource that this machine lacks; empty where none is known to be lacking.
    """

    config: Config
    doing: str = ""
    possible: bool | None = None
    sets: tuple[DatasetStatus, ...] = ()
    place: Path | None = None
    problem: UserError | None = None
    trouble: BaseException | None = None
    look: DatasetPreview | None = None
    parameters: int | None = None
    accuracy: float | None = None
    spectra: dict[str, Any] | None = None
    estimate: Estimate | None = None
    short: str = ""

    @property
    def chosen(self) -> DatasetStatus | None:
        """The configured data set."""
        return next((each for each in self.sets if each.name == self.config.data.name), None)

    @property
    def small(self) -> bool:
        """Whether the images may be read without a request."""
        images = self.chosen.images if self.chosen is not None else None
        return self.possible is True and images is not None and images <= SMALL

    def of(self, config: Config) -> Findings:
        """Return the findings that remain valid for another configuration."""
        if config == self.config:
            return self
        if config.data != self.config.data:
            return Findings(config)
        valid = Findings(config, sets=self.sets, place=self.place, look=self.look)
        if _same(config, self.config, ("backbone",)):
            valid = replace(valid, parameters=self.parameters)
        if _same(config, self.config, ("backbone", "squeeze", "seed")):
            valid = replace(valid, accuracy=self.accuracy)
        same_taps = config.objective.taps == self.config.objective.taps
        if same_taps and _same(config, self.config, ("backbone", "squeeze", "seed", "statistics")):
            valid = replace(valid, spectra=self.spectra)
        return valid


def _same(one: Config, other: Config, names: tuple[str, ...]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in names)


class Study(threading.Thread):
    """A thread that examines a configuration.

    before: earlier findings, reused where they remain valid. runs: the folder of the future run. far: whether
    to read images and time a few steps.
    """

    def __init__(self, config: Config, before: Findings | None, runs: Path, *, far: bool) -> None:
        super().__init__(
            name="study"
        )  # not a daemon: one killed during a training step could crash the process at exit
        self.findings = before.of(config) if before is not None else Findings(config)
        self.far = far
        self._config, self._runs = config, runs
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Cancel the study."""
        self._stopped.set()

    def run(self) -> None:
        """Run all steps, cheap ones first; an error becomes a finding."""
        try:
            self._check_inputs()
            if self.far:
                self._estimate()
        except UserError as error:
            self._update(problem=error, possible=False)
        except Exception as error:
            if type(error).__name__ != "Cancelled":
                self._update(trouble=error)
        self._update(doing="")

    def _update(self, **changes: Any) -> None:
        self.findings = replace(self.findings, **changes)

    def _check_inputs(self) -> None:
        """Check that data set and teacher exist."""
        from engine.config.teacher_source import require_teacher_files
        from engine.runs import launch  # noqa: F401  (takes seconds to import, and is needed later)
        from engine.runs.preview import list_datasets

        data = self._config.data
        self._update(problem=None, sets=tuple(list_datasets(Path(data.root) if data.root else None)))
        require_teacher_files(self._config.backbone)
        self._update(place=place(self._config), possible=True)

    def _estimate(self) -> None:
        """Read the images, count weights, look up the cache, and time a few steps."""
        from engine import store
        from engine.runs import estimates, plan, preview

        config, is_stopped = self._config, self._stopped.is_set
        if self.findings.look is None:
            self._update(doing="reading images")
            self._update(look=preview.preview_dataset(config, self._report_reading, is_stopped))
        dataset = self.findings.look
        assert dataset is not None
        self._update(doing="building the networks", parameters=preview.parameters(config, dataset))
        cache = store.Cache()
        planned = plan.prepare(config, self._report_reading)
        preview.require_wanted(is_stopped)
        self._update(doing="looking up earlier runs and the cache")
        self._update(accuracy=preview.teacher_accuracy(planned, cache, self._runs))
        self._update(spectra=preview.spectra(planned, cache), doing="trying a few steps")
        estimate = estimates.estimate(planned, cache, is_stopped)
        self._update(estimate=estimate, short=_find_shortage(estimate, planned, self._runs))

    def _report_reading(self, done: int, total: int) -> None:
        from engine.runs.preview import require_wanted

        require_wanted(self._stopped.is_set)
        self._update(doing=f"reading images: {done:,} of {total:,}")


def place(config: Config) -> Path | None:
    """Return the path of the data set; None for the bundled one. Raises UserError("data") if it is absent."""
    from engine.data.sources import choose_root, find_source, locate

    data = config.data
    if data.name == "digits":
        return None
    location = None if data.name == "folder" and not data.root else locate(data.name, choose_root(data))
    return location[0] if location is not None else find_source(data).path


def _find_shortage(estimate: Estimate, plan: Plan, runs: Path) -> str:
    """Return a message about insufficient disk space or memory; empty where both suffice."""
    import psutil
    import torch

    from engine.store import files

    free_disk = files.free_bytes(runs)
    if plan.device.type == "cuda":
        free_memory = torch.cuda.mem_get_info(plan.device)[0]
    else:
        free_memory = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    if estimate.disk_bytes > free_disk:
        needed, free = format_bytes(estimate.disk_bytes), format_bytes(free_disk)
        return f"disk: {needed} are needed in {runs}, {free} are free"
    if estimate.memory_bytes > free_memory:
        return (
            f"memory: {format_bytes(estimate.memory_bytes)} are needed, {format_bytes(free_memory)} are free"
        )
    return ""


class Fetch(threading.Thread):
    """A thread that downloads a data set.

    progress_text: the progress. problem: why it failed. done: whether the set is complete.
    """

    def __init__(self, name: str, root: str | None) -> None:
        super().__init__(name="fetch", daemon=True)
        self.set = name
        self.progress_text = f"{name}: connecting"
        self.problem: UserError | None = None
        self.done = False
        self._root = None if root is None else Path(root)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Cancel the download; what was received is kept for the next attempt."""
        self._stopped.set()

    def run(self) -> None:
        """Download, verify and unpack the set."""
        from engine.data import download
        from engine.runs.preview import Cancelled

        try:
            download.download_data_set(self.set, self._root, self._progress)
            self.done = True
        except UserError as error:
            self.problem = error
        except Cancelled:
            pass

    def _progress(self, phase: str, done: int, total: int) -> None:
        from engine.runs.preview import require_wanted

        require_wanted(self._stopped.is_set)
        if phase == "download":
            of_total = f" of {format_bytes(total)} ({done / total:.0%})" if total else ""
            self.progress_text = f"{self.set}: {format_bytes(done)}{of_total}"
        else:
            self.progress_text = f"{self.set}: unpacking, {done:,} files"
