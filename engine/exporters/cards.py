"""Write the dataset card of a distilled set: its content, origin, licence and accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.config import Config, settings
from engine.config.teacher_source import TeacherSource
from engine.config.yaml_io import inline
from engine.runs.results import (
    describe_spread,
    describe_verdict,
    format_mean_std,
    keep_first_repeat,
    read_results,
)
from engine.store import StoredRun
from engine.version import product_version

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def build_card(
    run: StoredRun, config: Config, classes: Sequence[str], count: int, licence: str | None
) -> str:
    """Return the README.md of a Hugging Face dataset: YAML metadata, description, results, settings."""
    return "\n".join(
        [
            *_format_metadata(classes, count, licence, run.name),
            f"# {run.name}: {count} distilled images of {config.data.name}",
            "",
            _describe_origin(run, config, count, len(classes)),
            "",
            *_format_results(read_results(run)),
            *_format_licence(licence),
            "## Settings",
            "",
            "```yaml",
            settings.to_yaml(remove_local_paths(config)).rstrip(),
            "```",
            "",
        ]
    )


def _format_metadata(classes: Sequence[str], count: int, licence: str | None, name: str) -> list[str]:
    """Return the YAML metadata that Hugging Face reads: licence, splits, and columns."""
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


def _describe_origin(run: StoredRun, config: Config, count: int, classes: int) -> str:
    manifest = run.manifest()
    data, teacher = manifest["identity"]["data"], manifest.get("teacher", {}).get("fingerprint", "unknown")
    given = manifest.get("images")
    origin = (
        f"They were read from `{given['layout']}` (fingerprint {given['fingerprint']}), not distilled here."
        if given
        else f"They were distilled by the method `{config.objective.method}`, protocol `{config.protocol}`."
    )
    return (
        f"{count} images, {count / classes:g} per class, that replace a whole training set. {origin}\n\n"
        f"Made with cfm-tui {product_version()}, seed {config.seed}. Fingerprint of the real data:"
        f" `{data}`. Fingerprint of the teacher ({config.backbone.name}): `{teacher}`.\n\n"
        "`label` is the class, `batch` the recovery batch (from 1), `beta` its β_b if known."
    )


def _format_results(results: dict[str, Any] | None) -> list[str]:
    """Return a table of accuracies next to the control's. results: None if the run is not finished."""
    lines = ["## Results", ""]
    if results is None:
        return [*lines, "The run is not finished; no accuracy was measured.", ""]
    lines += [
        "Test accuracy in percent of students trained from scratch on the images with the teacher's soft",
        "labels, after the last epoch: mean ± standard deviation (number of repeats). The control is as many",
        "random real images, unchanged, with the same kind of labels and the same budget.",
        f"Spread: {describe_spread(results)}.",
        "",
        "| student | distilled | control | verdict |",
        "| --- | --- | --- | --- |",
    ]
    for name, summary in results["summary"]["by_architecture"].items():
        cells = [format_mean_std(summary[key], absent="not measured") for key in ("accuracy", "control")]
        verdict = describe_verdict(summary["versus_control"]) or "—"
        lines.append(f"| {name} | {' | '.join(cells)} | {verdict} |")
    if len(results["repeats"]) > 1:
        first = keep_first_repeat(results)["summary"]["accuracy"]
        lines += ["", f"These are the images of the first repeat, whose students have {first['mean']:.2f}."]
    return [*lines, "", f"Teacher: {format_mean_std(results['summary']['teacher'])}.", ""]


def _format_licence(licence: str | None) -> list[str]:
    text = (
        "The licence of these images was not specified. They are derived from the real data; see its licence."
        if licence is None
        else f"{licence}, as specified at export."
    )
    return ["## Licence", "", text, ""]


def remove_local_paths(config: Config) -> Config:
    """Return the settings without paths of the machine that ran them."""
    backbone = config.backbone
    teacher = None if TeacherSource.parse(backbone.teacher).kind == "file" else backbone.teacher
    # `also_teachers` names the teachers of all further backbones or of none.
    kinds = [TeacherSource.parse(other).kind for other in backbone.also_teachers]
    others = () if "file" in kinds else backbone.also_teachers
    changes: dict[str, Any] = {
        "data": config.data.model_copy(update={"root": None}),
        "backbone": backbone.model_copy(update={"teacher": teacher, "also_teachers": others}),
        "given": config.given.model_copy(update={"images": None, "labels": None, "statistics": None}),
    }
    return config.model_copy(update=changes)
