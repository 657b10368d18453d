"""Load a teacher's weights from a file or from torchvision, check them, and copy them into a network.

Files are read without running code in them (see `safe_loading`).
"""

from __future__ import annotations

import http.client
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from engine.backbones import safe_loading
from engine.backbones.build import Spec
from engine.backbones.safe_loading import is_plain, plain_dict
from engine.config.teacher_source import TeacherSource
from engine.errors import UserError, format_names
from engine.fingerprint import fingerprint_tensors


@dataclass(frozen=True)
class LoadedTeacher:
    """What a teacher's file holds beside the weights that were loaded.

    others: further sets of weights that fit the network, by name. classes: the class of each output, if the
    file records them.
    """

    others: dict[str, dict[str, Tensor]]
    classes: tuple[str, ...] | None


def load_teacher(model: nn.Module, source: str) -> LoadedTeacher:
    """Load the weights of `source` into `model`, which stays unchanged if they do not fit.

    source: a checkpoint file (a state dict, or a dictionary with one, under any prefix; or ``.safetensors``),
    ``FILE#NAME`` for one of several sets of weights in it, or ``torchvision:NAME`` (``IMAGENET1K_V1``…).
    Raises UserError: "teacher" (missing, unreadable, unsafe, does not fit, or several sets of weights and
    none named), "network".
    """
    parsed = TeacherSource.parse(source)
    parsed.require_file()
    path = _get_published_file(model, parsed.tag) if parsed.kind == "torchvision" else parsed.path
    hint = "If you trust the file, save only its weights: torch.save(model.state_dict(), 'weights.pth')."
    content = safe_loading.read(path, safe_loading.Wording("teacher", "teacher", hint))
    state_dicts = _find_state_dicts(content, path)
    sets = _find_fitting_sets(state_dicts, model.state_dict(), source)
    name = _choose_set(sets, state_dicts, parsed)
    if name is None:
        raise _mismatch_error(model, _most_alike(state_dicts, parsed.weights, model), source)
    weights = sets.pop(name)
    not_finite = [n for n, value in weights.items() if not bool(torch.isfinite(value).all())]
    if not_finite:
        message = f"teacher '{source}' has NaN or infinite values in {format_names(not_finite)}"
        raise UserError("teacher", message, "Its training diverged or the file is damaged; use another.")
    # Old checkpoints lack the counters of BatchNorm; evaluation does not use them.
    model.load_state_dict({**model.state_dict(), **weights})
    return LoadedTeacher(sets, _read_class_names(content))


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 (hex) of names, types, shapes and bytes of all parameters and buffers."""
    return fingerprint_tensors(model.state_dict())


def _find_state_dicts(content: Any, path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the mappings of names to tensors in the content of a file by their keys, "" if it is one itself.

    Raises UserError("teacher") if there is none.
    """
    reason = f"it is a {type(content).__name__}"
    if isinstance(content, dict):
        outer = plain_dict(content)
        inner = {str(key): plain_dict(value) for key, value in outer.items() if isinstance(value, dict)}
        candidates = {"": outer} if _is_state_dict(outer) else inner
        if state_dicts := {key: value for key, value in candidates.items() if _is_state_dict(value)}:
            return state_dicts
        shown = next((inner[key] for key in ("model", "state_dict", "net") if key in inner), outer)
        names = [name[:60] if isinstance(name, str) else type(name).__name__ for name in shown]
        reason = f"its keys are {format_names(names)}"
        invalid = [name for name, value in zip(names, shown.values(), strict=True) if not is_plain(value)]
        if invalid:
            reason += f"; not plain tensors: {format_names(invalid)}"
    hint = "Expected a dictionary of names and tensors, directly or under a key such as model or state_dict."
    raise UserError("teacher", f"teacher '{path}' holds no state dict: {reason}", hint)


def _is_state_dict(mapping: dict[Any, Any]) -> bool:
    return bool(mapping) and all(isinstance(name, str) and is_plain(x) for name, x in mapping.items())


def _read_class_names(content: Any) -> tuple[str, ...] | None:
    """Return the class of each output as scripts record it, as a list or as ImageFolder's `class_to_idx`."""
    outer = plain_dict(content) if isinstance(content, dict) else {}
    numbers = outer.get("class_to_idx")
    if isinstance(numbers, dict) and set(numbers.values()) == set(range(len(numbers))):
        return tuple(str(name) for name in sorted(numbers, key=lambda name: int(numbers[name])))
    names = next((outer[key] for key in ("classes", "class_names") if key in outer), None)
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def _find_fitting_sets(
    state_dicts: Mapping[str, dict[str, Tensor]], expected: Mapping[str, Tensor], source: str
) -> dict[str, dict[str, Tensor]]:
    """Return every set of weights that fits, with the names of `expected`.

    A set is named by the key of its state dict and the prefix of its names there, joined by a dot.
    Names without the prefix may belong to it (the classifier beside ``backbone.``) or to something else (a
    loss, another set). source: for messages.
    """
    wrappers = ("module", "_orig_mod")  # of DataParallel and torch.compile
    required = [name for name in expected if not name.endswith("num_batches_tracked")]
    sets = {}
    for key, tensors in state_dicts.items():
        for prefix in ("", *_list_prefixes(tensors, len(required) // 2)):
            stripped = {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}
            others = {n: x for n, x in tensors.items() if not n.startswith(prefix) and n not in stripped}
            for candidate in (stripped, {**stripped, **others}) if others else (stripped,):
                weights = _convert_names(candidate, expected, source)
                if not any(_compare(expected, weights)):
                    parts = (part for part in prefix.split(".") if part not in wrappers)
                    sets[".".join(filter(None, (key, *parts)))] = weights
                    break
    return sets


def _list_prefixes(names: Iterable[str], least: int) -> list[str]:
    """Return every dotted prefix that at least `least` names share, the shortest first."""
    counts = Counter(name[: dot.end()] for name in names for dot in re.finditer(r"\.", name))
    return [prefix for prefix, count in counts.items() if count >= max(least, 1)]


def _choose_set(
    sets: Mapping[str, object], state_dicts: Mapping[str, object], source: TeacherSource
) -> str | None:
    """Return the name of the set to load; None if none fits.

    Raises UserError("teacher") if several fit and the source names none of them, or if it names one that is
    not in the file.
    """
    wanted, path = source.weights, source.path
    matching = [name for name in sets if not wanted or f".{wanted}." in f".{name}."]
    if len(matching) == 1:
        return matching[0]
    if wanted in sets:
        return wanted
    if len(matching) > 1:
        raise UserError(
            "teacher",
            f"teacher '{path}' holds several sets of weights: {format_names(matching, 20)}",
            f"name one of them, as in {path}#{matching[-1]}",
        )
    if wanted and wanted not in state_dicts:
        present = format_names([name for name in sets or state_dicts if name], 20) or "one without a name"
        hint = f"give {path}, or one of its sets as {path}#NAME"
        raise UserError(
            "teacher", f"teacher '{path}' has no weights named '{wanted}'; it holds: {present}", hint
        )
    return None


def _most_alike(
    state_dicts: Mapping[str, dict[str, Tensor]], wanted: str, model: nn.Module
) -> dict[str, Tensor]:
    """Return the state dict called `wanted`, else the one that shares the most names with `model`."""
    if wanted in state_dicts:
        return state_dicts[wanted]
    expected = model.state_dict()
    return max(state_dicts.values(), key=lambda tensors: len(expected.keys() & tensors.keys()))


def _convert_names(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Rename weights of a known published architecture to the names of `expected`.

    Old names of DenseNet are converted. The ConvNet of DC, DSA, DM, MTT and DD-Ranking is one sequence
    ``features`` of conv, norm, activation and pooling. That of RDED and UniDD has the names used here. The
    ResNet of DC, DD-Ranking and SRe²L's CIFAR code is torchvision's with ``shortcut`` for ``downsample``, and
    ``classifier`` or ``linear`` for ``fc``.
    source: for messages. Raises UserError("teacher") for a network whose weights would fit, but which
    computes a different function.
    """
    old_densenet = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")
    weights = {old_densenet.sub(r"\1\2", name): value for name, value in weights.items()}
    if "layers.conv.0.weight" in expected and "features.0.weight" in weights:
        return _rename_convnet(weights, source)
    if (
        "layer1.0.conv1.weight" in expected
        and "layer1.0.conv1.weight" in weights
        and "fc.weight" not in weights
    ):
        return {
            re.sub(r"^(classifier|linear)\.", "fc.", name.replace(".shortcut.", ".downsample.")): value
            for name, value in weights.items()
        }
    return weights


def _rename_convnet(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Rename the B-th conv of a sequence and its norm to `layers.conv.B` and `layers.norm.B`."""
    if weights["features.0.weight"].ndim == 4 and weights["features.0.weight"].shape[1] == 1:
        raise UserError(
            "teacher",
            f"teacher '{source}' is a ConvNet that pads one-channel images by three pixels, which the ConvNet"
            " here does not",
            "squeeze a teacher (backbone.teacher=null), or give one that was trained here",
        )
    feature = re.compile(r"features\.(\d+)\.(.+)")
    layer_names: dict[int, str] = {}
    for number in sorted({int(match[1]) for name in weights if (match := feature.fullmatch(name))}):
        weight = weights.get(f"features.{number}.weight")
        kind = "conv" if weight is not None and weight.ndim == 4 else "norm"
        block = sum(name.startswith(kind) for name in layer_names.values())
        layer_names[number] = f"{kind}.{block}"
    renamed = {}
    for name, value in weights.items():
        match = feature.fullmatch(name)
        renamed[f"layers.{layer_names[int(match[1])]}.{match[2]}" if match else name] = value
    return renamed


def _compare(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[list[str], list[str], list[str]]:
    """Return the names that are missing, those that are unexpected, and differences of shape as text."""
    missing = [n for n in expected if n not in weights and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in weights if n not in expected]
    shapes = [
        f"{n} {tuple(weights[n].shape)} instead of {tuple(expected[n].shape)}"
        for n in expected
        if n in weights and weights[n].shape != expected[n].shape
    ]
    return missing, unexpected, shapes


def _mismatch_error(model: nn.Module, tensors: dict[str, Tensor], source: str) -> UserError:
    """Return the error for a state dict that does not fit under any prefix."""
    expected = model.state_dict()
    candidates = [
        {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
        for prefix in ("", *_list_prefixes(tensors, 1))
    ]
    nearest = max(candidates, key=lambda each: len(expected.keys() & _convert_names(each, expected, source)))
    weights = _convert_names(nearest, expected, source)
    kinds = ("missing", "unexpected", "of another shape")
    differences = "; ".join(
        f"{len(names)} {kind}: {format_names(names)}"
        for kind, names in zip(kinds, _compare(expected, weights), strict=True)
        if names
    )
    reason, hint = _explain_mismatch(expected, weights)
    if not hint:
        theirs, ours = (", ".join(list(names)[:4]) for names in (tensors, expected))
        hint = f"The names of the file begin with {theirs}; those of the network with {ours}."
    return UserError("teacher", f"teacher '{source}' does not fit: {reason}{differences}", hint)


def _explain_mismatch(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[str, str]:
    """Return reasons for a mismatch (other classes or channels) and a hint; both may be empty."""
    reasons = ""
    matrices = [n for n, value in expected.items() if value.ndim == 2]
    kernels = [n for n, value in expected.items() if value.ndim == 4]
    if matrices and matrices[-1] in weights and weights[matrices[-1]].ndim:
        classes, wanted_classes = weights[matrices[-1]].shape[0], expected[matrices[-1]].shape[0]
        if classes != wanted_classes:
            reasons += f"the teacher has {classes} classes, the data set has {wanted_classes}; "
    if kernels and kernels[0] in weights and weights[kernels[0]].ndim == 4:
        channels, wanted_channels = weights[kernels[0]].shape[1], expected[kernels[0]].shape[1]
        if channels != wanted_channels:
            reasons += f"the teacher reads {channels} channels, the images have {wanted_channels}; "
    if reasons:
        hint = "Give a teacher that was trained on this data set, or none (backbone.teacher=null)"
        return reasons, f"{hint} to squeeze one."
    depth = sum(bool(re.fullmatch(r"layers\.conv\.\d+\.weight", name)) for name in weights)
    if not depth or "layers.conv.0.weight" not in weights:
        return "", ""
    width = weights["layers.conv.0.weight"].shape[0]
    norm = "batch" if "layers.norm.0.running_mean" in weights else "instance"
    settings = f"backbone.name=convnet, backbone.depth={depth}, backbone.width={width}, backbone.norm={norm}"
    return "", f"The file holds {settings}."


def _get_published_file(model: nn.Module, tag: str) -> Path:
    """Return the file of torchvision's weights `tag` for this network; download it if it is missing.

    Raises UserError: "teacher" if there are no such weights or they cannot fit, "network".
    """
    spec = getattr(model, Spec.ATTRIBUTE, None)
    assert isinstance(spec, Spec), "published weights need a network from build()"
    if spec.name == "convnet":
        raise UserError(
            "teacher", "torchvision publishes no ConvNet", "Give a checkpoint file, or squeeze a teacher."
        )
    published = torchvision.models.get_model_weights(spec.name)
    if tag not in published.__members__:
        hint = "Use " + " or ".join(f"torchvision:{name}" for name in published.__members__) + "."
        raise UserError("teacher", f"torchvision has no weights '{tag}' for {spec.name}", hint)
    weights = published[tag]
    classes = len(weights.meta["categories"])
    if spec.adapted or spec.channels != 3 or spec.classes != classes:
        raise UserError(
            "teacher",
            f"torchvision's weights for {spec.name} take {classes} classes of colour images over"
            f" {Spec.SMALL} px; this data set has {spec.classes} classes, {spec.channels} channels,"
            f" {spec.image_size} px",
            "Squeeze a teacher (backbone.teacher=null), or give one that was trained on these images.",
        )
    return _download(str(weights.url))


def _download(url: str) -> Path:
    """Return the file at `url` in torch's cache; download it if missing. Raises UserError("network")."""
    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=False)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        hint = f"Download it by hand and put it in {path.parent} as {name}."
        raise UserError("network", f"{url} could not be downloaded: {error}", hint) from error
    return path
