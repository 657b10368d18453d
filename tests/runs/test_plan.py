"""What is checked before an experiment begins."""

import shlex
import shutil

import numpy as np
import pytest
import torch
from commandline import call, call_json
from PIL import Image
from renamed_digits import digits, save, teacher
from stages import small

from engine import backbones
from engine.backbones import teacher_check
from engine.config import Config, settings
from engine.errors import UserError
from engine.runs import artefacts, launch, plan
from engine.store import StoredRun, images


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))


def test_a_teacher_of_other_classes_is_refused_before_anything_is_made(capsys, tmp_path):
    config = small().backbone
    model = backbones.build(config, classes=7, channels=1, image_size=32)
    torch.save(model.state_dict(), tmp_path / "seven.pth")
    words = ["run", "--preset", "smoke", "--teacher", tmp_path / "seven.pth"]
    error = call_json(capsys, "error", *words, code=2)["error"]
    assert error["kind"] == "teacher"
    assert "7" in error["message"] + error["hint"]
    assert not (tmp_path / "runs").exists()


def test_a_run_needs_room(tmp_path, monkeypatch):
    prepared = plan.prepare(small())
    prepared.check_room(tmp_path)
    monkeypatch.setattr("engine.store.files.free_bytes", lambda _: 1000)
    with pytest.raises(UserError, match="1,000 are free") as caught:
        prepared.check_room(tmp_path)
    assert caught.value.kind == "disk"


def test_a_run_needs_room_for_the_repeats_that_have_not_begun(tmp_path, monkeypatch):
    once = settings.resolve(preset="smoke", overrides={"repeats": 1})
    _, run = launch.prepare_run(once, tmp_path / "run", "run")
    run.release()
    monkeypatch.setattr("engine.store.files.free_bytes", lambda _: 100_000)
    _, run = launch.prepare_run(once, tmp_path / "run", "run")
    run.release()
    more = settings.resolve(preset="smoke", overrides={"repeats": 3})
    with pytest.raises(UserError, match="100,000 are free"):
        launch.prepare_run(more, tmp_path / "run", "run")


def as_folder(root, names):
    """Some digits as pictures in folders, digit d in `names[d]`; the options that name them."""
    pixels, labels_N = digits().train.pixels(range(len(digits().train))), digits().train.labels_N
    for digit, name in enumerate(names):
        (root / "train" / name).mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(labels_N == digit)[:40]):
            Image.fromarray(pixels[index, 0].numpy()).save(root / "train" / name / f"{number}.png")
    return [
        "--preset", "smoke", "--set", "data.name=folder", "--data-root", root,
        "--set", f"data.mean=[{digits().train.mean[0]}]", "--set", f"data.std=[{digits().train.std[0]}]",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def reversed_digits(tmp_path_factory):
    """The digits with their classes reversed, and a teacher of the digits: options of a command."""
    root = tmp_path_factory.mktemp("reversed")
    path = save(teacher(), root / "teacher.pth")
    return [*as_folder(root / "data", list("9876543210")), "--teacher", path]


def test_another_order_of_the_classes_is_refused_before_anything_is_made(capsys, tmp_path, reversed_digits):
    error = call_json(capsys, "error", "run", *reversed_digits, code=2)["error"]
    assert error["kind"] == "teacher"
    assert "0 is its output 9" in error["message"]
    assert not (tmp_path / "runs").exists()
    for name in "0123456789":
        (tmp_path / "set" / name).mkdir(parents=True)
        shutil.copy(reversed_digits[5] / "train" / name / "0.png", tmp_path / "set" / name)
    assert (
        call_json(capsys, "error", "validate", tmp_path / "set", *reversed_digits, code=2)["error"] == error
    )
    assert call_json(capsys, "error", "score", tmp_path / "set", *reversed_digits, code=2)["error"] == error


def test_the_order_that_the_error_suggests_makes_the_run_that_of_the_original_names(
    capsys, tmp_path, reversed_digits
):
    error = call_json(capsys, "error", "run", *reversed_digits, code=2)["error"]
    suggested = shlex.split(error["hint"][error["hint"].index("--set") :])
    call(capsys, "run", *reversed_digits, *suggested, "--out", tmp_path / "ordered")
    order = tmp_path / "order.txt"
    order.write_text("\n".join("9876543210"))
    from_file = ["--set", f"data.class_order={order}", "--out", tmp_path / "from_file"]
    call(capsys, "run", *reversed_digits, *from_file)
    order.unlink()  # the run keeps the names
    call(capsys, "resume", tmp_path / "from_file")
    sorted_names = as_folder(tmp_path / "data", list("0123456789"))
    call(capsys, "run", *sorted_names, "--teacher", reversed_digits[-1], "--out", tmp_path / "sorted")
    runs = [StoredRun(tmp_path / name) for name in ("ordered", "from_file", "sorted")]
    pixels = [images.read_pixels(run.folder / "images")[0] for run in runs]
    assert np.array_equal(pixels[0], pixels[2])
    assert np.array_equal(pixels[1], pixels[2])
    identities = [run.manifest()["identity"] for run in runs]
    assert identities[0] == identities[1]
    assert identities[0]["data"] != identities[2]["data"]
    assert {path.name for path in (tmp_path / "ordered/images").iterdir()} >= {"0_9", "9_0"}


def test_a_teacher_is_examined_once_for_all_runs_with_the_same_data(monkeypatch, tmp_path):
    examined = []
    original = teacher_check.examine
    monkeypatch.setattr(teacher_check, "examine", lambda *args: examined.append(1) or original(*args))
    monkeypatch.setattr(artefacts, "_examinations", {})
    path = save(teacher(), tmp_path / "teacher.pth")
    for sets in ({}, {"seed": 1}, {"data": {"mean": (0.3,), "std": (0.4,)}}):
        plan.prepare(Config.model_validate({"backbone": {"width": 16, "teacher": str(path)}, **sets}))
    assert len(examined) == 2  # another normalisation is other data


def test_another_set_of_weights_that_does_better_is_said(capsys, tmp_path):
    poor, good = teacher(epochs=1, lr=1e-6), teacher()
    torch.save({"model": poor.state_dict(), "model_ema": good.state_dict()}, tmp_path / "both.pth")
    config = Config.model_validate({"backbone": {"width": 16, "teacher": f"{tmp_path / 'both.pth'}#model"}})
    (warning,) = plan.prepare(config).warnings
    assert f"{tmp_path / 'both.pth'}#model_ema 9" in warning
    config = Config.model_validate(
        {"backbone": {"width": 16, "teacher": f"{tmp_path / 'both.pth'}#model_ema"}}
    )
    assert plan.prepare(config).warnings == ()


def test_warnings_about_the_teacher_are_events_of_the_run(capsys, tmp_path):
    path = save(teacher(), tmp_path / "teacher.pth")
    words = ["run", "--preset", "smoke", "--teacher", path, "--set", "data.std=[0.004]"]
    _, err = call(capsys, *words, "--out", tmp_path / "run")
    assert "with another normalisation (that of these images)" in err
