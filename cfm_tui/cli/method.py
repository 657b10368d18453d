"""`cfm method`: what the images can be optimised for, as filters, the user's own among them.

Engine modules are imported inside the commands, so that `cfm --help` stays quick.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import Json, Sets, print_json

if TYPE_CHECKING:
    from engine.config import Config, Term
    from engine.config.presets import Document
    from engine.config.responses import Response

app = typer.Typer(no_args_is_help=True, help="List and show methods: filters, signals, weights.")
HEIGHT = 16  #: rows of the chart


@app.command("list")
def list_methods(as_json: Json = False) -> None:
    """List methods and your own, one line each."""
    from engine.config import presets

    own = presets.own_methods()
    mine = {method.name for method in own}
    shipped = [presets.from_method(name) for name in presets.method_names() if name not in mine]
    names = [document.label.removeprefix("method ") for document in shipped]
    if as_json:
        told = [{"name": name, **_words(each)} for name, each in zip(names, shipped, strict=True)]
        print_json({"methods": told, "own": [method.told() for method in own]})
        return
    _say("methods:")
    for name, document in zip(names, shipped, strict=True):
        _say(f"  {name:<20} {document.description}")
    if own:
        _say(f"your methods, in {presets.methods_folder()}:")
    for method in own:
        unusable = f"cannot be used: {method.problem}" if method.problem else ""
        _say(f"  {method.name:<20} {unusable or method.description}")


@app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="A method, or a YAML file with an objective.", show_default="cfm")
    ] = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Show a method: formula, terms, what its filters let through, and their response f(λ)."""
    from engine.config import presets, settings

    name = name or "cfm"
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        document = presets.from_file(Path(name))
        resolved = settings.resolve(file=Path(name), base=None, sets=sets or (), environ=os.environ)
    else:
        document = presets.from_method(name)
        resolved = settings.resolve(base=None, sets=[f"objective={name}", *(sets or ())], environ=os.environ)
    found = _described(name, document, resolved.config)
    if as_json:
        print_json(found)
    else:
        _print(found, optimises=resolved.config.optimises)


def _words(document: Document) -> dict[str, str]:
    return {key: getattr(document, key) for key in ("description", "formula", "source")}


def _described(name: str, document: Document, config: Config) -> dict[str, Any]:
    """All that is told of a method. Curves are those of `of_objective`, null where f has no value."""
    from engine.config import responses
    from engine.config.expressions import PROBES
    from engine.spectral.schedules import betas_of_batches

    objective = config.objective
    betas = betas_of_batches(objective.schedule, objective.beta, config.ipc, config.ipc)
    ends = list(dict.fromkeys((betas[0], betas[-1])))
    curves = responses.of_objective(objective, ends)

    def passes(term: Term, *, synthetic: bool) -> str | None:
        same = (each for each in curves if each.synthetic == synthetic)
        own = [each for each in same if (each.term.filter, each.term.sides) == (term.filter, term.sides)]
        bands = dict.fromkeys(responses.band(each.of(PROBES)) for each in own)
        return None if not bands else next(iter(bands)) if len(bands) == 1 else "mixed"

    keys = ("filter", "f", "f_synthetic", "weight")
    terms = [
        {"label": term.label, "signal": objective.signal_of(term)}
        | {key: getattr(term, key) for key in keys}
        | {"passes": passes(term, synthetic=False)}
        | {"passes_synthetic": passes(term, synthetic=True)}
        for term in objective.terms
    ]
    return {
        "name": name,
        **_words(document),
        "path": None if document.path is None else str(document.path),
        "objective": objective.model_dump(mode="json"),
        "terms": terms,
        "betas": ends,
        "eigenvalues": PROBES.tolist(),
        "curves": [_numbers(curve, curve.of(PROBES).tolist()) for curve in curves],
    }


def _numbers(curve: Response, found: list[float]) -> dict[str, Any]:
    values = [value if math.isfinite(value) else None for value in found]
    side = "synthetic" if curve.synthetic else "real"
    return {"name": curve.name, "beta": curve.beta, "side": side, "values": values}


def _print(found: dict[str, Any], *, optimises: bool) -> None:
    from cfm_tui.display.tables import aligned, terms_table

    objective = found["objective"]
    _say(f"{found['name']}: {found['description']}" if found["description"] else found["name"])
    rows = [[key, found[key]] for key in ("formula", "source") if found[key]]
    if optimises:
        rows.append(["taps", f"{objective['taps']}, cross-entropy × {objective['ce']:g}"])
    if optimises and objective["first_tap"] != 1:
        rows[-1][1] += f", the first tap × {objective['first_tap']:g}"
    if any(each["beta"] is not None for each in found["curves"]):
        rows.append(["β", " to ".join(f"{beta:.3g}" for beta in found["betas"])])
    if objective["parameters"]:
        each = objective["parameters"].items()
        known = (f"{key} = {'1/λ_max' if value is None else f'{value:g}'}" for key, value in each)
        rows.append(["parameters", ", ".join(known)])
    _say(aligned(rows) + "\n")
    if found["terms"]:
        _say(terms_table(found["terms"]) + "\n")
        _say(_chart(found))


def _chart(found: dict[str, Any]) -> str:
    """|f(λ)| of every curve over six decades of λ, both axes logarithmic."""
    import numpy as np

    from cfm_tui.display import charts

    x = np.log10(found["eigenvalues"])
    lines = [charts.Line(each["name"], x, _sizes(each["values"])) for each in found["curves"]]
    width = min(shutil.get_terminal_size().columns, 100)
    rows = charts.draw(
        lines, width, HEIGHT, terminal=_terminal(), log=True, title="|f(λ)|", x_label="log10 λ"
    )
    return "\n".join("".join(segment.text for segment in row).rstrip() for row in rows)


def _sizes(values: list[float | None]) -> Any:
    import numpy as np

    return np.abs(np.array(values, np.float64))


def _terminal() -> Any:
    from cfm_tui.display import terminal

    return terminal.detect(terminal.environment(os.environ), sys.stdout.encoding)


def _say(text: str) -> None:
    """Print, in ASCII where the terminal shows nothing else."""
    from cfm_tui.display.terminal import to_ascii

    lines = text.split("\n")
    typer.echo("\n".join(lines if _terminal().unicode else map(to_ascii, lines)))
