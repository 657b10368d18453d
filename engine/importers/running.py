"""Read the real statistics that the released UniDD code includes, to use instead of measuring them.

Layout: a folder ``TEACHER.pth=LAYER`` per conv layer with ``running.npz``, which contains ``running_cov``
(D, D), ``running_mean`` (D,), ``running_class_mean`` (D, K) in float32 (also ``running_corr`` and
``running_mix_mean``, which are not used here). The covariances are means of within-batch covariances. The
files identify the teacher only by its file name.
Legend: D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine import backbones
from engine.config import Config
from engine.errors import UserError, format_names, raise_data_error
from engine.fingerprint import fingerprint_tensors
from engine.spectral import taps
from engine.spectral.moments import Moments, pack

#: Fingerprints of released teachers, and the file name under which their statistics are published.
KNOWN = {
    "0a837b1affe720740dec347bda2f6cc61df5ba7e1e6eebccc91198e4fb8ff873": "ConvNetW128D3.pth",  # of CIFAR-10
}
_EXPECTED = "expected folders TEACHER.pth=LAYER, each with running.npz, as written by the released UniDD code"


def read(
    config: Config, backbone: nn.Module, teacher: nn.Module | None, classes: int
) -> list[Moments] | None:
    """Read the moments of every tap, float64 on the CPU; return None if the settings name none.

    backbone: the network, whose weights are not used. teacher: the network with its weights; None if one is
    squeezed. Raises UserError("data"): another layout, other layers, sizes that do not fit, or, unless
    `given.trust`, statistics that are not known to belong to the teacher. Raises UserError("config"): taps
    that the released code does not support.
    """
    if config.given.statistics is None:
        return None
    kind = config.objective.taps
    sides = {"conv-input": "input", "conv-output": "output"}  # folder names of the released code
    if kind not in sides:
        raise UserError("config", f"objective.taps = {kind} has no published statistics", "use conv-input")
    names = taps.tap_names(backbone, kind)
    folder, prefix = _find_statistics(Path(config.given.statistics), names)
    side = next((part for part in reversed(folder.parts) if part in sides.values()), None)
    if side is not None and side != sides[kind]:
        message = f"{folder} has statistics of each layer's {side}, but objective.taps = {kind}"
        raise_data_error(message, f"give the folder of each layer's {sides[kind]}, or change objective.taps")
    if not config.given.trust:
        _require_known_teacher(folder, prefix, teacher)
    moments = []
    for name in names:
        conv = backbone.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        features = conv.in_channels if kind == "conv-input" else conv.out_channels
        moments.append(_read_moments(folder / f"{prefix}={name}" / "running.npz", name, features, classes))
    return moments


def fingerprint(moments: Sequence[Moments]) -> str:
    """Return the SHA-256 (hex) of the moments of all taps, as stored in a run's manifest."""
    return fingerprint_tensors(pack(moments))


def _find_statistics(path: Path, names: Sequence[str]) -> tuple[Path, str]:
    """Return the folder and the name of the teacher that has statistics of all these layers.

    path: the folder, or, if it contains several teachers, the folder followed by the teacher's name.
    """
    folder, wanted = (path, None) if path.is_dir() else (path.parent, path.name)
    if not folder.is_dir():
        raise_data_error(f"{path} does not exist", _EXPECTED)
    pairs = {
        file.parent.name.partition("=")[::2] for file in folder.glob("*=*/running.npz")
    }  # (teacher, layer)
    prefixes = sorted({prefix for prefix, _ in pairs if wanted in (None, prefix)})
    if not prefixes:
        raise_data_error(f"{path} contains no statistics", _EXPECTED)
    complete = [prefix for prefix in prefixes if all((prefix, name) in pairs for name in names)]
    if not complete:
        missing = [name for name in names if (prefixes[0], name) not in pairs]
        message = f"{path} has no statistics of {format_names(missing)}"
        raise_data_error(message, "set the backbone that they were measured with")
    if len(complete) > 1:
        message = f"{folder} has statistics of several teachers: {format_names(complete)}"
        raise_data_error(message, f"choose one, for example given.statistics={folder}/{complete[0]}")
    return folder, complete[0]


def _require_known_teacher(folder: Path, prefix: str, teacher: nn.Module | None) -> None:
    known = None if teacher is None else KNOWN.get(backbones.fingerprint(teacher))
    if known != prefix:
        whose = "a teacher that is squeezed here" if teacher is None else "this teacher"
        raise_data_error(
            f"it is unknown whether the statistics of {prefix} in {folder} were measured with {whose}:"
            " the files do not record it",
            "give the released teacher, or, if you know that they belong together, --set given.trust=true",
        )


def _read_moments(path: Path, name: str, features: int, classes: int) -> Moments:
    arrays = _read_arrays(path, ("running_cov", "running_mean", "running_class_mean"))
    shapes = ((features, features), (features,), (features, classes))
    for (key, array), shape in zip(arrays.items(), shapes, strict=True):
        if array.shape != shape:
            message = f"{key} in {path} is {array.shape} instead of {shape}"
            raise_data_error(message, "give statistics of this backbone and data set")
        if not np.isfinite(array).all():
            raise_data_error(f"{key} in {path} is not finite", "get a clean copy of it")
    cov_DD, mean_D, flc_DK = (torch.from_numpy(array.astype(np.float64)) for array in arrays.values())
    _require_covariance(path, cov_DD)
    return Moments(name, mean_D, cov_DD.diagonal(), cov_DD, flc_DK)


def _require_covariance(path: Path, cov_DD: Tensor) -> None:
    tolerance = 1e-4 * float(cov_DD.abs().max())  # for asymmetry and negative eigenvalues
    is_asymmetric = float((cov_DD - cov_DD.T).abs().max()) > tolerance
    if is_asymmetric or float(torch.linalg.eigvalsh(cov_DD).min()) < -tolerance:
        raise_data_error(f"running_cov in {path} is not a covariance matrix", "get a clean copy of it")


def _read_arrays(path: Path, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in keys}
        if not all(array.dtype.kind == "f" for array in arrays.values()):
            raise ValueError("it has an array that is not an array of floats")
        return arrays
    except Exception as error:  # readers of archives raise all kinds of errors on damaged bytes
        raise_data_error(f"{path} cannot be read: {error}", f"{_EXPECTED}; or get a clean copy of it")
