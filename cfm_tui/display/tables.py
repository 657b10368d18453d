"""Results as text: aligned columns or CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cfm_tui.display.progress import format_age, format_duration, format_rate
from engine.config.filters import FILTERS
from engine.runs.results import describe_spread, describe_verdict, format_mean_std, sum_timings

if TYPE_CHECKING:
    from cfm_tui.display.run_summary import RunSummary


def align_columns(rows: Sequence[Sequence[str]]) -> str:
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
    """Format the accuracies of a run, what ± covers, the verdict, and the time of each stage."""
    kinds = (
        ("distilled", "accuracy", "last epoch, %"),
        ("random", "control", "the control: random real images"),
        ("start", "start", "the real images that recovery starts from"),
        ("best epoch", "accuracy_best", "distilled, optimistic: chosen on the test set"),
    )
    summary = results["summary"]
    rows = [
        [title, format_mean_std(accuracies[key], count=False), f"{name}, {explanation}"]
        for name, accuracies in summary["by_architecture"].items()
        for title, key, explanation in kinds
        if key == "accuracy" or accuracies[key] is not None
    ]
    teacher, accuracy = results["repeats"][0]["teacher"]["architecture"], summary["teacher"]
    if "teacher" not in results["covers"]:  # one teacher, whose accuracy has no deviation
        accuracy = {**accuracy, "std": None}
    rows.append(["teacher", format_mean_std(accuracy, count=False), teacher])
    verdicts = {
        name: describe_verdict(each["versus_control"]) for name, each in summary["by_architecture"].items()
    }
    notes = [describe_spread(results)]
    for name, accuracies in summary["by_architecture"].items():
        if spread := _describe_students(accuracies["accuracy"]):
            notes.append(f"{name}: {spread}" if len(summary["by_architecture"]) > 1 else spread)
    notes += [f"{name}: {verdict}" for name, verdict in verdicts.items() if verdict]
    if any(accuracies["control"] is not None for accuracies in summary["by_architecture"].values()):
        notes.append("all students have the same labels and budget")
    notes.append(_describe_threads(results["repeats"][-1]["provenance"]))
    timings = []
    for stage, timing in sum_timings(results).items():
        duration, rate = "—", "nothing computed"
        if not timing["reused"]:
            duration, rate = format_duration(timing["seconds"]), format_rate(timing["rate"], timing["unit"])
        timings.append([stage, duration, rate])
    return "\n\n".join([align_columns(rows), "\n".join(filter(None, notes)), align_columns(timings)])


def _describe_students(summary: Mapping[str, Any] | None) -> str:
    """Return the spread of the students of one repeat in words; empty if no repeat has two."""
    if summary is None or summary["students"]["std"] is None:
        return ""
    per_repeat = summary["students"]["n"] // summary["n"]
    spread = f"which differ by ± {summary['students']['std']:.2f} (distilled)"
    return f"each repeat is the mean of {per_repeat} students, {spread}"


def _describe_threads(provenance: Mapping[str, Any]) -> str:
    """Return with how many threads a run computed on a CPU; empty where that is not recorded."""
    execution = provenance.get("execution") or provenance  # earlier versions recorded them apart
    threads = execution.get("threads")
    if threads is None or not str(provenance.get("device")).startswith("cpu"):
        return ""
    if threads == "adaptive":
        return "computed with a varying number of threads, so not bit-for-bit reproducible"
    together = ", all students of an architecture together" if execution.get("together") else ""
    return f"computed with {threads} thread{'' if threads == 1 else 's'}{together}"


_RUNS_HEADER = (
    "run",
    "state",
    "data",
    "ipc",
    "network",
    "method",
    "distilled",
    "control",
    "Δ",
    "verdict",
    "age",
)
_NUMERIC = ("ipc", "distilled", "control", "Δ", "age")
_MARKED_VERDICTS = ("better", "worse")
SHORT_NAME, SHORTEST_NAME = 14, 12  #: cells to which names are cut before columns are omitted, and after


def runs_table(runs: Sequence[RunSummary], width: int | None = None) -> str:
    """Format a list of runs, one line per run, in lines of at most `width` cells; None: as long as needed.

    To save cells, numbers lose digits, names are cut in the middle, and the least important columns are
    omitted; without its column, a verdict of better or worse is a `*` behind the difference.
    """
    full, short = _build_runs_rows(runs), _build_runs_rows(runs, short=True)
    if width is None:
        return _align_runs(full)
    variants = [(full, math.inf), (short, SHORT_NAME)]  # and how far names may be cut
    rows = _build_runs_rows(runs, short=True, marked=True)
    for omitted in ("verdict", "network", "control", "ipc", "data", "age"):
        rows = [{key: cell for key, cell in row.items() if key != omitted} for row in rows]
        variants.append((rows, SHORTEST_NAME))
    longest = max(len(row["run"]) for row in full)
    for rows, shortest_name in variants:
        excess = max(map(len, _align_runs(rows).splitlines())) - width
        if excess <= 0 or longest - excess >= shortest_name:
            break
    name_width = max(longest - max(excess, 0), SHORTEST_NAME)
    return _align_runs([{**row, "run": cut_middle(row["run"], name_width)} for row in rows])


def cut_middle(text: str, width: int) -> str:
    """Return a text in at most `width` cells, with an ellipsis in its middle if it is longer."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def _build_runs_rows(
    runs: Sequence[RunSummary], *, short: bool = False, marked: bool = False
) -> list[dict[str, str]]:
    """Return the cells of a list of runs by column, the header first. marked: verdicts as a mark."""
    rows = [dict(zip(_RUNS_HEADER, _RUNS_HEADER, strict=True))]
    for run in runs:
        stage = run.stage if not short else None
        percent = f"{run.done:.0%}" if run.done is not None and run.is_active else None
        digits = 1 if short else 2
        difference = "—" if run.difference is None else f"{run.difference:+.{digits}f}"
        cells = (
            run.name,
            " ".join(part for part in (run.state, stage, percent) if part),
            run.data or "—",
            "—" if run.ipc is None else str(run.ipc),
            (cut_middle(run.network, 10) if short else run.network) if run.network else "—",
            run.method or "—",
            *(format_mean_std(each, digits, count=not short) for each in (run.accuracy, run.control)),
            difference.replace("-", "−") + (" *" if marked and run.verdict in _MARKED_VERDICTS else ""),
            run.verdict or "—",
            format_age(run.age_seconds),
        )
        rows.append(dict(zip(_RUNS_HEADER, cells, strict=True)))
    return rows


def _align_runs(rows: Sequence[Mapping[str, str]]) -> str:
    """Format rows as columns, those of numbers right-aligned."""
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    for key in set(_NUMERIC) & set(columns):
        widest = max(map(len, columns[key]))
        columns[key] = [f"{cell:>{widest}}" for cell in columns[key]]
    return align_columns(list(zip(*columns.values(), strict=True)))


def score_table(document: dict[str, Any]) -> str:
    """Format the score of every term at every layer, with the ends of both spectra."""
    layers = document["layers"]
    terms = [f"{term['filter']}/{term['signal']}" for term in layers[0]["terms"]]  # as `Term.title`
    rows = [["layer", *terms, "λ real", "λ synthetic"]]
    for layer in layers:
        values = [f"{term['value']:.6g}" for term in layer["terms"]]
        ends = [layer[f"eigenvalues_{side}"] for side in ("real", "synthetic")]
        spectra = [f"{each[0]:.3g} … {each[-1]:.3g}" if each else "—" for each in ends]
        rows.append([layer["name"], *values, *spectra])
    head = f"CE {document['ce']:.6g}, β {document['beta']:g}, {document['images']['count']} images"
    if gradients := document.get("gradients"):
        head += "\n|∇ terms| {terms:.6g}, |∇ CE| {ce:.6g}, ratio {ratio:.3g}, weighted".format(**gradients)
    return f"{head}\n\n{align_columns(rows)}"


def terms_table(terms: Sequence[dict[str, Any]]) -> str:
    """Format an objective's terms: filter, pass band, signal, weight, and f(λ) of both sides."""
    rows = [["filter", "passes", "signal", "weight", "f(λ)"]]
    for term in terms:
        sides = [f"real: {term['f']}", f"synthetic: {term['f_synthetic']}"] if term["f_synthetic"] else []
        bands = list(dict.fromkeys(band for band in (term["passes"], term["passes_synthetic"]) if band))
        first = sides[0] if sides else term["f"] or FILTERS[term["filter"]].formula
        rows.append([term["label"], ", ".join(bands), term["signal"], f"{term['weight']:g}", first])
        rows += [["", "", "", "", side] for side in sides[1:]]
    return align_columns(rows)


# --- the comparison of `cfm table` ---------------------------------------------------------------

_LATEX = str.maketrans(
    {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "β": r"$\beta$", "—": "---", "→": r"$\rightarrow$", "<": "$<$", ">": "$>$", "−": "$-$"}
)
_VALUES = ("mean", "std", "n")
_COMPARISON = ("difference", "standard errors", "p", "p (Holm)", "pairs")  # as `_format_difference`
_VERSUS = ("row", "difference", "standard_error", "errors", "p", "p_adjusted", "n", "verdict")


def format_comparison(document: Mapping[str, Any], form: str) -> str:
    """Format a comparison of runs as aligned ``text``, ``markdown``, ``latex`` (booktabs) or ``csv``."""
    if form == "csv":
        return _format_csv(document)
    tables = [_build_grid(document)]
    tables += [rows for rows in (_build_differences(document), _build_order(document)) if len(rows) > 1]
    notes = _build_notes(document)
    if form == "markdown":
        return _format_markdown(tables, notes)
    if form == "latex":
        return _format_latex(tables, notes)
    return "\n\n".join([*map(align_columns, tables), "\n".join(notes)])


def _build_grid(document: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of method × setting, with a column for the paper's numbers if there are any."""
    cells = {(cell["row"], cell["column"]): cell for cell in document["cells"]}
    rows = list(dict.fromkeys(cell["row"] for cell in document["cells"]))
    columns = [column["name"] for column in document["columns"]]
    has_paper_column = {
        name: any(cell["paper"] for (_, column), cell in cells.items() if column == name) for name in columns
    }
    table = [["%"]]
    for name in columns:
        table[0] += [name, "paper"] if has_paper_column[name] else [name]
    for row in rows:
        line = [row]
        for name in columns:
            cell = cells.get((row, name))
            line.append(_format_accuracy(cell))
            if has_paper_column[name]:
                paper = cell["paper"] if cell is not None else None
                line.append("—" if paper is None else str(paper["printed"]).replace("±", " ± "))
        table.append(line)
    return table


def _build_differences(document: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of differences to the reference row: points, standard errors, p, pairs, verdict."""
    table = [["setting", "method", "against", *_COMPARISON, "verdict"]]
    for cell in document["cells"]:
        if (versus := cell["versus"]) is not None:
            numbers = _format_difference(versus)
            table.append([cell["column"], cell["row"], versus["row"], *numbers, versus["verdict"]])
    return table


def _build_order(document: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of claims about the order of rows, and whether each is true."""
    table = [["setting", "claim", *_COMPARISON, "so?"]]
    answers = {"better": "yes", "worse": "no, the other way round"}
    for step in document["order"]:
        claim, verdict = f"{step['less']} < {step['more']}", str(step["verdict"])
        answer = answers.get(verdict, verdict)
        table.append([step["column"], claim, *_format_difference(step), answer])
    return table


def _build_notes(document: Mapping[str, Any]) -> list[str]:
    """Return the notes below a table: meaning of the numbers, budget, unfinished runs."""
    notes = [
        "mean ± standard deviation over repeats (their number) of the accuracy after the last epoch, %;"
        " the students of a repeat are averaged first"
    ]
    names = ", ".join(document["own_settings"])
    others = (
        "; all other rows share theirs"
        if names and len(document["own_settings"]) < len(document["rows"])
        else ""
    )
    notes.append(
        f"students of {names}: trained with the settings of the method's authors{others}"
        if names
        else "students of all rows are trained with the same settings, not those of each method's authors"
    )
    against = document["against"]
    reference = "the best row of the setting" if against == "best" else against
    is_tested = any((cell["versus"] or {}).get("p") is not None for cell in document["cells"])
    if not is_tested:
        notes.append(
            "no rows share two repeats, so no difference was tested: repeat with more seeds or repeats"
        )
    else:
        notes.append(
            f"* better or worse than {reference}: two-sided paired t test over repeats with equal seeds,"
            f" p < {document['level']:g} after Holm's correction for the rows of a setting"
        )
    if against == "best" and is_tested:
        notes.append("the best row was chosen by its test accuracy, so p against it is too small")
    if any(cell["row"] == "control" for cell in document["cells"]):
        notes.append(
            "control: as many random real images, under the labels and budget of the row compared with"
        )
    if any(cell["row"] == "start" for cell in document["cells"]):
        notes.append("start: the real images that recovery of the row compared with starts from")
    for verdict in ("worse", "not shown"):
        rows = [
            cell for cell in document["cells"] if (cell["versus_control"] or {}).get("verdict") == verdict
        ]
        if rows:
            words = (
                "worse than the random control"
                if verdict == "worse"
                else "not shown to beat the random control"
            )
            by_column: dict[str, list[str]] = {}
            for cell in rows:
                by_column.setdefault(cell["column"], []).append(cell["row"])
            is_only = len(document["columns"]) == 1
            names = "; ".join(
                ", ".join(of_column) + ("" if is_only else f" ({column})")
                for column, of_column in by_column.items()
            )
            notes.append(f"{words}: {names}")
    if sources := sorted({cell["paper"]["source"] for cell in document["cells"] if cell["paper"]}):
        notes.append(f"paper: {', '.join(sources)}, at its own settings and budget")
    if views := [row for row in ("dm", "dc", "mtt", "frepo") if row in document["rows"]]:
        notes.append(f"{', '.join(views)}: filter views of those methods, not their own training loops")
    if document["budget"] is not None:
        scaled = (
            f"{key} " + " or ".join(f"{before} → {after}" for before, after in pairs)
            for key, pairs in document["scaled"].items()
        )
        notes.append(f"budget {document['budget']:g} of the full one: " + ", ".join(scaled))
    if missing := document["unfinished"]:
        names = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        notes.append(f"not finished, so only their finished repeats count: {len(missing)} ({names})")
    return notes


def _format_markdown(tables: Sequence[list[list[str]]], notes: Sequence[str]) -> str:
    parts = []
    for rows in tables:
        head, *body = ([cell.replace("|", r"\|").replace("*", r"\*") for cell in row] for row in rows)
        rule = ["---:" if number else "---" for number in _find_numeric_columns(rows)]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *body]))
    list_of_notes = "\n".join(f"- {line.replace('*', chr(92) + '*')}" for line in notes)
    return "\n\n".join([*parts, list_of_notes])


def _format_latex(tables: Sequence[list[list[str]]], notes: Sequence[str]) -> str:
    parts = ["% needs \\usepackage{booktabs}"]
    for rows in tables:
        head, *body = ([cell.translate(_LATEX) for cell in row] for row in rows)
        places = "".join("r" if number else "l" for number in _find_numeric_columns(rows))
        lines = [rf"\begin{{tabular}}{{{places}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
        lines += [" & ".join(row) + r" \\" for row in body]
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join([*parts, "\n".join(f"% {line}" for line in notes)])


def _format_csv(document: Mapping[str, Any]) -> str:
    """Format a table as CSV with one line per cell, in full precision."""
    columns = {column["name"]: column for column in document["columns"]}
    places = ("dataset", "ipc", "backbone", "student")
    head = ["setting", *places, "method", *_VALUES, *(f"control_{name}" for name in _VALUES)]
    head += ["paper_mean", "paper_std", "paper_source"]
    head += [*(f"versus_{name}" for name in _VERSUS), "control_verdict", "budget"]
    lines = []
    for cell in document["cells"]:
        line = [cell["column"], *(columns[cell["column"]][name] for name in places), cell["row"]]
        line += _pick(cell["accuracy"], _VALUES) + _pick(cell["control"], _VALUES)
        line += _pick(cell["paper"], ("mean", "std", "source")) + _pick(cell["versus"], _VERSUS)
        lines.append([*line, (cell["versus_control"] or {}).get("verdict"), document["budget"]])
    return as_csv(head, lines).removesuffix("\n")


def _format_accuracy(cell: dict[str, Any] | None) -> str:
    if cell is None or cell["accuracy"] is None:
        return "—"
    differs = cell["versus"] is not None and cell["versus"]["verdict"] in ("better", "worse")
    return format_mean_std(cell["accuracy"]) + (" *" if differs else "")


def _format_difference(versus: dict[str, Any]) -> list[str]:
    def number(name: str, form: str) -> str:
        return "—" if versus[name] is None else format(versus[name], form).replace("-", "−")

    p_values = [number("p", ".3g"), number("p_adjusted", ".3g")]
    return [number("difference", "+.2f"), number("errors", "+.1f"), *p_values, str(versus["n"])]


def _find_numeric_columns(rows: list[list[str]]) -> list[bool]:
    """Return for each column whether it contains numbers."""
    return [all(cell[0] in "+−—0123456789" for cell in column[1:]) for column in zip(*rows, strict=True)]


def _pick(values: dict[str, Any] | None, names: Sequence[str]) -> list[Any]:
    return [None if values is None else values[name] for name in names]
