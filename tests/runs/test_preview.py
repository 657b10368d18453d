"""What is known of a configuration before it is launched."""

from __future__ import annotations

import sys
from subprocess import run

import numpy as np
import pytest
import torch
from stages import drive, small

from engine import backbones
from engine.config.settings import Resolved, resolve
from engine.runs import launch, plan, preview
from engine.runs.artefacts import ComputeContext, load_or_measure_statistics
from engine.store import Cache

CHANGES = {"squeeze": {"epochs": 1}, "recover": {"iterations": 3}, "validate": {"epochs": 2, "seeds": 1}}


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))


def write_pictures(root, images=3):
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(images * 2):
            folder = root / split / ("even" if number % 2 == 0 else "odd")
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")


def test_sets_are_found_without_torch(tmp_path):
    code = (
        "import sys; from engine.runs import preview; from pathlib import Path;"
        "print([each.name for each in preview.list_datasets(Path(sys.argv[1])) if each.available]);"
        "sys.exit('torch' in sys.modules)"
    )
    (tmp_path / "cifar10" / "train" / "cat").mkdir(parents=True)
    done = run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "['digits', 'cifar10']"), done.stderr


def test_a_set_says_where_it_is_or_how_to_come_by_it(tmp_path):
    sets = {each.name: each for each in preview.list_datasets(tmp_path)}
    digits, cifar10 = sets["digits"], sets["cifar10"]
    assert (digits.available, digits.path, digits.download_bytes) == (True, None, None)
    assert (cifar10.available, cifar10.classes, cifar10.images) == (False, 10, 50_000)
    assert sets["cifar10"].download_bytes > 10**8
    assert str(tmp_path) in sets["imagenet"].note


def test_a_look_counts_and_shows_images_of_every_class():
    look = preview.preview_dataset(small())
    assert look.images == {"train": 1438, "test": 359}
    assert 100 < look.per_class[0] <= look.per_class[1] < 200
    assert (look.channels, look.size, len(look.classes)) == (1, 16, 10)
    assert look.labels_M.tolist() == sorted([*range(10), *range(10)])
    assert (look.samples_MCSS.shape, look.samples_MCSS.dtype) == ((20, 1, 16, 16), np.uint8)
    images = preview.real_images(small(), 3, 4)
    assert (images[:2] == look.samples_MCSS[6:8]).all()
    assert (preview.real_images(small(), 3, 2, first=2) == images[2:]).all()
    assert len(preview.real_images(small(), 3, 10, first=look.per_class[1] - 2)) < 10


def test_of_many_classes_some_are_shown():
    for classes, each in ((100, 1), (20, 1), (7, 2), (3, 2)):
        labels = np.repeat(np.arange(classes), 3)
        shown = labels[preview._choose_samples(labels, classes)]
        assert len(set(shown)) == min(classes, 20)
        assert len(shown) == len(set(shown)) * each


def test_a_look_reads_files_until_it_is_stopped(tmp_path):
    write_pictures(tmp_path / "set")
    config = small(data={"name": "folder", "root": str(tmp_path / "set")})
    with pytest.raises(preview.Cancelled):
        preview.preview_dataset(config, stop=lambda: True)
    told = []
    look = preview.preview_dataset(config, lambda done, total: told.append((done, total)))
    assert look.classes == ("even", "odd")
    assert look.images == {"train": 6, "test": 6}
    assert told


def test_parameters_are_those_of_the_network_and_draw_nothing(digits, teacher):
    before = torch.get_rng_state()
    count = sum(weight.numel() for weight in teacher.parameters())
    assert preview.count_parameters(small(), digits.train) == count
    assert preview.count_parameters(small(), preview.preview_dataset(small()), "resnet18") > 10**7
    assert torch.equal(torch.get_rng_state(), before)


def test_spectra_are_those_of_the_real_statistics_once_they_are_cached(digits, teacher, tmp_path, cpu):
    path = tmp_path / "teacher.pth"
    torch.save(teacher.state_dict(), path)
    prepared = plan.prepare(small(backbone={"teacher": str(path)}))
    cache = Cache(tmp_path / "cache")
    assert preview.spectra(prepared, cache) is None
    _, (real, _) = drive(
        load_or_measure_statistics(
            prepared.config, prepared.data, prepared.teacher, ComputeContext(cpu, cache)
        )
    )
    found = preview.spectra(prepared, cache)
    assert list(found) == [tap.name for tap in real]
    for tap in real:
        expected = torch.linalg.eigvalsh(tap.cov_DD).flip(0).numpy()
        np.testing.assert_allclose(found[tap.name], expected, atol=1e-12)


def test_a_teachers_accuracy_is_known_from_any_run_that_measured_it(tmp_path):
    config = small(ipc=1, **CHANGES)
    prepared, cache = plan.prepare(config), Cache()
    assert preview.teacher_accuracy(prepared, cache) is None
    work = launch.run_experiment(Resolved(config, resolve().origins), None, "first")
    _, results = drive(work)
    assert preview.teacher_accuracy(prepared, cache) == results["repeats"][0]["teacher"]["accuracy"]
    path = tmp_path / "teacher.pth"
    torch.save(preview.known_teachers(prepared, cache)[0].state_dict(), path)
    given = plan.prepare(small(ipc=1, backbone={"teacher": str(path)}))
    assert backbones.fingerprint(given.teacher) == results["repeats"][0]["teacher"]["fingerprint"]
    assert (
        preview.teacher_accuracy(given, Cache(tmp_path / "empty"))
        == results["repeats"][0]["teacher"]["accuracy"]
    )
    held_out = plan.prepare(small(ipc=1, backbone={"teacher": str(path)}, data={"test": "holdout"}))
    assert preview.teacher_accuracy(held_out, cache) is None
