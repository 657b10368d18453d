"""Reports: gather the runs, draw the figures, write the page, and return the numbers as one document.

The sections are the results of all runs, then each run. For runs that differ only in their seed, figures show
the first run and numbers cover all of them.
Legend: B buckets of iterations, D eigenvalues, K classes.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.config import yaml_io
from engine.errors import UserError
from engine.events import Event
from engine.report import figures, grids, page
from engine.report.groups import (
    Accuracy,
    Group,
    accuracies,
    differing_settings,
    duplicate_runs,
    group_runs,
    intra_class_similarities,
)
from engine.report.lens import Finder
from engine.report.page import Note, PageSection, PageTable, Plate
from engine.report.subject import Subject
from engine.runs import results
from engine.store import StoredRun, find_run, is_run, list_runs, runs_folder
from engine.store.files import make_folders, write
from engine.store.folders import free_name
from engine.store.json_file import from_json, to_json

_Parts = list[Plate | PageTable | Note]
_ABSENT = "—"


@dataclass(frozen=True, eq=False)
class Report:
    """The runs of a report and the sections about them. command: the command line that reproduces it."""

    subjects: list[Subject]
    sections: list[PageSection]
    command: str

    def html(self) -> str:
        """Return the page as HTML."""
        names = list(dict.fromkeys((each.run.parent() or each.run).name for each in self.subjects))
        title = f"Report of {names[0]}" if len(names) == 1 else f"Report of {len(names)} runs"
        listed_names = ", ".join(names[:6]) + (" …" if len(names) > 6 else "")
        lead = f"{listed_names}: the distilled images, and the accuracy that students reach on them."
        return page.html(title, lead, self.sections, self.command)

    def plates(self) -> list[Plate]:
        """Return all figures in order."""
        return [part for section in self.sections for part in section.parts if isinstance(part, Plate)]

    def save(self, path: Path) -> None:
        """Write the page. Raises UserError("disk")."""
        hint = "choose another file with --out"
        make_folders(path.absolute().parent, hint=hint)
        write(path, self.html().encode(), hint=hint)

    def save_pictures(self, folder: Path) -> list[Path]:
        """Write each figure as a PNG file and return the paths. Raises UserError("disk")."""
        hint = "choose another folder with --png"
        make_folders(folder, hint=hint)
        paths = []
        for plate in self.plates():
            path = folder / f"{plate.name}.png"
            write(path, plate.png, hint=hint)
            paths.append(path)
        return paths

    def numbers(self) -> dict[str, Any]:
        """Return the numbers of every figure as plain data; non-finite numbers are None."""
        groups = group_runs(self.subjects)
        document = {
            "schema_version": results.SCHEMA_VERSION,
            "command": self.command,
            "runs": [_collect_run_numbers(each) for each in self.subjects],
            "groups": [{"label": group.label, "runs": group.runs} for group in groups],
            "accuracy": [asdict(row) for row in accuracies(groups)],
            "similarity": [
                {**asdict(row), "of_class": list(row.of_class)} for row in intra_class_similarities(groups)
            ],
            "figures": [
                {"name": plate.name, "title": plate.title, "caption": plate.caption}
                for plate in self.plates()
            ],
        }
        plain: dict[str, Any] = from_json(to_json(document))
        return plain


def create_report(
    runs: Sequence[StoredRun],
    finder: Finder,
    names: Sequence[str],
    on_message: Callable[[str], None] = lambda _: None,
) -> Generator[Event, None, Report]:
    """Read and measure runs, and draw their report.

    names: the runs as the user named them, for the command line. on_message: called with each step's text.
    """
    subjects = []
    for run in runs:
        on_message(f"reading {run.name}")
        subject = Subject.read(run)
        yield from subject.measure(finder)
        subjects.append(subject)
    on_message("drawing")
    return Report(subjects, _build_sections(subjects), shlex.join(["cfm", "report", *names]))


def find_runs(names: Sequence[str]) -> list[StoredRun]:
    """Return the runs given by name, by folder, or by a folder of runs (such as a sweep), and their repeats.

    Each is returned once, and each repeat is a run of its own.

    Raises UserError("usage") for a name that is none of these.
    """
    runs_by_folder: dict[Path, StoredRun] = {}
    for name in names:
        for run in _find_runs(name):
            for repeat in run.repeats():
                runs_by_folder.setdefault(repeat.folder.resolve(), repeat)
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
    return [find_run(name)]  # raises UserError with similar names


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
        "betas": subject.betas_in_use,
        "losses": None if course is None else course.to_dict(),
        "spectra": _collect_spectra_numbers(subject),
        "similarity": None if subject.similarity is None else subject.similarity.spread(),
        "similarity_real": None if subject.similarity_real is None else subject.similarity_real.spread(),
        "missing": [asdict(each) for each in subject.missing],
    }


def _collect_spectra_numbers(subject: Subject) -> dict[str, Any] | None:
    layers, responses = [], subject.filters()
    for layer in subject.layers:
        values_D = layer.real_D if layer.real_D is not None else layer.synthetic_D
        filters = [
            {"filter": each.filter, "beta": each.beta, "response": each.evaluate(values_D).tolist()}
            for each in responses
            if values_D is not None
        ]
        real = None if layer.real_D is None else layer.real_D.tolist()
        synthetic = None if layer.synthetic_D is None else layer.synthetic_D.tolist()
        layers.append({"name": layer.name, "real": real, "synthetic": synthetic, "filters": filters})
    return {"source": subject.source, "layers": layers} if layers else None


# --- sections ------------------------------------------------------------------------------------


def _build_sections(subjects: Sequence[Subject]) -> list[PageSection]:
    """Return all sections of a report, with unique figure names."""
    groups = group_runs(subjects)
    results_section = _build_results_section(subjects, groups)
    shared = _build_shared_sections(groups)
    if len(subjects) == 1:
        tables = _build_tables(subjects[0], 2, _list_changed_settings(subjects[0]))
        sections = [results_section, *_draw_figures(subjects[0], 2), *shared, *tables]
    else:
        sections = [results_section, *shared, *_build_run_sections(subjects, groups)]
    taken: set[str] = set()
    for section in sections:
        for index, part in enumerate(section.parts):
            if isinstance(part, Plate):
                section.parts[index] = part = replace(part, name=free_name(part.name, taken.__contains__))
                taken.add(part.name)
    return sections


def _build_run_sections(subjects: Sequence[Subject], groups: Sequence[Group]) -> list[PageSection]:
    sections = []
    differing = differing_settings([group.subjects[0] for group in groups])
    for group in groups:
        first, *others = group.subjects
        telling = differing if len(groups) > 1 else _list_changed_settings(first)
        seeds = f" It represents {len(group.runs)} repeats, which differ in their seed." if others else ""
        lead = Note(f"{group.label}.{seeds}")
        sections.append(PageSection(f"Run {first.name}", [lead, *_list_missing(first)]))
        sections += [*_draw_figures(first, 3), *_build_tables(first, 3, telling)]
        for other in others:
            lead = Note(f"{group.label}: the settings of {first.name} with another seed.")
            sections.append(PageSection(f"Run {other.name}", [lead, *_list_missing(other)]))
            sections.append(_build_provenance_section(other, 3))
    for index, original in duplicate_runs(subjects).items():
        text = f"Skipped: it has the settings and the seed of {original.name} ({original.run.folder})."
        sections.append(PageSection(f"Run {subjects[index].name}", [Note(text, warning=True)]))
        sections.append(_build_provenance_section(subjects[index], 3))
    return sections


def _build_results_section(subjects: Sequence[Subject], groups: Sequence[Group]) -> PageSection:
    rows_by_group = accuracies(groups)
    parts: _Parts = []
    if rows_by_group:
        caption = (
            "Top-1 accuracy in percent on the real test images after the last epoch: mean ± sample standard"
            " deviation over repeats (their number), which differ only in their seed; the students of each"
            " are averaged first. Control: random real images. The verdict is that of a paired t test; p has"
            " Holm's correction for the rows of a data set and student."
        )
        names = ("method", "student", "distilled", "control", "difference, points", "p", "verdict")
        parts.append(PageTable(caption, names, tuple(map(_build_group_row, rows_by_group))))
        parts.append(figures.accuracy(rows_by_group))
    has_all = bool(rows_by_group) and all(subject.results is not None for subject in subjects)
    caption = (
        "Of each repeat: mean over its students. Distilled and control: after the last epoch."
        " The best epoch is selected on the test set."
    )
    header = ("run", "method", "state", "student", "distilled", "control", "best epoch", "teacher")
    rows = tuple(row for subject in subjects for row in _build_result_rows(subject))
    parts.append(PageTable(caption, header, rows, "Every run and repeat" if has_all else ""))
    if len(subjects) == 1:
        parts += _list_missing(subjects[0])
    return PageSection("Results", parts)


def _build_group_row(row: Accuracy) -> tuple[str, ...]:
    versus = row.versus_control or {}
    difference, p = versus.get("difference"), versus.get("p_adjusted")
    return (
        row.label,
        row.architecture,
        *map(_format_mean_std, (row.distilled, row.control)),
        _ABSENT if difference is None else f"{difference:+.2f}".replace("-", "−"),
        _ABSENT if p is None else f"{p:.2g}",
        str(versus.get("verdict") or _ABSENT),
    )


def _build_result_rows(subject: Subject) -> list[tuple[str, ...]]:
    first = (subject.name, subject.method, subject.state)
    if subject.results is None:
        return [(*first, *[_ABSENT] * 5)]
    summary = subject.results["summary"]
    return [
        (
            *first,
            name,
            *(_format_mean(accuracies_of[key]) for key in ("accuracy", "control", "accuracy_best")),
            _format_mean(summary["teacher"]),
        )
        for name, accuracies_of in summary["by_architecture"].items()
    ]


def _format_mean(mean_std: dict[str, Any] | None) -> str:
    return _ABSENT if mean_std is None else f"{mean_std['mean']:.2f}"


def _format_mean_std(mean_std: dict[str, Any] | None, digits: int = 2) -> str:
    return results.format_mean_std(mean_std, digits, _ABSENT).replace(" ", "\N{NO-BREAK SPACE}")


def _build_shared_sections(groups: Sequence[Group]) -> list[PageSection]:
    sections = []
    if plate := grids.images_by_method(groups):
        sections.append(PageSection("Images by method", [plate]))
    if rows := intra_class_similarities(groups):
        cells = tuple((row.label, _format_mean_std(row.spread, 4), str(row.sets)) for row in rows)
        caption = "Mean ± sample standard deviation over classes (classes). Real images: one set per teacher."
        table = PageTable(caption, ("images", "cosine similarity", "sets"), cells)
        sections.append(PageSection("Intra-class similarity", [figures.similarity(rows), table]))
    else:
        why = "Intra-class similarity: no class has two images whose features could be read."
        sections.append(PageSection("Intra-class similarity", [Note(why, warning=True)]))
    labels_by_betas: dict[tuple[float, ...], list[str]] = {}
    for group in groups:
        betas = next((each.betas_in_use for each in group.subjects if each.betas_in_use), None)
        if betas:
            labels_by_betas.setdefault(tuple(betas), []).append(group.label)
    if labels_by_betas:
        lines = [(", ".join(labels), betas) for betas, labels in labels_by_betas.items()]
        sections.append(PageSection("β schedule", [figures.schedule(lines)]))
    return sections


def _list_missing(subject: Subject) -> _Parts:
    notes: _Parts = []
    for each in subject.missing:
        hint = f" → {each.hint}" if each.hint else ""
        notes.append(Note(f"Missing: {each.what}: {each.why}.{hint}", warning=True))
    notes += [Note(f"Recorded warning: {text}", warning=True) for text in subject.record.warnings]
    return notes


def _draw_figures(subject: Subject, level: int) -> list[PageSection]:
    titles = {"Images": grids.images, "Losses": figures.losses, "Spectra": figures.spectra}
    sections = []
    for title, make_plate in titles.items():
        part: Plate | Note | None = make_plate(subject)
        if part is None and title == "Losses" and not subject.optimised:
            part = Note("None: nothing was optimised.")
        if part is None:
            part = Note("No figure: the missing data are listed with the results.", warning=True)
        sections.append(PageSection(title, [part], level))
    return sections


def _list_changed_settings(subject: Subject) -> list[str]:
    """Return the dotted keys of the settings that neither the defaults nor a shipped file set."""
    origins = {} if subject.resolved is None else subject.resolved.origins
    shipped = ("default", "preset ", "protocol ", "method ")
    return [key for key, origin in origins.items() if not origin.startswith(shipped)]


def _build_tables(subject: Subject, level: int, telling: Collection[str]) -> list[PageSection]:
    """Return the sections of settings and provenance. telling: the settings that are not folded."""
    provenance = _build_provenance_section(subject, level)
    resolved = subject.resolved
    if resolved is None:
        return [provenance]
    rows = {
        key: (key, yaml_io.inline(value), resolved.origins.get(key, "default"))
        for key, value in resolved.config.flatten().items()
    }
    header = ("setting", "value", "origin")
    tables: _Parts = []
    if chosen := tuple(row for key, row in rows.items() if key in telling):
        tables.append(PageTable("Settings that were chosen, or in which the runs differ.", header, chosen))
    caption = "Every setting and its origin."
    tables.append(PageTable(caption, header, tuple(rows.values()), f"All {len(rows)} settings"))
    return [PageSection("Settings", tables, level), provenance]


def _build_provenance_section(subject: Subject, level: int) -> PageSection:
    """Return the provenance of a run as a table, without unknown entries."""
    measured = {} if subject.results is None else subject.results["repeats"][0]
    recorded = {**subject.manifest, **(measured.get("provenance") or {})}
    identity = subject.manifest.get("identity") or {}
    entries: dict[str, Any] = {
        "folder": str(subject.run.folder),
        "command": shlex.join(recorded["command"]) if recorded.get("command") else None,
        "created": subject.manifest.get("created"),
        "finished": recorded.get("finished"),
        "seeds": recorded.get("seeds"),
        "versions": recorded.get("versions"),
        "device": recorded.get("device"),
        "execution": recorded.get("execution"),
        "threads": recorded.get("threads"),  # as earlier versions recorded them
        "settings (SHA-256)": identity.get("config"),
        "data": (recorded.get("data") or {}).get("name"),
        "data (SHA-256)": identity.get("data"),
        "teacher": (measured.get("teacher") or {}).get("source"),
        "teacher (SHA-256)": (subject.manifest.get("teacher") or {}).get("fingerprint"),
        "measured on": recorded.get("measured_on"),
        "sessions": recorded["sessions"] if isinstance(recorded.get("sessions"), int) else None,
        "bit-exact as one session": recorded.get("bit_exact"),
    }
    rows = tuple((name, _format_value(value)) for name, value in entries.items() if value is not None)
    summary = "Command, versions, device, seeds, fingerprints"
    table = PageTable("The origin of the numbers.", ("item", "value"), rows, summary)
    return PageSection("Provenance", [table], level)


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_format_value(each)}" for name, each in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
