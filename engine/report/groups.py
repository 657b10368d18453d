"""Runs that differ in their seed alone, put together: what a method's numbers are, and over how many.

Source: the forms of UniDD Figure 2 and Figure 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.config import settings, yaml_io
from engine.config.identity import LOCAL_SETTINGS
from engine.errors import UserError
from engine.report.subject import Subject
from engine.runs import results
from engine.store import sweeps

_ASIDE = {"seed", "objective.method", *LOCAL_SETTINGS}
_SHORT = {"objective.beta": "β", "objective.ce": "CE", "backbone.name": "", "data.name": ""}
_FOUND = ("data", "teacher", "images", "labels", "statistics")  # what has a fingerprint in the identity
_MOST = 3  # settings in a label


@dataclass(frozen=True)
class Group:
    """Runs of one setting. label: its row in a sweep, else the method and what tells it from other groups."""

    label: str
    subjects: tuple[Subject, ...]

    @property
    def runs(self) -> list[str]:
        """Names of its runs."""
        return [subject.name for subject in self.subjects]


@dataclass(frozen=True)
class Accuracy:
    """A group's accuracies in percent by one architecture of students, after the last epoch.

    distilled, control: mean, sample standard deviation, count, over all students of all its runs (see
    `results.spread`). sets: how many distilled sets they were trained on.
    """

    label: str
    architecture: str
    distilled: dict[str, Any] | None
    control: dict[str, Any] | None
    sets: int


def duplicate_runs(subjects: Sequence[Subject]) -> dict[int, Subject]:
    """Runs, by place, with settings and seed of an earlier one, which is told: repeats, not samples."""
    first: dict[tuple[str, int], Subject] = {}
    found = {}
    for place, subject in enumerate(subjects):
        if subject.config is not None:
            one = first.setdefault((_key(subject), subject.config.seed), subject)
            if one is not subject:
                found[place] = one
    return found


def _own(subject: Subject) -> dict[str, Any]:
    """What tells a group: its settings, and the fingerprints of what they were used with."""
    if subject.config is None:
        return {}
    flat = settings.flat(subject.config)
    own = {key: value for key, value in flat.items() if key not in {"seed", *LOCAL_SETTINGS}}
    known = subject.manifest.get("identity") or {}
    return own | {f"identity.{part}": _short(str(known.get(part, ""))) for part in _FOUND}


def _short(fingerprints: str) -> str:
    return " ".join(each[:8] for each in fingerprints.split())


def _key(subject: Subject) -> str:
    own = _own(subject)
    return yaml_io.inline(own) if own else str(subject.run.folder)


def group_runs(subjects: Sequence[Subject]) -> list[Group]:
    """Groups in the order of their first runs, without `duplicate_runs`.

    A run whose settings cannot be read is its own group.
    """
    members: dict[str, list[Subject]] = {}
    values: dict[str, dict[str, Any]] = {}
    repeated = duplicate_runs(subjects)
    for place, subject in enumerate(subjects):
        if place in repeated:
            continue
        own, key = _own(subject), _key(subject)
        members.setdefault(key, []).append(subject)
        values[key] = own
    rows = [_row(own[0]) for own in members.values()]
    if all(rows) and len(set(rows)) == len(rows):
        labels = rows
    else:
        labels = _labels(list(values.values()), [own[0].name for own in members.values()])
    return [Group(label, tuple(own)) for label, own in zip(labels, members.values(), strict=True)]


def _row(subject: Subject) -> str:
    """Where a sweep puts a run; empty for one by itself."""
    folder = subject.run.folder
    with suppress(UserError, KeyError, TypeError):  # a sweep's file that is damaged names nothing
        if sweeps.is_sweep(folder.parent):
            points = sweeps.StoredSweep(folder.parent).manifest()["points"]
            return next((str(point["row"]) for point in points if point["name"] == folder.name), "")
    return ""


def _labels(groups: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    found = []
    for own, name in zip(groups, names, strict=True):
        if not own:
            found.append(name)
            continue
        method = own["objective.method"]
        others = [each for each in groups if each and each["objective.method"] == method]
        keys = [key for key in own if key not in _ASIDE and any(each[key] != own[key] for each in others)]
        told = [_told(key, own[key]) for key in keys[:_MOST]]
        more = ", …" if len(keys) > _MOST else ""
        found.append(f"{method}" + (f" ({', '.join(told)}{more})" if told else ""))
    doubled = {label for label in found if found.count(label) > 1}
    return [
        f"{label}: {name}" if label in doubled else label for label, name in zip(found, names, strict=True)
    ]


def _told(key: str, value: Any) -> str:
    short = _SHORT.get(key, key.rpartition(".")[2])
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        value = " + ".join(f"{_filter(each)}/{each.get('signal')}" for each in value) or "none"
    elif not isinstance(value, str):
        value = f"{value:g}" if isinstance(value, float) else yaml_io.inline(value)
    return f"{short} {value or '—'}".strip()


def _filter(term: dict[str, Any]) -> Any:
    return term.get("filter") or term.get("name") or term.get("f")


def accuracies(groups: Sequence[Group]) -> list[Accuracy]:
    """Of every group and architecture that has students, architecture by architecture."""
    names: dict[str, None] = {}
    for group in groups:
        names |= dict.fromkeys(student["architecture"] for _, student in _students(group))
    return [
        _accuracy(group, name)
        for name in names
        for group in groups
        if any(student["architecture"] == name for _, student in _students(group))
    ]


def _students(group: Group) -> list[tuple[str, dict[str, Any]]]:
    """The run of each student, and its numbers."""
    return [
        (subject.name, student)
        for subject in group.subjects
        if subject.results is not None
        for student in subject.results.get("students", [])
    ]


def _accuracy(group: Group, architecture: str) -> Accuracy:
    own = [each for each in _students(group) if each[1]["architecture"] == architecture]
    distilled = [(run, student["last"]) for run, student in own if student["source"] == "distilled"]
    control = [student["last"] for _, student in own if student["source"] == "random"]
    return Accuracy(
        group.label,
        architecture,
        results.mean_std([value for _, value in distilled]),
        results.mean_std(control),
        len({run for run, _ in distilled}),
    )


@dataclass(frozen=True)
class GroupSimilarity:
    """A row of Figure 2. of_class: s_k of every class of every run that has one; spread: over these."""

    label: str
    of_class: tuple[float, ...]
    spread: dict[str, Any] | None
    sets: int


def intra_class_similarities(groups: Sequence[Group]) -> list[GroupSimilarity]:
    """Intra-class similarity: of as many real images first, once for every teacher; then of the groups."""
    real: dict[int, dict[str | None, list[float]]] = {}
    for group in groups:
        for subject in group.subjects:
            if subject.similar_real is not None:
                of_teacher = real.setdefault(subject.similar_real.images, {})
                of_teacher.setdefault(subject.teacher, _known(subject.similar_real.of_class_K))
    found = []
    for count, teachers in real.items():
        values = [value for own in teachers.values() for value in own]
        found.append(_likeness(f"{count} real images", values, len(teachers)))
    for group in groups:
        own = [subject.similar for subject in group.subjects if subject.similar is not None]
        if own:
            values = [value for similar in own for value in _known(similar.of_class_K)]
            found.append(_likeness(group.label, values, len(own)))
    return [each for each in found if each.spread is not None]


def _known(values_K: Any) -> list[float]:
    return [float(value) for value in values_K if np.isfinite(value)]


def _likeness(label: str, values: list[float], sets: int) -> GroupSimilarity:
    return GroupSimilarity(label, tuple(values), results.mean_std(values), sets)
