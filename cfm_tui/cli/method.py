"""`cfm method`: list and show methods, shipped and user-defined.

Engine modules are imported inside the commands, so that `cfm --help` stays fast.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import Json, Sets, echo, print_json

if TYPE_CHECKING:
    from engine.config import Config, Term
    from engine.config.presets import Document

app = typer.Typer(
    name="method", no_args_is_help=True, help="List and show methods: filters, signals, weights."
)


@app.command("list")
def list_methods(as_json: Json = False) -> None:
    """List shipped and user-defined methods, one line each."""
    from engine.config import presets

    user_methods = presets.user_presets("methods")
    user_names = {method.name for method in user_methods}
    names = [name for name in presets.method_names() if name not in user_names]
    shipped = [presets.load_document(name, "methods") for name in names]
    if as_json:
        entries = [{"name": name, **_extract_texts(each)} for name, each in zip(names, shipped, strict=True)]
        print_json({"methods": entries, "own": [method.to_dict() for method in user_methods]})
        return
    _print_text("methods:")
    for name, document in zip(names, shipped, strict=True):
        _print_text(f"  {name:<20} {document.description}")
    if user_methods:
        _print_text(f"your methods, in {presets.user_folder('methods')}:")
    for method in user_methods:
        unusable = f"cannot be used: {method.problem}" if method.problem else ""
        _print_text(f"  {method.name:<20} {unusable or method.description}")


@app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="A method, or a YAML file with an objective.", show_default="cfm")
    ] = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Show a method: formula, terms, pass bands of its filters, and their response f(λ)."""
    from engine.config import presets, settings

    name = name or "cfm"
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        document = presets.load_file(Path(name))
        resolved = settings.resolve(file=Path(name), base=None, sets=sets or (), environ=os.environ)
    else:
        document = presets.load_document(name, "methods")
        resolved = settings.resolve(base=None, sets=[f"objective={name}", *(sets or ())], environ=os.environ)
    description = _describe_method(name, document, resolved.config)
    if as_json:
        print_json(description)
    else:
        _print_method(description, optimises=resolved.config.optimises)


def _extract_texts(document: Document) -> dict[str, str]:
    return {key: getattr(document, key) for key in ("description", "formula", "source")}


def _describe_method(name: str, document: Document, config: Config) -> dict[str, Any]:
    """Return the JSON document of a method. Curve values are None where f is undefined."""
    from engine.config import responses
    from engine.config.expressions import PROBES
    from engine.spectral.schedules import betas_of_batches

    objective = config.objective
    betas = betas_of_batches(objective.schedule, objective.beta, config.ipc, config.ipc)
    ends = list(dict.fromkeys((betas[0], betas[-1])))
    curves = responses.list_responses(objective, ends)

    def find_pass_band(term: Term, *, synthetic: bool) -> str | None:
        side = [each for each in curves if each.synthetic == synthetic]
        bands = {
            responses.band(each.evaluate(PROBES)) for each in side if each.term.filter_key == term.filter_key
        }
        return "mixed" if len(bands) > 1 else bands.pop() if bands else None

    keys = ("filter", "f", "f_synthetic", "weight")
    terms = [
        {"label": term.label, "signal": objective.signal_of(term)}
        | {key: getattr(term, key) for key in keys}
        | {"passes": find_pass_band(term, synthetic=False)}
        | {"passes_synthetic": find_pass_band(term, synthetic=True)}
        for term in objective.terms
    ]
    return {
        "name": name,
        **_extract_texts(document),
        "path": None if document.path is None else str(document.path),
        "objective": objective.model_dump(mode="json"),
        "terms": terms,
        "betas": ends,
        "eigenvalues": PROBES.tolist(),
        "curves": [
            {"name": curve.name, "beta": curve.beta, "side": "synthetic" if curve.synthetic else "real"}
            | {"values": [y if math.isfinite(y) else None for y in curve.evaluate(PROBES).tolist()]}
            for curve in curves
        ],
    }


def _print_method(method: dict[str, Any], *, optimises: bool) -> None:
    from cfm_tui.display.tables import align_columns, terms_table

    objective = method["objective"]
    _print_text(f"{method['name']}: {method['description']}" if method["description"] else method["name"])
    rows = [[key, method[key]] for key in ("formula", "source") if method[key]]
    if optimises:
        rows.append(["taps", f"{objective['taps']}, cross-entropy × {objective['ce']:g}"])
    if optimises and objective["first_tap"] != 1:
        rows[-1][1] += f", the first tap × {objective['first_tap']:g}"
    if any(each["beta"] is not None for each in method["curves"]):
        rows.append(["β", " to ".join(f"{beta:.3g}" for beta in method["betas"])])
    if objective["parameters"]:
        parameters = (
            f"{key} = {'1/λ_max' if value is None else f'{value:g}'}"
            for key, value in objective["parameters"].items()
        )
        rows.append(["parameters", ", ".join(parameters)])
    _print_text(align_columns(rows) + "\n")
    if method["terms"]:
        _print_text(terms_table(method["terms"]) + "\n")
        _print_text(_draw_chart(method))


def _draw_chart(method: dict[str, Any]) -> str:
    """Draw |f(λ)| of every curve over six decades of λ on logarithmic axes."""
    import numpy as np

    from cfm_tui.display import charts, terminal

    x, curves = np.array(method["eigenvalues"]), method["curves"]
    lines = [charts.Line(each["name"], x, np.abs(np.array(each["values"], np.float64))) for each in curves]
    width, title = min(shutil.get_terminal_size().columns, 100), "|f(λ)|"
    chart = charts.draw(
        lines, width, 16, terminal=terminal.of_stdout(), log=True, log_x=True, title=title, x_label="λ"
    )
    return "\n".join(row.rstrip() for row in chart.text.plain.split("\n"))


def _print_text(text: str) -> None:
    """Print a text, converted to ASCII where the terminal supports nothing else."""
    from cfm_tui.display import terminal

    lines = text.split("\n")
    echo("\n".join(lines if terminal.of_stdout().unicode else map(terminal.to_ascii, lines)))
