"""`cfm validate`: a set that is there already is measured as the run that made it was."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import call, call_json
from interchanged import class_sorted, dc_file, labels, levels, normalised, pictures
from stages import drive

from engine import store
from engine.config import settings
from engine.errors import UserError
from engine.importers.distilled import fingerprint
from engine.runs import estimates, launch, repeats
from engine.store import images, journal


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished smoke run, and the cache with its teacher."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFM_CACHE", str(root / "cache"))
        work = launch.run_experiment(
            settings.resolve(preset="smoke", sets=["repeats=1"]), root / "run", "run", ["test"]
        )
        _, results = drive(work)
    return root, results


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path, made):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(made[0] / "cache"))


def same_students(found, results):
    """Whether two results have the same students, but for the control of recovery's first images."""
    (one,), (other,) = found["repeats"], results["repeats"]
    students = [each for each in other["students"] if each["source"] != "start"]
    return one["students"] == students and one["teacher"] == other["teacher"]


@pytest.mark.parametrize("what", ["run", "run/images", "run/images/distilled.safetensors"])
def test_the_images_of_a_run_give_the_same_students_again(capsys, made, what):
    root, results = made
    words = [] if what == "run" else ["--preset", "smoke"]
    found = call_json(capsys, "results", "validate", root / what, *words)
    assert same_students(found, results)
    told = found["repeats"][0]["provenance"]["images"]
    assert told["source"] == str(root / what)
    assert told["count"] == 10
    pixels, labels_N = images.read_pixels(root / "run" / "images")
    assert told["fingerprint"] == fingerprint(pixels, labels_N)
    assert [stage for stage, spent in found["repeats"][0]["timings"].items() if not spent["reused"]] == [
        "relabel",
        "validate",
    ]


def test_a_plan_is_followed(capsys, made, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text('{"threads": 1, "together": ["convnet"]}')
    words = ["validate", made[0] / "run", "--plan", plan, "--set", "validate.seeds=2"]
    found = call_json(capsys, "results", *words)
    followed = {"threads": 1, "together": ["convnet"]}
    assert found["repeats"][0]["provenance"]["execution"] == followed
    again = call_json(capsys, "results", *words[:2], "--plan", found["folder"], *words[4:])
    assert again["repeats"][0]["provenance"]["execution"] == followed
    assert same_students(again, found)
    shown = call(capsys, "show", found["folder"])[0]
    assert "computed with 1 thread, all students of an architecture together" in shown


@pytest.fixture(scope="module")
def repeated(made, tmp_path_factory):
    """A finished smoke run with two repeats."""
    folder = tmp_path_factory.mktemp("repeated") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFM_CACHE", str(made[0] / "cache"))
        sets = ["repeats=2", "validate.controls=[random]", "validate.epochs=1", "validate.seeds=1"]
        resolved = settings.resolve(preset="smoke", sets=sets)
        _, results = drive(launch.run_experiment(resolved, folder, "run"))
    return folder, results


def test_each_repeat_evaluates_the_set_of_that_repeat(capsys, monkeypatch, repeated, tmp_path):
    monkeypatch.delenv("CFM_REPEATS")
    folder, results = repeated
    out = tmp_path / "again"
    found = call_json(capsys, "results", "validate", folder, "--out", out)
    assert [each["students"] for each in found["repeats"]] == [
        each["students"] for each in results["repeats"]
    ]
    assert found["covers"] == ["teacher", "given set", "labels", "students", "control"]
    assert "± over 2 repeats (teacher, given set, " in call(capsys, "show", out)[0]
    told = [each["provenance"]["images"] for each in found["repeats"]]
    assert [each["source"] for each in told] == [str(folder), str(folder / "repeats" / "2")]
    assert [each["sets"] for each in told] == [2, 2]
    assert told[0]["fingerprint"] != told[1]["fingerprint"]
    first = call_json(capsys, "results", "validate", folder, "--repeats", "1")
    assert "sets" not in first["repeats"][0]["provenance"]["images"]
    assert first["summary"]["accuracy"]["n"] == 1


def test_more_repeats_than_sets_and_labels_of_one_set_are_refused(capsys, repeated, tmp_path):
    folder, _ = repeated
    error = call_json(capsys, "error", "validate", folder, "--repeats", "3", code=2)["error"]
    assert "repeats is 3" in error["message"]
    assert "sets of 2" in error["message"]
    assert "--repeats 2" in error["hint"]
    begun = shutil.copytree(folder, tmp_path / "begun")
    shutil.rmtree(begun / "repeats")
    error = call_json(capsys, "error", "validate", begun, "--repeats", "2", code=2)["error"]
    assert "sets of 1" in error["message"]
    error = call_json(capsys, "error", "validate", folder, "--labels", tmp_path, "--repeats", "2", code=2)[
        "error"
    ]
    assert "each repeat has a set of its own" in error["message"]


@pytest.mark.parametrize("reached", [1, 2])
def test_a_cut_evaluation_of_repeats_has_copies_of_the_sets_it_reached(repeated, tmp_path, reached):
    source = shutil.copytree(repeated[0], tmp_path / "source")
    resolved = settings.resolve(
        file=source / "config.yaml", base=None, overrides={"given.images": str(source)}
    )
    work = launch.run_experiment(resolved, tmp_path / "cut", "run")
    repeat = 0
    for event in work:
        repeat += event.kind == "RepeatStarted"
        if repeat == reached and event.kind == "StageStarted" and event.stage == "validate":
            break
    work.close()
    shutil.rmtree(source)
    if reached == 2:
        _, found = drive(launch.run_experiment(resolved, tmp_path / "cut", "run"))
        expected = [each["students"] for each in repeated[1]["repeats"]]
        assert [each["students"] for each in found["repeats"]] == expected
        return
    with pytest.raises(UserError, match="distilled sets of 1"):
        drive(launch.run_experiment(resolved, tmp_path / "cut", "run"))


def test_it_is_a_run_with_all_that_belongs_to_one(capsys, made, tmp_path):
    name = "new{label:03d}/class{label:03d}_id{rank:03d}.png"
    folder = pictures(tmp_path / "set", levels(2), labels(2), name)
    found = call_json(capsys, "results", "validate", folder, "--preset", "smoke")
    run = store.StoredRun(Path(found["folder"]))
    assert run.folder.parent == tmp_path / "runs"
    assert run.name.startswith("validate-set")
    assert run.state() == "finished"
    manifest = run.manifest()
    assert manifest["images"] == found["repeats"][0]["provenance"]["images"]
    assert manifest["identity"]["images"] == manifest["images"]["fingerprint"]
    kept = run.images()
    assert np.array_equal(images.to_bytes(kept.images_NCHW), levels(2))
    assert np.isnan(kept.beta_N).all()
    assert kept.batch_N.tolist() == [1] * 10 + [2] * 10
    notices = [r.payload["message"] for r in journal.read(run.folder / "journal.jsonl") if r.kind == "Notice"]
    assert any("using 20 images from" in message for message in notices)
    control = [student for student in found["repeats"][0]["students"] if student["source"] == "random"]
    assert len(control) == 2
    assert settings.resolve(file=run.folder / "config.yaml", base=None).config.ipc == 2
    assert json.loads(call(capsys, "check", run.folder, "--json")[0])["ok"]
    shown, _ = call(capsys, "show", run.folder, "--thumbnails", "1", "--width", "4")
    assert "nan" not in shown


def test_a_run_that_was_cut_goes_on_though_its_source_is_gone(made, tmp_path):
    folder = pictures(tmp_path / "set", levels(1), labels(1))
    resolved = settings.resolve(preset="smoke", overrides={"repeats": 1, "given.images": str(folder)})
    _, whole = drive(launch.run_experiment(resolved, tmp_path / "whole", "run"))
    work = launch.run_experiment(resolved, tmp_path / "cut", "run")
    while not ((event := next(work)).kind == "StageStarted" and event.stage == "validate"):
        pass
    work.close()
    shutil.rmtree(folder)
    _, found = drive(launch.run_experiment(resolved, tmp_path / "cut", "run"))
    assert same_students(found, whole)
    assert found["repeats"][0]["provenance"]["images"] == whole["repeats"][0]["provenance"]["images"]


def test_a_cut_before_the_images_are_in_begins_with_them_again(made, tmp_path):
    folder = pictures(tmp_path / "set", levels(1), labels(1))
    resolved = settings.resolve(preset="smoke", overrides={"repeats": 1, "given.images": str(folder)})
    work = launch.run_experiment(resolved, tmp_path / "cut", "run")
    next(work)
    work.close()
    plan, run = launch.prepare_run(resolved, tmp_path / "cut", "run")
    writer = run.image_writer(plan.image_shape(), plan.data.train.classes)
    writer.add(np.zeros((1, 1, 16, 16), np.float32), np.zeros(1, np.int64), 1, 0.0, np.zeros(1, np.float32))
    run.release()
    _, found = drive(launch.run_experiment(resolved, tmp_path / "cut", "run"))
    pixels, _ = images.read_pixels(tmp_path / "cut" / "images")
    assert np.array_equal(pixels, levels(1))
    assert found["repeats"][0]["provenance"]["images"]["count"] == 10


def test_another_set_is_another_run(capsys, made, tmp_path):
    first = pictures(tmp_path / "a", levels(1), labels(1))
    other = pictures(tmp_path / "b", levels(1, seed=1), labels(1))
    words = ["--preset", "smoke", "--out", tmp_path / "run"]
    call(capsys, "validate", first, *words, "--set", "validate.epochs=1", "--set", "validate.seeds=1")
    error = call_json(
        capsys, "error", "validate", other, *words, "--set", "validate.epochs=1",
        "--set", "validate.seeds=1", code=2,
    )["error"]  # fmt: skip
    assert "of other given images" in error["message"]


def test_uneven_sets_have_no_control(capsys, made, tmp_path):
    folder = pictures(tmp_path / "set", levels(2)[:13], labels(2)[:13])
    error = call_json(capsys, "error", "validate", folder, "--preset", "smoke", code=2)["error"]
    assert "1 images of class '3' and 2 of class '0'" in error["message"]
    assert "validate.controls=[]" in error["hint"]
    words = ["--set", "validate.controls=[]", "--set", "validate.seeds=1", "--set", "validate.epochs=1"]
    found = call_json(capsys, "results", "validate", folder, "--preset", "smoke", *words)
    assert found["summary"]["control"] is None
    assert found["repeats"][0]["provenance"]["images"]["count"] == 13


def test_a_dc_file_from_the_command_line(capsys, made, tmp_path, digits):
    mean, std = digits.train.mean, digits.train.std
    pixels, labels_N = class_sorted(levels(1), labels(1))
    dc_file(tmp_path / "res_DC.pt", normalised(pixels, mean, std) * 3, labels_N)
    words = ["--preset", "smoke", "--experiment", "1", "--set", "validate.seeds=1"]
    error = call_json(capsys, "error", "validate", tmp_path / "res_DC.pt", *words, code=2)["error"]
    assert "would be clipped" in error["message"]
    words += ["--set", "given.max_clipped=0.7"]
    assert "given.max_clipped=0.68" in error["hint"]
    out, err = call(capsys, "validate", tmp_path / "res_DC.pt", *words)
    assert "lay outside the range of pixels and were clipped" in err
    assert "distilled" in out


def test_images_and_labels_from_the_command_line(capsys, made, tmp_path):
    pixels, labels_N = class_sorted(levels(1), labels(1))
    torch.save(torch.from_numpy(pixels), tmp_path / "data.pt")
    torch.save(torch.from_numpy(labels_N), tmp_path / "y.pt")
    words = ["--preset", "smoke", "--set", "validate.epochs=1", "--set", "validate.seeds=1"]
    error = call_json(capsys, "error", "validate", tmp_path / "data.pt", *words, code=2)["error"]
    assert "images without labels" in error["message"]
    prints = {
        repeat["provenance"]["images"]["fingerprint"]
        for each in (tmp_path / "y.pt", "class-major")
        for repeat in call_json(
            capsys, "results", "validate", tmp_path / "data.pt", *words, "--image-labels", each
        )["repeats"]
    }
    assert prints == {fingerprint(levels(1), labels(1))}


def test_classes_without_images_are_named_before_any_training(capsys, made, tmp_path):
    folder = pictures(tmp_path / "set", levels(1)[:7], labels(1)[:7])
    words = ["--preset", "smoke", "--set", "validate.seeds=1", "--set", "validate.epochs=1"]
    error = call_json(capsys, "error", "validate", folder, *words, code=2)["error"]
    assert "no images of 7, 8, 9" in error["message"]
    resolved = settings.resolve(
        preset="smoke", sets=["validate.control=false"], overrides={"given.images": str(folder)}
    )
    for event in launch.run_experiment(resolved, tmp_path / "run", "run"):
        assert event.kind != "StageStarted"
        if event.kind == "Notice" and event.level == "warning":
            assert "no images of 7, 8, 9" in event.message
            break
    found = call_json(capsys, "results", "validate", folder, *words, "--set", "validate.control=false")
    assert found["repeats"][0]["provenance"]["images"]["missing_classes"] == ["7", "8", "9"]


def test_what_is_no_set_is_told_and_leaves_nothing(capsys, made, tmp_path):
    for words, said in (
        (["nowhere"], "does not exist, and no run has that name"),
        ([tmp_path], "no pictures in"),
        ([tmp_path, "--space", "lab"], "given.space"),
    ):
        error = call_json(capsys, "error", "validate", *words, "--preset", "smoke", code=2)["error"]
        assert said in error["message"] + error["hint"]
    assert not (tmp_path / "runs").exists()


def test_the_stages_that_are_not_needed_are_not_begun(made, tmp_path):
    folder = pictures(tmp_path / "set", levels(1), labels(1))
    resolved = settings.resolve(preset="smoke", overrides={"repeats": 1, "given.images": str(folder)})
    plan, run = launch.prepare_run(resolved, tmp_path / "run", "run")
    cost = estimates.estimate(plan, store.Cache()).seconds
    events, _ = drive(repeats.run(plan, run, store.Cache()))
    begun = {event.stage for event in events if event.kind == "StageStarted"}
    assert begun == {"squeeze", "relabel", "validate"}
    assert {stage for stage, seconds in cost.items() if seconds} == {"relabel", "validate"}


def test_exports_and_reports_of_repeats_name_the_run_and_its_first_repeat(capsys, repeated, tmp_path):
    folder, results = repeated
    call(capsys, "export", folder, "--format", "huggingface", "--out", tmp_path / "set")
    last = results["repeats"][0]["students"][0]["last"]
    sentence = f"These are the images of the first repeat, whose students have {last:.2f}."
    assert sentence in (tmp_path / "set" / "README.md").read_text()
    call(capsys, "report", folder, "--out", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "Report of run<" in text
    assert "It represents 2 repeats" in text
