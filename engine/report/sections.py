"""The sections of a report in order: results of all runs, then each run.

For runs that differ only in their seed, figures show the first run and numbers cover all of them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from engine.config import settings, yaml_io
from engine.report import plates
from engine.report.groups import (
    Accuracy,
    Group,
    GroupSimilarity,
    accuracies,
    duplicate_runs,
    group_runs,
    intra_class_similarities,
)
from engine.report.page import Note, PageTable, Plate, Section
from engine.report.subject import Subject
from engine.runs import results

ABSENT = "—"


def of_runs(subjects: Sequence[Subject]) -> list[Section]:
    """Return all sections, with unique figure names."""
    groups = group_runs(subjects)
    sections = (
        _build_report_of_one(subjects[0], groups)
        if len(subjects) == 1
        else _build_report_of_several(subjects, groups)
    )
    taken: set[str] = set()
    for section in sections:
        for index, part in enumerate(section.parts):
            if isinstance(part, Plate):
                section.parts[index] = part = replace(part, name=_make_unique(part.name, taken))
                taken.add(part.name)
    return sections


def _make_unique(name: str, taken: set[str]) -> str:
    """Return the name, with the first free number appended if it is taken."""
    if name not in taken:
        return name
    return next(free for number in count(2) if (free := f"{name}-{number}") not in taken)


def _build_report_of_several(subjects: Sequence[Subject], groups: Sequence[Group]) -> list[Section]:
    sections = [_build_results_section(subjects, groups), *_build_shared_sections(groups)]
    for group in groups:
        sections += _build_run_sections(group.subjects[0], group)
        for other in group.subjects[1:]:
            lead = Note(f"{group.label}: the settings of {group.subjects[0].name} with another seed.")
            sections.append(Section(f"Run {other.name}", [lead, *_list_missing(other)]))
            sections.append(Section("Provenance", [_build_provenance_table(other)], 3))
    for index, first in duplicate_runs(subjects).items():
        text = f"Skipped: it has the settings and the seed of {first.name} ({first.run.folder})."
        sections.append(Section(f"Run {subjects[index].name}", [Note(text, warning=True)]))
        sections.append(Section("Provenance", [_build_provenance_table(subjects[index])], 3))
    return sections


def _build_report_of_one(subject: Subject, groups: Sequence[Group]) -> list[Section]:
    sections = [_build_results_section([subject], groups)]
    sections += [Section(title, parts) for title, parts in _draw_figures(subject)]
    sections += _build_shared_sections(groups)
    sections += [Section(title, [table]) for title, table in _build_run_tables(subject)]
    return sections


def _build_run_sections(subject: Subject, group: Group) -> list[Section]:
    seeds = (
        f" It represents {len(group.runs)} runs that differ only in their seed."
        if len(group.runs) > 1
        else ""
    )
    lead = Note(f"{group.label}.{seeds}")
    sections = [Section(f"Run {subject.name}", [lead, *_list_missing(subject)])]
    sections += [Section(title, parts, 3) for title, parts in _draw_figures(subject)]
    sections += [Section(title, [table], 3) for title, table in _build_run_tables(subject)]
    return sections


def _build_results_section(subjects: Sequence[Subject], groups: Sequence[Group]) -> Section:
    rows = tuple(row for subject in subjects for row in _build_result_rows(subject))
    header = ("run", "method", "state", "student", "distilled", "control", "best epoch", "teacher")
    caption = (
        "Top-1 accuracy in percent on the real test images: mean ± sample standard deviation (students). "
        "Distilled and control: after the last epoch. The best epoch is selected on the test set."
    )
    parts: list[Plate | PageTable | Note] = [PageTable(caption, header, rows)]
    if len(subjects) == 1:
        parts += _list_missing(subjects[0])
    if rows_by_group := accuracies(groups):
        parts.append(plates.accuracy(rows_by_group))
        if len(groups) < len(subjects):
            parts.append(_build_group_table(rows_by_group))
    return Section("Results", parts)


def _build_result_rows(subject: Subject) -> list[tuple[str, ...]]:
    first = (subject.name, subject.method, subject.state)
    if subject.results is None:
        return [(*first, *[ABSENT] * 5)]
    teacher = (subject.results.get("teacher") or {}).get("accuracy")
    teacher_accuracy = ABSENT if teacher is None else f"{teacher:.2f}"
    by_architecture = subject.results["summary"].get("by_architecture", {})
    return [
        (
            *first,
            name,
            *(_format_mean_std(accuracies_of.get(k)) for k in ("accuracy", "control", "accuracy_best")),
            teacher_accuracy,
        )
        for name, accuracies_of in by_architecture.items()
    ]


def _build_group_table(rows: Sequence[Accuracy]) -> PageTable:
    cells = tuple(
        (
            each.label,
            each.architecture,
            _format_mean_std(each.distilled),
            _format_mean_std(each.control),
            str(each.sets),
        )
        for each in rows
    )
    caption = (
        "The same over all runs that differ only in their seed: mean ± sample standard deviation (students)."
    )
    return PageTable(caption, ("method", "student", "distilled", "control", "distilled sets"), cells)


def _format_mean_std(mean_std: dict[str, Any] | None, digits: int = 2) -> str:
    return results.format_mean_std(mean_std, digits, ABSENT).replace(" ", "\N{NO-BREAK SPACE}")


def _build_shared_sections(groups: Sequence[Group]) -> list[Section]:
    sections = []
    if plate := plates.methods_grid(groups):
        sections.append(Section("Images by method", [plate]))
    if rows := intra_class_similarities(groups):
        sections.append(
            Section("Intra-class similarity", [plates.similarity(rows), _build_similarity_table(rows)])
        )
    else:
        why = "Intra-class similarity: no class has two images whose features could be read."
        sections.append(Section("Intra-class similarity", [Note(why, warning=True)]))
    if plate := plates.schedule(groups):
        sections.append(Section("β schedule", [plate]))
    return sections


def _build_similarity_table(rows: Sequence[GroupSimilarity]) -> PageTable:
    cells = tuple((row.label, _format_mean_std(row.spread, 4), str(row.sets)) for row in rows)
    caption = "Mean ± sample standard deviation over classes (classes). Real images: one set per teacher."
    return PageTable(caption, ("images", "cosine similarity", "sets"), cells)


def _list_missing(subject: Subject) -> list[Plate | PageTable | Note]:
    notes: list[Plate | PageTable | Note] = []
    for each in subject.missing:
        hint = f" → {each.hint}" if each.hint else ""
        notes.append(Note(f"Missing: {each.what}: {each.why}.{hint}", warning=True))
    notes += [Note(f"Recorded warning: {text}", warning=True) for text in subject.record.warnings]
    return notes


def _draw_figures(subject: Subject) -> list[tuple[str, list[Plate | PageTable | Note]]]:
    titles = {"Images": plates.images, "Losses": plates.losses, "Spectra": plates.spectra}
    figures: list[tuple[str, list[Plate | PageTable | Note]]] = []
    for title, make_plate in titles.items():
        plate = make_plate(subject)
        if plate is not None:
            figures.append((title, [plate]))
        elif title == "Losses" and not subject.optimised:
            figures.append((title, [Note("None: nothing was optimised.")]))
        else:
            note = Note("No figure: the missing data are listed with the results.", warning=True)
            figures.append((title, [note]))
    return figures


def _build_run_tables(subject: Subject) -> list[tuple[str, PageTable]]:
    tables = []
    if subject.resolved is not None:
        tables.append(("Settings", _build_settings_table(subject.resolved)))
    return [*tables, ("Provenance", _build_provenance_table(subject))]


def _build_settings_table(resolved: settings.Resolved) -> PageTable:
    rows = tuple(
        (key, yaml_io.inline(value), resolved.origins.get(key, "default"))
        for key, value in resolved.config.flatten().items()
    )
    return PageTable("Every setting and its origin.", ("setting", "value", "origin"), rows)


def _build_provenance_table(subject: Subject) -> PageTable:
    rows = tuple((name, value) for name, value in provenance(subject).items())
    return PageTable("The origin of the numbers.", ("item", "value"), rows)


def provenance(subject: Subject) -> dict[str, str]:
    """Return the provenance of a run as text, without unknown entries."""
    results = subject.results or {}
    recorded = {**subject.manifest, **(results.get("provenance") or {})}
    identity = subject.manifest.get("identity") or {}
    entries: dict[str, Any] = {
        "folder": str(subject.run.folder),
        "command": shlex.join(recorded["command"]) if recorded.get("command") else None,
        "created": subject.manifest.get("created"),
        "finished": recorded.get("finished"),
        "seeds": recorded.get("seeds"),
        "versions": recorded.get("versions"),
        "device": recorded.get("device"),
        "threads": recorded.get("threads"),
        "settings (SHA-256)": identity.get("config"),
        "data": (recorded.get("data") or {}).get("name"),
        "data (SHA-256)": identity.get("data"),
        "teacher": (results.get("teacher") or {}).get("source"),
        "teacher (SHA-256)": (subject.manifest.get("teacher") or {}).get("fingerprint"),
        "measured on": recorded.get("measured_on"),
        "sessions": recorded["sessions"] if isinstance(recorded.get("sessions"), int) else None,
        "bit-exact as one session": recorded.get("bit_exact"),
    }
    return {name: _format_value(value) for name, value in entries.items() if value is not None}


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_format_value(each)}" for name, each in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def plates_of(sections: Sequence[Section]) -> list[Plate]:
    """Return all figures in order."""
    return [part for section in sections for part in section.parts if isinstance(part, Plate)]
