"""A whole report: gathered, drawn, written; and its numbers as one document.

Legend: B buckets of iterations, D eigenvalues, K classes.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.config.responses import Floats, Response
from engine.errors import UserError
from engine.events import Event
from engine.report import losses, page, plates, sections, subject
from engine.report.groups import accuracies, group_runs, intra_class_similarities
from engine.report.lens import Finder
from engine.report.page import Section
from engine.report.subject import Subject
from engine.store import StoredRun, find, is_run, list_runs, runs_folder
from engine.store.files import make_folder, write
from engine.store.json_file import from_json, to_json

OUT = "choose another file with --out"


@dataclass(frozen=True, eq=False)
class Report:
    """Runs that were looked at, and what is to be said of them. command: what makes it again."""

    subjects: list[Subject]
    sections: list[Section]
    command: str

    def html(self) -> str:
        """The page."""
        names = [each.name for each in self.subjects]
        title = f"Report of {names[0]}" if len(names) == 1 else f"Report of {len(names)} runs"
        told = ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
        lead = f"{told}: what was distilled, and what it is worth."
        return page.html(title, lead, self.sections, self.command)

    def save(self, path: Path) -> None:
        """Write the page. Raises UserError("disk")."""
        make_folder(path.absolute().parent, OUT)
        write(path, self.html().encode(), hint=OUT)

    def save_pictures(self, folder: Path) -> list[Path]:
        """Write each figure as a PNG file; returns them. Raises UserError("disk")."""
        hint = "choose another folder with --png"
        make_folder(folder, hint)
        found = []
        for plate in sections.plates_of(self.sections):
            found.append(folder / f"{plate.name}.png")
            write(found[-1], plate.png, hint=hint)
        return found

    def numbers(self) -> dict[str, Any]:
        """The numbers of every figure; what is not finite is null."""
        groups = group_runs(self.subjects)
        document = {
            "command": self.command,
            "runs": [_numbers(each) for each in self.subjects],
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
    told: Callable[[str], None] = lambda _: None,
) -> Generator[Event, None, Report]:
    """Look at runs, and draw. names: what was asked for, for the command; told(text): what is being done."""
    subjects = yield from subject.gather(list(runs), finder, told)
    told("drawing")
    return Report(subjects, sections.of_runs(subjects), shlex.join(["cfm", "report", *names]))


def runs_of(names: Sequence[str]) -> list[StoredRun]:
    """The runs of these names, folders, and folders of runs (a sweep's); each once.

    Raises UserError("usage") for one that is neither.
    """
    found: dict[Path, StoredRun] = {}
    for name in names:
        for run in _runs_of(name):
            found.setdefault(run.folder.resolve(), run)
    return list(found.values())


def _runs_of(name: str) -> list[StoredRun]:
    for folder in (Path(name), runs_folder() / name):
        if is_run(folder):
            return [StoredRun(folder)]
        below = list_runs(folder) or list_runs(folder / "runs")
        if below:
            return below
    if Path(name).is_dir():
        raise UserError("usage", f"{name} holds no runs", "give a run, or a folder of runs")
    return [find(name)]  # which tells what is near


def _numbers(own: Subject) -> dict[str, Any]:
    config = own.config
    course = own.record.course
    return {
        "name": own.name,
        "folder": str(own.run.folder),
        "state": own.state,
        "method": None if config is None else config.objective.method,
        "seed": None if config is None else config.seed,
        "ipc": None if config is None else config.ipc,
        "summary": None if own.results is None else own.results["summary"],
        "betas": plates.betas_read(own),
        "losses": None if course is None else losses.numbers(course),
        "spectra": _spectra(own),
        "similarity": None if own.similar is None else own.similar.spread(),
        "similarity_real": None if own.similar_real is None else own.similar_real.spread(),
        "missing": [asdict(each) for each in own.missing],
    }


def _spectra(own: Subject) -> dict[str, Any] | None:
    if not own.layers:
        return None
    over = plates.filters_of(own)
    layers = []
    for layer in own.layers:
        values_D = layer.real_D if layer.real_D is not None else layer.synthetic_D
        layers.append(
            {
                "name": layer.name,
                "real": None if layer.real_D is None else layer.real_D.tolist(),
                "synthetic": None if layer.synthetic_D is None else layer.synthetic_D.tolist(),
                "filters": [_filter(each, values_D) for each in over] if values_D is not None else [],
            }
        )
    return {"source": own.source, "layers": layers}


def _filter(each: Response, values_D: Floats) -> dict[str, Any]:
    return {"filter": each.filter, "beta": each.beta, "response": each.of(values_D).tolist()}
