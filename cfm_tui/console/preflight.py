"""Checks and estimates of a new experiment, computed on a background thread while its form is edited.

A study examines one configuration; pages poll its `findings`. Heavy modules are imported when it starts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cfm_tui.display.progress import format_bytes, format_count, format_duration
from engine.config import Config, Data, Objective
from engine.config.expressions import PROBES
from engine.config.responses import list_responses
from engine.errors import UserError, quote_command
from engine.spectral.schedules import batch_count, beta_at, betas_of_batches

if TYPE_CHECKING:
    from cfm_tui.display.charts import Line
    from engine.runs.estimates import Estimate
    from engine.runs.plan import Plan
    from engine.runs.preview import DatasetPreview, DatasetStatus


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

    MOST_POINTS: ClassVar = 2000  #: of the curve of β_b
    BAR_CELLS: ClassVar = 10  #: of a stage that takes all of the time

    @property
    def chosen(self) -> DatasetStatus | None:
        """The configured data set."""
        return next((each for each in self.sets if each.name == self.config.data.name), None)

    @property
    def small(self) -> bool:
        """Whether the images are few enough to be read without a request."""
        images = self.chosen.images if self.chosen is not None else None
        return self.possible is True and images is not None and images <= 60_000

    def keep_valid(self, config: Config) -> Findings:
        """Return the findings that remain valid for another configuration."""
        if config == self.config:
            return self
        if config.data != self.config.data:
            return Findings(config)

        def same(*names: str) -> bool:
            return all(getattr(config, name) == getattr(self.config, name) for name in names)

        valid = Findings(config, sets=self.sets, place=self.place, look=self.look)
        if same("backbone"):
            valid = replace(valid, parameters=self.parameters)
        if same("backbone", "squeeze", "seed"):
            valid = replace(valid, accuracy=self.accuracy)
        same_taps = config.objective.taps == self.config.objective.taps
        if same_taps and same("backbone", "squeeze", "seed", "statistics"):
            valid = replace(valid, spectra=self.spectra)
        return valid

    # --- as text and curves -----------------------------------------------------------------------

    def describe_data(self, fetching: str = "") -> str:
        """Return the lines about the data set: its location or how to get it, and its content.

        fetching: progress of its download, if any.
        """
        chosen = self.chosen
        if fetching:
            return f"{fetching}\nleaving this page stops it; the part that was downloaded is kept"
        if chosen is None:
            return f"{self.doing or 'looking for the data set'} …"
        lines = [chosen.title]
        if self.possible is False and self.problem is not None and self.problem.kind == "data":
            lines += ["", f"! {self.problem.message}", f"→ {self.problem.hint}"]
            if chosen.download_bytes:
                size = format_bytes(chosen.download_bytes)
                lines.append(f"d: download {size}, as {quote_command('data get', chosen.name)} does")
            return "\n".join(lines)
        if self.place is not None:
            lines.append(f"at {self.place}")
        preview = self.look
        if preview is None:
            if chosen.classes and chosen.images:
                lines.append(f"{chosen.images:,} training images, {chosen.classes} classes")
            lines.append(f"{self.doing} …" if self.doing else "v: read it and estimate")
            return "\n".join(lines)
        low, high = preview.per_class
        per_class = f"× {low:,}" if low == high else f"of {low:,} to {high:,}"
        counts = " + ".join(f"{count:,} {split}" for split, count in preview.images.items())
        lines.append(f"{counts} images, {preview.channels}×{preview.size}×{preview.size}")
        lines.append(f"{len(preview.classes)} classes {per_class}")
        if preview.skipped:
            lines.append(f"! {len(preview.skipped)} unreadable images skipped")
        return "\n".join(lines)

    def describe_backbone(self) -> str:
        """Return the lines about the network's size and the teacher."""
        config = self.config
        weights = "size not known yet" if self.parameters is None else f"{self.parameters:,} weights"
        lines = [f"{config.backbone.name}: {weights}"]
        problem = self.problem
        if problem is not None and problem.kind == "teacher":
            lines += [f"! {problem.message}", f"→ {problem.hint}"]
        elif config.backbone.teacher is None:
            epochs = format_count(config.squeeze.epochs, "epochs")
            lines.append(f"teacher: trained first, {epochs}, unless in the cache")
        else:
            lines.append(f"teacher: {config.backbone.teacher}")
        known = "not known yet" if self.accuracy is None else f"{self.accuracy:.2f} %, by an earlier run"
        return "\n".join([*lines, f"accuracy: {known}"])

    def describe_budget(self) -> str:
        """Return the lines about what the budget comes to."""
        config, classes = self.config, self.class_count
        students = len(config.validate_.students) or 1
        images = format_count(config.ipc * classes, "images")
        lines = [f"{images}: {config.ipc} of each of {classes} classes"]
        if config.optimises:
            batches = batch_count(config.recover, config.ipc, classes)
            lines.append(f"{format_count(batches, 'batches')} × {config.recover.iterations:,} iterations")
        lines.append(
            f"{format_count(students, 'students')} × {format_count(config.validate_.seeds, 'seeds')}"
            f" × {config.validate_.epochs:,} epochs"
        )
        if config.repeats > 1:
            lines.append(f"everything {config.repeats} times; ± is over the repeats")
        problem = self.problem
        if problem is not None and problem.kind not in ("data", "teacher"):
            lines += ["", f"! {problem.message}", f"→ {problem.hint}"]
        return "\n".join(lines)

    @property
    def total_seconds(self) -> float | None:
        """The estimated time of all stages; None while it is unknown."""
        return None if self.estimate is None else sum(self.estimate.seconds.values())

    def describe_total(self) -> str:
        """Return the estimated time of all stages and repeats; empty while it is unknown."""
        return "" if self.total_seconds is None else f"about {format_duration(self.total_seconds)}"

    def describe_estimate(self) -> str:
        """Return the lines about the estimated memory and disk space, and the time of each stage."""
        estimated = self.estimate
        if estimated is None:
            return f"{self.doing} …" if self.doing else "v: estimate time, memory and disk"
        total = self.total_seconds or 1.0
        memory, disk = format_bytes(estimated.memory_bytes), format_bytes(estimated.disk_bytes)
        lines = [f"{memory} memory · {disk} disk"]
        if self.short:
            lines.append(f"! {self.short}")
        for stage, seconds in estimated.seconds.items():
            if seconds:
                bar = "█" * round(self.BAR_CELLS * seconds / total)
                lines.append(f"{stage:<10} {format_duration(seconds):>10} {seconds / total:>4.0%} {bar}")
        if free := [stage for stage, seconds in estimated.seconds.items() if not seconds]:
            lines.append(f"cached or not needed: {', '.join(free)}")
        return "\n".join([*lines, *estimated.how.split(", ")])

    @property
    def class_count(self) -> int:
        """The number of classes, or a default until it is known."""
        if self.look is not None:
            return len(self.look.classes)
        return (self.chosen.classes if self.chosen is not None else None) or 10

    def compute_betas(self) -> tuple[str, Any, Any]:
        """Return name, x and y of the curve of β_b over the batches, of at most about `MOST_POINTS` points.

        The curve is empty where the method does not use β.
        """
        config = self.config
        if not config.uses_beta:
            reason = "no filter of this method reads it" if config.optimises else "nothing is optimised"
            return f"no β: {reason}", np.empty(0), np.empty(0)
        objective = config.objective
        batches = batch_count(config.recover, config.ipc, self.class_count)
        if batches <= self.MOST_POINTS:
            values = betas_of_batches(objective.schedule, objective.beta, config.ipc, batches)
            name = f"β_b of {format_count(batches, 'batches')}"
            return name, np.arange(1, batches + 1), np.array(values)
        steps = batches if objective.schedule.per == "batch" else config.ipc
        sampled_steps = np.unique(np.linspace(0, steps - 1, self.MOST_POINTS).astype(np.int64))
        values = [beta_at(objective.schedule, objective.beta, int(step), steps) for step in sampled_steps]
        return f"β_b of {batches:,} batches", sampled_steps * (batches // steps) + 1, np.array(values)

    def compute_responses(self, eigenvalues: Any = None) -> tuple[list[Line], str]:
        """Return curves of f(λ) of each filter, and the name of their x axis.

        A filter with β has a curve for the first and one for the last β_b. eigenvalues: descending; f is
        evaluated at each of them and drawn over their ranks. None: f is drawn over λ in a default range.
        """
        from cfm_tui.display import plot_data  # imported with the first chart
        from cfm_tui.display.charts import ROLES, Line

        config, objective = self.config, self.config.objective
        _, _, values = self.compute_betas()
        ends = list(dict.fromkeys((float(values[0]), float(values[-1])))) if len(values) else []
        if eigenvalues is not None:
            spectra = {plot_data.REAL: np.asarray(eigenvalues, np.float64)}
            drawn = objective if config.optimises else Objective(terms=())
            return _name_ends(plot_data.over_ranks(spectra, drawn, ends), ends), plot_data.RANKS
        eigenvalues = np.geomspace(PROBES[0], PROBES[-1], 200)
        curves = list_responses(objective, ends) if config.optimises else []
        lines = [
            Line(each.name, eigenvalues, each.evaluate(eigenvalues), None, ROLES[index % len(ROLES)])
            for index, each in enumerate(curves)
        ]
        return _name_ends(lines, ends), "λ"


def _name_ends(lines: list[Line], betas: list[float]) -> list[Line]:
    """Return lines whose names say which β is that of the first and which that of the last batch."""
    if len(betas) < 2:
        return lines
    ends = {f" β {beta:.3g}": f" at β_{b} = {beta:.3g}" for b, beta in zip("1B", betas, strict=True)}

    def rename(name: str) -> str:
        return next((name.removesuffix(old) + new for old, new in ends.items() if name.endswith(old)), name)

    return [replace(line, name=rename(line.name)) for line in lines]


def describe_location(status: DatasetStatus) -> str:
    """Return a data set's location, or how to get it, on one line."""
    if status.path is not None:
        return f"at {status.path}"
    if status.available or status.download_bytes is None:
        return status.note
    return f"not there; {format_bytes(status.download_bytes)} to download"


def locate_images(data: Data) -> Path | None:
    """Return the path of a data set; None for the bundled one. Raises UserError("data") if it is absent."""
    from engine.data.sources import choose_root, find_source, locate

    if data.name == "digits":
        return None
    location = None if data.name == "folder" and not data.root else locate(data.name, choose_root(data))
    return location[0] if location is not None else find_source(data).path


class _Cancellable(threading.Thread):
    def __init__(self, name: str, daemon: bool) -> None:
        super().__init__(name=name, daemon=daemon)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Cancel the work; what was downloaded is kept for the next attempt."""
        self._stopped.set()

    def _raise_if_stopped(self) -> None:
        from engine.runs.preview import raise_if_cancelled

        raise_if_cancelled(self._stopped.is_set)


class Study(_Cancellable):
    """A thread that examines a configuration.

    before: earlier findings, reused where they remain valid. runs: the folder of the future run. far: whether
    to read images and time a few steps.
    """

    def __init__(self, config: Config, before: Findings | None, runs: Path, *, far: bool) -> None:
        super().__init__("study", daemon=False)  # a daemon killed in a training step could crash the exit
        self.findings = before.keep_valid(config) if before is not None else Findings(config)
        self.far = far
        self._config, self._runs = config, runs

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
        self._update(place=locate_images(data), possible=True)

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
        self._update(doing="building the networks", parameters=preview.count_parameters(config, dataset))
        cache = store.Cache()
        planned = plan.prepare(config, self._report_reading)
        self._raise_if_stopped()
        self._update(doing="looking up earlier runs and the cache")
        self._update(accuracy=preview.teacher_accuracy(planned, cache, self._runs))
        self._update(spectra=preview.spectra(planned, cache), doing="trying a few steps")
        planned = planned.choose_execution()  # as the run will; other threads keep their number
        self._raise_if_stopped()
        estimate = estimates.estimate(planned, cache, is_stopped)
        self._update(estimate=estimate, short=_find_shortage(estimate, planned, self._runs))

    def _report_reading(self, done: int, total: int) -> None:
        self._raise_if_stopped()
        self._update(doing=f"reading images: {done:,} of {total:,}")


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
        needed, free = format_bytes(estimate.memory_bytes), format_bytes(free_memory)
        return f"memory: {needed} are needed, {free} are free"
    return ""


class Fetch(_Cancellable):
    """A thread that downloads a data set.

    progress_text: the progress. problem: why it failed. done: whether the set is complete.
    """

    def __init__(self, name: str, root: str | None) -> None:
        super().__init__("fetch", daemon=True)
        self.set = name
        self.progress_text = f"{name}: connecting"
        self.problem: UserError | None = None
        self.done = False
        self._root = None if root is None else Path(root)

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
        self._raise_if_stopped()
        if phase == "download":
            of_total = f" of {format_bytes(total)} ({done / total:.0%})" if total else ""
            self.progress_text = f"{self.set}: {format_bytes(done)}{of_total}"
        else:
            self.progress_text = f"{self.set}: unpacking, {done:,} files"
