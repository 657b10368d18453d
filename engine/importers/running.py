"""The real statistics that the released UniDD code bundles, in place of those that would be measured.

Layout: a folder ``TEACHER.pth=LAYER`` for each conv layer, in it ``running.npz`` with ``running_cov`` (D, D),
``running_mean`` (D,), ``running_class_mean`` (D, K) in float32 (and ``running_corr``, ``running_mix_mean``,
which no objective here needs). They are the mean of within-batch covariances, and say nothing of the teacher
but its file's name.
Legend: D features, K classes.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor, nn

from engine import backbones
from engine.config import Config
from engine.data.layout import listing, refuse
from engine.errors import UserError
from engine.fingerprint import fingerprint_tensors
from engine.spectral import taps
from engine.spectral.moments import Moments, pack

FILE = "running.npz"
SIDES = {"conv-input": "input", "conv-output": "output"}  #: what the code calls the side that is read
#: Fingerprints of released teachers, and the name under which their statistics are bundled.
KNOWN = {
    "0a837b1affe720740dec347bda2f6cc61df5ba7e1e6eebccc91198e4fb8ff873": "ConvNetW128D3.pth",  # of CIFAR-10
}
_TIGHT = 1e-4  #: how far a covariance in float32 may be from symmetric, of its largest value
EXPECTED = f"expected folders TEACHER.pth=LAYER, each with {FILE}, as the released UniDD code writes them"


def read(
    config: Config, backbone: nn.Module, teacher: nn.Module | None, classes: int
) -> list[Moments] | None:
    """The moments of every tap, float64 on the CPU; None where the settings name none.

    backbone: the network, its weights not looked at; teacher: it with them, None if one is to be squeezed.
    Raises UserError("data"): another layout, other layers, sizes that do not fit, a teacher that nobody knows
    to be the one they were measured with (unless `given.trust`).
    """
    if config.given.statistics is None:
        return None
    kind = config.objective.taps
    if kind not in SIDES:
        raise UserError("config", f"objective.taps = {kind} reads no such statistics", "use conv-input")
    names = taps.tap_names(backbone, kind)
    folder, prefix = _found(Path(config.given.statistics), names)
    side = next((part for part in reversed(folder.parts) if part in SIDES.values()), None)
    if side is not None and side != SIDES[kind]:
        refuse(
            f"{folder} is of each layer's {side}, objective.taps = {kind}", "give those, or change the taps"
        )
    if not config.given.trust:
        _require_known(folder, prefix, teacher)
    found = []
    for name in names:
        conv = backbone.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        features = conv.in_channels if kind == "conv-input" else conv.out_channels
        found.append(_moments(folder / f"{prefix}={name}" / FILE, name, features, classes))
    return found


def fingerprint(real: Sequence[Moments]) -> str:
    """SHA-256 (hex) of the moments of all taps, as a run's manifest has it."""
    return fingerprint_tensors(pack(real))


def _found(path: Path, names: Sequence[str]) -> tuple[Path, str]:
    """The folder, and the teacher's name, whose statistics are of all these layers.

    path: the folder, or the folder and the teacher's name where there are those of several.
    """
    folder, wanted = (path, None) if path.is_dir() else (path.parent, path.name)
    if not folder.is_dir():
        refuse(f"{path} does not exist", EXPECTED)
    there = {place.parent.name.partition("=")[::2] for place in folder.glob(f"*=*/{FILE}")}
    prefixes = sorted({prefix for prefix, _ in there if wanted in (None, prefix)})
    if not prefixes:
        refuse(f"{path} holds no statistics", EXPECTED)
    whole = [prefix for prefix in prefixes if all((prefix, name) in there for name in names)]
    if not whole:
        lost = [name for name in names if (prefixes[0], name) not in there]
        refuse(
            f"{path} has no statistics of {listing(lost)}", "set the backbone that they were measured with"
        )
    if len(whole) > 1:
        refuse(
            f"{folder} has statistics of several teachers: {listing(whole)}",
            f"say which: given.statistics={folder}/{whole[0]}",
        )
    return folder, whole[0]


def _require_known(folder: Path, prefix: str, teacher: nn.Module | None) -> None:
    known = None if teacher is None else KNOWN.get(backbones.fingerprint(teacher))
    if known != prefix:
        whose = "a teacher that is squeezed here" if teacher is None else "this teacher"
        refuse(
            f"nobody knows whether the statistics of {prefix} in {folder} were measured with {whose}:"
            " they do not say",
            "give the released teacher, or, where you know it, --set given.trust=true",
        )


def _moments(path: Path, name: str, features: int, classes: int) -> Moments:
    arrays = _arrays(path, ("running_cov", "running_mean", "running_class_mean"))
    shapes = ((features, features), (features,), (features, classes))
    for (key, array), shape in zip(arrays.items(), shapes, strict=True):
        if array.shape != shape:
            refuse(
                f"{key} in {path} is {array.shape} instead of {shape}", "give those of this backbone and data"
            )
        if not np.isfinite(array).all():
            refuse(f"{key} in {path} is not finite", "get a clean copy of it")
    cov_DD, mean_D, flc_DK = (torch.from_numpy(array.astype(np.float64)) for array in arrays.values())
    _require_covariance(path, cov_DD)
    return Moments(name, mean_D, cov_DD.diagonal(), cov_DD, flc_DK)


def _require_covariance(path: Path, cov_DD: Tensor) -> None:
    largest = float(cov_DD.abs().max())
    crooked = float((cov_DD - cov_DD.T).abs().max()) > _TIGHT * largest
    if crooked or float(torch.linalg.eigvalsh(cov_DD).min()) < -_TIGHT * largest:
        refuse(f"running_cov in {path} is no covariance", "get a clean copy of it")


def _arrays(path: Path, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Arrays of floats out of an archive, each as large as its record; NumPy's own reader unpickles."""
    try:
        with zipfile.ZipFile(path) as packed:
            return {key: _array(packed, f"{key}.npy") for key in keys}
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RuntimeError, NotImplementedError) as error:
        refuse(f"{path} cannot be read: {error}", f"{EXPECTED}; or get a clean copy of it")


def _array(packed: zipfile.ZipFile, name: str) -> NDArray[Any]:
    record = packed.getinfo(name)
    if (
        record.compress_type != zipfile.ZIP_STORED
        or record.file_size > Path(str(packed.filename)).stat().st_size
    ):
        raise ValueError(f"{name} is compressed, which the code does not do, or larger than the archive")
    with packed.open(record) as file:
        read_header = (
            npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.kind != "f" or size > record.file_size:
            raise ValueError(f"{name} is no array of floats, or has not all of them")
        content = file.read(size)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
