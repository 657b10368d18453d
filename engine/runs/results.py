"""Build and read `results.json`, the document with the numbers of a run, over all of its repeats.

A repeat computes the whole experiment again with the next seed: the teacher (where it is trained), recovery,
labels, students, and the draw of the random control. Student seeds of one repeat are averaged first, so the
samples are the means of repeats. Not here: how two samples are compared (see `significance`).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from engine.config import yaml_io
from engine.errors import UserError
from engine.runs.significance import FEW_PAIRS, compare_paired
from engine.store import StoredRun

if TYPE_CHECKING:
    from engine.stages.validate import StudentResult

Results = dict[str, Any]
SCHEMA_VERSION = 2
#: Keys of a summary, and the images that their students are trained on.
SOURCES = {"accuracy": "distilled", "control": "random", "start": "start"}


def mean_std(values: Sequence[float]) -> dict[str, Any] | None:
    """Return mean, sample standard deviation (None for one value) and count; None for no values."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "n": len(values)}


def format_mean_std(
    summary: Mapping[str, Any] | None, digits: int = 2, absent: str = "—", *, count: bool = True
) -> str:
    """Format what `mean_std` returns as "mean ± std (count)", without the deviation for one value.

    absent: the text for None. count: whether to include the count.
    """
    if summary is None:
        return absent
    deviation = "" if summary["std"] is None else f" ± {summary['std']:.{digits}f}"
    number = f" ({summary['n']})" if count else ""
    return f"{summary['mean']:.{digits}f}{deviation}{number}"


def summarise_repeats(samples: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """Return mean, sample standard deviation and number of repeats, and under `students` their spread.

    samples: the accuracies of the students of each repeat. The spread of the students is the pooled standard
    deviation within repeats (None if no repeat has two), and `n` the number of all students.
    """
    summary = mean_std([statistics.fmean(students) for students in samples if students])
    if summary is None:
        return None
    within = [statistics.variance(students) for students in samples if len(students) > 1]
    weights = [len(students) - 1 for students in samples if len(students) > 1]
    pooled = (
        sum(weight * variance for weight, variance in zip(weights, within, strict=True)) / sum(weights)
        if weights
        else None
    )
    std = None if pooled is None else pooled**0.5
    return {**summary, "students": {"std": std, "n": sum(map(len, samples))}}


def describe_repeat(
    *,
    seed: int,
    students: Sequence[StudentResult],
    teacher: dict[str, Any],
    timings: dict[str, Any],
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Return the entry of one repeat."""
    return {
        "seed": seed,
        "students": [
            {**asdict(student), "curve": [list(point) for point in student.curve]} for student in students
        ],
        "teacher": teacher,
        "timings": timings,
        "provenance": provenance,
    }


def build_document(
    run: str, repeats: Sequence[Mapping[str, Any]], planned: int, covers: Sequence[str]
) -> Results:
    """Return the whole document.

    repeats: entries of `describe_repeat`. covers: what each repeat computed anew, such as ``teacher``.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "run": run,
        "repeats_planned": planned,
        "covers": list(covers),
        "summary": summarise(repeats),
        "repeats": list(repeats),
    }


def summarise(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the accuracies in percent of the first architecture, of every architecture, and of the teacher.

    repeats: entries of `describe_repeat`.
    """
    students = [student for repeat in repeats for student in repeat["students"]]
    names = list(dict.fromkeys(student["architecture"] for student in students))
    by_architecture = {name: _summarise_architecture(repeats, name) for name in names}
    teacher = mean_std([repeat["teacher"]["accuracy"] for repeat in repeats])
    return {
        "architecture": names[0],
        **by_architecture[names[0]],
        "teacher": teacher,
        "by_architecture": by_architecture,
    }


def _summarise_architecture(repeats: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    def sample(source: str, key: str = "last") -> list[list[float]]:
        return [
            [
                each[key]
                for each in repeat["students"]
                if each["architecture"] == name and each["source"] == source
            ]
            for repeat in repeats
        ]

    best = summarise_repeats(sample("distilled", "best"))
    summary = {key: summarise_repeats(sample(source)) for key, source in SOURCES.items()}
    distilled, control = (average_students(repeats, name, source) for source in ("distilled", "random"))
    return {
        **summary,
        "accuracy_best": None if best is None else {**best, "peeks_at_test_set": True},
        "versus_control": compare_paired(distilled, control) if distilled and control else None,
    }


def average_students(
    repeats: Sequence[Mapping[str, Any]], architecture: str, source: str
) -> dict[int, float]:
    """Return the mean accuracy in percent of the students of each repeat, by its seed.

    source: the images that they were trained on, one of the values of `SOURCES`.
    """
    means = {}
    for repeat in repeats:
        accuracies = [
            each["last"]
            for each in repeat["students"]
            if each["architecture"] == architecture and each["source"] == source
        ]
        if accuracies:
            means[repeat["seed"]] = statistics.fmean(accuracies)
    return means


def read_results(run: StoredRun) -> Results | None:
    """Return the results of the repeats that are finished, in the current form; None before the first is.

    Raises UserError("disk") if the file is damaged, or was written by a later version of the program.
    """
    document = run.results()
    if document is None:
        return None
    version = document.get("schema_version")
    if version == 1:
        return _convert_version_1(document, run)
    if version != SCHEMA_VERSION:
        raise UserError(
            "disk",
            f"the results of {run.folder} have version {version}, and this program reads 1 and 2",
            "use the version of the program that wrote them, or a later one",
        )
    return document


def _convert_version_1(document: Mapping[str, Any], run: StoredRun) -> Results:
    """Return the document of a run without repeats, whose deviations were those of its students.

    Its control had the images that recovery started from, unless it started from noise.
    """
    parts = {key: document[key] for key in ("teacher", "timings", "provenance")}
    init = "first"
    with suppress(UserError):
        init = yaml_io.parse(run.config_yaml(), str(run.folder))["recover"]["init"]
    source = "random" if init in ("random", "noise") else "start"
    students = [
        {**student, "source": source if student["source"] == "random" else student["source"]}
        for student in document["students"]
    ]
    seed = document["provenance"].get("seeds", {}).get("run", 0)
    return build_document(document["run"], [{"seed": seed, "students": students, **parts}], 1, [])


def describe_spread(document: Mapping[str, Any]) -> str:
    """Return in words what the ± of a document covers, or that nothing was repeated."""
    repeats, planned = len(document["repeats"]), document["repeats_planned"]
    left = f"; {planned - repeats} more to come" if planned > repeats else ""
    if repeats == 1:
        return f"one repeat: how much the result varies from run to run is not known{left}"
    return f"± over {repeats} repeats ({', '.join(document['covers'])}){left}"


def describe_verdict(versus: Mapping[str, Any] | None) -> str:
    """Return in words how distilled images compare with the random control; empty without a control.

    versus: `versus_control` of a summary.
    """
    if versus is None or versus["difference"] is None:
        return ""
    points, side = abs(versus["difference"]), "above" if versus["difference"] >= 0 else "below"
    if versus["verdict"] == "not tested":
        reason = "one repeat" if versus["n"] < 2 else "the differences have no variance"
        return f"not tested against random ({reason}): {points:.2f} points {side}"
    pairs = f", {versus['n']} pairs" if versus["n"] < FEW_PAIRS else ""
    test = f"(p = {versus['p_adjusted']:.2g}{pairs})"
    if versus["verdict"] == "not shown":
        return f"not shown to differ from random: {points:.2f} points {side} {test}"
    return f"{versus['verdict']} than random by {points:.2f} points {test}"


def keep_first_repeat(document: Mapping[str, Any]) -> Results:
    """Return the document of a run's first repeat alone, as if nothing had been repeated."""
    return build_document(document["run"], document["repeats"][:1], 1, [])


def sum_timings(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the time of each stage over all repeats: seconds, units per second, unit, and `reused`.

    A stage is reused if no repeat computed it.
    """
    timings: dict[str, dict[str, Any]] = {}
    for repeat in document["repeats"]:
        for stage, timing in repeat["timings"].items():
            if stage not in timings or timings[stage]["reused"]:
                timings[stage] = dict(timing)
            elif not timing["reused"]:
                total = timings[stage]
                seconds = total["seconds"] + timing["seconds"]
                units = total["rate"] * total["seconds"] + timing["rate"] * timing["seconds"]
                timings[stage] = {**total, "seconds": seconds, "rate": units / max(seconds, 1e-9)}
    return timings
