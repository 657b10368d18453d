"""The dataset card of a distilled set: what it is, how it was made, what it is worth beside its control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.config import Config, settings
from engine.config.yaml_io import inline
from engine.runs.results import format_mean_std
from engine.store import StoredRun
from engine.version import product_version

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def card(run: StoredRun, config: Config, classes: Sequence[str], count: int, licence: str | None) -> str:
    """README.md of a Hugging Face dataset: YAML front matter, then prose, numbers, and every setting."""
    return "\n".join(
        [
            *_front(classes, count, licence, run.name),
            f"# {run.name}: {count} distilled images of {config.data.name}",
            "",
            _made(run, config, count, len(classes)),
            "",
            *_worth(run.results()),
            *_licence(licence),
            "## Settings",
            "",
            "```yaml",
            settings.to_yaml(without_places(config)).rstrip(),
            "```",
            "",
        ]
    )


def _front(classes: Sequence[str], count: int, licence: str | None, name: str) -> list[str]:
    """What Hugging Face reads: how the files are split, and what their columns are."""
    size = next((word for most, word in _SIZES if count < most), "n>1M")
    names = [f"          {inline(str(label))}: {inline(text)}" for label, text in enumerate(classes)]
    return [
        "---",
        f"license: {inline(licence or 'unknown')}",
        f"pretty_name: {inline(name)}",
        "task_categories: [image-classification]",
        f"size_categories: [{inline(size)}]",
        "tags: [dataset-distillation, synthetic]",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: train/**",
        "dataset_info:",
        "  features:",
        "  - name: image",
        "    dtype: image",
        "  - name: label",
        "    dtype:",
        "      class_label:",
        "        names:",
        *names,
        "  - name: batch",
        "    dtype: int64",
        "  - name: beta",
        "    dtype: float64",
        "---",
        "",
    ]


def _made(run: StoredRun, config: Config, count: int, classes: int) -> str:
    manifest = run.manifest()
    data, teacher = manifest["identity"]["data"], manifest.get("teacher", {}).get("fingerprint", "unknown")
    given = manifest.get("images")
    how = (
        f"They were given by `{given['layout']}` (fingerprint {given['fingerprint']}), not distilled here."
        if given
        else f"They were distilled by the method `{config.objective.method}`, protocol `{config.protocol}`."
    )
    return (
        f"{count} images, {count / classes:g} a class, in place of a whole training set. {how}\n\n"
        f"Made with cfm-tui {product_version()}, seed {config.seed}. Fingerprint of the real data:"
        f" `{data}`. Fingerprint of the teacher ({config.backbone.name}): `{teacher}`.\n\n"
        "`label` is the class, `batch` the recovery batch (from 1), `beta` its β_b where it is known."
    )


def _worth(results: dict[str, Any] | None) -> list[str]:
    """A table of accuracies beside the control; nothing was measured in a run that is not finished."""
    lines = ["## What they are worth", ""]
    if results is None:
        return [*lines, "Nothing was measured.", ""]
    lines += [
        "Test accuracy in percent of students trained from scratch on the images with the teacher's soft",
        "labels: after the last epoch, mean ± standard deviation over seeds. The control is as many",
        "unchanged real images under the same labels and budget.",
        "",
        "| student | distilled | control |",
        "| --- | --- | --- |",
    ]
    for name, found in results["summary"]["by_architecture"].items():
        cells = [format_mean_std(found[key], absent="not measured") for key in ("accuracy", "control")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, "", f"The teacher itself: {results['teacher']['accuracy']:.2f}.", ""]


def _licence(licence: str | None) -> list[str]:
    told = (
        "Nobody said under which licence these images may be used. They are derived from the real data: look"
        " at its licence."
        if licence is None
        else f"{licence}, as told by who exported them."
    )
    return ["## Licence", "", told, ""]


def without_places(config: Config) -> Config:
    """The same settings without where files lie on the machine that computed."""
    backbone = config.backbone
    kept = None if _is_file(backbone.teacher) else backbone.teacher
    others = () if any(map(_is_file, backbone.also_teachers)) else backbone.also_teachers  # all, or none
    changes: dict[str, Any] = {
        "data": config.data.model_copy(update={"root": None}),
        "backbone": backbone.model_copy(update={"teacher": kept, "also_teachers": others}),
        "given": config.given.model_copy(update={"images": None, "labels": None, "statistics": None}),
    }
    return config.model_copy(update=changes)


def _is_file(teacher: str | None) -> bool:
    return teacher is not None and not teacher.startswith("torchvision:")
