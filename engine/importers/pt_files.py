"""Read distilled sets from `.pt` files as saved by the code of the DC and MTT families.

DC, DSA, DM: ``res_*.pt``, a dictionary whose ``data`` is a list of [images, labels], one per experiment.
MTT and related methods, DD-Ranking: a tensor ``images_*.pt`` next to ``labels_*.pt``. Images are normalised,
(x − mean) / std. MTT's may be ZCA-whitened instead, which the file does not record and which only the
whitening matrix can undo.
Legend: N images, K classes, C channels, H, W.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.backbones import safe_loading
from engine.config import Given
from engine.data import DataSet, denormalise
from engine.data.loading import MeanStd
from engine.data.pictures import name_key
from engine.errors import UserError, format_names, raise_data_error

WORDING = safe_loading.Wording(
    "data",
    "distilled set",
    "If you trust the file, save only its tensors: torch.save({'data': [[images, labels]]}, 'set.pt').",
)
_CIFAR: MeanStd = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: Mean and std that both families and DD-Ranking use. For CIFAR-100 they use CIFAR-10's.
OF_FAMILY = {"cifar10": _CIFAR, "cifar100": _CIFAR, "tiny-imagenet": _IMAGENET, "imagenet": _IMAGENET}
_FITTING = "choose the data set that it was distilled from, with --dataset and --data-root"


def find_file(path: Path) -> Path | None:
    """Return `path` if it names a .pt file, or the image file in a folder as MTT or DD-Ranking save it."""
    if path.suffix in (".pt", ".pth"):
        return path
    files = [path / name for name in ("images_best.pt", "images.pt")]
    return next((file for file in files if file.is_file()), None)


def read(
    path: Path, given: Given, data: DataSet
) -> tuple[NDArray[np.float32], NDArray[np.int64], dict[str, Any]]:
    """Read the images (N, C, H, W) in [0, 1], the labels (N,), and facts: the layout and the conversion.

    Raises UserError("data"): the file is missing, unsafe, of another layout, or does not fit the data set.
    """
    if not path.is_file():
        raise_data_error(f"{path} is not a file", "give a .pt file, a folder of class folders, or a run")
    content = safe_loading.read(path, WORDING)
    if isinstance(content, dict):
        images, labels = _select_experiment(path, safe_loading.plain_dict(content), given.experiment)
        facts: dict[str, Any] = {"layout": "dc", "experiment": given.experiment}
        space: str = "normalised" if given.space == "auto" else given.space
    else:
        images, labels = content, safe_loading.read(_find_labels_file(path), WORDING)
        facts = {"layout": "mtt"}
        space = _require_space(path, given)
    images_NCHW = _check_images(path, images, data)
    labels_N, are_soft = _check_labels(path, labels, len(images_NCHW), data)
    facts |= {"space": space, "soft_labels_unused": are_soft}
    if space == "normalised":
        mean, std = normalisation(given, data)
        images_NCHW = denormalise(images_NCHW, mean, std)
        facts |= {"mean": list(mean), "std": list(std)}
    rounding = 1 / 510  # half an 8-bit level
    is_outside = (images_NCHW < -rounding) | (images_NCHW > 1 + rounding)
    facts |= {"clipped": int(is_outside.sum()), "values": images_NCHW.numel()}
    return images_NCHW.clamp(0.0, 1.0).numpy(), labels_N, facts


def _select_experiment(path: Path, content: dict[Any, Any], number: int) -> tuple[Any, Any]:
    sets = content.get("data")
    if not isinstance(sets, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in sets
    ):
        keys = [repr(key[:40]) if isinstance(key, str) else type(key).__name__ for key in content]
        hint = "expected a dictionary whose 'data' is a list of [images, labels], as saved by DC"
        raise_data_error(f"{path} contains no distilled sets: its keys are {format_names(keys)}", hint)
    if number >= len(sets):
        count = "1 set" if len(sets) == 1 else f"{len(sets)} sets"
        message = f"{path} contains {count}, but no set {number}"
        raise_data_error(message, "choose a set with --experiment; the first one is 0")
    images, labels = sets[number]
    return images, labels


def _find_labels_file(path: Path) -> Path:
    labels_path = path.with_name(path.name.replace("images", "labels", 1).replace("_zca", "", 1))
    if not path.name.startswith("images") or not labels_path.is_file():
        hint = f"put the labels next to it as {path.name.replace('images', 'labels', 1)}, as MTT saves them"
        raise_data_error(f"{path} contains only images, and there is no label file next to it", hint)
    return labels_path


def _require_space(path: Path, given: Given) -> str:
    """Return the space of a bare tensor.

    The settings must name it, except for MTT's ``images_zca_*.pt``, which are pixels again.
    """
    if given.space == "auto" and path.name.startswith("images_zca"):
        return "pixels"
    if given.space in ("auto", "zca"):
        whitened = "is ZCA-whitened" if given.space == "zca" else "may be ZCA-whitened"
        raise_data_error(
            f"{path} {whitened}, and it does not contain the matrix to undo that",
            "give MTT's images_zca_*.pt, which are pixels; or, if you know what the values are, add"
            " --space normalised or --space pixels",
        )
    return given.space


def _check_images(path: Path, images: object, data: DataSet) -> Tensor:
    """Return images as float32 (N, C, H, W); refuse other shapes and values that are not finite."""
    if not safe_loading.is_plain(images) or images.ndim != 4:
        raise_data_error(
            f"{path} contains no images: expected a tensor (N, C, H, W)", "give the file with the images"
        )
    if not len(images):
        raise_data_error(f"{path} contains no images: the tensor is empty", "give another file")
    require_fit(path, tuple(images.shape), data.train.classes, data)
    refuse_expanded_view(path, images)
    floats = images.detach().float()
    if not bool(floats.isfinite().all()):
        hint = "use another file: its optimisation diverged, or it is damaged"
        raise_data_error(f"{path} has values that are not finite", hint)
    return floats.contiguous()


def _check_labels(path: Path, labels: object, count: int, data: DataSet) -> tuple[NDArray[np.int64], bool]:
    """Return labels (N,), and whether they are the argmax of soft labels (N, K)."""
    if not safe_loading.is_plain(labels) or labels.shape[:1] != (count,):
        raise_data_error(
            f"the labels of {path} are not a tensor of {count} labels", "give the matching label file"
        )
    refuse_expanded_view(path, labels)
    classes = len(data.train.classes)
    are_soft = labels.ndim == 2
    if are_soft and labels.shape[1] != classes:
        raise_data_error(
            f"the labels of {path} have {labels.shape[1]} classes instead of {classes}", _FITTING
        )
    hard = labels.detach().argmax(dim=1) if are_soft else labels.detach()
    integers = hard.to(torch.int64)
    is_label = (integers == hard) & (integers >= 0) & (integers < classes)
    if hard.ndim != 1 or not bool(is_label.all()):
        raise_data_error(f"the labels of {path} are not all labels from 0 to {classes - 1}", _FITTING)
    return integers.numpy(), are_soft


def require_fit(path: Path, shape: tuple[int, ...], classes: tuple[str, ...], data: DataSet) -> None:
    """Raise UserError("data") if images (N, C, H, W) do not fit the data set: classes, channels, size."""
    if [name_key(name) for name in classes] != [name_key(name) for name in data.train.classes]:
        raise_data_error(
            f"the images of {path} have other classes: {format_names(classes)}"
            f" instead of {format_names(data.train.classes)}",
            _FITTING,
        )
    expected = (data.train.channels, data.train.size, data.train.size)
    if shape[1:] != expected:
        raise_data_error(
            f"the images of {path} are {'×'.join(map(str, shape[1:]))}, those of the data set are"
            f" {'×'.join(map(str, expected))} (channels, height, width)",
            f"{_FITTING}, and set the side with --set data.image_size={shape[-1]}",
        )


def refuse_expanded_view(path: Path, tensor: Tensor) -> None:
    """Raise UserError("data") if a tensor is larger than its storage: a copy could exhaust the memory."""
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise_data_error(f"{path} declares more numbers than it contains", "save its tensors with .clone()")


def normalisation(given: Given, data: DataSet) -> MeanStd:
    """Return the mean and std of normalised files: from the settings, else OF_FAMILY, else the data set.

    Raises UserError("config") if their number differs from the data set's channels.
    """
    mean, std = OF_FAMILY.get(data.name, (data.train.mean, data.train.std))
    mean, std = given.mean or mean, given.std or std
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != data.train.channels:
            raise UserError(
                "config",
                f"given.{name} has {len(values)} values, but the images have {data.train.channels} channels",
                f"give {data.train.channels} values",
            )
    return mean, std
