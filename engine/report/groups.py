"""Groups of runs that differ only in their seed, and the numbers of each group.

Source: UniDD Figure 2 and Figure 6.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.config import yaml_io
from engine.config.identity import describe_experiment
from engine.errors import UserError
from engine.report.subject import Subject
from engine.runs import results
from engine.runs.significance import adjust_holm
from engine.store import sweeps

_SHORT_NAMES = {"objective.beta": "β", "objective.ce": "CE", "backbone.name": "", "data.name": ""}
_MAX_SETTINGS = 3  # in a label
#: Settings that tell runs apart best, or groups of them; others follow in the order of the tree.
_TELLING = ("data.name", "ipc", "backbone.name", "backbone.width", "backbone.depth", "protocol", "objective.")


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    label: the row in a sweep, else the method with the settings that distinguish it from other groups.
    """

    label: str
    subjects: tuple[Subject, ...]

    @property
    def runs(self) -> list[str]:
        """The names of the runs."""
        return [subject.name for subject in self.subjects]


@dataclass(frozen=True)
class Accuracy:
    """A group's accuracies in percent of students of one architecture, after the last epoch.

    distilled, control: mean, sample standard deviation and count over repeats, whose students are averaged
    first (see `results.summarise_repeats`). versus_control: their paired comparison.
    """

    label: str
    architecture: str
    distilled: dict[str, Any] | None
    control: dict[str, Any] | None
    versus_control: dict[str, Any] | None


def duplicate_runs(subjects: Sequence[Subject]) -> dict[int, Subject]:
    """Return the index of each run with the settings and seed of an earlier run, and that earlier run.

    Such runs are repetitions, not samples.
    """
    first: dict[tuple[str, int], Subject] = {}
    duplicates = {}
    for index, subject in enumerate(subjects):
        if subject.config is not None:
            original = first.setdefault((_identify(subject)[0], subject.config.seed), subject)
            if original is not subject:
                duplicates[index] = original
    return duplicates


def _identify(subject: Subject) -> tuple[str, dict[str, Any]]:
    """Return a key that runs of one group share, and the settings and inputs in it; none if unreadable."""
    if subject.config is None:
        return str(subject.run.folder), {}
    experiment = describe_experiment(subject.config, subject.manifest.get("identity") or {})
    return json.dumps(experiment), experiment


def group_runs(subjects: Sequence[Subject]) -> list[Group]:
    """Group runs, in the order of each group's first run, without `duplicate_runs`.

    A run whose settings cannot be read forms its own group.
    """
    members: dict[str, list[Subject]] = {}
    repeated = duplicate_runs(subjects)
    for index, subject in enumerate(subjects):
        if index not in repeated:
            members.setdefault(_identify(subject)[0], []).append(subject)
    first = [subjects_of_group[0] for subjects_of_group in members.values()]
    labels = [_find_sweep_row(subject) for subject in first]
    if not all(labels) or len(set(labels)) < len(labels):
        labels = _build_labels([_identify(each)[1] for each in first], [each.name for each in first])
    return [Group(label, tuple(group)) for label, group in zip(labels, members.values(), strict=True)]


def _find_sweep_row(subject: Subject) -> str:
    """Return the row of a run in its sweep; empty for a run outside a sweep."""
    folder = subject.run.folder
    with suppress(UserError, KeyError, TypeError):  # a damaged sweep file names no row
        if sweeps.is_sweep(folder.parent):
            points = sweeps.StoredSweep(folder.parent).manifest()["points"]
            return next((str(point["row"]) for point in points if point["name"] == folder.name), "")
    return ""


def differing_settings(subjects: Sequence[Subject]) -> list[str]:
    """Return the dotted keys of the settings in which readable runs differ, but for the seed."""
    values = [each.config.flatten() for each in subjects if each.config is not None]
    keys = values[0] if values else {}
    return [key for key in keys if key != "seed" and any(each[key] != values[0][key] for each in values)]


def _build_labels(groups: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Return the method of each group, with the fewest settings that tell it from others of the method."""
    labels = []
    for group_settings, name in zip(groups, names, strict=True):
        if not group_settings:
            labels.append(name)
            continue
        method = group_settings["objective.method"]
        same_method = [each for each in groups if each and each["objective.method"] == method]
        parts = [
            _format_setting(key, group_settings[key], group_settings) for key in _choose_keys(same_method)
        ]
        labels.append(f"{method} ({', '.join(parts)})" if parts else method)
    doubled = {label for label in labels if labels.count(label) > 1}
    return [
        f"{label}: {name}" if label in doubled else label for label, name in zip(labels, names, strict=True)
    ]


def _choose_keys(groups: Sequence[dict[str, Any]]) -> list[str]:
    """Return few settings whose values together differ between groups as far as possible."""

    def rank(key: str) -> int:
        matches = (number for number, start in enumerate(_TELLING) if key == start or key.startswith(start))
        return next(matches, len(_TELLING))

    def count_distinct(keys: Sequence[str]) -> int:
        return len({json.dumps([each.get(key) for key in keys]) for each in groups})

    chosen: list[str] = []
    for key in sorted(groups[0], key=rank):
        is_telling = key != "objective.method" and count_distinct([*chosen, key]) > count_distinct(chosen)
        if is_telling and len(chosen) < _MAX_SETTINGS:
            chosen.append(key)
    return chosen


def _format_setting(key: str, value: Any, settings: Collection[str]) -> str:
    """Return a setting for a label. settings: all keys, among which its short name may be ambiguous."""
    section, _, name = key.rpartition(".")
    is_ambiguous = sum(each.rpartition(".")[2] == name for each in settings if "identity." not in each) > 1
    short = _SHORT_NAMES.get(key, f"{section.rpartition('.')[2]} {name}" if is_ambiguous else name)
    if isinstance(value, (list, tuple)) and all(isinstance(each, dict) for each in value):
        names = [term.get("filter") or term.get("name") or term.get("f") for term in value]
        pairs = zip(names, value, strict=True)
        value = " + ".join(f"{name}/{term.get('signal')}" for name, term in pairs) or "none"
    elif isinstance(value, (list, tuple)):
        value = " + ".join(map(str, value))
    elif key.startswith("identity."):
        short = name
        value = " ".join(fingerprint[:8] for fingerprint in value.split())
    elif value is None:
        value = "auto"
    elif not isinstance(value, str):
        value = f"{value:g}" if isinstance(value, float) else yaml_io.inline(value)
    return f"{short} {value or '—'}".strip()


def accuracies(groups: Sequence[Group]) -> list[Accuracy]:
    """Return the accuracy of every group and architecture with students, ordered by architecture.

    p is corrected for the number of groups with the same data set, number of images and architecture.
    """
    rows: dict[str, list[Accuracy]] = {}  # by architecture
    compared: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for group in groups:
        repeats = [each.results["repeats"][0] for each in group.subjects if each.results is not None]
        if repeats:
            for name, summary in results.summarise(repeats)["by_architecture"].items():
                numbers = (summary[key] for key in ("accuracy", "control", "versus_control"))
                rows.setdefault(name, []).append(Accuracy(group.label, name, *numbers))
                config, versus = group.subjects[0].config, summary["versus_control"]
                if config is not None and versus is not None:
                    setting = name, config.data.name, config.ipc, config.backbone.name
                    compared.setdefault(setting, []).append(versus)
    for comparisons in compared.values():
        adjust_holm(comparisons)
    return list(itertools.chain.from_iterable(rows.values()))


@dataclass(frozen=True)
class GroupSimilarity:
    """A row of UniDD Figure 2.

    of_class: finite s_k of every class of every run. spread: their mean, standard deviation and count.
    sets: the number of image sets.
    """

    label: str
    of_class: tuple[float, ...]
    spread: dict[str, Any] | None
    sets: int


def intra_class_similarities(groups: Sequence[Group]) -> list[GroupSimilarity]:
    """Return the intra-class similarity of the real images (one set per teacher), then of each group."""
    real: dict[int, dict[str | None, list[float]]] = {}
    for group in groups:
        for subject in group.subjects:
            if subject.similarity_real is not None:
                of_teacher = real.setdefault(subject.similarity_real.images, {})
                of_teacher.setdefault(subject.teacher, _keep_finite(subject.similarity_real.of_class_K))
    sets = [(f"{count} real images", list(teachers.values())) for count, teachers in real.items()]
    for group in groups:
        similarities = [each.similarity for each in group.subjects if each.similarity is not None]
        sets.append((group.label, [_keep_finite(each.of_class_K) for each in similarities]))
    rows = []
    for label, of_sets in sets:
        if values := tuple(itertools.chain.from_iterable(of_sets)):
            rows.append(GroupSimilarity(label, values, results.mean_std(values), len(of_sets)))
    return rows


def _keep_finite(values_K: Any) -> list[float]:
    return [float(value) for value in values_K if np.isfinite(value)]
