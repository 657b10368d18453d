"""Holds `cfm score` against an independent float64 evaluation of the equations, on real images.

    python tests/bench/score_float64.py --data-root DIR --teacher FILE [--per-class 100] [--scored 10]

DIR holds train/CLASS/* and test/CLASS/* (say CIFAR-10 as pictures), FILE a ConvNet-128 checkpoint.
The real side is the first images of each training class, the scored side the first of each test
class. The network, the covariances (NumPy) and the filters (eigendecomposition) are written out
here again, in float64; only the file formats are shared.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

MEAN, STD, BETA, ALPHA, BAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 0.1, 0.05, 1e-6
NAMED = [
    ("identity", "class"),
    ("identity", "mean"),
    ("lambda", "none"),
    ("lambda", "class"),
    ("lambda", "mean"),
    ("ridge", "none"),
    ("ridge", "class"),
    ("ridge", "mean"),
    ("diagonal", "none"),
]
FILTERS = {"identity": np.ones_like, "lambda": lambda v: v, "ridge": lambda v: 1 / (v + BETA)}
WRITTEN = {  # expression → the same on the real and on the scored side; MTT's two, a ratio, one that is not
    "(1 - alpha*lambda)**10": (lambda v: (1 - ALPHA * v) ** 10, lambda v: (1 - ALPHA * v) ** 5),
    "alpha*geometric(1 - alpha*lambda, 10)": tuple(
        (lambda v, n=n: ALPHA * sum((1 - ALPHA * v) ** p for p in range(n))) for n in (10, 5)
    ),
    "1/(lambda+beta)**2": (lambda v: 1 / (v + BETA) ** 2,) * 2,
    "lambda/(lambda+beta)": (lambda v: v / (v + BETA),) * 2,
    "exp(-lambda)": (lambda v: np.exp(-v),) * 2,
}


def terms():
    """The terms as the program is told them, and for each its signal and its filter on either side."""
    for name, signal in NAMED:
        yield {"filter": name, "signal": signal}, signal, (FILTERS.get(name),) * 2
    for text, filters in WRITTEN.items():
        for signal in ("none", "class", "mean"):
            other = {"f_synthetic": text.replace("10", "5")} if "10" in text else {}
            yield {"f": text, **other, "signal": signal}, signal, filters


def copy_part(source, target, count):
    for folder in sorted(source.iterdir()):
        (target / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:count]:
            shutil.copy(file, target / folder.name / file.name)


def read(folder):
    images, labels = [], []
    for label, part in enumerate(sorted(folder.iterdir())):
        for file in sorted(part.iterdir()):
            pixels = np.asarray(Image.open(file).convert("RGB"), dtype=np.float64) / 255
            images.append(((pixels - MEAN) / STD).transpose(2, 0, 1))
            labels.append(label)
    return torch.tensor(np.stack(images)), np.array(labels)


def features(weights, images):
    """Inputs of the three convolutions and the logits, in evaluation mode, in float64."""
    found, x = [], images
    for layer in range(3):
        found.append(x.numpy())
        x = F.conv2d(
            x, weights[f"layers.conv.{layer}.weight"], weights[f"layers.conv.{layer}.bias"], padding=1
        )
        norm = {
            k: weights[f"layers.norm.{layer}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
        }
        x = F.batch_norm(x, norm["running_mean"], norm["running_var"], norm["weight"], norm["bias"])
        x = F.avg_pool2d(F.relu(x), 2)
    return found, (x.flatten(1) @ weights["classifier.weight"].T + weights["classifier.bias"]).numpy()


def side(f, signal, x_MDHW, labels, classes):
    rows = x_MDHW.transpose(0, 2, 3, 1).reshape(-1, x_MDHW.shape[1])
    cov = np.cov(rows.T, bias=True)
    if f is None:
        return np.diag(cov)
    values, vectors = np.linalg.eigh(cov)
    filtered = (vectors * f(values)) @ vectors.T
    if signal == "none":
        return filtered
    flc = x_MDHW.mean(axis=(2, 3)).T @ np.eye(classes)[labels] / len(labels)
    return filtered @ (flc if signal == "class" else rows.mean(axis=0))


def independent(teacher, real_folder, scored_folder):
    loaded = torch.load(teacher, map_location="cpu", weights_only=True)
    weights = {k: v.double() for k, v in loaded.items() if v.is_floating_point()}
    (real, real_labels), (scored, labels) = read(real_folder), read(scored_folder)
    (real_taps, _), (taps, logits) = features(weights, real), features(weights, scored)
    log_p = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    log_p -= logits.max(1, keepdims=True)
    ce = -log_p[np.arange(len(labels)), labels].mean()
    classes = real_labels.max() + 1
    layers = []
    for r, s in zip(real_taps, taps, strict=True):
        values = [
            np.linalg.norm(side(f, g, r, real_labels, classes) - side(f_s, g, s, labels, classes))
            for _, g, (f, f_s) in terms()
        ]
        spectra = [
            np.linalg.eigvalsh(np.cov(x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1), bias=True))
            for x in (r, s)
        ]
        layers.append((values, *(spectrum[::-1] for spectrum in spectra)))
    return ce, layers


def by_product(teacher, root, scored_folder):
    told = [{**term, "weight": 0.1} for term, *_ in terms()]
    sets = {"objective.beta": BETA, "objective.parameters": {"alpha": ALPHA}, "objective.terms": told}
    sets |= {"data.mean": list(MEAN), "data.std": list(STD)}
    words = [word for key, value in sets.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-c", "from cfm_tui.cli import main; main()", "score", str(scored_folder)]
    command += ["--teacher", str(teacher), "--dataset", "folder", "--data-root", str(root), *words, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--scored", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, scored = Path(folder) / "real", Path(folder) / "scored"
        copy_part(given.data_root / "train", root / "train", given.per_class)
        copy_part(given.data_root / "test", root / "test", 1)
        copy_part(given.data_root / "test", scored, given.scored)
        found = by_product(given.teacher, root, scored)
        ce, layers = independent(given.teacher, root / "train", scored)
    worst = abs(found["ce"] - ce) / ce
    print(f"{'ce':<46}{found['ce']:>14.8g}{ce:>14.8g}{worst:>10.1e}")
    for layer, (values, *spectra) in zip(found["layers"], layers, strict=True):
        for (told, *_), term, value in zip(terms(), layer["terms"], values, strict=True):
            error = abs(term["value"] - value) / value
            worst = max(worst, error)
            label = f"{layer['name'][-1]} {told.get('f', term['filter'])} {term['signal']}"
            print(f"{label:<46}{term['value']:>14.8g}{value:>14.8g}{error:>10.1e}")
        for key, expected in zip(("eigenvalues_real", "eigenvalues_synthetic"), spectra, strict=True):
            error = np.abs(np.array(layer[key]) - expected).max() / expected[0]
            worst = max(worst, error)
            print(f"{layer['name'][-1]} {key:<44}{layer[key][0]:>14.8g}{expected[0]:>14.8g}{error:>10.1e}")
    print(f"worst relative difference {worst:.1e} (bar {BAR:.0e})")
    sys.exit(int(worst > BAR))


if __name__ == "__main__":
    main()
