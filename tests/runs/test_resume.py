"""A run that is taken up again: what may have changed since, and what is refused."""

import json
from dataclasses import replace

import pytest
import tiny

from engine import store
from engine.config import settings
from engine.errors import UserError
from engine.runs import pipeline, resume
from engine.runs.execution import ExecutionPlan
from engine.store import StoredRun


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    tiny.finish(tiny.begun(folder))
    return tiny.outcome(folder)


def cut_in(folder, stage):
    work = tiny.begun(folder)
    for event in work:
        if event.kind == "Checkpointed" and event.stage == stage:
            break
    work.close()


def test_settings_of_stages_that_left_something_are_refused_with_their_values(tmp_path):
    cut_in(tmp_path, "recover")
    with pytest.raises(UserError) as refused:
        tiny.begun(tmp_path, tiny.plan(recover={"lr": 0.05}, validate={"epochs": 4}))
    assert refused.value.kind == "usage"
    assert "recover.lr is 0.1 there and 0.05 here" in refused.value.message
    assert "validate" not in refused.value.message
    assert StoredRun(tmp_path / "run").state() == "stopped"


def test_settings_that_nothing_depends_on_yet_may_change(tmp_path):
    cut_in(tmp_path, "recover")
    changed = tiny.plan(validate={"epochs": 3})
    tiny.finish(tiny.begun(tmp_path, changed))
    stored = StoredRun(tmp_path / "run")
    assert settings.resolve(file=stored.folder / "config.yaml", base=None).config.validate_.epochs == 3
    assert stored.manifest()["identity"] == changed.identity
    assert store.verify_run(stored.folder) == []
    (tmp_path / "straight").mkdir()
    tiny.finish(tiny.begun(tmp_path / "straight", changed))
    assert tiny.outcome(tmp_path) == tiny.outcome(tmp_path / "straight")


def test_how_often_checkpoints_are_written_may_always_change(tmp_path, whole):
    cut_in(tmp_path, "validate")
    tiny.finish(tiny.begun(tmp_path, tiny.plan(checkpoint_seconds=5)))
    assert "checkpoint_seconds: 5" in (tmp_path / "run" / "config.yaml").read_text()
    assert tiny.outcome(tmp_path) == whole


def test_every_setting_belongs_to_a_stage_and_shared_parts_to_the_earliest():
    assert resume.first_read("seed") == "squeeze"
    assert resume.first_read("backbone.width") == "squeeze"
    assert resume.first_read("objective.taps") == "statistics"
    assert resume.first_read("objective.beta") == "recover"
    assert resume.first_read("validate.optimiser.lr") == "relabel"


def test_a_resume_under_other_circumstances_says_that_it_is_no_longer_exact(tmp_path):
    cut_in(tmp_path, "recover")
    events = tiny.finish(tiny.begun(tmp_path, replace(tiny.plan(), execution=ExecutionPlan(threads=7))))
    notices = [event.message for event in events if event.kind == "Notice" and event.level == "warning"]
    assert len(notices) == 1
    assert "threads" in notices[0]
    found = StoredRun(tmp_path / "run").results()["repeats"][0]["provenance"]
    assert (found["sessions"], found["bit_exact"]) == (2, False)


def test_a_teacher_that_was_lost_and_came_back_as_another_is_refused(tmp_path, monkeypatch):
    cut_in(tmp_path, "recover")
    (entry,) = (tmp_path / "cache" / "teachers").iterdir()
    entry.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.backbones, "fingerprint", lambda model: "f" * 64)
        with pytest.raises(UserError, match="no longer in the cache") as refused:
            tiny.finish(tiny.begun(tmp_path))
    assert refused.value.kind == "teacher"
    tiny.finish(tiny.begun(tmp_path))  # squeezed anew here, it is the same


def test_statistics_that_came_back_otherwise_are_told(tmp_path, monkeypatch):
    cut_in(tmp_path, "recover")
    (entry,) = (tmp_path / "cache" / "statistics").iterdir()
    entry.unlink()
    real = pipeline.artefacts.statistics.measure

    def rounded(*args):
        found = yield from real(*args)
        return [replace(moments, mean_D=moments.mean_D * (1 + 1e-7)) for moments in found]

    monkeypatch.setattr(pipeline.artefacts.statistics, "measure", rounded)
    events = tiny.finish(tiny.begun(tmp_path))
    warned = [event.message for event in events if event.kind == "Notice" and event.level == "warning"]
    assert len(warned) == 1
    assert "real statistics" in warned[0]
    assert StoredRun(tmp_path / "run").results()["repeats"][0]["provenance"]["bit_exact"] is False


def test_a_run_of_a_version_without_some_setting_goes_on(tmp_path, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("engine.runs.plan.config_hash", lambda config: "0" * 64)
        cut_in(tmp_path, "recover")
    tiny.finish(tiny.begun(tmp_path))
    assert tiny.outcome(tmp_path) == whole


def test_damaged_images_of_earlier_batches_are_named_and_kept(tmp_path):
    work = tiny.begun(tmp_path)
    for event in work:
        if event.kind == "Checkpointed" and event.stage == "recover" and event.number > 9:
            break
    work.close()
    path = tmp_path / "run" / "images" / "distilled.safetensors.partial"
    content = bytearray(path.read_bytes())
    header = int.from_bytes(content[:8], "little")
    labels = json.loads(content[8 : 8 + header])["labels"]["data_offsets"][0]
    content[8 + header + labels] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="image 0 does not match its checksum") as refused:
        tiny.finish(tiny.begun(tmp_path))
    assert "delete it" in refused.value.hint
    assert path.read_bytes() == content
    path.unlink()
    events = tiny.finish(tiny.begun(tmp_path))
    assert any("starts over" in event.message for event in events if event.kind == "Notice")
