"""Small image sets that the tests make themselves."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def make_tree(
    root: Path,
    counts: Mapping[str, int],
    size: tuple[int, int] = (16, 16),
    mode: str = "RGB",
    ext: str = "png",
) -> dict[str, np.ndarray]:
    """Noise pictures `root`/FOLDER/IMG.png, as many as counts says for each folder; arrays by name."""
    made = {}
    for number, (folder, count) in enumerate(counts.items()):
        rng = np.random.default_rng(number)
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
            made[f"{folder}/{index}"] = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(made[f"{folder}/{index}"]).save(root / folder / f"{index}.{ext}")
    return made
