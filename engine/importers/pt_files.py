"""Distilled sets in `.pt` files, as the codes of the DC and MTT families save them.

DC, DSA, DM: ``res_*.pt``, a dictionary whose ``data`` is a list of [images, labels], one of each experiment.
MTT and its kin, DD-Ranking: a tensor ``images_*.pt`` and beside it ``labels_*.pt``. The images are in the
units that networks see, (x − mean) / std; MTT's may be ZCA-whitened, which a file does not tell and only its
matrix can undo.
Legend: N images, K classes, C channels, H, W.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.backbones import safe_loading
from engine.config import Given
from engine.data import DataSet, denormalise
from engine.data.layout import listing, refuse
from engine.errors import UserError

SUFFIXES = (".pt", ".pth")
WORDING = safe_loading.Wording(
    "data",
    "distilled set",
    "Save its tensors alone where you trust the file: torch.save({'data': [[images, labels]]}, 'set.pt').",
)
MeanStd = tuple[tuple[float, ...], tuple[float, ...]]
_CIFAR: MeanStd = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: What the codes of both families, and DD-Ranking, normalise with; CIFAR-100 with CIFAR-10's, as they do.
OF_FAMILY = {"cifar10": _CIFAR, "cifar100": _CIFAR, "tiny-imagenet": _IMAGENET, "imagenet": _IMAGENET}
FITTING = "give the data set that it was distilled from, with --dataset and --data-root"
ROUNDING = 1 / 510  #: what lies so far outside [0, 1] was not clipped, but rounded to the nearest level


@dataclass(frozen=True)
class Found:
    """images_NCHW: float32 in [0, 1]; labels_N: int64; facts: what the file was and what was done to it."""

    images_NCHW: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    facts: dict[str, Any]


def inside(folder: Path) -> Path | None:
    """The file of images in a folder that a code of the MTT family, or DD-Ranking's export, left."""
    return next(
        (folder / name for name in ("images_best.pt", "images.pt") if (folder / name).is_file()), None
    )


def read(path: Path, given: Given, data: DataSet) -> Found:
    """The images and labels of a file. Raises UserError("data")."""
    if not path.is_file():
        refuse(f"{path} is no file", "give a .pt file, a folder of class folders, or a run")
    content = safe_loading.read(path, WORDING)
    if isinstance(content, dict):
        images, labels = _experiment(path, safe_loading.plain_dict(content), given.experiment)
        facts: dict[str, Any] = {"layout": "dc", "experiment": given.experiment}
        space: str = "normalised" if given.space == "auto" else given.space
    else:
        images, labels = content, safe_loading.read(_labels_beside(path), WORDING)
        facts = {"layout": "mtt"}
        space = _declared(path, given)
    images_NCHW = _images(path, images, data)
    labels_N, soft = _labels(path, labels, len(images_NCHW), data)
    facts |= {"space": space, "soft_labels_unused": soft}
    return _in_pixels(path, images_NCHW, labels_N, space, given, data, facts)


def _experiment(path: Path, content: dict[Any, Any], number: int) -> tuple[Any, Any]:
    sets = content.get("data")
    if not isinstance(sets, list) or not all(isinstance(one, list | tuple) and len(one) == 2 for one in sets):
        keys = [repr(key[:40]) if isinstance(key, str) else type(key).__name__ for key in content]
        refuse(
            f"{path} holds no distilled sets: its keys are {listing(keys)}",
            "expected a dictionary whose 'data' is a list of [images, labels], as DC saves it",
        )
    if number >= len(sets):
        refuse(
            f"{path} holds {'1 set' if len(sets) == 1 else f'{len(sets)} sets'}, and no number {number}",
            "count them from 0: --experiment",
        )
    images, labels = sets[number]
    return images, labels


def _labels_beside(path: Path) -> Path:
    beside = path.with_name(path.name.replace("images", "labels", 1).replace("_zca", "", 1))
    if not path.name.startswith("images") or not beside.is_file():
        refuse(
            f"{path} holds images alone, and no labels lie beside it",
            f"put them there as {path.name.replace('images', 'labels', 1)}, as MTT saves them",
        )
    return beside


def _declared(path: Path, given: Given) -> str:
    """The space of a bare tensor, which must be said but for MTT's images that it brought back to pixels."""
    if given.space == "auto" and path.name.startswith("images_zca"):
        return "pixels"
    if given.space in ("auto", "zca"):
        whitened = "is ZCA-whitened" if given.space == "zca" else "may be ZCA-whitened"
        refuse(
            f"{path} {whitened}: the file has not the matrix with which to undo that",
            "give MTT's images_zca_*.pt, which are pixels; or say what the values are where you know it:"
            " --space normalised or --space pixels",
        )
    return given.space


def _images(path: Path, images: object, data: DataSet) -> Tensor:
    if not safe_loading.is_plain(images) or not isinstance(images, Tensor) or images.ndim != 4:
        refuse(f"{path} holds no images: expected a tensor (N, C, H, W)", "give the file of the images")
    if not len(images):
        refuse(f"{path} holds no image", "give another file")
    require_shape(path, tuple(images.shape), data)
    require_there(path, images)
    floats = images.detach().float()
    if not bool(floats.isfinite().all()):
        refuse(f"{path} has values that are not finite", "its optimisation diverged, or it is damaged")
    return floats.contiguous()


def _labels(path: Path, labels: object, count: int, data: DataSet) -> tuple[NDArray[np.int64], bool]:
    """Labels (N,), and whether they came as soft ones (N, K), of which the largest is taken."""
    if not safe_loading.is_plain(labels) or not isinstance(labels, Tensor) or labels.shape[:1] != (count,):
        refuse(f"the labels of {path} are no tensor of {count} labels", "give the file that belongs to it")
    require_there(path, labels)
    classes = len(data.train.classes)
    soft = labels.ndim == 2
    if soft and labels.shape[1] != classes:
        refuse(
            f"the labels of {path} are of {labels.shape[1]} classes instead of {classes}", "give its data set"
        )
    plain = labels.detach().argmax(dim=1) if soft else labels.detach()
    whole = plain.to(torch.int64)
    inside = plain.ndim == 1 and bool(((whole == plain) & (whole >= 0) & (whole < classes)).all())
    if not inside:
        refuse(f"the labels of {path} are not all labels from 0 to {classes - 1}", FITTING)
    return whole.numpy(), soft


def require_shape(path: Path, shape: tuple[int, ...], data: DataSet) -> None:
    """Raise UserError("data") where images (N, C, H, W) are not of the data set's channels and size."""
    wanted = (data.train.channels, data.train.size, data.train.size)
    if shape[1:] != wanted:
        raise UserError(
            "data",
            f"the images of {path} are {'×'.join(map(str, shape[1:]))}, those of the data set"
            f" {'×'.join(map(str, wanted))} (channels, height, width)",
            f"{FITTING}, and its side with --set data.image_size={shape[-1]}",
        )


def require_there(path: Path, value: Tensor) -> None:
    """Refuse a view that would take more memory than the file has numbers for."""
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        refuse(f"{path} speaks of more numbers than it holds", "save its tensors with .clone()")


def _in_pixels(
    path: Path,
    images_NCHW: Tensor,
    labels_N: NDArray[np.int64],
    space: str,
    given: Given,
    data: DataSet,
    facts: dict[str, Any],
) -> Found:
    if space == "normalised":
        mean, std = normalisation(given, data)
        images_NCHW = denormalise(images_NCHW, mean, std)
        facts |= {"mean": list(mean), "std": list(std)}
    outside = (images_NCHW < -ROUNDING) | (images_NCHW > 1 + ROUNDING)
    facts |= {"clipped": int(outside.sum()), "values": images_NCHW.numel()}
    return Found(images_NCHW.clamp(0.0, 1.0).numpy(), labels_N, facts)


def normalisation(given: Given, data: DataSet) -> MeanStd:
    """Mean and std of normalised files: the settings', else the families', else the set's own."""
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
