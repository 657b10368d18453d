"""Read distilled sets from `.pt` files as saved by the code of the DC, IDC and MTT families.

DC, DSA, DM: ``res_*.pt``, a dictionary whose ``data`` is a list of [images, labels], one per experiment.
IDC, DREAM: one [images, labels], whose images are pixels in [0, 1].
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
from engine.environment import expand_home
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
CLASS_MAJOR = "class-major"  #: in place of a label file: as many images of each class, in label order
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

    Raises UserError("data"): the file is missing, unsafe, of another layout, without labels, does not fit the
    data set, or has values that do not fit their space.
    """
    if not path.is_file():
        raise_data_error(f"{path} is not a file", "give a .pt file, a folder of class folders, or a run")
    content = safe_loading.read(path, WORDING)
    facts: dict[str, Any] = {"layout": "mtt"}
    embedded: object = None
    if isinstance(content, dict | list | tuple):
        content, embedded, facts = _select_experiment(path, content, given.experiment)
    images_NCHW = _check_images(path, content, data)
    labels = _find_labels(path, given, embedded, len(images_NCHW), len(data.train.classes))
    labels_N, are_soft = _check_labels(path, labels, len(images_NCHW), data)
    space = _decide_space(path, images_NCHW, given, facts["layout"])
    mean, std = normalisation(given, data)
    _require_range(path, images_NCHW, space, (mean, std), given, data)
    pixels_NCHW = _to_pixels(images_NCHW, space, (mean, std))
    facts |= {"space": space, "soft_labels_unused": are_soft}
    if space == "normalised":
        facts |= {"mean": list(mean), "std": list(std)}
    facts |= {"clipped": _count_outside(pixels_NCHW), "values": pixels_NCHW.numel()}
    return pixels_NCHW.clamp(0.0, 1.0).numpy(), labels_N, facts


def _select_experiment(path: Path, content: Any, number: int) -> tuple[object, object, dict[str, Any]]:
    """Return images, labels and facts of a file with one [images, labels], or with a list of them."""
    if isinstance(content, dict):
        content = safe_loading.plain_dict(content)
        sets = content.get("data")
    else:
        is_single = len(content) == 2 and isinstance(content[0], Tensor)
        sets = [content] if is_single else list(content)
    if not isinstance(sets, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in sets
    ):
        held = f"a {type(content).__name__} of {len(content)}"
        if isinstance(content, dict):
            keys = (repr(key[:40]) if isinstance(key, str) else type(key).__name__ for key in content)
            held = f"its keys are {format_names(list(keys))}"
        hint = "expected [images, labels], or a dictionary whose 'data' is a list of them, as saved by DC"
        raise_data_error(f"{path} contains no distilled sets: {held}", hint)
    if number >= len(sets):
        count = "1 set" if len(sets) == 1 else f"{len(sets)} sets"
        message = f"{path} contains {count}, but no set {number}"
        raise_data_error(message, "choose a set with --experiment; the first one is 0")
    layout = "dc" if isinstance(content, dict) else "pair"
    return *sets[number], {"layout": layout, "experiment": number}


def _find_labels(path: Path, given: Given, embedded: object, count: int, classes: int) -> object:
    """Return the labels that the settings name, else those in the file, else those in a file beside it."""
    if given.image_labels == CLASS_MAJOR:
        if count % classes:
            raise_data_error(
                f"{path} holds {count} images, which are not equally many of each of {classes} classes",
                "name the file with their labels: --image-labels FILE",
            )
        return torch.arange(classes).repeat_interleave(count // classes)
    if given.image_labels is not None:
        labels_path = expand_home(given.image_labels)
        if not labels_path.is_file():
            raise_data_error(f"the label file {labels_path} does not exist", "correct --image-labels")
        return safe_loading.read(labels_path, WORDING)
    if embedded is not None:
        return embedded
    sibling = path.with_name(path.name.replace("images", "labels", 1).replace("_zca", "", 1))
    if path.name.startswith("images") and sibling.is_file():
        return safe_loading.read(sibling, WORDING)
    beside = f" or put it beside the images as {sibling.name}," if path.name.startswith("images") else ""
    raise_data_error(
        f"{path} holds {count} images without labels",
        f"name the file with their labels, --image-labels FILE,{beside} or, if there are as many images of"
        f" each class, in label order, add --image-labels {CLASS_MAJOR}",
    )


def _decide_space(path: Path, images_NCHW: Tensor, given: Given, layout: str) -> str:
    """Return the space of the values: that of the settings, or what format and values leave no doubt of."""
    if given.space not in ("auto", "zca"):
        return given.space
    if given.space == "auto":
        low, high = float(images_NCHW.min()), float(images_NCHW.max())
        if low >= 0 and 1 < high <= 255 and bool((images_NCHW == images_NCHW.round()).all()):
            return "bytes"
        if layout == "dc":
            return "normalised"
        if path.name.startswith("images_zca") or (low >= 0 and high <= 1):
            return "pixels"
    whitened = "is ZCA-whitened" if given.space == "zca" else "may be ZCA-whitened"
    raise_data_error(
        f"{path} {whitened}, and it does not contain the matrix to undo that",
        "give MTT's images_zca_*.pt, which are pixels; or, if you know what the values are, add"
        " --space normalised or --space pixels",
    )


def _to_pixels(images_NCHW: Tensor, space: str, mean_std: MeanStd) -> Tensor:
    if space == "normalised":
        return denormalise(images_NCHW, *mean_std)
    return images_NCHW / 255 if space == "bytes" else images_NCHW


def _count_outside(pixels_NCHW: Tensor) -> int:
    """Return the number of values that clipping to [0, 1] changes by more than half an 8-bit level."""
    rounding = 1 / 510
    return int(((pixels_NCHW < -rounding) | (pixels_NCHW > 1 + rounding)).sum())


def _require_range(
    path: Path, images_NCHW: Tensor, space: str, mean_std: MeanStd, given: Given, data: DataSet
) -> None:
    """Raise UserError("data") if the values do not fit the space, naming one that they fit.

    They do not fit if more than the settings allow would be clipped. Bytes and normalised values do not fit,
    either, if all of them lie in [0, 1], which is the range of pixels.
    """
    are_pixels = bool(images_NCHW.min() >= 0) and bool(images_NCHW.max() <= 1)

    def share_outside(other: str, other_mean_std: MeanStd) -> float:
        if are_pixels and (other == "bytes" or (other == "normalised" and any(other_mean_std[0]))):
            return 1.0
        return _count_outside(_to_pixels(images_NCHW, other, other_mean_std)) / images_NCHW.numel()

    share = share_outside(space, mean_std)
    if share <= given.max_clipped:
        return
    spaces = ("pixels", "bytes", "normalised")
    others = [(f"add --space {other}", other, mean_std) for other in spaces]
    others += [("leave given.mean and given.std out", "normalised", normalisation(Given(), data))]
    fitting = [hint for hint, other, constants in others if share_outside(other, constants) <= 0.01]
    message = f"the values of {path} lie in [0, 1], so they are not {space}"
    if not are_pixels:
        message = f"{100 * share:.2g} % of the values of {path}, read as {space}, would be clipped"
    hint = "give mean and std of the code that wrote the file as given.mean and given.std, or MTT's"
    hint += " images_zca_*.pt if they are ZCA-whitened; or, if the images were optimised without bounds, clip"
    hint += " them with --set given.max_clipped="
    hint = f"{fitting[0]}: the values fit" if fitting else f"{hint}{np.ceil(100 * share) / 100:g}"
    raise_data_error(message, hint)


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
    if isinstance(labels, list | tuple) and all(type(label) is int for label in labels):
        labels = torch.tensor(labels, dtype=torch.int64)
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
