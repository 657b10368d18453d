"""What a new experiment would do, found out on a thread of its own while the form is edited.

A study is begun for one configuration; whoever draws looks at its `findings` now and then. Nothing of it
is loaded before it begins.
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

SMALL = 60_000  #: training images of a set that is read without being asked


@dataclass(frozen=True, eq=False)
class Findings:
    """What is known of a configuration so far; None where it is not known.

    doing: what is being found out. possible: whether data and teacher are there; place: where the images
    lie; problem: why it cannot be launched.
    spectra: by tap, eigenvalues of Ψ. short: what of this machine will not do; empty: it will, as far as
    that is known.
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
        """The set that is configured."""
        return next((each for each in self.sets if each.name == self.config.data.name), None)

    @property
    def small(self) -> bool:
        """Whether its images may be read without being asked for."""
        images = self.chosen.images if self.chosen is not None else None
        return self.possible is True and images is not None and images <= SMALL

    def of(self, config: Config) -> Findings:
        """What of this holds for another configuration."""
        if config == self.config:
            return self
        if config.data != self.config.data:
            return Findings(config)
        kept = Findings(config, sets=self.sets, place=self.place, look=self.look)
        if _same(config, self.config, ("backbone",)):
            kept = replace(kept, parameters=self.parameters)
        if _same(config, self.config, ("backbone", "squeeze", "seed")):
            kept = replace(kept, accuracy=self.accuracy)
        same_taps = config.objective.taps == self.config.objective.taps
        if same_taps and _same(config, self.config, ("backbone", "squeeze", "seed", "statistics")):
            kept = replace(kept, spectra=self.spectra)
        return kept


def _same(one: Config, other: Config, names: tuple[str, ...]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in names)


class Study(threading.Thread):
    """Finds out about a configuration. before: what is known; far: whether images are read and steps tried.

    runs: the folder in which it would run.
    """

    def __init__(self, config: Config, before: Findings | None, runs: Path, *, far: bool) -> None:
        super().__init__(name="study")  # no daemon: one in the middle of a step would end the process badly
        self.findings = before.of(config) if before is not None else Findings(config)
        self.far = far
        self._config, self._runs = config, runs
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Its findings are not wanted any more."""
        self._stopped.set()

    def run(self) -> None:
        """All steps, cheap ones first; what goes wrong is a finding, too."""
        try:
            self._find()
            if self.far:
                self._go_far()
        except UserError as error:
            self._found(problem=error, possible=False)
        except Exception as error:
            if type(error).__name__ != "Cancelled":
                self._found(trouble=error)
        self._found(doing="")

    def _found(self, **what: Any) -> None:
        self.findings = replace(self.findings, **what)

    def _find(self) -> None:
        """What costs next to nothing."""
        from engine.runs import launch  # noqa: F401  (takes seconds, and is needed for whatever follows)
        from engine.runs.artefacts import require_teacher
        from engine.runs.preview import list_datasets

        data = self._config.data
        self._found(problem=None, sets=tuple(list_datasets(Path(data.root) if data.root else None)))
        require_teacher(self._config)
        self._found(place=place(self._config), possible=True)

    def _go_far(self) -> None:
        """Images, networks, what the cache has, and a trial."""
        from engine import store
        from engine.runs import estimates, plan, preview

        config, stop = self._config, self._stopped.is_set
        if self.findings.look is None:
            self._found(doing="reading images")
            self._found(look=preview.preview_dataset(config, self._reading, stop))
        look = self.findings.look
        assert look is not None
        self._found(doing="building the networks", parameters=preview.parameters(config, look))
        cache = store.Cache()
        planned = plan.prepare(config, self._reading)
        preview.require_wanted(stop)
        self._found(doing="looking for what is known already")
        self._found(accuracy=preview.teacher_accuracy(planned, cache, self._runs))
        self._found(spectra=preview.spectra(planned, cache), doing="trying a few steps")
        estimate = estimates.estimate(planned, cache, stop)
        self._found(estimate=estimate, short=_short(estimate, planned, self._runs))

    def _reading(self, done: int, total: int) -> None:
        from engine.runs.preview import require_wanted

        require_wanted(self._stopped.is_set)
        self._found(doing=f"reading images: {done:,} of {total:,}")


def place(config: Config) -> Path | None:
    """Where the data set lies; None if it comes with the program. Raises UserError("data") if absent."""
    from engine.data.finding import find, locate
    from engine.data.places import chosen_root

    data = config.data
    if data.name == "digits":
        return None
    found = None if data.name == "folder" and not data.root else locate(data.name, chosen_root(data))
    return found[0] if found is not None else find(data).path


def _short(estimate: Estimate, plan: Plan, runs: Path) -> str:
    """What there is too little of."""
    import psutil
    import torch

    from engine.store import files

    free = files.free_bytes(runs)
    if plan.device.type == "cuda":
        room = torch.cuda.mem_get_info(plan.device)[0]
    else:
        room = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    if estimate.disk_bytes > free:
        return (
            f"disk: {format_bytes(estimate.disk_bytes)} are needed in {runs}, {format_bytes(free)} are free"
        )
    if estimate.memory_bytes > room:
        return f"memory: {format_bytes(estimate.memory_bytes)} are needed, {format_bytes(room)} are free"
    return ""


class Fetch(threading.Thread):
    """Downloads a data set. told: what it is doing; problem: why it could not; done: whether it is there."""

    def __init__(self, name: str, root: str | None) -> None:
        super().__init__(name="fetch", daemon=True)
        self.set = name
        self.told = f"{name}: asking for it"
        self.problem: UserError | None = None
        self.done = False
        self._root = None if root is None else Path(root)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Leave it; what has come is kept for the next time."""
        self._stopped.set()

    def run(self) -> None:
        """Fetch, verify, unpack."""
        from engine.data import download
        from engine.runs.preview import Cancelled

        try:
            download.get(self.set, self._root, self._progress)
            self.done = True
        except UserError as error:
            self.problem = error
        except Cancelled:
            pass

    def _progress(self, phase: str, done: int, total: int) -> None:
        from engine.runs.preview import require_wanted

        require_wanted(self._stopped.is_set)
        if phase == "download":
            of = f" of {format_bytes(total)} ({done / total:.0%})" if total else ""
            self.told = f"{self.set}: {format_bytes(done)}{of}"
        else:
            self.told = f"{self.set}: unpacking, {done:,} files"
