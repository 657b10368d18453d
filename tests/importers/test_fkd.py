"""SRe²L's label files: replayed by the same views, or refused in words."""

import os
import shutil

import numpy as np
import pytest
import torch
from commandline import call_json
from interchanged import labels, levels, pictures
from PIL import Image
from stages import drive, small
from torch.utils.data import BatchSampler, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

from engine.config import settings
from engine.data import ImageSet
from engine.errors import UserError
from engine.importers import fkd
from engine.importers.distilled import order_of_recovery
from engine.runs import launch

PIXELS, LABELS, BATCH = levels(3), labels(3), 8
NAME = "new{label:03d}/class{label:03d}_id{rank:03d}.png"


def relabelled(folder, pictures_folder, epochs, mix="cutmix", seed=42):
    """Label files in the manner of SRe²L, and what each image looked like: (E, N, 16, 16) by its path."""
    listed = ImageFolder(pictures_folder)
    generator = torch.Generator()
    generator.manual_seed(seed)
    rng = np.random.default_rng(1)
    sampler = BatchSampler(RandomSampler(listed, generator=generator), BATCH, drop_last=False)
    shown = []
    for epoch in range(epochs):
        (folder / f"epoch_{epoch}").mkdir(parents=True)
        seen = {}
        for number, indices in enumerate(sampler):
            views, coords, flips = [], [], []
            for index in indices:
                image = Image.open(listed.samples[index][0])
                i, j, h, w = RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
                flip = bool(rng.random() < 0.5)
                view = F.resized_crop(image, i, j, h, w, [16, 16], F.InterpolationMode.BILINEAR)
                views.append(np.asarray(F.hflip(view) if flip else view))
                coords.append(torch.FloatTensor((i / 16, j / 16, h / 16, w / 16)))
                flips.append(flip)
            views, index, lam, box = np.stack(views), None, None, None
            if mix is not None:
                index, lam = torch.from_numpy(rng.permutation(len(indices))), float(rng.beta(1, 1))
            if mix == "cutmix":
                ends = np.clip([*(rng.integers(0, 8, 2)), *(rng.integers(8, 17, 2))], 0, 16)
                box = list(ends)  # NumPy's integers, as the code has them
                mixed = views[index.numpy()]
                views[:, box[0] : box[2], box[1] : box[3]] = mixed[:, box[0] : box[2], box[1] : box[3]]
            targets = torch.tensor([listed.targets[index] for index in indices])
            logits = torch.nn.functional.one_hot(targets, 10) * 4.0 + torch.from_numpy(
                rng.standard_normal((len(indices), 10))
            )
            content = [torch.stack(coords), torch.tensor(flips), index, lam, box, logits.half()]
            torch.save(content, folder / f"epoch_{epoch}" / f"batch_{number}.tar")
            for position, listed_index in enumerate(indices):
                seen[listed_index] = (views[position], logits[position].half().numpy(), number)
        shown.append([seen[index] for index in range(len(listed))])
    return shown


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("fkd")
    pictures(root / "set", PIXELS, LABELS, NAME)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shown = relabelled(root / "labels", root / "set", 3)
    return root, shown


def test_views_labels_and_batches_are_those_of_the_files(made, cpu):
    root, shown = made
    images = ImageSet.from_arrays(PIXELS, LABELS, [str(n) for n in range(10)], (0.5,), (0.25,))
    known = fkd.FkdLabels(root / "labels", LABELS, 10, 16, 42)
    assert known.epochs == 3
    assert known.agreement > 0.9
    views = fkd.ReplayedViews(small(), images, cpu, known)
    as_listed = np.argsort(LABELS, kind="stable")
    for epoch in (2, 0, 1):
        wanted = [shown[epoch][np.flatnonzero(as_listed == n)[0]] for n in range(len(LABELS))]
        assert np.array_equal(known.epoch(epoch).logits_NK, np.stack([logits for _, logits, _ in wanted]))
        found = views.batch(epoch, np.arange(len(LABELS))) * 0.25 + 0.5
        theirs = np.stack([view for view, _, _ in wanted])[:, None] / 255.0
        assert np.abs(found.numpy() - theirs).max() < 1.01 / 255  # they round to 8 bits
        assert [sorted(batch.tolist()) for batch in views.batches(epoch)] == [
            [n for n in range(len(LABELS)) if wanted[n][2] == number] for number in range(4)
        ]


def test_a_last_batch_of_one_image_joins_its_neighbour(tmp_path, cpu):
    pixels, labels_N = PIXELS[:17], LABELS[:17]
    order = order_of_recovery(labels_N)
    pictures(tmp_path / "set", pixels, labels_N, NAME)
    relabelled(tmp_path / "labels", tmp_path / "set", 1)
    images = ImageSet.from_arrays(
        pixels[order], labels_N[order], [str(n) for n in range(10)], (0.5,), (0.25,)
    )
    known = fkd.FkdLabels(tmp_path / "labels", labels_N[order], 10, 16, 42)
    assert [len(batch) for batch in fkd.ReplayedViews(small(), images, cpu, known).batches(0)] == [8, 9]


@pytest.fixture
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))


def test_students_train_on_them_and_the_control_under_the_same_views(capsys, own_folders, made, tmp_path):
    root, _ = made
    words = ["validate", root / "set", "--preset", "smoke", "--labels", root / "labels"]
    found = call_json(capsys, "results", *words, "--out", tmp_path / "run")
    told = found["repeats"][0]["provenance"]["labels"]
    assert (told["epochs"], told["source"]) == (3, str(root / "labels"))
    assert {student["source"] for student in found["repeats"][0]["students"]} == {"distilled", "random"}
    plain = call_json(capsys, "results", *words[:-2])
    weights = [[student["weights"] for student in each["repeats"][0]["students"]] for each in (found, plain)]
    assert not set(weights[0]) & set(weights[1])
    from engine.store import StoredRun
    from engine.store.labels import Labels

    stored = Labels.open(StoredRun(tmp_path / "run").folder / "labels", "distilled")
    assert stored.shape("logits") == (2, 30, 10)
    known = fkd.FkdLabels(root / "labels", LABELS, 10, 16, 42)
    assert np.array_equal(stored.epoch(1), known.epoch(1).logits_NK)


def test_a_run_that_was_cut_goes_on_with_them(own_folders, made, tmp_path):
    root, _ = made
    given = {"given.images": str(root / "set"), "given.labels": str(root / "labels")}
    resolved = settings.resolve(preset="smoke", sets=["repeats=1"], overrides=given)
    _, whole = drive(launch.run_experiment(resolved, tmp_path / "whole", "run"))
    work = launch.run_experiment(resolved, tmp_path / "cut", "run")
    while not ((event := next(work)).kind == "StageStarted" and event.stage == "validate"):
        pass
    work.close()
    _, found = drive(launch.run_experiment(resolved, tmp_path / "cut", "run"))
    assert found["repeats"][0]["students"] == whole["repeats"][0]["students"]
    other = settings.resolve(preset="smoke", overrides={"given.images": str(root / "set")})
    with pytest.raises(UserError, match="with other given labels"):
        drive(launch.run_experiment(other, tmp_path / "cut", "run"))
    alone = settings.resolve(preset="smoke", overrides={"given.labels": str(root / "labels")})
    with pytest.raises(UserError, match="needs given images"):
        drive(launch.run_experiment(alone, tmp_path / "alone", "run"))


def test_labels_of_another_teacher_have_another_fingerprint(made, tmp_path):
    root, _ = made
    shutil.copytree(root / "labels", tmp_path / "labels")

    def fingerprint():
        return fkd.FkdLabels(tmp_path / "labels", LABELS, 10, 16, 42).fingerprint

    before = fingerprint()
    assert before == fkd.FkdLabels(root / "labels", LABELS, 10, 16, 42).fingerprint
    path = tmp_path / "labels" / "epoch_2" / "batch_0.tar"
    size, content = path.stat().st_size, torch.load(path, weights_only=False)
    torch.save([*content[:5], content[5] + 0.5], path)
    assert path.stat().st_size == size
    assert fingerprint() != before


def refused(path, labels_N=LABELS, seed=42, size=16, classes=10):
    with pytest.raises(UserError) as caught:
        fkd.FkdLabels(path, labels_N, classes, size, seed)
    assert caught.value.hint
    return caught.value.message


def test_labels_of_other_images_or_another_order_are_refused(made, tmp_path):
    root, _ = made
    assert "other images or to another order" in refused(root / "labels", seed=7)
    assert "are for more images" in refused(root / "labels", LABELS[:10])
    assert "30 of 40 images have labels" in refused(root / "labels", labels(4))
    assert "whole pixels of 24 px" in refused(root / "labels", size=24)
    assert "logits of 12 classes" in refused(root / "labels", classes=12)
    assert "contains no labels" in refused(tmp_path)
    pictures(tmp_path / "set", PIXELS, LABELS, NAME)
    relabelled(tmp_path / "mixup", tmp_path / "set", 1, mix="mixup")
    assert "mixed by MixUp" in refused(tmp_path / "mixup")
    relabelled(tmp_path / "plain", tmp_path / "set", 1, mix=None)
    assert fkd.FkdLabels(tmp_path / "plain", LABELS, 10, 16, 42).epochs == 1


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_hostile_files_are_refused(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, _ = made
    shutil.copytree(root / "labels", "labels")
    path = tmp_path / "labels" / "epoch_0" / "batch_0.tar"
    good = torch.load(path, weights_only=False)
    bad = {
        "could run code": Evil(),
        "not a label file": [1, 2],
        "no finite logits": [*good[:5], good[5] / 0],
        "more numbers than": [*good[:5], torch.zeros(1).expand(10**9, 10)],
        "no crop box and flip": [good[0][:2], *good[1:]],
        "whole pixels": [good[0] + 0.013, *good[1:]],
        "no CutMix box": [*good[:4], [0, 0, 2.5, 3], good[5]],
        "lie outside": [*good[:4], [0, 0, 99, 3], good[5]],
        "or the batch": [*good[:2], good[2] + 5, *good[3:]],
    }
    for said, content in bad.items():
        torch.save(content, path)
        assert said in refused(tmp_path / "labels"), said
    outside = good[0].clone()
    outside[0] = torch.tensor([0.5, 0.0, 1.0, 1.0])
    torch.save([outside, *good[1:]], path)
    assert "whole pixels" in refused(tmp_path / "labels")
    path.write_bytes(b"PK\3\4")
    assert "cannot be read" in refused(tmp_path / "labels")
    path.unlink()
    assert "contains no labels" in refused(tmp_path / "labels")
    assert not (tmp_path / "ran").exists()
