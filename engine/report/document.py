"""Reports: gather the runs, draw the figures, write the page, and return the numbers as one document.

Legend: B buckets of iterations, D eigenvalues, K classes.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.events import Event
from engine.report import losses, page, plates, sections
from engine.report.groups import accuracies, group_runs, intra_class_similarities
from engine.report.lens import Finder
from engine.report.page import Section
from engine.report.subject import Subject, gather
from engine.store import StoredRun, find, is_run, list_runs, runs_folder
from engine.store.files import make_folder, write
from engine.store.json_file import from_json, to_json

OUT = "choose another file with --out"


@dataclass(frozen=True, eq=False)
class Report:
    """The runs of a report and the sections about them. command: the command line that reproduces it."""

    subjects: list[Subject]
    sections: list[Section]
    command: str

    def html(self) -> str:
        """Return the page as HTML."""
        names = [each.name for each in self.subjects]
        title = f"Report of {names[0]}" if len(names) == 1 else f"Report of {len(names)} runs"
        listed_names = ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
        lead = f"{listed_names}: the distilled images, and the accuracy that students reach on them."
        return page.html(title, lead, self.sections, self.command)

    def save(self, path: Path) -> None:
        """Write the page. Raises UserError("disk")."""
        make_folder(path.absolute().parent, OUT)
        write(path, self.html().encode(), hint=OUT)

    def save_pictures(self, folder: Path) -> list[Path]:
        """Write each figure as a PNG file and return the paths. Raises UserError("disk")."""
        hint = "choose another folder with --png"
        make_folder(folder, hint)
        paths = []
        for plate in sections.plates_of(self.sections):
            path = folder / f"{plate.name}.png"
            write(path, plate.png, hint=hint)
            paths.append(path)
        return paths

    def numbers(self) -> dict[str, Any]:
        """Return the numbers of every figure as plain data; non-finite numbers are None."""
        groups = group_runs(self.subjects)
        document = {
            "command": self.command,
            "runs": [_collect_run_numbers(each) for each in self.subjects],
            "groups": [{"label": group.label, "runs": group.runs} for group in groups],
            "accuracy": [asdict(row) for row in accuracies(groups)],
            "similarity": [
                {**asdict(row), "of_class": list(row.of_class)} for row in intra_class_similarities(groups)
            ],
            "figures": [
                {"name": plate.name, "title": plate.title, "caption": plate.caption}
                for plate in sections.plates_of(self.sections)
            ],
        }
        plain: dict[str, Any] = from_json(to_json(document))
        return plain


def make(
    runs: Sequence[StoredRun],
    finder: Finder,
    names: Sequence[str],
    on_message: Callable[[str], None] = lambda _: None,
) -> Generator[Event, None, Report]:
    """Read and measure runs, and draw their report.

    names: the runs as the user named them, for the command line. on_message: called with each step's text.
    """
    subjects = yield from gather(list(runs), finder, on_message)
    on_message("drawing")
    return Report(subjects, sections.of_runs(subjects), shlex.join(["cfm", "report", *names]))


def runs_of(names: Sequence[str]) -> list[StoredRun]:
    """Return the runs given by name, by folder, or by a folder of runs (such as a sweep), each once.

    Raises UserError("usage") for a name that is none of these.
    """
    runs_by_folder: dict[Path, StoredRun] = {}
    for name in names:
        for run in _find_runs(name):
            runs_by_folder.setdefault(run.folder.resolve(), run)
    return list(runs_by_folder.values())


def _find_runs(name: str) -> list[StoredRun]:
    for folder in (Path(name), runs_folder() / name):
        if is_run(folder):
            return [StoredRun(folder)]
        below = list_runs(folder) or list_runs(folder / "runs")
        if below:
            return below
    if Path(name).is_dir():
        raise UserError("usage", f"the folder {name} holds no runs", "give a run, or a folder of runs")
    return [find(name)]  # raises UserError with similar names


def _collect_run_numbers(subject: Subject) -> dict[str, Any]:
    config = subject.config
    course = subject.record.course
    return {
        "name": subject.name,
        "folder": str(subject.run.folder),
        "state": subject.state,
        "method": None if config is None else config.objective.method,
        "seed": None if config is None else config.seed,
        "ipc": None if config is None else config.ipc,
        "summary": None if subject.results is None else subject.results["summary"],
        "betas": plates.betas_in_use(subject),
        "losses": None if course is None else losses.numbers(course),
        "spectra": _collect_spectra_numbers(subject),
        "similarity": None if subject.similarity is None else subject.similarity.spread(),
        "similarity_real": None if subject.similarity_real is None else subject.similarity_real.spread(),
        "missing": [asdict(each) for each in subject.missing],
    }


def _collect_spectra_numbers(subject: Subject) -> dict[str, Any] | None:
    if not subject.layers:
        return None
    responses = plates.filters_of(subject)
    layers = []
    for layer in subject.layers:
        values_D = layer.real_D if layer.real_D is not None else layer.synthetic_D
        layers.append(
            {
                "name": layer.name,
                "real": None if layer.real_D is None else layer.real_D.tolist(),
                "synthetic": None if layer.synthetic_D is None else layer.synthetic_D.tolist(),
                "filters": [
                    {"filter": each.filter, "beta": each.beta, "response": each.evaluate(values_D).tolist()}
                    for each in responses
                ]
                if values_D is not None
                else [],
            }
        )
    return {"source": subject.source, "layers": layers}
