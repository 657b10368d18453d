"""What a report says, in order: first what all runs have in common, then each run.

Of several runs with the same settings but for their seed, figures show the first; numbers are of all.
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
from engine.report.page import Note, Plate, Section, Table
from engine.report.subject import Subject
from engine.runs import results

ABSENT = "—"


def of_runs(subjects: Sequence[Subject]) -> list[Section]:
    """All sections; figures have names of their own."""
    groups = group_runs(subjects)
    found = _alone(subjects[0], groups) if len(subjects) == 1 else _together(subjects, groups)
    taken: set[str] = set()
    for section in found:
        for place, part in enumerate(section.parts):
            if isinstance(part, Plate):
                section.parts[place] = part = replace(part, name=_free(part.name, taken))
                taken.add(part.name)
    return found


def _free(name: str, taken: set[str]) -> str:
    """The name, or the name with the first number that makes it another."""
    if name not in taken:
        return name
    return next(free for number in count(2) if (free := f"{name}-{number}") not in taken)


def _together(subjects: Sequence[Subject], groups: Sequence[Group]) -> list[Section]:
    found = [_results(subjects, groups), *_common(groups)]
    for group in groups:
        found += _of_run(group.subjects[0], group)
        for other in group.subjects[1:]:
            found.append(Section(f"Run {other.name}", [_same_as(group), *_missing(other)]))
            found.append(Section("Provenance", [_provenance(other)], 3))
    for place, first in duplicate_runs(subjects).items():
        told = f"Left out: it has the settings and the seed of {first.name} ({first.run.folder})."
        found.append(Section(f"Run {subjects[place].name}", [Note(told, warning=True)]))
        found.append(Section("Provenance", [_provenance(subjects[place])], 3))
    return found


def _alone(subject: Subject, groups: Sequence[Group]) -> list[Section]:
    found = [_results([subject], groups)]
    found += [Section(title, parts) for title, parts in _own_figures(subject)]
    found += _common(groups)
    found += [Section(title, [table]) for title, table in _own_tables(subject)]
    return found


def _of_run(subject: Subject, group: Group) -> list[Section]:
    seeds = f" It stands for {len(group.runs)} runs that differ in their seed." if len(group.runs) > 1 else ""
    lead = Note(f"{group.label}.{seeds}")
    found = [Section(f"Run {subject.name}", [lead, *_missing(subject)])]
    found += [Section(title, parts, 3) for title, parts in _own_figures(subject)]
    found += [Section(title, [table], 3) for title, table in _own_tables(subject)]
    return found


def _same_as(group: Group) -> Note:
    return Note(f"{group.label}: the settings of {group.subjects[0].name} with another seed.")


def _results(subjects: Sequence[Subject], groups: Sequence[Group]) -> Section:
    rows = tuple(row for subject in subjects for row in _result_rows(subject))
    header = ("run", "method", "state", "student", "distilled", "control", "best epoch", "teacher")
    caption = (
        "Top-1 accuracy in percent on the real test images: mean ± sample standard deviation (students). "
        "Distilled and control after the last epoch; the best epoch peeks at the test set."
    )
    parts: list[Plate | Table | Note] = [Table(caption, header, rows)]
    if len(subjects) == 1:
        parts += _missing(subjects[0])
    if found := accuracies(groups):
        parts.append(plates.accuracy(found))
        if len(groups) < len(subjects):
            parts.append(_by_group(found))
    return Section("Results", parts)


def _result_rows(subject: Subject) -> list[tuple[str, ...]]:
    first = (subject.name, subject.method, subject.state)
    if subject.results is None:
        return [(*first, *[ABSENT] * 5)]
    teacher = (subject.results.get("teacher") or {}).get("accuracy")
    told = ABSENT if teacher is None else f"{teacher:.2f}"
    by_architecture = subject.results["summary"].get("by_architecture", {})
    return [
        (*first, name, *(_spread(found.get(k)) for k in ("accuracy", "control", "accuracy_best")), told)
        for name, found in by_architecture.items()
    ]


def _by_group(found: Sequence[Accuracy]) -> Table:
    rows = tuple(
        (each.label, each.architecture, _spread(each.distilled), _spread(each.control), str(each.sets))
        for each in found
    )
    caption = (
        "The same over all runs that differ in their seed alone: mean ± sample standard deviation (students)."
    )
    return Table(caption, ("method", "student", "distilled", "control", "distilled sets"), rows)


def _spread(found: dict[str, Any] | None, digits: int = 2) -> str:
    return results.format_mean_std(found, digits, ABSENT).replace(" ", "\N{NO-BREAK SPACE}")


def _common(groups: Sequence[Group]) -> list[Section]:
    found = []
    if plate := plates.methods_grid(groups):
        found.append(Section("Images by method", [plate]))
    if rows := intra_class_similarities(groups):
        found.append(Section("Intra-class similarity", [plates.similarity(rows), _similarities(rows)]))
    else:
        why = "Intra-class similarity: no class has two images whose features could be read."
        found.append(Section("Intra-class similarity", [Note(why, warning=True)]))
    if plate := plates.schedule(groups):
        found.append(Section("β schedule", [plate]))
    return found


def _similarities(rows: Sequence[GroupSimilarity]) -> Table:
    told = tuple((row.label, _spread(row.spread, 4), str(row.sets)) for row in rows)
    caption = (
        "Mean ± sample standard deviation over classes (classes); of real images, one set for each teacher."
    )
    return Table(caption, ("images", "cosine similarity", "sets"), told)


def _missing(subject: Subject) -> list[Plate | Table | Note]:
    found: list[Plate | Table | Note] = []
    for each in subject.missing:
        hint = f" → {each.hint}" if each.hint else ""
        found.append(Note(f"Missing: {each.what}: {each.why}.{hint}", warning=True))
    found += [Note(f"The record says: {text}", warning=True) for text in subject.record.warnings]
    return found


def _own_figures(subject: Subject) -> list[tuple[str, list[Plate | Table | Note]]]:
    titles = {"Images": plates.images, "Losses": plates.losses, "Spectra": plates.spectra}
    found: list[tuple[str, list[Plate | Table | Note]]] = []
    for title, make in titles.items():
        plate = make(subject)
        found.append((title, [_nothing(subject, title) if plate is None else plate]))
    return found


def _nothing(subject: Subject, title: str) -> Note:
    if title == "Losses" and not subject.optimised:
        return Note("None: nothing was optimised.")
    return Note("Nothing to draw: what is missing is told with the results.", warning=True)


def _own_tables(subject: Subject) -> list[tuple[str, Table]]:
    found = []
    if subject.resolved is not None:
        found.append(("Settings", _settings(subject.resolved)))
    return [*found, ("Provenance", _provenance(subject))]


def _settings(resolved: settings.Resolved) -> Table:
    rows = tuple(
        (key, yaml_io.inline(value), resolved.origins.get(key, "default"))
        for key, value in settings.flat(resolved.config).items()
    )
    return Table("Every setting, and where it comes from.", ("setting", "value", "origin"), rows)


def _provenance(subject: Subject) -> Table:
    rows = tuple((name, value) for name, value in provenance(subject).items())
    return Table("Where the numbers come from.", ("what", "value"), rows)


def provenance(subject: Subject) -> dict[str, str]:
    """What is known of a run's making, as text."""
    results = subject.results or {}
    known = {**subject.manifest, **(results.get("provenance") or {})}
    identity = subject.manifest.get("identity") or {}
    found: dict[str, Any] = {
        "folder": str(subject.run.folder),
        "command": shlex.join(known["command"]) if known.get("command") else None,
        "begun": subject.manifest.get("created"),
        "finished": known.get("finished"),
        "seeds": known.get("seeds"),
        "versions": known.get("versions"),
        "device": known.get("device"),
        "threads": known.get("threads"),
        "settings (SHA-256)": identity.get("config"),
        "data": (known.get("data") or {}).get("name"),
        "data (SHA-256)": identity.get("data"),
        "teacher": (results.get("teacher") or {}).get("source"),
        "teacher (SHA-256)": (subject.manifest.get("teacher") or {}).get("fingerprint"),
        "measured on": known.get("measured_on"),
        "sessions": known["sessions"] if isinstance(known.get("sessions"), int) else None,
        "bit for bit one session": known.get("bit_exact"),
    }
    return {name: _text(value) for name, value in found.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def plates_of(sections: Sequence[Section]) -> list[Plate]:
    """All figures, in order."""
    return [part for section in sections for part in section.parts if isinstance(part, Plate)]
