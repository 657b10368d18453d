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


IDS = ["n00000003", "n00000001", "n00000002"]


def make_tiny_imagenet(root: Path) -> Path:
    path = root / "tiny-imagenet-200"
    made = make_tree(path, {f"train/{wnid}/images": 12 for wnid in IDS}, size=(64, 64), ext="JPEG")
    assert len(made) == 36
    make_tree(path, {"val/images": 6}, size=(64, 64), ext="JPEG")
    (path / "wnids.txt").write_text("\n".join(IDS))
    lines = [f"{index}.JPEG\t{IDS[index % 3]}\t0\t0\t63\t63" for index in (5, 0, 3, 1, 4, 2)]
    (path / "val" / "val_annotations.txt").write_text("\n".join(lines))
    return path
