"""A run that is steered from outside, taken up again, and refused where it is another one."""

import json
import time
from dataclasses import replace

import pytest
import tiny

from engine import store
from engine.config import settings
from engine.errors import Stopped, UserError
from engine.events import Checkpointed
from engine.runs import control as run_control
from engine.runs import launch, pipeline, resume
from engine.runs.control import Control
from engine.runs.thread import Engine
from engine.store import StoredRun, control


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    tiny.finish(tiny.begun(folder))
    return tiny.outcome(folder)


def engine_on(folder, asked, prepared=None):
    """The tiny run on a thread of its own, and what it told."""
    events = []
    return Engine(tiny.begun(folder, prepared, asked), events.append), events


def until(condition, seconds=20.0):
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stopped_run_is_saved_and_goes_on_bit_for_bit(tmp_path, whole):
    asked = Control()
    work = tiny.begun(tmp_path, tiny.plan(checkpoint_seconds=60), asked)
    while next(work).kind != "BatchRecovered":
        pass
    asked.ask("stop", "SIGTERM")
    with pytest.raises(Stopped, match="SIGTERM") as left:
        tiny.finish(work)
    assert "cfm resume" in left.value.hint
    assert StoredRun(tmp_path / "run").status()["message"].endswith("stopped by SIGTERM")
    assert StoredRun(tmp_path / "run").state() == "stopped"
    events = tiny.finish(tiny.begun(tmp_path))
    started = next(event for event in events if event.kind == "StageStarted" and event.stage == "recover")
    assert started.done == 3
    assert tiny.outcome(tmp_path) == whole


class Counting(Control):
    """Counts how often the run has looked for requests."""

    looked = 0

    def take(self):
        self.looked += 1
        return super().take()


@pytest.mark.parametrize("through", ["control", "files"])
def test_a_paused_run_waits_and_goes_on(tmp_path, whole, through, monkeypatch):
    monkeypatch.setattr(store.run, "POLL_SECONDS", 0.0)
    asked, stored = Counting(), StoredRun(tmp_path / "run")

    def ask(command):
        if through == "control":
            asked.ask(command, "me")
        else:
            control.request(tmp_path / "run", command)

    engine, events = engine_on(tmp_path, asked)
    ask("pause")  # before it is pulled for the first time
    engine.start()
    until(lambda: stored.state() == "paused")
    count, looked = len(events), asked.looked
    until(lambda: asked.looked > looked + 2)
    assert len(events) == count
    assert [type(event).__name__ for event in events[-2:]] == ["Checkpointed", "Paused"]
    ask("continue")
    engine.result()
    assert [event.kind for event in events].count("Continued") == 1
    assert stored.state() == "finished"
    assert tiny.outcome(tmp_path) == whole


def test_a_paused_run_can_be_stopped(tmp_path, whole):
    asked = Control()
    engine, _ = engine_on(tmp_path, asked)
    asked.ask("pause", "me")
    engine.start()
    until(lambda: StoredRun(tmp_path / "run").state() == "paused")
    asked.ask("stop", "me")
    with pytest.raises(Stopped):
        engine.result()
    assert StoredRun(tmp_path / "run").state() == "stopped"
    tiny.finish(tiny.begun(tmp_path))
    assert tiny.outcome(tmp_path) == whole


def test_checkpoints_are_written_when_due_when_asked_and_at_a_batchs_end(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(run_control.time, "monotonic", lambda: clock[0])
    asked, written = Control(), []
    monkeypatch.setattr("engine.checkpoint.OFFER_SECONDS", 0.0)
    work = tiny.begun(tmp_path, tiny.plan(checkpoint_seconds=10), asked)
    for event in work:
        if event.kind == "RecoverProgress" and event.iterations == [0] and event.batch == 1:
            clock[0] += 11
        if event.kind == "RecoverProgress" and event.iterations == [1] and event.batch == 2:
            asked.ask("checkpoint", "me")
        if isinstance(event, Checkpointed):
            written.append(event.stage)
    assert written == ["recover"] * 4  # 11 seconds passed, a batch's end, asked for, a batch's end


def test_slow_checkpoints_are_written_less_often(tmp_path):
    class Slow:
        """A run whose checkpoints take half a second of a clock of its own."""

        def requests(self):
            return []

        def checkpoint(self, *_):
            clock[0] += 0.5
            return 1, 1

    clock = [0.0]

    def stage():
        from engine.checkpoint import Checkpoint, StageState

        for _ in range(4000):
            clock[0] += 0.25
            yield Checkpoint("recover", StageState)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_control.time, "monotonic", lambda: clock[0])
        patch.setattr(run_control.time, "perf_counter", lambda: clock[0])
        steering = run_control.Steering(Slow(), Control(), 5.0)
        points = [event for point in stage() for event in steering.handle(point)]
    spent = 0.5 * len(points)
    assert 0.005 < spent / clock[0] <= 0.011


def test_an_engine_gives_what_the_run_returns_or_raises():
    def works():
        yield "event"
        return "result"

    def fails():
        yield "event"
        raise UserError("data", "no")

    heard = []
    engine = Engine(works(), heard.append)
    engine.start()
    assert engine.result() == "result"
    assert heard == ["event"]
    engine = Engine(fails(), lambda event: None)
    engine.start()
    with pytest.raises(UserError, match="no"):
        engine.result()


# --- taken up with other settings ---------------------------------------------------------------------


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
    assert store.check(stored.folder) == []
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


def test_a_resume_under_other_circumstances_says_that_it_is_no_longer_exact(tmp_path, monkeypatch):
    cut_in(tmp_path, "recover")
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    events = tiny.finish(tiny.begun(tmp_path))
    notices = [event.message for event in events if event.kind == "Notice" and event.level == "warning"]
    assert len(notices) == 1
    assert "threads" in notices[0]
    found = StoredRun(tmp_path / "run").results()["provenance"]
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


def test_folders_and_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared = tiny.plan(data={"root": "images"}, backbone={"width": 4, "teacher": "t.pth"})
    anchored = launch.with_absolute_paths(prepared.config)
    assert anchored.data.root == str(tmp_path / "images")
    assert anchored.backbone.teacher == str(tmp_path / "t.pth")
    published = tiny.plan(backbone={"width": 4, "teacher": "torchvision:X"}).config
    assert launch.with_absolute_paths(published).backbone.teacher == "torchvision:X"


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
    assert StoredRun(tmp_path / "run").results()["provenance"]["bit_exact"] is False


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
