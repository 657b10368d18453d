"""What recovery looks like at a moment: the images of its batch, and the spectra that it matches.

Legend: M images, C channels, H, W, D features.
``glimpse.safetensors`` is replaced now and then while a recovery is at work, and stays when it has ended. It
is for people to look at: nothing is computed from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import UserError
from engine.store import json_file, tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_IMAGES = 20  #: of a batch
MOST_PIXELS = 64  #: a side
_FORMAT = "cfm-glimpse"


@dataclass(frozen=True)
class Preview:
    """The batch as it stood after `iteration` iterations; batch counts from 1.

    images_MCHW: some of the batch's images, made smaller where they are large. labels_M: their classes.
    spectra: eigenvalues of Ψ and of Ψ_s by tap in forward order, largest first; taps where they are not
    measured are left out. time: seconds since 1970 (UTC).
    """

    batch: int
    iteration: int
    beta: float
    images_MCHW: NDArray[np.uint8]
    labels_M: NDArray[np.int64]
    spectra: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    time: float


def write(path: Path, glimpse: Preview) -> None:
    """Replace the file `path`. Raises UserError("disk")."""
    arrays: dict[str, NDArray[Any]] = {"images": glimpse.images_MCHW, "labels": glimpse.labels_M}
    for number, (real_D, synthetic_D) in enumerate(glimpse.spectra.values()):
        arrays |= {f"{number}.real": real_D, f"{number}.synthetic": synthetic_D}
    facts = {name: getattr(glimpse, name) for name in ("batch", "iteration", "beta", "time")}
    told = json_file.to_json({**facts, "taps": list(glimpse.spectra)})
    tensors.write(path, arrays, {"format": _FORMAT, "version": "1", "facts": told}, sync_name=False)


def read(path: Path) -> Preview:
    """The latest. Raises UserError("data") where it is damaged, UserError("disk") where it is absent."""
    arrays, told = tensors.read(path)
    try:
        if told["format"] != _FORMAT:
            raise ValueError("it is something else")
        facts = json_file.from_json(told["facts"])
        spectra = {
            tap: (arrays[f"{number}.real"], arrays[f"{number}.synthetic"])
            for number, tap in enumerate(facts.pop("taps"))
        }
        return Preview(images_MCHW=arrays["images"], labels_M=arrays["labels"], spectra=spectra, **facts)
    except (KeyError, ValueError, TypeError) as error:
        raise tensors.damaged(path, error) from error


def latest(path: Path) -> Preview | None:
    """The same; None where there is none, or none that can be used."""
    try:
        return read(path)
    except UserError:
        return None
