"""A table of results as text: aligned for a terminal, Markdown, LaTeX (booktabs), CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cfm_tui.display.tables import aligned, as_csv
from engine.runs.results import format_mean_std

Rows = list[list[str]]
MARK = "*"
VIEWS = ("dm", "dc", "mtt", "frepo")
_LATEX = str.maketrans(
    {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "β": r"$\beta$", "—": "---", "→": r"$\rightarrow$", "<": "$<$", ">": "$>$", "−": "$-$"}
)


def grid(document: dict[str, Any]) -> Rows:
    """Return the table of method × setting, with a column for the paper's numbers if there are any."""
    cells = {(cell["row"], cell["column"]): cell for cell in document["cells"]}
    rows = list(dict.fromkeys(cell["row"] for cell in document["cells"]))
    columns = [column["name"] for column in document["columns"]]
    has_paper_column = {
        name: any(cell["paper"] for (_, column), cell in cells.items() if column == name) for name in columns
    }
    head = ["%"]
    for name in columns:
        head += [name, "paper"] if has_paper_column[name] else [name]
    table = [head]
    for row in rows:
        line = [row]
        for name in columns:
            cell = cells.get((row, name))
            line += [
                _format_accuracy(cell),
                *([_format_paper_number(cell)] if has_paper_column[name] else []),
            ]
        table.append(line)
    return table


def _format_accuracy(cell: dict[str, Any] | None) -> str:
    if cell is None or cell["accuracy"] is None:
        return "—"
    differs = cell["versus"] is not None and cell["versus"]["exceeds_noise"]
    return format_mean_std(cell["accuracy"]) + (f" {MARK}" if differs else "")


def _format_paper_number(cell: dict[str, Any] | None) -> str:
    if cell is None or cell["paper"] is None:
        return "—"
    return str(cell["paper"]["printed"]).replace("±", " ± ")


def differences(document: dict[str, Any]) -> Rows:
    """Return the table of differences to the reference row: points, standard errors, p, pairs."""
    table = [["setting", "method", "against", "difference", "standard errors", "p", "pairs"]]
    for cell in document["cells"]:
        if (versus := cell["versus"]) is not None:
            table.append([cell["column"], cell["row"], versus["row"], *_format_comparison(versus)])
    return table if len(table) > 1 else []


def order(document: dict[str, Any]) -> Rows:
    """Return the table of claims about the order of rows, and whether each is true."""
    table = [["setting", "claim", "difference", "standard errors", "p", "pairs", "so?"]]
    for step in document["order"]:
        verdict = "yes" if step["difference"] > 0 else "no, the other way round"
        if not step["exceeds_noise"]:
            verdict = "within the noise"
        claim = f"{step['less']} < {step['more']}"
        table.append([step["column"], claim, *_format_comparison(step), verdict])
    return table if len(table) > 1 else []


def _format_comparison(versus: dict[str, Any]) -> list[str]:
    def number(name: str, form: str) -> str:
        return "—" if versus[name] is None else format(versus[name], form).replace("-", "−")

    return [number("difference", "+.2f"), number("errors", "+.1f"), number("p", ".3g"), str(versus["n"])]


def notes(document: dict[str, Any]) -> list[str]:
    """Return the notes below a table: meaning of the numbers, budget, unfinished runs."""
    notes = ["mean ± standard deviation (students) of the accuracy after the last epoch, %"]
    against = document["against"]
    reference = "the best row of the setting" if against == "best" else against
    notes.append(
        f"{MARK} differs from {reference}: p < {document['level']:g}, two-sided paired t test, each row by "
        "itself, not corrected for many"
    )
    if len(document["seeds"]) == 1:
        notes.append("every row was distilled once: pairs are students, the noise is theirs alone")
    else:
        notes.append(
            f"distilled with {len(document['seeds'])} seeds: pairs are distilled sets, students averaged"
        )
    if any(cell["row"] == "control" for cell in document["cells"]):
        notes.append("control: as many real images, under the labels and budget of the row compared with")
    if sources := sorted({cell["paper"]["source"] for cell in document["cells"] if cell["paper"]}):
        notes.append(f"paper: {', '.join(sources)}, at its own settings and budget")
    if views := [row for row in VIEWS if row in document["rows"]]:
        notes.append(f"{', '.join(views)}: filter views of those methods, not their own training loops")
    if document["budget"] is not None:
        scaled = (
            f"{key} " + " or ".join(f"{before} → {after}" for before, after in pairs)
            for key, pairs in document["scaled"].items()
        )
        notes.append(f"budget {document['budget']:g} of the full one: " + ", ".join(scaled))
    if missing := document["unfinished"]:
        names = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        notes.append(f"not finished, so not counted: {len(missing)} ({names})")
    return notes


def text(document: dict[str, Any]) -> str:
    """Format a table for a terminal."""
    parts = [aligned(rows) for rows in _build_tables(document)]
    return "\n\n".join([*parts, "\n".join(notes(document))])


def markdown(document: dict[str, Any]) -> str:
    """Format a table as Markdown."""
    parts = []
    for rows in _build_tables(document):
        head, *body = ([cell.replace("|", r"\|").replace("*", r"\*") for cell in row] for row in rows)
        rule = ["---:" if number else "---" for number in _find_numeric_columns(rows)]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *body]))
    list_of_notes = "\n".join(f"- {line.replace('*', chr(92) + '*')}" for line in notes(document))
    return "\n\n".join([*parts, list_of_notes])


def latex(document: dict[str, Any]) -> str:
    """Format a table as LaTeX tabulars, which need the booktabs package."""
    parts = ["% needs \\usepackage{booktabs}"]
    for rows in _build_tables(document):
        head, *body = ([cell.translate(_LATEX) for cell in row] for row in rows)
        places = "".join("r" if number else "l" for number in _find_numeric_columns(rows))
        lines = [
            rf"\begin{{tabular}}{{{places}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
        ]
        lines += [" & ".join(row) + r" \\" for row in body]
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join([*parts, "\n".join(f"% {line}" for line in notes(document))])


def _find_numeric_columns(rows: Rows) -> list[bool]:
    """Return for each column whether it contains numbers."""
    return [all(cell[0] in "+−—0123456789" for cell in column[1:]) for column in zip(*rows, strict=True)]


def _build_tables(document: dict[str, Any]) -> Iterator[Rows]:
    for make in (grid, differences, order):
        if rows := make(document):
            yield rows


_VALUES = ("mean", "std", "n")
_VERSUS = ("row", "difference", "standard_error", "errors", "p", "n", "exceeds_noise")


def comma_separated(document: dict[str, Any]) -> str:
    """Format a table as CSV with one line per cell, in full precision."""
    columns = {column["name"]: column for column in document["columns"]}
    places = ("dataset", "ipc", "backbone", "student")
    head = ["setting", *places, "method", *_VALUES, *(f"control_{name}" for name in _VALUES)]
    head += ["paper_mean", "paper_std", "paper_source"]
    head += [*(f"versus_{name}" for name in _VERSUS), "budget"]
    lines = []
    for cell in document["cells"]:
        line = [cell["column"], *(columns[cell["column"]][name] for name in places), cell["row"]]
        line += _pick(cell["accuracy"], _VALUES) + _pick(cell["control"], _VALUES)
        line += _pick(cell["paper"], ("mean", "std", "source")) + _pick(cell["versus"], _VERSUS)
        lines.append([*line, document["budget"]])
    return as_csv(head, lines).removesuffix("\n")


def _pick(values: dict[str, Any] | None, names: Sequence[str]) -> list[Any]:
    return [None if values is None else values[name] for name in names]


FORMATS: dict[str, Callable[[dict[str, Any]], str]] = {
    "text": text,
    "markdown": markdown,
    "latex": latex,
    "csv": comma_separated,
}
