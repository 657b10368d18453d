"""Distilled sets in tests, in the layouts of the field, as small as can be."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

CLASSES = 10


def levels(count: int, seed: int = 0, size: int = 16) -> np.ndarray:
    """`count` grey images of each of ten classes in 8 bits, in the order of recovery: (N, 1, H, W)."""
    return np.random.default_rng(seed).integers(0, 256, (count * CLASSES, 1, size, size)).astype(np.uint8)


def labels(count: int) -> np.ndarray:
    return np.tile(np.arange(CLASSES), count)


def pictures(folder, pixels_NCHW, labels_N, name="{label}/{rank:04d}.png"):
    """The set as picture files; returns the folder."""
    seen = [0] * CLASSES
    for pixels_CHW, label in zip(pixels_NCHW, labels_N, strict=True):
        path = folder / name.format(label=int(label), rank=seen[label])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_CHW[0]).save(path)
        seen[label] += 1
    return folder


def normalised(pixels_NCHW, mean, std) -> torch.Tensor:
    mean_C11, std_C11 = (torch.tensor(each).view(-1, 1, 1) for each in (mean, std))
    return (torch.from_numpy(pixels_NCHW).float() / 255 - mean_C11) / std_C11


def class_sorted(pixels_NCHW, labels_N):
    """As DC and MTT have it: all images of the first class, then of the second."""
    order = np.argsort(labels_N, kind="stable")
    return pixels_NCHW[order], labels_N[order]


def dc_file(path, images, labels_N, experiments=2):
    """`res_*.pt` of so many experiments; the last holds the set. Its accuracies are NumPy's, as DC's are."""
    sets = [[images.flip(0), torch.from_numpy(labels_N)] for _ in range(experiments - 1)]
    accuracies = {"ConvNet": [np.float64(0.5), np.float32(0.25)]}
    torch.save({"data": [*sets, [images, torch.from_numpy(labels_N)]], "accs_all_exps": accuracies}, path)
    return path


def mtt_files(folder, images, labels_N, which="best"):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(images, folder / f"images_{which}.pt")
    torch.save(torch.as_tensor(labels_N), folder / f"labels_{which}.pt")
    return folder / f"images_{which}.pt"
