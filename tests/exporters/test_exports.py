"""What is exported is read back bit for bit, by this product's own readers and by those of others."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commandline import call, call_json
from stages import small
from torchvision.datasets import ImageFolder

from engine import backbones, store
from engine.config import settings
from engine.errors import UserError
from engine.exporters import exports
from engine.importers import distilled
from engine.report import lens
from engine.runs import artefacts
from engine.runs.resume import stored_config
from engine.store import images

PICTURES = ("sre2l", "rded", "huggingface")


def exported(run, form, out, **options):
    return exports.export(run, stored_config(run).config, form, out, **options)


def pixels_of(run):
    return images.read_pixels(run.folder / "images")


@pytest.mark.parametrize("form", [*PICTURES, "dd-ranking"])
def test_own_readers_find_the_same_set(run, digits, tmp_path, form):
    exported(run, form, tmp_path / "out")
    given = {"images": str(tmp_path / "out"), "space": "normalised" if form == "dd-ranking" else "auto"}
    (found,) = distilled.read(small(given=given), digits)
    pixels_NCHW, labels_N = pixels_of(run)
    assert found.fingerprint == distilled.fingerprint(pixels_NCHW, labels_N)
    told = json.loads((tmp_path / "out" / exports.RECORD).read_text())
    assert told["images"] == {"count": 20, "fingerprint": found.fingerprint}
    assert told["summary"] == run.results()["summary"]
    assert str(run.folder) not in (tmp_path / "out" / exports.RECORD).read_text()


@pytest.mark.parametrize(
    ("form", "below", "first"),
    [
        ("sre2l", "", "new000/class000_id000.png"),
        ("rded", "", "00000/class00000_id00000.png"),
        ("huggingface", "train", "0/0000.png"),
    ],
)
def test_an_image_folder_of_torchvision_finds_classes_by_their_order(run, tmp_path, form, below, first):
    exported(run, form, tmp_path / "out")
    root = tmp_path / "out" / below
    assert (root / first).is_file()
    found = ImageFolder(root)
    pixels_NCHW, labels_N = pixels_of(run)
    order = np.argsort(labels_N, kind="stable")
    assert found.targets == labels_N[order].tolist()
    shown = np.stack([np.asarray(image)[..., 0] for image, _ in found])
    assert np.array_equal(shown, pixels_NCHW[order, 0])


def test_dd_ranking_finds_class_after_class_with_the_teachers_logits(run, digits, tmp_path):
    made = exported(run, "dd-ranking", tmp_path / "out")
    load = {name: torch.load(tmp_path / "out" / f"{name}.pt") for name in ("images", "labels", "soft_labels")}
    assert load["labels"].tolist() == [label for label in range(10) for _ in range(2)]
    assert load["images"].dtype == torch.float32
    pixels_NCHW, labels_N = pixels_of(run)
    order = np.argsort(labels_N, kind="stable")
    mean, std = (np.array(each).reshape(-1, 1, 1) for each in (digits.train.mean, digits.train.std))
    wanted = (pixels_NCHW[order].astype(np.float64) / 255 - mean) / std
    assert np.allclose(load["images"].numpy(), wanted, atol=1e-6)
    teacher = artefacts.load_cached_teacher(stored_config(run).config, digits, store.Cache())
    with torch.no_grad():
        logits = teacher.double()(torch.from_numpy(wanted))
    assert torch.allclose(load["soft_labels"].double(), logits, atol=1e-4)
    assert "normalised with mean" in made.notes[0]


@pytest.mark.parametrize("gone", [False, True])
def test_soft_labels_of_several_teachers_are_the_mean_of_their_logits(digits, tmp_path, gone):
    sets = ["objective=gvbsm", "backbone.width=8", "backbone.also=[shufflenet_v2_x1_0]"]
    places = [tmp_path / "a.pth", tmp_path / "b.pth"]
    sets += [f"backbone.teacher={places[0]}", f"backbone.also_teachers=[{places[1]}]"]
    config = settings.resolve(preset="smoke", sets=sets).config
    networks = [
        artefacts.build_network(each, digits).eval() for each in artefacts.single_backbone_configs(config)
    ]
    for network, place in zip(networks, places, strict=True):
        torch.save(network.state_dict(), place)
    first, second = map(backbones.fingerprint, networks)
    manifest = {"teacher": {"fingerprint": first}, "others": ["0" * 64 if gone else second]}
    made = exports.Export(SimpleNamespace(manifest=lambda: manifest), config, tmp_path)
    pair = digits.train.pixels(range(5)).numpy(), digits.train.labels_N[:5].numpy()
    few = lens.Lens(digits, None, "").as_image_set(*pair)
    found = exports._compute_soft_labels(made, digits, few)
    assert (found is None) is gone
    if not gone:
        with torch.no_grad():
            logits = [network(few.batch(range(5), torch.device("cpu"))) for network in networks]
        assert torch.allclose(found, sum(logits) / 2, atol=1e-4)


def test_without_its_teacher_there_are_no_soft_labels(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "empty"))
    made = exported(run, "dd-ranking", tmp_path / "out")
    assert "no soft_labels.pt" in made.notes[-1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "images.pt",
        "labels.pt",
        "provenance.json",
    ]


def test_the_command_says_where_it_wrote_and_refuses_what_it_would_spoil(capsys, run, tmp_path):
    words = ["export", run.folder, "--out", tmp_path / "out", "--format"]
    out, _ = call(capsys, *words, "sre2l")
    assert out == f"{tmp_path / 'out'}\n"
    assert "is not empty" in call_json(capsys, "error", *words, "rded", code=2)["error"]["message"]
    error = call_json(capsys, "error", *words, "zip", code=2)["error"]
    assert "'zip'" in error["message"]
    assert "sre2l, rded" in error["hint"]
    document = json.loads(call(capsys, *words[:-2], tmp_path / "other", "--format", "rded", "--json")[0])
    assert document["format"] == "rded"


def test_damaged_images_are_not_exported(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    path = copy / "images" / images.TENSORS
    data = bytearray(path.read_bytes())
    data[-5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        exported(store.StoredRun(copy), "sre2l", tmp_path / "out")
    assert not (tmp_path / "out" / exports.RECORD).exists()
