"""`cfm score`: compute the objective's terms and spectra of any set of images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfm_tui.cli.common import (
    ConfigFile,
    DataRoot,
    Dataset,
    Device,
    Json,
    Preset,
    Quiet,
    Sets,
    Teacher,
    echo,
    print_json,
)  # fmt: skip

if TYPE_CHECKING:
    from cfm_tui.display.progress import Display
    from engine.config import Config


def score(
    images: Annotated[
        Path, typer.Argument(help="A folder of class folders, a run or its name, or an image file.")
    ],
    teacher: Teacher = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="The class of an image file.", show_default="its folder")
    ] = None,
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Also compare the gradients of the terms and of the CE.")
    ] = False,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score images against a data set: each filter and signal term, CE, and spectra, layer by layer.

    Terms are unweighted, without augmentation, and over the whole set. A run is scored with its own settings
    and teacher, unless --preset or --config is given. Without --teacher, other images get a trained one.
    """
    from cfm_tui.display.progress import open_display
    from engine import store
    from engine.config import settings

    if not images.exists() and store.is_run(run := store.runs_folder() / images):
        images = run
    given = {"data.name": dataset, "data.root": data_root, "backbone.teacher": teacher, "device": device}
    if preset is None and config is None and store.is_run(images):
        resolved = settings.load_stored(store.StoredRun(images), sets or (), given)
    else:
        resolved = settings.resolve(
            preset=preset, file=config, base=None, sets=sets or (), overrides=given, environ=os.environ
        )
    with open_display(quiet) as display:
        document = _score(resolved.config, images, class_name, gradients, display)
    if as_json:
        print_json(document)
    else:
        from cfm_tui.display.tables import score_table

        echo(score_table(document))


def _score(
    config: Config, path: Path, class_name: str | None, gradients: bool, display: Display
) -> dict[str, Any]:
    display.say("loading")
    from engine import backbones, store
    from engine import device as devices
    from engine.config.teacher_source import require_teacher_files
    from engine.data import load
    from engine.importers import folders
    from engine.runs import artefacts, scoring

    folders.require_images(path)
    require_teacher_files(config.backbone)
    context = artefacts.ComputeContext(devices.choose(config.device), store.Cache())
    data = load(config.data, progress=display.reading)
    images = folders.read_images(path, data.train, class_name)
    teacher = display.follow(scoring.load_teacher_on_device(config, data, context))
    scores = display.follow(scoring.score(config, data, teacher, images, context, gradients=gradients))
    return {
        "images": {"path": str(path), "count": len(images)},
        "dataset": {"name": data.name, "fingerprint": data.fingerprint},
        "teacher": {"architecture": config.backbone.name, "fingerprint": backbones.fingerprint(teacher)},
        **scores,
    }
