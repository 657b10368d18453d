"""Results as text: aligned columns or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from cfm_tui.display.progress import SHORT, beta_text, format_duration, format_number
from engine.config.filters import FILTERS
from engine.events import STAGES
from engine.runs.results import format_mean_std

CONTROL = "the control: real images, same labels and budget"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells as left-aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    padded = ("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in padded)


def as_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def results_table(results: dict[str, Any]) -> str:
    """Format the accuracies of a run and the time of each stage."""
    rows = []
    for name, accuracies in results["summary"]["by_architecture"].items():
        rows += [
            ["distilled", format_mean_std(accuracies["accuracy"]), f"{name}, last epoch, % (seeds)"],
            ["random", format_mean_std(accuracies["control"]), f"{name}, {CONTROL}"],
            [
                "best epoch",
                format_mean_std(accuracies["accuracy_best"]),
                f"{name}, distilled; peeks at the test set",
            ],
        ]
    teacher = results["teacher"]
    rows.append(["teacher", f"{teacher['accuracy']:.2f}", teacher["architecture"]])
    return (
        aligned(rows)
        + "\n\n"
        + aligned([_format_timing(stage, results["timings"][stage]) for stage in STAGES])
    )


def _format_timing(stage: str, timing: dict[str, Any]) -> list[str]:
    if timing["reused"]:
        return [stage, "—", "nothing computed"]
    unit = SHORT.get(timing["unit"], timing["unit"])
    return [stage, format_duration(timing["seconds"]), f"{format_number(timing['rate'])} {unit}/s"]


def runs_table(runs: Sequence[dict[str, Any]]) -> str:
    """Format a list of runs, one line per run."""
    rows = [["run", "state", "distilled", "random", "begun"]]
    for run in runs:
        state = " ".join(part for part in (run["state"], run["stage"]) if part)
        rows.append(
            [
                run["name"],
                state,
                format_mean_std(run["accuracy"]),
                format_mean_std(run["control"]),
                run["created"] or "—",
            ]
        )
    return aligned(rows)


def status_line(status: dict[str, Any], state: str) -> str:
    """Format a run's state and its latest heartbeat in one line."""
    if not status:
        return state
    parts = [state, status.get("stage"), _format_position(status), status.get("message")]
    return " — ".join(part for part in parts if part) + f" ({status['time']})"


def _format_position(status: dict[str, Any]) -> str | None:
    if "batch" in status:
        parts = [f"batch {status['batch']} of {status['batches']}", beta_text(status["beta"], 4)]
        return ", ".join(part for part in parts if part)
    if "epoch" in status:
        return f"{status['architecture']}, epoch {status['epoch']} of {status['epochs']}"
    return None


def score_table(document: dict[str, Any]) -> str:
    """Format the score of every term at every layer, with the ends of both spectra."""
    layers = document["layers"]
    terms = [f"{term['filter']}/{term['signal']}" for term in layers[0]["terms"]]  # as `Term.title`
    rows = [["layer", *terms, "λ real", "λ synthetic"]]
    for layer in layers:
        values = [f"{term['value']:.6g}" for term in layer["terms"]]
        spectra = [_format_ends(layer[f"eigenvalues_{side}"]) for side in ("real", "synthetic")]
        rows.append([layer["name"], *values, *spectra])
    return (
        f"CE {document['ce']:.6g}, β {document['beta']:g}, {document['images']['count']} images\n\n"
        + aligned(rows)
    )


def terms_table(terms: Sequence[dict[str, Any]]) -> str:
    """Format an objective's terms: filter, pass band, signal, weight, and f(λ) of both sides."""
    rows = [["filter", "passes", "signal", "weight", "f(λ)"]]
    for term in terms:
        sides = [f"real: {term['f']}", f"synthetic: {term['f_synthetic']}"] if term["f_synthetic"] else []
        bands = list(dict.fromkeys(band for band in (term["passes"], term["passes_synthetic"]) if band))
        rows.append(
            [
                term["label"],
                ", ".join(bands),
                term["signal"],
                f"{term['weight']:g}",
                sides[0] if sides else term["f"] or FILTERS[term["filter"]].formula,
            ]
        )
        rows += [["", "", "", "", side] for side in sides[1:]]
    return aligned(rows)


def _format_ends(eigenvalues: Sequence[float] | None) -> str:
    return "—" if not eigenvalues else f"{eigenvalues[0]:.3g} … {eigenvalues[-1]:.3g}"
