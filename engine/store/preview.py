"""Preview of a running recovery: some images of the current batch, and the spectra that it matches.

Legend: M images, C channels, H, W, D features.
``glimpse.safetensors`` is replaced from time to time during recovery and stays when it has ended. It is only
displayed; nothing is computed from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from engine.store import json_file, tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Preview:
    """The current batch after `iteration` iterations; batch counts from 1.

    images_MCHW: some of the batch's images, reduced in size if they are large. labels_M: their classes.
    spectra: eigenvalues of Ψ and of Ψ_s by tap in forward order, largest first; taps without measured spectra
    are left out. time: seconds since 1970 (UTC). real_MCHW: for each image a real one of its class; None if
    there is none, as in files of earlier versions and in the history.
    """

    MOST_IMAGES: ClassVar = 20  #: images of a batch in a preview, at most
    MOST_PIXELS: ClassVar = 64  #: height and width of these images, at most

    batch: int
    iteration: int
    beta: float
    images_MCHW: NDArray[np.uint8]
    labels_M: NDArray[np.int64]
    spectra: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    time: float
    real_MCHW: NDArray[np.uint8] | None = None

    def write(self, path: Path) -> None:
        """Write this preview to `path`. Raises UserError("disk")."""
        arrays: dict[str, NDArray[Any]] = {"images": self.images_MCHW, "labels": self.labels_M}
        if self.real_MCHW is not None:
            arrays["real"] = self.real_MCHW
        for number, (real_D, synthetic_D) in enumerate(self.spectra.values()):
            arrays |= {f"{number}.real": real_D, f"{number}.synthetic": synthetic_D}
        facts = {name: getattr(self, name) for name in ("batch", "iteration", "beta", "time")}
        facts["taps"] = list(self.spectra)
        metadata = {"format": "cfm-glimpse", "version": "1", "facts": json_file.to_json(facts)}
        tensors.write(path, arrays, metadata, sync_name=False)

    @classmethod
    def read(cls, path: Path) -> Preview:
        """Return the preview in a file. Raises UserError: "data" if it is damaged, "disk" if it is absent."""
        arrays, metadata = tensors.read(path)
        try:
            if metadata["format"] != "cfm-glimpse":
                raise ValueError("it is not a preview")
            facts = json_file.from_json(metadata["facts"])
            spectra = {
                tap: (arrays[f"{number}.real"], arrays[f"{number}.synthetic"])
                for number, tap in enumerate(facts.pop("taps"))
            }
            return cls(
                images_MCHW=arrays["images"],
                labels_M=arrays["labels"],
                spectra=spectra,
                real_MCHW=arrays.get("real"),
                **facts,
            )
        except (KeyError, ValueError, TypeError) as error:
            raise tensors.damaged_error(path, error) from error
