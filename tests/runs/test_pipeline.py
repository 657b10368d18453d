import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from commandline import call, call_json, check
from stages import drive, small

from engine import backbones, store
from engine.config import settings
from engine.errors import UserError
from engine.exporters import exports
from engine.importers import distilled
from engine.runs import artefacts, pipeline, plan, repeats
from engine.store import StoredRun, images, journal
from engine.store.check import list_foreign_files, verify_run

STAGES = ["squeeze", "statistics", "recover", "relabel", "validate"]


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))


def begun(config, folder):
    """A run in `folder`, not yet pulled, and its plan."""
    prepared = plan.prepare(config)
    run = store.open_run(folder, prepared.manifest(folder.name, {}, ["test"]), "")
    return repeats.run(prepared, run, store.Cache(), ["test"])


def without_circumstances(results):
    """What must be equal in two runs of the same experiment."""
    (repeat,) = results["repeats"]
    kept = {"summary": results["summary"], "students": repeat["students"], "teacher": repeat["teacher"]}
    return {**kept, "config": results["repeats"][0]["provenance"]["config_hash"]}


def test_a_run_from_the_command_line(capsys, tmp_path):
    first = call_json(capsys, "results", "run", "--preset", "smoke")
    folder = Path(first["folder"])
    assert folder.parent == tmp_path / "runs"
    written = json.loads((folder / "results.json").read_text())
    check(written, "results")
    del written["sha256"]
    assert written == {key: value for key, value in first.items() if key != "folder"}

    students = [student for student in first["repeats"][0]["students"] if student["source"] == "distilled"]
    mean = np.mean([student["last"] for student in students])
    assert first["summary"]["accuracy"]["mean"] == pytest.approx(mean)
    assert first["summary"]["accuracy"]["students"]["n"] == len(students) == 2
    assert (first["summary"]["accuracy"]["n"], first["summary"]["accuracy"]["std"]) == (1, None)
    assert all(student["best"] == max(value for _, value in student["curve"]) for student in students)
    assert not any(timing["reused"] for timing in first["repeats"][0]["timings"].values())

    resolved = settings.resolve(preset="smoke", sets=["repeats=1"])
    again = settings.resolve(file=folder / "config.yaml")
    assert again.config == resolved.config
    assert "# preset smoke" in (folder / "config.yaml").read_text()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["identity"]["config"] == first["repeats"][0]["provenance"]["config_hash"]
    assert manifest["teacher"]["fingerprint"] == first["repeats"][0]["provenance"]["teacher_fingerprint"]
    assert manifest["origins"]["squeeze.epochs"] == "preset smoke"
    kinds = [record.kind for record in journal.read(folder / "journal.jsonl")]
    assert kinds.count("StageFinished") == 5

    text, err = call(capsys, "run", "--preset", "smoke")
    assert f"distilled   {mean:.2f}  convnet" in text
    assert "one repeat: how much the result varies from run to run is not known" in text
    assert "recover: 3 iterations" in err
    assert [run["state"] for run in call_json(capsys, "runs", "runs")["runs"]] == ["finished"] * 2
    shown, _ = call(capsys, "show", folder.name, "--thumbnails", "2", "--width", "8")
    assert f"{mean:.2f}  convnet" in shown
    assert "0 β" in shown
    assert "1 β" in shown
    assert "2 β" not in shown


def test_the_second_run_takes_the_teacher_and_statistics_from_the_cache(tmp_path):
    _, first = drive(begun(small(), tmp_path / "a"))
    events, second = drive(begun(small(), tmp_path / "b"))
    assert [stage for stage in STAGES if second["repeats"][0]["timings"][stage]["reused"]] == [
        *STAGES[:2],
        "relabel",
    ]
    assert without_circumstances(first) == without_circumstances(second)
    found = [images.read(tmp_path / name / "images").images_NCHW for name in "ab"]
    assert np.array_equal(*found)
    assert not [event for event in events if event.kind == "EpochFinished" and event.source == "teacher"]


def test_a_damaged_teacher_is_set_aside_and_squeezed_anew(tmp_path):
    _, first = drive(begun(small(), tmp_path / "a"))
    (entry,) = (tmp_path / "cache" / "teachers").iterdir()
    content = bytearray(entry.read_bytes())
    content[-7] ^= 1
    entry.write_bytes(content)
    events, second = drive(begun(small(), tmp_path / "b"))
    warnings = [event.message for event in events if event.kind == "Notice" and event.level == "warning"]
    assert len(warnings) == 1
    assert entry.name in warnings[0]
    assert without_circumstances(first) == without_circumstances(second)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_cut_in_any_stage_goes_on_in_its_folder(tmp_path, stage):
    config = small(relabel={"mode": "stored"})
    _, whole = drive(begun(config, tmp_path / "whole"))
    work = begun(config, tmp_path / "cut")
    while not ((event := next(work)).kind == "StageStarted" and event.stage == stage):
        pass
    work.close()
    assert store.StoredRun(tmp_path / "cut").status()["state"] == "stopped"
    events, results = drive(begun(config, tmp_path / "cut"))
    assert without_circumstances(results) == without_circumstances(whole)
    reused = {event.stage for event in events if event.kind == "StageFinished" and event.reused}
    assert ("recover" in reused) == (stage in ("relabel", "validate"))
    assert not results["repeats"][0]["timings"]["recover"][
        "reused"
    ]  # the run computed it, in one session or another
    kept = [images.read(tmp_path / name / "images").images_NCHW for name in ("whole", "cut")]
    assert np.array_equal(*kept)
    _, again = drive(begun(config, tmp_path / "cut"))
    assert again == results


def test_a_loss_that_is_no_number_keeps_earlier_batches(tmp_path, monkeypatch):
    from engine.spectral import matching

    real, calls = matching.cross_entropy, 0

    def sometimes(*args):
        nonlocal calls
        calls += 1
        return real(*args) * (float("nan") if calls == 6 + 3 else 1.0)

    monkeypatch.setattr(matching, "cross_entropy", sometimes)
    with pytest.raises(UserError, match="batch 2, iteration 2") as caught:
        drive(begun(small(), tmp_path / "run"))
    assert caught.value.kind == "numeric"
    kept = sorted((tmp_path / "run" / "images").glob("*/*.png"))
    assert [path.parent.name for path in kept] == [str(digit) for digit in range(10)]
    status = store.StoredRun(tmp_path / "run").status()
    assert (status["state"], status["message"]) == ("failed", caught.value.message)


def test_a_given_teacher_is_told_by_its_weights_and_not_by_its_name(capsys, tmp_path):
    data = plan.prepare(small()).data
    model = artefacts.build_network(small(), data)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "b.pth")
    words = ["run", "--preset", "smoke", "--out", tmp_path / "run"]
    first = call_json(capsys, "results", *words, "--teacher", tmp_path / "a.pth")
    assert first["repeats"][0]["teacher"]["fingerprint"] == backbones.fingerprint(model)
    assert first["repeats"][0]["timings"]["squeeze"]["reused"]
    again = call_json(capsys, "results", *words, "--teacher", tmp_path / "b.pth")
    assert again["summary"] == first["summary"]
    other = {name: value + 1 for name, value in model.state_dict().items()}
    torch.save(other, tmp_path / "c.pth")
    error = call_json(capsys, "error", *words, "--teacher", tmp_path / "c.pth", code=2)["error"]
    assert "another teacher" in error["message"]


def test_every_architecture_has_its_numbers_and_the_control_may_be_left_out(capsys):
    words = ["--set", "validate.students=[convnet,resnet18]", "--set", "validate.controls=[]"]
    words += ["--set", "validate.epochs=1", "--set", "validate.seeds=1"]
    summary = call_json(capsys, "results", "run", "--preset", "smoke", *words)["summary"]
    assert list(summary["by_architecture"]) == ["convnet", "resnet18"]
    assert summary["architecture"] == "convnet"
    assert summary["control"] is None
    assert summary["accuracy"] == summary["by_architecture"]["convnet"]["accuracy"]
    assert summary["accuracy"]["std"] is None


def test_students_of_lossy_images_train_on_what_the_files_hold(tmp_path, monkeypatch, capsys):
    seen = []
    original = pipeline.validate

    def listen(config, teacher, sources, *args):
        seen.append(sources["distilled"].pixels(range(20)).numpy())
        return original(config, teacher, sources, *args)

    monkeypatch.setattr(pipeline, "validate", listen)
    config = small(recover={"save": "jpeg75"})
    _, results = drive(begun(config, tmp_path / "jpeg"))
    _, plain = drive(begun(small(), tmp_path / "png"))
    stored = images.read(tmp_path / "jpeg" / "images")
    assert np.array_equal(stored.images_NCHW, images.read(tmp_path / "png" / "images").images_NCHW)
    assert np.array_equal(seen[0], stored.pixels_NCHW)
    assert not np.array_equal(seen[0], seen[1])
    assert results["repeats"][0]["students"] != plain["repeats"][0]["students"]
    assert verify_run(tmp_path / "jpeg") == []
    assert list_foreign_files(tmp_path / "jpeg") == []
    for source in (tmp_path / "jpeg", tmp_path / "jpeg" / "images"):  # as a run, and as class folders
        (given,) = distilled.read(small(given={"images": str(source)}), plan.prepare(config).data)
        assert given.fingerprint == distilled.fingerprint(stored.pixels_NCHW, stored.labels_N)
    out = exports.export(StoredRun(tmp_path / "jpeg"), config, "sre2l", tmp_path / "out")
    (given,) = distilled.read(small(given={"images": str(out.out)}), plan.prepare(config).data)
    assert given.fingerprint == distilled.fingerprint(stored.pixels_NCHW, stored.labels_N)
    work = begun(config, tmp_path / "cut")
    while not ((event := next(work)).kind == "BatchRecovered" and event.batch == 1):
        pass
    work.close()
    _, resumed = drive(begun(config, tmp_path / "cut"))
    assert without_circumstances(resumed) == without_circumstances(results)


def test_early_accuracies_leave_the_results_as_they_are(tmp_path, monkeypatch):
    """Byte for byte but for what depends on time and place, and in the same run."""
    monkeypatch.setattr("engine.stages.training.SubsetEvaluator.SHARE", 1e9)
    documents, shown = [], []
    for count in (0, 6):
        folder = tmp_path / str(count)
        recorded = tiny.finish(tiny.begun(folder, tiny.plan(validate={"preview_images": count})))
        shown.append([event.stage for event in recorded if event.kind == "SubsetEvaluated"])
        text = (folder / "run" / "results.json").read_text()
        varying = r'"(seconds|rate|started|time|created|sha256|pid)": [^,}\n]+'
        documents.append(re.sub(r"\d{4}-\d\d-\d\dT[^\"]+", "", re.sub(varying, r'"\1": 0', text)))
    assert shown == [[], ["squeeze"] * 2 + ["validate"] * 3]
    assert documents[0] == documents[1]
    assert tiny.outcome(tmp_path / "0") == tiny.outcome(tmp_path / "6")
    tiny.finish(tiny.begun(tmp_path / "6", tiny.plan(validate={"preview_images": 3})))  # not another run
