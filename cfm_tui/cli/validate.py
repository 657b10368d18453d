"""`cfm validate`: evaluate an existing distilled set as a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cfm_tui.cli.common import (
    ConfigFile,
    DataRoot,
    Dataset,
    Detach,
    Device,
    ExecutionPlanSource,
    Json,
    Out,
    Preset,
    Quiet,
    Repeats,
    Sets,
    Teacher,
)  # fmt: skip
from cfm_tui.cli.run import begin


def validate(
    images: Annotated[
        str,
        typer.Argument(metavar="SET", help="A run or its name, class folders, a .pt or .safetensors file."),
    ],
    teacher: Teacher = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="Value range of a .pt file: normalised, pixels (0…1), bytes (0…255), zca.",
            show_default="by the kind of file",
        ),
    ] = None,
    experiment: Annotated[
        int | None,
        typer.Option(help="Index of the set in a file with several sets, from 0.", show_default="0"),
    ] = None,
    image_labels: Annotated[
        str | None,
        typer.Option(
            help="The .pt file with the labels of a .pt file's images; class-major: as many of each class, in"
            " label order.",
            show_default="those in the file, or beside it",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Folder of SRe²L label files of the set.", show_default="labels by the teacher"),
    ] = None,
    out: Out = None,
    repeats: Repeats = None,
    device: Device = None,
    plan: ExecutionPlanSource = None,
    detach: Detach = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate an existing distilled set: train students on it and on the control, as `cfm run` does.

    If the set is a run and neither --preset nor --config is given, the run's settings apply.
    """
    from engine import store
    from engine.config import settings

    path = _find_set(images)
    given = {"given.images": path, "given.space": space, "given.experiment": experiment}
    given |= {"given.image_labels": image_labels, "given.labels": labels}
    given |= {"data.name": dataset, "data.root": data_root, "backbone.teacher": teacher}
    given |= {"repeats": repeats, "device": device}
    base: str | None = settings.DEFAULT_PRESET
    if config is None and preset is None and store.is_run(path):
        config, base = path / "config.yaml", None
    resolved = settings.resolve(
        preset=preset, file=config, base=base, sets=sets or (), overrides=given, environ=os.environ
    )
    begin(resolved, out, f"validate-{path.stem}", plan=plan, detach=detach, as_json=as_json, quiet=quiet)


def _find_set(name: str) -> Path:
    """Return the path itself if it exists, else the folder of the run of that name.

    Raises UserError("data") where there is neither.
    """
    from engine import store
    from engine.errors import UserError

    path = Path(name)
    if path.exists():
        return path
    try:
        return store.find_run(name).folder
    except UserError as error:
        hint = f"give a run, a folder of class folders, or a .pt or .safetensors file; {error.hint}"
        raise UserError("data", f"{name} does not exist, and no run has that name", hint) from None
