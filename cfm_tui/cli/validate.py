"""`cfm validate`: any distilled set under the one evaluator, as a run of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cfm_tui.cli.common import ConfigFile, DataRoot, Device, Json, Preset, Quiet, Sets, Teacher
from cfm_tui.cli.run import Detach, begin

if TYPE_CHECKING:
    from engine.config.settings import Resolved

Set = Annotated[
    str, typer.Argument(metavar="SET", help="A run or its name, class folders, a .pt or .safetensors file.")
]
Dataset = Annotated[str | None, typer.Option(help="The real data set; see cfm data list.")]
Space = Annotated[
    str | None,
    typer.Option(help="Of a .pt file's values: normalised, pixels, zca.", show_default="by its kind"),
]
Experiment = Annotated[
    int | None, typer.Option(help="Which set of a file of several, from 0.", show_default="0")
]
Labels = Annotated[
    Path | None, typer.Option(help="SRe²L's label files of the set.", show_default="the teacher's own")
]
Out = Annotated[Path | None, typer.Option(help="The run's folder.", show_default="a new one in runs/")]


def validate(
    images: Set,
    teacher: Teacher = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    space: Space = None,
    experiment: Experiment = None,
    labels: Labels = None,
    out: Out = None,
    device: Device = None,
    detach: Detach = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a distilled set that is there already: students and control, as `cfm run` measures its own.

    Of a run, its own settings hold where neither --preset nor --config is given.
    """
    path = _found(images)
    given = {
        "given.images": path,
        "given.space": space,
        "given.experiment": experiment,
        "given.labels": labels,
        "data.name": dataset,
        "data.root": data_root,
        "backbone.teacher": teacher,
        "device": device,
    }
    resolved = _resolved(path, preset, config, sets or (), given)
    begin(resolved, out, f"validate-{path.stem}", detach=detach, as_json=as_json, quiet=quiet)


def _resolved(
    path: Path, preset: str | None, config: Path | None, sets: Sequence[str], given: Mapping[str, object]
) -> Resolved:
    from engine import store
    from engine.config import settings

    own = config is None and preset is None and store.is_run(path)
    return settings.resolve(
        preset=preset,
        file=path / "config.yaml" if own else config,
        base=None if own else settings.DEFAULT_PRESET,
        sets=sets,
        overrides=given,
        environ=os.environ,
    )


def _found(name: str) -> Path:
    """A path that is there as it stands, else the folder of the run of that name."""
    from engine import store
    from engine.errors import UserError

    path = Path(name)
    if path.exists():
        return path
    try:
        return store.find(name).folder
    except UserError as error:
        advice = f"give a run, a folder of class folders, or a .pt or .safetensors file; {error.hint}"
        raise UserError("data", f"{name} does not exist, and no run has that name", advice) from None
